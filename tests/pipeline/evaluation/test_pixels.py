"""Picture scores against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.pixels import PSNR_CAP_DB, box_iou, psnr_db, ssim, to_psnr_db


def noise_image(seed: int = 0, hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def test_an_exact_copy_scores_the_cap() -> None:
    image = noise_image()
    assert psnr_db(image, image) == PSNR_CAP_DB
    assert ssim(image, image) == pytest.approx(1)


def test_psnr_of_a_constant_error() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    assert psnr_db(image + np.uint8(5), image) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr_db(image - np.uint8(5), image) == pytest.approx(20 * np.log10(255 / 5))  # no wrap around in u8


def test_psnr_sees_its_region_alone() -> None:
    image = noise_image()
    spoiled = image.copy()
    spoiled[:10] = 0
    region = np.ones(image.shape[:2], bool)
    region[:10] = False
    assert psnr_db(spoiled, image, region) == PSNR_CAP_DB
    assert psnr_db(spoiled, image, ~region) < 12
    assert np.isnan(psnr_db(spoiled, image, np.zeros_like(region)))
    assert np.isnan(to_psnr_db(0, 0))


def test_ssim_agrees_with_an_independent_one() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    import cv2

    image = cv2.GaussianBlur(noise_image(), (0, 0), 2)
    other = cv2.GaussianBlur(image, (0, 0), 1.2)
    gray = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(float) for each in (image, other)]
    _, wanted = metrics.structural_similarity(
        *gray, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
    )
    inner = np.zeros(image.shape[:2], bool)
    inner[6:-6, 6:-6] = True  # at the picture's edge the two pad differently
    assert ssim(image, other, inner) == pytest.approx(wanted[inner].mean(), abs=2e-3)


def test_boxes_overlap_as_counted() -> None:
    assert box_iou(np.array([0, 0, 10, 10]), np.array([5, 0, 15, 10])) == pytest.approx(1 / 3)
    assert box_iou(np.array([0, 0, 10, 10]), np.array([10, 0, 20, 10])) == 0
    assert box_iou(np.array([0, 0, 0, 10]), np.array([0, 0, 10, 10])) == 0


def test_pictures_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="of one size"):
        psnr_db(noise_image(), noise_image(hw=(8, 8)))
    with pytest.raises(ValueError, match="of one size"):
        psnr_db(noise_image().astype(np.float32), noise_image())
