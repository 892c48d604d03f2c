"""From clicks and a box to a mask: several extents are tried, the one that looks most like a thing is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...types import Array, Prompt
from .cut import min_cut
from .motion import motion_gain, moving_part
from .outline import color_gain, color_models, cut_band, grow, shrink, tidy
from .scene import Scene
from .score import Guess, best_guess, box_features, box_reach, change_features, region_models
from .weigh import Found, PixelClick, refine

EXTENTS = (0.003, 0.008, 0.02, 0.045, 0.09, 0.16, 0.28)
"""Shares of the picture that a thing may have, as starting points."""

_ROUNDS = 3
_MAX_COLOR_GAIN = 5.0
_MOTION = 1.6
_SHAPE = 0.9
_CERTAIN = 1e5
_PULL = 5.0
_MOST_CORRECTED = 40.0
"""A correcting click lies about in the middle of what is wrong: the largest area that it changes, in squares of its distance from
the outline."""

_FREE = 2.0
"""Times the area that a correction is tried with: what lies beyond stays as it was."""

_REACH = 0.5
"""Of a box, which is drawn around a whole thing: the share of its width and of its height that the thing has at least."""

_BANDS_PX = (12, 5)
_PIXEL_MOTION = 0.6


@dataclass(frozen=True, eq=False, slots=True)
class Marks:
    """What a person fixed, at working size: superpixels that belong (``inside`` i[k]) or do not (``outside`` bool[n]), the same
    as pixels, ``inside_px`` and ``outside_px`` bool[h,w]."""

    inside: Array
    outside: Array
    inside_px: Array
    outside_px: Array


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """What a box and ``clicks`` (pixels x and y, whether they belong) mean: ``mask`` bool[h,w], and how sure that is, 0..1.

    ``guess``, ``gain`` f32[h,w] (what motion says) and ``pull`` f32[h,w] (what the corrections say) are where a correction starts.
    """

    mask: Array
    confidence: float
    guess: Guess
    gain: Array
    pull: Array
    clicks: tuple[PixelClick, ...]


def order_clicks(prompt: Prompt, hw: tuple[int, int]) -> list[PixelClick]:
    """The clicks of ``prompt`` (in pixels of the working picture) in the order in which they are obeyed: without a box, the first
    one that belongs is what all others correct."""
    clicks = [(min(max(int(c.x_px), 0), hw[1] - 1), min(max(int(c.y_px), 0), hw[0] - 1), c.is_foreground) for c in prompt.clicks]
    first = next((click for click in clicks if click[2]), None) if prompt.box_px is None else None
    return clicks if first is None else [first, *(click for click in clicks if click is not first)]


def answer_first(scene: Scene, prompt: Prompt) -> Answer:
    """What the box of ``prompt`` means, or without one its first click."""
    hw = scene.picture.hw
    outside_box = _outside_box(prompt, hw)
    clicks = [click for click in order_clicks(prompt, hw)[:1] if click[2] and prompt.box_px is None]
    marks = _marks(scene, clicks, outside_box)
    gain = motion_gain(scene.flows, _motion_seed(scene, clicks, outside_box))
    guess = _from_click(scene, marks, gain) if prompt.box_px is None else _from_box(scene, marks, gain, outside_box)
    return _finish(scene, prompt, marks, gain, np.zeros(hw, np.float32), guess, clicks)


def answer_next(scene: Scene, prompt: Prompt, before: Answer, click: PixelClick) -> Answer:
    """The answer ``before`` with one more ``click``."""
    clicks = [*before.clicks, click]
    pull = before.pull + _pull(before.mask, click)
    marks = _marks(scene, clicks, _outside_box(prompt, scene.picture.hw))
    guess = _corrected(scene, marks, before, click)
    return _finish(scene, prompt, marks, before.gain, pull, guess, clicks)


def _finish(scene: Scene, prompt: Prompt, marks: Marks, gain: Array, pull: Array, guess: Guess, clicks: list[PixelClick]) -> Answer:
    """The pixels of ``guess``, its motion learnt anew from all of it, all cues weighed once more."""
    rough = shrink(guess.chosen[scene.regions.labels], 2)
    if scene.flows and rough.sum() > 200:
        gain = motion_gain(scene.flows, rough)
    mask = _to_pixels(scene, marks, gain, pull, guess.chosen)
    in_box = None if prompt.box_px is None else ~_outside_box(prompt, mask.shape)
    found = Found(mask, guess.votes, gain, in_box, clicks)
    mask, confidence = refine(scene, found, marks.inside_px, marks.outside_px)
    if in_box is not None:
        ways = mask, found.mask, guess.chosen[scene.regions.labels] & in_box
        mask = next((way for way in ways if box_reach(_within(way, in_box)) >= _REACH), mask)
    guess = replace(guess, chosen=scene.regions.mean(mask.astype(float)) > 0.5)
    return Answer(mask, confidence, guess, gain, pull, tuple(clicks))


def _within(mask: Array, in_box: Array) -> Array:
    """The part of ``mask`` bool[h,w] in the box ``in_box`` bool[h,w], at the size of the box."""
    return mask[np.ix_(in_box.any(axis=1), in_box.any(axis=0))]


def _outside_box(prompt: Prompt, hw: tuple[int, int]) -> Array:
    """What cannot belong, because it lies outside the prompt's box, bool[h,w]."""
    outside = np.zeros(hw, bool)
    if prompt.box_px is not None:
        outside[:] = True
        outside[_box_slices(prompt.box_px, hw)] = False
    return outside


