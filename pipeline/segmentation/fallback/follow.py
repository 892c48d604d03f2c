"""A mask carried from frame to frame: moved by dense flow, then cut anew in a band around its outline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...types import Array
from .cut import ColorModel
from .motion import dense_flow, find_flow, motion_gain, return_error, sample_at
from .outline import color_gain, color_models, cut_band, grow, shrink, tidy
from .picture import Picture

_REACH_PX = 40
_BACK = 4
"""Frames back to the one against which the thing's own motion is told from the camera's."""

_LOST = 0.05
"""Share of its marked area below which a thing is out of sight."""

_ALIKE, _ALIKE_AT_BORDER = 0.15, 0.4
"""A thing is gone when less than this share of its mask has its colours."""

_CUT = 22.0
"""Grey levels by which two frames differ, flow compensated, when a cut lies between them."""

_COLOR, _MOTION, _PLACE = 0.4, 0.4, 3.0


class Follower:
    """One thing on its way through a clip of ``num_frames`` frames; ``picture`` gives the working picture of a frame.

    ``current`` is the mask bool[h,w] and the confidence at ``frame_index``.
    """

    def __init__(self, picture: Callable[[int], Picture], num_frames: int) -> None:
        self._picture = picture
        self._num_frames = num_frames
        self._marked: list[tuple[ColorModel, ColorModel]] = []
        self._models: tuple[ColorModel, ColorModel] | None = None
        self._area = 1.0
        self._trust = 1.0
        self.frame_index = -1
        self.current: tuple[Array, float] = (np.zeros((1, 1), bool), 0.0)

    def learn(self, picture: Picture, mask: Array) -> None:
        """Keep the colours of the thing as it was marked on one frame."""
        models = color_models(picture, mask, _REACH_PX)
        if models is not None:
            self._marked.append(models)

    def start(self, frame_index: int, mask: Array, confidence: float) -> None:
        """Stand on a frame whose mask is known."""
        self.frame_index, self.current = frame_index, (mask, confidence)
        self._area, self._trust = max(1.0, float(mask.sum())), confidence
        self._models = color_models(self._picture(frame_index), mask, _REACH_PX)

    def advance(self, frame_index: int) -> tuple[Array, float]:
        """Go on to the frame beside the current one; its mask and confidence. A thing that was lost stays lost."""
        before, after = self._picture(self.frame_index), self._picture(frame_index)
        step = frame_index - self.frame_index
        mask, _ = self.current
        self.frame_index = frame_index
        if not mask.any():
            return self.current
        forward, backward = dense_flow(before.gray, after.gray), dense_flow(after.gray, before.gray)
        unlike = np.abs(sample_at(before.gray, backward).astype(np.float32) - after.gray)
        if unlike.mean() > _CUT:
            self.current = np.zeros_like(mask), 0.2
            return self.current
        moved, agreement = carry(mask, forward, backward)
        result = self._cut(after, moved, frame_index - _BACK * step) if moved.any() else moved
        leaves = touches_border(grow(mask, 2))
        ratio = float(result.sum()) / self._area
        if ratio < _LOST or self._likeness(after, result) < (_ALIKE_AT_BORDER if leaves else _ALIKE):
            self.current = np.zeros_like(mask), 0.75 if leaves else 0.3
            return self.current
        self._trust *= 0.998 * min(1.0, 0.9 + 0.12 * agreement)
        self.current = result, float(np.clip(self._trust * self._fidelity(after, result), 0.05, 0.98))
        return self.current

    def _cut(self, picture: Picture, moved: Array, other_index: int) -> Array:
        """The outline found anew around where the flow has brought the mask."""
        import cv2

        width = int(np.clip(np.sqrt(moved.sum()) * 0.06, 2, 6))
        band = grow(moved, width) & ~shrink(moved, width)
        near = cv2.GaussianBlur(moved.astype(np.float32), (0, 0), width)
        gain = _PLACE * (near - 0.5)
        known = [*self._marked, *([self._models] if self._models is not None else [])]
        if known:
            gain[band] += _COLOR * np.mean([color_gain(models, picture.lab[band]) for models in known], axis=0)
        if 0 <= other_index < self._num_frames:
            flow = find_flow(picture.gray, self._picture(other_index).gray)
            core = shrink(moved, 2)
            if flow is not None and core.sum() > 60:
                gain[band] += _MOTION * motion_gain([flow], core)[band]
        return tidy(cut_band(picture, moved, gain, band))

    def _fidelity(self, picture: Picture, mask: Array) -> float:
        """How well the mask's colours and area fit to what was marked, 0..1."""
        ratio = float(mask.sum()) / self._area
        sized = float(np.clip(1.3 - 0.5 * abs(np.log(ratio)), 0.2, 1))
        return sized * float(np.clip(0.3 + 0.9 * self._likeness(picture, mask), 0.2, 1))

    def _likeness(self, picture: Picture, mask: Array) -> float:
        """The share of the mask whose colours fit the thing as it was marked no worse than its surroundings."""
        colors = picture.lab[mask]
        if not self._marked or not len(colors):
            return 1.0
        colors = colors[:: 1 + len(colors) // 1000]
        best = np.max([color_gain(models, colors) for models in self._marked], axis=0)
        return float((best > -0.5).mean())


def touches_border(mask: Array) -> bool:
    """Whether ``mask`` bool[h,w] reaches the picture's border."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def carry(mask: Array, forward: Array, backward: Array) -> tuple[Array, float]:
    """The mask where the flow takes it, and how much of it is found again, 0..1. As far as it moves like a rigid thing, it does."""
    import cv2

    height, width = mask.shape
    error = return_error(forward, backward)
    inside = shrink(mask, 2)
    inside = inside if inside.sum() > 30 else mask
    agreement = float((error[inside] < 1.0).mean())
    soft = sample_at(mask.astype(np.float32), backward)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    from_x, from_y = x + backward[..., 0], y + backward[..., 1]
    soft[(from_x < -0.5) | (from_x > width - 0.5) | (from_y < -0.5) | (from_y > height - 0.5)] = 0
    sure = inside & (error < 1.0)
    if sure.sum() >= 40:
        ys, xs = np.nonzero(sure)
        picked = slice(None, None, 1 + len(xs) // 600)
        start = np.stack([xs[picked], ys[picked]], axis=1).astype(np.float32)
        end = start + forward[sure][picked]
        matrix, fits = cv2.estimateAffine2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=0.7)
        if matrix is not None and fits.mean() > 0.6:
            rigid = cv2.warpAffine(mask.astype(np.float32), matrix, (width, height), flags=cv2.INTER_LINEAR)
            share = float(np.clip((fits.mean() - 0.6) / 0.3, 0, 1)) * 0.7
            soft = share * rigid + (1 - share) * soft
    return soft > 0.5, agreement
