"""The engine: what is touched, what each option does, hold-outs, several layers, determinism, order, cancelling."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import masks, media
from pipeline.composite.engine import CompositeEngine, composite_frame, plan_layers
from pipeline.engines import ignore_progress
from pipeline.errors import Cancelled
from pipeline.motion import TrajectoryKeys, build_layer_motion, build_trajectory_set
from pipeline.types import BlendSettings, Clip, Frame, InsertionRequest, Layer, MaskTrack, Progress, Reference, TrajectorySet
from tests.pipeline.composite.scenes import (
    HW,
    OFF,
    compose,
    make_clip_handle,
    make_disc,
    make_layer,
    make_plain,
    make_plans,
    make_source,
    paint_texture,
    turn_off,
)
from tests.tiny import make_clip

BOX = (0.21, 0.18, 0.63, 0.71)
MOVING = {0: (0.1, 0.2, 0.5, 0.6), 4: (0.5, 0.3, 0.9, 0.7)}
BACKGROUND = paint_texture(HW, seed=9)


def lay_over(layer: np.ndarray, image: np.ndarray) -> np.ndarray:
    """What any editor does with the layer: straight alpha over."""
    alpha = layer[..., 3:] / 255
    return image * (1 - alpha) + layer[..., :3] * alpha


def read_all(request: InsertionRequest) -> list[Frame]:
    return list(CompositeEngine().run(request, ignore_progress, lambda message: None))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Ten grainy warm frames, stored exactly."""

    def paint(frame_index: int) -> np.ndarray:
        noise = np.random.default_rng(frame_index).normal(0, 4, (*HW, 3))
        ramp = np.linspace(60, 190, HW[1])[None, :, None] * np.array([1.0, 0.85, 0.6])
        return np.clip(ramp + noise, 0, 255).astype(np.uint8)

    path = tmp_path_factory.mktemp("clip") / "warm.mkv"
    return media.probe_clip(make_clip(path, codec="ffv1", pixel_format="bgr0", color=None, num_frames=10, hw=HW, images=paint))


def test_touched_is_the_analytic_shape_grown_by_two_pixels() -> None:
    reference = make_disc((60, 80))
    layer = make_layer(reference, {0: BOX})
    frame = compose(BACKGROUND, layer)
    warp = build_layer_motion(layer).warp(0)
    centers = np.stack(np.meshgrid(np.arange(HW[1]) + 0.5, np.arange(HW[0]) + 0.5), axis=-1)
    at = warp.inverse(centers).astype(np.float32) - 0.5
    analytic = cv2.remap((reference.alpha > 0).astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR) > 0
    grown = cv2.dilate(analytic.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))) > 0
    assert frame.touched.any()
    assert not (frame.touched & ~grown).any()
    assert np.array_equal(frame.image[~frame.touched], BACKGROUND[~frame.touched])
    assert not frame.layer[~frame.touched].any()


EVERY_OPTION = {
    "shadow": 0.8,
    "feather_px": 2.5,
    "opacity": 0.6,
    "motion_blur": 0.8,
}


@pytest.mark.parametrize("option", EVERY_OPTION)
def test_every_option_changes_the_picture(option: str) -> None:
    plain = compose(BACKGROUND, make_layer(make_disc(), MOVING), frame_index=2)
    other = compose(BACKGROUND, make_layer(make_disc(), MOVING, turn_off(**{option: EVERY_OPTION[option]})), frame_index=2)
    assert np.abs(other.image.astype(int) - plain.image).max() > 8


@pytest.mark.parametrize("option", ["harmonize", "grain"])
def test_measured_options_change_the_picture(clip: Clip, option: str) -> None:
    layer = make_layer(make_plain((150, 150, 150)), {0: BOX}, clip=clip)
    plain = InsertionRequest(clip, (3, 4), (layer,))
    other = InsertionRequest(clip, (3, 4), (replace(layer, blend=turn_off(**{option: 1.0})),))
    difference = np.abs(read_all(other)[0].image.astype(int) - read_all(plain)[0].image)
    assert difference.max() > 8


def test_shadow_details_change_nothing_while_the_shadow_is_off() -> None:
    plain = compose(BACKGROUND, make_layer(make_disc(), {0: BOX}))
    other = compose(
        BACKGROUND, make_layer(make_disc(), {0: BOX}, turn_off(shadow_length=1.0, shadow_angle_deg=10, shadow_softness=1.0))
    )
    assert np.array_equal(plain.image, other.image)
    assert np.array_equal(plain.layer, other.layer)


def test_invisible_at_opacity_zero_even_with_a_shadow() -> None:
    frame = compose(BACKGROUND, make_layer(make_disc(), {0: BOX}, turn_off(opacity=0, shadow=1, feather_px=2)))
    assert not frame.touched.any()
    assert np.array_equal(frame.image, BACKGROUND)


