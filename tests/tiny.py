"""Small real clips for the tests, written with PyAV: any codec, container, size, rate, rotation tag, sound, colour tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.types import ColorTags

CODEC_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "12"},
    "libx265": {"preset": "ultrafast", "crf": "12", "x265-params": "log-level=none"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime", "crf": "20", "b": "0"},
    "libvpx": {"cpu-used": "8", "deadline": "realtime", "crf": "10", "b": "2M"},
}


def paint_frame(frame_index: int, hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """u8[H,W,3]: a coloured gradient that drifts to the right, with fine texture; every frame differs from every other."""
    height, width = hw
    y, x = np.mgrid[:height, :width]
    phase = 3 * frame_index
    gradient = np.stack([(x + phase) * 200 / width, y * 180 / height + 20, (x + y) * 90 / (width + height) + 60 + phase], axis=-1)
    texture = np.random.default_rng([seed, frame_index]).normal(0, 6, (height, width, 1))
    return np.clip(gradient % 220 + 18 + texture, 0, 255).astype(np.uint8)


def make_clip(
    path: Path | str,
    *,
    num_frames: int = 12,
    hw: tuple[int, int] = (64, 96),
    fps: Fraction | int = 24,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    color: ColorTags | None = ColorTags(6, 6, 6, 1),  # noqa: B008 - frozen
    rotation_deg: int = 0,
    timestamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    audio: Sequence[str] = (),
    audio_s: float | None = None,
    images: Callable[[int], np.ndarray] | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    stream_metadata: dict[str, str] | None = None,
) -> Path:
    """Write a clip; the suffix of ``path`` chooses the container.

    ``hw`` is the stored size. ``rotation_deg`` is the clockwise turn that makes it upright, written as a display matrix.
    ``color`` None leaves the stream untagged (samples are then BT.601 below 720 lines and BT.709 from there on, limited).
    ``timestamps`` (in ``time_base``) make a variable rate. ``audio`` lists encoders, one stream each. ``images`` gives the stored
    RGB or RGBA picture of a frame. Codec options default to fast ones.
    """
    path = Path(path)
    fps = Fraction(fps)
    time_base = time_base or 1 / fps
    timestamps = list(range(num_frames)) if timestamps is None else list(timestamps)
    images = images or (lambda frame_index: paint_frame(frame_index, hw))
    meaning = color or ColorTags(1 if hw[0] >= 720 else 6, 2, 2, 1)
    with av.open(str(path), "w", container_options=container_options or {}) as output:
        output.metadata.update(metadata or {})
        stream = output.add_stream(codec, rate=fps, options={**CODEC_OPTIONS.get(codec, {}), **(options or {})})
        stream.metadata.update(stream_metadata or {})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt, context.time_base = hw[1], hw[0], pixel_format, time_base
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if color is not None:
            context.colorspace, context.color_range = color.matrix, color.range
            context.color_primaries, context.color_trc = color.primaries, color.transfer
        if rotation_deg:
            stream.set_display_rotation(-rotation_deg)
        sounds = [_add_audio(output, encoder) for encoder in audio]
        duration_s = float((timestamps[-1] - timestamps[0]) * time_base + 1 / fps) if audio_s is None else audio_s
        for number, sound in enumerate(sounds):
            _write_tone(output, sound, duration_s, 220.0 * (number + 1))
        for frame_index in range(num_frames):
            picture = _convert(images(frame_index), pixel_format, meaning)
            picture.pts, picture.time_base = timestamps[frame_index], time_base
            picture.color_range = meaning.range if color is not None else 0
            picture.colorspace = meaning.matrix if color is not None else 2
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def make_audio(path: Path | str, encoder: str = "aac", duration_s: float = 0.5) -> Path:
    """Write a file that holds one tone and no picture."""
    with av.open(str(path), "w") as output:
        _write_tone(output, _add_audio(output, encoder), duration_s, 440.0)
    return Path(path)


def _convert(image: np.ndarray, pixel_format: str, meaning: ColorTags) -> Any:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgba" if image.shape[2] == 4 else "rgb24")
    if pixel_format == "rgb24":
        return frame
    flags = av.video.reformatter.Interpolation.BICUBIC | av.video.reformatter.Interpolation.ACCURATE_RND
    return frame.reformat(
        format=pixel_format,
        dst_colorspace=meaning.matrix if meaning.matrix else 1,
        src_color_range=2,
        dst_color_range=meaning.range or 1,
        interpolation=flags,
    )


def _add_audio(output: Any, encoder: str) -> Any:
    return output.add_stream(encoder, rate=48000, layout="stereo")


def _write_tone(output: Any, stream: Any, duration_s: float, frequency_hz: float) -> None:
    total = max(1, round(duration_s * 48000))
    for start in range(0, total, 1024):
        time_s = np.arange(start, min(start + 1024, total)) / 48000
        wave = (0.3 * np.sin(2 * np.pi * frequency_hz * time_s) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
