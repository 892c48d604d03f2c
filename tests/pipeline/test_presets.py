import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.presets import PRESET_NAMES, suggest_preset
from pipeline.types import Reference


def face(hw=(360, 300), shift=(0, 0), scale=1.0):
    """A drawn face: an oval of skin with dark eyes, brows and mouth, hair around it; and where the eyes and the mouth are."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    x0, y0 = 150 + shift[0], 190 + shift[1]
    u, v = (x - x0) / scale, (y - y0) / scale
    rgb = np.full((*hw, 3), (90, 60, 40), np.uint8)
    skin = (u / 62) ** 2 + (v / 88) ** 2 < 1
    hair = (u / 84) ** 2 + ((v + 20) / 104) ** 2 < 1
    rgb[skin] = (224, 172, 140)
    dark = np.zeros(hw, bool)
    for side in (-1, 1):
        dark |= ((u - side * 28) / 12) ** 2 + ((v + 18) / 6) ** 2 < 1
        dark |= (np.abs(u - side * 30) < 16) & (np.abs(v + 38) < 3)
    dark |= (np.abs(u) < 24) & (np.abs(v - 44) < 4)
    rgb[dark] = (60, 35, 30)
    places = {"eyes": [(x0 + side * 28 * scale, y0 - 18 * scale) for side in (-1, 1)], "mouth": (x0, y0 + 44 * scale)}
    return Reference(rgb, (skin | hair).astype(np.float32)), places


@pytest.mark.parametrize(("shift", "scale"), [((0, 0), 1.0), ((30, 20), 0.8), ((-20, -10), 1.15)])
def test_the_face_is_laid_over_eyes_and_mouth(shift, scale):
    reference, places = face(shift=shift, scale=scale)
    points = {name: np.array(at) * [300, 360] for name, at in suggest_preset(reference, "face").items()}
    assert tuple(points) == PRESET_NAMES["face"] and len(points) == 16
    for side, at in zip(("left", "right"), places["eyes"], strict=True):
        middle = (points[f"{side}_eye_outer"] + points[f"{side}_eye_inner"]) / 2
        assert np.linalg.norm(middle - at) < 14 * scale
    mouth = (points["mouth_left"] + points["mouth_right"]) / 2
    assert np.linalg.norm(mouth - places["mouth"]) < 16 * scale
    assert points["left_jaw"][0] < points["mouth_left"][0] < points["mouth_right"][0] < points["right_jaw"][0]
    assert points["left_brow_inner"][1] < points["left_eye_inner"][1] < points["nose_tip"][1] < points["chin"][1]


def shirt(sleeves=True):
    """A T of cloth: body 100..200, sleeves that slant down to 40 and 260; size 300 x 320."""
    import cv2

    half = [(130, 40), (100, 50), (40, 110), (65, 140), (100, 105), (100, 280)] if sleeves else [(130, 40), (110, 50), (100, 280)]
    outline = half + [(300 - x, y) for x, y in reversed(half)]
    alpha = np.zeros((320, 300), np.uint8)
    cv2.fillPoly(alpha, [np.array(outline, np.int32)], 1)
    return Reference(np.full((320, 300, 3), 90, np.uint8), alpha.astype(np.float32))


def test_a_garment_gets_the_corners_of_its_outline():
    points = {name: np.array(at) * [300, 320] for name, at in suggest_preset(shirt(), "garment").items()}
    assert tuple(points) == PRESET_NAMES["garment"]
    expected = {"left_collar": (130, 40), "left_shoulder": (100, 50), "left_cuff_top": (40, 110), "left_cuff_bottom": (65, 140)}
    expected |= {"left_armpit": (100, 105), "left_waist": (100, 192), "left_hem": (100, 280)}
    for name, at in expected.items():
        assert np.linalg.norm(points[name] - at) < 12, name
        mirrored = points[name.replace("left", "right")]
        assert np.linalg.norm(mirrored - [300 - at[0], at[1]]) < 12, name


def test_a_garment_without_sleeves_has_no_cuffs():
    points = suggest_preset(shirt(sleeves=False), "garment")
    assert {"left_collar", "right_hem", "left_waist"} <= set(points) and not any("cuff" in name for name in points)


@pytest.mark.parametrize("preset", ["face", "garment"])
@pytest.mark.parametrize("shape", ["whole", "speckled", "line"])
def test_any_outline_gets_points_on_the_picture_and_apart(preset, shape):
    alpha = np.ones((90, 70), np.float32)
    if shape == "speckled":
        alpha = (np.random.default_rng(5).random((90, 70)) > 0.5).astype(np.float32)
    if shape == "line":
        alpha[:, 30:] = 0
    points = np.array(list(suggest_preset(Reference(np.full((90, 70, 3), 120, np.uint8), alpha), preset).values()))
    assert len(points) >= 4 and points.min() >= 0 and points.max() <= 1
    apart = np.linalg.norm((points[:, None] - points[None]) * [70, 90], axis=2) + 1e9 * np.eye(len(points))
    assert apart.min() >= 4


def test_what_is_too_small_or_unknown_is_refused():
    alpha = np.zeros((40, 40), np.float32)
    alpha[4:12, 4:12] = 1
    with pytest.raises(UserError, match="too small"):
        suggest_preset(Reference(np.zeros((40, 40, 3), np.uint8), alpha), "face")
    with pytest.raises(UserError, match="face and for a garment"):
        suggest_preset(shirt(), "shoe")  # type: ignore[arg-type]
