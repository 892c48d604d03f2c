"""The plan that is told before anything is loaded: that of the engine itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.model_cache import ModelCaches
from pipeline.runtime import Runtime
from pipeline.types import SamplingConfig
from pipeline.videoanydoor import planner as room
from pipeline.videoanydoor.plan import Extent, plan_run, read_facts
from pipeline.videoanydoor.planner import LOOKING, Machine, Planner, find_machine
from pipeline.videoanydoor.windows import split_windows
from tests.tiny_models import make_pipeline

SAMPLING = SamplingConfig(name="videoanydoor", checkpoint="tiny", num_inference_steps=4)
GIB = 1 << 30


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    make_pipeline().save_pretrained(folder / "tiny")
    return folder


def make_planner(checkpoints: Path, free_bytes: int = 4 * GIB, held_bytes: int = 0) -> Planner:
    machine = Machine(Runtime("cpu", "float32"), lambda: free_bytes, lambda: held_bytes)
    planner = Planner(checkpoints, lambda: machine)
    planner.look()
    return planner


def test_a_plan_is_told_once_the_machine_is_known_and_looks_at_it_once(checkpoints):
    looks = []
    planner = Planner(checkpoints, lambda: looks.append(1) or find_machine("cpu", ModelCaches()))
    assert planner.describe(SAMPLING, 20, 1) == LOOKING and not looks
    planner.look()
    told = planner.describe(SAMPLING, 20, 1)
    assert told.startswith("Plan for 20 frames: all networks stay in memory: about 0.0 of ")
    assert f"{2 * 4} passes through the network, about " in told, "two windows, four steps"
    planner.look()
    assert looks == [1]


@pytest.mark.parametrize(
    ("change", "passes"),
    [({}, 8), ({"num_inference_steps": 9}, 18), ({"window": 20}, 4), ({"window": 4}, 36), ({"init": "inversion"}, 16)],
    ids=str,
)
def test_the_plan_follows_the_settings(checkpoints, change, passes):
    assert make_planner(checkpoints).plan(replace(SAMPLING, **change), 20, 1).num_evaluations == passes


def test_size_guidance_layers_and_frames_take_their_share(checkpoints):
    plan = partial(make_planner(checkpoints).plan, SAMPLING, 16, 1)
    usual = plan()
    larger = make_planner(checkpoints).plan(replace(SAMPLING, size=64), 16, 1)
    assert larger.seconds > 2 * usual.seconds and larger.needed_bytes > usual.needed_bytes
    unguided = make_planner(checkpoints).plan(replace(SAMPLING, guidance_scale=1.0), 16, 1)
    assert unguided.seconds < usual.seconds and unguided.needed_bytes < usual.needed_bytes
    assert make_planner(checkpoints).plan(SAMPLING, 16, 3).num_evaluations == 3 * usual.num_evaluations


def test_what_cannot_work_or_does_not_fit_is_said(checkpoints, tmp_path):
    planner = make_planner(checkpoints)
    assert planner.describe(replace(SAMPLING, size=30), 8, 1) == "engine.size must be a multiple of 8 for this checkpoint, not 30."
    assert "use one of 'tiny'" in planner.describe(replace(SAMPLING, checkpoint="other"), 8, 1)
    assert "There is no VideoAnydoor checkpoint yet" in make_planner(tmp_path).describe(SAMPLING, 8, 1)
    assert make_planner(checkpoints, 1000).describe(SAMPLING, 1, 1).endswith(" That is more memory than is free.")
    with pytest.raises(UserError, match="There is no device 'abacus'"):
        Planner(checkpoints, lambda: find_machine("abacus", ModelCaches())).look()


def test_what_is_loaded_already_is_not_needed_again(checkpoints):
    seconds, needed = make_planner(checkpoints).needs(SAMPLING, 8, 1)
    assert needed == make_planner(checkpoints).plan(SAMPLING, 8, 1).host_bytes and seconds > 0
    assert make_planner(checkpoints, held_bytes=needed - 5).needs(SAMPLING, 8, 1)[1] == 5
    assert make_planner(checkpoints, held_bytes=2 * needed).needs(SAMPLING, 8, 1)[1] == 0


def test_idle_models_count_as_free(monkeypatch):
    models = ModelCaches()
    monkeypatch.setattr(room, "free_memory_bytes", lambda _: 1000)
    machine = find_machine("cpu", models)
    with models.find(machine.runtime).lease("model", object, 300):
        pass
    assert (machine.free_bytes(), machine.held_bytes()) == (1300, 300)


def test_windows_are_counted_as_they_are_made(checkpoints):
    facts = read_facts(checkpoints / "tiny")
    for window in range(2, 20):
        for num_frames in range(1, 70):
            extent = Extent(checkpoints, facts, 32, window, num_frames, 1, 4, False)
            assert extent.num_windows == len(split_windows(num_frames, window, extent.overlap)), (window, num_frames)
    assert plan_run(extent, Runtime("cpu", "float32"), GIB).num_evaluations == 4 * extent.num_windows
