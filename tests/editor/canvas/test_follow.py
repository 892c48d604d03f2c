"""Layers that stick to the scene: shown where they are on screen, kept as they lie at the key frame."""

import base64
import time

import numpy as np
import pytest

from editor.canvas import Canvas, FollowDesk, FrameDesk
from editor.canvas.follow import kept_layer, read_follow, shown_layer
from pipeline import geometry
from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.media import FrameStore, probe_clip
from pipeline.resolve import follow_surface
from pipeline.types import SurfaceMotion
from tests.editor.canvas.bench import MemoryHost
from tests.pipeline.test_tracking import camera_path, film, look

NUM_FRAMES = 12
HW = np.array([320.0, 180.0])
BOX = {"kind": "set_box", "layer": 0, "frame": 2, "box": [0.3, 0.3, 0.5, 0.7]}
STICK = {"kind": "set_follow", "layer": 0, "surface": "similarity", "frame": 2}


@pytest.fixture(scope="module")
def maps():
    return camera_path("similarity", NUM_FRAMES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, maps):
    path = tmp_path_factory.mktemp("clip") / "moving.mp4"
    film(path, lambda frame: look(maps[frame]), NUM_FRAMES)
    return probe_clip(path)


@pytest.fixture
def host(clip):
    return MemoryHost(clip)


@pytest.fixture
def canvas(host, tmp_path):
    made = Canvas(host, FrameDesk(1 << 20), follows=FollowDesk(ArtifactCache(tmp_path / "cache")))
    yield made
    made.close()


@pytest.fixture
def tell(canvas, host):
    return lambda **message: canvas.exchange.answer({"token": host.token, **message})


def settled(tell):
    """The answer when nothing is being tracked any more."""
    for _ in range(600):
        answer = tell()
        if not answer["is_following"]:
            return answer
        time.sleep(0.05)
    raise AssertionError("tracking does not end")


def centre_at(answer, frame):
    dense = np.frombuffer(base64.b64decode(answer["scene"]["layers"][0]["boxes"]["dense"]), "<f4").reshape(NUM_FRAMES, 5)
    return (dense[frame, :2] + dense[frame, 2:4]) / 2 * HW


def test_a_tied_object_is_shown_where_the_scene_carries_it(tell, host, clip, maps, tmp_path):
    first = tell(gestures=[BOX])
    assert first["scene"]["layers"][0]["follow"] is None and first["is_following"]
    told = tell(gestures=[STICK])
    assert told["fault"] is None and told["scene"]["layers"][0]["follow"]["state"] == "tracking"
    answer = settled(tell)
    tie = answer["scene"]["layers"][0]["follow"]
    assert (tie["state"], tie["key_frame"], tie["lost"]) == ("ready", 2, []) and answer["revision"] != told["revision"]
    assert tie["cuts"] == [] and answer["scene"]["clip"]["camera_moves"]
    at_key = np.array([0.4, 0.5]) * HW
    for frame in (0, 2, 11):
        true = geometry.apply_map(maps[frame] @ np.linalg.inv(maps[2]), at_key)
        assert np.abs(centre_at(answer, frame) - true).max() < 0.7
    mesh = tell(meshes=[{"layer": 0, "start": 11, "stop": 12}])["meshes"][0]
    vertices = np.frombuffer(base64.b64decode(mesh["vertices"]), "<f4").reshape(-1, 2) * HW
    assert np.abs((vertices.min(0) + vertices.max(0)) / 2 - centre_at(answer, 11)).max() < 4
    follow = read_follow(host.document["layers"][0], clip)
    made = follow_surface(FrameStore(clip), follow, 0, NUM_FRAMES, None, ArtifactCache(tmp_path / "cache"), lambda progress: None)
    assert np.abs(geometry.apply_map(made.matrices[11], at_key) - centre_at(answer, 11)).max() < 1e-3


