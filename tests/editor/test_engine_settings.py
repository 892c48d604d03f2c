"""The engine's settings in the document: every step is checked, can be undone, and is one that the project file knows."""

from __future__ import annotations

import dataclasses
import json

import pytest

from editor.engine_settings import (
    ENGINE_CONTROLS,
    choose_checkpoint,
    choose_engine,
    find_engine,
    set_engine_number,
)
from editor.session import EditSession, undo
from pipeline.errors import UserError
from pipeline.project import parse_project
from pipeline.types import SamplingConfig
from tests.pipeline.sample_project import DOCUMENT


@pytest.fixture
def session():
    return EditSession(json.dumps(DOCUMENT))


def test_the_defaults_are_the_project_files():
    config = SamplingConfig()
    for control in ENGINE_CONTROLS:
        assert (getattr(config, control.key) or 0) == control.default, control.key
    offered = {control.key for control in ENGINE_CONTROLS} | {"name", "checkpoint", "init"}
    assert offered == {field.name for field in dataclasses.fields(SamplingConfig)}


def test_engines_are_chosen_with_a_checkpoint_and_undone(session):
    chosen = choose_engine(session, "videoanydoor", ["one", "two"])
    assert parse_project(chosen.document).engine.to_sampling().checkpoint == "one"
    other = choose_checkpoint(chosen, "two", ["one", "two"])
    assert find_engine(other.document).checkpoint == "two"
    assert find_engine(choose_engine(other, "videoanydoor", ["one", "two"]).document).checkpoint == "two"
    assert find_engine(choose_engine(other, "composite", []).document).name == "composite"
    assert undo(undo(other)).document == session.document


def test_without_a_checkpoint_it_stays_with_the_compositor(session):
    with pytest.raises(UserError, match="make one with 'python -m pipeline videoanydoor init"):
        choose_engine(session, "videoanydoor", [])
    for name in ("vace", None, 3):
        with pytest.raises(UserError, match="no such engine"):
            choose_engine(session, name, ["one"])
    with pytest.raises(UserError, match="not there any more"):
        choose_checkpoint(session, "../one", ["one"])


@pytest.mark.parametrize("control", ENGINE_CONTROLS, ids=lambda control: control.key)
def test_every_number_reaches_the_project_and_has_its_bounds(session, control):
    for value in (control.low, control.high):
        changed = set_engine_number(session, control.key, value)
        assert getattr(parse_project(changed.document).engine, control.key) == value
        assert find_engine(changed.document).values[control.key] == value
    for value in (control.low - 1, control.high + 1):
        if not (control.is_optional and value == 0):
            with pytest.raises(UserError, match=f"{control.label} must lie between"):
                set_engine_number(session, control.key, value)
    if control.is_optional:
        assert control.key not in set_engine_number(changed, control.key, 0).document["engine"]


def test_whole_numbers_stay_whole_and_unknown_ones_are_refused(session):
    assert set_engine_number(session, "seed", 7.0).document["engine"] == {"seed": 7}
    with pytest.raises(UserError, match="no such setting"):
        set_engine_number(session, "name", 1)
