"""Training clips made from nothing but footage and cut-outs: an object laid over moving footage, under light that is known.

The footage keeps its own camera motion. The whole scene (footage and object) is seen under one random cast and exposure, while the
reference shows the object in neutral light: what is to be learned beside the motion is to light the object as its surroundings are
lit. Boxes, turns and point trajectories are drawn at random and hold exactly, since the object is put where they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..composite.blend import cutout_from_patch
from ..composite.warp import ReferencePyramid, render_patch
from ..motion import LayerMotion
from ..types import Array, BoxSequence, Reference, TrajectorySet
from .clips import TrainingClip
from .points import PointChoice, choose_points


@dataclass(frozen=True, slots=True)
class CompositeOptions:
    """How composites vary. Sizes and shifts are shares of the picture's shorter side, gains natural logarithms in linear light."""

    size: tuple[float, float] = (0.2, 0.55)
    shift: float = 0.35
    growth: float = 0.3
    turn_deg: float = 25.0
    max_points: int = 8
    bend: float = 0.12
    cast: float = 0.25
    exposure: float = 0.45
    shadow: float = 0.5


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """What chance decided for one composite: where the object goes, how the scene is lit (``gains`` f64[3] in linear light) and how
    dark its contact shadow is."""

    boxes: BoxSequence
    trajectories: TrajectorySet | None
    gains: Array
    darkness: float


def plan_composite(
    num_frames: int, hw: tuple[int, int], cutout: Reference, options: CompositeOptions, rng: np.random.Generator
) -> Plan:
    """Draw a motion and a light for ``cutout`` over frames of size ``hw``."""
    boxes = _draw_boxes(num_frames, hw, cutout, options, rng)
    trajectories = _draw_trajectories(cutout, boxes, options, rng)
    return Plan(boxes, trajectories, _draw_gains(options, rng), float(rng.uniform(0, options.shadow)))


def build_composite(
    key: str, footage: Array, cutout: Reference, options: CompositeOptions, rng: np.random.Generator
) -> TrainingClip:
    """Lay ``cutout`` over ``footage`` u8[F,H,W,3] along a random motion, its points swaying; the truth is under a random light, the
    reference is not."""
    plan = plan_composite(len(footage), footage.shape[1:3], cutout, options, rng)
    motion = LayerMotion(cutout, plan.boxes, plan.trajectories, "stretch", "center", "auto")
    pyramid = ReferencePyramid(cutout)
    frames, scenes = np.empty_like(footage), np.empty_like(footage)
    for index, image in enumerate(footage):
        scene = image.astype(np.float32)
        scenes[index] = relight(scene, plan.gains)
        lay_over(scene, pyramid, motion, index, plan.darkness)
        frames[index] = relight(scene, plan.gains)
    return TrainingClip(key, frames, cutout, plan.boxes, plan.trajectories, "fine_video", scenes)


def lay_over(
    scene: Array, pyramid: ReferencePyramid, motion: LayerMotion, frame: int, darkness: float = 0.0, gains: Array | None = None
) -> Array:
    """Lay the object of one frame over ``scene`` f32[H,W,3], in place, its light multiplied by ``gains``; its alpha f32[H,W]."""
    height, width = scene.shape[:2]
    covered = np.zeros((height, width), np.float32)
    patch = render_patch(pyramid, motion.warp(frame), (0, 0, width, height))
    if patch is not None:
        laid = cutout_from_patch(patch, gains)
        if darkness:
            _lay_shadow(scene, motion.warped_bounds_px(frame), darkness)
        x0, y0, x1, y1 = laid.roi
        alpha = laid.alpha[..., None]
        scene[y0:y1, x0:x1] = laid.rgb * alpha + scene[y0:y1, x0:x1] * (1 - alpha)
        covered[y0:y1, x0:x1] = laid.alpha
    return covered


def relight(image: Array, gains: Array) -> Array:
    """``image`` f32[H,W,3] in 0..255 with each channel's linear light multiplied by ``gains`` f[3], clipped, u8."""
    exponent = np.float32(1 / 2.2)
    factors = np.power(gains.astype(np.float32), exponent)
    return np.rint(np.clip(image * factors, 0, 255)).astype(np.uint8)


def _draw_gains(options: CompositeOptions, rng: np.random.Generator) -> Array:
    """Gains f64[3]: an exposure, and a cast between warm and cold with a little green or magenta."""
    warm, green = rng.normal(0, options.cast), rng.normal(0, options.cast / 3)
    cast = np.array([warm, green, -warm])
    return np.exp(cast - cast.mean() + rng.normal(0, options.exposure))


