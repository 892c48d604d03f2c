"""Clips in, clips out: what must stay the same does, what must be refused is refused in one sentence."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.media import (
    FrameStore,
    LayerWriter,
    MediaLimits,
    VideoWriter,
    check_complete,
    file_sha256,
    pixels,
    probe_clip,
    read_frames,
    read_metadata,
    reader,
)
from pipeline.media.writer import x264_options
from pipeline.types import Clip, ColorTags, DecodedFrame, Frame
from tests.tiny import make_audio, make_clip, paint_frame

BT601, BT709, BT709_FULL = ColorTags(6, 6, 6, 1), ColorTags(1, 1, 1, 1), ColorTags(1, 1, 1, 2)
VFR_TICKS = [0, 3, 9, 12, 18, 21, 27, 30, 36, 39, 45, 48]

TABLE = {  # name of the clip: how it is made
    "plain.mp4": {"audio": ["aac"], "color": BT709},
    "plain.mov": {"audio": ["aac"], "fps": 25},
    "plain.mkv": {"audio": ["flac"], "fps": 30},
    "plain.webm": {"codec": "libvpx-vp9", "audio": ["libopus"]},
    "plain.avi": {"codec": "mpeg4", "audio": ["libmp3lame"], "color": None},
    "b_frames.avi": {"fps": 25, "audio": ["pcm_s16le"]},
    "vp8.webm": {"codec": "libvpx", "audio": ["libopus"]},
    "fps_23_976.mp4": {"fps": Fraction(24000, 1001), "audio": ["aac"]},
    "fps_29_97.mkv": {"fps": Fraction(30000, 1001), "audio": ["aac"]},
    "fps_60.mp4": {"fps": 60},
    "turned_90.mp4": {"rotation_deg": 90, "audio": ["aac"]},
    "turned_180.mov": {"rotation_deg": 180},
    "turned_270.mkv": {"rotation_deg": 270},
    "turned_422.mkv": {"rotation_deg": 90, "codec": "ffv1", "pixel_format": "yuv422p10le", "color": BT709},
    "vfr.mp4": {"timestamps": VFR_TICKS, "time_base": Fraction(1, 90), "audio": ["aac"]},
    "vfr.mkv": {"timestamps": [33 * tick // 3 for tick in VFR_TICKS], "time_base": Fraction(1, 1000)},
    "late_start.mkv": {
        "timestamps": list(range(500, 980, 40)),
        "time_base": Fraction(1, 1000),
        "fps": 25,
        "audio": ["aac"],
        "audio_s": 1.2,
    },
    "two_sounds.mp4": {"audio": ["aac", "libmp3lame"]},
    "two_sounds.mkv": {"audio": ["flac", "ac3"]},
    "odd_420.mkv": {"codec": "ffv1", "hw": (63, 97)},
    "odd_444.mp4": {"pixel_format": "yuv444p", "hw": (63, 97)},
    "odd_422.mkv": {"codec": "ffv1", "hw": (63, 97), "pixel_format": "yuv422p"},
    "ten_bit.mp4": {"codec": "libx265", "pixel_format": "yuv420p10le", "color": BT709},
    "ten_bit_422.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le", "color": BT709},
    "twelve_bit.mkv": {"codec": "ffv1", "pixel_format": "yuv444p12le", "color": BT709},
    "one_frame.mp4": {"num_frames": 1, "audio": ["aac"]},
    "untagged_hd.mp4": {"hw": (720, 64), "color": None, "num_frames": 3},
    "full_range.mp4": {"pixel_format": "yuvj420p", "color": BT709_FULL},
    "full_range_hd.mp4": {"pixel_format": "yuvj420p", "color": BT709_FULL, "hw": (720, 64), "num_frames": 3},
    "old_matrix_hd.mp4": {"color": BT601, "hw": (720, 64), "num_frames": 3},
    "gray.mkv": {"codec": "ffv1", "pixel_format": "gray", "color": None},
    "rgb.mkv": {"codec": "ffv1", "pixel_format": "bgr0", "color": None},
    "still.gif": {"codec": "gif", "pixel_format": "rgb8", "color": None, "fps": 20},
}

PATCHES = {  # colour: rows and columns of the upright picture, off the chroma grid on purpose
    (200, 30, 40): np.s_[9:24, 11:30],
    (20, 180, 60): np.s_[33:50, 3:22],
    (40, 60, 220): np.s_[30:51, 31:47],
}


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clip]:
    """Every clip of the table, made and probed once per session, on first use."""
    folder = tmp_path_factory.mktemp("clips")

    class Shelf(dict):
        def __missing__(self, name: str) -> Clip:
            self[name] = probe_clip(make_clip(folder / name, **TABLE[name]))
            return self[name]

    return Shelf()


# --- helpers --------------------------------------------------------------------------------------------------------------------


def patched(source: DecodedFrame, patches: dict = PATCHES) -> Frame:
    """The frame with flat patches laid over it; everything else untouched."""
    image, touched = source.image.copy(), np.zeros(source.image.shape[:2], bool)
    layer = np.zeros((*source.image.shape[:2], 4), np.uint8)
    for color, where in patches.items():
        image[where], touched[where], layer[where] = color, True, (*color, 255)
    return Frame(source.frame_index, image, layer, touched, source)


def render(clip: Clip, path: Path, frame_range: tuple[int, int] | None = None, patches: dict = PATCHES, **options) -> VideoWriter:
    frame_range = frame_range or (0, clip.num_frames)
    with VideoWriter(path, clip, frame_range, **options) as writer:
        for source in read_frames(clip, *frame_range):
            writer.write(patched(source, patches))
    return writer


def stored_frames(path: Path) -> list[tuple[np.ndarray, ...]]:
    """All frames' planes as another reader decodes them: PyAV, packed RGB as planes, not turned upright."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.format.name in ("bgr0", "bgra", "gbrp"):
                frames.append(tuple(np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0)[[1, 2, 0]]))
                continue
            dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].copy() for plane in frame.planes]
            frames.append(tuple(rows))
    return frames


