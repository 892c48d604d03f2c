"""One evaluation of the whole network, VideoAnydoor's Eq. 1; sampling and training call the same function."""

from __future__ import annotations

import torch
from diffusers import UNetMotionModel

from .controlnet import ControlNet
from .feature_cache import Context
from .id_extractor import Identity
from .identity_attention import IdentityAttention


def stack_input(latents: torch.Tensor, mask: torch.Tensor, masked_latents: torch.Tensor) -> torch.Tensor:
    """The U-Net's input [B, 2L+1, F, h, w] from noisy latents, mask (1 = to generate) and masked-video latents."""
    return torch.cat([latents, mask, masked_latents], dim=1)


def added_embeddings(unet: UNetMotionModel, identity: Identity, size: int) -> dict[str, torch.Tensor] | None:
    """SDXL's extra conditions, or None: the pooled identity, and (height, width, crop top, left, target height, width)."""
    if unet.config.addition_embed_type != "text_time":
        return None
    if identity.pooled is None:
        raise ValueError("this U-Net needs a pooled identity; build the ID extractor with pooled_dim")
    times = identity.pooled.new_tensor([size, size, 0, 0, size, size])
    return {"text_embeds": identity.pooled, "time_ids": times.repeat(len(identity.pooled), 1)}


def frame_context(identity: Identity, num_frames: int, beside_text: IdentityAttention | None) -> Context:
    """What the U-Net's spatial blocks attend to, per frame: identity tokens [B*F, S, D], or text and identity tokens."""
    tokens = identity.tokens.repeat_interleave(num_frames, dim=0)
    return tokens if beside_text is None else beside_text(tokens)


def predict_noise(
    unet: UNetMotionModel,
    controlnet: ControlNet | None,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    identity: Identity,
    features: torch.Tensor | None,
    motion_strength: float = 1.0,
    added: dict[str, torch.Tensor] | None = None,
    beside_text: IdentityAttention | None = None,
) -> torch.Tensor:
    """delta [B, L, F, h, w] of ``sample`` [B, 2L+1, F, h, w] at ``timestep`` [B].

    ``features`` are the pixel warper's f_c [B, C, F, h, w]; without them, or at ``motion_strength`` 0, the U-Net runs alone.
    ``beside_text``: what was installed in the U-Net, when the identity stands beside text instead of in its place.
    """
    down, mid = None, None
    if controlnet is not None and features is not None and motion_strength != 0:
        down, mid = controlnet(sample, timestep, identity.tokens, features, motion_strength, added)
    predicted: torch.Tensor = unet(
        sample,
        timestep,
        encoder_hidden_states=frame_context(identity, sample.shape[2], beside_text),
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        return_dict=False,
    )[0]
    return predicted
