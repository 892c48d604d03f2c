"""Which segmenter is at work: SAM 2.1 where its weights are, else the one that needs none."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from . import Segmenter
from .weights import FETCH_COMMAND, SAM2_MODELS, fetch_weights, find_weights, own_size

if TYPE_CHECKING:
    from ..model_cache import ModelCache

NAMES = ("auto", "sam2", "fallback")
"""What a project file may call its segmenter."""

NEEDED = ("torch", "transformers", "safetensors")
"""What SAM 2.1 needs beside the base requirements."""


class SegmenterByName:
    """Hands out segmenters by the project file's names, each built at its first use and kept. Thread-safe.

    ``checkpoints`` is the folder that ``fetch-models`` fills. ``model`` names the weights to use, one of ``weights.SAM2_MODELS``
    or a local folder; without it the largest that is there is taken. ``input_size`` is the side, in pixels, of the square that
    SAM 2.1 looks at: smaller is faster and coarser, None is the model's own (1024). ``device`` as torch names it, or ``auto``.
    """

    def __init__(
        self,
        device: str = "auto",
        checkpoints: Path | None = None,
        model: str | Path | None = None,
        input_size: int | None = None,
        models: ModelCache | None = None,
    ) -> None:
        self._device, self._checkpoints, self._model = device, checkpoints, model
        self._input_size, self._models = input_size, models
        self._built: dict[str, Segmenter] = {}
        self._guard = threading.Lock()

    def find(self, name: str = "auto") -> Segmenter:
        """The segmenter ``auto``, ``sam2`` or ``fallback``.

        ``auto`` is SAM 2.1 if its weights and libraries are there, and never downloads. ``sam2`` fetches its weights only if
        ``model`` named published ones. Raises ``UserError`` in one sentence when there is no such segmenter, or SAM 2.1 cannot be.
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
        return "sam2" if not _missing_libraries() and self._weights() is not None else "fallback"

    def describe(self) -> str:
        """One or two sentences for the page: which segmenter ``auto`` is, and how to get the better one."""
        weights = self._weights()
        if self.resolve() == "sam2" and weights is not None:
            size = own_size(weights) if self._input_size is None else self._input_size
            return f"SAM 2.1 ({_short_name(weights)}, at {size} px) finds and follows what you click."
        if weights is not None:
            how = f"For SAM 2.1, install {', '.join(_missing_libraries())} with 'pip install -r requirements.txt'."
        else:
            how = f"For SAM 2.1, which is better, run '{FETCH_COMMAND}' once."
        return f"The built-in segmenter, which needs no download, finds and follows what you click. {how}"

    def _weights(self) -> Path | None:
        return find_weights(self._model, self._checkpoints)

    def _build_sam2(self) -> Segmenter:
        missing = _missing_libraries()
        if missing:
            raise UserError(f"SAM 2.1 needs {', '.join(missing)}; install them with 'pip install -r requirements.txt'.")
        weights = self._weights()
        if weights is None and self._checkpoints is not None and _short_name(self._model) in SAM2_MODELS:
            weights = fetch_weights(_short_name(self._model), self._checkpoints)
        if weights is None:
            raise UserError(
                f"SAM 2.1 has no weights here; run '{FETCH_COMMAND}' where there is a network, or use the fallback segmenter."
            )
        from .sam2 import build_segmenter

        return build_segmenter(weights, self._device, self._input_size, self._models)


def _build_fallback() -> Segmenter:
    from .fallback import FallbackSegmenter

    return FallbackSegmenter()


def _missing_libraries() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def _short_name(model: str | Path | None) -> str:
    """``sam2.1-hiera-tiny`` for its hub name, its folder and its place in the hub's cache."""
    for part in reversed(Path(model or "").parts):
        short = part.rpartition("--")[2]
        if short in SAM2_MODELS:
            return short
    return Path(model or "").name
