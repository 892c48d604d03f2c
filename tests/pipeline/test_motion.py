"""The motion model: keys to dense arrays, dense arrays to warps, fades without a pop."""

import numpy as np
import pytest

from pipeline import geometry, motion
from pipeline.errors import UserError
from pipeline.motion import BoxKey, LayerMotion, TrajectoryKeys
from pipeline.types import Layer, Reference, SurfaceMotion

CLIP_HW = (200, 400)
NUM_FRAMES = 60
ANCHORS = {"a": (20.0, 20.0), "b": (80.0, 20.0), "c": (80.0, 60.0), "d": (20.0, 60.0)}


def make_reference(hw=(80, 100)):
    alpha = np.zeros(hw, np.float32)
    alpha[10:70, 10:90] = 1
    return Reference(image=np.zeros((*hw, 3), np.uint8), alpha=alpha, points_px=ANCHORS)


def boxes(keys):
    return motion.build_box_sequence(keys, CLIP_HW, NUM_FRAMES)


def trajectories(*items):
    return motion.build_trajectory_set(items, ANCHORS, CLIP_HW, NUM_FRAMES)


def still_box():
    return boxes({0: BoxKey((0.25, 0.2, 0.65, 0.8))})


def anchor(name):
    return np.array(ANCHORS[name])


# -- boxes ------------------------------------------------------------------------------------------------------------------------


def test_convention_boxes_are_linear_in_centre_and_log_size():
    sequence = boxes({0: BoxKey((0.1, 0.1, 0.2, 0.3)), 40: BoxKey((0.5, 0.2, 0.9, 1.0))})
    middle = sequence.boxes_px[20]
    np.testing.assert_allclose((middle[:2] + middle[2:]) / 2, [(0.15 + 0.7) / 2 * 400, (0.2 + 0.6) / 2 * 200], atol=1e-3)
    np.testing.assert_allclose(middle[2:] - middle[:2], [np.sqrt(40 * 160), np.sqrt(40 * 160)], atol=1e-3)
    np.testing.assert_allclose(sequence.boxes_px[59], np.array([0.5, 0.2, 0.9, 1.0]) * [400, 200, 400, 200], atol=1e-3)


def test_one_key_is_a_still_box_and_rotation_is_not_wrapped():
    assert (still_box().boxes_px == still_box().boxes_px[0]).all()
    turning = boxes({0: BoxKey((0, 0, 1, 1)), 59: BoxKey((0, 0, 1, 1), rotation_deg=720)})
    assert turning.rotation_deg[59] == 720 and turning.rotation_deg[30] == pytest.approx(720 * 30 / 59, rel=1e-5)


def test_smooth_is_pchip_and_does_not_overshoot():
    from scipy.interpolate import PchipInterpolator

    corners = {0: 0.0, 10: 0.4, 30: 0.4, 50: 0.1}
    sequence = boxes({frame: BoxKey((x, 0.2, x + 0.2, 0.4), ease="smooth") for frame, x in corners.items()})
    expected = PchipInterpolator(list(corners), [(x + 0.1) * 400 for x in corners.values()])(np.arange(51))
    np.testing.assert_allclose(sequence.boxes_px[:51, [0, 2]].mean(axis=1), expected, atol=1e-3)
    assert sequence.boxes_px[:, 0].max() <= 160.001


def test_hold_jumps_at_the_next_key_and_says_so():
    sequence = boxes({0: BoxKey((0, 0, 0.5, 0.5), ease="hold"), 10: BoxKey((0.5, 0.5, 1, 1)), 20: BoxKey((0, 0, 0.5, 0.5))})
    assert (sequence.boxes_px[:10] == sequence.boxes_px[0]).all() and sequence.boxes_px[10, 0] == 200
    assert np.flatnonzero(sequence.is_cut).tolist() == [10]
    layer = LayerMotion(make_reference(), sequence, None)
    np.testing.assert_array_equal(layer.warp(9.4).matrix, layer.warp(9).matrix)
    np.testing.assert_array_equal(layer.warp(9.6).matrix, layer.warp(10).matrix)


def test_enter_and_leave_say_where_the_object_exists():
    sequence = boxes(
        {5: BoxKey((0, 0, 1, 1), enter=True), 20: BoxKey((0, 0, 1, 1), leave=True), 30: BoxKey((0, 0, 1, 1), leave=True)}
    )
    there = np.zeros(NUM_FRAMES, bool)
    there[5:21] = True
    there[30] = True
    np.testing.assert_array_equal(sequence.is_visible, there)
    layer = LayerMotion(make_reference(), sequence, None)
    np.testing.assert_array_equal([layer.exists(frame) for frame in range(NUM_FRAMES)], there)


# -- trajectories -----------------------------------------------------------------------------------------------------------------


