"""Which segmenter makes masks, and how: said by the same flags wherever masks are made. Importing this loads nothing heavy."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from .weights import SAM2_MODELS

NAMES = ("auto", "sam2", "fallback")
"""What a project file may call its segmenter."""


@dataclass(frozen=True, slots=True)
class SegmenterOptions:
    """Which segmenter ``auto`` is (``auto``: SAM 2.1 where its weights are, else the fallback), and how SAM 2.1 runs.

    ``model`` names the weights, one of ``weights.SAM2_MODELS`` or a local folder; without it the largest that is there is taken.
    ``input_size`` is the side, in pixels, of the square that it looks at: smaller is faster and coarser, None is its own (1024).
    ``device`` is ``auto`` or torch's name; ``checkpoints`` the folder that ``fetch-models`` fills.
    """

    name: str = "auto"
    model: str | None = None
    input_size: int | None = None
    device: str = "auto"
    checkpoints: Path | None = None


def add_segmenter_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``SegmenterOptions``, but for the folder of fetched models, which commands call ``--checkpoints``."""
    group = parser.add_argument_group("who makes masks from clicks")
    group.add_argument("--segmenter", choices=NAMES, help="sam2, the built-in fallback, or auto: the best there is")
    names = ", ".join(SAM2_MODELS)
    group.add_argument("--segmenter-model", metavar="MODEL", help=f"SAM 2.1's weights: {names}, or a folder (default: the largest)")
    group.add_argument(
        "--segmenter-size",
        type=_pixels,
        metavar="PX",
        help="what SAM 2.1 sees, a multiple of 32 (default 1024); 512 is coarser, and several times faster on a CPU",
    )
    group.add_argument(
        "--segmenter-device", metavar="DEVICE", help="where SAM 2.1 runs: auto, cpu or cuda (default: as --device, if it is given)"
    )


def read_segmenter_options(values: argparse.Namespace, checkpoints: Path | None) -> SegmenterOptions:
    """What the flags say; a command's own ``--device`` holds for the segmenter too unless it has one of its own."""
    device = values.segmenter_device or getattr(values, "device", None) or "auto"
    return SegmenterOptions(values.segmenter or "auto", values.segmenter_model, values.segmenter_size, device, checkpoints)


def _pixels(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a number of pixels")
    return int(text)
