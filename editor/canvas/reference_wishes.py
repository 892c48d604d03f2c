"""What a hand wishes of a reference picture that the document alone cannot answer: a brush stroke, a click on what was painted, the
points of a face. Each wish is checked, then completed to gestures (see ``gestures``, ``reference_gestures``) by the picture and its
cut-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import documents as doc
from pipeline.documents import Node, item
from pipeline.errors import UserError
from pipeline.keypoints import MAX_POINTS, suggest_points
from pipeline.masks import coco_mask, decode_rle, encode_rle, parse_coco_mask
from pipeline.motion import BoxKey, LayerMotion, build_box_sequence
from pipeline.presets import PRESET_NAMES, suggest_preset
from pipeline.strokes import fit_keys

from .reference_gestures import ReferenceGesture, reference_of
from .scene import LayerScene

if TYPE_CHECKING:
    from pipeline.types import Array

    from .exchange import Work
    from .gestures import SetBox

Document = dict[str, Any]

MAX_STROKE_POINTS = 5_000
MIN_PRESET_PATHS = 3
"""From so many paths of a face or a garment on, a box that moves takes them along."""

_PRESET_POINTS = frozenset(name for names in PRESET_NAMES.values() for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrushReference(ReferenceGesture):
    """Paint along ``points`` (0..1 of the picture) with a round brush of ``radius`` (of the picture's width): what is there belongs
    to the object, or with ``erase`` does not."""

    points: tuple[tuple[float, float], ...] = item(doc.list_of(doc.list_of(doc.number(-0.5, 1.5), 2, 2), 1, MAX_STROKE_POINTS))
    radius: float = item(doc.number(0.0005, 0.5))
    erase: bool = item(doc.boolean, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestPoints(ReferenceGesture):
    """Place ``count`` key-points on the picture, or those of a face or a garment."""

    count: int = item(doc.integer(1, MAX_POINTS), 4)
    preset: str | None = item(doc.nullable(doc.one_of(*PRESET_NAMES)), None)


def paint_brush(wish: BrushReference, document: Document, work: Work) -> list[Document]:
    from pipeline.mask_tools import paint_stroke

    reference = reference_of(document, wish.layer, wish.reference)
    height, width = _picture(work, reference).shape[:2]
    places = [(x * width, y * height) for x, y in wish.points]
    before = _mask(work, reference, (height, width))
    return [_painted(wish, paint_stroke(before, places, wish.radius * width, wish.erase))]


def take_whole(wish: ReferenceGesture, document: Document, work: Work) -> list[Document]:
    """The whole picture is the object."""
    shape = _picture(work, reference_of(document, wish.layer, wish.reference)).shape[:2]
    return [_painted(wish, np.ones(shape, bool))]


def click_painted(gesture: Mapping[str, Any], document: Document, work: Work) -> list[Document]:
    """A click on a picture whose mask was painted or came from a file changes that mask; any other is kept as it is."""
    from pipeline.seeds import apply_clicks
    from pipeline.treatment import to_clicks

    from .reference_gestures import ClickReference

    wish = doc.read_node(ClickReference, gesture, "gesture")
    reference = reference_of(document, wish.layer, wish.reference)
    mask = reference.get("mask") or {}
    if not (mask.get("edits") or mask.get("path")):
        return [dict(gesture)]
    rgb = _picture(work, reference)
    before = _mask(work, reference, rgb.shape[:2])
    clicks = to_clicks(((*wish.at, int(wish.foreground)),), rgb.shape[:2])
    return [_painted(wish, apply_clicks(rgb, before, clicks))]


def suggest(wish: SuggestPoints, document: Document, work: Work) -> list[Document]:
    reference = reference_of(document, wish.layer, wish.reference)
    cutout = work.find_cutout(reference).reference
    base = {"layer": wish.layer, "reference": wish.reference}
    if wish.preset is not None:
        return [{"kind": "name_reference_points", **base, "points": suggest_preset(cutout, wish.preset)}]  # type: ignore[arg-type]
    taken = np.array(list((reference.get("points") or {}).values()), np.float64).reshape(-1, 2)
    points = suggest_points(cutout, wish.count, taken)
    if len(points) == 0:
        raise UserError("There is no room for more points on this picture.")
    return [{"kind": "place_reference_points", **base, "points": points.tolist()}]


def _picture(work: Work, reference: Mapping[str, Any]) -> Array:
    if work.find_picture is None:
        raise UserError("The pictures of this project cannot be changed here.")
    return work.find_picture(reference).rgb


def _mask(work: Work, reference: Mapping[str, Any], hw: tuple[int, int]) -> Array:
    """What of a picture is the object now, bool[H,W]: as painted, else as cut out, else nothing."""
    edit = ((reference.get("mask") or {}).get("edits") or {}).get("0")
    if edit is not None:
        try:
            return decode_rle(parse_coco_mask(edit, hw), hw)
        except ValueError:
            raise UserError("What was painted does not fit this picture; choose Automatic and begin anew.") from None
    try:
        return work.find_cutout(reference).reference.alpha >= 0.5
    except UserError:  # nothing was found; it begins here
        return np.zeros(hw, bool)


def _painted(wish: ReferenceGesture, mask: Array) -> Document:
    if not mask.any():
        raise UserError("That would leave nothing of the object; paint what belongs to it first.")
    coded = coco_mask(encode_rle(mask), (mask.shape[0], mask.shape[1]))
    return {"kind": "paint_reference", "layer": wish.layer, "reference": wish.reference, "mask": coded}


# -- points that move together ----------------------------------------------------------------------------------------------------


def pin_preset(layer: Document, ready: LayerScene, work: Work, point: str, frame: int, at: tuple[float, float]) -> Document | None:
    """Paths for the points of the face or garment that ``point`` belongs to, by name: where the object carries them, but ``point``
    at ``at`` at ``frame``, so that it alone moves and bends the object. None for a point of no preset."""
    points = layer["references"][0].get("points") or {}
    names = next((names for names in PRESET_NAMES.values() if point in names), ())
    used = {each["point"] for each in layer.get("trajectories") or []}
    group = [name for name in names if name in points and name not in used]
    if len(group) < MIN_PRESET_PATHS or ready.motion is None or ready.cutout is None or work.clip is None:
        return None
    height, width = ready.cutout.reference.hw
    anchors = np.array([points[name] for name in group], np.float64) * [width, height]
    sides = np.array([work.clip.width, work.clip.height])
    carried = np.stack([ready.motion.warp(each).forward(anchors) / sides for each in range(work.clip.num_frames)])
    carried = np.clip(carried, -1, 2)
    paths: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(group):
        nodes = {str(key): list(place) for key, place in fit_keys(carried[:, index], 0).items()}
        if name == point:
            nodes[str(frame)] = list(at)
        paths[name] = nodes
    return paths


def carry_paths(gesture: SetBox, layer: Document, ready: LayerScene, work: Work) -> list[Document]:
    """Nodes that take the paths of a face or a garment along when its box is set, as the object itself would go."""
    indices = [index for index, each in enumerate(layer.get("trajectories") or []) if each["point"] in _PRESET_POINTS]
    if len(indices) < MIN_PRESET_PATHS or ready.boxes is None or ready.cutout is None or work.clip is None:
        return []
    frame, sides = gesture.frame, np.array([work.clip.width, work.clip.height], np.float64)
    before = np.append(ready.boxes.boxes_px[frame], ready.boxes.rotation_deg[frame]).astype(np.float64)
    turn = before[4] if gesture.rotation_deg is None else float(gesture.rotation_deg)
    after = np.append(np.array(gesture.box, np.float64) * np.tile(sides, 2), turn)
    move = _placed(after, ready, work) @ np.linalg.inv(_placed(before, ready, work))
    here = np.array([ready.paths[index][frame] for index in indices]) * sides
    there = np.clip((np.c_[here, np.ones(len(here))] @ move.T)[:, :2] / sides, -1, 2)
    return [
        {"kind": "add_node", "layer": gesture.layer, "trajectory": index, "frame": frame, "at": place.tolist()}
        for index, place in zip(indices, there, strict=True)
    ]


def _placed(box: Array, ready: LayerScene, work: Work) -> Array:
    """The affine map f64[3,3] from the reference to the clip, in pixels, that a box (x0 y0 x1 y1, turn) stands for."""
    assert ready.cutout is not None and work.clip is not None
    hw = work.clip.height, work.clip.width
    key = BoxKey(tuple(box[:4] / [hw[1], hw[0], hw[1], hw[0]]), float(box[4]))
    bare = replace(ready.cutout.reference, points_px={})
    motion = LayerMotion(bare, build_box_sequence({0: key}, hw, 1), None, ready.spec.fit, ready.spec.anchor, "auto")
    corners = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    origin, right, down = motion.warp(0).forward(corners)
    return np.array([[*((right - origin) / 100), 0], [*((down - origin) / 100), 0], [*origin, 1]], np.float64).T


Wish = Callable[[Any, Document, "Work"], list[Document]]

WISHES: dict[str, tuple[type[Node], Wish]] = {
    "brush_reference": (BrushReference, paint_brush),
    "take_whole_reference": (ReferenceGesture, take_whole),
    "suggest_points": (SuggestPoints, suggest),
}


def complete_wish(gesture: Any, document: Document, work: Work) -> list[Document] | None:
    """The gestures that a wish stands for; None for what is no wish. Raises ``UserError``."""
    kind = gesture.get("kind") if isinstance(gesture, Mapping) else None
    if kind == "click_reference":
        return click_painted(gesture, document, work)
    if not isinstance(kind, str) or kind not in WISHES:
        return None
    node_type, complete = WISHES[kind]
    return complete(doc.read_node(node_type, gesture, "gesture"), document, work)
