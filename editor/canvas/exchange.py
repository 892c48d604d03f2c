"""The conversation between the canvas and the server: one strict JSON message in, one JSON answer out, nothing remembered between.

A message is ``{"token": visitor, "gestures": [...], "seen": revision, "meshes": [{"layer", "start", "stop"}], "dry": false}``; all
but the token may be missing. The gestures are applied in order as one step that undo takes back at once; ``[{"kind": "undo"}]`` and
``[{"kind": "redo"}]`` stand alone. Some gestures are completed here, because they need more than the document: those of
``reference_wishes``, and ``{"kind": "pin_point", "layer", "point", "frame", "at"}``, which gives a point that merely follows the
object a path of its own, moved to ``at`` at ``frame`` (and the other points of its face or garment one, along which they stay).

The answer is ``{"revision", "scene", "meshes", "can_undo", "can_redo", "fault"}``: ``scene`` is null when the client has ``seen``
this revision, ``fault`` is one sentence when the gestures were refused (nothing of them was applied then).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline import documents as doc
from pipeline.documents import Node, item
from pipeline.errors import UserError
from pipeline.types import Clip

from .follow import CARRIED_GESTURES, FollowDesk, Followed, describe_follow, kept_layer, shown_layer
from .frames import FrameDesk
from .gestures import MAX_FRAME, REACH, Document, SetBox, apply_gesture
from .masks import MaskDesk
from .reference_wishes import carry_paths, complete_wish, pin_preset
from .scene import FindCutOut, FindPicture, LayerScene, SceneShelf, describe_layer, describe_mesh, describe_references

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from pipeline.media import FrameStore

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2 << 20
MAX_GESTURES = 64
NEUTRAL = "Something went wrong on the server; it has been noted. Your work is kept, so try again."


def _find_nothing(name: str) -> Path:
    raise UserError(f"The file {Path(name).name} is not there.")


@dataclass(frozen=True, eq=False, slots=True)
class Work:
    """One visitor's work as the canvas needs it. ``clip`` and ``frames`` are None before there is a video."""

    document: Document
    can_undo: bool
    can_redo: bool
    clip: Clip | None
    frames: FrameStore | None
    find_cutout: FindCutOut
    find_file: Callable[[str], Path] = _find_nothing
    """The path of a file that the document names. Raises ``UserError`` when it is not there."""
    find_picture: FindPicture | None = None


class Host(Protocol):
    """What the page provides. Every method raises ``UserError`` for a token that is not that of a living visitor."""

    def read(self, token: object) -> Work:
        """The work as it is."""

    def write(self, token: object, before: Document, after: Document) -> Work:
        """Make ``after`` the document, as one step that can be undone. Raises ``UserError`` if the document is no longer
        ``before``."""

    def undo(self, token: object) -> Work:
        """One step back, if there is one."""

    def redo(self, token: object) -> Work:
        """One step forward again, if there is one."""

    def take_image(self, token: object, source: Path, layer: int, reference: int, role: str) -> None:
        """Take an image in as a layer's picture (``role`` "replace" or "add") or as a picture's "mask", as one step that can be
        undone. Raises ``UserError``."""

    def keep_file(self, token: object, source: Path, check: Callable[[Path], object]) -> str:
        """Take a copy of ``source`` in and return the name that documents call it by, unless ``check`` of it raises."""


# -- messages ---------------------------------------------------------------------------------------------------------------------


