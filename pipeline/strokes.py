"""Freehand strokes as keyframes: the fewest nodes through which the motion model's own curve follows what the hand drew."""

from __future__ import annotations

import numpy as np

from .motion import interpolate_keys, resample_stroke
from .types import Array

STROKE_TOLERANCE = 0.0015
"""How far, in units of the picture's width and height, the fitted curve may lie from the stroke at any frame."""

MAX_STROKE_NODES = 400
"""A fit stops here, however wild the stroke."""

STEADY_FRAMES = 2.0
"""Standard deviation of the smoothing of a stroke's pace: pointer events come in bursts, hands do not."""


def fit_keys(samples: Array, first_frame: int, tolerance: float = STROKE_TOLERANCE) -> dict[int, tuple[float, float]]:
    """Keys by frame whose ``smooth`` interpolation stays within ``tolerance`` of ``samples`` f64[T,2] at every frame.

    The first sample lies at ``first_frame``. Greedy: starting from both ends, a key is added at the worst frame until none is worse
    than ``tolerance`` (or ``MAX_STROKE_NODES`` are used); each key is a sample, exactly.
    """
    samples = np.asarray(samples, np.float64)
    count = len(samples)
    chosen = [0] if count == 1 else [0, count - 1]
    while len(chosen) < min(count, MAX_STROKE_NODES):
        curve, _ = interpolate_keys(chosen, samples[chosen], ["smooth"] * len(chosen), count)
        error = np.abs(curve - samples).max(axis=1)
        worst = int(error.argmax())
        if error[worst] <= tolerance:
            break
        chosen = sorted({*chosen, worst})
    return {first_frame + index: (float(samples[index, 0]), float(samples[index, 1])) for index in chosen}


def stroke_keys(points_xy: Array, times_s: Array, frames: tuple[int, int], is_even: bool) -> dict[int, tuple[float, float]]:
    """A stroke as drawn (``points_xy`` f64[M,2] in 0..1 of the picture, ``times_s`` f64[M]) as keys over the half-open ``frames``.

    The speed of drawing becomes the timing, steadied a little, or, with ``is_even``, the path is walked at an even pace. Raises
    ``ValueError`` for a stroke of no points, times that run backwards, or an empty range.
    """
    start, stop = frames
    if is_even:
        return fit_keys(resample_stroke(points_xy, times_s, stop - start, "even"), start)
    way = resample_stroke(_with_way(points_xy), times_s, stop - start, "timing")[:, 1]
    return fit_keys(walk(points_xy, steadied(way, STEADY_FRAMES)), start)


def _with_way(points_xy: Array) -> Array:
    """How far along the stroke each of its points lies, as the second column of f64[M,2]."""
    steps = np.linalg.norm(np.diff(np.asarray(points_xy, np.float64), axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    return np.stack([np.zeros_like(way), way], axis=1)


def walk(points_xy: Array, way: Array) -> Array:
    """The places f64[T,2] at distances ``way`` f64[T] along the polyline ``points_xy`` f64[M,2]."""
    known, first = np.unique(_with_way(points_xy)[:, 1], return_index=True)
    points = np.asarray(points_xy, np.float64)[first]
    return np.stack([np.interp(way, known, points[:, axis]) for axis in (0, 1)], axis=1)


def steadied(way: Array, sigma_frames: float) -> Array:
    """Distances ``way`` f64[T] (never decreasing) covered by each frame, at a smoother pace; the first and the last stay."""
    if len(way) < 3:
        return way
    from scipy.ndimage import gaussian_filter1d

    reach = min(int(np.ceil(4 * sigma_frames)), len(way) - 1)
    before, after = 2 * way[0] - way[reach:0:-1], 2 * way[-1] - way[-2 : -2 - reach : -1]
    smooth = gaussian_filter1d(np.concatenate([before, way, after]), sigma_frames)[reach : reach + len(way)]
    rising = np.maximum.accumulate(np.clip(smooth, way[0], way[-1]))
    rising[[0, -1]] = way[[0, -1]]
    return rising
