"""What a person has done: an immutable ``EditSession`` and the pure steps that make the next one.

The truth is the project file's document (version 1): every step returns a session whose document is a new one, and undo is a tuple
of patches that lead back to the earlier ones. A document under construction may still lack its clip, its references or its motion;
``find_gaps`` says which. Boxes and paths are drawn on the canvas (``editor.canvas``); the other steps are here.
Coordinates are 0..1 of the upright picture, frames count from 0, as in the project file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.project import MAX_REFERENCES

Document = dict[str, Any]
Point = tuple[float, float]

MAX_UNDO = 200
"""How many earlier documents can be returned to."""

MAX_UNDO_CHARS = 4_000_000
"""How much text the way back to them may take; the oldest steps go first."""

MAX_DOCUMENT_CHARS = 2_000_000
"""Longest project file that is opened or restored."""


@dataclass(frozen=True, slots=True)
class BlendControl:
    """One value of the project file's ``blend`` object and how the page offers it."""

    key: str
    label: str
    low: float
    high: float
    step: float
    default: float
    hint: str


BLEND_CONTROLS = (
    BlendControl("harmonize", "Harmonise", 0, 1, 0.05, 0.7, "Match the light of the scene."),
    BlendControl("shadow", "Shadow", 0, 1, 0.05, 0.5, "Darkness of the shadow on the ground."),
    BlendControl("shadow_angle_deg", "Shadow direction", 0, 360, 5, 90, "Degrees, clockwise; 90 falls straight down."),
    BlendControl("shadow_length", "Shadow length", 0, 2, 0.05, 0, "0 is a contact shadow only."),
    BlendControl("shadow_softness", "Shadow softness", 0, 1, 0.05, 0.5, "How blurred its edge is."),
    BlendControl("motion_blur", "Motion blur", 0, 1, 0.05, 0.5, "Open part of the shutter; 0.5 is a film camera."),
    BlendControl("grain", "Grain", 0, 1, 0.05, 1, "Add the noise of the footage to the object."),
    BlendControl("feather_px", "Soft edge", 0, 10, 0.5, 1, "Pixels."),
    BlendControl("opacity", "Opacity", 0, 1, 0.05, 1, "0 is invisible."),
)


def encode_document(document: Mapping[str, Any]) -> str:
    """Canonical text of a document: equal documents have equal texts. Raises ``ValueError`` for NaN and infinity."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


EMPTY_TEXT = encode_document({"version": 1, "clip": None, "layers": [{"name": "object", "kind": "insert"}]})


class Patch(NamedTuple):
    """``text`` takes the place of the characters ``start .. stop``."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True)
class EditSession:
    """One state of the work. ``text`` is the document as JSON; the last of ``past`` leads to the one before it, the first of
    ``future`` to the one that was undone."""

    text: str = EMPTY_TEXT
    past: tuple[Patch, ...] = ()
    future: tuple[Patch, ...] = ()

    @property
    def document(self) -> Document:
        """A fresh copy of the document; changing it changes nothing here."""
        document: Document = json.loads(self.text)
        return document


@dataclass(frozen=True, slots=True)
class Gaps:
    """What is still missing, one sentence each; None where nothing is."""

    video: str | None
    motion: str | None
    reference: str | None
    target: str | None = None

    @property
    def first(self) -> str | None:
        """The sentence to show: what to do next."""
        return self.video or self.target or self.motion or self.reference


# -- steps ----------------------------------------------------------------------------------------------------------------------


def open_document(session: EditSession, document: Mapping[str, Any]) -> EditSession:
    """Replace the whole document, as one step that can be undone. The document must have passed ``pipeline.project``; one without
    layers gets an empty one, for the page to fill."""
    layers = document["layers"] or json.loads(EMPTY_TEXT)["layers"]
    return _moved_to(session, encode_document({**document, "layers": layers}))


