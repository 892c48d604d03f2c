"""Measured noise and made grain: level, correlation, renewal, what is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import media
from pipeline.composite.engine import CompositeEngine
from pipeline.composite.grain import Noise, build_grain, measure_noise, own_noise
from pipeline.engines import ignore_progress
from pipeline.types import Frame, InsertionRequest, Reference
from tests.pipeline.composite.scenes import OFF, make_layer, make_plain, paint_texture, turn_off
from tests.tiny import make_clip

HW = (192, 256)
LUMA = np.array([0.2126, 0.7152, 0.0722])


def make_noise(hw: tuple[int, int], sigma: float, blur_px: float, seed: int) -> np.ndarray:
    """f64[H,W,3] of deviation ``sigma`` per channel, channels correlated, spread in space by ``blur_px``."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, (*hw, 3)) + 0.7 * rng.normal(0, 1, (*hw, 1))
    noise = cv2.GaussianBlur(noise, (0, 0), blur_px) if blur_px else noise
    return sigma * noise / noise.std()


def paint_scene(sigma: float, blur_px: float, seed: int, textured: bool = False) -> np.ndarray:
    """A gradient, half of it textured if asked, with noise."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    scene = np.stack([70 + 0.3 * x, 90 + 0.3 * y, 150 - 0.2 * x], axis=-1)
    if textured:
        scene[:, : HW[1] // 2] = paint_texture((HW[0], HW[1] // 2))
    return np.clip(np.round(scene + make_noise(HW, sigma, blur_px, seed)), 0, 255).astype(np.uint8)


def measure(sigma: float, blur_px: float, textured: bool = False) -> Noise | None:
    return measure_noise([paint_scene(sigma, blur_px, seed, textured) for seed in range(4)])


@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("blur_px", [0.0, 0.8])
@pytest.mark.parametrize("sigma", [1.5, 5.0])
def test_made_grain_is_like_the_measured(sigma: float, blur_px: float, textured: bool) -> None:
    noise = measure(sigma, blur_px, textured)
    assert noise is not None
    made = build_grain(noise, 0.0, 1.0, (0, 0)).add(np.full((*HW, 3), 128, np.float32), 3) - 128
    true = make_noise(HW, sigma, blur_px, 99)
    assert np.allclose(made.std(axis=(0, 1)), true.std(axis=(0, 1)), rtol=0.12)

    def correlation(values: np.ndarray, shift: int) -> float:
        return float(np.corrcoef(values[:, shift:].ravel(), values[:, :-shift].ravel())[0, 1])

    for shift in (1, 2, 4):
        assert abs(correlation(made @ LUMA, shift) - correlation(true @ LUMA, shift)) < 0.12
    colors = np.corrcoef(made.reshape(-1, 3).T) - np.corrcoef(true.reshape(-1, 3).T)
    assert np.abs(colors).max() < 0.1


def test_clean_footage_has_no_grain() -> None:
    assert measure(0.0, 0.0) is None
    assert measure(0.2, 0.0) is None
    assert measure_noise([np.full((8, 8, 3), 99, np.uint8)]) is None
    assert measure_noise([np.full((*HW, 3), 255, np.uint8)]) is None


def test_still_texture_is_not_noise() -> None:
    """A lawn in front of a locked-off camera: the same fine texture all over every frame, little noise."""
    lawn = 90 + make_noise(HW, 8, 0.8, seed=50)
    images = [np.clip(lawn + make_noise(HW, 1.5, 0, seed), 0, 255).astype(np.uint8) for seed in range(4)]
    assert measure_noise(images) is None
    images = [np.where(np.indices(HW)[1][..., None] < 160, image, paint_scene(1.5, 0, seed)) for seed, image in enumerate(images)]
    noise = measure_noise(images)
    assert noise is not None
    luma_sigma = (make_noise(HW, 1.5, 0, 9) @ LUMA).std()
    assert abs(float(np.median(noise.sigma)) - luma_sigma) < 0.15 * luma_sigma


def test_follows_brightness() -> None:
    """Noise that is nearly twice as strong in the dark half."""
    scene = np.full((*HW, 3), 50.0)
    scene[:, HW[1] // 2 :] = 200
    strength = np.where(scene[..., :1] < 100, 4.2, 2.3)
    images = [np.clip(scene + strength * make_noise(HW, 1, 0, seed), 0, 255).astype(np.uint8) for seed in range(6)]
    noise = measure_noise(images)
    assert noise is not None
    assert 1.6 < noise.sigma[50] / noise.sigma[200] < 2.0


def test_new_for_every_frame_and_repeatable() -> None:
    noise = measure(3.0, 0.0)
    assert noise is not None
    flat = np.full((40, 50, 3), 128, np.float32)
    first, other = build_grain(noise, 0, 1, (7, 0)), build_grain(noise, 0, 1, (7, 1))
    assert np.array_equal(first.add(flat, 3), build_grain(noise, 0, 1, (7, 0)).add(flat, 3))
    for another in (first.add(flat, 4), other.add(flat, 3)):
        assert abs(np.corrcoef((first.add(flat, 3) - 128).ravel(), (another - 128).ravel())[0, 1]) < 0.2
    half = build_grain(noise, 0, 0.5, (7, 0)).add(flat, 3) - 128
    assert np.allclose(half * 2, first.add(flat, 3) - 128, atol=1e-3)


def test_own_noise_counts() -> None:
    rng = np.random.default_rng(0)
    noisy = Reference(np.clip(128 + rng.normal(0, 4, (200, 200, 3)), 0, 255).astype(np.uint8), np.ones((200, 200), np.float32))
    luma_sigma = 4 * np.sqrt((LUMA**2).sum())
    assert abs(own_noise(noisy, 1.0) - luma_sigma) < 0.15 * luma_sigma
    assert abs(own_noise(noisy, 0.25) - luma_sigma / 4) < 0.3 * luma_sigma / 4
    assert own_noise(make_plain((90, 120, 60), (200, 200)), 1.0) == 0
    noise = measure(5.0, 0.0)
    assert noise is not None
    assert np.allclose(build_grain(noise, 1.0, 1.0, (0, 0)).amount ** 2 + 1.0, noise.sigma**2, rtol=1e-4)
    assert not build_grain(noise, 99.0, 1.0, (0, 0)).amount.any()


@pytest.mark.parametrize("reference_sigma", [0.0, 2.5])
def test_the_insert_is_as_noisy_as_the_footage(tmp_path: Path, reference_sigma: float) -> None:
    """Through the engine: a flat grey card at 1:1 in noisy footage; deviations within 20 % of the footage's."""
    clip = media.probe_clip(
        make_clip(
            tmp_path / "grain.mkv", codec="ffv1", pixel_format="bgr0", color=None, num_frames=7, hw=HW,
            images=lambda index: paint_scene(4.0, 0.6, index),
        )
    )  # fmt: skip
    card = np.clip(128 + np.random.default_rng(5).normal(0, reference_sigma, (96, 96, 3)), 0, 255).astype(np.uint8)
    layer = make_layer(Reference(card, np.ones((96, 96), np.float32)), {0: (0.3, 0.25, 0.675, 0.75)}, turn_off(grain=1), clip)
    frames: list[Frame] = list(CompositeEngine().run(InsertionRequest(clip, (0, 7), (layer,)), ignore_progress, lambda text: None))
    inside = np.concatenate([frame.image[60:132, 88:160].reshape(-1, 3) for frame in frames]).astype(float)
    truth = make_noise(HW, 4.0, 0.6, 99).std(axis=(0, 1))
    assert np.allclose(inside.std(axis=0), truth, rtol=0.2)
    pair = frames[2].image[60:132, 88:160].astype(float), frames[3].image[60:132, 88:160].astype(float)
    fresh = 1 - (reference_sigma / 4.0) ** 2
    assert np.std(pair[0] - pair[1]) > 0.75 * np.sqrt(2 * fresh) * truth.mean()
    plain = replace(layer, blend=OFF)
    frame = next(iter(CompositeEngine().run(InsertionRequest(clip, (0, 7), (plain,)), ignore_progress, lambda text: None)))
    assert np.abs(frame.image[60:132, 88:160].astype(int).std(axis=(0, 1)) - card.std(axis=(0, 1))).max() < 0.6
