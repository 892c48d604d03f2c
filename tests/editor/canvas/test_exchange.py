"""The conversation with the server: one motion mathematics, undo in whole steps, and every lie refused in one sentence."""

import base64
import json

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from editor.canvas import Canvas, Exchange, FrameDesk
from editor.canvas.exchange import MAX_MESSAGE_BYTES, NEUTRAL
from pipeline.media import probe_clip
from pipeline.motion import BoxKey, LayerMotion, TrajectoryKeys, build_box_sequence, build_trajectory_set
from tests.editor.canvas.bench import MemoryHost, make_reference
from tests.tiny import make_clip

HW, NUM_FRAMES = (120, 160), 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", num_frames=NUM_FRAMES, hw=HW))


@pytest.fixture
def host(clip):
    return MemoryHost(clip)


@pytest.fixture
def canvas(host):
    made = Canvas(host, FrameDesk(1 << 20))
    yield made
    made.close()


@pytest.fixture
def tell(canvas, host):
    return lambda **message: canvas.exchange.answer({"token": host.token, **message})


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def box(frame, left):
    return {"kind": "set_box", "layer": 0, "frame": frame, "box": [left, 0.2, left + 0.3, 0.8]}


PATH = {"kind": "add_trajectory", "layer": 0, "keys": {"0": [0.3, 0.3], "20": [0.6, 0.5]}, "anchor": [0.3, 0.25]}
OTHER = {"kind": "add_trajectory", "layer": 0, "keys": {"0": [0.4, 0.7], "29": [0.8, 0.9]}, "anchor": [0.7, 0.8]}
THIRD = {"kind": "add_trajectory", "layer": 0, "keys": {"5": [0.2, 0.6]}, "anchor": [0.2, 0.8]}


def test_the_scene_holds_what_the_motion_says(tell, host):
    answer = tell(gestures=[box(0, 0.1), box(20, 0.5), PATH, OTHER, THIRD], meshes=[{"layer": 0, "start": 0, "stop": NUM_FRAMES}])
    assert answer["fault"] is None
    layer = answer["scene"]["layers"][0]
    document = host.document["layers"][0]
    boxes = build_box_sequence({int(f): BoxKey(tuple(k["box"])) for f, k in document["boxes"].items()}, HW, NUM_FRAMES)
    anchors = {name: (x * 80, y * 120) for name, (x, y) in document["references"][0]["points"].items()}
    keys = [TrajectoryKeys(t["point"], {int(f): tuple(at) for f, at in t["keys"].items()}) for t in document["trajectories"]]
    paths = build_trajectory_set(keys, anchors, HW, NUM_FRAMES)
    motion = LayerMotion(make_reference(), boxes, paths)
    dense = floats(layer["boxes"]["dense"]).reshape(NUM_FRAMES, 5)
    assert np.abs(dense[:, :4] * [160, 120, 160, 120] - boxes.boxes_px).max() < 1e-3
    for index in range(3):
        assert (
            np.abs(floats(layer["trajectories"][index]["dense"]).reshape(-1, 2) * [160, 120] - paths.points_px[index]).max() < 1e-3
        )
    mesh = floats(answer["meshes"][0]["vertices"]).reshape(NUM_FRAMES, -1, 2) * [160, 120]
    for frame in range(NUM_FRAMES):
        assert np.abs(mesh[frame] - motion.mesh(frame)).max() < 1e-3
    assert np.allclose(floats(layer["motion"]["uv"]).reshape(-1, 2) * np.float32([80, 120]), motion.mesh_uv_px, atol=1e-4)


