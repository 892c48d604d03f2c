"""What can be learned of a thing in a clip whose mask is known: how it looks elsewhere in the clip, its boxes, its moving points.

Training makes samples of it (VideoAnydoor, Sec. 3.2 and 3.3), evaluation re-inserts the thing by it. Points are chosen on the first
frame, thinned, tracked, ranked by how far they move beyond the camera's own motion, and found again on the reference by tracking
on to its frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .engines import Report, ignore_progress
from .keypoints import suggest_points
from .masks import grow_mask, lie_on_mask, mask_areas, mask_at, mask_bounds
from .tracking import find_features, track_points
from .types import Array, BoxSequence, MaskTrack, Reference, TrajectorySet

if TYPE_CHECKING:
    from .media import FrameStore

LEAST_AREA_SHARE = 0.4
"""A reference frame must show at least this share of the largest mask of the clip."""
LEAST_VISIBLE = 0.5
MOST_OUTSIDE = 0.3
"""A point must be seen in this share of the frames, and lie off the mask in no more than that share of the seen ones."""
SPARE = 3
"""How many times the wanted number of points are tracked before the farthest-moving are kept."""

_EDGE_SIGMA_PX = 0.8


def mask_boxes(track: MaskTrack, start: int, stop: int) -> tuple[Array, Array]:
    """Tightest boxes f32[n,4] of the frames ``start`` to ``stop``, carried on where there is no mask; where there is one, bool[n].

    Raises ``ValueError`` when the mask is empty in all of them.
    """
    boxes, is_present = mask_bounds(track, start, stop)
    known = np.flatnonzero(is_present)
    if len(known) == 0:
        raise ValueError(f"the mask is empty in all of the frames {start} to {stop - 1}")
    filled = np.stack([np.interp(np.arange(stop - start), known, boxes[known, axis]) for axis in range(4)], axis=1)
    return filled.astype(np.float32), is_present


def farthest_frame(track: MaskTrack, start: int, stop: int) -> int | None:
    """The frame outside ``start`` to ``stop`` that lies farthest from it in time and still shows the thing well: "a frame that has
    the largest distance from the clip". None when there is none."""
    areas = mask_areas(track)
    good = np.flatnonzero(areas >= max(16, LEAST_AREA_SHARE * areas.max()))
    outside = good[(good < start) | (good >= stop)]
    if len(outside) == 0:
        return None
    distance = np.where(outside < start, start - outside, outside - stop + 1)
    return int(outside[int(np.argmax(distance))])


def look_at(frames: FrameStore, track: MaskTrack, frame_index: int) -> tuple[Reference, tuple[int, int]]:
    """The thing cut out of one frame by its mask, with the frame's place (x, y) of the cut-out's top left pixel."""
    import cv2

    from .matting import cut_out

    mask = mask_at(track, frame_index)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        raise ValueError(f"the mask is empty at frame {frame_index}")
    y0, y1 = max(0, int(rows[0]) - 4), min(mask.shape[0], int(rows[-1]) + 5)
    x0, x1 = max(0, int(columns[0]) - 4), min(mask.shape[1], int(columns[-1]) + 5)
    image = frames.frame(frame_index).to_rgb(x0, y0, x1, y1)
    alpha = cv2.GaussianBlur(mask[y0:y1, x0:x1].astype(np.float32), (0, 0), _EDGE_SIGMA_PX)
    alpha = np.clip(2 * alpha - 1, 0, 1)  # only what lies inside: the rim holds the old background
    if alpha.max() < 0.5:
        alpha = mask[y0:y1, x0:x1].astype(np.float32)
    found = cut_out(image, alpha=alpha.astype(np.float32))
    return Reference(found.image, found.alpha), (x0, y0)


@dataclass(frozen=True, eq=False, slots=True)
class ObjectMotion:
    """A thing over some frames of a clip. ``boxes`` and ``trajectories`` have a row for each of ``frame_indices`` i64[n], in pixels
    of the clip; ``reference`` shows it at ``reference_frame``, with the points that were found there."""

    frame_indices: Array
    reference: Reference
    reference_frame: int
    boxes: BoxSequence
    trajectories: TrajectorySet | None


