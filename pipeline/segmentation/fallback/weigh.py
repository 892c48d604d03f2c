"""Every pixel's chance to belong, from all that is known about it: a small fitted network weighs the cues, a last cut obeys it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...types import Array
from .cut import ColorModel, fit_colors
from .numbers import read_numbers
from .outline import color_gain, color_models, cut_band, grow, shrink, tidy
from .scene import Scene

PixelClick = tuple[int, int, bool]
"""A click at x and y, in pixels of the working picture, and whether what lies there belongs."""

_REACH_PX = 40
_MARGIN, _MARGIN_PX = 0.25, 12
"""How far beyond the thing cues are weighed: a share of its size, and pixels."""

_STRENGTH = 1.8
"""Of a unit of log odds, beside the price of an outline."""

_SURE = 4.0
"""Log odds beyond which a pixel is not cut anew, unless it lies at the outline."""


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """What is known about a thing before its cues are weighed: the cut's ``mask`` bool[h,w]; ``votes`` f64[n] of the superpixels;
    what motion says, ``gain`` f32[h,w]; the box ``in_box`` bool[h,w] or None; the clicks."""

    mask: Array
    votes: Array
    gain: Array
    in_box: Array | None
    clicks: Sequence[PixelClick]

    @property
    def size_px(self) -> float:
        """The side of a square as large as the thing."""
        return float(np.sqrt(max(int(self.mask.sum()), 50)))


def window(found: Found) -> tuple[slice, slice]:
    """The part of the picture around the thing, or the box, and the clicks."""
    known = found.mask if found.in_box is None else found.in_box
    views = []
    for axis, clicked in ((0, [y for _, y, _ in found.clicks]), (1, [x for x, _, _ in found.clicks])):
        places = [*np.flatnonzero(known.any(axis=1 - axis))[[0, -1]].tolist(), *clicked] if known.any() else clicked
        side = known.shape[axis]
        low, high = min(places, default=0), max(places, default=side - 1)
        margin = round(_MARGIN * (high - low)) + _MARGIN_PX
        views.append(slice(max(0, low - margin), min(side, high + margin + 1)))
    return views[0], views[1]


def gather_cues(scene: Scene, found: Found, view: tuple[slice, slice]) -> Array:
    """What speaks for or against every pixel of ``view``, f32[k,h,w]: where it lies to the mask that was cut; how many guesses hold
    it; its colours, pixel by pixel, by superpixel and around it; its motion; how far it is from what is certain; the box, the
    clicks and the picture's border; whether there is anything to be seen at all; how unlike it is to what lies around it."""
    cues = [*_mask_cues(scene, found, view), *_color_cues(scene, found, view), *_motion_cues(scene, found, view)]
    cues += [*_distance_cues(scene, found, view), *_prompt_cues(scene, found, view), *_local_cues(scene, found, view)]
    return np.stack(cues).astype(np.float32)


def weigh(cues: Array) -> Array:
    """The log odds f32[h,w] that a pixel belongs, from its ``cues`` f32[k,h,w]."""
    numbers = read_numbers()
    values = cues.reshape(len(cues), -1)
    odds = np.empty(values.shape[1], np.float32)
    for start in range(0, len(odds), _AT_ONCE):
        layer = values[:, start : start + _AT_ONCE]
        for number in "12":
            layer = np.maximum(numbers[f"w{number}"] @ layer + numbers[f"b{number}"][:, None], 0)
        odds[start : start + _AT_ONCE] = (numbers["w3"] @ layer)[0] + numbers["b3"]
    return odds.reshape(cues.shape[1:])


_AT_ONCE = 4096
"""Pixels that are weighed at once, so that what is in between stays in the processor's cache."""


def refine(scene: Scene, found: Found, inside_px: Array, outside_px: Array) -> tuple[Array, float]:
    """The mask bool[h,w] that all cues together give, and a confidence 0..1; ``inside_px`` and ``outside_px`` bool[h,w] are
    obeyed."""
    view = window(found)
    cues = gather_cues(scene, found, view)
    odds = weigh(cues)
    mask = cut_anew(scene, view, odds, inside_px, outside_px)
    numbers = read_numbers()["certainty"]
    signs = certainty_signs(scene, found, mask, view, cues, odds)
    return mask, float(np.clip(1 / (1 + np.exp(-(signs @ numbers[:-1] + numbers[-1]))), 0.02, 0.98))


