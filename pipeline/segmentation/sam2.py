"""SAM 2.1 (Ravi et al. 2024, arXiv 2408.00714) through transformers: clicks to masks, and masks through the clip.

transformers' own video session keeps every frame and every full-size mask, and its iterator wants the whole clip loaded. Here the
session holds no pictures: a frame is decoded, encoded once (``EmbeddingStore``), shown to the model and let go, and of the frames
behind only what the memory attention still reads is kept. So memory does not grow with the clip.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from transformers import Sam2VideoConfig, Sam2VideoInferenceSession, Sam2VideoModel
from transformers.utils import logging as transformers_logging

from ..errors import UserError
from ..media import file_sha256
from ..model_cache import ModelCache, ModelCaches, NoRoom
from ..runtime import Runtime, choose_runtime, release_memory
from ..types import Array, Clip, Prompt
from . import Segmentation
from .embeddings import EmbeddingStore, Features, FrameKey
from .preprocessing import decode_mask, encode_image, encode_prompt
from .tracks import check_prompts
from .weights import CONFIG_NAME, WEIGHTS_NAME, is_model, own_size

if TYPE_CHECKING:
    from ..media import FrameStore

VERSION = "1"
"""Part of ``Sam2Segmenter.key``; a new number when the same weights would give other masks."""

EMBEDDING_BYTES = 512 << 20
"""Room for the features of looked-at frames: about 30 at 1024 px in single precision."""

SIZE_STEP, MIN_SIZE, MAX_SIZE = 32, 64, 2048
"""Input sizes: multiples of the encoder's coarsest stride."""

PEAK_BYTES_PER_PIXEL = 1500
"""Memory that encoding one frame takes beside the weights, for each pixel of the input: 1.5 GB at 1024 px."""

PATIENCE_S = 20.0
"""How long a click or a track waits until models at work leave room for this one."""

SAME_MATRIX = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
"""One matrix under two names; a file may hold either."""


def build_segmenter(weights: Path, device: str, input_size: int | None = None, models: ModelCaches | None = None) -> Sam2Segmenter:
    """SAM 2.1 from the local folder ``weights`` on ``device`` (``auto`` or torch's name); the network is loaded at its first use.

    ``input_size``: see ``Sam2Segmenter``. ``models`` keeps the network beside what else runs there. Raises ``UserError`` when the
    device is not there or the size or folder will not do.
    """
    if not is_model(weights):
        raise UserError(f"{weights.name!r} holds no SAM 2.1 weights; it needs {CONFIG_NAME} and {WEIGHTS_NAME}.")
    runtime = choose_runtime(device)
    return Sam2Segmenter(weights, runtime, (models or ModelCaches()).find(runtime), input_size)


