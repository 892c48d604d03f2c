"""The networks: shapes, the zero-initialised start, strict loading, what trains."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNetMotionModel
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.videoanydoor.controlnet import ControlNet
from pipeline.videoanydoor.denoiser import added_embeddings, predict_noise, stack_input
from pipeline.videoanydoor.id_extractor import IdExtractor
from pipeline.videoanydoor.identity_attention import IdentityAttention
from pipeline.videoanydoor.pixel_warper import PixelWarper, sincos_positions
from pipeline.videoanydoor.unet import VideoUNet
from tests.tiny_models import make_adapter, make_backbone, make_modules, make_unet2d, randomize_zeros

NUM_FRAMES = 3
SCALES = ("sd15", "sdxl")


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_inputs(modules, scale, batch_size=1):
    sample = stack_input(
        noise(batch_size, 4, NUM_FRAMES, 8, 8),
        (noise(batch_size, 1, NUM_FRAMES, 8, 8, seed=1) > 0).float(),
        noise(batch_size, 4, NUM_FRAMES, 8, 8, seed=2),
    )
    identity = modules["id_extractor"](noise(batch_size, 1, 3, 32, 32, seed=3).tanh())
    num_content = NUM_FRAMES if modules["pixel_warper"].config.content == "warped" else 1
    features = modules["pixel_warper"](
        noise(batch_size, 3, num_content, 32, 32, seed=4), noise(batch_size, 3, NUM_FRAMES, 32, 32, seed=5)
    )
    return {
        "sample": sample,
        "timestep": torch.full((batch_size,), 400),
        "identity": identity,
        "features": features,
        "added": added_embeddings(modules["unet"], identity, 32),
    }


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("content", ["reference", "warped"])
def test_zero_initialised_additions_equal_the_base_video_inpainter_exactly(scale, content):
    modules = make_modules(scale, content)
    inputs = make_inputs(modules, scale)
    base = UNetMotionModel.from_unet2d(make_unet2d(scale), make_adapter()).eval()
    if scale == "sdxl":
        base.add_embedding.load_state_dict(make_unet2d(scale).add_embedding.state_dict())
    context = inputs["identity"].tokens.repeat_interleave(NUM_FRAMES, 0)
    expected = base(inputs["sample"], inputs["timestep"], context, added_cond_kwargs=inputs["added"]).sample
    got = predict_noise(modules["unet"], modules["controlnet"], **inputs)
    assert got.shape == (1, 4, NUM_FRAMES, 8, 8)
    torch.testing.assert_close(got, expected, atol=0, rtol=0)
    randomize_zeros(modules["controlnet"])
    assert not torch.equal(predict_noise(modules["unet"], modules["controlnet"], **inputs), expected)


def test_inflating_an_sdxl_unet_keeps_its_added_embedding():
    unet2d = make_unet2d("sdxl")
    video = VideoUNet.from_unet2d(unet2d, make_adapter())
    for key, value in unet2d.add_embedding.state_dict().items():
        assert torch.equal(video.add_embedding.state_dict()[key], value)


def test_a_unet_that_does_not_inpaint_is_refused():
    unet2d = make_unet2d()
    unet2d.register_to_config(in_channels=4)
    with pytest.raises(ValueError, match="takes 9 channels"):
        VideoUNet.from_unet2d(unet2d, make_adapter())


@pytest.mark.parametrize("scale", SCALES)
def test_residuals_have_the_shapes_of_the_skip_connections(scale):
    modules = make_modules(scale)
    inputs = make_inputs(modules, scale, batch_size=2)
    residuals = modules["controlnet"](
        inputs["sample"], inputs["timestep"], inputs["identity"].tokens, inputs["features"], 1.0, inputs["added"]
    )
    sizes = [(16, 8), (16, 8), (16, 8), (16, 4), (32, 4), (32, 4)]
    assert [tuple(item.shape) for item in residuals.down] == [(2 * NUM_FRAMES, c, s, s) for c, s in sizes]
    assert tuple(residuals.mid.shape) == (2 * NUM_FRAMES, 32, 4, 4)
    assert not any(item.any() for item in (*residuals.down, residuals.mid))


@pytest.mark.parametrize("content", ["reference", "warped"])
def test_a_batch_of_two_equals_two_batches_of_one(content):
    modules = make_modules("sdxl", content)
    randomize_zeros(modules["controlnet"], modules["pixel_warper"], modules["id_extractor"])
    inputs = make_inputs(modules, "sdxl", batch_size=2)
    both = predict_noise(modules["unet"], modules["controlnet"], **inputs)
    for index in range(2):
        part = slice(index, index + 1)
        single = predict_noise(
            modules["unet"],
            modules["controlnet"],
            inputs["sample"][part],
            inputs["timestep"][part],
            type(inputs["identity"])(*(item[part] for item in inputs["identity"])),
            inputs["features"][part],
            added={key: value[part] for key, value in inputs["added"].items()},
        )
        torch.testing.assert_close(single, both[part], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("scale", "content"), [("sd15", "reference"), ("sdxl", "warped")])
def test_everything_that_trains_gets_a_gradient(scale, content):
    modules = make_modules(scale, content)
    randomize_zeros(modules["controlnet"], modules["pixel_warper"])
    if scale == "sdxl":
        randomize_zeros(modules["id_extractor"])
    modules["unet"].train_as_in_paper()
    modules["id_extractor"].train_as_in_paper()
    with torch.enable_grad():
        predicted = predict_noise(modules["unet"], modules["controlnet"], **make_inputs(modules, scale))
        (predicted * noise(*predicted.shape, seed=6)).sum().backward()
    counted = 0
    for name in CLASSES:
        for key, parameter in modules[name].named_parameters():
            reached = parameter.grad is not None and bool(parameter.grad.any())
            assert reached == parameter.requires_grad, f"{name}.{key}"
            counted += parameter.requires_grad
    assert counted > 300


@pytest.mark.parametrize("scale", SCALES)
def test_at_the_start_the_gradient_reaches_the_zero_convolutions(scale):
    modules = make_modules(scale)
    with torch.enable_grad():
        predict_noise(modules["unet"], modules["controlnet"], **make_inputs(modules, scale)).square().mean().backward()
    encoder = modules["controlnet"].encoder
    assert all(block.weight.grad.any() for block in (*encoder.controlnet_down_blocks, encoder.controlnet_mid_block))


# -- the ID extractor -------------------------------------------------------------------------------------------------------------


def test_identity_is_class_and_patch_tokens_of_dinov2_projected():
    backbone = make_backbone()
    extractor = IdExtractor.from_backbone(backbone, 24, 12)
    images = noise(2, 3, 3, 32, 32).tanh()
    identity = extractor(images)
    assert extractor.tokens_per_reference == 257
    assert identity.tokens.shape == (2, 3 * 257, 24)
    assert identity.pooled.shape == (2, 12) and not identity.pooled.any()
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    features = backbone(((images[1, 2] + 1) / 2 - mean).div(std)[None]).last_hidden_state
    expected = extractor.norm(extractor.projection(features))[0]
    torch.testing.assert_close(identity.tokens[1, 2 * 257 :], expected, atol=1e-5, rtol=1e-5)


def test_the_null_identity_is_that_of_an_all_zero_image():
    extractor = make_modules("sdxl")["id_extractor"]
    black = extractor(torch.full((1, 1, 3, 32, 32), -1.0)).tokens[0]
    null = extractor.null(2, 3)
    assert null.tokens.shape == (2, 3 * 257, 24) and null.pooled.shape == (2, 12)
    for part in null.tokens[1].split(257):
        torch.testing.assert_close(part, black)
    assert null.tokens.abs().max() > 0.1, "the null identity is not zero tokens"
    with pytest.raises(ValueError, match=r"\[B, R, 3, 32, 32\]"):
        extractor(torch.zeros(1, 1, 3, 16, 16))
    with pytest.raises(ValueError, match="multiple of the patch size 2"):
        IdExtractor({"patch_size": 2, "hidden_size": 8}, image_size=33)


def test_what_trains_is_what_the_figure_shows():
    modules = make_modules("sd15")
    for name in ("unet", "id_extractor"):
        modules[name].train_as_in_paper()
    trained = {name for name, value in modules["unet"].named_parameters() if value.requires_grad}
    assert any("up_blocks.0.resnets" in name for name in trained) and any("up_blocks.1.attentions" in name for name in trained)
    assert any("down_blocks.0.motion_modules" in name for name in trained)
    frozen = (
        "conv_in",
        "time_embedding",
        "mid_block",
        "down_blocks.0.resnets",
        "down_blocks.0.attentions",
        "down_blocks.1.resnets",
    )
    assert not [name for name in trained if name.startswith(frozen)]
    trained = {name for name, value in modules["id_extractor"].named_parameters() if value.requires_grad}
    assert any("layer.2" in name for name in trained) and {"projection.weight", "norm.weight"} <= trained
    assert not [name for name in trained if "layer.0" in name or "layer.1" in name or "embeddings" in name]


# -- the pixel warper -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_warper_features_lie_on_the_latent_grid_and_follow_both_inputs(stride):
    torch.manual_seed(0)
    warper = PixelWarper(16, (4, 8, 8), 2, stride, 2, norm_num_groups=4).eval()
    randomize_zeros(warper)
    content, motion = noise(2, 3, 1, 32, 48), noise(2, 3, NUM_FRAMES, 32, 48, seed=1)
    features = warper(content, motion)
    assert warper.stride == 4 and features.shape == (2, 16, NUM_FRAMES, 8, 12)
    other = warper(noise(2, 3, 1, 32, 48, seed=2), motion)
    assert (other - features).abs().amax(dim=(0, 1, 3, 4)).min() > 1e-3, "the reference reaches every frame"
    moved = motion.clone()
    moved[:, :, 1] = 0
    change = (warper(content, moved) - features).abs().amax(dim=(0, 1, 3, 4))
    assert change.min() > 1e-6, "through the temporal layers each frame of the map reaches every frame"
    assert change[1] == change.max()


def test_attention_at_a_coarser_stride_leaves_the_plain_sum_at_full_resolution():
    torch.manual_seed(0)
    warper = PixelWarper(16, (4, 8, 8), 2, 2, 0, norm_num_groups=4).eval()
    for attention in (warper.content_to_motion, warper.motion_to_content):
        torch.nn.init.zeros_(attention.attention.to_out[0].weight)
        torch.nn.init.zeros_(attention.attention.to_out[0].bias)
    content, motion = noise(1, 3, 1, 32, 32), noise(1, 3, 1, 32, 32, seed=1)
    expected = warper.content_encoder(content[:, :, 0]) + warper.motion_encoder(motion) + 2 * sincos_positions(16, 8, 8)
    torch.testing.assert_close(warper(content, motion)[:, :, 0], expected, atol=1e-5, rtol=1e-5)


def test_content_frames_must_match_the_setting():
    warped = make_modules(content="warped")["pixel_warper"]
    with pytest.raises(ValueError, match="takes 3 content frames, got 1"):
        warped(noise(1, 3, 1, 32, 32), noise(1, 3, NUM_FRAMES, 32, 32))


def test_positions_tell_every_place_apart():
    table = sincos_positions(16, 6, 9)[0].flatten(1).T
    distances = torch.cdist(table, table) + 10 * torch.eye(len(table))
    assert table.shape == (54, 16) and distances.min() > 0.05


# -- the identity beside text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_identity_beside_text_starts_as_the_inpainter_under_the_empty_prompt(scale):
    modules, text = make_modules(scale), noise(1, 7, 24, seed=8)
    beside = IdentityAttention.from_unet(modules["unet"], text)
    inputs = make_inputs(modules, scale)
    expected = modules["unet"](
        inputs["sample"], inputs["timestep"], text.expand(NUM_FRAMES, -1, -1), added_cond_kwargs=inputs["added"]
    ).sample
    before = set(modules["unet"].state_dict())
    beside.install(modules["unet"])
    assert set(modules["unet"].state_dict()) == before, "the U-Net is saved as it was"
    got = predict_noise(modules["unet"], modules["controlnet"], **inputs, beside_text=beside)
    torch.testing.assert_close(got, expected, atol=0, rtol=0)
    randomize_zeros(beside)
    trained = predict_noise(modules["unet"], None, **inputs, beside_text=beside)
    looked = modules["id_extractor"](noise(1, 1, 3, 32, 32, seed=9).tanh())
    other = dict(inputs, identity=looked._replace(pooled=inputs["identity"].pooled))
    assert not torch.equal(trained, expected)
    assert not torch.equal(predict_noise(modules["unet"], None, **other, beside_text=beside), trained)


def test_identity_attention_of_another_unet_is_refused():
    beside = IdentityAttention((8, 8), 24, 7)
    with pytest.raises(ValueError, match=r"made for widths \[8, 8\]"):
        beside.install(make_modules()["unet"])


# -- loading and saving -----------------------------------------------------------------------------------------------------------

CLASSES = {"unet": VideoUNet, "controlnet": ControlNet, "pixel_warper": PixelWarper, "id_extractor": IdExtractor}


@pytest.mark.parametrize("scale", SCALES)
def test_save_and_load_give_the_same_output(scale, tmp_path):
    modules = make_modules(scale, "warped")
    randomize_zeros(*(modules[name] for name in ("controlnet", "pixel_warper")))
    for name in CLASSES:
        modules[name].save_pretrained(tmp_path / name)
    loaded = modules | {name: cls.from_pretrained(tmp_path / name) for name, cls in CLASSES.items()}
    one = predict_noise(modules["unet"], modules["controlnet"], **make_inputs(modules, scale))
    two = predict_noise(loaded["unet"], loaded["controlnet"], **make_inputs(loaded, scale))
    torch.testing.assert_close(one, two, atol=0, rtol=0)
    assert not list(tmp_path.rglob("*.bin")) and len(list(tmp_path.rglob("*.safetensors"))) == 4
    half = VideoUNet.from_pretrained(tmp_path / "unet", torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_missing_surplus_and_misshapen_tensors_are_refused_by_name(name, tmp_path):
    folder = tmp_path / name
    make_modules()[name].save_pretrained(folder)
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    key = sorted(tensors)[0]
    others = {other: value for other, value in tensors.items() if other != key}

    save_file(others, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        CLASSES[name].from_pretrained(folder)
    save_file(tensors | {"stray.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"stray\.weight"):
        CLASSES[name].from_pretrained(folder)
    save_file(others | {key: torch.zeros(1, 2, 3)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{name}"):
        CLASSES[name].from_pretrained(folder)
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read"):
        CLASSES[name].from_pretrained(folder)
    path.unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="refused"):
        CLASSES[name].from_pretrained(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(UserError, match=r"'unet'.*config\.json"):
        VideoUNet.from_pretrained(tmp_path / "unet")


def test_configurations_are_plain_json(tmp_path):
    make_modules()["controlnet"].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["encoder_config"]["in_channels"] == 9 and config["feature_channels"] == 16
