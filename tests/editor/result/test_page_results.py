"""Takes, splices, packs and dropped results through the page's own functions."""

import json
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from editor.handlers import Page
from editor.storage import WorkStore
from editor.views import STOPPED
from editor.workbench import Workbench
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.media import MediaLimits, probe_clip
from tests.tiny import make_clip

NUM_FRAMES, HW = 8, (48, 80)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    make_clip(folder / "street.mp4", num_frames=NUM_FRAMES, hw=HW, audio=["aac"])
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[8:32, 8:32] = (220, 40, 30, 255)
    Image.fromarray(rgba, "RGBA").save(folder / "tile.png")
    return folder


@pytest.fixture
def page(tmp_path, uploads) -> Page:
    workbench = Workbench(MediaLimits(max_frames=60), ArtifactCache(tmp_path / "cache"))
    return Page(WorkStore(tmp_path / "visitors"), workbench, CompositeEngine(), uploads)


@pytest.fixture
def token(page, uploads) -> str:
    """A visitor with one take."""
    token = page.open_visitor()[0]
    page.upload_clip(token, str(uploads / "street.mp4"))
    page.upload_reference(token, str(uploads / "tile.png"), 0)
    draw(page, token, {"kind": "set_box", "layer": 0, "frame": 0, "box": [0.1, 0.2, 0.5, 0.7]})
    *_, done = page.insert(token, False, False)
    assert set(done.files) == {"video", "project"}
    return token


def draw(page, token, *gestures):
    assert page.canvas.exchange.answer({"token": token, "gestures": list(gestures)})["fault"] is None


def test_insert_splice_and_pack(page, token):
    draw(
        page,
        token,
        {"kind": "set_box", "layer": 0, "frame": 0, "box": [0.4, 0.2, 0.8, 0.7]},
        {"kind": "set_range", "range": [2, 5]},
    )
    going, *_, done = page.splice(token)
    assert going.is_running and done.line == "Done: Take 1, 2 to 4 anew."
    clip = probe_clip(Path(done.files["video"]))
    assert (clip.num_frames, len(clip.audio_streams)) == (NUM_FRAMES, 1)
    assert [take["name"] for take in page.show_results(token)["takes"]] == ["Take 1", "Take 1, 2 to 4 anew"]
    *_, done = page.pack(token)
    path = Path(done.files["pack"])
    assert path.is_relative_to(page.uploads) and path.name == "Take 1, 2 to 4 anew.zip" and token not in str(path)
    with zipfile.ZipFile(path) as pack:
        assert "parts.json" in pack.namelist() and pack.read("result.mp4")
    *_, again = page.pack(token)
    assert Path(again.files["pack"]).samefile(path), "a pack is made once"


def test_the_same_work_is_one_take_and_other_work_another(page, token):
    list(page.insert(token, False, False))
    assert len(page.show_results(token)["takes"]) == 1
    draw(page, token, {"kind": "set_box", "layer": 0, "frame": 0, "box": [0.3, 0.2, 0.7, 0.7]})
    list(page.insert(token, True, True))
    value = page.show_results(token)
    assert len(value["takes"]) == 2 and set(page.show_files(token)) == {"video", "lossless", "layer", "project"}
    first = value["takes"][0]["key"]
    assert page.act_on_take(token, {"action": "show", "take": first}).is_other_shown
    files = page.show_files(token)
    assert set(files) == {"video", "project"}
    shown = json.loads(Path(files["project"]).read_text())
    assert shown["layers"][0]["boxes"]["0"]["box"] == [0.1, 0.2, 0.5, 0.7]
    assert page.act_on_take(token, {"action": "reuse", "take": first}).is_project_changed
    assert page.store.load(token).document == shown


def test_what_cannot_be_done_is_said(page, token):
    for job in (page.splice, page.pack):
        with pytest.raises(gr.Error, match="idle for too long"):
            list(job("x" * 43))
    with pytest.raises(gr.Error, match="in and out points"):
        list(page.splice(token))
    with pytest.raises(gr.Error, match="Render something first"):
        list(page.pack(page.open_visitor()[0]))
    with pytest.raises(gr.Error):
        page.act_on_take(token, {"action": "delete", "take": "nothing"})


def test_a_pack_that_is_stopped_leaves_nothing(page, token):
    before = sorted(page.store.folder(token).rglob("*"))
    views = page.pack(token)
    next(views)
    assert next(views).is_running
    page.cancel(token)
    assert list(views)[-1] == STOPPED
    assert sorted(page.store.folder(token).rglob("*")) == before


def test_a_result_dropped_back_restores_its_project(page, token, uploads):
    document = page.store.load(token).document
    dropped = page.show_files(token)["video"]
    page.act_on_take(token, {"action": "reuse", "take": page.show_results(token)["shown"]})
    draw(page, token, {"kind": "set_box", "layer": 0, "frame": 0, "box": [0.3, 0.2, 0.7, 0.7]})
    page.open_project(token, [dropped])
    again = page.store.load(token).document
    assert again["layers"][0]["boxes"] == document["layers"][0]["boxes"] and again["clip"] == document["clip"]
    other = page.open_visitor()[0]
    with pytest.raises(gr.Error, match=r"street\.mp4"):
        page.open_project(other, [dropped])
    page.open_project(other, [dropped, str(uploads / "street.mp4"), str(uploads / "tile.png")])
    assert page.store.load(other).document == again
    list(page.insert(other, False, False))
    ours, theirs = (page.results.takes.load(each).takes[0].digest for each in (token, other))
    assert ours == theirs, "the same project renders the same"
    with pytest.raises(gr.Error, match="rendered here"):
        page.open_project(other, [str(uploads / "street.mp4")])
