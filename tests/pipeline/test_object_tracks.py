"""A thing with a known mask and motion: its reference, boxes and points come out where they were put."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from pipeline.masks import encode_rle, find_masked_videos, mask_areas, read_mask_track
from pipeline.media import FrameStore, probe_clip
from pipeline.object_tracks import farthest_frame, mask_boxes, path_lengths, study_object
from pipeline.training.real import read_real_clips
from pipeline.types import MaskTrack
from tests.pipeline.training.material import tiny_config
from tests.tiny import make_clip

HW = (120, 160)
NUM_FRAMES = 12
SIDE = 36


def place(frame_index: int) -> tuple[int, int]:
    """Top left pixel of the thing."""
    return 20 + 6 * frame_index, 30 + 2 * frame_index


def texture(seed: int, hw: tuple[int, int]) -> np.ndarray:
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 255, (hw[0] // 6 + 1, hw[1] // 6 + 1, 3), np.uint8)
    return cv2.resize(coarse, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC)


def picture(frame_index: int) -> np.ndarray:
    image = texture(1, HW) // 2 + 40
    x, y = place(frame_index)
    image[y : y + SIDE, x : x + SIDE] = texture(2, (SIDE, SIDE))
    return image


def mask(frame_index: int) -> np.ndarray:
    found = np.zeros(HW, bool)
    x, y = place(frame_index)
    found[y : y + SIDE, x : x + SIDE] = True
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("real")
    make_clip(path / "thing.mp4", num_frames=NUM_FRAMES, hw=HW, images=picture, options={"crf": "6", "preset": "veryfast"})
    white = [np.repeat(mask(index)[..., None], 3, axis=2).astype(np.uint8) * 255 for index in range(NUM_FRAMES)]
    make_clip(path / "thing.mask.mkv", num_frames=NUM_FRAMES, hw=HW, images=lambda index: white[index], codec="ffv1")
    return path


def test_a_thing_is_studied_exactly(folder) -> None:
    clip = probe_clip(folder / "thing.mp4")
    track = read_mask_track(folder / "thing.mask.mkv", clip)
    frames = FrameStore(clip)
    study = study_object(frames, track, np.arange(0, 7, 2), 4)
    frames.close()
    assert study.reference_frame == NUM_FRAMES - 1  # the farthest from the frames 0 to 6
    wanted = np.array([[*place(index), place(index)[0] + SIDE, place(index)[1] + SIDE] for index in (0, 2, 4, 6)])
    assert np.abs(study.boxes.boxes_px - wanted).max() <= 1
    assert study.trajectories is not None and len(study.trajectories) == 4
    moved = study.trajectories.points_px - study.trajectories.points_px[:, :1]
    truth = np.array([np.subtract(place(index), place(0)) for index in (0, 2, 4, 6)])
    errors = np.abs(moved - truth)
    assert errors.max() < 1.0 and errors.mean() < 0.2
    x, y = place(NUM_FRAMES - 1)
    seen = study.trajectories.points_px[:, 0] - np.array(place(0)) + np.array([x, y])  # where they are on the reference's frame
    corner = np.array([x - 4, y - 4])  # its cut-out begins four pixels outside the mask
    assert np.abs(study.trajectories.anchors_px - (seen - corner)).max() < 1.0
    solid = study.reference.alpha > 0.9
    look = picture(NUM_FRAMES - 1)[y - 4 : y + SIDE + 4, x - 4 : x + SIDE + 4]
    assert np.abs(study.reference.image[solid].astype(int) - look[solid]).mean() < 12  # colour has half the resolution
    assert set(study.reference.points_px) == set(study.trajectories.names)


def test_what_a_thing_lacks_is_said() -> None:
    runs = [None] * 5 + [encode_rle(mask(5))]
    track = MaskTrack(HW, tuple(runs))
    assert mask_areas(track).tolist() == [0] * 5 + [SIDE**2]
    assert farthest_frame(track, 0, 3) == 5 and farthest_frame(track, 3, 6) is None
    with pytest.raises(ValueError, match="empty in all of the frames 0 to 2"):
        mask_boxes(track, 0, 3)


def test_the_camera_does_not_count_as_motion() -> None:
    camera = np.stack([np.arange(9) * 5.0, np.zeros(9)], axis=1)
    still = camera + np.array([10, 10.0])
    moving = camera + np.stack([np.zeros(9), np.arange(9) * 3.0], axis=1)
    jitter = still + np.random.default_rng(0).normal(0, 0.2, (9, 2))
    seen = np.ones((3, 9), bool)
    lengths = path_lengths(np.stack([still, moving, jitter]), seen, camera)
    assert lengths[0] == pytest.approx(0) and lengths[1] == pytest.approx(24, abs=3) and lengths[2] < 2.5


def test_real_clips_are_cut_around_their_thing(folder, caplog) -> None:
    config = tiny_config(folder, num_frames=3, max_stride=2, footage_side=64, num_points=4)
    pairs = find_masked_videos(folder)
    assert [pair.mask.name for pair in pairs] == ["thing.mask.mkv"]
    with caplog.at_level(logging.WARNING):
        clips = list(read_real_clips(pairs, config, 3, 0))
    again = list(read_real_clips(pairs, config, 3, 0))
    assert len(clips) == 3 and all(np.array_equal(a.frames, b.frames) for a, b in zip(clips, again, strict=True))
    for clip in clips:
        assert clip.source == "coarse_video" and min(clip.frames.shape[1:3]) <= 64
        for box, image in zip(clip.boxes.boxes_px, clip.frames, strict=True):
            x0, y0, x1, y1 = np.rint(box).astype(int)
            inside, around = image[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2], image[:4]
            assert inside.std() > around.std()  # the thing is the livelier texture
