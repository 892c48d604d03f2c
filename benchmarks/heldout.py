"""What a trained checkpoint does with objects and footage that it has never seen.

    python -m benchmarks.heldout CHECKPOINT CONFIG.yaml --data DIR [--count 24] [--steps 12] [--sheet OUT.png]

``CONFIG.yaml`` names held-out footage and cut-outs as ``composites``. Every sample is a composite under an unknown light, the
reference in neutral light; the mean over samples of

- the PSNR inside the mask's box, of the checkpoint, of plain pasting, and of pasting with the compositor's harmonisation (both of
  which are given the true background, which the checkpoint has to make up);
- the same on the object's own pixels alone;
- the shift of the object's centre of mass when all of its trajectories and its box are moved by a few pixels, in shares of the
  shift asked for, read off the difference to the same sample without an object.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.composite.harmonize import estimate_light, object_gains
from pipeline.composite.warp import ReferencePyramid
from pipeline.evaluation.pixels import squared_error, to_psnr_db
from pipeline.motion import LayerMotion
from pipeline.training.clips import TrainingClip
from pipeline.training.composites import CompositeOptions, choose_footage, lay_over, plan_composite, relight
from pipeline.training.config import TrainConfig, read_config
from pipeline.training.previews import draw_rows, generate
from pipeline.training.samples import SampleOptions, build_sample
from pipeline.training.sources import read_cutouts, read_footage
from pipeline.types import Array, Reference
from pipeline.videoanydoor.conditioning import Grid, build_conditioning, to_frames
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.regions import crop_frame
from pipeline.videoanydoor.sampling import SamplingOptions

SHIFT_SHARE = 0.25
"""How far trajectories are moved, in shares of the object's size."""
PLAIN = SampleOptions(expansion=(1.25, 1.25), few_points=0.0, no_points=0.0)


def paste(clip: TrainingClip, background: Array, gains: Array | None) -> tuple[Array, Array]:
    """The clip's object laid over the true background u8[F,H,W,3], its light as it is or multiplied by gains; and bool[F,H,W] where
    it is."""
    motion = LayerMotion(clip.reference, clip.boxes, clip.trajectories, "stretch", "center", "auto")
    pyramid = ReferencePyramid(clip.reference)
    scenes = background.astype(np.float32)
    covered = [lay_over(scene, pyramid, motion, index, gains=gains) for index, scene in enumerate(scenes)]
    return np.rint(np.clip(scenes, 0, 255)).astype(np.uint8), np.stack(covered) > 0.5


def moved(clip: TrainingClip, shift: Array) -> TrainingClip:
    """The same wish somewhere else."""
    both = np.tile(shift, 2).astype(np.float32)
    boxes = replace(clip.boxes, boxes_px=clip.boxes.boxes_px + both)
    points = clip.trajectories
    if points is not None:
        points = replace(points, points_px=points.points_px + shift.astype(np.float32))
    return replace(clip, boxes=boxes, trajectories=points)


def centre_of(change: Array) -> Array:
    """Centre of mass f64[2] of how much a picture changed, weak changes left out."""
    weight = np.clip(np.abs(change).mean(axis=-1) - 12, 0, None)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / max(float(weight.sum()), 1e-6)


