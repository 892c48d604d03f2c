"""Where a visitor's work lies on the server: one folder per visitor, named by a token that only that visitor's page holds.

``<root>/<token>/files/`` holds what the visitor brought, under safe names; ``results/`` what was rendered; ``session.json`` the
autosaved ``EditSession``. A token is 256 random bits, issued here and checked for its form before it becomes part of any path.
Folders go when nobody has used them for ``time_to_live_s``, the longest unused first when all of them exceed ``max_bytes``.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import logging
import math
import os
import re
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError

from .session import EditSession, Patch

log = logging.getLogger(__name__)

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_UNSAFE_CHARACTERS = re.compile(r"[<>:\"/\\|?*\x00-\x1f\x7f`$!{}]")

EXPIRED = "This page has been idle for too long and its files are gone; reload it to start again."


def is_token(value: object) -> bool:
    """Whether a value has the form of a token: 43 characters of the URL-safe base-64 alphabet, nothing else."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def safe_name(name: str) -> str:
    """A file name that is safe in any folder: the last part of ``name`` without control or shell characters, no leading dot, at
    most 120 bytes with its extension kept. Raises ``UserError`` when nothing is left."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    base = _UNSAFE_CHARACTERS.sub("", base).strip(" .")
    stem, suffix = os.path.splitext(base)
    suffix = suffix if len(suffix.encode()) <= 16 else ""
    while len((stem + suffix).encode()) > 120:
        stem = stem[:-1]
    if not stem:
        raise UserError("A file needs a name of letters or digits; rename it and try again.")
    return stem + suffix


class KeptFile(NamedTuple):
    """A file in a visitor's folder: the name it has there, and whether it was not there before."""

    name: str
    is_new: bool


class WorkStore:
    """The visitors' folders below ``root``. Thread-safe.

    ``time_to_live_s``: how long an unused folder is kept. ``max_bytes``: how much all of them may hold together; one visitor may
    hold ``max_visitor_bytes``. ``clock`` returns seconds since the epoch.
    """

    def __init__(
        self,
        root: Path,
        time_to_live_s: float = 4 * 3600,
        max_bytes: int = 20 * 2**30,
        max_visitor_bytes: int = 4 * 2**30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = Path(root)
        self.time_to_live_s, self.max_bytes, self.max_visitor_bytes = time_to_live_s, max_bytes, max_visitor_bytes
        self._clock = clock
        self._guard = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}
        self._in_use: Counter[str] = Counter()
        self._unwanted: set[str] = set()
        self._told: list[Callable[[str], object]] = []
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    # -- visitors -----------------------------------------------------------------------------------------------------------------

    def issue(self) -> str:
        """A new visitor: makes the folder and returns its token."""
        token = secrets.token_urlsafe(32)
        (self.root / token).mkdir(mode=0o700)
        for name in ("files", "results"):
            (self.root / token / name).mkdir(mode=0o700)
        self._touch(token)
        return token

    def folder(self, token: object) -> Path:
        """The visitor's folder. Raises ``UserError`` for anything that is not the token of an existing one."""
        if not isinstance(token, str) or not is_token(token):
            raise UserError(EXPIRED)
        folder = self.root / token
        if folder.is_symlink() or not folder.is_dir():
            raise UserError(EXPIRED)
        return folder

    def files(self, token: object) -> Path:
        return self.folder(token) / "files"

    def results(self, token: object) -> Path:
        return self.folder(token) / "results"

    @contextlib.contextmanager
    def using(self, token: object) -> Iterator[Path]:
        """While this is open the folder is not swept away, however long it takes."""
        folder = self.folder(token)
        with self._guard:
            self._in_use[folder.name] += 1
        try:
            yield folder
        finally:
            with self._guard:
                self._in_use[folder.name] -= 1
                self._in_use += Counter()
                is_unwanted = folder.name in self._unwanted
            if not (is_unwanted and self._remove(folder)):
                self._touch(folder.name)

    @contextlib.contextmanager
    def locked(self, token: object) -> Iterator[Path]:
        """One change at a time for this visitor."""
        folder = self.folder(token)
        with self._guard:
            lock = self._locks.setdefault(folder.name, threading.RLock())
        with lock:
            yield folder

    def delete(self, token: object) -> None:
        """Remove this visitor's folder and nothing else, once nobody uses it; a token without a folder is no error."""
        with contextlib.suppress(UserError):
            folder = self.folder(token)
            with self._guard:
                self._unwanted.add(folder.name)
            self._remove(folder)

    def when_removed(self, tell: Callable[[str], object]) -> None:
        """``tell`` is called with the token of every folder that has gone, whyever it went."""
        self._told.append(tell)

    # -- files and the session --------------------------------------------------------------------------------------------------

    def add_file(self, token: object, source: Path) -> KeptFile:
        """Take a copy of ``source`` into the visitor's folder. Nothing that is there is replaced, since earlier documents may name
        it: the same bytes under the same name are kept once, other bytes get another name.

        Raises ``UserError`` when the visitor's share of the disk is used up.
        """
        folder, source = self.files(token), Path(source)
        name = safe_name(source.name)
        with self.locked(token):
            while (folder / name).exists():
                if filecmp.cmp(source, folder / name, shallow=False):
                    return KeptFile(name, is_new=False)
                name = _next_name(name)
            if measure_bytes(folder.parent) + source.stat().st_size > self.max_visitor_bytes:
                raise UserError("Your files fill the space that one visitor has here; begin a new project with fewer files.")
            part = folder / f".{secrets.token_hex(8)}.part"
            try:
                shutil.copyfile(source, part)
                os.replace(part, folder / name)
            finally:
                part.unlink(missing_ok=True)
        self._touch(folder.parent.name)
        return KeptFile(name, is_new=True)

    def drop_file(self, token: object, kept: KeptFile) -> None:
        """Take a file that turned out to be of no use out again, unless it was there before."""
        if kept.is_new:
            (self.files(token) / kept.name).unlink(missing_ok=True)

    def trim_results(self, token: object) -> None:
        """Remove results, the oldest first, until the visitor keeps to a share of the disk. What was published stays with them."""
        with self.locked(token) as folder:
            held = measure_bytes(folder)
            for path in sorted(self.results(token).iterdir(), key=_modified_at):
                if held <= self.max_visitor_bytes:
                    return
                held -= path.stat().st_size
                path.unlink()

    def save(self, token: object, session: EditSession) -> None:
        """Write the session; it is whole on disk or not there at all."""
        folder = self.folder(token)
        text = json.dumps({"text": session.text, "past": session.past, "future": session.future})
        part = folder / f".{secrets.token_hex(8)}.part"
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / "session.json")
        finally:
            part.unlink(missing_ok=True)
        self._touch(folder.name)

    def load(self, token: object) -> EditSession:
        """The session as last saved, or a new one."""
        path = self.folder(token) / "session.json"
        if not path.exists():
            return EditSession()
        saved = json.loads(path.read_text(encoding="utf-8"))
        past, future = ([Patch(*patch) for patch in saved[name]] for name in ("past", "future"))
        return EditSession(saved["text"], tuple(past), tuple(future))

    # -- housekeeping -----------------------------------------------------------------------------------------------------------

    def sweep(self) -> list[str]:
        """Remove what is too old or, the longest unused first, too much; returns the names removed.

        Only folders that carry a token's name are touched, and none that is in use.
        """
        now, removed = self._clock(), []
        entries = sorted((path.stat().st_mtime, path) for path in self._folders())
        sizes = {path: measure_bytes(path) for _, path in entries}
        total = sum(sizes.values())
        for used_at, path in entries:
            too_old = now - used_at > self.time_to_live_s
            if (too_old or total > self.max_bytes) and self._remove(path):
                total -= sizes[path]
                removed.append(path.name)
        return removed

    def _folders(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            return [Path(entry.path) for entry in entries if is_token(entry.name) and entry.is_dir(follow_symlinks=False)]
        return []

    def _remove(self, folder: Path) -> bool:
        with self._guard:
            if self._in_use[folder.name] > 0:
                return False
            self._locks.pop(folder.name, None)
            self._unwanted.discard(folder.name)
            shutil.rmtree(folder, ignore_errors=True)
        for tell in self._told:
            tell(folder.name)
        return True

    def _touch(self, token: str) -> None:
        now = self._clock()
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.root / token, (now, now))


