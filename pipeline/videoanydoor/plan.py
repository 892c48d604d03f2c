"""The preflight: what a run will take, and how the networks are placed so that it fits, decided without loading anything.

Importing this loads nothing heavy, so that the page can tell the plan of a run before anything of it is there.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError
from ..runtime import Runtime
from ..types import SamplingConfig
from .folders import find_checkpoint
from .scales import latent_stride

if TYPE_CHECKING:
    from .conditioning import Grid, MaskShape

DEFAULT_WINDOW = 16
"""Frames that are generated together unless the request says otherwise, where the checkpoint reaches that far."""

NETWORKS = ("vae", "unet", "controlnet", "pixel_warper", "id_extractor")
OPTIONAL_NETWORK = "identity_attention"
PER_STEP = ("unet", "controlnet", OPTIONAL_NETWORK)
"""The networks that every step needs; the others may rest elsewhere meanwhile."""

ACTIVATION_WIDTHS = 36
"""Values alive at once in the U-Net and ControlNet, per latent pixel of the batch, in multiples of the U-Net's first width: counted
34.4 for ``sd15`` and ``sdxl`` (without autograd, attention in one kernel)."""
VAE_WIDTHS = 8
"""Values alive at once in the VAE, per picture pixel, in multiples of its first width: counted 6.0."""
FEATURE_WIDTHS = 5
"""Values that the cache of deep features keeps per window, in the same measure."""
FLOPS_PER_WEIGHT_AND_PIXEL = 0.25
"""Arithmetic of one frame, per weight of the U-Net and ControlNet and latent pixel (counted 0.17 to 0.34), and of the VAE there and
back, per weight and picture pixel (counted 0.17 to 0.34)."""
CPU_FLOPS_PER_CORE, MAX_USEFUL_CORES = 50e9, 16
"""What a core does in a second; measured 120e9 on an idle one with wide vectors."""
CUDA_FLOPS_PER_UNIT: dict[str, float] = {"float32": 0.1e12, "float16": 0.6e12, "bfloat16": 0.6e12}
"""What a multiprocessor does in a second: an estimate on the safe side, not measured."""
OTHER_FLOPS = 4e12
LOAD_BYTES_PER_S = 1e9
TRANSFER_BYTES_PER_S = 10e9
"""From disk to device, and from memory to device."""
VAE_CHUNK = 8
RESERVE = 0.9
"""Share of the free memory that a plan may count on."""

Placement = Literal["resident", "model_offload", "sequential_offload"]
_SMALLER: dict[Placement, Placement] = {"resident": "model_offload", "model_offload": "sequential_offload"}
_WORDS = {
    "resident": "all networks stay in memory",
    "model_offload": "networks take turns in memory (slower)",
    "sequential_offload": "layers take turns in memory (much slower)",
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a checkpoint's configurations and file headers tell. ``num_weights``: parameters per network. Sizes as in ``Grid``."""

    size: int
    size_multiple: int
    stride: int
    reference_size: int
    is_warped: bool
    max_window: int
    unet_width: int
    vae_width: int
    num_weights: dict[str, int]
    mask_shape: MaskShape = "box"
    is_residual: bool = False

    def weight_bytes(self, runtime: Runtime) -> dict[str, int]:
        """Bytes of every network in the runtime's precision."""
        item = 4 if runtime.precision == "float32" else 2
        return {name: count * item for name, count in self.num_weights.items()}

    def idle_bytes(self, placement: Placement, runtime: Runtime) -> int:
        """Device memory that the placed networks hold between runs: all, or those that never leave."""
        weights = self.weight_bytes(runtime)
        return sum(weights.values()) if placement == "resident" else weights["controlnet"] + weights[OPTIONAL_NETWORK]

    def grid(self, size: int) -> Grid:
        """The grid for pictures of side ``size``."""
        from .conditioning import Grid

        return Grid(size, self.stride, self.reference_size, self.is_warped, self.mask_shape, self.is_residual)


