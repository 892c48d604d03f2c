"""How much of each pixel is not the source: the alpha of what was laid over it, as a grey video without loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError
from ..types import Clip, ColorTags, Frame
from .writer import _Writer, ffv1_slices


class MatteWriter(_Writer):
    """``Frame.layer``'s alpha as FFV1 in ``.mkv``, 8 bit grey of full range (255 = nothing of the source shows), at the clip's size
    and timestamps, without sound. A context manager; see ``VideoWriter``."""

    def __init__(self, path: Path | str, clip: Clip, frame_range: tuple[int, int]) -> None:
        super().__init__(path, clip, frame_range, None)
        if self._format != "matroska":
            raise UserError(f"{self.path.name} cannot hold a matte; give it a name that ends in .mkv.")
        self._colors = ColorTags(2, 2, 2, 2)

    def _open_streams(self) -> None:
        options = {"level": "3", "slices": str(ffv1_slices(*self.clip.hw)), "slicecrc": "1", "g": "1"}
        self._stream = self._add_video("ffv1", "gray", self.clip.hw, self._colors, options)

    def _encode(self, frame: Frame) -> None:
        import av

        matte = np.zeros(self.clip.hw, np.uint8)
        height, width = frame.layer_patch.shape[:2]
        matte[frame.y0 : frame.y0 + height, frame.x0 : frame.x0 + width] = frame.layer_patch[..., 3]
        picture = av.VideoFrame.from_ndarray(matte, format="gray")
        for packet in self._packets(self._stamp(picture, frame.frame_index, self._colors)):
            self._output.mux(packet)
