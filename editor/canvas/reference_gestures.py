"""Gestures on a layer's reference pictures: how they are cut out, their points, which of them comes first.

``reference`` is the index of a picture in its layer. Like all gestures (see ``gestures``) these are pure and trust nothing; the
changed layer is checked again as a whole by the caller. Some are completed from a wish that needs more than the document (see
``reference_wishes``).
"""

# ruff: noqa: RUF009  (the checks that class bodies make are functions without state)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import documents as doc
from pipeline.documents import Node, item
from pipeline.errors import UserError
from pipeline.project import MAX_CLICKS, MAX_LAYERS, MAX_POINTS, MAX_REFERENCES, RunLengthSpec

Document = dict[str, Any]

MAX_PAINTED_CHARS = 600_000
"""Most text that a painted mask may take in a project: a project file must stay one that can be opened."""

MAX_FRAME = 10_000_000
MAX_NODES = 4_000

_layer = doc.integer(0, MAX_LAYERS - 1)
_reference = doc.integer(0, MAX_REFERENCES - 1)
_name = doc.line(1, 200)
_spot = doc.list_of(doc.number(0, 1), 2, 2)
_place = doc.list_of(doc.number(-1, 2), 2, 2)
_nodes = doc.mapping_of(doc.frame_key(MAX_FRAME), _place, MAX_NODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGesture(Node):
    """``clear_reference_mask``: cut the picture out automatically again. ``delete_reference``: take the picture away. What all
    gestures on pictures share."""

    kind: str = item(doc.line(1, 40))
    layer: int = item(_layer)
    reference: int = item(_reference, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickReference(ReferenceGesture):
    """What is at ``at`` belongs to the object, or with ``foreground`` false does not."""

    at: tuple[float, float] = item(_spot)
    foreground: bool = item(doc.boolean, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveReferenceClick(ReferenceGesture):
    """Take the click ``click`` (its place in the list) back."""

    click: int = item(doc.integer(0, MAX_CLICKS - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintReference(ReferenceGesture):
    """What the object is, as painted: it takes the place of a mask file and of clicks."""

    mask: RunLengthSpec = item(doc.node(RunLengthSpec))


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReference(ReferenceGesture):
    """Put the picture at place ``to``. The first one is what the compositor shows and what paths move."""

    to: int = item(_reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceReferencePoint(ReferenceGesture):
    """Place the picture's point ``point`` at ``at``; without a name a new point is made."""

    at: tuple[float, float] = item(_spot)
    point: str | None = item(doc.nullable(_name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceReferencePoints(ReferenceGesture):
    """Add several new points to the picture."""

    points: tuple[tuple[float, float], ...] = item(doc.list_of(_spot, 1, MAX_POINTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class NameReferencePoints(ReferenceGesture):
    """Place points by name; those that are there already move."""

    points: Mapping[str, tuple[float, float]] = item(doc.mapping_of(_name, _spot, MAX_POINTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteReferencePoint(ReferenceGesture):
    """Remove a point from the picture; from the first one, with the path that moves it."""

    point: str = item(_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinPoints(ReferenceGesture):
    """Give several points of the first picture a path each, by name: nodes by frame."""

    paths: Mapping[str, Mapping[int, tuple[float, float]]] = item(doc.mapping_of(_name, _nodes, 64))


# -- what they do -----------------------------------------------------------------------------------------------------------------


def layer_of(document: Mapping[str, Any], index: int) -> Document:
    """A layer of a document, to be changed in place. Raises ``UserError``."""
    if index >= len(document["layers"]):
        raise UserError("That layer is not there any more; reload the page.")
    layer: Document = document["layers"][index]
    return layer


def reference_of(document: Mapping[str, Any], layer: int, index: int) -> Document:
    """A picture of a layer, to be changed in place. Raises ``UserError``."""
    references = layer_of(document, layer).get("references") or []
    if not references:
        raise UserError("Add a picture of the thing first.")
    if index >= len(references):
        raise UserError("That picture is not there any more; reload the page.")
    reference: Document = references[index]
    return reference


def new_name(layer: Mapping[str, Any]) -> str:
    """The first of p1, p2, … that neither a picture nor a path of the layer uses."""
    used = {each["point"] for each in layer.get("trajectories", [])}
    for reference in layer.get("references") or []:
        used |= set(reference.get("points") or {})
    return next(name for index in range(1, len(used) + 2) if (name := f"p{index}") not in used)


def _rounded(at: tuple[float, float]) -> list[float]:
    return [round(float(value), 6) + 0.0 for value in at]


def _click(document: Document, gesture: ClickReference, num_frames: int) -> None:
    reference = reference_of(document, gesture.layer, gesture.reference)
    clicks = clicks_of(reference)
    if len(clicks) >= MAX_CLICKS:
        raise UserError("There are too many clicks on this picture; paint what they cannot say.")
    made = [*clicks, [*_rounded(gesture.at), int(gesture.foreground)]]
    reference["mask"] = {"prompts": {"0": {"clicks": made}}}


def clicks_of(reference: Mapping[str, Any]) -> list[list[float]]:
    """The clicks on a picture of a document."""
    mask = reference.get("mask") or {}
    return list(((mask.get("prompts") or {}).get("0") or {}).get("clicks") or [])


def _remove_click(document: Document, gesture: RemoveReferenceClick, num_frames: int) -> None:
    reference = reference_of(document, gesture.layer, gesture.reference)
    clicks = clicks_of(reference)
    if gesture.click >= len(clicks):
        raise UserError("That click is not there any more.")
    del clicks[gesture.click]
    reference["mask"] = {"prompts": {"0": {"clicks": clicks}}}
    if not clicks:
        del reference["mask"]


def _paint(document: Document, gesture: PaintReference, num_frames: int) -> None:
    if len(gesture.mask.counts) > MAX_PAINTED_CHARS:
        raise UserError("The outline of this object is too fine to be kept as painted; use a smaller picture.")
    reference = reference_of(document, gesture.layer, gesture.reference)
    reference["mask"] = {"edits": {"0": {"size": list(gesture.mask.size), "counts": gesture.mask.counts}}}


def _clear_mask(document: Document, gesture: ReferenceGesture, num_frames: int) -> None:
    reference_of(document, gesture.layer, gesture.reference).pop("mask", None)


def _move(document: Document, gesture: MoveReference, num_frames: int) -> None:
    moved = reference_of(document, gesture.layer, gesture.reference)
    reference_of(document, gesture.layer, gesture.to)
    layer = layer_of(document, gesture.layer)
    first = layer["references"][0]
    del layer["references"][gesture.reference]
    layer["references"].insert(gesture.to, moved)
    _give_points(layer, first)


def _delete(document: Document, gesture: ReferenceGesture, num_frames: int) -> None:
    reference_of(document, gesture.layer, gesture.reference)
    layer = layer_of(document, gesture.layer)
    gone = layer["references"].pop(gesture.reference)
    if layer["references"]:
        _give_points(layer, gone if gesture.reference == 0 else layer["references"][0])
    else:
        del layer["references"]


def _give_points(layer: Document, before: Mapping[str, Any]) -> None:
    """The first picture gets the points that paths move and it lacks, where the one that was first had them."""
    needed = [each["point"] for each in layer.get("trajectories", [])]
    points = dict(layer["references"][0].get("points") or {})
    points |= {name: (before.get("points") or {}).get(name, [0.5, 0.5]) for name in needed if name not in points}
    if points:
        layer["references"][0]["points"] = points


def _points_of(document: Document, gesture: ReferenceGesture) -> Document:
    points: Document = reference_of(document, gesture.layer, gesture.reference).setdefault("points", {})
    return points


def _place_point(document: Document, gesture: PlaceReferencePoint, num_frames: int) -> None:
    points = _points_of(document, gesture)
    name = new_name(layer_of(document, gesture.layer)) if gesture.point is None else gesture.point
    points[name] = _rounded(gesture.at)


def _place_points(document: Document, gesture: PlaceReferencePoints, num_frames: int) -> None:
    points = _points_of(document, gesture)
    for at in gesture.points:
        points[new_name(layer_of(document, gesture.layer))] = _rounded(at)


def _name_points(document: Document, gesture: NameReferencePoints, num_frames: int) -> None:
    _points_of(document, gesture).update({name: _rounded(at) for name, at in gesture.points.items()})


def _delete_point(document: Document, gesture: DeleteReferencePoint, num_frames: int) -> None:
    points = _points_of(document, gesture)
    if points.pop(gesture.point, None) is None:
        raise UserError(f"The picture has no point {gesture.point!r} any more.")
    layer = layer_of(document, gesture.layer)
    if gesture.reference == 0 and "trajectories" in layer:
        layer["trajectories"] = [each for each in layer["trajectories"] if each["point"] != gesture.point]
        if not layer["trajectories"]:
            del layer["trajectories"]


def _pin_points(document: Document, gesture: PinPoints, num_frames: int) -> None:
    points = reference_of(document, gesture.layer, 0).get("points") or {}
    trajectories = layer_of(document, gesture.layer).setdefault("trajectories", [])
    used = {each["point"] for each in trajectories}
    for name, nodes in gesture.paths.items():
        if name not in points or name in used or not nodes or max(nodes) >= num_frames:
            raise UserError(f"The point {name!r} cannot be given a path like that; reload the page.")
        trajectories.append({"point": name, "keys": {str(frame): _rounded(nodes[frame]) for frame in sorted(nodes)}})


REFERENCE_GESTURES: dict[str, tuple[type[Node], Callable[[Document, Any, int], None]]] = {
    "click_reference": (ClickReference, _click),
    "remove_reference_click": (RemoveReferenceClick, _remove_click),
    "paint_reference": (PaintReference, _paint),
    "clear_reference_mask": (ReferenceGesture, _clear_mask),
    "move_reference": (MoveReference, _move),
    "delete_reference": (ReferenceGesture, _delete),
    "place_reference_point": (PlaceReferencePoint, _place_point),
    "place_reference_points": (PlaceReferencePoints, _place_points),
    "name_reference_points": (NameReferencePoints, _name_points),
    "delete_reference_point": (DeleteReferencePoint, _delete_point),
    "pin_points": (PinPoints, _pin_points),
}
