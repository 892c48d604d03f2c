"""Motion that is left of a scene: where it is seen, and behind what hides it."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.parallax import Grid, Motion, choose_detail, complete_flow, invert_flow, measure_flow, spread_flow

HW = (120, 180)
GRID = Grid.over(HW)
EVERYWHERE = np.ones(HW, bool)


def paint(seed=3):
    noise = np.random.default_rng(seed).integers(0, 255, (200, 260, 3)).astype(np.float32)
    return np.clip((cv2.GaussianBlur(noise, (0, 0), 2.0) - 128) * 5 + 128, 0, 255).astype(np.uint8)


def seen(shift):
    """A picture that shows what another shows ``shift`` pixels further right."""
    return GRID.even(paint()[10 : 10 + HW[0], 40 - shift : 40 - shift + HW[1]])


def near_and_far(amount):
    """A flow whose left part, what is near, moves by ``amount`` pixels, and the rest not at all."""
    flow = np.zeros((*HW, 2), np.float32)
    flow[:, :90, 0] = amount
    return flow


def test_convention_a_flow_points_from_the_first_picture_into_the_second():
    flow, trust = measure_flow(GRID, seen(0), EVERYWHERE, seen(3), EVERYWHERE)
    assert np.abs(np.median(spread_flow(flow, trust, is_fine=True).reshape(-1, 2), axis=0) - [3, 0]).max() < 0.2
    known = EVERYWHERE.copy()
    known[40:80, 60:120] = False
    _, trust = measure_flow(GRID, seen(0), known, seen(3), EVERYWHERE)
    assert not trust[~known].any() and trust[10:30, 20:160].mean() > 0.3


def test_a_guess_is_corrected():
    guess = np.zeros((*HW, 2), np.float32)
    guess[..., 0] = 18
    flow, _ = measure_flow(GRID, seen(0), EVERYWHERE, seen(20), EVERYWHERE, guess)
    assert np.abs(np.median(flow.reshape(-1, 2), axis=0) - [20, 0]).max() < 0.3


def test_a_flow_is_known_behind_a_thing_from_how_the_scene_moved_at_other_times():
    motion = Motion.of(GRID, 0, [8, 16, 24], [near_and_far(4), near_and_far(8), near_and_far(12)])
    assert len(motion.fields) == 1 and motion.shares.shape == (4, 1)
    flow, trust = near_and_far(-2.0), np.ones(HW, np.float32)
    flow[30:90, 60:120], trust[30:90, 60:120] = 0, 0
    completed = complete_flow(flow, trust, motion.fields, np.zeros(1))
    np.testing.assert_allclose(completed[40:80, 65:85, 0], -2, atol=0.15)
    np.testing.assert_allclose(completed[40:80, 95:115, 0], 0, atol=0.15)
    plain = complete_flow(flow, trust, motion.fields[:0], np.zeros(0))
    assert np.abs(plain[40:80, 95:115, 0]).max() > 0.4, "without the fields the edge is not known"


def test_motion_goes_on_as_it_went():
    motion = Motion.of(GRID, 0, [8, 16], [near_and_far(4), near_and_far(8)])
    for frame_index, amount in ((0, 0), (4, 2), (12, 6), (20, 10)):
        flow = np.tensordot(motion.expected(frame_index), motion.fields, 1)
        np.testing.assert_allclose(flow, near_and_far(amount), atol=1e-3)
    assert Motion.of(GRID, 0, [8], [near_and_far(0)]).expected(8).shape == (0,)


def test_fields_are_seen_over_another_grid():
    motion = Motion.of(GRID, 0, [8], [near_and_far(4)])
    shift = np.array([[1, 0, 60], [0, 1, 0], [0, 0, 1.0]])
    moved = motion.seen_over(Grid.over((120, 100)), shift)[0, 60, :, 0]
    assert (np.abs(moved[:29]) > 0.5).all() and (np.abs(moved[31:]) < 1e-3).all()


def test_what_drives_through_the_scene_is_not_followed():
    smooth = np.zeros((*HW, 2), np.float32)
    car = smooth.copy()
    car[40:80, 60:100] = 30
    picture, known = seen(0), EVERYWHERE
    flows = choose_detail(GRID, [smooth] * 4, [smooth, car, car, car], [(picture, known)] * 4)
    assert max(np.abs(flow).max() for flow in flows) < 0.1


def test_near_things_are_followed_in_detail():
    smooth = [np.full((*HW, 2), 0.0, np.float32)] * 3
    fine = [np.zeros((*HW, 2), np.float32) for _ in range(3)]
    for flow, shift in zip(fine, (0, 3, 6), strict=True):
        flow[..., 0] = shift
    flows = choose_detail(GRID, smooth, fine, [(seen(shift), EVERYWHERE) for shift in (0, 3, 6)])
    assert np.median(flows[2][..., 0]) > 5


def test_the_way_back():
    flow = np.zeros((*HW, 2), np.float32)
    flow[..., 0] = np.linspace(0, 6, HW[1])
    back = invert_flow(GRID, flow)
    there_and_back = back + GRID.moved(flow, back)
    assert np.abs(there_and_back[:, 10:-10]).max() < 0.05
