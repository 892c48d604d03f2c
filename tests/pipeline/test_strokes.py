import numpy as np
import pytest

from pipeline.motion import interpolate_keys
from pipeline.strokes import MAX_STROKE_NODES, STROKE_TOLERANCE, fit_keys, steadied, stroke_keys, walk


def curve(count=120):
    angle = np.linspace(0, 1.5 * np.pi, count)
    return np.stack([0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle)], axis=1)


def test_a_fit_is_exact_at_its_keys_close_everywhere_and_small():
    samples = curve()
    keys = fit_keys(samples, 10)
    frames = np.array(sorted(keys)) - 10
    assert frames[0] == 0 and frames[-1] == 119 and len(keys) < 20
    assert all(keys[10 + frame] == pytest.approx(samples[frame]) for frame in frames)
    dense, _ = interpolate_keys(list(frames), samples[frames], ["smooth"] * len(frames), 120)
    assert np.abs(dense - samples).max() <= STROKE_TOLERANCE


def test_a_wild_stroke_is_bounded_and_a_still_one_is_a_single_place():
    noise = np.random.default_rng(0).uniform(0, 1, (900, 2))
    assert len(fit_keys(noise, 0)) == MAX_STROKE_NODES
    assert fit_keys(np.array([[0.2, 0.3]]), 7) == {7: (0.2, 0.3)}
    assert stroke_keys(np.array([[0.2, 0.3]]), np.array([0.0]), (5, 9), False) == {5: (0.2, 0.3), 8: (0.2, 0.3)}


def test_bursts_of_events_do_not_become_jerks_and_the_way_is_kept():
    points = curve(60)
    bursts = np.floor(np.arange(60) / 6) * 0.1
    way = np.linspace(0, 1, 60)[np.minimum(np.arange(60) // 6 * 6, 59)]
    smooth = steadied(way, 2.0)
    assert smooth[0] == way[0] and smooth[-1] == way[-1] and (np.diff(smooth) >= 0).all()
    assert np.diff(smooth).max() < 0.6 * np.diff(way).max()
    keys = stroke_keys(points, bursts, (0, 60), False)
    places = np.array(list(keys.values()))
    assert np.linalg.norm(places[:, None] - curve(4000)[None], axis=2).min(axis=1).max() < 1e-3


def test_walking_a_polyline():
    corner = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert np.allclose(walk(corner, np.array([0.0, 0.5, 1.5, 2.0])), [[0, 0], [0.5, 0], [1, 0.5], [1, 1]])


def test_impossible_strokes_are_refused():
    with pytest.raises(ValueError):
        stroke_keys(np.zeros((2, 2)), np.array([1.0, 0.0]), (0, 9), False)
    with pytest.raises(ValueError):
        stroke_keys(np.zeros((0, 2)), np.zeros(0), (0, 9), False)
