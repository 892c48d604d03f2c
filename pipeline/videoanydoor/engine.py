"""VideoAnydoor behind the common engine protocol: layers in order, everything that does not change kept by content.

Per layer: crop the source window (on the result of the layers before), build the conditioning, sample, keep the generated window.
At the end all are pasted into the clip's own frames (``pasting``); outside their masks the source is untouched. Kept by content
hash: identity tokens, source latents, results; so a new seed encodes nothing anew, and an unchanged request samples nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from .. import media
from ..cache import ArtifactCache, content_key
from ..engines import Report
from ..errors import UserError
from ..model_cache import ModelCache, ModelCaches
from ..runtime import Runtime, choose_runtime, free_memory_bytes, release_memory
from ..types import Array, DecodedFrame, Frame, InsertionRequest, Layer, Progress
from .checkpoints import checkpoint_key
from .conditioning import LayerConditioning, build_conditioning, find_motion
from .drawing import NUM_COLORS
from .folders import list_checkpoints
from .id_extractor import Identity
from .pasting import LayerResult, lay_windows, paste_layers
from .pipeline import IdentityPair, SourceLatents, VideoAnydoorPipeline, anchor_colors
from .plan import Extent, Placement, Plan, measure_extent, plan_run, read_facts
from .regions import crop_frame
from .residual import CarriedReference
from .sampling import SamplingOptions, fresh_scheduler
from .windows import split_windows

RECOMPILE_LIMIT = 128
"""How many kinds of a repeated block are compiled at most: one for each pair of widths and size that the networks have. Beyond it
blocks would run uncompiled; torch's own limit (8) is below what a U-Net needs."""

VERSION = "2"
"""Part of every key; a new number makes older artefacts unreachable when what is computed changes."""

Warn = Callable[[str], None]


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """What a request means for this engine: how much there is to make, the key of its checkpoint, and how to sample."""

    extent: Extent
    key: str
    options: SamplingOptions


@dataclass(frozen=True, eq=False, slots=True)
class SampleTask:
    """One layer to sample: plain values alone, so that it can be sent to another process.

    ``frames`` u8[F,N,N,3] is the layer's window of the source. ``identity_key`` and ``latents_key`` are those of what is encoded
    for it: the references' identity and the null one, the latents of the window and its masked copy. ``known`` is what of them was
    encoded before, by key.
    """

    job: Job
    plan: Plan
    name: str
    conditioning: LayerConditioning
    frames: Array
    identity_key: str
    latents_key: str
    known: Mapping[str, dict[str, Array]]


Keep = Callable[[str, dict[str, Array]], None]
"""Called with every artefact that was not known, under its key, as soon as it is encoded."""

Sampler = Callable[[SampleTask, Report, Keep], Array]
"""Samples a task's window u8[F,N,N,3]. Raises ``torch.OutOfMemoryError``, and ``Cancelled`` where the report does."""


