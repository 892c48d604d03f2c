"""Identity beside text: an option in which the identity tokens get a cross-attention of their own and text keeps its place.

The paper's figure shows no text; identity tokens are the U-Net's whole context. With this module every spatial cross-attention
adds, to what it reads from the text tokens, what the same queries read from the identity tokens through keys and values of their
own (the decoupled attention of IP-Adapter, Ye et al. 2023):

    out = Attn(Q, K_text, V_text) + Attn(Q, K_id, V_id)

The values start at zero, so the U-Net starts equal to the in-painter under the empty prompt, which is the only text kept here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNetMotionModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from .weights import StrictModel, zero_module


class IdentityAttention(StrictModel):
    """Keys and values for the spatial cross-attentions of one U-Net, and the tokens of the empty prompt.

    ``widths``: inner width of each cross-attention, in the U-Net's order. ``context_dim`` D. ``num_text_tokens`` T.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, ...], context_dim: int, num_text_tokens: int = 77) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.zeros(1, num_text_tokens, context_dim), requires_grad=False)
        self.to_key = nn.ModuleList(nn.Linear(context_dim, width, bias=False) for width in widths)
        self.to_value = nn.ModuleList(zero_module(nn.Linear(context_dim, width, bias=False)) for width in widths)

    @classmethod
    def from_unet(cls, unet: UNetMotionModel, text: torch.Tensor) -> IdentityAttention:
        """For the cross-attentions of ``unet``, beside the empty prompt's tokens ``text`` [1, T, D]."""
        widths = tuple(int(attention.to_k.out_features) for attention in spatial_cross_attentions(unet))
        made = cls(widths, int(text.shape[2]), int(text.shape[1]))
        made.text.data.copy_(text)
        return made.to(unet.dtype).eval()

    def install(self, unet: UNetMotionModel) -> None:
        """Let every spatial cross-attention of ``unet`` read both. Its own weights and its saved form do not change.

        Raises ``ValueError`` when the widths are another U-Net's.
        """
        attentions = spatial_cross_attentions(unet)
        widths = [int(attention.to_k.out_features) for attention in attentions]
        if widths != list(self.config.widths):
            raise ValueError(f"this identity attention was made for widths {list(self.config.widths)}, the U-Net has {widths}")
        for attention, key, value in zip(attentions, self.to_key, self.to_value, strict=True):
            attention.set_processor(BesideText(key, value))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The U-Net's context for identity ``tokens`` [N, S, D]: (text [N, T, D], tokens)."""
        return self.text.to(tokens).expand(len(tokens), -1, -1), tokens


class BesideText:
    """An attention processor for the context (text, identity); it holds no weights of the U-Net."""

    def __init__(self, key: nn.Module, value: nn.Module) -> None:
        self.key, self.value = key, value

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: tuple[torch.Tensor, torch.Tensor], **_: Any
    ) -> torch.Tensor:
        """``hidden_states`` [N, P, C] to the same shape."""
        text, identity = encoder_hidden_states

        def split(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # [N, heads, length, C / heads]

        query = split(attn.to_q(hidden_states))
        read = F.scaled_dot_product_attention(query, split(attn.to_k(text)), split(attn.to_v(text)))
        read = read + F.scaled_dot_product_attention(query, split(self.key(identity)), split(self.value(identity)))
        joined = read.transpose(1, 2).flatten(2)
        projected: torch.Tensor = attn.to_out[1](attn.to_out[0](joined)) / attn.rescale_output_factor
        return projected


def spatial_cross_attentions(unet: UNetMotionModel) -> list[Any]:
    """The cross-attentions of the spatial blocks, in the order of their names' first appearance; temporal layers have none."""
    return [module for name, module in unet.named_modules() if name.endswith(".attn2") and ".motion_modules." not in name]
