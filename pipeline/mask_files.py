"""Masks as files for other programs: a video (FFV1 grey without loss, or H.264), or a PNG for every frame. 255 is the thing.

``.mkv`` and PNG are exact. ``.mp4`` is what everything plays, of even size (the last row or column repeated), to be cut at 128.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .media.writer import _Writer, ffv1_slices, x264_options
from .types import Array, Clip, ColorTags, Frame

if TYPE_CHECKING:
    from .types import DecodedFrame

MASK_SUFFIXES = (".mkv", ".mp4", ".zip")
"""``.zip`` holds a PNG for every frame."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNTAGGED = ColorTags(2, 2, 2, 2)


def write_mask_file(path: Path, clip: Clip, frame_range: tuple[int, int], masks: Iterable[Array]) -> None:
    """Write the masks bool[H,W] of the frames of ``frame_range``, in order, to ``path``; its suffix says how.

    The file appears under its name only when it is whole. Raises ``UserError`` for another suffix, a full disk or a folder that
    cannot be written to.
    """
    suffix = path.suffix.lower()
    if suffix not in MASK_SUFFIXES:
        raise UserError(f"{path.name} cannot hold masks; give it a name that ends in {' or '.join(MASK_SUFFIXES)}.")
    if suffix == ".zip":
        _write_pictures(path, frame_range, masks)
        return
    writer = (_ExactWriter if suffix == ".mkv" else _PlayableWriter)(path, clip, frame_range, None)
    with writer:
        for frame_index, mask in zip(range(*frame_range), masks, strict=True):
            writer.write(_grey_frame(frame_index, mask))


def encode_png(mask: Array) -> bytes:
    """``mask`` bool[H,W] as a PNG of 0 and 255."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255, "L").save(buffer, "PNG")
    return buffer.getvalue()


def _write_pictures(path: Path, frame_range: tuple[int, int], masks: Iterable[Array]) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    digits = max(5, len(str(frame_range[1])))
    try:
        with zipfile.ZipFile(unfinished, "w") as pack:
            for frame_index, mask in zip(range(*frame_range), masks, strict=True):
                pack.writestr(zipfile.ZipInfo(f"mask-{frame_index:0{digits}d}.png", _EPOCH), encode_png(mask))
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path.name} could not be written; free some space or choose another folder.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _grey_frame(frame_index: int, mask: Array) -> Frame:
    """A frame whose layer's alpha is the mask; the writers below look at nothing else."""
    hw = mask.shape
    layer = np.zeros((*hw, 4), np.uint8)
    layer[..., 3] = mask.astype(np.uint8) * 255
    nothing: Any = None
    source: DecodedFrame = nothing
    return Frame(frame_index, layer[..., :3], layer, mask, source)


class _ExactWriter(_Writer):
    """8 bit grey of full range as FFV1."""

    def _open_streams(self) -> None:
        options = {"level": "3", "slices": str(ffv1_slices(*self.clip.hw)), "slicecrc": "1", "g": "1"}
        self._stream = self._add_video("ffv1", "gray", self.clip.hw, _UNTAGGED, options)

    def _encode(self, frame: Frame) -> None:
        import av

        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.layer_patch[..., 3]), format="gray")
        self._mux(self._stamp(picture, frame.frame_index, _UNTAGGED))

    def _mux(self, picture: Any) -> None:
        for packet in self._packets(picture):
            self._output.mux(packet)


class _PlayableWriter(_ExactWriter):
    """White on black as H.264, limited range, even size."""

    def _open_streams(self) -> None:
        height, width = self.clip.hw
        self._even_hw = (height + height % 2, width + width % 2)
        options = {**x264_options(), "crf": "12"}
        self._tags = ColorTags(1, 1, 1, 1) if height >= 720 else ColorTags(6, 6, 6, 1)
        self._stream = self._add_video("libx264", "yuv420p", self._even_hw, self._tags, options)

    def _encode(self, frame: Frame) -> None:
        import av

        mask = frame.layer_patch[..., 3]
        height, width = self._even_hw
        luma = np.pad(mask, ((0, height - mask.shape[0]), (0, width - mask.shape[1])), mode="edge")
        planes = np.full((height * 3 // 2, width), 128, np.uint8)
        planes[:height] = np.where(luma > 0, 235, 16)
        self._mux(self._stamp(av.VideoFrame.from_ndarray(planes, format="yuv420p"), frame.frame_index, self._tags))
