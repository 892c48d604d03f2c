"""Point-tracking scores exactly as TAP-Vid defines them (Doersch et al. 2022), query mode "first".

VideoAnydoor (Sec. 4.1) tracks the key-points of the original's first frame in the original and in the edited video, takes the
former as truth, and reports the three averages below. Coordinates are scaled to 256 x 256 before distances are taken; only frames
strictly after a point's query frame count.

With g the true and p the predicted points, and visibilities likewise:

- occlusion accuracy ``OA``: share of (point, frame) whose predicted visibility is the true one;
- ``delta_avg``: mean over thresholds d of the share of truly visible points with |p - g|^2 < d^2;
- ``AJ``: mean over d of TP / (GT + FP), TP = within d, truly and predicted visible; GT = truly visible; FP = predicted visible and
  (truly hidden or not within d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Array

THRESHOLDS_PX = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Distances, in pixels of the 256 x 256 raster."""

RASTER_PX = 256.0


@dataclass(frozen=True, slots=True)
class TapVidScores:
    """Scores of one video, 0..100; ``nan`` where there is nothing to divide by (no true point is visible after its query).

    ``within`` and ``jaccard`` hold one value per threshold.
    """

    average_jaccard: float
    delta_avg: float
    occlusion_accuracy: float
    within: tuple[float, ...]
    jaccard: tuple[float, ...]


def score_tracks(
    true_px: Array,
    is_truly_visible: Array,
    predicted_px: Array,
    is_predicted_visible: Array,
    query_frames: Array,
    hw: tuple[int, int],
) -> TapVidScores:
    """Scores of ``predicted_px`` f[N,T,2] against ``true_px`` f[N,T,2], both in pixels of pictures of size ``hw``.

    ``is_truly_visible`` and ``is_predicted_visible`` are bool[N,T], ``query_frames`` i[N]. Raises ``ValueError`` for shapes that do
    not agree. Points that are not finite count as beyond every threshold.
    """
    _check_shapes(true_px, is_truly_visible, predicted_px, is_predicted_visible, query_frames)
    num_frames = true_px.shape[1]
    counts = np.arange(num_frames)[None] > np.asarray(query_frames)[:, None]  # [N, T]
    scale = np.array([RASTER_PX / hw[1], RASTER_PX / hw[0]])
    with np.errstate(invalid="ignore", over="ignore"):
        squared = np.sum(np.square((np.asarray(predicted_px, np.float64) - true_px) * scale), axis=-1)  # [N, T]
    truly, predicted = is_truly_visible & counts, is_predicted_visible & counts
    within, jaccard = [], []
    for threshold in THRESHOLDS_PX:
        is_near = squared < threshold**2
        within.append(_percent((is_near & truly).sum(), truly.sum()))
        true_positives = (is_near & truly & predicted).sum()
        false_positives = (predicted & ~(is_near & truly)).sum()
        jaccard.append(_percent(true_positives, truly.sum() + false_positives))
    agree = ((is_truly_visible == is_predicted_visible) & counts).sum()
    return TapVidScores(
        average_jaccard=float(np.mean(jaccard)),
        delta_avg=float(np.mean(within)),
        occlusion_accuracy=_percent(agree, counts.sum()),
        within=tuple(within),
        jaccard=tuple(jaccard),
    )


def mean_scores(videos: Sequence[TapVidScores]) -> TapVidScores:
    """The mean over videos of every score, as the paper's table takes it; a video where a score is undefined is left out of it."""
    if not videos:
        raise ValueError("there must be at least one video to take a mean over")
    return TapVidScores(
        average_jaccard=mean_of([each.average_jaccard for each in videos]),
        delta_avg=mean_of([each.delta_avg for each in videos]),
        occlusion_accuracy=mean_of([each.occlusion_accuracy for each in videos]),
        within=tuple(mean_of(list(values)) for values in zip(*(each.within for each in videos), strict=True)),
        jaccard=tuple(mean_of(list(values)) for values in zip(*(each.jaccard for each in videos), strict=True)),
    )


def mean_of(values: Sequence[float]) -> float:
    """The mean of the values that are defined; ``nan`` when none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _percent(part: float, whole: float) -> float:
    return float(100 * part / whole) if whole else float("nan")


def _check_shapes(true_px: Array, truly: Array, predicted_px: Array, predicted: Array, query_frames: Array) -> None:
    if true_px.ndim != 3 or true_px.shape[2] != 2:
        raise ValueError(f"true_px must be [N, T, 2], got {true_px.shape}")
    count, num_frames = true_px.shape[:2]
    wanted = {
        "predicted_px": (predicted_px, (count, num_frames, 2)),
        "is_truly_visible": (truly, (count, num_frames)),
        "is_predicted_visible": (predicted, (count, num_frames)),
        "query_frames": (np.asarray(query_frames), (count,)),
    }
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    for name, array in (("is_truly_visible", truly), ("is_predicted_visible", predicted)):
        if array.dtype != np.bool_:
            raise ValueError(f"{name} must be bool, got {array.dtype}")
