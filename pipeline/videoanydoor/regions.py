"""Where the model works and where its result goes: loosened boxes, the crop window, masks, cropping and pasting back.

The model sees a square window of the clip at its own size. A clip point p maps to the model point (p - offset) * size / side; both
are continuous pixel coordinates (pixel j covers [j, j + 1)), offsets and side are whole clip pixels, so resizing the cropped window
is exactly that map. Pure numpy; OpenCV resizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..types import Array, lock_array

BOX_EXPANSION = 1.25
"""How much wider and higher than the object's box the mask is; training draws from 1.1 to 1.5 (the paper: expanded, not tight)."""
UNION_MAX_TRAVEL = 0.25
UNION_MAX_AREA_CHANGE = 1.5
"""Boxes whose centre travels less than this share of their mean diagonal, and whose area changes by less than this factor, all
become their union, so that the mask does not give the motion away (the paper's rule; the numbers are ours)."""
CONTEXT = 2.0
"""Side of the crop window in multiples of the union box's longer side (AnyDoor)."""
MOVING_ABOVE = 0.6
"""Above this share of the picture the union box gets a moving window instead of a fixed one."""
SMOOTHING_FRAMES = 4.0
"""Standard deviation of the Gaussian that smooths a moving window's path."""
MIN_BOX_SHARE = 1 / 8
"""Smallest side of a mask in shares of the window's side: 64 px at 512 (ReVideo)."""
MAX_ENLARGEMENT = 4
"""The window is never so small that the model works at more than this many times the clip's resolution."""
SILHOUETTE_MARGIN = 1
"""How many latent cells a mask of the shape of the silhouette is wider than it: soft edges and contact shadows fall there."""
FEATHER_SHARE = 12 / 512
"""Width of the feathered edge in shares of the window's side."""


def loosen_boxes(boxes_px: Array, expansion: float = BOX_EXPANSION) -> Array:
    """Loose mask boxes f64[F,4] for object boxes f[F,4] of the frames where the object is there.

    Every side grows by ``expansion`` about the centre; nearly still boxes all become their union. Training uses the same rule.
    """
    boxes = np.asarray(boxes_px, np.float64)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * expansion
    loose = np.concatenate([centre - half, centre + half], axis=1)
    travel = float(np.linalg.norm(np.ptp(centre, axis=0)))
    diagonal = float(np.linalg.norm(2 * half, axis=1).mean()) / expansion
    areas = half.prod(axis=1)
    if travel < UNION_MAX_TRAVEL * diagonal and areas.max() < UNION_MAX_AREA_CHANGE * areas.min():
        loose[:] = union_of(loose)
    return loose


def union_of(boxes_px: Array) -> Array:
    """The smallest box f64[4] that holds all of f[F,4]."""
    return np.concatenate([boxes_px[:, :2].min(axis=0), boxes_px[:, 2:].max(axis=0)])


