"""What is known of the masks of visitors' things: which clicks they come from, whether they are up to date, what they look like.

A mask is kept with the *signature* of what it depends on; one whose signature is no longer that of its frame is stale. The set of
all *marks* (clicks and boxes) tells one thing from another, whatever layer it is in: a set that shares marks with an earlier one
inherits its masks, so that those of before a correction stay in sight.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.masks import decode_rle, grow_mask, parse_coco_mask
from pipeline.types import Array, Click, Clip, Prompt

if TYPE_CHECKING:
    from pipeline.segmentation.tracks import TrackedMask

MAX_KEPT_BYTES = 256 << 20
"""What all masks in memory may weigh; the longest unused go first, and can be made again."""

MAX_RECORDS = 24
"""Sets of marks that are remembered for one visitor."""

MADE, STALE, UNSURE, EDITED, EMPTY, PROMPTED = 1, 2, 4, 8, 16, 32
"""Flags of a frame: it has a mask; from older clicks; one to look at; painted by hand; nothing is seen; it has clicks."""

Marks = frozenset[tuple[Any, ...]]
"""All clicks and boxes of a mask, with their frames: what tells one thing from another, whatever layer it is in."""

Signature = tuple[Any, ...]
"""What a frame's mask depends on: the segmenter, and the prompts of the neighbouring prompted frames."""


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    signature: Signature
    found: TrackedMask
    serial: int

    @property
    def num_bytes(self) -> int:
        return 200 + (0 if self.found.runs is None else self.found.runs.nbytes)


@dataclass(eq=False, slots=True)
class Record:
    """The masks made for one set of marks; those of a set that it grew out of are in it too, as stale ones. ``faults`` are the
    frames that failed: for which signature, why, and when (``time.monotonic``)."""

    marks: Marks
    made: dict[int, Made] = field(default_factory=dict)
    faults: dict[int, tuple[Signature, str, float]] = field(default_factory=dict)
    searched: Signature | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Slot:
    """One mask of a document made ready to be shown. ``prompts`` in pixels; ``record`` is None for a mask without prompts."""

    owner: str
    clip: Clip
    mask: Mapping[str, Any]
    prompts: Mapping[int, Prompt]
    record: Record | None
    signatures: Sequence[Signature]
    file: Any
    """The ``MaskTrack`` of the file that the mask comes from, or None."""


