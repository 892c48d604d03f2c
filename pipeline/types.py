"""The values that cross between rooms, and the conventions that all of them follow.

Conventions, pinned by the tests named ``test_convention_*``:

- x points right, y points down; points are ``(x, y)``, sizes are ``hw`` (height first).
- Coordinates are continuous: pixel ``j`` covers ``[j, j + 1)`` and its centre lies at ``j + 0.5`` (``align_corners=False``).
  Normalised coordinates are those divided by width and height, 0 and 1 being the picture's edges.
- Boxes are half-open ``x0 y0 x1 y1``. Rotation is clockwise as seen, in degrees, about the box centre, never wrapped.
- Images are ``uint8`` RGB, channels last, upright (display matrix and EXIF orientation applied).
- ``frame_index`` counts the clip's decoded frames from 0, whatever the range that is rendered. Dense motion arrays have one
  row per frame of the *clip*, so that ``array[frame_index]`` is always right.
- Frame rates are ``Fraction``; visibility is a bool array, never NaN or -1.

All values are frozen: arrays are owned and locked when the value is made, checked there, never cast and never repaired.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

Array = np.ndarray
"""A numpy array; the dtype and shape stand in the docstring of the field or argument."""

LayerKind = Literal["insert", "replace", "remove"]
Fit = Literal["contain", "stretch"]
Anchor = Literal["center", "bottom"]
Deform = Literal["auto", "perspective"]


def lock_array(owner: object, name: str, dtype: type | np.dtype, shape: tuple[int | None, ...]) -> None:
    """Check one array field of a frozen dataclass and replace it by an owned, read-only copy.

    ``shape`` holds ``None`` where any length is fine. Raises ``TypeError`` / ``ValueError`` with what was expected and what came.
    """
    value = getattr(owner, name)
    where = f"{type(owner).__name__}.{name}"
    if not isinstance(value, np.ndarray) or value.dtype != np.dtype(dtype):
        got = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{where} must be a {np.dtype(dtype)} array, got {got}")
    if value.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape, value.shape, strict=True)):
        raise ValueError(f"{where} must have shape {shape}, got {value.shape}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{where} must be finite")
    if value.flags.writeable or value.base is not None:
        value = value.copy()
        value.flags.writeable = False
        object.__setattr__(owner, name, value)


@dataclass(frozen=True, slots=True)
class ColorTags:
    """Colour description of a video stream, in FFmpeg's numbers (ITU-T H.273); 2 = unspecified, ``range`` 1 = limited, 2 = full."""

    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    range: int = 0


