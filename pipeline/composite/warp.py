"""The reference, warped to where it stands in one frame: premultiplied linear light, alias-free, exact to a small part of a pixel.

The cut-out is kept as a pyramid of half-octave levels in premultiplied linear light, each the area average of the one below. An
output pixel is the mean of a grid of samples (2 x 2 near 1:1 up to 4 x 4 when small, more along an axis that is squeezed), each a
bilinear look-up at two neighbouring levels mixed by the exact size (trilinear), in levels whose pixels are a half to a quarter of
an output pixel: so nothing aliases, nothing pops when the size changes slowly, and at 1:1 the picture is as sharp as the reference.
For that the finest level has twice the reference's resolution, and its 2 x 2 means reproduce the reference.

Convention: pixel j covers [j, j + 1). A ``Patch`` covers the clip pixels [x0, x0 + w) x [y0, y0 + h).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..motion import Warp
from ..types import Array, Reference
from .light import decode_light

LATTICE_PX = 6
"""Spacing, in clip pixels, at which the inverse of a bending warp is evaluated before it is interpolated."""
MAX_PATH_SAMPLES = 32
"""Most samples of the shutter."""
PATH_STEP_PX = 1.0
"""Aimed distance that the fastest part of the reference moves between two samples of the shutter."""
MAX_SAMPLES_PER_AXIS = 8
_FINE_LEVEL = -2
_FINE_MAX_PIXELS = 2_000_000
_SHUTTER_PLACES = ((0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75))
_FAR = -1e6
"""A reference coordinate that is outside every reference."""

Roi = tuple[int, int, int, int]
"""Half-open x0 y0 x1 y1 in whole clip pixels; may lie outside the picture."""


@dataclass(frozen=True, eq=False, slots=True)
class Patch:
    """Premultiplied linear RGBA f32[h,w,4] in 0..1 whose top left corner is the clip's pixel (x0, y0)."""

    x0: int
    y0: int
    rgba: Array

    @property
    def roi(self) -> Roi:
        return self.x0, self.y0, self.x0 + self.rgba.shape[1], self.y0 + self.rgba.shape[0]


class ReferencePyramid:
    """Half-octave levels of one reference; ``level(k)`` has about 2^(-k/2) of its resolution. Thread-safe, built as needed."""

    def __init__(self, reference: Reference) -> None:
        rows = np.flatnonzero((reference.alpha > 0).any(axis=1))
        cols = np.flatnonzero((reference.alpha > 0).any(axis=0))
        y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
        alpha = reference.alpha[y0:y1, x0:x1, None]
        base = np.concatenate([decode_light(reference.image[y0:y1, x0:x1]) * alpha, alpha], axis=2)
        self.box_px = (x0, y0, x1, y1)
        """Bounds of alpha > 0, half-open, in reference pixels; what the levels show."""
        self.center_px = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        self._levels: dict[int, Array] = {0: np.ascontiguousarray(base, np.float32)}
        self._lock = threading.Lock()
        short = min(x1 - x0, y1 - y0)
        self.coarsest = max(0, int(2 * np.log2(max(short, 1))))
        self.finest = _FINE_LEVEL if base.shape[0] * base.shape[1] <= _FINE_MAX_PIXELS else 0

    def level(self, index: int) -> Array:
        """Level ``index`` in finest..coarsest: premultiplied linear RGBA f32[h,w,4]."""
        with self._lock:
            return self._build(index)

    def _build(self, index: int) -> Array:
        if index not in self._levels:
            height, width = self._levels[0].shape[:2]
            if index == _FINE_LEVEL:
                self._levels[index] = _refine(self._levels[0])
            else:
                below = index - 2 if index - 2 >= self.finest else self.finest
                size = (max(1, round(width * 2 ** (-index / 2))), max(1, round(height * 2 ** (-index / 2))))
                self._levels[index] = cv2.resize(self._build(below), size, interpolation=cv2.INTER_AREA)
        return self._levels[index]


