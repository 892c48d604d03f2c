from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from pipeline import background, media
from pipeline.background import CleanPlates
from pipeline.composite.engine import CompositeEngine
from pipeline.engines import ignore_progress
from pipeline.inpaint import fill_hole
from pipeline.types import Frame, InsertionRequest, Layer

from .composite.removal_scenes import (
    HW,
    NUM_FRAMES,
    PLAIN,
    disc_mask,
    disc_track,
    make_removal,
    picture,
    psnr,
    truth,
    write_scene,
)
from .composite.scenes import paint_texture


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"))


def run(request: InsertionRequest) -> list[Frame]:
    with closing(CompositeEngine().run(request, ignore_progress, print)) as frames:
        return list(frames)


@pytest.fixture(scope="module")
def removed(scene):
    return run(make_removal(scene))


def test_what_other_frames_show_comes_back(removed):
    found = [psnr(frame.image, truth(frame.frame_index), disc_mask(frame.frame_index)) for frame in removed]
    assert len(found) == NUM_FRAMES
    assert np.mean(found) > 34 and min(found) > 30
    plain = [psnr(picture(index), truth(index), disc_mask(index)) for index in range(NUM_FRAMES)]
    assert max(plain) < 15


def test_the_background_does_not_pump(removed):
    """The mean error of the patch hardly changes from frame to frame."""
    means = [(frame.image.astype(float) - truth(frame.frame_index))[disc_mask(frame.frame_index)].mean(axis=0) for frame in removed]
    assert np.abs(np.diff(means, axis=0)).max() < 1.0


def test_nothing_is_touched_beyond_the_seam_and_the_layer_makes_the_picture(removed, scene):
    for frame in removed[::7]:
        y, x = np.nonzero(disc_mask(frame.frame_index))
        far = np.ones(HW, bool)
        far[max(0, y.min() - 9) : y.max() + 10, max(0, x.min() - 9) : x.max() + 10] = False
        assert not (frame.touched & far).any()
        assert frame.touched[disc_mask(frame.frame_index)].all()
        source, alpha = frame.source.image.astype(np.float32), frame.layer[..., 3:].astype(np.float32) / 255
        over = source * (1 - alpha) + frame.layer[..., :3] * alpha
        assert np.abs(over - frame.image).max() <= 0.51


def test_a_part_of_the_range_gives_the_same_frames(removed, scene):
    for start, stop in ((21, 24), (NUM_FRAMES - 1, NUM_FRAMES)):
        for frame in run(make_removal(scene, (start, stop))):
            assert np.array_equal(frame.image, removed[frame.frame_index].image)


def test_what_no_frame_shows_is_made_up_once_and_keeps_still(tmp_path):
    still = (slice(34, 62), slice(60, 90))
    mask = np.zeros(HW, bool)
    mask[still] = True

    def images(frame_index):
        image = truth(0)
        image[mask] = (230, 30, 200)
        return np.clip(image + np.random.default_rng(frame_index).normal(0, 1, image.shape), 0, 255).astype(np.uint8)

    clip = write_scene(tmp_path, 24, images)
    track = replace(disc_track(clip), runs=tuple(background.masks.encode_rle(mask) for _ in range(24)))
    frames = run(InsertionRequest(clip, (0, 24), (Layer("box", "remove", target=track, blend=PLAIN),)))
    inner = np.array([frame.image[still] for frame in frames]).astype(float)
    assert inner.std(axis=0).max() < 1.5
    assert np.abs(inner.mean(axis=(0, 1, 2)) - truth(0)[~mask].mean(axis=0)).max() < 25


def test_two_things_that_go_leave_no_ghost_of_each_other(tmp_path, scene):
    def other_mask(frame_index):
        return np.roll(disc_mask(NUM_FRAMES - 1 - frame_index), 12, axis=0)

    def images(frame_index):
        image = picture(frame_index)
        image[other_mask(frame_index)] = (20, 240, 30)
        return image

    clip = write_scene(tmp_path, NUM_FRAMES, images)
    other = replace(disc_track(clip), runs=tuple(background.masks.encode_rle(other_mask(i)) for i in range(NUM_FRAMES)))
    layers = (Layer("one", "remove", target=disc_track(clip), blend=PLAIN), Layer("two", "remove", target=other, blend=PLAIN))
    for frame in run(InsertionRequest(clip, (16, 25), layers)):
        both = disc_mask(frame.frame_index) | other_mask(frame.frame_index)
        assert psnr(frame.image, truth(frame.frame_index), both) > 27


def test_exposure_that_changes_is_matched(tmp_path):
    def images(frame_index):
        gain = 0.8 + 0.4 * frame_index / NUM_FRAMES
        image = np.clip(truth(frame_index) * gain, 0, 255).astype(np.uint8)
        image[disc_mask(frame_index)] = (230, 30, 200)
        return image

    clip = write_scene(tmp_path, NUM_FRAMES, images)
    for frame in run(make_removal(clip, (16, 25)))[::4]:
        wanted = np.clip(truth(frame.frame_index) * (0.8 + 0.4 * frame.frame_index / NUM_FRAMES), 0, 255)
        assert psnr(frame.image, wanted, disc_mask(frame.frame_index)) > 30