def cut_anew(scene: Scene, view: tuple[slice, slice], odds: Array, inside_px: Array, outside_px: Array) -> Array:
    """The mask bool[h,w] that obeys ``odds`` f32[h,w] in ``view`` and the picture's edges where the odds are undecided."""
    total = np.full(inside_px.shape, -2 * _SURE)
    total[view] = np.clip(odds, -2 * _SURE, 2 * _SURE)
    total[outside_px], total[inside_px] = -1e5, 1e5
    start = total > 0
    band = np.zeros_like(inside_px)
    band[view] = (np.abs(total) < _SURE)[view] | (grow(start, 2) & ~shrink(start, 2))[view]
    return tidy(cut_band(scene.picture, start, _STRENGTH * total, band), inside_px) & ~outside_px | inside_px


def certainty_signs(scene: Scene, found: Found, mask: Array, view: tuple[slice, slice], cues: Array, odds: Array) -> Array:
    """What tells good masks from bad ones, f64[6]: the overlap that the odds let expect, how far the guesses agreed, how much is
    undecided, how much was changed, how differently inside and outside are coloured and move."""
    inside, likely = mask[view], 1 / (1 + np.exp(-odds))
    area = float(inside.sum()) + 1.0
    expected = likely[inside].sum() / (area + likely[~inside].sum())
    votes = found.votes[scene.regions.labels[view]]
    agree = votes[inside].sum() / (area + votes[~inside].sum())
    undecided = min(float((np.abs(odds) < 1).sum()) / area, 1.0)
    kept = (mask & found.mask).sum() / ((mask | found.mask).sum() + 1.0)
    ring = (grow(mask, 6) & ~mask)[view]
    apart = cues[[_FAR_COLOR, _MOVES]]
    gap = apart[:, inside].mean(axis=1) - apart[:, ring].mean(axis=1) if inside.any() and ring.any() else np.zeros(2)
    return np.array([expected, agree, undecided, kept, *gap])


_FAR_COLOR, _MOVES = 10, 13
"""Where two of the cues stand."""


def _blur(values: Array, sigma: float) -> Array:
    import cv2

    blurred: Array = cv2.GaussianBlur(values.astype(np.float32), (0, 0), sigma)
    return blurred


def _depth(mask: Array) -> Array:
    """How deep every pixel lies in ``mask`` bool[h,w], f32[h,w]; what lies beyond the picture's border is outside."""
    import cv2

    depth: Array = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return depth


def _mask_cues(scene: Scene, found: Found, view: tuple[slice, slice]) -> list[Array]:
    inside, size = found.mask[view], found.size_px
    depth = _depth(inside) - _depth(~inside)
    votes = found.votes[scene.regions.labels[view]]
    near = [_blur(inside, 1.0), np.tanh(depth / 4), np.tanh(depth / (0.15 * size + 2)), _blur(inside, 0.12 * size + 1)]
    return [*near, votes, _blur(votes, 0.06 * size + 1)]


def _color_cues(scene: Scene, found: Found, view: tuple[slice, slice]) -> list[Array]:
    """Of the mask against its surroundings; of its core against what lies outside the box, or well away from the mask."""
    close = color_models(scene.picture, found.mask, _REACH_PX)
    core, beyond = _certain(found)
    plain = [scene.picture.lab[part] for part in (core, beyond & grow(~beyond, 30))]
    far = None if min(map(len, plain)) < 8 else (_fit(plain[0]), _fit(plain[1]))
    gains = [_gains(scene, models, view) for models in (close, far)]
    size = found.size_px
    around = [gains[0], _blur(gains[0], 2.0), _region_mean(scene, view, gains[0]), _blur(gains[0], 0.06 * size + 2)]
    return [*around, gains[1], _blur(gains[1], 2.0), _region_mean(scene, view, gains[1])]


def _certain(found: Found) -> tuple[Array, Array]:
    """The mask's core, and what lies outside the box or well away from the mask, bool[h,w] each."""
    size = found.size_px
    core = shrink(found.mask, max(1, round(0.06 * size)))
    beyond = ~grow(found.mask, max(2, round(0.12 * size))) if found.in_box is None else ~found.in_box
    return core if core.sum() > 30 else found.mask, beyond


