"""Sampling with tiny real networks: determinism, every condition counts, windows, schedules, saving."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from pipeline.errors import Cancelled, UserError
from pipeline.videoanydoor import drawing
from pipeline.videoanydoor.denoiser import added_embeddings, frame_context, predict_noise
from pipeline.videoanydoor.feature_cache import DeepFeatureCache
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline, anchor_colors
from pipeline.videoanydoor.pixel_warper import PixelWarper
from pipeline.videoanydoor.sampling import SamplingOptions, fresh_scheduler, guide, inversion_steps
from pipeline.videoanydoor.windows import blend_weights, blend_windows, draw_noise, split_windows
from tests.tiny_models import make_pipeline, make_scheduler, randomize_zeros

NUM_FRAMES = 4
OPTIONS = SamplingOptions(num_inference_steps=2, window=4, overlap=2)


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipe():
    """With the zero convolutions randomised, as after training."""
    built = make_pipeline()
    randomize_zeros(built.controlnet, built.pixel_warper)
    return built


def make_inputs(num_frames=NUM_FRAMES, content="reference", seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((num_frames, 32, 32), bool)
    masks[:, 8:24, 8:20] = True
    points = np.array(
        [[[10.0 + frame, 12.0] for frame in range(num_frames)], [[18.0, 20.0 - frame] for frame in range(num_frames)]]
    )
    visible = np.ones((2, num_frames), bool)
    palette = drawing.make_palette()[:2]
    reference = np.full((32, 32, 3), 255, np.uint8)
    reference[6:26, 8:24] = rng.integers(0, 256, (20, 16, 3))
    key_points = drawing.draw_key_points(reference, np.eye(3), points[:, 0], palette)
    return {
        "frames": rng.integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8),
        "masks": masks,
        "references": reference[None],
        "content": np.repeat(key_points[None], num_frames if content == "warped" else 1, axis=0),
        "motion": drawing.draw_trajectory_maps(points, visible, palette, 32),
    }


def differs(one, two):
    return float(np.abs(one.astype(float) - two.astype(float)).mean())


def test_same_seed_same_bytes_other_seed_other_bytes(pipe):
    inputs = make_inputs()
    first = pipe(**inputs, options=OPTIONS)
    assert first.shape == (NUM_FRAMES, 32, 32, 3) and first.dtype == np.uint8 and first.std() > 1
    assert (pipe(**inputs, options=OPTIONS) == first).all()
    assert differs(pipe(**inputs, options=replace(OPTIONS, seed=1)), first) > 1


def changes():
    palette = drawing.make_palette()

    def other_reference(inputs):
        inputs["references"] = 255 - inputs["references"]

    def swapped_colors(inputs):
        points = np.array([[10.0, 12.0], [18.0, 20.0]])
        clean = np.full((32, 32, 3), 255, np.uint8)
        inputs["content"] = drawing.draw_key_points(clean, np.eye(3), points, palette[:2][::-1])[None]

    def moved_point(inputs):
        points = np.array([[[10.0, 12.0]] * NUM_FRAMES, [[18.0, 20.0 - frame] for frame in range(NUM_FRAMES)]])
        inputs["motion"] = drawing.draw_trajectory_maps(points, np.ones((2, NUM_FRAMES), bool), palette[:2], 32)

    def moved_box(inputs):
        inputs["masks"] = np.roll(inputs["masks"], 4, axis=2)

    def other_scene(inputs):
        inputs["frames"] = inputs["frames"].copy()
        inputs["frames"][:, :8] = 0

    return [other_reference, swapped_colors, moved_point, moved_box, other_scene]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_each_conditioning_input_changes_the_output(pipe, change):
    plain, changed = make_inputs(), make_inputs()
    if change.__name__ == "swapped_colors":
        clean = np.full((32, 32, 3), 255, np.uint8)
        points = np.array([[10.0, 12.0], [18.0, 20.0]])
        plain["content"] = drawing.draw_key_points(clean, np.eye(3), points, drawing.make_palette()[:2])[None]
    change(changed)
    changed_keys = [key for key in plain if not np.array_equal(plain[key], changed[key])]
    assert len(changed_keys) == 1
    one, two, again = pipe(**plain, options=OPTIONS), pipe(**changed, options=OPTIONS), pipe(**plain, options=OPTIONS)
    assert (one == again).all() and differs(one, two) > 0.002


@torch.no_grad()
def test_each_input_reaches_the_networks_by_its_own_way(pipe):
    inputs = make_inputs()
    parts = {
        "source": pipe.encode_source(inputs["frames"], inputs["masks"], with_source=False),
        "identity": pipe.encode_identity(inputs["references"]),
        "features": pipe.encode_motion(inputs["content"], inputs["motion"], [slice(0, NUM_FRAMES)]),
    }
    source, (reference, null) = parts["source"], parts["identity"]

    def denoise(motion_strength=1.0, **changed):
        scheduler = fresh_scheduler(pipe.scheduler, 2, torch.device("cpu"))
        latents = pipe.prepare_latents(source, parts["identity"], OPTIONS, scheduler)
        return pipe.denoise(
            latents, **{**parts, **changed}, options=replace(OPTIONS, motion_strength=motion_strength), scheduler=scheduler
        )

    plain, alone = denoise(), denoise(motion_strength=0.0)
    other = type(parts["identity"])(reference._replace(tokens=-reference.tokens), null)
    assert not torch.equal(denoise(source=source._replace(mask=1 - source.mask)), plain), "the mask's own channel"
    assert not torch.equal(denoise(source=source._replace(masked=-source.masked)), plain), "the masked video's own channels"
    assert not torch.equal(denoise(identity=other, motion_strength=0.0), alone), "the U-Net reads the identity"
    sample, features = torch.ones(1, 9, NUM_FRAMES, 8, 8), torch.ones(1, 16, NUM_FRAMES, 8, 8)
    mids = [pipe.controlnet(sample, torch.tensor([500]), tokens, features).mid for tokens in (reference.tokens, -reference.tokens)]
    assert not torch.equal(*mids), "and so does the ControlNet"


@pytest.mark.parametrize(
    "options",
    [
        replace(OPTIONS, guidance_scale=8.0),
        replace(OPTIONS, guidance_scale=1.0),
        replace(OPTIONS, guidance_rescale=0.0),
        replace(OPTIONS, motion_strength=0.0),
        replace(OPTIONS, identity_strength=0.5),
        replace(OPTIONS, init="source"),
        replace(OPTIONS, init="inversion"),
        replace(OPTIONS, num_inference_steps=3),
    ],
    ids=lambda options: ",".join(
        f"{n}={getattr(options, n)}" for n in options.__slots__ if getattr(options, n) != getattr(OPTIONS, n)
    ),
)
def test_each_setting_changes_the_output(pipe, options):
    inputs = make_inputs()
    assert differs(pipe(**inputs, options=OPTIONS), pipe(**inputs, options=options)) > 0.02


def test_the_source_inside_the_mask_is_never_seen(pipe):
    plain, hidden = make_inputs(), make_inputs()
    hidden["frames"] = np.where(hidden["masks"][..., None], 255 - hidden["frames"], hidden["frames"])
    assert (pipe(**plain, options=OPTIONS) == pipe(**hidden, options=OPTIONS)).all()
    started = replace(OPTIONS, init="source")
    assert (pipe(**plain, options=started) == pipe(**hidden, options=started)).mean() < 1


def test_without_references_the_null_identity_stands_alone(pipe):
    inputs = make_inputs()
    inputs["references"] = inputs["references"][:0]
    pair = pipe.encode_identity(inputs["references"])
    assert pair.reference is pair.null
    one = pipe(**inputs, options=replace(OPTIONS, guidance_scale=9.0))
    assert (one == pipe(**inputs, options=replace(OPTIONS, guidance_scale=1.0))).all(), "nothing to guide towards"
    inputs["references"] = np.concatenate([make_inputs()["references"], make_inputs(seed=3)["references"]])
    assert pipe.encode_identity(inputs["references"]).reference.tokens.shape == (1, 2 * 257, 24)
    assert pipe(**inputs, options=OPTIONS).shape == (NUM_FRAMES, 32, 32, 3)


def test_identity_strength_zero_is_the_null_identity(pipe):
    inputs = make_inputs()
    none = replace(OPTIONS, identity_strength=0.0, guidance_scale=1.0)
    others = inputs | {"references": 255 - inputs["references"]}
    np.testing.assert_array_equal(pipe(**inputs, options=none), pipe(**others, options=none))


# -- schedules --------------------------------------------------------------------------------------------------------------------


def flow_scheduler():
    return FlowMatchEulerDiscreteScheduler()


def dpm_scheduler():
    return DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")


@pytest.mark.parametrize("make", [dpm_scheduler, flow_scheduler], ids=["dpm", "flow"])
@pytest.mark.parametrize("init", ["noise", "source", "inversion"])
def test_other_schedules_by_configuration(make, init):
    built = make_pipeline()
    built.register_modules(scheduler=make())
    made = built(**make_inputs(), options=replace(OPTIONS, init=init, guidance_scale=1.0))
    assert made.std() > 1 and (made == built(**make_inputs(), options=replace(OPTIONS, init=init, guidance_scale=1.0))).all()


@pytest.mark.parametrize("make", [make_scheduler, dpm_scheduler, flow_scheduler], ids=["ddim", "dpm", "flow"])
def test_inversion_with_a_perfect_model_comes_back(make):
    """The model that knows the data: the ODE run backwards and forwards ends where it began."""
    clean = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    scheduler = fresh_scheduler(make(), 20, torch.device("cpu"))
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    model = direction - clean if is_flow else direction
    timesteps, step = inversion_steps(scheduler, torch.device("cpu"))
    latents = clean
    for index in range(len(timesteps)):
        latents = step(model, index, latents)
    assert float((latents - clean).abs().mean()) > 0.5
    for timestep in scheduler.timesteps:
        latents = scheduler.step(model, timestep, latents, return_dict=False)[0]
    torch.testing.assert_close(latents, clean, atol=0.06, rtol=0)


def test_guidance_formula():
    null, pred = torch.zeros(1, 2, 2), torch.tensor([[[1.0, -1.0], [2.0, 0.0]]])
    assert torch.equal(guide(null, pred, 3.0, 0.0), 3 * pred)
    torch.testing.assert_close(guide(null, pred, 3.0, 1.0), pred)
    torch.testing.assert_close(guide(null, pred, 3.0, 0.5), 2 * pred)


# -- windows ----------------------------------------------------------------------------------------------------------------------


def test_windows_cover_the_clip_and_their_weights_sum_to_one():
    for num_frames in (1, 15, 16, 17, 24, 25, 61):
        windows = split_windows(num_frames, 16, 8)
        assert all(window.stop - window.start == min(16, num_frames) for window in windows)
        total = torch.zeros(num_frames)
        for window, weight in zip(windows, blend_weights(windows, num_frames), strict=True):
            total[window] += weight
        torch.testing.assert_close(total, torch.ones(num_frames))
    assert split_windows(16, 16, 8) == [slice(0, 16)] and split_windows(25, 16, 8)[-1] == slice(9, 25)
    with pytest.raises(ValueError, match="less than the window"):
        split_windows(5, 4, 4)


def test_one_window_is_returned_exactly_and_joins_are_continuous():
    like = torch.zeros(1, 1, 16, 1, 1)
    value = torch.rand(1, 1, 16, 1, 1)
    windows = split_windows(16, 16, 8)
    assert torch.equal(blend_windows(lambda window, index: value, windows, blend_weights(windows, 16), like), value)
    windows = split_windows(32, 16, 8)
    blended = blend_windows(
        lambda window, index: torch.full((1, 1, 16, 1, 1), float(index)),
        windows,
        blend_weights(windows, 32),
        torch.zeros(1, 1, 32, 1, 1),
    ).flatten()
    steps = blended.diff()
    assert blended[0] == 0 and blended[-1] == 2 and steps.min() >= 0 and steps.max() < 0.25


def test_a_clip_of_one_window_equals_the_unwindowed_result(pipe):
    inputs = make_inputs()
    assert (pipe(**inputs, options=OPTIONS) == pipe(**inputs, options=replace(OPTIONS, window=8, overlap=4))).all()


def test_a_long_clip_runs_in_windows_and_depends_on_all_of_its_frames(pipe):
    inputs = make_inputs(9)
    made = pipe(**inputs, options=OPTIONS)
    assert made.shape == (9, 32, 32, 3)
    moved = inputs | {"frames": inputs["frames"].copy()}
    moved["frames"][8] = 0
    change = np.abs(pipe(**moved, options=OPTIONS).astype(float) - made).mean(axis=(1, 2, 3))
    assert change[8] > 1 and change[6:].min() > 0


def test_noise_is_seeded_and_later_windows_reuse_the_first():
    shape = (1, 2, 11, 2, 2)
    noise = draw_noise(shape, 4, 2, 7)
    assert noise.shape == shape and torch.equal(noise, draw_noise(shape, 4, 2, 7))
    assert not torch.equal(noise, draw_noise(shape, 4, 2, 8))
    first = noise[:, :, :4]
    for frame in range(4, 11):
        assert any(torch.equal(noise[:, :, frame], first[:, :, index]) for index in range(4))
    assert torch.equal(draw_noise((1, 2, 3, 2, 2), 4, 2, 7).shape and noise[:, :, :1], noise[:, :, :1])


def test_colors_are_held_to_the_first_window():
    rng = np.random.default_rng(0)
    source, masks = rng.integers(60, 120, (24, 16, 16, 3), dtype=np.uint8), np.zeros((24, 16, 16), bool)
    masks[:, 4:12, 4:12] = True
    drift = np.rint(np.linspace(0, 60, 24).clip(15) - 15 + 10).astype(np.uint8)[:, None, None, None]
    made = source + drift
    made[masks] += 5
    anchored = anchor_colors(made, source, masks, 8)
    left = (anchored.astype(int) - source).mean(axis=(1, 2, 3)) - 5 / 4
    assert np.abs(left[8:20] - 10).max() < 4 < drift[19, 0, 0, 0] - 20, "the drift is gone, the constant offset stays"
    assert np.abs(np.diff(left)).max() < 3, "no jump at the joins"
    assert (anchored[masks].astype(int) - source[masks])[-1].mean() - (made[masks].astype(int) - source[masks])[-1].mean() < -20
    assert anchor_colors(made[:8], source[:8], masks[:8], 8).base is made, "one window: as it was"
    assert anchor_colors(made, source, np.ones_like(masks), 8) is made, "nothing to measure"


# -- deep features ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["sd15", "sdxl"])
@torch.no_grad()
def test_kept_deep_features_give_the_same_output_for_the_same_input(scale):
    built = make_pipeline(scale)
    randomize_zeros(built.controlnet, built.pixel_warper)
    inputs = make_inputs()
    identity = built.encode_identity(inputs["references"]).reference
    features = built.encode_motion(inputs["content"], inputs["motion"], [slice(0, NUM_FRAMES)])[0].features
    added = added_embeddings(built.unet, identity, 32)
    sample = torch.randn(1, 9, NUM_FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    cache, timestep, context = DeepFeatureCache(2), torch.tensor([500]), frame_context(identity, NUM_FRAMES, None)
    for controlnet in (built.controlnet, None):
        with cache.keep(built.unet, 0):
            full = predict_noise(built.unet, controlnet, sample, timestep, identity, features, added=added)
        assert torch.equal(cache.predict(built.unet, 0, sample, timestep, context, added), full)
        other = sample + 0.1 * torch.randn(sample.shape, generator=torch.Generator().manual_seed(1))
        shallow = cache.predict(built.unet, 0, other, timestep, context, added)
        exact = predict_noise(built.unet, controlnet, other, timestep, identity, features, added=added)
        assert not torch.equal(shallow, full) and (shallow - exact).norm() < (full - exact).norm(), "nearer than standing still"
    assert not built.unet._forward_pre_hooks and not built.unet.up_blocks[-1]._forward_pre_hooks


def test_a_feature_interval_skips_the_controlnet_and_changes_little(pipe, monkeypatch):
    counted = []
    original = type(pipe.controlnet).forward
    monkeypatch.setattr(type(pipe.controlnet), "forward", lambda *args, **kw: counted.append(1) or original(*args, **kw))
    inputs, options = make_inputs(6), replace(OPTIONS, num_inference_steps=8)
    exact = pipe(**inputs, options=options)
    assert len(counted) == 8 * 2
    counted.clear()
    near = pipe(**inputs, options=replace(options, feature_interval=4))
    assert len(counted) == 2 * 2 and 0 < differs(near, exact) < differs(pipe(**inputs, options=replace(options, seed=1)), exact)
    with pytest.raises(ValueError, match="feature_interval must be at least 1"):
        SamplingOptions(feature_interval=0)


# -- callbacks, faults, saving ----------------------------------------------------------------------------------------------------


def test_the_callback_sees_every_step_and_can_stop_the_run(pipe):
    seen = []

    def watch(built, step, timestep, tensors):
        seen.append((step, int(timestep), tuple(tensors["latents"].shape)))
        if len(seen) == 3:
            raise Cancelled

    options = replace(OPTIONS, num_inference_steps=5)
    with pytest.raises(Cancelled):
        pipe(**make_inputs(), options=options, callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2] and seen[0][2] == (1, 4, NUM_FRAMES, 8, 8)
    zeroed = pipe(**make_inputs(), options=OPTIONS, callback_on_step_end=lambda p, s, t, x: {"latents": x["latents"] * 0})
    assert differs(zeroed, pipe(**make_inputs(), options=OPTIONS)) > 0.5


def test_wrong_inputs_are_refused(pipe):
    inputs = make_inputs()
    for name, value in (
        ("motion", inputs["motion"][:2]),
        ("masks", inputs["masks"][:, :16]),
        ("references", inputs["references"][:, :8]),
    ):
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            pipe(**inputs | {name: value}, options=OPTIONS)
    ragged = inputs["masks"].copy()
    ragged[0, 8, 8] = False
    with pytest.raises(ValueError, match="whole cells of 4 pixels"):
        pipe(**inputs | {"masks": ragged}, options=OPTIONS)
    with pytest.raises(ValueError, match="at most 32 frames"):
        pipe(**inputs, options=replace(OPTIONS, window=33))
    small = {name: value[:, :28, :28] if name != "references" else value for name, value in inputs.items()}
    with pytest.raises(ValueError, match="multiple of 8"):
        pipe(**small, options=OPTIONS)
    for wrong in ({"num_inference_steps": 0}, {"init": "zero"}, {"overlap": 16}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SamplingOptions(**wrong)


def test_networks_that_do_not_fit_are_refused():
    parts = make_pipeline().components
    with pytest.raises(ValueError, match="stride of the pixel warper must be 4, got 2"):
        VideoAnydoorPipeline(**parts | {"pixel_warper": PixelWarper(16, (4, 8), 2, norm_num_groups=4)}, size=32)


@pytest.mark.parametrize(("scale", "content"), [("sd15", "reference"), ("sdxl", "warped")])
def test_save_and_load_give_the_same_video(scale, content, tmp_path):
    built = make_pipeline(scale, content)
    randomize_zeros(built.controlnet, built.pixel_warper)
    built.save_pretrained(tmp_path / "checkpoint")
    loaded = VideoAnydoorPipeline.from_pretrained(tmp_path / "checkpoint")
    assert loaded.config.size == 32 and isinstance(loaded.scheduler, DDIMScheduler)
    inputs = make_inputs(content=content)
    assert (built(**inputs, options=OPTIONS) == loaded(**inputs, options=OPTIONS)).all()
    kinds = {path.suffix for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_a_checkpoint_may_only_name_what_is_known(tmp_path):
    with pytest.raises(UserError, match=r"'nothing' is not a VideoAnydoor checkpoint.*init"):
        VideoAnydoorPipeline.from_pretrained(tmp_path / "nothing")
    folder = tmp_path / "checkpoint"
    make_pipeline().save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["os", "system"]}))
    with pytest.raises(UserError, match="names the scheduler 'system'"):
        VideoAnydoorPipeline.from_pretrained(folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "pixel_warper" / "config.json").read_text())
    (folder / "scheduler").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="'checkpoint' is damaged"):
        VideoAnydoorPipeline.from_pretrained(folder)
    (folder / "elsewhere").rename(folder / "scheduler")
    PixelWarper(**{key: value for key, value in config.items() if key[0] != "_"} | {"channels": 8}).save_pretrained(
        folder / "pixel_warper"
    )
    with pytest.raises(UserError, match="damaged: the networks do not fit together: channels"):
        VideoAnydoorPipeline.from_pretrained(folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"'vae'.*refused"):
        VideoAnydoorPipeline.from_pretrained(folder)


def test_half_precision_runs(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    loaded = VideoAnydoorPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert {module.dtype for module in (loaded.vae, loaded.unet, loaded.controlnet, loaded.id_extractor)} == {torch.bfloat16}
    assert loaded(**make_inputs(), options=OPTIONS).shape == (NUM_FRAMES, 32, 32, 3)


def test_latents_of_the_source_are_cut_by_the_mask(pipe):
    inputs = make_inputs()
    source = pipe.encode_source(inputs["frames"], inputs["masks"], with_source=True)
    assert source.mask[0, 0, 0].sum() == 4 * 3 and source.source.shape == source.masked.shape == (1, 4, NUM_FRAMES, 8, 8)
    torch.testing.assert_close(source.source, pipe.encode_video(inputs["frames"], np.zeros_like(inputs["masks"])))
    grey = np.where(inputs["masks"][..., None], 127.5, inputs["frames"]) / 127.5 - 1
    expected = (
        pipe.vae.encode(torch.from_numpy(grey).float().permute(0, 3, 1, 2)).latent_dist.mode() * pipe.vae.config.scaling_factor
    )
    torch.testing.assert_close(source.masked[0].transpose(0, 1), expected, atol=1e-5, rtol=1e-4)
    assert pipe.encode_source(inputs["frames"], inputs["masks"], with_source=False).source is None
