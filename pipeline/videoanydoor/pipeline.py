"""``VideoAnydoorPipeline``: one layer's conditioning and the source window to generated frames.

check_inputs, encode (identity, source, warper features), prepare, denoise, decode: each a short method, so that a caller may keep
what does not change between runs. Latents are f32[1, L, F, h, w] between the methods; the models run in their own dtype.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from scipy.ndimage import uniform_filter1d

from ..errors import UserError
from ..types import Array
from .conditioning import MASK_SHAPES, Grid, MaskShape, to_frames, to_mask, to_tensor
from .controlnet import ControlNet
from .denoiser import add_residual, added_embeddings, fold_covered, frame_context, predict_noise, read_light, stack_input
from .feature_cache import DeepFeatureCache
from .id_extractor import Identity, IdExtractor
from .identity_attention import IdentityAttention
from .pixel_codec import PixelCodec
from .pixel_warper import PixelWarper
from .sampling import (
    SCHEDULERS,
    SamplingOptions,
    add_noise,
    fresh_scheduler,
    guide,
    inversion_steps,
    scale_model_input,
)
from .scales import latent_stride
from .unet import VideoUNet
from .weights import load_strictly
from .windows import blend_weights, blend_windows, draw_noise, split_windows

MODELS: dict[str, Any] = {
    "vae": AutoencoderKL,
    "unet": VideoUNet,
    "controlnet": ControlNet,
    "pixel_warper": PixelWarper,
    "id_extractor": IdExtractor,
}
"""The networks of a checkpoint, by folder."""
CODECS: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "PixelCodec": PixelCodec}
"""What may stand in the folder ``vae``, by class name."""
BESIDE_TEXT = "identity_attention"
"""The network that only some checkpoints have."""

StepCallback = Callable[["VideoAnydoorPipeline", int, Any, dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]
"""diffusers' ``callback_on_step_end(pipeline, step, timestep, {"latents": ...})``; raising stops the run."""


class IdentityPair(NamedTuple):
    """The references' identity and the null identity of the same length."""

    reference: Identity
    null: Identity


class SourceLatents(NamedTuple):
    """Latents f32[1, L, F, h, w] of the masked source (or of the pasted one, where a residual is predicted), the mask
    f32[1, 1, F, h, w] on their grid, and, where sampling starts from it, the latents of the source itself."""

    masked: torch.Tensor
    mask: torch.Tensor
    source: torch.Tensor | None


class Carried(NamedTuple):
    """What the pixel warper makes of one window: features f_c [1, C, f, h, w], and, where a residual is predicted, what the warped
    reference covers, folded like latents, f32[1, L, f, h, w]."""

    features: torch.Tensor
    covered: torch.Tensor | None


