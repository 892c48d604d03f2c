"""Which of several sets of superpixels looks most like one whole thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...types import Array
from .cut import ColorModel, fit_colors
from .numbers import read_numbers
from .scene import Scene


@dataclass(frozen=True, eq=False, slots=True)
class Guess:
    """A set of superpixels, ``chosen`` bool[n], and ``votes`` f64[n], 0..1: how many of all sets that looked likely hold each."""

    chosen: Array
    votes: Array


def region_models(scene: Scene, chosen: Array) -> tuple[ColorModel, ColorModel] | None:
    """Colours of the chosen superpixels, and of the others, those nearby counting most."""
    regions = scene.regions
    if not chosen.any() or chosen.all():
        return None
    centre = np.average(regions.center[chosen], axis=0, weights=regions.area[chosen])
    reach = np.sqrt(regions.area[chosen].sum()) * 1.2 + 20
    off = np.hypot(*(regions.center - centre).T)
    weight = regions.area * (np.exp(-0.5 * (off / reach) ** 2) + 0.05)
    inside = fit_colors(regions.color[chosen], regions.area[chosen], 5)
    return inside, fit_colors(regions.color[~chosen], weight[~chosen], 8)


def features(scene: Scene, moves: Array, chosen: Array) -> Array:
    """What tells a thing from a piece of a thing or from a heap of things, f64[20]; ``moves`` f64[n] speaks for or against
    every superpixel as far as its motion goes."""
    regions = scene.regions
    first, second, area = regions.first, regions.second, regions.area
    cut, inner = chosen[first] != chosen[second], chosen[first] & chosen[second]
    ring, rim = np.zeros(len(chosen), bool), np.zeros(len(chosen), bool)
    touched = np.concatenate([first[cut], second[cut]])
    ring[touched[~chosen[touched]]] = True
    rim[touched[chosen[touched]]] = True
    outer = ~chosen[first] & ~chosen[second] & (ring[first] | ring[second])
    height = np.sqrt(regions.step)
    usual = float(np.average(height, weights=regions.length)) + 0.5
    weakest = _quantiles(height[cut], regions.length[cut], (0.1, 0.25, 0.5)) / usual
    typical = float(np.average(regions.step, weights=regions.length)) + 1.0
    edge = _mean(1 - np.exp(-regions.step / (2 * typical)), regions.length, cut)
    motion_edge = _mean(np.minimum(scene.motion_step, 2), regions.length, cut)
    heights = [_mean(height, regions.length, part) / usual for part in (cut, inner, outer)]
    steps = np.minimum([*heights, *weakest], _PLAIN)
    size, total, length = area[chosen].sum(), area.sum(), regions.length[cut].sum() + 1e-6
    log_area = np.log(size / total)
    border = regions.border[chosen].sum() / (regions.border[chosen].sum() + length)
    moving = moves > 0.5
    both = area[chosen & moving].sum()
    filled, whole = both / size, both / (area[moving].sum() + 0.002 * total)
    around = _mean(moves, area, ring)
    motion = [filled, whole, _mean(moves, area, rim) - around, around, filled * whole]
    apart = _apart(scene, chosen, ring)
    shape = [border, log_area, log_area**2, length / np.sqrt(size)]
    return np.array([edge, motion_edge, _mean(moves, area, chosen), around, apart, *shape, *steps, *motion])


_PLAIN = 2.5
"""Times the usual step between neighbours: one that is as plain as any."""


def _mean(values: Array, weights: Array, part: Array) -> float:
    return float(np.average(values[part], weights=weights[part])) if part.any() else 0.0


def _quantiles(values: Array, weights: Array, shares: tuple[float, ...]) -> Array:
    if not len(values):
        return np.zeros(len(shares))
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return values[order][np.minimum(np.searchsorted(reached, shares), len(values) - 1)]


def _apart(scene: Scene, chosen: Array, ring: Array) -> float:
    """How differently the inside and what lies around it are coloured."""
    models = region_models(scene, chosen)
    if models is None or not ring.any():
        return 0.0
    regions = scene.regions
    gain = np.clip(models[1].cost(regions.color) - models[0].cost(regions.color), -4, 4)
    return _mean(gain, regions.area, chosen) - _mean(gain, regions.area, ring)


def box_features(inside: Array) -> Array:
    """f64[7] of the part ``inside`` bool[h,w] of a box: a person draws it tightly, so that a thing touches all four sides, and few
    of them along all their length."""
    sides = []
    gaps = []
    for lines in (inside, inside[::-1], inside.T, inside.T[::-1]):
        depth = int(np.argmax(lines.any(axis=1))) if inside.any() else len(lines)
        gaps.append(depth / len(lines))
        sides.append(float(lines[: max(2, len(lines) // 50)].any(axis=0).mean()))
    fill = min((1 - gaps[0] - gaps[1]) * (1 - gaps[2] - gaps[3]), 0.95)
    share, pressed = float(inside.mean()), float(np.mean(sides))
    return np.array([fill, fill**2, share, share**2, pressed, pressed**2, max(gaps)])


def box_reach(inside: Array) -> float:
    """How much of its box the part ``inside`` bool[h,w] of it spans, 0..1, across or upright, whichever is less."""
    spans = [np.flatnonzero(inside.any(axis=axis)) for axis in (0, 1)]
    return min(float(np.ptp(span) + 1) / inside.shape[1 - axis] if len(span) else 0.0 for axis, span in enumerate(spans))


def change_features(area: float, depth_px: float) -> Array:
    """f64[2] of the ``area`` that a correction changes, ``depth_px`` from the outline: it should be what a click in the middle of
    all that is wrong means."""
    usual = depth_px**2
    return np.array([np.log(max(area / (6 * usual + 60), 1)), np.log(max(2 * usual / (area + 1), 1))])


_EXTRA = {"click": 0, "box": 7, "correction": 2}
SOFTNESS = 20.0


def best_guess(scene: Scene, moves: Array, found: list[Array], kind: str, extra: Array | None = None) -> Guess:
    """The most likely one of ``found``, bool[n] each, after a prompt of ``kind``; ``extra`` f64[len(found),k] are what a box or a
    correction adds to their ``features``."""
    first = {chosen.tobytes(): number for number, chosen in reversed(list(enumerate(found)))}
    kept = sorted(first.values())
    seen = np.array([features(scene, moves, found[number]) for number in kept])
    if extra is not None:
        seen = np.hstack([seen, extra[kept]])
    score = seen @ read_numbers()[kind]
    likely = np.exp(SOFTNESS * (score - score.max()))
    votes = likely @ np.array([found[number] for number in kept]) / likely.sum()
    return Guess(found[kept[int(np.argmax(score))]], votes)
