"""From a clip's pixels and prompts to what SAM 2 reads, and from its masks back: the one pair of converters.

Convention: the model sees the picture stretched to a square of ``size`` pixels, aspect not kept. Coordinates are continuous on
both sides (pixel j covers [j, j + 1)), so a point is scaled by ``size`` / width and ``size`` / height; the model names pixels by
index and adds half a pixel itself, which is taken off here.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..types import Array, Prompt

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pictures that the encoder was trained on, red, green, blue, in 0..1."""

BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 0, 1, 2, 3
"""What the model calls a point."""


def encode_image(image: Array, size: int, device: torch.device) -> torch.Tensor:
    """``image`` u8[H,W,3], upright RGB, as f32[1,3,size,size] on ``device``: bilinear with anti-aliasing, then normalised."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]  # u8[1,3,H,W]
    pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    scaled = pixels.to(device).to(torch.float32) / 255
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (scaled - mean) / std


def encode_prompt(prompt: Prompt, hw: tuple[int, int], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points f32[1,1,N,2] (x, y) and their labels i32[1,1,N], the box's two corners first, for pictures of size ``hw``."""
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    if prompt.box_px is not None:
        x0, y0, x1, y1 = prompt.box_px
        points += [(x0, y0), (x1, y1)]
        labels += [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]
    points += [(click.x_px, click.y_px) for click in prompt.clicks]
    labels += [FOREGROUND if click.is_foreground else BACKGROUND for click in prompt.clicks]
    scale = np.array([size / hw[1], size / hw[0]])
    coordinates = (np.array(points, np.float64) * scale - 0.5).astype(np.float32)
    return torch.from_numpy(coordinates)[None, None], torch.tensor(labels, dtype=torch.int32)[None, None]


def decode_mask(mask_logits: torch.Tensor, hw: tuple[int, int]) -> Array:
    """The model's mask logits [1,1,h,w], of any size and precision, as f32[H,W] at the clip's size ``hw``."""
    resized = F.interpolate(mask_logits.to("cpu", torch.float32), size=hw, mode="bilinear", align_corners=False)
    logits: Array = resized[0, 0].numpy()
    return logits
