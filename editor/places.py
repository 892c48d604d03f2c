"""Where the points of a picture lie that paths move: paths can be drawn before there is a picture to hold on to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.keypoints import suggest_points

if TYPE_CHECKING:
    from pipeline.types import Array, Reference

    from .session import Point

SOLID = 0.5
"""Alpha from which a point lies on the object."""


def place_points(reference: Reference, layer: Mapping[str, Any]) -> dict[str, Point]:
    """A point of ``reference`` (0..1 of its picture) for every trajectory of a layer in a document, by name.

    A point of the picture before stays where it was if that lies on the object now. A single new one lies in the middle; several
    are spread over the object, and those whose paths begin on the left, or above, lie there on the picture too.
    """
    trajectories = {each["point"]: each["keys"] for each in layer.get("trajectories", [])}
    before = (layer.get("references") or [{}])[0].get("points", {})
    kept = {name: (x, y) for name, (x, y) in before.items() if name in trajectories and _is_on(reference, (x, y))}
    new = [name for name in trajectories if name not in kept]
    if len(new) == 1 and not kept:
        return {new[0]: _middle(reference)}
    if not new:
        return kept
    places = suggest_points(reference, len(new), np.array(list(kept.values()), np.float64).reshape(-1, 2))
    starts = np.array([trajectories[name][min(trajectories[name], key=int)] for name in new], np.float64)
    return {**kept, **_matched(new, starts, places)}


def _matched(names: Sequence[str], starts: Array, places: Array) -> dict[str, Point]:
    """Give each name the place that lies among the places as its start lies among the starts; what is short stays without one."""
    from scipy.optimize import linear_sum_assignment

    apart = _spread(starts)[:, None] - _spread(places)[None]
    rows, columns = linear_sum_assignment((apart**2).sum(axis=-1))
    return {names[row]: (float(places[column][0]), float(places[column][1])) for row, column in zip(rows, columns, strict=True)}


def _spread(points: Array) -> Array:
    """Points f64[N,2] moved and scaled to lie around 0 with a spread of 1, their shape kept."""
    centred = points - points.mean(axis=0)
    return centred / max(float(np.abs(centred).max()), 1e-9)


def _middle(reference: Reference) -> Point:
    x0, y0, x1, y1 = reference.tight_box_px()
    return (x0 + x1) / 2 / reference.hw[1], (y0 + y1) / 2 / reference.hw[0]


def _is_on(reference: Reference, point: Point) -> bool:
    height, width = reference.hw
    row, column = min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1)
    return bool(reference.alpha[row, column] >= SOLID)
