"""What a person has done: an immutable ``EditSession`` and the pure steps that make the next one.

The truth is the project file's document (version 1): every step returns a session whose document is a new one, and undo is a tuple
of earlier documents. A document under construction may still lack its clip, its reference or its motion; ``find_gaps`` says which.
Coordinates are 0..1 of the upright picture, frames count from 0, as in the project file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.errors import UserError

Document = dict[str, Any]
BoxEnd = Literal["start", "end"]
BoxCorners = tuple[float, float, float, float]
Point = tuple[float, float]

MAX_UNDO = 200
"""How many earlier documents are kept."""

MAX_DOCUMENT_CHARS = 2_000_000
"""Longest project file that is opened or restored."""

MAX_UNDO_CHARS = 10_000_000
"""How long all earlier documents may be together; they are read and written with every edit."""

PATH_POINT = "path"
"""Name of the reference's point that the page's path moves."""

COORDINATE_RANGE = (-1.0, 2.0)
"""Boxes and paths may leave the picture this far."""


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


@dataclass(frozen=True, slots=True)
class EditSession:
    """One state of the work. ``text`` is the document as JSON, ``past`` and ``future`` are those that undo and redo return to,
    ``corner`` is the first corner of a box that waits for its second; it belongs to the page, not to the document."""

    text: str = EMPTY_TEXT
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    corner: Point | None = None

    @property
    def document(self) -> Document:
        """A fresh copy of the document; changing it changes nothing here."""
        document: Document = json.loads(self.text)
        return document

    @property
    def layer(self) -> Document:
        """A copy of the layer that the page edits: the document's first."""
        layer: Document = self.document["layers"][0]
        return layer


@dataclass(frozen=True, slots=True)
class Gaps:
    """What is still missing, one sentence each; None where nothing is."""

    video: str | None
    motion: str | None
    reference: str | None

    @property
    def first(self) -> str | None:
        """The sentence to show: what to do next."""
        return self.video or self.reference or self.motion


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


def set_reference(session: EditSession, name: str, sha256: str, middle: Point) -> EditSession:
    """Use another picture of the thing. ``middle`` (0..1 of the picture) is the point that follows the page's path until another is
    chosen; trajectories of the old picture's other points go."""

    def change(document: Document) -> None:
        layer = document["layers"][0]
        point = [_rounded(value) for value in middle]
        layer["references"] = [{"path": name, "sha256": sha256, "points": {PATH_POINT: point}}]
        _put(layer, "trajectories", [item for item in layer.get("trajectories", []) if item["point"] == PATH_POINT])

    return _changed(session, change)


def set_box(session: EditSession, end: BoxEnd, corners: BoxCorners, num_frames: int) -> EditSession:
    """Place the start or the end box: the first or the last box key, else a new key at that end of the rendered range.

    ``corners`` x0 y0 x1 y1 in any order of corners. Raises ``UserError`` for an empty box or one far outside the picture.
    """
    x0, x1 = sorted(corners[0::2])
    y0, y1 = sorted(corners[1::2])
    _check_coordinates((x0, y0, x1, y1), "A box")
    if min(x1 - x0, y1 - y0) < 0.002:
        raise UserError("The box is too small; give it two corners that lie further apart.")

    def change(document: Document) -> None:
        keys = document["layers"][0].setdefault("boxes", {})
        frame = str(box_frame(document, end, num_frames))
        keys[frame] = {**keys.get(frame, {}), "box": [_rounded(value) for value in (x0, y0, x1, y1)]}
        document["layers"][0]["boxes"] = _by_frame(keys)

    return _changed(session, change)


def place_corner(session: EditSession, end: BoxEnd, point: Point, num_frames: int) -> EditSession:
    """A click in a box mode: the first one is remembered, the second makes the box."""
    if session.corner is None:
        _check_coordinates(point, "A corner")
        return replace(session, corner=point)
    return set_box(session, end, (*session.corner, *point), num_frames)


def drop_corner(session: EditSession) -> EditSession:
    """Forget a first corner that was never completed."""
    return session if session.corner is None else replace(session, corner=None)


def clear_boxes(session: EditSession) -> EditSession:
    return _changed(session, lambda document: document["layers"][0].pop("boxes", None))


def add_path_node(session: EditSession, frame_index: int, point: Point) -> EditSession:
    """The path passes through ``point`` at ``frame_index``; a node that is already there moves. Raises ``UserError``."""
    _check_coordinates(point, "A path")

    def change(document: Document) -> None:
        layer = document["layers"][0]
        trajectory = _first_trajectory(layer)
        if trajectory is None:
            trajectory = {"point": PATH_POINT, "keys": {}}
            layer["trajectories"] = [trajectory]
        trajectory["keys"][str(frame_index)] = [_rounded(value) for value in point]
        trajectory["keys"] = _by_frame(trajectory["keys"])
        _ensure_point(layer, trajectory["point"])

    return _changed(session, change)


def remove_path_node(session: EditSession, frame_index: int) -> EditSession:
    """Take the node at this frame out of the path; with its last node the path goes."""

    def change(document: Document) -> None:
        layer = document["layers"][0]
        trajectory = _first_trajectory(layer)
        if trajectory is not None and trajectory["keys"].pop(str(frame_index), None) is not None and not trajectory["keys"]:
            _put(layer, "trajectories", layer["trajectories"][1:])

    return _changed(session, change)


def clear_path(session: EditSession) -> EditSession:
    return _changed(session, lambda document: document["layers"][0].pop("trajectories", None))


