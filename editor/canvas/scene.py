"""What the canvas draws, as one JSON value: the document's keys, and beside them everything that ``pipeline.motion`` makes of them.

The browser never interpolates: boxes, trajectories and meshes come as dense arrays, one row per frame of the clip, base64 of
little-endian float32 (uint16 for triangles). Boxes and trajectories are 0..1 of the upright picture, meshes too; ``uv`` is 0..1 of
the reference.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.motion import (
    BoxKey,
    LayerMotion,
    TrajectoryKeys,
    build_box_sequence,
    build_trajectory_set,
    carry_boxes,
    carry_points,
    interpolate_keys,
)
from pipeline.project import LayerSpec, parse_project
from pipeline.types import Array, BoxSequence, Clip, Reference, SurfaceMotion

from .frames import FrameDesk
from .reference_gestures import clicks_of

Document = dict[str, Any]

MAX_MESH_FRAMES = 96
"""Most frames of a mesh that one answer carries."""

MAX_MOTIONS = 64
MAX_CUTOUT_BYTES = 512 << 20
"""What the cut-outs of the layers that are kept ready may weigh; every brush stroke makes a new one."""


@dataclass(frozen=True, eq=False, slots=True)
class CutOut:
    """A reference as the canvas needs it: the cut-out without named points, and a digest that tells it from any other."""

    reference: Reference
    digest: str


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """A reference's picture as it came, upright: ``rgb`` u8[H,W,3], and a digest that tells it from any other."""

    rgb: Array
    digest: str


FindPicture = Callable[[Mapping[str, Any]], Picture]
"""From a reference of the document to its picture. Raises ``UserError``."""

FindCutOut = Callable[[Mapping[str, Any]], CutOut]
"""From a reference of the document (its ``path``, ``mask``, …) to its cut-out. Raises ``UserError``."""


@dataclass(frozen=True, eq=False, slots=True)
class LayerScene:
    """One layer made ready, all of it where it is on screen. ``motion`` is None while something is missing, ``fault`` says what is
    wrong with what is there."""

    spec: LayerSpec
    boxes: BoxSequence | None
    paths: tuple[Array, ...]
    cutout: CutOut | None
    motion: LayerMotion | None
    digest: str
    fault: str | None


