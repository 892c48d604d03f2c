"""Training clips from real videos with a mask of one thing in them (VideoAnydoor, Sec. 3.3).

Beside ``street.mp4`` lies ``street.mask.mkv`` (or ``.mp4``, or ``.png`` for a thing that stands still), as the ``segment`` command
writes it: white where the thing is, one frame for every frame.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from ..masks import MaskedVideo, mask_areas, read_mask_track
from ..media import FrameStore, probe_clip
from ..object_tracks import ObjectMotion, study_object
from ..types import Array, BoxSequence, MaskTrack, Reference, TrajectorySet
from .clips import TrainingClip
from .config import TrainConfig
from .losses import Source

log = logging.getLogger(__name__)

SURROUND = 1.5
"""How much of the picture around the boxes' union is kept, in multiples of its longer side, on every side."""


def read_real_clips(pairs: Sequence[MaskedVideo], config: TrainConfig, per_video: int, seed: int) -> Iterator[TrainingClip]:
    """At most ``per_video`` clips of every video, from random places at random strides; those that show too little are told and
    left out. Memory holds the frames of one clip."""
    for number, pair in enumerate(pairs):
        rng = np.random.default_rng([seed, number])
        clip = probe_clip(pair.video)
        track = read_mask_track(pair.mask, clip)
        with closing(FrameStore(clip)) as frames:
            for index in range(per_video):
                try:
                    yield draw_clip(f"{number:05d}-{index:03d}", frames, track, config, rng)
                except ValueError as error:
                    log.warning("%s: a clip is left out, as %s.", pair.video.name, error)


def draw_clip(
    key: str, frames: FrameStore, track: MaskTrack, config: TrainConfig, rng: np.random.Generator, source: Source = "coarse_video"
) -> TrainingClip:
    """One clip where the thing is seen, from a random place at a random stride. Raises ``ValueError`` when there is none."""
    count = config.num_frames
    total = frames.clip.num_frames
    stride = int(rng.integers(1, max(1, min(config.max_stride, (total - 1) // count)) + 1))
    length = (count - 1) * stride + 1
    areas = mask_areas(track)
    seen = np.convolve(areas > 0, np.ones(length), mode="valid") if total >= length else np.zeros(0)
    starts = np.flatnonzero(seen == length)
    if len(starts) == 0:
        raise ValueError(f"the thing is not in {length} frames on end")
    start = int(starts[int(rng.integers(len(starts)))])
    indices = np.arange(start, start + length, stride)
    study = study_object(frames, track, indices, config.num_points)
    return _cut_window(key, frames, study, config, source)


def _cut_window(key: str, frames: FrameStore, study: ObjectMotion, config: TrainConfig, source: Source) -> TrainingClip:
    """The surroundings of the thing, at the size that the configuration's footage has."""
    import cv2

    width, height = frames.clip.width, frames.clip.height
    boxes = study.boxes.boxes_px.astype(np.float64)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    margin = SURROUND * float((high - low).max()) / 2
    x0, y0 = (int(value) for value in np.floor(np.maximum(low - margin, 0)))
    x1, y1 = (int(value) for value in np.ceil(np.minimum(high + margin, [width, height])))
    scale = min(1.0, config.footage_side / min(x1 - x0, y1 - y0))
    size = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    ratio = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)])
    pictures = [
        cv2.resize(frames.frame(int(index)).to_rgb(x0, y0, x1, y1), size, interpolation=cv2.INTER_AREA)
        for index in study.frame_indices
    ]
    moved = (boxes.reshape(-1, 2, 2) - [x0, y0]) * ratio
    points = study.trajectories
    return TrainingClip(
        key,
        np.stack(pictures),
        _shrunk(study.reference, config.cutout_side),
        BoxSequence(moved.reshape(-1, 4).astype(np.float32), study.boxes.rotation_deg, study.boxes.is_visible, study.boxes.is_cut),
        None if points is None else _moved_points(points, (x0, y0), ratio, _shrink_factor(study.reference, config.cutout_side)),
        source,
    )


def _shrink_factor(reference: Reference, side: int) -> Array:
    """What ``_shrunk`` multiplies x and y by."""
    height, width = reference.hw
    scale = min(1.0, side / max(height, width))
    return np.array([max(1, round(width * scale)) / width, max(1, round(height * scale)) / height])


def _shrunk(reference: Reference, side: int) -> Reference:
    import cv2

    factor = _shrink_factor(reference, side)
    size = (round(reference.hw[1] * factor[0]), round(reference.hw[0] * factor[1]))
    if size == (reference.hw[1], reference.hw[0]):
        return reference
    alpha = np.clip(cv2.resize(reference.alpha, size, interpolation=cv2.INTER_AREA), 0, 1)
    points = {name: (x * factor[0], y * factor[1]) for name, (x, y) in reference.points_px.items()}
    return Reference(cv2.resize(reference.image, size, interpolation=cv2.INTER_AREA), alpha.astype(np.float32), points)


def _moved_points(points: TrajectorySet, origin: tuple[int, int], ratio: Array, factor: Array) -> TrajectorySet:
    return TrajectorySet(
        points.names,
        ((points.points_px.astype(np.float64) - origin) * ratio).astype(np.float32),
        points.is_visible,
        points.is_cut,
        (points.anchors_px.astype(np.float64) * factor).astype(np.float32),
    )
