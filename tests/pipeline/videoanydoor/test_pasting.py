"""Back into the clip: residuals of plain pasting are taken up at the clip's own resolution, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.cache import ArtifactCache
from pipeline.composite.blend import Cutout
from pipeline.composite.engine import CompositeEngine
from pipeline.masks import encode_rle
from pipeline.media import probe_clip
from pipeline.model_cache import ModelCache
from pipeline.motion import BoxKey, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.runtime import Runtime
from pipeline.types import BlendSettings, InsertionRequest, Layer, MaskTrack, Reference, SamplingConfig
from pipeline.videoanydoor import scales
from pipeline.videoanydoor.checkpoints import build_random
from pipeline.videoanydoor.engine import VideoAnydoorEngine
from pipeline.videoanydoor.regions import CropWindow
from pipeline.videoanydoor.residual import spread, take_up
from tests.pipeline.training.material import use_tiny_scales
from tests.tiny import make_clip

HW, FRAMES = (72, 112), 2
PLAIN = BlendSettings(harmonize=0, shadow=0, motion_blur=0, grain=0, feather_px=0)
ANCHORS = {"a": (14.0, 20.0), "b": (86.0, 30.0), "c": (50.0, 60.0)}


def ignore(_):
    pass


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """``plain`` is untrained; ``dim`` takes a quarter of its brightness (and a tenth of white) from the object."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_scales(patch.setitem)
        pipe = build_random(scales.SCALES["pico"], "warped", 0, "silhouette", True)
    pipe.save_pretrained(folder / "plain")
    torch.nn.init.constant_(pipe.pixel_warper.light.out.bias, -0.5)
    pipe.save_pretrained(folder / "dim")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "street.mp4", num_frames=FRAMES, hw=HW))


def make_reference(seed=0):
    """Finer detail than any window keeps: random stripes in a round cut-out."""
    image = np.repeat(np.random.default_rng(seed).integers(0, 256, (80, 25, 3), np.uint8), 4, axis=1)
    y, x = np.mgrid[:80, :100] + 0.5
    return Reference(image, np.clip(36 - np.hypot(x - 50, y - 40), 0, 1).astype(np.float32), ANCHORS)


def make_layer(name="thing", box=(0.1, 0.1, 0.7, 0.9), points=3, seed=0, **more):
    keys = [TrajectoryKeys(name, {0: (0.2 + 0.25 * index, 0.3), 1: (0.25 + 0.2 * index, 0.35)}) for index, name in enumerate("abc")]
    trajectories = build_trajectory_set(keys[:points], ANCHORS, HW, FRAMES) if points else None
    boxes = build_box_sequence({0: BoxKey(box), 1: BoxKey((0.2, 0.15, 0.8, 0.95), 8.0)}, HW, FRAMES)
    layer = Layer(name, "insert", (make_reference(seed),), boxes=boxes, trajectories=trajectories, blend=PLAIN)
    return replace(layer, **more)


def run(folder, clip, *layers, name="plain", frame_range=(0, FRAMES), cache=None):
    sampling = SamplingConfig(name="videoanydoor", checkpoint=name, num_inference_steps=1)
    engine = VideoAnydoorEngine(
        folder, Runtime("cpu", "float32"), ModelCache(1 << 30), cache or ArtifactCache(folder / "artifacts")
    )
    return list(engine.run(InsertionRequest(clip, frame_range, layers, sampling), ignore, ignore))


def test_untrained_it_is_the_compositor_bit_for_bit_at_the_clips_own_resolution(checkpoints, clip) -> None:
    where = np.zeros(HW, np.bool_)
    where[30:50, 20:60] = True
    front = MaskTrack(HW, (encode_rle(where),) * FRAMES, feather_px=1.5)
    one, two = make_layer(holdouts=(front,)), make_layer("two", (0.5, -0.2, 1.2, 0.6), 1, 1, blend=replace(PLAIN, opacity=0.6))
    composed = CompositeEngine().run(InsertionRequest(clip, (0, FRAMES), (one, two), SamplingConfig()), ignore, ignore)
    for frame, expected in zip(run(checkpoints, clip, one, two), composed, strict=True):
        assert (frame.image == expected.image).all() and (frame.layer == expected.layer).all()
        assert frame.touched.mean() > 0.2 and (frame.image[~frame.touched] == frame.source.image[~frame.touched]).all()


