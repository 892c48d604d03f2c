"""What stays in front: a mask's edge, found again in the picture, and colours that leave no halo there.

A mask from clicks says yes or no at every pixel, but the edge of a real thing is soft. Within a band about the mask's edge the
picture itself decides how much of a pixel belongs to the thing: where it lies between the colours on either side, and, where those
are too much alike to tell, a guided filter (He et al. 2010). What the layer shows there makes up for the old background that is
still in those pixels. A mask that is feathered on purpose is taken as it is.
"""

from __future__ import annotations

import cv2
import numpy as np

from .. import masks
from ..types import Array, MaskTrack
from . import blend
from .warp import Roi

BAND_SHARE = 1 / 360
"""Half the width of the band in which the edge is looked for, as a share of the picture's height; at least ``MIN_BAND_PX``."""
MIN_BAND_PX = 2
_SMOOTHNESS = 1e-4
_SURE = 0.97
_ALIKE_LEVELS = 24.0
"""Two colours that are less apart, in 8-bit levels, do not tell well what lies between them."""


def hold_out(tracks: tuple[MaskTrack, ...], frame_index: int, cutout: blend.Cutout, source: Array) -> blend.Cutout:
    """The cut-out without what stays in front of it, inside the picture; ``source`` u8[h,w,3] is the picture over its region."""
    for track in tracks:
        cutout = _hold_one(track, frame_index, cutout, source)
    return cutout


def _hold_one(track: MaskTrack, frame_index: int, cutout: blend.Cutout, source: Array) -> blend.Cutout:
    if track.runs[frame_index] is None:
        return cutout
    front = _part(masks.mask_alpha(track, frame_index), cutout.roi)
    if not front.any():
        return cutout
    if track.feather_px > 0:
        return blend.Cutout(cutout.roi, cutout.rgb, cutout.alpha * (1 - front))
    band_px = max(MIN_BAND_PX, round(track.hw[0] * BAND_SHARE))
    alpha, behind = find_edge(front > 0, source, band_px)
    rgb = cutout.rgb + alpha[..., None] * behind
    return blend.Cutout(cutout.roi, np.clip(rgb, 0, 255).astype(np.float32), cutout.alpha * (1 - alpha))


def find_edge(mask: Array, source: Array, band_px: int) -> tuple[Array, Array]:
    """How much of every pixel of ``source`` u8[h,w,3] is the thing whose mask is bool[h,w]: f32[h,w], exactly 1 further than
    ``band_px`` inside the mask and exactly 0 further outside; and, in between, the thing's colour minus that of what is behind it,
    f32[h,w,3]."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band_px + 1,) * 2)
    is_sure = cv2.erode(mask.astype(np.uint8), disc, borderValue=1) > 0
    is_clear = cv2.erode((~mask).astype(np.uint8), disc, borderValue=1) > 0
    picture = source.astype(np.float32)
    alpha = cv2.ximgproc.guidedFilter(picture / 255, mask.astype(np.float32), 2 * band_px, _SMOOTHNESS)
    alpha = np.clip((alpha - (1 - _SURE)) / (2 * _SURE - 1), 0, 1)
    behind = np.zeros_like(picture)
    is_edge = ~(is_sure | is_clear)
    (thing, has_thing), (back, has_back) = (_near_color(picture, side, band_px) for side in (is_sure, is_clear))
    known = is_edge & has_thing & has_back
    behind[known] = (thing - back)[known]
    apart = (behind[known] ** 2).sum(axis=1)
    between = np.clip(((picture - back)[known] * behind[known]).sum(axis=1) / np.maximum(apart, 1), 0, 1)
    trust = apart / (apart + _ALIKE_LEVELS**2)
    alpha[known] = trust * between + (1 - trust) * alpha[known]
    alpha[is_sure], alpha[is_clear] = 1, 0
    return alpha.astype(np.float32), behind


def _near_color(picture: Array, side: Array, band_px: int) -> tuple[Array, Array]:
    """The mean colour f32[h,w,3] of the pixels of ``side`` nearby, and where there are any, bool[h,w]."""
    weight = side.astype(np.float32)
    sigma_px = 1.5 * band_px
    total = cv2.GaussianBlur(picture * weight[..., None], (0, 0), sigma_px)
    share = cv2.GaussianBlur(weight, (0, 0), sigma_px)
    return total / np.maximum(share, 1e-6)[..., None], share > 1e-3


def _part(alpha: Array, roi: Roi) -> Array:
    return alpha[roi[1] : roi[3], roi[0] : roi[2]]
