"""The page's functions without a browser: what they show, and what they refuse from a browser that lies."""

import json
import math
import os
import time
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from editor import session as steps
from editor import stage
from editor.handlers import NEUTRAL, Page
from editor.storage import WorkStore
from editor.views import TOOLS, describe_progress
from editor.workbench import Shelf, Workbench
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.media import MediaLimits, probe_clip, read_metadata
from pipeline.types import Progress
from tests.tiny import make_clip

NUM_FRAMES = 10
HW = (48, 80)
VIEW_HW = (672, 1120)
START, END, PATH = TOOLS


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    """What Gradio would have received: a clip with sound, a cut-out disc, things that are neither."""
    folder = tmp_path_factory.mktemp("served")
    make_clip(folder / "street.mp4", num_frames=NUM_FRAMES, hw=HW, audio=["aac"])
    make_clip(folder / "short.mp4", num_frames=3, hw=HW)
    y, x = np.mgrid[:40, :40]
    alpha = ((x - 19.5) ** 2 + (y - 19.5) ** 2 < 15**2) * 255
    Image.fromarray(np.dstack([np.full((40, 40, 3), (220, 40, 30)), alpha]).astype(np.uint8), "RGBA").save(folder / "disc.png")
    (folder / "notes.mp4").write_text("not a video at all")
    (folder / "notes.png").write_text("not a picture either")
    return folder


