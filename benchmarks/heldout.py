"""What trained checkpoints do with objects and footage that they have never seen.

    python -m benchmarks.heldout CONFIG.yaml ROW=CHECKPOINT [ROW=CHECKPOINT ...] --data DIR [--count 48] [--sheet OUT.png]

``CONFIG.yaml`` names held-out footage and cut-outs as ``composites``, and how far the light of the scene strays (``cast``,
``exposure``). Every sample is a composite under an unknown light, the reference in neutral light, without a shadow. Checkpoints of
one row are the same training from other seeds; all see the same samples. Everything is compared at the footage's own resolution
(its shorter side is ``footage_side``): checkpoints by what the engine would lay over the scene. Told are, as means over the
samples,

- the PSNR inside the loose box and on the object's own pixels: of plain pasting, of pasting with the compositor's harmonisation, of
  every checkpoint; and what each gains over plain pasting, sample by sample, with the standard error
  over the samples and, for a row, the spread over its seeds. "Pooled" is the gain in the squared error of all samples together;
- the same with the correspondences swapped: every point's disc on the reference has the colour of the next point;
- how far the object moves at a point when it is carried by this point's trajectory alone and that is moved by ``SHIFT_SHARE`` of
  the object's size, in shares of that shift: the same patch is found again by Lucas and Kanade's method, forward and backward, in
  the picture made without the shift and the one made with it. Points where that finds nothing in what plain pasting makes are not
  counted; where it finds nothing in what a checkpoint makes, nothing has moved.

Checkpoints whose masks leave the background visible are told it as plain pasting is; the others have to make it up.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.composite.harmonize import estimate_light, object_gains
from pipeline.composite.warp import ReferencePyramid
from pipeline.evaluation.pixels import squared_error, to_psnr_db
from pipeline.motion import build_layer_motion
from pipeline.tracking import flatten_light, follow_points
from pipeline.training.clips import TrainingClip
from pipeline.training.composites import CompositeOptions, choose_footage, lay_over, plan_composite, relight
from pipeline.training.config import TrainConfig, read_config
from pipeline.training.previews import draw_rows, insert
from pipeline.training.sources import read_cutouts, read_footage
from pipeline.types import Array, Reference, TrajectorySet
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.regions import loosen_boxes
from pipeline.videoanydoor.sampling import SamplingOptions

SHIFT_SHARE = 0.15
"""How far a trajectory is moved, in shares of the object's size."""
TRACKING_SIDE = 256
"""Pictures are enlarged to this size at least, by a whole number, before points are found again in them."""
SHOWN = 6
PASTED, HARMONISED = "plain pasting", "compositor, harmonised"


class Sample(NamedTuple):
    """A held-out wish (its truth in ``clip.frames``, the scene without the object in ``clip.scene``) and, u8[F,H,W,3] like these,
    what plain pasting and the harmonising compositor make of it, and what plain pasting makes of it with the correspondences
    swapped. ``box`` and ``own`` bool[F,H,W]: the loose box, the object. ``response``: the wish with one trajectory moved, if there
    is a point that can be followed."""

    clip: TrainingClip
    plain: Array
    harmonised: Array
    swapped: Array | None
    box: Array
    own: Array
    response: Response | None


class Response(NamedTuple):
    """A wish with one trajectory, and ``moved``, with that moved by ``step`` f[2] (pixels); where its point is, ``places`` f[F,2];
    in which frames it is found again in what plain pasting makes, ``counted`` bool[F], and the share of ``step`` that it moves
    there."""

    wish: TrainingClip
    moved: TrainingClip
    places: Array
    step: Array
    counted: Array
    share: float


class Errors(NamedTuple):
    """Squared error and number of values of one picture in one region."""

    squared: float
    size: int

    @property
    def psnr_db(self) -> float:
        return to_psnr_db(self.squared, self.size)


@dataclass
class Scores:
    """What is found out about one maker of pictures, sample by sample: errors in the ``box``, on the object alone (``own``), in the
    box with the correspondences ``swapped``; and the ``moves`` of tracked points."""

    box: list[Errors] = field(default_factory=list)
    own: list[Errors] = field(default_factory=list)
    swapped: list[Errors] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)


