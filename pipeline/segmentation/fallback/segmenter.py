"""``FallbackSegmenter``: the ``Segmenter`` that needs nothing fetched."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from ...types import Array, Click, Prompt
from .. import Segmentation
from .choose import Answer, answer_first, answer_next, order_clicks
from .follow import Follower
from .motion import OFFSETS, find_flow
from .outline import sharpen
from .picture import Picture, build_picture, build_regions, working_hw
from .scene import Scene, build_scene

if TYPE_CHECKING:
    from ...media import FrameStore

T = TypeVar("T")

_KEPT_SCENES = 6
_KEPT_PICTURES = 64
_KEPT_ANSWERS = 24


class FallbackSegmenter:
    """Finds and follows things by colour, edges and motion alone; satisfies ``Segmenter``, the same input gives the same masks.

    Thread-safe; between calls it keeps a bounded number of working pictures, known by the clip's content and the frame.
    """

    name = "fallback"
    key = "fallback 4"

    def __init__(self) -> None:
        self._pictures: _Kept[Picture] = _Kept(_KEPT_PICTURES)
        self._scenes: _Kept[Scene] = _Kept(_KEPT_SCENES)
        self._answers: _Kept[Answer] = _Kept(_KEPT_ANSWERS)

    def segment(self, frames: FrameStore, frame_index: int, prompt: Prompt) -> Segmentation:
        """The thing on one frame; its own motion against the camera's is used where neighbouring frames show any."""
        mask, confidence = self._find(frames, frame_index, prompt)
        return Segmentation(sharpen(mask, frames.frame(frame_index).image), confidence)

    def prepare(self, frames: FrameStore, frame_index: int) -> None:
        """Make the frame's superpixels and its motion, which no click changes."""
        self._scene(frames, frame_index)

    def propagate(
        self, frames: FrameStore, seeds: Sequence[Mapping[int, Prompt]], order: range
    ) -> Iterator[tuple[int, tuple[Segmentation, ...]]]:
        """Carry several things through the frames of ``order``; see ``Segmenter``.

        A thing starts from the last of its prompted frames that the order has passed, and knows the colours of all of them. Where
        none was passed yet, it is followed from the nearest one against the order; those masks (bits at working size) wait.
        """
        if abs(order.step) != 1:
            raise ValueError(f"order must have a step of 1 or -1, got {order.step}")
        if any(not prompts for prompts in seeds):
            raise ValueError("every thing needs a prompt on at least one frame")
        things = [self._follow(frames, prompts, order) for prompts in seeds]
        for frame_index in order:
            found = [next(thing) for thing in things]
            image = frames.frame(frame_index).image
            yield frame_index, tuple(Segmentation(sharpen(mask, image), confidence) for mask, confidence in found)

    def _follow(self, frames: FrameStore, prompts: Mapping[int, Prompt], order: range) -> Iterator[tuple[Array, float]]:
        """Masks bool[h,w] and confidences of one thing for every frame of ``order``."""
        step = order.step
        passed = [index for index in prompts if (order.start - index) * step >= 0]
        ahead = [index for index in prompts if (order.start - index) * step < 0]
        nearest = min(ahead, key=lambda index: abs(index - order.start), default=None)
        follower = Follower(lambda index: self._picture(frames, index), frames.clip.num_frames)
        seen = {index: self._find(frames, index, prompts[index]) for index in prompts}
        for index, (mask, _) in seen.items():
            follower.learn(self._picture(frames, index), mask)
        if passed:
            origin = min(passed, key=lambda index: abs(index - order.start))
            follower.start(origin, *seen[origin])
            for index in range(origin + step, order.start, step):
                follower.advance(index)
        elif nearest is not None:
            stop = order.stop if (order.stop - nearest) * step < 0 else nearest
            follower.start(nearest, *seen[nearest])
            waiting = []
            for index in range(nearest - step, order.start - step, -step):
                mask, confidence = follower.advance(index)
                waiting.append((np.packbits(mask), confidence))
            for _ in range(order.start, stop, step):
                bits, confidence = waiting.pop()
                yield np.unpackbits(bits, count=mask.size).reshape(mask.shape).astype(bool), confidence
            order = range(nearest, order.stop, step)
        for index in order:
            if index in seen:
                follower.start(index, *seen[index])
                yield seen[index]
            elif follower.frame_index == index:
                yield follower.current
            else:
                yield follower.advance(index)

    def _find(self, frames: FrameStore, frame_index: int, prompt: Prompt) -> tuple[Array, float]:
        """The working mask bool[h,w] and the confidence. Answers to fewer clicks are kept: a correction costs itself alone."""
        scene = self._scene(frames, frame_index)
        scaled = _scaled(prompt, frames.clip.hw)
        clicks = order_clicks(scaled, scene.picture.hw)
        first = tuple(clicks[:1]) if scaled.box_px is None and clicks and clicks[0][2] else ()
        known = (frames.clip.sha256, frame_index, scaled.box_px)
        answer = self._answers.find((*known, first), lambda: answer_first(scene, scaled))
        for click in clicks[len(first) :]:
            answer = self._answers.find((*known, (*answer.clicks, click)), partial(answer_next, scene, scaled, answer, click))
        return answer.mask, answer.confidence

    def _picture(self, frames: FrameStore, frame_index: int) -> Picture:
        key = (frames.clip.sha256, frame_index)
        return self._pictures.find(key, lambda: build_picture(frames.frame(frame_index).image))

    def _scene(self, frames: FrameStore, frame_index: int) -> Scene:
        return self._scenes.find((frames.clip.sha256, frame_index), lambda: self._build_scene(frames, frame_index))

    def _build_scene(self, frames: FrameStore, frame_index: int) -> Scene:
        others = sorted(index for index in (frame_index + offset for offset in OFFSETS) if 0 <= index < frames.clip.num_frames)
        pictures = {index: self._picture(frames, index) for index in sorted([*others, frame_index])}
        here = pictures[frame_index]
        flows = [find_flow(here.gray, pictures[index].gray) for index in others]
        return build_scene(here, build_regions(here), tuple(flow for flow in flows if flow is not None))


def _scaled(prompt: Prompt, hw: tuple[int, int]) -> Prompt:
    """``prompt`` in pixels of the working picture."""
    height, width = working_hw(hw)
    x, y = width / hw[1], height / hw[0]
    clicks = tuple(Click(click.x_px * x, click.y_px * y, click.is_foreground) for click in prompt.clicks)
    box = prompt.box_px
    return replace(prompt, clicks=clicks, box_px=None if box is None else (box[0] * x, box[1] * y, box[2] * x, box[3] * y))


class _Kept(Generic[T]):
    """The last ``count`` values that were made, by key. Thread-safe; two threads may make the same value at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._values: OrderedDict[Any, T] = OrderedDict()

    def find(self, key: Any, build: Callable[[], T]) -> T:
        """The value of ``key``, made by ``build`` if it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = build()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._count:
                self._values.popitem(last=False)
        return value
