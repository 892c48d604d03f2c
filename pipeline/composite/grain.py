"""The footage's grain: measured where it is flat, made anew for every frame.

Flat blocks are the least varying ones of a few frames among those of like brightness, once a smooth surface is taken out of each;
blocks are added as long as they vary no more than noise of that strength would. Their residuals give the noise's deviation per
level of brightness, its correlation between the colour channels and its autocovariance in space. Grain of the same statistics is a
periodic tile per layer, cut at a random place (seeded by seed, layer and frame) for every frame: cheap, and never the same twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from ..types import Array, Reference

_BLOCK_PX = 16
_LAG_PX = 6
_TILE_PX = 512
_BLOCKS_PER_FRAME = 4000
_BINS = 8
_BLOCKS_PER_BIN = 24
_MOST_UNLIKE = 2.0
"""How many times stronger noise may be at one brightness than at the one that most flat blocks have."""
_MOST_ALIKE = 0.4
"""Correlation between two pictures from which a block shows texture rather than noise."""
_CLEAN_VARIANCE = 0.1
"""Differences in variance, in squared 8-bit levels, that rounding alone makes."""
_LEAST_SIGMA = 0.5
"""Standard deviation, in 8-bit levels, below which footage counts as clean: rounding and coding alone come near it."""
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class Noise:
    """Noise of pictures in 8-bit display levels.

    ``sigma`` f32[256] of the luma by brightness, ``mix`` f32[3,3] with which three independent unit noises become RGB noise of unit
    luma deviation, ``covariance`` f32[2L+1,2L+1] its autocovariance in space, 1 at the centre.
    """

    sigma: Array
    mix: Array
    covariance: Array


def measure_noise(images: Sequence[Array]) -> Noise | None:
    """The noise of u8[H,W,3] pictures, or None when they are clean or nowhere flat."""
    residuals, levels = _block_residuals(images)
    flat = _flat_by_level(residuals, levels)
    if flat.sum() < 8:
        return None
    residuals, levels = residuals[flat], levels[flat]
    luma = residuals @ _LUMA
    covariance, lost = _restore_smooth_part(_autocovariance(luma))
    # rounding to 8 bits adds 1/12 per channel
    rounding = float((_LUMA**2).sum() / 12)
    variance = np.maximum((luma**2).mean(axis=(1, 2)) / (1 - lost) - rounding, 0)
    if np.sqrt(variance.mean()) < _LEAST_SIGMA:
        return None
    return Noise(_sigma_by_level(variance, levels), _channel_mix(residuals), covariance)


def _smooth_surfaces() -> Array:
    """Orthonormal basis f32[B*B,6] of the quadratic surfaces over a block."""
    axis = np.linspace(-1, 1, _BLOCK_PX)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=1))[0].astype(np.float32)


def _block_residuals(images: Sequence[Array]) -> tuple[Array, Array]:
    """Blocks that may show noise, minus their best quadratic surface, f32[n,B,B,3], and their mean luma f32[n].

    Blocks with clipped pixels are left out, and those that look the same in the next picture: noise is new in every picture,
    texture in front of a still camera is not.
    """
    measured = [_detrend_blocks(image) for image in images]
    found, levels = [], []
    for index, (residuals, means, unclipped) in enumerate(measured):
        keep = unclipped
        if len(images) > 1 and images[index].shape == images[index - 1].shape:
            keep = unclipped & _is_renewed(residuals @ _LUMA, measured[index - 1][0] @ _LUMA)
        found.append(residuals[keep])
        levels.append(means[keep])
    return np.concatenate(found), np.concatenate(levels)


def _detrend_blocks(image: Array) -> tuple[Array, Array, Array]:
    """An even choice of blocks minus their best quadratic surface f32[n,B,B,3], their mean luma f32[n], and bool[n] which of them
    have no clipped pixel."""
    basis = _smooth_surfaces()
    rows, cols = image.shape[0] // _BLOCK_PX, image.shape[1] // _BLOCK_PX
    cut = image[: rows * _BLOCK_PX, : cols * _BLOCK_PX]
    blocks = cut.reshape(rows, _BLOCK_PX, cols, _BLOCK_PX, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, _BLOCK_PX**2)
    blocks = blocks[:: 1 + len(blocks) // _BLOCKS_PER_FRAME]
    unclipped = (blocks.min(axis=(1, 2), initial=255) > 3) & (blocks.max(axis=(1, 2), initial=0) < 252)
    values = blocks.astype(np.float32)
    residuals = values - (values @ basis) @ basis.T
    return residuals.transpose(0, 2, 1).reshape(-1, _BLOCK_PX, _BLOCK_PX, 3), values.mean(axis=2) @ _LUMA, unclipped


def _is_renewed(here: Array, there: Array) -> Array:
    """Which blocks f32[n,B,B] vary differently in two pictures, or hardly at all: bool[n]."""
    power_here, power_there = (here**2).mean(axis=(1, 2)), (there**2).mean(axis=(1, 2))
    likeness = (here * there).mean(axis=(1, 2)) / np.sqrt(power_here * power_there + 1e-9)
    return (likeness < _MOST_ALIKE) | (power_here < 2 * _CLEAN_VARIANCE)


def _restore_smooth_part(covariance: Array) -> tuple[Array, float]:
    """Taking a quadratic surface out of every block took some of correlated noise with it: the autocovariance with that part put
    back, and the share of the variance that was lost."""
    surfaces = _smooth_surfaces().T.reshape(-1, _BLOCK_PX, _BLOCK_PX)
    products = np.stack([_lag_sums(surface[None]) for surface in surfaces])
    overlap = np.maximum(_BLOCK_PX - np.abs(np.arange(-_LAG_PX, _LAG_PX + 1)), 1)
    restored, lost = covariance, 0.0
    for _ in range(4):
        shares = (products * restored).sum(axis=(1, 2)) / _BLOCK_PX**2
        lost = min(float(shares.sum()), 0.6)
        smooth = np.tensordot(shares, products, axes=1) * _BLOCK_PX**2 / np.outer(overlap, overlap) * _taper()
        restored = (1 - lost) * covariance + smooth
        restored = restored / restored[_LAG_PX, _LAG_PX]
    return restored.astype(np.float32), lost


def _flat_by_level(residuals: Array, levels: Array) -> Array:
    """Which blocks hold noise alone, bool[n]: chosen among blocks of like brightness, since noise depends on it; a brightness
    at which few blocks are alike, or at which they vary far more than elsewhere, shows texture and is left out."""
    chosen = np.zeros(len(levels), bool)
    groups = []
    for low, high in _level_bins():
        inside = np.flatnonzero((levels >= low) & (levels < high))
        flat = inside[_flat_blocks(residuals[inside])]
        if len(flat) >= max(_BLOCKS_PER_BIN, 0.15 * len(inside)):
            groups.append((float(((residuals[flat] @ _LUMA) ** 2).mean()), flat))
    if not groups:
        return _flat_blocks(residuals)
    usual = max(groups, key=lambda group: len(group[1]))[0]
    for level, flat in groups:
        if level <= _MOST_UNLIKE**2 * max(usual, _CLEAN_VARIANCE):
            chosen[flat] = True
    return chosen


def _level_bins() -> list[tuple[float, float]]:
    return list(pairwise(np.linspace(0, 256, _BINS + 1).tolist()))


def _flat_blocks(residuals: Array) -> Array:
    """Which blocks hold no more than noise, if all of them hold equally strong noise, bool[n]."""
    if len(residuals) < 16:
        return np.zeros(len(residuals), bool)
    variance = ((residuals @ _LUMA) ** 2).mean(axis=(1, 2))
    low, high = np.quantile(variance, (0.02, 0.12))
    flat = (variance >= low) & (variance <= high)
    for _ in range(6):
        if not flat.any():
            break
        # the relative spread of a block's variance grows with the correlation of its noise
        covariance = _autocovariance(residuals[flat] @ _LUMA)
        spread = np.sqrt(2 * (covariance**2).sum()) / _BLOCK_PX
        level = float(np.median(variance[flat]))
        flat = (variance <= level * (1 + 2.5 * spread) + _CLEAN_VARIANCE) & (variance >= level * (1 - 3 * spread) - _CLEAN_VARIANCE)
    return flat


def _sigma_by_level(variance: Array, levels: Array) -> Array:
    """Standard deviation f32[256] by brightness: bins with enough blocks, joined linearly and held beyond the last."""
    centers, sigmas = [], []
    for low, high in _level_bins():
        inside = (levels >= low) & (levels < high)
        if inside.sum() >= _BLOCKS_PER_BIN:
            centers.append(levels[inside].mean())
            sigmas.append(np.sqrt(variance[inside].mean()))
    if not centers:
        centers, sigmas = [128.0], [np.sqrt(variance.mean())]
    return np.interp(np.arange(256), centers, sigmas).astype(np.float32)


def _channel_mix(residuals: Array) -> Array:
    pixels = residuals.reshape(-1, 3).astype(np.float64)
    covariance = pixels.T @ pixels / len(pixels)
    covariance /= _LUMA @ covariance @ _LUMA
    return np.linalg.cholesky(covariance + 1e-6 * np.eye(3)).astype(np.float32)


def _autocovariance(luma: Array) -> Array:
    """Mean autocovariance of f32[n,B,B] blocks for lags up to ``_LAG_PX``, tapered, 1 at the centre: f32[2L+1,2L+1]."""
    sums = _lag_sums(luma[:: 1 + len(luma) // 1000])
    overlap = _BLOCK_PX - np.abs(np.arange(-_LAG_PX, _LAG_PX + 1))
    covariance = sums / np.outer(overlap, overlap) * _taper()
    return (covariance / max(covariance[_LAG_PX, _LAG_PX], 1e-12)).astype(np.float32)


def _lag_sums(blocks: Array) -> Array:
    """Mean over f32[n,B,B] blocks of the sums of products at every lag, f64[2L+1,2L+1]."""
    size = 2 * _BLOCK_PX
    power = (np.abs(np.fft.rfft2(blocks, s=(size, size))) ** 2).mean(axis=0)
    sums = np.roll(np.fft.irfft2(power, s=(size, size)), (_LAG_PX, _LAG_PX), axis=(0, 1))
    return sums[: 2 * _LAG_PX + 1, : 2 * _LAG_PX + 1]


def _taper() -> Array:
    """Brings the autocovariance to zero over the last lags."""
    edge = np.minimum((_LAG_PX + 1 - np.abs(np.arange(-_LAG_PX, _LAG_PX + 1))) / 4, 1.0)
    return np.outer(edge, edge)


# -- making it ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Grain:
    """Grain for one layer: a periodic ``tile`` f32[T,T,3] of unit luma deviation, ``amount`` f32[256] by the object's brightness,
    and what makes it repeatable."""

    tile: Array
    amount: Array
    seed: tuple[int, int]

    def add(self, rgb: Array, frame_index: int) -> Array:
        """``rgb`` f32[h,w,3] in 0..255 with this frame's grain."""
        rng = np.random.default_rng([*self.seed, frame_index])
        rows = (np.arange(rgb.shape[0]) + rng.integers(_TILE_PX)) % _TILE_PX
        cols = (np.arange(rgb.shape[1]) + rng.integers(_TILE_PX)) % _TILE_PX
        tile = self.tile[::-1] if rng.integers(2) else self.tile
        tile = tile[:, ::-1] if rng.integers(2) else tile
        luma = np.clip(rgb @ _LUMA, 0, 255).astype(np.uint8)
        return np.clip(rgb + tile[rows[:, None], cols] * np.take(self.amount, luma)[..., None], 0, 255)


