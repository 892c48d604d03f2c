import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.keypoints import suggest_points
from pipeline.types import Reference


def make(hw=(300, 200), textured=True):
    """An ellipse on a transparent ground, with a checkerboard on its upper half if ``textured``."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    alpha = (((x - hw[1] / 2) / (0.45 * hw[1])) ** 2 + ((y - hw[0] / 2) / (0.45 * hw[0])) ** 2 < 1).astype(np.float32)
    pattern = 90 + 120 * ((x // 20 + y // 20) % 2) if textured else np.full(hw, 90)
    gray = np.where(y < hw[0] / 2, pattern, 90).astype(np.uint8)
    return Reference(np.repeat(gray[..., None], 3, axis=2), alpha)


def alpha_at(reference, points):
    height, width = reference.hw
    return reference.alpha[(points[:, 1] * height).astype(int), (points[:, 0] * width).astype(int)]


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("textured", [True, False])
def test_points_lie_on_the_object_apart_and_spread_over_it(count, textured):
    reference = make(textured=textured)
    points = suggest_points(reference, count)
    assert points.shape == (count, 2)
    assert (alpha_at(reference, points) == 1).all()
    pixels = points * [200, 300]
    if count > 1:
        distances = np.linalg.norm(pixels[:, None] - pixels[None], axis=2) + 1e9 * np.eye(count)
        assert distances.min() > 0.3 * np.sqrt(300 * 200 * 0.6 / count)
    if count == 16:
        assert np.ptp(pixels[:, 1]) > 150 and np.ptp(pixels[:, 0]) > 90


def test_texture_is_preferred_and_taken_places_are_avoided():
    reference = make()
    first = suggest_points(reference, 4)
    assert (first[:3, 1] < 0.55).all()
    more = suggest_points(reference, 4, first)
    distances = np.linalg.norm((more[:, None] - first[None]) * [200, 300], axis=2)
    assert distances.min() > 15


def test_the_same_picture_gives_the_same_points():
    assert np.array_equal(suggest_points(make(), 8), suggest_points(make(), 8))


def test_tiny_and_thin_objects_still_get_what_fits():
    alpha = np.zeros((40, 40), np.float32)
    alpha[20, 5:35] = 1
    thin = suggest_points(Reference(np.zeros((40, 40, 3), np.uint8), alpha), 4)
    assert 1 <= len(thin) <= 4 and np.allclose(thin[:, 1], 20.5 / 40)
    dot = np.zeros((40, 40), np.float32)
    dot[7, 9] = 1
    assert np.allclose(suggest_points(Reference(np.zeros((40, 40, 3), np.uint8), dot), 4), [[9.5 / 40, 7.5 / 40]])


@pytest.mark.parametrize("count", [0, -1, 65])
def test_impossible_counts_are_refused(count):
    with pytest.raises(UserError):
        suggest_points(make(), count)
