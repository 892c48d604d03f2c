"""Gestures: what each makes of a document, and that nothing a browser can send gets past them."""

import copy
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editor.canvas.gestures import GESTURES, apply_gesture, falloff
from pipeline.errors import UserError
from pipeline.motion import TrajectoryKeys, build_trajectory_set
from pipeline.project import parse_project

NUM_FRAMES = 60


def start(**layer):
    base = {"name": "cup", "kind": "insert", "references": [{"path": "cup.png"}], **layer}
    return {"version": 1, "clip": {"path": "street.mp4"}, "layers": [base]}


def done(document, *gestures):
    for gesture in gestures:
        document = apply_gesture(document, gesture, num_frames=NUM_FRAMES)
    parse_project(document)
    return document


def box(frame, left=0.1, **more):
    return {"kind": "set_box", "layer": 0, "frame": frame, "box": [left, 0.2, left + 0.3, 0.6], **more}


def path(keys, **more):
    return {"kind": "add_trajectory", "layer": 0, "keys": keys, **more}


def test_boxes_are_set_changed_moved_copied_and_deleted():
    document = done(start(), box(24), box(0, 0.0, rotation_deg=10, ease="smooth"), box(48, 0.5))
    assert list(document["layers"][0]["boxes"]) == ["0", "24", "48"]
    document = done(document, box(0, 0.2))
    assert document["layers"][0]["boxes"]["0"] == {"box": [0.2, 0.2, 0.5, 0.6], "rotation_deg": 10, "ease": "smooth"}
    lane = {"layer": 0, "lane": "boxes"}
    document = done(
        document, {"kind": "move_key", **lane, "frame": 24, "to": 5}, {"kind": "copy_key", **lane, "frame": 0, "to": 48}
    )
    assert list(document["layers"][0]["boxes"]) == ["0", "5", "48"]
    assert document["layers"][0]["boxes"]["48"] == document["layers"][0]["boxes"]["0"]
    document = done(document, *({"kind": "delete_key", **lane, "frame": frame} for frame in (0, 5, 48)))
    assert "boxes" not in document["layers"][0]


def test_ease_and_presence():
    document = done(start(), box(0), box(24), {"kind": "set_ease", "layer": 0, "lane": "boxes", "frame": 0, "ease": "hold"})
    document = done(document, {"kind": "set_presence", "layer": 0, "frame": 24, "enter": False, "leave": True})
    assert document["layers"][0]["boxes"]["0"]["ease"] == "hold" and document["layers"][0]["boxes"]["24"]["leave"] is True
    document = done(document, {"kind": "set_presence", "layer": 0, "frame": 24, "enter": False, "leave": False})
    assert "leave" not in document["layers"][0]["boxes"]["24"]


def test_a_new_path_makes_its_point_or_takes_a_free_one():
    document = done(start(), path({"5": [0.2, 0.2]}, anchor=[0.3, 0.4]))
    layer = document["layers"][0]
    assert layer["trajectories"] == [{"point": "p1", "keys": {"5": [0.2, 0.2]}}]
    assert layer["references"][0]["points"] == {"p1": [0.3, 0.4]}
    placed = done(document, {"kind": "place_reference_point", "layer": 0, "at": [0.9, 0.9]})
    assert list(placed["layers"][0]["references"][0]["points"]) == ["p1", "p2"]
    document = done(placed, path({"5": [0.2, 0.2]}, point="p2"))
    assert [each["point"] for each in document["layers"][0]["trajectories"]] == ["p1", "p2"]
    with pytest.raises(UserError, match="already has a path"):
        done(document, path({"5": [0.2, 0.2]}, point="p2"))
    with pytest.raises(UserError, match="has no point"):
        done(document, path({"5": [0.2, 0.2]}, point="nose"))


def test_a_path_can_be_drawn_before_there_is_a_picture():
    document = start()
    del document["layers"][0]["references"]
    document = done(document, path({"0": [0.2, 0.2]}), path({"0": [0.3, 0.3]}))
    assert [each["point"] for each in document["layers"][0]["trajectories"]] == ["p1", "p2"]