class SceneShelf:
    """Makes layers ready and keeps the last ``MAX_MOTIONS`` of them. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._ready: OrderedDict[str, LayerScene] = OrderedDict()

    def layer(
        self, layer: Mapping[str, Any], clip: Clip, find_cutout: FindCutOut, surface: SurfaceMotion | None = None
    ) -> LayerScene:
        """A layer of a document over a clip, carried by the surface that it follows, where that is known. Raises ``UserError`` only
        for a document that is malformed."""
        references = layer.get("references") or []
        cutout, fault = None, None
        if references:
            try:
                cutout = find_cutout(references[0])
            except UserError as error:
                fault = str(error)
        digest = _digest(layer, clip, cutout, surface)
        with self._guard:
            found = self._ready.get(digest)
            if found is not None:
                self._ready.move_to_end(digest)
                return found
        made = _make_layer(layer, clip, cutout, digest, fault, surface)
        with self._guard:
            self._ready[digest] = made
            while len(self._ready) > MAX_MOTIONS or (len(self._ready) > 1 and self._weigh() > MAX_CUTOUT_BYTES):
                self._ready.popitem(last=False)
        return made

    def _weigh(self) -> int:
        """How many bytes the cut-outs of the ready layers hold, each counted once; the guard is held."""
        held = {each.cutout.digest: each.cutout.reference for each in self._ready.values() if each.cutout is not None}
        return sum(reference.image.nbytes + reference.alpha.nbytes for reference in held.values())


_MOVING = ("kind", "fit", "anchor", "deform", "boxes", "trajectories")


def _digest(layer: Mapping[str, Any], clip: Clip, cutout: CutOut | None, surface: SurfaceMotion | None) -> str:
    """Tells apart everything that can change what the layer looks like while it moves."""
    points = [reference.get("points") for reference in (layer.get("references") or [])[:1]]
    parts = [{name: layer.get(name) for name in _MOVING}, points, clip.hw, clip.num_frames, cutout and cutout.digest]
    parts.append(surface and hashlib.sha256(surface.matrices.tobytes() + surface.is_tracked.tobytes()).hexdigest())
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _make_layer(
    layer: Mapping[str, Any],
    clip: Clip,
    cutout: CutOut | None,
    digest: str,
    fault: str | None,
    surface: SurfaceMotion | None,
) -> LayerScene:
    bare = {name: value for name, value in layer.items() if name not in ("target", "holdouts", "blend")}
    spec = parse_project({"version": 1, "clip": {"path": "clip"}, "layers": [bare]}).layers[0]
    boxes = _boxes(spec, clip)
    paths = tuple(_path(each.keys, each.ease, clip.num_frames) for each in spec.trajectories)
    motion = None
    try:
        motion = _motion(spec, boxes, cutout, clip, surface)
    except UserError as error:
        fault = str(error)
    if surface is not None:
        boxes = None if boxes is None else carry_boxes(surface, boxes)
        sides = np.array([clip.width, clip.height])
        paths = tuple(carry_points(surface, (path * sides)[None])[0] / sides for path in paths)
    return LayerScene(spec, boxes, paths, cutout, motion, digest, fault)


def _boxes(spec: LayerSpec, clip: Clip) -> BoxSequence | None:
    keys = {
        frame: BoxKey(each.box, float(each.rotation_deg), each.ease, each.enter, each.leave)
        for frame, each in spec.boxes.items()
        if frame < clip.num_frames
    }
    return build_box_sequence(keys, clip.hw, clip.num_frames) if keys else None


def _path(keys: Mapping[int, tuple[float, float]], ease: Any, num_frames: int) -> Array:
    """One trajectory over the whole clip, f64[num_frames, 2] in 0..1."""
    frames = sorted(frame for frame in keys if frame < num_frames) or [0]
    places = np.array([keys.get(frame, (0.5, 0.5)) for frame in frames], np.float64)
    return interpolate_keys(frames, places, [ease] * len(frames), num_frames)[0]


def _motion(
    spec: LayerSpec, boxes: BoxSequence | None, cutout: CutOut | None, clip: Clip, surface: SurfaceMotion | None
) -> LayerMotion | None:
    if cutout is None or spec.kind == "remove":
        return None
    height, width = cutout.reference.hw
    points = {name: (x * width, y * height) for name, (x, y) in spec.references[0].points.items()}
    moved = [
        TrajectoryKeys(each.point, each.keys, each.ease, each.visible)
        for each in spec.trajectories
        if each.point in points and max(each.keys) < clip.num_frames
    ]
    if boxes is None and len(moved) < 2:
        return None
    trajectories = build_trajectory_set(moved, points, clip.hw, clip.num_frames) if moved else None
    reference = replace(cutout.reference, points_px=points)
    return LayerMotion(reference, boxes, trajectories, spec.fit, spec.anchor, spec.deform, surface)


# -- as JSON ----------------------------------------------------------------------------------------------------------------------


def describe_layer(layer: Mapping[str, Any], ready: LayerScene, clip: Clip, cutout_key: str | None) -> Document:
    """One layer as the canvas draws it; its keys are those of the document."""
    return {
        "name": layer.get("name", ""),
        "kind": layer.get("kind", "insert"),
        "hidden": bool(layer.get("hidden", False)),
        "fit": ready.spec.fit,
        "anchor": ready.spec.anchor,
        "deform": ready.spec.deform,
        "opacity": float((layer.get("blend") or {}).get("opacity", 1.0)),
        "fault": ready.fault,
        "boxes": _describe_boxes(layer, ready, clip),
        "trajectories": [
            {**each, "dense": pack(path)} for each, path in zip(layer.get("trajectories") or [], ready.paths, strict=True)
        ],
        "reference": _describe_reference(layer, ready, cutout_key),
        "motion": _describe_motion(ready),
        "masks": {
            "target": _describe_mask(layer.get("target")),
            "holdouts": [_describe_mask(each) for each in layer.get("holdouts") or []],
        },
    }


def _describe_mask(mask: Mapping[str, Any] | None) -> Document | None:
    """A mask's clicks and settings; of the masks painted by hand only their frames (the mask desk sends what they look like)."""
    if mask is None:
        return None
    edits = sorted(int(frame) for frame in mask.get("edits", {}))
    settings = {name: float(mask.get(name, 0)) for name in ("grow_px", "feather_px")}
    return {"prompts": mask.get("prompts", {}), "edits": edits, "path": mask.get("path"), **settings}


