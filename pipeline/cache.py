"""Derived artefacts on disk, keyed by content: always rebuildable, bounded in size and age, shared by threads and processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .types import Array

KEY_VERSION = "1"
"""Part of every key; a new number makes all older artefacts unreachable."""

_KEY = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".npz"
_TEMP_PREFIX = ".partial-"
_TEMP_MAX_AGE_S = 3600.0
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)

KeyPart = str | bytes | int | float | bool | None | Array | tuple["KeyPart", ...]


def content_key(*parts: KeyPart) -> str:
    """SHA-256 (64 hex digits) over ``KEY_VERSION`` and ``parts``: strings, bytes, numbers, None, arrays, tuples of these.

    Every part is hashed with its type and length (arrays with dtype and shape), so that neighbouring parts cannot run into each
    other. Raises ``TypeError`` for any other part.
    """
    sha = hashlib.sha256(KEY_VERSION.encode())
    for piece in _pieces(parts):
        sha.update(piece)
    return sha.hexdigest()


def _pieces(part: KeyPart) -> Iterator[bytes | memoryview]:
    if isinstance(part, tuple):
        yield f"tuple{len(part)};".encode()
        for item in part:
            yield from _pieces(item)
    elif isinstance(part, np.ndarray):
        if part.dtype.hasobject:
            raise TypeError("a cache key cannot hold an array of objects")
        yield f"array{part.dtype.str}{part.shape};".encode()
        yield np.ascontiguousarray(part).data.cast("B") if part.size else b""
    elif isinstance(part, bytes | str):
        data = part.encode() if isinstance(part, str) else part
        yield f"{type(part).__name__}{len(data)};".encode()
        yield data
    elif part is None or isinstance(part, bool | int | float):
        yield f"{type(part).__name__}{part!r};".encode()
    else:
        raise TypeError(f"a cache key cannot hold a {type(part).__name__}")


class ArtifactCache:
    """Named arrays under ``folder``, one uncompressed ``.npz`` file per key.

    Files appear whole or not at all, the least recently used ones go when the total exceeds ``max_bytes``, and what nobody used
    for ``max_age_s`` seconds is gone. A damaged entry counts as missing and is removed; an artefact that cannot be stored (full
    disk, read-only folder, too big) is simply not kept. Nothing here raises for the state of the disk. ``folder`` is made at
    the first ``store``.
    """

    def __init__(self, folder: Path, max_bytes: int = 2 << 30, max_age_s: float = 7 * 86400.0) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s

    def load(self, key: str) -> dict[str, Array] | None:
        """The arrays stored under ``key``, or None. Marks the entry as used."""
        path = self._path(key)
        try:
            if path.stat().st_mtime < time.time() - self.max_age_s:
                _remove(path)
                return None
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            return None
        except _UNREADABLE:
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return arrays

    def store(self, key: str, **arrays: Array) -> None:
        """Keep ``arrays`` under ``key``, replacing what was there. Failing to is not an error."""
        path = self._path(key)
        if sum(array.nbytes for array in arrays.values()) > self.max_bytes:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_whole(path, arrays)
            self._prune()

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a cache key must be 64 hex digits, as content_key makes them, got {key!r}")
        return self.folder / f"{key}{_SUFFIX}"

    def _prune(self) -> None:
        """Remove leftovers of crashes and what is too old, then the least recently used entries until the rest fits."""
        now = time.time()
        entries = []
        for item in os.scandir(self.folder):
            with contextlib.suppress(OSError):
                state = item.stat()
                if item.name.startswith(_TEMP_PREFIX):
                    if state.st_mtime < now - _TEMP_MAX_AGE_S:
                        _remove(Path(item.path))
                elif item.name.endswith(_SUFFIX):
                    entries.append((state.st_mtime_ns, state.st_size, Path(item.path)))
        total = sum(size for _, size, _ in entries)
        for used_ns, size, path in sorted(entries):
            if total <= self.max_bytes and used_ns >= (now - self.max_age_s) * 1e9:
                break
            _remove(path)
            total -= size


def _write_whole(path: Path, arrays: dict[str, Array]) -> None:
    """Write beside ``path`` and rename; nothing is left behind when that fails."""
    handle, name = tempfile.mkstemp(prefix=_TEMP_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(name, path)
    except BaseException:
        _remove(Path(name))
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
