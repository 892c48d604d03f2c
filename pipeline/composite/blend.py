"""From a warped cut-out to a picture laid over another: straight colours in display light, edges, opacity, "over".

All blending happens in display light. The layer is rounded to 8 bits first and the picture is made from the rounded layer, so that
whoever lays the layer over the source gets the picture back.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..types import Array
from .light import encode_light
from .warp import Patch, Roi

_FAINTEST = 0.25 / 255


@dataclass(frozen=True, eq=False, slots=True)
class Cutout:
    """Straight display colours ``rgb`` f32[h,w,3] in 0..255 and ``alpha`` f32[h,w] in 0..1 at a place on the clip."""

    roi: Roi
    rgb: Array
    alpha: Array


def cutout_from_patch(patch: Patch, gains: Array | None = None) -> Cutout:
    """Undo premultiplication, multiply the linear colours by ``gains`` f32[3] and encode for display."""
    alpha = patch.rgba[..., 3].copy()
    alpha[alpha < _FAINTEST] = 0.0
    inverse = 1 / np.maximum(alpha, np.float32(_FAINTEST))
    linear = cv2.multiply(cv2.cvtColor(patch.rgba, cv2.COLOR_RGBA2RGB), cv2.merge((inverse, inverse, inverse)))
    if gains is not None:
        linear = cv2.transform(linear, np.diag(gains).astype(np.float32))
    return Cutout(patch.roi, encode_light(linear), np.minimum(alpha, 1.0))


def feather_reach_px(sigma_px: float) -> int:
    """How far, in whole pixels, feathering can make an object grow."""
    return int(np.ceil(3 * sigma_px))


def feather(cutout: Cutout, sigma_px: float) -> Cutout:
    """Soften the edge by a Gaussian of ``sigma_px``, cut at three sigma. The object grows by ``feather_reach_px`` at most; what
    it grows by takes the colours of the edge, what is inside keeps its sharpness."""
    reach = feather_reach_px(sigma_px)
    x0, y0, x1, y1 = cutout.roi
    premultiplied = np.dstack([cutout.rgb * cutout.alpha[..., None], cutout.alpha])
    padded = cv2.copyMakeBorder(premultiplied, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    soft = cv2.GaussianBlur(padded, (2 * reach + 1, 2 * reach + 1), sigma_px, borderType=cv2.BORDER_CONSTANT)
    near = soft[..., :3] / np.maximum(soft[..., 3:], 1e-4)
    rgb = padded[..., :3] + (1 - padded[..., 3:]) * near
    alpha = np.where(soft[..., 3] < _FAINTEST, np.float32(0), soft[..., 3])
    return Cutout((x0 - reach, y0 - reach, x1 + reach, y1 + reach), np.clip(rgb, 0, 255), np.clip(alpha, 0, 1))


def cut_to(cutout: Cutout, within: Roi) -> Cutout | None:
    """The part inside ``within``; None when there is none."""
    x0, y0, x1, y1 = cutout.roi
    left, top, right, bottom = max(x0, within[0]), max(y0, within[1]), min(x1, within[2]), min(y1, within[3])
    if left >= right or top >= bottom:
        return None
    window = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
    return Cutout((left, top, right, bottom), cutout.rgb[window], cutout.alpha[window])


def over_shadow(cutout: Cutout, shadow: Array, roi: Roi) -> Cutout:
    """The object over its own black shadow f32[h,w] that covers ``roi``, as one cut-out covering ``roi``."""
    x0, y0, x1, y1 = roi
    alpha = np.zeros((y1 - y0, x1 - x0), np.float32)
    rgb = np.zeros((*alpha.shape, 3), np.float32)
    inside = cut_to(cutout, roi)
    if inside is not None:
        left, top, right, bottom = inside.roi
        window = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
        alpha[window], rgb[window] = inside.alpha, inside.rgb
    total = alpha + shadow * (1 - alpha)
    rgb *= (alpha / np.maximum(total, 1e-6))[..., None]
    return Cutout(roi, rgb, total)


def round_layer(cutout: Cutout) -> Array:
    """Straight RGBA u8[h,w,4]; black where it is transparent."""
    alpha = cv2.convertScaleAbs(cutout.alpha, alpha=255.0)
    rgb = cv2.convertScaleAbs(cutout.rgb)
    layer = np.empty((*alpha.shape, 4), np.uint8)
    cv2.mixChannels([cv2.bitwise_and(rgb, rgb, mask=alpha), alpha], [layer], [0, 0, 1, 1, 2, 2, 3, 3])
    return layer


def lay_over(layer: Array, image: Array) -> None:
    """Lay a straight RGBA u8[h,w,4] over ``image`` u8[h,w,3], in place, rounded to nearest; exact where alpha is 0 or 255."""
    alpha = cv2.extractChannel(layer, 3) * np.float32(1 / 255)
    cv2.blendLinear(cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB), np.ascontiguousarray(image), alpha, 1 - alpha, dst=image)


def stack_layers(upper: Array, lower: Array) -> Array:
    """One straight RGBA u8[h,w,4] that does what ``lower`` and then ``upper`` do."""
    top, bottom = upper.astype(np.float32), lower.astype(np.float32)
    a, b = top[..., 3:] / 255, bottom[..., 3:] / 255
    alpha = a + b * (1 - a)
    rgb = (top[..., :3] * a + bottom[..., :3] * b * (1 - a)) / np.maximum(alpha, 1e-6)
    both = np.concatenate([rgb, 255 * alpha], axis=2)
    return np.clip(both + 0.5, 0, 255).astype(np.uint8)
