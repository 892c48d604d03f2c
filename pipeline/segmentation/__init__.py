"""Clicks and boxes become masks, and masks are carried through the clip: the protocol that every segmenter satisfies.

Convention: ``logits`` are f32[H,W] at the clip's size, the mask is ``logits > 0``; nothing there is -inf or NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..types import Array, Prompt

if TYPE_CHECKING:
    from ..media import FrameStore

LOW_CONFIDENCE = 0.5
"""Below this, a frame is marked as one to look at."""


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """One thing on one frame: ``logits`` f32[H,W], and how sure the segmenter is, 0..1. An empty mask (the thing is out of sight)
    has logits below 0 everywhere; its confidence says how sure *that* is."""

    logits: Array
    confidence: float

    @property
    def mask(self) -> Array:
        """bool[H,W]."""
        found: Array = self.logits > 0
        return found


class Segmenter(Protocol):
    """Finds what a person means. Thread-safe: one segmenter serves every visitor, and keeps no visitor's state between calls.

    ``name`` is what summaries print (``sam2``, ``fallback``); ``key`` names everything that can change a mask (weights and
    their revision, input size, version of the method), for caches.
    """

    name: str
    key: str

    def segment(self, frames: FrameStore, frame_index: int, prompt: Prompt) -> Segmentation:
        """The thing on one frame. What is costly about the frame is kept, so that a second click on it is quick."""

    def prepare(self, frames: FrameStore, frame_index: int) -> None:
        """Do now what the first click on this frame would have to wait for."""

    def propagate(
        self, frames: FrameStore, seeds: Sequence[Mapping[int, Prompt]], order: range
    ) -> Iterator[tuple[int, tuple[Segmentation, ...]]]:
        """Carry several things, one mapping of frame to prompt each, through the frames of ``order`` (a step of 1 or -1).

        Yields every frame of ``order``, in that order, with one ``Segmentation`` for each thing; a prompted frame obeys its
        prompt. Prompts on frames outside ``order`` count too. A generator: closing it stops the work at its next frame; memory
        does not grow with the length of ``order``. What is yielded for a frame depends on the seeds and on the frames between
        them and it, never on where ``order`` ends.
        """
