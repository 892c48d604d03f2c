"""From a request to a file: an engine's frames into the writers, with progress, previews and a stop that leaves nothing behind."""

from __future__ import annotations

import contextvars
import dataclasses
import os
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .engines import Engine
from .errors import Cancelled, UserError
from .media import LayerWriter, VideoWriter
from .preflight import check_preview
from .quality import Quality, QualityMeter
from .threads import start_thread
from .types import Array, Clip, Frame, InsertionRequest, Progress

PREVIEW_INTERVAL_S = 0.5
"""At most one preview picture in this time."""

PREVIEW_SIDE_PX = 640
"""The longer side of a preview picture."""

PREVIEW_LIMIT_S = 180
"""How long one previewed frame may take: whoever previews holds up everybody else who wants to."""

_MAX_WAITING = 8
"""Previews are left out while this many reports wait to be read, so that a slow reader costs no memory."""


@dataclass(frozen=True, slots=True)
class RenderSummary:
    """What came of a render. ``segmenter`` names who made masks from prompts, if anybody did; ``digest`` is the request's;
    ``quality`` is there where it was asked for."""

    output: Path
    frames: int
    seconds: float
    engine: str
    segmenter: str | None
    digest: str
    warnings: tuple[str, ...]
    quality: Quality | None = None

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values, keys as the command line prints them; without the quality of every frame."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "quality"}
        return {**values, "output": str(self.output), "seconds": round(self.seconds, 3), "warnings": list(self.warnings)}


def render(
    request: InsertionRequest,
    engine: Engine,
    output_path: Path,
    *,
    lossless: bool = False,
    layer_alpha_path: Path | None = None,
    metadata: Mapping[str, str] | None = None,
    keep: Sequence[Path] = (),
    wants_quality: bool = False,
) -> Generator[Progress, None, RenderSummary]:
    """Render ``request`` to ``output_path`` (``.mp4``; ``.mkv`` if ``lossless``), its layer to ``layer_alpha_path`` (``.mov``).

    A generator: it yields at least once per frame, a preview at most twice a second, and returns the summary. Closing it, at any
    time, stops the work within a frame and leaves no file behind; so does every fault. The engine and the encoders run in their own
    threads, the engine's in the caller's context (where GPUs are lent, it says to whom). ``metadata`` goes into the container;
    ``keep`` are files, besides the clip, that no output may replace; ``wants_quality`` has every frame measured on its way
    (``quality``), which costs a few milliseconds each.

    Raises ``UserError`` when an output cannot be written; what an engine raises, it raises.
    """
    check_outputs(request.clip, output_path, lossless, layer_alpha_path, keep)
    meter = QualityMeter(request) if wants_quality else None
    job = _Job(request, engine, output_path, lossless, layer_alpha_path, dict(metadata or {}), meter)
    context = contextvars.copy_context()
    thread = start_thread(lambda: context.run(job.work), "render", job.is_stopped.set)
    try:
        while (report := job.reports.get()) is not None:
            yield report
    finally:
        job.is_stopped.set()
        thread.join()
    if job.error is not None:
        raise job.error
    assert job.summary is not None
    return job.summary


def preview_frame(request: InsertionRequest, engine: Engine, frame_index: int, limit_s: float = PREVIEW_LIMIT_S) -> Frame:
    """One frame of the result, as a render of the whole range would make it, unless the engine generates frames together: such a
    one makes it alone, and so otherwise.

    Raises ``UserError`` when the memory cannot hold it or the engine takes longer than ``limit_s`` (it notices whenever it tells
    its progress), ``ValueError`` outside the request's range.
    """
    start, stop = request.frame_range
    if not start <= frame_index < stop:
        raise ValueError(f"frame_index must lie in the range {start}..{stop - 1}, got {frame_index}")
    check_preview(request)
    narrowed = dataclasses.replace(request, frame_range=(frame_index, frame_index + 1))
    stop_s = time.monotonic() + limit_s

    def report(progress: Progress) -> None:
        if time.monotonic() > stop_s:
            raise UserError(f"The preview took longer than {limit_s:.0f} s and was stopped; insert a short range instead.")

    with _running(engine.run(narrowed, report, lambda warning: None)) as frames:
        return next(frames)


def check_outputs(
    clip: Clip, output_path: Path, lossless: bool = False, layer_alpha_path: Path | None = None, keep: Sequence[Path] = ()
) -> None:
    """Raise ``UserError`` for an output with the wrong ending, one that is a folder, and one that would replace an input."""
    if lossless and output_path.suffix.lower() != ".mkv":
        raise UserError(f"A lossless result must end in .mkv, and {output_path.name!r} does not; rename it.")
    if not lossless and output_path.suffix.lower() != ".mp4":
        raise UserError(f"The result must end in .mp4 (or .mkv when it is lossless), and {output_path.name!r} does not; rename it.")
    if layer_alpha_path is not None and layer_alpha_path.suffix.lower() != ".mov":
        raise UserError(f"The layer with alpha must end in .mov, and {layer_alpha_path.name!r} does not; rename it.")
    for path in (output_path, layer_alpha_path):
        if path is not None:
            check_replaceable(path, (clip.path, *keep))