def set_clip(session: EditSession, name: str, sha256: str) -> EditSession:
    """Use another clip. Range, boxes and paths count frames of the old one, so they go."""

    def change(document: Document) -> None:
        document["clip"] = {"path": name, "sha256": sha256}
        document.pop("range", None)
        for layer in document["layers"]:
            for key in ("boxes", "trajectories", "follow", "target", "holdouts"):
                layer.pop(key, None)

    return _changed(session, change)


def set_reference(
    session: EditSession, layer_index: int, name: str, sha256: str, points: Mapping[str, Point], reference_index: int = 0
) -> EditSession:
    """Use another picture of a layer's thing in place of the one at ``reference_index``, or one more behind the last. ``points``
    (0..1 of the picture) are those that its paths move; one that a path needs on the first picture and that is not given lies in
    the middle. Raises ``UserError`` for a layer that is not there, or too many pictures."""

    def change(document: Document) -> None:
        layer = _layer_of(document, layer_index)
        references = layer.setdefault("references", [])
        index = min(reference_index, len(references))
        needed = [each["point"] for each in layer.get("trajectories", [])] if index == 0 else []
        placed = {**dict.fromkeys(needed, (0.5, 0.5)), **points}
        rounded = {point: [_rounded(value) for value in at] for point, at in placed.items()}
        references[index : index + 1] = [{"path": name, "sha256": sha256, **({"points": rounded} if rounded else {})}]
        if len(references) > MAX_REFERENCES:
            raise UserError(f"A layer has at most {MAX_REFERENCES} pictures; remove one first.")

    return _changed(session, change)


def set_reference_mask(session: EditSession, layer_index: int, reference_index: int, mask: Mapping[str, Any]) -> EditSession:
    """Cut a layer's picture out as ``mask`` (of the project file) says. Raises ``UserError`` for one that is not there."""

    def change(document: Document) -> None:
        references = _layer_of(document, layer_index).get("references") or []
        if not 0 <= reference_index < len(references):
            raise UserError("That picture is not there any more; choose another one.")
        references[reference_index]["mask"] = dict(mask)

    return _changed(session, change)


def set_blend(session: EditSession, layer_index: int, key: str, value: float) -> EditSession:
    """Set one blend value of a layer; while the same one is changed again and again, that stays one step of undo. Raises
    ``UserError`` for an unknown one, a value outside its range, or no such layer."""
    control = next((item for item in BLEND_CONTROLS if item.key == key), None)
    if control is None:
        raise UserError("There is no such setting.")
    if not control.low <= value <= control.high:
        raise UserError(f"{control.label} must lie between {control.low:g} and {control.high:g}.")

    def change(document: Document) -> None:
        layer = _layer_of(document, layer_index)
        layer["blend"] = {**layer.get("blend", {}), key: value}

    changed = _changed(session, change)
    again = _changed(replace(undo(session), future=()), change)
    return again if changed is not session and again.text == changed.text else changed


def undo(session: EditSession) -> EditSession:
    """Back to the document before; the same session when there is none."""
    if not session.past:
        return session
    text = _patched(session.text, session.past[-1])
    return EditSession(text, session.past[:-1], (_find_patch(text, session.text), *session.future))


def redo(session: EditSession) -> EditSession:
    """Forward again to the document that undo left."""
    if not session.future:
        return session
    text = _patched(session.text, session.future[0])
    return EditSession(text, (*session.past, _find_patch(text, session.text)), session.future[1:])


# -- questions ------------------------------------------------------------------------------------------------------------------


def find_gaps(document: Mapping[str, Any]) -> Gaps:
    """What a document under construction still lacks before it can be rendered."""
    shown = [layer for layer in document["layers"] if not layer.get("hidden")]
    return Gaps(
        video=None if document.get("clip") else "Add a video to begin.",
        motion=_first_of(_motion_gap, document, shown) if shown else "Every layer is hidden; show one.",
        reference=_first_of(_reference_gap, document, shown),
        target=_first_of(_target_gap, document, shown),
    )