class Sam2Segmenter:
    """Satisfies ``Segmenter``. ``weights`` is a folder with ``config.json`` and ``model.safetensors``.

    ``input_size`` is the side of the square that the encoder sees, a multiple of 32: None is the model's own, 1024 px; smaller
    ones are faster and coarser (at 512 px the tiny model takes a CPU a fifth of the time for a click, a seventh to track). Networks
    run in single precision on the CPU and under autocast elsewhere, as the authors run them. ``max_embedding_bytes`` bounds what
    is kept of encoded frames, in host memory.
    """

    name = "sam2"

    def __init__(
        self,
        weights: Path,
        runtime: Runtime,
        models: ModelCache,
        input_size: int | None = None,
        max_embedding_bytes: int = EMBEDDING_BYTES,
    ) -> None:
        self._weights, self._runtime, self._models = weights, runtime, models
        self.input_size = _check_size(own_size(weights) if input_size is None else input_size)
        self.key = f"sam2 {VERSION} {_fingerprint(weights)} {self.input_size} {runtime.precision}"
        self._embeddings = EmbeddingStore(max_embedding_bytes)
        self._num_bytes = (weights / WEIGHTS_NAME).stat().st_size
        self._peak_bytes = self._num_bytes + PEAK_BYTES_PER_PIXEL * self.input_size**2

    def segment(self, frames: FrameStore, frame_index: int, prompt: Prompt) -> Segmentation:
        """The thing on one frame: the same mask as ``propagate`` gives there. Encodes the frame only if nobody did yet."""
        check_prompts(frames.clip, {frame_index: prompt})
        with self._memory_watched():
            thing = _Thing(frames.clip, {frame_index: prompt}, self._runtime)
            self._condition(thing, frames, frame_index, is_remembered=False)
            return thing.prompted[frame_index]

    def prepare(self, frames: FrameStore, frame_index: int) -> None:
        """Load the network and encode a frame, if that has not been done. Raises ``IndexError`` outside the clip."""
        with self._memory_watched(), self._shown(frames, frame_index):
            pass

    def propagate(
        self, frames: FrameStore, seeds: Sequence[Mapping[int, Prompt]], order: range
    ) -> Iterator[tuple[int, tuple[Segmentation, ...]]]:
        """Carry several things through the frames of ``order``; see ``Segmenter``.

        Every prompted frame is a conditioning frame, wherever it lies; what is tracked is remembered from the first prompt on.
        Things do not know of each other: they get the masks that each would get alone, and share the encoding of the frames.
        """
        for each in seeds:
            check_prompts(frames.clip, each)
        return self._propagate(frames, seeds, order)

    def _propagate(
        self, frames: FrameStore, seeds: Sequence[Mapping[int, Prompt]], order: range
    ) -> Iterator[tuple[int, tuple[Segmentation, ...]]]:
        with self._memory_watched():
            things = [_Thing(frames.clip, prompts, self._runtime) for prompts in seeds]
            for frame_index in sorted({index for each in seeds for index in each}):
                for thing in things:
                    if frame_index in thing.prompts:
                        self._condition(thing, frames, frame_index)
            for frame_index in _lead_in(seeds, order):
                self._step(things, frames, frame_index, order.step)
        for frame_index in order:
            with self._memory_watched():
                found = self._step(things, frames, frame_index, order.step)
            yield frame_index, found

    def _condition(self, thing: _Thing, frames: FrameStore, frame_index: int, is_remembered: bool = True) -> None:
        """Run the mask decoder on a prompted frame."""
        with self._shown(frames, frame_index) as (loaded, features):
            thing.add_inputs(frame_index, frames.clip.hw, self.input_size)
            thing.prompted[frame_index] = loaded.run(thing, frame_index, features, False, is_remembered, frames.clip.hw)
        thing.forget_pictures()

    def _step(self, things: list[_Thing], frames: FrameStore, frame_index: int, step: int) -> tuple[Segmentation, ...]:
        """Every thing on one frame, and what they will remember of it."""
        tracked = [thing for thing in things if frame_index not in thing.prompted]
        found = {id(thing): thing.prompted[frame_index] for thing in things if frame_index in thing.prompted}
        if tracked:
            with self._shown(frames, frame_index) as (loaded, features):
                for thing in tracked:
                    found[id(thing)] = loaded.run(thing, frame_index, features, step < 0, True, frames.clip.hw)
            for thing in tracked:
                thing.forget_pictures()
                thing.forget_behind(frame_index, step, loaded.num_memories, loaded.num_pointers)
        return tuple(found[id(thing)] for thing in things)

    @contextmanager
    def _shown(self, frames: FrameStore, frame_index: int) -> Iterator[tuple[_Loaded, Features]]:
        """The network, for this thread alone, and the features of a frame on its device. Decodes outside the lease."""
        key: FrameKey = (frames.clip.sha256, frame_index)
        image = frames.frame(frame_index).image if self._embeddings.find(key) is None else None
        with self._leased() as loaded, torch.inference_mode():
            features = self._embeddings.find(key)
            if features is None:
                image = frames.frame(frame_index).image if image is None else image
                features = tuple(each.to("cpu") for each in loaded.encode(image))
                self._embeddings.keep(key, features)
            yield loaded, tuple(each.to(loaded.runtime.torch_device()) for each in features)

    @contextmanager
    def _leased(self) -> Iterator[_Loaded]:
        """The network, as soon as what else is at work on its device leaves room for it."""
        with ExitStack() as stack:
            try:
                lease = self._models.lease(self.key, self._load, self._num_bytes, self._peak_bytes, PATIENCE_S)
                model = stack.enter_context(lease)
            except NoRoom:
                raise UserError(
                    "What is being rendered leaves no memory for SAM 2.1 now; try again when that is done, or use the fallback "
                    "segmenter."
                ) from None
            yield cast("_Loaded", model)

    def _load(self) -> _Loaded:
        return _Loaded(load_model(self._weights, self.input_size, self._runtime.torch_device()), self._runtime)

    @contextmanager
    def _memory_watched(self) -> Iterator[None]:
        """Turn running out of memory into one sentence, with nothing large left behind."""
        is_short = False
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            is_short = True
            traceback.clear_frames(error.__traceback__)  # the frames below hold tensors
        if is_short:
            self._embeddings.clear()
            self._models.drop(self.key)
            release_memory(self._runtime)
            raise UserError(
                f"There was not enough memory for SAM 2.1 at {self.input_size} px; use a smaller model, a smaller input size or "
                "the fallback segmenter."
            ) from None