def check_replaceable(path: Path, keep: Sequence[Path]) -> None:
    """Raise ``UserError`` if ``path`` is a folder, lies in none, or is one of the files ``keep``, under whatever name; or if the
    system cannot say, because the name is too long or its folder may not be entered."""
    try:
        if not path.absolute().parent.is_dir():
            raise UserError(f"The folder of {path.name!r} does not exist; create it or choose another one.")
        if path.is_dir():
            raise UserError(f"{path.name!r} is a folder; give the result a file name.")
        replaced = [source for source in keep if path.exists() and source.exists() and path.samefile(source)]
    except OSError as error:
        raise UserError(
            f"{_shortened(path.name)!r} cannot be written: {os.strerror(error.errno or 0)}; choose another place."
        ) from error
    if replaced:
        raise UserError(f"The result would replace {replaced[0].name!r}, from which it is made; give it another name.")


def _shortened(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:59]}…"


class _Job:
    """One render, in its own thread. ``reports`` ends with ``None``; then ``summary`` or ``error`` is set."""

    def __init__(
        self,
        request: InsertionRequest,
        engine: Engine,
        output_path: Path,
        lossless: bool,
        layer_alpha_path: Path | None,
        metadata: dict[str, str],
        meter: QualityMeter | None,
    ) -> None:
        self.request, self.engine = request, engine
        self.output_path, self.lossless, self.layer_alpha_path = output_path, lossless, layer_alpha_path
        self.metadata, self.meter = metadata, meter
        self.reports: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self.is_stopped = threading.Event()
        self.summary: RenderSummary | None = None
        self.error: BaseException | None = None
        self._warnings: list[str] = []
        self._next_preview_s = 0.0
        self._has_reported = False

    def work(self) -> None:
        """Run to the end; never raises."""
        try:
            self.summary = self._render()
        except Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that reads the reports
            self.error = error
        finally:
            self.reports.put(None)

    def report(self, progress: Progress) -> None:
        """What the engine calls: passes progress on, with a small preview now and then. Raises ``Cancelled`` once stopped."""
        self._check_stopped()
        self._has_reported = True
        self.reports.put(dataclasses.replace(progress, preview=self._thin_out(progress)))

    def _render(self) -> RenderSummary:
        started_s = time.monotonic()
        with _removed_on_error(self.layer_alpha_path), self._video() as video:
            if self.layer_alpha_path is None:
                self._write_frames([video])
            else:
                with LayerWriter(self.layer_alpha_path, self.request.clip, self.request.frame_range) as layer:
                    self._write_frames([video, layer])
        warnings = tuple(dict.fromkeys((*self._warnings, *video.notes)))
        name, digest = self.request.sampling.name, self.request.digest()
        segmenter = self.request.segmenter.name if self.request.has_prompts else None
        seconds = time.monotonic() - started_s
        quality = None if self.meter is None else self.meter.quality()
        return RenderSummary(self.output_path, self.request.num_frames, seconds, name, segmenter, digest, warnings, quality)

    def _video(self) -> VideoWriter:
        return VideoWriter(self.output_path, self.request.clip, self.request.frame_range, self.lossless, self.metadata)

    def _write_frames(self, writers: Sequence[VideoWriter | LayerWriter]) -> None:
        total = self.request.num_frames
        with _running(self.engine.run(self.request, self.report, self._warnings.append)) as frames:
            for step, frame in enumerate(frames, start=1):
                for writer in writers:
                    writer.write(frame)
                if self.meter is not None:
                    self.meter.see(frame)
                if not self._has_reported:
                    self.report(Progress("rendering", step, total, partial(getattr, frame, "image")))
                self._has_reported = False
                self._check_stopped()
        self.report(Progress("finishing", total, total))

    def _check_stopped(self) -> None:
        if self.is_stopped.is_set():
            raise Cancelled

    def _thin_out(self, progress: Progress) -> Array | None:
        now_s = time.monotonic()
        if progress.preview is None or now_s < self._next_preview_s or self.reports.qsize() >= _MAX_WAITING:
            return None
        self._next_preview_s = now_s + PREVIEW_INTERVAL_S
        picture = progress.picture()
        return None if picture is None else _small(picture)


def _small(picture: Array) -> Array:
    """The picture u8[H,W,3] at most ``PREVIEW_SIDE_PX`` wide and high."""
    import cv2

    height, width = picture.shape[:2]
    scale = PREVIEW_SIDE_PX / max(height, width)
    if scale >= 1:
        return picture.copy()
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


@contextmanager
def _running(frames: Iterator[Frame]) -> Iterator[Iterator[Frame]]:
    """Close an engine's generator whatever happens, so that it stops and releases what it holds."""
    close = getattr(frames, "close", None)
    try:
        yield frames
    finally:
        if close is not None:
            close()


@contextmanager
def _removed_on_error(path: Path | None) -> Iterator[None]:
    """The layer is whole before the picture is: remove it when the picture then fails."""
    before = path.stat().st_mtime_ns if path is not None and path.exists() else None
    try:
        yield
    except BaseException:
        if path is not None and path.exists() and path.stat().st_mtime_ns != before:
            path.unlink()
        raise
