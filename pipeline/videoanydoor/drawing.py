"""The pictures that guide the model: the reference on its canvas, key-point discs, trajectory maps, the warped reference.

One colour means one point: its disc on the reference (the key-point image c_ref-key) and its disc on every frame (the trajectory
map c_mot) are equal (VideoAnydoor, Sec. 3.2). Discs are placed to a fraction of a pixel.
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from .. import geometry
from ..composite.blend import cutout_from_patch
from ..composite.warp import ReferencePyramid, render_patch
from ..motion import Pose, Warp
from ..types import Array, Reference

NUM_COLORS = 16
"""Most points at once: as many hues as stay distinct."""
DISC_RADIUS = 10 / 512
RING_WIDTH = 3 / 512
MIN_RADIUS_PX = 2.5
MIN_RING_PX = 1.0
"""Radius of a disc and width of its white ring, in shares of the picture's side, and what they never fall below."""
CANVAS_PADDING = 1.2
"""Side of the reference's canvas in multiples of the object's longer side (AnyDoor)."""


def make_palette() -> Array:
    """The colours u8[16,3] of the points: pure hues, neighbours in the list far apart on the colour wheel."""
    order = [int(f"{index:04b}"[::-1], 2) for index in range(NUM_COLORS)]
    colors = [colorsys.hsv_to_rgb(index / NUM_COLORS, 1.0, 1.0) for index in order]
    return np.rint(np.array(colors) * 255).astype(np.uint8)


def draw_discs(canvas: Array, points: Array, is_visible: Array, colors: Array) -> None:
    """Draw discs with white rings on a square canvas u8[N,N,3], in place: ``points`` f[K,2] in its pixels, ``colors`` u8[K,3].

    Edges are anti-aliased by distance, so a disc's centre of mass is its point; later points lie over earlier ones.
    """
    size = canvas.shape[0]
    radius, ring = max(DISC_RADIUS * size, MIN_RADIUS_PX), max(RING_WIDTH * size, MIN_RING_PX)
    for (x, y), visible, color in zip(points, is_visible, colors, strict=True):
        reach = radius + ring + 1
        if not visible or not (-reach < x < size + reach and -reach < y < size + reach):
            continue
        rows = slice(max(0, int(y - reach)), min(size, int(y + reach) + 1))
        columns = slice(max(0, int(x - reach)), min(size, int(x + reach) + 1))
        centres_y, centres_x = np.arange(rows.start, rows.stop) + 0.5, np.arange(columns.start, columns.stop) + 0.5
        distance = np.hypot(centres_y[:, None] - y, centres_x[None] - x)
        outer, inner = (np.clip(edge + 0.5 - distance, 0, 1)[..., None] for edge in (radius + ring, radius))
        below = canvas[rows, columns].astype(np.float64)
        drawn = (below * (1 - outer) + 255 * outer) * (1 - inner) + color.astype(np.float64) * inner
        canvas[rows, columns] = np.rint(drawn).astype(np.uint8)


def draw_trajectory_maps(points: Array, is_visible: Array, colors: Array, size: int) -> Array:
    """c_mot, u8[F,N,N,3]: at every frame a disc for each visible point f[K,F,2] (model pixels) on black."""
    maps = np.zeros((points.shape[1], size, size, 3), np.uint8)
    for frame, canvas in enumerate(maps):
        draw_discs(canvas, points[:, frame], is_visible[:, frame], colors)
    return maps


def center_reference(reference: Reference, size: int) -> tuple[Array, Array]:
    """The object on white, centred, u8[size,size,3], and the map f64[3,3] from reference pixels to that canvas.

    The canvas is ``CANVAS_PADDING`` times the object's longer side; the cut is made on whole pixels, so the map is exact.
    """
    x0, y0, x1, y1 = (int(value) for value in reference.tight_box_px())
    side = int(np.ceil(CANVAS_PADDING * max(x1 - x0, y1 - y0)))
    left, top = (x0 + x1 - side) // 2, (y0 + y1 - side) // 2
    canvas = np.full((side, side, 3), 255, np.uint8)
    height, width = reference.hw
    rows = slice(max(0, top), min(height, top + side))
    columns = slice(max(0, left), min(width, left + side))
    alpha = reference.alpha[rows, columns, None]
    over_white = reference.image[rows, columns] * alpha + 255 * (1 - alpha)
    canvas[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = np.rint(over_white).astype(np.uint8)
    method = cv2.INTER_AREA if size <= side else cv2.INTER_CUBIC
    scale = size / side
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1.0]])
    return cv2.resize(canvas, (size, size), interpolation=method), matrix


def draw_key_points(canvas: Array, matrix: Array, anchors_px: Array, colors: Array) -> Array:
    """c_ref-key: a copy of the reference's canvas with a disc at every anchor f[K,2] (reference pixels)."""
    drawn = canvas.copy()
    draw_discs(drawn, geometry.apply_map(matrix, anchors_px), np.ones(len(anchors_px), np.bool_), colors)
    return drawn


def move_warp(warp: Warp, matrix: Array) -> Warp:
    """``warp`` followed by a map f64[3,3] that scales uniformly and shifts; rigid deformations commute with it."""
    if warp.surface is not None:
        return warp.then(matrix)
    parts = []
    for weight, pose in warp.parts:
        handles, targets = (
            geometry.apply_map(matrix, points) if len(points) else points for points in (pose.handles, pose.targets)
        )
        parts.append((weight, Pose(matrix @ pose.matrix, handles, targets)))
    return Warp(tuple(parts))


def draw_warped(pyramid: ReferencePyramid, warp: Warp | None, size: int) -> tuple[Array, Array]:
    """The reference where ``warp`` (to model pixels) puts it, on white, u8[size,size,3], and how much of each pixel it covers,
    f32[size,size]; only white and nothing without a warp. Pure white is the ground alone: what is covered is a shade darker."""
    canvas, covered = np.full((size, size, 3), 255, np.uint8), np.zeros((size, size), np.float32)
    patch = None if warp is None else render_patch(pyramid, warp, (0, 0, size, size))
    if patch is None:
        return canvas, covered
    cutout = cutout_from_patch(patch)
    x0, y0, x1, y1 = cutout.roi
    alpha = cutout.alpha[..., None]
    drawn = np.rint(cutout.rgb * alpha + 255 * (1 - alpha))
    canvas[y0:y1, x0:x1] = np.where(alpha > 0, np.minimum(drawn, 254), 255).astype(np.uint8)
    covered[y0:y1, x0:x1] = cutout.alpha
    return canvas, covered
