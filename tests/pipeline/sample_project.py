"""A small project on disk, and ways to change its document; shared by the tests of project, render, preflight and cli."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.types import Frame, InsertionRequest, Progress

from ..tiny import make_clip

NUM_FRAMES, HW = 12, (64, 96)

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "clip": {"path": "clip.mp4"},
    "layers": [
        {
            "name": "ball",
            "kind": "insert",
            "references": [{"path": "ball.png", "points": {"top": [0.5, 0.2], "left": [0.2, 0.5]}}],
            "boxes": {"0": {"box": [0.1, 0.2, 0.4, 0.8]}, "11": {"box": [0.5, 0.2, 0.8, 0.8]}},
            "trajectories": [{"point": "top", "keys": {"0": [0.25, 0.35], "11": [0.65, 0.35]}}],
            "blend": {"harmonize": 0, "shadow": 0, "motion_blur": 0, "grain": 0, "feather_px": 0},
        }
    ],
}


def write_media(folder: Path) -> Path:
    """``clip.mp4`` with sound and ``ball.png``, a red disk with its own alpha."""
    make_clip(folder / "clip.mp4", num_frames=NUM_FRAMES, hw=HW, audio=("aac",))
    y, x = np.mgrid[:40, :40] + 0.5
    ball = np.zeros((40, 40, 4), np.uint8)
    ball[..., 0], ball[..., 3] = 220, 255 * (np.hypot(x - 20, y - 20) < 16)
    Image.fromarray(ball).save(folder / "ball.png")
    return folder


def write_project(folder: Path, document: dict[str, Any] = DOCUMENT) -> Path:
    path = folder / "project.json"
    path.write_text(json.dumps(document))
    return path


def changed(document: dict[str, Any], *steps: tuple[Any, ...]) -> dict[str, Any]:
    """A copy with changes: each step is a path of keys and indices and then the new value, or ``...`` to take the key away."""
    document = copy.deepcopy(document)
    for *path, value in steps:
        owner: Any = document
        for key in path[:-1]:
            owner = owner[key]
        if value is ...:
            del owner[path[-1]]
        elif isinstance(owner, list) and path[-1] == len(owner):
            owner.append(value)
        else:
            owner[path[-1]] = value
    return document


class FakeEngine:
    """Paints the frame's upper left quarter white. Counts the frames that it made, and notices being closed."""

    def __init__(self, fail_at: int | None = None, silent: bool = False) -> None:
        self.fail_at, self.silent = fail_at, silent
        self.made: list[int] = []
        self.is_closed = False

    def run(self, request: InsertionRequest, report: Any, warn: Any) -> Iterator[Frame]:
        from pipeline.media import read_frames

        warn("a fake warning")
        try:
            for step, source in enumerate(read_frames(request.clip, *request.frame_range), start=1):
                if source.frame_index == self.fail_at:
                    raise RuntimeError("the engine broke")
                touched = np.zeros(source.image.shape[:2], bool)
                touched[: touched.shape[0] // 2, : touched.shape[1] // 2] = True
                image = np.where(touched[..., None], np.uint8(255), source.image)
                layer = np.concatenate([image * touched[..., None], 255 * touched[..., None].astype(np.uint8)], axis=2)
                self.made.append(source.frame_index)
                if not self.silent:
                    report(Progress("faking", step, request.num_frames, image))
                yield Frame(source.frame_index, image, layer, touched, source)
        finally:
            self.is_closed = True