class VideoAnydoorEngine:
    """Satisfies ``engines.Engine``. ``checkpoints`` is the folder whose subfolders are checkpoints; the caches are shared, passed
    by argument and may be used by other engines too. ``free_bytes`` tells the device's free memory, idle models counted as free.
    ``feature_interval``: see ``SamplingOptions``. ``wrap``: what makes the sampler that runs of the engine's own one.
    ``compile_backend``: torch.compile's, for the repeated blocks of U-Net and ControlNet; None compiles nothing."""

    def __init__(
        self,
        checkpoints: Path | None,
        runtime: Runtime,
        models: ModelCache,
        artifacts: ArtifactCache,
        free_bytes: Callable[[], int] | None = None,
        feature_interval: int = 1,
        wrap: Callable[[Sampler], Sampler] | None = None,
        compile_backend: str | None = None,
    ) -> None:
        self._checkpoints, self._runtime = checkpoints, runtime
        self._models, self._artifacts = models, artifacts
        self._feature_interval = feature_interval
        self._compile_backend = compile_backend
        self._free_bytes = free_bytes or (lambda: free_memory_bytes(runtime) + models.held_bytes)
        self._sampler = self.sample if wrap is None else wrap(self.sample)
        self._pastes_back = True

    def without_paste_back(self) -> VideoAnydoorEngine:
        """The same engine, sharing all that is loaded and kept, whose frames show the generated windows whole: for evaluation."""
        other = copy.copy(self)
        other._pastes_back = False
        return other

    def load_ahead(self) -> None:
        """Load every checkpoint now, with all networks resident, so that no run has to."""
        for folder in list_checkpoints(self._checkpoints):
            facts = read_facts(folder)
            num_bytes = facts.idle_bytes("resident", self._runtime)
            with self._models.lease(
                _model_key(self._key(folder), "resident", False), partial(self._load, folder, "resident", False), num_bytes
            ):
                pass

    def plan(self, request: InsertionRequest) -> Plan:
        """What the run will take and how it will be placed; loads nothing. Raises ``UserError`` when it cannot work."""
        return self._plan(self._prepare(request))

    def run(self, request: InsertionRequest, report: Report, warn: Warn) -> Iterator[Frame]:
        """Yield every frame of ``request.frame_range`` in order. Raises ``UserError``, and ``Cancelled`` where ``report`` does."""
        job = self._prepare(request)
        results: list[LayerResult] = []
        for layer in request.layers:
            result = self._run_layer(request, job, layer, results, report, warn)
            if result is not None:
                results.append(result)
        start, stop = request.frame_range
        with closing(_as_generator(media.read_frames(request.clip, start, stop))) as sources:
            for step, source in enumerate(sources, start=1):
                frame = paste_frame(source, results, source.frame_index - start, self._pastes_back)
                report(Progress("pasting", step, request.num_frames, frame.image))
                yield frame

    # -- before the run -----------------------------------------------------------------------------------------------------------

    def _prepare(self, request: InsertionRequest) -> Job:
        sampling = request.sampling
        extent = measure_extent(self._checkpoints, sampling, request.num_frames, len(request.layers))
        try:
            options = SamplingOptions(
                seed=sampling.seed,
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.guidance_scale,
                motion_strength=sampling.motion_strength,
                identity_strength=sampling.identity_strength,
                init=sampling.init,  # type: ignore[arg-type]
                window=extent.window,
                overlap=extent.overlap,
                feature_interval=self._feature_interval,
            )
        except ValueError as error:
            raise UserError(f"engine.{error}.") from error
        return Job(extent, self._key(extent.checkpoint), options)

    def _key(self, checkpoint: Path) -> str:
        how = (self._runtime.device, self._runtime.precision, self._compile_backend)  # each rounds differently
        return content_key(VERSION, checkpoint_key(checkpoint), *how)

    def _plan(self, job: Job) -> Plan:
        return plan_run(job.extent, self._runtime, self._free_bytes(), keeps_features=job.options.feature_interval > 1)

    # -- one layer ----------------------------------------------------------------------------------------------------------------

    def _run_layer(
        self, request: InsertionRequest, job: Job, layer: Layer, before: list[LayerResult], report: Report, warn: Warn
    ) -> LayerResult | None:
        """A layer's result, from the cache or sampled; None when there is nothing to do."""
        if layer.blend.opacity == 0:
            return None
        if layer.trajectories is not None and len(layer.trajectories) > NUM_COLORS:
            warn(f"layer {layer.name!r}: of its {len(layer.trajectories)} trajectories the {NUM_COLORS} longest are used.")
        conditioning = build_conditioning(layer, request.clip, request.frame_range, job.extent.facts.grid(job.extent.size))
        if conditioning is None:
            warn(f"layer {layer.name!r}: its object is in no frame of the range.")
            return None
        source_key = before[-1].key if before else content_key(request.clip.sha256, request.frame_range)
        key = _result_key(job, conditioning, source_key, layer)
        carried = None
        if conditioning.pasted is not None and (motion := find_motion(layer, request.clip)) is not None:
            carried = CarriedReference(layer.references[0], motion)
        kept = self._artifacts.load(key)
        if kept is not None:
            return LayerResult(layer, conditioning, kept["pictures"], key, kept.get("pasted"), carried)
        frames = conditioning.lay_over(_crop_source(request, conditioning, before, report))
        keys = (_identity_key(job, conditioning), _latents_key(job, conditioning, frames, source_key))
        task = SampleTask(job, self._plan(job), layer.name, conditioning, frames, *keys, self._find_known(*keys))
        pictures = self._generate(task, report, warn)
        made = {"pictures": pictures} | ({} if conditioning.pasted is None else {"pasted": frames})
        self._artifacts.store(key, **made)
        return LayerResult(layer, conditioning, pictures, key, made.get("pasted"), carried)

    def _generate(self, task: SampleTask, report: Report, warn: Warn) -> Array:
        """Sample with the task's plan; when memory runs out, once more with a smaller one. Raises ``UserError`` after that."""
        for attempt in range(2):
            with suppress(torch.OutOfMemoryError):
                return self._sampler(task, report, self._keep)
            smaller = task.plan.smaller(self._runtime.is_accelerated)
            if smaller is None or attempt:
                break
            warn(f"The device ran out of memory; trying again with a smaller plan: {smaller.describe()}.")
            task = replace(task, plan=smaller, known=self._find_known(task.identity_key, task.latents_key))
        raise UserError(
            "The device has too little memory for this run; choose a smaller size, a shorter window or range, or the CPU."
        )

    def sample(self, task: SampleTask, report: Report, keep: Keep) -> Array:
        """A ``Sampler``: load, encode, sample and decode on this engine's device. Out of memory, it lets go of what it loaded."""
        try:
            return self._sample(task, report, keep)
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # here nothing holds the failed run's tensors any more
        self._models.drop(_model_key(task.job.key, task.plan.placement, task.plan.is_tiled))
        release_memory(self._runtime)
        raise torch.OutOfMemoryError(reason)

    def _sample(self, task: SampleTask, report: Report, keep: Keep) -> Array:
        job, plan, name, conditioning, frames = task.job, task.plan, task.name, task.conditioning, task.frames
        num_bytes = job.extent.facts.idle_bytes(plan.placement, self._runtime)
        report(Progress(f"loading for {name!r}: {plan.describe()}", 0, job.options.num_inference_steps))
        key = _model_key(job.key, plan.placement, plan.is_tiled)
        load = partial(self._load, job.extent.checkpoint, plan.placement, plan.is_tiled)
        with self._models.lease(key, load, num_bytes, plan.needed_bytes) as pipe, torch.no_grad():
            pipe.vae_chunk = plan.vae_chunk
            options = job.options
            report(Progress(f"encoding {name!r}", 0, options.num_inference_steps))
            device = self._runtime.torch_device()
            identity = self._identity(pipe, task, keep)
            source = self._source_latents(pipe, task, keep)
            features = pipe.encode_motion(
                conditioning.content, conditioning.motion, split_windows(len(frames), options.window, options.overlap)
            )
            scheduler = fresh_scheduler(pipe.scheduler, options.num_inference_steps, device)

            def on_inversion_step(step: int, num_steps: int) -> None:
                report(Progress(f"inverting for {name!r}", step, num_steps))

            latents = pipe.prepare_latents(source, identity, options, scheduler, on_inversion_step)
            hidden = conditioning.masks() & (conditioning.pasted is None)
            show = Preview(frames, hidden, source.masked, pipe.stride)

            def on_step_end(_: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> None:
                picture = show(tensors["latents"])
                report(Progress(f"inserting {name!r}", step + 1, len(scheduler.timesteps), picture))

            latents = pipe.denoise(latents, source, identity, features, options, scheduler, on_step_end)
            report(Progress(f"decoding {name!r}", options.num_inference_steps, options.num_inference_steps))
            pictures = anchor_colors(pipe.decode(latents), frames, conditioning.masks(), options.window)
            pipe.maybe_free_model_hooks()
            return pictures

    # -- what is kept -------------------------------------------------------------------------------------------------------------

    def _load(self, checkpoint: Path, placement: Placement, is_tiled: bool) -> VideoAnydoorPipeline:
        """The checkpoint's pipeline, placed as planned and compiled if asked for. Raises ``UserError``."""
        pipe = VideoAnydoorPipeline.from_pretrained(checkpoint, self._runtime.torch_dtype())
        device = self._runtime.torch_device()
        if self._runtime.precision == "float16" and pipe.vae.config.get("force_upcast"):
            pipe.vae.to(torch.float32)  # its activations overflow half precision
        if device.type == "cuda":
            pipe.unet.to(memory_format=torch.channels_last)
            pipe.controlnet.to(memory_format=torch.channels_last)
        if is_tiled:
            pipe.vae.enable_tiling()
        if placement == "model_offload":
            pipe.enable_model_cpu_offload(device=device)
        elif placement == "sequential_offload":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            pipe.to(device)
        if self._compile_backend is not None and placement != "sequential_offload":  # there moving the layers is what takes time
            compile_networks(pipe, self._compile_backend, device)
        return pipe

    def _keep(self, key: str, arrays: dict[str, Array]) -> None:
        self._artifacts.store(key, **arrays)

    def _find_known(self, *keys: str) -> dict[str, dict[str, Array]]:
        """What of the artefacts under these keys is kept."""
        found = {key: self._artifacts.load(key) for key in keys}
        return {key: arrays for key, arrays in found.items() if arrays is not None}

    def _identity(self, pipe: VideoAnydoorPipeline, task: SampleTask, keep: Keep) -> IdentityPair:
        """The references' identity and the null one, known or encoded."""
        references, kept = task.conditioning.references, task.known.get(task.identity_key)
        if kept is not None:
            pairs = [_to_identity(kept, name, pipe.unet.dtype, self._runtime) for name in ("reference", "null")]
            return IdentityPair(pairs[0] if len(references) else pairs[1], pairs[1])
        pair = pipe.encode_identity(references)
        arrays = {}
        for name, identity in zip(("reference", "null"), pair, strict=True):
            arrays[f"{name}_tokens"] = _to_array(identity.tokens)
            if identity.pooled is not None:
                arrays[f"{name}_pooled"] = _to_array(identity.pooled)
        keep(task.identity_key, arrays)
        return pair

    def _source_latents(self, pipe: VideoAnydoorPipeline, task: SampleTask, keep: Keep) -> SourceLatents:
        """Latents of the window and its masked copy, known or encoded."""
        kept, device = task.known.get(task.latents_key), self._runtime.torch_device()
        if kept is not None:
            tensors = {name: torch.from_numpy(array).to(device) for name, array in kept.items()}
            return SourceLatents(tensors["masked"], tensors["mask"], tensors.get("source"))
        latents = pipe.encode_source(task.frames, task.conditioning.masks(), _needs_source(task.job))
        arrays = {"masked": _to_array(latents.masked), "mask": _to_array(latents.mask)}
        if latents.source is not None:
            arrays["source"] = _to_array(latents.source)
        keep(task.latents_key, arrays)
        return latents


def compile_networks(pipe: VideoAnydoorPipeline, backend: str, device: torch.device) -> None:
    """Let the repeated blocks of U-Net and ControlNet be compiled at their first call. Raises ``UserError`` where torch cannot."""
    try:
        torch.compile(torch.sin, backend=backend)(torch.ones(2, device=device))
    except torch.OutOfMemoryError:
        raise  # a smaller plan may do
    except Exception as error:  # whatever is missing (a C++ compiler, Triton) has an error of its own
        raise UserError("Networks cannot be compiled here; install a C++ compiler, or leave --compile out.") from error
    for network in (pipe.unet, pipe.controlnet):
        network.compile_repeated_blocks(backend=backend, recompile_limit=RECOMPILE_LIMIT)


def _to_array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy()
    return array


def _to_identity(kept: dict[str, Array], name: str, dtype: torch.dtype, runtime: Runtime) -> Identity:
    tensors = [kept.get(f"{name}_{part}") for part in ("tokens", "pooled")]
    moved = [None if item is None else torch.from_numpy(item).to(runtime.torch_device(), dtype) for item in tensors]
    return Identity(*moved)  # type: ignore[arg-type]


def _model_key(key: str, placement: Placement, is_tiled: bool) -> str:
    """The key of a loaded pipeline; ``key`` is its checkpoint's."""
    return content_key(key, "pipeline", placement, is_tiled)


def _needs_source(job: Job) -> bool:
    """Whether sampling starts from the source itself."""
    return job.options.init != "noise"


def _identity_key(job: Job, conditioning: LayerConditioning) -> str:
    return content_key(job.key, "identity", conditioning.references)


def _latents_key(job: Job, conditioning: LayerConditioning, frames: Array, source_key: str) -> str:
    """Of all that the latents of a window depend on; ``source_key`` is that of what its ``frames`` are cropped from."""
    window = conditioning.window
    cropped = (window.offsets_px, window.side_px, window.size)
    pasted = None if conditioning.pasted is None else frames
    return content_key(job.key, "source", source_key, cropped, conditioning.masks(), pasted, _needs_source(job))


def _result_key(job: Job, conditioning: LayerConditioning, source_key: str, layer: Layer) -> str:
    """Of all that can change a layer's pasted result."""
    options, window = job.options, conditioning.window
    sampled = tuple((name, getattr(options, name)) for name in options.__slots__)
    guiding = (window.offsets_px, window.side_px, window.size, conditioning.boxes, conditioning.references)
    held = tuple((*track.runs, track.feather_px) for track in layer.holdouts)
    pasted = conditioning.pasted
    laid = None if pasted is None else (pasted.content, pasted.covered, int(pasted.hides), _carried_parts(layer))
    pictures = (conditioning.content, conditioning.motion, conditioning.silhouettes, laid)
    return content_key(job.key, "result", source_key, sampled, guiding, pictures, layer.blend.opacity, held)


def _carried_parts(layer: Layer) -> tuple[Any, ...]:
    """Of a layer whose reference is warped at the clip's own resolution: all that says how, for a key."""
    parts: list[Any] = [layer.fit, layer.anchor, layer.deform]
    parts += [(each.image, each.alpha) for each in layer.references[:1]]
    for each in (layer.boxes, layer.trajectories, layer.surface):
        parts.append(None if each is None else tuple(getattr(each, name) for name in each.__slots__))
    return (*parts, None if layer.target is None else tuple(layer.target.runs))


class Preview:
    """Latents as a small picture, cheaply: the linear map that best turns the masked source's latents into its pixels."""

    def __init__(self, frames: Array, masks_: Array, latents: torch.Tensor, stride: int) -> None:
        self._frame = len(frames) // 2
        pictures = np.where(masks_[self._frame][..., None], 127.5, frames[self._frame]).astype(np.float32)
        side = frames.shape[1] // stride
        small = cv2.resize(pictures, (side, side), interpolation=cv2.INTER_AREA).reshape(-1, 3)
        self._map = np.linalg.lstsq(self._columns(latents), small, rcond=None)[0]
        self._size = frames.shape[1]

    def _columns(self, latents: torch.Tensor) -> Array:
        values = latents[0, :, self._frame].flatten(1).T.float().cpu().numpy()
        return np.concatenate([values, np.ones((len(values), 1), np.float32)], axis=1)

    def __call__(self, latents: torch.Tensor) -> Array:
        """The middle frame, u8[N,N,3]."""
        side = latents.shape[-1]
        small = np.clip(np.nan_to_num(self._columns(latents) @ self._map), 0, 255).reshape(side, side, 3).astype(np.uint8)
        return np.asarray(cv2.resize(small, (self._size, self._size), interpolation=cv2.INTER_LINEAR), np.uint8)


# -- pictures in and out ----------------------------------------------------------------------------------------------------------


def _crop_source(request: InsertionRequest, conditioning: LayerConditioning, before: list[LayerResult], report: Report) -> Array:
    """The layer's window u8[F,N,N,3] of every frame, on the result of the layers before."""
    start, stop = request.frame_range
    crops = []
    with closing(_as_generator(media.read_frames(request.clip, start, stop))) as sources:
        for index, source in enumerate(sources):
            report(Progress("reading", index + 1, request.num_frames))
            image = paste_frame(source, before, index).image if before else source.image
            crops.append(crop_frame(image, conditioning.window, index))
    return np.stack(crops)


def paste_frame(source: DecodedFrame, results: list[LayerResult], index: int, pastes_back: bool = True) -> Frame:
    """A frame of the clip with the results laid over it, in order; ``index`` counts from the start of the range."""
    image = source.image.copy()
    stacked = paste_layers(image, results, source.frame_index, index) if pastes_back else lay_windows(image, results, index)
    return Frame(source.frame_index, image, stacked, stacked[..., 3] > 0, source)


def _as_generator(frames: Iterator[DecodedFrame]) -> Any:
    """``media.read_frames`` is a generator, which its type does not say; closing it stops the decoder."""
    return frames


def build_engine(
    device: str,
    checkpoints: Path | None,
    artifacts: ArtifactCache,
    is_compiled: bool = False,
    models: ModelCaches | None = None,
) -> VideoAnydoorEngine:
    """The engine on ``device`` (``auto`` or torch's name); ``models`` keeps its networks beside what else runs there.

    Raises ``UserError`` for a device that is not there.
    """
    runtime = choose_runtime(device)
    kept = (models or ModelCaches()).find(runtime)
    return VideoAnydoorEngine(checkpoints, runtime, kept, artifacts, compile_backend="inductor" if is_compiled else None)
