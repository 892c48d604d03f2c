"""Training data: tracks and boxes lie on what they name, samples are deterministic, shards survive damage."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.training.clips import TrainingClip, decode_clip, encode_clip
from pipeline.training.composites import CompositeOptions, build_composite, choose_footage
from pipeline.training.points import choose_points
from pipeline.training.samples import SampleOptions, build_sample, collate
from pipeline.training.shards import ShardReader, write_shards
from pipeline.training.simulated import SimulatedOptions, build_simulated
from pipeline.training.sources import Mixture, open_sources
from pipeline.types import Reference
from pipeline.videoanydoor.conditioning import Grid, to_frames
from tests.pipeline.training.material import make_material, tiny_config

GRID = Grid(size=64, stride=4, reference_size=64, is_warped=True)
PLAIN = CompositeOptions(cast=0, exposure=0, shadow=0)


def dotted_reference(size: int = 48) -> Reference:
    """A white square with two black dots, named and placed."""
    image = np.full((size, size, 3), 255, np.uint8)
    y, x = np.mgrid[:size, :size] + 0.5
    points = {"a": (14.0, 14.0), "b": (34.0, 30.0)}
    for px, py in points.values():
        image[np.hypot(x - px, y - py) < 4] = 0
    return Reference(image, np.ones((size, size), np.float32), points)


def footage(num_frames: int = 5, hw: tuple[int, int] = (120, 160)) -> np.ndarray:
    return np.full((num_frames, *hw, 3), 128, np.uint8)


def dark_centre(image: np.ndarray, near: np.ndarray, radius: float) -> np.ndarray:
    """Centre of mass of what is dark around a place, in pixels."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    weight = np.clip(120.0 - image.mean(axis=2), 0, None) * (np.hypot(x - near[0], y - near[1]) < radius)
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("seed", range(3))
def test_composites_put_every_point_on_its_trajectory(seed: int) -> None:
    clip = build_composite("c", footage(), dotted_reference(), PLAIN, np.random.default_rng(seed))
    assert clip.trajectories is not None
    x0, y0, x1, y1 = clip.boxes.boxes_px[0]
    radius = 0.16 * min(x1 - x0, y1 - y0)
    checked = 0
    for frame, image in enumerate(clip.frames):
        for place in clip.trajectories.points_px[:, frame]:
            if (place > radius + 1).all() and (place < np.array([160, 120]) - radius - 1).all():
                assert np.linalg.norm(dark_centre(image, place, radius) - place) < 0.6
                checked += 1
    assert checked >= 5


def test_simulated_clips_carry_points_and_boxes_exactly() -> None:
    picture = np.full((160, 200, 3), 128, np.uint8)
    options = SimulatedOptions()
    moved = 0.0
    for seed in range(4):
        clip = build_simulated("s", picture, dotted_reference(), 5, options, np.random.default_rng(seed))
        assert clip.frames.shape == (5, 80, 100, 3) and clip.source == "image"
        for frame in (0, 4):
            for place in clip.trajectories.points_px[:, frame]:
                if (place > 6).all() and (place < np.array([94, 74])).all():
                    assert np.linalg.norm(dark_centre(clip.frames[frame], place, 3.0) - place) < 0.6
        moved = max(moved, float(np.abs(clip.trajectories.points_px[:, 4] - clip.trajectories.points_px[:, 0]).max()))
    assert moved > 4


def test_light_changes_the_truth_and_not_the_reference() -> None:
    reference = dotted_reference()
    neutral = build_composite("n", footage(), reference, PLAIN, np.random.default_rng(1))
    lit = build_composite("l", footage(), reference, replace(PLAIN, cast=0.5, exposure=0.5), np.random.default_rng(1))
    assert np.array_equal(lit.reference.image, neutral.reference.image)
    corner = lit.frames[0, 0, 0].astype(int) - neutral.frames[0, 0, 0]
    assert np.abs(corner).max() > 5 and len(set(corner.tolist())) > 1


def test_a_sample_is_what_the_pipeline_is_given() -> None:
    clip = build_composite("c", footage(), dotted_reference(), PLAIN, np.random.default_rng(0))
    sample = build_sample(clip, GRID, SampleOptions(no_points=0, few_points=0), np.random.default_rng(0))
    assert sample.video.shape == (1, 3, 5, 64, 64) and sample.mask.shape == (1, 1, 5, 16, 16)
    inside = sample.mask.repeat_interleave(4, 3).repeat_interleave(4, 4).bool().expand(-1, 3, -1, -1, -1)
    assert (sample.masked[inside] == 0).all()
    assert torch.equal(sample.masked[~inside], sample.video[~inside])
    discs = to_frames(sample.motion)
    for frame in range(5):
        for x, y in sample.points[0, :, frame].tolist():
            if 3 < x < 61 and 3 < y < 61:
                assert discs[frame, int(y), int(x)].max() > 150  # the disc lies where the point is
    content = to_frames(sample.content)
    truth = to_frames(sample.video)
    is_white = (content > 200).all(axis=-1) & (truth > 200).all(axis=-1)
    assert is_white.any(axis=(1, 2)).all()  # the warped reference lies where the object is


def test_points_are_dropped_as_often_as_asked() -> None:
    clip = build_composite("c", footage(), dotted_reference(), PLAIN, np.random.default_rng(0))
    counts = [
        build_sample(clip, GRID, SampleOptions(no_points=0.5, few_points=0.0), np.random.default_rng(seed)).points.shape[1]
        for seed in range(24)
    ]
    assert set(counts) == {0, 2} and 5 <= counts.count(0) <= 19


