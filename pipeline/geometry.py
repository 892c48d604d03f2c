"""Plane geometry as pure functions on arrays: fits, maps, the rigid moving-least-squares deformation, grids.

Convention: points are f64[..., 2] as (x, y), x right, y down, pixel j covers [j, j + 1). A map is f64[3, 3] acting on (x, y, 1).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Array = np.ndarray
_TINY = 1e-12
MIN_SIZE = 1e-4
"""The least size of a fitted similarity: where all targets meet in one point the map still has an inverse."""


def apply_map(matrix: Array, points: Array) -> Array:
    """Apply a projective map f64[3,3] to points f64[...,2]; points on or behind the horizon land far away, never at NaN."""
    points = np.asarray(points, np.float64)
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        return moved / matrix[2, 2]
    depth = points @ matrix[2, :2] + matrix[2, 2]
    depth = np.where(np.abs(depth) < 1e-9, np.copysign(1e-9, depth), depth)
    return moved / depth[..., None]


def translation(offset_xy: Array) -> Array:
    """The map that adds ``offset_xy``."""
    matrix = np.eye(3)
    matrix[:2, 2] = offset_xy
    return matrix


def normal_map(matrix: Array) -> Array:
    """The same map f64[3,3], scaled so that its last number is 1."""
    scaled: Array = matrix / matrix[2, 2]
    return scaled


def pixel_map(matrix: Array) -> Array:
    """A map f64[3,3] of coordinates as a map of pixel indices (pixel j's centre lies at j + 0.5), as OpenCV warps by it."""
    half = translation(np.array([0.5, 0.5]))
    moved: Array = np.linalg.inv(half) @ matrix @ half
    return moved


def _as_complex(points: Array) -> Array:
    return points[..., 0] + 1j * points[..., 1]


def fit_similarity(source: Array, target: Array) -> Array:
    """The least-squares similarity (turn, uniform size, shift; never a reflection) that takes ``source`` f64[N,2] to ``target``.

    One point gives a translation, two points are met exactly; the size is at least ``MIN_SIZE``. In complex numbers:
    ``q = L p + c`` with ``L = sum(q^ conj(p^)) / sum(|p^|^2)`` over centred points (Umeyama 1991, in the plane). Raises
    ``ValueError`` for no points.
    """
    if len(source) == 0:
        raise ValueError("fit_similarity needs at least one point")
    p, q = _as_complex(np.asarray(source, np.float64)), _as_complex(np.asarray(target, np.float64))
    p_mean, q_mean = p.mean(), q.mean()
    spread = float((np.abs(p - p_mean) ** 2).sum())
    linear = ((q - q_mean) * np.conj(p - p_mean)).sum() / spread if len(p) > 1 and spread > _TINY else 1.0 + 0.0j
    if abs(linear) < MIN_SIZE:
        linear = MIN_SIZE * (linear / abs(linear) if abs(linear) > 0 else 1.0)
    return similarity_map(linear, q_mean - linear * p_mean)


def similarity_map(linear: complex, offset: complex) -> Array:
    """The map ``z -> linear * z + offset`` on (x, y) as complex numbers: ``abs(linear)`` is size, its angle the clockwise turn."""
    a, b = linear.real, linear.imag
    return np.array([[a, -b, offset.real], [b, a, offset.imag], [0.0, 0.0, 1.0]])


def fit_homography(source: Array, target: Array) -> Array:
    """The projective map that takes four points f64[4,2] to four points, exactly.

    Raises ``ValueError`` when three of either four lie on a line, which leaves the map undefined.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != (4, 2) or target.shape != (4, 2):
        raise ValueError(f"fit_homography needs four points each, got {source.shape} and {target.shape}")
    to_unit_source, to_unit_target = _unit_map(source), _unit_map(target)
    p, q = apply_map(to_unit_source, source), apply_map(to_unit_target, target)
    for corners in (p, q):
        triples = corners[[[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]]
        if np.abs(signed_areas(triples)).min() < 1e-4:
            raise ValueError("three of the four points lie on a line")
    rows, ones, zeros = np.zeros((8, 8)), np.ones(4), np.zeros(4)
    rows[0::2] = np.stack([p[:, 0], p[:, 1], ones, zeros, zeros, zeros, -q[:, 0] * p[:, 0], -q[:, 0] * p[:, 1]], axis=1)
    rows[1::2] = np.stack([zeros, zeros, zeros, p[:, 0], p[:, 1], ones, -q[:, 1] * p[:, 0], -q[:, 1] * p[:, 1]], axis=1)
    unit = np.append(np.linalg.solve(rows, q.reshape(8)), 1.0).reshape(3, 3)
    return np.linalg.inv(to_unit_target) @ unit @ to_unit_source


def _unit_map(points: Array) -> Array:
    """Shift and scale that brings points to mean 0 and mean distance 1 (Hartley's normalisation, for conditioning)."""
    centre = points.mean(axis=0)
    size = max(float(np.linalg.norm(points - centre, axis=1).mean()), _TINY)
    return np.array([[1 / size, 0, -centre[0] / size], [0, 1 / size, -centre[1] / size], [0, 0, 1.0]])


def signed_areas(triangles: Array) -> Array:
    """Signed areas of triangles f64[...,3,2]: positive when the corners run clockwise as seen (y down)."""
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    return 0.5 * ((b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0]))


def deform_rigid_mls(points: Array, handles: Array, targets: Array) -> Array:
    """Rigid moving least squares (Schaefer, McPhail, Warren 2006, "Image Deformation Using Moving Least Squares", eq. 8).

    Moves ``points`` f64[...,2] so that every ``handles`` f64[N,2] lands exactly on its ``targets`` f64[N,2] and everything else
    turns and shifts as rigidly as its neighbourhood allows (weights 1 / distance squared). In complex numbers, with centred
    weighted means p*, q*: ``f(v) = (v - p*) mu / |mu| + q*`` where ``mu = sum(w q^ conj(p^))``.
    """
    v = _as_complex(np.asarray(points, np.float64))[..., None]
    p, q = _as_complex(np.asarray(handles, np.float64)), _as_complex(np.asarray(targets, np.float64))
    weights = 1.0 / np.maximum(np.abs(v - p) ** 2, _TINY)
    weights /= weights.sum(axis=-1, keepdims=True)
    p_star, q_star = (weights * p).sum(axis=-1), (weights * q).sum(axis=-1)
    mu = (weights * (q - q_star[..., None]) * np.conj(p - p_star[..., None])).sum(axis=-1)
    size = np.abs(mu)
    turn = np.where(size > _TINY, mu / np.maximum(size, _TINY), 1.0)
    moved = (v[..., 0] - p_star) * turn + q_star
    return np.stack([moved.real, moved.imag], axis=-1)


def place_in_box(
    tight_box_px: Array, box_px: Array, rotation_deg: float, fit: Literal["contain", "stretch"], anchor: Literal["center", "bottom"]
) -> Array:
    """The map that puts a reference into a box: its tight rectangle is fitted, then turned about the box centre.

    ``contain`` keeps the aspect and stands at ``anchor``; ``stretch`` fills the box. Rotation is clockwise as seen.
    """
    rx0, ry0, rx1, ry1 = (float(value) for value in tight_box_px)
    x0, y0, x1, y1 = (float(value) for value in box_px)
    scale_x, scale_y = (x1 - x0) / (rx1 - rx0), (y1 - y0) / (ry1 - ry0)
    if fit == "contain":
        scale_x = scale_y = min(scale_x, scale_y)
    left = (x0 + x1) / 2 - scale_x * (rx0 + rx1) / 2
    top = (y1 - scale_y * ry1) if fit == "contain" and anchor == "bottom" else (y0 + y1) / 2 - scale_y * (ry0 + ry1) / 2
    place = np.array([[scale_x, 0, left], [0, scale_y, top], [0, 0, 1.0]])
    if rotation_deg == 0:
        return place
    centre = complex((x0 + x1) / 2, (y0 + y1) / 2)
    turn = np.exp(1j * np.deg2rad(float(rotation_deg)))
    return similarity_map(turn, centre - turn * centre) @ place


def box_corners(box_px: Array, rotation_deg: float = 0.0) -> Array:
    """Corners f64[4,2] of a box, clockwise from its top left, turned clockwise about its centre."""
    x0, y0, x1, y1 = (float(value) for value in box_px)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    angle = np.deg2rad(float(rotation_deg))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (corners - centre) @ turn.T + centre


def carry_box(matrix: Array, box_px: Array, rotation_deg: float = 0.0) -> tuple[Array, float]:
    """A turned box f64[4] carried by a map: its centre goes where the map takes it, size and turn by the similarity that is nearest
    to the map there. Returns the box and its rotation in degrees."""
    x0, y0, x1, y1 = (float(value) for value in box_px)
    centre, half = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([(x1 - x0) / 2, (y1 - y0) / 2])
    linear = similarity_at(matrix, centre)
    moved, half = apply_map(matrix, centre), half * abs(linear)
    return np.concatenate([moved - half, moved + half]), float(rotation_deg) + float(np.rad2deg(np.angle(linear)))


def carry_box_back(matrix: Array, box_px: Array, rotation_deg: float = 0.0) -> tuple[Array, float]:
    """The turned box that ``carry_box`` takes to this one: exactly its inverse."""
    x0, y0, x1, y1 = (float(value) for value in box_px)
    moved, half = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([(x1 - x0) / 2, (y1 - y0) / 2])
    centre = apply_map(np.linalg.inv(matrix), moved)
    linear = similarity_at(matrix, centre)
    half = half / abs(linear)
    return np.concatenate([centre - half, centre + half]), float(rotation_deg) - float(np.rad2deg(np.angle(linear)))


def similarity_at(matrix: Array, point: Array) -> complex:
    """Size and clockwise turn, as one complex number, of the similarity that is nearest (least squares) to a projective map in the
    neighbourhood of a point f64[2]; its size is at least ``MIN_SIZE``."""
    x, y = apply_map(matrix, point)
    depth = float(point @ matrix[2, :2] + matrix[2, 2])
    depth = depth if abs(depth) > 1e-9 else 1e-9
    slope = (matrix[:2, :2] - np.outer([x, y], matrix[2, :2])) / depth
    linear = complex(slope[0, 0] + slope[1, 1], slope[1, 0] - slope[0, 1]) / 2
    return linear if abs(linear) >= MIN_SIZE else complex(MIN_SIZE)


def bounds_of(points: Array) -> Array:
    """The box x0 y0 x1 y1 around points f64[N,2]."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def grid_mesh(box_px: Array, cells_on_long_side: int) -> tuple[Array, Array]:
    """A regular mesh over a box: vertices f64[V,2] row by row, and triangles i32[F,3] that run clockwise as seen."""
    x0, y0, x1, y1 = (float(value) for value in box_px)
    cell = max(x1 - x0, y1 - y0) / cells_on_long_side
    columns, rows = max(1, round((x1 - x0) / cell)), max(1, round((y1 - y0) / cell))
    grid_x, grid_y = np.meshgrid(np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1))
    index = np.arange((rows + 1) * (columns + 1), dtype=np.int32).reshape(rows + 1, columns + 1)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    triangles = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return np.stack([grid_x.ravel(), grid_y.ravel()], axis=1), triangles
