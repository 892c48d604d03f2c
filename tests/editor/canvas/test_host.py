"""The canvas over real visitors' folders: sessions are saved, undone, and never mixed."""

import numpy as np
import pytest
from PIL import Image

from editor.canvas import Canvas
from editor.canvas.host import StoredWork
from editor.session import set_clip, set_reference
from editor.storage import WorkStore
from editor.workbench import Workbench
from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.media import MediaLimits, file_sha256
from tests.tiny import make_clip

BOX = {"kind": "set_box", "layer": 0, "frame": 3, "box": [0.1, 0.1, 0.5, 0.6]}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    rgba = np.zeros((80, 60, 4), np.uint8)
    rgba[10:70, 10:50] = (200, 120, 40, 255)
    Image.fromarray(rgba).save(folder / "cup.png")
    return make_clip(folder / "street.mp4", num_frames=12), folder / "cup.png"


@pytest.fixture
def store(tmp_path):
    return WorkStore(tmp_path / "visitors")


@pytest.fixture
def workbench(tmp_path):
    return Workbench(MediaLimits(), ArtifactCache(tmp_path / "cache"))


@pytest.fixture
def canvas(store, workbench):
    made = Canvas(StoredWork(store, workbench))
    yield made
    made.close()


@pytest.fixture
def begin(store, material):
    def make():
        token = store.issue()
        for path in material:
            store.add_file(token, path)
        session = set_clip(store.load(token), "street.mp4", file_sha256(material[0]))
        store.save(token, set_reference(session, 0, "cup.png", file_sha256(material[1]), {}))
        return token

    return make


def test_edits_are_saved_at_once_and_undone_to_the_same_text(canvas, store, begin):
    token = begin()
    before = store.load(token)
    answer = canvas.exchange.answer({"token": token, "gestures": [BOX], "meshes": [{"layer": 0, "start": 0, "stop": 12}]})
    assert answer["fault"] is None and answer["meshes"][0] and answer["can_undo"]
    assert store.load(token).document["layers"][0]["boxes"] == {"3": {"box": [0.1, 0.1, 0.5, 0.6]}}
    canvas.exchange.answer({"token": token, "gestures": [{"kind": "undo"}]})
    assert store.load(token).text == before.text


def test_a_document_that_changed_meanwhile_is_not_overwritten(store, workbench, begin):
    token, host = begin(), None
    host = StoredWork(store, workbench)
    stale = host.read(token).document
    host.write(token, stale, {**stale, "range": [0, 5]})
    with pytest.raises(UserError, match="changed elsewhere"):
        host.write(token, stale, {**stale, "range": [0, 9]})
    assert store.load(token).document["range"] == [0, 5]


def test_two_visitors_with_the_same_files_have_their_own_work_and_addresses(canvas, store, begin):
    one, two = begin(), begin()
    scenes = [canvas.exchange.answer({"token": token})["scene"] for token in (one, two)]
    assert scenes[0]["clip"]["key"] != scenes[1]["clip"]["key"]
    assert scenes[0]["layers"][0]["reference"]["key"] != scenes[1]["layers"][0]["reference"]["key"]
    canvas.exchange.answer({"token": one, "gestures": [BOX]})
    assert "boxes" not in store.load(two).document["layers"][0]
    canvas.desk.forget(one)
    store.delete(one)
    assert canvas.exchange.answer({"token": one})["fault"] and canvas.exchange.answer({"token": two})["fault"] is None
    assert canvas.desk.frame_jpeg(scenes[0]["clip"]["key"], 0) is None
    assert canvas.desk.frame_jpeg(scenes[1]["clip"]["key"], 0)


def test_before_there_is_a_video_there_is_nothing_to_show(canvas, store):
    answer = canvas.exchange.answer({"token": store.issue(), "gestures": [BOX]})
    assert answer["scene"] is None and answer["fault"] == "Add a video first."


@pytest.mark.parametrize("name", ["../../secret.mp4", "/etc/passwd", "gone.mp4"])
def test_a_document_that_names_what_is_not_the_visitors_is_answered_with_a_sentence(canvas, store, begin, name):
    token = begin()
    store.save(token, set_clip(store.load(token), name, "0" * 64))
    answer = canvas.exchange.answer({"token": token})
    assert answer["fault"] and answer["scene"] is None and "etc" not in answer["fault"]
