"""Cuts: frames at which the footage goes over to another shot. Neither flashes nor fast pans, nor fades, are taken for one.

Frames are compared as tiny pictures, their brightness and contrast made even, shifted onto each other as far as a fast pan goes
from one frame to the next. At a cut no frame just before looks like any just after, and the change is far larger than those
beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .cache import ArtifactCache, content_key
from .types import Array

if TYPE_CHECKING:
    from .media import FrameStore

CHUNK_FRAMES = 64
"""Frames whose cuts share one entry of a cache."""

_KEY = "cuts 1"
_SIZE = (32, 18)
_REACH = (10, 5)
"""How far pictures are shifted onto each other, in their pixels."""
_UNLIKE_LEVELS = 9.0
"""Mean difference of tiny pictures, in 8-bit levels, from which on they may be of two shots."""
_SUDDEN = 2.5
"""How many times larger than the changes beside it the change at a cut is."""
_BESIDE = 2
_CONTRAST = 50.0


def find_cuts(frames: FrameStore, start: int, stop: int, artifacts: ArtifactCache | None = None) -> list[int]:
    """The frames after ``start`` and before ``stop`` that are the first of another shot, in order. What was looked at once is kept
    in ``artifacts``."""
    first, last = max(1, start + 1), min(stop, frames.clip.num_frames)
    found: list[int] = []
    for chunk in range(first // CHUNK_FRAMES, (last - 1) // CHUNK_FRAMES + 1 if first < last else 0):
        key = content_key(_KEY, frames.clip.sha256, chunk)
        kept = None if artifacts is None else artifacts.load(key)
        if kept is None:
            kept = {"cuts": np.array(_find_in_chunk(frames, chunk), np.int64)}
            if artifacts is not None:
                artifacts.store(key, **kept)
        found += [int(index) for index in kept["cuts"] if first <= index < last]
    return found


def shots_without(marked: Iterable[int], cuts: Sequence[int], start: int, stop: int) -> list[tuple[int, bool]]:
    """The cuts behind which nothing is marked, among the shots that have frames from ``start`` to ``stop`` (half-open): the cut
    between such a shot and the nearest marked one, and whether the shot comes after it."""
    at = sorted(marked)
    found: set[tuple[int, bool]] = set()
    for first, last in zip((0, *cuts), (*cuts, stop), strict=True):
        if last <= start or first >= stop or any(first <= frame < last for frame in at) or not at:
            continue
        nearest = min(at, key=lambda frame: min(abs(frame - first), abs(frame - last + 1)))
        found.add((first, True) if nearest < first else (last, False))
    return sorted(found)


def name_unmarked_shots(
    frames: FrameStore, marked: Iterable[int], start: int, stop: int, artifacts: ArtifactCache | None = None
) -> list[str]:
    """What to do where a thing that is marked on the frames ``marked`` is followed through ``start`` to ``stop`` (half-open) across
    cuts: a sentence for every cut behind which nothing is marked."""
    at = sorted(marked)
    if not at:
        return []
    cuts = find_cuts(frames, min(start, at[0]), max(stop, at[-1] + 1), artifacts)
    return [
        f"The clip cuts to another shot at frame {cut}; if it is in that shot too, click on it at frame {cut} or later."
        if is_after
        else f"The clip cuts to another shot at frame {cut}; if it is seen before too, click on it at frame {cut - 1} or earlier."
        for cut, is_after in shots_without(at, cuts, start, stop)
    ]


def _find_in_chunk(frames: FrameStore, chunk: int) -> list[int]:
    first = max(1, chunk * CHUNK_FRAMES)
    last = min(frames.clip.num_frames, (chunk + 1) * CHUNK_FRAMES)
    reach = range(max(0, first - 1 - _BESIDE), min(frames.clip.num_frames, last + _BESIDE))
    pictures = {index: _tiny(frames, index) for index in reach}
    changes: dict[int, float] = {}

    def change(index: int) -> float:
        if index not in pictures or index - 1 not in pictures:
            return 0.0
        if index not in changes:
            changes[index] = _unlikeness(pictures[index - 1], pictures[index])
        return changes[index]

    return [index for index in range(first, last) if _is_cut(index, pictures, change)]


def _is_cut(index: int, pictures: dict[int, Array], change: Callable[[int], float]) -> bool:
    if float(np.abs(pictures[index] - pictures[index - 1]).mean()) < _UNLIKE_LEVELS or change(index) < _UNLIKE_LEVELS:
        return False
    beside = max(change(index + step) for step in range(-_BESIDE, _BESIDE + 1) if step)
    if change(index) < _SUDDEN * beside:
        return False
    before = [pictures[each] for each in range(index - _BESIDE, index) if each in pictures]
    after = [pictures[each] for each in range(index, index + _BESIDE + 1) if each in pictures]
    return all(_unlikeness(one, other) >= _UNLIKE_LEVELS for one in before for other in after)


def _tiny(frames: FrameStore, frame_index: int) -> Array:
    """A frame's luma (green, of an RGB clip), tiny, its mean taken out and its contrast made even, f32[h,w] in 8-bit levels."""
    import cv2

    from .media.pixels import clip_layout

    plane = frames.frame(frame_index).planes[0]
    small = cv2.resize(np.ascontiguousarray(plane), _SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
    small *= 255.0 / ((1 << clip_layout(frames.clip).depth) - 1)
    even: Array = (small - small.mean()) * (_CONTRAST / (small.std() + 8.0))
    return even


def _unlikeness(one: Array, other: Array) -> float:
    """Mean difference, in levels, of two tiny pictures where they overlap, shifted so that it is least."""
    height, width = one.shape
    least = np.inf
    for down in range(-_REACH[1], _REACH[1] + 1):
        for across in range(-_REACH[0], _REACH[0] + 1):
            a = one[max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
            b = other[max(0, -down) : height + min(0, -down), max(0, -across) : width + min(0, -across)]
            least = min(least, float(np.abs(a - b).mean()))
    return float(least)
