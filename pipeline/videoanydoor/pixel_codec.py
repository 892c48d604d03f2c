"""Latents without a VAE, for the scale that starts from nothing: pixels, folded.

A block of s x s pixels becomes one latent of 3 s^2 channels and back (pixel unshuffle and shuffle): an orthonormal map, so that
nothing is lost, nothing need be learned, and the loss in latents is the loss in pixels. It answers to the same calls as diffusers'
``AutoencoderKL``, as far as the pipeline and the training make them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from .weights import StrictModel


class _Exact:
    """A distribution that is one point."""

    def __init__(self, latents: torch.Tensor) -> None:
        self._latents = latents

    def mode(self) -> torch.Tensor:
        """The point."""
        return self._latents

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """The point."""
        return self._latents


class PixelCodec(StrictModel):
    """Pictures [N, 3, H, W] in [-1, 1] to latents [N, 3 s^2, H/s, W/s] and back, s = ``stride``.

    ``scaling_factor`` brings latents to about unit variance; a picture's own is about a quarter.
    """

    @register_to_config
    def __init__(self, stride: int = 4, latent_channels: int = 48, scaling_factor: float = 2.0) -> None:
        super().__init__()
        if latent_channels != 3 * stride**2:
            raise ValueError(f"latent_channels must be {3 * stride**2} for a stride of {stride}, got {latent_channels}")
        self.basis = nn.Parameter(torch.eye(latent_channels), requires_grad=False)
        """The orthonormal basis [C, C] of a block's values; the pixels themselves. Kept in the file so that it says what it is."""

    def encode(self, pictures: torch.Tensor) -> SimpleNamespace:
        """``.latent_dist.mode()`` are the latents of ``pictures``, unscaled."""
        folded = F.pixel_unshuffle(pictures, self.config.stride)
        return SimpleNamespace(latent_dist=_Exact(F.conv2d(folded, self.basis[:, :, None, None])))

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> Any:
        """The pictures of unscaled ``latents``: the exact inverse of ``encode``."""
        folded = F.conv2d(latents, self.basis.T[:, :, None, None])
        pictures = F.pixel_shuffle(folded, self.config.stride)
        return SimpleNamespace(sample=pictures) if return_dict else (pictures,)

    def enable_tiling(self) -> None:
        """Nothing to do: a block knows no neighbours."""
