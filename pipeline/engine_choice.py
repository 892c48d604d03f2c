"""One engine that stands for several: a request's own settings name the one that runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

from .engines import Engine, Report
from .errors import UserError
from .types import Frame, InsertionRequest


class EngineByName:
    """Satisfies ``engines.Engine``. ``builders`` make the engines, each at its first use, so that what is never used is never
    loaded."""

    def __init__(self, builders: Mapping[str, Callable[[], Engine]]) -> None:
        self._builders = dict(builders)
        self._built: dict[str, Engine] = {}
        self._guard = threading.Lock()

    def find(self, name: str) -> Engine:
        """The engine of this name. Raises ``UserError`` when there is none here, and what building it raises."""
        if name not in self._builders:
            raise UserError(f"The engine {name!r} does not run here; use {' or '.join(self._builders)}.")
        with self._guard:
            if name not in self._built:
                self._built[name] = self._builders[name]()
            return self._built[name]

    def run(self, request: InsertionRequest, report: Report, warn: Callable[[str], None]) -> Iterator[Frame]:
        """Yield the frames of the engine that ``request.sampling`` names."""
        frames: Any = self.find(request.sampling.name).run(request, report, warn)
        with closing(frames):
            yield from frames