def _pull(mask: Array, click: PixelClick) -> Array:
    """What ``click`` adds to the gain of the pixels around it, f32[h,w]: as far as what is wrong seems to reach."""
    import cv2

    x, y, is_foreground = click
    wrong = np.pad(mask != is_foreground, 1).astype(np.uint8)
    depth = float(cv2.distanceTransform(wrong, cv2.DIST_L2, 3)[y + 1, x + 1])
    if depth == 0:
        return np.zeros(mask.shape, np.float32)
    if is_foreground:  # what is missing may be thin, and its distance to the mask says little
        depth = min(depth, 2.5)
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]]
    field = _PULL * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * (1.3 * depth + 1) ** 2))
    return (field if is_foreground else -field).astype(np.float32)


def _box_slices(box: tuple[float, float, float, float], hw: tuple[int, int]) -> tuple[slice, slice]:
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(hw[1], int(np.ceil(box[2]))), min(hw[0], int(np.ceil(box[3])))
    return slice(min(y0, hw[0] - 1), max(y1, y0 + 1)), slice(min(x0, hw[1] - 1), max(x1, x0 + 1))


def _marks(scene: Scene, clicks: Iterable[PixelClick], outside_box: Array) -> Marks:
    labels = scene.regions.labels
    inside_px, outside_px = np.zeros_like(outside_box), outside_box.copy()
    for x, y, is_foreground in clicks:
        (inside_px if is_foreground else outside_px)[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
    inside = np.unique([labels[y, x] for x, y, is_foreground in clicks if is_foreground]).astype(int)
    outside = scene.regions.mean(outside_box.astype(float)) > 0.5
    for x, y, is_foreground in clicks:
        outside[labels[y, x]] = not is_foreground
    inside = inside[~outside[inside]]
    return Marks(inside, outside, inside_px, outside_px & ~inside_px)


def _motion_seed(scene: Scene, clicks: list[PixelClick], outside_box: Array) -> Array:
    """The pixels from which a thing's own motion is learnt."""
    seed = np.zeros(scene.picture.hw, bool)
    for x, y, _ in clicks:
        seed[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = True
    return seed if clicks else moving_part(scene.flows, ~outside_box)


def _from_click(scene: Scene, marks: Marks, gain: Array) -> Guess:
    regions = scene.regions
    moves = regions.mean(gain)
    found = _around_clicks(scene, marks, moves, EXTENTS)
    moving = moves > 0.5
    moving[marks.inside] = True
    moving = scene.connected(moving, marks.inside)
    if regions.area[moving].sum() > 0.002 * regions.area.sum():
        found.append(_settle(scene, marks, moves, moving))
    if len(marks.inside):
        found += [_settle(scene, marks, moves, start, rounds=1) for start in scene.tree.around(int(marks.inside[0]))]
    return best_guess(scene, moves, found, "click")


def _around_clicks(scene: Scene, marks: Marks, moves: Array, extents: Sequence[float]) -> list[Array]:
    """Sets of superpixels bool[n] around the clicks that belong, from starts as large as ``extents``."""
    regions = scene.regions
    far = scene.distances(marks.inside)
    order = np.argsort(far, kind="stable")
    share = np.cumsum(regions.area[order]) / regions.area.sum()
    found = []
    for extent in extents:
        start = np.zeros(len(far), bool)
        start[order[: max(1, int(np.searchsorted(share, extent)) + 1)]] = True
        found.append(_settle(scene, marks, moves, start))
    return found


def _from_box(scene: Scene, marks: Marks, gain: Array, outside_box: Array) -> Guess:
    regions = scene.regions
    moves = regions.mean(gain)
    ys, xs = np.flatnonzero(~outside_box.all(axis=1)), np.flatnonzero(~outside_box.all(axis=0))
    centre, half = np.array([xs.mean() + 0.5, ys.mean() + 0.5]), np.array([len(xs), len(ys)]) / 2
    off = np.abs(regions.center - centre) / half
    round_ = np.hypot(off[:, 0], off[:, 1])
    allowed = ~marks.outside
    starts = [allowed & (round_ < 0.6), allowed & (round_ < 1.0), allowed & (moves > 0.5)]
    seeds = _central(round_, allowed)
    if len(seeds):
        order = np.argsort(np.where(allowed, scene.distances(seeds), np.inf), kind="stable")
        share = np.cumsum(regions.area[order]) / regions.area[allowed].sum()
        start = np.zeros(len(order), bool)
        start[order[share < 0.35]] = True
        starts.append(start)
    starts = [start for start in starts if start.any()]
    still = np.zeros_like(moves)  # what moves may lie
    found = [_settle(scene, marks, told, start) for told in (moves, still) for start in starts]
    found += [_settle(scene, marks, moves, start, rounds=1) for start in scene.tree.apart_from(marks.outside)]
    view = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
    guesses = [chosen for chosen in found if box_reach(chosen[regions.labels[view]]) >= _REACH]
    if not guesses:
        inner = allowed & (round_ < 1.0)
        chosen = inner if inner.any() else allowed
        return Guess(chosen, chosen.astype(float))
    fits = np.array([box_features(chosen[regions.labels[view]]) for chosen in guesses])
    return best_guess(scene, moves, guesses, "box", fits)


def _central(off: Array, allowed: Array) -> Array:
    """The superpixels i[k] in the middle of the box; ``off`` f64[n] is how far from it they lie, 1 being the box's sides."""
    return np.flatnonzero(allowed & (off <= max(0.12, float(off.min()))))


def _corrected(scene: Scene, marks: Marks, before: Answer, click: PixelClick) -> Guess:
    """The guess of ``before`` with the part around ``click`` added or taken away, or another guess that obeys all clicks."""
    import cv2

    x, y, is_foreground = click
    guess, regions = before.guess, scene.regions
    here = int(regions.labels[y, x])
    if guess.chosen[here] == is_foreground:
        return guess
    moves = regions.mean(before.gain)
    wrong = guess.chosen != is_foreground
    far = scene.distances(np.array([here]), wrong)
    order = np.argsort(far, kind="stable")
    order = order[np.isfinite(far[order])]
    size = np.cumsum(regions.area[order])
    depth = float(cv2.distanceTransform(np.pad(wrong[regions.labels], 1).astype(np.uint8), cv2.DIST_L2, 3)[y + 1, x + 1])
    most = min(float(size[-1]), max(_MOST_CORRECTED * depth**2, 400.0))
    found = []
    for step in np.geomspace(min(60.0, most), most, 6):
        start = guess.chosen.copy()
        start[order[: max(1, int(np.searchsorted(size, step)))]] = is_foreground
        start[here] = is_foreground
        if start.any():
            settled = _settle(scene, marks, moves, start, rounds=2, shape=2.0)
            free = np.zeros(len(start), bool)
            free[order[: max(1, int(np.searchsorted(size, _FREE * step)))]] = True
            found.append(np.where(free, settled, guess.chosen))
    if not is_foreground and len(marks.inside):
        found += [chosen for chosen in _around_clicks(scene, marks, moves, EXTENTS[:5]) if chosen.any()]
    if not found:
        return guess
    changed = np.array([regions.area[chosen != guess.chosen].sum() for chosen in found])
    fits = np.array([change_features(float(area), depth) for area in changed])
    return best_guess(scene, moves, found, "correction", fits)


def _settle(scene: Scene, marks: Marks, moves: Array, start: Array, rounds: int = _ROUNDS, shape: float = _SHAPE) -> Array:
    """Cut and learn colours in turns, from ``start`` bool[n]."""
    regions = scene.regions
    chosen = start & ~marks.outside
    chosen[marks.inside] = True
    held = np.where(chosen, shape, -shape)
    for _ in range(rounds):
        models = region_models(scene, chosen)
        if models is None:
            break
        per_pixel = np.clip(models[1].cost(regions.color) - models[0].cost(regions.color), -_MAX_COLOR_GAIN, _MAX_COLOR_GAIN)
        gain = regions.area * (0.5 * per_pixel + _MOTION * moves + held)
        gain[marks.outside] = -_CERTAIN
        gain[marks.inside] = _CERTAIN
        new = min_cut(gain, regions.first, regions.second, scene.bond)
        if len(marks.inside):
            new = scene.connected(new, marks.inside)
        if not new.any() or (new == chosen).all():
            break
        chosen = new
    return chosen


def _to_pixels(scene: Scene, marks: Marks, gain: Array, local: Array, chosen: Array) -> Array:
    """The pixels of the chosen superpixels, their outline cut anew pixel by pixel."""
    mask = chosen[scene.regions.labels] & ~marks.outside_px | marks.inside_px
    for width in _BANDS_PX:
        models = color_models(scene.picture, mask, 40)
        if models is None:
            return mask
        band = grow(mask, width) & ~shrink(mask, width) | (np.abs(local) > 0.5)
        total = local.astype(float)
        total[band] += 0.5 * color_gain(models, scene.picture.lab[band]) + _PIXEL_MOTION * gain[band]
        total[marks.outside_px], total[marks.inside_px] = -_CERTAIN, _CERTAIN
        mask = tidy(cut_band(scene.picture, mask, total, band), marks.inside_px) & ~marks.outside_px
    return mask | marks.inside_px
