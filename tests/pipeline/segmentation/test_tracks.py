"""Mask tracks: which prompts a frame depends on, what is kept, what is made again, and stopping."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.masks import decode_rle
from pipeline.media import FrameStore, probe_clip
from pipeline.segmentation import Segmentation
from pipeline.segmentation.tracks import MaskTracks, TrackedMask, list_doubts, prompt_neighbours
from pipeline.types import Array, Click, Clip, Prompt

from ...tiny import make_clip

NUM_FRAMES = 40

A, B, C = (Prompt((Click(10.0 * number, 20.0),)) for number in (1, 2, 3))


class FakeSegmenter:
    """Its masks say what they were made from: the prompts, the direction, the frame. Counts what it is asked."""

    name = "fake"

    def __init__(self, key: str = "fake 1", stop_at: int | None = None) -> None:
        self.key, self._stop_at = key, stop_at
        self.clicked: list[int] = []
        self.asked: list[tuple[tuple[int, ...], range]] = []
        self.visited: list[int] = []

    def segment(self, frames: FrameStore, frame_index: int, prompt: Prompt) -> Segmentation:
        self.clicked.append(frame_index)
        return self._found(frames.clip, {frame_index: prompt}, frame_index, 0)

    def prepare(self, frames: FrameStore, frame_index: int) -> None:
        pass

    def propagate(
        self, frames: FrameStore, seeds: Sequence[Mapping[int, Prompt]], order: range
    ) -> Iterator[tuple[int, tuple[Segmentation, ...]]]:
        self.asked.append((tuple(sorted(seeds[0])), order))
        for frame_index in order:
            if frame_index == self._stop_at:
                raise MemoryError
            self.visited.append(frame_index)
            yield frame_index, tuple(self._found(frames.clip, each, frame_index, order.step) for each in seeds)

    @staticmethod
    def _found(clip: Clip, prompts: Mapping[int, Prompt], frame_index: int, step: int) -> Segmentation:
        seed = [frame_index, step + 1, *(int(value) for index in prompts for value in (index, prompts[index].clicks[0].x_px))]
        logits = np.random.default_rng(seed).normal(size=clip.hw).astype(np.float32)
        if frame_index == 5:
            logits = -np.abs(logits) - 1
        return Segmentation(logits, frame_index / 100)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrameStore]:
    store = FrameStore(probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=NUM_FRAMES, hw=(32, 48))))
    yield store
    store.close()


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def same(one: TrackedMask, other: TrackedMask) -> bool:
    if one.runs is None or other.runs is None:
        return one.runs is other.runs and one.confidence == other.confidence
    return np.array_equal(one.runs, other.runs) and one.confidence == other.confidence


def expected_mask(frames: FrameStore, prompts: Mapping[int, Prompt], seeds: Sequence[int], index: int, step: int) -> Array:
    return FakeSegmenter._found(frames.clip, {seed: prompts[seed] for seed in sorted(seeds)}, index, step).mask


def test_neighbours():
    assert prompt_neighbours([30, 10], 5) == (None, 10)
    assert prompt_neighbours([30, 10], 10) == (10, 10)
    assert prompt_neighbours([30, 10], 11) == (10, 30)
    assert prompt_neighbours([30, 10], 31) == (30, None)
    assert prompt_neighbours([], 3) == (None, None)


@pytest.mark.parametrize("is_kept", [True, False])
def test_every_frame_comes_once_from_its_own_prompts(frames, cache, is_kept):
    prompts = {10: A, 21: B, 30: C}
    tracks = MaskTracks(FakeSegmenter(), cache if is_kept else None)
    found = list(tracks.track(frames, prompts, 0, NUM_FRAMES))
    assert sorted(index for index, _ in found) == list(range(NUM_FRAMES))
    for index, tracked in found:
        before, after = prompt_neighbours(prompts, index)
        if before == after:
            seeds, step = [index], 0
        elif before is None or after is None:
            seeds, step = [before if after is None else after], 1 if after is None else -1
        else:
            seeds, step = [before, after], 1 if index - before <= after - index else -1
        expected = expected_mask(frames, prompts, seeds, index, step)
        runs = tracked.runs
        assert (not expected.any()) if runs is None else np.array_equal(decode_rle(runs, frames.clip.hw), expected), index
        assert tracked.confidence == index / 100 and (runs is None or not runs.flags.writeable)
    assert dict(found)[5].runs is None


def test_passes_start_at_prompts_and_go_no_further_than_asked(frames, cache):
    segmenter = FakeSegmenter()
    MaskTracks(segmenter, cache)
    list(MaskTracks(segmenter, None).track(frames, {10: A, 20: B}, 13, 17))
    assert segmenter.asked == [((10, 20), range(10, 16)), ((10, 20), range(20, 15, -1))], "frame 15 goes to the earlier prompt"
    assert segmenter.clicked == []


def test_frames_come_outward_from_the_prompt(frames):
    order = [index for index, _ in MaskTracks(FakeSegmenter(), None).track(frames, {10: A}, 8, 14)]
    assert order == [10, 11, 12, 13, 9, 8]


def test_what_is_known_comes_first_and_is_not_made_again(frames, cache):
    segmenter = FakeSegmenter()
    tracks = MaskTracks(segmenter, cache)
    first = dict(tracks.track(frames, {10: A}, 10, 20))
    assert sorted(first) == list(range(10, 20)) and segmenter.clicked == [10]
    segmenter.asked.clear()
    again = list(MaskTracks(segmenter, cache).track(frames, {10: A}, 8, 20))
    assert [index for index, _ in again] == [*range(10, 20), 9, 8]
    assert segmenter.asked == [((10,), range(10, 7, -1))] and segmenter.clicked == [10]
    assert all(same(first[index], mask) for index, mask in again if index >= 10)


def test_frames_on_the_way_are_kept_though_nobody_asked_for_them(frames, cache):
    tracks = MaskTracks(FakeSegmenter(), cache)
    assert [index for index, _ in tracks.track(frames, {2: A}, 30, 34)] == [30, 31, 32, 33]
    assert sorted(tracks.known(frames.clip, {2: A}, 0, NUM_FRAMES)) == list(range(3, 34))


def test_a_correction_changes_the_frames_up_to_the_neighbouring_prompts_alone(frames, cache):
    tracks = MaskTracks(FakeSegmenter(), cache)
    before = dict(tracks.track(frames, {5: A, 30: B}, 0, NUM_FRAMES))
    corrected = {5: A, 20: C, 30: B}
    known = tracks.known(frames.clip, corrected, 0, NUM_FRAMES)
    assert sorted(known) == [*range(6), *range(30, NUM_FRAMES)]
    after = dict(tracks.track(frames, corrected, 0, NUM_FRAMES))
    assert [index for index in range(NUM_FRAMES) if not same(before[index], after[index])] == list(range(6, 30))
    assert len(tracks.known(frames.clip, {5: A, 30: B}, 0, NUM_FRAMES)) == NUM_FRAMES, "undo finds the old masks"


def test_what_a_person_should_know_of_a_track_is_a_sentence_each():
    runs = np.array([4, 2], np.uint32)
    masks = {index: TrackedMask(runs, 0.9) for index in range(4)}
    assert list_doubts(masks) == []
    masks |= {index: TrackedMask(runs, 0.2) for index in (4, 6)} | {index: TrackedMask(None, 0.1) for index in (5, 7, 8, 9)}
    unseen, unsure = list_doubts(masks)
    assert unseen.startswith("Nothing of it is found in 4 of 10 frames (5, 7-9): it is hidden or out of the picture")
    assert unsure.startswith("The segmenter is not sure of 2 of 10 frames (4, 6); look there")
    assert "any of the 2 frames" in list_doubts({5: masks[5], 7: masks[7]})[0] and "frame 4;" in list_doubts({4: masks[4]})[0]


@pytest.mark.parametrize("count", [1, 3, 33, 36])
def test_stopping_at_any_frame_keeps_what_was_made(frames, cache, count):
    tracks = MaskTracks(FakeSegmenter(), cache)
    with closing(tracks.track(frames, {2: A}, 0, NUM_FRAMES)) as found:
        made = [next(found) for _ in range(count)]
    known = tracks.known(frames.clip, {2: A}, 0, NUM_FRAMES)
    assert sorted(known) == sorted(index for index, _ in made)
    assert all(same(known[index], mask) for index, mask in made)
    rest = dict(tracks.track(frames, {2: A}, 0, NUM_FRAMES))
    assert sorted(rest) == list(range(NUM_FRAMES))


def test_a_segmenter_that_fails_keeps_what_was_made(frames, cache):
    tracks = MaskTracks(FakeSegmenter(stop_at=9), cache)
    with pytest.raises(UserError, match="not enough memory to go on"):
        list(tracks.track(frames, {2: A}, 0, NUM_FRAMES))
    assert sorted(tracks.known(frames.clip, {2: A}, 0, NUM_FRAMES)) == list(range(2, 9))


def test_other_prompts_other_weights_and_other_clips_are_not_taken_for_known(frames, cache):
    MaskTracks(FakeSegmenter(), cache).segment(frames, 3, A)
    assert list(MaskTracks(FakeSegmenter(), cache).known(frames.clip, {3: A}, 0, 9)) == [3]
    assert not MaskTracks(FakeSegmenter("fake 2"), cache).known(frames.clip, {3: A}, 0, 9)
    assert not MaskTracks(FakeSegmenter(), cache).known(replace(frames.clip, sha256="0" * 64), {3: A}, 0, 9)
    for other in (B, Prompt((Click(10.0, 20.0), Click(1, 1, False))), Prompt(A.clicks, (1, 1, 5, 5))):
        assert not MaskTracks(FakeSegmenter(), cache).known(frames.clip, {3: other}, 0, 9)


def test_a_click_is_answered_once(frames, cache):
    segmenter = FakeSegmenter()
    tracks = MaskTracks(segmenter, cache)
    assert same(tracks.segment(frames, 7, B), tracks.segment(frames, 7, B))
    assert dict(tracks.track(frames, {7: B}, 7, 8)).keys() == {7} and segmenter.clicked == [7]


def test_a_long_clip_is_looked_up_quickly(frames, cache):
    """1,800 frames and 20 prompts, all known; and nothing known."""
    long = replace(frames.clip, num_frames=1800, timestamps=np.arange(1800))
    store = FrameStore(long)
    prompts = dict.fromkeys(range(5, 1800, 90), A)
    tracks = MaskTracks(FakeSegmenter(), cache)
    assert sum(1 for _ in tracks.track(store, prompts, 0, 1800)) == 1800
    started_s = time.perf_counter()
    assert len(tracks.known(long, prompts, 0, 1800)) == 1800
    assert len(tracks.known(long, prompts, 900, 901)) == 1
    assert not tracks.known(long, {3: B}, 0, 1800)
    assert time.perf_counter() - started_s < 2
    assert len(list(cache.folder.iterdir())) < 200, "files by the chunk, not by the frame"


def test_prompts_that_the_clip_does_not_have_are_refused_at_the_call(frames, cache):
    tracks = MaskTracks(FakeSegmenter(), cache)
    for ask in (
        lambda: tracks.track(frames, {2: A, NUM_FRAMES: B}, 0, 3),
        lambda: tracks.known(frames.clip, {NUM_FRAMES: B}, 0, 3),
        lambda: tracks.segment(frames, NUM_FRAMES, B),
    ):
        with pytest.raises(UserError, match=f"Frame {NUM_FRAMES} has clicks, but clip.mp4 has frames 0 to {NUM_FRAMES - 1}"):
            ask()
    with pytest.raises(UserError, match="click on the thing"):
        tracks.track(frames, {}, 0, 3)
    with pytest.raises(ValueError, match="expected 0 <= start"):
        tracks.track(frames, {2: A}, 0, NUM_FRAMES + 1)


def test_a_segmenter_that_answers_at_another_size_is_a_fault(frames):
    class Wrong(FakeSegmenter):
        def segment(self, frames: FrameStore, frame_index: int, prompt: Prompt) -> Segmentation:
            return Segmentation(np.zeros((3, 3), np.float32), 1.0)

    with pytest.raises(ValueError, match="clip's size"):
        MaskTracks(Wrong(), None).segment(frames, 0, A)
