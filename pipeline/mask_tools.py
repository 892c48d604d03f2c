"""What a hand does to a mask: painting, rubbing out, filling holes, removing specks.

Masks are bool[H,W]; nothing that is given is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .types import Array

_SUBPIXEL_BITS = 4


def paint_stroke(mask: Array, points_px: Array | Sequence[Sequence[float]], radius_px: float, is_eraser: bool = False) -> Array:
    """``mask`` with a round brush of ``radius_px`` drawn along ``points_px``: f64[N,2], x and y in pixels of the picture, which may
    lie outside of it."""
    import cv2

    stroke = np.zeros(mask.shape, np.uint8)
    scale = 1 << _SUBPIXEL_BITS
    # A pixel's centre lies at + 0.5; OpenCV counts from the centres.
    places = np.round((np.asarray(points_px, np.float64).reshape(-1, 2) - 0.5) * scale).astype(np.int32)
    width = max(1, round(2 * radius_px))
    if len(places) > 1:
        cv2.polylines(stroke, [places.reshape(-1, 1, 2)], False, 1, width, cv2.LINE_8, _SUBPIXEL_BITS)
    for x, y in {tuple(place) for place in places[[0, -1]].tolist()}:
        cv2.circle(stroke, (x, y), round(radius_px * scale), 1, -1, cv2.LINE_8, _SUBPIXEL_BITS)
    painted: Array = mask & (stroke == 0) if is_eraser else mask | (stroke > 0)
    return painted


def fill_holes(mask: Array) -> Array:
    """``mask`` with everything filled that it encloses: background that no way (up, down, left, right) leads from to the edge."""
    import cv2

    room = np.pad((~mask).astype(np.uint8), 1, constant_values=1)
    _, labels = cv2.connectedComponents(room, connectivity=4)
    filled: Array = labels[1:-1, 1:-1] != labels[0, 0]
    return filled


def remove_specks(mask: Array, share: float = 0.02) -> Array:
    """``mask`` without its parts (touching at sides or corners) that are smaller than ``share`` of its largest part."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    is_kept = areas >= share * areas[1:].max()
    is_kept[0] = False
    kept: Array = is_kept[labels]
    return kept


def resize_mask(mask: Array, hw: tuple[int, int]) -> Array:
    """``mask`` at another size: a pixel is set where at least half of what it covers is."""
    import cv2

    if mask.shape == hw:
        return mask
    shrinks = hw[0] <= mask.shape[0] and hw[1] <= mask.shape[1]
    values = mask.astype(np.uint8) * 255
    made: Array = cv2.resize(values, (hw[1], hw[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR) >= 128
    return made
