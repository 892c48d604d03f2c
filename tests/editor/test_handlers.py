"""The page's functions without a browser: what they show, and what they refuse from a browser that lies."""

import base64
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
from editor.handlers import NEUTRAL, Page
from editor.storage import WorkStore
from editor.views import describe_progress, preview_hw
from editor.workbench import Shelf, Workbench
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.media import MediaLimits, probe_clip, read_metadata
from pipeline.types import Progress
from tests.serving import ROOT
from tests.tiny import make_clip

EXAMPLE = ROOT / "assets" / "examples" / "crossing.json"
NUM_FRAMES = 10
HW = (48, 80)
BOXES = {"0": [0.05, 0.2, 0.35, 0.7], "9": [0.6, 0.2, 0.9, 0.7]}


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
    draw(page, token, *(set_box(int(frame), box) for frame, box in BOXES.items()))
    return token


def set_box(frame: int, box: list[float], layer: int = 0) -> dict:
    return {"kind": "set_box", "layer": layer, "frame": frame, "box": box}


def add_path(keys: dict, layer: int = 0) -> dict:
    return {"kind": "add_trajectory", "layer": layer, "keys": keys}


def draw(page, token, *gestures, **rest):
    """Edit on the canvas."""
    answer = page.canvas.exchange.answer({"token": token, "gestures": list(gestures), **rest})
    assert answer["fault"] is None
    return answer


def document_of(page, token):
    return page.store.load(token).document


def test_the_work_from_nothing_to_a_video_with_sound(page, token, uploads):
    view = page.refresh(token)
    assert view.missing == "Add a video to begin." and [step.name for step in view.checklist] == [
        "Video",
        "Motion",
        "Reference",
        "Insert",
    ]
    view = page.upload_clip(token, str(uploads / "street.mp4"))
    assert view.clip_note.endswith("with sound") and [step.is_done for step in view.checklist] == [True, False, False, False]
    assert view.missing.startswith("Draw a box")
    draw(page, token, set_box(0, [0.1, 0.2, 0.4, 0.8]), set_box(9, [0.6, 0.2, 0.9, 0.8]), add_path({"5": [0.5, 0.45]}))
    view = page.refresh(token)
    assert view.checklist[1].detail == "2 boxes, 1 path" and view.missing == "Add a picture of the thing to insert."
    view = page.upload_reference(token, str(uploads / "disc.png"), 0)
    assert view.missing is None and all(step.is_done for step in view.checklist)
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
    page.set_blend("opacity", ready, 0.5)
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
    other = page.open_visitor()[0]
    page.upload_clip(other, str(uploads / "short.mp4"))
    assert document_of(page, ready)["clip"]["path"] == "street.mp4"
    assert document_of(page, other)["clip"]["path"] == "short.mp4"
    key = page.canvas.exchange.answer({"token": other})["scene"]["clip"]["key"]
    page.start_empty(other)
    assert page.canvas.desk.frame_jpeg(key, 0) is None, "its pictures are withdrawn"
    assert page.refresh(ready).missing is None
    with pytest.raises(gr.Error, match="reload"):
        page.refresh(other)


def test_undo_on_the_canvas_reaches_what_the_page_did(page, ready):
    text = page.store.load(ready).text
    page.set_blend("opacity", ready, 0.5)
    draw(page, ready, {"kind": "undo"})
    assert page.store.load(ready).text == text and page.refresh(ready).blend["opacity"] == 1
    draw(page, ready, {"kind": "redo"})
    assert page.refresh(ready).blend["opacity"] == 0.5


