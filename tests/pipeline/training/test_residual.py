"""Checkpoints that predict the residual of plain pasting: untrained they are plain pasting, through the whole system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.heldout import find_moves, paste
from pipeline.masks import encode_rle
from pipeline.training.composites import CompositeOptions, build_composite
from pipeline.training.losses import sample_timesteps
from pipeline.training.previews import insert
from pipeline.training.samples import SampleOptions, build_sample
from pipeline.types import MaskTrack, Reference
from pipeline.videoanydoor import scales
from pipeline.videoanydoor.checkpoints import build_random
from pipeline.videoanydoor.conditioning import build_conditioning, to_frames
from pipeline.videoanydoor.denoiser import add_residual
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.pixel_warper import LightReader
from pipeline.videoanydoor.regions import CropWindow, crop_frame, uncrop_mask
from pipeline.videoanydoor.sampling import SamplingOptions
from tests.tiny_models import make_modules, make_scheduler

RED = (220, 30, 60)


def make_pipe() -> VideoAnydoorPipeline:
    return build_random(scales.SCALES["pico"], "warped", 0, "silhouette", True)


def make_reference() -> Reference:
    """A red disc."""
    y, x = np.mgrid[:40, :40] + 0.5
    image = np.full((40, 40, 3), RED, np.uint8)
    return Reference(image, (np.hypot(x - 20, y - 20) < 17).astype(np.float32), {"a": (14.0, 20.0), "b": (26.0, 20.0)})


def make_composite(seed: int = 0):
    rng = np.random.default_rng(seed)
    footage = np.repeat(rng.integers(60, 200, (1, 64, 80, 3), np.uint8), 3, axis=0)
    return build_composite("c", footage, make_reference(), CompositeOptions(cast=0.4, exposure=0.6), rng)


def condition(clip, grid, **changes):
    layer = replace(clip.to_layer(), **changes)
    conditioning = build_conditioning(layer, clip.to_clip(), (0, clip.num_frames), grid)
    scene = np.stack([crop_frame(image, conditioning.window, index) for index, image in enumerate(clip.scene)])
    return conditioning, scene


def test_untrained_it_is_plain_pasting_whatever_the_settings(tmp_path) -> None:
    make_pipe().save_pretrained(tmp_path / "residual")
    pipe = VideoAnydoorPipeline.from_pretrained(tmp_path / "residual")
    assert pipe.grid == make_pipe().grid and pipe.grid.is_residual and pipe.grid.mask_shape == "silhouette"
    conditioning, scene = condition(make_composite(), pipe.grid)
    pasted = conditioning.lay_over(scene)
    red = (np.abs(pasted.astype(int) - RED).max(axis=-1) < 3).mean()
    assert 0.02 < red < 0.5 and (pasted == scene).all(axis=-1).mean() > 0.4
    options = SamplingOptions(num_inference_steps=3, guidance_scale=5.0, window=2, overlap=1)
    made = pipe(pasted, conditioning.masks(), conditioning.references, conditioning.content, conditioning.motion, options=options)
    assert (made == pasted).all()


def test_masks_of_the_silhouette_are_whole_cells_around_it_within_the_box() -> None:
    grid = replace(make_pipe().grid, size=64)
    conditioning, _ = condition(make_composite(), grid)
    boxed, _ = condition(make_composite(), replace(grid, mask_shape="box"))
    masks, covered = conditioning.masks(), conditioning.pasted.covered
    assert (masks <= boxed.masks()).all() and masks.sum() < boxed.masks().sum()
    assert masks[(covered > 0.5) & boxed.masks()].all()
    cells = masks.reshape(3, grid.size // 4, 4, grid.size // 4, 4)
    assert (cells.any(axis=(2, 4)) == cells.all(axis=(2, 4))).all()


def test_what_is_to_be_replaced_is_never_seen() -> None:
    clip = make_composite()
    where = np.zeros((64, 80), np.bool_)
    where[10:40, 10:50] = True
    target = MaskTrack(where.shape, (encode_rle(where),) * 3)
    conditioning, scene = condition(clip, make_pipe().grid, kind="replace", target=target)
    masks = conditioning.masks()[..., None]
    assert (conditioning.lay_over(scene) == conditioning.lay_over(np.where(masks, 255 - scene, scene))).all()
    assert (conditioning.lay_over(scene)[~masks[..., 0]] == scene[~masks[..., 0]]).all()


def test_a_sample_shows_the_scene_where_it_is_known_and_never_the_truth() -> None:
    clip, grid, plain = make_composite(), make_pipe().grid, SampleOptions(no_points=0, few_points=0, hidden=0)
    sample = build_sample(clip, grid, plain, np.random.default_rng(0))
    _, scene = condition(clip, grid)
    assert (to_frames(sample.masked) == scene).all(axis=-1).mean() > 0.3
    unknown = replace(clip, scene=None)
    dark = replace(unknown, frames=np.where(clip.frames > 0, clip.frames // 2, clip.frames))
    one, two = (build_sample(each, grid, plain, np.random.default_rng(0)) for each in (unknown, dark))
    inside = one.mask.repeat_interleave(4, 3).repeat_interleave(4, 4).bool().expand(-1, 3, -1, -1, -1)
    assert torch.equal(one.masked[inside], two.masked[inside]) and not torch.equal(one.video[inside], two.video[inside])


def test_a_residual_needs_folded_pixels() -> None:
    with pytest.raises(ValueError, match="folded pixels"):
        VideoAnydoorPipeline(**make_modules(), scheduler=make_scheduler(), size=32, is_residual=True)
    with pytest.raises(ValueError, match="mask_shape"):
        VideoAnydoorPipeline(**make_modules(), scheduler=make_scheduler(), size=32, mask_shape="star")  # type: ignore[arg-type]


def test_what_is_scored_is_pasted_at_the_clips_own_resolution() -> None:
    clip = make_composite()
    made = insert(make_pipe(), clip, SamplingOptions(num_inference_steps=1, guidance_scale=1.0))
    plain, where = paste(clip, clip.scene)
    assert np.abs(made.astype(int) - plain).max() <= 1 and where.mean() > 0.02  # alphas are rounded to 8 bits
    hidden = insert(make_pipe(), replace(clip, scene=None), SamplingOptions(num_inference_steps=1, guidance_scale=1.0))
    assert np.abs(hidden[where].astype(int) - plain[where]).mean() < 3 and (hidden != plain).any()


def test_a_result_is_pasted_inside_its_silhouette_alone() -> None:
    mask = np.zeros((32, 32), np.bool_)
    mask[8:20, 12:24] = True
    window = CropWindow(np.array([[10, 20]]), 96, 32)
    alpha = uncrop_mask(mask, window, 0, (slice(20, 116), slice(10, 106)))
    assert not alpha[~np.repeat(np.repeat(mask, 3, axis=0), 3, axis=1)].any()
    assert (alpha[24 + 12 : 60 - 12, 36 + 12 : 72 - 12] > 0.99).all() and 0 < alpha[24 + 7, 50] < 1


def test_a_share_of_the_samples_sees_nothing_but_noise() -> None:
    steps = sample_timesteps(["image"] * 2000, 1000, torch.Generator().manual_seed(0), pure_noise=0.4)
    assert 0.36 < float((steps == 999).float().mean()) < 0.44 and int(steps.min()) < 10


def test_a_known_move_is_found_again() -> None:
    y, x = np.mgrid[:64, :64] / 64
    texture = 127 + 60 * np.sin(21 * x + 9 * y) + 60 * np.sin(17 * y - 11 * x * y)
    before = np.repeat(np.clip(texture, 0, 255).astype(np.uint8)[None, ..., None], 3, axis=3)
    moves = find_moves(before, np.roll(before, (2, 3), axis=(1, 2)), np.array([[30.0, 34.0]]))
    assert np.abs(moves - [3, 2]).max() < 0.3


def test_light_learns_what_a_scene_does_to_a_colour() -> None:
    torch.manual_seed(0)
    reader = LightReader()
    optimizer = torch.optim.Adam(reader.parameters(), lr=0.01)
    assert not reader(torch.rand(3, 100)).any()  # untrained: no change
    assert all(reader.describe(torch.full((3, 5), level)).isfinite().all() for level in (0.0, 0.5, 1.0))

    def loss_of_dimming(generator: torch.Generator) -> torch.Tensor:
        gain = 0.3 + 0.7 * torch.rand(3, 1, generator=generator)
        return (reader(torch.rand(3, 400, generator=generator) * gain) - 2 * (gain[:, 0] - 1)).square().mean()

    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        optimizer.zero_grad()
        loss_of_dimming(generator).backward()
        optimizer.step()
    with torch.no_grad():
        assert sum(float(loss_of_dimming(generator)) for _ in range(20)) / 20 < 0.05  # the shares' own variance is 0.16


def test_what_is_clipped_teaches_no_light() -> None:
    light = torch.full((1, 3), 0.4, requires_grad=True)
    pasted = torch.tensor([1.9, 0.0]).view(1, 1, 1, 1, 2).expand(1, 48, 1, 1, 2)
    made = add_residual(pasted, torch.zeros_like(pasted), light, torch.ones_like(pasted), 2.0)
    assert float(made.detach().max()) == 2.0
    made[..., 0].sum().backward()
    assert not light.grad.any()
    light.grad = None
    add_residual(pasted, torch.zeros_like(pasted), light, torch.ones_like(pasted), 2.0)[..., 1].sum().backward()
    assert (light.grad > 0).all()


def test_the_light_changes_the_object_and_nothing_else() -> None:
    pipe = make_pipe()
    torch.nn.init.constant_(pipe.pixel_warper.light.out.bias, -0.5)
    conditioning, scene = condition(make_composite(), pipe.grid)
    pasted, covered = conditioning.lay_over(scene), conditioning.pasted.covered
    options = SamplingOptions(num_inference_steps=1, guidance_scale=1.0, window=3, overlap=1)
    guiding = (conditioning.references, conditioning.content, conditioning.motion)
    made = pipe(pasted, conditioning.masks(), *guiding, options=options)
    assert (made[covered == 0] == pasted[covered == 0]).all()
    darkened = 0.75 * pasted[covered == 1].astype(float) - 0.25 * 0.2 * 127.5  # -0.5 of (brightness + 0.1), of a range of two
    assert np.abs(made[covered == 1] - np.clip(darkened, 0, 255)).max() <= 1.1
