"""The choice of the engine and its settings: what the page offers, and the pure steps that write them into the document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.videoanydoor.folders import NO_CHECKPOINT

from .session import EditSession, open_document

ENGINE_NAMES = {"composite": "Compositor", "videoanydoor": "VideoAnydoor"}
"""By the project file's name: what the page calls it."""

GENERATOR = "videoanydoor"
"""The engine that generates: it needs a checkpoint, tells a plan, and makes a frame alone otherwise than among others."""


@dataclass(frozen=True, slots=True)
class EngineControl:
    """One number of the project file's ``engine`` object and how the page offers it. Where ``is_optional``, 0 is the checkpoint's
    own value and leaves the key out; other values lie in ``low .. high``."""

    key: str
    label: str
    low: float
    high: float
    step: float
    default: float
    hint: str
    is_whole: bool = False
    is_optional: bool = False

    @property
    def is_slider(self) -> bool:
        """Whether its range is short enough to be dragged through."""
        return not self.is_optional and self.high - self.low <= 100

    def clip(self, value: float) -> float:
        """The nearest value that can be shown."""
        return 0 if self.is_optional and value == 0 else min(max(value, self.low), self.high)


ENGINE_CONTROLS = (
    EngineControl("num_inference_steps", "Steps", 1, 100, 1, 25, "More take longer.", is_whole=True),
    EngineControl("guidance_scale", "Guidance", 1, 15, 0.5, 5, "How strictly the picture is followed; 1 is off and twice as fast."),
    EngineControl("seed", "Seed", 0, 2**31 - 1, 1, 0, "Another seed is another attempt.", is_whole=True),
    EngineControl("motion_strength", "Motion strength", 0, 1.5, 0.05, 1, "How strongly boxes and paths steer."),
    EngineControl("identity_strength", "Identity strength", 0, 1.5, 0.05, 1, "How strongly the reference is kept."),
    EngineControl("size", "Size", 64, 2048, 8, 0, "Side of the generated window in pixels; 0 is the checkpoint's.", True, True),
    EngineControl("window", "Window", 2, 128, 1, 0, "Frames generated together; 0 is the checkpoint's choice.", True, True),
)


@dataclass(frozen=True, slots=True)
class EngineView:
    """What the page shows: the engine's name, its checkpoint, and every number by key."""

    name: str
    checkpoint: str | None
    values: Mapping[str, float]


def choose_engine(session: EditSession, name: object, checkpoints: Sequence[str]) -> EditSession:
    """Render with another engine. Raises ``UserError`` for an unknown one, and for one that needs a checkpoint where none is."""
    if name not in ENGINE_NAMES:
        raise UserError("There is no such engine.")
    if name == GENERATOR and not checkpoints:
        raise UserError(NO_CHECKPOINT)

    def change(engine: dict[str, Any]) -> None:
        engine["name"] = name
        if name == GENERATOR and engine.get("checkpoint") not in checkpoints:
            engine["checkpoint"] = checkpoints[0]

    return _with_engine(session, change)


def choose_checkpoint(session: EditSession, name: object, checkpoints: Sequence[str]) -> EditSession:
    """Use another checkpoint. Raises ``UserError`` for one that is not there."""
    if name not in checkpoints:
        raise UserError("That checkpoint is not there any more; choose another one.")
    return _with_engine(session, lambda engine: engine.update(checkpoint=name))


def set_engine_number(session: EditSession, key: str, value: float) -> EditSession:
    """Set one number. Raises ``UserError`` for an unknown one, or a value outside its range."""
    control = next((item for item in ENGINE_CONTROLS if item.key == key), None)
    if control is None:
        raise UserError("There is no such setting.")
    if control.is_optional and value == 0:
        return _with_engine(session, lambda engine: engine.pop(key, None))
    if not control.low <= value <= control.high:
        raise UserError(f"{control.label} must lie between {control.low:g} and {control.high:g}.")
    number = round(value) if control.is_whole else value
    return _with_engine(session, lambda engine: engine.update({key: number}))


def find_engine(document: Mapping[str, Any]) -> EngineView:
    """The engine of a document, defaults filled in."""
    engine = document.get("engine", {})
    values = {control.key: control.default for control in ENGINE_CONTROLS}
    values |= {key: engine[key] for key in values if engine.get(key) is not None}
    return EngineView(engine.get("name", "composite"), engine.get("checkpoint"), values)


def _with_engine(session: EditSession, change: Callable[[dict[str, Any]], object]) -> EditSession:
    document = session.document
    engine = document.setdefault("engine", {})
    change(engine)
    return open_document(session, document)
