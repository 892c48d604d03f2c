"""Results: the clip with its touched samples replaced, as H.264 or lossless, and the object's layer with alpha as ProRes 4444.

A file appears under its name only when it is whole; until then it is a hidden neighbour that is removed on any error.
"""

from __future__ import annotations

import contextlib
import errno
import math
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from ..errors import UserError
from ..types import Array, Clip, ColorTags, Frame
from . import pixels
from .audio import AudioTracks

QUEUE_LENGTH = 6
"""Frames that may wait for the encoder."""

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}

CV_CPU_AVX_512F = 13
"""OpenCV's number of this processor feature; its Python package does not name it."""

BLEED_PX = 16
"""How far the colours of a layer are continued into what is transparent: one macroblock of ProRes."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Writer:
    """One output file and the thread that encodes into it. Subclasses add the streams and turn a ``Frame`` into packets."""

    def __init__(self, path: Path | str, clip: Clip, frame_range: tuple[int, int], metadata: Mapping[str, str] | None) -> None:
        start, stop = frame_range
        if not 0 <= start < stop <= clip.num_frames:
            raise ValueError(f"frame_range must lie in 0..{clip.num_frames} and not be empty, got {frame_range}")
        self.path = Path(path)
        if self.path.resolve() == clip.path.resolve():
            raise UserError(f"{self.path.name} is the clip itself; choose another name for the result.")
        self.clip = clip
        self.frame_range = frame_range
        self.notes: list[str] = []
        self._metadata = dict(metadata or {})
        self._format = CONTAINERS.get(self.path.suffix.lower(), "")
        self._temporary = self.path.with_name(f".{self.path.stem[:100]}.{secrets.token_hex(6)}.part")
        self._output: Any = None
        self._stream: Any = None
        self._next_index = start
        self._first_dts: int | None = None
        self._waiting: queue.Queue[Frame | None] = queue.Queue(QUEUE_LENGTH)
        self._is_stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
        self._times, self._durations, self._time_base = output_times(clip)
        self._offset = int(self._times[start]) if start else min(0, int(self._times[0]))

    # what subclasses fill in

    def _open_streams(self) -> None:
        raise NotImplementedError

    def _encode(self, frame: Frame) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        for packet in self._flush():
            self._output.mux(packet)

    def _release(self) -> None:
        """Release what was opened beside the output."""

    # the public face

    def __enter__(self) -> Self:
        import av

        try:
            self._temporary.touch(exist_ok=False)
            options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
            if self._format in ("mp4", "mov"):
                options["movflags"] = "+faststart+use_metadata_tags"
            self._output = av.open(str(self._temporary), "w", format=self._format, container_options=options)
            self._output.metadata.update(self._metadata)
            self._open_streams()
        except BaseException as error:  # noqa: BLE001 - raised again below
            self._discard()
            self._raise(error)
        self._thread.start()
        return self

    def write(self, frame: Frame) -> None:
        """Hand over the next frame of the range; waits while the encoder is behind. Raises what went wrong there, as ``UserError``
        where the disk or the folder is at fault; ``ValueError`` for a frame out of order."""
        if frame.frame_index != self._next_index or frame.frame_index >= self.frame_range[1]:
            raise ValueError(f"expected frame {self._next_index} of the range {self.frame_range}, got {frame.frame_index}")
        self._next_index += 1
        self._put(frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is not None:
                return
            if self._next_index != self.frame_range[1]:
                raise ValueError(f"expected all frames of the range {self.frame_range}, the last one was {self._next_index - 1}")
            self._put(None)
            self._thread.join()
            if self._error is not None:
                self._raise(self._error)
            self._complete()
        finally:
            self._discard()

    # the machinery

    def _put(self, frame: Frame | None) -> None:
        while self._error is None:
            try:
                self._waiting.put(frame, timeout=0.1)
            except queue.Full:
                continue
            return
        self._raise(self._error)

    def _work(self) -> None:
        try:
            while not self._is_stopped.is_set():
                try:
                    frame = self._waiting.get(timeout=0.1)
                except queue.Empty:
                    continue
                if frame is None:
                    self._finish()
                    return
                self._encode(frame)
        except BaseException as error:  # noqa: BLE001 - raised again in the writing thread
            self._error = error

    def _complete(self) -> None:
        """Close the file and give it its name."""
        output, self._output = self._output, None
        try:
            output.close()
            self._temporary.replace(self.path)
        except OSError as error:
            self._raise(error)

    def _discard(self) -> None:
        """Stop the thread, close everything, remove the unfinished file."""
        self._is_stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._temporary.unlink(missing_ok=True)
        if self._output is not None:
            with contextlib.suppress(Exception):  # the unfinished file is gone, nothing can be lost
                self._output.close()
            self._output = None
        self._release()

    def _raise(self, error: BaseException) -> NoReturn:
        """Raise ``UserError`` for faults of disk and folder, the error itself otherwise."""
        sentence = self._sentence(error)
        if sentence:
            raise UserError(sentence) from error
        raise error

    def _sentence(self, error: BaseException) -> str | None:
        name = self.path.name
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return f"{name} could not be written because the disk is full; free some space and render again."
        if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
            return f"{name} could not be written: its folder does not allow it; choose another place."
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"{name} could not be written because its folder does not exist; create it first."
        if isinstance(error, IsADirectoryError):
            return f"{name} is a folder; choose a file name for the result."
        return None

    def _add_video(self, codec: str, pixel_format: str, hw: tuple[int, int], colors: ColorTags, options: dict[str, str]) -> Any:
        stream = self._output.add_stream(codec, rate=self.clip.fps, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = hw[1], hw[0], pixel_format
        context.time_base = self._time_base
        context.bit_rate = 0
        context.thread_type = "AUTO"
        context.colorspace, context.color_range = colors.matrix, colors.range
        context.color_primaries, context.color_trc = colors.primaries, colors.transfer
        return stream

    def _flush(self) -> list[Any]:
        """The encoder's last packets. MP4 adds up lengths in decoding order, so the very last one makes up for B-frames."""
        packets = list(self._packets(None))
        if packets:
            start, stop = self.frame_range
            total = int(self._times[stop - 1] - self._times[start] + self._durations[stop - 1])
            rest = total - (packets[-1].dts - self._first_dts)
            packets[-1].duration = rest if rest > 0 else packets[-1].duration
        return packets

    def _packets(self, picture: Any) -> Iterator[Any]:
        """Encode a picture, or flush with ``None``; packets carry the length of their own frame."""
        for packet in self._stream.encode(picture):
            index = int(np.searchsorted(self._times, packet.pts + self._offset))
            packet.duration = int(self._durations[index])
            self._first_dts = packet.dts if self._first_dts is None else self._first_dts
            yield packet

    def _stamp(self, picture: Any, frame_index: int, colors: ColorTags) -> Any:
        """Give an ``av.VideoFrame`` its time and colour tags."""
        picture.pts, picture.time_base = int(self._times[frame_index]) - self._offset, self._time_base
        picture.colorspace, picture.color_range = colors.matrix, colors.range
        picture.color_primaries, picture.color_trc = colors.primaries, colors.transfer
        return picture


