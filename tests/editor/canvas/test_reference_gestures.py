"""Gestures and wishes on reference pictures: what each makes of a document, over real pictures in a real visitor's folder."""

import numpy as np
import pytest
from PIL import Image

from editor.canvas import Canvas
from editor.canvas.gestures import apply_gesture
from editor.canvas.host import StoredWork
from editor.references import take_image
from editor.session import set_clip
from editor.storage import WorkStore
from editor.workbench import MAX_PICTURE_PIXELS, Workbench
from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.masks import coco_mask, decode_rle, encode_rle, parse_coco_mask
from pipeline.media import MediaLimits, file_sha256
from pipeline.presets import PRESET_NAMES
from pipeline.project import build_request, decode_project
from tests.tiny import make_clip

HW = (80, 60)
BASE = {"layer": 0, "reference": 0}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A clip, a cup with transparency, and a busy picture out of which nothing can be cut by itself."""
    folder = tmp_path_factory.mktemp("material")
    rgba = np.zeros((*HW, 4), np.uint8)
    rgba[10:70, 10:50] = (200, 120, 40, 255)
    Image.fromarray(rgba).save(folder / "cup.png")
    busy = np.random.default_rng(0).integers(0, 255, (*HW, 3)).astype(np.uint8)
    busy[20:60, 15:45] = (30, 60, 210)
    Image.fromarray(busy).save(folder / "busy.png")
    return make_clip(folder / "street.mp4", num_frames=12), folder / "cup.png", folder / "busy.png"


@pytest.fixture
def desk(tmp_path, material):
    """(visitor's token, canvas, store): a clip and no picture."""
    store = WorkStore(tmp_path / "visitors")
    workbench = Workbench(MediaLimits(), ArtifactCache(tmp_path / "cache"))
    canvas = Canvas(StoredWork(store, workbench))
    canvas.workbench = workbench
    token = store.issue()
    store.add_file(token, material[0])
    store.save(token, set_clip(store.load(token), "street.mp4", file_sha256(material[0])))
    yield token, canvas, store
    canvas.close()


def bring(desk, path, role="replace", reference=0):
    token, canvas, store = desk
    return take_image(store, canvas.workbench, token, path, 0, reference, role)[0].document["layers"][0]["references"]


def edit(desk, *gestures):
    token, canvas, store = desk
    answer = canvas.exchange.answer({"token": token, "gestures": list(gestures)})
    assert answer["fault"] is None, answer["fault"]
    return answer["scene"]["layers"][0], store.load(token).document["layers"][0]


def mask_of(reference):
    return decode_rle(parse_coco_mask(reference["mask"]["edits"]["0"], HW), HW)


def test_a_picture_in_which_nothing_stands_out_is_kept_and_cut_out_by_hand(desk, material):
    token, canvas, _ = desk
    assert bring(desk, material[2])[0]["path"] == "busy.png"
    scene = canvas.exchange.answer({"token": token})["scene"]["layers"][0]
    shown = scene["references"][0]
    assert shown["key"] is None and shown["picture"] is not None and "no object stands out" in shown["fault"]
    assert scene["reference"] is None and scene["fault"] == shown["fault"]
    scene, layer = edit(desk, {"kind": "click_reference", **BASE, "at": [0.5, 0.5]})
    assert layer["references"][0]["mask"] == {"prompts": {"0": {"clicks": [[0.5, 0.5, 1]]}}}
    shown = scene["references"][0]
    assert shown["key"] and shown["way"] == "clicked" and shown["clicks"] == [[0.5, 0.5, 1]] and scene["fault"] is None
    scene, layer = edit(desk, {"kind": "take_whole_reference", **BASE})
    assert mask_of(layer["references"][0]).all() and scene["references"][0]["note"] == "the whole picture is the object"
    scene, layer = edit(desk, {"kind": "undo"})
    assert scene["references"][0]["way"] == "clicked"
    scene, layer = edit(desk, {"kind": "remove_reference_click", **BASE, "click": 0})
    assert "mask" not in layer["references"][0] and scene["references"][0]["fault"]


def test_a_brush_paints_and_rubs_out_and_a_click_goes_on_from_there(desk, material):
    bring(desk, material[1])
    stroke = {"kind": "brush_reference", **BASE, "points": [[0.2, 0.9], [0.8, 0.9]], "radius": 0.05}
    scene, layer = edit(desk, stroke)
    mask = mask_of(layer["references"][0])
    assert mask[40, 30] and mask[72, 30] and not mask[72, 5] and scene["references"][0]["way"] == "painted"
    _, layer = edit(desk, {**stroke, "points": [[0.5, 0.5]], "radius": 0.1, "erase": True})
    mask = mask_of(layer["references"][0])
    assert not mask[40, 30] and mask[40, 15] and mask[72, 30]
    _, layer = edit(desk, {"kind": "click_reference", **BASE, "at": [0.5, 0.5]})
    assert mask_of(layer["references"][0])[40, 30] and "prompts" not in layer["references"][0]["mask"]
    _, layer = edit(desk, {"kind": "clear_reference_mask", **BASE})
    assert "mask" not in layer["references"][0]


def test_what_is_painted_is_what_a_render_inserts(desk, material):
    token, canvas, store = desk
    bring(desk, material[2])
    edit(desk, {"kind": "set_box", "layer": 0, "frame": 0, "box": [0.1, 0.1, 0.6, 0.8]}, {"kind": "take_whole_reference", **BASE})
    shown = canvas.exchange._host.read(token)
    cutout = shown.find_cutout(shown.document["layers"][0]["references"][0]).reference
    request, _ = build_request(decode_project(store.load(token).text), store.files(token))
    np.testing.assert_array_equal(request.layers[0].references[0].alpha, cutout.alpha)
    np.testing.assert_array_equal(request.layers[0].references[0].image, cutout.image)
    edit(desk, {"kind": "clear_reference_mask", **BASE}, {"kind": "click_reference", **BASE, "at": [0.5, 0.5]})
    shown = canvas.exchange._host.read(token)
    cutout = shown.find_cutout(shown.document["layers"][0]["references"][0]).reference
    request, _ = build_request(decode_project(store.load(token).text), store.files(token))
    np.testing.assert_array_equal(request.layers[0].references[0].alpha, cutout.alpha)


def test_several_pictures_are_added_ordered_and_removed_with_points_of_their_own(desk, material):
    bring(desk, material[1])
    edit(desk, {"kind": "place_reference_point", **BASE, "at": [0.4, 0.4]})
    edit(desk, {"kind": "add_trajectory", "layer": 0, "keys": {"0": [0.5, 0.5]}, "point": "p1"})
    assert [each["path"] for each in bring(desk, material[2], "add")] == ["cup.png", "busy.png"]
    _, layer = edit(desk, {"kind": "place_reference_point", "layer": 0, "reference": 1, "at": [0.9, 0.9]})
    assert [each.get("points") for each in layer["references"]] == [{"p1": [0.4, 0.4]}, {"p2": [0.9, 0.9]}]
    _, layer = edit(desk, {"kind": "move_reference", "layer": 0, "reference": 1, "to": 0})
    assert [each["path"] for each in layer["references"]] == ["busy.png", "cup.png"]
    assert layer["references"][0]["points"] == {"p2": [0.9, 0.9], "p1": [0.4, 0.4]}  # what the path moves came along
    _, layer = edit(desk, {"kind": "delete_reference", "layer": 0, "reference": 0})
    assert [each["path"] for each in layer["references"]] == ["cup.png"]
    _, layer = edit(desk, {"kind": "delete_reference", "layer": 0, "reference": 0})
    assert "references" not in layer


def test_a_mask_file_must_fit_its_picture(desk, material, tmp_path):
    bring(desk, material[2])
    mask = np.zeros(HW, np.uint8)
    mask[20:60, 15:45] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert bring(desk, tmp_path / "mask.png", "mask")[0]["mask"] == {"path": "mask.png"}
    Image.fromarray(mask[:, :20]).save(tmp_path / "narrow.png")
    for path, reference, words in ((tmp_path / "narrow.png", 0, "same shape"), (tmp_path / "mask.png", 3, "Add the picture first")):
        with pytest.raises(UserError, match=words):
            bring(desk, path, "mask", reference)
    assert not (desk[2].files(desk[0]) / "narrow.png").exists()


def test_pictures_beyond_the_pages_limit_are_refused_before_they_are_read(desk, tmp_path):
    Image.new("L", (6000, MAX_PICTURE_PIXELS // 6000 + 1)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match="more than 24 million pixels"):
        bring(desk, tmp_path / "huge.png")
    assert not (desk[2].files(desk[0]) / "huge.png").exists()


# -- faces and garments ------------------------------------------------------------------------------------------------------------


def boxed_garment(desk, material):
    bring(desk, material[1])
    box = {"kind": "set_box", "layer": 0, "frame": 0, "box": [0.2, 0.2, 0.5, 0.7]}
    edit(desk, box, {**box, "frame": 11, "box": [0.4, 0.2, 0.7, 0.7]})
    return edit(desk, {"kind": "suggest_points", **BASE, "preset": "garment"})[1]


def test_a_garments_points_are_named_and_dragging_one_moves_it_alone(desk, material):
    layer = boxed_garment(desk, material)
    names = list(layer["references"][0]["points"])
    assert len(names) >= 8 and set(names) <= set(PRESET_NAMES["garment"])
    token, canvas, _ = desk

    def dense():
        work = canvas.exchange._host.read(token)
        ready = canvas.exchange._ready(work, work.document, 0)
        hw = ready.cutout.reference.hw
        places = np.array(list(work.document["layers"][0]["references"][0]["points"].values())) * [hw[1], hw[0]]
        return np.array([ready.motion.warp(frame).forward(places) for frame in (0, 6, 11)])

    before = dense()
    at = [0.9, 0.9]
    scene, layer = edit(desk, {"kind": "pin_point", "layer": 0, "point": "left_hem", "frame": 6, "at": at})
    assert [each["point"] for each in layer["trajectories"]] == names and scene["fault"] is None
    after = dense()
    moved = names.index("left_hem")
    size = np.array([canvas.exchange._host.read(token).clip.width, canvas.exchange._host.read(token).clip.height])
    assert np.abs(after[1, moved] - np.array(at) * size).max() < 0.01
    others = np.delete(np.arange(len(names)), moved)
    assert np.abs(after[:, others] - before[:, others]).max() < 0.6 and np.abs(after[[0, 2]] - before[[0, 2]]).max() < 0.6


def test_a_box_that_moves_takes_the_points_of_a_garment_along(desk, material):
    boxed_garment(desk, material)
    edit(desk, {"kind": "pin_point", "layer": 0, "point": "left_hem", "frame": 6, "at": [0.3, 0.8]})
    token, _, store = desk
    before = {each["point"]: each["keys"] for each in store.load(token).document["layers"][0]["trajectories"]}
    _, layer = edit(desk, {"kind": "set_box", "layer": 0, "frame": 0, "box": [0.3, 0.3, 0.6, 0.8]})
    for each in layer["trajectories"]:
        shift = np.array(each["keys"]["0"]) - before[each["point"]]["0"]
        np.testing.assert_allclose(shift, [0.1, 0.1], atol=1e-4)
        assert {frame: at for frame, at in each["keys"].items() if frame != "0"} == {
            frame: at for frame, at in before[each["point"]].items() if frame != "0"
        }
    edit(desk, {"kind": "undo"})
    assert {each["point"]: each["keys"] for each in store.load(token).document["layers"][0]["trajectories"]} == before


# -- what a browser can send -------------------------------------------------------------------------------------------------------

DOCUMENT = {"version": 1, "clip": {"path": "c"}, "layers": [{"kind": "insert", "references": [{"path": "cup.png"}]}]}
WHOLE = coco_mask(encode_rle(np.ones(HW, bool)), HW)
LIES = [
    {"kind": "click_reference", **BASE, "at": [float("nan"), 0.5]},
    {"kind": "click_reference", **BASE, "at": [0.5, 0.5], "foreground": 1},
    {"kind": "click_reference", "layer": 0, "reference": 16, "at": [0.5, 0.5]},
    {"kind": "click_reference", "layer": 0, "reference": 1, "at": [0.5, 0.5]},
    {"kind": "click_reference", "layer": 5, "at": [0.5, 0.5]},
    {"kind": "remove_reference_click", **BASE, "click": 0},
    {"kind": "paint_reference", **BASE, "mask": {"size": [80, 60], "counts": "x"}},
    {"kind": "paint_reference", **BASE, "mask": {"size": [80, 60], "counts": "0" * 700_000}},
    {"kind": "paint_reference", **BASE, "mask": {**WHOLE, "size": [10**9, 10**9]}},
    {"kind": "move_reference", **BASE, "to": 1},
    {"kind": "delete_reference", "layer": 0, "reference": -1},
    {"kind": "name_reference_points", **BASE, "points": {"a\n": [0.5, 0.5]}},
    {"kind": "name_reference_points", **BASE, "points": {"a": [0.5, 1.5]}},
    {"kind": "place_reference_points", **BASE, "points": [[0.5, 0.5]] * 257},
    {"kind": "pin_points", **BASE, "paths": {"nobody": {"0": [0.5, 0.5]}}},
    {"kind": "clear_reference_mask", **BASE, "surprise": 1},
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie["kind"])
def test_lies_are_refused_and_change_nothing(lie):
    with pytest.raises(UserError):
        apply_gesture(DOCUMENT, lie, num_frames=12)


@pytest.mark.parametrize(
    "wish",
    [
        {"kind": "brush_reference", **BASE, "points": [], "radius": 0.1},
        {"kind": "brush_reference", **BASE, "points": [[0.5, 0.5]] * 5001, "radius": 0.1},
        {"kind": "brush_reference", **BASE, "points": [[0.5, 0.5]], "radius": 1e9},
        {"kind": "brush_reference", **BASE, "points": [[0.5, float("inf")]], "radius": 0.1},
        {"kind": "brush_reference", **BASE, "points": [[0.5, 0.1], [0.5, 0.9]], "radius": 0.5, "erase": True},
        {"kind": "take_whole_reference", "layer": 0, "reference": 7},
        {"kind": "suggest_points", **BASE, "preset": "shoe"},
        {"kind": "suggest_points", **BASE, "count": 10**9},
        {"kind": "paint_reference", **BASE, "mask": coco_mask(encode_rle(np.ones((8, 8), bool)), (8, 8)), "reference": 4},
    ],
)
def test_wishes_that_make_no_sense_are_answered_with_a_sentence(desk, material, wish):
    bring(desk, material[1])
    token, canvas, store = desk
    before = store.load(token).text
    answer = canvas.exchange.answer({"token": token, "gestures": [wish]})
    assert answer["fault"] and "\n" not in answer["fault"] and store.load(token).text == before


def test_a_painted_mask_of_another_size_is_a_fault_of_the_layer_and_can_be_cleared(desk, material):
    bring(desk, material[1])
    scene, _ = edit(desk, {"kind": "paint_reference", **BASE, "mask": coco_mask(encode_rle(np.ones((8, 8), bool)), (8, 8))})
    assert "does not fit" in scene["references"][0]["fault"]
    scene, _ = edit(desk, {"kind": "clear_reference_mask", **BASE})
    assert scene["references"][0]["fault"] is None
