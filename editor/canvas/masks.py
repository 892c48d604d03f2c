"""The mask desk: from the clicks of a document to the masks that the canvas shows, beside the page's queue and the exchange.

Prompts, painted masks, growing and softening are the document's; masks are derived. A prompted frame is segmented when it is looked
at. Tracking is a job, one for each visitor, in a thread of its own: masks appear as they are made, and stopping keeps them. What is
made is kept by content in the ``ArtifactCache`` (through ``MaskTracks``), and here, in memory: so masks made from older clicks
stay in sight, marked as stale, until they are made anew.

``POST /masks`` takes ``{"token", "slots": [{"layer", "mask", "have", "frames"}], "act", "prepare"}`` and answers with
``{"segmenter", "slots", "job", "fault"}``; README.md says what is in them. ``POST /masks/hover`` tells what a click would find,
``POST /masks/export`` sends a mask as a file, ``POST /masks/import`` takes one in.
"""

# ruff: noqa: RUF009  (the checks that class bodies make are functions without state)

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import shutil
import tempfile
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import numpy as np

from pipeline import documents as doc
from pipeline.documents import Node, item
from pipeline.errors import UserError
from pipeline.masks import IMAGE_SUFFIXES, coco_mask, encode_coco_counts, encode_rle, parse_coco_mask
from pipeline.project import MAX_HOLDOUTS, MAX_LAYERS
from pipeline.types import Array, Clip, Prompt

