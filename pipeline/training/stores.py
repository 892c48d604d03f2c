"""Frames that do not lie in a video file of their own: folders of pictures, and every n-th frame of a video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..images import read_image
from ..media import FrameStore, probe_clip
from ..types import Array, Clip, DecodedFrame

STORE_BYTES = 128 << 20


def _handle(name: Path, width: int, height: int, count: int) -> Clip:
    """A clip handle for code that asks for size and length."""
    timestamps = np.arange(count, dtype=np.int64)
    return Clip(name, "", width, height, Fraction(8), count, timestamps, Fraction(1, 8), "gray")


class PictureStore(FrameStore):
    """Pictures of one size, in order, as frames. Raises ``UserError`` for one that is damaged or of another size."""

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise UserError("There are no pictures in this clip; remove it.")
        height, width = read_image(paths[0]).rgb.shape[:2]
        super().__init__(_handle(paths[0].parent, width, height, len(paths)), STORE_BYTES)
        self._paths = tuple(paths)

    def _decode(self, frame_index: int) -> DecodedFrame:
        import cv2

        path = self._paths[frame_index]
        image = read_image(path).rgb
        if image.shape[:2] != self.clip.hw:
            raise UserError(f"{path.name} is of another size than the clip's first picture; remove the clip.")

        def to_rgb(x0: int, y0: int, x1: int, y1: int) -> Array:
            return np.ascontiguousarray(image[y0:y1, x0:x1])

        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        frame = DecodedFrame(frame_index, frame_index, self.clip.hw, (gray,), to_rgb)
        self._keep(frame)
        return frame


class SelectedStore(FrameStore):
    """Every ``step``-th frame of a video, at most ``count`` of them: the frames that somebody has annotated."""

    def __init__(self, path: Path, step: int, count: int) -> None:
        video = probe_clip(path)
        kept = min(count, 1 + (video.num_frames - 1) // step)
        super().__init__(_handle(path, video.width, video.height, kept), STORE_BYTES)
        self._video, self._step = FrameStore(video, STORE_BYTES), step

    def _decode(self, frame_index: int) -> DecodedFrame:
        found = self._video.frame(frame_index * self._step)
        frame = DecodedFrame(frame_index, frame_index, self.clip.hw, (found.planes[0],), found.to_rgb)
        self._keep(frame)
        return frame

    def close(self) -> None:
        """Release the video too."""
        super().close()
        self._video.close()
