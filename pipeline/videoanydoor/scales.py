"""The scales of one architecture, as tables. What the code does never depends on the name of a scale.

``sd15`` and ``sdxl`` start from published weights; ``nano`` and ``pico`` start from random ones and are small enough to train on a
desk.
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
    """The configurations of a scale that starts from random weights, over folded pixels instead of a VAE's latents."""

    size: int
    unet2d: dict[str, Any]
    motion_adapter: dict[str, Any]
    codec: dict[str, Any]
    backbone: dict[str, Any]
    reference_size: int
    schedule: dict[str, Any]
    content: str = "warped"


SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""The noise schedule of the published scales, for training and sampling (AnimateDiff's)."""
CLEAN_SCHEDULE: dict[str, Any] = {
    **SCHEDULE,
    "beta_schedule": "scaled_linear",
    "prediction_type": "sample",
    "rescale_betas_zero_snr": True,
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}
"""That of the scales that start from nothing: the clean latents are predicted, since a narrow network over folded pixels has not
the width to carry noise through (Li and He 2025), and the last step is noise alone, so that the mean colour is learned too (Lin et
al. 2023)."""
CODEC: dict[str, Any] = {"stride": 4, "latent_channels": 48, "scaling_factor": 2.0}

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
    motion_adapter=Source("guoyww/animatediff-motion-adapter-sdxl-beta", "26c864717b4d4b002bb48ae6c9d6bb431548c6cb", ADAPTER_FILES),
    backbone=Source("facebook/dinov2-giant", "611a9d42f2335e0f921f1e313ad3c1b7178d206d", BACKBONE_FILES),
)


def build_scale(widths: tuple[int, ...], context_dim: int, num_blocks: int, groups: int) -> RandomScale:
    """A U-Net of these widths, attending from its second level on, with temporal layers everywhere but in the middle."""
    levels = len(widths)
    return RandomScale(
        size=64,
        unet2d={
            "sample_size": 16,
            "in_channels": 2 * CODEC["latent_channels"] + 1,
            "out_channels": CODEC["latent_channels"],
            "block_out_channels": widths,
            "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            "up_block_types": ("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            "layers_per_block": 1,
            "cross_attention_dim": context_dim,
            "attention_head_dim": 4,
            "norm_num_groups": groups,
        },
        motion_adapter={
            "block_out_channels": widths,
            "motion_layers_per_block": 1,
            "motion_num_attention_heads": 4,
            "motion_norm_num_groups": groups,
            "motion_max_seq_length": 32,
            "use_motion_mid_block": False,
        },
        codec=CODEC,
        backbone={
            "hidden_size": context_dim,
            "num_hidden_layers": num_blocks,
            "num_attention_heads": 4,
            "mlp_ratio": 3,
            "image_size": 64,
            "patch_size": 8,
        },
        reference_size=64,
        schedule=CLEAN_SCHEDULE,
    )


NANO = build_scale(widths=(48, 96, 160), context_dim=128, num_blocks=4, groups=16)
"""At most sixteen million parameters: half an hour of one GPU teaches it something."""
PICO = build_scale(widths=(48, 64), context_dim=64, num_blocks=2, groups=8)
"""A proof that learning works, for two cores of a processor."""
SCALES: dict[str, PublishedScale | RandomScale] = {"sd15": SD15, "sdxl": SDXL, "nano": NANO, "pico": PICO}

ENCODER_WIDTHS = (16, 32, 96, 256)
"""Widths of the condition encoders (ControlNet, ReVideo); the first ``n`` serve a VAE of ``n`` levels."""


def latent_stride(config: Any) -> int:
    """Pixels per latent of a codec's configuration: a VAE's number of halvings, or what it says itself."""
    if "stride" in config:
        return int(config["stride"])
    return int(2 ** (len(config["block_out_channels"]) - 1))
