"""Which of several sets of superpixels looks most like one whole thing, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...types import Array
from .cut import ColorModel, fit_colors
from .scene import Scene


@dataclass(frozen=True, eq=False, slots=True)
class Guess:
    """A set of superpixels, bool[n], and how much it looks like a thing, 0..1; below 0.5 it is more likely wrong than others."""

    chosen: Array
    score: float


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


def box_features(fill: float, share: float) -> Array:
    """f64[4] of ``fill``, how much of the box's width and height the thing has, and ``share``, how much of its area."""
    fill = min(fill, 0.95)
    return np.array([fill, fill**2, share, share**2])


# Fitted to composites of photographed things over real footage: the choice by the softmax of the score, whose expected overlap is
# made large, the overlap that is to be expected by ridge regression. In the order of ``features``, then ``box_features``:
# choice and overlap after a click, choice and overlap after a box.
_WEIGHTS = {
    "edge": (0.23, -0.125, 0.241, -0.022),
    "motion_edge": (0.18, 0.049, 0.123, 0.023),
    "moves": (0.049, 0.013, 0.042, 0.008),
    "moves_around": (-0.024, -0.007, 0.023, 0.004),
    "apart": (0.041, 0.044, 0.048, 0.041),
    "border": (-0.772, -0.355, -0.071, 0.017),
    "log_area": (-0.044, 0.059, 0.002, 0.054),
    "log_area_2": (-0.017, -0.005, -0.008, -0.002),
    "compact": (0.005, 0.001, -0.01, -0.002),
    "height": (0.017, -0.011, 0.03, -0.002),
    "height_inner": (0.018, 0.005, -0.031, -0.006),
    "height_outer": (-0.055, -0.015, -0.016, -0.003),
    "weakest_10": (0.064, 0.023, 0.088, 0.016),
    "weakest_25": (0.052, 0.031, 0.06, 0.017),
    "weakest_50": (0.036, 0.01, 0.042, 0.008),
    "moving_share": (-0.027, -0.007, 0.006, 0.001),
    "moving_found": (-0.09, -0.025, 0.008, 0.002),
    "moving_rim": (0.114, 0.031, 0.089, 0.017),
    "moving_ring": (-0.024, -0.007, 0.023, 0.004),
    "moving_both": (0.044, 0.012, 0.044, 0.008),
    "box_fill": (0.0, 0.0, 0.279, 0.053),
    "box_fill_2": (0.0, 0.0, 0.018, 0.003),
    "box_share": (0.0, 0.0, -0.072, -0.014),
    "box_share_2": (0.0, 0.0, -0.114, -0.022),
    "agrees": (0.0, 0.267, 0.0, 0.199),
    "bias": (0.0, 0.441, 0.0, 0.454),
}
_SOFTNESS = 20.0
_DOUBTFUL = 0.71
"""An expected overlap below which masks are often wrong."""


def best_guess(scene: Scene, moves: Array, found: list[Array], in_box: Array | None = None, bonus: Array | None = None) -> Guess:
    """The most likely one of ``found``, bool[n] each; ``in_box`` f64[len(found),4] are their ``box_features`` if a box was drawn,
    ``bonus`` f64[len(found)] is what else speaks for them.

    How sure it is goes by its own look, and by how far whatever else looked likely agrees with it.
    """
    first = {chosen.tobytes(): number for number, chosen in reversed(list(enumerate(found)))}
    kept = sorted(first.values())
    seen = np.array([features(scene, moves, found[number]) for number in kept])
    seen = np.hstack([seen, np.zeros((len(kept), 4)) if in_box is None else in_box[kept]])
    table = np.array(list(_WEIGHTS.values()))
    choice, expected = table[:, :2].T if in_box is None else table[:, 2:].T
    score = seen @ choice[:-2]
    if bonus is not None:
        score = score + bonus[kept]
    best = int(np.argmax(score))
    chosen, area = found[kept[best]], scene.regions.area
    alike = np.array([area[chosen & found[k]].sum() / max(area[chosen | found[k]].sum(), 1) for k in kept])
    likely = np.exp(_SOFTNESS * (score - score[best]))
    overlap = float(seen[best] @ expected[:-2] + expected[-2] * (likely @ alike / likely.sum()) + expected[-1])
    return Guess(chosen, float(np.clip(0.5 + 2 * (overlap - _DOUBTFUL), 0.05, 0.98)))
