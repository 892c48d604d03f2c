"""The protocol that every engine satisfies. Engines are built in ``app.py`` and ``pipeline/cli.py`` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from .types import Frame, InsertionRequest, Progress

Report = Callable[[Progress], None]
"""Called at least once per step or frame; raises ``Cancelled`` when the person pressed stop."""


class Engine(Protocol):
    """Turns a request into frames, one by one, in order, for every frame of ``request.frame_range``.

    A generator: closing it stops the work at its next frame and releases what it holds. No state is kept between calls, so one
    engine serves every visitor. ``warnings`` found on the way (a fold, a reference not used) are told through ``warn``.
    """

    def run(self, request: InsertionRequest, report: Report, warn: Callable[[str], None]) -> Iterator[Frame]: ...


def ignore_progress(progress: Progress) -> None:
    """A ``report`` for callers that want frames only."""
