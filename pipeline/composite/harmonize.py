"""The light of a scene, and how a neutrally photographed object looks under it.

Measured from the footage alone, never from the object: so the object's own colour is never pulled towards its surround's. From a
few frames of the whole clip, in linear light:

- The *cast* is the ratio of the channels' Minkowski means with p = 24 (shades of grey, Finlayson and Trezzi 2004; that high, it
  asks what the brightest things that are not clipped have in common), relative to what it is for ordinary, well balanced pictures.
- Its *confidence* asks which is likelier, that the light has this colour or that it is neutral: under a coloured light, grey and
  white things show the light's colour and hardly anything is neutral; in a scene that is only full of coloured things, what little
  is grey stays grey. So the pixels near the cast are weighed against those near neutral (the log of their ratio), with a bonus for
  strong casts. Casts that no usual lamp has are not believed.
- The *exposure* is read from the brightest channel's highlights (their 99.7 % quantile): ordinary pictures nearly reach white, so
  only what lies far below it counts as dimmed, and less is needed where a cast was seen too. It can be seen that a scene is dim,
  never that it was brightened.

The result is one von Kries gain per channel for the whole clip, so it cannot flicker. The numbers below were set on 93 scenes
(photographs and clips) under 22 known casts; ``benchmarks/harmonize_quality.py`` measures what they achieve on any material.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..types import Array
from .light import decode_light

_LONG_SIDE_PX = 256
_MOST_PIXELS = 20_000
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])

_ORDINARY_CAST = np.array([0.03, -0.01])
_NEARNESS = 0.06
"""Standard deviation, in log ratios, within which a pixel counts as having a light's colour."""
_NEVER_NONE = 0.003
_EVIDENCE_WEIGHTS = (1.1, 2.0, 1.15)
"""Of the log ratio of evidence, of the cast's strength, and the threshold that their sum must pass."""
_DECISIVENESS = 6.0
_DIMMER_THAN_USUAL = 0.6
_DIM_SHARE = 0.7
_DIMMER_UNDER_CAST = 0.1
_MOST_DIMMED_UNDER_CAST = 0.15


@dataclass(frozen=True, eq=False, slots=True)
class SceneLight:
    """``gains`` f64[3]: what the scene's light does to the linear colours of a neutrally lit object, already weighed with the
    ``confidence`` (0..1) that there is a cast at all."""

    gains: Array
    confidence: float


def estimate_light(images: Sequence[Array]) -> SceneLight:
    """The light of a scene from some of its frames, u8[H,W,3] each. Neutral if there is nothing to see in them."""
    display = np.concatenate([_shrink(image).reshape(-1, 3) for image in images])
    linear, brightest = decode_light(display).astype(np.float64), display.max(axis=1)
    usable = linear[(brightest > 12) & (brightest < 250)]
    if len(usable) < 100:
        return SceneLight(np.ones(3), 0.0)
    means = np.log(np.mean(usable**24, axis=0)) / 24
    cast = np.array([means[0] - means[1], means[2] - means[1]]) - _ORDINARY_CAST
    confidence = _plausibility(cast) * _certainty(cast, linear[(brightest > 40) & (brightest < 250)])
    highlights = float(np.quantile(linear, 0.997, axis=0).max())
    dimming = max(0.0, -float(np.log(max(highlights, 1e-3))))
    return SceneLight(_gains(cast * confidence, confidence, dimming), confidence)


def object_gains(light: SceneLight, strength: float) -> Array:
    """Gains f32[3] for the object's linear colours at a ``strength`` of 0 (none) to 1 (all that was measured); eased, so that 0.7
    does nine tenths."""
    share = 1 - (1 - min(max(strength, 0.0), 1.0)) ** 2
    return (light.gains**share).astype(np.float32)


def _gains(cast: Array, confidence: float, dimming: float) -> Array:
    """From log ratios (red to green, blue to green) and darkness of the highlights to a gain per channel.

    A cast either raised some channels or lowered the others; which, the picture does not tell. The luminance that is kept is
    half-way between the two.
    """
    gains = np.exp(np.array([cast[0], 0.0, cast[1]]))
    luminance = float(gains @ _LUMINANCE)
    lowered = float(np.log(luminance / gains.max()))
    alone = _DIM_SHARE * max(0.0, dimming - _DIMMER_THAN_USUAL)
    with_cast = min(max(0.0, dimming - _DIMMER_UNDER_CAST), _MOST_DIMMED_UNDER_CAST)
    exposure = -(alone * (1 - confidence**2) + with_cast * confidence**2) + 0.5 * confidence * lowered
    return gains / luminance * np.exp(exposure)


def _plausibility(cast: Array) -> float:
    """1 for the casts that lamps, shade and camera settings make, falling to 0 for far stronger ones."""
    strength = max(abs(float(cast[0])) / 0.75, abs(float(cast[1])) / 1.1)
    return float(np.clip((1.4 - strength) / 0.4, 0, 1))


def _certainty(cast: Array, pixels: Array) -> float:
    """How sure it is, 0..1, that the light has the colour ``cast`` rather than none, by the linear f64[n,3] pixels that show it."""
    if len(pixels) < 50:
        return 0.0
    pixels = pixels[:: max(1, len(pixels) // _MOST_PIXELS)]
    logs = np.log(pixels + 0.003)
    ratios = np.stack([logs[:, 0] - logs[:, 1], logs[:, 2] - logs[:, 1]], axis=1)
    weights = pixels.max(axis=1)
    weights = weights / weights.sum()
    near_cast, near_neutral = (
        float(weights @ np.exp(-((ratios - color) ** 2).sum(axis=1) / (2 * _NEARNESS**2))) + _NEVER_NONE
        for color in (cast, 0 * cast)
    )
    of_evidence, of_strength, threshold = _EVIDENCE_WEIGHTS
    strength = min(float(np.linalg.norm(cast)), 0.6)
    score = of_evidence * np.log(near_cast / near_neutral) + of_strength * strength - threshold
    return float(1 / (1 + np.exp(-_DECISIVENESS * score)))


def _shrink(image: Array) -> Array:
    scale = _LONG_SIDE_PX / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
