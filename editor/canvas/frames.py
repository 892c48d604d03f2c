"""Frames and cut-outs for the canvas, over plain HTTP beside the page's own queue, so that scrubbing never waits behind a render.

A ``FrameDesk`` hands out a key for everything a visitor may see: 192 random bits, unlike the visitor's token, so that an address
that leaks gives away one clip's pictures and nothing else. ``GET <key>/<frame>.jpg`` is that frame, at most ``FRAME_MAX_PX``;
``<key>/t<frame>.jpg`` a small one for the filmstrip; ``<key>.png`` a cut-out. Anything else is 404.

Pictures are made in threads of the desk's own; a request whose browser has gone is dropped before it costs anything. When a clip is
opened, one thread walks through it once and fills the store of JPEG bytes, slowing down for whoever asks for a frame right now;
after that, every step costs one look into the store. Thumbnails wait for the walk, as jumping about in a clip is dear.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError
from pipeline.threads import start_thread
from pipeline.types import Array, Clip, Reference

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from pipeline.media import FrameStore

log = logging.getLogger(__name__)

FRAME_MAX_PX = (1280, 720)
"""Longest and shortest side of a frame that is sent; never enlarged."""

THUMB_MAX_PX = (192, 108)
CUTOUT_MAX_PX = 1024
GIVE_WAY_S = 0.01
"""How long the walk through a clip rests before its next frame while somebody waits for a picture."""

THUMB_WAIT_S = 20.0
"""How long a thumbnail waits for the walk to come by before it is decoded for itself."""

JPEG_QUALITY = 85
THUMB_QUALITY = 70

_FRAME_NAME = re.compile(r"(t?)(0|[1-9][0-9]{0,7})\.jpg")
_KEY = re.compile(r"[A-Za-z0-9_-]{32}")
_HEADERS = {
    "Cache-Control": "private, max-age=86400, immutable",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class ByteStore:
    """Bytes by key, at most ``max_bytes`` of them, the longest unused dropped first. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._guard = threading.Lock()
        self._entries: OrderedDict[Hashable, bytes] = OrderedDict()
        self._num_bytes = 0

    def find(self, key: Hashable) -> bytes | None:
        with self._guard:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: Hashable, data: bytes) -> None:
        with self._guard:
            self._num_bytes += len(data) - len(self._entries.pop(key, b""))
            self._entries[key] = data
            while self._num_bytes > self.max_bytes and len(self._entries) > 1:
                self._num_bytes -= len(self._entries.popitem(last=False)[1])

    def drop(self, wanted: Callable[[Hashable], bool]) -> None:
        """Forget every entry whose key is ``wanted``."""
        with self._guard:
            for key in [key for key in self._entries if wanted(key)]:
                self._num_bytes -= len(self._entries.pop(key))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes


@dataclass(eq=False, slots=True)
class _Showing:
    """What one key shows: a clip, or a finished picture (PNG bytes made once, on demand)."""

    owner: str
    identity: Hashable
    clip: Clip | None = None
    frames: FrameStore | None = None
    make_picture: Callable[[], bytes] | None = None
    is_closed: threading.Event = field(default_factory=threading.Event)
    is_walked: threading.Event = field(default_factory=threading.Event)