@pytest.fixture(scope="module")
def workbench(tmp_path_factory) -> Workbench:
    return Workbench(MediaLimits(max_frames=60), ArtifactCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def page(tmp_path, uploads, workbench) -> Page:
    return Page(WorkStore(tmp_path / "visitors"), workbench, CompositeEngine(), uploads)


@pytest.fixture
def token(page) -> str:
    return page.open_visitor()[0]


@pytest.fixture
def ready(page, token, uploads) -> str:
    """A visitor whose work can be rendered."""
    page.upload_clip(token, str(uploads / "street.mp4"))
    page.upload_reference(token, str(uploads / "disc.png"), 0)
    page.set_box(token, "start", [0.05, 0.2, 0.35, 0.7], START, 0)
    page.set_box(token, "end", [0.6, 0.2, 0.9, 0.7], END, 0)
    return token


def document_of(page, token):
    return page.store.load(token).document


def test_the_work_from_nothing_to_a_video_with_sound(page, token, uploads):
    view = page.show_frame(token, START, 0)
    assert view.missing == "Add a video to begin." and view.picture is None
    view = page.upload_clip(token, str(uploads / "street.mp4"))
    assert view.picture.shape == (*VIEW_HW, 3) and view.num_frames == NUM_FRAMES and view.tool == START
    assert "with sound" in view.checklist[0].detail and [step.is_done for step in view.checklist] == [True, False, False, False]
    view = page.upload_reference(token, str(uploads / "disc.png"), 3)
    assert view.cutout.shape == (480, 480, 4) and view.missing.startswith("Draw the start box")
    view = page.click_frame(token, START, 0, [112, 134])
    assert view.hint == "Now click the opposite corner." and view.start_box is None
    view = page.click_frame(token, START, 0, [448, 538])
    assert view.start_box == pytest.approx((0.1, 0.2, 0.4, 0.8), abs=0.002)
    assert (view.tool, view.frame_index) == (END, NUM_FRAMES - 1), "the end box comes next, on its own frame"
    page.click_frame(token, END, 9, [672, 134])
    view = page.click_frame(token, END, 9, [1008, 538])
    view = page.click_frame(token, PATH, 5, [560, 300])
    assert view.node == pytest.approx((560.5 / 1120, 300.5 / 672), abs=1e-6) and view.missing is None
    assert all(step.is_done for step in view.checklist)
    *going, done = page.insert(token, False, False)
    assert going[0].is_running and not done.is_running and done.line == "Done: 10 frames."
    clip = probe_clip(Path(done.files["video"]))
    assert (clip.num_frames, clip.hw, len(clip.audio_streams)) == (NUM_FRAMES, HW, 1)
    assert Path(done.files["video"]).is_relative_to(page.uploads) and token not in done.files["video"]
    saved = json.loads(Path(done.files["project"]).read_text())
    assert saved["layers"][0]["boxes"].keys() == {"0", "9"} and saved["layers"][0]["trajectories"][0]["keys"].keys() == {"5"}
    assert "street.mp4" in json.dumps(read_metadata(Path(done.files["video"]))), "the result carries its project"


def test_an_unchanged_request_is_not_rendered_again_and_extras_are_made_when_asked(page, ready):
    calls = []
    engine = page.engine
    page.engine = type("Counted", (), {"run": lambda self, *args: calls.append(1) or engine.run(*args)})()
    *_, first = page.insert(ready, False, False)
    *_, again = page.insert(ready, False, False)
    assert len(calls) == 1 and Path(again.files["video"]).read_bytes() == Path(first.files["video"]).read_bytes()
    *_, more = page.insert(ready, True, True)
    assert more.files.keys() == {"video", "lossless", "layer", "project"}
    assert probe_clip(Path(more.files["lossless"])).codec == "ffv1"
    page.set_blend("opacity", ready, 0.5, PATH, 0)
    before = len(calls)
    list(page.insert(ready, False, False))
    assert len(calls) == before + 1


def test_closing_the_generator_stops_the_engine_and_leaves_no_file(page, ready):
    stopped = []
    engine = page.engine

    class Watched:
        def run(self, request, report, warn):
            try:
                yield from engine.run(request, report, warn)
            finally:
                stopped.append(True)

    page.engine = Watched()
    running = page.insert(ready, False, False)
    assert next(running).is_running
    next(running)
    running.close()
    assert stopped == [True]
    assert list(page.store.results(ready).iterdir()) == []
    *_, done = page.insert(ready, False, False)
    assert done.files, "and the next one works"


def test_cancel_and_a_new_start_stop_a_render_that_runs(page, ready, uploads):
    engine = page.engine

    class Slow:
        def run(self, *arguments):
            for frame in engine.run(*arguments):
                time.sleep(0.1)
                yield frame

    page.engine = Slow()
    for stop in (lambda: page.cancel(ready), lambda: page.upload_clip(ready, str(uploads / "street.mp4"))):
        running = page.insert(ready, False, False)
        next(running)
        next(running)
        stop()
        *_, last = running
        assert not last.is_running and last.line.startswith("Stopped") and not last.files
        assert list(page.store.results(ready).iterdir()) == []
    page.cancel("nobody")
    page.cancel(None)


def test_two_visitors_do_not_see_each_other(page, ready, uploads):
    other, _, _ = page.open_visitor()
    page.upload_clip(other, str(uploads / "short.mp4"))
    assert document_of(page, ready)["clip"]["path"] == "street.mp4"
    assert document_of(page, other)["clip"]["path"] == "short.mp4"
    page.start_empty(other)
    assert page.show_frame(ready, PATH, 4).picture is not None
    with pytest.raises(gr.Error, match="reload"):
        page.show_frame(other, PATH, 0)


def test_undo_redo_and_the_clearing_buttons(page, ready):
    text = page.store.load(ready).text
    assert page.change(steps.clear_boxes, ready, PATH, 0).start_box is None
    view = page.change(steps.undo, ready, PATH, 0)
    assert page.store.load(ready).text == text and view.can_redo
    assert page.change(steps.redo, ready, PATH, 0).start_box is None


def test_a_saved_project_opens_again_for_somebody_else(page, ready, uploads):
    page.set_node(ready, 0.5, 0.25, PATH, 4)
    page.set_blend("shadow", ready, 0.25, PATH, 4)
    saved = page.save_project(ready)
    assert Path(saved).name == "project.json"
    other, _, _ = page.open_visitor()
    with pytest.raises(gr.Error, match="choose that file together with the project"):
        page.open_project(other, [saved])
    view = page.open_project(other, [saved, str(uploads / "street.mp4"), str(uploads / "disc.png")])
    assert view.missing is None and view.blend["shadow"] == 0.25
    assert document_of(page, other) == document_of(page, ready)


def test_a_second_file_of_the_same_name_leaves_the_first_for_undo(page, ready, uploads, tmp_path):
    (uploads / "again").mkdir(exist_ok=True)
    make_clip(uploads / "again" / "street.mp4", num_frames=4, hw=HW)
    assert page.upload_clip(ready, str(uploads / "again" / "street.mp4")).num_frames == 4
    assert document_of(page, ready)["clip"]["path"] == "street-2.mp4"
    assert page.change(steps.undo, ready, PATH, 0).num_frames == NUM_FRAMES
    (uploads / "again" / "street.mp4").write_text("broken")
    with pytest.raises(gr.Error):
        page.upload_clip(ready, str(uploads / "again" / "street.mp4"))
    assert page.show_frame(ready, PATH, 0).num_frames == NUM_FRAMES


def test_a_project_follows_files_that_had_to_be_renamed(page, ready, uploads):
    saved = Path(page.save_project(ready))
    document = json.loads(saved.read_text())
    document["clip"] = {"path": "street?.mp4", "sha256": None}
    saved.write_text(json.dumps(document))
    (uploads / "third").mkdir(exist_ok=True)
    make_clip(uploads / "third" / "street.mp4", num_frames=NUM_FRAMES + 2, hw=HW)
    view = page.open_project(ready, [str(saved), str(uploads / "third" / "street.mp4")])
    assert view.num_frames == NUM_FRAMES + 2 and document_of(page, ready)["clip"]["path"] == "street-2.mp4"
    assert page.change(steps.undo, ready, PATH, 0).num_frames == NUM_FRAMES


def test_work_is_resumed_by_the_browser_that_did_it(page, ready):
    token, kept, _ = page.open_visitor([ready, "x", None, {}])
    assert kept == [token, ready]
    again, view = page.resume(kept)
    assert again == ready and view.start_box is not None
    assert page.open_visitor(["..", 5, "a" * 43])[1][1:] == [] and len(page.open_visitor("junk")[1]) == 1
    with pytest.raises(gr.Error):
        page.resume(["x", "a" * 43])


def test_preview_shows_the_object_and_leaves_the_rest(page, ready):
    picture = page.preview_frame(ready, 5)
    assert picture.shape == (*VIEW_HW, 3)
    red = (picture[..., 0].astype(int) - picture[..., 2]) > 90
    assert red[210:350, 420:630].mean() > 0.5, "the red disc is half-way"


def test_the_animatic_stands_where_the_render_does(page, ready):
    page.set_node(ready, 0.5, 0.25, PATH, 5)
    opened = page.workbench.open_clip(page.store.files(ready) / "street.mp4")
    project = page._parse(page.store.load(ready).text)
    [layer] = page.workbench.live_layers(project, page.store.files(ready), opened.clip)
    request, _ = page._request(project, page.store.files(ready))
    plain = opened.frames.frame(5).image

    def covered(image):
        changed = np.abs(image.astype(int) - plain).sum(axis=-1) > 60
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1

    from pipeline.animatic import lay_over

    drawn = covered(lay_over(plain, layer.reference, layer.motion, 5, HW))
    page.set_blend("shadow", ready, 0.0, PATH, 5)
    page.set_blend("motion_blur", ready, 0.0, PATH, 5)
    rendered = covered(page._render_one(page._request(page._parse(page.store.load(ready).text), page.store.files(ready))[0], 5))
    assert np.abs(np.array(drawn) - rendered).max() <= 1
    assert request.num_frames == NUM_FRAMES


# -- a browser that lies ----------------------------------------------------------------------------------------------------------

BAD_NUMBERS = [math.nan, math.inf, -math.inf, "7", [1], {}, True]


@pytest.mark.parametrize("bad", BAD_NUMBERS)
def test_bad_numbers_are_refused_everywhere(page, ready, bad):
    text = page.store.load(ready).text
    tries = [
        lambda: page.show_frame(ready, PATH, bad),
        lambda: page.click_frame(ready, PATH, bad, [1, 1]),
        lambda: page.click_frame(ready, PATH, 0, [bad, 1]),
        lambda: page.click_frame(ready, PATH, 0, bad),
        lambda: page.click_cutout(ready, PATH, 0, [1, bad]),
        lambda: page.set_box(ready, "start", [0.1, bad, 0.5, 0.5], START, 0),
        lambda: page.set_node(ready, bad, 0.5, PATH, 0),
        lambda: page.set_blend("shadow", ready, bad, PATH, 0),
        lambda: page.preview_frame(ready, bad),
    ]
    for attempt in tries:
        with pytest.raises(gr.Error) as caught:
            attempt()
        assert caught.value.message != NEUTRAL, "refused on purpose, not by accident"
    assert page.store.load(ready).text == text


@pytest.mark.parametrize("value", [None, -5, 10**9, 3.4])
def test_frames_outside_the_clip_are_held_inside(page, ready, value):
    assert 0 <= page.show_frame(ready, PATH, value).frame_index < NUM_FRAMES


def test_other_lies_are_refused(page, ready, uploads):
    tries = [
        lambda: page.show_frame(ready, "Rectangle", 0),
        lambda: page.show_frame(None, PATH, 0),
        lambda: page.set_box(ready, "start", [0.5, 0.5, 0.1, 0.1], START, 0),
        lambda: page.set_box(ready, "start", [-99, 0.5, 0.1, 0.9], START, 0),
        lambda: page.set_node(ready, 5, 5, PATH, 0),
        lambda: page.set_blend("shadow", ready, 7, PATH, 0),
        lambda: page.set_blend("no such", ready, 0.5, PATH, 0),
        lambda: page.open_project(ready, None),
        lambda: page.open_project(ready, [str(uploads / "street.mp4")]),
        lambda: page.open_project(ready, [str(uploads / "street.mp4")] * 99),
    ]
    for attempt in tries:
        with pytest.raises(gr.Error) as caught:
            attempt()
        assert caught.value.message != NEUTRAL


def test_only_files_that_gradio_received_are_taken(page, token, uploads, tmp_path):
    outside = tmp_path / "secret.mp4"
    make_clip(outside, num_frames=2, hw=HW)
    (uploads / "link.mp4").unlink(missing_ok=True)
    os.symlink(outside, uploads / "link.mp4")
    forged = [
        str(outside),
        "/etc/passwd",
        str(uploads / ".." / outside.parent.name / "secret.mp4"),
        str(uploads / "link.mp4"),
        str(uploads),
    ]
    for path in [*forged, None, 5, "", "a\0b", "x" * 9000, ["a"]]:
        for attempt in (page.upload_clip, lambda t, p: page.upload_reference(t, p, 0), lambda t, p: page.open_project(t, [p])):
            with pytest.raises(gr.Error) as caught:
                attempt(token, path)
            assert caught.value.message != NEUTRAL
    assert list(page.store.files(token).iterdir()) == []


def test_bad_uploads_say_one_sentence_and_leave_nothing(page, token, uploads):
    for attempt in (
        lambda: page.upload_clip(token, str(uploads / "notes.mp4")),
        lambda: page.upload_reference(token, str(uploads / "notes.png"), 0),
    ):
        with pytest.raises(gr.Error) as caught:
            attempt()
        assert "notes" in caught.value.message and str(uploads) not in caught.value.message
    assert list(page.store.files(token).iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"clip": {"path": "/etc/passwd"}},
        {"clip": {"path": "../../../etc/passwd"}},
        {"clip": {"path": "folder/street.mp4"}},
        {"clip": {"path": "..\\street.mp4"}},
        {"clip": {"path": ".."}},
        {"engine": {"name": "videoanydoor", "checkpoint": "/root"}},
        {"engine": {"name": "vace"}},
        {"surprise": 1},
        {"version": 2},
        {"layers": []},
        {"layers": 5},
    ],
)
def test_the_api_refuses_projects_that_reach_out_or_make_no_sense(page, ready, uploads, change):
    document = {**document_of(page, ready), **change}
    before = {path.name for path in page.store.root.iterdir()}
    with pytest.raises(gr.Error) as caught:
        list(page.render_files(json.dumps(document), [str(uploads / "street.mp4"), str(uploads / "disc.png")]))
    assert caught.value.message != NEUTRAL
    assert {path.name for path in page.store.root.iterdir()} == before, "nothing is left behind"