def _any(value: object, path: str) -> object:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshWish(Node):
    """Which frames of which layer's mesh are wanted."""

    layer: int = item(doc.integer(0, 31))
    start: int = item(doc.integer(0, MAX_FRAME))
    stop: int = item(doc.integer(0, MAX_FRAME))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Node):
    """What the browser sends. Tokens are checked by the host, gestures by ``apply_gesture``."""

    token: object = item(_any)
    gestures: tuple[Any, ...] = item(doc.list_of(_any, 0, MAX_GESTURES), ())
    seen: str | None = item(doc.nullable(doc.line(0, 64)), None)
    meshes: tuple[MeshWish, ...] = item(doc.list_of(doc.node(MeshWish), 0, 32), ())
    dry: bool = item(doc.boolean, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinPoint(Node):
    """Give the reference's point a path: where the object carries it at every key, but ``at`` at ``frame``."""

    kind: str = item(doc.one_of("pin_point"))
    layer: int = item(doc.integer(0, 31))
    point: str = item(doc.line(1, 200))
    frame: int = item(doc.integer(0, MAX_FRAME))
    at: tuple[float, float] = item(doc.list_of(doc.number(*REACH), 2, 2))


class Exchange:
    """Answers messages. One per process, thread-safe; what it keeps (ready layers, pictures) can all be made again."""

    def __init__(
        self,
        host: Host,
        desk: FrameDesk,
        num_threads: int = 2,
        masks: MaskDesk | None = None,
        follows: FollowDesk | None = None,
    ) -> None:
        self._host, self._desk = host, desk
        self._masks = masks or MaskDesk(host)
        self._follows = follows or FollowDesk()
        self.scenes = SceneShelf()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="canvas-exchange")

    def answer(self, raw: object) -> Document:
        """The answer to a decoded message. Never raises for what a browser can send; ``fault`` says what was wrong instead."""
        try:
            message = doc.read_node(Message, raw, "message")
            work = self._host.read(message.token)
        except UserError as error:
            return {"fault": str(error), "revision": None, "scene": None, "meshes": []}
        fault = None
        try:
            work = self._changed(work, message)
        except UserError as error:
            fault = str(error)
        is_following = self._is_following(work)  # before anything is read, so that nothing that ends meanwhile is missed
        revision = self._revision(work)
        meshes, mesh_fault = self._meshes(work, message)
        return {
            "revision": revision,
            "scene": None if message.dry or message.seen == revision else self._scene(work, str(message.token)),
            "meshes": meshes,
            "can_undo": work.can_undo,
            "can_redo": work.can_redo,
            "fault": fault or mesh_fault,
            "is_following": is_following,
        }

    # -- edits --------------------------------------------------------------------------------------------------------------------

    def _changed(self, work: Work, message: Message) -> Work:
        kinds = [gesture.get("kind") if isinstance(gesture, Mapping) else None for gesture in message.gestures]
        if not kinds:
            return work
        if None in kinds:
            raise UserError("The page sent an edit that is not known here; reload it and try again.")
        if kinds == ["undo"] and not message.dry:
            return self._host.undo(message.token)
        if kinds == ["redo"] and not message.dry:
            return self._host.redo(message.token)
        if work.clip is None:
            raise UserError("Add a video first.")
        document = work.document
        for gesture in message.gestures:
            for each in self._completed(gesture, document, work):
                if isinstance(each, Mapping):
                    each = self._masks.completed(str(message.token), each, replace(work, document=document))
                document = self._applied(document, each, work)
        if message.dry:
            return replace(work, document=document)
        return work if document == work.document else self._host.write(message.token, work.document, document)

    def _completed(self, gesture: Any, document: Document, work: Work) -> Sequence[object]:
        """What a gesture stands for: gestures that the document alone can follow."""
        kind = gesture.get("kind") if isinstance(gesture, Mapping) else None
        if kind == "pin_point":
            return [self._pinned(doc.read_node(PinPoint, gesture, "gesture"), document, work)]
        if kind == "set_box":
            return [gesture, *self._carried(doc.read_node(SetBox, gesture, "gesture"), document, work)]
        wished = complete_wish(gesture, document, work)
        return [gesture] if wished is None else wished

    def _carried(self, gesture: SetBox, document: Document, work: Work) -> list[Document]:
        """What goes along with a box: the paths of a face or a garment."""
        ready = self._ready(work, document, gesture.layer)
        if work.clip is None or gesture.frame >= work.clip.num_frames:
            return []
        return carry_paths(gesture, document["layers"][gesture.layer], ready, work)

    def _pinned(self, wish: PinPoint, document: Document, work: Work) -> Document:
        ready = self._ready(work, document, wish.layer)
        if ready.motion is None or ready.cutout is None or work.clip is None:
            raise UserError(ready.fault or "Draw a box first; then the object can be bent by its points.")
        layer = document["layers"][wish.layer]
        point = layer["references"][0].get("points", {}).get(wish.point)
        if point is None:
            raise UserError(f"The picture has no point {wish.point!r} any more.")
        paths = pin_preset(layer, ready, work, wish.point, wish.frame, wish.at)
        if paths is not None:
            return {"kind": "pin_points", "layer": wish.layer, "paths": paths}
        height, width = ready.cutout.reference.hw
        anchor = np.array([point[0] * width, point[1] * height])
        sides = np.array([work.clip.width, work.clip.height])
        frames = {int(frame) for frame in layer.get("boxes", {}) if int(frame) < work.clip.num_frames}
        frames |= {int(frame) for path in layer.get("trajectories", []) for frame in path["keys"]}
        keys = {str(frame): np.clip(ready.motion.warp(frame).forward(anchor) / sides, *REACH).tolist() for frame in sorted(frames)}
        keys[str(wish.frame)] = list(wish.at)
        return {"kind": "add_trajectory", "layer": wish.layer, "point": wish.point, "keys": keys}

    def _applied(self, document: Document, gesture: object, work: Work) -> Document:
        """The document after a gesture. Where a layer follows a surface, places come as they are on screen and are kept as they are
        at the key frame."""
        assert work.clip is not None
        clip = work.clip
        kind, index = (gesture.get("kind"), gesture.get("layer")) if isinstance(gesture, Mapping) else (None, None)
        layers = document.get("layers", [])
        followed = None
        if kind in CARRIED_GESTURES and isinstance(index, int) and 0 <= index < len(layers):
            followed = self._followed(document, index, clip)
        if followed is None or not isinstance(index, int):
            return apply_gesture(document, gesture, num_frames=clip.num_frames)
        before = layers[index]
        shown = shown_layer(before, followed.surface, clip)
        on_screen = {**document, "layers": [*layers[:index], shown, *layers[index + 1 :]]}
        after = apply_gesture(on_screen, gesture, num_frames=clip.num_frames)
        kept = kept_layer(before, shown, after["layers"][index], followed.surface, clip)
        return {**after, "layers": [*after["layers"][:index], kept, *after["layers"][index + 1 :]]}

    # -- what is shown ------------------------------------------------------------------------------------------------------------

    def _followed(self, document: Document, index: int, clip: Clip) -> Followed | None:
        return self._follows.followed(document["layers"][index], clip, document.get("range"))

    def _is_following(self, work: Work) -> bool:
        """Whether the canvas should soon ask again, because something is being tracked."""
        return work.clip is not None and self._follows.is_busy(work.document["layers"], work.clip, work.document.get("range"))

    def _revision(self, work: Work) -> str:
        """Changes whenever the canvas would have to draw something else."""
        ties: list[object] = []
        if work.clip is not None:
            found = [self._followed(work.document, index, work.clip) for index in range(len(work.document["layers"]))]
            ties = [None if each is None else [each.is_busy, each.fault] for each in found]
            ties.append(None if (camera := self._follows.camera(work.clip)) is None else camera.is_moving)
        return _revision(work, ties)

    def _ready(self, work: Work, document: Document, index: int) -> LayerScene:
        if work.clip is None or index >= len(document["layers"]):
            raise UserError("That layer is not there any more; reload the page.")
        followed = self._followed(document, index, work.clip)
        return self.scenes.layer(
            document["layers"][index], work.clip, work.find_cutout, None if followed is None else followed.surface
        )

    def _scene(self, work: Work, owner: str) -> Document | None:
        if work.clip is None or work.frames is None:
            return None
        clip, layers = work.clip, []
        span = work.document.get("range") or [0, clip.num_frames]
        camera = self._follows.camera(clip)
        for index, layer in enumerate(work.document["layers"]):
            ready = self._ready(work, work.document, index)
            key = None if ready.cutout is None else self._desk.show_cutout(owner, ready.cutout.digest, ready.cutout.reference)
            pictures = describe_references(layer, work.find_cutout, work.find_picture, self._desk, owner)
            followed = self._followed(work.document, index, clip)
            shown = shown_layer(layer, None if followed is None else followed.surface, clip)
            tie = describe_follow(layer, followed, span)
            layers.append({**describe_layer(shown, ready, clip, key), "references": pictures, "follow": tie})
        return {
            "clip": {
                "key": self._desk.show_clip(owner, clip, work.frames),
                "digest": clip.sha256[:24],
                "num_frames": clip.num_frames,
                "width": clip.width,
                "height": clip.height,
                "fps": float(clip.fps),
                "camera_moves": camera is not None and camera.is_moving,
            },
            "range": span,
            "layers": layers,
        }

    def _meshes(self, work: Work, message: Message) -> tuple[list[Document | None], str | None]:
        found: list[Document | None] = []
        fault = None
        for wish in message.meshes:
            try:
                ready = self._ready(work, work.document, wish.layer)
                if work.clip is None or not wish.start < min(wish.stop, work.clip.num_frames):
                    raise UserError("Those frames are not in the clip.")
                is_drawn = ready.motion is not None or ready.fault is not None  # else it merely lacks something yet
                mesh = describe_mesh(ready, wish.start, wish.stop, work.clip) if is_drawn else None
                found.append(None if mesh is None else {"layer": wish.layer, **mesh})
            except UserError as error:
                found.append(None)
                fault = str(error)
        return found, fault

    # -- HTTP ---------------------------------------------------------------------------------------------------------------------

    def route(self) -> Route:
        """``POST /exchange``, relative to wherever it is mounted."""
        from starlette.routing import Route

        return Route("/exchange", self._serve, methods=["POST"])

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_MESSAGE_BYTES:
                return _json(
                    {"fault": "That edit is far larger than any edit is.", "revision": None, "scene": None, "meshes": []}, 413
                )
        try:
            text = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer_text, bytes(body))
        except RuntimeError:  # the server is closing
            text = json.dumps({"fault": NEUTRAL, "revision": None, "scene": None, "meshes": []})
        return _json(text)

    def _answer_text(self, body: bytes) -> str:
        try:
            return json.dumps(self.answer(doc.decode_json(body, MAX_MESSAGE_BYTES, "the page's message")), allow_nan=False)
        except UserError as error:
            fault = str(error)
        except Exception:
            log.exception("a message from the canvas failed")
            fault = NEUTRAL
        return json.dumps({"fault": fault, "revision": None, "scene": None, "meshes": []})


def _revision(work: Work, ties: list[object]) -> str:
    clip = None if work.clip is None else [str(work.clip.path), work.clip.sha256]
    text = json.dumps([work.document, clip, ties], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _json(content: Document | str, status: int = 200) -> Response:
    from starlette.responses import Response

    text = content if isinstance(content, str) else json.dumps(content)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return Response(text, status, headers, "application/json")
