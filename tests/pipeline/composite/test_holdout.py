from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from pipeline import masks
from pipeline.composite.holdout import find_edge
from pipeline.types import MaskTrack

from .scenes import HW, compose, make_clip_handle, make_layer, make_plain, paint_texture

FRONT, WALL, INSERT = (200, 160, 60), (30, 90, 150), (60, 60, 200)
ALL = {0: (0.0, 0.0, 1.0, 1.0)}


def soft_front() -> np.ndarray:
    """A disc with a soft edge: alpha f32[H,W]."""
    rows, cols = np.mgrid[: HW[0], : HW[1]] + 0.5
    return np.clip((40 - np.hypot(cols - 80, rows - 60)) / 3 + 0.5, 0, 1).astype(np.float32)


def over(front: np.ndarray, back: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (front * alpha[..., None] + back * (1 - alpha[..., None]) + 0.5).astype(np.uint8)


def scene() -> tuple[np.ndarray, np.ndarray, MaskTrack]:
    """A textured disc before a wall, its alpha, and the hard mask that a segmenter would give."""
    alpha = soft_front()
    grain = paint_texture(HW, 2).astype(int) - 128
    picture = over(np.clip(np.array(FRONT) + grain // 8, 0, 255), np.clip(np.array(WALL) + grain // 12, 0, 255), alpha)
    runs = (masks.encode_rle(alpha > 0.5),) * make_clip_handle().num_frames
    return picture, alpha, MaskTrack(HW, runs)


def insert_behind(picture: np.ndarray, *tracks: MaskTrack):
    return compose(picture, make_layer(make_plain(INSERT, HW), ALL, holdouts=tracks))


def test_the_core_is_the_source_and_what_is_clear_is_the_insert():
    picture, alpha, track = scene()
    frame = insert_behind(picture, track)
    core = masks.grow_mask(alpha > 0.5, -3)
    assert np.array_equal(frame.image[core], picture[core]) and not frame.touched[core].any()
    clear = ~masks.grow_mask(alpha > 0.5, 3)
    assert (frame.image[clear] == INSERT).all()


def test_the_edge_is_soft_and_shows_nothing_of_the_old_background():
    picture, alpha, track = scene()
    image = insert_behind(picture, track).image.astype(float)
    wanted = over(np.array(FRONT), np.array(INSERT), alpha).astype(float)
    edge = (alpha > 0.05) & (alpha < 0.95)
    hard = np.where((alpha > 0.5)[..., None], picture, np.array(INSERT)).astype(float)
    error, plain = (np.abs(each - wanted)[edge].mean() for each in (image, hard))
    assert error < 0.5 * plain
    # along a row, from the disc to the insert, the colour never leaves the range between the two: no rim
    row = cv2.GaussianBlur(image, (0, 0), 0.8)[60, 110:130]
    assert row[:, 1].max() < FRONT[1] + 22 and row[:, 1].min() > INSERT[1] - 6


def test_a_feathered_mask_is_taken_as_it_is():
    picture, _, track = scene()
    soft = replace(track, feather_px=2.0)
    frame = insert_behind(picture, soft)
    alpha = 1 - masks.mask_alpha(soft, 0)
    assert np.abs(frame.layer[..., 3] / 255 - alpha).max() < 0.01


def test_two_things_in_front_and_an_empty_one():
    picture, alpha, track = scene()
    other = np.zeros(HW, bool)
    other[:, :30] = True
    second = MaskTrack(HW, (masks.encode_rle(other),) * len(track))
    nothing = MaskTrack(HW, (None,) * len(track))
    frame = insert_behind(picture, track, second, nothing)
    for core in (masks.grow_mask(alpha > 0.5, -3), masks.grow_mask(other, -3)):
        assert np.array_equal(frame.image[core], picture[core])
    assert frame.touched[5, 60]


def test_convention_an_edge_is_found_within_its_band_alone():
    picture, alpha, _ = scene()
    rough = masks.grow_mask(alpha > 0.5, 1)
    found, behind = find_edge(rough, picture, 3)
    inside, outside = masks.grow_mask(rough, -5), ~masks.grow_mask(rough, 5)
    assert (found[inside] == 1).all() and (found[outside] == 0).all()
    assert not behind[inside].any() and not behind[outside].any()
    edge = (alpha > 0.2) & (alpha < 0.8)
    assert np.abs(np.median(behind[edge], axis=0) - (np.array(FRONT) - WALL)).max() < 25
    assert np.abs(found - alpha).mean() < np.abs(rough - alpha).mean()
