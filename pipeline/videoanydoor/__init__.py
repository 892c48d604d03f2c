"""VideoAnydoor (Tu et al., SIGGRAPH 2025, arXiv 2501.01427): diffusion-based video object insertion with box and point control.

Where each box of the paper's pipeline figure lives:

- 3D U-Net (Sec. 3.1): ``unet``; ID extractor (3.1): ``id_extractor``; pixel warper (3.2): ``pixel_warper`` (content encoder, motion
  encoder, the two cross-attentions, fusion) and ``controlnet`` (Eq. 1's copy and zero convolutions); ``denoiser`` is Eq. 1 itself.
- Boxes, trajectory maps and the key-point image (3.1, 3.2) are made by ``conditioning`` from an ``InsertionRequest``.
- ``pipeline`` samples; ``pasting`` and ``residual`` bring the result back into the clip; ``checkpoints`` assembles weights;
  ``engine`` stands behind the common engine protocol.

Importing this package loads nothing heavy; its modules import torch.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..cache import ArtifactCache
    from ..model_cache import ModelCaches
    from .engine import VideoAnydoorEngine

NEEDED = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
"""What this package needs beside the base requirements."""


def check_installed() -> None:
    """Raise ``UserError`` when a library that this package needs is not installed; loads none of them."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"VideoAnydoor needs {', '.join(missing)}; install them with 'pip install -r requirements.txt'.")


def build_engine(
    device: str,
    checkpoints: Path | None,
    artifacts: ArtifactCache,
    is_compiled: bool = False,
    models: ModelCaches | None = None,
) -> VideoAnydoorEngine:
    """The engine on ``device`` (``auto`` or torch's name); ``checkpoints`` is the folder whose subfolders are checkpoints.
    ``is_compiled``: U-Net and ControlNet are compiled block by block at the first run. ``models``: loaded models that others on
    the same device use too.

    Raises ``UserError`` when a library or the device is not there. A missing checkpoint is told when a request runs.
    """
    check_installed()
    from . import engine

    return engine.build_engine(device, checkpoints, artifacts, is_compiled, models)