def test_moved_nodes_take_their_neighbours_along():
    document = done(start(), path({"0": [0.1, 0.1], "6": [0.3, 0.3], "40": [0.5, 0.5]}))
    move = {"kind": "move_node", "layer": 0, "trajectory": 0, "frame": 6, "at": [0.5, 0.3], "falloff_frames": 12}
    keys = done(document, move)["layers"][0]["trajectories"][0]["keys"]
    assert keys["6"] == [0.5, 0.3] and keys["40"] == [0.5, 0.5] and keys["0"] == pytest.approx([0.2, 0.1])
    alone = done(document, {**move, "falloff_frames": 0})["layers"][0]["trajectories"][0]["keys"]
    assert alone["0"] == [0.1, 0.1]
    assert falloff(3, 0) == 0 and falloff(0, 0) == 1 and falloff(-6, 12) == pytest.approx(0.5)


def test_lanes_are_shifted_as_far_as_the_clip_goes():
    document = done(start(), path({"10": [0.1, 0.1], "40": [0.5, 0.5]}), {"kind": "shift_lane", "layer": 0, "lane": 0, "by": 999})
    assert list(document["layers"][0]["trajectories"][0]["keys"]) == ["29", "59"]
    document = done(document, {"kind": "shift_lane", "layer": 0, "lane": 0, "by": -999})
    assert list(document["layers"][0]["trajectories"][0]["keys"]) == ["0", "30"]
    cleared = done(document, {"kind": "clear_lane", "layer": 0, "lane": 0})
    assert "trajectories" not in cleared["layers"][0]


@pytest.mark.parametrize("spacing", ["timing", "even"])
def test_a_stroke_gives_one_sample_per_frame_through_all_of_its_nodes(spacing):
    angle = np.linspace(0, 2 * np.pi, 80)
    points = np.stack([0.5 + 0.3 * np.cos(angle), 0.5 + 0.2 * np.sin(2 * angle)], axis=1)
    times = np.linspace(0, 1, 80) ** 2
    gesture = {"kind": "draw_stroke", "layer": 0, "points": points.tolist(), "times_s": times.tolist(), "frames": [4, 52]}
    document = done(start(), {**gesture, "spacing": spacing})
    keys = document["layers"][0]["trajectories"][0]["keys"]
    assert next(iter(keys)) == "4" and list(keys)[-1] == "51" and len(keys) < 48
    assert keys["4"] == pytest.approx(points[0], abs=1e-5) and keys["51"] == pytest.approx(points[-1], abs=1e-5)
    made = build_trajectory_set(
        [TrajectoryKeys("p1", {int(f): tuple(at) for f, at in keys.items()})], {"p1": (1, 1)}, (100, 100), NUM_FRAMES
    )
    dense = made.points_px[0] / 100
    assert dense.shape == (NUM_FRAMES, 2)
    assert all(np.allclose(dense[int(frame)], at, atol=1e-5) for frame, at in keys.items())
    near = np.linalg.norm(dense[4:52, None] - points[None], axis=2).min(axis=1)
    assert near.max() < 0.02, "the path leaves the stroke"
    half = int(np.abs(dense[4:52] - points[40]).sum(axis=1).argmin()) / 47
    assert (0.2 < half < 0.32) if spacing == "timing" else (0.45 < half < 0.55)


def test_a_stroke_over_a_path_replaces_its_nodes_in_those_frames_alone():
    document = done(start(), path({"0": [0.1, 0.1], "30": [0.9, 0.9], "59": [0.5, 0.5]}))
    stroke = {
        "kind": "draw_stroke",
        "layer": 0,
        "trajectory": 0,
        "points": [[0.2, 0.2], [0.4, 0.4]],
        "times_s": [0, 1],
        "frames": [10, 40],
    }
    keys = done(document, stroke)["layers"][0]["trajectories"][0]["keys"]
    assert list(keys) == ["0", "10", "39", "59"] and keys["39"] == [0.4, 0.4]