@dataclass(eq=False, slots=True)
class _Loaded:
    """The network on its device, and how to run it. Used under an exclusive lease."""

    model: Any
    runtime: Runtime
    position: torch.Tensor | None = None

    @property
    def num_memories(self) -> int:
        """Frames behind whose spatial memory is read."""
        return int(self.model.config.num_maskmem) - 1

    @property
    def num_pointers(self) -> int:
        """Frames behind whose object pointer is read."""
        return int(self.model.config.max_object_pointers_in_encoder) - 1

    def encode(self, image: Array) -> Features:
        """Feature maps of a frame u8[H,W,3], fine to coarse, each [h*w, 1, C]."""
        pixels = encode_image(image, int(self.model.image_size), self.runtime.torch_device())
        with self._autocast():
            return tuple(self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states)

    def run(
        self, thing: _Thing, frame_index: int, features: Features, is_reverse: bool, is_remembered: bool, hw: tuple[int, int]
    ) -> Segmentation:
        """One frame of one thing; the session keeps what later frames read of it if ``is_remembered``."""
        scores: list[torch.Tensor] = []
        hook = self.model.mask_decoder.register_forward_hook(lambda module, inputs, output: scores.append(output[1]))
        thing.session.cache.show(frame_index, features, self._positions(features[-1]))
        try:
            with self._autocast():
                output = self.model(thing.session, frame_idx=frame_index, reverse=is_reverse, run_mem_encoder=is_remembered)
        finally:
            hook.remove()
            thing.session.cache.clear_all()
        return _segmentation(output.pred_masks, output.object_score_logits, scores[-1], hw)

    def _positions(self, coarsest: torch.Tensor) -> torch.Tensor:
        """The positional encoding [h*w, 1, C] that goes with the coarsest feature map; the same for every frame."""
        if self.position is None:
            height, width = self.model.backbone_feature_sizes[-1]
            shape = torch.Size((1, coarsest.shape[-1], height, width))
            neck = self.model.vision_encoder.neck
            made = neck.position_encoding(shape, coarsest.device, coarsest.dtype).to(coarsest.dtype)
            self.position = made.flatten(2).permute(2, 0, 1)
        return self.position

    def _autocast(self) -> torch.autocast:
        dtype = self.runtime.torch_dtype()
        return torch.autocast(self.runtime.torch_device().type, dtype=dtype, enabled=dtype != torch.float32)


def _segmentation(mask_logits: torch.Tensor, object_score: torch.Tensor, iou: torch.Tensor, hw: tuple[int, int]) -> Segmentation:
    """The decoder's answer; the confidence is its own: the object's presence times the overlap that it expects of its mask."""
    logits = decode_mask(mask_logits, hw)
    presence = float(torch.sigmoid(object_score.float()).max())
    expected_iou = float(iou.float().max().clamp(0, 1))
    return Segmentation(logits, presence * expected_iou if (logits > 0).any() else 1 - presence)


