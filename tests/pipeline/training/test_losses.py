"""The weights of the loss by hand, the timesteps' spans, the dropout's rates."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.losses import (
    MAX_WEIGHT,
    DropoutRates,
    box_weights,
    draw_dropout,
    sample_timesteps,
    trajectory_weights,
    weighted_loss,
)


def test_box_loss_weighs_the_inside_lambda_times_as_much() -> None:
    masks = torch.zeros(1, 1, 2, 4, 4)
    masks[..., :2] = 1
    weights = box_weights(masks, 2.0)
    assert weights[..., 0] / weights[..., 3] == pytest.approx(torch.full((1, 1, 2, 4), 2.0))
    assert weights.mean().item() == pytest.approx(1)


def test_the_loss_is_the_weighted_mean_square() -> None:
    prediction, target = torch.zeros(1, 3, 2, 4, 4), torch.ones(1, 3, 2, 4, 4)
    target[..., 2:] = 0
    masks = torch.zeros(1, 1, 2, 4, 4)
    masks[..., :2] = 1
    assert weighted_loss(prediction, target).item() == pytest.approx(0.5)
    assert weighted_loss(prediction, target, box_weights(masks, 3.0)).item() == pytest.approx(0.5 * 3 / 2)


def one_path(length: float, num_frames: int = 4) -> torch.Tensor:
    steps = torch.linspace(0, length, num_frames)
    return torch.stack([4.5 + steps, torch.full_like(steps, 4.5)], dim=1)[None]


def test_one_trajectory_by_hand() -> None:
    points = one_path(0.0)[None]
    weights = trajectory_weights(points, torch.ones(1, 1, 4, dtype=torch.bool), (16, 16), scale=2.0, radius=1.0)
    raw = torch.ones(16, 16)
    for row, column in ((4, 4), (3, 4), (5, 4), (4, 3), (4, 5)):  # cells whose centre lies within 1 of (4.5, 4.5)
        raw[row, column] = 2.0  # K = 1, R normalised = 1: lambda inside, (1 - A) / K = 1 outside
    assert torch.allclose(weights[0, 0, 0], raw / raw.mean())


def test_the_longer_path_weighs_more_and_weights_stay_bounded() -> None:
    points = torch.cat([one_path(0.0), one_path(9.0) + torch.tensor([0.0, 7.0])])[None]
    weights = trajectory_weights(points, torch.ones(1, 2, 4, dtype=torch.bool), (16, 16))
    still, moving = weights[0, 0, 0, 4, 4], weights[0, 0, 0, 11, 4]
    assert moving > 1.5 * still > 0
    assert weights.max() / weights.min() <= MAX_WEIGHT + 1e-5
    assert weights.mean().item() == pytest.approx(1)


def test_discs_follow_their_points_and_hidden_points_weigh_nothing() -> None:
    points = one_path(8.0)[None]
    is_visible = torch.tensor([[[True, True, False, True]]])
    weights = trajectory_weights(points, is_visible, (16, 16))
    assert weights[0, 0, 0].argmax().item() // 16 in (2, 3, 4, 5, 6)
    assert weights[0, 0, 3, 4, 12] > weights[0, 0, 3, 4, 4]
    assert weights[0, 0, 2].max() == weights[0, 0, 2].min()


def test_no_points_no_weights() -> None:
    nothing = trajectory_weights(torch.zeros(2, 3, 4, 2), torch.zeros(2, 3, 4, dtype=torch.bool), (8, 8))
    assert torch.equal(nothing, torch.ones(2, 1, 4, 8, 8))
    assert torch.equal(
        trajectory_weights(torch.zeros(1, 0, 4, 2), torch.zeros(1, 0, 4, dtype=torch.bool), (8, 8)), torch.ones(1, 1, 4, 8, 8)
    )


def test_each_source_teaches_its_part_of_the_schedule() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = sample_timesteps(["coarse_video"] * 4000, 1000, generator)
    assert steps.min() >= 0 and steps.max() <= 999
    assert (steps >= 500).float().mean().item() == pytest.approx(0.7 + 0.3 / 2, abs=0.02)  # AnyDoor's 0.85
    pictures = sample_timesteps(["image"] * 4000, 1000, generator)
    assert (pictures >= 500).float().mean().item() == pytest.approx(0.15, abs=0.02)
    plain = sample_timesteps(["image"] * 4000, 1000, generator, is_adaptive=False)
    assert (plain >= 500).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_conditions_drop_at_their_rates() -> None:
    identity, warper = draw_dropout(20_000, DropoutRates(0.1, 0.2, 0.05), torch.Generator().manual_seed(1))
    assert identity.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert warper.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert (identity & warper).float().mean().item() == pytest.approx(0.05, abs=0.01)
