"""Pictures that show a person what training sees and what it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..types import Array
from ..videoanydoor.conditioning import to_frames
from ..videoanydoor.pipeline import VideoAnydoorPipeline
from ..videoanydoor.sampling import SamplingOptions
from .samples import Batch

MAX_COLUMNS = 8
SCALE = 2
SAMPLING = SamplingOptions(num_inference_steps=12, guidance_scale=1.5, window=16, overlap=8)


def generate(pipe: VideoAnydoorPipeline, sample: Batch, options: SamplingOptions = SAMPLING) -> Array:
    """What the pipeline makes of one sample, u8[F,N,N,3]."""
    inputs = to_inputs(sample)
    window = min(options.window, sample.video.shape[2], pipe.max_window)
    chosen = replace(options, window=window, overlap=min(options.overlap, window - 1))
    return pipe(inputs["frames"], inputs["masks"], inputs["references"], inputs["content"], inputs["motion"], options=chosen)


def to_inputs(sample: Batch) -> dict[str, Array]:
    """The pipeline's arguments for one sample (B = 1)."""
    stride = sample.video.shape[-1] // sample.mask.shape[-1]
    mask = sample.mask[0, 0].bool().numpy()
    return {
        "frames": to_frames(sample.masked.cpu()),
        "masks": np.repeat(np.repeat(mask, stride, axis=1), stride, axis=2),
        "references": to_frames(sample.references.transpose(1, 2).cpu()),
        "content": to_frames(sample.content.cpu()),
        "motion": to_frames(sample.motion.cpu()),
    }


def draw_rows(rows: list[Array]) -> Array:
    """Rows of pictures u8[F,N,N,3] as one picture, at most ``MAX_COLUMNS`` of each row, enlarged."""
    columns = min(MAX_COLUMNS, min(len(row) for row in rows))
    chosen = [row[np.linspace(0, len(row) - 1, columns).round().astype(int)] for row in rows]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in chosen], axis=0)
    return np.repeat(np.repeat(sheet, SCALE, axis=0), SCALE, axis=1)


def draw_sample(sample: Batch) -> Array:
    """A sample as a person reads it: truth, masked source, trajectory maps, content; the reference repeated below them."""
    inputs = to_inputs(sample)
    count = len(inputs["frames"])
    size = inputs["frames"].shape[1]
    content = np.repeat(inputs["content"], count // len(inputs["content"]), axis=0)
    reference = _resized(inputs["references"][0], size)
    truth = to_frames(sample.video.cpu())
    return draw_rows([truth, inputs["frames"], inputs["motion"], content, np.repeat(reference[None], count, 0)])


def draw_preview(path: Path, pipe: VideoAnydoorPipeline, sample: Batch) -> None:
    """Truth, masked source, content and what was made, as a PNG."""
    from PIL import Image

    inputs = to_inputs(sample)
    count = len(inputs["frames"])
    content = np.repeat(inputs["content"], count // len(inputs["content"]), axis=0)
    with torch.no_grad():
        made = generate(pipe, sample)
    Image.fromarray(draw_rows([to_frames(sample.video.cpu()), inputs["frames"], content, made])).save(path)


def _resized(image: Array, size: int) -> Array:
    import cv2

    return image if image.shape[0] == size else cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
