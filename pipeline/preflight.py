"""What a render will need, before it starts: disk, memory and time; and a refusal, with what to do, for one that cannot work.

The estimates are deliberately simple and come from measurements (see the constants). Only a render that clearly cannot work is
refused: less disk than the result needs, or less memory than the frames in flight take.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .types import Clip, InsertionRequest

BASE_MEMORY_BYTES = 200e6
"""Interpreter and libraries."""

H264_MEMORY_BYTES_PER_PIXEL = 380
LOSSLESS_MEMORY_BYTES_PER_PIXEL = 220
LAYER_MEMORY_BYTES_PER_PIXEL = 180
"""For each pixel of the picture: frames in flight between decoder, engine and encoder, and what the encoder looks ahead. Peaks of
0.06 to 8.3 megapixels lie within 10 % of these lines."""

PREVIEW_MEMORY_BYTES_PER_PIXEL = 60
"""The frames that are measured and the one that is made, when only one is and nothing is encoded."""

REFERENCE_MEMORY_BYTES_PER_PIXEL = 60
"""A reference, its cut-out and its pyramid, for each pixel of its picture."""

H264_PIXELS_PER_S = 8e6
LOSSLESS_PIXELS_PER_S = 15e6
LAYER_PIXELS_PER_S = 6e6
"""Pixels that one core decodes, composites and encodes in a second."""

START_S = 1.5
MAX_USEFUL_CORES = 8

H264_BYTES_PER_PIXEL = (0.02, 0.3)
"""From calm footage to heavy grain."""

LAYER_BYTES_PER_PIXEL = 0.1
LOSSLESS_SHARE = 0.5
"""The size of FFV1 as a share of the raw samples."""

DISK_RESERVE_BYTES = 50e6
"""What must remain free on a disk after a render."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a render is expected to take. ``available_bytes`` is memory that is free now, None where the system does not say."""

    num_frames: int
    width: int
    height: int
    seconds: float
    memory_bytes: int
    output_bytes: int
    layer_bytes: int
    available_bytes: int | None

    def describe(self) -> str:
        """One line for the person."""
        size = _megabytes(self.output_bytes + self.layer_bytes)
        return (
            f"{self.num_frames} frames of {self.width}x{self.height}: about {_duration(self.seconds)}, "
            f"{size} on disk, {_megabytes(self.memory_bytes)} of memory"
        )


def plan_render(
    request: InsertionRequest,
    output_path: Path,
    *,
    lossless: bool = False,
    layer_alpha_path: Path | None = None,
    engine_s: float = 0,
    engine_bytes: int = 0,
) -> Plan:
    """Estimate a render. ``engine_s`` and ``engine_bytes`` are what its engine says that it takes beside the frames themselves.

    Raises ``UserError`` when the disk or the memory cannot hold it, with what would work instead.
    """
    clip = request.clip
    has_layer = layer_alpha_path is not None
    plan = Plan(
        num_frames=request.num_frames,
        width=clip.width,
        height=clip.height,
        seconds=_seconds(request, lossless, has_layer) + engine_s,
        memory_bytes=_memory_bytes(request, lossless, has_layer) + engine_bytes,
        output_bytes=_output_bytes(clip, request.num_frames, lossless),
        layer_bytes=int(_pixels(request) * LAYER_BYTES_PER_PIXEL) if has_layer else 0,
        available_bytes=available_memory_bytes(),
    )
    _check_disk(plan, output_path, layer_alpha_path)
    if plan.available_bytes is not None and plan.memory_bytes > plan.available_bytes:
        is_engine = plan.memory_bytes - engine_bytes <= plan.available_bytes
        advice = (
            "choose a smaller engine.size or engine.window, a smaller checkpoint, or close other programs"
            if is_engine
            else _what_would_fit(request, lossless, has_layer, plan.available_bytes)
        )
        raise UserError(
            f"The render needs about {_megabytes(plan.memory_bytes)} of memory and {_megabytes(plan.available_bytes)} are free; "
            f"{advice}."
        )
    return plan


def check_preview(request: InsertionRequest) -> None:
    """Raise ``UserError`` when the memory cannot hold even one frame of a render. What an engine takes of its own is not in it."""
    clip, available_bytes = request.clip, available_memory_bytes()
    frame_bytes = PREVIEW_MEMORY_BYTES_PER_PIXEL * clip.width * clip.height
    if available_bytes is not None and frame_bytes + _reference_bytes(request) > available_bytes:
        raise UserError(
            f"A preview needs about {_megabytes(frame_bytes + _reference_bytes(request))} of memory and "
            f"{_megabytes(available_bytes)} are free; close other programs or use a smaller clip."
        )


def _reference_bytes(request: InsertionRequest) -> int:
    pixels = sum(each.hw[0] * each.hw[1] for layer in request.layers for each in layer.references)
    return REFERENCE_MEMORY_BYTES_PER_PIXEL * pixels


