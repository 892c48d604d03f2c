"""Which points of an object are followed: ours, and the choices that the paper's Table 6 compares it with."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..keypoints import suggest_points
from ..types import Array, Reference

PointChoice = Literal["spread", "grid", "random", "dense"]
"""``spread``: distinct points, thinned (non-maximum suppression). ``grid``: a regular grid over the object. ``random``: anywhere on
it. ``dense``: distinct ones as close together as they come (without suppression)."""

_DENSE_POOL = 64


def choose_points(reference: Reference, count: int, choice: PointChoice, rng: np.random.Generator) -> Array:
    """At most ``count`` points f64[N,2] on the object, in pixels of the reference."""
    height, width = reference.hw
    if choice == "spread":
        return suggest_points(reference, count) * [width, height]
    inside = np.argwhere(reference.alpha >= 0.9)[:, ::-1] + 0.5  # x, y
    if len(inside) == 0:
        return np.zeros((0, 2))
    if choice == "random":
        return inside[rng.choice(len(inside), size=min(count, len(inside)), replace=False)]
    if choice == "dense":
        found = suggest_points(reference, _DENSE_POOL) * [width, height]
        near = np.linalg.norm(found - found[0], axis=1)
        return found[np.argsort(near, kind="stable")[:count]]
    step = max(1.0, float(np.sqrt(len(inside) / count)))
    for _ in range(24):
        columns, rows = (np.arange(step / 2, length, step) for length in (width, height))
        nodes = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        solid = nodes[reference.alpha[nodes[:, 1].astype(int), nodes[:, 0].astype(int)] >= 0.9]
        if len(solid) >= count:
            return solid[np.linspace(0, len(solid) - 1, count).round().astype(int)]
        step *= 0.92
    return solid
