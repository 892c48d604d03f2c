"""From one layer of an ``InsertionRequest`` to what the model is given; pure, deterministic, without weights.

Pictures stay u8, channels last, until ``to_tensor`` brings them to [B, C, F, H, W] in [-1, 1]; ``to_frames`` is the way back. No
other place converts ranges or layouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .. import masks
from ..composite.warp import ReferencePyramid
from ..errors import UserError
from ..motion import LayerMotion, carry_points
from ..types import Array, BoxSequence, Clip, Layer, MaskTrack, TrajectorySet, lock_array
from .drawing import (
    NUM_COLORS,
    center_reference,
    draw_key_points,
    draw_trajectory_maps,
    draw_warped,
    make_palette,
    move_warp,
)
from .regions import BOX_EXPANSION, CropWindow, build_crop_window, fill_masks, grow_silhouettes, loosen_boxes, snap_boxes

MaskShape = Literal["box", "silhouette"]
"""What the model is to generate: the loose box (the paper), or the cells that the warped reference touches, and a few around."""
MASK_SHAPES: tuple[MaskShape, ...] = ("box", "silhouette")

HIDDEN = 128
"""The grey of what is hidden in a pasted picture: nearest to the middle, which is 0 to the model."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes that the model dictates: ``size`` N of its pictures, ``stride`` of its latents, ``reference_size`` S of the ID
    extractor, whether the content encoder takes the reference ``is_warped``, the shape of its masks, and whether it predicts the
    residual of plain pasting: what is added to the source with the warped reference pasted over it."""

    size: int
    stride: int
    reference_size: int
    is_warped: bool
    mask_shape: MaskShape = "box"
    is_residual: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Pasted:
    """The warped reference on white, ``content`` u8[F,N,N,3]; how much of each pixel it covers, ``covered`` f32[F,N,N]; and whether
    what the source shows inside the mask is no background, so that it ``hides`` it."""

    content: Array
    covered: Array
    hides: bool

    def lay_over(self, frames: Array, masks_: Array) -> Array:
        """The source window u8[F,N,N,3] with the reference pasted over it; where it hides, the mask's inside is grey before."""
        below = np.where(masks_[..., None], np.uint8(HIDDEN), frames) if self.hides else frames
        white = 255 * (1 - self.covered[..., None])
        laid = below * (1 - self.covered[..., None]) + (self.content - white)
        return np.rint(np.clip(laid, 0, 255)).astype(np.uint8)


@dataclass(frozen=True, eq=False, slots=True)
class LayerConditioning:
    """Everything the model is told about one layer, for the F frames of the request's range.

    ``window``: where it works. ``boxes`` i64[F,4]: mask boxes in model pixels, empty where the object is not. ``references``
    u8[R,S,S,3]: centred, on white (R may be 0: nothing to insert). ``content`` u8[Fc,N,N,3]: key-point image (Fc = 1) or the warped
    reference (Fc = F). ``motion`` u8[F,N,N,3]: trajectory maps. ``silhouettes`` bool[F,N,N]: masks that are no boxes, of whole
    latent cells. ``pasted``: what is laid over the source where a residual is predicted.
    """

    window: CropWindow
    boxes: Array
    references: Array
    content: Array
    motion: Array
    silhouettes: Array | None = None
    pasted: Pasted | None = None

    def __post_init__(self) -> None:
        size = self.window.size
        lock_array(self, "boxes", np.int64, (len(self.motion), 4))
        lock_array(self, "references", np.uint8, (None, None, None, 3))
        lock_array(self, "content", np.uint8, (None, size, size, 3))
        lock_array(self, "motion", np.uint8, (None, size, size, 3))

    @property
    def num_frames(self) -> int:
        return len(self.motion)

    def masks(self) -> Array:
        """bool[F,N,N], true where the model is to generate."""
        return fill_masks(self.boxes, self.window.size) if self.silhouettes is None else self.silhouettes

    def lay_over(self, frames: Array) -> Array:
        """The source window u8[F,N,N,3] as the model takes it: with the reference pasted over it, or as it is."""
        return frames if self.pasted is None else self.pasted.lay_over(frames, self.masks())