def test_layers_have_their_own_pictures_and_settings(page, ready, uploads):
    draw(page, ready, {"kind": "add_layer", "name": "two"})
    view = page.refresh(ready, 1)
    assert [(each.layer, each.file, each.is_chosen) for each in view.pictures] == [
        ("object", "disc.png", False),
        ("two", None, True),
    ]
    assert view.missing == "two: draw a box where the object should be."
    draw(page, ready, set_box(0, [0.1, 0.1, 0.5, 0.5], layer=1))
    assert page.refresh(ready).missing == "two: add a picture of the thing to insert."
    assert page.upload_reference(ready, str(uploads / "disc.png"), 1).missing is None
    page.set_blend("opacity", ready, 0.25, 1)
    assert [layer.get("blend") for layer in document_of(page, ready)["layers"]] == [None, {"opacity": 0.25}]
    assert page.refresh(ready, 0).blend["opacity"] == 1 and page.refresh(ready, 1).blend["opacity"] == 0.25
    *_, done = page.insert(ready, False, False)
    assert done.files
    draw(page, ready, {"kind": "set_layer", "layer": 0, "hidden": True}, {"kind": "set_layer", "layer": 1, "hidden": True})
    assert page.refresh(ready).missing == "Every layer is hidden; show one."


def test_paths_that_came_before_the_picture_get_points_that_fit_them(page, token, uploads):
    page.upload_clip(token, str(uploads / "street.mp4"))
    draw(page, token, add_path({"0": [0.8, 0.5]}), add_path({"0": [0.2, 0.5], "9": [0.3, 0.6]}))
    assert page.upload_reference(token, str(uploads / "disc.png"), 0).missing is None
    right, left = document_of(page, token)["layers"][0]["references"][0]["points"].values()
    assert right[0] > left[0], "the path that begins on the right holds the right side"
    for x, y in (right, left):
        assert (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.375**2
    page.upload_reference(token, str(uploads / "disc.png"), 0)
    assert list(document_of(page, token)["layers"][0]["references"][0]["points"].values()) == [right, left]


def test_a_saved_project_opens_again_for_somebody_else(page, ready, uploads):
    draw(page, ready, add_path({"4": [0.5, 0.25]}))
    page.set_blend("shadow", ready, 0.25)
    saved = page.save_project(ready)
    assert Path(saved).name == "project.json"
    other = page.open_visitor()[0]
    with pytest.raises(gr.Error, match="choose that file together with the project"):
        page.open_project(other, [saved])
    view = page.open_project(other, [saved, str(uploads / "street.mp4"), str(uploads / "disc.png")])
    assert view.missing is None and view.blend["shadow"] == 0.25
    assert document_of(page, other) == document_of(page, ready)


def test_a_second_file_of_the_same_name_leaves_the_first_for_undo(page, ready, uploads, tmp_path):
    (uploads / "again").mkdir(exist_ok=True)
    make_clip(uploads / "again" / "street.mp4", num_frames=4, hw=HW)
    assert "4 frames" in page.upload_clip(ready, str(uploads / "again" / "street.mp4")).checklist[0].detail
    assert document_of(page, ready)["clip"]["path"] == "street-2.mp4"
    draw(page, ready, {"kind": "undo"})
    assert "10 frames" in page.refresh(ready).checklist[0].detail
    (uploads / "again" / "street.mp4").write_text("broken")
    with pytest.raises(gr.Error):
        page.upload_clip(ready, str(uploads / "again" / "street.mp4"))
    assert "10 frames" in page.refresh(ready).checklist[0].detail


def test_a_project_follows_files_that_had_to_be_renamed(page, ready, uploads):
    saved = Path(page.save_project(ready))
    document = json.loads(saved.read_text())
    document["clip"] = {"path": "street?.mp4", "sha256": None}
    saved.write_text(json.dumps(document))
    (uploads / "third").mkdir(exist_ok=True)
    make_clip(uploads / "third" / "street.mp4", num_frames=NUM_FRAMES + 2, hw=HW)
    view = page.open_project(ready, [str(saved), str(uploads / "third" / "street.mp4")])
    assert "12 frames" in view.checklist[0].detail and document_of(page, ready)["clip"]["path"] == "street-2.mp4"
    draw(page, ready, {"kind": "undo"})
    assert "10 frames" in page.refresh(ready).checklist[0].detail


def test_work_is_resumed_by_the_browser_that_did_it(page, ready):
    token, view, _ = page.open_visitor(ready)
    assert token == ready and view.missing is None
    for forged in ("..", 5, None, "a" * 43, ["x"], {}):
        assert page.open_visitor(forged)[0] not in (ready, forged)


def test_a_new_visitor_finds_the_example_and_nothing_to_undo(page):
    page.examples = (EXAMPLE,)
    assert page.open_visitor()[1].missing == "Add a video to begin.", "the example is longer than this server allows"
    page = Page(page.store, Workbench(MediaLimits(), page.workbench.artifacts), page.engine, page.uploads, [EXAMPLE])
    token, view, frame_index = page.open_visitor()
    assert view.missing is None and frame_index == 60
    assert not page.canvas.exchange.answer({"token": token})["can_undo"]


def test_preview_shows_the_object_and_leaves_the_rest(page, ready):
    picture = page.preview_frame(ready, 5)
    assert picture.shape == (*HW, 3)
    red = (picture[..., 0].astype(int) - picture[..., 2]) > 90
    assert red[15:25, 30:45].mean() > 0.5, "the red disc is half-way"


@pytest.mark.parametrize("frame", [0, 2, 4, 5, 7, 9])
def test_the_canvas_shows_the_object_where_the_render_puts_it(page, ready, frame):
    for setting in ("shadow", "motion_blur", "harmonize", "grain"):
        page.set_blend(setting, ready, 0.0)
    answer = draw(page, ready, add_path({"5": [0.5, 0.3]}), meshes=[{"layer": 0, "start": frame, "stop": frame + 1}])
    mesh = np.frombuffer(base64.b64decode(answer["meshes"][0]["vertices"]), np.float32).reshape(-1, 2) * HW[::-1]
    shown = np.concatenate([mesh.min(axis=0), mesh.max(axis=0)])
    opened = page.workbench.open_clip(page.store.files(ready) / "street.mp4")
    plain = opened.frames.frame(frame).image.astype(int)
    request, _ = page._request(page._parse(page.store.load(ready).text), page.store.files(ready))
    changed = np.abs(page._render_one(request, frame) - plain).sum(axis=-1) > 30
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    rendered = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(shown - rendered).max() <= 2
    both = np.minimum(shown[2:], rendered[2:]) - np.maximum(shown[:2], rendered[:2])
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (shown, rendered)]
    assert both.prod() / (sum(sizes) - both.prod()) > 0.75, "a pixel is a tenth of the object here"


