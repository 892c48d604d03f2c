"""Device and precision, decided once at the top (``app.py``, ``cli.py``) and passed down. Importing this does not import torch."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .errors import UserError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where networks run, as torch names it (``cpu``, ``cuda``, ``cuda:1``, ``mps``), and in which precision."""

    device: str
    precision: Precision

    @property
    def is_accelerated(self) -> bool:
        return self.device != "cpu"

    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.device)

    def torch_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


def choose_runtime(device: str = "auto", precision: Precision | None = None) -> Runtime:
    """``auto`` takes a CUDA device if there is one, then Apple's, then the CPU; precision: bfloat16 on CUDA devices that have it,
    float16 on other accelerators, float32 on the CPU, unless given. Raises ``UserError`` for a device that is not there."""
    if device == "cpu":
        return Runtime(device, precision or "float32")  # which needs no look, and so no torch
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = device.partition(":")
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in counts or (index and not index.isdecimal()) or int(index or 0) >= counts[kind]:
        raise UserError(f"There is no device {device!r} on this machine; leave the device out, or use cpu.")
    if precision is None:
        has_bfloat16 = kind == "cuda" and torch.cuda.is_bf16_supported()
        precision = "float32" if kind == "cpu" else "bfloat16" if has_bfloat16 else "float16"
    return Runtime(device, precision)


def free_memory_bytes(runtime: Runtime) -> int:
    """Memory that a run may still take on the device: the driver's count plus what torch holds without using it."""
    if runtime.device.startswith("cuda"):
        import torch

        device = runtime.torch_device()
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    table = Path("/proc/meminfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def release_memory(runtime: Runtime) -> None:
    """Collect what nothing refers to any more, and hand the device's unused memory back."""
    gc.collect()
    if runtime.device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
