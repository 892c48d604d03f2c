"""Footage, pictures and cut-outs for training tests, made on the spot; and a configuration small enough to take steps in a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.training.config import TrainConfig, read_config
from pipeline.videoanydoor import scales
from pipeline.videoanydoor.scales import build_scale
from tests.tiny import make_clip

TINY: dict[str, Any] = {
    "scale": "pico",
    "steps": 3,
    "batch_size": 1,
    "num_frames": 3,
    "max_stride": 1,
    "footage_side": 48,
    "cutout_side": 32,
    "num_points": 3,
    "learning_rate": 0.001,
    "save_every": 100,
    "log_every": 1,
    "sources": [{"kind": "composites", "footage": "footage", "cutouts": "cutouts"}],
}


def use_tiny_scales(set_item: Callable[[dict[str, Any], str, Any], None]) -> None:
    """Put a scale of two narrow levels and 32 px in the place of ``nano`` and ``pico``."""
    tiny = replace(build_scale(widths=(16, 32), context_dim=16, num_blocks=1, groups=8), size=32)
    for name in ("nano", "pico"):
        set_item(scales.SCALES, name, tiny)


def make_cutout(path: Path, color: tuple[int, int, int] = (220, 60, 30), size: int = 48) -> None:
    """A disc with a pattern on a transparent ground."""
    y, x = np.mgrid[:size, :size] + 0.5
    inside = np.hypot(x - size / 2, y - size / 2) < size * 0.42
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[..., :3] = color
    rgba[..., 1] += (((x // 8 + y // 8) % 2) * 60).astype(np.uint8)
    rgba[..., 3] = inside * 255
    Image.fromarray(rgba).save(path)


def make_material(root: Path) -> Path:
    """Folders ``footage``, ``cutouts`` and ``pictures`` under ``root``."""
    for name in ("footage", "cutouts", "pictures"):
        (root / name).mkdir(parents=True)
    make_clip(root / "footage" / "a.mp4", num_frames=6, hw=(64, 80))
    make_cutout(root / "cutouts" / "disc.png")
    make_cutout(root / "cutouts" / "other.png", (40, 90, 200), 40)
    picture = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(picture).resize((128, 96), Image.Resampling.BICUBIC).save(root / "pictures" / "p.png")
    return root


def tiny_config(root: Path, **changes: Any) -> TrainConfig:
    """``TINY`` with changes, read back from a file beside the material."""
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False), encoding="utf-8")
    return read_config(path)
