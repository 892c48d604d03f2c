"""Takes: the finished renders that a visitor keeps. Pure steps over an immutable ``TakeList``, and where it lies on the disk.

A take's videos are ``results/<key>.*`` in the visitor's folder; its entry in ``takes/takes.json``, what it was made of and its
export pack lie beside them, never in the project file. A take is made of one project or, once a range of it was rendered anew, of
several, each for some of its frames.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.errors import UserError

from .storage import WorkStore

MAX_TAKES = 16
MAX_STARRED = 12
"""Fewer than there may be takes, so that a new one always finds a place without a starred one being lost."""

MAX_NAME_CHARS = 60
KEY = re.compile(r"[0-9a-f]{32}")

GONE = "That take is no longer here; the oldest ones without a star make room for new ones."

Piece = tuple[int, int, str]
"""Frames start to stop (half-open) and the text of the project whose frames they are."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a take was made of. ``project`` is the text of the newest project, over all of the take's frames: what is restored from
    the take. ``pieces`` say exactly which frames come from which project."""

    project: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Take:
    """One finished render. ``made_s`` is seconds since the epoch, ``frame_range`` half-open in frames of the clip, ``settings`` one
    line about how it was made, ``thumbnail`` a small JPEG as base 64, ``digest`` that of what was rendered."""

    key: str
    name: str
    made_s: float
    digest: str
    settings: str
    frame_range: tuple[int, int]
    clip_name: str
    clip_sha256: str
    thumbnail: str = ""
    is_starred: bool = False


@dataclass(frozen=True, slots=True)
class TakeList:
    """Takes in the order in which they were made. ``shown`` is the key of the one that is looked at, ``against`` that of the one it
    is compared with; None is the source."""

    takes: tuple[Take, ...] = ()
    shown: str | None = None
    against: str | None = None
    num_made: int = 0

    def find(self, key: object) -> Take:
        """The take of this key. Raises ``UserError`` when there is none."""
        found = next((take for take in self.takes if take.key == key), None)
        if found is None:
            raise UserError(GONE)
        return found

    @property
    def shown_take(self) -> Take | None:
        return None if self.shown is None else self.find(self.shown)


# -- steps ------------------------------------------------------------------------------------------------------------------------


def add_take(takes: TakeList, take: Take) -> TakeList:
    """A finished render: it is shown, under the next number unless it has a name. One that is there already is shown again."""
    if any(each.key == take.key for each in takes.takes):
        return show_take(takes, take.key)
    number = takes.num_made + 1
    take = replace(take, name=take.name or f"Take {number}")
    against = takes.against if _is_comparable(takes, takes.against, take) else None
    return TakeList((*takes.takes, take), take.key, against, number)


def show_take(takes: TakeList, key: object) -> TakeList:
    """Look at a take; what it is compared with stays, where that can be."""
    take = takes.find(key)
    against = takes.against if takes.against != take.key and _is_comparable(takes, takes.against, take) else None
    return replace(takes, shown=take.key, against=against)


def compare_with(takes: TakeList, key: object) -> TakeList:
    """Compare the shown take with another one, or with the source (None). Raises ``UserError`` for one of another clip."""
    shown = takes.shown_take
    if shown is None:
        raise UserError("Render something first; then it can be compared.")
    if key is None:
        return replace(takes, against=None)
    other = takes.find(key)
    if other.key == shown.key:
        raise UserError("That is the take on the other side already; choose another one.")
    if not _is_comparable(takes, other.key, shown):
        raise UserError("Only takes of the same video can be compared.")
    return replace(takes, against=other.key)


def star_take(takes: TakeList, key: object, is_starred: bool) -> TakeList:
    """Keep a take when others make room, or no longer. Raises ``UserError`` when too many are kept."""
    take = takes.find(key)
    if is_starred and not take.is_starred and sum(each.is_starred for each in takes.takes) >= MAX_STARRED:
        raise UserError(f"At most {MAX_STARRED} takes can carry a star; take one away first.")
    return _with(takes, replace(take, is_starred=is_starred))


def rename_take(takes: TakeList, key: object, name: object) -> TakeList:
    """Another name, on one line. Raises ``UserError`` for an empty or a long one."""
    text = "".join(each for each in name if each.isprintable()).strip() if isinstance(name, str) else ""
    if not 1 <= len(text) <= MAX_NAME_CHARS:
        raise UserError(f"A take's name has between 1 and {MAX_NAME_CHARS} characters.")
    return _with(takes, replace(takes.find(key), name=text))


def delete_take(takes: TakeList, key: object) -> TakeList:
    """Without this take; the newest of the others is shown if it was."""
    return keep_only(takes, {each.key for each in takes.takes} - {takes.find(key).key})


def keep_only(takes: TakeList, keys: Iterable[str]) -> TakeList:
    """Without all but these."""
    wanted = set(keys)
    kept = tuple(take for take in takes.takes if take.key in wanted)
    names = {take.key for take in kept}
    shown = takes.shown if takes.shown in names else (kept[-1].key if kept else None)
    against = takes.against if takes.against in names and takes.against != shown else None
    return replace(takes, takes=kept, shown=shown, against=against)


def choose_surplus(takes: TakeList, num_bytes: Mapping[str, int], max_bytes: int) -> list[str]:
    """The keys of the takes that must go for the others to fit ``MAX_TAKES`` and ``max_bytes``: those without a star first, the
    oldest first; never the newest one."""
    order = sorted(takes.takes[:-1], key=lambda take: take.is_starred)
    count, total = len(takes.takes), sum(num_bytes.get(take.key, 0) for take in takes.takes)
    gone = []
    for take in order:
        if count <= MAX_TAKES and total <= max_bytes:
            break
        gone.append(take.key)
        count, total = count - 1, total - num_bytes.get(take.key, 0)
    return gone


def _with(takes: TakeList, changed: Take) -> TakeList:
    return replace(takes, takes=tuple(changed if each.key == changed.key else each for each in takes.takes))


def _is_comparable(takes: TakeList, key: str | None, take: Take) -> bool:
    other = next((each for each in takes.takes if each.key == key), None)
    return other is not None and other.clip_sha256 == take.clip_sha256 and other.key != take.key


# -- on the disk ------------------------------------------------------------------------------------------------------------------


class TakeShelf:
    """The takes of every visitor of a ``WorkStore``, at most ``max_bytes`` of files for each."""

    def __init__(self, store: WorkStore, max_bytes: int) -> None:
        self._store, self._max_bytes = store, max_bytes

    def load(self, token: object) -> TakeList:
        """The list as it was kept, without takes whose files are gone."""
        path = self._folder(token) / "takes.json"
        if not path.exists():
            return TakeList()
        saved = json.loads(path.read_text(encoding="utf-8"))
        takes = tuple(Take(**{**each, "frame_range": tuple(each["frame_range"])}) for each in saved.pop("takes"))
        found = [take.key for take in takes if all(path.exists() for path in self._needed(token, take.key))]
        return keep_only(TakeList(takes, **saved), found)

    def change(self, token: object, step: Callable[[TakeList], TakeList]) -> TakeList:
        """Make one step and keep what comes of it; the files of takes that are gone go too."""
        with self._store.locked(token):
            before = self.load(token)
            after = step(before)
            gone = choose_surplus(after, {take.key: self._num_bytes(token, take.key) for take in after.takes}, self._max_bytes)
            after = keep_only(after, {take.key for take in after.takes} - set(gone))
            _write_whole(self._folder(token) / "takes.json", json.dumps(asdict(after), ensure_ascii=False))
            for key in {take.key for take in before.takes} - {take.key for take in after.takes} | set(gone):
                for path in self._files(token, key):
                    path.unlink(missing_ok=True)
        return after

    def video(self, token: object, key: str) -> Path:
        return self._store.results(token) / f"{key}.mp4"

    def pack(self, token: object, key: str) -> Path:
        return self._folder(token) / f"{key}.zip"

    def write_recipe(self, token: object, key: str, recipe: Recipe) -> None:
        """Keep what a take was made of, before it is added."""
        _write_whole(self._recipe(token, key), json.dumps(asdict(recipe), ensure_ascii=False))

    def read_recipe(self, token: object, key: str) -> Recipe:
        """What a take was made of. Raises ``UserError`` when it is gone."""
        try:
            saved = json.loads(self._recipe(token, key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(GONE) from None
        return Recipe(saved["project"], tuple((start, stop, text) for start, stop, text in saved["pieces"]))

    def write_quality(self, token: object, key: str, quality: Mapping[str, object]) -> None:
        """Keep how good a take's frames are: one list of numbers for each measure."""
        _write_whole(self._quality(token, key), json.dumps(quality, allow_nan=False))

    def read_quality(self, token: object, key: str) -> dict[str, object] | None:
        """How good a take's frames are; None for one that was never measured."""
        path = self._quality(token, key)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def _quality(self, token: object, key: str) -> Path:
        return self._folder(token) / f"{key}.quality"

    def _recipe(self, token: object, key: str) -> Path:
        return self._folder(token) / f"{key}.recipe"

    def _folder(self, token: object) -> Path:
        folder = self._store.folder(token) / "takes"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _needed(self, token: object, key: str) -> tuple[Path, Path]:
        return self.video(token, key), self._recipe(token, key)

    def _files(self, token: object, key: str) -> list[Path]:
        if KEY.fullmatch(key) is None:
            raise ValueError(f"a take's key is 32 hexadecimal digits, got {key!r}")
        return [*self._store.results(token).glob(f"{key}.*"), *self._folder(token).glob(f"{key}.*")]

    def _num_bytes(self, token: object, key: str) -> int:
        total = 0
        for path in self._files(token, key):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
