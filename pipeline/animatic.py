"""The animatic: the cut-out moving over the footage, before any render: small, plain, placed by the same motion as the render."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .types import Array, Reference

if TYPE_CHECKING:
    from .motion import LayerMotion

GRID_STEP_PX = 6
"""A warp that bends is solved every so many pixels of the view and interpolated between."""


def scale_to(image: Array, hw: tuple[int, int]) -> Array:
    """``image`` u8[H,W,C] at size ``hw``: averaged over areas when it gets smaller."""
    import cv2

    if image.shape[:2] == hw:
        return image
    method = cv2.INTER_AREA if hw[0] < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (hw[1], hw[0]), interpolation=method)


def lay_over(
    picture: Array, reference: Reference, motion: LayerMotion, frame_index: int, clip_hw: tuple[int, int], opacity: float = 1.0
) -> Array:
    """The animatic: ``picture`` u8[h,w,3] (a reduced frame) with the cut-out where the motion puts it at this frame.

    Plain pasting, without shadow or colour match; what the engine adds to it, it adds in the same place.
    """
    import cv2

    if not motion.exists(frame_index):
        return picture
    scale = picture.shape[1] / clip_hw[1]
    x0, y0, x1, y1 = (int(v) for v in _bounds(motion.mesh(frame_index) * scale, picture.shape[:2]))
    if x1 <= x0 or y1 <= y0:
        return picture
    sample = _inverse_map(motion, frame_index, (x0, y0, x1, y1), scale)
    rgba, shrunk = _reduced(reference, sample)
    sample = (sample * shrunk - 0.5).astype(np.float32)
    # Premultiplied, so that the transparent surround never bleeds in.
    patch = cv2.remap(rgba, sample[..., 0], sample[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    result = picture.copy()
    under = result[y0:y1, x0:x1].astype(np.float32)
    cover = patch[..., 3:] * opacity
    result[y0:y1, x0:x1] = np.clip(under * (1 - cover) + patch[..., :3] * opacity + 0.5, 0, 255).astype(np.uint8)
    return result


def _bounds(points: Array, hw: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Whole-pixel bounds of points f[N,2] inside a picture, one pixel of margin."""
    x0, y0 = np.floor(points.min(axis=0)) - 1
    x1, y1 = np.ceil(points.max(axis=0)) + 1
    return max(x0, 0), max(y0, 0), min(x1, hw[1]), min(y1, hw[0])


def _inverse_map(motion: LayerMotion, frame_index: int, box: tuple[int, int, int, int], scale: float) -> Array:
    """Reference coordinates f64[h,w,2] of every view pixel centre in ``box``; bent warps are solved on a coarse grid."""
    import cv2

    warp = motion.warp(frame_index)
    x0, y0, x1, y1 = box
    step = 1 if warp.matrix is not None else GRID_STEP_PX
    xs, ys = np.arange(x0 + 0.5, x1 + step, step), np.arange(y0 + 0.5, y1 + step, step)
    found = warp.inverse(np.stack(np.meshgrid(xs / scale, ys / scale), axis=-1))
    if step == 1:
        return found[: y1 - y0, : x1 - x0]
    column, row = np.meshgrid(np.arange(x1 - x0) / step, np.arange(y1 - y0) / step)
    return cv2.remap(found, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR)


def _reduced(reference: Reference, sample: Array) -> tuple[Array, float]:
    """The premultiplied cut-out f32[H,W,4] (0..255, alpha 0..1), reduced when the view shows it much smaller, and its scale."""
    import cv2

    rgba = np.dstack([reference.image * reference.alpha[..., None], reference.alpha]).astype(np.float32)
    steps = [np.abs(np.diff(sample, axis=axis)).max(axis=-1) for axis in (0, 1)]
    density = float(np.median(np.concatenate([step.ravel() for step in steps]))) if min(sample.shape[:2]) > 1 else 1.0
    if density <= 1.5:
        return rgba, 1.0
    height, width = (max(1, round(side / density)) for side in reference.hw)
    return cv2.resize(rgba, (width, height), interpolation=cv2.INTER_AREA), width / reference.hw[1]
