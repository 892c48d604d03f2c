"""The motion of a thing whose mask is known: the boxes that another thing must have to move as it does.

Key-points of the thing are tracked from a key frame (``tracking.track_points``); the similarity that most of them agree on gives
its turn, and how its place and size change from frame to frame. The masks say where it is and how large, free of drift but
restless: the slow part of what they say corrects the points. Where the points are lost the masks, steadied, say it all. Averages
look equally far ahead and back, so nothing lags; a frame's box depends on the frames between the key and it, and ``STEADY_REACH``
more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import geometry, masks
from .engines import Report
from .tracking import estimate_motion, find_features, track_points
from .types import Array, BoxSequence, MaskTrack

if TYPE_CHECKING:
    from .media import FrameStore

STEADY_REACH = 24
"""Frames on either side whose masks may move a frame's box."""

_STEADY_SIGMA = 2.0
_DRIFT_SIGMA = 6.0
_HOP_FRAMES = 8
_MAX_POINTS = 80
_LEAST_INLIERS = 8
_LEAST_SHARE = 0.5
"""Of the points still seen, the share that must agree on one motion."""
_EDGE_PX = 2


def find_key(target: MaskTrack) -> int | None:
    """The frame in which a thing is largest, the first of several; None when it is nowhere."""
    areas = masks.mask_areas(target)
    return int(np.argmax(areas)) if areas.any() else None


def follow_target(
    frames: FrameStore, target: MaskTrack, key: int, frame_range: tuple[int, int], is_turning: bool, report: Report
) -> BoxSequence:
    """The boxes of a thing for the frames of ``frame_range`` and a few around it, turned as the thing turns since frame ``key`` if
    ``is_turning``; invisible where its mask is empty. Reports every frame."""
    start = max(0, min(frame_range[0] - STEADY_REACH, key))
    stop = min(len(target), max(frame_range[1] + STEADY_REACH, key + 1))
    moves = _point_motion(frames, target, key, start, stop, report)
    turns = _turns(moves) if is_turning else np.zeros(stop - start)
    boxes, is_present, is_cut_off = _turned_boxes(target, turns, start, stop)
    place, size = _steady(boxes, is_present & ~is_cut_off, is_present, moves, key - start)
    num_frames = len(target)
    inside = np.clip(np.arange(num_frames), start, stop - 1) - start
    half = np.exp(size) / 2
    is_visible = np.zeros(num_frames, np.bool_)
    is_visible[start:stop] = is_present
    return BoxSequence(
        boxes_px=np.concatenate([place - half, place + half], axis=1)[inside].astype(np.float32),
        rotation_deg=np.rad2deg(turns)[inside].astype(np.float32),
        is_visible=is_visible,
        is_cut=np.zeros(num_frames, np.bool_),
    )


def _point_motion(frames: FrameStore, target: MaskTrack, key: int, start: int, stop: int, report: Report) -> Array:
    """Similarities f64[n,3,3] from the key frame to frames ``start`` to ``stop``; NaN where too few points agree on one.

    New points are taken every ``_HOP_FRAMES`` frames on the way from the key, as a thing that turns hides the old ones.
    """
    moves = np.full((stop - start, 3, 3), np.nan)
    moves[key - start] = np.eye(3)
    for step, last in ((1, stop - 1), (-1, start)):
        here = key
        while here != last and np.isfinite(moves[here - start, 0, 0]):
            there = min(here + _HOP_FRAMES, last) if step > 0 else max(here - _HOP_FRAMES, last)
            for index, matrix in _hop(frames, target, here, there, report):
                moves[index - start] = matrix @ moves[here - start]
            here = there
    return moves


def _hop(frames: FrameStore, target: MaskTrack, here: int, there: int, report: Report) -> list[tuple[int, Array]]:
    """Frames up to ``there``, each with the similarity that takes the thing from frame ``here`` to it; unsure ones are left out."""
    import cv2

    mask = masks.mask_at(target, here)
    gray = cv2.cvtColor(frames.frame(here).image, cv2.COLOR_RGB2GRAY)
    points = find_features(gray, masks.grow_mask(mask, -max(2.0, 0.004 * target.hw[0])), _MAX_POINTS)
    if len(points) < _LEAST_INLIERS:
        return []
    found = track_points(frames, here, points.astype(np.float32), min(here, there), max(here, there) + 1, report)
    tolerance_px = max(1.0, 0.03 * float(np.sqrt(mask.sum())))
    moves = []
    for index in range(min(here, there), max(here, there) + 1):
        seen = found.is_visible[:, index] & masks.lie_on_mask(target, index, found.points_px[:, index])
        if index == here or np.count_nonzero(seen) < _LEAST_INLIERS:
            continue
        matrix, is_inlier = estimate_motion(points[seen], found.points_px[seen, index], "similarity", inlier_px=tolerance_px)
        count = np.count_nonzero(is_inlier)
        if count >= max(_LEAST_INLIERS, _LEAST_SHARE * np.count_nonzero(seen)) and 0.2 < np.hypot(*matrix[:2, 0]) < 5:
            moves.append((index, matrix))
    return moves


