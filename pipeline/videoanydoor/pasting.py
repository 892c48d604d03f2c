"""From a layer's generated window back into the clip's frames.

A picture is pasted as it is, enlarged, inside its mask and a feather. A residual of plain pasting is taken up by the reference
itself, at the clip's own resolution (``residual``). Either way a layer is a few cut-outs, laid over the picture in order; every
pixel that they do not touch stays the source's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import masks
from ..composite import blend
from ..composite.warp import Roi
from ..types import Array, Layer
from .conditioning import LayerConditioning
from .regions import paste_alpha, uncrop_frame, uncrop_mask
from .residual import CarriedReference, spread, take_up


@dataclass(frozen=True, eq=False, slots=True)
class LayerResult:
    """A layer's generated window ``pictures`` u8[F,N,N,3], and the ``key`` of everything it depends on.

    Where the pictures are plain pasting and a residual: the ``pasted`` windows u8[F,N,N,3] that the networks were shown, and the
    reference that was pasted, ``carried`` (None where there is nothing but what is taken away).
    """

    layer: Layer
    conditioning: LayerConditioning
    pictures: Array
    key: str
    pasted: Array | None = None
    carried: CarriedReference | None = None


def paste_layers(image: Array, results: Sequence[LayerResult], frame_index: int, index: int) -> Array:
    """Lay the results over frame ``frame_index`` of the clip, u8[H,W,3], in place and in order. ``index`` is the frame's place in
    their windows. Returns all that was laid, as one layer: straight RGBA u8[H,W,4]."""
    stacked, is_empty = np.zeros((*image.shape[:2], 4), np.uint8), True
    for result in results:
        for cutout in cut_layer(result, frame_index, index, (image.shape[0], image.shape[1])):
            x0, y0, x1, y1 = cutout.roi
            part = (slice(y0, y1), slice(x0, x1))
            alpha = cutout.alpha
            for track in result.layer.holdouts:
                alpha = alpha * (1 - masks.mask_alpha(track, frame_index)[part])
            rounded = blend.round_layer(blend.Cutout(cutout.roi, cutout.rgb, alpha))
            blend.lay_over(rounded, image[part])
            stacked[part] = rounded if is_empty else blend.stack_layers(rounded, stacked[part])
            is_empty = False
    return stacked


def lay_windows(image: Array, results: Sequence[LayerResult], index: int) -> Array:
    """As ``paste_layers``, but without pasting back: the generated windows whole, background and all, without masks, opacity and
    hold-outs. This is what the paper's score of unedited pixels sees."""
    stacked = np.zeros((*image.shape[:2], 4), np.uint8)
    for result in results:
        window = result.conditioning.window
        x, y = (int(value) for value in window.offsets_px[index])
        rows = slice(max(0, y), min(image.shape[0], y + window.side_px))
        columns = slice(max(0, x), min(image.shape[1], x + window.side_px))
        image[rows, columns] = uncrop_frame(result.pictures[index], window, index, (rows, columns))
        stacked[rows, columns] = np.dstack([image[rows, columns], np.full(image[rows, columns].shape[:2], 255, np.uint8)])
    return stacked


def cut_layer(result: LayerResult, frame_index: int, index: int, hw: tuple[int, int]) -> list[blend.Cutout]:
    """What a result lays over a frame of this size, from below to above, its opacity counted, hold-outs not.

    As in the compositor, what is replaced goes away whole, however faintly its replacement is seen.
    """
    window, own, opacity = result.conditioning.window, result.conditioning.pasted, np.float32(result.layer.blend.opacity)
    made, mask = result.pictures[index], _soften_mask(result, index, hw)
    if result.pasted is None or own is None:
        if mask is None:
            return []
        rows, columns = slice(mask.roi[1], mask.roi[3]), slice(mask.roi[0], mask.roi[2])
        enlarged = uncrop_frame(made, window, index, (rows, columns)).astype(np.float32)
        return [blend.Cutout(mask.roi, enlarged, mask.alpha * opacity)]
    laid = []
    if own.hides and mask is not None:
        ground = spread(made, 1 - own.covered[index], window, index, mask.roi)
        laid.append(blend.Cutout(mask.roi, ground, mask.alpha * (opacity if result.carried is None else np.float32(1))))
    carried = None if result.carried is None else result.carried.cut_out(frame_index, hw)
    if carried is not None:
        lit = take_up(carried, made, result.pasted[index], own.covered[index], window, index)
        laid.append(blend.Cutout(lit.roi, lit.rgb, lit.alpha * opacity))
    return laid


class SoftMask(NamedTuple):
    """Where a picture is pasted: ``alpha`` f32[h,w] over the clip's pixels ``roi``."""

    roi: Roi
    alpha: Array


def _soften_mask(result: LayerResult, index: int, hw: tuple[int, int]) -> SoftMask | None:
    """The mask at the clip's resolution, with its feather; None in frames without one."""
    box, window = result.conditioning.boxes[index], result.conditioning.window
    if not box.any():
        return None
    (rows, columns), alpha = paste_alpha(box, window, index, hw)
    if result.conditioning.silhouettes is not None:
        alpha = alpha * uncrop_mask(result.conditioning.silhouettes[index], window, index, (rows, columns))
    return SoftMask((columns.start, rows.start, columns.stop, rows.stop), alpha)
