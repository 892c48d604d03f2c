"""A small real segmenter for the desk's tests: the thing is what has the clicked colour and hangs together with the click, or lies
in the box; on other frames, what has that colour. Confidence is 1, and 0.2 on frames of ``doubtful``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from pipeline.segmentation import Segmentation
from pipeline.types import Prompt
from tests.tiny import make_clip

HW, NUM_FRAMES = (120, 160), 24
RED = np.array([210, 40, 40])


def square_at(frame_index: int) -> tuple[int, int, int, int]:
    """Where the red square of ``make_square_clip`` is: x0 y0 x1 y1."""
    left = 20 + 3 * frame_index
    return left, 40, left + 30, 70


def paint_square(frame_index: int) -> np.ndarray:
    """A red square that moves to the right over a quiet ground; a second one stands still at the bottom right."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    image = np.stack([40 + x // 4, 90 + y // 4, 120 + (x + y) // 8], axis=-1).astype(np.uint8)
    x0, y0, x1, y1 = square_at(frame_index)
    image[y0:y1, x0:x1] = RED
    image[95:115, 130:155] = (40, 60, 220)
    return image


def make_square_clip(path, num_frames=NUM_FRAMES):
    return make_clip(path, num_frames=num_frames, hw=HW, images=paint_square)


class ColourSegmenter:
    name = "colour"

    def __init__(self, key: str = "colour 1", doubtful: Sequence[int] = (), pause_s: float = 0.0) -> None:
        self.key, self.doubtful, self.pause_s = key, frozenset(doubtful), pause_s
        self.segmented: list[int] = []
        self.propagated: list[int] = []
        self.prepared: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def segment(self, frames, frame_index: int, prompt: Prompt) -> Segmentation:
        self.segmented.append(frame_index)
        image = frames.frame(frame_index).image.astype(int)
        return Segmentation(np.where(self._thing(image, prompt), 5.0, -5.0).astype(np.float32), 1.0)

    def prepare(self, frames, frame_index: int) -> None:
        self.prepared.append(frame_index)

    def propagate(
        self, frames, seeds: Sequence[Mapping[int, Prompt]], order: range
    ) -> Iterator[tuple[int, tuple[Segmentation, ...]]]:
        (prompts,) = seeds
        nearest = min(prompts, key=lambda frame: abs(frame - order[0]))
        start = frames.frame(nearest).image.astype(int)
        colour = start[self._thing(start, prompts[nearest])].mean(axis=0)
        for frame_index in order:
            self.gate.wait(20)
            time.sleep(self.pause_s)
            self.propagated.append(frame_index)
            near = np.abs(frames.frame(frame_index).image.astype(int) - colour).max(axis=-1) < 40
            confidence = 0.2 if frame_index in self.doubtful else 1.0
            yield frame_index, (Segmentation(np.where(near, 5.0, -5.0).astype(np.float32), confidence),)

    def _thing(self, image: np.ndarray, prompt: Prompt) -> np.ndarray:
        found = np.zeros(image.shape[:2], bool)
        if prompt.box_px is not None:
            x0, y0, x1, y1 = (round(value) for value in prompt.box_px)
            middle = image[(y0 + y1) // 2, (x0 + x1) // 2]
            found[y0:y1, x0:x1] = (np.abs(image - middle).max(axis=-1) < 40)[y0:y1, x0:x1]
        for click in prompt.clicks:
            row, column = min(int(click.y_px), image.shape[0] - 1), min(int(click.x_px), image.shape[1] - 1)
            near = (np.abs(image - image[row, column]).max(axis=-1) < 40).astype(np.uint8)
            _, labels = cv2.connectedComponents(near)
            part = labels == labels[row, column]
            found = found | part if click.is_foreground else found & ~part
        return found


class Segmenters:
    """Hands out one segmenter under every name."""

    def __init__(self, segmenter) -> None:
        self.segmenter = segmenter

    def find(self, name: str):
        return self.segmenter

    def describe(self) -> str:
        return "Things are found by their colour. For a better one, look elsewhere."
