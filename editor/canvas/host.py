"""The canvas's host over what the page keeps anyway: visitors' folders and sessions, opened clips and cut-outs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.project import safe_join

from .. import session as steps
from .exchange import Work
from .scene import CutOut

if TYPE_CHECKING:
    from ..session import EditSession
    from ..storage import WorkStore
    from ..workbench import Workbench

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
        )
        if not document.get("clip"):
            return work
        opened = self._workbench.open_clip(safe_join(folder, document["clip"]["path"], where="clip"))
        return replace(work, clip=opened.clip, frames=opened.frames)

    def _cut_out(self, folder: Path, reference: Mapping[str, Any]) -> CutOut:
        path = safe_join(folder, reference["path"], where="reference")
        mask = reference.get("mask") or {}
        mask_path = None if mask.get("path") is None else safe_join(folder, mask["path"], where="mask")
        made = self._workbench.cut_out(path, mask_path, float(mask.get("grow_px", 0)))
        parts = [[str(each), each.stat().st_mtime_ns, each.stat().st_size] for each in (path, mask_path) if each is not None]
        digest = hashlib.sha256(json.dumps([parts, mask.get("grow_px", 0)]).encode()).hexdigest()[:24]
        return CutOut(made, digest)
