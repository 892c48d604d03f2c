"""The networks that learn, as one module, and one step of learning: noise in, weighted loss out (VideoAnydoor, Eq. 1 and 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from ..videoanydoor.denoiser import add_residual, added_embeddings, fold_covered, predict_noise, read_light, stack_input
from ..videoanydoor.id_extractor import Identity
from ..videoanydoor.pipeline import VideoAnydoorPipeline
from ..videoanydoor.weights import set_trainable
from .config import TrainConfig
from .losses import DropoutRates, box_weights, draw_dropout, sample_timesteps, trajectory_weights, weighted_loss
from .samples import Batch

LEARNING = ("unet", "controlnet", "pixel_warper", "id_extractor")
"""The networks that learn; the codec never does."""

FRESH = ("pixel_warper", "id_extractor.projection", "id_extractor.norm", "controlnet.encoder.controlnet_cond_embedding")
"""What starts from nothing at every scale, and may learn faster."""


class Drawn(NamedTuple):
    """What chance decided for one batch: ``noise`` [B,L,F,h,w], ``timesteps`` i64[B], and who loses identity and warper."""

    noise: torch.Tensor
    timesteps: torch.Tensor
    without_identity: torch.Tensor
    without_warper: torch.Tensor


class Learner(nn.Module):
    """The four networks around a frozen codec. ``forward`` is one prediction, so that every wrapper that shares work between
    processes sees a single call."""

    def __init__(self, pipe: VideoAnydoorPipeline, config: TrainConfig) -> None:
        super().__init__()
        self.unet, self.controlnet = pipe.unet, pipe.controlnet
        self.pixel_warper, self.id_extractor = pipe.pixel_warper, pipe.id_extractor
        self.has_warper, self.is_residual = config.warper, bool(pipe.config.is_residual)
        self.scaling_factor = float(pipe.vae.config.scaling_factor)
        if config.trains == "paper":
            self.unet.train_as_in_paper()
            self.id_extractor.train_as_in_paper()
        else:
            set_trainable(self, True)
        if config.frozen_identity:
            set_trainable(self.id_extractor.backbone, False)
        if not config.warper:
            set_trainable(self.pixel_warper, False)
            set_trainable(self.controlnet, False)
        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        batch: Batch,
        without_identity: torch.Tensor,
        without_warper: torch.Tensor,
    ) -> torch.Tensor:
        """The prediction [B,L,F,h,w] for the stacked ``sample`` [B,2L+1,F,h,w], whose last L channels are plain pasting where
        its residual is predicted."""
        identity = self._identity(batch, without_identity)
        features = None
        if self.has_warper:
            gone = without_warper.view(-1, 1, 1, 1, 1)
            still = torch.where(gone, torch.ones_like(batch.content), batch.content)  # white: no object
            moving = torch.where(gone, -torch.ones_like(batch.motion), batch.motion)  # black: no disc
            features = self.pixel_warper(still, moving)
        added = added_embeddings(self.unet, identity, batch.video.shape[-1])
        predicted = predict_noise(self.unet, self.controlnet, sample, timesteps, identity, features, 1.0, added)
        if not self.is_residual:
            return predicted
        pasted, mask = sample[:, -predicted.shape[1] :], batch.mask
        light = read_light(self.pixel_warper.light, pasted, mask, self.scaling_factor)
        covered = fold_covered(batch.content, batch.content.shape[-1] // mask.shape[-1])
        return add_residual(pasted, predicted, light, covered, self.scaling_factor)

    def _identity(self, batch: Batch, dropped: torch.Tensor) -> Identity:
        """The references' identity, the null identity where it is ``dropped``."""
        black = -torch.ones_like(batch.references)  # the all-zero picture
        gone = dropped.view(-1, 1, 1, 1, 1)
        found: Identity = self.id_extractor(torch.where(gone, black, batch.references))
        return found

    def rate_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer: what is fresh learns ``fresh_rate_factor`` times faster."""
        known: list[nn.Parameter] = []
        fresh: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                (fresh if name.startswith(FRESH) else known).append(parameter)
        rate = float(config.learning_rate)
        groups = [{"params": known, "lr": rate}, {"params": fresh, "lr": rate * config.fresh_rate_factor}]
        return [group for group in groups if group["params"]]


def draw(batch: Batch, config: TrainConfig, num_train_timesteps: int, latent_channels: int, generator: torch.Generator) -> Drawn:
    """Everything random of one step, on the CPU, from one generator."""
    count, _, num_frames, height, width = batch.mask.shape
    rates = DropoutRates(float(config.dropout.identity), float(config.dropout.warper), float(config.dropout.both))
    how = (config.loss.adaptive_timesteps, float(config.loss.pure_noise))
    timesteps = sample_timesteps(batch.sources, num_train_timesteps, generator, *how)
    without_identity, without_warper = draw_dropout(count, rates, generator)
    noise = torch.randn(count, latent_channels, num_frames, height, width, generator=generator)
    return Drawn(noise, timesteps, without_identity, without_warper)


@torch.no_grad()
def encode(codec: Any, video: torch.Tensor) -> torch.Tensor:
    """Scaled latents [B,L,F,h,w] of [B,3,F,N,N]."""
    count, _, num_frames = video.shape[:3]
    latents = codec.encode(video.transpose(1, 2).flatten(0, 1).to(codec.dtype)).latent_dist.mode()
    latents = (latents.float() - (codec.config.get("shift_factor") or 0)) * codec.config.scaling_factor
    return latents.unflatten(0, (count, num_frames)).transpose(1, 2)


def loss_of(learner: nn.Module, codec: Any, scheduler: Any, batch: Batch, drawn: Drawn, config: TrainConfig) -> torch.Tensor:
    """The weighted loss of one batch: noise the truth, predict, compare with what the schedule's prediction type asks for."""
    clean, masked = encode(codec, batch.video), encode(codec, batch.masked)
    noisy = scheduler.add_noise(clean, drawn.noise, drawn.timesteps)
    sample = stack_input(noisy, batch.mask, masked)
    predicted = learner(sample, drawn.timesteps, batch, drawn.without_identity, drawn.without_warper)
    return weighted_loss(predicted, _target(scheduler, clean, drawn), _weights(batch, config))


def _target(scheduler: Any, clean: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """delta*: the noise, the velocity or the clean latents."""
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return clean
    if kind == "v_prediction":
        velocity: torch.Tensor = scheduler.get_velocity(clean, drawn.noise, drawn.timesteps)
        return velocity
    return drawn.noise


def _weights(batch: Batch, config: TrainConfig) -> torch.Tensor | None:
    scale = float(config.loss.scale)
    if config.loss.kind == "plain":
        return None
    if config.loss.kind == "box" or batch.points.shape[1] == 0:
        return box_weights(batch.mask, scale)
    stride = batch.video.shape[-1] / batch.mask.shape[-1]
    hw = (int(batch.mask.shape[3]), int(batch.mask.shape[4]))
    weights = trajectory_weights(batch.points / stride, batch.is_visible, hw, scale) * box_weights(batch.mask, scale)
    return weights / weights.mean(dim=(1, 2, 3, 4), keepdim=True)
