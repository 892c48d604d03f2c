"""Frames of a checked clip: one after the other with a decoder that runs ahead, or any of them through a bounded store."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from ..errors import UserError
from ..types import Array, Clip, DecodedFrame
from . import pixels
from .container import choose_video, open_input

AHEAD = 4
"""Frames that are decoded ahead of the one in use."""

LEADING = 16
"""Pictures that may come before the key frame that was sought: they are shown before it, but made up from earlier ones."""

NEAR = 48
"""``FrameStore`` steps its open decoder forward up to this many frames rather than seeking."""


def read_frames(clip: Clip, start: int = 0, stop: int | None = None) -> Iterator[DecodedFrame]:
    """The frames ``start`` to ``stop`` (half-open, default: to the end) in order, decoded ahead in a thread.

    Frame-accurate: the frame at ``start`` is verified by its timestamp. Closing the generator stops the thread and the decoder.
    Raises ``UserError`` that names the last good frame when a frame cannot be decoded, ``ValueError`` for an impossible range.
    """
    stop = clip.num_frames if stop is None else stop
    if not 0 <= start <= stop <= clip.num_frames:
        raise ValueError(f"expected 0 <= start <= stop <= {clip.num_frames}, got {start} and {stop}")
    return _read_ahead(clip, start, stop)


def _read_ahead(clip: Clip, start: int, stop: int) -> Iterator[DecodedFrame]:
    ready: queue.Queue[DecodedFrame | BaseException | None] = queue.Queue(AHEAD)
    is_closed = threading.Event()

    def put(item: DecodedFrame | BaseException | None) -> bool:
        while not is_closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def decode() -> None:
        try:
            with ClipDecoder(clip, start) as decoder:
                for _ in range(start, stop):
                    if not put(decoder.next_frame()):
                        return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the reading thread
            put(error)

    thread = threading.Thread(target=decode, name="decode", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_closed.set()
        thread.join()


class ClipDecoder:
    """An open decoder of a clip that stands before frame ``next_index``. Not thread-safe; a context manager."""

    def __init__(self, clip: Clip, start: int = 0) -> None:
        self.clip = clip
        self.layout = pixels.clip_layout(clip)
        self.colors = pixels.clip_colors(clip)
        self.next_index = start
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._pending: Any = None
        self._position = 0
        try:
            self._stand_before(start)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ClipDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the decoder and the file."""
        self._frames, self._pending = iter(()), None
        if self._container is not None:
            self._container.close()
            self._container = None

    def next_frame(self) -> DecodedFrame:
        """The frame at ``next_index``, which is then one further. Raises ``UserError`` when it cannot be decoded."""
        index = self.next_index
        if index >= self.clip.num_frames:
            raise ValueError(f"the clip has {self.clip.num_frames} frames, asked for frame {index}")
        frame = self._advance_to(index)
        self.next_index = index + 1
        planes = self._planes(frame, index)
        to_rgb = partial(pixels.region_to_rgb, planes, self.layout, self.colors)
        return DecodedFrame(index, int(self.clip.timestamps[index]), self.clip.hw, planes, to_rgb)

    def _planes(self, frame: Any, index: int) -> tuple[Array, ...]:
        try:
            frame, name = pixels.planar_frame(frame)
        except (pixels.TransparentFrameError, pixels.UnsupportedFormatError):
            raise self._fault(index, "becomes transparent or changes its pixel format") from None
        planes = pixels.frame_planes(frame, name, self.clip.rotation_deg)
        if name != self.clip.pixel_format or planes[0].shape != self.clip.hw:
            raise self._fault(index, "changes its size or pixel format")
        return planes

    def skip_to(self, index: int) -> None:
        """Move on to frame ``index`` without converting the frames between."""
        while self.next_index < index:
            self._advance_to(self.next_index)
            self.next_index += 1

    def _open(self) -> None:
        from av.stream import Discard

        self.close()
        limit = max(self.clip.width * self.clip.height * 2, 1 << 20)  # coded sizes are padded
        self._container = open_input(self.clip.path, limit)
        self._stream = choose_video(self._container, self.clip.path.name)
        self._stream.thread_type = "AUTO"
        for stream in self._container.streams:
            if stream.index != self._stream.index:
                stream.discard = Discard.all
        self._has_times = self._container.format.name != "avi"  # AVI stores no presentation times
        self._position = 0

    def _stand_before(self, start: int) -> None:
        """Open the file, at the key frame before ``start`` where timestamps allow it, else at the beginning."""
        self._open()
        wanted = int(self.clip.timestamps[start]) if start < self.clip.num_frames else None
        if start and wanted is not None and self._has_times and self._seek(wanted):
            return
        if start:
            self._open()
        self._frames = self._container.decode(self._stream)

    def _seek(self, wanted: int) -> bool:
        """Stand at a key frame that is shown at or before ``wanted``; look further back when the first one is not."""
        import av

        one_second = max(1, round(1 / self.clip.time_base))
        for back in (0, one_second, 4 * one_second, 16 * one_second):
            if wanted - back <= self.clip.timestamps[0]:
                return False
            try:
                self._container.seek(wanted - back, stream=self._stream, backward=True)
                self._frames = self._container.decode(self._stream)
                first = next((each for each in islice(self._frames, LEADING) if each.key_frame), None)
            except av.FFmpegError:
                return False
            # a file may call a picture a key frame that is made up from earlier ones: the decoder calls it corrupt then
            if first is not None and not first.is_corrupt and first.pts is not None and first.pts <= wanted:
                position = int(np.searchsorted(self.clip.timestamps, first.pts))
                if self.clip.timestamps[position] == first.pts:
                    self._pending, self._position = first, position
                    return True
        return False

    def _advance_to(self, index: int) -> Any:
        """Decode up to frame ``index`` and answer its ``av.VideoFrame``."""
        import av

        while True:
            try:
                frame = self._pending if self._pending is not None else next(self._frames)
            except (av.FFmpegError, StopIteration, MemoryError):
                raise self._fault(self._position, "cannot be decoded") from None
            self._pending = None
            expected = int(self.clip.timestamps[self._position])
            if frame.is_corrupt or (self._has_times and frame.pts != expected):
                raise self._fault(self._position, "cannot be decoded")
            self._position += 1
            if self._position > index:
                return frame

    def _fault(self, index: int, what: str) -> UserError:
        name = self.clip.path.name
        if index == 0:
            return UserError(f"{name} {what} at its first frame; choose another file.")
        return UserError(
            f"{name} {what} after frame {index - 1}, the last good one; set a range that ends there or repair the file."
        )


