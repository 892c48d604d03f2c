"""The ID extractor (VideoAnydoor, Sec. 3.1): DINOv2 tokens of the background-free, centred reference.

Each reference gives its class token and all patch tokens; a linear layer and a norm bring them to the width of the U-Net's context,
where they stand in place of text tokens. Several references are simply more tokens. For classifier-free guidance the null identity
is DINOv2's answer to an all-zero image, not zero tokens (AnyDoor).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from .weights import StrictModel, set_trainable, zero_module

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BACKBONE_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "qkv_bias",
    "layerscale_value",
    "use_swiglu_ffn",
)
"""The entries of a published DINOv2 configuration that decide its architecture."""


class Identity(NamedTuple):
    """``tokens`` [B, R*(1+P), D]: class and patch tokens of R references, reference by reference; ``pooled`` [B, E] or None."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None


class IdExtractor(StrictModel):
    """Reference images [B, R, 3, S, S] in [-1, 1] (white ground, object centred) to ``Identity``.

    ``backbone_config``: the ``BACKBONE_KEYS`` of a DINOv2 configuration. ``context_dim`` D: width of the U-Net's context.
    ``pooled_dim`` E: width of SDXL's pooled text embedding, which a zero-initialised layer makes from the first class token; None
    without one. ``image_size`` S: input side, a multiple of the patch size. ``num_trainable_blocks``: of DINOv2's last blocks.
    """

    @register_to_config
    def __init__(
        self,
        backbone_config: dict[str, Any],
        context_dim: int = 768,
        pooled_dim: int | None = None,
        image_size: int = 224,
        num_trainable_blocks: int = 2,
    ) -> None:
        super().__init__()
        if image_size % backbone_config["patch_size"]:
            raise ValueError(f"image_size {image_size} must be a multiple of the patch size {backbone_config['patch_size']}")
        self.backbone = Dinov2Model(Dinov2Config(**backbone_config, use_mask_token=False))
        self.projection = nn.Linear(backbone_config["hidden_size"], context_dim)
        self.norm = nn.LayerNorm(context_dim)
        self.pooled_projection = None if pooled_dim is None else zero_module(nn.Linear(backbone_config["hidden_size"], pooled_dim))

    @classmethod
    def from_backbone(
        cls, backbone: Dinov2Model, context_dim: int, pooled_dim: int | None = None, num_trainable_blocks: int = 2
    ) -> IdExtractor:
        """Around published DINOv2 weights, with a fresh projection. The input side is 16 patches (224 px for 14 px patches)."""
        config = {key: getattr(backbone.config, key) for key in BACKBONE_KEYS}
        image_size = 16 * int(config["patch_size"])
        extractor = cls(config, context_dim, pooled_dim, image_size, num_trainable_blocks)
        weights = {key: value for key, value in backbone.state_dict().items() if key != "embeddings.mask_token"}
        extractor.backbone.load_state_dict(weights)
        return extractor.eval()

    @property
    def tokens_per_reference(self) -> int:
        """1 + P."""
        return 1 + (int(self.config.image_size) // int(self.config.backbone_config["patch_size"])) ** 2

    def forward(self, images: torch.Tensor) -> Identity:
        """Identity of references [B, R, 3, S, S] in [-1, 1]."""
        batch_size, count = images.shape[:2]
        size = self.config.image_size
        if images.shape[2:] != (3, size, size):
            raise ValueError(f"references must be [B, R, 3, {size}, {size}], got {tuple(images.shape)}")
        mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
        std = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
        pixels = (images.flatten(0, 1) * 0.5 + 0.5 - mean) / std
        features = self.backbone(pixel_values=pixels).last_hidden_state  # [B*R, 1+P, H]
        tokens = self.norm(self.projection(features))  # [B*R, 1+P, D]
        tokens = tokens.reshape(batch_size, count * tokens.shape[1], tokens.shape[2])
        if self.pooled_projection is None:
            return Identity(tokens, None)
        first_class = features[:, 0].reshape(batch_size, count, -1)[:, 0]
        return Identity(tokens, self.pooled_projection(first_class))

    def null(self, batch_size: int, num_references: int, device: torch.device | None = None) -> Identity:
        """The null identity: that of ``num_references`` all-zero (black) images. ``device``: where to run, if not where it is."""
        size = self.config.image_size
        black = torch.full((1, 1, 3, size, size), -1.0, device=device or self.device, dtype=self.dtype)
        tokens, pooled = self(black)
        tokens = tokens.repeat(batch_size, num_references, 1)
        return Identity(tokens, None if pooled is None else pooled.repeat(batch_size, 1))

    def train_as_in_paper(self) -> None:
        """Freeze DINOv2 but for its last ``num_trainable_blocks`` blocks and its norm; train the projections."""
        set_trainable(self, True)
        set_trainable(self.backbone.embeddings, False)
        blocks = self.backbone.encoder.layer
        for block in blocks[: len(blocks) - self.config.num_trainable_blocks]:
            set_trainable(block, False)