def test_what_is_drawn_on_a_tied_object_is_kept_at_the_key_frame(tell, host, maps):
    tell(gestures=[BOX, STICK])
    settled(tell)
    kept = host.document["layers"][0]["boxes"]["2"]
    path = {"kind": "add_trajectory", "layer": 0, "keys": {"2": [0.4, 0.4], "11": [0.45, 0.4]}, "anchor": [0.5, 0.3]}
    answer = tell(gestures=[{**BOX, "frame": 11}, path])
    assert answer["fault"] is None
    assert np.abs(centre_at(answer, 11) - np.array([0.4, 0.5]) * HW).max() < 0.01, "the hand put it there on screen"
    layer = host.document["layers"][0]
    assert layer["boxes"]["2"] == kept and layer["trajectories"][0]["keys"]["2"] == [0.4, 0.4]
    here = np.array(layer["boxes"]["11"]["box"]).reshape(2, 2).mean(axis=0) * HW
    true = geometry.apply_map(maps[2] @ np.linalg.inv(maps[11]), np.array([0.4, 0.5]) * HW)
    assert np.abs(here - true).max() < 0.7
    assert answer["scene"]["layers"][0]["trajectories"][0]["keys"]["11"] == pytest.approx([0.45, 0.4], abs=1e-5)
    before = host.document
    assert tell(gestures=[{"kind": "move_node", "layer": 0, "trajectory": 0, "frame": 11, "at": [0.5, 0.5]}])["fault"] is None
    assert host.document["layers"][0]["trajectories"][0]["keys"]["2"] == [0.4, 0.4]
    tell(gestures=[{"kind": "undo"}])
    assert host.document == before


def test_before_it_is_tracked_only_the_key_frame_can_be_edited(clip):
    layer = {
        "name": "a",
        "kind": "insert",
        "boxes": {"2": {"box": [0.3, 0.3, 0.5, 0.7]}},
        "follow": {"kind": "similarity", "key_frame": 2},
    }
    moved = {**layer, "boxes": {"2": {"box": [0.4, 0.3, 0.6, 0.7]}}}
    assert kept_layer(layer, shown_layer(layer, None, clip), moved, None, clip) == moved
    late = {**layer, "boxes": {**layer["boxes"], "5": {"box": [0.4, 0.3, 0.6, 0.7]}}}
    with pytest.raises(UserError, match="frame 2"):
        kept_layer(layer, shown_layer(layer, None, clip), late, None, clip)


def test_a_place_too_far_from_the_key_frame_is_refused_in_a_sentence(clip):
    far = np.tile(geometry.translation([5000.0, 0.0]), (NUM_FRAMES, 1, 1))
    far[2] = np.eye(3)
    surface = SurfaceMotion(far, np.ones(NUM_FRAMES, np.bool_), 2)
    layer = {
        "name": "a",
        "kind": "insert",
        "boxes": {"2": {"box": [0.3, 0.3, 0.5, 0.7]}},
        "follow": {"kind": "similarity", "key_frame": 2},
    }
    shown = shown_layer(layer, surface, clip)
    late = {**shown, "boxes": {**shown["boxes"], "5": {"box": [0.4, 0.3, 0.6, 0.7]}}}
    with pytest.raises(UserError, match="frame 2"):
        kept_layer(layer, shown, late, surface, clip)
    assert all(-1 <= value <= 2 for value in shown_layer(late, surface, clip)["boxes"]["5"]["box"])


@pytest.mark.parametrize(
    "lie",
    [
        {**STICK, "surface": "affine"},
        {**STICK, "frame": NUM_FRAMES},
        {**STICK, "layer": 3},
        {**STICK, "region": [0.2, 0.2, 0.2, 0.5]},
        {**STICK, "region": [1.2, 0.2, 1.5, 0.5]},
        {**STICK, "points": []},
        {**STICK, "points": [[0.5, 1.2]]},
    ],
)
def test_ties_that_make_no_sense_are_refused(tell, host, lie):
    before = host.document
    assert tell(gestures=[lie])["fault"] and host.document == before


def test_a_tie_is_made_of_a_region_changed_and_let_go(tell, host):
    tell(gestures=[BOX, {**STICK, "region": [0.2, 0.2, 0.6, 1.4]}])
    assert host.document["layers"][0]["follow"] == {"kind": "similarity", "key_frame": 2, "region": [0.2, 0.2, 0.6, 1.0]}
    tell(gestures=[{**STICK, "surface": "homography"}])
    assert host.document["layers"][0]["follow"] == {"kind": "homography", "key_frame": 2}
    told = tell(gestures=[{**STICK, "points": [[0.3, 0.3], [0.60000001, 0.5]]}])
    assert host.document["layers"][0]["follow"] == {"kind": "similarity", "key_frame": 2, "points": [[0.3, 0.3], [0.6, 0.5]]}
    assert told["scene"]["layers"][0]["follow"]["points"] == [[0.3, 0.3], [0.6, 0.5]]
    answer = tell(gestures=[{**STICK, "surface": None}])
    assert "follow" not in host.document["layers"][0] and answer["scene"]["layers"][0]["follow"] is None
