"""Key-points that are worth following on a picture of a thing: distinct, inside its outline, spread over it.

Corners in the sense of Shi and Tomasi (1994): the smaller eigenvalue of the gradient's structure tensor. They are thinned by
distance, strongest first, with a radius that shrinks until enough remain (the idea of adaptive non-maximal suppression, Brown,
Szeliski and Winder 2005); what plain surfaces cannot offer is filled up by farthest-point sampling, so that the points always span
the object.
"""

from __future__ import annotations

import numpy as np

from .errors import UserError
from .types import Array, Reference

MAX_POINTS = 64
WORK_SIDE_PX = 256
"""Longer side of the copy on which points are looked for."""

_INSET = 0.03
_SPREAD = 0.75


def suggest_points(reference: Reference, count: int = 4, taken: Array | None = None) -> Array:
    """``count`` points f64[N,2] on the object, 0..1 of the picture, the strongest first; N is smaller only on a tiny object.

    They lie inside the outline and apart from each other and from ``taken`` f64[M,2] (points that are there already). The same
    reference gives the same points. Raises ``UserError`` for a count outside 1..64.
    """
    if not 1 <= count <= MAX_POINTS:
        raise UserError(f"Between 1 and {MAX_POINTS} points can be suggested, not {count}.")
    gray, inside = _small_copy(reference)
    rows, columns = np.nonzero(inside)
    places = np.stack([columns + 0.5, rows + 0.5], axis=1)
    strength = _corner_strength(gray)[rows, columns]
    size = np.array([gray.shape[1], gray.shape[0]], np.float64)
    fixed = np.zeros((0, 2)) if taken is None else np.asarray(taken, np.float64).reshape(-1, 2) * size
    apart = _SPREAD * np.sqrt(len(places) / (count + len(fixed)))
    distinct = _thin(places, strength, fixed, count, apart)
    return _fill(places, distinct, fixed, count, 0.5 * apart) / size


def _small_copy(reference: Reference) -> tuple[Array, Array]:
    """Luminance f32[h,w] of a small copy over mid-grey, and where the object is, away from its outline; bool[h,w]."""
    import cv2

    scale = min(1.0, WORK_SIDE_PX / max(reference.hw))
    size = max(1, round(reference.hw[1] * scale)), max(1, round(reference.hw[0] * scale))
    rgb = cv2.resize(reference.image, size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(reference.alpha, size, interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gray = gray * alpha + 128 * (1 - alpha)
    solid = (alpha >= 0.5).astype(np.uint8)
    for inset in (round(_INSET * max(size)), 1, 0):
        padded = cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1] > inset
        if inside.any():
            return gray, inside
    return gray, np.ones(gray.shape, np.bool_)


def _corner_strength(gray: Array) -> Array:
    import cv2

    return cv2.cornerMinEigenVal(cv2.GaussianBlur(gray, (0, 0), 1.5), blockSize=7, ksize=3)


def _thin(places: Array, strength: Array, fixed: Array, count: int, apart: float) -> list[Array]:
    """The strongest places that lie at least ``apart`` from each other; only those that stand out from the rest."""
    floor = max(0.05 * float(strength.max()), 1e-6)
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] >= floor]
    chosen: list[Array] = []
    for index in order:
        if len(chosen) == count:
            break
        if _distance(places[index], chosen, fixed) >= apart:
            chosen.append(places[index])
    return chosen


def _distance(place: Array, chosen: list[Array], fixed: Array) -> float:
    others = np.concatenate([fixed, np.array(chosen).reshape(-1, 2)])
    return float(np.linalg.norm(others - place, axis=1).min()) if len(others) else np.inf


def _fill(places: Array, chosen: list[Array], fixed: Array, count: int, apart: float) -> Array:
    """Add the place that lies farthest from all others until there are ``count`` or the rest lies closer than ``apart``."""
    if not chosen and not len(fixed) and len(places):
        middle = places.mean(axis=0)
        chosen = [places[np.linalg.norm(places - middle, axis=1).argmin()]]
    while len(chosen) < count:
        others = np.concatenate([fixed, np.array(chosen).reshape(-1, 2)])
        nearest = np.min([np.linalg.norm(places - other, axis=1) for other in others], axis=0)
        best = int(nearest.argmax())
        if nearest[best] < max(apart, 1.0):
            break
        chosen = [*chosen, places[best]]
    return np.array(chosen).reshape(-1, 2)