def test_nothing_comes_from_behind_a_cut(tmp_path):
    """The other shot's colours never get into the hole, not even in a shot too short to hold a key."""
    other = np.full((*HW, 3), (10, 10, 40), np.uint8) + (paint_texture(HW, 9) // 16)

    def images(frame_index):
        if 17 <= frame_index < 23:
            image = other.copy()
            image[disc_mask(frame_index)] = (230, 30, 200)
            return image
        return picture(frame_index)

    clip = write_scene(tmp_path, 32, images)
    for frame in run(make_removal(clip, (14, 26))):
        wanted = other if 17 <= frame.frame_index < 23 else truth(frame.frame_index)
        error = np.abs(frame.image.astype(float) - wanted)[disc_mask(frame.frame_index)].mean()
        assert error < 10, frame.frame_index


def test_at_a_cut_a_frame_is_made_of_the_ends_of_its_own_shot(scene, monkeypatch):
    with closing(CleanPlates(scene, disc_track(scene), (), ignore_progress)) as plates:
        monkeypatch.setattr(plates._path, "between", lambda one, other: None if (one < 13) != (other < 13) else np.eye(3))
        keys = {index: [key for key, _ in plates._keys_around(index)] for index in (4, 10, 12, 13, 14, 20)}
    assert keys == {4: [0, 8], 10: [8, 12], 12: [12], 13: [13], 14: [13, 16], 20: [16, 24]}


def merged(*values, nearness):
    pictures = [np.full((24, 32, 3), value, np.uint8) for value in values]
    return background._merge(pictures, [np.ones((24, 32), bool)] * len(values), np.array(nearness, np.float32))


def test_what_moves_by_itself_is_as_most_pictures_show_it_the_nearer_the_more():
    passing, _ = merged(200, 80, 82, 81, nearness=(0.5, 0.4, 0.3, 0.2))
    assert abs(passing.mean() - 81) < 1.5, "what passes by leaves no trace"
    arrived, num_views = merged(200, 201, 80, 82, 81, nearness=(0.5, 0.5, 0.1, 0.1, 0.1))
    assert abs(arrived.mean() - 200.5) < 0.5, "what has come stays, and is no mix with what was there before"
    assert num_views == pytest.approx(2, abs=0.1)


def test_what_only_some_pictures_show_is_taken_from_them():
    pictures, seen = [np.full((24, 32, 3), value, np.uint8) for value in (60, 160)], np.zeros((2, 24, 32), bool)
    seen[0, :, :13], seen[1, :, 9:25] = True, True
    rgb, num_views = background._merge(pictures, list(seen), np.array([0.5, 0.2], np.float32))
    assert np.abs(rgb[:, :9] - 60).max() < 0.1 and np.abs(rgb[:, 13:25] - 160).max() < 0.1
    assert (num_views[:, :25] > 0.99).all() and not num_views[:, 25:].any() and not rgb[:, 25:].any()


def held_bytes(plates: CleanPlates) -> int:
    """What a removal holds in memory: frames to sample, small views, plates, masks."""
    kept = [*plates._samples.values(), *plates._beside.values()]
    frames = sum(plane.nbytes for frame in kept for plane in frame.planes) + plates._frames._num_bytes
    views = [*plates._path._views.values(), *plates._path._passing.values()]
    seen = sum(view.gray.nbytes + view.even.nbytes + view.is_scene.nbytes + view.features.nbytes for view in views)
    parts = [(each.rgb, each.num_views, each.is_filled, each.motion.fields) for each in plates._plates.values()]
    made = sum(part.nbytes for plate in parts for part in plate)
    return frames + seen + made + sum(mask.nbytes for mask in plates._moving_seen.values())


def test_memory_does_not_grow_with_the_clip(tmp_path, monkeypatch):
    limits = {"REACH_FRAMES": 8, "BLOCK_FRAMES": 16, "SAMPLE_BYTES": 4 << 20, "_MAX_MASKS": 12, "_MAX_PLATES": 3}
    for name, value in limits.items():
        monkeypatch.setattr(background, name, value)
    clip = write_scene(tmp_path, 112, lambda index: picture(index % NUM_FRAMES))
    track = disc_track(clip)
    runs = tuple(track.runs[index % NUM_FRAMES] for index in range(clip.num_frames))
    held = []
    with (
        closing(CleanPlates(clip, replace(track, runs=runs), (), ignore_progress)) as plates,
        closing(media.FrameStore(clip, max_bytes=1)) as store,
    ):
        for index in range(4, clip.num_frames, 16):
            plates.patch(store.frame(index))
            held.append(held_bytes(plates))
    assert len(held) == 7 and max(held[4:]) < 1.1 * max(held[:4])


def test_a_hole_is_filled_from_what_surrounds_it():
    rgb = np.zeros((40, 60, 3), np.float32)
    rgb[:, :30], rgb[:, 30:] = (200, 40, 40), (40, 40, 200)
    hole = np.zeros((40, 60), bool)
    hole[12:28, 8:22] = True
    filled = fill_hole(np.where(hole[..., None], 0, rgb), ~hole, hole)
    assert np.abs(filled[hole] - (200, 40, 40)).max() < 3
    assert np.array_equal(filled[~hole], np.where(hole[..., None], 0, rgb)[~hole])
    assert (fill_hole(rgb, np.zeros_like(hole), hole)[hole] == 128).all()