def test_collate_fills_up_with_hidden_points() -> None:
    clip = build_composite("c", footage(), dotted_reference(), PLAIN, np.random.default_rng(0))
    with_points = build_sample(clip, GRID, SampleOptions(no_points=0, few_points=0), np.random.default_rng(0))
    without = build_sample(replace(clip, trajectories=None), GRID, SampleOptions(), np.random.default_rng(0))
    batch = collate([with_points, without])
    assert batch.points.shape[:2] == (2, 2) and batch.is_visible[0].all() and not batch.is_visible[1].any()


def test_clips_survive_storage() -> None:
    clip = build_composite("c", footage(), dotted_reference(), CompositeOptions(), np.random.default_rng(3))
    again = decode_clip("c", encode_clip(clip))
    assert np.array_equal(again.frames, clip.frames) and np.array_equal(again.boxes.boxes_px, clip.boxes.boxes_px)
    assert np.array_equal(again.trajectories.points_px, clip.trajectories.points_px) and again.source == clip.source
    assert np.array_equal(again.scene, clip.scene) and not np.array_equal(clip.scene, clip.frames)
    assert decode_clip("c", encode_clip(replace(clip, scene=None))).scene is None
    with pytest.raises(ValueError, match="not a training clip"):
        decode_clip("x", b"nonsense")


def test_a_clip_of_unequal_parts_is_refused() -> None:
    clip = build_composite("c", footage(), dotted_reference(), PLAIN, np.random.default_rng(0))
    with pytest.raises(ValueError, match="of one length"):
        TrainingClip("c", clip.frames[:3], clip.reference, clip.boxes, clip.trajectories, "image")


def make_clips(count: int):
    for number in range(count):
        clip = build_composite("c", footage(3, (48, 64)), dotted_reference(), CompositeOptions(), np.random.default_rng(number))
        yield replace(clip, key=f"{number:08d}")


def test_shards_are_read_in_any_order_and_damage_costs_only_itself(tmp_path, caplog) -> None:
    assert write_shards(tmp_path, make_clips(5), clips_per_shard=2) == 5
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
    reader = ShardReader(tmp_path)
    assert len(reader) == 5 and reader.read(4).key == "00000004"
    with pytest.raises(UserError, match="holds shards already"):
        write_shards(tmp_path, make_clips(1))
    whole = (tmp_path / "shard-00001.tar").read_bytes()
    (tmp_path / "shard-00001.tar").write_bytes(whole[: len(whole) // 3])
    with caplog.at_level(logging.WARNING):
        damaged = ShardReader(tmp_path)
        mixture = Mixture([damaged], [1.0], GRID, SampleOptions(), 0)
        assert {mixture.clip(number).key for number in range(24)} == {"00000000", "00000001", "00000002", "00000004"}
    assert "shard-00001.tar" in caplog.text


def test_samples_of_a_seed_are_always_the_same(tmp_path) -> None:
    root = make_material(tmp_path)
    config = tiny_config(
        root,
        sources=[
            {"kind": "composites", "footage": "footage", "cutouts": "cutouts"},
            {"kind": "simulated", "pictures": "pictures", "cutouts": "cutouts"},
        ],
    )
    one, two = (open_sources(config, root, GRID, 7) for _ in range(2))
    first = [one[number] for number in range(6)]
    second = [two[number] for number in reversed(range(6))][::-1]
    assert all(torch.equal(a.video, b.video) and torch.equal(a.motion, b.motion) for a, b in zip(first, second, strict=True))
    assert {sample.sources[0] for sample in first} == {"fine_video", "image"}
    other = open_sources(config, root, GRID, 8)
    assert not torch.equal(other[0].video, first[0].video)


def test_missing_material_is_named(tmp_path) -> None:
    root = make_material(tmp_path)
    for name, sentence in (("nowhere", "'nowhere' of the training data does not exist"), ("pictures", "transparent background")):
        config = tiny_config(root, sources=[{"kind": "composites", "footage": "footage", "cutouts": name}])
        with pytest.raises(UserError, match=sentence):
            open_sources(config, root, GRID, 0)
    with pytest.raises(UserError, match="has the 32 frames"):
        open_sources(tiny_config(root, num_frames=32), root, GRID, 0)


def test_footage_is_strided_and_never_short() -> None:
    clips = [np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)]
    seen = set()
    for seed in range(30):
        frames = choose_footage(clips, 5, 4, np.random.default_rng(seed))[:, 0, 0, 0].astype(int)
        steps = set(np.diff(frames).tolist())
        assert len(frames) == 5 and len(steps) == 1
        seen |= steps
    assert seen == {1, 2, 3, 4}
    with pytest.raises(ValueError, match="at least 30 frames"):
        choose_footage(clips, 30, 1, np.random.default_rng(0))


@pytest.mark.parametrize("choice", ["spread", "grid", "random", "dense"])
def test_points_lie_on_the_object(choice: str) -> None:
    alpha = np.zeros((60, 60), np.float32)
    alpha[10:50, 5:45] = 1
    image = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    points = choose_points(Reference(image, alpha), 8, choice, np.random.default_rng(0))
    assert len(points) == 8
    assert (points > [5, 10]).all() and (points < [45, 50]).all()
    spread = np.linalg.norm(points - points.mean(axis=0), axis=1).mean()
    assert (spread < 9) == (choice == "dense")
