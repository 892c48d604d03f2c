"""Pictures and masks that a person brings for a layer's thing, taken into the visitor's folder and into the document."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.errors import UserError

from . import session as steps
from .places import place_points
from .session import EditSession
from .storage import WorkStore
from .workbench import MAX_PICTURE_PIXELS, Workbench

if TYPE_CHECKING:
    from pipeline.types import Reference

Role = Literal["replace", "add", "mask"]
"""What an image file is to be: the picture in place of one, one more picture, or the mask of one."""


def take_image(
    store: WorkStore, workbench: Workbench, token: object, source: Path, layer: int, reference: int = 0, role: Role = "replace"
) -> tuple[EditSession, int]:
    """Take the image ``source`` in for a layer (the last one if there are fewer); returns the session, saved, and that layer.

    A picture out of which nothing can be cut by itself is kept: the person says then what the object is. Paths that were drawn
    before the picture came get their points on it. Raises ``UserError`` for a file that is no image or too large; it leaves
    nothing behind.
    """
    with store.using(token):
        added = store.add_file(token, source)
        path = store.files(token) / added.name
        try:
            thing = None if role == "mask" else _thing(workbench, path)  # takes a while: other edits need not wait
            with store.locked(token):
                session = store.load(token)
                index = min(layer, len(session.document["layers"]) - 1)
                if thing is None:
                    session = _with_mask(workbench, session, path, index, reference)
                else:
                    session = _with_picture(session, path, thing, index, reference, is_more=role == "add")
                store.save(token, session)
        except UserError:
            store.drop_file(token, added)
            raise
    return session, index


def _thing(workbench: Workbench, path: Path) -> Reference:
    """The thing in a picture; all of the picture where nothing stands out in it."""
    from pipeline.matting import NothingFound
    from pipeline.types import Reference

    with contextlib.suppress(NothingFound):
        return workbench.cut_out(path)
    rgb = workbench.picture(path)
    return Reference(rgb, np.ones(rgb.shape[:2], np.float32))


def _with_picture(session: EditSession, path: Path, thing: Reference, layer: int, reference: int, is_more: bool) -> EditSession:
    from pipeline.media import file_sha256

    found = session.document["layers"][layer]
    if found["kind"] == "remove":
        raise UserError("A layer that removes something needs no picture; choose another layer.")
    index = len(found.get("references") or []) if is_more else reference
    points = place_points(thing, found) if index == 0 else {}
    return steps.set_reference(session, layer, path.name, file_sha256(path), points, index)


def _with_mask(workbench: Workbench, session: EditSession, path: Path, layer: int, reference: int) -> EditSession:
    """A mask for a picture: it must have its shape and mark something of it."""
    from pipeline.images import check_pixels
    from pipeline.masks import image_mask

    references = session.document["layers"][layer].get("references") or []
    if reference >= len(references):
        raise UserError("Add the picture first, then its mask.")
    check_pixels(path, MAX_PICTURE_PIXELS)
    image_mask(path, workbench.picture(path.parent / references[reference]["path"]).shape[:2])
    return steps.set_reference_mask(session, layer, reference, {"path": path.name})


def check_pictures(document: Mapping[str, Any], folder: Path) -> None:
    """No picture or picture's mask that a document names is larger than the page takes. Raises ``UserError``."""
    from pipeline.images import check_pixels

    for layer in document["layers"]:
        for reference in layer.get("references") or []:
            for name in (reference["path"], (reference.get("mask") or {}).get("path")):
                if name is not None:
                    check_pixels(folder / name, MAX_PICTURE_PIXELS)
