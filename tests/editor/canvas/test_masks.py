"""The mask desk: what a click finds, what a track makes, what stays when it is stopped or outdated, and that lies are refused."""

import base64
import io
import json
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from editor.canvas import Canvas, FrameDesk, MaskDesk, mask_shelf
from editor.canvas.mask_jobs import track_range
from editor.canvas.mask_shelf import EDITED, EMPTY, MADE, PROMPTED, STALE, UNSURE
from editor.canvas.masks import MAX_MESSAGE_BYTES
from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.masks import decode_coco_counts, decode_rle
from pipeline.media import probe_clip, read_frames
from pipeline.project import parse_project
from tests.editor.canvas.bench import MemoryHost
from tests.editor.canvas.colour_segmenter import HW, NUM_FRAMES, ColourSegmenter, Segmenters, make_square_clip, square_at


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return probe_clip(make_square_clip(tmp_path_factory.mktemp("clip") / "squares.mp4"))


class Desk:
    """A canvas over one visitor's replace layer."""

    def __init__(self, clip, segmenter=None, cache=None):
        self.host = MemoryHost(clip)
        self.host.document["layers"][0]["kind"] = "replace"
        self.segmenter = segmenter or ColourSegmenter()
        self.canvas = Canvas(self.host, FrameDesk(1 << 20), MaskDesk(self.host, Segmenters(self.segmenter), cache))

    def edit(self, *gestures):
        answer = self.canvas.exchange.answer({"token": self.host.token, "gestures": list(gestures)})
        assert answer["fault"] is None, answer["fault"]
        parse_project(self.host.document)

    def fault(self, *gestures):
        before = json.dumps(self.host.document)
        answer = self.canvas.exchange.answer({"token": self.host.token, "gestures": list(gestures)})
        assert json.dumps(self.host.document) == before, "a refused edit changes nothing"
        return answer["fault"]

    def ask(self, mask="target", frames=(), **more):
        slots = [{"layer": 0, "mask": mask, "frames": list(frames)}]
        return self.canvas.masks.answer({"token": self.host.token, "slots": slots, **more})

    def flags(self, mask="target"):
        states = self.ask(mask)["slots"][0]["states"]
        return np.frombuffer(base64.b64decode(states["flags"]), np.uint8)

    def mask(self, frame, mask="target"):
        answer = self.ask(mask, [frame])
        (found,) = answer["slots"][0]["masks"] or [None]
        return None if found is None else decode_rle(decode_coco_counts(found["counts"]), tuple(found["size"]))

    def track(self, direction="both", frame=0, mask="target"):
        return self.ask(act={"kind": "track", "layer": 0, "mask": mask, "frame": frame, "direction": direction})

    def ended(self):
        for _ in range(400):
            job = self.ask()["job"]
            if job["state"] == "ended":
                return job
            time.sleep(0.02)
        raise AssertionError("the track did not end")


@pytest.fixture
def desk(clip, tmp_path):
    made = Desk(clip, cache=ArtifactCache(tmp_path / "cache"))
    yield made
    made.canvas.close()
    made.host.frames.close()


def click(x, y, frame=0, mask="target", **more):
    return {"kind": "add_click", "layer": 0, "mask": mask, "frame": frame, "at": [x / HW[1], y / HW[0]], **more}