def test_trajectory_has_one_row_per_frame_and_passes_through_every_node():
    nodes = {3: (0.1, 0.2), 17: (0.6, -0.5), 44: (1.5, 0.9)}
    dense = trajectories(TrajectoryKeys("a", nodes))
    assert dense.points_px.shape == (1, NUM_FRAMES, 2)
    for frame, (x, y) in nodes.items():
        np.testing.assert_allclose(dense.points_px[0, frame], [x * 400, y * 200], rtol=1e-6)
    assert (dense.points_px[0, :3] == dense.points_px[0, 3]).all() and (dense.points_px[0, 44:] == dense.points_px[0, 44]).all()


def test_points_closer_than_two_pixels_are_refused():
    items = [TrajectoryKeys(name, {0: (0.5, 0.5)}) for name in ("near", "far", "nearer")]
    with pytest.raises(UserError, match="less than 2 px"):
        motion.build_trajectory_set(items, {"near": (5, 5), "far": (50, 50), "nearer": (6, 5)}, CLIP_HW, NUM_FRAMES)


@pytest.mark.parametrize("spacing", ["timing", "even"])
def test_stroke_resampling_keeps_ends_and_count(spacing):
    points, times = np.array([[0.0, 0], [1, 0], [10, 0]]), np.array([0.0, 5.0, 10.0])
    samples = motion.resample_stroke(points, times, 11, spacing)
    assert samples.shape == (11, 2)
    np.testing.assert_allclose(samples[[0, -1]], points[[0, -1]])
    np.testing.assert_allclose(samples[5], [1, 0] if spacing == "timing" else [5, 0], atol=1e-9)


def test_stroke_of_a_resting_pen_and_bad_strokes():
    assert (motion.resample_stroke(np.full((4, 2), 3.0), np.zeros(4), 7) == 3).all()
    with pytest.raises(ValueError, match="at least one point"):
        motion.resample_stroke(np.zeros((0, 2)), np.zeros(0), 5)
    with pytest.raises(ValueError, match="in order"):
        motion.resample_stroke(np.zeros((2, 2)), np.array([1.0, 0.0]), 5)


# -- warps ------------------------------------------------------------------------------------------------------------------------


def wander(name, start, end, **options):
    return TrajectoryKeys(name, {0: start, 25: ((start[0] + end[0]) / 2, end[1]), 59: end}, **options)


PATHS = [
    wander("a", (0.2, 0.2), (0.5, 0.5)),
    wander("b", (0.5, 0.1), (0.9, 0.4)),
    wander("c", (0.6, 0.6), (0.8, 0.9)),
    wander("d", (0.15, 0.7), (0.55, 0.9)),
]


@pytest.mark.parametrize(("count", "with_boxes"), [(1, True), (2, True), (3, True), (4, True), (2, False), (3, False), (4, False)])
@pytest.mark.parametrize("deform", ["auto", "perspective"])
def test_warp_is_exact_at_every_visible_point(count, with_boxes, deform):
    dense = trajectories(*PATHS[:count])
    layer = LayerMotion(make_reference(), still_box() if with_boxes else None, dense, deform=deform)
    for frame in range(0, NUM_FRAMES, 7):
        for index, name in enumerate(dense.names):
            np.testing.assert_allclose(layer.warp(frame).forward(anchor(name)), dense.points_px[index, frame], atol=0.02)


def test_one_point_shifts_the_rest_pose_and_keeps_its_size():
    layer = LayerMotion(make_reference(), still_box(), trajectories(PATHS[0]))
    rest = LayerMotion(make_reference(), still_box(), None).warp(30).matrix
    np.testing.assert_allclose(layer.warp(30).matrix[:2, :2], rest[:2, :2])


def test_stretch_survives_two_points():
    layer = LayerMotion(make_reference(), boxes({0: BoxKey((0.1, 0.4, 0.9, 0.5))}), trajectories(*PATHS[:2]), fit="stretch")
    assert np.linalg.cond(layer.warp(0).matrix[:2, :2]) == pytest.approx((320 / 80) / (20 / 60), rel=1e-3)


def test_three_points_of_a_similarity_stay_projective():
    turn = geometry.similarity_map(2 * np.exp(1.1j), 100 + 80j)
    goals = {name: geometry.apply_map(turn, anchor(name)) / [400, 200] for name in "abc"}
    layer = LayerMotion(make_reference(), still_box(), trajectories(*(TrajectoryKeys(n, {0: tuple(g)}) for n, g in goals.items())))
    np.testing.assert_allclose(layer.warp(0).matrix, turn, atol=1e-3)