def draw_sample(
    number: int, footage: list[Array], cutouts: list[Reference], config: TrainConfig, scene: CompositeOptions
) -> Sample:
    """Held-out sample ``number``: always the same."""
    rng = np.random.default_rng([99, number])
    frames = choose_footage(footage, config.num_frames, config.max_stride, rng)
    cutout = cutouts[int(rng.integers(len(cutouts)))]
    plan = plan_composite(len(frames), frames.shape[1:3], cutout, scene, rng)
    background = np.stack([relight(image.astype(np.float32), plan.gains) for image in frames])
    wish = TrainingClip("held", background, cutout, plan.boxes, plan.trajectories, "fine_video", background)
    neutral, where = paste(wish, frames)
    clip = replace(wish, frames=np.stack([relight(image.astype(np.float32), plan.gains) for image in neutral]))
    gains = object_gains(estimate_light(list(background)), 1.0)
    swapped = swap_correspondences(clip)
    return Sample(
        clip,
        paste(wish, background)[0],
        paste(wish, background, gains)[0],
        None if swapped is None else paste(swapped, background)[0],
        fill_loose_boxes(clip),
        where,
        draw_response(clip, background, rng),
    )


def fill_loose_boxes(clip: TrainingClip) -> Array:
    """bool[F,H,W], true inside the boxes that a model is told, as they are before they are brought to its latent grid."""
    motion = build_layer_motion(clip.to_layer())
    masks = np.zeros(clip.frames.shape[:3], np.bool_)
    for mask, box in zip(masks, loosen_boxes(motion.effective_boxes_px), strict=True):
        x0, y0, x1, y1 = np.rint(np.maximum(box, 0)).astype(int)
        mask[y0:y1, x0:x1] = True
    return masks


def paste(clip: TrainingClip, background: Array, gains: Array | None = None) -> tuple[Array, Array]:
    """The clip's object laid over the true background u8[F,H,W,3], its light as it is or multiplied by gains; and bool[F,H,W] where
    it is."""
    motion = build_layer_motion(clip.to_layer())
    pyramid = ReferencePyramid(clip.reference)
    scenes = background.astype(np.float32)
    covered = [lay_over(scene, pyramid, motion, index, gains=gains) for index, scene in enumerate(scenes)]
    return np.rint(np.clip(scenes, 0, 255)).astype(np.uint8), np.stack(covered) > 0.5


def swap_correspondences(clip: TrainingClip) -> TrainingClip | None:
    """The same wish with every anchor under the next one's trajectory; None with fewer than two."""
    points = clip.trajectories
    if points is None or len(points) < 2:
        return None
    return replace(clip, trajectories=replace(points, anchors_px=np.roll(points.anchors_px, 1, axis=0)))


def keep_trajectory(points: TrajectorySet, index: int) -> TrajectorySet:
    """One of the trajectories alone."""
    own = slice(index, index + 1)
    is_visible, is_cut = points.is_visible[own], points.is_cut[own]
    return TrajectorySet((points.names[index],), points.points_px[own], is_visible, is_cut, points.anchors_px[own])


def find_moves(before: Array, after: Array, points: Array) -> Array:
    """How far the patch at ``points`` f[F,2] of pictures u8[F,H,W,3] moves from ``before`` to ``after``, f64[F,2]; nan where it is
    not found again."""
    import cv2

    moves, scale = np.full(points.shape, np.nan), int(np.ceil(TRACKING_SIDE / min(before.shape[1:3])))
    for index, point in enumerate(points):
        grays = []
        for image in (before[index], after[index]):
            large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            grays.append(flatten_light(cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)))
        at = (point * scale)[None].astype(np.float64)
        found, is_good = follow_points(grays[0], grays[1], at)
        if is_good[0]:
            moves[index] = (found[0] - at[0]) / scale
    return moves


# -- one sample, one checkpoint ---------------------------------------------------------------------------------------------------