def _turns(moves: Array) -> Array:
    """Clockwise turn since the key frame in radians, f64[n], steadied, carried on where it is not known."""
    known = np.flatnonzero(np.isfinite(moves[:, 0, 0]))
    angles = np.unwrap(np.arctan2(moves[known, 1, 0], moves[known, 0, 0]))
    filled = np.interp(np.arange(len(moves)), known, angles)
    return _smooth(filled[:, None], np.ones(len(moves)), _STEADY_SIGMA)[:, 0]


def _turned_boxes(target: MaskTrack, turns: Array, start: int, stop: int) -> tuple[Array, Array, Array]:
    """Centre and logarithm of the size f64[n,4] of the tightest box, turned by ``turns``, around every mask; where there is one,
    bool[n], and where the picture's edge cuts it off, bool[n]."""
    height, width = target.hw
    boxes, is_present, is_cut_off = np.zeros((stop - start, 4)), np.zeros(stop - start, np.bool_), np.zeros(stop - start, np.bool_)
    for index in range(start, stop):
        mask, row = masks.mask_at(target, index), index - start
        if not mask.any():
            continue
        rows = np.flatnonzero(mask.any(axis=1))
        first = mask[rows].argmax(axis=1)
        last = width - mask[rows][:, ::-1].argmax(axis=1)
        corners = np.concatenate([np.stack([x, rows + dy], axis=1) for x in (first, last) for dy in (0, 1)]).astype(np.float64)
        turn = np.array([[np.cos(turns[row]), -np.sin(turns[row])], [np.sin(turns[row]), np.cos(turns[row])]])
        bounds = geometry.bounds_of(corners @ turn)
        centre, size = (bounds[:2] + bounds[2:]) / 2, bounds[2:] - bounds[:2]
        boxes[row] = *(turn @ centre), *np.log(size)
        is_present[row] = True
        is_cut_off[row] = (
            rows[0] < _EDGE_PX or rows[-1] >= height - _EDGE_PX or first.min() < _EDGE_PX or last.max() > width - _EDGE_PX
        )
    return boxes, is_present, is_cut_off


def _steady(boxes: Array, is_whole: Array, is_present: Array, moves: Array, key_row: int) -> tuple[Array, Array]:
    """Place and log size f64[n,2] each: the points' motion, corrected by the slow part of what the masks say."""
    trusted = is_whole if is_whole.any() else is_present
    rows = np.arange(len(boxes))
    known = np.flatnonzero(trusted)
    start = known[np.argmin(np.abs(known - key_row))]
    filled = np.stack([np.interp(rows, known, boxes[known, axis]) for axis in range(4)], axis=1)
    masked = _smooth(filled, trusted.astype(np.float64), _STEADY_SIGMA)
    has_points = np.isfinite(moves[:, 0, 0])
    if np.count_nonzero(has_points) < 2 or not has_points[start]:
        return masked[:, :2], masked[:, 2:]
    steps = moves[has_points] @ np.linalg.inv(moves[start])
    pointed = np.concatenate(
        [
            np.array([geometry.apply_map(step, boxes[start, :2]) for step in steps]),
            boxes[start, 2:] + np.log(np.hypot(steps[:, 0, 0], steps[:, 1, 0]))[:, None],
        ],
        axis=1,
    )
    both = np.flatnonzero(has_points & trusted)
    drift_known = boxes[both] - pointed[np.searchsorted(np.flatnonzero(has_points), both)]
    drift = np.stack([np.interp(rows, both, drift_known[:, axis]) for axis in range(4)], axis=1)
    prediction = masked - drift
    prediction[has_points] = pointed
    corrected = prediction + _smooth(np.where(trusted[:, None], boxes - prediction, drift), trusted * 0.99 + 0.01, _DRIFT_SIGMA)
    return corrected[:, :2], corrected[:, 2:]


def _smooth(values: Array, weights: Array, sigma: float) -> Array:
    """Values f64[n,D] averaged over time by a Gaussian cut at ``STEADY_REACH``, each counting by its weight f64[n]."""
    reach = min(STEADY_REACH, int(np.ceil(4 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = weights[:, None] + 1e-9
    sums = np.concatenate([values * weights, weights], axis=1)
    inner = slice(reach, reach + len(values))
    averaged = np.stack([np.convolve(column, kernel, mode="full")[inner] for column in sums.T], axis=1)
    steady: Array = averaged[:, :-1] / averaged[:, -1:]
    return steady
