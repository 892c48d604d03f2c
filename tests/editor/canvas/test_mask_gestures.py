"""Gestures on masks: what each makes of a document, and that nothing malformed, empty or endless gets into it."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editor.canvas import mask_gestures
from editor.canvas.gestures import apply_gesture
from editor.canvas.mask_gestures import MASK_GESTURES, count_edit_chars
from pipeline.errors import UserError
from pipeline.masks import coco_mask, encode_rle
from pipeline.project import parse_project

NUM_FRAMES = 30


@pytest.fixture
def document():
    layers = [{"name": "cup", "kind": "replace", "references": [{"path": "cup.png"}]}, {"name": "cat", "kind": "insert"}]
    return {"version": 1, "clip": {"path": "a.mp4"}, "layers": layers}


def apply(document, *gestures):
    for gesture in gestures:
        document = apply_gesture(document, {"layer": 0, "mask": "target", **gesture}, num_frames=NUM_FRAMES)
        parse_project(document)
    return document


def click(frame=3, at=(0.5, 0.5), **more):
    return {"kind": "add_click", "frame": frame, "at": list(at), **more}


def edit(seed=0):
    mask = np.random.default_rng(seed).random((20, 30)) > 0.5
    return coco_mask(encode_rle(mask), mask.shape)


def test_clicks_and_a_box_make_prompts_in_order_of_frames(document):
    made = apply(document, click(9), click(3), click(3, (0.1, 0.2), foreground=False))
    made = apply(made, {"kind": "set_prompt_box", "frame": 3, "box": [0.1, 0.1, 0.6, 0.7]})
    assert list(made["layers"][0]["target"]["prompts"]) == ["3", "9"]
    assert made["layers"][0]["target"]["prompts"]["3"] == {
        "clicks": [[0.5, 0.5, 1], [0.1, 0.2, 0]],
        "box": [0.1, 0.1, 0.6, 0.7],
    }


def test_a_removed_click_leaves_nothing_empty_behind(document):
    made = apply(document, click(3), click(3, (0.1, 0.2), foreground=False), click(9))
    made = apply(made, {"kind": "remove_click", "frame": 3, "click": 0})
    assert list(made["layers"][0]["target"]["prompts"]) == ["9"], "a frame where nothing marks the thing itself goes"
    made = apply(made, {"kind": "remove_click", "frame": 9, "click": 0})
    assert made == document
    boxed = apply(document, {"kind": "set_prompt_box", "frame": 3, "box": [0.1, 0.1, 0.6, 0.7]})
    assert apply(boxed, {"kind": "set_prompt_box", "frame": 3, "box": None}) == document


def test_hold_outs_are_made_by_their_first_mark_and_belong_to_any_layer(document):
    made = apply(document, {**click(), "layer": 1, "mask": 0}, {**click(5), "layer": 1, "mask": 1})
    assert len(made["layers"][1]["holdouts"]) == 2
    made = apply(made, {"kind": "delete_mask", "layer": 1, "mask": 0})
    assert list(made["layers"][1]["holdouts"][0]["prompts"]) == ["5"]
    assert apply(made, {"kind": "delete_mask", "layer": 1, "mask": 0}) == document
    for mask in (1, 5, "target"):
        with pytest.raises(UserError):
            apply(document, {**click(), "layer": 1, "mask": mask})


def test_a_negative_click_alone_says_nothing_about_the_thing(document):
    with pytest.raises(UserError, match="Click on the thing itself at frame 3 first"):
        apply(document, click(foreground=False))


def test_painted_masks_are_kept_given_back_and_give_way_to_a_click(document):
    made = apply(document, {"kind": "set_mask_edits", "edits": {"7": edit(1), "2": edit(2)}})
    assert list(made["layers"][0]["target"]["edits"]) == ["2", "7"]
    made = apply(made, click(7))
    assert list(made["layers"][0]["target"]["edits"]) == ["2"], "a click on a painted frame is seen"
    made = apply(made, {"kind": "delete_prompt", "frame": 2}, {"kind": "set_mask", "grow_px": 4.5, "feather_px": 2})
    target = made["layers"][0]["target"]
    assert "edits" not in target and (target["grow_px"], target["feather_px"]) == (4.5, 2)
    made = apply(made, {"kind": "set_mask", "grow_px": 0})
    assert "grow_px" not in made["layers"][0]["target"]


def test_painted_masks_are_bounded(document, monkeypatch):
    monkeypatch.setattr(mask_gestures, "MAX_EDIT_CHARS", 2 * len(edit()["counts"]))
    made = apply(document, {"kind": "set_mask_edits", "edits": {"7": edit()}})
    assert count_edit_chars(made) == len(edit()["counts"])
    with pytest.raises(UserError, match="fill the project"):
        apply(made, {"kind": "set_mask_edits", "edits": {str(frame): edit(frame) for frame in range(3)}})


def test_a_file_takes_the_place_of_clicks(document):
    made = apply(document, click(), {"kind": "set_mask", "grow_px": 3}, {"kind": "set_mask_file", "path": "mask.mkv"})
    assert made["layers"][0]["target"] == {"grow_px": 3, "path": "mask.mkv"}
    with pytest.raises(UserError, match="comes from a file"):
        apply(made, click())
    for path in ("../mask.png", "/etc/passwd", "a\\b.png", "..", "", "a\nb"):
        with pytest.raises(UserError):
            apply(document, {"kind": "set_mask_file", "path": path})


def test_another_kind_takes_along_what_it_can_use(document):
    made = apply(document, click())
    removing = apply_gesture(made, {"kind": "set_layer", "layer": 0, "layer_kind": "remove"}, num_frames=NUM_FRAMES)
    assert removing["layers"][0] == {"name": "cup", "kind": "remove", "target": made["layers"][0]["target"]}
    inserting = apply_gesture(made, {"kind": "set_layer", "layer": 0, "layer_kind": "insert"}, num_frames=NUM_FRAMES)
    assert "target" not in inserting["layers"][0] and inserting["layers"][0]["references"]


@pytest.mark.parametrize(
    "gesture",
    [
        click(NUM_FRAMES),
        click(-1),
        click(1.5),
        click(at=(1.2, 0.5)),
        click(at=(float("nan"), 0.5)),
        click(at=(0.5,)),
        click(foreground=1),
        {**click(), "layer": 9},
        {**click(), "mask": "holdouts"},
        {**click(), "mask": 16},
        {**click(), "mask": None},
        {**click(), "more": 1},
        {"kind": "remove_click", "frame": 3, "click": 0},
        {"kind": "set_prompt_box", "frame": 3, "box": [0.5, 0.5, 0.4, 0.9]},
        {"kind": "set_prompt_box", "frame": 3, "box": [0.5, 0.5, 0.5005, 0.9]},
        {"kind": "set_prompt_box", "frame": 3, "box": [-0.5, 0.5, 0.7, 0.9]},
        {"kind": "delete_prompt", "frame": 3},
        {"kind": "delete_mask"},
        {"kind": "set_mask", "grow_px": 3},
        {"kind": "set_mask_edits", "edits": {"30": edit()}},
        {"kind": "set_mask_edits", "edits": {"3": {"size": [20, 30], "counts": "junk!"}}},
        {"kind": "set_mask_edits", "edits": {"3": {"size": [20, 31], "counts": edit()["counts"]}}},
        {"kind": "set_mask_edits", "edits": {str(frame): None for frame in range(301)}},
    ],
)
def test_what_is_malformed_is_refused_in_one_sentence(document, gesture):
    before = copy.deepcopy(document)
    with pytest.raises(UserError) as caught:
        apply(document, gesture)
    assert "\n" not in str(caught.value) and document == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats(allow_nan=True) | st.sampled_from(["target", "3", "a.png"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["3", "size", "counts"]), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["frame", "at", "foreground", "click", "box", "edits", "grow_px", "feather_px", "path", "mask"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(MASK_GESTURES)), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
def test_anything_is_followed_or_refused(kind, rest):
    layers = [{"name": "cup", "kind": "replace", "target": {"prompts": {"3": {"clicks": [[0.5, 0.5, 1]]}}}}]
    before = {"version": 1, "clip": {"path": "a.mp4"}, "layers": layers}
    try:
        made = apply_gesture(before, {"kind": kind, "layer": 0, "mask": "target", **rest}, num_frames=NUM_FRAMES)
    except UserError:
        return
    parse_project(json.loads(json.dumps(made, allow_nan=False)))