def measure(made: Array, truth: Array, region: Array) -> Errors:
    """The error of u8[F,H,W,3] within bool[F,H,W]."""
    parts = [squared_error(*each) for each in zip(made, truth, region, strict=True)]
    return Errors(sum(error for error, _ in parts), sum(count for _, count in parts))


def draw_response(clip: TrainingClip, background: Array, rng: np.random.Generator) -> Response | None:
    """One trajectory kept, and moved as ``SHIFT_SHARE`` says, in a random direction; None where its point cannot be followed."""
    points = clip.trajectories
    if points is None:
        return None
    sizes = clip.boxes.boxes_px[:, 2:] - clip.boxes.boxes_px[:, :2]
    angle = rng.uniform(0, 2 * np.pi)
    shift = SHIFT_SHARE * float(np.sqrt(sizes.prod(axis=1)).mean()) * np.array([np.cos(angle), np.sin(angle)])
    index = int(rng.integers(len(points)))
    alone = keep_trajectory(points, index)
    wish = replace(clip, trajectories=alone)
    moved = replace(clip, trajectories=replace(alone, points_px=alone.points_px + shift.astype(np.float32)))
    places = points.points_px[index]
    before, after = (paste(each, background)[0] for each in (wish, moved))
    shares = find_moves(before, after, places) @ shift / (shift @ shift)
    counted = np.isfinite(shares)
    return Response(wish, moved, places, shift, counted, float(np.median(shares[counted]))) if counted.any() else None


def score(sample: Sample, pipe: VideoAnydoorPipeline, sampling: SamplingOptions, scores: Scores) -> Array:
    """Score one checkpoint on one sample; what it makes."""
    made = insert(pipe, sample.clip, sampling)
    scores.box.append(measure(made, sample.clip.frames, sample.box))
    scores.own.append(measure(made, sample.clip.frames, sample.own))
    swapped = swap_correspondences(sample.clip)
    if swapped is not None:
        scores.swapped.append(measure(insert(pipe, swapped, sampling), sample.clip.frames, sample.box))
    if sample.response is not None:
        wish, moved, places, step, counted, _ = sample.response
        shares = find_moves(insert(pipe, wish, sampling), insert(pipe, moved, sampling), places) @ step / (step @ step)
        scores.moves.append(float(np.median(np.nan_to_num(shares)[counted])))
    return made


def score_pasting(samples: list[Sample]) -> dict[str, Scores]:
    """The same of plain pasting and of the harmonising compositor."""
    plain, harmonised = Scores(), Scores()
    for sample in samples:
        for scores, picture in ((plain, sample.plain), (harmonised, sample.harmonised)):
            scores.box.append(measure(picture, sample.clip.frames, sample.box))
            scores.own.append(measure(picture, sample.clip.frames, sample.own))
        if sample.swapped is not None:
            plain.swapped.append(measure(sample.swapped, sample.clip.frames, sample.box))
        if sample.response is not None:
            plain.moves.append(sample.response.share)
    return {PASTED: plain, HARMONISED: harmonised}


# -- what is told -----------------------------------------------------------------------------------------------------------------


def gain_db(errors: list[Errors], than: list[Errors]) -> Array:
    """What ``errors`` gains over ``than``, sample by sample; samples that either copies exactly left out."""
    gains = np.array([one.psnr_db - two.psnr_db for one, two in zip(errors, than, strict=True)])
    return gains[np.isfinite(gains)]


def pooled_gain_db(errors: list[Errors], than: list[Errors]) -> float:
    """The gain in the squared error of all samples, each counted alike."""
    return float(
        10 * np.log10(np.mean([each.squared / each.size for each in than]) / np.mean([each.squared / each.size for each in errors]))
    )


