"""Masks for programs: what the endpoints ``/segment`` and ``/propagate`` do with a clip, prompts as JSON text and the name of a
segmenter. Nothing here knows visitors or Gradio; everything that comes in is checked as if an enemy had sent it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import documents as doc
from pipeline.errors import UserError
from pipeline.masks import decode_rle
from pipeline.project import PromptSpec
from pipeline.types import Array, Clip, Progress, Prompt

from .canvas.mask_shelf import read_prompts
from .checks import check_number, check_text

if TYPE_CHECKING:
    from pipeline.cache import ArtifactCache
    from pipeline.media import MediaLimits
    from pipeline.segmentation.tracks import MaskTracks, TrackedMask

    from .canvas import Segmenters

MAX_PROMPTS_CHARS = 200_000
MAX_PROMPTED_FRAMES = 1_000
NAMES = ("auto", "sam2", "fallback")

_read_prompts = doc.mapping_of(doc.frame_key(10_000_000), doc.node(PromptSpec), MAX_PROMPTED_FRAMES)


class MaskApi:
    """Makes masks from clicks. ``segmenters`` hands out who does it, ``limits`` bounds clips, ``artifacts`` keeps what was made."""

    def __init__(self, segmenters: Segmenters | None, limits: MediaLimits, artifacts: ArtifactCache) -> None:
        self._segmenters, self._limits, self._artifacts = segmenters, limits, artifacts

    def segment(self, path: Path, frame: object, clicks: object, box: object, name: object) -> tuple[Array, dict[str, Any]]:
        """The mask bool[H,W] of the thing on one frame, and a report. Raises ``UserError``."""
        from pipeline.media import FrameStore, probe_clip
        from pipeline.segmentation.tracks import list_doubts

        clip = probe_clip(path, self._limits)
        prompt = {"clicks": _decoded(clicks, "clicks") or [], "box": _decoded(box, "box")}
        frame_index = _whole(frame, "frame", 0, clip.num_frames - 1)
        prompts = self._prompts({str(frame_index): prompt}, clip)
        tracks = self._tracks(name)
        with contextlib.closing(FrameStore(clip)) as frames:
            found = tracks.segment(frames, frame_index, prompts[frame_index])
        if found.runs is None:
            raise UserError(f"Nothing was found at frame {frame_index}; click in the middle of the thing, or give a box around it.")
        mask = decode_rle(found.runs, clip.hw)
        report = {"frame": frame_index, "pixels": int(mask.sum()), "confidence": round(found.confidence, 4)}
        return mask, {**report, "segmenter": tracks.segmenter.name, "notes": list_doubts({frame_index: found})}

    def propagate(
        self, path: Path, prompts_json: object, start: object, stop: object, name: object, output: Path
    ) -> Generator[Progress, None, dict[str, Any]]:
        """Carry the thing through the frames ``start`` to ``stop`` (half-open; 0: to the end), and write a mask for every frame of
        the clip to ``output``, black outside. A generator, like a render: closing it stops the work. Raises ``UserError``."""
        from pipeline.mask_files import write_mask_file
        from pipeline.media import FrameStore, probe_clip

        clip = probe_clip(path, self._limits)
        prompts = self._prompts(_decoded(prompts_json, "prompts"), clip)
        first = _whole(start, "start", 0, clip.num_frames - 1)
        last = _whole(stop, "stop", 0, clip.num_frames) or clip.num_frames
        if last <= first:
            raise UserError(f"stop must be greater than start, or 0 for the end; {last} is not greater than {first}.")
        tracks = self._tracks(name)
        made: dict[int, TrackedMask] = {}
        with (
            contextlib.closing(FrameStore(clip)) as frames,
            contextlib.closing(tracks.track(frames, prompts, first, last)) as found,
        ):
            for frame_index, mask in found:
                made[frame_index] = mask
                yield Progress("tracking", len(made), last - first)
        write_mask_file(output, clip, (0, clip.num_frames), (_bits(made.get(index), clip) for index in range(clip.num_frames)))
        return _report(made, tracks)

    def _prompts(self, value: object, clip: Clip) -> dict[int, Prompt]:
        checked = _read_prompts({} if value is None else value, "prompts")
        for frame_index in checked:
            if frame_index >= clip.num_frames:
                raise UserError(f"Frame {frame_index} has clicks, but the clip's last frame is {clip.num_frames - 1}.")
        prompts = read_prompts({str(index): doc.write_document(spec) for index, spec in checked.items()}, clip)
        if not prompts or len(prompts) < len(checked):
            raise UserError(
                "Every prompted frame needs a click on the thing, [x, y, 1] with x and y from 0 to 1, or a box around it."
            )
        return prompts

    def _tracks(self, name: object) -> MaskTracks:
        from pipeline.segmentation.tracks import MaskTracks

        if self._segmenters is None:
            raise UserError("This server makes no masks from clicks.")
        if not isinstance(name, str) or name not in NAMES:
            raise UserError(f"segmenter must be {' or '.join(NAMES)}.")
        return MaskTracks(self._segmenters.find(name), self._artifacts)


def _report(made: Mapping[int, TrackedMask], tracks: MaskTracks) -> dict[str, Any]:
    from pipeline.segmentation import LOW_CONFIDENCE
    from pipeline.segmentation.tracks import list_doubts

    ordered: Sequence[int] = sorted(made)
    return {
        "frames": len(ordered),
        "segmenter": tracks.segmenter.name,
        "unsure": [index for index in ordered if made[index].confidence < LOW_CONFIDENCE],
        "unseen": [index for index in ordered if made[index].runs is None],
        "notes": list_doubts(made),
    }


def _bits(found: TrackedMask | None, clip: Clip) -> Array:
    return np.zeros(clip.hw, bool) if found is None or found.runs is None else decode_rle(found.runs, clip.hw)


def _decoded(text: object, what: str) -> object:
    """JSON text as a value; none for empty text."""
    checked = check_text("" if text is None else text, what, MAX_PROMPTS_CHARS).strip()
    if not checked:
        return None
    try:
        return doc.decode_json(checked, MAX_PROMPTS_CHARS)
    except UserError as error:
        raise UserError(f"{what} cannot be read as JSON; see the endpoint's description.") from error


def _whole(value: object, what: str, low: int, high: int) -> int:
    number = check_number(0 if value is None else value, what)
    if number != int(number) or not low <= number <= high:
        raise UserError(f"{what} must be a whole number from {low} to {high}.")
    return int(number)
