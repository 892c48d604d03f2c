"""The child process of ``probe_clip``: limits itself, looks at one file, prints one line of JSON.

Frames are counted from the container's packets where one packet is one shown frame, and by decoding everything where it need not
be (AVI, GIF, VP8, missing or repeated timestamps).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    """``arguments``: the path, and the limits as JSON."""
    limits = json.loads(arguments[1])
    limit_process(limits)
    from ..errors import UserError

    path = Path(arguments[0])
    try:
        answer = describe(path, limits)
    except UserError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"{path.name} needs more memory to decode than is allowed; shrink it first."}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()


def limit_process(limits: dict[str, Any]) -> None:
    """Little memory, little time, no writing, no core file."""
    try:
        import resource
    except ImportError:  # a system without resource limits; the wall clock still runs
        return
    bounds = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        with contextlib.suppress(ValueError, OSError):  # a system that does not know this limit
            resource.setrlimit(kind, (int(bound), int(bound)))


def describe(path: Path, limits: dict[str, Any]) -> dict[str, Any]:
    """Everything that a ``Clip`` holds but its hash, as plain JSON values. Raises ``UserError``."""
    import av

    from .container import choose_video, open_input

    av.logging.set_level(None)
    with open_input(path, limits["max_pixels"]) as container:
        stream = choose_video(container, path.name)
        check_stream(stream, path.name, limits)
        survey = Survey(container, stream, path.name, limits)
        survey.read()
        first = survey.first_frame
        if first is None:
            raise _fault(path.name, "holds no frame that can be decoded", "choose another file")
        picture = describe_picture(first, stream, path.name)
        times, promised_frames = count_frames(survey, path, limits)
        check_times(times, stream.time_base, path.name, limits)
        fps = frame_rate(times, stream)
        if fps > limits["max_fps"] * 1.01:
            what = f"has {float(fps):.0f} frames per second and the limit is {limits['max_fps']:.0f}"
            raise _fault(path.name, what, "convert it first")
        return {
            **picture,
            "timestamps": times,
            "time_base": stream.time_base.as_integer_ratio(),
            "fps": fps.as_integer_ratio(),
            "codec": stream.codec_context.codec.canonical_name,
            "audio_streams": [describe_audio(audio) for audio in container.streams.audio if audio.codec_context is not None],
            "promised_frames": promised_frames,
        }


def describe_audio(stream: Any) -> tuple[int, str, int, int]:
    """The fields of an ``AudioStream``."""
    context = stream.codec_context
    return stream.index, context.codec.canonical_name, context.sample_rate, context.channels


def _fault(name: str, what: str, advice: str) -> Exception:
    from ..errors import UserError

    return UserError(f"{name} {what}; {advice}.")


def check_stream(stream: Any, name: str, limits: dict[str, Any]) -> None:
    """Refuse by what the headers say, before anything is decoded."""
    context = stream.codec_context
    if context is None:
        raise _fault(name, "uses a video codec that cannot be decoded here", "convert it to H.264 first")
    width, height = context.width, context.height
    if width < 1 or height < 1:
        raise _fault(name, "holds no picture, or one that is larger than is allowed", "choose another file")
    if width > limits["max_width"] or height > limits["max_height"] or width * height > limits["max_pixels"]:
        raise _fault(name, f"is {width}x{height} pixels, which is more than is allowed", "shrink it first")
    if stream.metadata.get("alpha_mode") == "1":
        raise _fault(name, "has transparency", "flatten it onto a background first")
    if context.codec_tag in ("dvh1", "dvhe", "dav1", "dva1", "dvav"):
        raise _fault(name, "is Dolby Vision", "convert it to standard dynamic range first")


def describe_picture(frame: Any, stream: Any, name: str) -> dict[str, Any]:
    """Size, rotation, pixel format and colour tags of the upright picture; refuses what is not progressive, opaque and SDR."""
    from . import pixels

    if frame.color_trc in (16, 18):
        raise _fault(name, "is HDR (PQ or HLG)", "convert it to standard dynamic range (SDR) first")
    if frame.interlaced_frame:
        raise _fault(name, "is interlaced", "deinterlace it first")
    check_square_pixels(stream, frame.width, name)
    rotation_deg = upright_turn(frame, name)
    tags = [int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc), int(frame.color_range)]
    try:
        _, planar = pixels.planar_frame(frame)
        layout = pixels.upright_layout(planar, rotation_deg)
    except pixels.TransparentFrameError:
        raise _fault(name, "has transparency", "flatten it onto a background first") from None
    except pixels.UnsupportedFormatError as error:
        raise _fault(name, f"uses {error}, which is not supported", "convert it to yuv420p first") from None
    if layout.family == "yuv" and tags[0] not in (2, 3, *pixels.LUMA_WEIGHTS):
        raise _fault(name, "uses a colour matrix that is not supported", "convert it to BT.709 first")
    if "yuvj" in frame.format.name:
        tags[3] = 2
    size = (frame.height, frame.width) if rotation_deg % 180 else (frame.width, frame.height)
    return {"width": size[0], "height": size[1], "rotation_deg": rotation_deg, "pixel_format": planar, "color": tags}


def check_square_pixels(stream: Any, width: int, name: str) -> None:
    """Refuse anamorphic video; an aspect that moves the width by less than a pixel or half a percent is a rounding of 1:1."""
    if stream.codec_context.name == "gif":
        return  # every viewer ignores GIF's aspect
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if aspect and abs(float(aspect) - 1) * width >= 1 and abs(float(aspect) - 1) > 0.005:
        ratio = f"{aspect.numerator}:{aspect.denominator}"
        raise _fault(name, f"has pixels that are not square ({ratio})", "scale it to square pixels first")


def upright_turn(frame: Any, name: str) -> int:
    """The clockwise turn in degrees that the display matrix asks for. Refuses mirrored and skewed pictures."""
    import numpy as np
    from av.sidedata.sidedata import Type

    side = frame.side_data.get(Type.DISPLAYMATRIX) if hasattr(frame.side_data, "get") else None
    if side is not None:
        matrix = np.frombuffer(side, np.int32).reshape(3, 3)[:2, :2].astype(float) / 65536
        if np.linalg.det(matrix) < 0:
            raise _fault(name, "is stored mirrored", "convert it first so that it is stored upright")
    turn = round(-frame.rotation) % 360
    if turn % 90:
        raise _fault(name, f"is to be shown turned by {turn} degrees", "convert it first so that it is stored upright")
    return turn


class Survey:
    """One pass over all packets: times of the shown frames, the first decoded frame, how far the streams reach."""

    def __init__(self, container: Any, stream: Any, name: str, limits: dict[str, Any]) -> None:
        self.container, self.stream, self.name, self.limits = container, stream, name, limits
        self.timestamps: list[int] = []
        self.first_frame: Any = None
        self.are_times_missing = False
        self.last_dts = -1
        self.end_s = 0.0

    def read(self) -> None:
        import av

        self.stream.codec_context.thread_count = 1
        try:
            for packet in self.container.demux():
                self._see(packet)
        except av.FFmpegError:
            pass  # a container that breaks off; what it promised is compared with what was found
        self.timestamps.sort()

    def _see(self, packet: Any) -> None:
        is_video = packet.stream_index == self.stream.index
        if is_video and self.first_frame is None:
            self._decode_first(packet)
        if packet.dts is None and packet.pts is None and packet.size == 0:
            return  # the flush packet
        if packet.pts is not None and not packet.is_corrupt:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self.end_s = max(self.end_s, float(end))
        if not is_video or packet.is_corrupt:
            return
        self.last_dts = max(self.last_dts, packet.dts if packet.dts is not None else -1)
        if packet.is_discard:
            return
        if packet.pts is None:
            self.are_times_missing = True
        else:
            self.timestamps.append(packet.pts)
        if len(self.timestamps) > self.limits["max_frames"]:
            raise _fault(self.name, f"has more than {self.limits['max_frames']} frames", "cut it first")

    def _decode_first(self, packet: Any) -> None:
        import av

        try:
            frames = packet.decode()
        except av.FFmpegError:
            return
        if frames:
            self.first_frame = frames[0]

    def must_decode_all(self) -> bool:
        """Whether packets do not tell the frames."""
        family = self.container.format.name
        repeated = any(a == b for a, b in itertools.pairwise(self.timestamps))
        return self.are_times_missing or repeated or family in ("avi", "gif") or self.stream.codec_context.name == "vp8"

    def missing_frames(self, path: Path) -> int:
        """How many more frames the container announced than packets were found.

        MP4 and MOV: its sample table. AVI: its header. Matroska, which has no count: its duration against the last time seen in
        any stream; at least one when the file is shorter than its segment says. Some muxers count that duration from time 0, others
        from the first time; it is taken as the one that asks for less.
        """
        family = self.container.format.name
        if family.startswith("mov"):
            return max(0, sum(1 for entry in self.stream.index_entries if not entry.is_discard) - len(self.timestamps))
        if family == "avi":
            return max(0, self.stream.frames - (self.last_dts + 1))  # AVI counts chunks, empty ones too
        if family.startswith("matroska") and self.container.duration:
            rate = self.stream.average_rate or self.stream.guessed_rate or 25
            missing_s = (min(self.container.start_time or 0, 0) + self.container.duration) / 1e6 - self.end_s
            is_cut = is_segment_cut(path)
            if is_cut or missing_s > 1.5 / float(rate) + 0.02:
                return max(1, round(missing_s * rate))
        return 0


def is_segment_cut(path: Path) -> bool:
    """Whether a Matroska file ends before its segment does (RFC 8794: an element is an id, a size, content)."""

    def read_number(file: Any, keeps_marker: bool) -> int:
        first = file.read(1)[0]
        length = 9 - first.bit_length()
        value = first if keeps_marker else first & ((1 << (8 - length)) - 1)
        return int.from_bytes(bytes([value]) + file.read(length - 1), "big")

    with path.open("rb") as file:
        for _ in range(4):  # the header, perhaps some filling, the segment
            try:
                identity, size_at = read_number(file, True), file.tell()
                size = read_number(file, False)
            except (IndexError, ValueError):
                return True
            if identity == 0x18538067:
                is_unknown = size == (1 << (7 * (file.tell() - size_at))) - 1
                return not is_unknown and file.tell() + size > path.stat().st_size
            file.seek(size, 1)
    return False


def count_frames(survey: Survey, path: Path, limits: dict[str, Any]) -> tuple[list[int], int | None]:
    """The times of all frames that can be shown, and how many frames were promised if that is more."""
    missing = survey.missing_frames(path)
    times = survey.timestamps
    if not missing and not survey.must_decode_all() and survey.first_frame.pts == times[0]:
        return times, None
    num_packets = len(times)
    times, is_broken = decode_all_times(path, limits, is_cut=missing > 0)
    if missing:
        return times, num_packets + missing
    return times, max(num_packets, len(times) + 1) if is_broken else None


def decode_all_times(path: Path, limits: dict[str, Any], is_cut: bool) -> tuple[list[int], bool]:
    """The times of all frames in the order in which the decoder shows them, and whether it met an error.

    ``is_cut``: what a decoder still holds at the end of a cut-off file is left out, because frames may be missing among it. Frames
    of AVI, which stores no presentation times, are evenly spaced where the decoder's times are out of order.
    """
    from .container import choose_video, open_input

    with open_input(path, limits["max_pixels"]) as container:
        stream = choose_video(container, path.name)
        stream.codec_context.thread_count = 1
        times, is_broken = _decode_times(container, stream, path.name, limits, is_cut)
        step = 1 / ((stream.average_rate or stream.guessed_rate or Fraction(25)) * stream.time_base)
        is_avi = container.format.name == "avi"
    known = [time for time in times if time is not None]
    increases = all(later > earlier for earlier, later in itertools.pairwise(known))
    if len(known) == len(times) and (increases or not is_avi):
        return known, is_broken
    first = min(known, default=0)
    return [first + round(index * step) for index in range(len(times))], is_broken


def _decode_times(container: Any, stream: Any, name: str, limits: dict[str, Any], is_cut: bool) -> tuple[list[int | None], bool]:
    import av

    times: list[int | None] = []
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt or (is_cut and packet.size == 0 and packet.dts is None):
                break
            for frame in packet.decode():
                if frame.is_corrupt:
                    return times, True
                times.append(frame.pts)
            if len(times) > limits["max_frames"]:
                raise _fault(name, f"has more than {limits['max_frames']} frames", "cut it first")
    except av.FFmpegError:
        return times, True
    return times, False


def check_times(times: list[int], time_base: Fraction, name: str, limits: dict[str, Any]) -> None:
    """Refuse clips whose frames do not follow each other in time or that are too long."""
    if not times:
        raise _fault(name, "holds no frame that can be decoded", "choose another file")
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise _fault(name, "has frames whose times do not increase", "convert it to a plain MP4 first")
    duration_s = float((times[-1] - times[0]) * time_base)
    if duration_s > limits["max_duration_s"]:
        raise _fault(name, f"lasts {duration_s:.0f} s and the limit is {limits['max_duration_s']:.0f} s", "cut it first")


def frame_rate(times: list[int], stream: Any) -> Fraction:
    """The container's average rate where the frames' own times agree with it within one frame, else the rate of the times."""
    declared = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    if len(times) == 1:
        return declared[0] if declared else Fraction(25)
    measured = (len(times) - 1) / ((times[-1] - times[0]) * Fraction(stream.time_base))
    for rate in declared:
        if abs(float(rate / measured) - 1) <= max(0.005, 1.5 / len(times)):
            return rate
    return measured.limit_denominator(1001)
