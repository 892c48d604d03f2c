"""Pixels and prompts on their way to SAM 2 and back: against transformers' own arithmetic, and conventions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.segmentation.preprocessing import MEAN, STD, decode_mask, encode_image, encode_prompt
from pipeline.types import Click, Prompt

from .tiny_sam2 import SIZE, make_sam2

CPU = torch.device("cpu")


def test_the_picture_is_stretched_smoothed_and_normalised():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 200, 3), np.uint8)
    found = encode_image(image, 64, CPU)
    assert found.shape == (1, 3, 64, 64) and found.dtype == torch.float32
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    smooth = F.interpolate(pixels, size=(64, 64), mode="bilinear", align_corners=False, antialias=True)
    expected = (smooth / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert (found - expected).abs().max() <= 1.01 / 255 / min(STD), "rounded to whole levels twice, across and down"


def test_mean_and_deviation_are_those_that_transformers_uses():
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    assert list(MEAN) == list(IMAGENET_DEFAULT_MEAN) and list(STD) == list(IMAGENET_DEFAULT_STD)


def test_a_picture_that_cannot_be_written_to_is_fine():
    image = np.full((8, 8, 3), 124, np.uint8)
    image.flags.writeable = False
    assert encode_image(image[:, ::-1], 64, CPU).abs().max() < 0.4


def test_convention_points_are_continuous_and_scaled_by_width_and_height():
    """The model adds half a pixel; what its positional encoding gets is then the place as a share of the picture, exactly."""
    prompt = Prompt((Click(0.0, 0.0), Click(200.0, 90.0, False), Click(50.5, 22.5)), (10.0, 9.0, 100.0, 45.0))
    points, labels = encode_prompt(prompt, (90, 200), SIZE)
    assert points.shape == (1, 1, 5, 2) and labels.tolist() == [[[2, 3, 1, 0, 1]]]
    shares = (points[0, 0] + 0.5) / SIZE
    expected = [[0.05, 0.1], [0.5, 0.5], [0, 0], [1, 1], [0.2525, 0.25]]
    np.testing.assert_allclose(shares.numpy(), expected, atol=1e-6)


def test_what_the_model_makes_of_a_point_is_the_encoding_of_its_place():
    model = make_sam2()
    points, labels = encode_prompt(Prompt((Click(50.0, 45.0),)), (90, 200), SIZE)
    sparse, _ = model.prompt_encoder(points, labels, None, None)
    place = model.shared_image_embedding(torch.tensor([[[[0.25, 0.5]]]]))
    shared = model.prompt_encoder.shared_embedding(torch.tensor([[[[0.25, 0.5]]]]))
    expected = shared[0, 0, 0] + model.prompt_encoder.point_embed.weight[1]
    torch.testing.assert_close(sparse[0, 0, 0], expected, atol=1e-4, rtol=0)
    assert place.shape == shared.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_come_back_at_the_clips_size(dtype):
    low = torch.full((1, 1, 4, 4), -3.0, dtype=dtype)
    low[..., :2] = 5.0
    found = decode_mask(low, (30, 50))
    assert found.shape == (30, 50) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, :18], 5, rtol=1e-5)
    np.testing.assert_allclose(found[:, 32:], -3, rtol=1e-5)
    assert 0.4 < (found > 0).mean() < 0.6