class _Session(Sam2VideoInferenceSession):
    """transformers' session without pictures: it knows how many frames there are, and the features of the one that is shown."""

    def __init__(self, num_frames: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(inference_device=device, inference_state_device=device, dtype=dtype)
        self._num_frames = num_frames
        self.cache = _ShownFrame()

    @property
    def num_frames(self) -> int:
        return self._num_frames


class _ShownFrame:
    """Stands in for the session's feature cache: one frame at a time, put there before the model asks."""

    def __init__(self) -> None:
        self._frame_index: int | None = None
        self._features: dict[str, Any] = {}

    def show(self, frame_index: int, features: Features, position: torch.Tensor) -> None:
        self._frame_index = frame_index
        self._features = {"vision_feats": list(features), "vision_pos_embeds": [position]}

    def get_vision_features(self, frame_idx: int) -> dict[str, Any]:
        if frame_idx != self._frame_index:
            raise ValueError(f"frame {self._frame_index} is shown, and frame {frame_idx} was asked for")
        return self._features

    def clear_all(self) -> None:
        self._frame_index, self._features = None, {}


OBJECT = 0
"""The one object of every session."""


@dataclass(eq=False, slots=True)
class _Thing:
    """One thing that is followed: its prompts, its masks on the prompted frames, and the session with its memory."""

    clip: Clip
    prompts: Mapping[int, Prompt]
    runtime: Runtime
    prompted: dict[int, Segmentation] = field(default_factory=dict)
    session: _Session = field(init=False)

    def __post_init__(self) -> None:
        self.session = _Session(self.clip.num_frames, self.runtime.torch_device(), self.runtime.torch_dtype())
        self.session.obj_id_to_idx(OBJECT)

    def add_inputs(self, frame_index: int, hw: tuple[int, int], size: int) -> None:
        """Tell the session the prompt of a frame, which makes that a conditioning frame."""
        points, labels = encode_prompt(self.prompts[frame_index], hw, size)
        self.session.add_point_inputs(OBJECT, frame_index, {"point_coords": points, "point_labels": labels})
        self.session.obj_with_new_inputs = [OBJECT]

    def forget_pictures(self) -> None:
        """Drop masks at the input's size and below: no later frame reads them."""
        for outputs in self.session.output_dict_per_obj[OBJECT].values():
            for output in outputs.values():
                for name in ("high_res_masks", "pred_masks"):
                    output.pop(name, None)
        self.session.frames_tracked_per_obj[OBJECT].clear()

    def forget_behind(self, frame_index: int, step: int, num_memories: int, num_pointers: int) -> None:
        """Of tracked frames, keep the spatial memory of the last ``num_memories`` and the pointers of the last ``num_pointers``.

        A frame with every prompt still ahead is not remembered: nothing but the prompts and it lies behind its mask.
        """
        tracked = self.session.output_dict_per_obj[OBJECT]["non_cond_frame_outputs"]
        if all((index - frame_index) * step > 0 for index in self.prompts):
            tracked.clear()
        for index in list(tracked):
            age = abs(frame_index - index)
            if age >= max(num_memories, num_pointers):
                del tracked[index]
            elif age >= num_memories:
                tracked[index].pop("maskmem_features", None)
                tracked[index].pop("maskmem_pos_enc", None)


def _lead_in(seeds: Sequence[Mapping[int, Prompt]], order: range) -> range:
    """The frames from the prompts behind ``order`` up to it, so that a mask does not depend on where ``order`` starts."""
    starts = []
    for prompts in seeds:
        behind = [index for index in prompts if (index - order.start) * order.step <= 0]
        starts += [max(behind) if order.step > 0 else min(behind)] if behind else []
    if not starts:
        return range(order.start, order.start, order.step)
    return range(min(starts) if order.step > 0 else max(starts), order.start, order.step)


# -- weights ----------------------------------------------------------------------------------------------------------------------


def load_model(folder: Path, input_size: int, device: torch.device) -> Sam2VideoModel:
    """SAM 2.1 from a local folder, safetensors alone, every tensor there and of its shape, for an input of ``input_size``.

    Raises ``UserError`` that names the folder (base name) and what is wrong with it.
    """
    fault = f"The SAM 2.1 weights in {folder.name!r} cannot be used"
    try:
        config = _sized_config(Sam2VideoConfig.from_pretrained(str(folder), local_files_only=True), input_size)
        with _without_bar():
            model, info = Sam2VideoModel.from_pretrained(
                str(folder),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        if _is_out_of_memory(error):
            raise
        raise UserError(f"{fault}: they cannot be read, or are not of this model; fetch them again.") from error
    missing = set(info["missing_keys"])
    if len(missing & set(SAME_MATRIX)) == 1:
        _share_matrix(model, missing)
        missing -= set(SAME_MATRIX)
    if missing:
        raise UserError(f"{fault}: {min(missing)} and {len(missing) - 1} more tensors are missing; fetch them again.")
    with torch.no_grad():  # out of the mapped file, which may change; aligned memory gives the same sums every time
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    return model.eval().requires_grad_(False).to(device)


@contextmanager
def _without_bar() -> Iterator[None]:
    """transformers draws a progress bar of its own on stderr, where the command line draws."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _share_matrix(model: Sam2VideoModel, missing: set[str]) -> None:
    source = next(name for name in SAME_MATRIX if name not in missing)
    target = next(name for name in SAME_MATRIX if name in missing)
    with torch.no_grad():
        model.get_buffer(target).copy_(model.get_buffer(source))


def _sized_config(config: Sam2VideoConfig, size: int) -> Sam2VideoConfig:
    """The configuration for inputs of ``size``: feature maps, prompt grid and rotary positions follow; no weight changes shape."""
    ratio = size / int(config.image_size)
    if ratio == 1:
        return config
    vision = config.vision_config
    vision.backbone_feature_sizes = [[round(side * ratio) for side in sides] for sides in vision.backbone_feature_sizes]
    vision.backbone_config.image_size = [size, size]
    config.prompt_encoder_config.image_size = size
    config.memory_attention_rope_feat_sizes = [round(side * ratio) for side in config.memory_attention_rope_feat_sizes]
    config.image_size = size
    return config


def _check_size(size: int) -> int:
    if size % SIZE_STEP or not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"SAM 2.1 takes input sizes from {MIN_SIZE} to {MAX_SIZE} in steps of {SIZE_STEP}, not {size}.")
    return size


def _fingerprint(folder: Path) -> str:
    return " ".join(file_sha256(folder / name)[:32] for name in (WEIGHTS_NAME, CONFIG_NAME))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return "out of memory" in message or "can't allocate memory" in message