def test_feather_grows_by_three_sigma_at_most() -> None:
    sigma_px = 3.0
    plain = compose(BACKGROUND, make_layer(make_disc(), {0: BOX}))
    soft = compose(BACKGROUND, make_layer(make_disc(), {0: BOX}, turn_off(feather_px=sigma_px)))
    size = 2 * int(np.ceil(3 * sigma_px) + 2) + 1
    bound = cv2.dilate(plain.touched.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
    assert soft.touched.sum() > plain.touched.sum()
    assert not (soft.touched & ~bound).any()


def test_edges_keep_the_object_colour() -> None:
    """A red object feathered over green: no pixel is darker than the straight line between the two, no blue appears."""
    green = np.zeros((*HW, 3), np.uint8)
    green[..., 1] = 200
    frame = compose(green, make_layer(make_plain((200, 0, 0)), {0: BOX}, turn_off(feather_px=3)))
    total = frame.image.astype(int).sum(axis=2)
    assert np.abs(total - 200).max() <= 2
    assert frame.image[..., 2].max() == 0


def test_the_layer_over_the_source_is_the_picture() -> None:
    settings = turn_off(shadow=0.7, shadow_length=0.5, feather_px=1.5, motion_blur=0.5, opacity=0.9)
    layers = (make_layer(make_disc(), MOVING, settings), make_layer(make_disc(seed=5), {0: (0.3, 0.3, 0.8, 0.9)}, settings))
    one = compose(BACKGROUND, layers[0], frame_index=1)
    assert np.abs(lay_over(one.layer, BACKGROUND) - one.image).max() <= 0.51
    both = compose(BACKGROUND, *layers, frame_index=1)
    assert np.abs(lay_over(both.layer, BACKGROUND) - both.image).max() <= 2
    assert np.array_equal(both.image[~both.touched], BACKGROUND[~both.touched])


def test_later_layers_lie_over_earlier_ones() -> None:
    red, blue = make_layer(make_plain((220, 0, 0)), {0: BOX}), make_layer(make_plain((0, 0, 220)), {0: BOX})
    y, x = int(0.45 * HW[0]), int(0.42 * HW[1])
    assert tuple(compose(BACKGROUND, red, blue).image[y, x]) == (0, 0, 220)
    assert tuple(compose(BACKGROUND, blue, red).image[y, x]) == (220, 0, 0)


def test_a_holdout_keeps_its_core_and_takes_the_shadow_too() -> None:
    mask = np.zeros(HW, bool)
    mask[:, :75] = True
    clip = make_clip_handle()
    track = MaskTrack(HW, (masks.encode_rle(mask),) * clip.num_frames, feather_px=2.0)
    settings = turn_off(shadow=1.0, shadow_length=0.6, shadow_angle_deg=120, feather_px=1.0)
    free = compose(BACKGROUND, make_layer(make_disc(), {0: BOX}, settings))
    held = compose(BACKGROUND, make_layer(make_disc(), {0: BOX}, settings, holdouts=(track,)))
    core = np.zeros(HW, bool)
    core[:, :70] = True
    assert (free.touched & core).any()
    assert not (held.touched & core).any()
    assert np.array_equal(held.image[core], BACKGROUND[core])
    beyond = np.zeros(HW, bool)
    beyond[:, 80:] = True
    assert np.array_equal(held.image[beyond], free.image[beyond])


def test_partly_and_fully_outside_the_picture() -> None:
    settings = turn_off(shadow=0.8, shadow_length=0.8, feather_px=2, motion_blur=0.5)
    for box in ((-0.3, -0.2, 0.2, 0.3), (0.8, 0.7, 1.4, 1.6), (-0.5, -0.5, 1.5, 1.5)):
        assert compose(BACKGROUND, make_layer(make_disc(), {0: box}, settings)).touched.any()
    gone = make_layer(make_disc(), {0: (0.2, 0.2, 0.4, 0.4), 4: (1.7, 1.7, 1.9, 1.9)}, settings)
    assert not compose(BACKGROUND, gone, frame_index=4).touched.any()


def test_one_pixel_pictures_and_objects() -> None:
    dot = make_layer(make_disc(), {0: BOX}, turn_off(shadow=1, feather_px=1), make_clip_handle(hw=(1, 1)))
    assert compose(np.full((1, 1, 3), 99, np.uint8), dot).image.shape == (1, 1, 3)
    tiny = make_layer(make_disc(), {0: (0.5, 0.5, 0.506, 0.508)}, turn_off(shadow=1, shadow_length=1, motion_blur=1, feather_px=1))
    assert compose(BACKGROUND, tiny).touched.any()


def test_same_request_same_pixels_whatever_the_range_and_another_seed_other_grain(clip: Clip) -> None:
    settings = replace(OFF, harmonize=1, shadow=0.5, motion_blur=0.5, grain=1, feather_px=1)
    request = InsertionRequest(clip, (0, 10), (make_layer(make_disc(), {0: BOX, 9: (0.3, 0.2, 0.8, 0.8)}, settings, clip),))
    whole, again = read_all(request), read_all(request)
    assert [frame.frame_index for frame in whole] == list(range(10))
    for first, second in zip(whole, again, strict=True):
        assert np.array_equal(first.image, second.image) and np.array_equal(first.layer, second.layer)
    part = read_all(replace(request, frame_range=(4, 7)))
    assert [frame.frame_index for frame in part] == [4, 5, 6]
    for first, second in zip(whole[4:7], part, strict=True):
        assert np.array_equal(first.image, second.image)
    other = read_all(replace(request, frame_range=(4, 5), sampling=replace(request.sampling, seed=1)))
    assert not np.array_equal(other[0].image, whole[4].image)


def test_objects_that_do_not_exist_yet_touch_nothing() -> None:
    layer = make_layer(make_disc(), MOVING)
    assert layer.boxes is not None
    hidden = replace(layer, boxes=replace(layer.boxes, is_visible=np.array([False, False, True, True, True])))
    plans = make_plans(hidden)
    assert not composite_frame(plans, make_source(BACKGROUND, 1)).touched.any()
    assert composite_frame(plans, make_source(BACKGROUND, 2)).touched.any()


def test_progress_cancel_and_threads(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    read_frames = media.read_frames

    def watched(*arguments: object) -> Iterator[object]:
        try:
            yield from read_frames(*arguments)  # type: ignore[arg-type]
        finally:
            closed.append(True)

    monkeypatch.setattr(media, "read_frames", watched)
    request = InsertionRequest(clip, (0, 10), (make_layer(make_disc(), {0: BOX}, clip=clip),))
    reports: list[Progress] = []
    frames = CompositeEngine().run(request, reports.append, lambda message: None)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert [(item.stage, item.step, item.num_steps) for item in reports] == [("compositing", 1, 10)]

    def stop(progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        list(CompositeEngine().run(request, stop, lambda message: None))
    assert len(closed) == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("composite")]


def test_warnings_and_refusals() -> None:
    clip = make_clip_handle()
    layer = make_layer(make_disc(), {0: BOX})
    several = Layer("cup", "insert", (make_disc(), make_disc(seed=2)), boxes=layer.boxes)
    told: list[str] = []
    request = InsertionRequest(clip, (0, 5), (replace(several, blend=OFF),))
    plan_layers(request, ignore_progress, told.append)
    assert len(told) == 1 and "cup" in told[0] and "first of its 2 references" in told[0]
    with pytest.raises(ValueError, match="its target must be resolved"):
        plan_layers(replace(request, layers=(replace(layer, kind="replace"),)), ignore_progress, told.append)


def test_folds_are_told_with_their_frames() -> None:
    clip = make_clip_handle()
    anchors = np.array([[10, 10], [90, 10], [50, 80], [50, 40]], np.float32)
    points = np.repeat(anchors[:, None], clip.num_frames, axis=1)
    points[3, 3] = (50, 140)
    still = np.ones(points.shape[:2], bool)
    layer = replace(
        make_layer(make_disc(), {0: BOX}), trajectories=TrajectorySet(("a", "b", "c", "d"), points, still, ~still, anchors)
    )
    told: list[str] = []
    plan_layers(InsertionRequest(clip, (0, 5), (layer,)), ignore_progress, told.append)
    assert len(told) == 1 and "folds over itself at frame 3;" in told[0]


def test_the_engine_reads_no_clock_and_no_folder() -> None:
    """Frames depend on the request alone: no module of the compositor imports what could tell them apart."""
    folder = Path(__file__).resolve().parents[3] / "pipeline" / "composite"
    sources = [path.read_text() for path in folder.glob("*.py")]
    assert len(sources) >= 7
    assert not [word for source in sources for word in ("import time", "import os", "datetime") if word in source]


def test_a_perspective_near_its_horizon_stays_bounded() -> None:
    """The outline of the warped reference has no bounds of its own there; what is computed keeps near the picture's size."""
    points = {name: (x, y) for name, (x, y) in {"a": (2, 2), "b": (38, 2), "c": (38, 38), "d": (2, 38)}.items()}
    reference = Reference(np.full((40, 40, 3), 120, np.uint8), np.ones((40, 40), np.float32), points)
    goals = {"a": (0.1, 0.1), "b": (0.9, 0.1), "c": (0.52, 0.9), "d": (0.48, 0.9)}
    twisted = {"a": goals["a"], "b": goals["c"], "c": goals["b"], "d": goals["d"]}
    for turned in (goals, twisted):
        trajectories = build_trajectory_set(
            [TrajectoryKeys(name, {0: goal}) for name, goal in turned.items()], points, HW, make_clip_handle().num_frames
        )
        settings = BlendSettings(harmonize=0, shadow=1, shadow_length=4, motion_blur=1, grain=0, feather_px=8)
        layer = Layer("card", "insert", (reference,), deform="perspective", trajectories=trajectories, blend=settings)
        tracemalloc.start()
        try:
            frame = compose(BACKGROUND, layer)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2000 * BACKGROUND.nbytes
        assert frame.touched.any() or turned is twisted
