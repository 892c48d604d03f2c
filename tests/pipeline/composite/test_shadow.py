"""Shadows darken the ground by a factor, never the object, fall where they are asked to, and stay within their bound."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from pipeline.composite.shadow import ShadowGeometry, reach_px
from pipeline.types import BlendSettings, Layer, Reference
from tests.pipeline.composite.scenes import OFF, compose, make_clip_handle, make_disc, make_layer, make_plain, turn_off

HW = (240, 320)
GROUND = np.full((*HW, 3), (170, 150, 130), np.uint8)
BOX = (0.4, 0.3, 0.6, 0.6)


def place(reference: Reference, settings: BlendSettings = OFF, box: tuple[float, float, float, float] = BOX) -> Layer:
    return make_layer(reference, {0: box}, settings, make_clip_handle(hw=HW))


def shadow_alone(**settings: float) -> np.ndarray:
    """f64[H,W]: by what share the ground is darkened; NaN where the object is."""
    reference = make_plain((250, 250, 250), (72, 64))
    plain = compose(GROUND, place(reference))
    frame = compose(GROUND, place(reference, turn_off(**settings)))
    darkness = 1 - frame.image[..., 0] / GROUND[..., 0]
    darkness[plain.touched] = np.nan
    return darkness


@pytest.mark.parametrize("length", [0.0, 0.7])
@pytest.mark.parametrize("angle_deg", [0.0, 90.0, 200.0, 300.0])
def test_never_lightens_the_ground_and_never_touches_the_object(length: float, angle_deg: float) -> None:
    settings = turn_off(shadow=1.0, shadow_length=length, shadow_angle_deg=angle_deg)
    reference = make_disc((72, 64))
    plain = compose(GROUND, place(reference))
    frame = compose(GROUND, place(reference, settings))
    solid = plain.layer[..., 3] == 255
    assert solid.sum() > 1000
    inside = cv2.erode(solid.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert np.array_equal(frame.image[inside], plain.image[inside])
    assert np.abs(frame.image[solid].astype(int) - plain.image[solid]).max() <= 1
    outside = cv2.dilate(plain.touched.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    assert (frame.image[outside] <= GROUND[outside]).all()
    assert (frame.image[outside] < GROUND[outside]).any()
    shade = frame.layer[outside]
    assert not shade[..., :3].any()
    ratios = frame.image[outside] / GROUND[outside]
    assert np.abs(ratios - ratios.mean(axis=1, keepdims=True)).max() < 0.01


def test_contact_is_darkest_at_the_base_and_fades() -> None:
    darkness = shadow_alone(shadow=0.5)
    base = int(0.6 * HW[0])
    column = darkness[base + 2 : base + 60, HW[1] // 2]
    assert column[0] > 0.2
    assert (np.diff(column) <= 0.005).all()
    assert column[-1] == 0
    assert np.nanmax(darkness[: int(0.45 * HW[0])]) == 0


@pytest.mark.parametrize(
    ("angle_deg", "towards"), [(0.0, (1, 0)), (90.0, (0, 1)), (180.0, (-1, 0)), (45.0, (1, 1)), (315.0, (1, -1))]
)
def test_casts_in_the_direction_of_the_angle(angle_deg: float, towards: tuple[int, int]) -> None:
    darkness = np.nan_to_num(shadow_alone(shadow=0.8, shadow_length=0.9, shadow_angle_deg=angle_deg, shadow_softness=0.2))
    contact = np.nan_to_num(shadow_alone(shadow=0.8, shadow_length=0.0, shadow_softness=0.2))
    cast = np.clip(darkness - contact, 0, None)
    y, x = np.indices(HW) + 0.5
    offset = np.array([(cast * x).sum(), (cast * y).sum()]) / cast.sum() - np.array([0.5 * HW[1], 0.6 * HW[0]])
    for got, want in zip(offset, towards, strict=True):
        assert got * want > 4 if want else abs(got) < 8


def test_length_and_softness() -> None:
    def extent(**settings: float) -> int:
        darkness = np.nan_to_num(shadow_alone(shadow=1.0, shadow_angle_deg=90, **settings))
        return int(np.flatnonzero((darkness > 0.2).any(axis=1))[-1])

    base, height = 0.6 * HW[0], 0.3 * HW[0]
    for length in (0.5, 1.0):
        assert abs(extent(shadow_length=length, shadow_softness=0.0) - (base + length * height)) < 6
    edge = [
        np.abs(np.diff(np.nan_to_num(shadow_alone(shadow=1.0, shadow_length=1.0, shadow_softness=softness))[200])).max()
        for softness in (0.0, 1.0)
    ]
    assert edge[1] < 0.5 * edge[0]


@pytest.mark.parametrize("softness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("length", "angle_deg"), [(0.0, 90.0), (0.8, 30.0), (0.8, 250.0)])
def test_stays_within_the_documented_bound(softness: float, length: float, angle_deg: float) -> None:
    settings = turn_off(shadow=1.0, shadow_length=length, shadow_angle_deg=angle_deg, shadow_softness=softness)
    reference = make_plain((250, 250, 250), (72, 64))
    layer = place(reference, settings)
    frame = compose(GROUND, layer)
    x0, y0, x1, y1 = (0.4 * HW[1], 0.3 * HW[0], 0.6 * HW[1], 0.6 * HW[0])
    geometry = ShadowGeometry(x0, y0, x1, y1)
    dx, dy = (length * (y1 - y0) * value for value in (np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))))
    reach = reach_px(geometry, settings)
    rows, cols = np.flatnonzero(frame.touched.any(axis=1)), np.flatnonzero(frame.touched.any(axis=0))
    assert cols[0] >= min(x0, x0 + dx) - reach - 1 and cols[-1] <= max(x1, x1 + dx) + reach + 1
    assert rows[0] >= min(y0, y1 + dy) - reach - 1 and rows[-1] <= max(y1, y1 + dy) + reach + 1


def test_moves_smoothly() -> None:
    """A shadow that moves by a third of a pixel changes little everywhere: it neither jumps nor crawls."""
    reference: Reference = make_plain((250, 250, 250), (72, 64))
    settings = turn_off(shadow=1.0, shadow_length=0.6, shadow_angle_deg=60)
    frames = []
    for step in range(7):
        shift = step / 3 / HW[1]
        box = (BOX[0] + shift, BOX[1], BOX[2] + shift, BOX[3])
        frames.append(compose(GROUND, place(reference, settings, box)).layer[..., 3].astype(int))
    below = int(0.6 * HW[0]) + 4
    changes = [np.abs(second[below:] - first[below:]).max() for first, second in pairwise(frames)]
    assert max(changes) < 40
    assert max(changes) < 2.5 * min(changes) + 3