def test_visible_ranges_and_the_rendered_range():
    document = done(
        start(), path({"0": [0.1, 0.1]}), {"kind": "set_visible", "layer": 0, "trajectory": 0, "ranges": [[0, 9], [20, 60]]}
    )
    assert document["layers"][0]["trajectories"][0]["visible"] == [[0, 9], [20, 60]]
    document = done(
        document, {"kind": "set_visible", "layer": 0, "trajectory": 0, "ranges": None}, {"kind": "set_range", "range": [3, 60]}
    )
    assert "visible" not in document["layers"][0]["trajectories"][0] and document["range"] == [3, 60]
    assert "range" not in done(document, {"kind": "set_range", "range": [0, 60]})


def test_deleting_a_point_takes_its_path_along():
    document = done(
        start(), path({"0": [0.1, 0.1]}), path({"0": [0.2, 0.2]}), {"kind": "delete_reference_point", "layer": 0, "point": "p1"}
    )
    assert [each["point"] for each in document["layers"][0]["trajectories"]] == ["p2"]
    assert list(document["layers"][0]["references"][0]["points"]) == ["p2"]


def test_layers_are_added_copied_moved_changed_and_deleted():
    document = done(start(), {"kind": "add_layer", "name": "hat"}, {"kind": "duplicate_layer", "layer": 0})
    assert [each["name"] for each in document["layers"]] == ["cup", "cup copy", "hat"]
    document = done(
        document, {"kind": "move_layer", "layer": 2, "to": 0}, {"kind": "set_layer", "layer": 0, "hidden": True, "anchor": "bottom"}
    )
    assert document["layers"][0] == {"name": "hat", "kind": "insert", "hidden": True, "anchor": "bottom"}
    document = done(document, {"kind": "delete_layer", "layer": 0}, {"kind": "delete_layer", "layer": 0})
    with pytest.raises(UserError, match="only layer"):
        done(document, {"kind": "delete_layer", "layer": 0})


def test_the_document_that_was_given_is_never_touched():
    document = done(start(), box(0), path({"0": [0.1, 0.1], "9": [0.2, 0.2]}))
    before = copy.deepcopy(document)
    done(document, box(0, 0.5), {"kind": "move_node", "layer": 0, "trajectory": 0, "frame": 9, "at": [1, 1], "falloff_frames": 20})
    assert document == before


BAD = [float("nan"), float("inf"), -float("inf"), 1e300, -1.001, 2.001, None, "0.5", True, [], {}, 10**400]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad_numbers_are_refused_wherever_they_stand(bad):
    document = done(start(), box(0), path({"0": [0.1, 0.1]}))
    for gesture in (
        {"kind": "set_box", "layer": 0, "frame": 0, "box": [bad, 0.2, 0.5, 0.6]},
        {"kind": "add_node", "layer": 0, "trajectory": 0, "frame": 1, "at": [0.5, bad]},
        {"kind": "move_node", "layer": 0, "trajectory": 0, "frame": 0, "at": [bad, bad]},
        {"kind": "place_reference_point", "layer": 0, "at": [bad, 0.5]},
        {"kind": "draw_stroke", "layer": 0, "points": [[0, 0], [bad, 0]], "times_s": [0, 1], "frames": [0, 9]},
        {
            "kind": "draw_stroke",
            "layer": 0,
            "points": [[0, 0], [1, 0]],
            "times_s": [0, -1 if bad == 2.001 else bad],
            "frames": [0, 9],
        },
    ):
        with pytest.raises(UserError):
            done(document, gesture)