def read_facts(folder: Path) -> ModelFacts:
    """The facts of a checkpoint folder. Raises ``UserError`` when it is damaged."""
    try:
        configs = {name: json.loads((folder / name / "config.json").read_text(encoding="utf-8")) for name in NETWORKS}
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        vae, unet, warper = configs["vae"], configs["unet"], configs["pixel_warper"]
        stride = latent_stride(vae)
        return ModelFacts(
            size=int(index["size"]),
            size_multiple=stride * 2 ** (len(unet["block_out_channels"]) - 1),
            stride=stride,
            reference_size=int(configs["id_extractor"]["image_size"]),
            is_warped=warper["content"] == "warped",
            max_window=min(int(unet["motion_max_seq_length"]), int(warper["max_num_frames"])),
            unet_width=int(unet["block_out_channels"][0]),
            vae_width=int(vae["block_out_channels"][0]) if "block_out_channels" in vae else 1,
            num_weights={
                name: sum(count_weights(path) for path in (folder / name).glob("*.safetensors"))
                for name in (*NETWORKS, OPTIONAL_NETWORK)
            },
            mask_shape=index.get("mask_shape", "box"),
            is_residual=bool(index.get("is_residual", False)),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise UserError(f"The checkpoint {folder.name!r} is incomplete or damaged; make it anew.") from error


def count_weights(path: Path) -> int:
    """Numbers in a safetensors file, by its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(min(length, 100_000_000)))
    total = 0
    for name, entry in header.items():
        count = 1
        for extent in entry["shape"] if name != "__metadata__" else (0,):
            count *= int(extent)
        total += count
    return total


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a run has to make, and with which checkpoint: pictures of side ``size``, ``window`` of ``num_frames`` frames at
    once, for each of ``num_layers`` layers, in ``num_steps`` steps (those of an inversion counted), guided or not."""

    checkpoint: Path
    facts: ModelFacts
    size: int
    window: int
    num_frames: int
    num_layers: int
    num_steps: int
    is_guided: bool

    @property
    def overlap(self) -> int:
        """Frames that neighbouring windows share."""
        return self.window // 2

    @property
    def num_windows(self) -> int:
        """How many windows ``windows.split_windows`` makes of the frames."""
        return 1 + max(0, math.ceil((self.num_frames - self.window) / (self.window - self.overlap)))


def measure_extent(checkpoints: Path | None, sampling: SamplingConfig, num_frames: int, num_layers: int) -> Extent:
    """What a request asks for, with the checkpoint's own values where it says nothing; ``checkpoints`` is the folder of all.

    Raises ``UserError`` where the checkpoint cannot do it, and says how to get one where there is none.
    """
    folder = find_checkpoint(checkpoints, sampling.checkpoint)
    facts = read_facts(folder)
    size = sampling.size or facts.size
    window = sampling.window or min(DEFAULT_WINDOW, facts.max_window)
    if size % facts.size_multiple:
        raise UserError(f"engine.size must be a multiple of {facts.size_multiple} for this checkpoint, not {size}.")
    if not 2 <= window <= facts.max_window:
        raise UserError(f"engine.window must be 2 to {facts.max_window} frames for this checkpoint, not {window}.")
    num_steps = sampling.num_inference_steps * (2 if sampling.init == "inversion" else 1)
    return Extent(folder, facts, size, window, num_frames, num_layers, num_steps, sampling.guidance_scale != 1)


def plan_run(extent: Extent, runtime: Runtime, free_bytes: int, keeps_features: bool = False) -> Plan:
    """The plan of a run on a device with so much free memory. Raises ``UserError`` when nothing fits."""
    return choose_plan(
        extent.facts,
        runtime,
        free_bytes,
        size=extent.size,
        window=min(extent.window, extent.num_frames),
        num_windows=extent.num_windows,
        num_steps=extent.num_steps * extent.num_layers,
        num_frames=extent.num_frames * extent.num_layers,
        is_guided=extent.is_guided,
        keeps_features=keeps_features,
        flops_per_s=guess_flops_per_s(runtime),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is placed. ``needed_bytes`` is the estimated peak on the device, ``free_bytes`` what it has. ``num_evaluations``
    counts passes through the U-Net, ``seconds`` is what they, the VAE and the loading are expected to take. ``vae_chunk``: frames
    that the VAE takes at once, ``is_tiled``: each of them in tiles. ``host_bytes`` is the part of the peak in the main memory."""

    placement: Placement
    vae_chunk: int
    is_tiled: bool
    needed_bytes: int
    free_bytes: int
    num_evaluations: int
    seconds: float
    host_bytes: int

    def describe(self) -> str:
        """One sentence for the person."""
        tiles = ", pictures are decoded in tiles" if self.is_tiled else ""
        return (
            f"{_WORDS[self.placement]}{tiles}: about {self.needed_bytes / 1e9:.1f} of {self.free_bytes / 1e9:.1f} GB, "
            f"{self.num_evaluations} passes through the network, {_tell_time(self.seconds)}"
        )

    def smaller(self, is_accelerated: bool) -> Plan | None:
        """The next plan to try when this one ran out of memory, or None when there is none."""
        if is_accelerated and self.placement in _SMALLER:
            return replace(self, placement=_SMALLER[self.placement], vae_chunk=1, is_tiled=True)
        if not self.is_tiled:
            return replace(self, vae_chunk=1, is_tiled=True)
        return None


def _tell_time(seconds: float) -> str:
    return f"about {max(1, round(seconds))} s" if seconds < 120 else f"about {seconds / 60:.0f} min"


def guess_flops_per_s(runtime: Runtime) -> float:
    """Floating-point operations that the device does in a second, roughly: by its kind, number of cores and precision."""
    if runtime.device == "cpu":
        return CPU_FLOPS_PER_CORE * min(os.cpu_count() or 1, MAX_USEFUL_CORES)
    import torch

    if runtime.device.startswith("cuda") and torch.cuda.is_available():
        units = torch.cuda.get_device_properties(runtime.torch_device()).multi_processor_count
        return float(units * CUDA_FLOPS_PER_UNIT[runtime.precision])
    return OTHER_FLOPS


def count_flops(facts: ModelFacts, size: int, num_evaluated: int, num_decoded: int) -> float:
    """Arithmetic of a run: ``num_evaluated`` frames through the U-Net and ControlNet, ``num_decoded`` through the VAE and back."""
    step = sum(facts.num_weights[name] for name in PER_STEP) * (size // facts.stride) ** 2
    return FLOPS_PER_WEIGHT_AND_PIXEL * (step * num_evaluated + facts.num_weights["vae"] * size**2 * num_decoded)


def choose_plan(
    facts: ModelFacts,
    runtime: Runtime,
    free_bytes: int,
    *,
    size: int,
    window: int,
    num_windows: int,
    num_steps: int,
    num_frames: int,
    is_guided: bool,
    keeps_features: bool,
    flops_per_s: float,
) -> Plan:
    """The fastest placement that fits ``free_bytes``. On the CPU everything is resident. ``window`` frames are evaluated at once;
    the warper's features of all ``num_windows`` are kept, and deep features where asked for. ``num_steps`` and ``num_frames`` (that
    the VAE encodes and decodes) are those of all layers together.

    Raises ``UserError`` when nothing fits.
    """
    item, weights = (4 if runtime.precision == "float32" else 2), facts.weight_bytes(runtime)
    window_values = (size // facts.stride) ** 2 * window * facts.unet_width
    batch = 2 if is_guided else 1
    kept = num_windows * (1 + (FEATURE_WIDTHS * batch if keeps_features else 0))
    activations = window_values * (ACTIVATION_WIDTHS * batch + kept) * item
    per_frame = size**2 * facts.vae_width * VAE_WIDTHS * item
    budget = int(free_bytes * RESERVE)
    peaks: dict[Placement, int] = {
        "resident": sum(weights.values()) + max(activations, per_frame),
        "model_offload": max(sum(weights[name] for name in PER_STEP) + activations, weights["vae"] + per_frame),
        "sequential_offload": activations + max(weights.values()) // 10,
    }
    evaluations = num_steps * num_windows
    flops = count_flops(facts, size, evaluations * window * batch, num_frames)
    seconds = flops / flops_per_s + sum(weights.values()) / LOAD_BYTES_PER_S
    choices: list[Placement] = ["resident"] if not runtime.is_accelerated else list(peaks)
    for placement in choices:
        if peaks[placement] <= budget or not runtime.is_accelerated:
            left = budget - (sum(weights.values()) if placement == "resident" else weights["vae"])
            chunk = max(1, min(VAE_CHUNK, left // per_frame))
            is_tiled = placement == "sequential_offload"
            moved_bytes = sum(weights[name] for name in PER_STEP) * evaluations if is_tiled else 0
            return Plan(
                placement,
                int(chunk),
                is_tiled,
                peaks[placement],
                free_bytes,
                evaluations,
                seconds + moved_bytes / TRANSFER_BYTES_PER_S,
                sum(weights.values()) if runtime.is_accelerated else peaks[placement],
            )
    raise UserError(
        f"This run needs about {peaks['sequential_offload'] / 1e9:.1f} GB and {free_bytes / 1e9:.1f} GB are free; "
        "choose a smaller size or a shorter window."
    )