def test_inverse_undoes_forward_when_bent():
    layer = LayerMotion(make_reference(), still_box(), trajectories(*PATHS[:3]))
    warp = layer.warp(20)
    assert warp.matrix is None
    inner = layer.mesh_uv_px.astype(np.float64)
    np.testing.assert_allclose(warp.forward(warp.inverse(warp.forward(inner))), warp.forward(inner), atol=0.02)


@pytest.mark.parametrize("deform", ["auto", "perspective"])
@pytest.mark.parametrize("lost", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]])
def test_nothing_pops_when_points_vanish_or_appear(lost, deform):
    """The largest step that any mesh vertex makes in a frame stays near what it makes while nothing changes."""
    items = [TrajectoryKeys(i.point, i.keys, i.ease, ((12, 30),) if i.point in lost else None) for i in PATHS]
    layer = LayerMotion(make_reference(), still_box(), trajectories(*items), deform=deform)
    meshes = np.array([layer.mesh(frame) for frame in range(NUM_FRAMES)])
    steps = np.linalg.norm(np.diff(meshes, axis=0), axis=2).max(axis=1)
    whole = LayerMotion(make_reference(), still_box(), trajectories(*PATHS), deform=deform)
    with_all = np.linalg.norm(np.diff([whole.mesh(frame) for frame in range(NUM_FRAMES)], axis=0), axis=2).max(axis=1).max()
    gap = max(np.linalg.norm(meshes[edge] - whole.mesh(edge), axis=1).max() for edge in (12 - 8, 29 + 8))
    assert steps.max() <= 1.5 * with_all + gap / motion.FADE_FRAMES * 1.5
    assert gap > 5, "the case must be one that could pop"


def test_a_fading_point_is_gone_after_eight_frames():
    items = [PATHS[0], TrajectoryKeys("b", PATHS[1].keys, "smooth", ((0, 20),))]
    layer = LayerMotion(make_reference(), still_box(), trajectories(*items))
    alone = LayerMotion(make_reference(), still_box(), trajectories(PATHS[0]))
    np.testing.assert_allclose(layer.warp(27 + 1).matrix, alone.warp(28).matrix, atol=1e-9)
    assert np.abs(layer.warp(26).matrix - alone.warp(26).matrix).max() > 1e-3


def test_trajectories_without_boxes_need_two_at_once():
    apart = [TrajectoryKeys("a", PATHS[0].keys, "smooth", ((0, 10),)), TrajectoryKeys("b", PATHS[1].keys, "smooth", ((10, 60),))]
    with pytest.raises(UserError, match="at least two trajectories"):
        LayerMotion(make_reference(), None, trajectories(*apart))


def test_effective_box_unites_keyed_box_and_warped_bounds():
    sequence = still_box()
    alone = LayerMotion(make_reference(), sequence, None)
    np.testing.assert_allclose(alone.effective_boxes_px[0], sequence.boxes_px[0], atol=0.01)
    away = LayerMotion(make_reference(), sequence, trajectories(TrajectoryKeys("a", {0: (0.9, 0.9)})))
    x0, y0, x1, y1 = away.effective_boxes_px[0]
    assert (x0, y0) == pytest.approx(tuple(sequence.boxes_px[0, :2])) and x1 > 400 and y1 > 200


def test_folds_are_found_and_honest_motion_has_none():
    crossed = [TrajectoryKeys(n, {0: g}) for n, g in zip("abcd", [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)], strict=True)]
    assert LayerMotion(make_reference(), still_box(), trajectories(*crossed)).folded_frames(0, 2) == (0, 1)
    assert LayerMotion(make_reference(), still_box(), trajectories(*PATHS[:2])).folded_frames() == ()


def test_collinear_goals_in_perspective_fall_back_and_stay_exact():
    flat = [TrajectoryKeys(n, {0: g}) for n, g in zip("abcd", [(0.1, 0.5), (0.4, 0.5), (0.7, 0.5), (0.2, 0.9)], strict=True)]
    layer = LayerMotion(make_reference(), still_box(), trajectories(*flat), deform="perspective")
    np.testing.assert_allclose(layer.warp(0).forward(anchor("b")), [160, 100], atol=0.02)


def test_points_that_meet_shrink_the_object_to_a_dot_and_stay_invertible():
    meeting = [TrajectoryKeys("a", {0: (0.2, 0.5), 30: (0.5, 0.5)}), TrajectoryKeys("b", {0: (0.8, 0.5), 30: (0.5, 0.5)})]
    for sequence in (None, still_box()):
        layer = LayerMotion(make_reference(), sequence, trajectories(*meeting))
        matrix = layer.warp(40).matrix
        assert abs(np.linalg.det(matrix)) > 0
        np.testing.assert_allclose(layer.warp(40).forward(anchor("a")), [200, 100], atol=0.05)


