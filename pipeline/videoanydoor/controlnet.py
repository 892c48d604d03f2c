"""The ControlNet of the pixel warper (VideoAnydoor, Eq. 1): a trainable copy of the U-Net's encoder that reads f_c.

    y_c = F(z_t, t, c_ref) + Z( F'(z_t + Z(f_c), t, c_ref) )

F' is the copy; its input z_t is the same nine-channel stack as the U-Net's, brought to features by its own first convolution, where
Z(f_c) is added; its context c_ref are the identity tokens. Its multi-scale features pass zero convolutions and are added to the
U-Net's skip connections and mid block. It works frame by frame; what joins frames lies in the motion encoder before it.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from .weights import StrictModel, zero_module


class Residuals(NamedTuple):
    """What is added to the U-Net: ``down``, one [B*F, C_i, h_i, w_i] per skip connection, and ``mid`` [B*F, C, h, w]."""

    down: tuple[torch.Tensor, ...]
    mid: torch.Tensor


class ControlNet(StrictModel):
    """``encoder_config``: that of the copied U-Net encoder, a ``ControlNetModel``. ``feature_channels``: channels of f_c."""

    _repeated_blocks: ClassVar[list[str]] = ["BasicTransformerBlock", "ResnetBlock2D"]
    """What ``compile_repeated_blocks`` compiles, as in ``VideoUNet``."""

    @register_to_config
    def __init__(self, encoder_config: dict[str, Any], feature_channels: int) -> None:
        super().__init__()
        self.encoder = ControlNetModel.from_config(encoder_config)
        width = self.encoder.config.block_out_channels[0]
        self.encoder.controlnet_cond_embedding = zero_module(nn.Conv2d(feature_channels, width, 1))  # the inner Z of Eq. 1

    @classmethod
    def from_unet2d(cls, unet: UNet2DConditionModel, feature_channels: int) -> ControlNet:
        """Copy the encoder and mid block of the 2D in-painting U-Net, with zero convolutions around it."""
        copied = ControlNetModel.from_unet(unet)
        config = {key: value for key, value in copied.config.items() if not key.startswith("_")}
        controlnet = cls(config, feature_channels)
        weights = {key: value for key, value in copied.state_dict().items() if not key.startswith("controlnet_")}
        state = controlnet.encoder.state_dict()
        controlnet.encoder.load_state_dict(state | weights)
        return controlnet.to(unet.dtype).eval()

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        tokens: torch.Tensor,
        features: torch.Tensor,
        scale: float = 1.0,
        added: dict[str, torch.Tensor] | None = None,
    ) -> Residuals:
        """``sample`` [B, 2L+1, F, h, w], ``timestep`` [B], identity ``tokens`` [B, S, D], ``features`` f_c [B, C, F, h, w].

        ``scale`` is the motion strength (0 takes the warper away). ``added``: SDXL's ``text_embeds`` and ``time_ids``, per video.
        """
        num_frames = sample.shape[2]
        down, mid = self.encoder(
            sample.transpose(1, 2).flatten(0, 1),  # [B*F, 2L+1, h, w]
            timestep.repeat_interleave(num_frames),
            encoder_hidden_states=tokens.repeat_interleave(num_frames, dim=0),
            controlnet_cond=features.transpose(1, 2).flatten(0, 1),
            conditioning_scale=scale,
            added_cond_kwargs={key: value.repeat_interleave(num_frames, dim=0) for key, value in (added or {}).items()},
            return_dict=False,
        )
        return Residuals(tuple(down), mid)