def true_mask(frame):
    x0, y0, x1, y1 = square_at(frame)
    mask = np.zeros(HW, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def agreement(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_click_is_seen_at_once_and_segmented_once(desk):
    desk.edit(click(35, 55))
    assert agreement(desk.mask(0), true_mask(0)) > 0.95
    desk.mask(0)
    assert desk.segmenter.segmented == [0]
    assert desk.mask(5) is None, "other frames have no mask before they are tracked"
    assert desk.flags()[0] == MADE | PROMPTED


def test_a_track_runs_both_ways_and_a_correction_redoes_only_the_frames_up_to_its_neighbours(desk):
    desk.edit(click(35 + 36, 55, frame=12), click(35, 55, frame=0))
    desk.track("both", frame=12)
    job = desk.ended()
    assert job["made"] == NUM_FRAMES and job["note"] == ""
    assert (desk.flags() & (MADE | STALE) == MADE).all()
    assert all(agreement(desk.mask(frame), true_mask(frame)) > 0.9 for frame in (0, 3, 12, 23))
    desk.edit(click(35 + 18, 55, frame=6))
    stale = desk.flags() & STALE > 0
    assert stale[1:12].any() and not stale[0] and not stale[12:].any(), "what lies behind the neighbour stays good"
    assert stale[1:6].all() and stale[7:12].all()
    desk.segmenter.propagated.clear()
    desk.track("both", frame=6)
    desk.ended()
    assert set(desk.segmenter.propagated) <= set(range(13)), "nothing behind the neighbours is made again"
    assert not (desk.flags() & STALE).any()


def test_forward_and_backward_go_only_that_way(desk):
    desk.edit(click(35 + 30, 55, frame=10))
    desk.track("forward", frame=10)
    desk.ended()
    assert (np.flatnonzero(desk.flags()) == range(10, NUM_FRAMES)).all()
    desk.track("backward", frame=10)
    desk.ended()
    assert (desk.flags() & MADE > 0).all()


@pytest.mark.parametrize(
    ("frames", "frame", "direction", "span", "expected"),
    [
        ((5,), 5, "forward", None, (5, 20)),
        ((5, 9), 7, "forward", None, (5, 20)),
        ((5,), 2, "forward", None, (5, 20)),
        ((5,), 9, "backward", None, (0, 6)),
        ((5, 9), 7, "backward", (3, 15), (3, 10)),
        ((5,), 7, "both", (3, 15), (3, 15)),
        ((5,), 18, "both", (3, 15), (0, 20)),
        ((18,), 4, "forward", (3, 15), (18, 19)),
        ((1,), 4, "backward", (3, 15), (1, 2)),
    ],
)
def test_what_a_track_covers(frames, frame, direction, span, expected):
    assert track_range(dict.fromkeys(frames), frame, direction, span, 20) == expected


def test_stop_keeps_what_was_tracked_and_the_masks_stream_in_meanwhile(clip):
    desk = Desk(clip, ColourSegmenter(pause_s=0.05))
    desk.edit(click(35, 55))
    desk.track("forward")
    while desk.ask()["job"]["made"] < 5:
        time.sleep(0.01)
    assert 3 <= (desk.flags() & MADE > 0).sum() < NUM_FRAMES, "they are there before the end"
    job = desk.ask(act={"kind": "stop"})["job"]
    assert desk.ended()["note"].startswith("Stopped")
    kept = (desk.flags() & MADE > 0).sum()
    assert 5 <= kept <= job["made"] + 3
    desk.canvas.close()


def test_old_masks_stay_as_stale_ones_whatever_layer_the_thing_is_in_and_undo_finds_the_good_ones(desk):
    desk.edit(click(35, 55))
    desk.track()
    desk.ended()
    desk.edit(click(140, 10, foreground=False))
    flags = desk.flags()
    assert (flags[1:] & STALE > 0).all() and desk.mask(9) is not None
    assert agreement(desk.mask(9), true_mask(9)) > 0.9, "the old mask is still shown"
    desk.edit({"kind": "undo"})
    assert not (desk.flags() & STALE).any()
    desk.edit({"kind": "redo"})
    desk.edit({"kind": "delete_mask", "layer": 0, "mask": "target"})
    desk.edit(click(140, 105))
    assert (desk.flags()[1:] == 0).all(), "another thing inherits nothing"


def test_tracks_are_found_again_by_another_process(clip, tmp_path):
    first = Desk(clip, cache=ArtifactCache(tmp_path))
    first.edit(click(35, 55))
    first.track()
    first.ended()
    second = Desk(clip, cache=ArtifactCache(tmp_path))
    second.host.document = first.host.document
    assert (second.flags() & (MADE | STALE) == MADE).all() and second.segmenter.propagated == []
    assert (second.mask(7) == first.mask(7)).all()
    other = Desk(clip, ColourSegmenter("colour 2"), ArtifactCache(tmp_path))
    other.host.document = first.host.document
    assert not (other.flags() & MADE).any(), "another segmenter's masks are others"
    for each in (first, second, other):
        each.canvas.close()


def test_unsure_and_empty_frames_are_marked_and_told(clip):
    desk = Desk(clip, ColourSegmenter(doubtful=[8, 9]))
    desk.edit(click(35, 55))
    desk.track()
    assert "not sure of 2 of 24 frames (8-9); look there" in desk.ended()["note"]
    assert (np.flatnonzero(desk.flags() & UNSURE) == [8, 9]).all()
    desk.canvas.close()


def test_a_click_that_finds_nothing_says_so(desk, monkeypatch):
    monkeypatch.setattr(ColourSegmenter, "_thing", lambda self, image, prompt: np.zeros(HW, bool))
    desk.edit(click(35, 55))
    answer = desk.ask(frames=[0])
    assert "Nothing was found at frame 0" in answer["fault"] and desk.flags()[0] & EMPTY


def test_brush_eraser_holes_specks_grow_and_file_agree(desk, tmp_path):
    stroke = {"kind": "paint_mask", "layer": 0, "mask": "target", "frame": 4, "points": [[0.2, 0.5], [0.6, 0.5]], "radius": 0.05}
    desk.edit(stroke)
    painted = desk.mask(4)
    assert painted[60, 32:96].all() and painted.sum() == pytest.approx(64 * 16 + np.pi * 64, rel=0.1)
    desk.edit({**stroke, "points": [[0.4, 0.5]], "radius": 0.02, "erase": True})
    assert not desk.mask(4)[60, 64] and desk.flags()[4] == MADE | EDITED
    desk.edit({"kind": "refine_mask", "layer": 0, "mask": "target", "frames": [0, NUM_FRAMES], "how": "fill_holes"})
    assert (desk.mask(4) == painted).all()
    desk.edit({**stroke, "points": [[0.9, 0.1]], "radius": 0.01})
    desk.edit({"kind": "refine_mask", "layer": 0, "mask": "target", "frames": [4, 5], "how": "remove_specks"})
    assert (desk.mask(4) == painted).all()
    desk.edit({"kind": "set_mask", "layer": 0, "mask": "target", "grow_px": 3})
    assert desk.mask(4).sum() > painted.sum() + 300
    path = desk.canvas.masks.export({"token": desk.host.token, "layer": 0, "mask": "target", "format": "mkv"}, tmp_path)
    exported = [frame.image[..., 0] >= 128 for frame in read_frames(probe_clip(path))]
    assert len(exported) == NUM_FRAMES and (exported[4] == desk.mask(4)).all() and not exported[5].any()
    assert desk.fault({**stroke, "radius": 0.3}) and desk.fault({**stroke, "frame": 24}) and desk.fault({**stroke, "points": []})


def test_files_go_out_and_come_in_over_http(desk, tmp_path):
    desk.edit(click(35, 55))
    desk.track()
    desk.ended()
    web = TestClient(Starlette(routes=desk.canvas.masks.routes()))
    wish = {"token": desk.host.token, "layer": 0, "mask": "target", "format": "png"}
    answer = web.post("/masks/export", json=wish)
    pack = zipfile.ZipFile(io.BytesIO(answer.content))
    assert len(pack.namelist()) == NUM_FRAMES
    assert (np.array(Image.open(pack.open("mask-00003.png"))) // 255 == desk.mask(3)).all()
    film = web.post("/masks/export", json={**wish, "format": "mkv"}).content
    headers = {"x-visitor": desk.host.token, "x-file-name": "my%20mask.mkv"}
    taken = web.post("/masks/import", content=film, headers=headers).json()
    assert taken == {"path": "kept-my mask.mkv", "fault": None}
    shown = desk.mask(3)
    desk.edit({"kind": "set_mask_file", "layer": 0, "mask": 0, "path": taken["path"]})
    assert (desk.mask(3, mask=0) == shown).all() and (desk.flags(0) == MADE).all()
    assert "nothing to track" in desk.track(mask=0)["fault"]
    assert "comes from a file" in desk.fault(click(3, 3, mask=0))
    for body, name in ((b"words", "words.mp4"), (b"words", "words.txt"), (b"", "a.png")):
        refused = web.post("/masks/import", content=body, headers={**headers, "x-file-name": name}).json()
        assert refused["fault"] and "/" not in refused["fault"]
    desk.canvas.masks.max_import_bytes = 100
    assert web.post("/masks/import", content=film, headers=headers).status_code == 413
    assert web.post("/masks/import", content=film, headers={**headers, "x-visitor": "A" * 43}).status_code == 400
    assert desk.fault({"kind": "set_mask_file", "layer": 0, "mask": 1, "path": "secret.png"})


def test_messages_are_not_trusted(desk):
    desk.edit(click(35, 55))
    good = {"token": desk.host.token}
    for bad in (
        [],
        {},
        {"token": "A" * 43},
        {**good, "slots": [{"layer": 0, "mask": "target", "frames": [0] * 25}]},
        {**good, "slots": [{"layer": 99, "mask": "target"}]},
        {**good, "slots": [{"layer": 0, "mask": "prompts"}]},
        {**good, "slots": [{"layer": 0, "mask": -1}]},
        {**good, "slots": [{"layer": 0, "mask": "target", "frames": [float("nan")]}]},
        {**good, "act": {"kind": "format"}},
        {**good, "act": {"kind": "track", "frame": 99}},
        {**good, "act": {"kind": "track", "layer": 3}},
        {**good, "prepare": -1},
        {**good, "extra": 1},
    ):
        fault = desk.canvas.masks.answer(bad)["fault"]
        assert fault and "\n" not in fault, bad
    web = TestClient(Starlette(routes=desk.canvas.masks.routes()))
    assert web.post("/masks", content=b"x" * (MAX_MESSAGE_BYTES + 1)).status_code == 413
    assert web.post("/masks", content=b'{"token": NaN}').json()["fault"]
    assert web.post("/masks/export", json={**good, "layer": 0, "mask": 5, "format": "mkv"}).json()["fault"]
    assert desk.ask(frames=[999])["fault"] is None, "frames that are not there have no masks"


def test_without_a_segmenter_masks_can_be_painted_and_clicks_say_what_is_missing(clip):
    host = MemoryHost(clip)
    host.document["layers"][0] = {"name": "gone", "kind": "remove"}
    canvas = Canvas(host, FrameDesk(1 << 20))
    canvas.exchange.answer({"token": host.token, "gestures": [click(35, 55)]})
    answer = canvas.masks.answer({"token": host.token, "slots": [{"layer": 0, "mask": "target", "frames": [0]}]})
    assert answer["segmenter"] is None and "no masks from clicks" in answer["fault"]
    canvas.close()


def test_missing_weights_are_one_sentence_and_lose_nothing(desk, monkeypatch):
    def find(self, name):
        raise UserError("SAM 2.1 has no weights here.")

    monkeypatch.setattr(Segmenters, "find", find)
    desk.edit(click(35, 55))
    assert desk.ask(frames=[0])["fault"] == "SAM 2.1 has no weights here."
    assert desk.host.document["layers"][0]["target"]["prompts"]


def test_running_out_of_memory_keeps_what_was_tracked(desk, monkeypatch):
    def propagate(self, frames, seeds, order):
        for given, found in plain(self, frames, seeds, order):
            if given == 9:
                raise MemoryError
            yield given, found

    plain = ColourSegmenter.propagate
    monkeypatch.setattr(ColourSegmenter, "propagate", propagate)
    desk.edit(click(35, 55))
    desk.track("forward")
    note = desk.ended()["note"]
    assert "not enough memory to go on" in note and note.endswith("The 9 frames that were tracked are kept.")
    assert (np.flatnonzero(desk.flags()) == range(9)).all()


def test_a_frame_is_prepared_before_its_first_click(desk):
    desk.ask(prepare=6)
    for _ in range(100):
        if desk.segmenter.prepared:
            break
        time.sleep(0.01)
    assert desk.segmenter.prepared == [6]


def test_what_a_click_would_find_is_told_and_nothing_of_it_is_kept(desk):
    def hover(x, y, **more):
        at = [x / HW[1], y / HW[0]]
        message = {"token": desk.host.token, "layer": 0, "mask": "target", "frame": 0, "at": at, **more}
        return desk.canvas.masks.hover(message)["mask"]

    def decoded(found):
        return decode_rle(decode_coco_counts(found["counts"]), tuple(found["size"]))

    before = json.dumps(desk.host.document)
    alone = decoded(hover(35, 55))
    assert alone[55, 35] and alone.sum() == 900 and json.dumps(desk.host.document) == before
    assert desk.ask()["slots"] == [None]
    desk.edit(click(35, 55))
    assert decoded(hover(140, 105)).sum() > 1200, "beside what is marked already"
    assert (desk.mask(0) == alone).all()
    assert hover(35, 55, frame=NUM_FRAMES) is None and hover(35, 55, layer=7) is not None
    with desk.canvas.masks._hovering:
        assert hover(35, 55) is None, "one pointer at a time"
    for wrong in ({"at": [2, 0]}, {"token": "x"}, {"frame": -1}):
        with pytest.raises(UserError):
            hover(35, 55, **wrong)


def test_a_changed_click_and_a_visitor_who_goes_stop_the_track(clip):
    desk = Desk(clip, ColourSegmenter(pause_s=0.05))
    desk.edit(click(35, 55))
    desk.track()
    desk.edit(click(140, 10, foreground=False))
    assert desk.ended()["place"] is None
    desk.track()
    job = desk.canvas.masks.jobs._jobs[desk.host.token]
    desk.canvas.masks.forget(desk.host.token)
    assert job.is_stopped.is_set() and desk.ask()["job"] is None
    desk.canvas.close()


def test_memory_is_bounded(desk, monkeypatch):
    monkeypatch.setattr(mask_shelf, "MAX_RECORDS", 3)
    for place in range(6):
        desk.edit(click(30 + place, 55))
        desk.mask(0)
    assert len(desk.canvas.masks.shelf) == 3
