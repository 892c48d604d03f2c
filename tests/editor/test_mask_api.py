"""``/segment`` and ``/propagate``: masks for programs, and one sentence for whatever cannot be done."""

import json
import math

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from editor.handlers import Page
from editor.storage import WorkStore
from editor.workbench import Workbench
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.media import MediaLimits, probe_clip, read_frames
from tests.editor.canvas.colour_segmenter import HW, NUM_FRAMES, ColourSegmenter, Segmenters, make_square_clip, square_at

X0, Y0, X1, Y1 = square_at(0)
CLICK = [[(X0 + X1) / 2 / HW[1], (Y0 + Y1) / 2 / HW[0], 1]]
PROMPTS = json.dumps({"0": {"clicks": CLICK}})


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@pytest.fixture
def bring(uploads):
    """The path of a clip as Gradio would have received it; anew each time, since a call takes it away."""

    def made(name="squares.mp4"):
        folder = uploads / f"upload-{len(list(uploads.iterdir()))}"
        folder.mkdir()
        return str(make_square_clip(folder / name))

    return made


def make_page(tmp_path, uploads, segmenters):
    workbench = Workbench(MediaLimits(max_frames=60), ArtifactCache(tmp_path / "cache"))
    return Page(WorkStore(tmp_path / "visitors"), workbench, CompositeEngine(), uploads, segmenters=segmenters)


@pytest.fixture
def page(tmp_path, uploads):
    return make_page(tmp_path, uploads, Segmenters(ColourSegmenter(doubtful=[5])))


def true_mask(frame):
    x0, y0, x1, y1 = square_at(frame)
    mask = np.zeros(HW, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_segment_gives_the_mask_of_one_frame(page, bring, tmp_path):
    path, report = page.segment_file(bring(), 0, json.dumps(CLICK), "", "auto")
    mask = np.array(Image.open(path)) >= 128
    assert (mask & true_mask(0)).sum() / (mask | true_mask(0)).sum() > 0.95
    assert report == {"frame": 0, "pixels": int(mask.sum()), "confidence": 1.0, "segmenter": "colour", "notes": []}
    boxed, _ = page.segment_file(bring(), 0, None, json.dumps([X0 / HW[1], Y0 / HW[0], X1 / HW[1], Y1 / HW[0]]), "fallback")
    assert (np.array(Image.open(boxed)) >= 128)[true_mask(0)].mean() > 0.95
    assert list((tmp_path / "visitors").iterdir()) == [], "nothing of the guest is left"


def test_propagate_tells_progress_and_gives_a_mask_for_every_frame(page, bring, tmp_path):
    *progress, (path, report) = page.propagate_file(bring(), PROMPTS, 0, 12, "auto")
    assert progress and all(file is None and 0 <= each["share"] <= 1 for file, each in progress)
    film = probe_clip(path)
    masks = [frame.image[..., 0] >= 128 for frame in read_frames(film)]
    assert film.num_frames == NUM_FRAMES and not any(mask.any() for mask in masks[12:])
    assert all((mask & true_mask(i)).sum() / (mask | true_mask(i)).sum() > 0.9 for i, mask in enumerate(masks[:12]))
    (note,) = report.pop("notes")
    assert report == {"frames": 12, "segmenter": "colour", "unsure": [5], "unseen": []}
    assert note.startswith("The segmenter is not sure of 1 of 12 frames (5); look there")
    assert list((tmp_path / "visitors").iterdir()) == []


def test_a_cancelled_call_stops_at_once_and_leaves_nothing(page, bring, tmp_path, monkeypatch):
    monkeypatch.setattr("editor.handlers.PROGRESS_PERIOD_S", 0)
    work = page.propagate_file(bring(), PROMPTS, 0, 0, "auto")
    next(work)
    work.close()
    assert list((tmp_path / "visitors").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((99, json.dumps(CLICK), "", "auto"), "frame must be a whole number from 0 to 23"),
        ((math.nan, json.dumps(CLICK), "", "auto"), "frame must be a number"),
        ((1.5, json.dumps(CLICK), "", "auto"), "whole number"),
        ((0, "[]", "", "auto"), "needs a click on the thing"),
        ((0, "[[0.5, 0.5, 0]]", "", "auto"), "needs a click on the thing"),
        ((0, "[[NaN, 0.5, 1]]", "", "auto"), "cannot be read"),
        ((0, "[[2, 0.5, 1]]", "", "auto"), "between 0 and 1"),
        ((0, "click", "", "auto"), "cannot be read"),
        ((0, 7, "", "auto"), "must be text"),
        ((0, "[" * 300_000, "", "auto"), "must be text of at most"),
        ((0, "[]", "[0.5, 0.5, 0.4, 0.9]", "auto"), "x1 must be greater"),
        ((0, json.dumps(CLICK), "", "best"), "segmenter must be auto or sam2 or fallback"),
        ((0, json.dumps(CLICK), "", None), "segmenter must be"),
    ],
)
def test_what_cannot_be_segmented_is_one_sentence(page, bring, arguments, sentence):
    with pytest.raises(gr.Error, match=sentence) as caught:
        page.segment_file(bring(), *arguments)
    assert "\n" not in caught.value.message and "/tmp" not in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("{}", 0, 0, "auto"), "needs a click on the thing"),
        (("", 0, 0, "auto"), "needs a click on the thing"),
        (('{"99": {"clicks": [[0.5, 0.5, 1]]}}', 0, 0, "auto"), "last frame is 23"),
        (('{"-1": {"clicks": [[0.5, 0.5, 1]]}}', 0, 0, "auto"), "frame key"),
        (("[]", 0, 0, "auto"), "must be an object"),
        ((PROMPTS, 9, 9, "auto"), "stop must be greater"),
        ((PROMPTS, 0, 25, "auto"), "stop must be a whole number"),
        ((PROMPTS, -1, 0, "auto"), "start must be a whole number"),
    ],
)
def test_what_cannot_be_propagated_is_one_sentence(page, bring, arguments, sentence):
    with pytest.raises(gr.Error, match=sentence):
        list(page.propagate_file(bring(), *arguments))


def test_running_out_of_memory_is_said_and_the_same_call_goes_on(page, bring, monkeypatch):
    segmenter = page.masks._segmenters.segmenter
    plain = segmenter.propagate

    def propagate(frames, seeds, order):
        for given, found in plain(frames, seeds, order):
            if given == 6:
                raise MemoryError
            yield given, found

    monkeypatch.setattr(segmenter, "propagate", propagate)
    with pytest.raises(gr.Error, match=r"not enough memory to go on; .* goes on from where it stopped"):
        list(page.propagate_file(bring(), PROMPTS, 0, 12, "auto"))
    monkeypatch.setattr(segmenter, "propagate", plain)
    segmenter.propagated.clear()
    *_, (_, report) = page.propagate_file(bring(), PROMPTS, 0, 12, "auto")
    assert report["frames"] == 12 and segmenter.segmented == [0], "the click was not asked again"


def test_files_that_were_not_uploaded_are_refused(page, tmp_path):
    elsewhere = str(make_square_clip(tmp_path / "elsewhere.mp4"))
    for path in (elsewhere, "../../etc/passwd", None, [elsewhere]):
        with pytest.raises(gr.Error):
            page.segment_file(path, 0, json.dumps(CLICK), "", "auto")


def test_without_a_segmenter_it_says_so(tmp_path, uploads, bring):
    with pytest.raises(gr.Error, match="makes no masks"):
        make_page(tmp_path, uploads, None).segment_file(bring(), 0, json.dumps(CLICK), "", "auto")
