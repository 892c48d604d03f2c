"""The TAP-Vid scores against cases counted by hand and against a plain transcription of the definition."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.tapvid import THRESHOLDS_PX, mean_of, mean_scores, score_tracks

RASTER = (256, 256)


def still_points(count: int = 3, num_frames: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = np.tile(np.arange(count)[:, None, None] * 20.0 + 30, (1, num_frames, 2))
    return points, np.ones((count, num_frames), bool), np.zeros(count, int)


def test_the_same_tracks_score_100() -> None:
    points, visible, queries = still_points()
    scores = score_tracks(points, visible, points, visible, queries, RASTER)
    assert (scores.average_jaccard, scores.delta_avg, scores.occlusion_accuracy) == (100, 100, 100)


@pytest.mark.parametrize(("shift", "passed"), [(0.5, 5), (1.0, 4), (1.5, 4), (3.0, 3), (7.9, 2), (15.9, 1), (16.0, 0)])
def test_a_shift_passes_the_thresholds_above_it(shift: float, passed: int) -> None:
    points, visible, queries = still_points()
    scores = score_tracks(points, visible, points + np.array([shift, 0]), visible, queries, RASTER)
    assert scores.delta_avg == pytest.approx(100 * passed / 5)
    assert scores.within == tuple(100.0 if shift < threshold else 0.0 for threshold in THRESHOLDS_PX)
    # a wrong point that is shown counts twice: missed and false, so Jaccard is 0 / (n + n) there and 1 elsewhere
    assert scores.average_jaccard == pytest.approx(100 * passed / 5)
    assert scores.occlusion_accuracy == 100


def test_convention_distances_are_taken_on_a_raster_of_256() -> None:
    points, visible, queries = still_points()
    wide = score_tracks(points, visible, points + np.array([4, 0]), visible, queries, (256, 1024))
    assert wide.within == (0.0, 100.0, 100.0, 100.0, 100.0)  # 4 px of 1024 are 1 px of 256, and less than 1 is asked
    tall = score_tracks(points, visible, points + np.array([4, 0]), visible, queries, (1024, 256))
    assert tall.within == (0.0, 0.0, 0.0, 100.0, 100.0)


def test_only_frames_after_the_query_count() -> None:
    points, visible, _ = still_points(count=1)
    moved = points.copy()
    moved[:, :3] += 100
    late = score_tracks(points, visible, moved, visible, np.array([2]), RASTER)
    assert late.average_jaccard == 100
    early = score_tracks(points, visible, moved, visible, np.array([1]), RASTER)
    assert early.delta_avg == pytest.approx(100 * 2 / 3)
    assert early.average_jaccard == pytest.approx(100 * 2 / (3 + 1))


def test_visibility_counts_as_defined() -> None:
    points, visible, queries = still_points(count=1, num_frames=5)
    hidden = visible.copy()
    hidden[0, 1:3] = False
    missed = score_tracks(points, visible, points, hidden, queries, RASTER)
    assert missed.occlusion_accuracy == 50
    assert missed.delta_avg == 100  # position counts whether or not it is said to be seen
    assert missed.average_jaccard == 50  # 2 true positives of 4
    invented = score_tracks(points, hidden, points, visible, queries, RASTER)
    assert invented.occlusion_accuracy == 50
    assert invented.average_jaccard == 50  # 2 true positives of 2 true and 2 false


def test_points_that_vanish_divide_by_nothing() -> None:
    points, visible, queries = still_points()
    gone = np.zeros_like(visible)
    gone[:, 0] = True
    scores = score_tracks(points, gone, points, gone, queries, RASTER)
    assert np.isnan(scores.delta_avg)
    assert np.isnan(scores.average_jaccard)
    assert scores.occlusion_accuracy == 100
    whole = score_tracks(points, visible, points, visible, queries, RASTER)
    assert mean_scores([scores, whole]).average_jaccard == 100
    assert np.isnan(mean_of([float("nan")]))


def test_one_frame_has_nothing_to_score() -> None:
    points, visible, queries = still_points(num_frames=1)
    assert np.isnan(score_tracks(points, visible, points, visible, queries, RASTER).occlusion_accuracy)


def test_lost_points_may_be_nan() -> None:
    points, visible, queries = still_points(count=2)
    lost = points.copy()
    lost[1] = np.nan
    assert score_tracks(points, visible, lost, visible, queries, RASTER).delta_avg == 50


def transcribed(true: np.ndarray, seen: np.ndarray, guess: np.ndarray, shown: np.ndarray, queries: np.ndarray) -> tuple[float, ...]:
    """The definition, one point and frame at a time."""
    jaccards, withins = [], []
    agree = total = 0
    for limit in (1, 2, 4, 8, 16):
        hits = positives = falses = near_seen = 0
        for n in range(true.shape[0]):
            for t in range(queries[n] + 1, true.shape[1]):
                near = np.sum((guess[n, t] - true[n, t]) ** 2) < limit**2
                positives += seen[n, t]
                near_seen += near and seen[n, t]
                hits += near and seen[n, t] and shown[n, t]
                falses += shown[n, t] and (not seen[n, t] or not near)
                if limit == 1:
                    agree += seen[n, t] == shown[n, t]
                    total += 1
        jaccards.append(100 * hits / (positives + falses))
        withins.append(100 * near_seen / positives)
    return float(np.mean(jaccards)), float(np.mean(withins)), 100 * agree / total


@pytest.mark.parametrize("seed", range(5))
def test_random_tracks_agree_with_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 256, (7, 11, 2))
    guess = true + rng.normal(0, 1, true.shape) * rng.choice([0.3, 2, 9], (7, 1, 1))
    seen, shown, queries = rng.random((7, 11)) < 0.7, rng.random((7, 11)) < 0.7, rng.integers(0, 8, 7)
    scores = score_tracks(true, seen, guess, shown, queries, RASTER)
    wanted = transcribed(true, seen, guess, shown, queries)
    assert (scores.average_jaccard, scores.delta_avg, scores.occlusion_accuracy) == pytest.approx(wanted, abs=1e-9)


def test_shapes_that_do_not_agree_are_refused() -> None:
    points, visible, queries = still_points()
    with pytest.raises(ValueError, match=r"predicted_px must have shape \(3, 5, 2\)"):
        score_tracks(points, visible, points[:2], visible, queries, RASTER)
    with pytest.raises(ValueError, match="must be bool"):
        score_tracks(points, visible.astype(float), points, visible, queries, RASTER)
