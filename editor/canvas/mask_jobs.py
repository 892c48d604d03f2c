"""Tracks: a thing carried through the clip in a thread of its own, one at a time for each visitor; masks appear as they are
made."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.threads import start_thread
from pipeline.types import Prompt

from .mask_gestures import find_mask
from .mask_shelf import Marks, MaskShelf, Slot, read_marks

if TYPE_CHECKING:
    from pipeline.segmentation.tracks import MaskTracks

log = logging.getLogger(__name__)

MAX_JOBS = 2
"""Tracks that are made at once in this process; others wait."""

SILENCE_S = 180.0
"""A track whose visitor has not asked for so long is stopped; what was made is kept."""

JOB_FRAME_BYTES = 64 << 20
NEUTRAL = "Something went wrong on the server; it has been noted. Your work is kept, so try again."


@dataclass(eq=False, slots=True)
class Job:
    """One track being made."""

    owner: str
    marks: Marks
    start: int
    stop: int
    number: int
    num_made: int = 0
    frame: int = 0
    state: str = "waiting"
    note: str = ""
    is_stopped: threading.Event = field(default_factory=threading.Event)
    asked_s: float = field(default_factory=time.monotonic)


class TrackRoom:
    """Makes tracks for all visitors of this process and puts their masks onto ``shelf``. Thread-safe."""

    def __init__(self, shelf: MaskShelf) -> None:
        self._shelf = shelf
        self._guard = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._numbers = itertools.count(1)
        self._turns = threading.Semaphore(MAX_JOBS)

    def start(self, slot: Slot, tracks: MaskTracks, span: tuple[int, int], frame: int) -> None:
        """Track a slot's thing through the half-open ``span``; an earlier track of the same visitor is stopped."""
        if slot.record is None:
            raise ValueError("a slot without prompts cannot be tracked")
        self.stop(slot.owner)
        job = Job(slot.owner, slot.record.marks, *span, next(self._numbers), frame=frame)
        with self._guard:
            self._jobs[slot.owner] = job
        start_thread(lambda: self._track(job, slot, tracks), "canvas-track", job.is_stopped.set)

    def stop(self, owner: str) -> None:
        """Stop a visitor's track, if there is one; what was made is kept."""
        job = self._jobs.get(owner)
        if job is not None:
            job.is_stopped.set()

    def describe(self, owner: str, document: Mapping[str, Any]) -> dict[str, Any] | None:
        """The visitor's track, if there is one, or the end that the last one came to. One whose clicks were changed is stopped."""
        job = self._jobs.get(owner)
        if job is None:
            return None
        job.asked_s = time.monotonic()
        layers = document["layers"]
        places = [
            [index, name]
            for index, layer in enumerate(layers)
            for name in ("target", *range(len(layer.get("holdouts") or [])))
            if (mask := find_mask(layer, name)) is not None and read_marks(mask.get("prompts", {})) == job.marks
        ]
        if not places:
            job.is_stopped.set()
        return {
            "number": job.number,
            "place": places[0] if places else None,
            "state": "stopping" if job.is_stopped.is_set() and job.state != "ended" else job.state,
            "made": job.num_made,
            "total": job.stop - job.start,
            "frame": job.frame,
            "note": job.note,
        }

    def forget(self, owner: str) -> None:
        """Stop a visitor's track and forget it."""
        self.stop(owner)
        with self._guard:
            self._jobs.pop(owner, None)

    def close(self) -> None:
        """Stop all tracks."""
        for owner in list(self._jobs):
            self.stop(owner)

    def _track(self, job: Job, slot: Slot, tracks: MaskTracks) -> None:
        """The work of a job's thread."""
        try:
            with self._turn(job) as may_run:
                if may_run:
                    job.state = "running"
                    self._run(job, slot, tracks)
            job.note = job.note or self._outcome(job, slot)
        except UserError as error:
            kept = f" The {job.num_made} frames that were tracked are kept." if job.num_made else ""
            job.note = f"{error}{kept}"
        except Exception:
            log.exception("a track failed")
            job.note = NEUTRAL
        finally:
            job.state = "ended"
            self._shelf.trim(job.owner)

    @contextlib.contextmanager
    def _turn(self, job: Job) -> Iterator[bool]:
        """Wait until a track may run; False when it was stopped before."""
        while not self._turns.acquire(timeout=0.1):
            if job.is_stopped.is_set():
                yield False
                return
        try:
            yield not job.is_stopped.is_set()
        finally:
            self._turns.release()

    def _run(self, job: Job, slot: Slot, tracks: MaskTracks) -> None:
        from pipeline.media import FrameStore

        record = slot.record
        assert record is not None
        with (
            contextlib.closing(FrameStore(slot.clip, max_bytes=JOB_FRAME_BYTES)) as frames,
            contextlib.closing(tracks.track(frames, slot.prompts, job.start, job.stop)) as found,
        ):
            for frame, mask in found:
                made = record.made.get(frame)
                if made is None or made.signature != slot.signatures[frame]:
                    self._shelf.keep(record, frame, slot.signatures[frame], mask)
                job.num_made, job.frame = job.num_made + 1, frame
                if time.monotonic() - job.asked_s > SILENCE_S:
                    job.is_stopped.set()
                if job.is_stopped.is_set():
                    return

    def _outcome(self, job: Job, slot: Slot) -> str:
        """What is to be said about a track that has ended; empty where there is nothing."""
        from pipeline.cuts import name_unmarked_shots
        from pipeline.media import FrameStore
        from pipeline.segmentation.tracks import list_doubts

        if job.is_stopped.is_set():
            return f"Stopped; the {job.num_made} frames that were tracked are kept." if job.num_made else "Stopped."
        made = slot.record.made if slot.record is not None else {}
        edits = slot.mask.get("edits", {})
        span = [frame for frame in range(job.start, job.stop) if frame in made and str(frame) not in edits]
        doubts = list_doubts({frame: made[frame].found for frame in span})
        with contextlib.closing(FrameStore(slot.clip, max_bytes=JOB_FRAME_BYTES)) as frames:
            cuts = name_unmarked_shots(frames, {*slot.prompts, *map(int, edits)}, job.start, job.stop)
        return " ".join((*cuts, *doubts))


def track_range(
    prompts: Mapping[int, Prompt], frame: int, direction: str, span: Sequence[int] | None, num_frames: int
) -> tuple[int, int]:
    """The half-open frames that a track makes: on from the prompt at or before ``frame``, back from that at or after it, or both;
    within the project's range unless ``frame`` lies outside it."""
    start, stop = (int(span[0]), int(span[1])) if span else (0, num_frames)
    if not start <= frame < stop:
        start, stop = 0, num_frames
    if direction == "forward":
        return max((each for each in prompts if each <= frame), default=min(prompts)), max(stop, min(prompts) + 1)
    if direction == "backward":
        return min(start, max(prompts)), min((each for each in prompts if each >= frame), default=max(prompts)) + 1
    return start, stop
