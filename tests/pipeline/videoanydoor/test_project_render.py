"""From a project file through the command line to a video made by VideoAnydoor, on tiny checkpoints."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import cli
from pipeline.cli import DONE, INPUT_AT_FAULT, main
from pipeline.media import probe_clip, read_frames
from pipeline.project import read_result_project
from pipeline.videoanydoor.folders import INIT_COMMAND, NO_CHECKPOINT
from tests.pipeline.sample_project import DOCUMENT, HW, changed, write_media, write_project
from tests.serving import ROOT
from tests.tiny_models import make_pipeline, randomize_zeros

LAYER = ("layers", 0)
ENGINE = {"name": "videoanydoor", "num_inference_steps": 1, "window": 4}
PROJECT = changed(DOCUMENT, ("range", [0, 5]), ("engine", ENGINE))
MASK = (slice(20, 44), slice(30, 60))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A project's folder, and beside it ``checkpoints`` with one tiny one."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("base")
    (base / "project").mkdir()
    write_media(base / "project")
    mask = np.zeros(HW, np.uint8)
    mask[MASK] = 255
    Image.fromarray(mask).save(base / "project" / "mask.png")
    pipe = make_pipeline()
    randomize_zeros(pipe.controlnet, pipe.pixel_warper)
    pipe.save_pretrained(base / "checkpoints" / "tiny")
    return base


@pytest.fixture
def folder(media, tmp_path, monkeypatch):
    """The current folder is the one that holds ``checkpoints``; caches are fresh."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(media)
    return media / "project"


def run(folder: Path, output: Path, *arguments: str, document: dict = PROJECT) -> int:
    return main(["render", str(write_project(folder, document)), "-o", str(output), "--lossless", "--device", "cpu", *arguments])


def touched(folder: Path, output: Path) -> np.ndarray:
    """Where the lossless result differs from the clip in luma, bool[F,H,W]."""
    made = list(read_frames(probe_clip(output)))
    sources = list(read_frames(probe_clip(folder / "clip.mp4"), 0, len(made)))
    return np.stack([one.planes[0] != other.planes[0] for one, other in zip(made, sources, strict=True)])


def test_a_project_becomes_a_video_and_the_plan_is_told_first(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "out.mkv", "--report", str(tmp_path / "report.json")) == DONE
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("all networks stay in memory") and "2 passes through the network, about " in lines[0]
    assert lines[1].startswith("5 frames of 96x64") and any(line.startswith("inserting 'ball' 1 of 1") for line in lines)
    changes = touched(folder, tmp_path / "out.mkv")
    assert changes.shape == (5, *HW) and all(each.any() for each in changes) and not changes[:, :, 90:].any()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["engine"] == "videoanydoor" and report["project"]["engine"] == {**ENGINE, "checkpoint": "tiny"}
    assert read_result_project(tmp_path / "out.mkv").engine.checkpoint == "tiny"


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(folder, tmp_path, capsys):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert run(folder, tmp_path / f"{name}.mkv", "--seed", seed) == DONE
    made = [(tmp_path / f"{name}.mkv").read_bytes() for name in "abc"]
    assert made[0] == made[1] != made[2]