def study_object(
    frames: FrameStore, track: MaskTrack, frame_indices: Array, num_points: int, report: Report = ignore_progress
) -> ObjectMotion:
    """Reference, boxes and at most ``num_points`` trajectories of the thing at increasing ``frame_indices``.

    Raises ``ValueError`` when the thing is not seen in the frames, or nowhere else.
    """
    start, stop = int(frame_indices[0]), int(frame_indices[-1]) + 1
    rows = np.asarray(frame_indices, np.int64) - start
    boxes_px, is_present = mask_boxes(track, start, stop)
    reference_frame = farthest_frame(track, start, stop)
    if reference_frame is None:
        raise ValueError("the thing is shown well in no other frame of the clip, so there is no reference")
    reference, (x0, y0) = look_at(frames, track, reference_frame)
    still = np.zeros(len(rows), np.bool_)
    boxes = BoxSequence(boxes_px[rows], np.zeros(len(rows), np.float32), is_present[rows], still)
    chosen = _moving_points(frames, track, start, stop, reference_frame, num_points, report)
    trajectories = None
    if chosen is not None:
        places, is_visible, anchors = chosen
        names = tuple(f"p{number}" for number in range(1, len(places) + 1))
        anchors_px = (anchors - [x0, y0]).astype(np.float32)
        cut = np.zeros((len(places), len(rows)), np.bool_)
        trajectories = TrajectorySet(names, places[:, rows], is_visible[:, rows], cut, anchors_px)
        points = {name: (float(x), float(y)) for name, (x, y) in zip(names, anchors_px, strict=True)}
        reference = Reference(reference.image, reference.alpha, points)
    return ObjectMotion(np.asarray(frame_indices, np.int64), reference, reference_frame, boxes, trajectories)


def _moving_points(
    frames: FrameStore, track: MaskTrack, start: int, stop: int, reference_frame: int, count: int, report: Report
) -> tuple[Array, Array, Array] | None:
    """Places f32[K,n,2] in the frames ``start`` to ``stop``, visibility bool[K,n], and the same points at the reference's frame
    f64[K,2]; the farthest-moving first. None when no point can be followed."""
    if count == 0 or not mask_at(track, start).any():
        return None
    look, (x0, y0) = look_at(frames, track, start)
    queries = suggest_points(look, min(64, SPARE * count)) * [look.hw[1], look.hw[0]] + [x0, y0]
    low, high = min(start, reference_frame), max(stop, reference_frame + 1)
    found = track_points(frames, start, queries.astype(np.float32), low, high, report)
    places, is_visible = found.points_px[:, start:stop], found.is_visible[:, start:stop].copy()
    anchors, is_anchored = found.points_px[:, reference_frame], found.is_visible[:, reference_frame]
    is_on = np.stack([lie_on_mask(track, frame, places[:, frame - start]) for frame in range(start, stop)], axis=1)
    outside = (is_visible & ~is_on).sum(axis=1) / np.maximum(is_visible.sum(axis=1), 1)
    good = is_anchored & lie_on_mask(track, reference_frame, anchors)
    good &= (is_visible.mean(axis=1) >= LEAST_VISIBLE) & is_visible[:, 0] & (outside <= MOST_OUTSIDE)
    if not good.any():
        return None
    lengths = path_lengths(places, is_visible, _camera_shift(frames, track, start, stop, report))
    order = np.flatnonzero(good)[np.argsort(-lengths[good], kind="stable")]
    kept = _thinned(anchors, order, count)
    return places[kept], is_visible[kept], anchors[kept].astype(np.float64)


def path_lengths(places: Array, is_visible: Array, camera_px: Array) -> Array:
    """How far points f[N,n,2] travel beyond the camera's shift f[n,2], f64[N]: over their visible stretches, smoothed over three
    frames, so that jitter does not count as motion."""
    own = places.astype(np.float64) - camera_px[None]
    padded = np.pad(own, ((0, 0), (1, 1), (0, 0)), mode="edge")
    smooth = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    steps = np.linalg.norm(np.diff(smooth, axis=1), axis=2)
    lengths: Array = (steps * (is_visible[:, 1:] & is_visible[:, :-1])).sum(axis=1)
    return lengths


def _camera_shift(frames: FrameStore, track: MaskTrack, start: int, stop: int, report: Report) -> Array:
    """The median shift f64[n,2] since frame ``start`` of points that are not on the thing; none where there are none."""
    import cv2

    gray = cv2.cvtColor(frames.frame(start).image, cv2.COLOR_RGB2GRAY)
    points = find_features(gray, ~grow_mask(mask_at(track, start), 8.0), 60)
    if len(points) < 4:
        return np.zeros((stop - start, 2))
    found = track_points(frames, start, points.astype(np.float32), start, stop, report)
    shifts = found.points_px[:, start:stop].astype(np.float64) - points[:, None]
    shifts[~found.is_visible[:, start:stop]] = np.nan
    median = np.zeros((stop - start, 2))
    for index in range(stop - start):
        seen = shifts[np.isfinite(shifts[:, index, 0]), index]
        median[index] = np.median(seen, axis=0) if len(seen) >= 4 else median[index - 1]
    return median


def _thinned(places: Array, order: Array, count: int) -> Array:
    """The first ``count`` of ``order`` that are not on top of one another."""
    kept: list[int] = []
    for index in (int(value) for value in order):
        if all(np.linalg.norm(places[index] - places[other]) >= 3 for other in kept):
            kept.append(index)
        if len(kept) == count:
            break
    return np.array(kept, np.int64)
