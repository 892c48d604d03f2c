"""Plane geometry against hand-computed cases."""

import numpy as np
import pytest

from pipeline import geometry


def test_convention_rotation_is_clockwise_as_seen():
    corners = geometry.box_corners(np.array([0.0, 0.0, 4.0, 2.0]), 90)
    np.testing.assert_allclose(corners[0], [3.0, -1.0], atol=1e-12)  # the top left corner goes to the top right


def test_similarity_meets_two_points_and_never_reflects():
    source = np.array([[0.0, 0.0], [1.0, 0.0]])
    target = np.array([[5.0, 5.0], [5.0, 7.0]])
    matrix = geometry.fit_similarity(source, target)
    np.testing.assert_allclose(geometry.apply_map(matrix, source), target, atol=1e-12)
    assert np.linalg.det(matrix[:2, :2]) == pytest.approx(4.0)


def test_similarity_of_one_point_is_a_shift_and_of_none_an_error():
    matrix = geometry.fit_similarity(np.array([[2.0, 3.0]]), np.array([[4.0, 7.0]]))
    np.testing.assert_allclose(matrix, geometry.translation(np.array([2.0, 4.0])), atol=1e-12)
    with pytest.raises(ValueError, match="at least one point"):
        geometry.fit_similarity(np.zeros((0, 2)), np.zeros((0, 2)))


def test_similarity_is_least_squares():
    rng = np.random.default_rng(0)
    source = rng.uniform(-50, 50, (6, 2))
    target = source @ np.array([[0.0, 1.0], [-1.0, 0.0]]) * 1.7 + [3, 4] + rng.normal(0, 2, (6, 2))
    matrix = geometry.fit_similarity(source, target)

    def cost(candidate):
        return ((geometry.apply_map(candidate, source) - target) ** 2).sum()

    best = cost(matrix)
    for step in (1e-3, -1e-3):
        for place in ((0, 0, 1, 1, 1), (1, 0, 0, 1, -1), (0, 2, 0, 2, 1), (1, 2, 1, 2, 1)):
            nudged = matrix.copy()
            nudged[place[0], place[1]] += step
            if place[1] < 2:
                nudged[place[2], place[3]] += step * place[4]
            assert cost(nudged) >= best


def test_homography_meets_its_four_points_and_refuses_three_on_a_line():
    source = np.array([[0.0, 0], [100, 0], [100, 80], [0, 80]])
    target = np.array([[10.0, 12], [90, 30], [95, 70], [5, 88]])
    matrix = geometry.fit_homography(source, target)
    np.testing.assert_allclose(geometry.apply_map(matrix, source), target, atol=1e-9)
    with pytest.raises(ValueError, match="on a line"):
        geometry.fit_homography(source, np.array([[0.0, 0], [1, 1], [2, 2], [0, 5]]))


def test_rigid_mls_is_exact_at_handles_and_reproduces_rigid_motion():
    rng = np.random.default_rng(1)
    handles = rng.uniform(0, 100, (5, 2))
    targets = handles + rng.normal(0, 4, (5, 2))
    np.testing.assert_allclose(geometry.deform_rigid_mls(handles, handles, targets), targets, atol=1e-6)
    turn = geometry.similarity_map(np.exp(0.4j), 12 - 3j)
    points = rng.uniform(-20, 120, (50, 2))
    moved = geometry.deform_rigid_mls(points, handles, geometry.apply_map(turn, handles))
    np.testing.assert_allclose(moved, geometry.apply_map(turn, points), atol=1e-9)


def test_contain_keeps_aspect_at_its_anchor_and_stretch_fills():
    tight, box = np.array([10.0, 0, 30, 40]), np.array([100.0, 100, 200, 160])
    corners = geometry.box_corners(tight)
    centre = geometry.bounds_of(geometry.apply_map(geometry.place_in_box(tight, box, 0, "contain", "center"), corners))
    np.testing.assert_allclose(centre, [135, 100, 165, 160], atol=1e-9)
    wide = np.array([0.0, 0, 40, 10])
    bottom = geometry.bounds_of(
        geometry.apply_map(geometry.place_in_box(wide, box, 0, "contain", "bottom"), geometry.box_corners(wide))
    )
    np.testing.assert_allclose(bottom, [100, 135, 200, 160], atol=1e-9)
    full = geometry.bounds_of(geometry.apply_map(geometry.place_in_box(tight, box, 0, "stretch", "center"), corners))
    np.testing.assert_allclose(full, box, atol=1e-9)


def test_grid_mesh_covers_its_box_with_clockwise_triangles():
    vertices, triangles = geometry.grid_mesh(np.array([2.0, 3, 12, 8]), 10)
    assert len(vertices) == 11 * 6 and len(triangles) == 10 * 5 * 2
    areas = geometry.signed_areas(vertices[triangles])
    assert areas.min() > 0 and areas.sum() == pytest.approx(50)


def test_points_on_the_horizon_stay_finite():
    matrix = np.array([[1.0, 0, 0], [0, 1, 0], [0.01, 0, 0]])
    assert np.isfinite(geometry.apply_map(matrix, np.array([[0.0, 5.0]]))).all()


def test_a_box_is_carried_by_a_map_and_back():
    turned = geometry.similarity_map(1.5 * np.exp(0.3j), 20 - 7j)
    box, rotation_deg = geometry.carry_box(turned, np.array([10.0, 20, 50, 40]), 12)
    np.testing.assert_allclose(box[2:] - box[:2], [60, 30])
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, geometry.apply_map(turned, np.array([30.0, 30.0])))
    assert rotation_deg == pytest.approx(12 + np.rad2deg(0.3))
    leaning = np.array([[1, 0, 0], [0, 1, 0], [1e-3, -5e-4, 1]]) @ turned
    carried = geometry.carry_box(leaning, np.array([10.0, 20, 50, 40]), 12)
    back, back_deg = geometry.carry_box_back(leaning, *carried)
    np.testing.assert_allclose(back, [10, 20, 50, 40], atol=1e-9)
    assert back_deg == pytest.approx(12)