class Tally:
    """Squared errors added up sample by sample."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, image: Array, truth: Array, region: Array) -> None:
        """The PSNR of one sample within a region bool[F,N,N]."""
        error = [squared_error(a, b, c) for a, b, c in zip(image, truth, region, strict=True)]
        self.values.setdefault(name, []).append(to_psnr_db(sum(e for e, _ in error), sum(n for _, n in error)))

    def mean(self, name: str) -> tuple[float, float]:
        """Mean and its standard error."""
        values = np.array([value for value in self.values[name] if np.isfinite(value)])
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    config = read_config(options.config)
    root = options.data or options.config.parent
    pipe = VideoAnydoorPipeline.from_pretrained(options.checkpoint)
    footage = read_footage(root / str(config.sources[0].footage), config.footage_side, config.num_frames)
    cutouts = read_cutouts(root / str(config.sources[0].cutouts), config)
    print(f"{len(cutouts)} cut-outs, {len(footage)} clips, {options.count} samples, {options.steps} steps")
    tally, responses, rows = Tally(), [], []
    sampling = SamplingOptions(num_inference_steps=options.steps, guidance_scale=options.guidance, window=16, overlap=8)
    for number in range(options.count):
        shown = score(number, pipe, footage, cutouts, config, sampling, tally, responses)
        rows += shown if number < 3 else []
    for name in tally.values:
        mean, error = tally.mean(name)
        print(f"{name:32s} {mean:6.2f} dB  +- {error:.2f}")
    print(
        f"the object moves by {np.median(responses):.2f} of the shift asked for (median; quartiles "
        f"{np.percentile(responses, 25):.2f} and {np.percentile(responses, 75):.2f})"
    )
    if options.sheet is not None:
        from PIL import Image

        Image.fromarray(draw_rows(rows)).save(options.sheet)


def score(
    number: int,
    pipe: VideoAnydoorPipeline,
    footage: list[Array],
    cutouts: list[Reference],
    config: TrainConfig,
    sampling: SamplingOptions,
    tally: Tally,
    responses: list[float],
) -> list[Array]:
    """One held-out sample; rows of pictures to look at."""
    rng = np.random.default_rng([99, number])
    frames = choose_footage(footage, config.num_frames, config.max_stride, rng)
    cutout = cutouts[int(rng.integers(len(cutouts)))]
    scene = CompositeOptions(max_points=config.num_points, shadow=0.0)
    plan = plan_composite(len(frames), frames.shape[1:3], cutout, scene, rng)
    background = np.stack([relight(image.astype(np.float32), plan.gains) for image in frames])
    wish = TrainingClip("held", background, cutout, plan.boxes, plan.trajectories, "fine_video")
    lit_truth, where = paste(wish, frames, None)
    clip = replace(wish, frames=np.stack([relight(image.astype(np.float32), plan.gains) for image in lit_truth]))
    grid = Grid(int(pipe.config.size), pipe.stride, int(pipe.id_extractor.config.image_size), True)
    sample = build_sample(clip, grid, PLAIN, np.random.default_rng(0))
    made = generate(pipe, sample, sampling)
    layer, handle = clip.to_layer(), clip.to_clip()
    conditioning = build_conditioning(layer, handle, (0, clip.num_frames), grid)
    assert conditioning is not None
    window = conditioning.window

    def cropped(pictures: Array) -> Array:
        return np.stack([crop_frame(image, window, index) for index, image in enumerate(pictures)])

    truth = cropped(clip.frames)
    box = conditioning.masks()
    own = cropped(np.repeat(where[..., None], 3, axis=3).astype(np.uint8) * 255)[..., 0] > 127
    gains = object_gains(estimate_light(list(background)), 1.0)
    plain, lit = (cropped(paste(clip, background, each)[0]) for each in (None, gains))
    for name, picture in (("checkpoint", made), ("plain pasting", plain), ("compositor, harmonised", lit)):
        tally.add(f"box: {name}", picture, truth, box)
        tally.add(f"object: {name}", picture, truth, own)
    sizes = clip.boxes.boxes_px[:, 2:] - clip.boxes.boxes_px[:, :2]
    shift = np.array([SHIFT_SHARE * float(np.sqrt(sizes.prod(axis=1)).mean()), 0.0]) * (1 if rng.random() < 0.5 else -1)
    responses.append(response(pipe, clip, shift, grid, sampling))
    return [truth, to_frames(sample.masked), made, lit]


def response(pipe: VideoAnydoorPipeline, clip: TrainingClip, shift: Array, grid: Grid, sampling: SamplingOptions) -> float:
    """How far the object moves, in shares of ``shift``."""
    centres = []
    for wish in (clip, moved(clip, shift)):
        sample = build_sample(wish, grid, PLAIN, np.random.default_rng(0))
        empty = replace(sample, content=torch.ones_like(sample.content), motion=-torch.ones_like(sample.motion))
        with_object, without = generate(pipe, sample, sampling), generate(pipe, empty, sampling)
        conditioning = build_conditioning(wish.to_layer(), wish.to_clip(), (0, wish.num_frames), grid)
        assert conditioning is not None
        place = np.array(
            [
                centre_of(a.astype(np.float64) - b) / conditioning.window.scale + conditioning.window.offsets_px[index]
                for index, (a, b) in enumerate(zip(with_object, without, strict=True))
            ]
        )
        centres.append(place)
    delta = (centres[1] - centres[0]).mean(axis=0)
    return float(delta @ shift / (shift @ shift))


if __name__ == "__main__":
    main()
