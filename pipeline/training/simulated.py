"""Still pictures set in motion (VideoAnydoor, Sec. 3.3, "image-video mixed training").

A picture with an object on it is translated at equal steps, or cropped further and further, or both, and sampled bilinearly, so
that the temporal layers see motion instead of a repeated frame. Object and points take the same map, so the tracks are exact. All
of it moves as one: such clips teach details, not articulation, and have their own part of the noise schedule (``losses``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .. import geometry
from ..types import Array, BoxSequence, Reference, TrajectorySet
from .clips import TrainingClip
from .composites import CompositeOptions, build_composite, shrink_reference
from .config import TrainConfig


@dataclass(frozen=True, slots=True)
class SimulatedOptions:
    """``travel``: shift over the clip in shares of the shorter side; ``zoom``: the smallest crop; ``both``: how often both come.
    ``scene``: the light, and the objects' sizes, turns and points."""

    travel: float = 0.2
    zoom: float = 0.7
    both: float = 0.3
    scene: CompositeOptions = field(default_factory=CompositeOptions)


def build_simulated(
    key: str, picture: Array, cutout: Reference, num_frames: int, options: SimulatedOptions, rng: np.random.Generator
) -> TrainingClip:
    """Lay ``cutout`` on the still ``picture`` u8[H,W,3] and move the whole; frames are half as wide and high as the picture."""
    still = build_composite(key, np.repeat(picture[None], 2, axis=0), cutout, _still_options(options), rng)
    height, width = picture.shape[:2]
    hw = (height // 2, width // 2)
    maps = draw_maps((height, width), hw, num_frames, options, rng)
    return _moved(still, maps, hw)


def move_picture(
    key: str, picture: Array, mask: Array, config: TrainConfig, options: SimulatedOptions, rng: np.random.Generator
) -> TrainingClip:
    """Move the still ``picture`` u8[H,W,3] whole, with the thing in it that ``mask`` bool[H,W] marks and whose cut-out is the
    reference. Raises ``ValueError`` when the mask is too small to be seen."""
    import cv2

    scale = 2 * config.footage_side / min(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    alpha = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if alpha.max() < 0.5:
        raise ValueError("its mask is empty at the size of training")
    whole = Reference(picture, np.clip(alpha, 0, 1))
    reference = shrink_reference(whole, config.cutout_side, max(options.scene.max_points, 1), config.points, rng)
    box = np.array(whole.tight_box_px())
    own = np.array(reference.tight_box_px())
    anchors = np.array(list(reference.points_px.values()), np.float64).reshape(-1, 2)
    ratio = (box[2:] - box[:2]) / (own[2:] - own[:2])
    still = np.zeros(2, np.bool_)
    boxes = BoxSequence(np.repeat(box[None], 2, axis=0).astype(np.float32), np.zeros(2, np.float32), ~still, still)
    points = None
    if len(anchors) and options.scene.max_points:
        places = np.repeat((box[:2] + (anchors - own[:2]) * ratio)[:, None], 2, axis=1).astype(np.float32)
        seen = np.ones((len(anchors), 2), np.bool_)
        points = TrajectorySet(tuple(reference.points_px), places, seen, ~seen, anchors.astype(np.float32))
    clip = TrainingClip(key, np.repeat(picture[None], 2, axis=0), reference, boxes, points, "image")
    hw = (picture.shape[0] // 2, picture.shape[1] // 2)
    return _moved(clip, draw_maps(picture.shape[:2], hw, config.num_frames, options, rng), hw)


def _still_options(options: SimulatedOptions) -> CompositeOptions:
    return replace(options.scene, shift=0, growth=0, bend=0)


def draw_maps(
    hw: tuple[int, int], out_hw: tuple[int, int], num_frames: int, options: SimulatedOptions, rng: np.random.Generator
) -> Array:
    """Maps f64[F,3,3] from picture pixels to frame pixels: a window that glides at equal steps, shrinks or grows, or both."""
    kinds = rng.random(2)
    is_both = kinds[0] < options.both
    travels, zooms = is_both or kinds[1] < 0.5, is_both or kinds[1] >= 0.5
    time = np.linspace(-0.5, 0.5, num_frames)
    angle = 2 * np.pi * rng.integers(8) / 8
    shift = np.array([np.cos(angle), np.sin(angle)]) * options.travel * min(hw) * float(travels) * rng.random()
    end = rng.uniform(options.zoom, 1.0) if zooms else 1.0
    sizes = np.exp(np.log(end) * (time + 0.5))[:: 1 if rng.random() < 0.5 else -1]
    inner = 1 - options.travel  # the window at its largest leaves room for the travel
    maps = []
    for moment, size in zip(time, sizes, strict=True):
        scale = out_hw[0] / (hw[0] * inner * size)
        centre = np.array([hw[1], hw[0]]) / 2 + shift * moment
        offset = np.array([out_hw[1], out_hw[0]]) / 2 - scale * centre
        maps.append([[scale, 0, offset[0]], [0, scale, offset[1]], [0, 0, 1]])
    return np.array(maps, np.float64)


def _moved(still: TrainingClip, maps: Array, hw: tuple[int, int]) -> TrainingClip:
    """The first frame of ``still``, its box and its points under every map."""
    import cv2

    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from pixel centres

    def move(image: Array) -> Array:
        pictures = [
            cv2.warpPerspective(
                image, np.linalg.inv(shift) @ matrix @ shift, (hw[1], hw[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            for matrix in maps
        ]
        return np.stack(pictures)

    count = len(maps)
    corners = still.boxes.boxes_px[0].astype(np.float64).reshape(2, 2)
    boxes = np.stack([geometry.apply_map(matrix, corners).reshape(4) for matrix in maps])
    always = np.ones(count, np.bool_)
    turn = np.full(count, still.boxes.rotation_deg[0], np.float32)
    points = None
    if still.trajectories is not None:
        places = still.trajectories.points_px[:, 0].astype(np.float64)
        moved = np.stack([geometry.apply_map(matrix, places) for matrix in maps], axis=1)
        seen = np.ones((len(places), count), np.bool_)
        points = TrajectorySet(still.trajectories.names, moved.astype(np.float32), seen, ~seen, still.trajectories.anchors_px)
    return replace(
        still,
        frames=move(still.frames[0]),
        scene=None if still.scene is None else move(still.scene[0]),
        boxes=BoxSequence(boxes.astype(np.float32), turn, always, ~always),
        trajectories=points,
        source="image",
    )