def frame_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def audio_packets(path: Path) -> list[tuple[str, list[tuple[Fraction, str]]]]:
    """Per audio stream: its codec, and time and hash of every packet."""
    with av.open(str(path)) as container:
        streams = {stream.index: (stream.codec.canonical_name, []) for stream in container.streams.audio}
        for packet in container.demux():
            if packet.stream_index in streams and packet.size:
                digest = hashlib.sha256(bytes(packet)).hexdigest()
                streams[packet.stream_index][1].append((packet.pts * packet.time_base, digest))
    return list(streams.values())


def cells(touched: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Which samples of a plane cover a touched pixel."""
    fy, fx = -(-touched.shape[0] // plane.shape[0]), -(-touched.shape[1] // plane.shape[1])
    grown = np.zeros((plane.shape[0] * fy, plane.shape[1] * fx), bool)
    grown[: touched.shape[0], : touched.shape[1]] = touched
    return grown.reshape(plane.shape[0], fy, plane.shape[1], fx).any(axis=(1, 3))


def exact_rgb(planes: tuple[np.ndarray, ...], depth: int, matrix: int, full_range: bool) -> np.ndarray:
    """f64[H,W,3], 0..255: the formula of H.273 written out, chroma repeated."""
    height, width = planes[0].shape
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114)}[matrix]
    y, cb, cr = (
        plane.repeat(-(-height // plane.shape[0]), 0).repeat(-(-width // plane.shape[1]), 1)[:height, :width].astype(float)
        for plane in planes
    )
    step = 2.0 ** (depth - 8)
    top = 2**depth - 1
    y, cb, cr = (
        (y / top, (cb - 128 * step) / top, (cr - 128 * step) / top)
        if full_range
        else ((y / step - 16) / 219, (cb / step - 128) / 224, (cr / step - 128) / 224)
    )
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1), 0, 1) * 255


def assert_one_sentence(error: BaseException, name: str) -> None:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and "Error" not in text and "/" not in text.replace("4:1:1", "")
    assert name in text
    assert len(re.findall(r"\.\s", text)) == 0, text


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the fidelity table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_reading_counts_and_times_every_frame(clips: dict[str, Clip], name: str) -> None:
    clip, recipe = clips[name], TABLE[name]
    wanted = recipe.get("num_frames", 12)
    assert clip.num_frames == wanted and clip.promised_frames is None
    height, width = recipe.get("hw", (64, 96))
    assert (clip.width, clip.height) == ((height, width) if recipe.get("rotation_deg", 0) % 180 else (width, height))
    frames = list(read_frames(clip))
    assert [frame.frame_index for frame in frames] == list(range(wanted))
    assert [frame.pts for frame in frames] == clip.timestamps.tolist()
    times = [(frame.pts - frames[0].pts) * clip.time_base for frame in frames]
    fps, ticks = Fraction(recipe.get("fps", 24)), recipe.get("timestamps")
    made = [Fraction(tick - ticks[0]) * recipe["time_base"] for tick in ticks] if ticks else [n / fps for n in range(wanted)]
    slack = Fraction(11, 10_000) if clip.path.suffix in (".mkv", ".webm") else Fraction(0)
    slack = {"plain.avi": 1 / fps, "still.gif": Fraction(1, 100)}.get(name, slack)  # FFmpeg's AVI writer skips a chunk
    assert all(abs(a - b) <= slack for a, b in zip(times, made, strict=True))
    if not ticks and wanted > 1:
        assert clip.fps == fps
    assert len(clip.audio_streams) == len(recipe.get("audio", []))


@pytest.mark.parametrize("name", TABLE)
def test_lossless_copies_every_untouched_sample(clips: dict[str, Clip], name: str, tmp_path: Path) -> None:
    clip = clips[name]
    out = tmp_path / "out.mkv"
    render(clip, out, lossless=True)
    turn = TABLE[name].get("rotation_deg", 0)
    before = [tuple(np.rot90(plane, -turn // 90) for plane in planes) for planes in stored_frames(clip.path)]
    after = stored_frames(out)
    touched = patched(next(read_frames(clip, 0, 1))).touched
    assert len(before) == len(after) == clip.num_frames
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            assert np.array_equal(a[~cells(touched, a)], b[~cells(touched, b)])
    back = probe_clip(out)
    assert (back.hw, back.num_frames, back.fps, back.rotation_deg) == (clip.hw, clip.num_frames, clip.fps, 0)
    assert pixels.clip_layout(back) == pixels.clip_layout(clip)
    assert abs(back.duration_s - clip.duration_s) <= 0.002
    first = 0 if clip.timestamps[0] < 0 else clip.timestamps[0] * clip.time_base
    assert abs(frame_times(out)[0] - first) <= Fraction(1, 1000)


@pytest.mark.parametrize("name", TABLE)
def test_touched_patches_come_back_within_two_levels(clips: dict[str, Clip], name: str, tmp_path: Path) -> None:
    clip = clips[name]
    out = tmp_path / "out.mkv"
    render(clip, out, lossless=True)
    back = probe_clip(out)
    layout, colors = pixels.clip_layout(back), pixels.clip_colors(back)
    for frame in read_frames(back):
        for color, where in PATCHES.items():
            want = np.array(color) if layout.family != "gray" else _luma(color)
            rows, cols = where
            inner = np.s_[rows.start + 4 : rows.stop - 4, cols.start + 4 : cols.stop - 4]  # whole chroma cells
            assert np.abs(frame.image[inner].astype(int) - want).max() <= 2
        if layout.family == "yuv":
            exact = exact_rgb(frame.planes, layout.depth, colors.matrix, colors.range == 2)
            assert np.abs(frame.image - exact).max() <= 1


def _luma(color: tuple[int, int, int]) -> int:
    return round(float(np.dot(color, (0.2126, 0.7152, 0.0722))))


@pytest.mark.parametrize("name", TABLE)
def test_mp4_keeps_times_size_rate_and_tags_itself(clips: dict[str, Clip], name: str, tmp_path: Path) -> None:
    clip = clips[name]
    out = tmp_path / "out.mp4"
    writer = render(clip, out)
    back = probe_clip(out)
    even = (clip.height + clip.height % 2, clip.width + clip.width % 2)
    assert (back.hw, back.num_frames, back.rotation_deg) == (even, clip.num_frames, 0)
    assert back.fps == clip.fps or name == "plain.avi"  # FFmpeg's AVI writer leaves a gap after the first frame
    assert bool(writer.notes) >= (even != clip.hw)
    first = min(0, clip.timestamps[0])
    wanted = [(tick - first) * clip.time_base for tick in clip.timestamps.tolist()]
    rounding = Fraction(1, 1000) if clip.time_base == Fraction(1, 1000) else 0
    assert all(abs(a - b) <= rounding for a, b in zip(wanted, frame_times(out), strict=True))
    assert abs(back.duration_s - clip.duration_s) <= 0.001 or name == "plain.avi"
    hd = clip.height >= 720
    assert back.color.matrix == (1 if hd or clip.color.matrix == 1 else clip.color.matrix if clip.color.matrix in (5, 6) else 6)
    assert back.color.range == 1 and back.pixel_format == "yuv420p"
    assert 2 not in (back.color.matrix, back.color.primaries, back.color.transfer)
    for frame in read_frames(back, 0, 1):
        for color, (rows, cols) in PATCHES.items():
            want = np.array(color) if pixels.clip_layout(clip).family != "gray" else _luma(color)
            inner = frame.image[rows.start + 5 : rows.stop - 5, cols.start + 5 : cols.stop - 5]
            assert np.abs(inner.reshape(-1, 3).mean(axis=0) - want).max() <= 4  # lossy


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].get("audio")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_carried_over(clips: dict[str, Clip], name: str, suffix: str, tmp_path: Path) -> None:
    clip = clips[name]
    out = tmp_path / f"out{suffix}"
    render(clip, out, lossless=suffix == ".mkv")
    before, after = audio_packets(clip.path), audio_packets(out)
    assert len(before) == len(after)
    shift = min(0, int(clip.timestamps[0])) * clip.time_base
    for (codec, packets), (codec_after, packets_after) in zip(before, after, strict=True):
        if suffix == ".mkv" or codec in ("aac", "mp3", "opus", "ac3"):
            assert codec_after == codec
            assert [digest for _, digest in packets] == [digest for _, digest in packets_after]
            gaps = [abs(b - (a - shift)) for (a, _), (b, _) in zip(packets, packets_after, strict=True)]
            assert max(gaps) <= Fraction(2, 1000)
        else:
            assert codec_after == "aac" and packets_after


# --- samples and colours --------------------------------------------------------------------------------------------------------

FORMATS = ["yuv420p", "yuv422p", "yuv440p", "yuv444p", "yuv411p", "yuv420p10le", "yuv422p12le", "yuv444p16le", "gray", "gbrp"]


def random_planes(layout: pixels.Layout, hw: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Samples of legal colours, smooth enough to stay inside the RGB cube, with noise."""
    rng = np.random.default_rng(seed)
    count = 1 if layout.family == "gray" else 3
    planes = []
    for index in range(count):
        fx, fy = (layout.fx, layout.fy) if index else (1, 1)
        shape = (-(-hw[0] // fy), -(-hw[1] // fx))
        low, high = (70, 180) if index == 0 else (110, 146)
        planes.append(rng.integers(low << (layout.depth - 8), high << (layout.depth - 8), shape).astype(layout.dtype))
    return tuple(planes)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("name", FORMATS)
def test_convention_rgb_follows_h273(name: str, matrix: int, full_range: bool) -> None:
    layout = pixels.upright_layout(name)
    colors = ColorTags(0 if layout.family == "rgb" else matrix, 1, 1, 2 if full_range or layout.family == "rgb" else 1)
    planes = random_planes(layout, (37, 51))
    image = pixels.planes_to_rgb(planes, layout, colors)
    assert image.dtype == np.uint8 and image.shape == (37, 51, 3)
    if layout.family == "yuv" and matrix != 9:
        assert np.abs(image - exact_rgb(planes, layout.depth, matrix, full_range)).max() <= 1
    gray = np.full_like(image, 128)
    back = pixels.write_back(planes, layout, colors, gray, np.ones((37, 51), bool))
    assert np.abs(pixels.planes_to_rgb(back, layout, colors).astype(int) - 128).max() <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_write_back_changes_touched_samples_only(name: str) -> None:
    layout = pixels.upright_layout(name)
    colors = ColorTags(0 if layout.family == "rgb" else 1, 1, 1, 2 if layout.family == "rgb" else 1)
    planes = random_planes(layout, (37, 51))
    image = pixels.planes_to_rgb(planes, layout, colors)
    rng = np.random.default_rng(1)
    touched = rng.random((37, 51)) < 0.03
    touched[36, 50] = touched[5, 7] = True
    new = image.copy()
    new[touched] = rng.integers(60, 200, (int(touched.sum()), 3))
    result = pixels.write_back(planes, layout, colors, new, touched)
    for old, changed in zip(planes, result, strict=True):
        where = cells(touched, old)
        assert np.array_equal(old[~where], changed[~where]) and not np.array_equal(old[where], changed[where])
    assert pixels.write_back(planes, layout, colors, new, np.zeros((37, 51), bool)) is planes
    same = pixels.write_back(planes, layout, colors, image, np.ones((37, 51), bool))
    assert all(np.array_equal(a, b) for a, b in zip(planes, same, strict=True))


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv411p", "yuv410p"])
def test_convention_chroma_is_the_mean_over_its_cell(name: str) -> None:
    """By hand, with sizes that cut the last cells: mean of the new chroma of changed pixels and the old one for the others."""
    layout, colors = pixels.upright_layout(name), ColorTags(1, 1, 1, 1)
    hw = (7, 9)
    planes = random_planes(layout, hw, seed=3)
    image = pixels.planes_to_rgb(planes, layout, colors)
    rng = np.random.default_rng(4)
    touched = rng.random(hw) < 0.4
    new = np.where(touched[..., None], rng.integers(60, 200, (*hw, 3)), image).astype(np.uint8)
    result = pixels.write_back(planes, layout, colors, new, touched)
    matrix = pixels.encode_matrix(1, False, 8)
    for index in (1, 2):
        for row, col in np.ndindex(planes[index].shape):
            cell = np.s_[row * layout.fy : (row + 1) * layout.fy, col * layout.fx : (col + 1) * layout.fx]
            values = np.where(touched[cell], new[cell] @ matrix[index, :3] + matrix[index, 3], float(planes[index][row, col]))
            assert abs(int(result[index][row, col]) - values.mean()) <= 0.51


@pytest.mark.parametrize("name", ["yuv420p", "yuv444p", "yuv422p10le"])
@pytest.mark.parametrize(("have", "want"), [((6, 1), (1, 1)), ((1, 2), (1, 1)), ((9, 2), (6, 1))])
def test_another_matrix_or_range_costs_one_rounding(name: str, have: tuple[int, int], want: tuple[int, int]) -> None:
    layout, rng = pixels.upright_layout(name), np.random.default_rng(0)
    before, after = ColorTags(have[0], 2, 2, have[1]), ColorTags(want[0], 2, 2, want[1])
    colors = np.repeat(np.repeat(rng.integers(20, 236, (10, 14, 3)), 4, axis=0), 4, axis=1)[:39, :53]  # odd size, whole cells
    exact = colors @ pixels.encode_matrix(have[0], have[1] == 2, layout.depth)[:, :3].T
    samples = np.rint(exact + pixels.encode_matrix(have[0], have[1] == 2, layout.depth)[:, 3]).astype(layout.dtype)
    planes = (samples[..., 0], *(samples[:: layout.fy, :: layout.fx, index] for index in (1, 2)))
    recoded = pixels.recode(planes, layout, before, after)
    decode, encode = pixels.decode_matrix(have[0], have[1] == 2, layout.depth), pixels.encode_matrix(want[0], False, layout.depth)
    wanted = (samples @ decode[:, :3].T + decode[:, 3]) @ encode[:, :3].T + encode[:, 3]
    assert [plane.dtype for plane in recoded] == [layout.dtype] * 3
    assert np.abs(recoded[0] - wanted[..., 0]).max() <= 0.501
    for index in (1, 2):
        assert np.abs(recoded[index] - wanted[:: layout.fy, :: layout.fx, index]).max() <= 0.501


def test_turning_planes_equals_turning_the_picture(tmp_path: Path) -> None:
    for turn in (90, 180, 270):
        upright = paint_frame(0, (96, 64) if turn % 180 else (64, 96))
        stored = np.rot90(upright, turn // 90)
        path = make_clip(tmp_path / f"{turn}.mkv", codec="ffv1", num_frames=1, rotation_deg=turn, images=lambda _, s=stored: s)
        clip = probe_clip(path)
        assert clip.rotation_deg == turn
        image = next(iter(read_frames(clip))).image
        assert image.shape == upright.shape
        assert np.abs(image.astype(int) - upright).mean() < 8  # chroma is subsampled


def test_untagged_height_decides_the_matrix(tmp_path: Path) -> None:
    flat = np.full((720, 64, 3), (200, 30, 40), np.uint8)
    hd = probe_clip(make_clip(tmp_path / "hd.mkv", codec="ffv1", hw=(720, 64), color=None, num_frames=1, images=lambda _: flat))
    sd = probe_clip(
        make_clip(tmp_path / "sd.mkv", codec="ffv1", hw=(718, 64), color=None, num_frames=1, images=lambda _: flat[:718])
    )
    assert (hd.color.matrix, sd.color.matrix) == (2, 2)
    for clip in (hd, sd):
        assert np.abs(next(iter(read_frames(clip))).image.astype(int) - (200, 30, 40)).max() <= 2


# --- reading --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """90 frames with key frames every 20 (open groups of pictures, B-frames)."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    options = {"preset": "veryfast", "crf": "20", "g": "20", "x264-params": "open-gop=1:scenecut=0:bframes=3"}
    return probe_clip(make_clip(path, num_frames=90, options=options, audio=["aac"]))


def test_reading_starts_at_the_very_frame(long_clip: Clip) -> None:
    reference = [frame.image for frame in read_frames(long_clip)]
    for start in (0, 1, 17, 19, 20, 21, 39, 40, 59, 88, 89):
        frames = list(read_frames(long_clip, start, min(start + 2, 90)))
        assert [frame.frame_index for frame in frames] == list(range(start, min(start + 2, 90)))
        assert all(np.array_equal(frame.image, reference[frame.frame_index]) for frame in frames)
    assert list(read_frames(long_clip, 90)) == []
    for bad in ((-1, 3), (5, 4), (0, 91)):
        with pytest.raises(ValueError, match="start"):
            read_frames(long_clip, *bad)


def test_frames_are_locked(long_clip: Clip) -> None:
    frame = next(read_frames(long_clip))
    for array in frame.planes:
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_closing_the_reader_stops_its_thread(long_clip: Clip) -> None:
    before = threading.active_count()
    frames = read_frames(long_clip)
    next(frames)
    assert threading.active_count() == before + 1
    frames.close()
    assert threading.active_count() == before


def test_frame_store_is_bounded_and_exact(long_clip: Clip) -> None:
    reference = [frame.image for frame in read_frames(long_clip)]
    per_frame = 64 * 96 * 3 + 64 * 96 * 3 // 2
    store = FrameStore(long_clip, max_bytes=10 * per_frame)
    order = [0, 1, 2, 50, 49, 48, 3, 89, 0, 45, *range(20, 40), *range(40, 20, -1)]
    for index in order:
        assert np.array_equal(store.frame(index).image, reference[index])
        assert store._num_bytes <= 10 * per_frame
    assert store.frame(21) is store.frame(21)
    for bad in (-1, 90):
        with pytest.raises(IndexError):
            store.frame(bad)
    store.close()
    assert store._num_bytes == 0 and np.array_equal(store.frame(7).image, reference[7])
    store.close()


class CorruptAfterSeeking:
    """A container whose pictures come out corrupt once it was sought in, as where a decoder lacks what only the first one says."""

    def __init__(self, container: Any) -> None:
        self._container, self._is_sought = container, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def seek(self, *given: Any, **named: Any) -> None:
        self._is_sought = True
        self._container.seek(*given, **named)

    def decode(self, *given: Any) -> Iterator[Any]:
        for frame in self._container.decode(*given):
            yield SimpleNamespace(key_frame=frame.key_frame, pts=frame.pts, is_corrupt=True) if self._is_sought else frame


def test_where_seeking_spoils_the_pictures_they_are_decoded_from_the_start(long_clip: Clip, monkeypatch) -> None:
    reference = [frame.image for frame in read_frames(long_clip)]
    opened = reader.open_input
    monkeypatch.setattr(reader, "open_input", lambda *given: CorruptAfterSeeking(opened(*given)))
    store = FrameStore(long_clip)
    for index in (89, 2, 60):
        assert np.array_equal(store.frame(index).image, reference[index])
    store.close()


def test_frame_store_serves_many_threads(long_clip: Clip) -> None:
    reference = [frame.image for frame in read_frames(long_clip)]
    store = FrameStore(long_clip, max_bytes=1 << 20)
    wrong: list[int] = []

    def visit(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, 90, 15).tolist()
        wrong.extend(index for index in order if not np.array_equal(store.frame(index).image, reference[index]))

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []


def test_frame_store_steps_without_seeking(long_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = reader.ClipDecoder._open
    monkeypatch.setattr(reader.ClipDecoder, "_open", lambda self: (opened.append(1), original(self))[1])
    store = FrameStore(long_clip)
    for index in range(60):
        store.frame(index)
    assert len(opened) == 1
    store.close()


# --- writing --------------------------------------------------------------------------------------------------------------------


def test_mp4_stays_as_close_as_reencoding_the_source(clips: dict[str, Clip], tmp_path: Path) -> None:
    """8-bit 4:2:0 goes to the encoder as it is: with nothing touched the file equals that of encoding the source's own planes."""
    clip = clips["plain.mp4"]
    out = tmp_path / "out.mp4"
    render(clip, out, patches={})
    direct = tmp_path / "direct.mp4"
    with av.open(str(clip.path)) as source, av.open(str(direct), "w") as output:
        stream = output.add_stream("libx264", rate=24, options=x264_options())
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.bit_rate = 96, 64, "yuv420p", 0
        stream.codec_context.thread_type = "AUTO"
        for frame in source.decode(video=0):
            frame.pict_type = 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    for a, b in zip(stored_frames(out), stored_frames(direct), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["plain.mp4", "fps_29_97.mkv", "vfr.mp4", "plain.avi", "late_start.mkv"])
@pytest.mark.parametrize("frame_range", [(0, 5), (4, 9), (7, 12)])
def test_a_range_starts_at_zero_with_sound_in_step(
    clips: dict[str, Clip], name: str, frame_range: tuple[int, int], tmp_path: Path
) -> None:
    clip = clips[name]
    out = tmp_path / "out.mp4"
    render(clip, out, frame_range)
    start, stop = frame_range
    offset = int(clip.timestamps[start]) if start else 0
    wanted = [(tick - offset) * clip.time_base for tick in clip.timestamps[start:stop].tolist()]
    rounding = Fraction(1, 1000) if clip.time_base == Fraction(1, 1000) else 0
    assert all(abs(a - b) <= rounding for a, b in zip(wanted, frame_times(out), strict=True))
    assert frame_times(out)[0] == (0 if start else wanted[0])
    if not clip.audio_streams:
        return
    begin = clip.timestamps[start] * clip.time_base if start else Fraction(-1)
    end = clip.timestamps[stop] * clip.time_base if stop < clip.num_frames else Fraction(10**6)
    shift = offset * clip.time_base
    source = [(time, digest) for time, digest in audio_packets(clip.path)[0][1] if begin <= time < end]
    result = audio_packets(out)[0][1]
    assert source and [digest for _, digest in result] == [digest for _, digest in source]
    assert all(abs(b - (a - shift)) <= Fraction(1, 1000) for (a, _), (b, _) in zip(source, result, strict=True))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_metadata_survives(clips: dict[str, Clip], suffix: str, tmp_path: Path) -> None:
    text = json.dumps({"layers": [{"name": 'cup "é" 杯', "keys": list(range(40_000))}]})
    out = tmp_path / f"out{suffix}"
    render(clips["plain.mp4"], out, metadata={"project": text, "comment": "made by hand"}, lossless=suffix == ".mkv")
    tags = read_metadata(out)
    assert tags["project"] == text and tags["comment"] == "made by hand"


def test_the_same_request_gives_the_same_bytes(clips: dict[str, Clip], tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        hashes = set()
        for number in (1, 2):
            out = tmp_path / f"{number}{suffix}"
            render(clips["plain.mp4"], out, lossless=suffix == ".mkv", metadata={"project": "{}"})
            hashes.add(file_sha256(out))
        assert len(hashes) == 1


def test_an_unfinished_file_never_appears(clips: dict[str, Clip], tmp_path: Path) -> None:
    clip = clips["plain.mp4"]
    before = threading.active_count()
    out = tmp_path / "out.mp4"
    out.write_bytes(b"an older result")
    with pytest.raises(RuntimeError, match="engine"), VideoWriter(out, clip, (0, 12)) as writer:
        for source in read_frames(clip, 0, 5):
            writer.write(patched(source))
        raise RuntimeError("engine")

    def job():
        with VideoWriter(out, clip, (0, 12)) as writer:
            for source in read_frames(clip):
                writer.write(patched(source))
                yield

    running = job()
    next(running)
    assert len(leftovers(tmp_path)) == 2
    running.close()
    with pytest.raises(ValueError, match="all frames"), VideoWriter(out, clip, (0, 12)) as writer:
        writer.write(patched(next(read_frames(clip))))
    with pytest.raises(ValueError, match="expected frame 0"), VideoWriter(out, clip, (0, 12)) as writer:
        writer.write(patched(next(read_frames(clip, 3))))
    assert leftovers(tmp_path) == ["out.mp4"] and out.read_bytes() == b"an older result"
    assert threading.active_count() == before


def test_wrong_places_are_refused(clips: dict[str, Clip], tmp_path: Path) -> None:
    clip = clips["plain.mp4"]
    (tmp_path / "folder.mp4").mkdir()
    cases = {
        "out.mp4": (tmp_path / "missing" / "out.mp4", {}),
        "out.xyz": (tmp_path / "out.xyz", {}),
        "exact.mp4": (tmp_path / "exact.mp4", {"lossless": True}),
        "folder.mp4": (tmp_path / "folder.mp4", {}),
    }
    for name, (path, options) in cases.items():
        with pytest.raises(UserError) as caught:
            render(clip, path, **options)
        assert_one_sentence(caught.value, name)
    with pytest.raises(UserError) as caught:
        VideoWriter(clip.path, clip, (0, 12))
    assert_one_sentence(caught.value, "plain.mp4")
    with pytest.raises(UserError) as caught:
        LayerWriter(tmp_path / "layer.mp4", clip, (0, 12))
    assert_one_sentence(caught.value, "layer.mp4")
    assert leftovers(tmp_path) == ["folder.mp4"]


@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "full"), (errno.EACCES, "folder")])
def test_a_fault_of_the_disk_is_one_sentence(
    clips: dict[str, Clip], code: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.media.writer import VideoWriter as Writer

    def fail(self, frame):
        raise OSError(code, "simulated")

    monkeypatch.setattr(Writer, "_encode", fail)
    with pytest.raises(UserError, match=word) as caught:
        render(clips["plain.mp4"], tmp_path / "out.mp4")
    assert_one_sentence(caught.value, "out.mp4")
    assert leftovers(tmp_path) == []


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
from pipeline.errors import UserError
from pipeline.media import probe_clip
from tests.pipeline.test_media import render
from pathlib import Path
clip = probe_clip(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    render(clip, Path(sys.argv[3]), lossless=sys.argv[3].endswith("mkv"))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(("name", "num_bytes"), [("out.mp4", 0), ("out.mp4", 3000), ("out.mkv", 40_000)])
def test_a_disk_that_fills_up_leaves_nothing(clips: dict[str, Clip], name: str, num_bytes: int, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", FULL_DISK, str(root), str(clips["plain.mp4"].path), str(tmp_path / name), str(num_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "disk is full" in done.stdout and done.stdout.count("\n") == 1
    assert leftovers(tmp_path) == []


def test_layer_is_prores_with_straight_alpha(clips: dict[str, Clip], tmp_path: Path) -> None:
    clip = clips["vfr.mp4"]
    out = tmp_path / "layer.mov"
    with LayerWriter(out, clip, (2, 8)) as writer:
        for source in read_frames(clip, 2, 8):
            frame = patched(source)
            frame.layer[9:24, 20:30, 3] = 128
            writer.write(frame)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        assert stream.codec.canonical_name == "prores" and stream.codec_context.codec_tag == "ap4h"
        assert not container.streams.audio
    assert [frame.pts * frame.time_base for frame in frames] == [
        (tick - int(clip.timestamps[2])) * clip.time_base for tick in clip.timestamps[2:8].tolist()
    ]
    for frame in frames:
        assert frame.format.name.startswith("yuva444p") and (frame.width, frame.height) == (96, 64)
        rgba = frame.reformat(format="rgba", src_colorspace=1, src_color_range=1, dst_color_range=2).to_ndarray()
        assert np.abs(rgba[12:22, 12:19].astype(int) - (200, 30, 40, 255)).max() <= 6
        assert np.abs(rgba[12:22, 22:28].astype(int) - (200, 30, 40, 128)).max() <= 6  # straight: the colour is not dimmed
        assert rgba[55:, 60:, 3].max() == 0


# --- files that are refused -----------------------------------------------------------------------------------------------------


def hidden_giant(path: Path) -> Path:
    """A QuickTime file that says 64 x 64 around a PNG of 16000 x 16000 (one bit deep, a few kilobytes)."""
    from PIL import Image

    png = io.BytesIO()
    Image.new("1", (16000, 16000)).save(png, "PNG")
    with av.open(str(path), "w") as output:
        stream = output.add_stream("png", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        output.start_encoding()
        for index in range(2):
            packet = av.Packet(png.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 24)
            packet.pts = packet.dts = index
            packet.is_keyframe = True
            output.mux(packet)
    return path


def open_giant(path: Path) -> Path:
    """A Matroska file whose header says 16000 x 16000 (elements PixelWidth and PixelHeight)."""
    make_clip(path, codec="ffv1", hw=(256, 320), num_frames=2)
    data = path.read_bytes()
    for element, size in ((b"\xb0\x82", 320), (b"\xba\x82", 256)):
        assert data.count(element + size.to_bytes(2, "big")) == 1
        data = data.replace(element + size.to_bytes(2, "big"), element + (16000).to_bytes(2, "big"))
    path.write_bytes(data)
    return path


def without_frames(path: Path) -> Path:
    """A container with a video stream and not one frame."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        output.start_encoding()
    return path


def _truncate(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def _with_hole(frame_index: int) -> np.ndarray:
    alpha = np.full((64, 96, 1), 255, np.uint8)
    alpha[20:40, 20:40] = 0
    return np.concatenate([paint_frame(frame_index, (64, 96)), alpha], axis=2)


REFUSED = {  # file name: how it is made
    "text.mp4": lambda path: path.write_text("hello, this is not a video\n" * 40),
    "empty.mp4": lambda path: path.write_bytes(b""),
    "noise.mkv": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "sound.mp4": lambda path: make_audio(path),
    "sound.mp3": lambda path: make_audio(path, "libmp3lame"),
    "picture.mp4": lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    "playlist.m3u8": lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
    "playlist.mp4": lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
    "concat.mkv": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
    "wide.mp4": lambda path: make_clip(path, aspect=Fraction(4, 3)),
    "pq.mkv": lambda path: make_clip(path, codec="ffv1", pixel_format="yuv420p10le", color=ColorTags(9, 9, 16, 1)),
    "hlg.mkv": lambda path: make_clip(path, codec="ffv1", pixel_format="yuv420p10le", color=ColorTags(9, 9, 18, 1)),
    "fields.mp4": lambda path: make_clip(path, options={"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "clear.mkv": lambda path: make_clip(path, codec="ffv1", pixel_format="yuva420p", images=_with_hole),
    "clear.webm": lambda path: make_clip(path, codec="libvpx-vp9", pixel_format="yuva420p"),
    "headless.mp4": lambda path: _truncate(make_clip(path, num_frames=40), 0.6),
    "hidden_giant.mov": hidden_giant,
    "open_giant.mkv": open_giant,
    "no_frames.mp4": without_frames,
    "no_frames.mkv": without_frames,
    "no_frames.avi": without_frames,
    "folder.mp4": lambda path: path.mkdir(),
    "missing.mp4": lambda path: None,
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    REFUSED[name](path)
    with pytest.raises(UserError) as caught:
        probe_clip(path)
    assert_one_sentence(caught.value, name)
    assert leftovers(tmp_path) in ([name], [])


LIMITS = {
    "max_width": (MediaLimits(max_width=90), "96x64"),
    "max_height": (MediaLimits(max_height=60), "96x64"),
    "max_pixels": (MediaLimits(max_pixels=96 * 64 - 1), "."),
    "max_frames": (MediaLimits(max_frames=11), "11 frames"),
    "max_duration_s": (MediaLimits(max_duration_s=0.4), "0 s"),
    "max_fps": (MediaLimits(max_fps=20), "20"),
    "max_bytes": (MediaLimits(max_bytes=1000), "MB"),
    "memory_bytes": (MediaLimits(memory_bytes=30_000_000), "limits on memory"),
    "timeout_s": (MediaLimits(timeout_s=0.001), "too long"),
}


@pytest.mark.parametrize("which", LIMITS)
def test_every_limit_is_enforced(clips: dict[str, Clip], which: str) -> None:
    limits, word = LIMITS[which]
    with pytest.raises(UserError, match=re.escape(word)) as caught:
        probe_clip(clips["plain.mp4"].path, limits)
    assert_one_sentence(caught.value, "plain.mp4")


CUT = {  # name: (how the whole clip is made, share that is left)
    "indexed.mp4": ({"container_options": {"movflags": "+faststart"}, "audio": ["aac"]}, 0.6),
    "nearly_whole.mp4": ({"container_options": {"movflags": "+faststart"}}, 0.98),
    "cut.mkv": ({}, 0.6),
    "cut_with_sound.mkv": ({"audio": ["flac"]}, 0.6),
    "nearly_whole.mkv": ({"codec": "ffv1"}, 0.985),
    "cut.webm": ({"codec": "libvpx-vp9", "audio": ["libopus"]}, 0.5),
    "cut.avi": ({"codec": "mpeg4", "color": None, "hw": (128, 192)}, 0.9),
}


@pytest.mark.parametrize("name", CUT)
def test_a_clip_that_is_cut_off_is_noticed(name: str, tmp_path: Path) -> None:
    recipe, share = CUT[name]
    whole = make_clip(tmp_path / name, num_frames=40, **recipe)
    reference = [frame.image for frame in read_frames(probe_clip(whole))]
    clip = probe_clip(_truncate(whole, share))
    assert clip.num_frames < 40 and clip.promised_frames is not None and clip.promised_frames > clip.num_frames
    frames = list(read_frames(clip))
    assert len(frames) == clip.num_frames
    for frame in frames[:-1]:
        assert np.array_equal(frame.image, reference[frame.frame_index])
    check_complete(clip, (0, clip.num_frames - 1))
    with pytest.raises(UserError, match=f"frame {clip.num_frames - 1}") as caught:
        check_complete(clip, (0, clip.num_frames))
    assert_one_sentence(caught.value, name)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_clip_whose_sound_is_longer_is_whole(suffix: str, tmp_path: Path) -> None:
    recipe = {"codec": "mpeg4", "color": None, "audio": ["libmp3lame"]} if suffix == ".avi" else {"audio": ["aac"]}
    clip = probe_clip(make_clip(tmp_path / f"long{suffix}", audio_s=2.0, **recipe))
    assert clip.promised_frames is None
    check_complete(clip, (0, clip.num_frames))


def test_a_clip_that_starts_late_is_whole(tmp_path: Path) -> None:
    """Matroska's duration may count from time 0, as FFmpeg writes it, so that a late start is no missing end."""
    late = list(range(2000, 2000 + 12 * 40, 40))
    path = make_clip(tmp_path / "late.mkv", fps=25, timestamps=late, time_base=Fraction(1, 1000))
    with av.open(str(path)) as container:
        assert container.start_time == 2_000_000 and container.duration > 2_000_000
    clip = probe_clip(path)
    assert clip.num_frames == 12 and clip.promised_frames is None


@pytest.mark.parametrize("seed", range(3))
def test_damage_in_the_middle_names_the_last_good_frame(seed: int, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "hurt.mp4", num_frames=40, hw=(128, 192))
    reference = [frame.image for frame in read_frames(probe_clip(path))]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for where in rng.integers(len(data) // 3, len(data) * 2 // 3, 6).tolist():
        data[where] ^= 0xFF
    path.write_bytes(bytes(data))
    good = []
    with pytest.raises(UserError) as caught:
        for frame in read_frames(probe_clip(path)):
            good.append(frame)  # noqa: PERF402 - kept when the reader raises
    assert_one_sentence(caught.value, "hurt.mp4")
    assert f"after frame {len(good) - 1}" in str(caught.value)
    assert all(np.array_equal(frame.image, reference[frame.frame_index]) for frame in good[:5])


def test_a_file_that_changes_under_the_reader_is_noticed(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", codec="ffv1")
    clip = probe_clip(path)
    make_clip(path, codec="ffv1", hw=(32, 48))
    with pytest.raises(UserError, match="size"):
        list(read_frames(clip))
    path.unlink()
    with pytest.raises(UserError, match="exist"):
        list(read_frames(clip))


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import pipeline.media._probe, pipeline.media; print(*sys.modules)"
    command = [sys.executable, "-c", code, str(Path(__file__).parents[2])]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in modules
    assert not {"cv2", "scipy", "PIL", "gradio", "pymatting", "av"} & set(modules)


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError):
        file_sha256(tmp_path / "b")