from .frames import FRAME_MAX_PX, shown_size
from .mask_gestures import MAX_EDITED_FRAMES, MAX_FRAME, find_mask
from .mask_jobs import NEUTRAL, TrackRoom, track_range
from .mask_shelf import (
    MaskShelf,
    Record,
    Signature,
    Slot,
    list_signatures,
    plain_mask,
    read_marks,
    read_prompts,
    read_states,
    shown_mask,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from pipeline.cache import ArtifactCache
    from pipeline.segmentation import Segmenter
    from pipeline.segmentation.tracks import MaskTracks

    from .exchange import Host, Work

log = logging.getLogger(__name__)

Document = dict[str, Any]

MAX_MESSAGE_BYTES = 256 << 10
MAX_SENT_FRAMES = 24
"""Most masks that one answer carries for one slot."""

MAX_SLOTS = 2 * (MAX_HOLDOUTS + 1)
"""Most masks that one message asks for: those of the chosen layer, and those in front of other layers' cut-outs."""

MAX_STROKE_POINTS = 5_000

FAULT_S = 5.0
"""A frame whose mask could not be made is not tried again for so long."""

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi")
EXPORT_SUFFIXES = {"mkv": ".mkv", "mp4": ".mp4", "png": ".zip"}

NO_SEGMENTER = "This server makes no masks from clicks; paint the mask, or import one."


class Segmenters(Protocol):
    """Hands out segmenters by the project file's names; ``pipeline.segmentation.choice.SegmenterByName`` is one."""

    def find(self, name: str) -> Segmenter:
        """The segmenter of this name. Raises ``UserError`` when it cannot be had."""

    def describe(self) -> str:
        """Which one is at work, and how to get the better one."""


# -- messages ---------------------------------------------------------------------------------------------------------------------

_layer = doc.integer(0, MAX_LAYERS - 1)
_frame = doc.integer(0, MAX_FRAME)


def _any(value: object, path: str) -> object:
    return value


def _mask(value: object, path: str) -> str | int:
    return "target" if value == "target" else int(doc.integer(0, MAX_HOLDOUTS - 1)(value, path))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotWish(Node):
    """One mask of a layer, the digest of what the browser knows of it, and the frames whose masks it wants."""

    layer: int = item(_layer)
    mask: str | int = item(_mask)
    have: str | None = item(doc.nullable(doc.line(0, 64)), None)
    frames: tuple[int, ...] = item(doc.list_of(_frame, 0, MAX_SENT_FRAMES), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Act(Node):
    """``track`` a mask from ``frame`` on (``forward``, ``backward``, ``both``), or ``stop`` the track that is being made."""

    kind: str = item(doc.one_of("track", "stop"))
    layer: int = item(_layer, 0)
    mask: str | int = item(_mask, "target")
    frame: int = item(_frame, 0)
    direction: str = item(doc.one_of("forward", "backward", "both"), "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskMessage(Node):
    """What the browser sends to ``/masks``."""

    token: object = item(_any)
    slots: tuple[SlotWish, ...] = item(doc.list_of(doc.node(SlotWish), 0, MAX_SLOTS), ())
    act: Act | None = item(doc.nullable(doc.node(Act)), None)
    prepare: int | None = item(doc.nullable(_frame), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMessage(Node):
    """What the browser sends to ``/masks/export``."""

    token: object = item(_any)
    layer: int = item(_layer)
    mask: str | int = item(_mask)
    format: str = item(doc.one_of(*EXPORT_SUFFIXES))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintMask(Node):
    """A gesture: a brush of ``radius`` (in widths of the picture) drawn over the mask of ``frame`` along ``points``."""

    kind: str = item(doc.one_of("paint_mask"))
    layer: int = item(_layer)
    mask: str | int = item(_mask)
    frame: int = item(_frame)
    points: tuple[tuple[float, float], ...] = item(doc.list_of(doc.list_of(doc.number(-1, 2), 2, 2), 1, MAX_STROKE_POINTS))
    radius: float = item(doc.number(0.0002, 0.25))
    erase: bool = item(doc.boolean, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineMask(Node):
    """A gesture: fill the holes of the masks of the half-open ``frames``, or remove their specks."""

    kind: str = item(doc.one_of("refine_mask"))
    layer: int = item(_layer)
    mask: str | int = item(_mask)
    frames: tuple[int, int] = item(doc.list_of(_frame, 2, 2))
    how: str = item(doc.one_of("fill_holes", "remove_specks"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HoverMessage(Node):
    """What the browser sends to ``/masks/hover``: where the pointer rests, 0..1 of the picture."""

    token: object = item(_any)
    layer: int = item(_layer)
    mask: str | int = item(_mask)
    frame: int = item(_frame)
    at: tuple[float, float] = item(doc.list_of(doc.number(0, 1), 2, 2))


class MaskDesk:
    """Makes masks for all visitors of this process. Thread-safe; all that it keeps can be made again.

    ``segmenters`` is None where no masks are made from clicks. ``artifacts`` keeps what was tracked. ``max_import_bytes`` bounds a
    mask that is brought in as a file.
    """

    def __init__(
        self,
        host: Host,
        segmenters: Segmenters | None = None,
        artifacts: ArtifactCache | None = None,
        max_import_bytes: int = 300 << 20,
    ) -> None:
        self._host, self._segmenters, self._artifacts = host, segmenters, artifacts
        self.max_import_bytes = max_import_bytes
        self._guard = threading.Lock()
        self._tracks: dict[str, MaskTracks] = {}
        self._files: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self.shelf = MaskShelf()
        self.jobs = TrackRoom(self.shelf)
        self._pool = ThreadPoolExecutor(3, thread_name_prefix="canvas-masks")
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="canvas-mask-files")
        self._early = ThreadPoolExecutor(1, thread_name_prefix="canvas-mask-early")
        self._preparing: Future[None] | None = None
        self._hovering = threading.Lock()

    # -- answers ------------------------------------------------------------------------------------------------------------------

    def answer(self, raw: object) -> Document:
        """The answer to a decoded message. Never raises for what a browser can send; ``fault`` says what was wrong instead."""
        faults: list[str] = []
        try:
            message = doc.read_node(MaskMessage, raw, "message")
            work = self._host.read(message.token)
            owner = str(message.token)
            if message.act is not None:
                self._act(owner, work, message.act)
        except UserError as error:
            return {"fault": str(error), "segmenter": None, "slots": [], "job": None}
        slots = []
        for wish in message.slots:
            try:
                slots.append(self._show(owner, work, wish, faults))
            except UserError as error:
                faults.append(str(error))
                slots.append(None)
        if message.prepare is not None:
            self._prepare(work, message.prepare)
        return {
            "segmenter": None if self._segmenters is None else self._segmenters.describe(),
            "slots": slots,
            "job": self.jobs.describe(owner, work.document),
            "fault": faults[0] if faults else None,
        }

    def hover(self, raw: object) -> Document:
        """``{"mask"}``: what a click where the pointer rests would find, in the form of ``answer``'s masks; nothing of it is kept.
        null where that cannot be told, or another pointer is being served."""
        message = doc.read_node(HoverMessage, raw, "message")
        work = self._host.read(message.token)
        if self._segmenters is None or work.clip is None or work.frames is None or message.frame >= work.clip.num_frames:
            return {"mask": None}
        layers = work.document["layers"]
        found = (find_mask(layers[message.layer], message.mask) if message.layer < len(layers) else None) or {}
        prompt = found.get("prompts", {}).get(str(message.frame), {})
        marked = {**prompt, "clicks": [*prompt.get("clicks", []), [*message.at, 1]]}
        prompts = read_prompts({str(message.frame): marked}, work.clip)
        if not self._hovering.acquire(blocking=False):
            return {"mask": None}
        try:
            mask = self._tracks_of(work).segmenter.segment(work.frames, message.frame, prompts[message.frame]).mask
        finally:
            self._hovering.release()
        return {"mask": _shown(mask, work.clip, message.frame, 0) if mask.any() else None}

    def _act(self, owner: str, work: Work, act: Act) -> None:
        if act.kind == "stop":
            self.jobs.stop(owner)
            return
        slot = self._slot(owner, work, act.layer, act.mask)
        if slot is None or slot.record is None:
            is_file = slot is not None and slot.file is not None
            raise UserError("This mask comes from a file; there is nothing to track." if is_file else "Click on the thing first.")
        if act.frame >= slot.clip.num_frames:
            raise UserError(f"The clip has {slot.clip.num_frames} frames, 0 to {slot.clip.num_frames - 1}; go to one of them.")
        span = track_range(slot.prompts, act.frame, act.direction, work.document.get("range"), slot.clip.num_frames)
        self.jobs.start(slot, self._tracks_of(work), span, act.frame)

    def _show(self, owner: str, work: Work, wish: SlotWish, faults: list[str]) -> Document | None:
        slot = self._slot(owner, work, wish.layer, wish.mask)
        if slot is None:
            return None
        frames = [frame for frame in dict.fromkeys(wish.frames) if frame < slot.clip.num_frames]
        for frame in frames:
            if frame in slot.prompts and str(frame) not in slot.mask.get("edits", {}):
                faults.extend(self._segment(slot, work, frame))
        versions, flags = read_states(slot)
        digest = f"{zlib.crc32(versions.tobytes()):08x}{zlib.crc32(flags.tobytes()):08x}"
        masks = [_shown(shown_mask(slot, frame), slot.clip, frame, int(versions[frame])) for frame in frames if versions[frame]]
        states = None if wish.have == digest else {"versions": _pack(versions, "<u4"), "flags": _pack(flags, "u1")}
        return {"layer": wish.layer, "mask": wish.mask, "digest": digest, "states": states, "masks": masks}

    # -- slots --------------------------------------------------------------------------------------------------------------------

    def _slot(self, owner: str, work: Work, layer: int, mask: str | int) -> Slot | None:
        """None where the layer has no such mask."""
        if work.clip is None:
            raise UserError("Add a video first.")
        layers = work.document["layers"]
        found = find_mask(layers[layer], mask) if layer < len(layers) else None
        if found is None:
            return None
        clip = work.clip
        prompts = read_prompts(found.get("prompts", {}), clip)
        record, signatures = None, []
        if prompts:
            key = self._segmenter_key(work)
            signatures = list_signatures(prompts, clip.num_frames, key)
            record = self.shelf.find(owner, clip, read_marks(found["prompts"]))
            self._search(record, work, prompts, signatures, key)
        file = self._file_track(work, found["path"]) if found.get("path") else None
        return Slot(owner, clip, found, prompts, record, signatures, file)

    def _segmenter_key(self, work: Work) -> str:
        return self._tracks_of(work).segmenter.key if self._segmenters is not None else ""

    def _tracks_of(self, work: Work) -> MaskTracks:
        """Raises ``UserError`` when the segmenter that the project names cannot be had."""
        if self._segmenters is None:
            raise UserError(NO_SEGMENTER)
        from pipeline.segmentation.tracks import MaskTracks

        segmenter = self._segmenters.find((work.document.get("segmenter") or {}).get("name", "auto"))
        with self._guard:
            found = self._tracks.get(segmenter.key)
            if found is None:
                found = self._tracks[segmenter.key] = MaskTracks(segmenter, self._artifacts)
            return found

    def _search(self, record: Record, work: Work, prompts: Mapping[int, Prompt], signatures: Sequence[Signature], key: str) -> None:
        """Once for each record and segmenter: what was made for these prompts before, perhaps by an earlier process."""
        if self._segmenters is None or record.searched == (key,) or work.clip is None:
            return
        record.searched = (key,)
        known = self._tracks_of(work).known(work.clip, prompts, 0, work.clip.num_frames)
        for frame, found in known.items():
            if frame not in record.made or record.made[frame].signature != signatures[frame]:
                self.shelf.keep(record, frame, signatures[frame], found)

    def _segment(self, slot: Slot, work: Work, frame: int) -> list[str]:
        """Make the mask of a prompted frame unless it is there. Returns what is to be said about it."""
        record = slot.record
        if record is None or work.frames is None:
            return []
        made, signature = record.made.get(frame), slot.signatures[frame]
        if made is None or made.signature != signature:
            known_fault = record.faults.get(frame)
            if known_fault is not None and known_fault[0] == signature and time.monotonic() - known_fault[2] < FAULT_S:
                return [known_fault[1]]
            try:
                found = self._tracks_of(work).segment(work.frames, frame, slot.prompts[frame])
            except UserError as error:
                record.faults[frame] = signature, str(error), time.monotonic()
                return [str(error)]
            self.shelf.keep(record, frame, signature, found)
            made = record.made[frame]
        if made.found.runs is None:
            return [f"Nothing was found at frame {frame}; click in the middle of the thing, or drag a box around it."]
        return []

    # -- for the exchange ---------------------------------------------------------------------------------------------------------

    def completed(self, owner: str, gesture: Mapping[str, Any], work: Work) -> object:
        """A gesture on masks that the document alone cannot follow, as one that it can; others come back as they are, checked
        against the clip. Raises ``UserError``."""
        kind = gesture.get("kind")
        if kind == "paint_mask":
            return self._painted(owner, doc.read_node(PaintMask, gesture, "gesture"), work)
        if kind == "refine_mask":
            return self._refined(owner, doc.read_node(RefineMask, gesture, "gesture"), work)
        if kind == "set_mask_file" and isinstance(gesture.get("path"), str):
            self._file_track(work, gesture["path"])
        if kind == "set_mask_edits" and isinstance(gesture.get("edits"), Mapping) and work.clip is not None:
            for edit in list(gesture["edits"].values())[: MAX_EDITED_FRAMES + 1]:
                try:
                    _ = edit is None or parse_coco_mask(edit, work.clip.hw)
                except ValueError as error:
                    raise UserError(f"A painted mask cannot be used: {error}.") from None
        return gesture

    def _painted(self, owner: str, wish: PaintMask, work: Work) -> Document:
        from pipeline.mask_tools import paint_stroke

        if work.clip is None:
            raise UserError("Add a video first.")
        clip = work.clip
        if wish.frame >= clip.num_frames:
            raise UserError(f"The clip has {clip.num_frames} frames, 0 to {clip.num_frames - 1}; there is none behind its end.")
        slot = self._slot(owner, work, wish.layer, wish.mask)
        before = None if slot is None else plain_mask(slot, wish.frame)
        before = np.zeros(clip.hw, bool) if before is None else before
        points = np.array(wish.points, np.float64) * [clip.width, clip.height]
        after = paint_stroke(before, points, wish.radius * clip.width, wish.erase)
        edits = {} if np.array_equal(before, after) else {str(wish.frame): coco_mask(encode_rle(after), clip.hw)}
        return {"kind": "set_mask_edits", "layer": wish.layer, "mask": wish.mask, "edits": edits}

    def _refined(self, owner: str, wish: RefineMask, work: Work) -> Document:
        """The masks of a range of frames that are changed by it."""
        from pipeline.mask_tools import fill_holes, remove_specks

        change = {"fill_holes": fill_holes, "remove_specks": remove_specks}[wish.how]
        slot = self._slot(owner, work, wish.layer, wish.mask)
        if slot is None:
            raise UserError("There is no mask yet; click on the thing first.")
        edits: Document = {}
        for frame in range(wish.frames[0], min(wish.frames[1], slot.clip.num_frames)):
            before = plain_mask(slot, frame)
            after = None if before is None else change(before)
            if before is None or after is None or np.array_equal(before, after):
                continue
            if len(edits) == MAX_EDITED_FRAMES:
                raise UserError(f"At most {MAX_EDITED_FRAMES} frames can be changed at once; narrow the range.")
            edits[str(frame)] = coco_mask(encode_rle(after), slot.clip.hw)
        return {"kind": "set_mask_edits", "layer": wish.layer, "mask": wish.mask, "edits": edits}

    def _file_track(self, work: Work, name: str) -> tuple[Any, Any]:
        """The file's identity, and its ``MaskTrack``; the last few are kept."""
        from pipeline.masks import read_mask_track

        if work.clip is None:
            raise UserError("Add a video first.")
        path = work.find_file(name)
        if path.suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            raise UserError(f"{path.name} is neither a picture nor a video; import a mask that is one.")
        state = path.stat()
        key = str(path), state.st_mtime_ns, state.st_size, work.clip.sha256
        with self._guard:
            found = self._files.get(key)
        if found is None:
            found = read_mask_track(path, work.clip)
            with self._guard:
                self._files[key] = found
                while len(self._files) > 4:
                    self._files.popitem(last=False)
        return key, found

    def _prepare(self, work: Work, frame: int) -> None:
        """Do what the first click on a frame would wait for, unless something else is being prepared."""
        if self._segmenters is None or work.frames is None or work.clip is None or frame >= work.clip.num_frames:
            return
        if self._preparing is not None and not self._preparing.done():
            return
        frames = work.frames

        def prepare() -> None:
            try:
                self._tracks_of(work).segmenter.prepare(frames, frame)
            except UserError:
                log.info("a frame could not be prepared for clicks")
            except Exception:
                log.exception("a frame could not be prepared for clicks")

        with contextlib.suppress(RuntimeError):  # the desk is closing
            self._preparing = self._early.submit(prepare)

    # -- files --------------------------------------------------------------------------------------------------------------------

    def export(self, raw: object, folder: Path) -> Path:
        """A mask as it is shown, for every frame of the clip, as a file in ``folder``. Raises ``UserError``."""
        from pipeline.mask_files import write_mask_file

        message = doc.read_node(ExportMessage, raw, "message")
        work = self._host.read(message.token)
        slot = self._slot(str(message.token), work, message.layer, message.mask)
        if slot is None or not read_states(slot)[0].any():
            raise UserError("There is no mask yet; click on the thing, then track it.")
        name = "target" if message.mask == "target" else f"in-front-{int(message.mask) + 1}"
        path = folder / f"mask-{name}{EXPORT_SUFFIXES[message.format]}"
        count = slot.clip.num_frames
        write_mask_file(path, slot.clip, (0, count), (shown_mask(slot, frame) for frame in range(count)))
        return path

    def take_in(self, token: object, name: str, source: Path) -> str:
        """Keep a mask's file for a visitor; returns the name it has there. Raises ``UserError`` when it is no mask for the clip."""
        work = self._host.read(token)
        if work.clip is None:
            raise UserError("Add a video first.")
        return self._host.keep_file(token, source, lambda path: self._check_new(work, path))

    def _check_new(self, work: Work, path: Path) -> None:
        from pipeline.masks import read_mask_track

        assert work.clip is not None
        if path.suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            raise UserError(f"{path.name} is neither a picture nor a video; import a mask that is one.")
        if not any(runs is not None for runs in read_mask_track(path, work.clip).runs):
            raise UserError(f"The mask {path.name} is empty; paint the area white on black.")

    # -- coming and going ---------------------------------------------------------------------------------------------------------

    def forget(self, owner: str) -> None:
        """Stop a visitor's track and drop what was made for them from memory."""
        self.jobs.forget(owner)
        self.shelf.forget(owner)

    def close(self) -> None:
        """Stop all tracks and end the threads."""
        self.jobs.close()
        for pool in (self._pool, self._slow, self._early):
            pool.shutdown(wait=False, cancel_futures=True)

    # -- HTTP ---------------------------------------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """``POST /masks``, ``/masks/hover``, ``/masks/export``, ``/masks/import``, relative to wherever they are mounted."""
        from starlette.routing import Route

        return [
            Route("/masks", self._serve, methods=["POST"]),
            Route("/masks/hover", self._serve_hover, methods=["POST"]),
            Route("/masks/export", self._serve_export, methods=["POST"]),
            Route("/masks/import", self._serve_import, methods=["POST"]),
        ]

    async def _serve(self, request: Request) -> Response:
        body = await _read_body(request, MAX_MESSAGE_BYTES)
        if body is None:
            return _told("That message is far larger than any is.", 413)
        return await self._done(self._pool, lambda: _json(self.answer(doc.decode_json(body, MAX_MESSAGE_BYTES))))

    async def _serve_hover(self, request: Request) -> Response:
        body = await _read_body(request, MAX_MESSAGE_BYTES)
        if body is None:
            return _told("That message is far larger than any is.", 413)
        return await self._done(self._pool, lambda: _json(self.hover(doc.decode_json(body, MAX_MESSAGE_BYTES))))

    async def _serve_export(self, request: Request) -> Response:
        body = await _read_body(request, MAX_MESSAGE_BYTES)
        if body is None:
            return _told("That message is far larger than any is.", 413)

        def make() -> Response:
            from starlette.background import BackgroundTask
            from starlette.responses import FileResponse

            folder = Path(tempfile.mkdtemp(prefix="mask-"))
            try:
                path = self.export(doc.decode_json(body, MAX_MESSAGE_BYTES), folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
            return FileResponse(path, filename=path.name, headers=_HEADERS, background=gone, media_type="application/octet-stream")

        return await self._done(self._slow, make)

    async def _serve_import(self, request: Request) -> Response:
        from ..storage import safe_name

        with tempfile.TemporaryDirectory(prefix="mask-") as name:
            try:
                path = Path(name) / safe_name(unquote(request.headers.get("x-file-name", ""))[:1000])
                token = request.headers.get("x-visitor", "")
                self._host.read(token)
            except UserError as error:
                return _told(str(error), 400)
            num_bytes = 0
            with path.open("wb") as file:
                async for chunk in request.stream():
                    num_bytes += len(chunk)
                    if num_bytes > self.max_import_bytes:
                        return _told(f"{path.name} is larger than {self.max_import_bytes >> 20} MB; choose a smaller file.", 413)
                    file.write(chunk)
            return await self._done(self._slow, lambda: _json({"path": self.take_in(token, path.name, path), "fault": None}))

    async def _done(self, pool: ThreadPoolExecutor, make: Callable[[], Response]) -> Response:
        """What ``make`` returns, made in a thread of ``pool``; what goes wrong, in one sentence."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, make)
        except UserError as error:
            return _told(str(error), 200)
        except RuntimeError as error:
            if "shutdown" not in str(error):
                log.exception("a message about masks failed")
            return _told(NEUTRAL, 200)
        except Exception:
            log.exception("a message about masks failed")
            return _told(NEUTRAL, 200)


# -- small things -----------------------------------------------------------------------------------------------------------------

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def _shown(mask: Array, clip: Clip, frame: int, version: int) -> Document:
    """A mask of the clip's size as it is shown: at most as large as the frames are, in COCO's run-length code."""
    from pipeline.mask_tools import resize_mask

    width, height = shown_size(clip.width, clip.height, FRAME_MAX_PX)
    counts = encode_coco_counts(encode_rle(resize_mask(mask, (height, width))))
    return {"frame": frame, "version": version, "size": [height, width], "counts": counts}


def _pack(array: Array, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


async def _read_body(request: Request, max_bytes: int) -> bytes | None:
    """The body of a request; None when it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            return None
    return bytes(body)


def _json(content: Document) -> Response:
    from starlette.responses import Response

    return Response(json.dumps(content, allow_nan=False), 200, _HEADERS, "application/json")


def _told(fault: str, status: int) -> Response:
    from starlette.responses import Response

    return Response(json.dumps({"fault": fault, "segmenter": None, "slots": [], "job": None}), status, _HEADERS, "application/json")
