"""The 3D U-Net (VideoAnydoor, Sec. 3.1): a 2D in-painting U-Net whose blocks carry temporal (motion) layers.

Input [B, 2L+1, F, h, w]: noisy latents (L channels), box mask (1; 1 = to generate), latents of the masked video (L), in the channel
order of the published in-painting weights (the paper lists the same parts in another order); L = 4, hence nine channels. Context
[B*F, S, D]: identity tokens, repeated over the frames. Output [B, L, F, h, w]: what the scheduler predicts (epsilon).
"""

from __future__ import annotations

from typing import ClassVar, Self

from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from .weights import StrictModel, set_trainable


class VideoUNet(StrictModel, UNetMotionModel):
    """``UNetMotionModel`` that loads strictly, keeps every 2D weight, and knows what the paper trains."""

    _repeated_blocks: ClassVar[list[str]] = ["BasicTransformerBlock", "ResnetBlock2D"]
    """What ``compile_repeated_blocks`` compiles, once per kind instead of once per place."""

    @classmethod
    def from_unet2d(
        cls, unet: UNet2DConditionModel, motion_adapter: MotionAdapter | None = None, load_weights: bool = True
    ) -> Self:
        """Inflate a 2D in-painting U-Net; ``motion_adapter`` brings the temporal layers.

        The parent leaves the added embedding of SDXL (``text_time``) at random values; here it is copied too. Raises
        ``ValueError`` when the two do not belong together or the U-Net does not paint in (2L + 1 input channels).
        """
        if unet.config.in_channels != 2 * unet.config.out_channels + 1:
            raise ValueError(
                f"an in-painting U-Net takes {2 * unet.config.out_channels + 1} channels (latents, mask, masked latents), "
                f"this one takes {unet.config.in_channels}"
            )
        video: Self = super().from_unet2d(unet, motion_adapter, load_weights)
        if load_weights and unet.config.addition_embed_type == "text_time":
            video.add_embedding.load_state_dict(unet.add_embedding.state_dict())
        return video.eval()

    @property
    def max_num_frames(self) -> int:
        """The longest window that the temporal layers' positions reach."""
        return int(self.config.motion_max_seq_length)

    @property
    def context_dim(self) -> int:
        """Width D of the context tokens."""
        width = self.config.cross_attention_dim
        return int(width if isinstance(width, int) else width[0])

    def train_as_in_paper(self) -> None:
        """Freeze the encoder's convolutions and spatial attention and the mid block; train the decoder and all temporal layers
        (the figure's flames and snowflakes; the mid block, not drawn, follows AnyDoor)."""
        set_trainable(self, False)
        set_trainable(self.up_blocks, True)
        set_trainable(self.conv_norm_out, True)
        set_trainable(self.conv_out, True)
        for block in (*self.down_blocks, self.mid_block):
            if hasattr(block, "motion_modules"):
                set_trainable(block.motion_modules, True)
