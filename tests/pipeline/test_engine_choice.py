"""The engine that a request names is the one that runs, and only that one is built."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.engine_choice import EngineByName
from pipeline.engines import ignore_progress
from pipeline.errors import UserError
from pipeline.media import probe_clip
from pipeline.types import InsertionRequest, SamplingConfig

from ..tiny import make_clip
from .sample_project import FakeEngine


@pytest.fixture(scope="module")
def request_of(tmp_path_factory):
    clip = probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=3))
    whole = InsertionRequest(clip, (0, 3), ())
    return lambda name: replace(whole, sampling=SamplingConfig(name=name))


def test_requests_choose_and_engines_are_built_once(request_of):
    built = []

    def builder(name):
        def build():
            built.append(name)
            return engines[name]

        return build

    engines = {name: FakeEngine() for name in ("composite", "videoanydoor")}
    chosen = EngineByName({name: builder(name) for name in engines})
    assert built == []
    for _ in range(2):
        assert len(list(chosen.run(request_of("videoanydoor"), ignore_progress, lambda _: None))) == 3
    assert built == ["videoanydoor"] and engines["composite"].made == [] and len(engines["videoanydoor"].made) == 6
    with pytest.raises(UserError, match="'vace' does not run here; use composite or videoanydoor"):
        list(chosen.run(request_of("vace"), ignore_progress, lambda _: None))


def test_closing_it_closes_the_engine(request_of):
    engine = FakeEngine()
    frames = EngineByName({"composite": lambda: engine}).run(request_of("composite"), ignore_progress, lambda _: None)
    next(frames)
    frames.close()
    assert engine.is_closed


def test_a_build_that_fails_is_tried_again(request_of):
    results = [UserError("No device."), FakeEngine()]

    def build():
        made = results.pop(0)
        if isinstance(made, Exception):
            raise made
        return made

    chosen = EngineByName({"composite": build})
    with pytest.raises(UserError, match="No device"):
        chosen.find("composite")
    assert chosen.find("composite") is chosen.find("composite")
