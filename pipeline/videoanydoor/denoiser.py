"""One evaluation of the whole network, VideoAnydoor's Eq. 1; sampling and training call the same function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNetMotionModel

from .conditioning import HIDDEN
from .controlnet import ControlNet
from .feature_cache import Context
from .id_extractor import Identity
from .identity_attention import IdentityAttention
from .pixel_warper import LightReader

LEAST_BRIGHTNESS = 0.1
GREY_TOLERANCE = 1e-3


def stack_input(latents: torch.Tensor, mask: torch.Tensor, masked_latents: torch.Tensor) -> torch.Tensor:
    """The U-Net's input [B, 2L+1, F, h, w] from noisy latents, mask (1 = to generate) and masked-video latents."""
    return torch.cat([latents, mask, masked_latents], dim=1)


def add_residual(
    pasted: torch.Tensor, residual: torch.Tensor, light: torch.Tensor, covered: torch.Tensor, scaling_factor: float
) -> torch.Tensor:
    """The clean latents from those of the ``pasted`` source [B, L, F, h, w], folded pixels scaled by ``scaling_factor``, and what
    the networks say of them.

    Light multiplies, so a residual is told in shares of a pixel's brightness (0 black to 1 white): ``light`` [B, 3] brightens or
    tints a whole object, the U-Net's ``residual`` every pixel of it. ``LEAST_BRIGHTNESS`` is added so that black can change too.
    Only what the reference has ``covered`` [B, L, F, h, w] changes, and what is hidden, which is grey. Zeros leave plain pasting.
    As in a picture, nothing is blacker than black or whiter than white: what is clipped teaches no light.
    """
    per_color = pasted.shape[1] // 3
    brightness = (pasted + scaling_factor) / 2 + LEAST_BRIGHTNESS * scaling_factor
    shares = residual + light.repeat_interleave(per_color, dim=1)[:, :, None, None, None]
    grey = (HIDDEN / 127.5 - 1) * scaling_factor
    is_grey = ((pasted - grey).abs() < GREY_TOLERANCE).unflatten(1, (3, per_color)).all(dim=1).repeat(1, 3, 1, 1, 1)
    changed = pasted + shares * brightness * torch.maximum(covered, is_grey.to(covered.dtype))
    return changed.clamp(-scaling_factor, scaling_factor)


def fold_covered(content: torch.Tensor, stride: int) -> torch.Tensor:
    """1 where the warped reference ``content`` [B, 3, F, N, N] covers a pixel, else 0, folded like latents, [B, 3 s^2, F, h, w]."""
    covered = (content < 1).any(dim=1).float().flatten(0, 1)[:, None]  # [B*F, 1, N, N]; the ground is pure white
    folded = F.pixel_unshuffle(covered, stride).repeat(1, 3, 1, 1)
    return folded.unflatten(0, (len(content), -1)).transpose(1, 2)


def read_light(reader: LightReader, pasted: torch.Tensor, mask: torch.Tensor, scaling_factor: float) -> torch.Tensor:
    """``add_residual``'s light [B, 3] from what ``pasted`` shows outside ``mask`` [B, 1, F, h, w] (or all of it)."""
    lights = []
    for latents, inside in zip(pasted, mask, strict=True):
        pixels = ((latents / scaling_factor + 1) / 2).unflatten(0, (3, -1)).movedim(1, -1).flatten(1, -2)  # [3, F*h*w, s^2]
        shown = inside.flatten() == 0
        lights.append(reader((pixels[:, shown] if shown.any() else pixels).flatten(1)))
    return torch.stack(lights)


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
