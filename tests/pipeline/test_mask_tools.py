"""Painting, mending and writing masks, against masks drawn by hand."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.mask_files import write_mask_file
from pipeline.mask_tools import fill_holes, paint_stroke, remove_specks, resize_mask
from pipeline.media import probe_clip, read_frames
from tests.tiny import make_clip

HW = (61, 97)


def rectangle(x0, y0, x1, y1):
    mask = np.zeros(HW, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize("radius_px", [1, 3, 8.5, 20])
def test_a_dab_is_a_disk_around_its_place(radius_px):
    painted = paint_stroke(np.zeros(HW, bool), [(48.5, 30.5)], radius_px)
    y, x = np.mgrid[: HW[0], : HW[1]]
    distance = np.hypot(x - 48, y - 30)
    assert painted[distance <= radius_px - 1].all() and not painted[distance > radius_px + 1.2].any()


def test_a_stroke_has_the_brush_s_width_and_the_eraser_takes_just_that_away():
    empty, full = np.zeros(HW, bool), np.ones(HW, bool)
    way = [(-20, 20), (50, 20), (50, 80)]
    painted = paint_stroke(empty, way, 5)
    assert painted[15:25, :50].sum() >= 0.95 * 500 and painted[:, 80:].sum() == 0 and painted[58, 50]
    assert (paint_stroke(full, way, 5, is_eraser=True) == ~painted).all()
    assert not empty.any() and full.all(), "what was given is not changed"
    assert (paint_stroke(painted, way, 5) == painted).all()


def test_holes_are_filled_and_bays_stay():
    mask = rectangle(10, 10, 50, 50) & ~rectangle(20, 20, 25, 25) & ~rectangle(30, 40, 34, 61)
    assert (fill_holes(mask) == (rectangle(10, 10, 50, 50) & ~rectangle(30, 40, 34, 61))).all()
    assert not fill_holes(np.zeros(HW, bool)).any() and fill_holes(np.ones(HW, bool)).all()
    ring = rectangle(0, 0, 30, 61) & ~rectangle(0, 5, 20, 50)
    assert (fill_holes(ring) == ring).all(), "what touches the picture's edge is no hole"


def test_specks_go_and_parts_of_the_thing_stay():
    thing, leg, speck = rectangle(10, 10, 50, 50), rectangle(60, 20, 70, 30), rectangle(80, 5, 83, 8)
    assert (remove_specks(thing | leg | speck) == (thing | leg)).all()
    assert (remove_specks(speck) == speck).all(), "the largest part is never a speck"
    assert not remove_specks(np.zeros(HW, bool)).any()


def test_resizing_keeps_the_area():
    mask = rectangle(20, 10, 60, 40)
    for hw in ((122, 194), (30, 48), HW):
        resized = resize_mask(mask, hw)
        assert resized.shape == hw and resized.mean() == pytest.approx(mask.mean(), rel=0.06)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "a.mkv", num_frames=6, hw=HW, pixel_format="yuv444p"))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_mask_video_holds_exactly_the_masks_and_their_times(clip, tmp_path, suffix):
    masks = [rectangle(5 * index, 10, 5 * index + 20, 40) for index in range(6)]
    path = tmp_path / f"masks{suffix}"
    write_mask_file(path, clip, (0, 6), masks)
    film = probe_clip(path)
    read = [frame.image[: HW[0], : HW[1], 0] >= 128 for frame in read_frames(film)]
    assert all((one == other).all() for one, other in zip(read, masks, strict=True))
    assert film.fps == clip.fps and film.hw == ((62, 98) if suffix == ".mp4" else HW)


def test_pictures_are_named_by_frame(clip, tmp_path):
    path = tmp_path / "masks.zip"
    write_mask_file(path, clip, (2, 4), [rectangle(0, 0, 9, 9), np.zeros(HW, bool)])
    with zipfile.ZipFile(path) as pack:
        assert pack.namelist() == ["mask-00002.png", "mask-00003.png"]
        assert (np.array(Image.open(pack.open("mask-00002.png"))) == 255 * rectangle(0, 0, 9, 9)).all()


def test_what_cannot_be_written_is_said_and_leaves_nothing(clip, tmp_path):
    with pytest.raises(UserError, match=r"masks\.gif cannot hold masks"):
        write_mask_file(tmp_path / "masks.gif", clip, (0, 1), [rectangle(0, 0, 5, 5)])
    for name in ("masks.zip", "masks.mkv"):
        with pytest.raises(UserError, match=name):
            write_mask_file(tmp_path / "nowhere" / name, clip, (0, 1), [rectangle(0, 0, 5, 5)])

    def failing():
        yield rectangle(0, 0, 5, 5)
        raise UserError("no more")

    for name in ("masks.zip", "masks.mkv"):
        with pytest.raises(UserError, match="no more"):
            write_mask_file(tmp_path / name, clip, (0, 2), failing())
    assert list(tmp_path.iterdir()) == []