@dataclass(frozen=True, eq=False, slots=True)
class CropWindow:
    """A square window per frame: ``offsets_px`` i64[F,2] its top left corner (may lie outside the picture), ``side_px`` its side in
    clip pixels, ``size`` the model's side in model pixels."""

    offsets_px: Array
    side_px: int
    size: int

    def __post_init__(self) -> None:
        lock_array(self, "offsets_px", np.int64, (None, 2))
        if self.side_px < 1 or self.size < 1:
            raise ValueError(f"a window needs positive sides, got {self.side_px} and {self.size}")

    @property
    def scale(self) -> float:
        """Model pixels per clip pixel."""
        return self.size / self.side_px

    def matrix(self, frame: int) -> Array:
        """The map f64[3,3] from clip pixels to model pixels at a frame of the window."""
        x, y = (float(value) for value in self.offsets_px[frame])
        return np.array([[self.scale, 0, -x * self.scale], [0, self.scale, -y * self.scale], [0, 0, 1.0]])

    def inside(self, frame: int, clip_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the model's pixels whose centres lie in the picture at a frame; beyond them its edge is repeated."""
        low = np.ceil(-self.offsets_px[frame] * self.scale - 0.5)
        high = np.ceil((np.array([clip_hw[1], clip_hw[0]]) - self.offsets_px[frame]) * self.scale - 0.5)
        (x0, y0), (x1, y1) = (np.clip(edge, 0, self.size).astype(int) for edge in (low, high))
        return slice(int(y0), int(y1)), slice(int(x0), int(x1))


def build_crop_window(boxes_px: Array, is_present: Array, clip_hw: tuple[int, int], size: int) -> CropWindow:
    """The window for mask boxes f[F,4] of the frames that ``is_present`` bool[F] marks (the other rows are ignored).

    One fixed square of ``CONTEXT`` times the union box, or, when the union covers more than ``MOVING_ABOVE`` of the picture, a
    square for the largest single box on a smoothed path. It stays inside the picture where it fits, and is never larger than the
    picture's longer side. Raises ``ValueError`` when no frame is present.
    """
    if not is_present.any():
        raise ValueError("a crop window needs at least one frame in which the object is present")
    picture = np.array([clip_hw[1], clip_hw[0]], np.float64)
    boxes = np.clip(np.asarray(boxes_px, np.float64)[is_present], 0, np.tile(picture, 2))
    union = union_of(boxes)
    is_fixed = (union[2:] - union[:2]).prod() <= MOVING_ABOVE * picture.prod()
    held = np.broadcast_to(union, boxes.shape) if is_fixed else boxes
    longest = float((held[:, 2:] - held[:, :2]).max())
    side = int(
        np.clip(np.ceil(CONTEXT * longest), np.ceil(size / MAX_ENLARGEMENT), clip_hw[0] if clip_hw[0] > clip_hw[1] else clip_hw[1])
    )
    frames, present = np.arange(len(is_present)), np.flatnonzero(is_present)
    centres = (held[:, :2] + held[:, 2:]) / 2
    path = np.stack([np.interp(frames, present, centres[:, axis]) for axis in (0, 1)], axis=1)
    limits = np.stack([np.interp(frames, present, held[:, axis]) for axis in range(4)], axis=1)
    offsets = _smooth(path) - side / 2
    offsets = np.clip(offsets, np.minimum(limits[:, 2:] - side, limits[:, :2]), np.maximum(limits[:, :2], limits[:, 2:] - side))
    inside = np.clip(np.rint(offsets), 0, np.maximum(picture - side, 0))
    offsets = np.where(side <= picture, inside, np.rint((picture - side) / 2))
    return CropWindow(offsets.astype(np.int64), side, size)


def _smooth(path: Array) -> Array:
    if (path == path[0]).all():
        return path
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(path, SMOOTHING_FRAMES, axis=0, mode="nearest")


def snap_boxes(boxes_px: Array, window: CropWindow, clip_hw: tuple[int, int], stride: int) -> Array:
    """Mask boxes i64[F,4] in *model* pixels for boxes f[F,4] in clip pixels: at least ``MIN_BOX_SHARE`` wide and high, cut to the
    picture, grown outwards to the latent grid of ``stride`` pixels, so that the mask is the same on both grids.

    Boxes that miss the picture or the window become empty (0, 0, 0, 0).
    """
    boxes = np.asarray(boxes_px, np.float64)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, MIN_BOX_SHARE * window.side_px / 2)
    picture = np.array([clip_hw[1], clip_hw[0]], np.float64)
    low, high = np.clip(centre - half, 0, picture), np.clip(centre + half, 0, picture)
    low, high = (low - window.offsets_px) * window.scale, (high - window.offsets_px) * window.scale
    cells = np.concatenate([np.floor(low / stride + 1e-9), np.ceil(high / stride - 1e-9)], axis=1) * stride
    snapped = np.clip(cells, 0, window.size).astype(np.int64)
    snapped[((snapped[:, 2:] <= snapped[:, :2]) | (high <= low)).any(axis=1)] = 0
    return snapped