def _first_of(find: Callable[[Mapping[str, Any]], str | None], document: Mapping[str, Any], shown: list[Document]) -> str | None:
    """The first gap of the layers that are shown, with the layer's name where there are several."""
    for layer in shown:
        gap = find(layer)
        if gap is not None:
            return gap if len(document["layers"]) == 1 else f"{layer.get('name') or 'A layer'}: {gap[0].lower()}{gap[1:]}"
    return None


def _motion_gap(layer: Mapping[str, Any]) -> str | None:
    trajectories = layer.get("trajectories", [])
    if layer["kind"] != "insert" or layer.get("boxes") or len(trajectories) >= 2:
        return None
    if trajectories:
        return "One path moves the object but does not size it; draw a box as well."
    return "Draw a box where the object should be."


def _reference_gap(layer: Mapping[str, Any]) -> str | None:
    return None if layer.get("references") or layer["kind"] == "remove" else "Add a picture of the thing to insert."


def _target_gap(layer: Mapping[str, Any]) -> str | None:
    target = layer.get("target") or {}
    if layer["kind"] == "insert" or target.get("prompts") or target.get("path") or target.get("edits"):
        return None
    return f"Click the thing to {layer['kind']}."


def find_blend(document: Mapping[str, Any], layer_index: int) -> dict[str, float]:
    """Every blend value of a layer (the last one if there are fewer), defaults filled in."""
    layers = document["layers"]
    blend = layers[min(layer_index, len(layers) - 1)].get("blend", {})
    return {control.key: blend.get(control.key, control.default) for control in BLEND_CONTROLS}


def find_file_names(value: object) -> list[str]:
    """Every file that a document names: the values of all keys called ``path``, in order, each once."""
    names: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            names += [item] if key == "path" and isinstance(item, str) else find_file_names(item)
    elif isinstance(value, list):
        for item in value:
            names += find_file_names(item)
    return list(dict.fromkeys(names))


def rename_files(value: Any, rename: Callable[[str], str]) -> Any:
    """A copy of a document in which every file that it names is named by ``rename`` of its old name."""
    if isinstance(value, Mapping):
        return {
            key: rename(item) if key == "path" and isinstance(item, str) else rename_files(item, rename)
            for key, item in value.items()
        }
    return [rename_files(item, rename) for item in value] if isinstance(value, list) else value


# -- helpers --------------------------------------------------------------------------------------------------------------------


def _changed(session: EditSession, change: Callable[[Document], object]) -> EditSession:
    document = session.document
    change(document)
    return _moved_to(session, encode_document(document))


def _moved_to(session: EditSession, text: str) -> EditSession:
    if text == session.text:
        return session
    past = (*session.past, _find_patch(text, session.text))[-MAX_UNDO:]
    sizes = list(itertools.accumulate(len(patch.text) for patch in reversed(past)))
    kept = max(1, sum(size <= MAX_UNDO_CHARS for size in sizes))
    return EditSession(text, past[-kept:])


def _find_patch(old: str, new: str) -> Patch:
    """What makes ``new`` of ``old``: the stretch in which they differ."""
    head = _shared_head(old, new)
    tail = _shared_head(old[head:][::-1], new[head:][::-1])
    return Patch(head, len(old) - tail, new[head : len(new) - tail])


def _patched(text: str, patch: Patch) -> str:
    return text[: patch.start] + patch.text + text[patch.stop :]


def _shared_head(one: str, two: str) -> int:
    """How many characters both begin with, found by halving."""
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _layer_of(document: Document, layer_index: int) -> Document:
    if not 0 <= layer_index < len(document["layers"]):
        raise UserError("That layer is not there any more; choose another one.")
    layer: Document = document["layers"][layer_index]
    return layer


def _rounded(value: float) -> float:
    """Six decimals: a hundredth of a pixel at any size, and a file that a person can read."""
    return round(float(value), 6)
