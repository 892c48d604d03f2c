"""Checking a file before anything else touches it: a short-lived child process looks at it, this process only reads its answer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..types import AudioStream, Clip, ColorTags
from .container import open_input


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What a clip may be. The defaults suit a person's own machine; a public server sets smaller ones.

    ``memory_bytes``, ``cpu_s`` and ``timeout_s`` (wall time) bound the child process that checks the file.
    """

    max_width: int = 8192
    max_height: int = 8192
    max_pixels: int = 36_000_000
    max_frames: int = 216_000
    max_duration_s: float = 3600.0
    max_fps: float = 240.0
    max_bytes: int = 64 << 30
    memory_bytes: int = 1_500_000_000
    cpu_s: int = 300
    timeout_s: float = 600.0


CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.media._probe import main; main(sys.argv[2:])"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def probe_clip(path: Path | str, limits: MediaLimits = MediaLimits()) -> Clip:
    """Check a video file and answer a handle to it.

    Opening, demuxing and the first decode happen in a child process with little memory, time and no right to write. Raises
    ``UserError`` for everything that is not a readable, progressive, opaque SDR clip with square pixels within ``limits``.
    A clip that ends before its container promised is answered with ``promised_frames`` set; see ``check_complete``.
    """
    path = Path(path)
    _check_file(path, limits)
    child = _start_child(path, limits)
    try:
        sha256 = file_sha256(path)
        answer = _finish_child(child, path, limits)
    finally:
        child.kill()
        child.wait()
    return _build_clip(path, sha256, answer)


def check_complete(clip: Clip, frame_range: tuple[int, int]) -> None:
    """Raise ``UserError`` if the clip is cut off, unless ``frame_range`` (half-open) stays before its last good frame."""
    if clip.promised_frames is None or frame_range[1] < clip.num_frames:
        return
    raise UserError(
        f"{clip.path.name} is cut off: its container promises {clip.promised_frames} frames and the last good one is frame "
        f"{clip.num_frames - 1}; repair the file or set a range that stays before that frame."
    )


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises ``UserError`` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{Path(path).name} cannot be read: {(error.strerror or 'unknown error').lower()}.") from None


def read_metadata(path: Path | str) -> dict[str, str]:
    """The container's own tags, keys in lower case (Matroska stores them in upper case). Raises ``UserError``."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path.name} does not exist; check the path.")
    with open_input(path, MediaLimits().max_pixels) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


def _check_file(path: Path, limits: MediaLimits) -> None:
    if not path.exists():
        raise UserError(f"{path.name} does not exist; check the path.")
    if not path.is_file():
        raise UserError(f"{path.name} is not a file; choose a video file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path.name} may not be read; check its permissions.")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path.name} is empty; choose a video file.")
    if size > limits.max_bytes:
        raise UserError(f"{path.name} has {size / 1e6:.0f} MB and the limit is {limits.max_bytes / 1e6:.0f} MB; cut or shrink it.")


def _start_child(path: Path, limits: MediaLimits) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", CHILD, str(PACKAGE_ROOT), str(path.absolute()), json.dumps(asdict(limits))]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, close_fds=True
    )


def _finish_child(child: subprocess.Popen[bytes], path: Path, limits: MediaLimits) -> dict[str, Any]:
    """The child's answer. Raises ``UserError`` with its sentence, or with one for a child that died or took too long."""
    try:
        output, _ = child.communicate(timeout=limits.timeout_s)
    except subprocess.TimeoutExpired:
        raise UserError(f"{path.name} took too long to check; convert it to a plain MP4 first.") from None
    try:
        answer = json.loads(output)
    except ValueError:
        raise UserError(
            f"{path.name} could not be checked within the limits on memory and time; it is damaged or too large."
        ) from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def _build_clip(path: Path, sha256: str, answer: dict[str, Any]) -> Clip:
    return Clip(
        path=path,
        sha256=sha256,
        width=answer["width"],
        height=answer["height"],
        fps=Fraction(*answer["fps"]),
        num_frames=len(answer["timestamps"]),
        timestamps=np.array(answer["timestamps"], np.int64),
        time_base=Fraction(*answer["time_base"]),
        pixel_format=answer["pixel_format"],
        codec=answer["codec"],
        rotation_deg=answer["rotation_deg"],
        color=ColorTags(*answer["color"]),
        audio_streams=tuple(AudioStream(*stream) for stream in answer["audio_streams"]),
        promised_frames=answer["promised_frames"],
    )