def test_the_engine_and_its_checkpoint_can_be_given_as_flags(folder, media, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = changed(PROJECT, ("engine", {**ENGINE, "name": "composite"}))
    arguments = ("--engine", "videoanydoor", "--checkpoint", str(media / "checkpoints" / "tiny"), "--json")
    digests = []
    for more in (arguments, ("--engine", "videoanydoor", "--json")):
        named = changed(document, ("engine", "checkpoint", "../checkpoints/tiny"))
        assert run(folder, tmp_path / "out.mkv", *more, document=named) == DONE
        digests.append(json.loads(capsys.readouterr().out)["digest"])
    assert digests[0] == digests[1], "where a checkpoint lies does not matter"
    assert run(folder, tmp_path / "out.mkv", "--checkpoint", "tiny", document=DOCUMENT) == INPUT_AT_FAULT
    assert "takes no checkpoint; leave --checkpoint out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["replace", "remove"])
def test_a_thing_marked_by_a_mask_file_is_replaced_or_removed(folder, tmp_path, capsys, kind):
    layer = {"name": "sign", "kind": kind, "target": {"path": "mask.png"}}
    if kind == "replace":
        layer["references"] = [{"path": "ball.png"}]
    document = changed(PROJECT, ("layers", [layer]))
    assert run(folder, tmp_path / "out.mkv", document=document) == DONE
    changes = touched(folder, tmp_path / "out.mkv")
    assert changes[:, MASK[0], MASK[1]].mean() > 0.8 and not changes[:, :, :4].any()


def test_replace_takes_boxes_and_trajectories_too(folder, tmp_path, capsys):
    document = changed(PROJECT, (*LAYER, "kind", "replace"), (*LAYER, "target", {"path": "mask.png"}), (*LAYER, "boxes", {}))
    assert run(folder, tmp_path / "one.mkv", document=document) == DONE, "one trajectory moves the target's own box"
    document = changed(document, (*LAYER, "boxes", PROJECT["layers"][0]["boxes"]))
    assert run(folder, tmp_path / "two.mkv", document=document) == DONE
    assert touched(folder, tmp_path / "two.mkv")[:, MASK[0], MASK[1]].mean() > 0.8
    assert (tmp_path / "one.mkv").read_bytes() != (tmp_path / "two.mkv").read_bytes()


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ({"kind": "remove"}, "layers[0].target: nothing says what to remove"),
        ({"kind": "remove", "target": {"prompts": {"0": {"clicks": [[0.5, 0.5, 0]]}}}}, 'layers[0].target.prompts["0"]: nothing'),
        ({"kind": "remove", "target": {"path": "mask.png"}, "boxes": {"0": {"box": [0, 0, 1, 1]}}}, "layers[0].boxes: "),
        ({"kind": "replace", "target": {"path": "mask.png"}}, "layers[0].references: no picture"),
        ({"kind": "replace", "target": {"path": "none.png"}, "references": [{"path": "ball.png"}]}, "none.png"),
    ],
)
def test_layers_that_cannot_work_are_refused(folder, tmp_path, capsys, layer, says):
    assert run(folder, tmp_path / "out.mkv", document=changed(PROJECT, ("layers", [layer]))) == INPUT_AT_FAULT
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and not (tmp_path / "out.mkv").exists()


def test_without_a_checkpoint_one_sentence_says_how_to_get_one(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(folder, tmp_path / "out.mkv") == INPUT_AT_FAULT
    error = capsys.readouterr().err
    assert "make one with 'python -m pipeline videoanydoor init" in error and error.count("\n") == 1
    monkeypatch.chdir(folder.parent)
    assert run(folder, tmp_path / "out.mkv", "--checkpoint", "other") == INPUT_AT_FAULT
    assert "There is no checkpoint 'other'; use one of 'tiny'" in capsys.readouterr().err


def test_a_device_or_a_memory_that_is_not_there(folder, tmp_path, capsys, monkeypatch):
    assert (
        main(["render", str(write_project(folder, PROJECT)), "-o", str(tmp_path / "o.mp4"), "--device", "abacus"]) == INPUT_AT_FAULT
    )
    assert "There is no device 'abacus'" in capsys.readouterr().err
    monkeypatch.setattr("pipeline.preflight.available_memory_bytes", lambda: 202_000_000)
    assert run(folder, tmp_path / "out.mkv") == INPUT_AT_FAULT
    assert "engine.size or engine.window" in capsys.readouterr().err


def test_a_person_without_a_checkpoint_gets_one_by_doing_as_told(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert INIT_COMMAND in NO_CHECKPOINT
    command = shlex.split(INIT_COMMAND)
    assert command[:3] == ["python", "-m", "pipeline"] and main(command[3:]) == DONE
    document = changed(PROJECT, ("range", [0, 2]), ("engine", "window", 2))
    assert run(folder, tmp_path / "out.mkv", document=document) == DONE
    assert touched(folder, tmp_path / "out.mkv").any()
    for name in re.findall(r"docs/\w+\.md", NO_CHECKPOINT):
        assert "python -m pipeline videoanydoor " in (ROOT / name).read_text(encoding="utf-8"), name
    assert main(command[3:]) == INPUT_AT_FAULT
    assert "exists already" in capsys.readouterr().err


def test_the_other_engine_replaces_the_same_target(folder, tmp_path):
    layer = {"kind": "replace", "references": [{"path": "ball.png"}], "target": {"path": "mask.png"}}
    document = changed(PROJECT, ("layers", [layer]))
    assert run(folder, tmp_path / "out.mkv", "--engine", "composite", document=document) == DONE
    assert touched(folder, tmp_path / "out.mkv").any()


def test_every_engine_on_offer_can_be_built(folder):
    for name, build in cli.ENGINES.items():
        assert hasattr(build("cpu", Path("checkpoints")), "run"), name
