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
from pipeline.types import Clip, Reference

if TYPE_CHECKING:
    from pipeline.cache import ArtifactCache
    from pipeline.media import FrameStore, MediaLimits

Value = TypeVar("Value")

MAX_OPEN_CLIPS = 8
FRAME_STORE_BYTES = 96 * 2**20
MAX_CUTOUTS = 16
CUTOUT_BYTES = 768 * 2**20
"""What all kept cut-outs may weigh together; one of the largest picture that is read weighs 350 MB."""


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
    """Opens what documents name, for all visitors of this process. ``limits`` bounds clips, ``artifacts`` keeps cut-outs."""

    def __init__(self, limits: MediaLimits, artifacts: ArtifactCache) -> None:
        self.limits, self.artifacts = limits, artifacts
        self._clips: Shelf[OpenClip] = Shelf(MAX_OPEN_CLIPS, lambda opened: opened.frames.close())
        self._cutouts: Shelf[Reference] = Shelf(MAX_CUTOUTS, max_bytes=CUTOUT_BYTES, weigh=_measure_cutout)
        self._cutting = threading.Lock()

    def open_clip(self, path: Path) -> OpenClip:
        """The clip in a file. Raises ``UserError`` when it is no clip that can be used."""
        return self._clips.fetch(_identity(path), lambda: self._read_clip(path))

    def cut_out(self, path: Path, mask_path: Path | None = None, grow_px: float = 0) -> Reference:
        """The thing in a picture, without named points; ``mask_path`` is its mask, grown by ``grow_px``. Raises ``UserError``."""
        key = _identity(path), None if mask_path is None else _identity(mask_path), grow_px
        return self._cutouts.fetch(key, lambda: self._cut_out(path, mask_path, grow_px))

    def _read_clip(self, path: Path) -> OpenClip:
        from pipeline.media import FrameStore, probe_clip

        clip = probe_clip(path, self.limits)
        return OpenClip(clip, FrameStore(clip, max_bytes=FRAME_STORE_BYTES))

    def _cut_out(self, path: Path, mask_path: Path | None, grow_px: float) -> Reference:
        from pipeline.images import read_image
        from pipeline.masks import grow_mask, image_mask
        from pipeline.matting import cut_out

        with self._cutting:  # a large picture takes gigabytes for a moment: never two at once, whoever asks
            image = read_image(path)
            mask = None if mask_path is None else grow_mask(image_mask(mask_path, image.rgb.shape[:2]), grow_px)
            rgb, alpha, note = cut_out(image.rgb, image.alpha, mask=mask, cache=self.artifacts)
        return Reference(rgb, alpha, {}, note)


def _measure_cutout(reference: Reference) -> int:
    return reference.image.nbytes + reference.alpha.nbytes


def _identity(path: Path) -> tuple[str, int, int]:
    """A file as it is now: a new one under the same name is another."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing; add it together with the project.") from None
    return str(path), state.st_mtime_ns, state.st_size
