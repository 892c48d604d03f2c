"""The pixel warper (VideoAnydoor, Sec. 3.2, Fig. 2): where each pixel of the reference should be, frame by frame.

The key-point image c_ref-key goes through the content encoder E_c, the trajectory map c_mot through the motion encoder E_m; discs
of one colour mark one point in both. Two cross-attentions let the two look at each other; the ControlNet reads their sum:

    m = E_m(c_mot) + p,    c = E_c(c_ref-key) + p          (p: two-dimensional sin-cos positions)
    m' = m + Attn(Q=m, K=V=c),    c' = c + Attn(Q=c, K=V=m)
    f_c = m' + c'

Only f_c is made here; the zero convolution Z of Eq. 1, y_c = F(z_t) + Z(F'(z_t + Z(f_c))), sits at the ControlNet's input.
Beyond the paper, ``content="warped"`` feeds E_c the reference already carried to every frame by the boxes and trajectories, so that
content and target are aligned before anything is learned.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn

from .weights import StrictModel, zero_module


class ConditionEncoder(nn.Module):
    """Images [N, 3, H, W] to features [N, C, H/s, W/s] by plain convolutions, s = 2 ** (len(widths) - 1), as in ReVideo.

    The last convolution is not zero: with zeros the cross-attentions would see nothing, and learn nothing.
    """

    def __init__(self, widths: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.SiLU()]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, narrow, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(narrow, wide, 3, padding=1, stride=2), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], out_channels, 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class MotionEncoder(nn.Module):
    """Trajectory maps [B, 3, F, H, W] to features [B*F, C, h, w]: a ``ConditionEncoder``, then temporal attention.

    The temporal layers' last projections start at zero, as AnimateDiff's do.
    """

    def __init__(
        self, widths: tuple[int, ...], channels: int, num_heads: int, num_layers: int, max_num_frames: int, groups: int
    ) -> None:
        super().__init__()
        self.spatial = ConditionEncoder(widths, channels)
        self.temporal = nn.ModuleList(
            AnimateDiffTransformer3D(
                num_attention_heads=num_heads,
                attention_head_dim=channels // num_heads,
                in_channels=channels,
                norm_num_groups=groups,
                positional_embeddings="sinusoidal",
                num_positional_embeddings=max_num_frames,
            )
            for _ in range(num_layers)
        )
        for layer in self.temporal:
            zero_module(layer.get_submodule("proj_out"))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        num_frames = maps.shape[2]
        features = self.spatial(maps.transpose(1, 2).flatten(0, 1))  # [B*F, C, h, w]
        for layer in self.temporal:
            features = layer(features, num_frames=num_frames)
        return features


class CrossAttention(nn.Module):
    """``target + Attn(Q=target, K=V=source)`` on token sequences [N, S, C]."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.norm_target = nn.LayerNorm(channels)
        self.norm_source = nn.LayerNorm(channels)
        self.attention = Attention(channels, channels, heads=num_heads, dim_head=channels // num_heads)

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return target + self.attention(self.norm_target(target), encoder_hidden_states=self.norm_source(source))


class LightReader(nn.Module):
    """What the light of a scene does to the reference: a perceptron over how bright the scene is in each colour, and how coloured.

    Its last layer starts at zero: no change.
    """

    QUANTILES = (
        (0.02, -2.0, 0.8),
        (0.1, -1.6, 0.7),
        (0.25, -1.2, 0.6),
        (0.5, -0.8, 0.6),
        (0.75, -0.5, 0.5),
        (0.9, -0.4, 0.4),
        (0.97, -0.3, 0.3),
        (0.995, -0.2, 0.3),
    )
    """Shares of the pixels; mean and standard deviation of the logarithm of what so many pixels do not exceed, in photographs under
    the lights of training. Here and below they only bring every feature to about the same size."""
    POWERS = ((1, -1.6, 0.9), (3, -1.2, 0.8), (6, -0.9, 0.7))
    """The same of Minkowski means, which stand between the mean and the largest (Finlayson and Trezzi 2004)."""
    RATIOS = ((0.1, -0.3, 0.4), (0.5, -0.1, 0.3), (0.9, 0.1, 0.3))
    """The same of the logarithms of red to green and of blue to green."""
    SATURATIONS = ((0.1, 0.2, 0.15), (0.5, 0.3, 0.15), (0.9, 0.5, 0.2))
    DARK, CLIPPED = 0.12, 0.98
    """A pixel shows colours between these values of its brightest channel."""
    NUM_FEATURES = 4 * len(QUANTILES) + 3 * len(POWERS) + 2 * (len(RATIOS) + 3) + len(SATURATIONS) + 4
    MOST_PIXELS = 16_384
    """More are thinned."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(self.NUM_FEATURES, width)
        self.out = zero_module(nn.Linear(width, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Shares of brightness [3] to be added to red, green and blue, from ``pixels`` [3, P] in 0..1 (black to white)."""
        features = self.describe(pixels[:, :: 1 + pixels.shape[1] // self.MOST_PIXELS].float().clamp(0, 1))
        shares: torch.Tensor = self.out(F.silu(self.hidden(features.to(self.hidden.weight.dtype))))
        return shares

    def describe(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features f32[NUM_FEATURES] of ``pixels`` f32[3, P] in 0..1."""
        brightest, linear = pixels.amax(dim=0), pixels.pow(2.2)
        levels = torch.cat([pixels, pixels.mean(dim=0, keepdim=True)])
        means = torch.stack([linear.pow(power).mean(dim=1).pow(1 / power) for power, _, _ in self.POWERS])
        shown = (brightest > self.DARK) & (brightest < self.CLIPPED)
        logs = (pixels[:, shown] if shown.any() else pixels).add(0.02).log()
        ratios = logs[::2] - logs[1]  # [2, P]
        weights = logs.exp().amax(dim=0)
        saturations = 1 - pixels.amin(dim=0) / (brightest + 0.02)
        parts = [
            _standardised((_quantiles(levels, self.QUANTILES) + 0.02).log(), self.QUANTILES),
            _standardised((means + 1e-3).log(), self.POWERS),
            _standardised(_quantiles(ratios, self.RATIOS), self.RATIOS),
            ratios.mean(dim=1) / 0.3,
            ratios.std(dim=1, correction=0) / 0.15 - 1,
            (ratios * weights).sum(dim=1) / weights.sum() / 0.3,
            _standardised(_quantiles(saturations[None], self.SATURATIONS), self.SATURATIONS),
            (pixels >= self.CLIPPED).float().mean(dim=1).sqrt() / 0.2,
            (brightest <= self.DARK).float().mean().sqrt()[None] / 0.3,
        ]
        return torch.cat([part.flatten() for part in parts])


def _quantiles(values: torch.Tensor, table: tuple[tuple[float, float, float], ...]) -> torch.Tensor:
    """Of ``values`` [C, P] those at the shares of ``table``, [Q, C]."""
    return torch.quantile(values, values.new_tensor([share for share, _, _ in table]), dim=1)


def _standardised(values: torch.Tensor, table: tuple[tuple[float, float, float], ...]) -> torch.Tensor:
    """``values`` [Q, C] less each row's mean, in its standard deviations, as ``table`` says."""
    means, spreads = (values.new_tensor([row[column] for row in table])[:, None] for column in (1, 2))
    return (values - means) / spreads


class PixelWarper(StrictModel):
    """Key-point image and trajectory maps to fused features f_c.

    ``channels`` C: the ControlNet's first width. ``encoder_widths``: convolution widths; their count fixes the stride, which must
    be the VAE's. ``attention_stride``: the cross-attentions see features averaged over squares of this side.
    ``num_temporal_layers``, ``max_num_frames``: of the motion encoder. ``content``: what the content encoder is given, the
    ``reference`` on its own canvas (the paper) or the reference ``warped`` to every frame. ``reads_light``: with a ``LightReader``,
    where the residual of plain pasting is predicted.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 320,
        encoder_widths: tuple[int, ...] = (16, 32, 96, 256),
        num_attention_heads: int = 8,
        attention_stride: int = 1,
        num_temporal_layers: int = 2,
        max_num_frames: int = 32,
        norm_num_groups: int = 32,
        content: Literal["reference", "warped"] = "reference",
        reads_light: bool = False,
    ) -> None:
        super().__init__()
        if content not in ("reference", "warped"):
            raise ValueError(f"content must be 'reference' or 'warped', got {content!r}")
        widths = tuple(encoder_widths)
        self.content_encoder = ConditionEncoder(widths, channels)
        self.motion_encoder = MotionEncoder(
            widths, channels, num_attention_heads, num_temporal_layers, max_num_frames, norm_num_groups
        )
        self.content_to_motion = CrossAttention(channels, num_attention_heads)
        self.motion_to_content = CrossAttention(channels, num_attention_heads)
        self.light = LightReader() if reads_light else None

    @property
    def stride(self) -> int:
        """Pixels per feature."""
        return 2 ** (len(self.config.encoder_widths) - 1)

    def forward(self, content: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """f_c [B, C, F, h, w] of ``content`` [B, 3, Fc, H, W] and ``motion`` [B, 3, F, H, W], both in [-1, 1].

        Fc is 1 for the reference on its canvas (repeated over the frames), F for the warped reference.
        """
        batch_size, _, num_frames = motion.shape[:3]
        expected = num_frames if self.config.content == "warped" else 1
        if content.shape[2] != expected:
            raise ValueError(f"content={self.config.content!r} takes {expected} content frames, got {content.shape[2]}")
        moving = self.motion_encoder(motion)  # [B*F, C, h, w]
        still = self.content_encoder(content.transpose(1, 2).flatten(0, 1))  # [B*Fc, C, h, w]
        still = still.repeat_interleave(num_frames // expected, dim=0)  # [B*F, C, h, w]
        position = sincos_positions(moving.shape[1], moving.shape[2], moving.shape[3]).to(moving)
        fused = self._fuse(moving + position, still + position)
        return fused.unflatten(0, (batch_size, num_frames)).transpose(1, 2)  # [B, C, F, h, w]

    def _fuse(self, moving: torch.Tensor, still: torch.Tensor) -> torch.Tensor:
        """m' + c' [N, C, h, w]; with ``attention_stride`` s the attentions' share is computed at h/s, w/s and enlarged."""
        stride, (height, width) = self.config.attention_stride, moving.shape[2:]
        small_moving, small_still = (F.avg_pool2d(item, stride) if stride > 1 else item for item in (moving, still))
        small_hw = small_moving.shape[2:]
        m, c = small_moving.flatten(2).transpose(1, 2), small_still.flatten(2).transpose(1, 2)  # [N, h*w, C]
        gained = self.content_to_motion(m, c) - m + self.motion_to_content(c, m) - c
        gained = gained.transpose(1, 2).unflatten(2, small_hw)
        if stride > 1:
            gained = F.interpolate(gained, (height, width), mode="bilinear", align_corners=False)
        return moving + still + gained


def sincos_positions(channels: int, height: int, width: int) -> torch.Tensor:
    """Two-dimensional sin-cos positions f32[1, C, h, w]: the first half of the channels for y, the second for x.

    Each half holds sines and cosines at wavelengths from 2 pi to 10 000 * 2 pi (Vaswani et al. 2017). C must divide by 4.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4, got {channels}")
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(channels // 4) / (channels // 4))

    def along(length: int) -> torch.Tensor:
        angles = torch.arange(length)[None] * frequencies[:, None]
        return torch.cat([angles.sin(), angles.cos()])  # [C/2, length]

    rows = along(height)[:, :, None].expand(-1, -1, width)
    columns = along(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None]