class MaskShelf:
    """The masks made for all visitors, bounded in bytes, the longest unused dropped first. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._records: OrderedDict[tuple[str, str, Marks], Record] = OrderedDict()
        self._serials = itertools.count(secrets.randbits(28))

    def __len__(self) -> int:
        return len(self._records)

    def find(self, owner: str, clip: Clip, marks: Marks) -> Record:
        """The record of these marks. A new one begins with the masks of the one that shares most marks with it."""
        key = owner, clip.sha256, marks
        with self._guard:
            found = self._records.get(key)
            if found is None:
                kin = [each for (who, what, _), each in self._records.items() if (who, what) == key[:2]]
                nearest = max(reversed(kin), key=lambda each: len(each.marks & marks), default=None)
                made = dict(nearest.made) if nearest is not None and nearest.marks & marks else {}
                found = self._records[key] = Record(marks, made)
                self._trim(owner)
            self._records.move_to_end(key)
            return found

    def keep(self, record: Record, frame: int, signature: Signature, found: TrackedMask) -> None:
        """Take a new mask of a frame in."""
        with self._guard:
            record.made[frame] = Made(signature, found, next(self._serials))
            record.faults.pop(frame, None)

    def trim(self, owner: str) -> None:
        """Forget what is too much, the longest unused first."""
        with self._guard:
            self._trim(owner)

    def forget(self, owner: str) -> None:
        """Drop everything that was made for a visitor."""
        with self._guard:
            for key in [key for key in self._records if key[0] == owner]:
                del self._records[key]

    def _trim(self, owner: str) -> None:
        """``trim``; the guard is held."""
        own = [key for key in self._records if key[0] == owner]
        for key in own[:-MAX_RECORDS]:
            del self._records[key]
        while len(self._records) > 1 and self._count_bytes() > MAX_KEPT_BYTES:
            self._records.popitem(last=False)

    def _count_bytes(self) -> int:
        counted = {made.serial: made.num_bytes for record in self._records.values() for made in list(record.made.values())}
        return sum(counted.values())


# -- looking at a mask -------------------------------------------------------------------------------------------------------------


def read_states(slot: Slot) -> tuple[Array, Array]:
    """For every frame of the clip: a number u32 that changes with its mask (0: none), and flags u8."""
    from pipeline.segmentation import LOW_CONFIDENCE

    count = slot.clip.num_frames
    versions, flags = np.zeros(count, np.uint32), np.zeros(count, np.uint8)
    salt = zlib.crc32(repr(float(slot.mask.get("grow_px", 0))).encode())
    if slot.file is not None:
        digest = zlib.crc32(repr(slot.file[0]).encode())
        for frame, runs in enumerate(slot.file[1].runs[:count]):
            versions[frame], flags[frame] = _mixed(digest + frame, salt), MADE | (EMPTY if runs is None else 0)
    for frame, made in list(slot.record.made.items()) if slot.record is not None else ():
        is_stale = made.signature != slot.signatures[frame]
        versions[frame] = _mixed(2 * made.serial + is_stale, salt)
        flags[frame] = (
            MADE
            | (STALE if is_stale else 0)
            | (UNSURE if made.found.confidence < LOW_CONFIDENCE else 0)
            | (EMPTY if made.found.runs is None else 0)
        )
    for frame in slot.prompts:
        flags[frame] |= PROMPTED
    for name, edit in slot.mask.get("edits", {}).items():
        if int(name) < count:
            versions[int(name)] = _mixed(zlib.crc32(edit["counts"].encode()), salt)
            flags[int(name)] = (flags[int(name)] & PROMPTED) | MADE | EDITED
    return versions, flags


def plain_mask(slot: Slot, frame: int) -> Array | None:
    """The mask bool[H,W] of a frame before it is grown; None where there is none."""
    hw = slot.clip.hw
    edit = slot.mask.get("edits", {}).get(str(frame))
    if edit is not None:
        try:
            return decode_rle(parse_coco_mask(edit, hw), hw)
        except ValueError as error:
            raise UserError(f"The mask painted at frame {frame} cannot be used: {error}.") from None
    if slot.file is not None and frame < len(slot.file[1].runs):
        runs = slot.file[1].runs[frame]
    else:
        made = None if slot.record is None else slot.record.made.get(frame)
        if made is None:
            return None
        runs = made.found.runs
    return np.zeros(hw, bool) if runs is None else decode_rle(runs, hw)


def shown_mask(slot: Slot, frame: int) -> Array:
    """The mask bool[H,W] of a frame as it is shown and exported: edits first, then grown."""
    plain = plain_mask(slot, frame)
    return np.zeros(slot.clip.hw, bool) if plain is None else grow_mask(plain, float(slot.mask.get("grow_px", 0)))


def _mixed(number: int, salt: int) -> int:
    """A u32 that is never 0 and differs whenever number or salt does, as far as 32 bits can tell."""
    return (((number * 2654435761) ^ salt) & 0xFFFFFFFE) | 1


# -- from the document ------------------------------------------------------------------------------------------------------------


def read_prompts(prompts: Mapping[str, Mapping[str, Any]], clip: Clip) -> dict[int, Prompt]:
    """A mask's prompts by frame, in pixels of the clip; frames behind its end, or that mark nothing, are left out."""
    found = {}
    for name, prompt in prompts.items():
        clicks = tuple(Click(x * clip.width, y * clip.height, bool(kind)) for x, y, kind in prompt.get("clicks", []))
        box = prompt.get("box")
        if int(name) < clip.num_frames and (box or any(click.is_foreground for click in clicks)):
            sides = (clip.width, clip.height) * 2
            box_px = tuple(value * side for value, side in zip(box, sides, strict=True)) if box else None
            found[int(name)] = Prompt(clicks, box_px)
    return dict(sorted(found.items()))


def read_marks(prompts: Mapping[str, Mapping[str, Any]]) -> Marks:
    """All clicks and boxes of a mask with their frames."""
    clicks = {(int(name), *click) for name, prompt in prompts.items() for click in prompt.get("clicks", [])}
    boxes = {(int(name), *prompt["box"]) for name, prompt in prompts.items() if prompt.get("box")}
    return frozenset(clicks | boxes)


def list_signatures(prompts: Mapping[int, Prompt], num_frames: int, segmenter_key: str) -> list[Signature]:
    """For every frame, what its mask depends on; equal signatures mean equal masks."""
    from pipeline.segmentation.tracks import prompt_neighbours

    keys = {frame: (frame, prompt.clicks, prompt.box_px) for frame, prompt in prompts.items()}
    found: list[Signature] = []
    shared: dict[tuple[int | None, int | None], Signature] = {}
    for frame in range(num_frames):
        before, after = prompt_neighbours(keys, frame)
        if (before, after) not in shared:
            ends = (None if before is None else keys[before], None if after is None else keys[after])
            shared[before, after] = (segmenter_key, *ends)
        found.append(shared[before, after])
    return found
