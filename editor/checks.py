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

from .session import Point, find_file_names
from .views import TOOLS

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


def check_point(value: object, what: str) -> Point:
    """Two finite numbers."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"{what} must be two numbers.")
    return check_number(value[0], what), check_number(value[1], what)


def check_tool(value: object) -> str:
    if value not in TOOLS:
        raise UserError("Choose Start box, End box or Path first.")
    return str(value)


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
    if document.get("engine", {}).get("checkpoint") is not None:
        raise UserError("A project that names a checkpoint can only be rendered from the command line; remove engine.checkpoint.")
    for name in find_file_names(document):
        if Path(name).name != name or name in {".", ".."} or "\\" in name or "\0" in name:
            raise UserError(f"{Path(name).name[:80]!r}: a project on this page names its files without folders.")
