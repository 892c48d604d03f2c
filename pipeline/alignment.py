"""A plane brought into line by all its pixels: what is out of focus has no corners, but its soft slopes tell where it is.

An earlier picture, warped to where the plane should be, is compared with the picture at hand, and the homography moved until they
differ least (Gauss-Newton; Lucas and Kanade 1981). Light may differ smoothly over the picture; cells that differ by more than noise
and a slight misfit explain, such as what crosses, do not count. How far the plane is moved from where it was expected depends on
how sharply the pixels say where it is, against how sure the expectation was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import geometry
from .types import Array

SOFT_SIDE_PX = 480
"""Pictures are aligned at most this large on their longer side."""

_BLUR_PX = 0.7
_CELL_PX = 8
_LIGHT_CELLS = 3.0
"""Over how many cells (standard deviation) light is taken to be even."""

_GAIN_RIDGE = 4.0
_LEAST_NOISE = 0.3
_STEPS = 6
_SETTLED_PX = 0.03

_MISFIT_PX = 0.1
"""No pixel tells more precisely than this where the plane is, however sharp the edge; in pixels of the tracked picture."""

_STRAY_PX = (1.0, 1.0, 1.0, 0.5)
"""How far off a cell may lie and still belong to the plane, in the first steps and after; in pixels of the tracked picture."""

_OTHER = 2.2
"""A cell that differs by so many times what noise and straying explain is something else."""

_CLIP = 2.5
_TOGETHER = 12.0
"""So many pixels err together and count as one."""

_OBJECTION = 100.0
"""Surroundings do not count where the region itself objects to them with this much certainty (a score test: chi squared)."""

_WORSE = 1.02
"""An alignment is not taken if the pictures then differ by more than this times as much as before."""

_COLUMNS = (
    ((0, 0, 0),),
    ((0, 1, 0),),
    ((0, 0, 1),),
    ((1, 0, 0),),
    ((1, 1, 0),),
    ((1, 0, 1),),
    ((0, 2, 0), (1, 1, 1)),
    ((0, 1, 1), (1, 0, 2)),
)
"""What each number of a ``Bend``, before scaling, moves: 0 for x or 1 for y, by which power of x and of y."""


class Bend:
    """Homographies near the identity as eight numbers, scaled so that each moves the picture by so many pixels (root mean square).

    A *doubt* f64[8,8] is the covariance of these numbers, in square pixels.
    """

    def __init__(self, hw: tuple[int, int]) -> None:
        height, width = hw
        self.size_px = max(hw) / 2
        self.from_unit = np.array([[self.size_px, 0, width / 2], [0, self.size_px, height / 2], [0, 0, 1.0]])
        self.to_unit = np.linalg.inv(self.from_unit)
        x, y = np.meshgrid(np.linspace(0, width, 5), np.linspace(0, height, 4))
        self.scaling = np.eye(8)
        rows = self.rows(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(-1, 8)
        _, self._unscaling = np.linalg.qr(rows / np.sqrt(x.size))
        self.scaling = np.linalg.inv(self._unscaling)
        alike = np.array(
            [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 1, 0, 0], [0, 0, -1, 0, 1, 0, 0, 0.0]]
        )
        basis, _ = np.linalg.qr(self._unscaling @ alike.T)
        self.alike = basis @ basis.T
        """The part of eight numbers f64[8,8] that is a similarity; ``unlike`` is the rest."""
        self.unlike = np.eye(8) - self.alike

    def rows(self, points: Array) -> Array:
        """How far each of the eight numbers moves points f64[N,2]: f64[N,2,8]."""
        x, y = geometry.apply_map(self.to_unit, points).T
        one, zero = np.ones_like(x), np.zeros_like(x)
        rows = np.array([[one, x, y, zero, zero, zero, x * x, x * y], [zero, zero, zero, one, x, y, x * y, y * y]])
        return np.moveaxis(rows, 2, 0) @ self.scaling

    def map(self, numbers: Array) -> Array:
        """The homography f64[3,3] of eight numbers."""
        a, b, c, d, e, f, g, h = self.scaling @ numbers / self.size_px
        unit = np.array([[1 + b, c, a], [e, 1 + f, d], [-g, -h, 1.0]])
        moved: Array = self.from_unit @ unit @ self.to_unit
        return moved

    def numbers(self, matrix: Array) -> Array:
        """The eight numbers of a homography f64[3,3]."""
        unit = geometry.normal_map(self.to_unit @ matrix @ self.from_unit) - np.eye(3)
        plain = [unit[0, 2], unit[0, 0], unit[0, 1], unit[1, 2], unit[1, 0], unit[1, 1], -unit[2, 0], -unit[2, 1]]
        found: Array = self._unscaling @ np.array(plain) * self.size_px
        return found


@dataclass(frozen=True, eq=False, slots=True)
class SoftPicture:
    """A picture ``soft`` f32[h,w], small and smoothed, and which of it may be used, u8[h,w], None for all."""

    soft: Array
    allowed: Array | None


def soften(gray: Array, allowed: Array | None = None) -> SoftPicture:
    """A picture u8[H,W] as it is aligned; ``allowed`` bool[H,W] says which of it may be used."""
    import cv2

    share = min(1.0, SOFT_SIDE_PX / max(gray.shape))
    size = max(1, round(gray.shape[1] * share)), max(1, round(gray.shape[0] * share))
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    usable = None if allowed is None else cv2.resize(allowed.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return SoftPicture(cv2.GaussianBlur(small, (0, 0), _BLUR_PX), usable)


class Aligner:
    """Aligns pictures that are tracked at the size of ``bend`` and softened to ``soft_hw``; all maps are of the tracked size."""

    def __init__(self, bend: Bend, hw: tuple[int, int], soft_hw: tuple[int, int]) -> None:
        self._bend = bend
        self._hw = height, width = soft_hw
        self._cells = across, down = -(-width // _CELL_PX), -(-height // _CELL_PX)
        self._scale = np.diag([width / hw[1], height / hw[0], 1.0])
        self._unscale = np.linalg.inv(self._scale)
        middles = np.repeat(_CELL_PX * (np.arange(max(across, down)) + 0.5)[:, None], 2, axis=1)
        x, y = geometry.apply_map(bend.to_unit @ self._unscale, middles).T
        self._x, self._y = (np.stack([value**power for power in range(5)]) for value in (x[:across], y[:down]))

    def align(
        self, anchor: SoftPicture, picture: SoftPicture, between: Array, start: Array, doubt: Array, region: Array | None = None
    ) -> tuple[Array, Array] | None:
        """The homography f64[3,3] that takes the expected place of the plane to where ``picture`` shows it, and the doubt left.

        ``between`` f64[3,3] takes the anchor to the expected place, of which one is as sure as ``doubt`` f64[8,8] says; the search
        begins at ``start`` f64[3,3], a guess of the answer. ``region`` bool[H,W] is where the plane should be seen; what surrounds
        it counts as well, the less the farther off it is, unless the region itself moves otherwise. None where nothing was gained.
        """
        import cv2

        allowed = np.ones(self._hw, np.float32) if picture.allowed is None else picture.allowed.astype(np.float32)
        if region is None:
            return self._approach(anchor, picture.soft, between, start, doubt, allowed, None)
        inside = cv2.resize(region.astype(np.uint8), self._hw[::-1], interpolation=cv2.INTER_NEAREST)
        if not inside.any():
            return None
        away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
        around = allowed * np.exp(-(away**2) / np.float32(np.count_nonzero(inside)))
        found = self._approach(anchor, picture.soft, between, start, doubt, around, inside)
        return found or self._approach(anchor, picture.soft, between, start, doubt, allowed * inside, None)

    def _approach(
        self, anchor: SoftPicture, seen: Array, between: Array, start: Array, doubt: Array, usable: Array, inside: Array | None
    ) -> tuple[Array, Array] | None:
        """``align`` where each pixel counts as ``usable`` f32[h,w] says; None also where what is ``inside`` u8[h,w] objects."""
        numbers, hold = self._bend.numbers(start), np.linalg.inv(doubt + np.eye(8) * 1e-6)
        key, covered = self._warp(anchor, self._bend.map(numbers) @ between, usable)
        if not covered.any():
            return None
        noise, weight = 1.0, covered
        slope = self._slope(key)
        for _ in range(2):
            rest, noise = self._differ(key, seen, weight, noise)
            weight = self._weigh(self._ratio(rest, slope, covered, noise, _STRAY_PX[0])) * covered
        begun = noise, self._strangeness(rest, slope, covered, noise)
        for step in range(_STEPS):
            rest, noise = self._differ(key, seen, weight, noise)
            weight = self._weigh(self._ratio(rest, slope, covered, noise, _STRAY_PX[min(step, 3)])) * covered
            known, pull = self._normal_equations(slope, rest, weight, noise)
            shift = np.linalg.solve(known + hold, pull - hold @ numbers)
            numbers = numbers + shift
            key, covered = self._warp(anchor, self._bend.map(numbers) @ between, usable)
            slope = self._slope(key)
            if float(np.sqrt(shift @ shift)) < _SETTLED_PX or not covered.any():
                break
        rest, _ = self._differ(key, seen, weight, noise)
        if not covered.any() or not self._strangeness(rest, slope, covered, begun[0]) < _WORSE * begun[1]:
            return None
        if inside is not None:
            own, pull = self._normal_equations(slope, rest, weight * inside, noise)
            if float(pull @ np.linalg.solve(own + np.eye(8) * 0.01, pull)) > _OBJECTION:
                return None
        return self._bend.map(numbers), np.linalg.inv(known + hold)

    def _warp(self, anchor: SoftPicture, between: Array, usable: Array) -> tuple[Array, Array]:
        """The anchor where the plane is taken to be, f32[h,w], and how much each pixel counts there, f32[h,w]."""
        import cv2

        pixels, size = geometry.pixel_map(self._scale @ between @ self._unscale), self._hw[::-1]
        key = cv2.warpPerspective(anchor.soft, pixels, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        whole = np.ones(self._hw, np.uint8) if anchor.allowed is None else anchor.allowed
        covered = cv2.warpPerspective(whole, pixels, size, flags=cv2.INTER_NEAREST)
        covered = cv2.erode(cv2.copyMakeBorder(covered, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=0), np.ones((9, 9), np.uint8))
        return key, covered[4:-4, 4:-4] * usable

    def _slope(self, key: Array) -> tuple[Array, Array]:
        """Levels per pixel of the tracked picture along x and y, f32[h,w] each."""
        import cv2

        x = cv2.Sobel(key, cv2.CV_32F, 1, 0, scale=float(self._scale[0, 0]) / 8)
        return x, cv2.Sobel(key, cv2.CV_32F, 0, 1, scale=float(self._scale[1, 1]) / 8)

    def _differ(self, key: Array, seen: Array, weight: Array, noise: float) -> tuple[Array, float]:
        """The anchor in the light of the picture, minus the picture, f32[h,w], and the noise in it, in levels."""
        import cv2

        def smooth(values: Array) -> Array:
            blurred: Array = cv2.GaussianBlur(self._down(values), (0, 0), _LIGHT_CELLS)
            return blurred

        count, weighted = smooth(weight) + 1e-3, weight * key
        key_mean, seen_mean = smooth(weighted) / count, smooth(weight * seen) / count
        power = smooth(weighted * key) / count - key_mean**2
        both = smooth(weighted * seen) / count - key_mean * seen_mean
        ridge = _GAIN_RIDGE * noise**2
        gain = np.clip((np.maximum(both, 0) + ridge) / (np.maximum(power, 0) + ridge), 0.5, 2.0)
        rest = self._up(gain) * key + self._up(seen_mean - gain * key_mean) - seen
        counted = np.abs(rest[::2, ::2][weight[::2, ::2] > 0.1])
        found = 1.4826 * float(np.median(counted)) if len(counted) else noise
        return rest, max(found, _LEAST_NOISE)

    def _ratio(self, rest: Array, slope: tuple[Array, Array], covered: Array, noise: float, stray_px: float) -> Array:
        """How much each cell differs, as a multiple (squared) of what noise and straying explain."""
        import cv2

        expected = self._down((noise**2 + stray_px**2 * (slope[0] ** 2 + slope[1] ** 2)) * covered)
        ratio: Array = cv2.blur(self._down(rest * rest * covered), (3, 3)) / np.maximum(cv2.blur(expected, (3, 3)), 1e-6)
        return ratio

    def _weigh(self, ratio: Array) -> Array:
        return self._up(np.clip(1 - ratio / _OTHER**2, 0, None) ** 2)

    def _strangeness(self, rest: Array, slope: tuple[Array, Array], covered: Array, noise: float) -> float:
        """What is left of the difference in the mean; a cell that shows something else counts as just that."""
        ratio = np.minimum(self._ratio(rest, slope, covered, noise, _MISFIT_PX), _OTHER**2)
        count = self._down(covered)
        return float((ratio * count).sum() / count.sum())

    def _normal_equations(self, slope: tuple[Array, Array], rest: Array, weight: Array, noise: float) -> tuple[Array, Array]:
        """What the pixels know of the eight numbers, f64[8,8], and where they pull them, f64[8]."""
        x, y = slope
        spread = noise**2 + _MISFIT_PX**2 * (x * x + y * y)
        limit = _CLIP * np.sqrt(spread)
        rest, trust = np.clip(rest, -limit, limit), weight / spread
        crossed = self._moments(trust * x * y)
        squares = (self._moments(trust * x * x), crossed), (crossed, self._moments(trust * y * y))
        pulls = self._moments(trust * x * rest), self._moments(trust * y * rest)
        known, pull = np.zeros((8, 8)), np.zeros(8)
        for i, one in enumerate(_COLUMNS):
            pull[i] = sum(pulls[a][q, p] for a, p, q in one)
            for j, other in enumerate(_COLUMNS):
                known[i, j] = sum(squares[a][b][q + s, p + r] for a, p, q in one for b, r, s in other)
        scaling = self._bend.scaling
        return scaling.T @ known @ scaling / _TOGETHER, scaling.T @ pull / _TOGETHER

    def _moments(self, values: Array) -> Array:
        """Sums f64[5,5] of f32[h,w] times powers of y and x, which count as even within a cell."""
        sums: Array = self._y @ (self._down(values).astype(np.float64) * _CELL_PX**2) @ self._x.T
        return sums

    def _down(self, values: Array) -> Array:
        """Means over cells; what lies outside the picture counts as 0."""
        import cv2

        (height, width), (across, down) = self._hw, self._cells
        more = down * _CELL_PX - height, across * _CELL_PX - width
        if any(more):
            values = cv2.copyMakeBorder(values, 0, more[0], 0, more[1], cv2.BORDER_CONSTANT, value=0)
        means: Array = cv2.resize(values, self._cells, interpolation=cv2.INTER_AREA)
        return means

    def _up(self, cells: Array) -> Array:
        import cv2

        (height, width), (across, down) = self._hw, self._cells
        whole: Array = cv2.resize(cells, (across * _CELL_PX, down * _CELL_PX), interpolation=cv2.INTER_LINEAR)
        return whole[:height, :width]
