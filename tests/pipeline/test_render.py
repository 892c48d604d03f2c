"""Rendering: progress, previews, files that are whole or not there, a stop that stops."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import render as room
from pipeline.errors import UserError
from pipeline.media import probe_clip, read_frames
from pipeline.project import build_request, parse_project, read_result_project
from pipeline.render import check_outputs, preview_frame, render
from pipeline.types import InsertionRequest

from ..tiny import make_clip
from .sample_project import DOCUMENT, HW, NUM_FRAMES, FakeEngine, write_media


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("render"))


@pytest.fixture(scope="module")
def request_(folder: Path) -> InsertionRequest:
    return build_request(parse_project(DOCUMENT), folder)[0]


@pytest.fixture(scope="module")
def long_request(folder: Path) -> InsertionRequest:
    clip = probe_clip(make_clip(folder / "long.mp4", num_frames=90, hw=(240, 320)))
    return InsertionRequest(clip, (0, 90), ())


def finish(work):
    reports = []
    try:
        while True:
            reports.append(next(work))
    except StopIteration as end:
        return reports, end.value


def render_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("render", "encode", "decode")]


def test_a_render_reports_every_frame_and_sums_up(folder, request_, tmp_path):
    reports, summary = finish(render(request_, FakeEngine(), tmp_path / "out.mp4"))
    steps = [report.step for report in reports if report.stage == "faking"]
    assert steps == list(range(1, NUM_FRAMES + 1)) and reports[-1].stage == "finishing"
    assert summary.output == tmp_path / "out.mp4" and summary.frames == NUM_FRAMES and summary.seconds > 0
    assert (summary.engine, summary.segmenter, summary.digest) == ("composite", None, request_.digest())
    assert summary.warnings == ("a fake warning",)
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"] and probe_clip(tmp_path / "out.mp4").num_frames == NUM_FRAMES
    assert summary.to_document() == {
        "output": str(tmp_path / "out.mp4"),
        "frames": NUM_FRAMES,
        "seconds": round(summary.seconds, 3),
        "engine": "composite",
        "segmenter": None,
        "digest": request_.digest(),
        "warnings": ["a fake warning"],
    }


def test_an_engine_that_says_nothing_is_reported_for(request_, tmp_path):
    reports, _ = finish(render(request_, FakeEngine(silent=True), tmp_path / "out.mp4"))
    assert [report.step for report in reports if report.stage == "rendering"] == list(range(1, NUM_FRAMES + 1))


def test_the_engine_runs_in_the_context_of_whoever_asks(request_, tmp_path):
    asks: contextvars.ContextVar[str] = contextvars.ContextVar("asks", default="nobody")
    seen = []

    class Curious(FakeEngine):
        def run(self, request, report, warn):
            seen.append(asks.get())
            yield from super().run(request, report, warn)

    def ask():
        asks.set("somebody")
        finish(render(request_, Curious(), tmp_path / "out.mp4"))

    contextvars.copy_context().run(ask)
    assert seen == ["somebody"] and asks.get() == "nobody"


def test_the_frames_that_come_out_are_those_that_the_engine_made(request_, tmp_path):
    finish(render(request_, FakeEngine(), tmp_path / "out.mkv", lossless=True))
    source = [frame.image for frame in read_frames(request_.clip)]
    result = [frame.image for frame in read_frames(probe_clip(tmp_path / "out.mkv"))]
    for before, after in zip(source, result, strict=True):
        np.testing.assert_array_equal(before[40:], after[40:])
        assert after[:28, :40].min() > 250


def test_previews_are_small_and_rare(long_request, tmp_path, monkeypatch):
    started = time.monotonic()
    reports, _ = finish(render(long_request, FakeEngine(), tmp_path / "out.mp4"))
    elapsed = time.monotonic() - started
    previews = [report.preview for report in reports if report.preview is not None]
    assert 1 <= len(previews) <= elapsed / room.PREVIEW_INTERVAL_S + 1
    monkeypatch.setattr(room, "PREVIEW_SIDE_PX", 100)
    assert room._small(np.zeros((240, 320, 3), np.uint8)).shape == (75, 100, 3)
    assert room._small(np.zeros((50, 80, 3), np.uint8)).shape == (50, 80, 3)


def test_a_reader_that_sleeps_costs_no_memory(long_request, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PREVIEW_INTERVAL_S", 0.0)
    work = render(long_request, FakeEngine(), tmp_path / "out.mp4")
    reports = [next(work)]
    deadline = time.monotonic() + 20
    while not (tmp_path / "out.mp4").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    reports += finish(work)[0]
    assert len(reports) == 91 and sum(report.preview is not None for report in reports) <= 2 * room._MAX_WAITING


def test_the_layer_comes_along_and_both_are_whole(request_, tmp_path):
    finish(render(request_, FakeEngine(), tmp_path / "out.mp4", layer_alpha_path=tmp_path / "layer.mov"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer.mov", "out.mp4"]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_the_result_carries_its_project(folder, request_, tmp_path, name):
    carried = parse_project(DOCUMENT).for_result(folder)
    finish(render(request_, FakeEngine(), tmp_path / name, lossless=name.endswith("mkv"), metadata=carried.to_metadata()))
    found = read_result_project(tmp_path / name)
    assert found == carried
    assert build_request(found, folder)[0].digest() == request_.digest()


def test_a_file_without_a_project_says_so(folder):
    with pytest.raises(UserError, match="carries no project"):
        read_result_project(folder / "clip.mp4")


@pytest.mark.parametrize("frames_before", [0, 1, 20])
def test_closing_stops_within_a_frame_and_leaves_nothing(long_request, tmp_path, frames_before):
    engine = FakeEngine()
    work = render(long_request, engine, tmp_path / "out.mp4", layer_alpha_path=tmp_path / "layer.mov")
    for _ in range(frames_before):
        next(work)
    started = time.monotonic()
    work.close()
    assert time.monotonic() - started < 2
    made = len(engine.made)
    assert list(tmp_path.iterdir()) == [] and render_threads() == []
    assert made < 90 and (engine.is_closed or made == 0)
    time.sleep(0.1)
    assert len(engine.made) == made


def test_a_generator_that_is_dropped_cleans_up_too(long_request, tmp_path):
    work = render(long_request, FakeEngine(), tmp_path / "out.mp4")
    next(work)
    del work
    gc.collect()
    assert list(tmp_path.iterdir()) == [] and render_threads() == []


def test_a_broken_engine_is_raised_and_leaves_nothing(request_, tmp_path):
    engine = FakeEngine(fail_at=5)
    with pytest.raises(RuntimeError, match="the engine broke"):
        finish(render(request_, engine, tmp_path / "out.mp4", layer_alpha_path=tmp_path / "layer.mov"))
    assert list(tmp_path.iterdir()) == [] and render_threads() == [] and engine.is_closed


def test_a_file_that_was_there_survives_a_failed_render(request_, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"older")
    (tmp_path / "layer.mov").write_bytes(b"older")
    with pytest.raises(RuntimeError):
        finish(render(request_, FakeEngine(fail_at=5), tmp_path / "out.mp4", layer_alpha_path=tmp_path / "layer.mov"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out.mp4": b"older", "layer.mov": b"older"}


def test_a_layer_is_removed_when_the_picture_then_fails(request_, tmp_path, monkeypatch):
    from pipeline.media import VideoWriter

    def fail(self):
        raise UserError("the disk is full")

    monkeypatch.setattr(VideoWriter, "_complete", fail)
    with pytest.raises(UserError, match="disk is full"):
        finish(render(request_, FakeEngine(), tmp_path / "out.mp4", layer_alpha_path=tmp_path / "layer.mov"))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_are_said(request_, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "out.mp4", tmp_path / "file" / "out.mp4", Path("/proc/out.mp4")):
        with pytest.raises(UserError, match=r"out\.mp4"):
            finish(render(request_, FakeEngine(), path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.mkv", {}),
        ("out.avi", {}),
        ("out", {}),
        ("out.mp4", {"lossless": True}),
        ("out.mp4", {"layer_alpha_path": Path("layer.mp4")}),
    ],
)
def test_the_ending_must_fit(request_, name, options):
    with pytest.raises(UserError, match=r"must end in \."):
        check_outputs(request_.clip, Path(name), **options)


def test_an_output_never_replaces_what_it_is_made_from(folder, request_, tmp_path):
    (tmp_path / "soft.mp4").symlink_to(folder / "clip.mp4")
    (folder / "hard.mp4").hardlink_to(folder / "clip.mp4")
    mask = make_clip(folder / "mask.mov")
    for path in (folder / "clip.mp4", tmp_path / "soft.mp4", folder / "hard.mp4", folder / ".." / folder.name / "clip.mp4"):
        with pytest.raises(UserError, match=r"would replace 'clip\.mp4'"):
            finish(render(request_, FakeEngine(), path))
    with pytest.raises(UserError, match=r"would replace 'mask\.mov'"):
        check_outputs(request_.clip, tmp_path / "out.mp4", layer_alpha_path=mask, keep=(mask,))
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        check_outputs(request_.clip, tmp_path / "dir.mp4")
    check_outputs(request_.clip, tmp_path / "new.mp4", keep=(mask,))
    assert probe_clip(folder / "clip.mp4").num_frames == NUM_FRAMES


def test_one_frame_is_that_of_the_whole_render(folder, request_):
    engine = FakeEngine()
    frame = preview_frame(request_, engine, 7)
    assert frame.frame_index == 7 and engine.made == [7] and engine.is_closed
    for outside in (-1, NUM_FRAMES):
        with pytest.raises(ValueError, match="range"):
            preview_frame(request_, engine, outside)


def test_a_preview_that_takes_too_long_is_stopped(request_):
    engine = FakeEngine()
    with pytest.raises(UserError, match="longer than 0 s and was stopped; insert a short range instead"):
        preview_frame(request_, engine, 7, limit_s=0)
    assert engine.is_closed


def test_the_compositor_renders_the_project(folder, request_, tmp_path):
    from pipeline.composite.engine import CompositeEngine

    finish(render(request_, CompositeEngine(), tmp_path / "out.mkv", lossless=True))
    result = list(read_frames(probe_clip(tmp_path / "out.mkv")))
    preview = preview_frame(request_, CompositeEngine(), 6)
    where = (int(0.5 * HW[0]), int(0.45 * HW[1]))
    for image in (result[6].image, preview.image):
        assert image[where][0] > 180 and image[where][1] < 60, "the red ball is there at half way"
    np.testing.assert_array_equal(result[6].image[:, 80:], next(read_frames(request_.clip, 6)).image[:, 80:])


def test_the_engine_works_while_the_encoder_does(request_, tmp_path, monkeypatch):
    """The first frame is encoded only once the engine has made the fourth: in one thread, that would never be."""
    from pipeline.media import VideoWriter

    engine, encode, waits = FakeEngine(), VideoWriter._encode, []

    def patient_encode(self, frame):
        deadline = time.monotonic() + 10
        while len(engine.made) < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        waits.append(len(engine.made) >= 4)
        encode(self, frame)

    monkeypatch.setattr(VideoWriter, "_encode", patient_encode)
    finish(render(request_, engine, tmp_path / "out.mp4"))
    assert waits == [True] * NUM_FRAMES
