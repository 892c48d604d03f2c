"""What moves like the thing that was clicked, and unlike the camera: dense flow to neighbouring frames, split into two motions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...types import Array

OFFSETS = (3, -3, 6, -6)
"""Neighbouring frames, counted from the one that is looked at, whose motion is used."""

_MIN_TRUSTED = 0.35
"""A neighbour on which less of the picture is found again lies behind a cut."""


@dataclass(frozen=True, eq=False, slots=True)
class Flow:
    """``to_other`` f32[h,w,2] from a frame to its neighbour, ``trust`` f32[h,w] in 0..1, ``camera`` f32[h,w,2] what the camera
    alone would do, ``away`` f32[h,w] how far that is from ``to_other``, and ``refuted`` f32[h,w] in 0..1, how plainly the pictures
    refute it; ``gray`` and ``other`` u8[h,w] are the two pictures."""

    to_other: Array
    trust: Array
    camera: Array
    away: Array
    refuted: Array
    gray: Array
    other: Array


def dense_flow(gray: Array, other: Array, preset: int = 1) -> Array:
    """Displacement f32[h,w,2] from ``gray`` to ``other``, u8[h,w] (DIS, Kroeger et al. 2016)."""
    import cv2

    finder = cv2.DISOpticalFlow.create(preset)
    return np.asarray(finder.calc(gray, other, None))  # type: ignore[call-overload]  # None: no flow to start from


def sample_at(values: Array, flow: Array) -> Array:
    """``values`` where ``flow`` leads from every pixel; the border is continued."""
    import cv2

    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved: Array = cv2.remap(values, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved


def return_error(there: Array, back: Array) -> Array:
    """How far from its start a pixel f32[h,w] lands that is carried there and back."""
    return np.hypot(*np.moveaxis(there + sample_at(back, there), -1, 0))


def find_flow(gray: Array, other: Array) -> Flow | None:
    """The motion to one neighbour; None when the two pictures do not show the same scene."""
    there, back = dense_flow(gray, other, 2), dense_flow(other, gray, 1)
    error = return_error(there, back)
    size = np.hypot(there[..., 0], there[..., 1])
    trust = np.exp(-((error / (0.8 + 0.1 * size)) ** 2)).astype(np.float32)
    unlike = np.abs(sample_at(other, there).astype(np.float32) - gray)
    if trust.mean() < _MIN_TRUSTED or np.median(unlike) > 20:
        return None
    camera = camera_flow(there, trust)
    return Flow(there, trust, camera, _length(there - camera), unlikeness(gray, other, camera), gray, other)


def _length(vectors: Array) -> Array:
    """f32[h,w] of ``vectors`` f32[h,w,2]."""
    length: Array = np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2)
    return length


def camera_flow(flow: Array, trust: Array) -> Array:
    """The homography that most of the picture follows, as a displacement of every pixel f32[h,w,2]."""
    import cv2

    height, width = trust.shape
    ys, xs = np.mgrid[4 : height - 4 : 8, 4 : width - 4 : 8]
    kept = trust[ys, xs] > 0.5
    start = np.stack([xs[kept], ys[kept]], axis=1).astype(np.float32)
    end = start + flow[ys[kept], xs[kept]]
    matrix = cv2.findHomography(start, end, cv2.RANSAC, 1.0)[0] if len(start) >= 12 else None
    if matrix is None:
        return np.broadcast_to(np.median(flow.reshape(-1, 2), axis=0), flow.shape).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    points = np.stack([x, y], axis=-1).reshape(1, -1, 2)
    return (cv2.perspectiveTransform(points, matrix) - points).reshape(height, width, 2).astype(np.float32)


_FITTED = 3000
"""Pixels to which a motion is fitted; more tell nothing new."""


def own_motion(flow: Flow, inside: Array) -> tuple[Array, Array]:
    """The affine motion f32[h,w,2] of the thing of which ``inside`` bool[h,w] is a part, and how far it follows it, bool[h,w]."""
    import cv2

    height, width = flow.trust.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    basis = np.stack([np.ones_like(x), x / width, y / width], axis=-1)
    region, seed = inside & (flow.trust > 0.3), inside
    if region.sum() < 8:
        region = inside
    model = np.broadcast_to(np.median(flow.to_other[region], axis=0), flow.to_other.shape)
    for _ in range(4):
        miss = _length(flow.to_other - model)
        fits = ((miss < 1.0) & (miss < flow.away)).astype(np.uint8)
        number, parts = cv2.connectedComponents(fits, connectivity=4)
        kept = np.zeros(number, bool)
        kept[parts[seed]] = True
        kept[0] = False
        region = kept[parts] if kept.any() else seed
        use = np.flatnonzero(region & (flow.trust > 0.3))
        if len(use) < 150:
            break
        use = use[:: 1 + len(use) // _FITTED]
        solved = np.linalg.lstsq(basis.reshape(-1, 3)[use], flow.to_other.reshape(-1, 2)[use], rcond=None)[0]
        model = basis @ solved.astype(np.float32)
    return model.astype(np.float32), region


def unlikeness(gray: Array, other: Array, model: Array) -> Array:
    """0..1, f32[h,w]: how plainly the pictures refute that a pixel moves as ``model`` f32[h,w,2] says. 0 where nothing is to be
    seen that could move."""
    import cv2

    miss = np.abs(sample_at(other, model).astype(np.float32) - gray)
    return np.clip((cv2.GaussianBlur(miss, (0, 0), 1.5) - _NOISE) / _PLAIN, 0, 1)


_NOISE = 2.0
_PLAIN = 7.0
"""Grey levels: differences that say nothing, and how far above them one is certain."""


def motion_gain(flows: Sequence[Flow], inside: Array) -> Array:
    """f32[h,w], -3..3: how much the motion of a pixel speaks for the thing of which ``inside`` bool[h,w] is a part."""
    total = np.zeros(inside.shape, np.float32)
    if not flows:
        return total
    for flow in flows:
        model, region = own_motion(flow, inside)
        apart = float(np.median(_length((model - flow.camera)[region])))
        scale = 0.5 + 0.08 * apart
        moves = np.clip((apart - 0.5) / 0.8, 0, 1)
        away, miss = np.minimum(flow.away / scale, 3), np.minimum(_length(flow.to_other - model) / scale, 2)
        as_mover = np.clip((away**2 - miss**2) / 2, -3, 3)
        as_still = -np.clip(away**2 - 1.5, 0, 3)
        gain = moves * as_mover + (1 - moves) * 0.6 * as_still
        seen = np.where(gain > 0, flow.refuted, unlikeness(flow.gray, flow.other, model))
        total += gain * flow.trust * seen
    return total * (1.5 / (len(flows) + 0.5))


def moving_part(flows: Sequence[Flow], within: Array) -> Array:
    """The pixels bool[h,w] of ``within`` that do not move with the camera; those near its middle if hardly any do."""
    import cv2

    total = np.zeros(within.shape, np.float32)
    for flow in flows:
        total += np.clip(flow.away - 0.7, 0, 1) * flow.refuted * flow.trust
    found = within & (total > 0.35 * max(1, len(flows)))
    if found.sum() >= 0.08 * within.sum():
        return found
    depth = cv2.distanceTransform(np.pad(within, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return depth > 0.6 * depth.max()