def build_conditioning(
    layer: Layer,
    clip: Clip,
    frame_range: tuple[int, int],
    grid: Grid,
    expansion: float = BOX_EXPANSION,
    palette: Array | None = None,
) -> LayerConditioning | None:
    """The conditioning of a layer over ``frame_range``; None when there is nothing to do in it (the object is absent or outside).

    Training varies what sampling holds fixed: the ``expansion`` of the boxes, and which colour of ``palette`` u8[16,3] stands for
    which point. Raises ``UserError`` when a ``replace`` or ``remove`` layer has no target.
    """
    start, stop = frame_range
    motion = find_motion(layer, clip)
    boxes, is_present = _object_boxes(layer, motion, clip, frame_range)
    if not is_present.any():
        return None
    loose = np.zeros_like(boxes)
    loose[is_present] = loosen_boxes(boxes[is_present], expansion)
    window = build_crop_window(loose, is_present, clip.hw, grid.size)
    snapped = snap_boxes(loose, window, clip.hw, grid.stride)
    snapped[~is_present] = 0
    if not snapped.any():
        return None
    frames = range(start, stop)
    colors = make_palette() if palette is None else palette
    exists = np.array([motion is not None and motion.exists(frame) for frame in frames])
    is_carried = grid.is_warped or grid.is_residual or grid.mask_shape == "silhouette"
    warped, covered = _warped_content(layer, motion, exists & is_carried, window, frames, clip.hw)
    return LayerConditioning(
        window=window,
        boxes=snapped,
        references=_references(layer, grid),
        content=warped if grid.is_warped else _key_point_image(layer, frame_range, grid, colors),
        motion=_trajectory_maps(layer, exists, window, frame_range, colors),
        silhouettes=_silhouettes(layer, covered, snapped, window, grid) if grid.mask_shape == "silhouette" else None,
        pasted=Pasted(warped, covered, layer.target is not None) if grid.is_residual else None,
    )


# -- where the object is ----------------------------------------------------------------------------------------------------------


def find_motion(layer: Layer, clip: Clip) -> LayerMotion | None:
    """The motion of the first reference (a ``replace`` without boxes and points follows its target); None for ``remove``. Raises
    ``UserError`` for a layer that does not say what it is about, or where."""
    if layer.kind != "insert" and layer.target is None:
        raise UserError(f"layer {layer.name!r}: to {layer.kind} something, mark it first (the target mask).")
    if not layer.references:
        return None
    boxes = layer.boxes
    if boxes is None and layer.target is not None:
        boxes = _boxes_of_track(layer.target, clip)
    if boxes is None and (layer.trajectories is None or len(layer.trajectories) < 2):
        raise UserError(f"layer {layer.name!r}: nothing says where the object is; draw a box or mark a target.")
    return LayerMotion(layer.references[0], boxes, layer.trajectories, layer.fit, layer.anchor, layer.deform, layer.surface)


def _boxes_of_track(track: MaskTrack, clip: Clip) -> BoxSequence | None:
    """The mask's own bounds as a box sequence, carried on where it is empty; None when it is empty everywhere."""
    bounds, is_present = masks.mask_bounds(track)
    known = np.flatnonzero(is_present)
    if len(known) == 0:
        return None
    frames = np.arange(clip.num_frames)
    dense = np.stack([np.interp(frames, known, bounds[known, axis]) for axis in range(4)], axis=1)
    still = np.zeros(clip.num_frames, np.bool_)
    return BoxSequence(dense.astype(np.float32), np.zeros(clip.num_frames, np.float32), is_present, still)


def _object_boxes(layer: Layer, motion: LayerMotion | None, clip: Clip, frame_range: tuple[int, int]) -> tuple[Array, Array]:
    """Boxes f64[F,4] that hold the object and its target, and bool[F] where they touch the picture."""
    frames = slice(*frame_range)
    boxes = np.full((frame_range[1] - frame_range[0], 4), np.array([np.inf, np.inf, -np.inf, -np.inf]))
    if motion is not None:
        exists = np.array([motion.exists(frame) for frame in range(*frame_range)])
        boxes[exists] = motion.effective_boxes_px[frames][exists]
    if layer.target is not None:
        bounds, has_target = (item[frames] for item in masks.mask_bounds(layer.target))
        boxes[has_target, :2] = np.minimum(boxes[has_target, :2], bounds[has_target, :2])
        boxes[has_target, 2:] = np.maximum(boxes[has_target, 2:], bounds[has_target, 2:])
    is_present = (boxes[:, 0] < clip.width) & (boxes[:, 1] < clip.height) & (boxes[:, 2:] > 0).all(axis=1)
    boxes[~is_present] = 0
    return boxes, is_present


