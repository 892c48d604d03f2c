"""The published configurations of the parts, so that the full-size networks can be built with random weights and counted."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from transformers import Dinov2Config, Dinov2Model

from pipeline.videoanydoor.checkpoints import assemble, build_random, pooled_dim
from pipeline.videoanydoor.id_extractor import IdExtractor
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.scales import NANO

UNET2D: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 64,
        "in_channels": 9,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sdxl": {
        "sample_size": 128,
        "in_channels": 9,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
MOTION_ADAPTER: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": (320, 640, 1280, 1280), "use_motion_mid_block": False},
    "sdxl": {"block_out_channels": (320, 640, 1280), "use_motion_mid_block": False},
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
BACKBONE: dict[str, dict[str, Any]] = {
    "sd15": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518},
    "sdxl": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "image_size": 518, "use_swiglu_ffn": True},
}


def build_full_size(scale: str, device: str = "meta") -> VideoAnydoorPipeline:
    """The networks of ``sd15``, ``sdxl`` or ``nano`` with random weights, or without any memory on the device ``meta``."""
    with torch.device(device):
        if scale == "nano":
            return build_random(NANO, NANO.content, 0)
        unet2d = UNet2DConditionModel(**UNET2D[scale])
        extractor = IdExtractor.from_backbone(
            Dinov2Model(Dinov2Config(**BACKBONE[scale])), int(unet2d.config.cross_attention_dim), pooled_dim(unet2d)
        )
        return assemble(unet2d, MotionAdapter(**MOTION_ADAPTER[scale]), AutoencoderKL(**VAE), extractor, 512, "reference")
