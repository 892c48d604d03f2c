"""Prepared training clips in shards: plain tar files, one ``KEY.npz`` per clip, in the layout that webdataset reads as well.

A shard appears under its name only when it is whole; one that is damaged costs what it holds and is named, nothing more.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from .clips import TrainingClip, decode_clip, encode_clip

log = logging.getLogger(__name__)

CLIPS_PER_SHARD = 256
SUFFIX = ".npz"


def write_shards(folder: Path, clips: Iterable[TrainingClip], clips_per_shard: int = CLIPS_PER_SHARD) -> int:
    """Write ``clips`` to ``folder/shard-00000.tar`` and on; how many there were. Raises ``UserError`` for a folder that holds
    shards already and for a disk that is full."""
    folder.mkdir(parents=True, exist_ok=True)
    if list(folder.glob("shard-*.tar")):
        raise UserError(f"The folder {folder.name!r} holds shards already; give a new one.")
    count = 0
    waiting: list[TrainingClip] = []
    for clip in clips:
        waiting.append(clip)
        if len(waiting) == clips_per_shard:
            _write_shard(folder / f"shard-{count // clips_per_shard:05d}.tar", waiting)
            count += len(waiting)
            waiting = []
    if waiting:
        _write_shard(folder / f"shard-{count // clips_per_shard:05d}.tar", waiting)
        count += len(waiting)
    if not count:
        raise UserError("There was nothing to prepare: no clip shows its object long enough.")
    return count


def _write_shard(path: Path, clips: list[TrainingClip]) -> None:
    partial = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(partial, "w") as archive:
            for clip in clips:
                data = encode_clip(clip)
                entry = tarfile.TarInfo(f"{clip.key}{SUFFIX}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"The shard {path.name!r} cannot be written: {os.strerror(error.errno or 0)}; make room for it.") from error
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one clip lies."""

    shard: Path
    key: str
    offset: int
    size: int


class ShardReader:
    """A source of training clips: random access into all shards of a folder, nothing kept in memory but where they lie."""

    def __init__(self, folder: Path) -> None:
        self._entries: list[_Entry] = []
        for path in sorted(folder.glob("*.tar")):
            try:
                with tarfile.open(path, "r:") as archive:
                    for entry in archive:
                        if entry.isfile() and entry.name.endswith(SUFFIX):
                            self._entries.append(_Entry(path, entry.name.removesuffix(SUFFIX), entry.offset_data, entry.size))
            except (tarfile.TarError, OSError, EOFError) as error:
                log.warning("The shard %s is damaged and is used as far as it can be read: %s.", path.name, error)
        if not self._entries:
            raise UserError(f"The folder {folder.name!r} holds no readable shard; prepare the training data first.")

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, number: int) -> TrainingClip:
        """Clip ``number``. Raises ``ValueError`` when it is damaged."""
        entry = self._entries[number]
        with entry.shard.open("rb") as file:
            file.seek(entry.offset)
            return decode_clip(entry.key, file.read(entry.size))

    def clip(self, rng: np.random.Generator) -> TrainingClip:
        """A random clip; a damaged one is told and raises ``ValueError``, so that another is drawn."""
        number = int(rng.integers(len(self._entries)))
        try:
            return self.read(number)
        except ValueError as error:
            log.warning("%s in %s is left out: %s.", self._entries[number].key, self._entries[number].shard.name, error)
            raise