@pytest.mark.parametrize("text", [None, 5, "", "{", "[]", '{"version": NaN}', "x" * 3_000_000])
def test_the_api_refuses_texts_that_are_no_project(page, uploads, text):
    with pytest.raises(gr.Error) as caught:
        page.preview_files(text, [str(uploads / "street.mp4")])
    assert caught.value.message != NEUTRAL


def test_the_api_renders_and_cleans_up(page, ready, uploads):
    text = page.store.load(ready).text
    before = {path.name for path in page.store.root.iterdir()}
    files = [str(uploads / "street.mp4"), str(uploads / "disc.png")]
    *_, (video, report) = page.render_files(text, files)
    assert report["frames"] == NUM_FRAMES and report["engine"] == "composite" and len(report["digest"]) == 64
    assert probe_clip(Path(video)).num_frames == NUM_FRAMES
    assert page.preview_files(text, files).shape == (*HW, 3)
    assert {path.name for path in page.store.root.iterdir()} == before


def test_an_unexpected_fault_is_logged_and_told_neutrally(page, ready, caplog):
    class Broken:
        def run(self, request, report, warn):
            raise RuntimeError("secret detail /root/x")
            yield

    page.engine = Broken()
    with pytest.raises(gr.Error) as caught:
        page.preview_frame(ready, 0)
    assert caught.value.message == NEUTRAL and "secret detail" in caplog.text
    views = []
    with pytest.raises(gr.Error):
        views.extend(page.insert(ready, False, False))
    assert not views[-1].is_running and views[-1].line == NEUTRAL, "the buttons come back before the error is shown"


