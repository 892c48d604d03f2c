"""The canvas's host over what the page keeps anyway: visitors' folders and sessions, opened clips and cut-outs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.matting import NothingFound
from pipeline.project import safe_join
from pipeline.treatment import Treatment

from .. import session as steps
from ..references import take_image
from .exchange import Work
from .scene import CutOut, Picture

if TYPE_CHECKING:
    from ..session import EditSession
    from ..storage import WorkStore
    from ..workbench import Workbench

NOTHING_FOUND = "{name}: no object stands out; in the Reference panel click on it, paint it, or take the whole picture."
CHANGED = "The project was changed elsewhere meanwhile; look at it again and repeat the edit."


class StoredWork:
    """Reads and writes visitors' sessions in a ``WorkStore``; one at a time for each visitor, saved before it is answered."""

    def __init__(self, store: WorkStore, workbench: Workbench) -> None:
        self._store, self._workbench = store, workbench

    def read(self, token: object) -> Work:
        return self.work_of(token, self._store.load(token))

    def write(self, token: object, before: Mapping[str, Any], after: Mapping[str, Any]) -> Work:
        def step(session: EditSession) -> EditSession:
            if session.document != before:
                raise UserError(CHANGED)
            return steps.open_document(session, after)

        return self._stepped(token, step)

    def undo(self, token: object) -> Work:
        return self._stepped(token, steps.undo)

    def redo(self, token: object) -> Work:
        return self._stepped(token, steps.redo)

    def take_image(self, token: object, source: Path, layer: int, reference: int, role: str) -> None:
        take_image(self._store, self._workbench, token, source, layer, reference, role)  # type: ignore[arg-type]

    def keep_file(self, token: object, source: Path, check: Callable[[Path], object]) -> str:
        with self._store.using(token):
            added = self._store.add_file(token, source)
            try:
                check(self._store.files(token) / added.name)
            except UserError:
                self._store.drop_file(token, added)
                raise
            return added.name

    def _stepped(self, token: object, step: Callable[[EditSession], EditSession]) -> Work:
        with self._store.locked(token):
            session = step(self._store.load(token))
            self._store.save(token, session)
        return self.work_of(token, session)

    def work_of(self, token: object, session: EditSession) -> Work:
        """A session, which need not be saved yet, as the canvas sees it. Raises ``UserError`` when a file of it is missing."""
        folder, document = self._store.files(token), session.document
        work = Work(
            document=document,
            can_undo=bool(session.past),
            can_redo=bool(session.future),
            clip=None,
            frames=None,
            find_cutout=lambda reference: self._cut_out(folder, reference),
            find_picture=lambda reference: self._picture(folder, reference),
            find_file=lambda name: safe_join(folder, name, where="mask"),
        )
        if not document.get("clip"):
            return work
        opened = self._workbench.open_clip(safe_join(folder, document["clip"]["path"], where="clip"))
        return replace(work, clip=opened.clip, frames=opened.frames)

    def _picture(self, folder: Path, reference: Mapping[str, Any]) -> Picture:
        path = safe_join(folder, reference["path"], where="reference")
        return Picture(self._workbench.picture(path), _digest([_state(path)]))

    def _cut_out(self, folder: Path, reference: Mapping[str, Any]) -> CutOut:
        path = safe_join(folder, reference["path"], where="reference")
        treatment = read_treatment(reference.get("mask") or {}, lambda name: safe_join(folder, name, where="mask"))
        parts = [_state(path), None if treatment.mask_path is None else _state(treatment.mask_path)]
        try:
            made = self._workbench.cut_out(path, treatment)
        except NothingFound:
            raise UserError(NOTHING_FOUND.format(name=path.name)) from None
        return CutOut(made, _digest([*parts, treatment.clicks, treatment.edit, treatment.grow_px]))


def read_treatment(mask: Mapping[str, Any], find: Callable[[str], Path]) -> Treatment:
    """How a checked document says that a picture is cut out. ``find`` gives the path of a file that it names."""
    edit = (mask.get("edits") or {}).get("0")
    clicks = ((mask.get("prompts") or {}).get("0") or {}).get("clicks") or []
    return Treatment(
        mask_path=None if mask.get("path") is None or edit is not None else find(mask["path"]),
        clicks=tuple((float(x), float(y), int(is_foreground)) for x, y, is_foreground in clicks),
        edit=None if edit is None else (int(edit["size"][0]), int(edit["size"][1]), str(edit["counts"])),
        grow_px=float(mask.get("grow_px", 0)),
    )


def _state(path: Path) -> list[Any]:
    """A file as it is now."""
    found = path.stat()
    return [str(path), found.st_mtime_ns, found.st_size]


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
