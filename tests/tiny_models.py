"""Tiny real diffusion components: the published layouts at 8 to 32 channels, random but seeded weights."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from pipeline.videoanydoor.controlnet import ControlNet
from pipeline.videoanydoor.id_extractor import IdExtractor
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.pixel_warper import PixelWarper
from pipeline.videoanydoor.unet import VideoUNet

CHANNELS = 16
GROUPS = 4


def make_unet2d(scale: str = "sd15", seed: int = 0) -> UNet2DConditionModel:
    """A 2D in-painting U-Net: ``sd15`` (one head count) or ``sdxl`` (heads per block, text_time, linear projections)."""
    torch.manual_seed(seed)
    shared = {"sample_size": 8, "in_channels": 9, "out_channels": 4, "norm_num_groups": GROUPS, "layers_per_block": 2}
    if scale == "sd15":
        return UNet2DConditionModel(
            **shared,
            block_out_channels=(CHANNELS, 2 * CHANNELS),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=2,
        ).eval()
    return UNet2DConditionModel(
        **shared,
        block_out_channels=(CHANNELS, 2 * CHANNELS),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
    ).eval()


POOLED_DIM = {"sd15": None, "sdxl": 12}


def make_adapter(seed: int = 1) -> MotionAdapter:
    torch.manual_seed(seed)
    return MotionAdapter(
        block_out_channels=(CHANNELS, 2 * CHANNELS),
        motion_layers_per_block=2,
        motion_num_attention_heads=2,
        motion_norm_num_groups=GROUPS,
        motion_max_seq_length=32,
        use_motion_mid_block=False,
    ).eval()


def make_backbone(seed: int = 2) -> Dinov2Model:
    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=2)
    return Dinov2Model(config).eval()


def make_vae(seed: int = 3) -> AutoencoderKL:
    """Two halvings: 4 pixels per latent."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=GROUPS,
        sample_size=32,
    ).eval()


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1, set_alpha_to_one=False
    )


def make_modules(scale: str = "sd15", content: str = "reference", seed: int = 0) -> dict[str, nn.Module]:
    """``unet``, ``controlnet``, ``pixel_warper``, ``id_extractor`` and ``vae``, zero-initialised where the assembly is."""
    unet2d = make_unet2d(scale, seed)
    torch.manual_seed(seed + 10)
    return {
        "vae": make_vae(),
        "unet": VideoUNet.from_unet2d(unet2d, make_adapter()),
        "id_extractor": IdExtractor.from_backbone(make_backbone(), 24, POOLED_DIM[scale], num_trainable_blocks=1),
        "pixel_warper": PixelWarper(
            channels=CHANNELS,
            encoder_widths=(4, 8, 8),
            num_attention_heads=2,
            num_temporal_layers=1,
            norm_num_groups=GROUPS,
            content=content,
        ).eval(),
        "controlnet": ControlNet.from_unet2d(unet2d, CHANNELS),
    }


def randomize_zeros(*modules: nn.Module, seed: int = 5) -> None:
    """Give every all-zero convolution or linear layer small random weights, as training would."""
    generator = torch.Generator().manual_seed(seed)
    found = 0
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.any():
                with torch.no_grad():
                    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.2)
                found += 1
    assert found, "there must have been zero-initialised layers"


def make_pipeline(scale: str = "sd15", content: str = "reference", seed: int = 0) -> VideoAnydoorPipeline:
    """The whole pipeline at 32 px, 4 px per latent."""
    return VideoAnydoorPipeline(**make_modules(scale, content, seed), scheduler=make_scheduler(), size=32)