class VideoAnydoorPipeline(DiffusionPipeline):
    """The networks of VideoAnydoor and its sampler. ``size`` N is the side of the square pictures it was trained on;
    ``identity_attention`` is there when the identity stands beside text instead of in its place. ``mask_shape`` and
    ``is_residual``: see ``conditioning``; a residual needs folded pixels, and a schedule that predicts them."""

    model_cpu_offload_seq = "id_extractor->pixel_warper->unet->vae"
    _exclude_from_cpu_offload = ["controlnet", "identity_attention"]  # noqa: RUF012 - diffusers' name and type
    _optional_components = ["identity_attention"]  # noqa: RUF012 - diffusers' name and type

    def __init__(
        self,
        vae: AutoencoderKL | PixelCodec,
        unet: VideoUNet,
        controlnet: ControlNet,
        pixel_warper: PixelWarper,
        id_extractor: IdExtractor,
        scheduler: Any,
        size: int = 512,
        identity_attention: IdentityAttention | None = None,
        mask_shape: MaskShape = "box",
        is_residual: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            unet=unet,
            controlnet=controlnet,
            pixel_warper=pixel_warper,
            id_extractor=id_extractor,
            scheduler=scheduler,
            identity_attention=identity_attention,
        )
        self.register_to_config(size=size, mask_shape=mask_shape, is_residual=is_residual)
        self.vae_chunk = 8
        """How many frames the VAE takes at once."""
        self.set_progress_bar_config(disable=True)
        self._check_modules_fit()
        if identity_attention is not None:
            identity_attention.install(unet)

    # -- loading and saving -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, folder: str | Path, torch_dtype: torch.dtype | None = None) -> Self:
        """Load a checkpoint folder that ``save_pretrained`` wrote: known classes, safetensors, every tensor accounted for.

        Raises ``UserError`` with what is missing or does not fit.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            named, size = index["scheduler"][1], int(index["size"])
            codec = CODECS[index["vae"][1]]
            has_beside_text = (index.get(BESIDE_TEXT) or [None])[0] is not None
            shown = {"mask_shape": index.get("mask_shape", "box"), "is_residual": bool(index.get("is_residual", False))}
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{folder.name!r} is not a VideoAnydoor checkpoint; make one with 'python -m pipeline videoanydoor init'."
            ) from error
        if named not in SCHEDULERS:
            raise UserError(f"The checkpoint {folder.name!r} names the scheduler {named!r}; use one of {', '.join(SCHEDULERS)}.")
        classes = MODELS | {"vae": codec} | ({BESIDE_TEXT: IdentityAttention} if has_beside_text else {})
        models = {name: load_strictly(model, folder / name, torch_dtype) for name, model in classes.items()}
        try:
            scheduler = SCHEDULERS[named].from_pretrained(str(folder / "scheduler"), local_files_only=True)
            return cls(**models, scheduler=scheduler, size=size, **shown)
        except (OSError, ValueError) as error:
            raise UserError(f"The checkpoint {folder.name!r} is damaged: {str(error).splitlines()[0].rstrip('.')}.") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write every network as safetensors, the scheduler and ``model_index.json``."""
        super().save_pretrained(str(folder), safe_serialization=True)

    def _check_modules_fit(self) -> None:
        """The networks must agree on widths and strides."""
        latent = self.vae.config.latent_channels
        pairs = [
            ("input channels of the U-Net", self.unet.config.in_channels, 2 * latent + 1),
            ("width of the identity tokens", self.id_extractor.config.context_dim, self.unet.context_dim),
            ("stride of the pixel warper", self.pixel_warper.stride, self.stride),
            ("channels of the pixel warper", self.pixel_warper.config.channels, self.controlnet.config.feature_channels),
        ]
        for what, got, expected in pairs:
            if got != expected:
                raise ValueError(f"the networks do not fit together: {what} must be {expected}, got {got}")
        if self.config.mask_shape not in MASK_SHAPES:
            raise ValueError(f"mask_shape must be one of {', '.join(MASK_SHAPES)}, got {self.config.mask_shape!r}")
        if self.config.is_residual:
            predicts, warper = self.scheduler.config.get("prediction_type"), self.pixel_warper
            if predicts != "sample" or not isinstance(self.vae, PixelCodec):
                raise ValueError(f"a residual needs folded pixels and a schedule that predicts them (sample), not {predicts}")
            if warper.config.content != "warped" or warper.light is None:
                raise ValueError("a residual needs a pixel warper that takes the warped reference and reads the light")

    # -- sizes --------------------------------------------------------------------------------------------------------------------

    @property
    def stride(self) -> int:
        """Pixels per latent."""
        return latent_stride(self.vae.config)

    @property
    def size_multiple(self) -> int:
        """The side of a picture must be a multiple of this."""
        return self.stride * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def grid(self) -> Grid:
        """What the conditioning must be made for, at the size that the networks were trained on."""
        is_warped = self.pixel_warper.config.content == "warped"
        reference_size = int(self.id_extractor.config.image_size)
        shown = (self.config.mask_shape, bool(self.config.is_residual))
        return Grid(int(self.config.size), self.stride, reference_size, is_warped, *shown)

    @property
    def max_window(self) -> int:
        """Most frames that the temporal layers take at once."""
        return min(self.unet.max_num_frames, int(self.pixel_warper.config.max_num_frames))

    # -- 1. check -----------------------------------------------------------------------------------------------------------------

    def check_inputs(
        self, frames: Array, masks: Array, references: Array, content: Array, motion: Array, options: SamplingOptions
    ) -> None:
        """Raise ``ValueError`` unless the pictures have the shapes that ``__call__`` states and the window can be reached."""
        num_frames, side = frames.shape[:2]
        reference = self.id_extractor.config.image_size
        num_content = num_frames if self.pixel_warper.config.content == "warped" else 1
        shapes = [
            ("frames", frames.shape, (num_frames, side, side, 3)),
            ("masks", masks.shape, (num_frames, side, side)),
            ("references", references.shape, (len(references), reference, reference, 3)),
            ("content", content.shape, (num_content, side, side, 3)),
            ("motion", motion.shape, (num_frames, side, side, 3)),
        ]
        for name, got, expected in shapes:
            if tuple(got) != expected:
                raise ValueError(f"{name} must have shape {expected}, got {tuple(got)}")
        if side % self.size_multiple:
            raise ValueError(f"the side of the pictures must be a multiple of {self.size_multiple}, got {side}")
        cells = masks.reshape(num_frames, side // self.stride, self.stride, side // self.stride, self.stride)
        if (cells.any(axis=(2, 4)) != cells.all(axis=(2, 4))).any():
            raise ValueError(f"masks must be made of whole cells of {self.stride} pixels; see regions.snap_boxes")
        if options.window > self.max_window:
            raise ValueError(f"the window can have at most {self.max_window} frames, got {options.window}")

    # -- 2. encode ----------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_identity(self, references: Array) -> IdentityPair:
        """Identity of references u8[R,S,S,3] and the null identity; without references (R = 0) both are null."""
        count = max(len(references), 1)
        null = self.id_extractor.null(1, count, self._execution_device)
        if len(references) == 0:
            return IdentityPair(null, null)
        images = to_tensor(references).transpose(1, 2)  # [1, R, 3, S, S]
        return IdentityPair(self.id_extractor(self._to_model(images, self.id_extractor)), null)

    @torch.no_grad()
    def encode_source(self, frames: Array, masks: Array, with_source: bool) -> SourceLatents:
        """Latents of the source window u8[F,N,N,3] with the masked region at mid-grey (0), as the published in-painting weights
        expect (for a residual ``frames`` are the pasted ones, and all of them is shown); ``with_source`` adds those of the whole
        window. ``masks`` bool[F,N,N] lie on the latent grid already, so picking every stride-th pixel is exact."""
        step = self.stride
        coarse = masks[:, step // 2 :: step, step // 2 :: step]
        return SourceLatents(
            self.encode_video(frames, np.zeros_like(masks) if self.config.is_residual else masks),
            to_mask(coarse).to(self._execution_device),
            self.encode_video(frames, np.zeros_like(masks)) if with_source else None,
        )

    @torch.no_grad()
    def encode_video(self, frames: Array, masks: Array) -> torch.Tensor:
        """Scaled latents (the distribution's mode) of ``frames`` u8[F,N,N,3] with ``masks`` at 0, a few frames at a time."""
        latents = []
        for start in range(0, len(frames), self.vae_chunk):
            part = slice(start, start + self.vae_chunk)
            video = to_tensor(frames[part]) * (1 - to_mask(masks[part]))
            encoded = self.vae.encode(self._to_model(video[0].transpose(0, 1), self.vae)).latent_dist.mode()
            latents.append((encoded.float() - (self.vae.config.get("shift_factor") or 0)) * self.vae.config.scaling_factor)
        return torch.cat(latents).transpose(0, 1)[None]

    @torch.no_grad()
    def encode_motion(self, content: Array, motion: Array, windows: Sequence[slice]) -> list[Carried]:
        """What the pixel warper makes of every window, in the ControlNet's dtype."""
        carried = []
        for window in windows:
            part = content[window] if self.pixel_warper.config.content == "warped" else content
            still, moving = (self._to_model(to_tensor(pictures), self.pixel_warper) for pictures in (part, motion[window]))
            covered = fold_covered(to_tensor(part), self.stride).to(still.device) if self.config.is_residual else None
            carried.append(Carried(self.pixel_warper(still, moving), covered))
        return carried

    # -- 3. prepare ---------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare_latents(
        self,
        source: SourceLatents,
        identity: IdentityPair,
        options: SamplingOptions,
        scheduler: Any,
        on_inversion_step: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Where sampling starts, f32[1, L, F, h, w]: see ``SamplingOptions.init``. ``on_inversion_step(step, num_steps)`` is called
        after every step of an inversion; raising stops the run."""
        noise = draw_noise(tuple(source.masked.shape), options.window, options.overlap, options.seed).to(source.masked)
        if options.init == "noise":
            return noise * getattr(scheduler, "init_noise_sigma", 1.0)
        if source.source is None:
            raise ValueError(f"to start from {options.init!r}, encode the source with with_source=True")
        if options.init == "source":
            return source.mask * noise + (1 - source.mask) * add_noise(scheduler, source.source, noise)
        return self._invert(source.source, source, identity, options, scheduler, on_inversion_step)

    def _invert(
        self,
        latents: torch.Tensor,
        source: SourceLatents,
        identity: IdentityPair,
        options: SamplingOptions,
        scheduler: Any,
        on_step: Callable[[int, int], None] | None,
    ) -> torch.Tensor:
        """Run the source's ``latents`` backwards to noise, with the null identity and without the warper."""
        windows = split_windows(latents.shape[2], options.window, options.overlap)
        weights = blend_weights(windows, latents.shape[2])
        timesteps, step = inversion_steps(scheduler, latents.device)
        for index, timestep in enumerate(timesteps):
            predicted = self._predict(latents, latents, timestep, source, identity.null, None, windows, weights, options)
            latents = step(predicted, index, latents)
            if on_step is not None:
                on_step(index + 1, len(timesteps))
        return latents

    # -- 4. denoise ---------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def denoise(
        self,
        latents: torch.Tensor,
        source: SourceLatents,
        identity: IdentityPair,
        features: list[Carried],
        options: SamplingOptions,
        scheduler: Any,
        callback_on_step_end: StepCallback | None = None,
    ) -> torch.Tensor:
        """Sample from ``latents`` along the scheduler's timesteps; every step blends all windows."""
        num_frames = latents.shape[2]
        windows = split_windows(num_frames, options.window, options.overlap)
        weights = blend_weights(windows, num_frames)
        wanted = _strengthen(identity, options.identity_strength)
        is_guided = options.guidance_scale != 1 and wanted is not identity.null
        guided = _stack_identities(identity.null, wanted) if is_guided else wanted
        cache = DeepFeatureCache(options.feature_interval) if options.feature_interval > 1 else None
        for step, timestep in enumerate(scheduler.timesteps):
            model_input = scale_model_input(scheduler, latents, timestep)
            deep = None if cache is None else (cache, step)
            predicted = self._predict(latents, model_input, timestep, source, guided, features, windows, weights, options, deep)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
            if callback_on_step_end is not None:
                changed = callback_on_step_end(self, step, timestep, {"latents": latents})
                latents = (changed or {}).get("latents", latents)
        return latents

    def _predict(
        self,
        latents: torch.Tensor,
        model_input: torch.Tensor,
        timestep: torch.Tensor,
        source: SourceLatents,
        identity: Identity,
        features: list[Carried] | None,
        windows: Sequence[slice],
        weights: Sequence[torch.Tensor],
        options: SamplingOptions,
        deep: tuple[DeepFeatureCache, int] | None = None,
    ) -> torch.Tensor:
        """The blended prediction f32[1, L, F, h, w]; an ``identity`` of batch 2 (null first) is guided. ``deep``: the cache of deep
        features and the step's number."""
        count = len(identity.tokens)
        light = None
        if self.config.is_residual:
            light = read_light(self.pixel_warper.light, source.masked, source.mask, self.vae.config.scaling_factor).float()
        added = added_embeddings(self.unet, identity, model_input.shape[-1] * self.stride)

        def predict_window(window: slice, index: int) -> torch.Tensor:
            stacked = stack_input(model_input[:, :, window], source.mask[:, :, window], source.masked[:, :, window])
            sample, times = stacked.to(self.unet.dtype).repeat(count, 1, 1, 1, 1), timestep.repeat(count)
            if deep is not None and not deep[0].is_full(deep[1]):
                context = frame_context(identity, sample.shape[2], self.identity_attention)
                predicted = deep[0].predict(self.unet, index, sample, times, context, added)
            else:
                with deep[0].keep(self.unet, index) if deep is not None else nullcontext():
                    predicted = predict_noise(
                        self.unet,
                        self.controlnet,
                        sample,
                        times,
                        identity,
                        None if features is None else features[index].features.repeat(count, 1, 1, 1, 1),
                        options.motion_strength,
                        added,
                        self.identity_attention,
                    )
            predicted = predicted.float()
            if light is not None:
                pasted = source.masked[:, :, window]
                covered = None if features is None else features[index].covered
                covered = torch.zeros_like(pasted) if covered is None else covered
                predicted = add_residual(pasted, predicted, light, covered, self.vae.config.scaling_factor)
            if count == 1:
                return predicted
            null_pred, pred = predicted.chunk(2)
            return guide(null_pred, pred, options.guidance_scale, options.guidance_rescale)

        return blend_windows(predict_window, windows, weights, latents)

    # -- 5. decode ----------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> Array:
        """Frames u8[F,N,N,3], a few at a time."""
        pictures = []
        for chunk in latents[0].transpose(0, 1).split(self.vae_chunk):
            unscaled = chunk / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0)
            decoded = self.vae.decode(self._to_model(unscaled, self.vae), return_dict=False)[0]
            pictures.append(to_frames(decoded.transpose(0, 1)[None]))
        return np.concatenate(pictures)

    def __call__(
        self,
        frames: Array,
        masks: Array,
        references: Array,
        content: Array,
        motion: Array,
        options: SamplingOptions | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> Array:
        """Generate u8[F,N,N,3] for a source window ``frames`` u8[F,N,N,3] (for a residual: with the reference pasted,
        ``LayerConditioning.lay_over``).

        ``masks`` bool[F,N,N]: where to generate. ``references`` u8[R,S,S,3], ``content`` u8[Fc,N,N,3] (Fc = 1, or F when the
        content encoder takes the warped reference), ``motion`` u8[F,N,N,3]: see ``conditioning.LayerConditioning``.
        """
        options = options or SamplingOptions()
        self.check_inputs(frames, masks, references, content, motion, options)
        identity = self.encode_identity(references)
        source = self.encode_source(frames, masks, with_source=options.init != "noise")
        features = self.encode_motion(content, motion, split_windows(len(frames), options.window, options.overlap))
        scheduler = fresh_scheduler(self.scheduler, options.num_inference_steps, self._execution_device)
        latents = self.prepare_latents(source, identity, options, scheduler)
        latents = self.denoise(latents, source, identity, features, options, scheduler, callback_on_step_end)
        generated = anchor_colors(self.decode(latents), frames, masks, options.window)
        self.maybe_free_model_hooks()
        return generated

    def _to_model(self, values: torch.Tensor, model: Any) -> torch.Tensor:
        return values.to(self._execution_device, model.dtype)


def _strengthen(identity: IdentityPair, strength: float) -> Identity:
    """The identity moved from null (0) to reference (1) and beyond."""
    reference, null = identity
    if strength == 1 or reference is null:
        return reference
    moved = [None if a is None or b is None else a + strength * (b - a) for a, b in zip(null, reference, strict=True)]
    return Identity(*moved)  # type: ignore[arg-type]


def _stack_identities(one: Identity, two: Identity) -> Identity:
    pooled = None if one.pooled is None or two.pooled is None else torch.cat([one.pooled, two.pooled])
    return Identity(torch.cat([one.tokens, two.tokens]), pooled)


def anchor_colors(generated: Array, source: Array, masks: Array, window: int) -> Array:
    """Hold the colours of a long clip to those of its first window.

    How far a frame's colours drift is measured where nothing was to change (outside ``masks`` bool[F,N,N]), per channel, against
    the source, and smoothed over ``window`` frames; what it drifts beyond the first window's mean is taken off the whole frame.
    Clips of one window, and clips whose masks leave nothing to measure, stay as they are. Pictures are u8[F,N,N,3].
    """
    kept = ~masks
    if len(generated) <= window or kept.mean(axis=(1, 2)).min() < 0.01:
        return generated
    pairs = zip(generated, source, kept, strict=True)
    drift = np.array([made[keep].mean(axis=0) - given[keep].mean(axis=0) for made, given, keep in pairs])  # [F, 3]
    excess = uniform_filter1d(drift, 2 * (window // 2) + 1, axis=0, mode="nearest") - drift[:window].mean(axis=0)
    frames = [np.rint(np.clip(made - extra, 0, 255)).astype(np.uint8) for made, extra in zip(generated, excess, strict=True)]
    return np.stack(frames)
