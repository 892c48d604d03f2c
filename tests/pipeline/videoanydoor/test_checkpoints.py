"""Assembling checkpoints from tiny folders in the published layouts, and from nothing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from pipeline import videoanydoor
from pipeline.errors import UserError
from pipeline.videoanydoor import check_installed, checkpoints, cli, folders
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.plan import read_facts
from pipeline.videoanydoor.sampling import SamplingOptions
from pipeline.videoanydoor.scales import NANO, SCALES, SD15
from tests.pipeline.videoanydoor.test_pipeline import NUM_FRAMES, make_inputs
from tests.tiny_models import make_adapter, make_backbone, make_unet2d, make_vae, randomize_zeros

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = SamplingOptions(num_inference_steps=2, window=4, overlap=2)


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(1)


def publish(folder, scale="sd15"):
    """Tiny weights laid out as the published repositories are."""
    make_unet2d(scale).save_pretrained(folder / "inpainting" / "unet")
    make_vae().save_pretrained(folder / "inpainting" / "vae")
    make_adapter().save_pretrained(folder / "motion_adapter")
    make_backbone().save_pretrained(folder / "backbone")
    return {name: str(folder / name) for name in ("inpainting", "motion_adapter", "backbone")}


def run_cli(*arguments):
    parser = argparse.ArgumentParser()
    cli.add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(["videoanydoor", *arguments])
    options.command(options)


def init(scale, output, given, *more):
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    run_cli("init", "--scale", scale, "-o", str(output), *flags, *more)


@pytest.mark.parametrize("scale", ["sd15", "sdxl"])
def test_init_on_published_layouts_renders_and_equals_the_base_inpainter(scale, tmp_path, capsys):
    init(scale, tmp_path / "start", publish(tmp_path, scale))
    assert "unet" in capsys.readouterr().err
    built = VideoAnydoorPipeline.from_pretrained(tmp_path / "start")
    assert built.config.size == 512 and built.pixel_warper.config.content == "reference"
    inputs = make_inputs()
    assert built(**inputs, options=OPTIONS).shape == (NUM_FRAMES, 32, 32, 3)

    base = UNetMotionModel.from_unet2d(make_unet2d(scale), make_adapter()).eval()
    if scale == "sdxl":
        base.add_embedding.load_state_dict(make_unet2d(scale).add_embedding.state_dict())
    expected = built(**inputs, options=OPTIONS)
    parts = dict(built.components)
    blind = VideoAnydoorPipeline(**parts, size=32)
    blind.unet.load_state_dict(base.state_dict())
    blind.encode_motion = lambda content, motion, windows: None
    np.testing.assert_array_equal(blind(**inputs, options=OPTIONS), expected)
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize("scale", ["sd15", "sdxl"])
def test_identity_beside_text_is_an_option_that_starts_equal_too(scale, tmp_path):
    given = publish(tmp_path, scale)
    torch.manual_seed(0)
    config = CLIPTextConfig(vocab_size=50, hidden_size=24, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    encoder = CLIPTextModel(config).eval()
    encoder.save_pretrained(tmp_path / "inpainting" / "text_encoder")
    init(scale, tmp_path / "start", given, "--identity", "beside")
    built = VideoAnydoorPipeline.from_pretrained(tmp_path / "start")
    with torch.no_grad():
        text = encoder(torch.tensor([[48] + [49] * 76])).last_hidden_state if scale == "sd15" else torch.zeros(1, 77, 24)
    torch.testing.assert_close(built.identity_attention.text.data, text)
    inputs = make_inputs()
    guided, plain = (built(**inputs, options=replace(OPTIONS, guidance_scale=value)) for value in (7.0, 1.0))
    assert (guided == plain).mean() > 0.99, "at the start the identity says nothing"
    randomize_zeros(built.identity_attention)
    assert (built(**inputs, options=OPTIONS) != plain).mean() > 0.1
    built.save_pretrained(tmp_path / "trained")
    again = VideoAnydoorPipeline.from_pretrained(tmp_path / "trained")
    assert (again(**inputs, options=OPTIONS) == built(**inputs, options=OPTIONS)).all()
    facts = read_facts(tmp_path / "trained")
    assert facts.num_weights["identity_attention"] == checkpoints.count_parameters(built)["identity_attention"] > 0
    with pytest.raises(UserError, match="leave out identity beside text"):
        checkpoints.init_checkpoint("nano", tmp_path / "nano", {}, is_beside_text=True)


def test_init_is_deterministic_and_its_seed_matters(tmp_path):
    given = publish(tmp_path)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        checkpoints.init_checkpoint("sd15", tmp_path / name, given, seed=seed)
    paths = ["id_extractor", "pixel_warper", "unet"]
    one, two, three = (
        [(tmp_path / name / path / "diffusion_pytorch_model.safetensors").read_bytes() for path in paths]
        for name in ("one", "two", "three")
    )
    assert one == two and one[:2] != three[:2] and one[2] == three[2]


def test_nano_starts_from_random_weights_and_renders(tmp_path):
    before = torch.get_rng_state()
    init("nano", tmp_path / "nano", {})
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"
    built = VideoAnydoorPipeline.from_pretrained(tmp_path / "nano")
    assert built.config.size == 64 and built.stride == 4 and built.pixel_warper.config.content == "warped"
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 16:40, 16:40] = True
    made = built(frames, masks, frames[:1], frames, frames, SamplingOptions(num_inference_steps=1, window=4, overlap=2))
    assert made.shape == (2, 64, 64, 3)
    counts = checkpoints.count_parameters(built)
    assert counts["all"] < 40e6 and counts["all"] == sum(value for name, value in counts.items() if name != "all")
    with pytest.raises(UserError, match="starts from random weights; leave out inpainting"):
        checkpoints.init_checkpoint("nano", tmp_path / "other", {"inpainting": "x"})


def test_content_and_precision_are_settings(tmp_path):
    init("sd15", tmp_path / "start", publish(tmp_path), "--content", "warped", "--dtype", "bfloat16")
    config = json.loads((tmp_path / "start" / "pixel_warper" / "config.json").read_text())
    assert config["content"] == "warped"
    weights = load_file(tmp_path / "start" / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights["conv_in.weight"].dtype == torch.bfloat16


# -- refusals ---------------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path):
    given = publish(tmp_path)
    output = tmp_path / "new" / "start"

    def refuse(match, **changed):
        with pytest.raises(UserError, match=match):
            checkpoints.init_checkpoint("sd15", output, given | changed)
        assert not output.exists() and not list(tmp_path.rglob(".partial-*"))

    (tmp_path / "empty").mkdir()
    refuse(r"'unet'.*config\.json", inpainting=str(tmp_path / "empty"))
    refuse("no motion adapter in 'empty'", motion_adapter=str(tmp_path / "empty"))
    refuse("'empty'", backbone=str(tmp_path / "empty"))
    plain = tmp_path / "plain"
    unet = make_unet2d()
    unet.save_pretrained(plain / "unet")
    make_vae().save_pretrained(plain / "vae")
    config = json.loads((plain / "unet" / "config.json").read_text())
    (plain / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 4}))
    refuse("'unet'", inpainting=str(plain))
    other = MotionAdapter(**{**make_adapter().config, "block_out_channels": (16, 48)})
    other.save_pretrained(tmp_path / "other")
    refuse("do not belong together", motion_adapter=str(tmp_path / "other"))
    path = tmp_path / "motion_adapter" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith("proj_in.weight"))
    save_file({name: value for name, value in tensors.items() if name != key}, path)
    refuse(f"lacks {key}")
    save_file(tensors | {"surprise": torch.zeros(1)}, path)
    refuse("unknown surprise")
    save_file(tensors | {key: torch.zeros(3, 3)}, path)
    refuse(f"another shape of {key}")
    save_file({name: value for name, value in tensors.items() if not name.endswith("pos_embed.pe")}, path)
    checkpoints.init_checkpoint("sd15", output, given)
    with pytest.raises(UserError, match="'start' exists already"):
        checkpoints.init_checkpoint("sd15", output, given)


def test_an_adapter_without_position_tables_gives_the_same_model(tmp_path):
    given = publish(tmp_path)
    whole = checkpoints.load_motion_adapter(Path(given["motion_adapter"]), torch.float32).state_dict()
    path = tmp_path / "motion_adapter" / "diffusion_pytorch_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if not name.endswith("pos_embed.pe")}, path)
    bare = checkpoints.load_motion_adapter(Path(given["motion_adapter"]), torch.float32).state_dict()
    assert whole.keys() == bare.keys() and all(torch.equal(whole[key], bare[key]) for key in whole)


def test_published_weights_are_pinned_to_a_commit(tmp_path):
    source = checkpoints.choose_source(SD15.inpainting, None, "--inpainting")
    assert source.repository.endswith("stable-diffusion-inpainting") and len(source.revision) == 40
    assert not [pattern for pattern in source.patterns if not pattern.endswith((".json", ".safetensors"))]
    with pytest.raises(UserError, match=r"--motion-adapter guoyww/.*@COMMIT"):
        checkpoints.init_checkpoint("sd15", tmp_path / "new", {}, download=lambda *_: pytest.fail("nothing may be fetched yet"))
    for branch in ("someone/model", "someone/model@main", "someone/model@1234567"):
        with pytest.raises(UserError, match="40 hex digits"):
            checkpoints.choose_source(SD15.inpainting, branch, "--inpainting")
    source = checkpoints.choose_source(SD15.inpainting, f"someone/model@{'a' * 40}", "--inpainting")
    assert (source.repository, source.revision) == ("someone/model", "a" * 40)
    assert checkpoints.choose_source(SD15.inpainting, str(tmp_path), "--inpainting") == tmp_path


def test_a_failed_download_is_one_sentence(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise ConnectionError("long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match="could not be downloaded; check the connection, or name a local folder"):
        checkpoints.download_snapshot("someone/model", "a" * 40, ("config.json",))


def test_checkpoints_are_found_by_name(tmp_path):
    with pytest.raises(UserError, match="no VideoAnydoor checkpoint yet; make one with"):
        folders.find_checkpoint(tmp_path, None)
    with pytest.raises(UserError, match="no VideoAnydoor checkpoint yet"):
        folders.find_checkpoint(None, "a")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
        if name == "a":
            assert folders.find_checkpoint(tmp_path, None) == tmp_path / "a"
    assert folders.find_checkpoint(tmp_path, "b") == tmp_path / "b"
    with pytest.raises(UserError, match="several checkpoints; name one of 'a', 'b'"):
        folders.find_checkpoint(tmp_path, None)
    for name in ("c", "../a", "/etc"):
        with pytest.raises(UserError, match="use one of 'a', 'b'"):
            folders.find_checkpoint(tmp_path, name)
    key = checkpoints.checkpoint_key(tmp_path / "a")
    assert key == checkpoints.checkpoint_key(tmp_path / "a") != checkpoints.checkpoint_key(tmp_path / "b")
    (tmp_path / "a" / "model_index.json").write_text("{ }")
    assert checkpoints.checkpoint_key(tmp_path / "a") != key


def test_missing_libraries_are_named(monkeypatch):
    check_installed()
    monkeypatch.setattr(videoanydoor, "NEEDED", ("torch", "no_such_library"))
    for attempt in (lambda: run_cli("init", "--scale", "nano", "-o", "x"), lambda: videoanydoor.build_engine("cpu", None, None)):
        with pytest.raises(UserError, match="needs no_such_library; install them with 'pip install -r requirements"):
            attempt()


def test_the_command_names_every_scale_and_loads_nothing_heavy():
    assert tuple(SCALES) == cli.SCALES and NANO.unet2d["in_channels"] == 2 * NANO.codec["latent_channels"] + 1
    code = (
        "import sys, argparse\nimport pipeline.videoanydoor.cli as cli\n"
        "cli.add_commands(argparse.ArgumentParser().add_subparsers())\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'cv2') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
