"""A wall that a moving camera looks at, and a disc that crosses it: the truth behind the disc is known."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from pipeline import masks, media
from pipeline.types import BlendSettings, Clip, InsertionRequest, Layer, MaskTrack, SamplingConfig

from ...tiny import make_clip
from .scenes import paint_texture

HW = (96, 144)
NUM_FRAMES = 40
PLAIN = BlendSettings(grain=0)
WALL = cv2.GaussianBlur(paint_texture((160, 260), seed=5), (0, 0), 1.2)
DISC_RADIUS_PX = 13


def truth(frame_index: int) -> np.ndarray:
    """The wall alone, u8[H,W,3]: a slow pan with a little turn and zoom."""
    turn = cv2.getRotationMatrix2D((130, 80), 0.06 * frame_index, 1 + 0.0008 * frame_index)
    turn[:, 2] += [-58 - 0.55 * frame_index, -32 + 0.21 * frame_index]
    return cv2.warpAffine(WALL, turn, HW[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def disc_mask(frame_index: int) -> np.ndarray:
    """Where the disc is, bool[H,W]."""
    x, y = 30 + 2.1 * frame_index, 50 + 6 * np.sin(frame_index / 6)
    rows, cols = np.mgrid[: HW[0], : HW[1]] + 0.5
    return np.hypot(cols - x, rows - y) < DISC_RADIUS_PX


def picture(frame_index: int) -> np.ndarray:
    """The wall with the disc before it."""
    image = truth(frame_index)
    image[disc_mask(frame_index)] = (230, 30, 200)
    return image


def write_scene(folder: Path, num_frames: int = NUM_FRAMES, images=picture) -> Clip:
    path = make_clip(
        folder / "scene.mkv", num_frames=num_frames, hw=HW, fps=Fraction(25), codec="ffv1", pixel_format="yuv444p", images=images
    )
    return media.probe_clip(path)


def disc_track(clip: Clip, feather_px: float = 0.0) -> MaskTrack:
    return MaskTrack(HW, tuple(masks.encode_rle(disc_mask(index)) for index in range(clip.num_frames)), feather_px)


def make_removal(clip: Clip, frame_range: tuple[int, int] | None = None, **changes: object) -> InsertionRequest:
    layer = Layer("disc", "remove", target=disc_track(clip), blend=PLAIN, **changes)
    return InsertionRequest(clip, frame_range or (0, clip.num_frames), (layer,), SamplingConfig())


def psnr(image: np.ndarray, wanted: np.ndarray, where: np.ndarray) -> float:
    error = (image.astype(np.float64) - wanted)[where]
    return float(10 * np.log10(255**2 / max(1e-9, float((error**2).mean()))))
