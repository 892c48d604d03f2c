"""Filling a hole in a picture, where nothing says what was there: the surroundings, carried inward (Telea 2004)."""

from __future__ import annotations

import cv2
import numpy as np

from .types import Array

_MAX_SIDE_PX = 480
"""A larger picture is filled at a smaller size: what is made up is smooth anyway."""


def fill_hole(rgb: Array, is_known: Array, hole: Array) -> Array:
    """``rgb`` f32[h,w,3] in 0..255 with the pixels of ``hole`` bool[h,w] made up from those of ``is_known`` bool[h,w].

    Where nothing is known the hole becomes grey.
    """
    filled = rgb.copy()
    if not is_known.any():
        filled[hole] = 128.0
        return filled
    height, width = hole.shape
    scale = min(1.0, _MAX_SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = np.clip(rgb + 0.5, 0, 255).astype(np.uint8)
    if scale < 1:
        share = cv2.resize(is_known.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        known = np.where(is_known[..., None], image, np.uint8(0))
        small = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-3)[..., None]
        image, is_known = np.clip(small + 0.5, 0, 255).astype(np.uint8), share > 0.5
    made = cv2.inpaint(image, (~is_known).astype(np.uint8), 5, cv2.INPAINT_TELEA)
    if scale < 1:
        made = cv2.resize(made, (width, height), interpolation=cv2.INTER_CUBIC)
    filled[hole] = made[hole]
    return filled