def describe(scores: Scores, pasted: dict[str, Scores]) -> dict[str, float]:
    """The figures of one maker of pictures beside those of ``score_pasting``."""
    plain = pasted[PASTED]
    box, own = gain_db(scores.box, plain.box), gain_db(scores.own, plain.own)
    over = gain_db(scores.box, pasted[HARMONISED].box)
    figures = {
        "box_db": float(np.mean([each.psnr_db for each in scores.box])),
        "own_db": float(np.mean([each.psnr_db for each in scores.own])),
        "box_gain_db": float(box.mean()),
        "box_gain_error_db": float(box.std(ddof=1) / np.sqrt(len(box))),
        "own_gain_db": float(own.mean()),
        "own_gain_pooled_db": pooled_gain_db(scores.own, plain.own),
        "box_gain_pooled_db": pooled_gain_db(scores.box, plain.box),
        "box_better_share": float((box > 0).mean()),
        "box_over_harmonised_db": float(over.mean()),
        "box_over_harmonised_error_db": float(over.std(ddof=1) / np.sqrt(len(over))),
    }
    if scores.swapped:
        figures["box_swapped_db"] = float(np.mean([each.psnr_db for each in scores.swapped]))
    if scores.moves:
        moves = np.array(scores.moves)
        figures |= {
            "move_median": float(np.median(moves)),
            "move_low_quartile": float(np.percentile(moves, 25)),
            "move_high_quartile": float(np.percentile(moves, 75)),
            "move_within_15_percent_share": float((np.abs(moves - 1) <= 0.15).mean()),
            "num_moves": len(moves),
        }
    return figures


def tell(name: str, figures: dict[str, float]) -> None:
    print(name)
    for key, value in figures.items():
        print(f"    {key:30s} {value:7.2f}")


def split_name(given: str) -> tuple[str, str]:
    """ROW=CHECKPOINT; a checkpoint alone is a row of its name."""
    row, _, folder = given.rpartition("=")
    return row or Path(folder).name, folder


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("checkpoints", nargs="+", metavar="ROW=CHECKPOINT")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--sheet", type=Path, help="truth, plain pasting, harmonised, then a row for every checkpoint")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = read_config(options.config)
    source, root = config.sources[0], options.data or options.config.parent
    footage = read_footage(root / str(source.footage), config.footage_side, config.num_frames)
    cutouts = read_cutouts(root / str(source.cutouts), config)
    scene = CompositeOptions(max_points=config.num_points, shadow=0.0, cast=float(source.cast), exposure=float(source.exposure))
    print(f"{len(cutouts)} cut-outs, {len(footage)} clips, {options.count} samples, {options.steps} steps")
    sampling = SamplingOptions(num_inference_steps=options.steps, guidance_scale=options.guidance, window=16, overlap=8)
    pipes = [(row, VideoAnydoorPipeline.from_pretrained(folder)) for row, folder in map(split_name, options.checkpoints)]
    samples = [draw_sample(number, footage, cutouts, config, scene) for number in range(options.count)]
    pasted = score_pasting(samples)
    rows: dict[str, list[Scores]] = defaultdict(list)
    shown = [[each.clip.frames, each.plain, each.harmonised] for each in samples[:SHOWN]]
    for row, pipe in pipes:
        rows[row].append(Scores())
        made = [score(sample, pipe, sampling, rows[row][-1]) for sample in samples]
        for pictures, picture in zip(shown, made, strict=False):
            pictures.append(picture)
    document = {name: describe(each, pasted) for name, each in pasted.items()}
    for row, seeds in rows.items():
        each = [describe(scores, pasted) for scores in seeds]
        for number, figures in enumerate(each):
            document[f"{row}, seed {number}"] = figures
        gains = [figures["box_gain_db"] for figures in each]
        print(f"{row}: gains {np.mean(gains):.2f} dB in the box, {np.ptp(gains):.2f} dB between its {len(gains)} seeds")
    for name, figures in document.items():
        tell(name, figures)
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.sheet is not None:
        from PIL import Image

        rows_ = [pictures for each in shown for pictures in each]
        width = max(pictures.shape[2] for pictures in rows_)
        padded = [np.pad(each, ((0, 0), (0, 0), (0, width - each.shape[2]), (0, 0))) for each in rows_]
        Image.fromarray(draw_rows(padded)).save(options.sheet)


if __name__ == "__main__":
    main()
