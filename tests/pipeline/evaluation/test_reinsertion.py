"""The benchmark on a clip whose truth is known: a thing put back by an engine that does it perfectly, badly, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.composite import CompositeEngine
from pipeline.engines import Report
from pipeline.errors import UserError
from pipeline.evaluation.evaluate import evaluate, read_case
from pipeline.evaluation.reinsertion import choose_stretch, score_case
from pipeline.evaluation.report import QUESTIONS, Result, count_votes, to_markdown, votes_to_markdown
from pipeline.masks import encode_rle, find_masked_videos
from pipeline.media import read_frames
from pipeline.types import Frame, InsertionRequest, MaskTrack, SamplingConfig
from tests.pipeline.test_object_tracks import HW, NUM_FRAMES, mask, picture
from tests.tiny import make_clip

SAMPLING = SamplingConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("benchmark")
    make_clip(path / "thing.mp4", num_frames=NUM_FRAMES, hw=HW, images=picture, options={"crf": "6", "preset": "veryfast"})
    white = [np.repeat(mask(index)[..., None], 3, axis=2).astype(np.uint8) * 255 for index in range(NUM_FRAMES)]
    make_clip(path / "thing.mask.mkv", num_frames=NUM_FRAMES, hw=HW, images=lambda index: white[index], codec="ffv1")
    return path


class Painter:
    """An engine that paints over its target: with the original itself, or with whatever ``change`` makes of it."""

    def __init__(self, change: Callable[[np.ndarray, int], np.ndarray]) -> None:
        self._change = change

    def run(self, request: InsertionRequest, report: Report, warn: Callable[[str], None]) -> Iterator[Frame]:
        for source in read_frames(request.clip, *request.frame_range):
            image = self._change(source.image.copy(), source.frame_index)
            touched = mask(source.frame_index)
            layer = np.dstack([image, touched * np.uint8(255)])
            yield Frame(source.frame_index, image, layer, touched, source)


def keep(image: np.ndarray, frame_index: int) -> np.ndarray:
    return image


def flash(image: np.ndarray, frame_index: int) -> np.ndarray:
    image[mask(frame_index)] = 255 * (frame_index % 2)
    return image


def test_a_perfect_engine_scores_perfectly(folder) -> None:
    case = read_case(find_masked_videos(folder)[0], NUM_FRAMES)
    assert case.frame_range == (0, 8)  # all twelve are seen: the last third is left for the reference
    scores = score_case(case, Painter(keep), SAMPLING)
    assert scores.psnr_unedited == scores.psnr_untouched == scores.psnr_object == 60
    assert scores.ssim_object == pytest.approx(1) and scores.flicker == 0
    assert scores.tracks.average_jaccard == scores.tracks.occlusion_accuracy == 100
    assert len(scores.series) == 8 and scores.box_adherence > 0.8


def test_a_bad_engine_scores_badly_where_it_is_bad(folder) -> None:
    case = read_case(find_masked_videos(folder)[0], NUM_FRAMES)
    scores = score_case(case, Painter(flash), SAMPLING)
    assert scores.psnr_unedited == scores.psnr_untouched == 60
    assert scores.psnr_object < 10 and scores.ssim_object < 0.2 and scores.flicker > 50
    assert scores.tracks.average_jaccard < 40


def test_the_compositor_puts_the_thing_back_where_it_was(folder) -> None:
    case = read_case(find_masked_videos(folder)[0], NUM_FRAMES)
    scores = score_case(case, CompositeEngine(), SAMPLING)
    assert scores.psnr_untouched == 60
    assert scores.psnr_object > 18
    assert scores.tracks.delta_avg > 70


def test_stretches_leave_something_for_the_reference() -> None:
    def track(seen: list[bool]) -> MaskTrack:
        return MaskTrack(HW, tuple(encode_rle(mask(0)) if each else None for each in seen))

    assert choose_stretch(track([True] * 30), 16) == (0, 16)
    assert choose_stretch(track([True] * 12), 32) == (0, 8)
    assert choose_stretch(track([False] * 4 + [True] * 6 + [False, True]), 32) == (4, 10)
    grown = MaskTrack(HW, tuple(encode_rle(mask(0) if index < 9 else np.ones(HW, bool)) for index in range(12)))
    assert choose_stretch(grown, 4) == (8, 12)
    with pytest.raises(ValueError, match="empty in every frame"):
        choose_stretch(track([False] * 5), 8)
    with pytest.raises(ValueError, match="fewer than three"):
        choose_stretch(track([True, True, False]), 8)


def test_the_whole_benchmark_writes_table_page_and_videos(folder, tmp_path) -> None:
    said: list[str] = []
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "broken.mask.mkv").write_bytes(b"nothing")
    engines = {"perfect": Painter(keep), "bad": Painter(flash)}
    samplings = {name: replace(SAMPLING, name=name) for name in engines}
    results = evaluate(find_masked_videos(folder), engines, samplings, tmp_path, num_frames=6, notes=["a note"], tell=said.append)
    assert [(each.clip, each.engine) for each in results] == [("thing", "perfect"), ("thing", "bad")]
    assert said[0].startswith("broken.mp4 is left out:")
    table = (tmp_path / "table.md").read_text()
    assert "| perfect | thing | 6 | 60.0 | - | - | 100.0 |" in table and table.endswith("a note\n")
    document = json.loads((tmp_path / "table.json").read_text())
    assert document["results"][0]["scores"]["psnr_object"] == 60
    page = (tmp_path / "index.html").read_text()
    assert "thing-perfect.mp4" in page and page.count("<polyline") == 2 and page.count("thing-reference.png") == 1
    assert Image.open(tmp_path / "thing-reference.png").mode == "RGBA"
    assert (tmp_path / "thing-bad.mp4").stat().st_size > 1000
    rating = (tmp_path / "rating.html").read_text()
    assert rating.count('type="radio"') == 2 * 4 * 4
    assert "perfect" not in rating and (tmp_path / "v001.mp4").exists() and not list(tmp_path.glob(".*"))
    for name in ("broken.mp4", "broken.mask.mkv"):
        (folder / name).unlink()


def test_means_leave_out_what_is_not_defined(folder) -> None:
    case = read_case(find_masked_videos(folder)[0], NUM_FRAMES)
    scores = score_case(case, Painter(keep), SAMPLING)
    undefined = replace(scores, psnr_object=float("nan"), learned={"CLIP": 80.0})
    table = to_markdown([Result("a", "e", 8, scores), Result("b", "e", 8, undefined)])
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["a", "b", "mean"]
    assert [row[9].strip() for row in rows] == ["60.0", "-", "60.0"] and [row[4].strip() for row in rows] == ["-", "80.0", "80.0"]


def test_votes_are_counted_with_their_uncertainty() -> None:
    key = {"v000": {"clip": "a", "engine": "one"}, "v001": {"clip": "a", "engine": "two"}}
    files = [
        {"version": 1, "votes": [{"key": "v000", "marks": {"quality": 4}}, {"key": "v001", "marks": {"quality": 1}}]},
        {"version": 1, "votes": [{"key": "v000", "marks": {"quality": 2, "fidelity": 3}}]},
    ]
    marks = count_votes(key, files)
    assert marks == {"one": {"quality": [4, 2], "fidelity": [3]}, "two": {"quality": [1]}}
    table = votes_to_markdown(marks)
    # mean 3, standard deviation sqrt(2), t(0.975, 1) = 12.706: 12.706 * sqrt(2) / sqrt(2)
    assert "| one | 3.00 ± 12.71 (2) | 3.00 (1) | - | - |" in table and len(QUESTIONS) == 4
    for broken in (
        [],
        {"votes": 1},
        {"votes": [{"key": "other", "marks": {}}]},
        {"votes": [{"key": "v000", "marks": {"quality": 9}}]},
    ):
        with pytest.raises((ValueError, AttributeError)):
            count_votes(key, [broken])  # type: ignore[list-item]


def test_the_command_says_what_is_missing(tmp_path, capsys) -> None:
    for arguments, sentence in (
        (["evaluate"], "Give a folder of clips"),
        (["evaluate", str(tmp_path)], "has a mask beside it"),
        (["evaluate", str(tmp_path), "--engine", "videoanydoor"], "needs a checkpoint"),
        (["evaluate", str(tmp_path), "--frames", "1"], "at least 2"),
        (["evaluate", "--votes", "x.json"], "with -o"),
        (["evaluate", "--votes", str(tmp_path / "x.json"), "-o", str(tmp_path)], "cannot be counted"),
    ):
        assert main(arguments) == 2, arguments
        assert sentence in capsys.readouterr().err
    with pytest.raises(UserError, match="has a mask beside it"):
        find_masked_videos(tmp_path)
