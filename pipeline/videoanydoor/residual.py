"""The residual of plain pasting, brought back to the clip's own resolution.

Networks that predict a residual see a small window: the source with the warped reference pasted over it, p, which covers a share c
of every pixel. What they make of it, g, says by which share of its brightness each pixel changes (``denoiser.add_residual``, read
backwards; all values in 0..1, b is ``LEAST_BRIGHTNESS``):

    k = (g - p) / (p + b)

Pasted into the clip is not g, which has the window's detail, but the reference itself, warped once more by the same motion at the
clip's resolution: colours o, coverage a. It takes up the shares, enlarged (E) by a smooth kernel that does not ring, and weighed
with what the reference covers, so that nothing from beside the object bleeds over its edge:

    k* = E(c k) / E(c)
    o* = o + k* (o + b)
    result = a o* + (1 - a) source

So g = p gives plain pasting, bit for bit, and the source stays as it is where the reference is not. Where the source was hidden
from the networks (something is replaced), they make up what is behind the object, and only they know it: this *ground*,
E((1 - c) g) / E(1 - c), is laid under the object inside the mask.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..composite.blend import Cutout, cutout_from_patch
from ..composite.warp import ReferencePyramid, Roi, render_patch
from ..motion import LayerMotion
from ..types import Array, Reference
from .denoiser import LEAST_BRIGHTNESS
from .regions import CropWindow

LEAST_WEIGHT = 1e-3
"""Where less than this is known nearby, a value turns into the mean of all that is known."""
_KERNEL = np.array([1, 4, 1], np.float32) / 6
"""A cubic B-spline at whole numbers; linear interpolation between them comes near to it."""


class CarriedReference:
    """A reference and its motion, to be warped at the clip's resolution at any frame."""

    def __init__(self, reference: Reference, motion: LayerMotion) -> None:
        self._pyramid, self._motion = ReferencePyramid(reference), motion

    def cut_out(self, frame_index: int, hw: tuple[int, int]) -> Cutout | None:
        """The reference where it is at a frame of the clip, within the picture; None where nothing of it shows."""
        if not self._motion.exists(frame_index):
            return None
        patch = render_patch(self._pyramid, self._motion.warp(frame_index), (0, 0, hw[1], hw[0]))
        return None if patch is None else cutout_from_patch(patch)


def take_up(cutout: Cutout, made: Array, pasted: Array, covered: Array, window: CropWindow, index: int) -> Cutout:
    """The cut-out o* under the light that the networks gave it: ``made`` u8[N,N,3] is what they made of ``pasted`` u8[N,N,3], of
    which the reference covers f32[N,N], in frame ``index`` of the window."""
    below = pasted.astype(np.float32) / 255
    shares = (made.astype(np.float32) / 255 - below) / (below + LEAST_BRIGHTNESS)
    changed = cutout.rgb + spread(shares, covered, window, index, cutout.roi) * (cutout.rgb + 255 * LEAST_BRIGHTNESS)
    return Cutout(cutout.roi, np.clip(changed, 0, 255).astype(np.float32), cutout.alpha)


def spread(values: Array, weights: Array, window: CropWindow, index: int, roi: Roi) -> Array:
    """E(weights values) / E(weights) over the clip's pixels ``roi``, f32[h,w,C], for ``values`` [N,N,C] (C up to 3) and ``weights``
    f32[N,N] in model pixels. Outside the window its edge goes on. ``values`` of 0 stay exactly 0."""
    weighed: Array = np.dstack([values * weights[..., None], weights]).astype(np.float32)
    total = weighed.sum(axis=(0, 1))
    mean: Array = total[:-1] / max(float(total[-1]), LEAST_WEIGHT)
    if window.side_px > window.size:
        weighed = cv2.sepFilter2D(weighed, -1, _KERNEL, _KERNEL, borderType=cv2.BORDER_REPLICATE)
    elif window.side_px < window.size:
        weighed = cv2.resize(weighed, (window.side_px, window.side_px), interpolation=cv2.INTER_AREA)
    scale = len(weighed) / window.side_px
    left, top = roi[:2] - window.offsets_px[index] + 0.5
    places = np.array([[scale, 0, left * scale - 0.5], [0, scale, top * scale - 0.5]])
    size, how = (roi[2] - roi[0], roi[3] - roi[1]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(weighed, places, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    spread_out: Array = (found[..., :-1] + LEAST_WEIGHT * mean) / (found[..., -1:] + LEAST_WEIGHT)
    return spread_out
