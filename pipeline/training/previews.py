"""Pictures that show a person what training sees and what it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..motion import build_layer_motion
from ..types import Array
from ..videoanydoor.conditioning import build_conditioning, to_frames
from ..videoanydoor.pasting import LayerResult, paste_layers
from ..videoanydoor.pipeline import VideoAnydoorPipeline
from ..videoanydoor.regions import crop_frame
from ..videoanydoor.residual import CarriedReference
from ..videoanydoor.sampling import SamplingOptions
from .clips import TrainingClip
from .samples import Batch

MAX_COLUMNS = 8
SCALE = 2
SAMPLING = SamplingOptions(num_inference_steps=12, guidance_scale=1.5, window=16, overlap=8)


def insert(pipe: VideoAnydoorPipeline, clip: TrainingClip, options: SamplingOptions = SAMPLING) -> Array:
    """The clip's frames u8[F,H,W,3] as the engine would make them of its scene (or, where that is not known, of its frames with
    the object hidden). Raises ``ValueError`` when the object is in no frame."""
    source = clip.frames if clip.scene is None else clip.scene
    layer, handle = clip.to_layer(), clip.to_clip()
    made = build_conditioning(layer, handle, (0, clip.num_frames), pipe.grid)
    if made is None:
        raise ValueError(f"the object of {clip.key!r} is in no frame")
    carried = None
    if made.pasted is not None:
        made = replace(made, pasted=replace(made.pasted, hides=clip.scene is None))
        carried = CarriedReference(clip.reference, build_layer_motion(layer))
    shown = made.lay_over(np.stack([crop_frame(image, made.window, index) for index, image in enumerate(source)]))
    window = min(options.window, clip.num_frames, pipe.max_window)
    chosen = replace(options, window=window, overlap=min(options.overlap, window - 1))
    pictures = pipe(shown, made.masks(), made.references, made.content, made.motion, options=chosen)
    result = LayerResult(layer, made, pictures, "", None if made.pasted is None else shown, carried)
    frames = source.copy()
    for index, image in enumerate(frames):
        paste_layers(image, [result], index, index)
    return frames


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


def draw_preview(path: Path, pipe: VideoAnydoorPipeline, clip: TrainingClip) -> None:
    """The truth above what is made of its scene, at the clip's own resolution, as a PNG."""
    from PIL import Image

    with torch.no_grad():
        made = insert(pipe, clip)
    Image.fromarray(draw_rows([clip.frames, made])).save(path)


def _resized(image: Array, size: int) -> Array:
    import cv2

    return image if image.shape[0] == size else cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