@dataclass(frozen=True, slots=True)
class AudioStream:
    """One audio stream of a clip, as the container states it."""

    index: int
    codec: str
    sample_rate_hz: int
    channels: int


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """A handle to a checked video file; never its pixels. Made by ``media.probe_clip``.

    ``width`` and ``height`` are those of the upright, square-pixel picture. ``timestamps`` (i64[num_frames], in units of
    ``time_base``) are the presentation times of the decoded frames, in order. ``rotation_deg`` is the clockwise turn, a multiple
    of 90, that makes stored frames upright. ``promised_frames`` is what the container announced, if that is more than it holds.
    """

    path: Path
    sha256: str
    width: int
    height: int
    fps: Fraction
    num_frames: int
    timestamps: Array
    time_base: Fraction
    pixel_format: str
    codec: str = ""
    rotation_deg: int = 0
    color: ColorTags = ColorTags()
    audio_streams: tuple[AudioStream, ...] = ()
    promised_frames: int | None = None

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.width < 1 or self.height < 1:
            raise ValueError(f"a clip needs at least one frame of one pixel, got {self.num_frames} of {self.width}x{self.height}")
        if self.rotation_deg not in (0, 90, 180, 270):
            raise ValueError(f"rotation_deg must be 0, 90, 180 or 270, got {self.rotation_deg}")
        lock_array(self, "timestamps", np.int64, (self.num_frames,))

    @property
    def hw(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def duration_s(self) -> float:
        """From the first frame's time to the end of the last one, whose length is taken as one frame at ``fps``."""
        span = int(self.timestamps[-1] - self.timestamps[0]) * self.time_base
        return float(span + 1 / self.fps)


@dataclass(frozen=True, eq=False, slots=True)
class BoxSequence:
    """One box per frame of the clip: ``boxes_px`` f32[T,4], ``rotation_deg`` f32[T], ``is_visible`` and ``is_cut`` bool[T].

    ``is_visible`` is false before a first key that says ``enter`` and after a last key that says ``leave``. ``is_cut`` is true at
    a frame that is reached by a jump (the end of a held segment): nothing may be interpolated between it and the frame before.
    """

    boxes_px: Array
    rotation_deg: Array
    is_visible: Array
    is_cut: Array

    def __post_init__(self) -> None:
        lock_array(self, "boxes_px", np.float32, (None, 4))
        lock_array(self, "rotation_deg", np.float32, (len(self.boxes_px),))
        lock_array(self, "is_visible", np.bool_, (len(self.boxes_px),))
        lock_array(self, "is_cut", np.bool_, (len(self.boxes_px),))
        if (self.boxes_px[:, 2:] <= self.boxes_px[:, :2]).any():
            raise ValueError("BoxSequence.boxes_px must have x1 > x0 and y1 > y0 at every frame")

    def __len__(self) -> int:
        return len(self.boxes_px)


@dataclass(frozen=True, eq=False, slots=True)
class TrajectorySet:
    """Point motion in the TAP-Vid sense: ``points_px`` f32[N,T,2] on the clip, ``is_visible`` and ``is_cut`` bool[N,T] (as for
    boxes), and where each point sits on the reference image, ``anchors_px`` f32[N,2]. ``names`` are the reference's names of the
    points."""

    names: tuple[str, ...]
    points_px: Array
    is_visible: Array
    is_cut: Array
    anchors_px: Array

    def __post_init__(self) -> None:
        count = len(self.names)
        lock_array(self, "points_px", np.float32, (count, None, 2))
        lock_array(self, "is_visible", np.bool_, (count, self.points_px.shape[1]))
        lock_array(self, "is_cut", np.bool_, (count, self.points_px.shape[1]))
        lock_array(self, "anchors_px", np.float32, (count, 2))
        if count == 0:
            raise ValueError("a TrajectorySet needs at least one trajectory; use None for no trajectories")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False, slots=True)
