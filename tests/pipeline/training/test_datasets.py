"""Every data set of the paper's Table 1, tiny, in its own layout: the right thing is found in it, and clips are drawn of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.masks import coco_mask, encode_rle
from pipeline.training.cli import CONFIGS
from pipeline.training.config import DATASETS, read_config
from pipeline.training.datasets import ADAPTERS, DatasetSource, choose_thing, read_panoptic_things
from pipeline.training.sources import open_sources
from pipeline.videoanydoor.conditioning import Grid
from tests.pipeline.training.material import tiny_config
from tests.tiny import make_clip

HW, COUNT, SIDE = (96, 128), 8, 40
SHARES = {"mvimgnet": 0.2, "pexels_images": 0.3}
SAMPLES = {
    "youtube_vos": 4453,
    "youtube_vis": 2883,
    "uvo": 10337,
    "mose": 2149,
    "vipseg": 3110,
    "vspw": 3536,
    "sa_v": 51000,
    "pexels_videos": 6000,
    "vivid": 9700,
    "chdtf": 362,
    "celebv_hq": 35666,
}


def texture(seed: int, hw: tuple[int, int], tint: tuple[float, float, float]) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(50, 255, (hw[0] // 6 + 1, hw[1] // 6 + 1), np.uint8)
    grey = cv2.resize(coarse, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)
    return (grey[..., None] * np.array(tint)).astype(np.uint8)


def thing_mask(index: int) -> np.ndarray:
    mask = np.zeros(HW, bool)
    mask[24 + index :, 12 + 5 * index :][:SIDE, :SIDE] = True
    return mask


def picture(index: int) -> np.ndarray:
    """A red thing that moves over a green ground; a small blue one stands in a corner."""
    image = texture(1, HW, (0.2, 0.8, 0.3))
    image[thing_mask(index)] = texture(2, (SIDE, SIDE), (1, 0.55, 0.5)).reshape(-1, 3)
    image[4:14, 110:120] = (20, 30, 240)
    return image


def ids(index: int, thing: int, other: int, ground: int = 0) -> np.ndarray:
    found = np.full(HW, ground, np.int32)
    found[4:14, 110:120] = other
    found[thing_mask(index)] = thing
    return found


def write_pictures(folder: Path, name: Callable[[int], str] = "{:05d}.jpg".format) -> None:
    folder.mkdir(parents=True)
    for index in range(COUNT):
        Image.fromarray(picture(index)).save(folder / name(index), **({"quality": 97} if name(index).endswith("jpg") else {}))


def write_ids(folder: Path, maps: Callable[[int], np.ndarray], mode: str = "P", name: str = "{:05d}.png") -> None:
    folder.mkdir(parents=True)
    for index in range(COUNT):
        if mode == "I;16":
            image = Image.fromarray(maps(index).astype(np.uint16))
        else:
            image = Image.fromarray(maps(index).astype(np.uint8))
            if mode == "P":
                image.putpalette([value for number in range(256) for value in (number, 255 - number, 7 * number % 256)])
        image.save(folder / name.format(index))


def runs(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask(encode_rle(mask), HW)


def other_mask() -> np.ndarray:
    mask = np.zeros(HW, bool)
    mask[4:14, 110:120] = True
    return mask


def davis(root: Path) -> None:
    write_pictures(root / "train" / "JPEGImages" / "003234408d")
    write_ids(root / "train" / "Annotations" / "003234408d", lambda index: ids(index, 2, 1))


def instances(frames: Path, annotations: Path, name: str, counts: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> None:
    write_pictures(frames / "clip1", name.format)
    video = {"id": 7, "file_names": [f"clip1/{name.format(index)}" for index in range(COUNT)], "length": COUNT}
    masks = [counts(runs(thing_mask(index))) for index in range(COUNT)]
    things = [
        {"video_id": 7, "segmentations": [runs(other_mask())] + [None] * (COUNT - 1)},
        {"video_id": 7, "segmentations": masks},
    ]
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps({"videos": [video, {"id": 8, "file_names": []}], "annotations": things}))


def youtube_vis(root: Path) -> None:
    def listed(_: dict[str, Any]) -> dict[str, Any]:
        return {"size": list(HW), "counts": [int(run) for run in encode_rle(thing_mask(next(numbers)))]}

    numbers = iter(range(COUNT))
    instances(root / "train" / "JPEGImages", root / "train" / "instances.json", "{:05d}.jpg", listed)


def uvo(root: Path) -> None:
    instances(root / "uvo_videos_dense_frames", root / "VideoDenseSet" / "UVO_video_train_dense.json", "{}.png")


def vipseg(root: Path) -> None:
    write_pictures(root / "imgs" / "0_wHl")
    write_ids(root / "panomasks" / "0_wHl", lambda index: ids(index, 6101, 6100, ground=45), "I;16")


def vspw(root: Path) -> None:
    write_pictures(root / "data" / "127_-hIV" / "origin")
    write_ids(root / "data" / "127_-hIV" / "mask", lambda index: ids(index, 61, 255, ground=34), "L")
    write_pictures(root / "data" / "test_only" / "origin")
    (root / "train.txt").write_text("127_-hIV\n")


def sa_v(root: Path) -> None:
    folder = root / "sav_000"
    folder.mkdir()
    make_clip(folder / "sav_000001.mp4", num_frames=4 * COUNT - 3, hw=HW, images=lambda number: picture(round(number / 4)))
    frames = [[runs(other_mask()), runs(thing_mask(index))] for index in range(COUNT)]
    (folder / "sav_000001_manual.json").write_text(json.dumps({"video_id": "sav_000001", "masklet": frames}))
    (folder / "sav_000001_auto.json").write_text("{}")


def mvimgnet(root: Path) -> None:
    instance = root / "145" / "0000a939"
    write_pictures(instance / "images", "{:03d}.jpg".format)
    write_ids(instance / "masks", lambda index: thing_mask(index) * 255, "L", "{:03d}.jpg.png")


def masked_video(root: Path) -> None:
    make_clip(root / "street.mp4", num_frames=COUNT, hw=HW, images=picture)
    white = [np.repeat(thing_mask(index)[..., None], 3, axis=2).astype(np.uint8) * 255 for index in range(COUNT)]
    make_clip(root / "street.mask.mkv", num_frames=COUNT, hw=HW, images=lambda index: white[index], codec="ffv1")


def masked_picture(root: Path) -> None:
    Image.fromarray(picture(3)).save(root / "cup.png")
    Image.fromarray(thing_mask(3).astype(np.uint8) * 255).save(root / "cup.mask.png")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "youtube_vos": (davis, "coarse_video"),
    "youtube_vis": (youtube_vis, "coarse_video"),
    "uvo": (uvo, "coarse_video"),
    "mose": (davis, "fine_video"),
    "vipseg": (vipseg, "fine_video"),
    "vspw": (vspw, "fine_video"),
    "sa_v": (sa_v, "fine_video"),
    "pexels_videos": (masked_video, "coarse_video"),
    "mvimgnet": (mvimgnet, "fine_video"),
    "vivid": (masked_video, "fine_video"),
    "chdtf": (masked_video, "fine_video"),
    "celebv_hq": (masked_video, "fine_video"),
    "pexels_images": (masked_picture, "image"),
}


OURS = ("pexels_videos", "vivid", "chdtf", "celebv_hq")
"""Sets of which no masks are published: all in our own layout, by one adapter."""


def test_videos_with_masks_beside_them_are_listed_for_every_set_without_masks(tmp_path) -> None:
    masked_video(tmp_path)
    found = {name: [(each.name, each.source) for each in ADAPTERS[name](tmp_path)] for name in OURS}
    assert found == {name: [("street", LAYOUTS[name][1])] for name in OURS}


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in OURS[1:]])
def test_the_thing_is_found_in_every_layout(name: str, tmp_path) -> None:
    write, source = LAYOUTS[name]
    write(tmp_path)
    found = DatasetSource(name, tmp_path, tiny_config(tmp_path))
    assert len(found) == 1
    clip = found.clip(np.random.default_rng(3))
    again = found.clip(np.random.default_rng(3))
    assert clip.source == source and clip.num_frames == 3 and np.array_equal(clip.frames, again.frames)
    boxes = clip.boxes.boxes_px
    for frame, box in zip(clip.frames, boxes, strict=True):
        x0, y0, x1, y1 = np.clip(np.round(box), 0, [*frame.shape[1::-1]] * 2).astype(int)
        red = (frame[..., 0] > 1.5 * frame[..., 1].astype(int)) & (frame[..., 0] > 40)
        assert red[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].mean() > 0.9, "the box is full of the thing"
        assert red.sum() < 1.25 * (y1 - y0) * (x1 - x0), "and holds nearly all of it"
    assert np.abs(boxes[-1] - boxes[0]).max() > 1
    solid = clip.reference.image[clip.reference.alpha > 0.9].astype(int)
    assert (solid[:, 0] > 1.3 * solid[:, 1]).mean() > 0.9, "the reference shows the thing"
    assert clip.trajectories is not None
    for point, box in zip(clip.trajectories.points_px[:, 0], [boxes[0]] * len(clip.trajectories), strict=True):
        assert (point > box[:2] - 2).all() and (point < box[2:] + 2).all()


def test_every_set_of_the_table_has_a_layout_an_adapter_and_a_share() -> None:
    assert set(ADAPTERS) == set(DATASETS) == set(LAYOUTS) and len(DATASETS) == 13
    config = read_config(CONFIGS / "mix.yaml")
    shares = {str(source.name): source.share for source in config.sources}
    assert tuple(shares) == DATASETS and sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert {name: shares[name] for name in SHARES} == SHARES, "70:30 real to simulated, MVImgNet at most a fifth"
    total = sum(SAMPLES.values())
    assert all(shares[name] == pytest.approx(0.5 * count / total, abs=1e-4) for name, count in SAMPLES.items())


def test_a_mixture_of_sets_makes_samples(tmp_path) -> None:
    for name in ("mose", "pexels_images"):
        (tmp_path / name).mkdir()
        LAYOUTS[name][0](tmp_path / name)
    sources = [{"kind": "dataset", "name": name, "footage": name} for name in ("mose", "pexels_images")]
    mixture = open_sources(tiny_config(tmp_path, sources=sources), tmp_path, Grid(32, 4, 32, True), 0)
    assert {mixture[number].sources[0] for number in range(6)} == {"fine_video", "image"}


def test_the_thing_is_neither_tiny_nor_the_surroundings_nor_seldom_seen() -> None:
    maps = []
    for index in range(4):
        found = np.full((60, 60), 9, np.int32)
        found[10:30, 10:30], found[40:50, 5:25], found[0, 0] = 4, 5, 6
        if index == 0:
            found[30:40, 30:58] = 7
        maps.append(found)
    assert choose_thing(maps) == 4
    assert choose_thing([np.where(each == 4, 0, each) for each in maps]) == 5
    with pytest.raises(ValueError, match="no thing in it"):
        choose_thing([np.zeros((8, 8), np.int32)])


def test_stuff_and_slips_of_vipseg_are_nobody(tmp_path) -> None:
    Image.fromarray(np.array([[0, 34, 124, 200, 6100, 12203]], np.uint16)).save(tmp_path / "m.png")
    assert read_panoptic_things(tmp_path / "m.png").tolist() == [[0, 0, 0, 0, 6100, 12203]]


def test_what_is_missing_or_damaged_is_said(tmp_path) -> None:
    config = tiny_config(tmp_path)
    for name in DATASETS:
        with pytest.raises(UserError, match="'nowhere'"):
            DatasetSource(name, tmp_path / "nowhere", config)
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=r"layout|does not exist|has a mask beside it"):
            DatasetSource(name, tmp_path / name, config)
    LAYOUTS["mose"][0](tmp_path / "mose")
    mask = next((tmp_path / "mose" / "train" / "Annotations").rglob("00000.png"))
    mask.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"00000\.png is damaged"):
        DatasetSource("mose", tmp_path / "mose", config).clip(np.random.default_rng(0))
    with pytest.raises(UserError, match="dataset need this"):
        tiny_config(tmp_path, sources=[{"kind": "dataset", "footage": "mose"}])