class VideoWriter(_Writer):
    """The clip with the touched pixels of each frame replaced, with all its sound. A context manager.

    ``.mp4`` (``.m4v``, ``.mov``, ``.mkv``): H.264, crf 18, preset medium, yuv420p of even size, tagged BT.709 at HD and BT.601 or
    the clip's own below. ``lossless``: FFV1 in ``.mkv``, the clip's own samples, format and size. Source timestamps are written
    back; a range that does not start at frame 0 starts at time 0. ``metadata`` (lower-case keys) goes into the container.
    ``notes`` says in whole sentences what had to change. Raises ``UserError`` for a wrong suffix, a full disk, a folder that
    cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        clip: Clip,
        frame_range: tuple[int, int],
        lossless: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(path, clip, frame_range, metadata)
        if lossless and self._format != "matroska":
            raise UserError(f"{self.path.name} cannot hold a lossless result; give it a name that ends in .mkv.")
        if not self._format:
            raise UserError(f"{self.path.name} has an unknown ending; give the result a name that ends in .mp4 or .mkv.")
        self._is_lossless = lossless
        self._layout = pixels.clip_layout(clip)
        self._colors = pixels.clip_colors(clip)
        self._target = self._colors if lossless else mp4_colors(self._colors, clip.height)
        self._audio: AudioTracks | None = None

    def _open_streams(self) -> None:
        height, width = self.clip.hw
        if self._is_lossless:
            name = "bgr0" if self._layout.name == "gbrp" else self._layout.name
            options = {"level": "3", "slices": str(ffv1_slices(height, width)), "slicecrc": "1", "g": "1"}
            self._stream = self._add_video("ffv1", name, (height, width), self._target, options)
        else:
            even = (height + height % 2, width + width % 2)
            if even != (height, width):
                self.notes.append(f"The picture is {width}x{height}; its edge is repeated to {even[1]}x{even[0]}, as H.264 needs.")
            self._stream = self._add_video("libx264", "yuv420p", even, self._target, x264_options())
        start, stop = self.frame_range
        start_s = int(self._times[start]) * self._time_base if start else None
        stop_s = int(self._times[stop]) * self._time_base if stop < self.clip.num_frames else None
        self._audio = AudioTracks(self.clip, self._output, self._format, (start_s, stop_s), self._offset * self._time_base)
        self.notes += self._audio.notes

    def _encode(self, frame: Frame) -> None:
        assert self._audio is not None
        touched = (frame.patch, frame.touched_patch, frame.x0, frame.y0)
        planes = pixels.write_back(frame.source.planes, self._layout, self._colors, *touched)
        picture = self._lossless_picture(planes) if self._is_lossless else self._h264_picture(planes)
        for packet in self._packets(self._stamp(picture, frame.frame_index, self._target)):
            self._audio.mux_until(Fraction(packet.dts) * packet.time_base)
            self._output.mux(packet)

    def _finish(self) -> None:
        assert self._audio is not None
        for packet in self._flush():
            self._audio.mux_until(Fraction(packet.dts) * packet.time_base)
            self._output.mux(packet)
        self._audio.mux_until(None)

    def _release(self) -> None:
        if self._audio is not None:
            self._audio.close()

    def _lossless_picture(self, planes: tuple[Array, ...]) -> Any:
        picture = pixels.video_frame(planes, self._layout.name, self.clip.hw)
        return picture.reformat(format="bgr0") if self._layout.name == "gbrp" else picture

    def _h264_picture(self, planes: tuple[Array, ...]) -> Any:
        """yuv420p of even size: the very samples where they already mean the same, else converted by explicit matrix and range."""
        height, width = self.clip.hw
        have, want = self._colors, self._target
        if self._layout.family == "yuv" and (have.matrix, have.range) != (want.matrix, want.range):
            planes, have = pixels.recode(planes, self._layout, have, want), want
        padded = tuple(_pad_to_even(plane, height, width) for plane in planes)
        picture = pixels.video_frame(padded, self._layout.name, (height + height % 2, width + width % 2))
        if self._layout.name == "yuv420p":
            return picture
        from av.video.reformatter import Interpolation

        return picture.reformat(
            format="yuv420p",
            src_colorspace=have.matrix if self._layout.family == "yuv" else want.matrix,
            dst_colorspace=want.matrix,
            src_color_range=have.range,
            dst_color_range=want.range,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        )


class LayerWriter(_Writer):
    """``Frame.layer`` as ProRes 4444 with straight alpha in ``.mov``, at the clip's size and timestamps, without sound."""

    def __init__(self, path: Path | str, clip: Clip, frame_range: tuple[int, int]) -> None:
        super().__init__(path, clip, frame_range, None)
        if self._format != "mov":
            raise UserError(f"{self.path.name} cannot hold a layer with alpha; give it a name that ends in .mov.")
        self._colors = ColorTags(1, 1, 1, 1)
        self._layout = pixels.upright_layout("yuv444p10le")

    def _open_streams(self) -> None:
        options = {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
        self._stream = self._add_video("prores_ks", "yuva444p10le", self.clip.hw, self._colors, options)

    def _encode(self, frame: Frame) -> None:
        planes = layer_planes(frame.layer, self._layout, self._colors)
        picture = pixels.video_frame(planes, "yuva444p10le", self.clip.hw)
        for packet in self._packets(self._stamp(picture, frame.frame_index, self._colors)):
            self._output.mux(packet)


def x264_options() -> dict[str, str]:
    """Preset and quality. x264's AVX-512 code reads memory that it has not written, so that equal input gives unequal files (seen
    with x264 165 on small pictures); where the processor has AVX-512 it is held to AVX2, which costs no measurable speed."""
    import cv2

    options = {"preset": "medium", "crf": "18"}
    if cv2.checkHardwareSupport(CV_CPU_AVX_512F):
        options["x264-params"] = "asm=AVX2,FMA3,BMI2,LZCNT"
    return options


def output_times(clip: Clip) -> tuple[Array, Array, Fraction]:
    """When each frame of the clip is shown in a result and for how long, i64[num_frames] each, and the unit of both.

    They are the clip's own, with one exception: containers that count in whole milliseconds round a steady rate, and then the exact
    multiples of its frame length are written, so that the result has the clip's rate and not a trembling one. The last frame lasts
    as long as the average rate needs.
    """
    times, time_base, frame_s = clip.timestamps, clip.time_base, 1 / clip.fps
    exact = [(int(times[0]) * time_base + index * frame_s) / time_base for index in range(clip.num_frames)]
    is_rounded = time_base.numerator == 1 and (frame_s / time_base).denominator != 1 and clip.fps.denominator in (1, 1001)
    if is_rounded and all(abs(have - want) <= 1 for have, want in zip(times.tolist(), exact, strict=True)):
        unit = Fraction(1, math.lcm(clip.fps.numerator, time_base.denominator))
        if unit.denominator <= 10_000_000:
            times, time_base = np.array([int(want * time_base / unit) for want in exact], np.int64), unit
    last = round(clip.num_frames * frame_s / time_base) - int(times[-1] - times[0])
    one = max(1, round(frame_s / time_base))
    return times, np.append(np.diff(times), last if 0 < last < 10 * one else one), time_base


def ffv1_slices(height: int, width: int) -> int:
    """Into how many slices FFV1 cuts a picture: 4, or for odd sizes the next number whose cuts it accepts."""

    def fits(size: int, count: int) -> bool:
        return not (size % 2 and (size - size * (count - 1) // count) % 2 == 0)

    for rows, cols in ((2, 2), (2, 3), (3, 3), (3, 4), (4, 4)):
        if fits(height, rows) and fits(width, cols):
            return rows * cols
    return 1


def mp4_colors(source: ColorTags, height: int) -> ColorTags:
    """The tags of an H.264 result: BT.709 from 720 lines on; below, the clip's own BT.601 or BT.709; always limited range.

    Primaries and transfer are not converted, so they stay as the clip says them; those of an RGB clip follow the matrix.
    """
    if height >= pixels.HD_HEIGHT_PX or source.matrix == 1:
        matrix = 1
    else:
        matrix = source.matrix if source.matrix in (5, 6) else 6
    primaries = source.primaries
    transfer = source.transfer if source.matrix else matrix
    return ColorTags(matrix, primaries, transfer, 1)


def layer_planes(layer: Array, layout: pixels.Layout, colors: ColorTags) -> tuple[Array, ...]:
    """Y, Cb, Cr (as ``layout`` says) and alpha, all u16 of 10 bits, of a straight RGBA picture u8[H,W,4]."""
    import cv2

    height, width = layer.shape[:2]
    matrix = pixels.encode_matrix(colors.matrix, colors.range == 2, layout.depth)
    planes = [np.full((height, width), round(value), np.uint16) for value in (*matrix[:, 3], 0)]
    rows = np.flatnonzero(layer[..., 3].any(axis=1))
    if not len(rows):
        return tuple(planes)
    cols = np.flatnonzero(layer[rows[0] : rows[-1] + 1, :, 3].any(axis=0))
    top, left = max(0, rows[0] - BLEED_PX), max(0, cols[0] - BLEED_PX)
    box = np.s_[top : rows[-1] + 1 + BLEED_PX, left : cols[-1] + 1 + BLEED_PX]
    samples = cv2.transform(_bleed(layer[box]), matrix.astype(np.float32))
    for index in range(3):
        planes[index][box] = np.rint(samples[..., index]).astype(np.uint16)
    planes[3][box] = np.rint(layer[box][..., 3] * np.float32(layout.maximum / 255)).astype(np.uint16)
    return tuple(planes)


def _bleed(layer: Array) -> Array:
    """f32[h,w,3]: the layer's colours, continued around it where alpha is 0, so that compression draws no dark rim into it."""
    import cv2

    alpha = layer[..., 3].astype(np.float32) / 255
    rgb = layer[..., :3].astype(np.float32)
    size = (2 * BLEED_PX + 1, 2 * BLEED_PX + 1)
    weight = cv2.blur(alpha, size, borderType=cv2.BORDER_CONSTANT)[..., None]
    around = cv2.blur(rgb * alpha[..., None], size, borderType=cv2.BORDER_CONSTANT) / np.maximum(weight, 1e-6)
    return np.where((alpha == 0)[..., None], np.clip(around, 0, 255), rgb).astype(np.float32)


def _pad_to_even(plane: Array, height: int, width: int) -> Array:
    """Repeat the last row or column of a plane that has the picture's own odd size; halved chroma planes already fit."""
    bottom = height % 2 if plane.shape[0] == height else 0
    right = width % 2 if plane.shape[1] == width else 0
    return np.pad(plane, ((0, bottom), (0, right)), mode="edge") if bottom or right else plane