class MaskTrack:
    """One mask per frame of the clip, run-length encoded at rest (COCO order: column by column, first run is background).

    ``runs`` holds one u32 array per frame, ``None`` where there is no mask (empty). ``feather_px`` is the standard deviation of
    the softening that users of the track apply. ``pipeline.masks`` encodes and decodes.
    """

    hw: tuple[int, int]
    runs: tuple[Array | None, ...]
    feather_px: float = 0.0

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True, slots=True)
class Click:
    """One click on a frame, in pixels of the clip; ``is_foreground`` false marks what does not belong to the thing."""

    x_px: float
    y_px: float
    is_foreground: bool = True


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person marks on one frame to say which thing is meant: clicks, and a box x0 y0 x1 y1 around it, in pixels."""

    clicks: tuple[Click, ...] = ()
    box_px: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.box_px is None and not any(click.is_foreground for click in self.clicks):
            raise ValueError("a prompt needs a box or at least one click on the thing itself")


@dataclass(frozen=True, eq=False, slots=True)
class MaskPrompts:
    """A mask over time that a segmenter still has to make: ``prompts`` by frame; then ``edits`` (run lengths u32[N] by frame) take
    the place of what it made, then everything is grown, then feathered, as in ``MaskTrack``."""

    prompts: Mapping[int, Prompt]
    edits: Mapping[int, Array] = field(default_factory=dict)
    grow_px: float = 0.0
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("MaskPrompts needs a prompt on at least one frame")
        object.__setattr__(self, "prompts", MappingProxyType(dict(sorted(self.prompts.items()))))
        object.__setattr__(self, "edits", MappingProxyType(dict(sorted(self.edits.items()))))


SurfaceKind = Literal["translation", "similarity", "homography"]


@dataclass(frozen=True, slots=True)
class Follow:
    """The surface in whose frame of reference, as it stood at ``key_frame``, a layer's motion is read: ``points_px`` lie on it, or
    it fills ``region_px`` (x0 y0 x1 y1) there; with neither, it is the whole picture (the camera's own motion)."""

    kind: SurfaceKind
    key_frame: int = 0
    points_px: tuple[tuple[float, float], ...] | None = None
    region_px: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class SurfaceMotion:
    """How a followed surface moves: ``matrices`` f64[T,3,3] take clip pixels at ``key_frame`` to clip pixels at every frame (the
    identity at ``key_frame``); ``is_tracked`` bool[T] is false where the surface was lost and the matrix is carried on."""

    matrices: Array
    is_tracked: Array
    key_frame: int = 0

    def __post_init__(self) -> None:
        lock_array(self, "matrices", np.float64, (None, 3, 3))
        lock_array(self, "is_tracked", np.bool_, (len(self.matrices),))

    def __len__(self) -> int:
        return len(self.matrices)


@dataclass(frozen=True, eq=False, slots=True)
class Pending:
    """What of a layer must still be found in the clip's own pixels, by ``pipeline.resolve``, before an engine may run it: the mask
    of its target, masks of what stays in front, the motion of the surface that it follows."""

    target: MaskPrompts | None = None
    holdouts: tuple[MaskPrompts, ...] = ()
    follow: Follow | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """What is inserted: ``image`` u8[H,W,3] with the old background's colour removed, ``alpha`` f32[H,W] in 0..1, and named
    key-points in pixels of the upright reference image. ``note`` says how the cut-out was made."""

    image: Array
    alpha: Array
    points_px: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        lock_array(self, "image", np.uint8, (None, None, 3))
        lock_array(self, "alpha", np.float32, self.image.shape[:2])
        if self.alpha.min() < 0 or self.alpha.max() > 1:
            raise ValueError(f"Reference.alpha must lie in 0..1, got {self.alpha.min()}..{self.alpha.max()}")
        if self.alpha.max() < 0.5:
            raise ValueError("Reference.alpha is empty: nothing in it reaches 0.5")
        object.__setattr__(self, "points_px", MappingProxyType(dict(self.points_px)))

    @property
    def hw(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def tight_box_px(self) -> tuple[float, float, float, float]:
        """The tightest rectangle, x0 y0 x1 y1, that holds every pixel whose alpha is at least 0.5."""
        solid = self.alpha >= 0.5
        rows, cols = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
        return float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1)


@dataclass(frozen=True, slots=True)
class BlendSettings:
    """How a layer is married to the footage. 0 is off, everywhere (``opacity`` 0 is an invisible object)."""

    harmonize: float = 0.7
    shadow: float = 0.5
    shadow_angle_deg: float = 90.0
    shadow_length: float = 0.0
    shadow_softness: float = 0.5
    motion_blur: float = 0.5
    grain: float = 1.0
    feather_px: float = 1.0
    opacity: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """One thing done to the clip. ``insert`` and ``replace`` have references, ``replace`` and ``remove`` a target mask.

    ``surface``, if any, carries the whole motion (boxes and trajectories as they lie at its ``key_frame``) along. ``pending`` is
    what is not resolved yet; engines see layers where it is None.
    """

    name: str
    kind: LayerKind
    references: tuple[Reference, ...] = ()
    fit: Fit = "contain"
    anchor: Anchor = "center"
    deform: Deform = "auto"
    boxes: BoxSequence | None = None
    trajectories: TrajectorySet | None = None
    target: MaskTrack | None = None
    holdouts: tuple[MaskTrack, ...] = ()
    blend: BlendSettings = BlendSettings()
    surface: SurfaceMotion | None = None
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """Which engine runs and how; the project file's ``engine`` object. The compositor reads ``seed`` alone."""

    name: str = "composite"
    seed: int = 0
    num_inference_steps: int = 25
    guidance_scale: float = 5.0
    checkpoint: str | None = None
    motion_strength: float = 1.0
    identity_strength: float = 1.0
    size: int | None = None
    window: int | None = None
    init: str = "noise"


@dataclass(frozen=True, slots=True)
class SegmenterChoice:
    """Who makes masks from prompts: its ``name``, as the project file says it or as it calls itself, and the ``key`` that names
    everything that can change a mask, once it is chosen."""

    name: str = "auto"
    key: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class InsertionRequest:
    """Everything an engine needs, and nothing else. ``frame_range`` is half-open, in frames of the clip. ``segmenter`` matters
    where a layer has prompts (``has_prompts``), and nowhere else."""

    clip: Clip
    frame_range: tuple[int, int]
    layers: tuple[Layer, ...]
    sampling: SamplingConfig = SamplingConfig()
    segmenter: SegmenterChoice = SegmenterChoice()

    def __post_init__(self) -> None:
        start, stop = self.frame_range
        if not 0 <= start < stop <= self.clip.num_frames:
            raise ValueError(f"frame_range must lie in 0..{self.clip.num_frames} and not be empty, got {self.frame_range}")
        for layer in self.layers:
            for sequence in (layer.boxes, layer.target, layer.surface, *layer.holdouts):
                if sequence is not None and len(sequence) != self.clip.num_frames:
                    raise ValueError(f"layer {layer.name!r} has {len(sequence)} frames, the clip {self.clip.num_frames}")

    @property
    def num_frames(self) -> int:
        return self.frame_range[1] - self.frame_range[0]

    @property
    def has_prompts(self) -> bool:
        """Whether masks are still to be made from prompts."""
        pendings = [layer.pending for layer in self.layers if layer.pending is not None]
        return any(each.target is not None or each.holdouts for each in pendings)

    def digest(self) -> str:
        """SHA-256 over every value that can change a pixel of the result; equal requests have equal digests on every machine."""
        sha = hashlib.sha256()
        _feed(sha, (self.clip.sha256, self.frame_range, self.layers, self.sampling))
        if self.has_prompts:
            _feed(sha, self.segmenter)
        return sha.hexdigest()


def _feed(sha: Any, value: object) -> None:
    """Hash nested frozen values: a tag, then the content, so that neighbours cannot run into each other."""
    if isinstance(value, np.ndarray):
        sha.update(f"array{value.dtype.str}{value.shape}".encode())
        sha.update(np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        sha.update(type(value).__name__.encode())
        for item in fields(value):
            sha.update(item.name.encode())
            _feed(sha, getattr(value, item.name))
    elif isinstance(value, Mapping):
        _feed(sha, tuple(sorted(value.items())))
    elif isinstance(value, tuple):
        sha.update(f"tuple{len(value)}".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(json.dumps(value).encode())


@dataclass(frozen=True, eq=False, slots=True)
class DecodedFrame:
    """One upright frame of a clip as ``media`` decodes it: its own samples, and RGB of as much of it as is asked for.

    ``planes`` are the source's own samples (u8 or u16, one array per plane, chroma at its own size), so that whatever is not
    touched can be written back exactly. ``pts`` is in units of the clip's ``time_base``. ``to_rgb(x0, y0, x1, y1)`` converts a
    region, half-open and inside the picture, to u8[h,w,3].
    """

    frame_index: int
    pts: int
    hw: tuple[int, int]
    planes: tuple[Array, ...]
    to_rgb: Callable[[int, int, int, int], Array]

    @property
    def image(self) -> Array:
        """The whole picture u8[H,W,3]; converted anew at every call."""
        return self.to_rgb(0, 0, self.hw[1], self.hw[0])


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One frame that an engine yields: what differs from the source, within one region.

    The region's top left pixel is (``x0``, ``y0``). ``patch`` u8[h,w,3] is the upright result there, ``layer_patch`` u8[h,w,4] what
    was laid over the source (straight alpha; over the source it reproduces the patch), ``touched_patch`` bool[h,w] is true
    wherever a pixel may differ. Outside the region nothing does; ``image``, ``layer`` and ``touched`` are the whole pictures.
    ``layers`` are those that it was made of where they had to be resolved first; empty, they are the request's.
    """

    frame_index: int
    patch: Array
    layer_patch: Array
    touched_patch: Array
    source: DecodedFrame
    x0: int = 0
    y0: int = 0
    layers: tuple[Layer, ...] = ()

    def _placed(self, patch: Array, under: Array) -> Array:
        if patch.shape == under.shape:
            return patch
        under[self.y0 : self.y0 + patch.shape[0], self.x0 : self.x0 + patch.shape[1]] = patch
        return under

    @property
    def image(self) -> Array:
        """The whole upright result u8[H,W,3]."""
        is_whole = self.patch.shape[:2] == self.source.hw
        return self.patch if is_whole else self._placed(self.patch, self.source.image)

    @property
    def layer(self) -> Array:
        """The whole layer u8[H,W,4], straight alpha."""
        return self._placed(self.layer_patch, np.zeros((*self.source.hw, 4), np.uint8))

    @property
    def touched(self) -> Array:
        """Where the whole picture may differ from the source, bool[H,W]."""
        return self._placed(self.touched_patch, np.zeros(self.source.hw, np.bool_))


@dataclass(frozen=True, eq=False, slots=True)
class Progress:
    """What ``report`` is told at least once per step or frame: stage, step x of y, perhaps a picture u8[H,W,3] or what makes it,
    called only if somebody looks."""

    stage: str
    step: int
    num_steps: int
    preview: Array | Callable[[], Array] | None = None

    def picture(self) -> Array | None:
        """The preview u8[H,W,3], made now if it has to be."""
        return self.preview() if callable(self.preview) else self.preview