def _refine(base: Array) -> Array:
    """Twice the resolution of a premultiplied f32[h,w,4], such that the 2 x 2 means give it back and no pixel outside its
    bilinear support becomes visible. Cubic interpolation and two steps of iterative back-projection (Irani and Peleg, 1991)."""
    height, width = base.shape[:2]
    double = (2 * width, 2 * height)
    padded = cv2.copyMakeBorder(base, 2, 2, 2, 2, cv2.BORDER_REPLICATE)
    fine: Array = cv2.resize(padded, (2 * width + 8, 2 * height + 8), interpolation=cv2.INTER_CUBIC)[4:-4, 4:-4]
    for _ in range(2):
        lost = base - cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        fine += cv2.resize(lost, double, interpolation=cv2.INTER_CUBIC)
    visible = cv2.resize(base[..., 3], double, interpolation=cv2.INTER_LINEAR) > 0
    alpha = np.where(visible, np.clip(fine[..., 3], 0.0, 1.0), 0.0).astype(np.float32)
    return np.concatenate([np.clip(fine[..., :3], 0.0, alpha[..., None]), alpha[..., None]], axis=2)


def warped_roi(pyramid: ReferencePyramid, warps: Sequence[Warp], within: Roi) -> Roi | None:
    """Bounds of the warped cut-out over all ``warps``, grown by 2 px and cut to ``within``; None when nothing is left."""
    x0, y0, x1, y1 = pyramid.box_px
    steps = np.linspace(0, 1, 17)
    outline = np.stack(np.meshgrid(x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)), axis=-1).reshape(-1, 2)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for warp in warps:
        matrix = warp.matrix
        if matrix is not None and _depths(matrix, outline).min() <= 1e-3:
            return within
        points = warp.forward(outline)
        bent = 0.0 if matrix is not None else 0.03 * float(np.ptp(points, axis=0).max())
        low, high = np.minimum(low, points.min(axis=0) - bent), np.maximum(high, points.max(axis=0) + bent)
    left, top = max(within[0], int(np.floor(low[0])) - 2), max(within[1], int(np.floor(low[1])) - 2)
    right, bottom = min(within[2], int(np.ceil(high[0])) + 2), min(within[3], int(np.ceil(high[1])) + 2)
    return (left, top, right, bottom) if left < right and top < bottom else None


def render_patch(pyramid: ReferencePyramid, warp: Warp, within: Roi) -> Patch | None:
    """The cut-out at one moment, cut to ``within``; None when nothing shows there."""
    roi = warped_roi(pyramid, [warp], within)
    if roi is None:
        return None
    inverse = _inverse_maps([warp], pyramid.center_px, roi)[0]
    return Patch(roi[0], roi[1], _sample(pyramid, inverse, _detail(pyramid, inverse, roi), roi))


def render_shutter(
    pyramid: ReferencePyramid, warp_at: Callable[[float], Warp], time: float, open_frames: float, within: Roi
) -> Patch | None:
    """The mean of the cut-out over the time that the shutter is open: ``open_frames`` frames centred on ``time``.

    The motion is sampled at up to ``MAX_PATH_SAMPLES`` moments; each is sampled once per pixel, at one place of a 2 x 2 grid after
    the other, so that slow motion looks exactly as sharp as none. Where the moments are more than a pixel apart, the gaps are
    closed by a box along the mean direction, so that fast motion shows a smear and no ghosts.
    """
    steps, gap_xy = _path_steps(pyramid, [warp_at(time + share * open_frames) for share in (-0.499, 0.0, 0.499)])
    if steps == 0:
        return render_patch(pyramid, warp_at(time), within)
    warps = [warp_at(time + ((index + 0.5) / steps - 0.5) * open_frames) for index in range(steps)]
    reach = np.ceil(np.abs(gap_xy) / 2).astype(int)
    wider = (within[0] - reach[0], within[1] - reach[1], within[2] + reach[0], within[3] + reach[1])
    roi = warped_roi(pyramid, warps, wider)
    if roi is None:
        return None
    patch = Patch(roi[0], roi[1], _sample_path(pyramid, warps, roi))
    return _close_gaps(patch, gap_xy) if np.hypot(*gap_xy) > PATH_STEP_PX * 1.01 else patch


