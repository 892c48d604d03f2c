"""The reweighted denoising loss (VideoAnydoor, Sec. 3.3, Eq. 2), adaptive timesteps and condition dropout (AnyDoor).

Weights are f32[B,1,F,h,w] on the latents' grid, with a mean of 1 in every sample, so that the loss keeps its scale:

    L = mean( w * |delta - delta*|^2 )

Paper, Eq. 2:  L = sum_i ( lambda R_i A_i + (1 - A_i) / K ) |delta - delta*|^2,  A_i the region around trajectory i, R_i "the ratio
of the region that the i-th trajectory covers". Neither lambda nor the region's width is published, and with R_i a plain share of
the area (about 0.01) the formula would weigh trajectories *down* for any moderate lambda. Ours: A_i is, frame by frame, the disc of
``RADIUS_CELLS`` around the point; R_i the share of the picture that the disc sweeps over the clip, divided by its mean over i; then
the sum is held within 1..6 and divided by its mean. Longer paths weigh more, which is the formula's point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

BOX_SCALE = 2.0
"""lambda of the box loss (DreamVideo-2, Eq. 6)."""

TRAJECTORY_SCALE = 2.0
"""lambda of Eq. 2, for R normalised to a mean of 1."""

RADIUS_CELLS = 2.0
"""Radius of A_i in latent cells: 16 px at eight pixels per latent (VideoSwap's patches)."""

MAX_WEIGHT = 6.0

Source = Literal["image", "coarse_video", "fine_video"]
"""Where a sample comes from: a still picture set in motion, a video with coarse masks, a video with fine ones."""

TIMESTEP_SPAN: dict[Source, tuple[float, float]] = {"image": (0.0, 0.5), "coarse_video": (0.5, 1.0), "fine_video": (0.0, 1.0)}
"""The part of the schedule that each source teaches (AnyDoor): pictures the details, coarse videos the layout and the motion."""

UNIFORM_SHARE = 0.3
"""How often any source teaches the whole schedule."""


def weighted_loss(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of w * |prediction - target|^2 over [B, L, F, h, w]; without weights the plain mean."""
    squared = (prediction.float() - target.float()).square()
    return squared.mean() if weights is None else (weights * squared).mean()


def box_weights(masks: torch.Tensor, scale: float = BOX_SCALE) -> torch.Tensor:
    """lambda M + (1 - M) of box masks [B,1,F,h,w] in 0..1 (1 = inside), normalised."""
    return _normalised(scale * masks + (1 - masks))


def trajectory_weights(
    points: torch.Tensor,
    is_visible: torch.Tensor,
    hw: tuple[int, int],
    scale: float = TRAJECTORY_SCALE,
    radius: float = RADIUS_CELLS,
) -> torch.Tensor:
    """Eq. 2's weights f32[B,1,F,h,w] of ``points`` [B,K,F,2] (x, y in latent cells, continuous) with ``is_visible`` bool[B,K,F].

    A point that is visible in no frame of a sample does not count towards K. A sample without points has weight 1 everywhere.
    """
    height, width = hw
    y, x = torch.meshgrid(
        torch.arange(height, device=points.device) + 0.5, torch.arange(width, device=points.device) + 0.5, indexing="ij"
    )
    squared = (x - points[..., 0, None, None]).square() + (y - points[..., 1, None, None]).square()  # [B,K,F,h,w]
    regions = ((squared <= radius**2) & is_visible[..., None, None]).float()
    counts = is_visible.any(dim=2)  # [B,K]
    num_points = counts.sum(dim=1, keepdim=True).clamp_min(1)  # [B,1]
    swept = regions.amax(dim=2).mean(dim=(2, 3))  # [B,K]: R_i before normalisation
    ratio = swept / (swept.sum(dim=1, keepdim=True) / num_points).clamp_min(1e-8)
    inside = scale * ratio[..., None, None, None] * regions
    outside = (1 - regions) / num_points[..., None, None, None]
    weights = ((inside + outside) * counts[..., None, None, None]).sum(dim=1, keepdim=True)  # [B,1,F,h,w]
    return _normalised(weights.clamp(1.0, MAX_WEIGHT))


def _normalised(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.mean(dim=(1, 2, 3, 4), keepdim=True)


def sample_timesteps(
    sources: list[Source],
    num_train_timesteps: int,
    generator: torch.Generator,
    is_adaptive: bool = True,
    pure_noise: float = 0.0,
) -> torch.Tensor:
    """One timestep i64[B] per sample, drawn on the CPU: with ``UNIFORM_SHARE`` from the whole schedule, else from the source's part
    of it. Without ``is_adaptive`` always from the whole. A share ``pure_noise`` of the samples takes the last step: what concerns
    the whole picture (its light) shows through noise at every other, and only there must be read from the surroundings."""
    draws = torch.rand(len(sources), 2, generator=generator)
    last_step = torch.rand(len(sources), generator=generator) < pure_noise if pure_noise else [False] * len(sources)
    steps = []
    for source, (choice, place), is_last in zip(sources, draws.tolist(), last_step, strict=True):
        if is_last:
            steps.append(num_train_timesteps - 1)
            continue
        low, high = TIMESTEP_SPAN[source] if is_adaptive and choice >= UNIFORM_SHARE else (0.0, 1.0)
        first, last = int(low * num_train_timesteps), int(high * num_train_timesteps)
        steps.append(min(first + int(place * (last - first)), last - 1))
    return torch.tensor(steps)


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """How often a sample loses its identity, its pixel warper's pictures, or both, so that guidance has something to push against.
    Mask and background are never dropped."""

    identity: float = 0.1
    warper: float = 0.1
    both: float = 0.05


def draw_dropout(num_samples: int, rates: DropoutRates, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Which samples lose the identity and which the warper, bool[B] each; drawn on the CPU."""
    draws = torch.rand(num_samples, generator=generator)
    both = draws < rates.both
    identity = draws < rates.both + rates.identity
    warper = both | ((draws >= rates.both + rates.identity) & (draws < rates.both + rates.identity + rates.warper))
    return identity, warper
