import numpy as np

from pipeline.seeds import apply_clicks
from pipeline.types import Click

HW = (120, 160)


def scene():
    """A grey ground with a red square, a blue disk that touches it, and a green disk far away; noise everywhere."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    square = (x >= 30) & (x < 70) & (y >= 40) & (y < 90)
    blue = np.hypot(x - 84, y - 65) < 15
    green = np.hypot(x - 135, y - 30) < 14
    rgb = np.full((*HW, 3), (150, 150, 152), np.uint8)
    for part, color in ((square, (200, 40, 30)), (blue, (40, 60, 200)), (green, (40, 170, 60))):
        rgb[part] = color
    noise = np.random.default_rng(3).integers(-4, 5, (*HW, 3))
    return np.clip(rgb + noise, 0, 255).astype(np.uint8), square, blue & ~square, green


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_first_click_takes_the_thing_under_it_and_another_adds_to_it():
    rgb, square, blue, _ = scene()
    one = apply_clicks(rgb, None, [Click(50, 65)])
    assert one.shape == HW and overlap(one, square) > 0.9
    two = apply_clicks(rgb, None, [Click(50, 65), Click(84, 65)])
    assert overlap(two, square | blue) > 0.9


def test_a_click_takes_away_what_does_not_belong_and_leaves_the_rest_exactly():
    rgb, square, blue, green = scene()
    before = square | blue | green
    before[100:, :5] = True  # a flaw that no click concerns
    after = apply_clicks(rgb, before, [Click(84, 65, is_foreground=False)])
    assert overlap(after, before & ~blue) > 0.95
    far = np.hypot(*(np.mgrid[: HW[0], : HW[1]] - np.array([65, 84])[:, None, None])) > 25
    assert (after == before)[far].all()


def test_a_click_on_what_is_so_already_changes_at_most_its_own_place():
    rgb, square, *_ = scene()
    assert (apply_clicks(rgb, square, [Click(50, 65)]) == square).all()
    assert (apply_clicks(rgb, square, [Click(10, 10, is_foreground=False)]) == square).all()


def test_opposite_clicks_share_the_picture_between_them():
    rgb, square, *_ = scene()
    both = apply_clicks(rgb, None, [Click(84, 65, is_foreground=False), Click(50, 65)])
    assert overlap(both, square) > 0.9 and not both[65, 84]


def test_clicks_are_deterministic_and_may_lie_on_the_very_edge():
    rgb, *_ = scene()
    clicks = [Click(50, 65), Click(160, 120, is_foreground=False), Click(0, 0)]
    assert np.array_equal(apply_clicks(rgb, None, clicks), apply_clicks(rgb, None, clicks))
    assert apply_clicks(np.full((1, 1, 3), 9, np.uint8), None, [Click(0.5, 0.5)]).all()
