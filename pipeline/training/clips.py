"""What every source of training data makes: a short clip with the truth in it, and the layer that a person would have drawn.

A ``TrainingClip`` is prepared once and stored; a sample is drawn from it anew each time (``samples``), by the same code that makes
the model's inputs when it is used, so that training and use cannot drift apart.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..types import Array, BoxSequence, Clip, Layer, Reference, TrajectorySet, lock_array
from .losses import TIMESTEP_SPAN, Source


@dataclass(frozen=True, eq=False, slots=True)
class TrainingClip:
    """``frames`` u8[F,H,W,3] with the object in them; ``reference`` what it looks like, from elsewhere; ``boxes`` and
    ``trajectories`` (F frames each) where it is. ``source`` says which part of the noise schedule it teaches. ``scene``: the same
    frames without the object, where they are known."""

    key: str
    frames: Array
    reference: Reference
    boxes: BoxSequence
    trajectories: TrajectorySet | None
    source: Source
    scene: Array | None = None

    def __post_init__(self) -> None:
        lock_array(self, "frames", np.uint8, (None, None, None, 3))
        if self.scene is not None:
            lock_array(self, "scene", np.uint8, self.frames.shape)
        counts = {len(self.frames), len(self.boxes)} | ({self.trajectories.points_px.shape[1]} if self.trajectories else set())
        if len(counts) != 1:
            raise ValueError(f"frames, boxes and trajectories of {self.key!r} must be of one length, got {sorted(counts)}")
        if self.source not in TIMESTEP_SPAN:
            raise ValueError(f"source must be one of {', '.join(TIMESTEP_SPAN)}, got {self.source!r}")

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def to_clip(self) -> Clip:
        """A handle of this size and length, for code that asks a clip for nothing else."""
        count, height, width = self.frames.shape[:3]
        timestamps = np.arange(count, dtype=np.int64)
        return Clip(Path(self.key), "", width, height, Fraction(8), count, timestamps, Fraction(1, 8), "rgb24")

    def to_layer(self) -> Layer:
        """The layer that asks for this object at this place."""
        return Layer(self.key, "insert", (self.reference,), fit="stretch", boxes=self.boxes, trajectories=self.trajectories)


def encode_clip(clip: TrainingClip) -> bytes:
    """A compressed ``.npz`` of a clip; ``decode_clip`` is the way back."""
    points = clip.trajectories
    arrays = {
        "frames": clip.frames,
        "image": clip.reference.image,
        "alpha": np.rint(clip.reference.alpha * 255).astype(np.uint8),
        "boxes_px": clip.boxes.boxes_px,
        "rotation_deg": clip.boxes.rotation_deg,
        "is_visible": clip.boxes.is_visible,
        "is_cut": clip.boxes.is_cut,
        "source": np.array(clip.source),
    }
    if clip.scene is not None:
        arrays["scene"] = clip.scene
    if points is not None:
        arrays |= {
            "names": np.array(points.names),
            "points_px": points.points_px,
            "points_visible": points.is_visible,
            "points_cut": points.is_cut,
            "anchors_px": points.anchors_px,
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode_clip(key: str, data: bytes) -> TrainingClip:
    """The clip of such a file. Raises ``ValueError`` for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        points = None
        if "names" in arrays:
            points = TrajectorySet(
                tuple(str(name) for name in arrays["names"]),
                arrays["points_px"],
                arrays["points_visible"],
                arrays["points_cut"],
                arrays["anchors_px"],
            )
        return TrainingClip(
            key,
            arrays["frames"],
            Reference(arrays["image"], arrays["alpha"].astype(np.float32) / np.float32(255)),
            BoxSequence(arrays["boxes_px"], arrays["rotation_deg"], arrays["is_visible"], arrays["is_cut"]),
            points,
            str(arrays["source"]),  # type: ignore[arg-type]
            arrays.get("scene"),
        )
    except Exception as error:
        raise ValueError(f"{key!r} is not a training clip: {error}") from error
