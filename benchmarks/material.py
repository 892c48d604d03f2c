"""Clips and projects that the benchmarks render: given by the caller, or made from the clip of the worked example."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "examples"
PLAIN = {"harmonize": 0, "shadow": 0, "motion_blur": 0, "grain": 0, "feather_px": 0, "opacity": 1}
EVERYTHING = {"harmonize": 1, "shadow": 0.7, "shadow_length": 0.6, "motion_blur": 0.5, "grain": 1, "feather_px": 2, "opacity": 0.95}


def ffmpeg_path() -> str:
    """The ffmpeg binary that imageio-ffmpeg carries."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def make_clip(source: Path, out: Path, *, width: int, height: int, num_frames: int, rate: str = "25") -> None:
    """``source`` looped, scaled and encoded as a camera would (H.264, long groups of pictures) to exactly ``num_frames`` frames."""
    fill = f"scale={width}:{height}:force_original_aspect_ratio=increase:flags=bicubic,crop={width}:{height},setsar=1,fps={rate}"
    command = [
        ffmpeg_path(),
        "-v",
        "error",
        "-y",
        "-stream_loop",
        "-1",
        "-i",
        str(source),
        "-vf",
        fill,
        "-frames:v",
        str(num_frames),
    ]
    command += ["-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "17", "-pix_fmt", "yuv420p", str(out)]
    subprocess.run(command, check=True)


def make_object(out: Path, side: int = 512) -> None:
    """A soft-edged, textured cut-out with its own alpha."""
    import numpy as np
    from PIL import Image

    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    radius = np.hypot(x, y) + 0.03 * np.cos(5 * np.arctan2(y, x))
    alpha = np.clip((0.45 - radius) * side / 3, 0, 1)
    colour = np.stack([200 - 150 * radius, 90 + 200 * np.abs(np.sin(18 * x)), 60 + 160 * np.abs(np.cos(15 * y))], axis=2)
    Image.fromarray(np.dstack([colour, 255 * alpha]).clip(0, 255).astype(np.uint8), "RGBA").save(out)


def make_project(clip: Path, reference: Path, num_frames: int, blend: dict, *, turn_deg: float = 0, growth: float = 1) -> dict:
    """An object 0.35 of the picture high that crosses a 16:9 picture, perhaps with a turn and some growth."""
    height = 0.35
    width = height * 0.5625
    start = [0.10, 0.50, 0.10 + width, 0.50 + height]
    end = [0.60, 0.20, 0.60 + width * growth, 0.20 + height * growth]
    boxes = {"0": {"box": start}, str(num_frames - 1): {"box": end, "rotation_deg": turn_deg}}
    layer = {"name": "object", "kind": "insert", "references": [{"path": reference.name}], "boxes": boxes, "blend": blend}
    return {"version": 1, "clip": {"path": clip.name}, "layers": [layer]}


def write_project(folder: Path, document: dict, name: str) -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path