def _describe_boxes(layer: Mapping[str, Any], ready: LayerScene, clip: Clip) -> Document | None:
    if ready.boxes is None:
        return None
    sides = np.array([clip.width, clip.height] * 2, np.float64)
    dense = np.concatenate([ready.boxes.boxes_px / sides, ready.boxes.rotation_deg[:, None]], axis=1)
    return {"keys": layer["boxes"], "dense": pack(dense), "visible": pack(ready.boxes.is_visible, "u1")}


def _describe_reference(layer: Mapping[str, Any], ready: LayerScene, cutout_key: str | None) -> Document | None:
    if ready.cutout is None or cutout_key is None:
        return None
    height, width = ready.cutout.reference.hw
    points = layer["references"][0].get("points", {})
    return {"key": cutout_key, "width": width, "height": height, "points": points, "note": ready.cutout.reference.note}


def describe_references(
    layer: Mapping[str, Any], find_cutout: FindCutOut, find_picture: FindPicture | None, desk: FrameDesk, owner: str
) -> list[Document]:
    """Every picture of a layer as the panel shows it.

    ``picture`` and ``key`` are the addresses of the picture as it came and of its cut-out, null where there is none; ``fault`` says
    why. ``way`` tells how it was cut out: ``auto``, ``clicked``, ``painted`` or from a ``file``.
    """
    described = []
    for reference in layer.get("references") or []:
        made: Document = {"name": reference["path"], "points": reference.get("points") or {}, "clicks": clicks_of(reference)}
        made |= {"way": _way(reference.get("mask") or {}), "picture": None, "key": None, "width": 1, "height": 1, "note": ""}
        made["fault"] = None
        try:
            if find_picture is not None:
                picture = find_picture(reference)
                made["picture"] = desk.show_picture(owner, picture.digest, picture.rgb)
                made["height"], made["width"] = picture.rgb.shape[:2]
            cutout = find_cutout(reference)
            made["height"], made["width"] = cutout.reference.hw
            made["key"] = desk.show_cutout(owner, cutout.digest, cutout.reference)
            made["note"] = cutout.reference.note
        except UserError as error:
            made["fault"] = str(error)
        described.append(made)
    return described


def _way(mask: Mapping[str, Any]) -> str:
    return next((way for key, way in (("edits", "painted"), ("path", "file"), ("prompts", "clicked")) if mask.get(key)), "auto")


def _describe_motion(ready: LayerScene) -> Document | None:
    if ready.motion is None or ready.cutout is None:
        return None
    height, width = ready.cutout.reference.hw
    uv = ready.motion.mesh_uv_px / np.array([width, height], np.float32)
    x0, y0, x1, y1 = ready.cutout.reference.tight_box_px()
    return {
        "digest": ready.digest,
        "uv": pack(uv),
        "triangles": pack(ready.motion.mesh_triangles, "<u2"),
        "aspect": (x1 - x0) / (y1 - y0),
    }


def describe_mesh(ready: LayerScene, start: int, stop: int, clip: Clip) -> Document:
    """Mesh vertices f32[stop - start, V, 2] of the frames ``start .. stop``; ``exists`` u8 says where the object is there at
    all."""
    if ready.motion is None:
        raise UserError("There is nothing to draw in this layer yet.")
    stop = min(stop, clip.num_frames, start + MAX_MESH_FRAMES)
    sides = np.array([clip.width, clip.height], np.float32)
    meshes = np.stack([ready.motion.mesh(frame) for frame in range(start, stop)]) / sides
    exists = np.array([ready.motion.exists(frame) for frame in range(start, stop)])
    return {"digest": ready.digest, "start": start, "stop": stop, "vertices": pack(meshes), "exists": pack(exists, "u1")}


def pack(array: Array, dtype: str = "<f4") -> str:
    """An array as base64 of its bytes, row by row."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()
