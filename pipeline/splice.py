"""One result made of several: some frames from one request, the others from another, in one whole file.

A re-render of a range is cut into a result that is kept: outside the range its frames are those of the request that made them,
inside they are the new request's. ``SplicedEngine`` satisfies ``engines.Engine``, so that ``render`` writes it like any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar, cast

from .engines import Engine, Report
from .types import Frame, InsertionRequest, Progress

Value = TypeVar("Value")

PER_FRAME_ENGINES = ("composite",)
"""Engines whose frames depend on the request but never on its range, so that a part of the range may be made alone."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """The frames ``frame_range`` (half-open, in frames of the clip) of a result, and the ``request`` whose frames they are."""

    frame_range: tuple[int, int]
    request: InsertionRequest
    engine: Engine

    def __post_init__(self) -> None:
        start, stop = self.frame_range
        first, last = self.request.frame_range
        if not first <= start < stop <= last:
            raise ValueError(f"a part must lie in its request's range {self.request.frame_range}, got {self.frame_range}")


def cut_in(spans: Sequence[tuple[int, int, Value]], new: tuple[int, int, Value]) -> tuple[tuple[int, int, Value], ...]:
    """``spans`` (start, stop, value; half-open, in order) with ``new`` in the place of whatever it covers."""
    start, stop, _ = new
    before = [(a, min(b, start), value) for a, b, value in spans if a < start]
    after = [(max(a, stop), b, value) for a, b, value in spans if b > stop]
    return (*before, new, *after)


def whole_request(parts: Sequence[Part]) -> InsertionRequest:
    """A request for the frames of all parts together, for those who plan and write them. Raises ``ValueError`` unless the parts
    follow each other without a gap and are of one clip."""
    for before, after in itertools.pairwise(parts):
        if before.frame_range[1] != after.frame_range[0]:
            raise ValueError(f"parts must follow each other, got {before.frame_range} and then {after.frame_range}")
        if before.request.clip.sha256 != after.request.clip.sha256:
            raise ValueError("parts must be of one clip")
    return dataclasses.replace(parts[-1].request, frame_range=(parts[0].frame_range[0], parts[-1].frame_range[1]))


def splice_digest(parts: Sequence[Part]) -> str:
    """SHA-256 over all that can change a pixel; that of the request itself where there is but one and it is used whole."""
    if len(parts) == 1 and parts[0].frame_range == parts[0].request.frame_range:
        return parts[0].request.digest()
    lines = [f"{part.frame_range[0]} {part.frame_range[1]} {part.request.digest()}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class SplicedEngine:
    """Satisfies ``engines.Engine``: every part's frames in turn, each made by the part's own engine.

    Every frame equals that of a render of its part's whole request. ``run`` takes ``whole_request(parts)``.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)

    def run(self, request: InsertionRequest, report: Report, warn: Callable[[str], None]) -> Iterator[Frame]:
        """Yield the frames of all parts in order. Raises what a part's engine raises."""
        start, total = request.frame_range[0], request.num_frames
        for part in self.parts:
            done = part.frame_range[0] - start
            with closing(_run_part(part, _placed(report, part, done, total), warn)) as frames:
                yield from frames


def _run_part(part: Part, report: Report, warn: Callable[[str], None]) -> Generator[Frame, None, None]:
    start, stop = part.frame_range
    request = part.request
    if request.sampling.name in PER_FRAME_ENGINES:
        request = dataclasses.replace(request, frame_range=part.frame_range)
    with closing(cast("Generator[Frame, None, None]", part.engine.run(request, report, warn))) as frames:
        for frame in frames:
            if frame.frame_index >= start:
                yield frame
            if frame.frame_index == stop - 1:
                return


def _placed(report: Report, part: Part, done: int, total: int) -> Report:
    """Steps that count the part's frames are told as frames of the whole; other stages as they are."""
    own = part.frame_range[1] - part.frame_range[0]

    def tell(progress: Progress) -> None:
        if progress.num_steps == own:
            progress = dataclasses.replace(progress, step=done + progress.step, num_steps=total)
        report(progress)

    return tell
