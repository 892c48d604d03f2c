"""Correcting a cut-out by clicks: the patch around each click goes over to the object, or leaves it; the rest stays as it was.

A patch is what the click reaches without crossing edges: the geodesic distance over changes of colour (as in Bai and Sapiro 2007)
says what surely belongs to it and what surely does not, GrabCut (Rother et al. 2004) decides in between. All colour is CIE Lab; the
work is done on a small copy, and ``matting`` refines the outline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .backdrop import shrink, to_lab
from .types import Array, Click

WORK_SIDE_PX = 400
"""Longer side of the copy on which patches are found."""

_SURE, _REACH = 10.0, 26.0
"""Distances (in units of Lab, summed along the way) below which a pixel surely is of the click's patch, and beyond which not."""

_FIRST_REACH = 60.0
"""The second distance where nothing has been cut out yet: a first click may take a whole object."""

_STEP_NOISE = 1.2
_STEP_COST = 0.04
_DISK = 0.008
_GRABCUT_ITERATIONS = 3
_SEED = 20240607


def apply_clicks(rgb: Array, mask: Array | None, clicks: Sequence[Click]) -> Array:
    """The mask bool[H,W] of the object after ``clicks`` on the picture ``rgb`` u8[H,W,3], one after the other.

    ``mask`` bool[H,W] is the object so far, None when nothing was found. Pixels that no click reaches stay as they are. The same
    input gives the same output.
    """
    import cv2

    hw = rgb.shape[:2]
    lab = cv2.GaussianBlur(to_lab(shrink(rgb, WORK_SIDE_PX)), (0, 0), 0.8)
    start = np.zeros(lab.shape[:2], bool) if mask is None else _resized(mask, lab.shape[:2])
    made = start.copy()
    scale = lab.shape[1] / hw[1], lab.shape[0] / hw[0]
    for index, click in enumerate(clicks):
        at = _pixel(click, scale, lab.shape[:2])
        if made[at] == click.is_foreground:
            made[_disk(lab.shape[:2], at)] = click.is_foreground
            continue
        others = [_pixel(each, scale, lab.shape[:2]) for each in clicks[:index] if each.is_foreground != click.is_foreground]
        patch = _find_patch(lab, made, at, others, _FIRST_REACH if not made.any() else _REACH)
        made[patch] = click.is_foreground
    if mask is None:
        return _resized(made, hw)
    return (mask | _resized(made & ~start, hw)) & ~_resized(start & ~made, hw)


def _pixel(click: Click, scale: tuple[float, float], hw: tuple[int, int]) -> tuple[int, int]:
    column, row = int(click.x_px * scale[0]), int(click.y_px * scale[1])
    return min(max(row, 0), hw[0] - 1), min(max(column, 0), hw[1] - 1)


def _resized(mask: Array, hw: tuple[int, int]) -> Array:
    import cv2

    if mask.shape == hw:
        return mask
    method = cv2.INTER_AREA if hw[0] < mask.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(mask.astype(np.float32), (hw[1], hw[0]), interpolation=method) >= 0.5


def _disk(hw: tuple[int, int], at: tuple[int, int]) -> Array:
    y, x = np.ogrid[: hw[0], : hw[1]]
    radius = max(2.0, _DISK * max(hw))
    return (y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2


def _find_patch(lab: Array, inside: Array, at: tuple[int, int], others: list[tuple[int, int]], reach: float) -> Array:
    """Where the mask ``inside`` bool[h,w] turns over because of a click at ``at``; ``others`` are clicks that said the contrary."""
    near = _distances(lab, [at])
    if others:
        near = np.where(_distances(lab, others) < near, np.inf, near)
    side = inside == inside[at]
    sure, possible = (near < _SURE) & side, (near < reach) & side
    disk = _disk(inside.shape, at)
    sure |= disk & side
    patch = _decide(lab, sure, possible | sure, disk) if (possible & ~sure).sum() > 16 else sure
    return _linked(patch & side, at) | (disk & side)


def _distances(lab: Array, sources: list[tuple[int, int]]) -> Array:
    """Geodesic distance f64[h,w] from the nearest of ``sources`` (row, column): changes of colour beyond noise, summed along the
    cheapest way, and a little for its length."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    height, width = lab.shape[:2]
    index = np.arange(height * width).reshape(height, width)
    rows, columns, costs = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        first = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
        second = slice(dy, height), slice(max(0, dx), width - max(0, -dx))
        change = np.linalg.norm(lab[first] - lab[second], axis=2)
        length = (dx * dx + dy * dy) ** 0.5
        costs.append((np.maximum(change - _STEP_NOISE * length, 0) + _STEP_COST * length).ravel())
        rows.append(index[first].ravel())
        columns.append(index[second].ravel())
    graph = coo_matrix((np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns))), shape=(index.size, index.size))
    starts = [index[each] for each in sources]
    found: Array = dijkstra(graph.tocsr(), directed=False, indices=starts, min_only=True, limit=2 * _FIRST_REACH)
    return found.reshape(height, width)


def _decide(lab: Array, sure: Array, possible: Array, disk: Array) -> Array:
    """GrabCut between what is ``sure`` and what is merely ``possible`` bool[h,w], in a window around it."""
    import cv2

    rows, cols = np.flatnonzero(possible.any(axis=1)), np.flatnonzero(possible.any(axis=0))
    window = slice(max(0, rows[0] - 16), rows[-1] + 17), slice(max(0, cols[0] - 16), cols[-1] + 17)
    labels = np.full(possible.shape, cv2.GC_BGD, np.uint8)
    labels[possible] = cv2.GC_PR_BGD
    labels[sure] = cv2.GC_PR_FGD
    labels[disk & sure] = cv2.GC_FGD
    labels = np.ascontiguousarray(labels[window])
    if not (labels == cv2.GC_BGD).any():
        return sure
    features = np.clip(lab[window] * (2.55, 1, 1) + (0, 128, 128), 0, 255).astype(np.uint8)
    cv2.setRNGSeed(_SEED)
    cv2.grabCut(features, labels, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), _GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    decided = np.zeros_like(sure)
    decided[window] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return decided | (sure & disk)


def _linked(patch: Array, at: tuple[int, int]) -> Array:
    """The part of ``patch`` that hangs together with the click, its small holes filled."""
    import cv2

    _, parts = cv2.connectedComponents(patch.astype(np.uint8), connectivity=4)
    if parts[at] == 0:
        return np.zeros_like(patch)
    part = parts == parts[at]
    _, holes, stats, _ = cv2.connectedComponentsWithStats((~part).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < max(12, 0.01 * part.sum())
    small[np.unique(holes[part])] = False
    return part | small[holes]