class FrameDesk:
    """Issues keys and serves what they stand for. One per process; thread-safe.

    ``max_bytes`` bounds the store of JPEG and PNG bytes, ``max_keys`` how many keys are valid at once (the longest unused go
    first).
    """

    def __init__(self, max_bytes: int = 256 << 20, max_keys: int = 512, num_threads: int = 2) -> None:
        self.store = ByteStore(max_bytes)
        self._max_keys = max_keys
        self._guard = threading.Lock()
        self._shown: OrderedDict[str, _Showing] = OrderedDict()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="canvas-frames")
        self._walk_turn = threading.Semaphore(1)
        self._num_waiting = 0

    # -- keys ---------------------------------------------------------------------------------------------------------------------

    def show_clip(self, owner: str, clip: Clip, frames: FrameStore) -> str:
        """The key under which ``owner`` (a visitor's token) sees a clip; the same one for as long as it is the same file."""
        identity = ("clip", str(clip.path), clip.sha256)
        key, is_new = self._issue(owner, identity, clip=clip, frames=frames)
        if is_new:
            start_thread(lambda: self._walk(key), "canvas-walk", self.close)
        return key

    def show_cutout(self, owner: str, identity: Hashable, reference: Reference) -> str:
        """The key under which ``owner`` sees a reference's cut-out; ``identity`` tells one cut-out from another."""
        alpha = reference.alpha
        return self._show_still(owner, ("cutout", identity), lambda: shrink_picture(np.dstack([reference.image, to_bytes(alpha)])))

    def show_picture(self, owner: str, identity: Hashable, image: Array) -> str:
        """The key under which ``owner`` sees a still picture u8[H,W,3], as large as cut-outs are shown."""
        return self._show_still(owner, ("picture", identity), lambda: shrink_picture(image))

    def _show_still(self, owner: str, identity: Hashable, shrink: Callable[[], Array]) -> str:
        """The key of a still picture; only its small copy is kept, since a large one weighs as much as a clip."""
        with self._guard:
            for key, showing in self._shown.items():
                if showing.owner == owner and showing.identity == identity:
                    self._shown.move_to_end(key)
                    return key
        small = shrink()
        return self._issue(owner, identity, make_picture=lambda: encode_png(small))[0]

    def forget(self, owner: str) -> None:
        """Withdraw every key of a visitor."""
        with self._guard:
            gone = [key for key, showing in self._shown.items() if showing.owner == owner]
            for key in gone:
                self._shown.pop(key).is_closed.set()
        for key in gone:
            self._drop_bytes(key)

    def close(self) -> None:
        """Withdraw all keys and end the threads."""
        with self._guard:
            for showing in self._shown.values():
                showing.is_closed.set()
            self._shown.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _issue(
        self,
        owner: str,
        identity: Hashable,
        clip: Clip | None = None,
        frames: FrameStore | None = None,
        make_picture: Callable[[], bytes] | None = None,
    ) -> tuple[str, bool]:
        with self._guard:
            for key, showing in self._shown.items():
                if showing.owner == owner and showing.identity == identity:
                    self._shown.move_to_end(key)
                    showing.frames = frames or showing.frames
                    return key, False
            key = secrets.token_urlsafe(24)
            self._shown[key] = _Showing(owner, identity, clip, frames, make_picture)
            surplus = [self._shown.popitem(last=False) for _ in range(len(self._shown) - self._max_keys)]
        for old, showing in surplus:
            showing.is_closed.set()
            self._drop_bytes(old)
        return key, True

    def _drop_bytes(self, key: str) -> None:
        self.store.drop(lambda entry: isinstance(entry, tuple) and entry[0] == key)

    def _find(self, key: str) -> _Showing | None:
        with self._guard:
            showing = self._shown.get(key)
            if showing is not None:
                self._shown.move_to_end(key)
            return showing

    # -- pictures -----------------------------------------------------------------------------------------------------------------

    def frame_jpeg(self, key: str, frame_index: int, is_thumb: bool = False) -> bytes | None:
        """JPEG bytes of a frame, None for a key or a frame that does not exist. Raises ``UserError`` when it cannot be decoded."""
        showing = self._find(key)
        if showing is None or showing.clip is None or showing.frames is None or frame_index >= showing.clip.num_frames:
            return None
        found = self.store.find((key, is_thumb, frame_index))
        if found is None:
            found = self._encode(key, showing.frames.frame(frame_index).image, frame_index, is_thumb)
        return found

    def picture_png(self, key: str) -> bytes | None:
        """PNG bytes of a cut-out, None for a key that shows none."""
        showing = self._find(key)
        if showing is None or showing.make_picture is None:
            return None
        found = self.store.find((key,))
        if found is None:
            found = showing.make_picture()
            self.store.put((key,), found)
        return found

    def _encode(self, key: str, image: Array, frame_index: int, is_thumb: bool) -> bytes:
        data = encode_jpeg(image, THUMB_MAX_PX, THUMB_QUALITY) if is_thumb else encode_jpeg(image, FRAME_MAX_PX, JPEG_QUALITY)
        self.store.put((key, is_thumb, frame_index), data)
        return data

    def _walk(self, key: str) -> None:
        """Fill the store with a clip's frames, once, in order; give way to direct requests, stop at half of the store."""
        from pipeline.media import read_frames

        with self._walk_turn:
            with self._guard:
                showing = self._shown.get(key)  # not a use: nobody looks at it
            if showing is None or showing.clip is None:
                return
            spent = 0
            reading = read_frames(showing.clip)
            try:
                for frame in reading:
                    if self._num_waiting > 0:
                        showing.is_closed.wait(GIVE_WAY_S)
                    if showing.is_closed.is_set() or spent > self.store.max_bytes // 2:
                        return
                    for is_thumb in (False, True):
                        if self.store.find((key, is_thumb, frame.frame_index)) is None:
                            spent += len(self._encode(key, frame.image, frame.frame_index, is_thumb))
            except UserError:
                log.info("a clip cannot be read to its end; its last frames are decoded when asked for")
            finally:
                showing.is_walked.set()
                with contextlib.suppress(AttributeError):
                    reading.close()  # type: ignore[attr-defined]

    # -- HTTP ---------------------------------------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """Starlette routes, relative to wherever they are mounted."""
        from starlette.routing import Route

        return [
            Route("/{key}/{name}", self._serve_frame, methods=["GET"]),
            Route("/{key}.png", self._serve_picture, methods=["GET"]),
        ]

    async def _serve_frame(self, request: Request) -> Response:
        key, name = request.path_params["key"], _FRAME_NAME.fullmatch(request.path_params["name"])
        if _KEY.fullmatch(key) is None or name is None:
            return _missing()
        is_thumb, frame_index = bool(name[1]), int(name[2])
        entry = key, is_thumb, frame_index
        found = self.store.find(entry) if (showing := self._find(key)) else None
        if found is None and is_thumb and showing is not None and showing.clip is not None:
            found = await self._walked(request, showing, entry)
        if found is not None:
            return _picture(found, "image/jpeg")
        return await self._made(request, lambda: self.frame_jpeg(key, frame_index, is_thumb), "image/jpeg")

    async def _walked(self, request: Request, showing: _Showing, entry: Hashable) -> bytes | None:
        """What the walk has left in the store, once it has; None when it does not come by in time."""
        for _ in range(round(THUMB_WAIT_S / 0.1)):
            if showing.is_walked.is_set() or showing.is_closed.is_set() or await request.is_disconnected():
                break
            await asyncio.sleep(0.1)
            if (found := self.store.find(entry)) is not None:
                return found
        return self.store.find(entry)

    async def _serve_picture(self, request: Request) -> Response:
        key = request.path_params["key"]
        if _KEY.fullmatch(key) is None:
            return _missing()
        return await self._made(request, lambda: self.picture_png(key), "image/png")

    async def _made(self, request: Request, make: Callable[[], bytes | None], media_type: str) -> Response:
        """What ``make`` returns, made in a thread of the desk unless the browser has gone before its turn comes."""
        self._num_waiting += 1  # only the event loop changes it
        try:
            job = asyncio.wrap_future(self._pool.submit(make))
            while not (await asyncio.wait({job}, timeout=0.05))[0]:
                if await request.is_disconnected() and job.cancel():
                    return _missing()
            data = None if job.cancelled() else job.result()
        except (UserError, RuntimeError):  # it cannot be decoded, or the desk is closing
            data = None
        finally:
            self._num_waiting -= 1
        return _missing() if data is None else _picture(data, media_type)