def _fit(colors: Array) -> ColorModel:
    colors = colors[:: 1 + len(colors) // 3000]
    return fit_colors(colors, np.ones(len(colors)))


def _gains(scene: Scene, models: tuple[ColorModel, ColorModel] | None, view: tuple[slice, slice]) -> Array:
    lab = scene.picture.lab[view]
    if models is None:
        return np.zeros(lab.shape[:2], np.float32)
    return color_gain(models, lab.reshape(-1, 3)).reshape(lab.shape[:2]) / 5


def _region_mean(scene: Scene, view: tuple[slice, slice], values: Array) -> Array:
    """``values`` [h,w] averaged over the part of every superpixel in ``view``."""
    labels, count = scene.regions.labels[view].ravel(), len(scene.regions.area)
    number = np.bincount(labels, minlength=count)
    mean: Array = (np.bincount(labels, values.ravel(), count) / np.maximum(number, 1))[labels].reshape(values.shape)
    return mean


def _motion_cues(scene: Scene, found: Found, view: tuple[slice, slice]) -> list[Array]:
    moves = found.gain[view] / 3
    cues = [moves, _blur(moves, 2.0), _region_mean(scene, view, moves), _blur(moves, 0.06 * found.size_px + 2)]
    for values in (scene.refuted[view], scene.speed[view]):
        cues += [values, _blur(values, 3.0)]
    return cues


def _distance_cues(scene: Scene, found: Found, view: tuple[slice, slice]) -> list[Array]:
    """In steps of colour and motion, from what is surely outside and surely inside."""
    labels = scene.regions.labels[view]
    far = []
    for part in _certain(found)[::-1]:
        seeds = np.flatnonzero(scene.regions.mean(part.astype(float)) > 0.6)
        far.append(np.minimum(scene.distances(seeds), 100.0) if len(seeds) else np.full(len(scene.regions.area), 50.0))
    outside, inside = far
    return [(outside / (outside + inside + 1e-3))[labels], np.minimum(outside, 30)[labels] / 30]


def _prompt_cues(scene: Scene, found: Found, view: tuple[slice, slice]) -> list[Array]:
    height, width = found.mask.shape
    y, x = np.mgrid[:height, :width][(slice(None), *view)].astype(np.float32)
    size = found.size_px
    boxed = found.in_box is not None
    cues = [np.minimum(_depth(found.in_box)[view] / (0.3 * size), 1) if found.in_box is not None else np.ones_like(x)]
    cues.append(np.full_like(x, boxed))
    for wanted in (True, False):
        near = np.zeros_like(x)
        for at_x, at_y, is_foreground in found.clicks:
            if is_foreground is wanted:
                near = np.maximum(near, np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * (0.15 * size + 2) ** 2)))
        cues.append(near)
    border = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    lab = scene.picture.lab[view]
    detail = np.abs(lab - _blur(lab, 2.0)).sum(axis=-1)
    return [*cues, np.minimum(border / 10, 1), np.minimum(_blur(detail, 2.0) / 10, 2)]


def _local_cues(scene: Scene, found: Found, view: tuple[slice, slice]) -> list[Array]:
    """How many usual deviations a pixel's colour is away from what surely lies outside near it, and from what surely lies
    inside near it; thin things differ from the one, however little they fill the superpixels."""
    lab = scene.picture.lab[view]
    cues = []
    for part in _certain(found)[::-1]:
        off = _unlike_nearby(lab, part[view], 0.2 * found.size_px + 4)
        cues += [off, _blur(off, 1.5)]
    return cues


_LEAST_SPREAD = 10.0
"""Squared colour deviation that says nothing even where all is smooth."""


def _unlike_nearby(lab: Array, part: Array, reach_px: float) -> Array:
    """f32[h,w], 0..1: how unlike the colours of ``part`` bool[h,w] within about ``reach_px`` the colours ``lab`` f32[h,w,3] are."""
    import cv2

    height, width = part.shape
    if not part.any():
        return np.zeros(part.shape, np.float32)
    small = max(2, width // 4), max(2, height // 4)

    def nearby(values: Array) -> Array:
        """The mean of ``values`` [h,w,k] over the part around every pixel; far away from it, over all of it."""
        weighed = np.dstack([values * part[..., None], part]).astype(np.float32)
        kept = cv2.GaussianBlur(cv2.resize(weighed, small, interpolation=cv2.INTER_AREA), (0, 0), reach_px / 4)
        total = weighed.sum(axis=(0, 1))
        kept = kept + 1e-3 * total / total[-1]
        mean = cv2.resize(kept[..., :-1] / kept[..., -1:], (width, height), interpolation=cv2.INTER_LINEAR)
        return mean.reshape(height, width, -1)

    apart = ((lab - nearby(lab)) ** 2).sum(axis=-1)
    usual = nearby(apart[..., None])[..., 0]
    unlike: Array = np.minimum(np.sqrt(apart / (usual + _LEAST_SPREAD)), 6.0) / 6
    return unlike.astype(np.float32)
