"""The shadow that an object throws on the ground it stands on: where it touches, and cast in a direction.

The ground is taken to start at the object's base, the lowest line of its outline. The *contact shadow* is the lowest tenth of the
silhouette, spread softly: dark and tight where the object touches, wide and faint around. The *cast shadow* lays the silhouette on
the ground: a point at height u above the base falls at ``length * u`` from below itself in the direction ``angle_deg``, as seen
in the picture (0 is to the right, 90 straight down, towards the viewer; 270 is behind the object), softer and fainter the further.
Both are black with an alpha: they darken what is under them by a factor, never lighten it, and lie under the object.

Bound: with S the geometric mean of the object's width and height in the picture, H its height, d = ``length`` * H in the direction
of the angle (at least 0.10 * H down or up), no shadow falls outside the smallest rectangle that holds the object and its base line
shifted by d, grown by ``reach_px`` = S * (0.06 + 0.30 * softness) + 24 px.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..types import Array, BlendSettings
from .blend import Cutout
from .warp import Roi

_CAST_STRENGTH = 0.85
_THINNEST = 0.10
"""Least height of a cast shadow relative to the object's, however flat its direction: objects have depth."""
_COARSEST = 8


@dataclass(frozen=True, slots=True)
class ShadowGeometry:
    """The object's bounds in the picture at one frame, in clip pixels, continuous in time; ``base_y`` is where it stands."""

    x0: float
    y0: float
    x1: float
    base_y: float

    @property
    def height(self) -> float:
        return max(self.base_y - self.y0, 1.0)

    @property
    def size(self) -> float:
        return float(np.sqrt(max(self.x1 - self.x0, 1.0) * self.height))


def grid_step_px(size_px: float) -> int:
    """The spacing at which shadows of objects of about this size are computed: 1, 2, 4 or 8 px."""
    return int(np.clip(2 ** np.floor(np.log2(max(size_px, 1) / 64)), 1, _COARSEST))


def reach_px(geometry: ShadowGeometry, settings: BlendSettings) -> int:
    """How far the shadow spreads from what throws it; see the bound at the top of this module."""
    return int(geometry.size * (0.06 + 0.30 * settings.shadow_softness)) + 24


def shadow_bounds(cutout_roi: Roi, geometry: ShadowGeometry, settings: BlendSettings) -> Roi:
    """Everything that the shadow may touch (see the bound above)."""
    x0, y0, x1, y1 = cutout_roi
    reach = reach_px(geometry, settings)
    dx, dy = _direction(settings)
    tall = geometry.base_y - y0
    tip_x, tip_y = dx * tall, geometry.base_y + dy * tall
    return (
        int(np.floor(min(x0, x0 + tip_x))) - reach,
        int(np.floor(min(y0, tip_y))) - reach,
        int(np.ceil(max(x1, x1 + tip_x))) + reach,
        int(np.ceil(max(y1, geometry.base_y, tip_y))) + reach,
    )