def test_equal_input_gives_equal_output():
    one, two = (LayerMotion(make_reference(), still_box(), trajectories(*PATHS[:3])) for _ in range(2))
    np.testing.assert_array_equal(one.mesh(33), two.mesh(33))


# -- a followed surface -----------------------------------------------------------------------------------------------------------


def make_surface(kind="homography", lost=()):
    """A surface that drifts, turns, grows and (``homography``) leans, known everywhere but at the frames ``lost``."""
    matrices = np.tile(np.eye(3), (NUM_FRAMES, 1, 1))
    for frame in range(1, NUM_FRAMES):
        turned = geometry.similarity_map((1 + 0.004 * frame) * np.exp(0.01j * frame), complex(2 * frame, -frame))
        lean = np.array([[1, 0, 0], [0, 1, 0], [4e-6 * frame, 2e-6 * frame, 1]]) if kind == "homography" else np.eye(3)
        matrices[frame] = lean @ turned
    return SurfaceMotion(matrices, ~np.isin(np.arange(NUM_FRAMES), list(lost)))


def still_surface():
    return SurfaceMotion(np.tile(np.eye(3), (NUM_FRAMES, 1, 1)), np.ones(NUM_FRAMES, np.bool_))


@pytest.mark.parametrize("count", [0, 2, 4])
@pytest.mark.parametrize("kind", ["similarity", "homography"])
def test_convention_a_surface_comes_after_the_warp(kind, count):
    paths = trajectories(*PATHS[:count]) if count else None
    plain, followed = (LayerMotion(make_reference(), still_box(), paths, surface=surface) for surface in (None, make_surface(kind)))
    points = np.random.default_rng(0).uniform([10, 10], [90, 70], (20, 2))
    for frame in (0, 17, 59):
        matrix = make_surface(kind).matrices[frame]
        warp = followed.warp(frame)
        expected = geometry.apply_map(matrix, plain.warp(frame).forward(points))
        np.testing.assert_allclose(warp.forward(points), expected, atol=1e-9)
        np.testing.assert_allclose(warp.inverse(expected), points, atol=0.02)
        assert (warp.matrix is None) == (plain.warp(frame).matrix is None)
        if paths is not None and frame < 20:
            goal = motion.carry_points(make_surface(kind), paths.points_px)[0, frame]
            np.testing.assert_allclose(warp.forward(anchor(paths.names[0])), goal, atol=0.02)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_surface_that_stands_still_changes_no_bit(count):
    paths = trajectories(*PATHS[:count]) if count else None
    plain, followed = (LayerMotion(make_reference(), still_box(), paths, surface=one) for one in (None, still_surface()))
    for time in (0, 12, 12.3, 33.7):
        np.testing.assert_array_equal(plain.warp(time).forward(plain.mesh_uv_px), followed.warp(time).forward(plain.mesh_uv_px))
    np.testing.assert_array_equal(plain.effective_boxes_px, followed.effective_boxes_px)


def test_between_frames_a_surface_moves_on_evenly_but_not_across_a_loss():
    layer = LayerMotion(make_reference(), still_box(), None, surface=make_surface(lost=range(30, 40)))
    point = np.array([50.0, 40.0])
    before, middle, after = (layer.warp(time).forward(point) for time in (10, 10.5, 11))
    np.testing.assert_allclose(middle, (before + after) / 2, atol=0.05)
    np.testing.assert_allclose(layer.warp(10.999999).forward(point), after, atol=1e-3)
    np.testing.assert_array_equal(layer.warp(29.4).forward(point), layer.warp(29).forward(point))
    np.testing.assert_array_equal(layer.warp(29.6).forward(point), layer.warp(30).forward(point))


def test_effective_boxes_and_folds_go_with_the_surface():
    surface = make_surface()
    layer = LayerMotion(make_reference(), still_box(), None, surface=surface)
    corners = geometry.box_corners(still_box().boxes_px[40])
    expected = geometry.bounds_of(geometry.apply_map(surface.matrices[40], corners))
    np.testing.assert_allclose(layer.effective_boxes_px[40], expected, atol=1.0)
    assert layer.folded_frames() == ()
    carried = motion.carry_boxes(surface, still_box())
    centre = geometry.apply_map(surface.matrices[40], corners.mean(axis=0))
    np.testing.assert_allclose(carried.boxes_px[40].reshape(2, 2).mean(axis=0), centre, atol=1e-3)
    assert carried.rotation_deg[40] == pytest.approx(np.rad2deg(0.4), abs=1)


def test_a_layer_brings_its_surface(tmp_path):
    layer = Layer("cup", "insert", (make_reference(),), boxes=still_box(), surface=make_surface())
    np.testing.assert_array_equal(
        motion.build_layer_motion(layer).mesh(20), LayerMotion(make_reference(), still_box(), None, surface=make_surface()).mesh(20)
    )
