"""The light of a scene, and how a neutrally photographed object looks under it.

Measured from the footage alone, never from the object: so the object's own colour is never pulled towards its surround's. From a
few frames of the whole clip, in linear light:

- The *colour* of the light by convolutional colour constancy (Barron 2015; the form on a torus is Barron and Tsai's, 2017): under
  a coloured light the whole histogram of log ratios (red to green, blue to green) is shifted, so a learned filter slid over it says
  how much the picture would look like an ordinary one if the light had this colour, for every colour at once. Four histograms
  are looked at: of all pixels, of bright ones, of the brightest, and of edges. A softmax makes the score a probability.
- Its *confidence*, and the *exposure*, by a small perceptron from that probability's spread and from what the picture's levels
  are (means, quantiles, how much is clipped): how far below white its highlights stay tells a dimmed scene, a wide or divided
  probability tells that the colour is a guess. The colour is weighed with the confidence.

The result is one von Kries gain per channel for the whole clip, so it cannot flicker. Both parts are limited softly: what a
scene is by nature (a night, a sea) is easily taken for its light, and an object must not follow it all the way. The numbers in
``harmonize.npz`` were fitted by ``benchmarks/harmonize_fit.py``, which says on what; ``benchmarks/harmonize_quality.py`` measures
what they achieve on any material. What they cannot know is whether a scene is orange by its light or by its things: a sunset is
taken for a lamp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..types import Array
from .light import decode_light

NUMBERS = Path(__file__).with_suffix(".npz")

BINS = 32
BIN_WIDTH = 0.1
"""Histograms span log ratios of -1.6 to 1.6 on either axis."""
CAST_AXIS = (np.arange(BINS) - BINS / 2) * BIN_WIDTH
"""The log ratio at each bin."""
MOST_CAST = 0.8
"""What the length of the two log ratios comes near to and never exceeds."""
MOST_EXPOSURE = float(np.log(1.6))
"""The same for the logarithm of the exposure, either way."""

_LONG_SIDE_PX = 160
_DARKEST, _BRIGHTEST = 40, 250
"""Display values of a pixel's largest channel between which it shows the light's colour: neither noise nor clipped."""
_LEAST_PIXELS = 50
_LEAST_EDGE = 0.01
_FLOOR = 0.003
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


class Evidence(NamedTuple):
    """What is looked at: ``histograms`` f32[4,BINS,BINS], each adding up to 1 (or to 0 where there is nothing to see), and
    ``levels`` f32[42], statistics of the pictures' levels."""

    histograms: Array
    levels: Array


@dataclass(frozen=True, eq=False, slots=True)
class SceneLight:
    """``gains`` f64[3]: what the scene's light does to the linear colours of a neutrally lit object, already weighed with the
    ``confidence`` (0..1) in its colour."""

    gains: Array
    confidence: float


def estimate_light(images: Sequence[Array]) -> SceneLight:
    """The light of a scene from some of its frames, u8[H,W,3] each. Neutral if there is nothing to see in them."""
    evidence = gather_evidence(images)
    if not evidence.histograms[0].any():
        return SceneLight(np.ones(3), 0.0)
    cast, confidence, exposure = _judge(evidence, _numbers())
    return SceneLight(_gains(cast * confidence, exposure), confidence)


def object_gains(light: SceneLight, strength: float) -> Array:
    """Gains f32[3] for the object's linear colours at a ``strength`` of 0 (none) to 1 (all that was measured); eased, so that 0.7
    does nine tenths."""
    share = 1 - (1 - min(max(strength, 0.0), 1.0)) ** 2
    return (light.gains**share).astype(np.float32)


def gather_evidence(images: Sequence[Array]) -> Evidence:
    """All that the estimate knows of some u8[H,W,3] pictures, pooled over them."""
    small = [_shrink(image) for image in images]
    display = np.concatenate([image.reshape(-1, 3) for image in small])
    linear, brightest = decode_light(display), display.max(axis=1)
    usable = (brightest > 12) & (brightest < _BRIGHTEST)
    levels = _levels(display, linear, linear[usable] if usable.sum() >= 100 else linear)
    return Evidence(_histograms(linear[(brightest > _DARKEST) & (brightest < _BRIGHTEST)], small), levels)


# -- what is looked at -------------------------------------------------------------------------------------------------------------


def _histograms(pixels: Array, images: Sequence[Array]) -> Array:
    """Of pixels weighed by their brightness, of all alike, of the brightest twentieth, of edges: f32[4,BINS,BINS]."""
    histograms = np.zeros((4, BINS, BINS), np.float32)
    if len(pixels) < _LEAST_PIXELS:
        return histograms
    brightness = pixels.max(axis=1)
    top = pixels[brightness >= np.quantile(brightness, 0.95)]
    histograms[0] = _histogram(pixels, brightness)
    histograms[1] = _histogram(pixels, np.ones(len(pixels)))
    histograms[2] = _histogram(top, np.ones(len(top)))
    edges = np.concatenate([_edges(image, axis) for image in images for axis in (0, 1)])
    if len(edges) > _LEAST_PIXELS:
        histograms[3] = _histogram(edges, edges.max(axis=1))
    return histograms


def _edges(image: Array, axis: int) -> Array:
    """Differences f32[n,3] between neighbours that are not clipped, where they differ."""
    unclipped = np.delete(image.max(axis=2) < _BRIGHTEST, 0, axis) & np.delete(image.max(axis=2) < _BRIGHTEST, -1, axis)
    steps = np.abs(np.diff(decode_light(image), axis=axis))[unclipped]
    return steps[steps.max(axis=1, initial=0) > _LEAST_EDGE]


