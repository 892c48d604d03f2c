"""Starting checkpoints: published weights put together, additions at zero, so that the result equals the base video in-painter.

A checkpoint is a folder: ``model_index.json``, ``scheduler/`` and one folder per network, safetensors only. It appears under its
name only when it is whole.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextModel, Dinov2Config, Dinov2Model

from ..cache import content_key
from ..errors import UserError
from .conditioning import MaskShape
from .controlnet import ControlNet
from .id_extractor import BACKBONE_KEYS, IdExtractor
from .identity_attention import IdentityAttention
from .pipeline import MODELS, VideoAnydoorPipeline
from .pixel_codec import PixelCodec
from .pixel_warper import PixelWarper
from .scales import ENCODER_WIDTHS, SCALES, SCHEDULE, TEXT_FILES, PublishedScale, RandomScale, Source, latent_stride
from .unet import VideoUNet
from .weights import list_keys, load_strictly, zero_module

Download = Callable[[str, str, tuple[str, ...]], Path]
"""``download(repository, revision, patterns) -> folder``."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_REVISION = re.compile(r"[0-9a-f]{40}")
_COMPUTED = "pos_embed.pe"
"""Tables of positions: some published adapters store them, some leave them to be computed."""


def download_snapshot(repository: str, revision: str, patterns: tuple[str, ...]) -> Path:
    """The named files of a published repository at one commit, in the local cache. Raises ``UserError`` when they cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        raise UserError(
            f"{repository} at {revision[:8]} could not be downloaded; check the connection, or name a local folder that holds it."
        ) from error


def choose_source(source: Source, given: str | None, option: str) -> Path | Source:
    """Where one part comes from: ``given`` is a local folder or ``repository@commit``, None stands for the pinned source.

    Raises ``UserError`` for a folder that is not there and for a repository without a full commit: weights are never taken from a
    moving branch.
    """
    if given is not None and Path(given).is_dir():
        return Path(given)
    if given is not None:
        repository, _, revision = given.partition("@")
        if not _REVISION.fullmatch(revision):
            raise UserError(f"{option}: {Path(given).name!r} is neither a folder nor REPOSITORY@COMMIT with 40 hex digits.")
        source = replace(source, repository=repository, revision=revision)
    if source.revision is None:
        raise UserError(f"{option}: name a local folder, or a commit to pin: {option} {source.repository}@COMMIT.")
    return source


# -- parts ------------------------------------------------------------------------------------------------------------------------


def load_motion_adapter(folder: Path, dtype: torch.dtype) -> MotionAdapter:
    """A published motion adapter, strictly, but for position tables, which are computed. Raises ``UserError``."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"There is no motion adapter in {folder.name!r}: it needs config.json and diffusion_pytorch_model.safetensors."
        ) from error
    adapter = MotionAdapter.from_config(config)
    state = adapter.state_dict()
    missing = [key for key in state if key not in weights and not key.endswith(_COMPUTED)]
    surplus = [key for key in weights if key not in state]
    wrong = [key for key in weights if key in state and weights[key].shape != state[key].shape]
    for what, keys in (("lacks", missing), ("has the unknown", surplus), ("holds another shape of", wrong)):
        if keys:
            raise UserError(f"The motion adapter in {folder.name!r} {what} {list_keys(keys)}; use one made for this scale.")
    adapter.load_state_dict(state | weights)
    return torch.nn.Module.to(adapter, dtype).eval()


def assemble(
    unet2d: UNet2DConditionModel,
    adapter: MotionAdapter,
    vae: AutoencoderKL | PixelCodec,
    id_extractor: IdExtractor,
    size: int,
    content: str,
    text: torch.Tensor | None = None,
    schedule: dict[str, Any] | None = None,
    mask_shape: MaskShape = "box",
    is_residual: bool = False,
) -> VideoAnydoorPipeline:
    """Inflate, copy and connect; with the empty prompt's tokens ``text`` [1, T, D] the identity stands beside it.

    The ControlNet's convolutions start at zero, so the result equals the U-Net with the adapter; where a residual is
    predicted the U-Net's last one does too, so the result equals plain pasting.
    """
    channels = unet2d.config.block_out_channels[0]
    heads = adapter.config.motion_num_attention_heads
    warper = PixelWarper(
        channels=channels,
        encoder_widths=ENCODER_WIDTHS[: latent_stride(vae.config).bit_length()],
        num_attention_heads=heads if isinstance(heads, int) else heads[0],
        max_num_frames=adapter.config.motion_max_seq_length,
        norm_num_groups=unet2d.config.norm_num_groups,
        content=content,
        reads_light=is_residual,
    )
    try:
        unet = VideoUNet.from_unet2d(unet2d, adapter)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The in-painting U-Net and the motion adapter do not belong together: {str(error).splitlines()[0]}."
        ) from error
    if is_residual:
        zero_module(unet.conv_out)
    return VideoAnydoorPipeline(
        vae=vae,
        unet=unet,
        controlnet=ControlNet.from_unet2d(unet2d, channels),
        pixel_warper=warper.to(unet2d.dtype).eval(),
        id_extractor=id_extractor.to(unet2d.dtype).eval(),
        scheduler=DDIMScheduler(**(schedule or SCHEDULE)),
        size=size,
        identity_attention=None if text is None else IdentityAttention.from_unet(unet, text),
        mask_shape=mask_shape,
        is_residual=is_residual,
    )


def pooled_dim(unet2d: UNet2DConditionModel) -> int | None:
    """Width of the pooled embedding that the U-Net adds to the time, or None: its input minus the six embedded numbers."""
    if unet2d.config.addition_embed_type != "text_time":
        return None
    return int(unet2d.config.projection_class_embeddings_input_dim) - 6 * int(unet2d.config.addition_time_embed_dim)