def test_what_was_learned_is_taken_up_by_the_reference_itself(checkpoints, clip, tmp_path) -> None:
    cache, layer = ArtifactCache(tmp_path), make_layer(points=2)
    plain = run(checkpoints, clip, layer, cache=cache)
    dim = run(checkpoints, clip, layer, name="dim", cache=cache)
    for bright, dark in zip(plain, dim, strict=True):
        inside = bright.layer[..., 3] == 255
        wanted = 0.75 * bright.image[inside].astype(float) - 0.25 * 25.5
        assert np.abs(dark.image[inside] - np.clip(wanted, 0, 255)).mean() < 2  # the window is coarser, its rounding too
        assert (dark.image[~bright.touched] == bright.source.image[~bright.touched]).all() and (
            dark.touched == bright.touched
        ).all()
    again = run(checkpoints, clip, layer, name="dim", cache=cache)
    assert all((one.image == two.image).all() for one, two in zip(dim, again, strict=True))
    assert (run(checkpoints, clip, layer, name="dim", frame_range=(1, 2))[0].layer[..., 3] == dim[1].layer[..., 3]).all()


def test_a_reference_of_another_detail_is_another_result(checkpoints, clip, tmp_path) -> None:
    cache = ArtifactCache(tmp_path)
    one = run(checkpoints, clip, make_layer(points=0), make_layer("two", seed=1), cache=cache)
    image = make_reference().image.copy()
    image[40, 50] ^= 1  # too little for the window to show
    other = replace(make_layer(points=0), references=(replace(make_reference(), image=image),))
    kept = len(list(tmp_path.rglob("*.npz")))
    two = run(checkpoints, clip, other, make_layer("two", seed=1), cache=cache)
    assert len(list(tmp_path.rglob("*.npz"))) > kept and len(one) == len(two)


def test_what_is_replaced_goes_away_under_the_whole_reference(checkpoints, clip) -> None:
    where = np.zeros(HW, np.bool_)
    where[10:36, 8:40] = True
    target, boxes = MaskTrack(HW, (encode_rle(where),) * FRAMES), build_box_sequence({0: BoxKey((0.1, 0.2, 0.3, 0.45))}, HW, FRAMES)
    layer = make_layer(points=0, boxes=boxes, kind="replace", target=target, blend=replace(PLAIN, opacity=0.5))
    plain = run(checkpoints, clip, replace(layer, kind="insert", target=None))
    for frame, alone in zip(run(checkpoints, clip, layer), plain, strict=True):
        ground, inside = where & ~alone.touched, alone.layer[..., 3] == 128
        assert np.abs(frame.image[ground].astype(int) - 128).mean() < 12  # the untrained ground is the grey that hides
        seen = alone.layer[inside][:, :3].astype(float)
        assert np.abs(frame.image[inside & where] - (seen[where[inside]] + 128) / 2).mean() < 6
        assert (frame.image[~frame.touched] == frame.source.image[~frame.touched]).all() and not frame.touched.all()
    removed = replace(layer, kind="remove", references=(), boxes=None, trajectories=None, blend=PLAIN)
    for frame in run(checkpoints, clip, removed):
        assert np.abs(frame.image[14:32, 12:36].astype(int) - 128).max() <= 2


@pytest.mark.parametrize("side", [16, 32, 100])
def test_shares_are_spread_evenly_and_stay_with_what_they_are_of(side: int) -> None:
    window = CropWindow(np.array([[-7, 5]]), side, 32)
    rng, weights = np.random.default_rng(0), np.zeros((32, 32), np.float32)
    weights[8:20, 10:26] = 1
    values = np.where(weights[..., None] > 0, 0.3, rng.normal(0, 9, (32, 32, 3))).astype(np.float32)
    roi = (-3, 10, 40, 47)
    assert np.abs(spread(values, weights, window, 0, roi) - 0.3).max() < 1e-5, "what is beside the object does not bleed in"
    assert not spread(np.zeros((32, 32, 3), np.float32), weights, window, 0, roi).any()
    ramp = np.repeat(np.arange(32, dtype=np.float32)[None, :, None], 32, axis=0) + 0.5
    found = spread(ramp, np.ones((32, 32), np.float32), window, 0, (-7, 5, -7 + side, 5 + side))[side // 2, :, 0]
    inner = slice(side // 8, -side // 8)
    assert np.abs(found[inner] - ((np.arange(side) + 0.5) * 32 / side)[inner]).max() < 0.05, "each where it belongs"


def test_at_one_to_one_every_pixel_takes_its_own_share() -> None:
    rng, window = np.random.default_rng(1), CropWindow(np.array([[4, 6]]), 24, 24)
    pasted, made = (rng.integers(40, 200, (24, 24, 3), np.uint8) for _ in range(2))
    cutout = Cutout((4, 6, 28, 30), pasted.astype(np.float32), np.ones((24, 24), np.float32))
    lit = take_up(cutout, made, pasted, np.ones((24, 24), np.float32), window, 0)
    assert np.abs(lit.rgb - made).max() < 0.5
    assert (take_up(cutout, pasted, pasted, np.ones((24, 24), np.float32), window, 0).rgb == cutout.rgb).all()