def _pixels(request: InsertionRequest) -> int:
    """Pixels of all frames together."""
    return request.num_frames * request.clip.width * request.clip.height


def _seconds(request: InsertionRequest, lossless: bool, has_layer: bool) -> float:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    work_s = 1 / (LOSSLESS_PIXELS_PER_S if lossless else H264_PIXELS_PER_S) + (1 / LAYER_PIXELS_PER_S if has_layer else 0)
    return START_S + _pixels(request) * work_s / min(cores, MAX_USEFUL_CORES)


def _memory_bytes(request: InsertionRequest, lossless: bool, has_layer: bool) -> int:
    per_pixel = LOSSLESS_MEMORY_BYTES_PER_PIXEL if lossless else H264_MEMORY_BYTES_PER_PIXEL
    per_pixel += LAYER_MEMORY_BYTES_PER_PIXEL if has_layer else 0
    frames = per_pixel * request.clip.width * request.clip.height
    return int(BASE_MEMORY_BYTES + frames + _reference_bytes(request))


def _what_would_fit(request: InsertionRequest, lossless: bool, has_layer: bool, available_bytes: int) -> str:
    """The change that makes a render fit into the memory, the smallest one first."""
    if has_layer and _memory_bytes(request, lossless, False) <= available_bytes:
        return "render without the layer of its own, or close other programs"
    if not lossless and _memory_bytes(request, True, has_layer) <= available_bytes:
        return "render lossless, which takes less, or close other programs"
    pixels = request.clip.width * request.clip.height
    fixed = _memory_bytes(request, True, False) - LOSSLESS_MEMORY_BYTES_PER_PIXEL * pixels
    fitting = (available_bytes - fixed) / H264_MEMORY_BYTES_PER_PIXEL
    if fitting < 64 * 64:
        return "close other programs"
    scale = (fitting / pixels) ** 0.5
    width, height = int(request.clip.width * scale) // 2 * 2, int(request.clip.height * scale) // 2 * 2
    return f"use a clip of at most {width}x{height}, or close other programs"


def _output_bytes(clip: Clip, num_frames: int, lossless: bool) -> int:
    """H.264 takes about what the source took, within bounds; FFV1 about half of the raw samples."""
    pixels = clip.width * clip.height * num_frames
    if lossless:
        return int(pixels * _sample_bytes(clip.pixel_format) * LOSSLESS_SHARE)
    source_bytes = clip.path.stat().st_size * num_frames / clip.num_frames
    low, high = H264_BYTES_PER_PIXEL
    return int(min(max(source_bytes, pixels * low), pixels * high))


def _sample_bytes(pixel_format: str) -> float:
    """Bytes that a pixel takes in memory, over all planes."""
    is_full = any(part in pixel_format for part in ("444", "rgb", "gbr"))
    samples = 3.0 if is_full else 2.0 if "422" in pixel_format else 1.5
    return samples * (2 if any(depth in pixel_format for depth in ("p10", "p12", "p16")) else 1)


def _check_disk(plan: Plan, output_path: Path, layer_alpha_path: Path | None) -> None:
    """Every folder that receives a file must hold all that goes onto its disk."""
    needed: dict[int, float] = {}
    for path, size in ((output_path, plan.output_bytes), (layer_alpha_path, plan.layer_bytes)):
        if path is None:
            continue
        folder = next(each for each in path.absolute().parents if each.is_dir())
        disk = folder.stat().st_dev
        needed[disk] = needed.get(disk, DISK_RESERVE_BYTES) + size
        free = shutil.disk_usage(folder).free
        if needed[disk] > free:
            fitting = int(plan.num_frames * (free - DISK_RESERVE_BYTES) / (plan.output_bytes + plan.layer_bytes))
            shorter = f"render at most {fitting} frames" if fitting >= 1 else "choose another folder"
            raise UserError(
                f"The disk is too full for {path.name!r}: about {_megabytes(needed[disk])} are needed and {_megabytes(free)} free; "
                f"free some space or {shorter}."
            )


# -- what the machine has ---------------------------------------------------------------------------------------------------------


def available_memory_bytes() -> int | None:
    """Memory that this process may still take: what the system says is available, less where a container limits it."""
    limits = [value for value in (_system_available(), _container_available(Path("/sys/fs/cgroup"))) if value is not None]
    return min(limits) if limits else None


def _system_available() -> int | None:
    """``MemAvailable`` where the system has it (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container_available(folder: Path) -> int | None:
    """What a container's memory limit (control groups, version 2 or 1) leaves; the file cache counts as free."""
    for limit_name, used_name, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (folder / limit_name).read_text(encoding="ascii").strip()
            used = int((folder / used_name).read_text(encoding="ascii"))
            stat = (folder / limit_name).with_name("memory.stat").read_text(encoding="ascii")
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) >= 1 << 60:
            return None
        cached = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{cache_key} "))
        return max(0, int(limit) - used + cached)
    return None


def _megabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _duration(seconds: float) -> str:
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole / 3600:.1f} h"
