"""From a ``TrainingClip`` to what the networks are given: the same conditioning as in use, with the randomness of training.

Everything random comes from one generator per sample, so that sample number i of a seed is the same on every machine and in every
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..types import Array, Reference, TrajectorySet
from ..videoanydoor.conditioning import Grid, build_conditioning, to_mask, to_tensor
from ..videoanydoor.drawing import make_palette
from ..videoanydoor.regions import crop_frame
from .clips import TrainingClip
from .losses import Source


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """How samples vary, and what an ablation takes away.

    ``expansion``: range of the boxes' factor, one per clip (the paper: expanded, not tight). ``few_points``: how often only one to
    all of the points are drawn; ``no_points``: how often none (the paper always draws eight; a person may draw fewer).
    ``key_points``: whether the reference carries its discs ("semantic points"). ``jitter``: relative brightness and contrast of the
    reference, against copying its light. ``hidden``: how often a pasted source hides what is behind the object though it is known,
    as it is where something is to be replaced.
    """

    expansion: tuple[float, float] = (1.1, 1.5)
    few_points: float = 0.3
    no_points: float = 0.12
    key_points: bool = True
    jitter: float = 0.0
    hidden: float = 0.1


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of B samples, pictures in [-1, 1], N the model's side, S the reference's, h = N / stride.

    ``video`` [B,3,F,N,N] the truth, ``masked`` the same with the mask's inside at 0 (or the source with the reference pasted over
    it, where that is the base), ``mask`` [B,1,F,h,h] (1 = to generate),
    ``references`` [B,1,3,S,S], ``content`` [B,3,Fc,N,N], ``motion`` [B,3,F,N,N], ``points`` [B,K,F,2] in model pixels with
    ``is_visible`` bool[B,K,F], ``sources`` one word each.
    """

    video: torch.Tensor
    masked: torch.Tensor
    mask: torch.Tensor
    references: torch.Tensor
    content: torch.Tensor
    motion: torch.Tensor
    points: torch.Tensor
    is_visible: torch.Tensor
    sources: list[Source]

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in TENSORS}
        return replace(self, **moved)


TENSORS = ("video", "masked", "mask", "references", "content", "motion", "points", "is_visible")


def build_sample(clip: TrainingClip, grid: Grid, options: SampleOptions, rng: np.random.Generator) -> Batch:
    """One sample (B = 1). Raises ``ValueError`` when the object is in no frame."""
    points = _draw_points(clip.trajectories, options, rng)
    layer = replace(clip.to_layer(), references=(_jittered(clip.reference, options.jitter, rng),), trajectories=points)
    handle = clip.to_clip()
    palette = rng.permutation(make_palette())
    expansion = float(rng.uniform(*options.expansion))
    made = build_conditioning(layer, handle, (0, clip.num_frames), grid, expansion, palette)
    if made is None:
        raise ValueError(f"the object of {clip.key!r} is in no frame")
    content = made.content
    if not options.key_points and not grid.is_warped:
        plain = build_conditioning(replace(layer, trajectories=None), handle, (0, clip.num_frames), grid, expansion)
        assert plain is not None
        content = plain.content
    frames = np.stack([crop_frame(image, made.window, index) for index, image in enumerate(clip.frames)])
    video, masks = to_tensor(frames), made.masks()
    masked = video * (1 - to_mask(masks))
    if made.pasted is not None:
        hides = clip.scene is None or rng.random() < options.hidden
        below = clip.frames if clip.scene is None else clip.scene
        source = np.stack([crop_frame(image, made.window, index) for index, image in enumerate(below)])
        masked = to_tensor(replace(made.pasted, hides=hides).lay_over(source, masks))
    step = grid.stride
    located, is_visible = _locate(points, made.window.offsets_px, made.window.scale, clip.num_frames)
    return Batch(
        video=video,
        masked=masked,
        mask=to_mask(masks[:, step // 2 :: step, step // 2 :: step]),
        references=to_tensor(made.references).transpose(1, 2),
        content=to_tensor(content),
        motion=to_tensor(made.motion),
        points=located,
        is_visible=is_visible,
        sources=[clip.source],
    )


def collate(samples: Sequence[Batch]) -> Batch:
    """One batch of several samples; points are filled up with hidden ones to the largest number."""
    most = max(sample.points.shape[1] for sample in samples)

    def padded(values: torch.Tensor) -> torch.Tensor:
        missing = most - values.shape[1]
        return torch.cat([values, values.new_zeros(1, missing, *values.shape[2:])], dim=1) if missing else values

    joined = {name: torch.cat([getattr(sample, name) for sample in samples]) for name in TENSORS[:6]}
    joined |= {name: torch.cat([padded(getattr(sample, name)) for sample in samples]) for name in TENSORS[6:]}
    return Batch(**joined, sources=[source for sample in samples for source in sample.sources])


def _draw_points(points: TrajectorySet | None, options: SampleOptions, rng: np.random.Generator) -> TrajectorySet | None:
    """All points, some, or none."""
    choice, share = rng.random(2)
    if points is None or choice < options.no_points:
        return None
    if choice >= options.no_points + options.few_points:
        return points
    count = 1 + int(share * len(points))
    kept = np.sort(rng.choice(len(points), size=min(count, len(points)), replace=False))
    return TrajectorySet(
        tuple(points.names[index] for index in kept),
        points.points_px[kept],
        points.is_visible[kept],
        points.is_cut[kept],
        points.anchors_px[kept],
    )


def _jittered(reference: Reference, jitter: float, rng: np.random.Generator) -> Reference:
    brightness, contrast = rng.uniform(-jitter, jitter, 2)
    if jitter == 0:
        return reference
    values = (reference.image.astype(np.float32) - 127.5) * np.float32(1 + contrast) + np.float32(127.5 * (1 + brightness))
    return replace(reference, image=np.rint(np.clip(values, 0, 255)).astype(np.uint8))


def _locate(points: TrajectorySet | None, offsets_px: Array, scale: float, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    if points is None:
        return torch.zeros(1, 0, num_frames, 2), torch.zeros(1, 0, num_frames, dtype=torch.bool)
    located = (points.points_px - offsets_px[None].astype(np.float32)) * np.float32(scale)
    return torch.from_numpy(located)[None], torch.from_numpy(points.is_visible.copy())[None]
