"""What every command shares: lines and progress on stderr. Importing this loads nothing heavy."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator
from typing import TypeVar

from .types import Progress

PLAIN_INTERVAL_S = 2.0
BAR_INTERVAL_S = 0.1
BAR_CELLS = 28

Result = TypeVar("Result")


def say(line: str) -> None:
    """A line for the person who runs the command."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def show_progress(work: Generator[Progress, None, Result]) -> Result:
    """Run a job to its end, showing where it is on stderr: a bar on a terminal, plain lines otherwise. What it returns."""
    is_terminal = sys.stderr.isatty()
    show = _Bar() if is_terminal else _Lines()
    with contextlib.closing(work):
        try:
            while True:
                show.update(next(work))
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            show.close()


class _Lines:
    """A line when the stage changes, and every two seconds."""

    def __init__(self) -> None:
        self._stage = ""
        self._shown_s = 0.0
        self._clock = _Clock()

    def update(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if progress.stage == self._stage and now_s - self._shown_s < PLAIN_INTERVAL_S:
            return
        self._shown_s, self._stage = now_s, progress.stage
        say(_describe(progress, self._clock.left_s(progress)))

    def close(self) -> None:
        """Nothing to tidy up."""


class _Bar:
    """One line that redraws itself."""

    def __init__(self) -> None:
        self._shown_s = 0.0
        self._clock = _Clock()

    def update(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < BAR_INTERVAL_S and progress.step < progress.num_steps:
            return
        self._shown_s = now_s
        filled = round(BAR_CELLS * progress.step / max(progress.num_steps, 1))
        bar = "█" * filled + "░" * (BAR_CELLS - filled)
        sys.stderr.write(f"\r{bar} {_describe(progress, self._clock.left_s(progress))}\x1b[K")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class _Clock:
    """Time that is left in a stage, from its pace so far."""

    def __init__(self) -> None:
        self._stage = ""
        self._started_s = 0.0
        self._first_step = 0

    def left_s(self, progress: Progress) -> float | None:
        """Seconds, or None while nothing can be said."""
        if progress.stage != self._stage:
            self._stage, self._started_s, self._first_step = progress.stage, time.monotonic(), progress.step
        steps = progress.step - self._first_step
        if steps < 1:
            return None
        return (time.monotonic() - self._started_s) / steps * (progress.num_steps - progress.step)


def _describe(progress: Progress, left_s: float | None) -> str:
    ending = "" if left_s is None else f", {int(left_s) // 60}:{int(left_s) % 60:02d} left"
    return f"{progress.stage} {progress.step} of {progress.num_steps}{ending}"