# -- a browser that lies ----------------------------------------------------------------------------------------------------------

BAD_NUMBERS = [math.nan, math.inf, -math.inf, 10**400, "7", [1], {}, True]


@pytest.mark.parametrize("bad", BAD_NUMBERS)
def test_bad_numbers_are_refused_everywhere(page, ready, uploads, bad):
    text = page.store.load(ready).text
    tries = [
        lambda: page.refresh(ready, bad),
        lambda: page.set_blend("shadow", ready, bad),
        lambda: page.set_blend("shadow", ready, 0.5, bad),
        lambda: page.preview_frame(ready, bad),
        lambda: page.upload_reference(ready, str(uploads / "disc.png"), bad),
    ]
    for attempt in tries:
        with pytest.raises(gr.Error) as caught:
            attempt()
        assert caught.value.message != NEUTRAL, "refused on purpose, not by accident"
    assert page.store.load(ready).text == text


@pytest.mark.parametrize("value", [None, -5, 10**9, 3.4])
def test_frames_and_layers_that_are_not_there_are_held_inside(page, ready, value):
    assert page.preview_frame(ready, value).shape == (*HW, 3)
    assert page.refresh(ready, value).blend["opacity"] == 1


def test_other_lies_are_refused(page, ready, uploads):
    tries = [
        lambda: page.refresh(None),
        lambda: page.refresh("a" * 43),
        lambda: page.set_blend("shadow", ready, 7),
        lambda: page.set_blend("no such", ready, 0.5),
        lambda: page.set_blend("shadow", ready, 0.5, 9),
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
        {"engine": {"name": "videoanydoor", "checkpoint": "/srv"}},
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
            raise RuntimeError("secret detail /srv/x")
            yield

    page.engine = Broken()
    with pytest.raises(gr.Error) as caught:
        page.preview_frame(ready, 0)
    assert caught.value.message == NEUTRAL and "secret detail" in caplog.text
    views = []
    with pytest.raises(gr.Error):
        views.extend(page.insert(ready, False, False))
    assert not views[-1].is_running and views[-1].line == "", "the buttons come back before the error is shown"


def test_insert_without_all_its_parts_says_what_is_missing(page, token):
    with pytest.raises(gr.Error, match="Add a video"):
        list(page.insert(token, False, False))


# -- small things -----------------------------------------------------------------------------------------------------------------


def test_progress_is_told_with_the_time_that_is_left():
    assert describe_progress(Progress("compositing", 1, 100), 0.1) == "Compositing: 1 of 100"
    assert describe_progress(Progress("compositing", 25, 100), 10) == "Compositing: 25 of 100, about 30 s left"
    assert describe_progress(Progress("sampling", 10, 100), 60) == "Sampling: 10 of 100, about 9 min left"
    assert describe_progress(Progress("finishing", 100, 100), 60) == "Finishing: 100 of 100"
    assert describe_progress(Progress("measuring the footage", 4, 7), 1) == "Measuring the footage: 4 of 7", "more is to come"


def test_a_project_file_of_any_size_is_not_read(page, ready, uploads):
    (uploads / "huge.json").write_bytes(b" " * (steps.MAX_DOCUMENT_CHARS + 1))
    with pytest.raises(gr.Error, match="too large"):
        page.open_project(ready, [str(uploads / "huge.json")])


def test_old_results_make_room_for_new_ones(page, ready):
    first = list(page.insert(ready, False, False))[-1].files["video"]
    page.store.max_visitor_bytes = 1
    page.set_blend("opacity", ready, 0.5)
    list(page.insert(ready, False, False))
    assert len(list(page.store.results(ready).glob("*.mp4"))) == 1
    assert probe_clip(Path(first)).num_frames == NUM_FRAMES, "what was handed out stays"


def test_a_shelf_keeps_to_its_weight_and_always_the_newest():
    dropped = []
    shelf = Shelf(9, dropped.append, max_bytes=10, weigh=len)
    for key in ("aaaa", "bbbb", "cccc", "d" * 30):
        assert shelf.fetch(key, lambda key=key: key) == key
    assert dropped == ["aaaa", "bbbb", "cccc"]
    assert shelf.fetch("d" * 30, lambda: "made anew") == "d" * 30


def test_pictures_are_cut_out_one_at_a_time(workbench, uploads, monkeypatch, tmp_path):
    """Each may take gigabytes for a moment."""
    import threading

    from pipeline import images

    inside, most, real = [], [], images.read_image

    def slow_read(path, *limits):
        inside.append(path)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return real(path, *limits)

    monkeypatch.setattr(images, "read_image", slow_read)
    paths = [tmp_path / f"disc{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes((uploads / "disc.png").read_bytes())
    threads = [threading.Thread(target=workbench.cut_out, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_a_shelf_is_bounded_and_makes_each_value_once():
    made, dropped = [], []
    shelf = Shelf(2, dropped.append)
    for key in ("a", "b", "a", "c", "a"):
        shelf.fetch(key, lambda key=key: made.append(key) or key.upper())
    assert made == ["a", "b", "c"] and dropped == ["B"]


def test_previews_are_never_enlarged():
    assert preview_hw((2160, 3840)) == (630, 1120) and preview_hw((48, 80)) == (48, 80)
