"""Cuts are found; flashes, pans and fades are not taken for them; what to do is said."""

from __future__ import annotations

from contextlib import closing

import cv2
import numpy as np
import pytest

from pipeline.cache import ArtifactCache
from pipeline.cuts import find_cuts, name_unmarked_shots, shots_without
from pipeline.media import FrameStore, probe_clip

from ..tiny import make_clip

HW = (90, 160)


def scene(seed):
    noise = np.random.default_rng(seed).normal(0, 1, (200, 1200, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 14.0)
    return np.clip(soft / soft.std() * 50 + 120, 0, 255).astype(np.uint8)


SCENES = [scene(seed) for seed in range(3)]


def look(index, x=0):
    return SCENES[index][20 : 20 + HW[0], 40 + x : 40 + x + HW[1]].copy()


def film(folder, images, num_frames=24):
    return FrameStore(probe_clip(make_clip(folder / "clip.mp4", num_frames=num_frames, hw=HW, images=images)))


def test_cuts_are_found_wherever_the_search_begins(tmp_path):
    with closing(
        film(tmp_path, lambda frame: look((0, 1, 2, 0)[(frame >= 7) + (frame >= 66) + (frame >= 90)], frame), 96)
    ) as frames:
        cache = ArtifactCache(tmp_path / "cache")
        assert find_cuts(frames, 0, 96) == [7, 66, 90]
        assert find_cuts(frames, 7, 90, cache) == [66] and find_cuts(frames, 0, 96, cache) == [7, 66, 90]


@pytest.mark.parametrize("case", ["flash", "pan", "fade", "exposure"])
def test_what_is_no_cut(tmp_path, case):
    def images(frame):
        if case == "flash":
            return np.full((*HW, 3), 250, np.uint8) if frame in (9, 10) else look(0, frame)
        if case == "pan":
            return look(0, min(max(0, frame - 6), 12) * 36)
        if case == "exposure":
            return np.clip(look(0) * (0.6 if frame < 12 else 1.1), 0, 255).astype(np.uint8)
        share = np.clip((frame - 6) / 10, 0, 1)
        return (look(0) * (1 - share) + look(1) * share).astype(np.uint8)

    with closing(film(tmp_path, images)) as frames:
        assert find_cuts(frames, 0, 24) == []


def test_shots_without_a_mark_are_named_by_the_cut_on_the_way_there():
    assert shots_without([3], [10, 20], 0, 30) == [(10, True), (20, True)]
    assert shots_without([25], [10, 20], 0, 30) == [(10, False), (20, False)]
    assert shots_without([3, 12, 20], [10, 20], 0, 30) == [] and shots_without([3], [10, 20], 0, 10) == []


def test_what_to_do_is_said(tmp_path):
    with closing(film(tmp_path, lambda frame: look(int(frame >= 12), frame))) as frames:
        (after,) = name_unmarked_shots(frames, [4], 0, 24)
        (before,) = name_unmarked_shots(frames, [20], 0, 24)
        assert "at frame 12;" in after and "at frame 12 or later" in after and "at frame 11 or earlier" in before
        assert name_unmarked_shots(frames, [4, 12], 0, 24) == [] == name_unmarked_shots(frames, [4], 0, 12)