class FrameStore:
    """Random access to a clip's frames through a least-recently-used store of at most ``max_bytes`` of samples. Thread-safe.

    It keeps one decoder open: stepping forward decodes one frame, stepping backward decodes once from the key frame before and
    keeps what lies between as far as the store holds it.
    """

    def __init__(self, clip: Clip, max_bytes: int = 256 << 20) -> None:
        self.clip = clip
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._frames: OrderedDict[int, DecodedFrame] = OrderedDict()
        self._num_bytes = 0
        self._decoder: ClipDecoder | None = None

    def frame(self, frame_index: int) -> DecodedFrame:
        """One frame. Raises ``UserError`` if it cannot be decoded, ``IndexError`` outside the clip."""
        if not 0 <= frame_index < self.clip.num_frames:
            raise IndexError(f"the clip has {self.clip.num_frames} frames, asked for frame {frame_index}")
        with self._lock:
            found = self._frames.get(frame_index)
            if found is not None:
                self._frames.move_to_end(frame_index)
                return found
            try:
                return self._decode(frame_index)
            except BaseException:
                self._drop_decoder()
                raise

    def close(self) -> None:
        """Release the decoder and every stored frame; the store may be used again afterwards."""
        with self._lock:
            self._drop_decoder()
            self._frames.clear()
            self._num_bytes = 0

    def _drop_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _decode(self, frame_index: int) -> DecodedFrame:
        decoder = self._decoder
        if decoder is None or not decoder.next_index <= frame_index <= decoder.next_index + NEAR:
            self._drop_decoder()
            behind = self._window(frame_index)
            decoder = self._decoder = ClipDecoder(self.clip, behind)
        decoder.skip_to(max(decoder.next_index, self._window(frame_index)))
        while True:
            frame = decoder.next_frame()
            self._keep(frame)
            if frame.frame_index == frame_index:
                return frame

    def _window(self, frame_index: int) -> int:
        """The first of the frames up to ``frame_index`` that are worth keeping: at most a quarter of the store, at most 24."""
        per_frame = self.clip.width * self.clip.height * 2
        return max(0, frame_index - min(24, self.max_bytes // (4 * per_frame)))

    def _keep(self, frame: DecodedFrame) -> None:
        old = self._frames.pop(frame.frame_index, None)
        self._frames[frame.frame_index] = frame
        self._num_bytes += _num_bytes(frame) - (_num_bytes(old) if old is not None else 0)
        while self._num_bytes > self.max_bytes and len(self._frames) > 1:
            _, dropped = self._frames.popitem(last=False)
            self._num_bytes -= _num_bytes(dropped)


def _num_bytes(frame: DecodedFrame) -> int:
    return sum(plane.nbytes for plane in frame.planes)