def set_anchor(session: EditSession, point: Point) -> EditSession:
    """Which point of the reference (0..1 of its picture) follows the path. Raises ``UserError`` outside the picture."""
    if not all(0 <= value <= 1 for value in point):
        raise UserError("The point that follows the path must lie on the picture.")

    def change(document: Document) -> None:
        layer = document["layers"][0]
        if layer.get("references"):
            trajectory = _first_trajectory(layer)
            name = PATH_POINT if trajectory is None else trajectory["point"]
            layer["references"][0].setdefault("points", {})[name] = [_rounded(value) for value in point]

    return _changed(session, change)


def set_blend(session: EditSession, key: str, value: float) -> EditSession:
    """Set one blend value. Raises ``UserError`` for an unknown one or a value outside its range."""
    control = next((item for item in BLEND_CONTROLS if item.key == key), None)
    if control is None:
        raise UserError("There is no such setting.")
    if not control.low <= value <= control.high:
        raise UserError(f"{control.label} must lie between {control.low:g} and {control.high:g}.")

    def change(document: Document) -> None:
        layer = document["layers"][0]
        layer["blend"] = {**layer.get("blend", {}), key: value}

    return _changed(session, change)


def undo(session: EditSession) -> EditSession:
    """Back to the document before; the same session, without a pending corner, when there is none."""
    if not session.past:
        return drop_corner(session)
    return EditSession(session.past[-1], session.past[:-1], (session.text, *session.future))


def redo(session: EditSession) -> EditSession:
    """Forward again to the document that undo left."""
    if not session.future:
        return drop_corner(session)
    return EditSession(session.future[0], (*session.past, session.text), session.future[1:])


# -- questions ------------------------------------------------------------------------------------------------------------------


def find_gaps(document: Mapping[str, Any]) -> Gaps:
    """What a document under construction still lacks before it can be rendered."""
    layer = document["layers"][0]
    removes = layer["kind"] == "remove"
    has_motion = bool(layer.get("boxes")) or len(layer.get("trajectories", [])) >= 2 or layer["kind"] != "insert"
    box_first = "The path moves the object but does not size it; place the start box as well."
    return Gaps(
        video=None if document.get("clip") else "Add a video to begin.",
        reference=None if layer.get("references") or removes else "Add a picture of the thing to insert.",
        motion=None if has_motion else box_first if layer.get("trajectories") else "Draw the start box where the object begins.",
    )


def box_frame(document: Mapping[str, Any], end: BoxEnd, num_frames: int) -> int:
    """The frame of the start or end box: its key where there is one, else that end of the rendered range."""
    frames = sorted(int(frame) for frame in document["layers"][0].get("boxes", {}))
    start, stop = document.get("range") or (0, num_frames)
    if end == "start":
        return frames[0] if frames else start
    return frames[-1] if len(frames) >= 2 else stop - 1


def find_box(document: Mapping[str, Any], end: BoxEnd) -> BoxCorners | None:
    """The start or end box, x0 y0 x1 y1; with a single key there is a start box alone."""
    keys = document["layers"][0].get("boxes", {})
    frames = sorted(keys, key=int)
    if not frames or (end == "end" and len(frames) < 2):
        return None
    x0, y0, x1, y1 = keys[frames[0 if end == "start" else -1]]["box"]
    return x0, y0, x1, y1


def find_path(document: Mapping[str, Any]) -> dict[int, Point]:
    """The nodes of the path that the page edits (the first trajectory), by frame, in order."""
    trajectory = _first_trajectory(document["layers"][0])
    return {} if trajectory is None else {int(frame): (x, y) for frame, (x, y) in trajectory["keys"].items()}


def find_anchor(document: Mapping[str, Any]) -> Point | None:
    """The reference's point that follows the path, 0..1 of its picture."""
    layer = document["layers"][0]
    trajectory = _first_trajectory(layer)
    if not layer.get("references"):
        return None
    x, y = layer["references"][0].get("points", {}).get(PATH_POINT if trajectory is None else trajectory["point"], (0.5, 0.5))
    return x, y


def find_blend(document: Mapping[str, Any]) -> dict[str, float]:
    """Every blend value of the edited layer, defaults filled in."""
    blend = document["layers"][0].get("blend", {})
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
        return drop_corner(session)
    return EditSession(text, _newest((*session.past, session.text)))


def _newest(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The last of ``texts``, as many as the history may hold, at least one."""
    num_chars, first = len(texts[-1]), len(texts) - 1
    while first > max(0, len(texts) - MAX_UNDO) and num_chars + len(texts[first - 1]) <= MAX_UNDO_CHARS:
        first -= 1
        num_chars += len(texts[first])
    return texts[first:]


def _first_trajectory(layer: Mapping[str, Any]) -> Document | None:
    trajectories = layer.get("trajectories") or []
    return trajectories[0] if trajectories else None


def _ensure_point(layer: Document, name: str) -> None:
    """Give the reference the point that a trajectory moves, in the middle, unless it has it."""
    if layer.get("references"):
        layer["references"][0].setdefault("points", {}).setdefault(name, [0.5, 0.5])


def _put(layer: Document, key: str, items: list[Any]) -> None:
    """An empty list is written as no key at all."""
    if items:
        layer[key] = items
    else:
        layer.pop(key, None)


def _by_frame(keys: Document) -> Document:
    return {frame: keys[frame] for frame in sorted(keys, key=int)}


def _rounded(value: float) -> float:
    """Six decimals: a hundredth of a pixel at any size, and a file that a person can read."""
    return round(float(value), 6)


def _check_coordinates(values: tuple[float, ...], what: str) -> None:
    low, high = COORDINATE_RANGE
    if not all(low <= value <= high for value in values):
        raise UserError(f"{what} may leave the picture by its own size at most: coordinates lie between {low:g} and {high:g}.")
