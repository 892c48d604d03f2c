"""A tiny real SAM 2.1: the published layout at 64 px, random weights of such a size that its masks vary from frame to frame."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

SIZE = 64
"""Side of the encoder's input."""


def make_sam2(seed: int = 0, size: int = SIZE) -> Sam2VideoModel:
    """1.2 M parameters; the object is nearly always said to be there."""
    torch.manual_seed(seed)
    model = Sam2VideoModel(_config(size)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                is_table = parameter.ndim == 2 and "embed" in name
                parameter.copy_(noise / (1 if is_table else parameter[0].numel() ** 0.5))
            elif "weight" not in name:
                parameter.copy_(noise * 0.1)
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(8.0)
    return model


def save_sam2(folder: Path, seed: int = 0) -> Path:
    """Write one as the hub's folders hold it; the folder."""
    make_sam2(seed).save_pretrained(str(folder))
    return folder


def _config(size: int) -> Sam2VideoConfig:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [size, size],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 4, 2],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[size // 4] * 2, [size // 8] * 2, [size // 16] * 2],
        "fpn_hidden_size": 128,
    }
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": size, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 64},
        image_size=size,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[size // 16] * 2,
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=64,
    )
