"""Schedules and guidance: which schedulers a checkpoint may name, and the few formulas around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

SCHEDULERS: dict[str, Any] = {
    "DDIMScheduler": DDIMScheduler,
    "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler,
    "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
}
"""The schedulers that a checkpoint may name, by class name."""

Init = Literal["noise", "source", "inversion"]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to sample. The paper: DDIM, 50 steps, guidance 10; a rescaled guidance of 3 to 12 saturates less.

    ``guidance_rescale`` 0..1; ``motion_strength`` 0..1.5 scales the ControlNet, ``identity_strength`` 0..1.5 moves from the null
    identity (0) to the reference (1) and beyond. ``init``: start from ``noise``; from the noised ``source`` outside the boxes and
    noise inside; or from the ``inversion`` of the source (keeps its motion and colour, at one more evaluation per step).
    ``window`` and ``overlap`` in frames. ``feature_interval``: 1 runs every step in full, n only every n-th (``feature_cache``).
    """

    seed: int = 0
    num_inference_steps: int = 25
    guidance_scale: float = 5.0
    guidance_rescale: float = 0.7
    motion_strength: float = 1.0
    identity_strength: float = 1.0
    init: Init = "noise"
    window: int = 16
    overlap: int = 8
    feature_interval: int = 1

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")
        if self.feature_interval < 1:
            raise ValueError(f"feature_interval must be at least 1, got {self.feature_interval}")
        if self.init not in ("noise", "source", "inversion"):
            raise ValueError(f"init must be noise, source or inversion, got {self.init!r}")
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap must be at least 0 and less than the window of {self.window}, got {self.overlap}")


def guide(null_pred: torch.Tensor, pred: torch.Tensor, scale: float, rescale: float) -> torch.Tensor:
    """Classifier-free guidance; ``rescale`` brings its standard deviation back to that of ``pred`` (Lin et al. 2023, Sec. 3.4)."""
    guided = null_pred + scale * (pred - null_pred)
    axes = tuple(range(1, pred.ndim))
    matched = guided * (pred.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp_min(1e-8))
    return rescale * matched + (1 - rescale) * guided


def is_flow(scheduler: Any) -> bool:
    """Whether the schedule interpolates data and noise linearly (rectified flow) and the model predicts velocity."""
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler)


def fresh_scheduler(scheduler: Any, num_inference_steps: int, device: torch.device) -> Any:
    """A scheduler of the same configuration with its own state, so that runs cannot disturb each other."""
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(num_inference_steps, device=device)
    return own


def add_noise(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """``clean`` brought to the schedule's first timestep."""
    first = scheduler.timesteps[:1]
    if is_flow(scheduler):
        noised: torch.Tensor = scheduler.scale_noise(clean, first, noise)
    else:
        noised = scheduler.add_noise(clean, noise, first)
    return noised


def scale_model_input(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """What the schedule wants the model to see; flow schedules want the latents as they are."""
    if is_flow(scheduler):
        return latents
    scaled: torch.Tensor = scheduler.scale_model_input(latents, timestep)
    return scaled


def inversion_steps(
    scheduler: Any, device: torch.device
) -> tuple[torch.Tensor, Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]]:
    """(timesteps from clean to noise, ``step(prediction, index, latents) -> latents``): the sampling ODE run backwards.

    Along the scheduler's own timesteps. Diffusion schedules take DDIM steps (Song et al. 2021, Eq. 12 with sigma 0; the model is
    asked at the noisier end), flow schedules Euler steps of the velocity.
    """
    if is_flow(scheduler):
        sigmas = scheduler.sigmas.flip(0).to(device)

        def flow_step(velocity: torch.Tensor, index: int, latents: torch.Tensor) -> torch.Tensor:
            return latents + (sigmas[index + 1] - sigmas[index]) * velocity

        return sigmas[1:] * scheduler.config.num_train_timesteps, flow_step
    timesteps = scheduler.timesteps.flip(0)
    first = torch.as_tensor(float(getattr(scheduler, "final_alpha_cumprod", 1.0)), device=device)
    alphas = torch.cat([first[None], scheduler.alphas_cumprod.to(device)[timesteps.to(device)]])

    def ddim_step(prediction: torch.Tensor, index: int, latents: torch.Tensor) -> torch.Tensor:
        here, there = alphas[index], alphas[index + 1]
        if scheduler.config.prediction_type == "v_prediction":
            clean = here.sqrt() * latents - (1 - here).sqrt() * prediction
            noise = here.sqrt() * prediction + (1 - here).sqrt() * latents
        elif scheduler.config.prediction_type == "sample":
            level = here if here < 0.999 else there  # in clean latents there is no noise to read off
            clean, noise = prediction, (latents - level.sqrt() * prediction) / (1 - level).sqrt()
        else:
            clean, noise = (latents - (1 - here).sqrt() * prediction) / here.sqrt(), prediction
        return there.sqrt() * clean + (1 - there).sqrt() * noise

    return timesteps, ddim_step
