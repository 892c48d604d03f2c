"""The quality of every frame: recolouring, flicker, leaks and absence show where they are, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.composite import CompositeEngine
from pipeline.engines import ignore_progress
from pipeline.masks import encode_rle
from pipeline.project import build_request, parse_project
from pipeline.quality import MEASURES, Quality, QualityMeter
from pipeline.render import render
from pipeline.types import Frame, InsertionRequest, MaskTrack

from ..tiny import make_clip

NUM_FRAMES, HW = 8, (120, 160)
OFF = {"harmonize": 0, "shadow": 0, "motion_blur": 0, "grain": 0, "feather_px": 0}
DOCUMENT: dict[str, Any] = {
    "version": 1,
    "clip": {"path": "clip.mp4"},
    "layers": [
        {
            "name": "tile",
            "kind": "insert",
            "references": [{"path": "tile.png", "points": {"a": [0.25, 0.25], "b": [0.75, 0.25], "c": [0.5, 0.8]}}],
            "boxes": {"0": {"box": [0.1, 0.2, 0.5, 0.7]}, "7": {"box": [0.45, 0.3, 0.85, 0.8], "rotation_deg": 25}},
            "trajectories": [
                {"point": "a", "keys": {"0": [0.2, 0.3], "7": [0.55, 0.4]}},
                {"point": "b", "keys": {"0": [0.38, 0.32], "7": [0.75, 0.45]}},
                {"point": "c", "keys": {"0": [0.3, 0.6], "7": [0.6, 0.72]}},
            ],
            "blend": OFF,
        }
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    make_clip(folder / "clip.mp4", num_frames=NUM_FRAMES, hw=HW)
    y, x = np.mgrid[:80, :80]
    tile = np.zeros((80, 80, 4), np.uint8)
    tile[..., 0] = np.where((x // 16 + y // 16) % 2, 220, 120)
    tile[..., 1] = np.where((x // 10) % 2, 90, 40)
    tile[..., 2], tile[..., 3] = 30 + y // 2, 255 * (np.hypot(x - 40, y - 40) < 38)
    Image.fromarray(tile).save(folder / "tile.png")
    return folder


@pytest.fixture(scope="module")
def request_(folder) -> InsertionRequest:
    return build_request(parse_project(DOCUMENT), folder)[0]


Change = Callable[[Frame], Frame]


class Changed:
    """The compositor, with something done to its frames."""

    def __init__(self, change: Change) -> None:
        self._change = change

    def run(self, request: InsertionRequest, report: Any, warn: Any) -> Iterator[Frame]:
        for frame in CompositeEngine().run(request, report, warn):
            yield self._change(frame)


def measure(request: InsertionRequest, change: Change = lambda frame: frame) -> Quality:
    meter = QualityMeter(request)
    for frame in Changed(change).run(request, ignore_progress, lambda warning: None):
        meter.see(frame)
    return meter.quality()


def on_object(frame: Frame, paint: Callable[[np.ndarray], np.ndarray]) -> Frame:
    patch = frame.patch.copy()
    inside = frame.layer_patch[..., 3] > 0
    patch[inside] = paint(patch[inside])
    return dataclasses.replace(frame, patch=patch)


def series(quality: Quality, name: str) -> list[float]:
    return [getattr(value, name) for value in quality.values]


def test_the_compositor_keeps_identity_and_box_and_leaks_nothing(request_):
    quality = measure(request_)
    assert quality.frames == tuple(range(NUM_FRAMES))
    assert min(series(quality, "identity")) > 0.93 and min(series(quality, "box_adherence")) > 0.93
    assert quality.values[0].flicker is None and max(series(quality, "flicker")[1:]) < 3
    assert series(quality, "background_leak") == [0.0] * NUM_FRAMES


def test_a_recoloured_object_loses_its_identity_from_there_on(request_):
    quality = measure(request_, lambda f: on_object(f, lambda rgb: rgb[:, ::-1]) if f.frame_index >= 4 else f)
    identity, flicker = series(quality, "identity"), series(quality, "flicker")
    assert min(identity[:4]) > 0.93 and max(identity[4:]) < 0.35
    assert flicker[4] > 40 and max(flicker[1:4] + flicker[5:]) < 3, "the change itself is one jump"
    assert min(series(quality, "box_adherence")) > 0.93


def test_lost_structure_is_lost_identity_and_a_little_warmth_is_not(request_):
    flat = series(measure(request_, lambda f: on_object(f, lambda rgb: np.full_like(rgb, rgb.mean(axis=0)))), "identity")
    warm = series(
        measure(request_, lambda f: on_object(f, lambda rgb: np.clip(rgb * [1.06, 1, 0.92], 0, 255).astype("u1"))), "identity"
    )
    assert max(flat) < 0.5 and min(warm) > 0.85


def test_motion_blur_that_was_asked_for_is_not_held_against_the_object(folder):
    swift = {"0": {"box": [0.0, 0.2, 0.4, 0.7]}, "7": {"box": [0.6, 0.2, 1.0, 0.7]}}
    layer = {**DOCUMENT["layers"][0], "boxes": swift, "trajectories": [], "blend": {**OFF, "motion_blur": 1}}
    request = build_request(parse_project({**DOCUMENT, "layers": [layer]}), folder)[0]
    still = dataclasses.replace(request.layers[0], blend=dataclasses.replace(request.layers[0].blend, motion_blur=0))
    meter = QualityMeter(request)
    for frame in CompositeEngine().run(request, ignore_progress, lambda warning: None):
        meter.see(dataclasses.replace(frame, layers=(still,) if frame.frame_index == 4 else ()))
    identity = series(meter.quality(), "identity")
    assert min(identity[1:4] + identity[5:7]) > identity[4] + 0.1


def test_an_object_that_comes_into_the_picture_is_judged_once_it_can_be(folder):
    coming = {"0": {"box": [-0.5, 0.2, -0.02, 0.7]}, "7": {"box": [0.3, 0.2, 0.78, 0.7]}}
    layer = {**DOCUMENT["layers"][0], "boxes": coming, "trajectories": []}
    quality = measure(build_request(parse_project({**DOCUMENT, "layers": [layer]}), folder)[0])
    adherence = series(quality, "box_adherence")
    assert adherence[0] is None and quality.values[0].identity is None and None not in adherence[3:]
    assert min(value for value in adherence if value is not None) > 0.85


def test_flicker_is_told_in_levels(request_):
    def change(frame: Frame) -> Frame:
        return on_object(frame, lambda rgb: np.clip(rgb.astype(int) + (10 if frame.frame_index % 2 else -10), 0, 255).astype("u1"))

    assert all(16 < value < 24 for value in series(measure(request_, change), "flicker")[1:])


def test_a_change_outside_what_was_touched_is_a_leak(request_):
    def change(frame: Frame) -> Frame:
        whole = dataclasses.replace(frame, patch=frame.image, layer_patch=frame.layer, touched_patch=frame.touched, x0=0, y0=0)
        if frame.frame_index != 3:
            return whole
        image = np.where(frame.touched[..., None], frame.image, np.clip(frame.image.astype(int) + 6, 0, 255).astype("u1"))
        return dataclasses.replace(whole, patch=image)

    leak = series(measure(request_, change), "background_leak")
    assert leak[3] == pytest.approx(6, abs=0.3) and max(leak[:3] + leak[4:]) == 0


def test_an_object_that_is_missing_or_elsewhere_leaves_its_box(request_):
    def change(frame: Frame) -> Frame:
        layer, touched = frame.layer, frame.touched
        if frame.frame_index == 2:
            layer = np.zeros_like(layer)
        if frame.frame_index == 5:
            layer = np.roll(layer, -30, axis=1)
        return dataclasses.replace(frame, patch=frame.image, layer_patch=layer, touched_patch=touched, x0=0, y0=0)

    quality = measure(request_, change)
    adherence = series(quality, "box_adherence")
    assert adherence[2] == 0 and quality.values[2].identity is None
    assert adherence[5] < 0.7 and min(adherence[:2] + adherence[3:5] + adherence[6:]) > 0.93


def test_what_stays_in_front_is_not_held_against_the_object(request_):
    mask = np.zeros(HW, bool)
    mask[:, 60:90] = True
    runs = encode_rle(mask)
    runs.flags.writeable = False
    layer = dataclasses.replace(request_.layers[0], holdouts=(MaskTrack(HW, (runs,) * NUM_FRAMES),))
    quality = measure(dataclasses.replace(request_, layers=(layer,)))
    assert min(series(quality, "identity")) > 0.9 and min(series(quality, "box_adherence")) > 0.85


def test_of_several_layers_the_worst_counts_and_none_is_blamed_for_another(request_, folder):
    other = {**DOCUMENT["layers"][0], "name": "other", "boxes": {"0": {"box": [0.5, 0.05, 0.9, 0.5]}}, "trajectories": []}
    request = build_request(parse_project({**DOCUMENT, "layers": [*DOCUMENT["layers"], other]}), folder)[0]
    quality = measure(request)
    assert min(series(quality, "identity")) > 0.9 and min(series(quality, "box_adherence")) > 0.85

    def change(frame: Frame) -> Frame:
        patch = frame.patch.copy()
        patch[: max(0, 50 - frame.y0), max(0, 85 - frame.x0) :] = 128
        return dataclasses.replace(frame, patch=patch)

    assert series(measure(request, change), "identity")[0] < 0.6


def test_frames_are_measured_by_the_layers_they_were_made_of(request_, folder):
    elsewhere = {**DOCUMENT["layers"][0], "boxes": {"0": {"box": [0.6, 0.1, 0.9, 0.4]}}, "trajectories": []}
    asked = build_request(parse_project({**DOCUMENT, "layers": [elsewhere]}), folder)[0]
    meter, blind = QualityMeter(asked), QualityMeter(asked)
    for frame in CompositeEngine().run(request_, ignore_progress, lambda warning: None):
        meter.see(dataclasses.replace(frame, layers=request_.layers))
        blind.see(frame)
    assert min(series(meter.quality(), "identity")) > 0.93
    assert meter.quality().values[0].box_adherence > 0.93 > 0.5 > blind.quality().values[0].box_adherence


def test_a_removal_and_an_unresolved_layer_have_no_object_to_judge(request_):
    removal = dataclasses.replace(request_.layers[0], kind="remove", references=())
    meter = QualityMeter(dataclasses.replace(request_, layers=(removal,)))
    for frame in CompositeEngine().run(request_, ignore_progress, lambda warning: None):
        meter.see(frame)
    document = meter.quality().to_document()
    assert set(document) == {"frames", *MEASURES} and document["identity"] == [None] * NUM_FRAMES
    assert document["background_leak"] == [0.0] * NUM_FRAMES


def test_a_render_measures_only_when_asked(request_, tmp_path):
    def finish(work):
        try:
            while True:
                next(work)
        except StopIteration as end:
            return end.value

    assert finish(render(request_, CompositeEngine(), tmp_path / "a.mp4")).quality is None
    summary = finish(render(request_, CompositeEngine(), tmp_path / "b.mp4", wants_quality=True))
    assert len(summary.quality.frames) == NUM_FRAMES and "quality" not in summary.to_document()


def test_the_report_of_the_command_line_holds_it(folder, tmp_path):
    project = folder / "project.json"
    project.write_text(json.dumps({**DOCUMENT, "range": [2, 6]}), encoding="utf-8")
    assert main(["render", str(project), "-o", str(tmp_path / "out.mp4"), "--report", str(tmp_path / "out.json")]) == 0
    quality = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["quality"]
    assert quality["frames"] == [2, 3, 4, 5] and quality["flicker"][0] is None
    assert all(0.9 < value <= 1 for value in quality["identity"] + quality["box_adherence"])
