"""A cache of deep features over sampling steps, off unless asked for: an approximation that trades a little fidelity for speed.

Deep features change slowly from step to step (DeepCache, Ma et al. 2024). Every ``interval``-th step runs in full and keeps, per
window, what enters the U-Net's last up block and the ControlNet's residuals of the first resolution; the steps between run only the
first down block and the last up block on the new latents. The same input twice gives the same output, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNetMotionModel

Context = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class DeepFeatureCache:
    """The kept features of one run, by window; ``interval`` of at least 2."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._kept: dict[int, dict[str, Any]] = {}

    def is_full(self, step: int) -> bool:
        """Whether this step, counted from 0, runs the whole network."""
        return step % self.interval == 0

    @contextmanager
    def keep(self, unet: UNetMotionModel, window: int) -> Iterator[None]:
        """Keep what passes through ``unet`` during the ``with`` block, for the window of this number."""
        kept: dict[str, Any] = {}

        def see_residuals(_: Any, __: Any, inputs: dict[str, Any]) -> None:
            kept["residuals"] = inputs["down_block_additional_residuals"]

        def see_deep(_: Any, __: Any, inputs: dict[str, Any]) -> None:
            kept["deep"] = inputs["hidden_states"]

        handles = [
            unet.register_forward_pre_hook(see_residuals, with_kwargs=True),
            unet.up_blocks[-1].register_forward_pre_hook(see_deep, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        count = len(unet.up_blocks[-1].resnets)
        residuals = kept["residuals"]
        self._kept[window] = {"deep": kept["deep"], "residuals": None if residuals is None else residuals[:count]}

    def predict(
        self,
        unet: UNetMotionModel,
        window: int,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: Context,
        added: dict[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        """delta [B, L, F, h, w] of ``sample`` [B, 2L+1, F, h, w] from the kept deep features and the first resolution alone.

        ``context`` as the U-Net takes it, per frame. Follows ``UNetMotionModel.forward`` with the inner blocks left out.
        """
        kept, num_frames = self._kept[window], sample.shape[2]
        embedding = embed_time(unet, timestep, added).repeat_interleave(num_frames, dim=0)
        hidden = unet.conv_in(sample.transpose(1, 2).flatten(0, 1))  # [B*F, C, h, w]
        skips: tuple[torch.Tensor, ...] = (hidden,)
        _, more = run_block(unet.down_blocks[0], hidden, embedding, context, num_frames)
        skips = (*skips, *more)[: len(unet.up_blocks[-1].resnets)]
        if kept["residuals"] is not None:
            skips = tuple(skip + residual for skip, residual in zip(skips, kept["residuals"], strict=True))
        hidden = run_block(unet.up_blocks[-1], kept["deep"], embedding, context, num_frames, res_hidden_states_tuple=skips)
        predicted: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return predicted.unflatten(0, (-1, num_frames)).transpose(1, 2)


def embed_time(unet: UNetMotionModel, timestep: torch.Tensor, added: dict[str, torch.Tensor] | None) -> torch.Tensor:
    """The U-Net's time embedding [B, T] of ``timestep`` [B], with SDXL's extra conditions."""
    embedding: torch.Tensor = unet.time_embedding(unet.time_proj(timestep).to(unet.dtype))
    if unet.config.addition_embed_type != "text_time" or added is None:
        return embedding
    times = unet.add_time_proj(added["time_ids"].flatten()).reshape(len(embedding), -1)
    extra: torch.Tensor = unet.add_embedding(torch.cat([added["text_embeds"], times], dim=-1).to(embedding.dtype))
    return embedding + extra


def run_block(block: Any, hidden: torch.Tensor, embedding: torch.Tensor, context: Context, num_frames: int, **more: Any) -> Any:
    """A down or up block, with the context where it takes one."""
    if getattr(block, "has_cross_attention", False):
        more["encoder_hidden_states"] = context
    return block(hidden_states=hidden, temb=embedding, num_frames=num_frames, **more)