def _picture(data: bytes, media_type: str) -> Response:
    from starlette.responses import Response

    return Response(data, media_type=media_type, headers=_HEADERS)


def _missing() -> Response:
    from starlette.responses import Response

    return Response(
        "There is no such picture.", 404, {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}, "text/plain"
    )


def shown_size(width: int, height: int, max_px: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture once its longer and shorter side fit ``max_px``; never larger than it was."""
    scale = min(1.0, max_px[0] / max(width, height), max_px[1] / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_jpeg(image: Array, max_px: tuple[int, int], quality: int) -> bytes:
    """``image`` u8[H,W,3] as JPEG, made smaller to fit ``max_px`` (longer, shorter side)."""
    from PIL import Image

    picture = Image.fromarray(image)
    size = shown_size(picture.width, picture.height, max_px)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def to_bytes(alpha: Array) -> Array:
    """Alpha f32[H,W] in 0..1 as u8."""
    return np.round(alpha * 255).astype(np.uint8)


def shrink_picture(image: Array) -> Array:
    """A picture u8[H,W,3], or [H,W,4] with straight alpha, its longer side at most ``CUTOUT_MAX_PX``."""
    from PIL import Image

    picture = Image.fromarray(image)
    size = shown_size(picture.width, picture.height, (CUTOUT_MAX_PX, CUTOUT_MAX_PX))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(picture)


def encode_png(image: Array) -> bytes:
    """A picture u8[H,W,3] or [H,W,4] as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def encode_cutout(reference: Reference) -> bytes:
    """A cut-out as PNG with straight alpha, its longer side at most ``CUTOUT_MAX_PX``."""
    return encode_png(shrink_picture(np.dstack([reference.image, to_bytes(reference.alpha)])))