def encode_empty_prompt(folder: Path, unet2d: UNet2DConditionModel, dtype: torch.dtype) -> torch.Tensor:
    """What the in-painting model was taught to read when there is no prompt, [1, 77, D].

    SDXL reads zeros; the others read their text encoder's answer to its start token and 76 end tokens. Raises ``UserError``.
    """
    if unet2d.config.addition_embed_type == "text_time":
        return torch.zeros(1, 77, int(unet2d.config.cross_attention_dim), dtype=dtype)
    encoder = load_strictly(CLIPTextModel, folder / "text_encoder", dtype, surplus_allowed=("position_ids",))
    start, end = encoder.config.vocab_size - 2, encoder.config.vocab_size - 1
    with torch.no_grad():
        tokens: torch.Tensor = encoder(torch.tensor([[start] + [end] * 76])).last_hidden_state
    return tokens


def build_published(
    scale: PublishedScale, folders: dict[str, Path], dtype: torch.dtype, content: str, seed: int, is_beside_text: bool
) -> VideoAnydoorPipeline:
    """A starting pipeline from the folders ``inpainting``, ``motion_adapter`` and ``backbone``; ``seed`` for what starts random."""
    unet2d = load_strictly(UNet2DConditionModel, folders["inpainting"] / "unet", dtype)
    vae = load_strictly(AutoencoderKL, folders["inpainting"] / "vae", dtype)
    adapter = load_motion_adapter(folders["motion_adapter"], dtype)
    backbone = load_strictly(Dinov2Model, folders["backbone"], dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        context_dim = int(unet2d.config.cross_attention_dim)
        extractor = IdExtractor.from_backbone(backbone, context_dim, pooled_dim(unet2d), scale.num_trainable_blocks)
        text = encode_empty_prompt(folders["inpainting"], unet2d, dtype) if is_beside_text else None
        return assemble(unet2d, adapter, vae, extractor, scale.size, content, text)


def build_random(
    scale: RandomScale, content: str, seed: int, mask_shape: MaskShape = "box", is_residual: bool = False
) -> VideoAnydoorPipeline:
    """A pipeline of random weights, to be trained from nothing; every DINOv2 block trains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet2d = UNet2DConditionModel(**scale.unet2d)
        adapter = MotionAdapter(**scale.motion_adapter)
        codec = PixelCodec(**scale.codec)
        config = Dinov2Config(**scale.backbone)
        backbone = {key: getattr(config, key) for key in BACKBONE_KEYS}
        extractor = IdExtractor(
            backbone, scale.unet2d["cross_attention_dim"], None, scale.reference_size, scale.backbone["num_hidden_layers"]
        )
        shown: dict[str, Any] = {"mask_shape": mask_shape, "is_residual": is_residual}
        return assemble(unet2d, adapter, codec.eval(), extractor, scale.size, content, schedule=scale.schedule, **shown)


# -- the command ------------------------------------------------------------------------------------------------------------------


def init_checkpoint(
    scale_name: str,
    output: Path,
    given: dict[str, str | None],
    *,
    content: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    is_beside_text: bool = False,
    download: Download = download_snapshot,
) -> dict[str, int]:
    """Write a starting checkpoint to the new folder ``output``; the number of parameters per network.

    ``given``: a local folder or ``repository@commit`` for ``inpainting``, ``motion_adapter`` and ``backbone``, instead of the
    pinned ones. ``content``: see ``PixelWarper``; None for the scale's choice. ``is_beside_text``: see ``identity_attention``.
    Raises ``UserError``; nothing is left behind then.
    """
    if output.exists():
        raise UserError(f"{output.name!r} exists already; choose another folder or remove it.")
    scale = SCALES[scale_name]
    content = content or scale.content
    if isinstance(scale, RandomScale):
        named = [name for name, value in given.items() if value is not None] + ["identity beside text"] * is_beside_text
        if named:
            raise UserError(f"The scale {scale_name!r} starts from random weights; leave out {', '.join(named)}.")
        pipeline = build_random(scale, content, seed)
        for name in MODELS:
            torch.nn.Module.to(getattr(pipeline, name), DTYPES[dtype])
    else:
        inpainting = scale.inpainting
        if is_beside_text:
            inpainting = replace(inpainting, patterns=inpainting.patterns + TEXT_FILES)
        parts = {"inpainting": inpainting, "motion_adapter": scale.motion_adapter, "backbone": scale.backbone}
        chosen = {name: choose_source(source, given.get(name), f"--{name.replace('_', '-')}") for name, source in parts.items()}
        folders = {
            name: item if isinstance(item, Path) else download(item.repository, item.revision or "", item.patterns)
            for name, item in chosen.items()
        }
        pipeline = build_published(scale, folders, DTYPES[dtype], content, seed, is_beside_text)
    save_whole(pipeline, output)
    return count_parameters(pipeline)


def save_whole(pipeline: VideoAnydoorPipeline, output: Path) -> None:
    """Save beside ``output`` and rename: the folder appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
    try:
        pipeline.save_pretrained(partial)
        partial.chmod(0o755)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def count_parameters(pipeline: VideoAnydoorPipeline) -> dict[str, int]:
    """Number of parameters of every network, and of all."""
    modules: dict[str, Any] = {name: item for name, item in pipeline.components.items() if isinstance(item, torch.nn.Module)}
    counts = {name: sum(parameter.numel() for parameter in module.parameters()) for name, module in modules.items()}
    return counts | {"all": sum(counts.values())}


def checkpoint_key(folder: Path) -> str:
    """A key that changes whenever a file of the checkpoint does (by size and time of change), for caches on this machine."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    states = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return content_key("checkpoint", str(folder.resolve()), tuple(states))
