"""Layers that stick to what the camera sees: tracking in the background, and the way between what is on screen and what is kept.

Boxes and paths of such a layer are kept as they lie at the key frame (the project file's ``follow``). The canvas shows and edits
them where they are on screen at every frame: ``shown_layer`` carries a layer's keys there, ``kept_layer`` takes those that an edit
changed back. All of that mathematics is ``pipeline.geometry``'s; the motion itself is the one that renders use
(``pipeline.resolve.follow_surface``), kept by content.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import documents as doc
from pipeline import geometry
from pipeline.documents import Node, item
from pipeline.errors import Cancelled, UserError
from pipeline.project import MAX_CLICKS
from pipeline.types import Array, Clip, Follow, Progress, SurfaceMotion

if TYPE_CHECKING:
    from pipeline.cache import ArtifactCache
    from pipeline.tracking import CameraMotion

log = logging.getLogger(__name__)

Document = dict[str, Any]

CARRIED_GESTURES = frozenset(
    ("set_box", "add_node", "move_node", "move_trajectory", "draw_stroke", "add_trajectory", "set_trajectory", "pin_points")
)
"""Gestures that say where something is on screen."""

MAX_JOBS = 32
FORGET_S = 60.0
"""A surface that nobody asked for during this time is not tracked on."""

STORE_BYTES = 64 << 20
REACH = (-1.0, 2.0)
NOT_YET = "The scene is still being followed; wait a moment, or edit at frame {frame}, where the object was tied to it."
TOO_FAR = (
    "From here that place lies too far outside the picture of frame {frame}, to which the object is tied; choose another place."
)
BROKEN = "The scene could not be followed; choose another frame, or a part of the picture that shows more."


# -- the gesture ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFollow(Node):
    """The layer sticks to what is seen at ``frame``: the whole picture, what fills ``region``, or what lies about and between
    ``points``; ``surface`` null lets it go."""

    kind: str = item(doc.one_of("set_follow"))
    layer: int = item(doc.integer(0, 31))
    surface: str | None = item(doc.nullable(doc.one_of("translation", "similarity", "homography")), None)
    frame: int = item(doc.integer(0, 10_000_000), 0)
    region: tuple[float, float, float, float] | None = item(doc.nullable(doc.list_of(doc.number(*REACH), 4, 4)), None)
    points: tuple[tuple[float, float], ...] | None = item(
        doc.nullable(doc.list_of(doc.list_of(doc.number(0, 1), 2, 2), 1, MAX_CLICKS)), None
    )


def set_follow(document: Document, gesture: SetFollow, num_frames: int) -> None:
    """Tie a layer of the document to a surface, or untie it, in place. Raises ``UserError``."""
    if gesture.layer >= len(document["layers"]):
        raise UserError("That layer is not there any more; reload the page.")
    layer = document["layers"][gesture.layer]
    layer.pop("follow", None)
    if gesture.surface is None:
        return
    if layer.get("kind") == "remove":
        raise UserError("What is removed has no motion of its own; choose a layer that inserts something.")
    layer["follow"] = {"kind": gesture.surface, "key_frame": gesture.frame}
    if gesture.region is not None:
        x0, y0, x1, y1 = (min(max(float(value), 0.0), 1.0) for value in gesture.region)
        if x1 - x0 < 0.01 or y1 - y0 < 0.01:
            raise UserError("That part of the picture is too small to follow, or outside it; choose a larger one.")
        layer["follow"]["region"] = [round(value, 6) for value in (x0, y0, x1, y1)]
    elif gesture.points is not None:
        layer["follow"]["points"] = [_rounded(point) for point in gesture.points]


def read_follow(layer: Mapping[str, Any], clip: Clip) -> Follow | None:
    """What a layer of a checked document follows, in pixels of the clip."""
    spec = layer.get("follow")
    if not spec or spec["key_frame"] >= clip.num_frames:
        return None
    width, height = clip.width, clip.height
    points = None if spec.get("points") is None else tuple((float(x * width), float(y * height)) for x, y in spec["points"])
    region = None
    if spec.get("region") is not None:
        x0, y0, x1, y1 = (float(value) for value in spec["region"])
        region = (x0 * width, y0 * height, x1 * width, y1 * height)
    return Follow(spec["kind"], spec["key_frame"], points, region)


# -- between what is kept and what is on screen -----------------------------------------------------------------------------------


def shown_layer(layer: Mapping[str, Any], surface: SurfaceMotion | None, clip: Clip) -> Document:
    """A layer of a document with every key where it is on screen at its own frame."""
    made: Document = copy.deepcopy(dict(layer))
    if surface is None:
        return made
    for name, key in made.get("boxes", {}).items():
        made["boxes"][name] = _held(_moved_box(key, surface.matrices[_frame(name, clip)], clip, geometry.carry_box), key)
    for path in made.get("trajectories", []):
        for name, at in path["keys"].items():
            moved = _moved_point(at, surface.matrices[_frame(name, clip)], clip)
            path["keys"][name] = [min(max(value, REACH[0]), REACH[1]) for value in moved]
    return made


def kept_layer(
    before: Mapping[str, Any], shown: Mapping[str, Any], after: Mapping[str, Any], surface: SurfaceMotion | None, clip: Clip
) -> Document:
    """What an edit makes of the layer ``before``: ``shown`` is how that was on screen, ``after`` how it is now. Keys that did not
    change stay as they are, to the last digit. Raises ``UserError`` where a key cannot be taken back to the key frame."""
    made: Document = copy.deepcopy(dict(after))
    key_frame = before["follow"]["key_frame"]

    def back(name: str) -> Array:
        if surface is None and int(name) != key_frame:
            raise UserError(NOT_YET.format(frame=key_frame))
        return np.eye(3) if surface is None else surface.matrices[_frame(name, clip)]

    kept, known = before.get("boxes", {}), shown.get("boxes", {})
    for name, key in made.get("boxes", {}).items():
        if name in known and known[name].get("box") == key["box"] and known[name].get("rotation_deg") == key.get("rotation_deg"):
            places = {part: kept[name][part] for part in ("box", "rotation_deg") if part in kept[name]}
            made["boxes"][name] = {**key, **places}
        else:
            made["boxes"][name] = _moved_box(key, back(name), clip, geometry.carry_box_back)
            _check_reach(made["boxes"][name]["box"], key_frame)
    paths = {path["point"]: (path["keys"], seen["keys"]) for path, seen in _pairs(before, shown)}
    for path in made.get("trajectories", []):
        kept_keys, seen_keys = paths.get(path["point"], ({}, {}))
        for name, at in path["keys"].items():
            if name in seen_keys and list(seen_keys[name]) == list(at):
                path["keys"][name] = kept_keys[name]
            else:
                path["keys"][name] = _moved_point(at, np.linalg.inv(back(name)), clip)
                _check_reach(path["keys"][name], key_frame)
    return made


def _pairs(before: Mapping[str, Any], shown: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return list(zip(before.get("trajectories", []), shown.get("trajectories", []), strict=True))


def _frame(name: str, clip: Clip) -> int:
    return min(int(name), clip.num_frames - 1)


def _moved_box(key: Mapping[str, Any], matrix: Array, clip: Clip, move: Callable[..., tuple[Array, float]]) -> Document:
    if np.array_equal(matrix, np.eye(3)):
        return dict(key)
    sides = np.array([clip.width, clip.height] * 2, np.float64)
    box, rotation_deg = move(matrix, np.array(key["box"], np.float64) * sides, float(key.get("rotation_deg", 0)))
    return {**key, "box": _rounded(box / sides), "rotation_deg": round(rotation_deg, 4) + 0.0}


def _held(moved: Document, kept: Mapping[str, Any]) -> Document:
    """A box that the camera has left far behind is held where the canvas can still draw it."""
    x0, y0, x1, y1 = (min(max(value, REACH[0]), REACH[1]) for value in moved["box"])
    return {**moved, "box": [x0, y0, x1, y1]} if x1 - x0 > 0.002 and y1 - y0 > 0.002 else dict(kept)


def _moved_point(at: Sequence[float], matrix: Array, clip: Clip) -> list[float]:
    if np.array_equal(matrix, np.eye(3)):
        return list(at)
    sides = np.array([clip.width, clip.height], np.float64)
    return _rounded(geometry.apply_map(matrix, np.array(at, np.float64) * sides) / sides)


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 6) + 0.0 for value in values]


def _check_reach(values: Sequence[float], key_frame: int) -> None:
    if not all(REACH[0] <= value <= REACH[1] for value in values):
        raise UserError(TOO_FAR.format(frame=key_frame))


# -- tracking in the background ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Job:
    """Something that is worked out once in the background: ``result`` when it is there, ``fault`` when it cannot be had."""

    result: Any = None
    fault: str | None = None
    share: float = 0.0
    is_done: bool = False
    asked_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, eq=False, slots=True)
class Followed:
    """How far the tracking of a layer's surface is: ``surface`` when it is known, ``fault`` when it cannot be, ``share`` 0..1;
    ``cuts`` are those beyond which it is lost, and whether that is after the cut."""

    surface: SurfaceMotion | None
    fault: str | None
    share: float
    cuts: tuple[tuple[int, bool], ...] = ()

    @property
    def is_busy(self) -> bool:
        return self.surface is None and self.fault is None


class FollowDesk:
    """Tracks what layers follow, one surface at a time, in a thread of its own. Thread-safe; results are kept in ``artifacts``."""

    def __init__(self, artifacts: ArtifactCache | None = None) -> None:
        self._artifacts = artifacts
        self._guard = threading.Lock()
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="follow")
        self._is_closed = False

    def close(self) -> None:
        """Stop what is under way."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def followed(self, layer: Mapping[str, Any], clip: Clip, span: Sequence[int] | None) -> Followed | None:
        """The motion of what a layer follows, for the frames ``span`` that are rendered; begun now where it is not known. None for
        a layer that follows nothing."""
        follow = read_follow(layer, clip)
        if follow is None:
            return None
        start, stop = span or (0, clip.num_frames)
        parts = [clip.sha256, str(clip.path), layer["follow"], start, stop]
        job = self._job(parts, lambda report: self._track(clip, follow, start, stop, report))
        surface, cuts = job.result or (None, ())
        return Followed(surface, job.fault, job.share, cuts)

    def camera(self, clip: Clip) -> CameraMotion | None:
        """Whether the camera moves; None while nobody has looked yet."""
        job = self._job(["camera", clip.sha256, str(clip.path)], lambda report: self._look(clip))
        found: CameraMotion | None = job.result
        return found

    def is_busy(self, layers: Sequence[Mapping[str, Any]], clip: Clip, span: Sequence[int] | None) -> bool:
        """Whether something of a document is still being worked out."""
        found = [self.followed(layer, clip, span) for layer in layers]
        looking = self._job(["camera", clip.sha256, str(clip.path)], lambda report: self._look(clip))
        return not looking.is_done or any(each is not None and each.is_busy for each in found)

    def _job(self, parts: object, work: Callable[[Callable[[Progress], None]], Any]) -> _Job:
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        with self._guard:
            job = self._jobs.get(key)
            if job is not None:
                job.asked_s = time.monotonic()
                self._jobs.move_to_end(key)
                return job
            job = self._jobs[key] = _Job()
            while len(self._jobs) > MAX_JOBS:
                self._jobs.popitem(last=False)[1].asked_s = 0.0
        self._pool.submit(self._run, key, job, work)
        return job

    def _run(self, key: str, job: _Job, work: Callable[[Callable[[Progress], None]], Any]) -> None:
        def report(progress: Progress) -> None:
            job.share = progress.step / max(1, progress.num_steps)
            if self._is_closed or time.monotonic() - job.asked_s > FORGET_S:
                raise Cancelled

        try:
            job.result = work(report)
        except Cancelled:
            with self._guard:
                self._jobs.pop(key, None)
        except UserError as error:
            job.fault = str(error)
        except Exception:
            log.exception("a surface could not be followed")
            job.fault = BROKEN
        job.is_done = True

    def _track(
        self, clip: Clip, follow: Follow, start: int, stop: int, report: Callable[[Progress], None]
    ) -> tuple[SurfaceMotion, tuple[tuple[int, bool], ...]]:
        from pipeline.media import FrameStore
        from pipeline.resolve import find_losing_cuts, follow_surface

        frames = FrameStore(clip, STORE_BYTES)
        try:
            surface = follow_surface(frames, follow, start, stop, None, self._artifacts, report)
            lost = [frame for frame in range(start, stop) if not surface.is_tracked[frame]]
            return surface, tuple(find_losing_cuts(lost, follow.key_frame, frames, self._artifacts, (start, stop)))
        finally:
            frames.close()

    def _look(self, clip: Clip) -> CameraMotion:
        from pipeline.media import FrameStore
        from pipeline.tracking import detect_camera_motion

        frames = FrameStore(clip, STORE_BYTES)
        try:
            return detect_camera_motion(frames)
        finally:
            frames.close()


# -- as JSON ----------------------------------------------------------------------------------------------------------------------


def describe_follow(layer: Mapping[str, Any], followed: Followed | None, span: Sequence[int]) -> Document | None:
    """What the canvas shows of a layer's tie: ``state`` is ``tracking``, ``ready`` or ``failed``; ``lost`` the frames, in half-open
    stretches, where the surface was not found; ``cuts`` those that it is lost beyond, ``[frame, whether after it]``."""
    if followed is None:
        return None
    spec = layer["follow"]
    made = {name: spec.get(name) for name in ("kind", "key_frame", "region", "points")} | {"fault": followed.fault}
    made["state"] = "tracking" if followed.is_busy else "ready" if followed.fault is None else "failed"
    made["lost"] = [] if followed.surface is None else _stretches(~followed.surface.is_tracked, span)
    made["cuts"] = [list(cut) for cut in followed.cuts]
    return made


def _stretches(marked: Array, span: Sequence[int]) -> list[list[int]]:
    inside = np.concatenate([[False], marked[span[0] : span[1]], [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(inside)) + span[0]
    return edges.reshape(-1, 2).tolist()