def throw_shadow(
    cutout: Cutout, geometry: ShadowGeometry, settings: BlendSettings, step: int, picture: Roi
) -> tuple[Array, Roi] | None:
    """The shadow's alpha f32[h,w] in 0..``settings.shadow`` and where it lies, cut to ``picture``; None when it falls outside.

    Computed on a grid of ``step`` px (more where the object is far larger than usual) that is fixed to the picture, so that a
    moving shadow does not crawl.
    """
    step = max(step, grid_step_px(geometry.size) // 4)
    bounds = _within_reach(shadow_bounds(cutout.roi, geometry, settings), cutout.roi, picture, reach_px(geometry, settings))
    canvas = tuple(step * (value // step + (index > 1)) for index, value in enumerate(bounds))
    silhouette = _silhouette(cutout, canvas, step)
    alpha = settings.shadow * _contact(silhouette, canvas, step, geometry, settings)
    if settings.shadow_length > 0:
        cast = settings.shadow * _CAST_STRENGTH * _cast(silhouette, canvas, step, geometry, settings)
        alpha = 1 - (1 - alpha) * (1 - cast)
    return _at_full_size(alpha.astype(np.float32), canvas, step, picture)


def _within_reach(bounds: Roi, cutout_roi: Roi, picture: Roi, reach: int) -> Roi:
    """The part of ``bounds`` that can show: what throws the shadow, and the picture grown by as far as a shadow is blurred."""
    lows = [max(bounds[axis], min(cutout_roi[axis], picture[axis]) - reach) for axis in (0, 1)]
    highs = [min(bounds[axis], max(cutout_roi[axis], picture[axis]) + reach) for axis in (2, 3)]
    return lows[0], lows[1], highs[0], highs[1]


def _direction(settings: BlendSettings) -> tuple[float, float]:
    """Where a point one pixel above the base throws its shadow, relative to the point below it."""
    angle = np.deg2rad(settings.shadow_angle_deg)
    dx, dy = settings.shadow_length * np.cos(angle), settings.shadow_length * np.sin(angle)
    if settings.shadow_length > 0 and abs(dy) < _THINNEST:
        dy = np.copysign(_THINNEST, dy) if abs(np.sin(angle)) > 1e-9 else _THINNEST
    return float(dx), float(dy)


def _silhouette(cutout: Cutout, canvas: tuple[int, ...], step: int) -> Array:
    """The object's alpha on the coarse grid of the canvas, f32[h/step, w/step]."""
    x0, y0, x1, y1 = canvas
    full = np.zeros((y1 - y0, x1 - x0), np.float32)
    left, top, right, bottom = cutout.roi
    full[top - y0 : bottom - y0, left - x0 : right - x0] = cutout.alpha
    return cv2.resize(full, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA) if step > 1 else full


def _blur(mask: Array, sigma_px: float, step: int) -> Array:
    """Gaussian of ``sigma_px`` clip pixels, cut at three sigma."""
    sigma = max(sigma_px / step, 0.3)
    radius = max(1, int(3 * sigma))
    return cv2.GaussianBlur(mask, (2 * radius + 1, 2 * radius + 1), sigma, borderType=cv2.BORDER_CONSTANT)


def _contact(silhouette: Array, canvas: tuple[int, ...], step: int, geometry: ShadowGeometry, settings: BlendSettings) -> Array:
    rows_px = canvas[1] + (np.arange(len(silhouette)) + 0.5) * step
    above = np.maximum(geometry.base_y - rows_px, 0)
    low = silhouette * np.exp(-((above / (0.10 * geometry.height)) ** 2)).astype(np.float32)[:, None]
    lowest = silhouette * np.exp(-((above / (0.04 * geometry.height)) ** 2)).astype(np.float32)[:, None]
    wide = _blur(low, geometry.size * (0.015 + 0.07 * settings.shadow_softness), step)
    tight = _blur(lowest, 0.012 * geometry.size + 0.5, step)
    return 1 - np.exp(-(2.5 * wide + 1.5 * tight))


def _cast(silhouette: Array, canvas: tuple[int, ...], step: int, geometry: ShadowGeometry, settings: BlendSettings) -> Array:
    laid = _lay_down(silhouette, canvas, step, geometry, settings)
    distance = _distance(laid.shape, canvas, step, geometry, settings)
    spread = geometry.size * settings.shadow_softness
    near, middle, far = (_blur(laid, 0.008 * geometry.size + share * spread, step) for share in (0.01, 0.04, 0.10))
    soft = np.where(distance < 0.5, near + (middle - near) * 2 * distance, middle + (far - middle) * (2 * distance - 1))
    return soft * (1 - 0.4 * distance)


def _lay_down(silhouette: Array, canvas: tuple[int, ...], step: int, geometry: ShadowGeometry, settings: BlendSettings) -> Array:
    """The silhouette, sheared and squeezed onto the ground; sampled finely enough that a flat shadow does not shimmer."""
    dx, dy = _direction(settings)
    base = (geometry.base_y - canvas[1]) / step
    finer = int(np.clip(np.ceil(0.7 / abs(dy)), 1, 12))
    forward = np.array([[1, -dx, dx * base], [0, -dy, base + dy * base], [0, 0, 1]])
    centers = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    to_fine = np.array([[1, 0, 0], [0, finer, 0], [0, 0, 1.0]])
    matrix = np.linalg.inv(centers) @ to_fine @ forward @ centers
    height, width = silhouette.shape
    fine = cv2.warpAffine(silhouette, matrix[:2], (width, height * finer), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def _distance(hw: tuple[int, int], canvas: tuple[int, ...], step: int, geometry: ShadowGeometry, settings: BlendSettings) -> Array:
    """How far along the cast each grid point lies: 0 at the base, 1 at the tip, f32[h,w]."""
    dx, dy = _direction(settings)
    xs = canvas[0] + (np.arange(hw[1]) + 0.5) * step - (geometry.x0 + geometry.x1) / 2
    ys = canvas[1] + (np.arange(hw[0]) + 0.5) * step - geometry.base_y
    along = np.add.outer(ys * dy, xs * dx) / ((dx * dx + dy * dy) * geometry.height)
    return np.clip(along, 0, 1).astype(np.float32)


def _at_full_size(coarse: Array, canvas: tuple[int, ...], step: int, picture: Roi) -> tuple[Array, Roi] | None:
    x0, y0, x1, y1 = canvas
    left, top, right, bottom = max(x0, picture[0]), max(y0, picture[1]), min(x1, picture[2]), min(y1, picture[3])
    if left >= right or top >= bottom:
        return None
    full = cv2.resize(coarse, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) if step > 1 else coarse
    return full[top - y0 : bottom - y0, left - x0 : right - x0], (left, top, right, bottom)