def test_a_step_is_all_of_its_gestures_or_none(tell, host):
    first = tell(gestures=[box(0, 0.1), box(9, 0.3)])
    assert first["can_undo"] and len(host.past) == 1
    before = json.dumps(host.document)
    answer = tell(gestures=[box(20, 0.5), {**box(21, 0.5), "box": [0.5, 0.5, float("nan"), 1]}])
    assert (
        answer["fault"]
        and json.dumps(host.document) == before
        and answer["scene"]["layers"][0]["boxes"]["keys"].keys() == {"0", "9"}
    )
    undone = tell(gestures=[{"kind": "undo"}])
    assert "boxes" not in host.document["layers"][0] and undone["can_redo"] and not undone["can_undo"]
    tell(gestures=[{"kind": "redo"}])
    assert json.dumps(host.document) == before


def test_what_was_seen_is_not_sent_again_and_an_edit_without_effect_is_no_step(tell, host):
    revision = tell(gestures=[box(0, 0.1)])["revision"]
    again = tell(gestures=[box(0, 0.1)], seen=revision)
    assert again["scene"] is None and again["revision"] == revision and len(host.past) == 1


def test_a_dry_run_shows_the_mesh_and_changes_nothing(tell, host):
    tell(gestures=[box(0, 0.1), PATH])
    before = json.dumps(host.document)
    wish = [{"layer": 0, "start": 0, "stop": 1}]
    plain = tell(meshes=wish)["meshes"][0]
    moved = {"kind": "move_node", "layer": 0, "trajectory": 0, "frame": 0, "at": [0.5, 0.3]}
    dry = tell(gestures=[moved], dry=True, meshes=wish)
    assert json.dumps(host.document) == before and dry["scene"] is None
    assert np.allclose(
        floats(dry["meshes"][0]["vertices"]) - floats(plain["vertices"]),
        np.tile([0.2, 0], len(floats(plain["vertices"])) // 2),
        atol=1e-6,
    )
    assert tell(gestures=[{"kind": "undo"}], dry=True)["fault"] and json.dumps(host.document) == before


def test_suggested_points_and_a_pinned_one(tell, host):
    tell(gestures=[box(0, 0.1), box(20, 0.5), {"kind": "suggest_points", "layer": 0, "count": 3}])
    points = host.document["layers"][0]["references"][0]["points"]
    assert list(points) == ["p1", "p2", "p3"]
    answer = tell(gestures=[{"kind": "pin_point", "layer": 0, "point": "p2", "frame": 10, "at": [0.5, 0.5]}])
    assert answer["fault"] is None
    keys = host.document["layers"][0]["trajectories"][0]["keys"]
    assert list(keys) == ["0", "10", "20"] and keys["10"] == [0.5, 0.5]
    boxes = build_box_sequence({0: BoxKey((0.1, 0.2, 0.4, 0.8)), 20: BoxKey((0.5, 0.2, 0.8, 0.8))}, HW, NUM_FRAMES)
    motion = LayerMotion(make_reference(), boxes, None)
    anchor = np.array(points["p2"]) * [80, 120]
    assert np.allclose(np.array(keys["0"]) * [160, 120], motion.warp(0).forward(anchor), atol=1e-3)


def test_what_is_wrong_with_a_layer_is_said_and_the_rest_still_shown(tell):
    near = {**OTHER, "anchor": [0.305, 0.25]}
    answer = tell(gestures=[box(0, 0.1), PATH, near])
    layer = answer["scene"]["layers"][0]
    assert "2 px apart" in layer["fault"] and layer["motion"] is None and len(layer["trajectories"]) == 2


@pytest.mark.parametrize("token", [None, "", "x", "t" * 43, 5, ["T" * 43], {"T": 1}, float("nan"), True])
def test_a_forged_token_gets_nothing(canvas, host, token):
    answer = canvas.exchange.answer({"token": token, "gestures": [box(0, 0.1)]})
    assert answer["fault"] and answer["scene"] is None and answer["revision"] is None and host.past == []
    assert canvas.exchange.answer({"gestures": [box(0, 0.1)]})["fault"]


@pytest.mark.parametrize(
    "message",
    [
        {"more": 1},
        {"gestures": {}},
        {"gestures": [box(0, 0.1)] * 65},
        {"gestures": [{"kind": "undo"}, {"kind": "undo"}]},
        {"gestures": [{"kind": "undo", "more": 1}, None]},
        {"gestures": [{"kind": "suggest_points", "layer": 0, "count": 10**6}]},
        {"gestures": [{"kind": "suggest_points", "layer": 9}]},
        {"gestures": [{"kind": "pin_point", "layer": 0, "point": "p1", "frame": 0, "at": [0.5, 0.5]}]},
        {"meshes": [{"layer": 0, "start": 5, "stop": 5}]},
        {"meshes": [{"layer": 9, "start": 0, "stop": 5}]},
        {"meshes": [{"layer": 0, "start": -1, "stop": 5}]},
        {"meshes": [{"layer": 0, "start": 10**6, "stop": 10**6 + 1}]},
        {"seen": 5},
        {"dry": "yes"},
    ],
)
def test_malformed_messages_are_answered_with_a_sentence(tell, host, message):
    answer = tell(**message)
    assert isinstance(answer["fault"], str) and host.past == []


def test_one_answer_carries_a_bounded_part_of_a_mesh(tell, host, monkeypatch):
    monkeypatch.setattr("editor.canvas.scene.MAX_MESH_FRAMES", 8)
    tell(gestures=[box(0, 0.1)])
    mesh = tell(meshes=[{"layer": 0, "start": 10, "stop": 10**7}])["meshes"][0]
    assert (mesh["start"], mesh["stop"]) == (10, 18)


def test_without_a_video_there_is_no_scene(canvas, host):
    work = host.read(host.token)
    host.read = lambda token: type(work)(work.document, False, False, None, None, work.find_cutout)
    answer = canvas.exchange.answer({"token": host.token})
    assert answer["scene"] is None and answer["revision"] and answer["fault"] is None
    assert canvas.exchange.answer({"token": host.token, "gestures": [box(0, 0.1)]})["fault"] == "Add a video first."


def test_over_http_nothing_but_small_strict_json_is_read(canvas, host, caplog):
    with TestClient(Starlette(routes=[canvas.mount()])) as client:
        answer = client.post("/canvas/exchange", content=json.dumps({"token": host.token}))
        assert answer.status_code == 200 and answer.json()["scene"]["clip"]["num_frames"] == NUM_FRAMES
        assert answer.headers["cache-control"] == "no-store"
        for body in (b"", b"{", b"[]", b"\xff", b'{"token": NaN}', b'{"token": 1, "token": 2}', b"[" * 100_000, b"9" * 10_000):
            assert client.post("/canvas/exchange", content=body).json()["fault"]
        assert client.post("/canvas/exchange", content=b" " * (MAX_MESSAGE_BYTES + 1)).status_code == 413
        assert client.get("/canvas/exchange").status_code == 405
        for path in ("/canvas/static/canvas.js", "/canvas/static/../exchange.py", "/canvas/", "/canvas/view/"):
            assert client.get(path).status_code == 404
        host.read = lambda token: 1 / 0
        answer = client.post("/canvas/exchange", content=json.dumps({"token": host.token}))
        assert answer.json()["fault"] == NEUTRAL and "ZeroDivisionError" in caplog.text


def test_the_scripts_are_served_under_the_address_that_the_component_loads(canvas):
    pytest.importorskip("gradio")
    loader = canvas.component(render=False).js_on_load
    address = loader.split('import(base + "')[1].split('"')[0]
    with TestClient(Starlette(routes=[canvas.mount()])) as client:
        answer = client.get(f"/canvas/{address}")
        assert answer.status_code == 200 and "javascript" in answer.headers["content-type"] and "function mount(" in answer.text


def test_an_exchange_can_stand_alone(host):
    exchange = Exchange(host, FrameDesk(1 << 20))
    assert exchange.answer({"token": host.token})["scene"]["layers"][0]["name"] == "cup"
    exchange.close()