def _draw_boxes(
    num_frames: int, hw: tuple[int, int], cutout: Reference, options: CompositeOptions, rng: np.random.Generator
) -> BoxSequence:
    """A box that glides, grows and turns along a smooth random path; its centre stays in the picture."""
    short = min(hw)
    x0, y0, x1, y1 = cutout.tight_box_px()
    aspect = (x1 - x0) / (y1 - y0)
    area = (rng.uniform(*options.size) * short) ** 2
    size = np.array([np.sqrt(area * aspect), np.sqrt(area / aspect)])
    time = np.linspace(-0.5, 0.5, num_frames)[:, None]
    picture = np.array([hw[1], hw[0]], np.float64)
    middle = rng.uniform(0.2, 0.8, 2) * picture
    speed, bow = rng.uniform(-1, 1, (2, 2)) * options.shift * short
    centres = np.clip(middle + speed * time + bow * (time**2 - 1 / 12), 0.05 * picture, 0.95 * picture)
    sizes = size * np.exp(rng.uniform(-options.growth, options.growth) * time)
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    turn = rng.uniform(-options.turn_deg, options.turn_deg) + rng.uniform(-options.turn_deg, options.turn_deg) * time[:, 0]
    always = np.ones(num_frames, np.bool_)
    return BoxSequence(boxes.astype(np.float32), turn.astype(np.float32), always, ~always)


def _draw_trajectories(
    cutout: Reference, boxes: BoxSequence, options: CompositeOptions, rng: np.random.Generator
) -> TrajectorySet | None:
    """The cut-out's points, carried by its box and swaying about their places."""
    if not cutout.points_px or options.max_points == 0:
        return None
    names = tuple(cutout.points_px)[: options.max_points]
    anchors_px = np.array([cutout.points_px[name] for name in names], np.float32)
    rest = LayerMotion(cutout, boxes, None, "stretch", "center", "auto")
    num_frames = len(boxes)
    places = np.stack([rest.warp(frame).forward(anchors_px.astype(np.float64)) for frame in range(num_frames)], axis=1)  # [K,F,2]
    size = float(np.sqrt(np.prod(boxes.boxes_px[0, 2:] - boxes.boxes_px[0, :2])))
    phase, reach = rng.uniform(0, 2 * np.pi, (len(names), 1, 2)), rng.normal(0, options.bend / 2, (len(names), 1, 2)) * size
    time = np.linspace(0, 1, num_frames)[None, :, None]
    pace = rng.uniform(0.5, 1.5)
    swayed = places + reach * (np.sin(2 * np.pi * pace * time + phase) - np.sin(phase)) * float(rng.random() < 0.7)
    is_visible = np.ones((len(names), num_frames), np.bool_)
    return TrajectorySet(names, swayed.astype(np.float32), is_visible, ~is_visible, anchors_px)


def _lay_shadow(scene: Array, bounds_px: Array, darkness: float) -> None:
    """A soft contact shadow under the object, in place."""
    x0, y0, x1, y1 = (float(value) for value in bounds_px)
    height, width = scene.shape[:2]
    half = max(2.0, (x1 - x0) * 0.55)
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(width, dtype=np.float32)[None] + 0.5
    squared = ((columns - (x0 + x1) / 2) / half) ** 2 + ((rows - y1) / max(2.0, 0.15 * (y1 - y0))) ** 2
    scene *= (1 - np.float32(darkness) * np.exp(-2 * squared)).astype(np.float32)[..., None]


def shrink_reference(reference: Reference, side: int, num_points: int, choice: PointChoice, rng: np.random.Generator) -> Reference:
    """The reference cut to its object, at most ``side`` pixels long, with points chosen on it: many fit into memory."""
    import cv2

    x0, y0, x1, y1 = (int(value) for value in reference.tight_box_px())
    margin = max(2, round(0.02 * max(x1 - x0, y1 - y0)))
    rows = slice(max(0, y0 - margin), y1 + margin)
    columns = slice(max(0, x0 - margin), x1 + margin)
    image, alpha = reference.image[rows, columns], reference.alpha[rows, columns]
    scale = side / max(alpha.shape)
    if scale < 1:
        size = (max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        alpha = np.clip(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), 0, 1)
    small = replace(reference, image=np.ascontiguousarray(image), alpha=np.ascontiguousarray(alpha, dtype=np.float32), points_px={})
    places = choose_points(small, num_points, choice, rng)
    return replace(small, points_px={f"p{number}": (float(x), float(y)) for number, (x, y) in enumerate(places, start=1)})


def choose_footage(clips: Sequence[Array], num_frames: int, max_stride: int, rng: np.random.Generator) -> Array:
    """``num_frames`` frames of a random clip u8[T,H,W,3], every n-th, from a random start, perhaps mirrored."""
    frames = clips[int(rng.integers(len(clips)))]
    stride = int(rng.integers(1, max(1, min(max_stride, (len(frames) - 1) // max(num_frames - 1, 1))) + 1))
    last = len(frames) - (num_frames - 1) * stride
    if last < 1:
        raise ValueError(f"footage needs at least {num_frames} frames, got {len(frames)}")
    start = int(rng.integers(last))
    chosen = frames[start : start + (num_frames - 1) * stride + 1 : stride]
    return np.ascontiguousarray(chosen[:, :, ::-1] if rng.random() < 0.5 else chosen)