def _histogram(linear: Array, weights: Array) -> Array:
    """The log ratios of linear f32[n,3], each shared among the four bins around it."""
    logs = np.log(linear + _FLOOR)
    places = np.stack([logs[:, 0] - logs[:, 1], logs[:, 2] - logs[:, 1]], axis=1) / BIN_WIDTH + BINS / 2
    places = np.clip(places, 0, BINS - 1.001)
    low = places.astype(int)
    u, v = (places - low).T
    first = low[:, 0] * BINS + low[:, 1]
    bins = np.concatenate([first, first + 1, first + BINS, first + BINS + 1])
    shares = np.concatenate([weights * (1 - u) * (1 - v), weights * (1 - u) * v, weights * u * (1 - v), weights * u * v])
    histogram = np.bincount(bins, shares, BINS * BINS)
    return (histogram / max(histogram.sum(), 1e-9)).reshape(BINS, BINS).astype(np.float32)


def _levels(display: Array, linear: Array, usable: Array) -> Array:
    """Logarithms of Minkowski means and quantiles per channel and of brightness and luminance; roots of the clipped shares."""
    means = [np.mean(usable.astype(np.float64) ** power, axis=0) ** (1 / power) for power in (1, 3, 6, 24)]
    brightness, luminance = linear.max(axis=1), linear @ _LUMINANCE.astype(np.float32)
    quantiles = [
        *np.quantile(linear, [0.9, 0.99, 0.997, 0.9995], axis=0).ravel(),
        *np.quantile(brightness, [0.5, 0.9, 0.98, 0.997]),
        *np.quantile(luminance, [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]),
        luminance.mean(),
    ]
    clipped, largest = display >= _BRIGHTEST, display.max(axis=1)
    shares = [clipped.any(axis=1).mean(), *clipped.mean(axis=0), clipped.all(axis=1).mean(), (largest < 12).mean()]
    parts = [np.log(np.ravel(means) + 1e-4), np.log(np.array(quantiles) + 1e-2), np.sqrt(shares)]
    return np.concatenate(parts).astype(np.float32)


def _shrink(image: Array) -> Array:
    scale = _LONG_SIDE_PX / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


# -- what is made of it ------------------------------------------------------------------------------------------------------------


@cache
def _numbers() -> dict[str, Array]:
    """The fitted numbers: ``filters`` [4,BINS,BINS] and ``prior`` [BINS,BINS] of the score; ``mean`` and ``spread`` [42] of the
    levels; ``hidden`` [h,51] and ``out`` [2,h+1] of the perceptron, the last column of each its offset."""
    with np.load(NUMBERS) as stored:
        return {name: stored[name].astype(np.float64) for name in stored.files if name != "note"}


def _judge(evidence: Evidence, numbers: dict[str, Array]) -> tuple[Array, float, float]:
    """The light's log ratios [2], the confidence in them, and the logarithm of the exposure."""
    probability = _probability(evidence.histograms, numbers)
    cast = np.array([probability.sum(axis=1) @ CAST_AXIS, probability.sum(axis=0) @ CAST_AXIS])
    seen = np.concatenate([_shape(probability, cast), (evidence.levels - numbers["mean"]) / numbers["spread"], [1.0]])
    hidden = np.tanh(numbers["hidden"] @ seen)
    certainty, exposure = numbers["out"] @ np.append(hidden, 1.0)
    return cast, float(1 / (1 + np.exp(-certainty))), float(exposure)


def _probability(histograms: Array, numbers: dict[str, Array]) -> Array:
    """How likely each cast is, [BINS,BINS]: the filters' correlation with the histograms' roots, on a torus, plus the prior."""
    spectra = np.fft.rfft2(np.sqrt(histograms)) * np.conj(np.fft.rfft2(numbers["filters"]))
    score = np.fft.irfft2(spectra.sum(axis=0), s=(BINS, BINS)) + numbers["prior"]
    likelihood = np.exp(score - score.max())
    return likelihood / likelihood.sum()


def _shape(probability: Array, cast: Array) -> Array:
    """How decided the probability is, [8]: its mean, that mean's size, entropy, the share near neutral, its spread."""
    squares = (CAST_AXIS[:, None] - cast[0]) ** 2 + (CAST_AXIS[None] - cast[1]) ** 2
    entropy = -(probability * np.log(probability + 1e-9)).sum()
    middle = slice(BINS // 2 - 1, BINS // 2 + 2)
    neutral = np.log(probability[middle, middle].sum() + 1e-3)
    spread = np.sqrt((probability * squares).sum() + 1e-6)
    return np.array([*cast, *np.abs(cast), np.sqrt(cast @ cast + 1e-6), entropy / 5, neutral / 3, 2 * spread])


def _gains(cast: Array, exposure: float) -> Array:
    """A gain per channel from log ratios (red to green, blue to green) and the logarithm of what happens to a grey's luminance,
    both limited."""
    length = float(np.linalg.norm(cast)) + 1e-9
    red, blue = cast * MOST_CAST * np.tanh(length / MOST_CAST) / length
    gains = np.exp(np.array([red, 0.0, blue]))
    return gains / float(gains @ _LUMINANCE) * np.exp(MOST_EXPOSURE * np.tanh(exposure / MOST_EXPOSURE))
