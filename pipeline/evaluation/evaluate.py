"""The benchmark over a folder of clips: every clip with a mask beside it, every engine, one table and one page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..engines import Engine, Report, ignore_progress
from ..errors import UserError
from ..masks import MaskedVideo, read_mask_track
from ..media import probe_clip
from ..processes import gather, is_first, own_share
from ..types import Array, Reference, SamplingConfig
from .encoders import Encoder
from .reinsertion import NUM_FRAMES, Case, prepare_case, score_case
from .report import Result, to_document, to_markdown, write_page, write_rating_page

log = logging.getLogger(__name__)

VIDEO_SIDE_PX = 640
"""The longer side of either half of a side-by-side video."""


def evaluate(
    pairs: list[MaskedVideo],
    engines: dict[str, Engine],
    samplings: dict[str, SamplingConfig],
    output: Path | None = None,
    *,
    num_frames: int = NUM_FRAMES,
    encoders: Sequence[Encoder] = (),
    notes: Sequence[str] = (),
    tell: Callable[[str], None] = log.info,
    report: Report = ignore_progress,
) -> list[Result]:
    """Score every engine on every masked clip of ``pairs``; with an ``output`` folder also write table, page and videos.

    A clip that cannot be used is told and left out. Started as several processes (``torchrun``), each takes its share and the first
    writes. Raises ``UserError`` when nothing can be scored.
    """
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for pair in own_share(pairs):
        try:
            case = read_case(pair, num_frames, report)
        except (UserError, ValueError) as error:
            tell(f"{pair.video.name} is left out: {str(error).rstrip('.')}.")
            continue
        for name, engine in engines.items():
            tell(f"{case.name}: {name}, frames {case.frame_range[0]} to {case.frame_range[1] - 1}")
            results.append(_score(case, name, engine, samplings[name], output, encoders, report))
        if output is not None:
            write_reference(output / _reference_name(case), case.study.reference)
    results = gather(results)
    if not results:
        raise UserError("No clip could be scored; see what was said about each.")
    if output is not None and is_first():
        (output / "table.md").write_text(to_markdown(results, notes), encoding="utf-8")
        document = json.dumps(to_document(results, notes), ensure_ascii=False, indent=1, allow_nan=False)
        (output / "table.json").write_text(document + "\n", encoding="utf-8")
        write_page(output, results, notes)
        write_rating_page(output, results)
    return results


def read_case(pair: MaskedVideo, num_frames: int, report: Report = ignore_progress) -> Case:
    """A clip and its mask as a case. Raises ``UserError`` or ``ValueError`` for one that cannot be used."""
    clip = probe_clip(pair.video)
    return prepare_case(pair.video.stem, clip, read_mask_track(pair.mask, clip), num_frames, report)


def _score(
    case: Case,
    name: str,
    engine: Engine,
    sampling: SamplingConfig,
    output: Path | None,
    encoders: Sequence[Encoder],
    report: Report,
) -> Result:
    video = None if output is None else f"{case.name}-{name}.mp4"
    with ExitStack() as stack:
        see: Callable[[Array, Array], None] = _ignore_pair
        if output is not None and video is not None:
            see = stack.enter_context(SideBySide(output / video, case.clip.fps)).add
        scores = score_case(case, engine, sampling, encoders, see, report)
    reference = None if output is None else _reference_name(case)
    return Result(case.name, name, case.frame_range[1] - case.frame_range[0], scores, video, reference)


def _reference_name(case: Case) -> str:
    return f"{case.name}-reference.png"


def write_reference(path: Path, reference: Reference) -> None:
    """The picture of what is inserted, cut out, at most ``VIDEO_SIDE_PX`` on its longer side."""
    from PIL import Image

    alpha = np.rint(reference.alpha * 255).astype(np.uint8)
    picture = Image.fromarray(np.dstack([reference.image, alpha])).crop(Image.fromarray(alpha).getbbox())
    picture.thumbnail((VIDEO_SIDE_PX, VIDEO_SIDE_PX))
    picture.save(path)


def _ignore_pair(truth: Array, image: Array) -> None:
    """Nobody looks."""


class SideBySide:
    """Writes two pictures beside each other, frame by frame, as a video that browsers play. A context manager: the file appears
    under its name only when all went well."""

    def __init__(self, path: Path, fps: Fraction) -> None:
        self._path, self._fps = path, fps
        self._part = path.with_name(f".{path.stem}.part.mp4")
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> SideBySide:
        import av

        self._container = av.open(str(self._part), "w")
        return self

    def add(self, left: Array, right: Array) -> None:
        """One frame of either side, u8[H,W,3]."""
        import av
        import cv2

        scale = min(1.0, VIDEO_SIDE_PX / max(left.shape[:2]))
        size = (max(2, round(left.shape[1] * scale) // 2 * 2), max(2, round(left.shape[0] * scale) // 2 * 2))
        both = np.concatenate([cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (left, right)], axis=1)
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._fps, options={"crf": "20", "preset": "veryfast"})
            self._stream.width, self._stream.height, self._stream.pix_fmt = both.shape[1], both.shape[0], "yuv420p"
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(both), format="rgb24")):
            self._container.mux(packet)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._stream is not None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
            self._container.close()
            if kind is None and self._stream is not None:
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)
