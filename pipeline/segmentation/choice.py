"""Which segmenter is at work: SAM 2.1 where its weights are, else the one that needs none."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from . import Segmenter
from .options import NAMES, SegmenterOptions
from .weights import FETCH_COMMAND, SAM2_MODELS, fetch_weights, find_weights, own_size

if TYPE_CHECKING:
    from ..model_cache import ModelCaches

NEEDED = ("torch", "transformers", "safetensors")
"""What SAM 2.1 needs beside the base requirements."""


class SegmenterByName:
    """Hands out segmenters by the project file's names, each built at its first use and kept. Thread-safe.

    ``models`` keeps SAM 2.1 beside what else runs on its device; without it, it has the device to itself.
    """

    def __init__(self, options: SegmenterOptions, models: ModelCaches | None = None) -> None:
        self._options, self._models = options, models
        self._built: dict[str, Segmenter] = {}
        self._guard = threading.Lock()

    def find(self, name: str = "auto") -> Segmenter:
        """The segmenter ``auto``, ``sam2`` or ``fallback``.

        ``auto`` is what the options say; if that is ``auto`` too, SAM 2.1 if its weights and libraries are there, and nothing is
        downloaded. ``sam2`` fetches its weights only if the options name published ones. Raises ``UserError`` in one sentence when
        there is no such segmenter, or SAM 2.1 cannot be.
        """
        if name not in NAMES:
            raise UserError(f"There is no segmenter {name!r}; use {' or '.join(NAMES)}.")
        chosen = self.resolve() if name == "auto" else name
        with self._guard:
            if chosen not in self._built:
                self._built[chosen] = self._build_sam2() if chosen == "sam2" else _build_fallback()
            return self._built[chosen]

    def resolve(self) -> str:
        """What ``auto`` stands for now: ``sam2`` or ``fallback``. Looks at the disk alone."""
        if self._options.name != "auto":
            return self._options.name
        return "sam2" if not _missing_libraries() and self._weights() is not None else "fallback"

    def describe(self) -> str:
        """One or two sentences for the page: which segmenter ``auto`` is, and how to get the better one."""
        weights, missing = self._weights(), _missing_libraries()
        if self.resolve() == "fallback":
            built_in = "The built-in segmenter, which needs no download, finds and follows what you click."
            return built_in if self._options.name == "fallback" else f"{built_in} For SAM 2.1, which is better, {_remedy(missing)}."
        if missing or weights is None:
            return f"SAM 2.1 is to find what you click, but it is not here yet; {_remedy(missing)}."
        size = self._options.input_size or own_size(weights)
        return f"SAM 2.1 ({_short_name(weights)}, at {size} px) finds and follows what you click."

    def _weights(self) -> Path | None:
        return find_weights(self._options.model, self._options.checkpoints)

    def _build_sam2(self) -> Segmenter:
        missing = _missing_libraries()
        if missing:
            raise UserError(f"SAM 2.1 needs {', '.join(missing)}; install them with 'pip install -r requirements.txt'.")
        options, weights = self._options, self._weights()
        if weights is None and options.checkpoints is not None and _short_name(options.model) in SAM2_MODELS:
            weights = fetch_weights(_short_name(options.model), options.checkpoints)
        if weights is None:
            raise UserError(
                f"SAM 2.1 has no weights here; run '{FETCH_COMMAND}' where there is a network, or use the fallback segmenter."
            )
        from .sam2 import build_segmenter

        return build_segmenter(weights, options.device, options.input_size, self._models)


def _build_fallback() -> Segmenter:
    from .fallback import FallbackSegmenter

    return FallbackSegmenter()


def _remedy(missing: list[str]) -> str:
    """How to get SAM 2.1 to work."""
    return f"install {', '.join(missing)} with 'pip install -r requirements.txt'" if missing else f"run '{FETCH_COMMAND}' once"


def _missing_libraries() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def _short_name(model: str | Path | None) -> str:
    """``sam2.1-hiera-tiny`` for its hub name, its folder and its place in the hub's cache."""
    for part in reversed(Path(model or "").parts):
        short = part.rpartition("--")[2]
        if short in SAM2_MODELS:
            return short
    return Path(model or "").name
