"""A clip's sound, carried over to a result: packets copied where the container takes them, else encoded as AAC."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from ..types import Clip
from .container import open_input

AAC_BITRATE_BPS = 192_000
AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}

PRIMING_S = Fraction(1, 10)
"""Matroska has no edit lists: packets that one hides are left out, except for those by which a decoder warms up."""

COPYABLE = {  # what each output container takes as it is, in FFmpeg's codec names
    "mp4": {"aac", "mp3", "opus", "ac3", "eac3", "alac"},
    "mov": {"aac", "mp3", "opus", "ac3", "eac3", "alac"},
    "matroska": {
        "aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3", "dts", "truehd", "tta", "wavpack",
        "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_u8", "pcm_f32le", "pcm_f64le",
    },
}  # fmt: skip


class AudioTracks:
    """Every audio stream of a clip on its way into an output container; packets are muxed in step with the video.

    ``window_s`` bounds the packets that are taken (``None``: open end), ``shift_s`` is subtracted from their times. Cuts fall on
    packet boundaries. ``notes`` says which streams had to be encoded anew.
    """

    def __init__(
        self, clip: Clip, output: Any, output_format: str, window_s: tuple[Fraction | None, Fraction | None], shift_s: Fraction
    ) -> None:
        self.notes: list[str] = []
        self._window_s, self._shift_s = window_s, shift_s
        self._output = output
        self._drops_hidden = output_format == "matroska"
        self._input: Any = None
        self._streams: dict[int, Any] = {}
        self._is_copied: dict[int, bool] = {}
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        if clip.audio_streams:
            self._input = open_input(clip.path, max(clip.width * clip.height * 2, 1 << 20))
            self._add_streams(output_format)

    def close(self) -> None:
        """Release the source file."""
        if self._input is not None:
            self._input.close()

    def mux_until(self, time_s: Fraction | None) -> None:
        """Mux every packet that starts before ``time_s`` on the output's clock; ``None`` for all that are left."""
        while True:
            packet = self._waiting if self._waiting is not None else next(self._packets, None)
            self._waiting = packet
            if packet is None:
                break
            if time_s is not None and packet.pts * packet.time_base - self._shift_s > time_s:
                return
            self._waiting = None
            self._mux(packet)
        if time_s is None:
            self._flush()

    def _add_streams(self, output_format: str) -> None:
        from av.stream import Discard

        for stream in self._input.streams:
            if stream.type != "audio":
                stream.discard = Discard.all
        for number, stream in enumerate(self._input.streams.audio, start=1):
            if stream.codec_context is None:
                self.notes.append(f"Audio stream {number} has an unknown codec and is left out.")
                stream.discard = Discard.all
                continue
            codec = stream.codec.canonical_name
            is_copied = codec in COPYABLE[output_format]
            if is_copied:
                target = self._output.add_stream_from_template(stream)
            else:
                rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
                layout = AAC_LAYOUTS.get(channels, "stereo")
                target = self._output.add_stream("aac", rate=rate if rate in AAC_RATES_HZ else 48000, layout=layout)
                target.bit_rate = AAC_BITRATE_BPS
                self.notes.append(f"Audio stream {number} ({codec}) is encoded as AAC, which this container can hold.")
            target.metadata.update({key: value for key, value in stream.metadata.items() if key in ("language", "title")})
            self._streams[stream.index], self._is_copied[stream.index] = target, is_copied
        self._packets = self._read_window([stream for stream in self._input.streams.audio if stream.index in self._streams])

    def _read_window(self, streams: list[Any]) -> Iterator[Any]:
        """The packets inside the window, in the order of the file."""
        start_s, stop_s = self._window_s
        ended: set[int] = set()
        if start_s is not None and start_s > 1:
            self._input.seek(int((start_s - 1) * 1_000_000), backward=True)
        for packet in self._input.demux(streams):
            if packet.pts is None or (packet.dts is None and packet.size == 0):
                continue
            time_s = packet.pts * packet.time_base
            if self._drops_hidden and packet.is_discard and time_s < -PRIMING_S:
                continue
            if stop_s is not None and time_s >= stop_s:
                ended.add(packet.stream_index)
                if len(ended) == len(streams):
                    return
            elif start_s is None or time_s >= start_s:
                yield packet

    def _mux(self, packet: Any) -> None:
        target = self._streams[packet.stream_index]
        if self._is_copied[packet.stream_index]:
            self._shift(packet)
            packet.stream = target
            self._output.mux(packet)
            return
        for frame in packet.decode():
            if frame.pts is not None:
                frame.pts -= round(self._shift_s / frame.time_base)
            self._output.mux(target.encode(frame))

    def _shift(self, packet: Any) -> None:
        """Move a packet in time, in units of samples where its own unit (AVI's is a whole packet) is too coarse."""
        unit = packet.time_base
        if self._shift_s % unit:
            unit = Fraction(1, packet.stream.codec_context.sample_rate)
            packet.duration = round((packet.duration or 0) * packet.time_base / unit)
        pts_s, dts_s = packet.pts * packet.time_base, (packet.pts if packet.dts is None else packet.dts) * packet.time_base
        packet.time_base = unit
        packet.pts, packet.dts = round((pts_s - self._shift_s) / unit), round((dts_s - self._shift_s) / unit)

    def _flush(self) -> None:
        for index, target in self._streams.items():
            if not self._is_copied[index]:
                self._output.mux(target.encode(None))
