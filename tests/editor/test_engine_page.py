"""The engine's choice on the page's own functions: with a checkpoint it renders, without one it stays with the compositor."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import gradio as gr
import pytest
import torch

from editor.handlers import Page
from editor.storage import WorkStore
from editor.workbench import Workbench
from pipeline import videoanydoor
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.engine_choice import EngineByName
from pipeline.media import MediaLimits
from pipeline.model_cache import ModelCaches
from pipeline.videoanydoor.planner import LOOKING, Planner, find_machine
from tests.pipeline.sample_project import DOCUMENT, HW, changed, write_media, write_project
from tests.tiny_models import make_pipeline

PROJECT = changed(DOCUMENT, ("range", [0, 3]))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("place")
    (folder / "served").mkdir()
    write_media(folder / "served")
    write_project(folder / "served", PROJECT)
    make_pipeline().save_pretrained(folder / "checkpoints" / "tiny")
    return folder


def make_page(place: Path, tmp_path: Path, checkpoints: tuple[str, ...]) -> tuple[Page, str]:
    artifacts, models = ArtifactCache(tmp_path / "cache"), ModelCaches()
    build = partial(videoanydoor.build_engine, "cpu", place / "checkpoints", artifacts, False, models)
    engines = EngineByName({"composite": CompositeEngine, "videoanydoor": build})
    planner = Planner(place / "checkpoints", partial(find_machine, "cpu", models))
    room = (WorkStore(tmp_path / "visitors"), Workbench(MediaLimits(), artifacts), engines, place / "served")
    page = Page(*room, (), checkpoints, planner=planner)
    token = page.open_visitor()[0]
    page.open_project(token, [str(place / "served" / name) for name in ("project.json", "clip.mp4", "ball.png")])
    return page, token


def test_the_chosen_engine_renders_with_its_settings(place, tmp_path, monkeypatch):
    monkeypatch.setattr("editor.handlers.PROGRESS_PERIOD_S", 0.0)
    page, token = make_page(place, tmp_path, ("tiny",))
    assert page.refresh(token).engine.name == "composite"
    view = page.choose_engine(token, "videoanydoor")
    assert (view.engine.name, view.engine.checkpoint, view.missing) == ("videoanydoor", "tiny", None)
    for key, value in (("num_inference_steps", 1), ("window", 2), ("seed", 5)):
        view = page.set_engine_number(key, token, value)
    assert view.engine.values["seed"] == 5
    lines = [moment.line for moment in page.insert(token, False, False)]
    assert any("'ball'" in line for line in lines) and lines[-1] == "Done: 3 frames."
    assert page.choose_checkpoint(token, "tiny").engine.checkpoint == "tiny"
    saved = json.loads(Path(page.save_project(token)).read_text())["engine"]
    assert saved == {"name": "videoanydoor", "checkpoint": "tiny", "num_inference_steps": 1, "window": 2, "seed": 5}


def test_the_plan_is_told_before_the_run_and_follows_every_choice(place, tmp_path):
    page, token = make_page(place, tmp_path, ("tiny",))
    assert page.refresh(token).plan == "" and page.tell_plan(token) is None, "the compositor has none"
    page, token = make_page(place, tmp_path / "anew", ("tiny",))
    assert page.choose_engine(token, "videoanydoor").plan == LOOKING, "nobody waits for torch"
    told = page.tell_plan(token)
    assert told.startswith("Plan for 3 frames: ") and "25 passes through the network, about " in told
    assert page.refresh(token).plan.startswith("Plan for 3 frames: ")
    assert "7 passes" in page.set_engine_number("num_inference_steps", token, 7).plan
    assert "14 passes" in page.set_engine_number("window", token, 2).plan
    assert page.set_engine_number("size", token, 68).plan.startswith("engine.size must be a multiple of 8")
    assert page.choose_engine(token, "composite").plan == ""


def test_a_run_that_the_memory_cannot_hold_is_refused_before_it_begins(place, tmp_path, monkeypatch):
    page, token = make_page(place, tmp_path, ("tiny",))
    page.choose_engine(token, "videoanydoor")
    monkeypatch.setattr("pipeline.preflight.available_memory_bytes", lambda: 203_500_000)
    with pytest.raises(gr.Error, match=r"choose a smaller engine.size or engine.window"):
        list(page.insert(token, False, False))
    page.choose_engine(token, "composite")
    assert [moment.line for moment in page.insert(token, False, False)][-1] == "Done: 3 frames."


def test_a_frame_that_is_generated_alone_is_said_to_be(place, tmp_path):
    page, token = make_page(place, tmp_path, ("tiny",))
    assert page.note_preview(token) is None
    page.choose_engine(token, "videoanydoor")
    page.set_engine_number("num_inference_steps", token, 1)
    assert page.preview_frame(token, 1).shape == (*HW, 3) and "generated alone" in page.note_preview(token)


def test_without_a_checkpoint_the_page_says_how_to_get_one(place, tmp_path):
    page, token = make_page(place, tmp_path, ())
    with pytest.raises(gr.Error, match="python -m pipeline videoanydoor init"):
        page.choose_engine(token, "videoanydoor")
    assert page.refresh(token).engine.name == "composite"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("choose_engine", ("vace",)),
        ("choose_engine", ({"a": 1},)),
        ("choose_checkpoint", ("../tiny",)),
        ("choose_checkpoint", (["tiny"],)),
    ],
)
def test_what_is_not_on_offer_is_refused(place, tmp_path, call, arguments):
    page, token = make_page(place, tmp_path, ("tiny",))
    with pytest.raises(gr.Error):
        getattr(page, call)(token, *arguments)
    for key, value in (("seed", None), ("seed", -1), ("num_inference_steps", float("nan")), ("name", 1)):
        with pytest.raises(gr.Error):
            page.set_engine_number(key, token, value)
    assert page.refresh(token).engine.name == "composite"