def test_insert_without_all_its_parts_says_what_is_missing(page, token):
    with pytest.raises(gr.Error, match="Add a video"):
        list(page.insert(token, False, False))


# -- small things -----------------------------------------------------------------------------------------------------------------


def test_progress_is_told_with_the_time_that_is_left():
    assert describe_progress(Progress("compositing", 1, 100), 0.1) == "Compositing: 1 of 100"
    assert describe_progress(Progress("compositing", 25, 100), 10) == "Compositing: 25 of 100, about 30 s left"
    assert describe_progress(Progress("sampling", 10, 100), 60) == "Sampling: 10 of 100, about 9 min left"
    assert describe_progress(Progress("finishing", 100, 100), 60) == "Finishing: 100 of 100"


def test_a_shelf_is_bounded_and_makes_each_value_once():
    made, dropped = [], []
    shelf = Shelf(2, dropped.append)
    for key in ("a", "b", "a", "c", "a"):
        shelf.fetch(key, lambda key=key: made.append(key) or key.upper())
    assert made == ["a", "b", "c"] and dropped == ["B"]


def test_convention_a_click_is_the_middle_of_its_pixel():
    assert stage.point_in_picture((0, 0), (10, 20)) == (0.025, 0.05)
    assert stage.point_in_picture((19, 9), (10, 20)) == (0.975, 0.95)
    assert stage.view_hw((2160, 3840)) == (630, 1120) and stage.view_hw((48, 80)) == (672, 1120)
