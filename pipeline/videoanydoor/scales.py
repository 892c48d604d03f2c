"""The three scales of one architecture, as literal tables. What the code does never depends on the name of a scale.

``sd15`` and ``sdxl`` start from published weights; ``nano`` starts from random ones and is small enough to train on a desk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """Published weights: repository, the commit that is pinned (None: the person must name one), and the files that are used."""

    repository: str
    revision: str | None
    patterns: tuple[str, ...]


INPAINTING_FILES = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
TEXT_FILES = ("text_encoder/config.json", "text_encoder/model.safetensors")
"""Also needed when the identity stands beside text and the U-Net reads one text encoder."""
ADAPTER_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
BACKBONE_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True, slots=True)
class PublishedScale:
    """Which published weights make a scale. ``size``: side of its pictures. ``num_trainable_blocks``: of DINOv2. ``content``: what
    the content encoder sees unless asked otherwise."""

    size: int
    inpainting: Source
    motion_adapter: Source
    backbone: Source
    num_trainable_blocks: int = 2
    content: str = "reference"


@dataclass(frozen=True, slots=True)
class RandomScale:
    """The configurations of a scale that starts from random weights."""

    size: int
    unet2d: dict[str, Any]
    motion_adapter: dict[str, Any]
    vae: dict[str, Any]
    backbone: dict[str, Any]
    reference_size: int
    content: str = "warped"


SD15 = PublishedScale(
    size=512,
    inpainting=Source(
        "stable-diffusion-v1-5/stable-diffusion-inpainting", "8a4288a76071f7280aedbdb3253bdb9e9d5d84bb", INPAINTING_FILES
    ),
    motion_adapter=Source("guoyww/animatediff-motion-adapter-v1-5-3", None, ADAPTER_FILES),
    backbone=Source("facebook/dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c", BACKBONE_FILES),
)
SDXL = PublishedScale(
    size=512,
    inpainting=Source(
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1", "115134f363124c53c7d878647567d04daf26e41e", INPAINTING_FILES
    ),
    motion_adapter=Source("guoyww/animatediff-motion-adapter-sdxl-beta", None, ADAPTER_FILES),
    backbone=Source("facebook/dinov2-giant", "611a9d42f2335e0f921f1e313ad3c1b7178d206d", BACKBONE_FILES),
)
NANO = RandomScale(
    size=64,
    unet2d={
        "sample_size": 16,
        "in_channels": 9,
        "out_channels": 4,
        "block_out_channels": (64, 128, 192),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 128,
        "attention_head_dim": 4,
        "norm_num_groups": 16,
    },
    motion_adapter={
        "block_out_channels": (64, 128, 192),
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 4,
        "motion_norm_num_groups": 16,
        "motion_max_seq_length": 32,
        "use_motion_mid_block": False,
    },
    vae={
        "block_out_channels": (32, 64, 96),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 16,
        "sample_size": 64,
    },
    backbone={
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "mlp_ratio": 3,
        "image_size": 64,
        "patch_size": 8,
    },
    reference_size=64,
)
SCALES: dict[str, PublishedScale | RandomScale] = {"sd15": SD15, "sdxl": SDXL, "nano": NANO}

SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""One noise schedule for training and sampling, at every scale (AnimateDiff's)."""

ENCODER_WIDTHS = (16, 32, 96, 256)
"""Widths of the condition encoders (ControlNet, ReVideo); the first ``n`` serve a VAE of ``n`` levels."""