def _next_name(name: str) -> str:
    """``cup.png`` → ``cup-2.png`` → ``cup-3.png``."""
    stem, suffix = os.path.splitext(name)
    found = re.fullmatch(r"(.*)-(\d{1,6})", stem, re.DOTALL)
    return f"{found[1]}-{int(found[2]) + 1}{suffix}" if found else f"{stem}-2{suffix}"


def remove_unused(folder: Path, max_age_s: float, now_s: float, max_bytes: float = math.inf) -> None:
    """Remove every folder in ``folder`` that has not changed for ``max_age_s``, and the oldest others while all hold more than
    ``max_bytes``: what was uploaded or served, and nobody fetches any more. Files between them go by their age alone."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        found = sorted((Path(each.path) for each in entries), key=_modified_at)
        folders = [path for path in found if path.is_dir() and not path.is_symlink()]
        sizes = {path: measure_bytes(path) for path in folders}
        total = sum(sizes.values())
        for path in folders:
            if now_s - _modified_at(path) > max_age_s or total > max_bytes:
                total -= sizes[path]
                shutil.rmtree(path, ignore_errors=True)
        for path in found:
            if path not in sizes and now_s - _modified_at(path) > max_age_s:
                path.unlink(missing_ok=True)


def _modified_at(path: Path) -> float:
    """When a file or folder last changed, seconds since the epoch; long ago for one that is gone."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def keep_house(store: WorkStore, served: Path, period_s: float, max_served_bytes: float = math.inf) -> threading.Thread:
    """Sweep the visitors' folders, and what they uploaded and was served to them (at most ``max_served_bytes``), every
    ``period_s``, in a daemon thread that is returned."""

    def work() -> None:
        while True:
            try:
                store.sweep()
                remove_unused(served, store.time_to_live_s, time.time(), max_served_bytes)
            except OSError:
                log.exception("housekeeping failed; it is tried again later")
            time.sleep(period_s)

    thread = threading.Thread(target=work, name="keep-house", daemon=True)
    thread.start()
    return thread


def measure_bytes(folder: Path) -> int:
    """How many bytes the files below a folder hold; files that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
