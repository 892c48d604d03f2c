"""Scores by other networks: CLIP-Score and DINO-Score (VideoAnydoor, Sec. 4.1, after Custom Diffusion), where their weights are.

Both are the mean cosine, times a hundred, between every edited frame, cut to the thing's box, and the reference on white. The
paper does not say which backbones it uses; ours are named with every figure. Weights are looked for in a local folder or in the
local cache of published models, never downloaded here; what is missing is skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..types import Array, Reference

if TYPE_CHECKING:
    import torch

SIDE_PX = 224
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PUBLISHED = {"CLIP": "openai/clip-vit-base-patch32", "DINO": "facebook/dinov2-base"}
"""The score's name and the backbone that makes it."""


class Encoder:
    """A network that turns pictures into unit vectors."""

    def __init__(self, name: str, backbone: str, network: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        self.name, self.backbone, self._network = name, backbone, network
        self._mean, self._std = np.array(mean, np.float32), np.array(std, np.float32)

    def encode(self, pictures: Sequence[Array]) -> Array:
        """Unit vectors f32[N,D] of square-padded pictures u8[H,W,3]."""
        import torch

        values = np.stack([(fit_square(each).astype(np.float32) / 255 - self._mean) / self._std for each in pictures])
        with torch.no_grad():
            found = self._pooled(torch.from_numpy(values).permute(0, 3, 1, 2))
        vectors: Array = torch.nn.functional.normalize(found.float(), dim=-1).numpy()
        return vectors

    def _pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        made = self._network(pixel_values=pixels)
        pooled: torch.Tensor = made.image_embeds if hasattr(made, "image_embeds") else made.last_hidden_state[:, 0]
        return pooled


def open_encoders(folder: Path | None) -> tuple[list[Encoder], list[str]]:
    """The encoders whose weights are here, and a sentence for each that is not. ``folder`` may hold ``CLIP`` and ``DINO``."""
    from transformers import CLIPVisionModelWithProjection, Dinov2Model

    recipes = {
        "CLIP": (CLIPVisionModelWithProjection, CLIP_MEAN, CLIP_STD),
        "DINO": (Dinov2Model, IMAGENET_MEAN, IMAGENET_STD),
    }
    found, missing = [], []
    for name, (network, mean, std) in recipes.items():
        own = None if folder is None else folder / name
        place = str(own) if own is not None and own.is_dir() else PUBLISHED[name]
        try:
            loaded = network.from_pretrained(place, local_files_only=True, use_safetensors=True).eval()
        except (OSError, ValueError):
            missing.append(f"{name}-Score is left out: the weights of {PUBLISHED[name]} are not on this machine.")
            continue
        found.append(Encoder(name, PUBLISHED[name] if own is None or not own.is_dir() else own.name, loaded, mean, std))
    missing.append("LPIPS is left out: its weights come with a package that is not among the requirements.")
    return found, missing


def similarity(encoder: Encoder, crops: Sequence[Array], reference: Reference) -> float:
    """100 x the mean cosine of the edited frames' crops and the reference on white; ``nan`` without crops."""
    if not crops:
        return float("nan")
    alpha = reference.alpha[..., None]
    on_white = np.rint(reference.image * alpha + 255 * (1 - alpha)).astype(np.uint8)
    vectors = encoder.encode([*crops, on_white])
    return float(100 * (vectors[:-1] @ vectors[-1]).mean())


def fit_square(picture: Array) -> Array:
    """The picture on a white square of ``SIDE_PX``."""
    import cv2

    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    method = cv2.INTER_AREA if side > SIDE_PX else cv2.INTER_CUBIC
    return cv2.resize(square, (SIDE_PX, SIDE_PX), interpolation=method)
