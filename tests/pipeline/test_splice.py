"""Splicing: every frame of a spliced result is, bit for bit, that of the render it comes from."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from pipeline.composite import CompositeEngine
from pipeline.media import probe_clip, read_frames
from pipeline.project import build_request, parse_project
from pipeline.render import render
from pipeline.splice import Part, SplicedEngine, cut_in, splice_digest, whole_request
from pipeline.types import InsertionRequest, SamplingConfig

from .sample_project import DOCUMENT, NUM_FRAMES, FakeEngine, changed, write_media

IN, OUT = 4, 9
BLEND = {"grain": 1.0, "harmonize": 0.7, "shadow": 0.5, "motion_blur": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("splice"))


@pytest.fixture(scope="module")
def requests(folder: Path) -> tuple[InsertionRequest, InsertionRequest]:
    """Two requests of one clip that differ everywhere: another place, another seed; everything of the blend switched on."""
    first = changed(DOCUMENT, ("layers", 0, "blend", BLEND))
    second = changed(
        first,
        ("layers", 0, "trajectories", 0, "keys", {"0": [0.4, 0.4], "11": [0.5, 0.6]}),
        ("engine", {"name": "composite", "seed": 7}),
    )
    return tuple(build_request(parse_project(each), folder)[0] for each in (first, second))


def planes_of(path: Path) -> list[list[np.ndarray]]:
    return [[np.array(plane) for plane in frame.planes] for frame in read_frames(probe_clip(path))]


def write(request: InsertionRequest, engine: object, path: Path) -> list:
    return list(render(request, engine, path, lossless=True))


def test_every_frame_equals_the_full_render_it_comes_from(requests, tmp_path):
    first, second = requests
    parts = [
        Part((0, IN), first, CompositeEngine()),
        Part((IN, OUT), second, CompositeEngine()),
        Part((OUT, NUM_FRAMES), first, CompositeEngine()),
    ]
    write(first, CompositeEngine(), tmp_path / "first.mkv")
    write(second, CompositeEngine(), tmp_path / "second.mkv")
    reports = write(whole_request(parts), SplicedEngine(parts), tmp_path / "spliced.mkv")
    old, new, got = (planes_of(tmp_path / name) for name in ("first.mkv", "second.mkv", "spliced.mkv"))
    assert len(got) == NUM_FRAMES
    for index, frame in enumerate(got):
        wanted, other = (new, old) if IN <= index < OUT else (old, new)
        assert all(np.array_equal(a, b) for a, b in zip(frame, wanted[index], strict=True))
        assert any(not np.array_equal(a, b) for a, b in zip(frame, other[index], strict=True)), "the two takes must differ"
    steps = [report.step for report in reports if report.stage == "compositing"]
    assert steps == list(range(1, NUM_FRAMES + 1))
    assert {report.num_steps for report in reports if report.stage == "compositing"} == {NUM_FRAMES}


def test_an_engine_whose_frames_hang_together_runs_over_its_own_range(requests):
    request = dataclasses.replace(requests[0], sampling=SamplingConfig(name="another"))
    engine = FakeEngine()
    part = Part((3, 5), request, engine)
    frames = list(SplicedEngine([part]).run(whole_request([part]), lambda progress: None, lambda warning: None))
    assert [frame.frame_index for frame in frames] == [3, 4]
    assert engine.made == [0, 1, 2, 3, 4] and engine.is_closed


def test_closing_it_closes_the_engine_at_work(requests):
    engine = FakeEngine()
    part = Part((0, NUM_FRAMES), requests[0], engine)
    frames = SplicedEngine([part]).run(requests[0], lambda progress: None, lambda warning: None)
    assert [frame.frame_index for frame in itertools.islice(frames, 2)] == [0, 1]
    frames.close()
    assert engine.is_closed


@pytest.mark.parametrize(
    ("new", "wanted"),
    [
        ((3, 5, "b"), [(0, 3, "a"), (3, 5, "b"), (5, 10, "a")]),
        ((0, 4, "b"), [(0, 4, "b"), (4, 10, "a")]),
        ((6, 10, "b"), [(0, 6, "a"), (6, 10, "b")]),
        ((0, 10, "b"), [(0, 10, "b")]),
    ],
)
def test_cutting_into_one_span(new, wanted):
    assert list(cut_in([(0, 10, "a")], new)) == wanted


def test_cutting_over_a_border_covers_every_frame_once():
    spans = cut_in(cut_in([(0, 10, "a")], (3, 5, "b")), (4, 8, "c"))
    assert spans == ((0, 3, "a"), (3, 4, "b"), (4, 8, "c"), (8, 10, "a"))


def test_the_digest_tells_splices_apart(requests):
    first, second = requests
    engine = CompositeEngine()
    whole = [Part(first.frame_range, first, engine)]
    assert splice_digest(whole) == first.digest()
    one = [Part((0, 5), first, engine), Part((5, NUM_FRAMES), second, engine)]
    two = [Part((0, 6), first, engine), Part((6, NUM_FRAMES), second, engine)]
    assert len({splice_digest(each) for each in (whole, one, two)}) == 3


def test_parts_with_a_gap_or_of_two_clips_are_refused(requests, folder, tmp_path):
    first, _ = requests
    engine = CompositeEngine()
    with pytest.raises(ValueError, match="follow each other"):
        whole_request([Part((0, 3), first, engine), Part((4, 6), first, engine)])
    clip = dataclasses.replace(first.clip, sha256="0" * 64)
    with pytest.raises(ValueError, match="one clip"):
        whole_request([Part((0, 3), first, engine), Part((3, 6), dataclasses.replace(first, clip=clip), engine)])
    with pytest.raises(ValueError, match="request's range"):
        Part((0, NUM_FRAMES + 1), first, engine)