def _path_steps(pyramid: ReferencePyramid, warps: Sequence[Warp]) -> tuple[int, Array]:
    """How many shutter samples the motion over three moments asks for (0: it does not move, else a multiple of four), and the mean
    displacement f64[2] between two of them in clip pixels."""
    x0, y0, x1, y1 = pyramid.box_px
    points = np.array([[x, y] for x in (x0, (x0 + x1) / 2, x1) for y in (y0, (y0 + y1) / 2, y1)], np.float64)
    first, second, third = (warp.forward(points) for warp in warps)
    paths = np.linalg.norm(second - first, axis=1) + np.linalg.norm(third - second, axis=1)
    if paths.max() < 0.05:
        return 0, np.zeros(2)
    steps = int(np.clip(4 * np.ceil(paths.max() / PATH_STEP_PX / 4), 4, MAX_PATH_SAMPLES))
    return steps, (third - first).mean(axis=0) / steps


def _close_gaps(patch: Patch, gap_xy: Array) -> Patch:
    """The patch averaged along ``gap_xy`` (clip pixels), grown by half of it on every side."""
    reach_x, reach_y = (int(value) for value in np.ceil(np.abs(gap_xy) / 2))
    padded = cv2.copyMakeBorder(patch.rgba, reach_y, reach_y, reach_x, reach_x, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    copies = int(np.ceil(np.hypot(*gap_xy) / PATH_STEP_PX))
    total: Array = np.zeros_like(padded)
    for index in range(copies):
        dx, dy = gap_xy * ((index + 0.5) / copies - 0.5)
        total += cv2.warpAffine(padded, np.array([[1, 0, dx], [0, 1, dy]]), (padded.shape[1], padded.shape[0]))
    return Patch(patch.x0 - reach_x, patch.y0 - reach_y, total / copies)


def _depths(matrix: Array, points: Array) -> Array:
    """The projective depth of points f64[n,2], relative to that of their mean; not positive beyond the horizon."""
    depths = points @ matrix[2, :2] + matrix[2, 2]
    return depths / depths.mean()


# -- inverse maps ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Projective:
    """Clip pixels to reference pixels by one matrix f64[3,3]."""

    matrix: Array

    def dense(self, xs: Array, ys: Array) -> tuple[Array, Array]:
        """Reference x and y, f32[len(ys), len(xs)], of the grid of clip points."""
        m = self.matrix
        if not m[2, :2].any():
            return _outer(m[0], xs, ys), _outer(m[1], xs, ys)
        depth = _outer(m[2], xs, ys)
        behind = depth <= 1e-6
        depth[behind] = 1.0
        u, v = _outer(m[0], xs, ys) / depth, _outer(m[1], xs, ys) / depth
        u[behind] = _FAR
        return u, v

    def sizes(self, xs: Array, ys: Array) -> tuple[Array, Array]:
        """Reference pixels per clip pixel along x and along y, f32[len(ys), len(xs)]."""
        h = 0.5
        u0, v0 = self.dense(xs - h, ys)
        u1, v1 = self.dense(xs + h, ys)
        u2, v2 = self.dense(xs, ys - h)
        u3, v3 = self.dense(xs, ys + h)
        return np.hypot(u1 - u0, v1 - v0), np.hypot(u3 - u2, v3 - v2)


@dataclass(frozen=True, eq=False, slots=True)
class _Lattice:
    """Clip pixels to reference pixels by bilinear interpolation of ``nodes`` f32[rows,cols,2]; node (0, 0) is at ``origin``."""

    origin: tuple[float, float]
    nodes: Array

    def dense(self, xs: Array, ys: Array) -> tuple[Array, Array]:
        cols = ((xs - self.origin[0]) / LATTICE_PX).astype(np.float32)
        rows = ((ys - self.origin[1]) / LATTICE_PX).astype(np.float32)
        along_x = _interpolate(self.nodes.transpose(1, 0, 2), cols)
        both = _interpolate(along_x.transpose(1, 0, 2), rows)
        return np.ascontiguousarray(both[..., 0]), np.ascontiguousarray(both[..., 1])

    def sizes(self, xs: Array, ys: Array) -> tuple[Array, Array]:
        per_x = np.linalg.norm(np.gradient(self.nodes, axis=1), axis=2) / LATTICE_PX
        per_y = np.linalg.norm(np.gradient(self.nodes, axis=0), axis=2) / LATTICE_PX
        both = _Lattice(self.origin, np.stack([per_x, per_y], axis=-1).astype(np.float32))
        return both.dense(xs, ys)


_Inverse = _Projective | _Lattice


def _outer(row: Array, xs: Array, ys: Array) -> Array:
    return np.add.outer((row[1] * ys + row[2]).astype(np.float32), (row[0] * xs).astype(np.float32))


def _interpolate(values: Array, positions: Array) -> Array:
    """Linear interpolation of ``values`` [n, ...] at fractional indices ``positions`` along the first axis."""
    low = np.clip(np.floor(positions).astype(int), 0, len(values) - 2)
    share = (positions - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - share) + values[low + 1] * share


def _upright_inverse(matrix: Array, center: Array) -> Array:
    """The inverse, scaled so that its depth is 1 where the reference point ``center`` lands (so that "behind" is negative)."""
    inverse = np.linalg.inv(matrix)
    landed = matrix @ np.array([*center, 1.0])
    return inverse / (inverse[2] @ (landed / landed[2]))


def _inverse_maps(warps: Sequence[Warp], center: Array, roi: Roi) -> list[_Inverse]:
    """One inverse per warp. Of several bending warps only the first, the middle and the last are inverted; those between are the
    parabola through the three."""
    matrices = [warp.matrix for warp in warps]
    if all(matrix is not None for matrix in matrices):
        return [_Projective(_upright_inverse(matrix, center)) for matrix in matrices if matrix is not None]
    if len(warps) < 4:
        return [_invert_on_lattice(warp, roi) for warp in warps]
    ends = [_invert_on_lattice(warps[index], roi) for index in (0, len(warps) // 2, -1)]
    at = np.array([0.0, len(warps) // 2, len(warps) - 1.0])
    found: list[_Inverse] = []
    for index in range(len(warps)):
        shares = [np.prod([(index - at[j]) / (at[i] - at[j]) for j in range(3) if j != i]) for i in range(3)]
        nodes = sum(np.float32(share) * end.nodes for share, end in zip(shares, ends, strict=True))
        found.append(_Lattice(ends[0].origin, np.asarray(nodes)))
    return found


def _invert_on_lattice(warp: Warp, roi: Roi) -> _Lattice:
    x0, y0, x1, y1 = roi
    origin = (float(x0 - LATTICE_PX), float(y0 - LATTICE_PX))
    xs = origin[0] + LATTICE_PX * np.arange((x1 - x0) // LATTICE_PX + 4)
    ys = origin[1] + LATTICE_PX * np.arange((y1 - y0) // LATTICE_PX + 4)
    nodes = warp.inverse(np.stack(np.meshgrid(xs, ys), axis=-1))
    return _Lattice(origin, np.clip(np.nan_to_num(nodes, nan=_FAR), -1e6, 1e6).astype(np.float32))


# -- sampling ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Detail:
    """Samples per output pixel along x and y, and the wanted pyramid level: a number, or f32[h,w] where it varies."""

    samples_xy: tuple[int, int]
    level: float | Array


def _detail(pyramid: ReferencePyramid, inverse: _Inverse, roi: Roi) -> _Detail:
    """What a roi asks for: levels whose pixels are half an output pixel along the less squeezed axis, down to a quarter when the
    reference is eight times too large. Where the reference is not,
    the level means nothing and takes the nearest value that is used elsewhere."""
    x0, y0, x1, y1 = roi
    xs, ys = np.arange(x0, x1, 8) + 0.5, np.arange(y0, y1, 8) + 0.5
    per_x, per_y = inverse.sizes(xs, ys)
    per_x, per_y = np.clip(per_x, 1e-3, 1e4), np.clip(per_y, 1e-3, 1e4)
    smaller = np.minimum(per_x, per_y)
    octaves = np.log2(smaller)
    levels = 2 * (octaves - 1) - np.clip(octaves - 1, 0, 2)
    used = _near_reference(pyramid, inverse, xs, ys, 8 * np.maximum(per_x, per_y))
    if used.any():
        levels = np.clip(levels, levels[used].min(), levels[used].max())
    else:
        used[:] = True
    squeezed = [float(np.median((axis / smaller)[used])) for axis in (per_x, per_y)]
    least = int(np.clip(np.floor(np.median(octaves[used])) + 2, 2, 4))
    samples = [int(np.clip(np.ceil(least * ratio - 0.1), 2, MAX_SAMPLES_PER_AXIS)) for ratio in squeezed]
    if np.ptp(levels) < 0.02:
        return _Detail((samples[0], samples[1]), float(levels.mean()))
    columns = (np.arange(x0, x1) + 0.5 - xs[0]) / 8
    rows = (np.arange(y0, y1) + 0.5 - ys[0]) / 8
    grid_x, grid_y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    dense = cv2.remap(levels.astype(np.float32), grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _Detail((samples[0], samples[1]), dense)


def _near_reference(pyramid: ReferencePyramid, inverse: _Inverse, xs: Array, ys: Array, reach_px: Array) -> Array:
    """Which points of the grid are within ``reach_px`` (reference pixels, f32[h,w]) of the cut-out's bounds: bool[h,w]."""
    u, v = inverse.dense(xs, ys)
    x0, y0, x1, y1 = pyramid.box_px
    return (u > x0 - reach_px) & (u < x1 + reach_px) & (v > y0 - reach_px) & (v < y1 + reach_px)


def _sample(pyramid: ReferencePyramid, inverse: _Inverse, detail: _Detail, roi: Roi) -> Array:
    """The roi's pixels, f32[h,w,4], each the mean of the samples inside it."""
    x0, y0, x1, y1 = roi
    across, down = detail.samples_xy
    xs = x0 + (np.arange((x1 - x0) * across) + 0.5) / across
    ys = y0 + (np.arange((y1 - y0) * down) + 0.5) / down
    u, v = inverse.dense(xs, ys)
    return _mix_levels(pyramid, detail.level, u, v, (x1 - x0, y1 - y0))


def _sample_path(pyramid: ReferencePyramid, warps: Sequence[Warp], roi: Roi) -> Array:
    """The mean f32[h,w,4] over many moments, one sample per pixel and moment."""
    x0, y0, x1, y1 = roi
    inverses = _inverse_maps(warps, pyramid.center_px, roi)
    detail = _detail(pyramid, inverses[len(inverses) // 2], roi)
    total = np.zeros((y1 - y0, x1 - x0, 4), np.float32)
    for index, (warp, inverse) in enumerate(zip(warps, inverses, strict=True)):
        here = warped_roi(pyramid, [warp], roi)
        if here is None:
            continue
        left, top, right, bottom = here
        window = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
        level = detail.level[window] if isinstance(detail.level, np.ndarray) else detail.level
        offset_x, offset_y = _SHUTTER_PLACES[index % 4]
        u, v = inverse.dense(np.arange(left, right) + offset_x, np.arange(top, bottom) + offset_y)
        total[window] += _mix_levels(pyramid, level, u, v, (right - left, bottom - top))
    total /= len(warps)
    return total


def _mix_levels(pyramid: ReferencePyramid, level: float | Array, u: Array, v: Array, size: tuple[int, int]) -> Array:
    """Trilinear look-up at reference points, averaged down to ``size`` (width, height)."""
    level = np.clip(level, pyramid.finest, pyramid.coarsest)
    first, last = int(np.floor(np.min(level))), int(np.ceil(np.max(level)))
    total: Array | None = None
    for index in range(first, last + 1):
        weight = np.clip(1 - np.abs(np.asarray(level, np.float32) - index), 0, 1)
        if weight.max() < 1e-3:
            continue
        values = _look_up(pyramid, index, u, v)
        if values.shape[:2] != (size[1], size[0]):
            values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        if weight.min() < 0.999:
            values *= weight[..., None] if weight.ndim else weight
        total = values if total is None else total + values
    assert total is not None
    return total


def _look_up(pyramid: ReferencePyramid, index: int, u: Array, v: Array) -> Array:
    picture = pyramid.level(index)
    x0, y0, x1, y1 = pyramid.box_px
    scale_x, scale_y = picture.shape[1] / (x1 - x0), picture.shape[0] / (y1 - y0)
    grid_x = u * np.float32(scale_x) - np.float32(x0 * scale_x + 0.5)
    grid_y = v * np.float32(scale_y) - np.float32(y0 * scale_y + 0.5)
    return cv2.remap(picture, grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0))
