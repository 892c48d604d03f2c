"""Motion that is left between pictures of a scene which a camera's motion has laid onto each other: what is near moves otherwise.

It is measured by dense optical flow (Kroeger and others 2016), where both pictures show the scene. Behind a thing that hides the
scene it cannot be measured, but it can be known: a scene that stands still moves, whatever two moments are compared, as a sum of
few fields (Irani 2002). Fields that are measured between other pictures, which show what is hidden, are fitted to the flow around
the hole, and say how the scene moves within it.

Convention: a flow f32[h,w,2] between two pictures is such that the first shows at a pixel what the second shows at that pixel plus
the flow. Flows are kept at a ``Grid``, at most ``FLOW_SIDE_PX`` large, in pixels of the full picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .geometry import pixel_map
from .tracking import flatten_light
from .types import Array

FLOW_SIDE_PX = 512
LATITUDE_PX = 0.12
"""Residual motion of this size is as likely noise as parallax."""
MAX_FIELDS = 3
"""Of how many fields the motion of a scene is made up."""

_LEAST_PIXELS = 400
_LEAST_SIDE_PX = 32
_FIELD_PX = 0.1
"""A field that moves by less than this, root mean square, is none."""
_AGREE_LEVELS = 24.0
_HOLD = 0.01
"""How much, of all measurements together, the motion expected of a moment weighs."""
_AGREE_PX = 0.5
_TEXTURE_LEVELS = 16.0
"""Where a picture, its light made even, varies less than this from pixel to pixel, its motion is hardly seen."""
_GAIN_LEVELS, _GAIN_SLOPE = 1.0, 15.0
"""How readily detail is taken: ``gain * slope``, where the gain is measured against the levels that remain."""
_FURTHEST_PX = 12.0
"""What moves further than about this from how its surroundings do drives through the scene, whatever the pictures show."""
_DETAIL_PX = (6.0, 2.5)
_NEEDED_GAIN = 0.2
"""By how much, of what is left without them, fields must explain a flow better to be believed in full."""
_MAX_SAMPLES = 6000
_MAX_REACH = 1.0
"""How far a motion is carried on beyond what is known of it, as a share of the last step."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where flows between pictures of ``hw`` pixels are kept: ``size`` is (width, height)."""

    hw: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def over(cls, hw: tuple[int, int]) -> Grid:
        share = min(1.0, FLOW_SIDE_PX / max(hw))
        return cls(hw, (max(24, round(hw[1] * share)), max(24, round(hw[0] * share))))

    @property
    def scale(self) -> Array:
        """Pixels of the full picture for one of the grid, f32[2]."""
        return np.array([self.hw[1] / self.size[0], self.hw[0] / self.size[1]], np.float32)

    def even(self, picture: Array) -> Array:
        """A picture u8[H,W,3] as it is matched: its luma, small, with its light made even, u8[h,w]."""
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return flatten_light(cv2.resize(gray, self.size, interpolation=cv2.INTER_AREA))

    def known(self, mask: Array) -> Array:
        """Where all of a mask bool[H,W] is true, bool[h,w]."""
        small: Array = cv2.resize(mask.astype(np.uint8) * 255, self.size, interpolation=cv2.INTER_AREA) == 255
        return small

    def full(self, flow: Array) -> Array:
        """A flow f32[h,w,2] for every pixel of the full picture."""
        if flow.shape[:2] == self.hw:
            return flow
        return cv2.resize(flow, self.hw[::-1], interpolation=cv2.INTER_LINEAR)

    def moved(self, values: Array, flow: Array) -> Array:
        """``values`` [h,w,...] as they are at every pixel plus ``flow`` f32[h,w,2]."""
        x, y = np.meshgrid(np.arange(self.size[0], dtype=np.float32), np.arange(self.size[1], dtype=np.float32))
        step = flow / self.scale
        return cv2.remap(values, x + step[..., 0], y + step[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def measure_flow(
    grid: Grid, one: Array, is_one: Array, other: Array, is_other: Array, guess: Array | None = None
) -> tuple[Array, Array]:
    """The flow f32[h,w,2] between two small pictures u8[h,w] (``Grid.even``), and how far it is to be trusted f32[h,w]: nowhere but
    where both are known. It is looked for around ``guess`` f32[h,w,2]: in what repeats itself a large motion cannot be seen."""
    still = np.zeros((*one.shape, 2), np.float32)
    if guess is not None and np.abs(guess).max() > LATITUDE_PX:
        other, is_other = grid.moved(other, guess), grid.moved(is_other.astype(np.uint8) * 255, guess) == 255
    else:
        guess = None
    both = is_one & is_other
    if np.count_nonzero(both) < _LEAST_PIXELS or min(both.shape) < _LEAST_SIDE_PX:
        return (still if guess is None else guess), still[..., 0]
    one = np.where(is_one, one, np.uint8(128))
    other = np.where(is_other & is_one, other, one)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(one, other, still) * grid.scale
    difference = cv2.absdiff(one, grid.moved(other, flow)).astype(np.float32)
    trust = np.exp(-((difference / _AGREE_LEVELS) ** 2))
    across, down = (cv2.Sobel(one, cv2.CV_32F, *order, ksize=3) / 8 for order in ((1, 0), (0, 1)))
    texture = cv2.boxFilter(across * across + down * down, -1, (9, 9))
    trust *= texture / (texture + _TEXTURE_LEVELS**2)
    trust *= cv2.erode(both.astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=0)
    return (flow if guess is None else flow + grid.moved(guess, flow)), trust.astype(np.float32)


def spread_flow(flow: Array, trust: Array, is_fine: bool = False) -> Array:
    """A flow f32[h,w,2] averaged by trust f32[h,w], coarse to fine: where little is trusted nearby, what is further away counts. In
    detail if ``is_fine``; else smooth, and what moves unlike its wide surroundings counts little."""
    side = max(trust.shape)
    wide, near = (side / 4, side / 8), (side / 16, side / 32)
    if is_fine:
        return average_by_trust(flow, trust, (*wide, *near, *_DETAIL_PX))
    around = average_by_trust(flow, trust, wide)
    away = ((flow - around) ** 2).sum(axis=2)
    usual = float(np.median(away[trust > 0.3])) if np.any(trust > 0.3) else 0.0
    return average_by_trust(flow, trust / (1 + away / (4 * usual + 1.0)), (*wide, *near))


def average_by_trust(values: Array, trust: Array, sigmas_px: Sequence[float]) -> Array:
    """``values`` f32[h,w,C] averaged by trust f32[h,w], from coarse to fine: where little is trusted nearby, the coarser counts."""
    total, smooth = values * trust[..., None], np.zeros_like(values)
    for sigma_px in sigmas_px:
        weight = blur(trust, sigma_px)[..., None]
        smooth = (blur(total, sigma_px) + 0.1 * smooth) / (weight + 0.1)
    return smooth


def choose_detail(grid: Grid, smooth: Sequence[Array], fine: Sequence[Array], seen: Sequence[tuple[Array, Array]]) -> list[Array]:
    """Flows from one picture to others, each ``smooth`` and ``fine`` f32[h,w,2], as one: in detail where only so most pictures
    (``seen``: u8[h,w] and where it is known bool[h,w]) show the same. What drives through the scene is not to be followed: most
    pictures show the ground there, and it moves as the ground around it does."""
    spread = []
    for flows in (smooth, fine):
        moved = [grid.moved(picture, flow).astype(np.float32) for (picture, _), flow in zip(seen, flows, strict=True)]
        is_known = [grid.moved(known.astype(np.uint8) * 255, flow) == 255 for (_, known), flow in zip(seen, flows, strict=True)]
        stack = np.where(np.stack(is_known), np.stack(moved), np.float32(np.inf))
        middle = _median(stack)
        away = np.abs(stack - np.where(np.isfinite(middle), middle, 0))
        away = _median(away)
        spread.append(cv2.boxFilter(np.where(np.isfinite(away), away, 0).astype(np.float32), -1, (11, 11)))
    gain = (spread[0] - spread[1]) / (spread[0] + _GAIN_LEVELS)
    share = cv2.GaussianBlur(np.clip(gain * _GAIN_SLOPE - 0.25, 0, 1), (0, 0), 2.0)[..., None]
    away = np.max([np.linalg.norm(other - one, axis=2) for one, other in zip(smooth, fine, strict=True)], axis=0)
    share = share / (1 + (away / _FURTHEST_PX) ** 4)[..., None]
    return [one + share * (other - one) for one, other in zip(smooth, fine, strict=True)]


def _median(stack: Array) -> Array:
    """The median f32[h,w], the upper one of two, of what is finite in f32[n,h,w]; inf where nothing is."""
    count = np.isfinite(stack).sum(axis=0)
    ordered = np.sort(stack, axis=0)
    return np.take_along_axis(ordered, np.minimum(count // 2, len(stack) - 1)[None], axis=0)[0]


@dataclass(frozen=True, eq=False, slots=True)
class Motion:
    """How the scene moves, seen from one moment: ``fields`` f32[k,h,w,2], one pixel root mean square each, and how much of each is
    in the flow to every one of ``frame_indices`` i64[n], in order, ``shares`` f64[n,k]."""

    grid: Grid
    fields: Array
    frame_indices: Array
    shares: Array

    @classmethod
    def of(cls, grid: Grid, start: int, frame_indices: Sequence[int], flows: Sequence[Array]) -> Motion:
        """The motion of which the flows from frame ``start`` to others are made up."""
        stack = np.stack([flow.reshape(-1) for flow in flows]) if flows else np.zeros((0, 1), np.float32)
        values, vectors = np.linalg.eigh((stack @ stack.T).astype(np.float64) / (stack.shape[1] / 2))
        kept = [index for index in np.argsort(values)[::-1][:MAX_FIELDS] if values[index] > _FIELD_PX**2]
        parts = (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
        shares = {start: np.zeros(len(kept))}
        shares.update(zip(frame_indices, vectors[:, kept] * np.sqrt(values[kept]), strict=True))
        order = sorted(shares)
        fields = (parts.T @ stack).reshape(len(kept), *grid.size[::-1], 2)
        return cls(grid, fields, np.array(order), np.array([shares[index] for index in order]))

    def expected(self, frame_index: int) -> Array:
        """How much of each field is likely in the flow to a frame, f64[k]: as between the nearest frames that
        are known, or a little further."""
        frames = self.frame_indices
        if len(frames) < 2:
            return np.zeros(len(self.fields))
        after = int(np.clip(np.searchsorted(frames, frame_index), 1, len(frames) - 1))
        part = np.clip((frame_index - frames[after - 1]) / (frames[after] - frames[after - 1]), -_MAX_REACH, 1 + _MAX_REACH)
        shares: Array = (1 - part) * self.shares[after - 1] + part * self.shares[after]
        return shares

    def seen_over(self, grid: Grid, matrix: Array) -> Array:
        """The fields f32[k,h,w,2] over another grid, whose full picture ``matrix`` f64[3,3] takes to this one's."""
        here = np.diag([*(1 / self.grid.scale), 1.0])
        there = np.diag([*grid.scale, 1.0])
        pixels = pixel_map(here @ matrix @ there)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = [
            cv2.warpPerspective(field, pixels, grid.size, flags=flags, borderMode=cv2.BORDER_REPLICATE) for field in self.fields
        ]
        return np.array(seen, np.float32).reshape(len(seen), *grid.size[::-1], 2)


def complete_flow(flow: Array, trust: Array, fields: Array, expected: Array) -> Array:
    """A flow f32[h,w,2] carried on to where it is not trusted: the sum of ``fields`` f32[k,h,w,2] that fits it best (weakly held to
    the shares ``expected`` f64[k]) and an even motion, and what these leave, smoothed."""
    model = _fit_fields(flow, trust, fields, expected)
    return model + spread_flow(flow - model, trust)


def _fit_fields(flow: Array, trust: Array, fields: Array, expected: Array) -> Array:
    height, width = trust.shape
    rows, cols = np.nonzero(trust > 0.05)
    if len(fields) == 0 or len(rows) < _LEAST_PIXELS // 4:
        return np.tensordot(expected.astype(np.float32), fields, 1) if len(fields) else np.zeros_like(flow)
    step = 1 + len(rows) // _MAX_SAMPLES
    rows, cols = rows[::step], cols[::step]
    x, y = 2 * cols / width - 1, 2 * rows / height - 1
    even = np.stack([np.ones_like(x), x, y], axis=1)
    count, size = len(fields), len(rows)
    system = np.zeros((2, size, count + 6))
    for axis in range(2):
        system[axis, :, :count] = fields[:, rows, cols, axis].T
        system[axis, :, count + 3 * axis : count + 3 * axis + 3] = even
    wanted = np.stack([flow[rows, cols, axis] for axis in range(2)]).astype(np.float64)
    start = np.concatenate([expected, np.zeros(6)])
    weight = trust[rows, cols].astype(np.float64)
    solution, cost = _solve(system, wanted, weight, start)
    plain, plain_cost = _solve(system[:, :, count:], wanted, weight, start[count:])
    share = float(np.clip((1 - cost / max(plain_cost, 1e-9)) / _NEEDED_GAIN - 0.5, 0, 1))
    solution[:count] *= share
    solution[count:] = share * solution[count:] + (1 - share) * plain
    model = np.tensordot(solution[:count].astype(np.float32), fields, 1)
    grid_x = np.linspace(-1, 1, width, endpoint=False, dtype=np.float32)
    grid_y = np.linspace(-1, 1, height, endpoint=False, dtype=np.float32)[:, None]
    for axis in range(2):
        shift, along_x, along_y = solution[count + 3 * axis : count + 3 * axis + 3].astype(np.float32)
        model[..., axis] += shift + along_x * grid_x + along_y * grid_y
    return model.astype(np.float32)


def _solve(system: Array, wanted: Array, weight: Array, start: Array) -> tuple[Array, float]:
    solution = start
    hold = np.full(len(start), _HOLD * weight.sum())
    for _ in range(5):
        squared = ((wanted - system @ solution) ** 2).sum(axis=0) / _AGREE_PX**2
        robust = weight / (1 + squared)
        normal = np.einsum("asi,s,asj->ij", system, robust, system, optimize=True) + np.diag(hold)
        solution = np.linalg.solve(normal, np.einsum("asi,s,as->i", system, robust, wanted, optimize=True) + hold * start)
    squared = ((wanted - system @ solution) ** 2).sum(axis=0) / _AGREE_PX**2
    return solution, float((weight * np.log1p(squared)).sum())


def invert_flow(grid: Grid, flow: Array) -> Array:
    """The flow back: f32[h,w,2] from the second picture to the first."""
    back = -flow
    for _ in range(4):
        back = -grid.moved(flow, back)
    return back


def without_noise(flow: Array) -> Array:
    """A flow with what is as small as ``LATITUDE_PX`` drawn to nothing."""
    squared = (flow**2).sum(axis=2, keepdims=True)
    quiet: Array = flow * (squared / (squared + LATITUDE_PX**2))
    return quiet


def blur(values: Array, sigma_px: float) -> Array:
    """A Gaussian over f32[h,w] or f32[h,w,C], zero beyond the edge; a wide one is taken on a smaller picture."""
    height, width = values.shape[:2]
    shrink = max(1, int(sigma_px // 4))
    size = -(-width // shrink), -(-height // shrink)
    if shrink > 1:
        padded = cv2.copyMakeBorder(
            values, 0, size[1] * shrink - height, 0, size[0] * shrink - width, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0)
        )
        values = cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(values, (0, 0), sigma_px / shrink, borderType=cv2.BORDER_CONSTANT)
    if shrink > 1:
        soft = cv2.resize(soft, (size[0] * shrink, size[1] * shrink), interpolation=cv2.INTER_LINEAR)[:height, :width]
    return soft
