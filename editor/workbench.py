"""What the page derives from a document: opened clips, cut-outs. All of it can be rebuilt, so all of it is bounded."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pipeline.errors import UserError
from pipeline.types import Clip, InsertionRequest, Reference

if TYPE_CHECKING:
    from pipeline.cache import ArtifactCache
    from pipeline.media import FrameStore, MediaLimits
    from pipeline.project import Project
    from pipeline.resolve import Segmenters
    from pipeline.treatment import Treatment
    from pipeline.types import Array

Value = TypeVar("Value")

MAX_OPEN_CLIPS = 8
FRAME_STORE_BYTES = 96 * 2**20
MAX_CUTOUTS = 16
CUTOUT_BYTES = 768 * 2**20
"""What all kept cut-outs may weigh together; one of the largest picture that is taken weighs 170 MB."""

MAX_PICTURE_PIXELS = 24_000_000
"""The largest picture that the page takes: cutting one out takes about 30 bytes a pixel for a moment."""

MAX_PICTURES = 8
PICTURE_BYTES = 192 * 2**20


class Shelf(Generic[Value]):
    """At most ``capacity`` values by key that weigh at most ``max_bytes`` together (the newest is always kept), the longest unused
    dropped first. Thread-safe; ``weigh`` tells a value's bytes."""

    def __init__(
        self,
        capacity: int,
        drop: Callable[[Value], object] = lambda value: None,
        max_bytes: float = math.inf,
        weigh: Callable[[Value], int] = lambda value: 0,
    ) -> None:
        self._capacity, self._drop = capacity, drop
        self._max_bytes, self._weigh = max_bytes, weigh
        self._guard = threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def fetch(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value under ``key``, made now if it is not there."""
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()
        with self._guard:
            kept = self._values.setdefault(key, made)
            surplus = self._pop_surplus()
        for value in (*surplus, *(() if kept is made else (made,))):
            self._drop(value)
        return kept

    def _pop_surplus(self) -> list[Value]:
        """Take out what is too much, the longest unused first; the guard is held."""
        num_bytes, surplus = sum(map(self._weigh, self._values.values())), []
        while len(self._values) > 1 and (len(self._values) > self._capacity or num_bytes > self._max_bytes):
            value = self._values.popitem(last=False)[1]
            num_bytes -= self._weigh(value)
            surplus.append(value)
        return surplus


@dataclass(frozen=True, eq=False, slots=True)
class OpenClip:
    """A checked clip and its frames at random access."""

    clip: Clip
    frames: FrameStore


class Workbench:
    """Opens what documents name, for all visitors of this process. ``limits`` bounds clips, ``artifacts`` keeps cut-outs,
    ``segmenters`` make masks from clicks (None: nobody does)."""

    def __init__(self, limits: MediaLimits, artifacts: ArtifactCache, segmenters: Segmenters | None = None) -> None:
        self.limits, self.artifacts, self.segmenters = limits, artifacts, segmenters
        self._clips: Shelf[OpenClip] = Shelf(MAX_OPEN_CLIPS, lambda opened: opened.frames.close())
        self._cutouts: Shelf[Reference | UserError] = Shelf(MAX_CUTOUTS, max_bytes=CUTOUT_BYTES, weigh=_measure_cutout)
        self._pictures: Shelf[Array] = Shelf(MAX_PICTURES, max_bytes=PICTURE_BYTES, weigh=lambda rgb: rgb.nbytes)
        self._cutting = threading.Lock()

    def build_request(self, project: Project, folder: Path) -> tuple[InsertionRequest, list[str]]:
        """The request of a project whose files lie in ``folder``, and warnings for the person. Raises ``UserError``."""
        from pipeline.project import build_request
        from pipeline.resolve import choose_segmenter

        request, warnings = build_request(project, folder, limits=self.limits, cache=self.artifacts)
        return (request if self.segmenters is None else choose_segmenter(request, self.segmenters)), warnings

    def open_clip(self, path: Path) -> OpenClip:
        """The clip in a file. Raises ``UserError`` when it is no clip that can be used."""
        return self._clips.fetch(_identity(path), lambda: self._read_clip(path))

    def cut_out(self, path: Path, treatment: Treatment | None = None) -> Reference:
        """The thing in a picture, without named points, cut out as the project says. Raises ``UserError``, ``NothingFound`` where
        it must be said by hand what the thing is (looked for once)."""
        from pipeline.treatment import AUTOMATIC

        chosen = treatment or AUTOMATIC
        key = _identity(path), None if chosen.mask_path is None else _identity(chosen.mask_path), chosen
        found = self._cutouts.fetch(key, lambda: self._cut_out(path, chosen))
        if isinstance(found, UserError):
            raise found
        return found

    def picture(self, path: Path) -> Array:
        """A picture as it came, upright, u8[H,W,3]. Raises ``UserError``."""
        from pipeline.images import read_image

        return self._pictures.fetch(_identity(path), lambda: read_image(path, MAX_PICTURE_PIXELS).rgb)

    def _read_clip(self, path: Path) -> OpenClip:
        from pipeline.media import FrameStore, probe_clip

        clip = probe_clip(path, self.limits)
        return OpenClip(clip, FrameStore(clip, max_bytes=FRAME_STORE_BYTES))

    def _cut_out(self, path: Path, treatment: Treatment) -> Reference | UserError:
        from pipeline.images import read_image
        from pipeline.matting import NothingFound
        from pipeline.treatment import treat_picture

        with self._cutting:  # a large picture takes hundreds of megabytes for a moment: never two at once, whoever asks
            try:
                rgb, alpha, note = treat_picture(read_image(path, MAX_PICTURE_PIXELS), treatment, self.artifacts)
            except NothingFound as fault:
                return NothingFound(str(fault))
        return Reference(rgb, alpha, {}, note)


def _measure_cutout(reference: Reference | UserError) -> int:
    return 0 if isinstance(reference, UserError) else reference.image.nbytes + reference.alpha.nbytes


def _identity(path: Path) -> tuple[str, int, int]:
    """A file as it is now: a new one under the same name is another."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing; add it together with the project.") from None
    return str(path), state.st_mtime_ns, state.st_size