def fill_masks(boxes: Array, size: int) -> Array:
    """Masks bool[F,size,size], true inside each of the model-pixel boxes i64[F,4]."""
    masks = np.zeros((len(boxes), size, size), np.bool_)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def grow_silhouettes(covered: Array, stride: int) -> Array:
    """Masks bool[F,N,N] of whole cells of ``stride`` pixels: those that a silhouette ``covered`` f[F,N,N] touches, and
    ``SILHOUETTE_MARGIN`` cells around them."""
    num_frames, size = covered.shape[:2]
    blocks = (num_frames, size // stride, stride, size // stride, stride)
    cells = np.asarray(covered > 0).reshape(blocks).max(axis=(2, 4))
    kernel = np.ones((2 * SILHOUETTE_MARGIN + 1,) * 2, np.uint8)
    grown = np.array([cv2.dilate(frame.astype(np.uint8), kernel) for frame in cells], np.bool_)
    return np.repeat(np.repeat(grown, stride, axis=1), stride, axis=2)


def crop_frame(image: Array, window: CropWindow, frame: int) -> Array:
    """The window of a picture u8[H,W,3], resized to u8[size,size,3]; the picture's edges are repeated outside it."""
    height, width = image.shape[:2]
    x, y = (int(value) for value in window.offsets_px[frame])
    rows = np.clip(np.arange(y, y + window.side_px), 0, height - 1)
    columns = np.clip(np.arange(x, x + window.side_px), 0, width - 1)
    return resize_square(image[rows][:, columns], window.size)


def resize_square(image: Array, size: int) -> Array:
    """A square picture u8[S,S,3] at another size: area average when smaller, cubic when larger, itself when equal."""
    side = image.shape[0]
    if side == size:
        return image
    method = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=method)


def paste_alpha(box: Array, window: CropWindow, frame: int, clip_hw: tuple[int, int]) -> tuple[tuple[slice, slice], Array]:
    """How much of the generated picture is laid over the clip at a frame, for the mask box i64[4] in model pixels.

    Returns the rows and columns of the clip that it concerns and their alpha f32[h,w]: 1 inside the box, falling to exactly 0 over
    the feather outside it and towards the window's own edges where the picture goes on. Everything else is 0.
    """
    x, y = (float(value) for value in window.offsets_px[frame])
    reach = max(1.0, FEATHER_SHARE * window.side_px)
    edges = np.asarray(box, np.float64) / window.scale + np.array([x, y, x, y])
    spans, inner, outer = [], [], []
    for low, high, offset, length in ((edges[1], edges[3], y, clip_hw[0]), (edges[0], edges[2], x, clip_hw[1])):
        end = offset + window.side_px
        start = int(max(0, offset, np.floor(low - reach)))
        stop = int(min(length, end, np.ceil(high + reach)))
        centres = np.arange(start, max(start, stop)) + 0.5
        spans.append(slice(start, max(start, stop)))
        inner.append(np.maximum(np.maximum(low - centres, centres - high), 0))
        to_edge = np.full(len(centres), np.inf)
        if offset > 0:
            to_edge = np.minimum(to_edge, centres - offset)
        if end < length:
            to_edge = np.minimum(to_edge, end - centres)
        outer.append(np.clip(to_edge / reach, 0, 1))
    distance = np.hypot(inner[0][:, None], inner[1][None])
    alpha = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / reach, 0, 1))
    alpha *= np.minimum(outer[0][:, None], outer[1][None])
    return (spans[0], spans[1]), alpha.astype(np.float32)


def uncrop_frame(generated: Array, window: CropWindow, frame: int, part: tuple[slice, slice]) -> Array:
    """The generated picture u8[size,size,3] at clip resolution, over the clip's rows and columns ``part``."""
    x, y = (int(value) for value in window.offsets_px[frame])
    full = resize_square(generated, window.side_px)
    rows, columns = part
    return full[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]


def uncrop_mask(mask: Array, window: CropWindow, frame: int, part: tuple[slice, slice]) -> Array:
    """A mask bool[size,size] at clip resolution over ``part``, f32[h,w], its edge softened inwards so that nothing outside it
    counts."""
    soft = cv2.blur(cv2.erode(mask.astype(np.float32), np.ones((5, 5))), (3, 3))
    picture = np.repeat(np.rint(soft * 255).astype(np.uint8)[..., None], 3, axis=2)
    return uncrop_frame(picture, window, frame, part)[..., 0].astype(np.float32) / 255
