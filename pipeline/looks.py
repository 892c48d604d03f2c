"""Features known by their looks: found again anywhere in a picture, without a guess where (SIFT; Lowe 2004).

Convention: points are f64[N,2] in continuous coordinates of their picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .types import Array

MAX_FEATURES = 800

_RATIO = 0.8
"""A match counts if it is nearer than this share of the distance to the second best (Lowe's test), and the best both ways."""


@dataclass(frozen=True, eq=False, slots=True)
class Looks:
    """Features at ``points`` f64[N,2] and how they look, ``descriptors`` f32[N,128]."""

    points: Array
    descriptors: Array


def describe_looks(gray: Array, mask: Array | None = None) -> Looks:
    """The features of a picture u8[H,W]; only where ``mask`` bool[H,W] is true."""
    import cv2

    allowed = None if mask is None else mask.astype(np.uint8)
    found, descriptors = cv2.SIFT.create(nfeatures=MAX_FEATURES, contrastThreshold=0.02).detectAndCompute(gray, allowed)
    if descriptors is None:
        return Looks(np.zeros((0, 2)), np.zeros((0, 128), np.float32))
    return Looks(np.array([each.pt for each in found], np.float64) + 0.5, descriptors)


def match_looks(one: Looks, other: Looks) -> tuple[Array, Array]:
    """Points f64[N,2] of ``one`` and those of ``other``, f64[N,2], that look like them and like nothing else."""
    if min(len(one.points), len(other.points)) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    # the squared distance of unit vectors; SIFT's have all about the same length
    a, b = (each.descriptors / np.maximum(np.linalg.norm(each.descriptors, axis=1, keepdims=True), 1e-6) for each in (one, other))
    squared = np.maximum(2 - 2 * (a @ b.T), 0)
    best = squared.argmin(axis=1)
    two = np.partition(squared, 1, axis=1)[:, :2]
    is_clear = two[:, 0] < _RATIO**2 * two[:, 1]
    is_mutual = squared.argmin(axis=0)[best] == np.arange(len(best))
    is_match = is_clear & is_mutual
    return one.points[is_match], other.points[best[is_match]]
