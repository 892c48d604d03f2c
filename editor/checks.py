"""Checks of what a browser sends: everything is taken for the work of an enemy until it has passed here.

Each returns the checked value or raises ``UserError`` with one sentence.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.project import MAX_LAYERS

from .session import find_file_names

MAX_FILES = 16
"""How many files come at once."""


def check_number(value: object, what: str) -> float:
    """A finite number, or ``UserError``."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError(f"{what} must be a number.")
    return number


def check_frame(value: object, num_frames: int) -> int:
    """A frame of the clip: a number, rounded and held inside the clip."""
    number = check_number(0 if value is None else value, "The frame")
    return int(min(max(round(number), 0), max(num_frames - 1, 0)))


def check_layer(value: object) -> int:
    """The index of a layer, as far as that can be told without the document."""
    number = check_number(0 if value is None else value, "The layer")
    return int(min(max(round(number), 0), MAX_LAYERS - 1))


def check_text(value: object, what: str, max_chars: int) -> str:
    if not isinstance(value, str) or len(value) > max_chars:
        raise UserError(f"{what} must be text of at most {max_chars} characters.")
    return value


def check_upload(uploads: Path, path: object) -> Path:
    """The real path of a file that Gradio received into ``uploads``; anything else is refused."""
    if not isinstance(path, str) or "\0" in path or len(path) > 4096:
        raise UserError("Choose a file first.")
    real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(uploads))
    if not real.is_relative_to(folder) or not real.is_file():
        raise UserError("Only files uploaded to this page can be used; choose the file again.")
    return real


def check_uploads(uploads: Path, paths: object) -> list[Path]:
    if not isinstance(paths, list) or not 1 <= len(paths) <= MAX_FILES:
        raise UserError(f"Choose between 1 and {MAX_FILES} files.")
    return [check_upload(uploads, path) for path in paths]


def check_file_names(document: Mapping[str, Any]) -> None:
    """A project names its files without folders, and no other path of the server."""
    checkpoint = document.get("engine", {}).get("checkpoint")
    for name in (*find_file_names(document), *(() if checkpoint is None else (checkpoint,))):
        if Path(name).name != name or name in {".", ".."} or "\\" in name or "\0" in name:
            raise UserError(f"{Path(name).name[:80]!r}: a project on this page names its files without folders.")
