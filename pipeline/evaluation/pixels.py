"""Scores of pictures against pictures, u8 RGB in, plain numbers out."""

from __future__ import annotations

import numpy as np

from ..types import Array

PSNR_CAP_DB = 60.0
"""What an exact copy scores, so that means stay finite."""

SSIM_SIGMA_PX = 1.5
"""Standard deviation of the window (Wang et al. 2004)."""

_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def squared_error(image: Array, truth: Array, region: Array | None = None) -> tuple[float, int]:
    """Sum of squared differences over the samples of ``region`` bool[H,W] (all of them without one), and how many there are."""
    _check_pair(image, truth)
    difference = image.astype(np.int32) - truth
    if region is not None:
        difference = difference[region]
    return float(np.square(difference).sum(dtype=np.float64)), difference.size


def psnr_db(image: Array, truth: Array, region: Array | None = None) -> float:
    """10 log10(255^2 / MSE) over all three channels of ``region``, at most ``PSNR_CAP_DB``; ``nan`` for an empty region."""
    return to_psnr_db(*squared_error(image, truth, region))


def to_psnr_db(error_sum: float, num_samples: int) -> float:
    """The same from a sum of squared errors, so that a video's error can be added up before the logarithm."""
    if num_samples == 0:
        return float("nan")
    mean = error_sum / num_samples
    return PSNR_CAP_DB if mean == 0 else float(min(PSNR_CAP_DB, 10 * np.log10(255.0**2 / mean)))


def ssim_map(image: Array, truth: Array) -> Array:
    """Structural similarity of luma, f64[H,W] in -1..1: Gaussian window of 1.5 px, K1 0.01, K2 0.03 (Wang et al. 2004, Eq. 13)."""
    import cv2

    _check_pair(image, truth)
    x, y = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float64) for each in (image, truth))

    def local_mean(values: Array) -> Array:
        return cv2.GaussianBlur(values, (11, 11), SSIM_SIGMA_PX, borderType=cv2.BORDER_REFLECT)

    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    similarity: Array = ((2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)) / (
        (mean_x**2 + mean_y**2 + _SSIM_C1) * (var_x + var_y + _SSIM_C2)
    )
    return similarity


def ssim(image: Array, truth: Array, region: Array | None = None) -> float:
    """The mean of ``ssim_map`` over ``region``; ``nan`` for an empty one."""
    values = ssim_map(image, truth)
    chosen = values if region is None else values[region]
    return float(chosen.mean()) if chosen.size else float("nan")


def box_iou(box_px: Array, other_px: Array) -> float:
    """Intersection over union of two boxes x0 y0 x1 y1; 0 where either is empty."""
    low, high = np.maximum(box_px[:2], other_px[:2]), np.minimum(box_px[2:], other_px[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float(np.prod(np.clip(each[2:] - each[:2], 0, None))) for each in (np.asarray(box_px), np.asarray(other_px))]
    return common / (sum(areas) - common) if min(areas) > 0 else 0.0


def _check_pair(image: Array, truth: Array) -> None:
    if image.shape != truth.shape or image.dtype != np.uint8 or truth.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"expected two u8[H,W,3] of one size, got {image.dtype}{image.shape} and {truth.dtype}{truth.shape}")