@pytest.mark.parametrize("bad", [-1, NUM_FRAMES, 10**9, 1.0, "1", None, True, float("nan"), 10**400], ids=str)
def test_bad_frames_are_refused_wherever_they_stand(bad):
    document = done(start(), box(0), path({"0": [0.1, 0.1]}))
    for gesture in (
        box(bad),
        {"kind": "move_key", "layer": 0, "lane": "boxes", "frame": 0, "to": bad},
        {"kind": "delete_key", "layer": 0, "lane": 0, "frame": bad},
        path({str(bad): [0.1, 0.1]} if bad != "1" else {"01": [0.1, 0.1]}),
        {"kind": "set_range", "range": [0, bad] if bad != NUM_FRAMES else [0, NUM_FRAMES + 1]},
        {"kind": "set_visible", "layer": 0, "trajectory": 0, "ranges": [[bad, bad]]},
        {"kind": "draw_stroke", "layer": 0, "points": [[0, 0]], "times_s": [0], "frames": [bad, bad]},
    ):
        with pytest.raises(UserError):
            done(document, gesture)


@pytest.mark.parametrize(
    "gesture",
    [
        None,
        [],
        "set_box",
        {},
        {"kind": None},
        {"kind": ["set_box"]},
        {"kind": "__class__"},
        {"kind": "undo"},
        {**box(0), "more": 1},
        {"kind": "set_box", "layer": 0, "frame": 0},
        {**box(0), "layer": 1},
        {**box(0), "layer": -1},
        {**box(0), "box": [0.5, 0.5, 0.5, 0.6]},
        {**box(0), "box": [0.6, 0.5, 0.5, 0.6]},
        {**box(0), "rotation_deg": 1e9},
        {**box(0), "ease": "bounce"},
        {"kind": "set_ease", "layer": 0, "lane": "boxes", "ease": "hold"},
        {"kind": "clear_lane", "layer": 0, "lane": 7},
        {"kind": "clear_lane", "layer": 0, "lane": "trajectories"},
        {"kind": "shift_lane", "layer": 0, "lane": "boxes", "by": 1},
        path({}),
        {"kind": "set_layer", "layer": 0, "name": "a\nb"},
        {"kind": "set_layer", "layer": 0, "name": "x" * 10_000},
        {"kind": "place_reference_points", "layer": 0, "points": [[0.5, 0.5]] * 257},
        {"kind": "draw_stroke", "layer": 0, "points": [[0, 0]] * 20_001, "times_s": [0] * 20_001, "frames": [0, 9]},
        {"kind": "draw_stroke", "layer": 0, "points": [[0, 0], [1, 1]], "times_s": [1, 0], "frames": [0, 9]},
        {"kind": "draw_stroke", "layer": 0, "points": [[0, 0], [1, 1]], "times_s": [0], "frames": [0, 9]},
    ],
)
def test_malformed_gestures_are_refused_in_one_sentence(gesture):
    with pytest.raises(UserError) as caught:
        done(start(), gesture)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_number_of_layers_is_bounded():
    document = start()
    with pytest.raises(UserError):
        for _ in range(40):
            document = done(document, {"kind": "duplicate_layer", "layer": 0})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.floats() | st.text(max_size=8) | st.sampled_from([0, 1, 0.5, "boxes"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(0, 70).map(str), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = [
    "layer",
    "frame",
    "to",
    "lane",
    "box",
    "at",
    "by",
    "keys",
    "trajectory",
    "points",
    "times_s",
    "frames",
    "ranges",
    "range",
    "point",
    "name",
    "ease",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GESTURES)), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6))
def test_whatever_comes_the_document_stays_valid(kind, rest):
    document = done(start(), box(0), path({"0": [0.1, 0.1]}))
    try:
        after = apply_gesture(document, {"kind": kind, "layer": 0, **rest}, num_frames=NUM_FRAMES)
    except UserError:
        return
    parse_project(json.loads(json.dumps(after, allow_nan=False)))


def test_fractions_of_seconds_and_pixels_survive_as_readable_numbers():
    document = done(start(), {"kind": "set_box", "layer": 0, "frame": 0, "box": [1 / 3, 0.1, float(Fraction(2, 3)), 0.9]})
    assert document["layers"][0]["boxes"]["0"]["box"] == [0.333333, 0.1, 0.666667, 0.9]
    assert not any(math.isnan(value) for value in document["layers"][0]["boxes"]["0"]["box"])
