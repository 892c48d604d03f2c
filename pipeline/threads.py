"""Threads that end before the interpreter does.

Python stops a daemon thread at whatever line it comes to once the interpreter is ending. Inside OpenCV, which lets nothing be
unwound through it, that aborts the whole process. So threads that work on pictures are told to stop, and waited for, just before.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from functools import cache

END_S = 10.0
"""How long the end of the interpreter waits for all such threads together."""

_stops: dict[threading.Thread, Callable[[], object]] = {}
_guard = threading.Lock()


def start_thread(work: Callable[[], object], name: str, stop: Callable[[], object]) -> threading.Thread:
    """Run ``work`` in a daemon thread. ``stop`` must make it end soon; it is called when the interpreter ends first."""

    def run() -> None:
        try:
            work()
        finally:
            with _guard:
                _stops.pop(thread, None)

    _end_in_time()
    thread = threading.Thread(target=run, name=name, daemon=True)
    with _guard:
        _stops[thread] = stop
    thread.start()
    return thread


@cache
def _end_in_time() -> None:
    atexit.register(_end_all)


def _end_all() -> None:
    with _guard:
        running = list(_stops.items())
    for _, stop in running:
        stop()
    until = time.monotonic() + END_S
    for thread, _ in running:
        thread.join(max(0.0, until - time.monotonic()))
