"""What a hand does on the canvas, as small JSON objects, and what each of them makes of a project document.

``apply_gesture`` is pure and trusts nothing: a gesture comes from a browser, so its kind, keys, types, ranges and sizes are checked
before anything is touched, and the changed layer is checked again as a whole. Every fault is a ``UserError``.

A gesture is ``{"kind": one of GESTURES, ...}``; the classes below state the other keys. Coordinates are 0..1 of the upright picture
(``at`` of a reference point: of the reference), within ``REACH``; frames count from 0. ``lane`` says which keys are meant:
``"boxes"`` or the index of a trajectory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import documents as doc
from pipeline.documents import Node, item
from pipeline.errors import UserError
from pipeline.project import MAX_LAYERS, parse_project
from pipeline.strokes import stroke_keys

from .follow import SetFollow, set_follow
from .mask_gestures import KINDS, MASK_GESTURES, change_kind
from .reference_gestures import REFERENCE_GESTURES, new_name

Document = dict[str, Any]

REACH = (-1.0, 2.0)
"""How far boxes and paths may leave the picture, in pictures."""

MIN_BOX_SIDE = 0.002
"""The smallest side of a box, in pictures."""

MAX_STROKE_POINTS = 20_000
MAX_STROKE_S = 600.0
MAX_FRAME = 10_000_000

_layer = doc.integer(0, MAX_LAYERS - 1)
_trajectory = doc.integer(0, 63)
_frame = doc.integer(0, MAX_FRAME)
_shift = doc.integer(-MAX_FRAME, MAX_FRAME)
_name = doc.line(1, 200)
_ease = doc.one_of("linear", "smooth", "hold")
_span = doc.list_of(_frame, 2, 2)


def _numbers(count: int, low: float, high: float) -> doc.Check:
    return doc.list_of(doc.number(low, high), count, count)


_point = _numbers(2, *REACH)
_spot = _numbers(2, 0, 1)


def _box(value: object, path: str) -> tuple[float, ...]:
    x0, y0, x1, y1 = _numbers(4, *REACH)(value, path)
    if x1 - x0 < MIN_BOX_SIDE or y1 - y0 < MIN_BOX_SIDE:
        raise UserError("The box is too small or inside out; draw it larger.")
    return x0, y0, x1, y1


def _lane(value: object, path: str) -> str | int:
    return "boxes" if value == "boxes" else int(_trajectory(value, path))


def _frame_points(value: object, path: str) -> Mapping[int, tuple[float, float]]:
    return dict(doc.mapping_of(doc.frame_key(MAX_FRAME), _point, MAX_STROKE_POINTS)(value, path))


# -- the gestures -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Gesture(Node):
    """What all gestures share: which one it is."""

    kind: str = item(doc.line(1, 40))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBox(Gesture):
    """Make or change the box key at ``frame``; what is not given stays as it is there."""

    layer: int = item(_layer)
    frame: int = item(_frame)
    box: tuple[float, float, float, float] = item(_box)
    rotation_deg: float | None = item(doc.nullable(doc.number(-36_000, 36_000)), None)
    ease: str | None = item(doc.nullable(_ease), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPresence(Gesture):
    """Whether the object appears at this box key (``enter``), or disappears after it (``leave``)."""

    layer: int = item(_layer)
    frame: int = item(_frame)
    enter: bool = item(doc.boolean)
    leave: bool = item(doc.boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnKey(Gesture):
    """``delete_key``: remove the key at ``frame`` of a lane; a trajectory that loses its last key goes."""

    layer: int = item(_layer)
    lane: str | int = item(_lane)
    frame: int = item(_frame)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyToFrame(Gesture):
    """``move_key`` and ``copy_key``: the key at ``frame`` goes to frame ``to``, over whatever is there."""

    layer: int = item(_layer)
    lane: str | int = item(_lane)
    frame: int = item(_frame)
    to: int = item(_frame)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEase(Gesture):
    """``ease`` of the segment after a box key (``frame`` is needed), or of a whole trajectory (without ``frame``)."""

    layer: int = item(_layer)
    lane: str | int = item(_lane)
    frame: int | None = item(doc.nullable(_frame), None)
    ease: str = item(_ease)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLane(Gesture):
    """``clear_lane``: remove all keys of a lane; for a trajectory, the trajectory."""

    layer: int = item(_layer)
    lane: str | int = item(_lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftLane(Gesture):
    """Move all keys of a lane in time by ``by`` frames, as far as the clip goes."""

    layer: int = item(_layer)
    lane: str | int = item(_lane)
    by: int = item(_shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddTrajectory(Gesture):
    """A new trajectory with ``keys``, for the reference's point ``point``; without one, a new point is made at ``anchor``."""

    layer: int = item(_layer)
    keys: Mapping[int, tuple[float, float]] = item(_frame_points)
    point: str | None = item(doc.nullable(_name), None)
    anchor: tuple[float, float] | None = item(doc.nullable(_spot), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTrajectory(Gesture):
    """Replace all ``keys`` of a trajectory."""

    layer: int = item(_layer)
    trajectory: int = item(_trajectory)
    keys: Mapping[int, tuple[float, float]] = item(_frame_points)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddNode(Gesture):
    """The trajectory passes through ``at`` at ``frame``."""

    layer: int = item(_layer)
    trajectory: int = item(_trajectory)
    frame: int = item(_frame)
    at: tuple[float, float] = item(_point)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveNode(Gesture):
    """Move the node at ``frame`` to ``at``; nodes less than ``falloff_frames`` away follow, the nearer the more."""

    layer: int = item(_layer)
    trajectory: int = item(_trajectory)
    frame: int = item(_frame)
    at: tuple[float, float] = item(_point)
    falloff_frames: int = item(_frame, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveTrajectory(Gesture):
    """Shift the whole trajectory by ``by`` on the picture."""

    layer: int = item(_layer)
    trajectory: int = item(_trajectory)
    by: tuple[float, float] = item(_numbers(2, -3, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawStroke(Gesture):
    """A freehand stroke over the half-open ``frames``: ``points`` with the seconds at which each was drawn. It replaces the nodes
    of ``trajectory`` in those frames, or makes a new trajectory (see ``AddTrajectory`` for ``point`` and ``anchor``)."""

    layer: int = item(_layer)
    points: tuple[tuple[float, float], ...] = item(doc.list_of(_point, 1, MAX_STROKE_POINTS))
    times_s: tuple[float, ...] = item(doc.list_of(doc.number(0, MAX_STROKE_S), 1, MAX_STROKE_POINTS))
    frames: tuple[int, int] = item(_span)
    spacing: str = item(doc.one_of("timing", "even"), "timing")
    trajectory: int | None = item(doc.nullable(_trajectory), None)
    point: str | None = item(doc.nullable(_name), None)
    anchor: tuple[float, float] | None = item(doc.nullable(_spot), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVisible(Gesture):
    """The half-open frame ranges in which a trajectory's point is visible; ``null`` is always."""

    layer: int = item(_layer)
    trajectory: int = item(_trajectory)
    ranges: tuple[tuple[int, int], ...] | None = item(doc.nullable(doc.list_of(_span, 1, 1000)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRange(Gesture):
    """The frames that are rendered, half-open; ``null`` is the whole clip."""

    range: tuple[int, int] | None = item(doc.nullable(_span))


@dataclass(frozen=True, slots=True, kw_only=True)
class AddLayer(Gesture):
    """A new, empty layer on top."""

    name: str = item(_name)
    layer_kind: str = item(doc.one_of(*KINDS), "insert")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLayer(Gesture):
    """``duplicate_layer`` (the copy lies right above) and ``delete_layer``."""

    layer: int = item(_layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveLayer(Gesture):
    """Put the layer at place ``to`` of the stack."""

    layer: int = item(_layer)
    to: int = item(_layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLayer(Gesture):
    """Change a layer's own settings; what is not given stays."""

    layer: int = item(_layer)
    name: str | None = item(doc.nullable(_name), None)
    hidden: bool | None = item(doc.nullable(doc.boolean), None)
    fit: str | None = item(doc.nullable(doc.one_of("contain", "stretch")), None)
    anchor: str | None = item(doc.nullable(doc.one_of("center", "bottom")), None)
    deform: str | None = item(doc.nullable(doc.one_of("auto", "perspective")), None)
    layer_kind: str | None = item(doc.nullable(doc.one_of(*KINDS)), None)


# -- applying them ----------------------------------------------------------------------------------------------------------------


def apply_gesture(document: Mapping[str, Any], gesture: object, *, num_frames: int) -> Document:
    """The document after a gesture; the one given stays as it is.

    ``document`` is a project document (perhaps a draft) over a clip of ``num_frames`` frames. Raises ``UserError`` for a gesture
    that is malformed, unknown, out of range, or means something that is not there.
    """
    if not isinstance(gesture, Mapping) or not isinstance(gesture.get("kind"), str) or gesture["kind"] not in GESTURES:
        raise UserError("The page sent an edit that is not known here; reload it and try again.")
    node_type, change = GESTURES[gesture["kind"]]
    read = doc.read_node(node_type, gesture, "gesture")
    _check_frames(read, num_frames)
    made: Document = copy.deepcopy(dict(document))
    made.setdefault("layers", [])
    change(made, read, num_frames)
    _check_layers(document, made)
    return made


def _check_frames(gesture: Any, num_frames: int) -> None:
    """Every frame that a gesture names lies in the clip."""
    frames = [getattr(gesture, name, None) for name in ("frame", "to")] if not isinstance(gesture, MoveLayer) else []
    frames += list(getattr(gesture, "keys", ()))
    spans = [getattr(gesture, "frames", None), getattr(gesture, "range", None), *(getattr(gesture, "ranges", None) or ())]
    if any(frame is not None and frame >= num_frames for frame in frames):
        raise UserError(f"The clip has {num_frames} frames, 0 to {num_frames - 1}; there is none behind its end.")
    if any(span is not None and not span[0] < span[1] <= num_frames for span in spans):
        raise UserError(f"A range of frames must start before it ends and lie within the clip's {num_frames} frames.")


def _check_layers(before: Mapping[str, Any], after: Document) -> None:
    """Every layer that changed is still one that the project file allows."""
    known = before.get("layers", [])
    changed = [layer for index, layer in enumerate(after["layers"]) if index >= len(known) or layer != known[index]]
    if len(after["layers"]) > MAX_LAYERS:
        raise UserError(f"A project has at most {MAX_LAYERS} layers.")
    for layer in changed:
        parse_project({"version": 1, "clip": {"path": "clip"}, "layers": [layer]})


def _layer_of(document: Document, index: int) -> Document:
    if index >= len(document["layers"]):
        raise UserError("That layer is not there any more; reload the page.")
    layer: Document = document["layers"][index]
    return layer


def _trajectory_of(document: Document, layer: int, index: int) -> Document:
    trajectories = _layer_of(document, layer).get("trajectories", [])
    if index >= len(trajectories):
        raise UserError("That path is not there any more; reload the page.")
    found: Document = trajectories[index]
    return found


def _keys_of(document: Document, layer: int, lane: str | int) -> Document:
    """The keys of a lane, by frame as text; to be changed in place."""
    if isinstance(lane, int):
        keys: Document = _trajectory_of(document, layer, lane)["keys"]
        return keys
    boxes: Document = _layer_of(document, layer).setdefault("boxes", {})
    return boxes


def _key_at(keys: Document, frame: int) -> str:
    if str(frame) not in keys:
        raise UserError(f"There is no key at frame {frame}; it may have been removed meanwhile.")
    return str(frame)


def _replace_keys(keys: Document, made: Mapping[Any, Any]) -> None:
    """Fill ``keys`` anew, in order of frames."""
    ordered = {str(frame): made[frame] for frame in sorted(made, key=int)}
    keys.clear()
    keys.update(ordered)


def _tidy(document: Document, layer_index: int) -> None:
    """Drop what an edit left empty."""
    layer = _layer_of(document, layer_index)
    if "trajectories" in layer:
        layer["trajectories"] = [each for each in layer["trajectories"] if each["keys"]]
    for name in ("boxes", "trajectories"):
        if name in layer and not layer[name]:
            del layer[name]


def _rounded(values: Sequence[float]) -> list[float]:
    """Six decimals: a hundredth of a pixel at any size, and a file that a person can read."""
    return [round(float(value), 6) + 0.0 for value in values]


def _held(values: Sequence[float], low: float = REACH[0], high: float = REACH[1]) -> list[float]:
    return _rounded([min(max(float(value), low), high) for value in values])


def _set_box(document: Document, gesture: SetBox, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, "boxes")
    key = {**keys.get(str(gesture.frame), {}), "box": _rounded(gesture.box)}
    if gesture.rotation_deg is not None:
        key["rotation_deg"] = round(float(gesture.rotation_deg), 3) + 0.0
    if gesture.ease is not None:
        key["ease"] = gesture.ease
    _replace_keys(keys, {**keys, str(gesture.frame): key})


def _set_presence(document: Document, gesture: SetPresence, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, "boxes")
    key = keys[_key_at(keys, gesture.frame)]
    for name, value in (("enter", gesture.enter), ("leave", gesture.leave)):
        key.pop(name, None)
        if value:
            key[name] = True


def _delete_key(document: Document, gesture: OnKey, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, gesture.lane)
    del keys[_key_at(keys, gesture.frame)]
    _tidy(document, gesture.layer)


def _move_key(document: Document, gesture: KeyToFrame, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, gesture.lane)
    moved = keys.pop(_key_at(keys, gesture.frame))
    _replace_keys(keys, {**keys, str(gesture.to): moved})


def _copy_key(document: Document, gesture: KeyToFrame, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, gesture.lane)
    _replace_keys(keys, {**keys, str(gesture.to): copy.deepcopy(keys[_key_at(keys, gesture.frame)])})


def _set_ease(document: Document, gesture: SetEase, num_frames: int) -> None:
    if isinstance(gesture.lane, int):
        _trajectory_of(document, gesture.layer, gesture.lane)["ease"] = gesture.ease
        return
    if gesture.frame is None:
        raise UserError("Choose the key whose easing should change.")
    keys = _keys_of(document, gesture.layer, "boxes")
    keys[_key_at(keys, gesture.frame)]["ease"] = gesture.ease


def _clear_lane(document: Document, gesture: OnLane, num_frames: int) -> None:
    _keys_of(document, gesture.layer, gesture.lane).clear()
    _tidy(document, gesture.layer)


def _shift_lane(document: Document, gesture: ShiftLane, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, gesture.lane)
    if not keys:
        raise UserError("There are no keys to shift.")
    frames = [int(frame) for frame in keys]
    by = min(max(gesture.by, -min(frames)), num_frames - 1 - max(frames))
    _replace_keys(keys, {int(frame) + by: key for frame, key in keys.items()})


def _add_trajectory(document: Document, gesture: AddTrajectory, num_frames: int) -> None:
    if not gesture.keys:
        raise UserError("A path needs at least one node.")
    _append_trajectory(_layer_of(document, gesture.layer), gesture.keys, gesture.point, gesture.anchor)


def _append_trajectory(
    layer: Document, keys: Mapping[int, Sequence[float]], point: str | None, anchor: tuple[float, float] | None
) -> None:
    trajectories = layer.setdefault("trajectories", [])
    used = {each["point"] for each in trajectories}
    if point in used:
        raise UserError(f"The point {point!r} already has a path; select it to change it.")
    references = layer.get("references") or []
    if point is None:
        point = new_name(layer)
        if references:
            references[0].setdefault("points", {})[point] = _held(anchor or (0.5, 0.5), 0, 1)
    elif references and point not in references[0].get("points", {}):
        raise UserError(f"The picture has no point {point!r}; place it first.")
    trajectories.append({"point": point, "keys": {str(frame): _rounded(keys[frame]) for frame in sorted(keys)}})


def _set_trajectory(document: Document, gesture: SetTrajectory, num_frames: int) -> None:
    if not gesture.keys:
        raise UserError("A path needs at least one node.")
    keys = _keys_of(document, gesture.layer, gesture.trajectory)
    _replace_keys(keys, {frame: _rounded(at) for frame, at in gesture.keys.items()})


def _add_node(document: Document, gesture: AddNode, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, gesture.trajectory)
    _replace_keys(keys, {**keys, str(gesture.frame): _rounded(gesture.at)})


def _move_node(document: Document, gesture: MoveNode, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, gesture.trajectory)
    x, y = keys[_key_at(keys, gesture.frame)]
    dx, dy = gesture.at[0] - x, gesture.at[1] - y
    for frame in keys:
        share = falloff(int(frame) - gesture.frame, gesture.falloff_frames)
        if share > 0:
            keys[frame] = _held((keys[frame][0] + share * dx, keys[frame][1] + share * dy))
    keys[str(gesture.frame)] = _rounded(gesture.at)


def falloff(distance_frames: int, falloff_frames: int) -> float:
    """How much of a node's movement a node this many frames away follows: 1 at 0, a raised cosine down to 0 at
    ``falloff_frames``."""
    distance = abs(distance_frames)
    if distance == 0:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * distance / falloff_frames)) if distance < falloff_frames else 0.0


def _move_trajectory(document: Document, gesture: MoveTrajectory, num_frames: int) -> None:
    keys = _keys_of(document, gesture.layer, gesture.trajectory)
    for frame, (x, y) in keys.items():
        keys[frame] = _held((x + gesture.by[0], y + gesture.by[1]))


def _draw_stroke(document: Document, gesture: DrawStroke, num_frames: int) -> None:
    times = np.array(gesture.times_s, np.float64)
    if len(times) != len(gesture.points) or (np.diff(times) < 0).any():
        raise UserError("The stroke's times do not match its points; draw it again.")
    drawn = stroke_keys(np.array(gesture.points, np.float64), times, gesture.frames, gesture.spacing == "even")
    if gesture.trajectory is None:
        _append_trajectory(_layer_of(document, gesture.layer), drawn, gesture.point, gesture.anchor)
        return
    keys = _keys_of(document, gesture.layer, gesture.trajectory)
    start, stop = gesture.frames
    outside = {int(frame): at for frame, at in keys.items() if not start <= int(frame) < stop}
    _replace_keys(keys, {**outside, **{frame: _rounded(at) for frame, at in drawn.items()}})


def _set_visible(document: Document, gesture: SetVisible, num_frames: int) -> None:
    trajectory = _trajectory_of(document, gesture.layer, gesture.trajectory)
    if gesture.ranges is None:
        trajectory.pop("visible", None)
    else:
        trajectory["visible"] = [list(span) for span in gesture.ranges]


def _set_range(document: Document, gesture: SetRange, num_frames: int) -> None:
    if gesture.range is None or gesture.range == (0, num_frames):
        document.pop("range", None)
    else:
        document["range"] = list(gesture.range)


def _add_layer(document: Document, gesture: AddLayer, num_frames: int) -> None:
    document["layers"].append({"name": gesture.name, "kind": gesture.layer_kind})


def _duplicate_layer(document: Document, gesture: OnLayer, num_frames: int) -> None:
    twin = copy.deepcopy(_layer_of(document, gesture.layer))
    twin["name"] = f"{twin.get('name', '')} copy".strip()[:200]
    document["layers"].insert(gesture.layer + 1, twin)


def _delete_layer(document: Document, gesture: OnLayer, num_frames: int) -> None:
    _layer_of(document, gesture.layer)
    if len(document["layers"]) == 1:
        raise UserError("This is the only layer; clear it instead of deleting it.")
    del document["layers"][gesture.layer]


def _move_layer(document: Document, gesture: MoveLayer, num_frames: int) -> None:
    moved = _layer_of(document, gesture.layer)
    _layer_of(document, gesture.to)
    del document["layers"][gesture.layer]
    document["layers"].insert(gesture.to, moved)


def _set_layer(document: Document, gesture: SetLayer, num_frames: int) -> None:
    layer = _layer_of(document, gesture.layer)
    for name in ("name", "hidden", "fit", "anchor", "deform"):
        if getattr(gesture, name) is not None:
            layer[name] = getattr(gesture, name)
    if gesture.layer_kind is not None:
        change_kind(layer, gesture.layer_kind)


Change = Callable[[Document, Any, int], None]

GESTURES: dict[str, tuple[type[Node], Change]] = {
    "set_box": (SetBox, _set_box),
    "set_presence": (SetPresence, _set_presence),
    "delete_key": (OnKey, _delete_key),
    "move_key": (KeyToFrame, _move_key),
    "copy_key": (KeyToFrame, _copy_key),
    "set_ease": (SetEase, _set_ease),
    "clear_lane": (OnLane, _clear_lane),
    "shift_lane": (ShiftLane, _shift_lane),
    "add_trajectory": (AddTrajectory, _add_trajectory),
    "set_trajectory": (SetTrajectory, _set_trajectory),
    "add_node": (AddNode, _add_node),
    "move_node": (MoveNode, _move_node),
    "move_trajectory": (MoveTrajectory, _move_trajectory),
    "draw_stroke": (DrawStroke, _draw_stroke),
    "set_visible": (SetVisible, _set_visible),
    "set_range": (SetRange, _set_range),
    "add_layer": (AddLayer, _add_layer),
    "duplicate_layer": (OnLayer, _duplicate_layer),
    "delete_layer": (OnLayer, _delete_layer),
    "move_layer": (MoveLayer, _move_layer),
    "set_layer": (SetLayer, _set_layer),
    "set_follow": (SetFollow, set_follow),
    **REFERENCE_GESTURES,
    **MASK_GESTURES,
}
"""Every gesture: how it is read and what it does to a document (given a private copy and the clip's length)."""