def build_grain(footage: Noise, own_sigma: float, strength: float, seed: tuple[int, int]) -> Grain:
    """Grain that lifts an object whose own noise is ``own_sigma`` (8-bit levels, as seen in the picture) to the footage's."""
    missing = np.sqrt(np.maximum(footage.sigma**2 - np.float32(own_sigma) ** 2, 0))
    return Grain(_tile(footage, np.random.default_rng(seed)), (strength * missing).astype(np.float32), seed)


def _tile(noise: Noise, rng: np.random.Generator) -> Array:
    padded = np.zeros((_TILE_PX, _TILE_PX))
    padded[: 2 * _LAG_PX + 1, : 2 * _LAG_PX + 1] = noise.covariance
    spectrum = np.fft.rfft2(np.roll(padded, (-_LAG_PX, -_LAG_PX), axis=(0, 1))).real
    amplitude = np.sqrt(np.maximum(spectrum, 0))
    white = rng.standard_normal((3, _TILE_PX, _TILE_PX))
    shaped = np.fft.irfft2(np.fft.rfft2(white, axes=(1, 2)) * amplitude, s=(_TILE_PX, _TILE_PX), axes=(1, 2))
    colored = (shaped.transpose(1, 2, 0) @ noise.mix.T).astype(np.float32)
    colored -= colored.mean(axis=(0, 1))
    return colored / np.std(colored @ _LUMA)


def own_noise(reference: Reference, scale: float) -> float:
    """The reference's noise, in 8-bit levels of luma, as it shows when the reference is drawn at ``scale`` clip pixels per pixel.

    Where the reference has no flat part its noise is taken as nothing. Averaging over a pixel of the picture weakens it.
    """
    solid = cv2.erode((reference.alpha >= 0.999).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    image = np.where(solid[..., None], reference.image, np.uint8(0))
    noise = measure_noise([image])
    if noise is None:
        return 0.0
    averaged = min(scale, 1.0) ** 2 * float(noise.covariance.sum())
    return float(np.median(noise.sigma)) * float(np.sqrt(min(1.0, averaged)))
