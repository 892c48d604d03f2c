"""Preparing training clips once: drawn from a configuration's sources, deterministic from a seed, kept in shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..videoanydoor.conditioning import Grid
from ..videoanydoor.scales import SCALES
from .clips import TrainingClip
from .config import TrainConfig
from .previews import draw_sample
from .shards import write_shards
from .sources import Mixture, open_sources

PREVIEW_SAMPLES = 12
PREVIEW_GRID = Grid(size=128, stride=8, reference_size=128, is_warped=True)


def prepare(config: TrainConfig, root: Path, output: Path | None, count: int, seed: int, preview: Path | None) -> int:
    """Write ``count`` clips to shards in ``output`` and a contact sheet to ``preview``, whichever are given; how many clips.

    Raises ``UserError`` for what is missing in the sources, and for a count below 1.
    """
    if count < 1:
        raise UserError("--count must be at least 1.")
    scale = SCALES[config.scale]
    is_warped = (config.content or scale.content) == "warped"
    grid = replace(PREVIEW_GRID, is_warped=is_warped, mask_shape=config.mask_shape, is_residual=config.residual)
    mixture = open_sources(config, root, grid, seed)
    if preview is not None:
        write_contact_sheet(preview, mixture)
    return 0 if output is None else write_shards(output, _draw(mixture, count))


def _draw(mixture: Mixture, count: int) -> Iterator[TrainingClip]:
    for number in range(count):
        yield replace(mixture.clip(number), key=f"{number:08d}")


def write_contact_sheet(path: Path, mixture: Mixture) -> None:
    """A PNG of a dozen samples; each: truth, masked source, trajectory maps, content, reference."""
    from PIL import Image

    sheets = [draw_sample(mixture[number]) for number in range(PREVIEW_SAMPLES)]
    width, height = max(sheet.shape[1] for sheet in sheets), max(sheet.shape[0] for sheet in sheets)
    page = np.full((height * (PREVIEW_SAMPLES // 2), width * 2, 3), 255, np.uint8)
    for number, sheet in enumerate(sheets):
        row, column = divmod(number, 2)
        page[row * height : row * height + sheet.shape[0], column * width : column * width + sheet.shape[1]] = sheet
    Image.fromarray(page).save(path)
