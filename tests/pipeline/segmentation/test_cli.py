"""``segment`` and ``fetch-models``: masks as files, whole or not at all, and one sentence for every fault."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.cli import DONE, INPUT_AT_FAULT, main
from pipeline.masks import decode_rle, read_mask_track
from pipeline.media import FrameStore, probe_clip, read_frames
from pipeline.project import read_result_project
from pipeline.segmentation import sam2
from pipeline.segmentation.sam2 import build_segmenter
from pipeline.segmentation.tracks import MaskTracks
from pipeline.types import Array, Click, Prompt

from ...tiny import make_clip
from .tiny_sam2 import save_sam2

NUM_FRAMES = 8
PROMPT = Prompt((Click(0.4 * 96, 0.5 * 64), Click(0.9 * 96, 0.1 * 64, False)))
CLICKS = ("--click", "0.4,0.5", "--click", "0.9,0.1,0")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_clip(folder / "clip.mp4", num_frames=NUM_FRAMES)
    save_sam2(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def masks(media: Path) -> list[Array]:
    """What the segmenter itself makes of the prompt on frame 3, in both directions."""
    with_frames = FrameStore(probe_clip(media / "clip.mp4"))
    tracks = MaskTracks(build_segmenter(media / "weights", "cpu"), None)
    found = dict(tracks.track(with_frames, {3: PROMPT}, 0, NUM_FRAMES))
    made = [decode_rle(found[index].runs, (64, 96)) for index in range(NUM_FRAMES)]
    assert len({mask.tobytes() for mask in made}) == NUM_FRAMES
    return made


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "out").mkdir()
    return tmp_path / "cache"


def segment(media: Path, output: Path, *arguments: str, clicks: tuple[str, ...] = CLICKS) -> int:
    fixed = ("--segmenter", "sam2", "--segmenter-model", str(media / "weights"), "--segmenter-device", "cpu")
    return main(["segment", str(media / "clip.mp4"), *clicks, *fixed, "-o", str(output), *arguments])


def read_luma(path: Path) -> list[Array]:
    clip = probe_clip(path)
    return [frame.planes[0] for frame in read_frames(clip)]


def assert_refused(capsys: pytest.CaptureFixture[str], folder: Path, status: int, says: str) -> None:
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert status == INPUT_AT_FAULT and len(lines) == 1 and says in lines[0], captured.err
    assert "Traceback" not in captured.err and captured.out == "" and str(folder) not in lines[0]
    assert list((folder / "out").iterdir()) == []


def test_one_frame_as_a_picture(media, masks, tmp_path, capsys):
    assert segment(media, tmp_path / "out" / "mask.png", "--frame", "3") == DONE
    picture = np.asarray(Image.open(tmp_path / "out" / "mask.png"))
    np.testing.assert_array_equal(picture, masks[3] * np.uint8(255))
    assert "mask.png: 1 frame in" in capsys.readouterr().err


def test_a_lossless_video_is_exact_and_a_project_can_take_it(media, masks, tmp_path, capsys):
    output = tmp_path / "out" / "masks.mkv"
    assert segment(media, output, "--frame", "3", "--propagate", "both", "--json") == DONE
    for luma, mask in zip(read_luma(output), masks, strict=True):
        np.testing.assert_array_equal(luma, mask * np.uint8(255))
    track = read_mask_track(output, probe_clip(media / "clip.mp4"))
    assert all(np.array_equal(decode_rle(runs, (64, 96)), mask) for runs, mask in zip(track.runs, masks, strict=True))
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"output", "frames", "seconds", "segmenter", "warnings"}
    assert (document["frames"], document["segmenter"]) == (NUM_FRAMES, "sam2")


def test_a_playable_video_is_cut_at_128(media, masks, tmp_path):
    output = tmp_path / "out" / "masks.mp4"
    assert segment(media, output, "--frame", "3", "--propagate", "forward") == DONE
    track = read_mask_track(output, probe_clip(media / "clip.mp4"))
    assert len(track) == NUM_FRAMES and track.runs[:3] == (None, None, None)
    for index in range(3, NUM_FRAMES):
        assert (decode_rle(track.runs[index], (64, 96)) != masks[index]).mean() < 0.01


def test_a_folder_of_pictures_holds_the_frames_that_were_asked_for(media, masks, tmp_path):
    output = tmp_path / "out" / "pictures"
    assert segment(media, output, "--frame", "3", "--propagate", "backward") == DONE
    assert sorted(path.name for path in output.iterdir()) == [f"mask-{index:05d}.png" for index in range(4)]
    np.testing.assert_array_equal(np.asarray(Image.open(output / "mask-00001.png")), masks[1] * np.uint8(255))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pictures"]


def test_a_box_and_the_cache_of_an_earlier_run(media, tmp_path, cache):
    for name in ("a.png", "b.png"):
        assert segment(media, tmp_path / "out" / name, clicks=("--box", "0.2,0.2,0.8,0.9")) == DONE
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "out" / "b.png").read_bytes()
    assert len(list(cache.rglob("*.npz"))) == 1


@pytest.mark.parametrize(
    ("arguments", "clicks", "says"),
    [
        ((), (), "Say what is meant: give --click"),
        ((), ("--click", "0.9,0.1,0"), "Every click is beside the thing"),
        ((), ("--click", "1.2,0.5"), "must be X,Y or X,Y,0"),
        ((), ("--click", "0.2"), "must be X,Y or X,Y,0"),
        ((), ("--click", "nan,0.5"), "must be X,Y or X,Y,0"),
        ((), ("--box", "0.5,0.5,0.2,0.9"), "top left corner first"),
        (("--frame", "8"), CLICKS, "Frame 8 has clicks, but clip.mp4 has frames 0 to 7"),
        (("--frame", "-1"), CLICKS, "must be a frame number"),
        (("--segmenter-size", "100"), CLICKS, "in steps of 32"),
        (("--segmenter-device", "cuda:9"), CLICKS, "no device"),
        (("--segmenter-model", "nowhere"), CLICKS, "no weights here; run 'python -m pipeline fetch-models'"),
    ],
)
def test_faults_are_one_sentence(media, tmp_path, capsys, arguments, clicks, says):
    status = segment(media, tmp_path / "out" / "mask.png", *arguments, clicks=clicks)
    assert_refused(capsys, tmp_path, status, says)


@pytest.mark.parametrize(
    ("name", "says"),
    [("mask.jpg", "cannot hold masks"), ("mask.png", "holds one frame"), ("no/where.mkv", "folder"), ("no/where", "folder")],
)
def test_outputs_that_will_not_do_are_refused_before_the_work(media, tmp_path, capsys, monkeypatch, name, says):
    monkeypatch.setattr("pipeline.segmentation.choice.SegmenterByName.find", lambda *_: pytest.fail("too late"))
    assert_refused(capsys, tmp_path, segment(media, tmp_path / "out" / name, "--propagate", "both"), says)


def test_a_folder_with_something_in_it_is_left_alone(media, tmp_path, capsys):
    taken = tmp_path / "out" / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    assert segment(media, taken) == INPUT_AT_FAULT
    assert "exists already" in capsys.readouterr().err and (taken / "mine.txt").read_text() == "mine"


def test_the_clip_itself_is_never_replaced(media, tmp_path, capsys):
    before = (media / "clip.mp4").read_bytes()
    assert segment(media, media / "clip.mp4", "--propagate", "both") == INPUT_AT_FAULT
    assert "clip.mp4" in capsys.readouterr().err and (media / "clip.mp4").read_bytes() == before


def test_finding_nothing_is_said(media, tmp_path, capsys, monkeypatch):
    from pipeline.segmentation import Segmentation
    from pipeline.segmentation.sam2 import Sam2Segmenter

    nothing = Segmentation(np.full((64, 96), -1, np.float32), 0.9)
    monkeypatch.setattr(Sam2Segmenter, "segment", lambda *_: nothing)
    status = segment(media, tmp_path / "out" / "mask.png", "--frame", "3")
    assert_refused(capsys, tmp_path, status, "Nothing was found there on frame 3")


def test_uncertain_frames_are_named(media, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.segmentation.tracks.LOW_CONFIDENCE", 2.0)
    assert segment(media, tmp_path / "out" / "masks.mkv", "--frame", "3", "--propagate", "forward") == DONE
    assert "not sure of any of the 5 frames; look there" in capsys.readouterr().err


def test_a_thing_that_is_gone_behind_a_cut_is_said(tmp_path, capsys):
    ground = np.random.default_rng(0).integers(60, 150, (64, 96, 1), np.uint8).repeat(3, axis=2)

    def paint(frame_index: int) -> Array:
        image = ground.copy() if frame_index < 6 else 255 - ground[:, ::-1]
        image[20:44, 30 + frame_index : 60 + frame_index] = (210, 40, 40) if frame_index < 6 else image[20:44, 30:60]
        return image

    make_clip(tmp_path / "cut.mp4", num_frames=10, images=paint)
    flags = ["--click", "0.45,0.5", "--segmenter", "fallback", "--propagate", "forward", "--json"]
    assert main(["segment", str(tmp_path / "cut.mp4"), *flags, "-o", str(tmp_path / "out" / "masks.mkv")]) == DONE
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith(
        "Nothing of it is found in 4 of 10 frames (6-9): it is hidden or out of the picture there, or the clip cuts"
    )


def test_running_out_of_memory_leaves_nothing_and_the_same_command_goes_on(media, tmp_path, capsys, monkeypatch):
    plain = sam2.Sam2Segmenter.propagate

    def propagate(self, frames, seeds, order):
        for frame_index, found in plain(self, frames, seeds, order):
            if frame_index == 5:
                raise MemoryError
            yield frame_index, found

    monkeypatch.setattr(sam2.Sam2Segmenter, "propagate", propagate)
    flags = ("--frame", "3", "--propagate", "forward")
    status = segment(media, tmp_path / "out" / "masks.mkv", *flags)
    assert_refused(capsys, tmp_path, status, "not enough memory to go on")
    monkeypatch.setattr(sam2.Sam2Segmenter, "segment", lambda *_: pytest.fail("it is known"))
    monkeypatch.setattr(sam2.Sam2Segmenter, "propagate", plain)
    assert segment(media, tmp_path / "out" / "masks.mkv", *flags) == DONE


def test_fetching_asks_for_what_was_named(tmp_path, capsys, monkeypatch):
    asked = []

    def fetch(name: str, folder: Path) -> Path:
        asked.append((name, folder))
        return folder / name

    monkeypatch.setattr("pipeline.segmentation.cli.fetch_weights", fetch)
    folder = tmp_path / "checkpoints"
    assert main(["fetch-models", "--checkpoints", str(folder)]) == DONE
    assert main(["fetch-models", "sam2.1-hiera-large", "--checkpoints", str(folder)]) == DONE
    assert asked == [("sam2.1-hiera-tiny", folder), ("sam2.1-hiera-large", folder)]
    assert "checkpoints/sam2.1-hiera-large: ready" in capsys.readouterr().err


def test_fetching_something_unknown_or_without_network_is_one_sentence(tmp_path, capsys, monkeypatch):
    def download(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    status = main(["fetch-models", "sam2.1-hiera-huge"])
    assert_refused(capsys, tmp_path, status, "choose one of sam2.1-hiera-tiny")
    status = main(["fetch-models", "--checkpoints", str(tmp_path / "checkpoints")])
    assert_refused(capsys, tmp_path, status, "could not be fetched because the hub cannot be reached")


def test_help_names_the_models(capsys):
    with pytest.raises(SystemExit):
        main(["fetch-models", "--help"])
    text = capsys.readouterr().out
    assert all(name in text.replace("\n", " ") for name in ("sam2.1-hiera-tiny", "sam2.1-hiera-large"))


def test_render_takes_the_same_flags_and_shares_its_loaded_models(media, tmp_path, monkeypatch, capsys):
    layer = {"name": "it", "kind": "remove", "target": {"prompts": {"3": {"clicks": [[0.4, 0.5, 1], [0.9, 0.1, 0]]}}}}
    document = {"version": 1, "clip": {"path": str(media / "clip.mp4")}, "layers": [layer]}
    (tmp_path / "project.json").write_text(json.dumps(document))
    asked: list[object] = []
    build, build_engine = sam2.build_segmenter, cli.build_composite
    monkeypatch.setattr(sam2, "build_segmenter", lambda *given: asked.append(given) or build(*given))
    monkeypatch.setattr(cli, "ENGINES", {"composite": lambda *given: asked.append(given[-1]) or build_engine(*given)})
    flags = ("--segmenter", "sam2", "--segmenter-model", str(media / "weights"), "--segmenter-size", "96")
    output = tmp_path / "out" / "without.mp4"
    arguments = ["render", str(tmp_path / "project.json"), "-o", str(output), "--json", *flags, "--segmenter-device", "cpu"]
    assert main(arguments) == DONE
    assert json.loads(capsys.readouterr().out)["segmenter"] == "sam2"
    assert read_result_project(output).segmenter.name == "sam2", "the result says who made its masks"
    models, (weights, device, size, shared) = asked
    assert (weights, device, size) == (media / "weights", "cpu", 96) and shared is models is not None