# -- the pictures that guide ------------------------------------------------------------------------------------------------------


def choose_points(trajectories: TrajectorySet, frame_range: tuple[int, int]) -> Array:
    """Indices i64[K] of the trajectories that are drawn: all, or the ``NUM_COLORS`` with the longest visible path in the range."""
    if len(trajectories) <= NUM_COLORS:
        return np.arange(len(trajectories))
    frames = slice(*frame_range)
    steps = np.linalg.norm(np.diff(trajectories.points_px[:, frames], axis=1), axis=2)
    lengths = (steps * trajectories.is_visible[:, frames][:, 1:]).sum(axis=1)
    return np.sort(np.argsort(-lengths, kind="stable")[:NUM_COLORS])


def _trajectory_maps(layer: Layer, exists: Array, window: CropWindow, frame_range: tuple[int, int], colors: Array) -> Array:
    if layer.trajectories is None:
        return np.zeros((len(exists), window.size, window.size, 3), np.uint8)
    chosen = choose_points(layer.trajectories, frame_range)
    points = carry_points(layer.surface, layer.trajectories.points_px[chosen])[:, slice(*frame_range)]  # [K, F, 2]
    points = (points - window.offsets_px[None]) * window.scale
    is_visible = layer.trajectories.is_visible[chosen, slice(*frame_range)] & exists
    return draw_trajectory_maps(points, is_visible, colors[: len(chosen)], window.size)


def _key_point_image(layer: Layer, frame_range: tuple[int, int], grid: Grid, colors: Array) -> Array:
    if not layer.references:
        return np.full((1, grid.size, grid.size, 3), 255, np.uint8)
    canvas, matrix = center_reference(layer.references[0], grid.size)
    if layer.trajectories is None:
        return canvas[None]
    chosen = choose_points(layer.trajectories, frame_range)
    return draw_key_points(canvas, matrix, layer.trajectories.anchors_px[chosen], colors[: len(chosen)])[None]


def _warped_content(
    layer: Layer, motion: LayerMotion | None, exists: Array, window: CropWindow, frames: range, clip_hw: tuple[int, int]
) -> tuple[Array, Array]:
    """The warped reference on white u8[F,N,N,3] and what it covers f32[F,N,N], inside the picture."""
    shape = (len(frames), window.size, window.size)
    pictures, covered = np.full((*shape, 3), 255, np.uint8), np.zeros(shape, np.float32)
    if motion is None:
        return pictures, covered
    pyramid = ReferencePyramid(layer.references[0])
    for index, frame in enumerate(frames):
        warp = move_warp(motion.warp(frame), window.matrix(index)) if exists[index] else None
        inside = window.inside(index, clip_hw)
        pictures[index][inside], covered[index][inside] = (part[inside] for part in draw_warped(pyramid, warp, window.size))
    return pictures, covered


def _silhouettes(layer: Layer, covered: Array, boxes: Array, window: CropWindow, grid: Grid) -> Array:
    """Masks bool[F,N,N] around the warped reference, held within the boxes; where a target is to go, its box is all of the mask."""
    filled = fill_masks(boxes, window.size)
    return filled if layer.target is not None else filled & grow_silhouettes(covered, grid.stride)


def _references(layer: Layer, grid: Grid) -> Array:
    pictures = [center_reference(reference, grid.reference_size)[0] for reference in layer.references]
    return np.stack(pictures) if pictures else np.zeros((0, grid.reference_size, grid.reference_size, 3), np.uint8)


# -- the converters ---------------------------------------------------------------------------------------------------------------


def to_tensor(pictures: Array) -> torch.Tensor:
    """u8[F,H,W,3] to f32[1,3,F,H,W] in [-1, 1]."""
    values = torch.from_numpy(np.array(pictures)).permute(3, 0, 1, 2)[None]
    return values.float() / 127.5 - 1


def to_frames(video: torch.Tensor) -> Array:
    """f[1,3,F,H,W] in [-1, 1] to u8[F,H,W,3]; ``to_frames(to_tensor(x))`` is x."""
    values = ((video[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    frames: Array = values.permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def to_mask(masks_: Array) -> torch.Tensor:
    """bool[F,H,W] to f32[1,1,F,H,W], 1 = to generate."""
    return torch.from_numpy(np.ascontiguousarray(masks_))[None, None].float()
