"""Mask tracks: what a segmenter makes of a thing's prompts, frame by frame, kept so that nothing is made twice.

Convention: a frame between two prompted frames depends on those two prompts and on the frames between them alone; the nearer one
(the earlier one, if both are as near) starts the pass that reaches it, forward from the prompt before, backward from the prompt
after. A frame before the first or after the last prompt depends on that one alone, a prompted frame on its own prompt. So a
correction changes the frames up to the neighbouring prompts, and no others.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..cache import ArtifactCache, KeyPart, content_key
from ..errors import UserError
from ..masks import encode_rle
from ..types import Array, Clip, Prompt
from . import LOW_CONFIDENCE, Segmentation, Segmenter

if TYPE_CHECKING:
    from ..media import FrameStore

CHUNK_FRAMES = 32
"""Frames whose masks share one entry of the cache."""

NAMED_RANGES = 4
"""How many stretches of frames a sentence names."""

NO_MEMORY = (
    "There was not enough memory to go on; close other programs or take a shorter range, and the same again goes on from where it "
    "stopped."
)

_KEY = "mask track 1"


@dataclass(frozen=True, eq=False, slots=True)
class TrackedMask:
    """One thing on one frame: ``runs`` as ``masks.encode_rle`` makes them (u32[N]; None where nothing of the thing is seen), and
    how sure the segmenter is, 0..1."""

    runs: Array | None
    confidence: float

    def __post_init__(self) -> None:
        if self.runs is not None:
            self.runs.flags.writeable = False


def prompt_neighbours(prompt_frames: Iterable[int], frame_index: int) -> tuple[int | None, int | None]:
    """The prompted frames at or before, and at or after, ``frame_index``: a prompted frame is its own neighbour on both sides."""
    ordered = sorted(prompt_frames)
    before, after = bisect_right(ordered, frame_index), bisect_left(ordered, frame_index)
    return (ordered[before - 1] if before else None), (ordered[after] if after < len(ordered) else None)


def list_doubts(masks: Mapping[int, TrackedMask]) -> list[str]:
    """What a person should know about a track, a sentence each: frames where nothing is found, and frames to look at."""
    unseen = [index for index in sorted(masks) if masks[index].runs is None]
    unsure = [index for index in sorted(masks) if masks[index].runs is not None and masks[index].confidence < LOW_CONFIDENCE]
    doubts = []
    if unseen:
        doubts.append(
            f"Nothing of it is found in {_some_of(unseen, masks)}: it is hidden or out of the picture there, or the clip cuts to "
            "something else; where it comes back, click on it."
        )
    if unsure:
        doubts.append(
            f"The segmenter is not sure of {_some_of(unsure, masks)}; look there, click on the thing again where its mask is "
            "wrong, and track again."
        )
    return doubts


def _some_of(indices: list[int], masks: Mapping[int, TrackedMask]) -> str:
    """``3 of 9 frames (4-6)``."""
    if len(masks) == 1:
        return f"frame {indices[0]}"
    if len(indices) == len(masks):
        return f"any of the {len(masks)} frames"
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    named = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges[:NAMED_RANGES])
    return f"{len(indices)} of {len(masks)} frames ({named}{' and more' if len(ranges) > NAMED_RANGES else ''})"


def check_prompts(clip: Clip, prompts: Mapping[int, Prompt]) -> None:
    """Raise ``UserError`` when there are no prompts, or one lies on a frame that the clip does not have."""
    if not prompts:
        raise UserError("Nothing is marked yet; click on the thing, or draw a box around it.")
    for frame_index in prompts:
        if not 0 <= frame_index < clip.num_frames:
            raise UserError(
                f"Frame {frame_index} has clicks, but {clip.path.name} has frames 0 to {clip.num_frames - 1}; "
                "remove them or choose another frame."
            )


@dataclass(frozen=True, slots=True)
class _Pass:
    """One run of the segmenter: ``order`` starts beside the frame ``origin``, whose prompt, with that of ``other``, seeds it."""

    origin: int
    other: int | None
    order: range

    @property
    def gap(self) -> tuple[int | None, int | None]:
        """The prompted frames on both sides of the frames of ``order``."""
        return (self.origin, self.other) if self.order.step > 0 else (self.other, self.origin)


def _plan(prompt_frames: Iterable[int], num_frames: int) -> Iterator[tuple[int, tuple[_Pass, _Pass]]]:
    """Every prompted frame, in order, with the passes that start there; together they reach every other frame exactly once."""
    ordered = sorted(prompt_frames)
    for before, origin, after in zip((None, *ordered[:-1]), ordered, (*ordered[1:], None), strict=True):
        last = num_frames - 1 if after is None else (origin + after) // 2
        first = 0 if before is None else (before + origin) // 2 + 1
        forward = _Pass(origin, after, range(origin + 1, last + 1))
        backward = _Pass(origin, before, range(origin - 1, first - 1, -1))
        yield origin, (forward, backward)


class MaskTracks:
    """The masks of things over time, made by one segmenter and kept in ``cache`` (None: nothing is kept). Thread-safe.

    What is kept is found again by the clip's content, the segmenter's key and the prompts that a frame depends on.
    """

    def __init__(self, segmenter: Segmenter, cache: ArtifactCache | None) -> None:
        self.segmenter = segmenter
        self._cache = cache
        self._guard = threading.Lock()

    def segment(self, frames: FrameStore, frame_index: int, prompt: Prompt) -> TrackedMask:
        """The thing on the frame where it is marked. Raises ``UserError`` for a frame that the clip does not have."""
        prompts = {frame_index: prompt}
        check_prompts(frames.clip, prompts)
        gap = (frame_index, frame_index)
        known = self._load(frames.clip, prompts, gap, 0).get(frame_index)
        if known is not None:
            return known
        found = _encode(self.segmenter.segment(frames, frame_index, prompt), frames.clip)
        self._store(frames.clip, prompts, gap, 0, {frame_index: found})
        return found

    def known(self, clip: Clip, prompts: Mapping[int, Prompt], start: int, stop: int) -> dict[int, TrackedMask]:
        """Those frames of ``start`` to ``stop`` (half-open) whose masks for exactly these prompts are there already, in order."""
        check_prompts(clip, prompts)
        _check_range(clip, start, stop)
        found: dict[int, TrackedMask] = {}
        for origin, passes in _plan(prompts, clip.num_frames):
            if start <= origin < stop:
                found |= self._load(clip, prompts, (origin, origin), 0)
            for each in passes:
                low, high = max(start, min(each.order, default=0)), min(stop, max(each.order, default=-1) + 1)
                if low >= high:
                    continue
                for chunk in range(low // CHUNK_FRAMES, (high - 1) // CHUNK_FRAMES + 1):
                    loaded = self._load(clip, prompts, each.gap, chunk)
                    found |= {index: mask for index, mask in loaded.items() if low <= index < high}
        return dict(sorted(found.items()))

    def track(
        self, frames: FrameStore, prompts: Mapping[int, Prompt], start: int, stop: int
    ) -> Generator[tuple[int, TrackedMask], None, None]:
        """Every frame of ``start`` to ``stop`` (half-open), each once: first what is known, then the rest as it is made, outward
        from each prompt.

        Close it to stop: what was made by then is kept, as it is when the segmenter fails. Frames between a prompt and the range
        are made and kept too, and not yielded. Raises ``UserError`` at the call for a prompt that the clip does not have, and when
        memory runs out on the way.
        """
        check_prompts(frames.clip, prompts)
        _check_range(frames.clip, start, stop)
        return self._track(frames, dict(sorted(prompts.items())), range(start, stop))

    def _track(
        self, frames: FrameStore, prompts: Mapping[int, Prompt], wanted: range
    ) -> Generator[tuple[int, TrackedMask], None, None]:
        known = self.known(frames.clip, prompts, wanted.start, wanted.stop)
        yield from known.items()
        for origin, passes in _plan(prompts, frames.clip.num_frames):
            if origin in wanted and origin not in known:
                yield origin, self.segment(frames, origin, prompts[origin])
            for each in passes:
                missing = [index for index in each.order if index in wanted and index not in known]
                if missing:
                    yield from self._run(frames, prompts, each, missing)

    def _run(
        self, frames: FrameStore, prompts: Mapping[int, Prompt], each: _Pass, missing: list[int]
    ) -> Generator[tuple[int, TrackedMask], None, None]:
        """One pass, up to the last frame that is missing; yields the missing ones."""
        seeds = {index: prompts[index] for index in prompts if index in (each.origin, each.other)}
        step = each.order.step
        order = range(each.origin, missing[-1] + step, step)
        is_missing = frozenset(missing)
        made: dict[int, TrackedMask] = {}
        chunk = 0
        # _Pass.order leaves the prompted frame out: its mask is what ``segment`` shows when it is clicked.
        with closing(cast("Any", self.segmenter.propagate(frames, [seeds], order))) as found:
            try:
                for frame_index, (segmentation,) in found:
                    if frame_index == each.origin:
                        continue
                    if made and frame_index // CHUNK_FRAMES != chunk:
                        self._store(frames.clip, prompts, each.gap, chunk, made)
                        made = {}
                    chunk = frame_index // CHUNK_FRAMES
                    made[frame_index] = _encode(segmentation, frames.clip)
                    if frame_index in is_missing:
                        yield frame_index, made[frame_index]
            except MemoryError:
                raise UserError(NO_MEMORY) from None
            finally:
                self._store(frames.clip, prompts, each.gap, chunk, made)

    def _entry_key(self, clip: Clip, prompts: Mapping[int, Prompt], gap: tuple[int | None, int | None], chunk: int) -> str:
        ends = tuple(None if index is None else (index, *_prompt_key(prompts[index])) for index in gap)
        return content_key(_KEY, clip.sha256, self.segmenter.key, ends, chunk)

    def _load(
        self, clip: Clip, prompts: Mapping[int, Prompt], gap: tuple[int | None, int | None], chunk: int
    ) -> dict[int, TrackedMask]:
        if self._cache is None:
            return {}
        arrays = self._cache.load(self._entry_key(clip, prompts, gap, chunk))
        return {} if arrays is None else _unpack(arrays)

    def _store(
        self,
        clip: Clip,
        prompts: Mapping[int, Prompt],
        gap: tuple[int | None, int | None],
        chunk: int,
        made: Mapping[int, TrackedMask],
    ) -> None:
        """Add ``made`` to what the entry holds."""
        if self._cache is None or not made:
            return
        with self._guard:
            together = {**self._load(clip, prompts, gap, chunk), **made}
            self._cache.store(self._entry_key(clip, prompts, gap, chunk), **_pack(together))


def _check_range(clip: Clip, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= clip.num_frames:
        raise ValueError(f"expected 0 <= start <= stop <= {clip.num_frames}, got {start} and {stop}")


def _prompt_key(prompt: Prompt) -> tuple[KeyPart, ...]:
    clicks = tuple((float(click.x_px), float(click.y_px), click.is_foreground) for click in prompt.clicks)
    box = None if prompt.box_px is None else tuple(float(value) for value in prompt.box_px)
    return clicks, box


def _encode(found: Segmentation, clip: Clip) -> TrackedMask:
    if found.logits.shape != clip.hw:
        raise ValueError(f"a segmentation must have the clip's size {clip.hw}, got {found.logits.shape}")
    mask = found.mask
    return TrackedMask(encode_rle(mask) if mask.any() else None, float(found.confidence))


def _pack(masks: Mapping[int, TrackedMask]) -> dict[str, Array]:
    """The masks of several frames as one set of arrays: frames i64[K], confidences f64[K], runs of each i64[K] (-1: None), runs."""
    runs = [mask.runs for mask in masks.values() if mask.runs is not None]
    return {
        "frames": np.array(list(masks), np.int64),
        "confidences": np.array([mask.confidence for mask in masks.values()], np.float64),
        "counts": np.array([-1 if mask.runs is None else len(mask.runs) for mask in masks.values()], np.int64),
        "runs": np.concatenate(runs) if runs else np.zeros(0, np.uint32),
    }


def _unpack(arrays: Mapping[str, Array]) -> dict[int, TrackedMask]:
    counts = arrays["counts"]
    ends = np.cumsum(np.maximum(counts, 0))
    found = {}
    for index, confidence, count, end in zip(arrays["frames"], arrays["confidences"], counts, ends, strict=True):
        runs = None if count < 0 else arrays["runs"][end - count : end].copy()
        found[int(index)] = TrackedMask(runs, float(confidence))
    return found
