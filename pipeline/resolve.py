"""What of a request must still be found in the clip's own pixels is found here, before any engine runs.

``resolve_masks`` is the one place where prompts become mask tracks. Then a replacement without boxes gets those of its target, with
the target's own turning where nothing else is drawn; and a layer that follows a surface gets that surface's motion.
``ResolvingEngine`` does all this in front of another engine, so that whoever renders or previews gets it, with progress and cancel.

Everything is made for the frames that are needed only: those of the range, those on the way there from what a person marked, and,
behind what is removed, as far as the background is looked for. What is found for a frame never depends on the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from . import background, masks
from .cache import ArtifactCache, content_key
from .cuts import find_cuts, name_unmarked_shots, shots_without
from .engines import Engine, Report
from .errors import UserError
from .media import FrameStore
from .segmentation import LOW_CONFIDENCE, Segmenter
from .segmentation.tracks import MaskTracks
from .target_motion import STEADY_REACH, find_key, follow_target
from .tracking import METHOD, track_surface, within_range
from .types import (
    Array,
    Follow,
    Frame,
    InsertionRequest,
    Layer,
    MaskPrompts,
    MaskTrack,
    Progress,
    SegmenterChoice,
    SurfaceMotion,
)

Warn = Callable[[str], None]
Span = tuple[int, int]

PER_FRAME_REMOVAL = "composite"
"""The engine that takes its background from other frames, and so needs masks of them."""


class Segmenters(Protocol):
    """Segmenters by the names that project files use; see ``segmentation.choice``."""

    def find(self, name: str = "auto") -> Segmenter: ...


def choose_segmenter(request: InsertionRequest, segmenters: Segmenters) -> InsertionRequest:
    """The request that says which segmenter makes its masks, by its own name and key, where masks are still to be made; so that
    its digest is that of what will be rendered. Raises ``UserError`` when there is no such segmenter."""
    if not request.has_prompts:
        return request
    found = segmenters.find(request.segmenter.name)
    return replace(request, segmenter=SegmenterChoice(found.name, found.key))


def resolve_request(
    request: InsertionRequest, segmenters: Segmenters, artifacts: ArtifactCache | None, report: Report, warn: Warn
) -> InsertionRequest:
    """The request as engines take it: masks made, replacements in motion, surfaces followed. Raises ``UserError``, and whatever
    ``report`` raises."""
    keys = [_marked_frame(layer) for layer in request.layers]
    if request.has_prompts:
        request = resolve_masks(request, segmenters.find(request.segmenter.name), artifacts, report, warn)
    if not any(layer.pending is not None or _lacks_motion(layer) for layer in request.layers):
        return request
    layers = []
    with closing(FrameStore(request.clip)) as frames:
        for layer, key in zip(request.layers, keys, strict=True):
            if _lacks_motion(layer):
                own = _take_motion_of_target(layer, key, request, frames, report)
                layer = replace(own, pending=None)  # what moves as its target does need not follow anything else
            layers.append(_follow(layer, request, frames, artifacts, report, warn))
    return replace(request, layers=tuple(layers))


def _marked_frame(layer: Layer) -> int | None:
    """The first frame on which a person marked the target; None without prompts."""
    target = None if layer.pending is None else layer.pending.target
    return None if target is None else min(target.prompts)


def resolve_masks(
    request: InsertionRequest, segmenter: Segmenter, artifacts: ArtifactCache | None, report: Report, warn: Warn
) -> InsertionRequest:
    """The request with every mask that prompts describe, made by ``segmenter`` and kept in ``artifacts``.

    Frames that need no mask have none. A frame's edit takes the place of what the segmenter made; then masks are grown. Frames in
    the range of which the segmenter is unsure are named in one warning for each mask. Raises ``UserError`` when nothing is found
    where it was marked, and whatever ``report`` raises.
    """
    tracks = MaskTracks(segmenter, artifacts)
    with closing(FrameStore(request.clip)) as frames:
        layers = []
        for layer in request.layers:
            pending = layer.pending
            if pending is None or (pending.target is None and not pending.holdouts):
                layers.append(layer)
                continue
            maker = _MaskMaker(request, layer, tracks, frames, artifacts, report, warn)
            target = layer.target if pending.target is None else maker.make(pending.target, "its target", is_target=True)
            made = tuple(maker.make(each, "what stays in front of it", is_target=False) for each in pending.holdouts)
            rest = None if pending.follow is None else replace(pending, target=None, holdouts=())
            layers.append(replace(layer, target=target, holdouts=(*layer.holdouts, *made), pending=rest))
    return replace(request, layers=tuple(layers))


class _MaskMaker:
    """Makes the masks of one layer."""

    def __init__(
        self,
        request: InsertionRequest,
        layer: Layer,
        tracks: MaskTracks,
        frames: FrameStore,
        artifacts: ArtifactCache | None,
        report: Report,
        warn: Warn,
    ) -> None:
        self._request, self._layer, self._tracks, self._frames = request, layer, tracks, frames
        self._artifacts, self._report, self._warn = artifacts, report, warn

    def make(self, wanted: MaskPrompts, what: str, is_target: bool) -> MaskTrack:
        clip, (start, stop) = self._request.clip, self._request.frame_range
        first, last = _needed_frames(self._request, self._layer, wanted, is_target)
        runs: list[Array | None] = [None] * clip.num_frames
        unsure: list[int] = []
        with closing(self._tracks.track(self._frames, wanted.prompts, first, last)) as found:
            for step, (frame_index, tracked) in enumerate(found, start=1):
                self._report(Progress(f"finding {what}", step, last - first))
                runs[frame_index] = tracked.runs
                if start <= frame_index < stop and tracked.confidence < LOW_CONFIDENCE and frame_index not in wanted.edits:
                    unsure.append(frame_index)
        for frame_index, edit in wanted.edits.items():
            if first <= frame_index < last:
                runs[frame_index] = edit
        runs = [None if each is None else _grown(each, clip.hw, wanted.grow_px) for each in runs]
        self._check_found(wanted, what, runs)
        gone = [frame_index for frame_index in unsure if runs[frame_index] is None]
        seen = [frame_index for frame_index in unsure if runs[frame_index] is not None]
        if gone:
            self._warn(f"Layer {self._layer.name!r}: nothing of {what} is found {named_frames(gone)}; have a look there.")
        if seen:
            self._warn(f"Layer {self._layer.name!r}: the mask of {what} is uncertain {named_frames(seen)}; have a look there.")
        for note in name_unmarked_shots(self._frames, {*wanted.prompts, *wanted.edits}, start, stop, self._artifacts):
            self._warn(f"Layer {self._layer.name!r}, {what}: {note}")
        return MaskTrack(clip.hw, tuple(runs), wanted.feather_px)

    def _check_found(self, wanted: MaskPrompts, what: str, runs: list[Array | None]) -> None:
        start, stop = self._request.frame_range
        if any(each is not None for each in runs[start:stop]):
            return
        name = self._layer.name
        if all(each is None for each in runs):
            frame_index, prompt = next(iter(wanted.prompts.items()))
            if not wanted.edits and self._tracks.segment(self._frames, frame_index, prompt).runs is None:
                raise UserError(
                    f"Layer {name!r}: nothing of {what} is found where it was marked, at frame {frame_index}; click in its middle, "
                    "or draw a box around it."
                )
        self._warn(f"Layer {name!r}: {what} is in no frame of the range.")


def _needed_frames(request: InsertionRequest, layer: Layer, wanted: MaskPrompts, is_target: bool) -> Span:
    """For which frames a mask of a layer is needed, half-open, and the way there from the nearest prompt."""
    start, stop = request.frame_range
    if layer.kind != "insert" and request.sampling.name == PER_FRAME_REMOVAL:
        reach = background.needed_reach(request.clip)
        start, stop = start - reach, stop + reach
    if is_target and _lacks_motion(layer):
        key = min(wanted.prompts)
        start, stop = (
            min(start, request.frame_range[0] - STEADY_REACH, key),
            max(stop, request.frame_range[1] + STEADY_REACH, key + 1),
        )
    if not any(start <= frame < stop for frame in wanted.prompts):
        nearest = min(wanted.prompts, key=lambda frame: min(abs(frame - start), abs(frame - stop)))
        start, stop = min(start, nearest), max(stop, nearest + 1)
    return max(0, start), min(request.clip.num_frames, stop)


def _grown(runs: Array, hw: tuple[int, int], grow_px: float) -> Array | None:
    """A mask's run lengths, grown, locked; None when nothing is left."""
    mask = masks.grow_mask(masks.decode_rle(runs, hw), grow_px)
    if not mask.any():
        return None
    grown = masks.encode_rle(mask)
    grown.flags.writeable = False
    return grown


def named_frames(frames: list[int]) -> str:
    """``at frame 3`` or ``at frames 3, 4 and 12 more``."""
    if len(frames) == 1:
        return f"at frame {frames[0]}"
    shown = frames[:5]
    more = f" and {len(frames) - 5} more" if len(frames) > 5 else ""
    return f"at frames {', '.join(map(str, shown))}{more}"


# -- motion -----------------------------------------------------------------------------------------------------------------------


def _lacks_motion(layer: Layer) -> bool:
    return layer.kind == "replace" and layer.boxes is None


def _take_motion_of_target(layer: Layer, key: int | None, request: InsertionRequest, frames: FrameStore, report: Report) -> Layer:
    """A replacement that has no boxes, with those of its target; ``key`` is where its motion starts, where that is known."""
    target = layer.target
    if target is None:
        raise ValueError(f"layer {layer.name!r} says not what to replace")
    start = find_key(target) if key is None or target.runs[key] is None else key
    if start is None:
        raise UserError(
            f"Layer {layer.name!r}: the mask of its target is empty, so there is nowhere to put the picture; mark it again."
        )
    is_turning = layer.trajectories is None
    return replace(layer, boxes=follow_target(frames, target, start, request.frame_range, is_turning, report))


def _follow(
    layer: Layer, request: InsertionRequest, frames: FrameStore, artifacts: ArtifactCache | None, report: Report, warn: Warn
) -> Layer:
    """A layer with the motion of the surface that it follows, if any; nothing of it is pending any more."""
    follow = None if layer.pending is None else layer.pending.follow
    if follow is None:
        return replace(layer, pending=None)
    start, stop = request.frame_range
    surface = follow_surface(frames, follow, start, stop, None, artifacts, report)  # as the page tracks it, to the last digit
    lost = [frame for frame in range(start, stop) if not surface.is_tracked[frame]]
    for cut, is_after in find_losing_cuts(lost, follow.key_frame, frames, artifacts, request.frame_range):
        lost = [frame for frame in lost if (frame < cut) == is_after]
        warn(
            f"Layer {layer.name!r}: the clip cuts to another shot at frame {cut}, and the surface that it follows is not in both; "
            f"give the frames {'from there on' if is_after else 'before that'} a layer of their own, with a key frame among them."
        )
    if lost:
        warn(f"Layer {layer.name!r}: the surface that it follows is lost {named_frames(lost)}; it stays where it was there.")
    return replace(layer, surface=surface, pending=None)


def find_losing_cuts(
    lost: list[int], key_frame: int, frames: FrameStore, artifacts: ArtifactCache | None, span: Span
) -> list[tuple[int, bool]]:
    """The cuts nearest to the key frame, on either side, beyond which a surface is lost, and whether that is after the cut."""
    if not lost:
        return []
    cuts = find_cuts(frames, min(span[0], key_frame), max(span[1], key_frame + 1), artifacts)
    beside = shots_without([key_frame], cuts, min(lost), max(lost) + 1)
    nearest = {is_after: cut for cut, is_after in sorted(beside, key=lambda each: -abs(each[0] - key_frame))}
    return [(cut, is_after) for is_after, cut in nearest.items() if any((frame >= cut) == is_after for frame in lost)]


def follow_surface(
    frames: FrameStore,
    follow: Follow,
    start: int,
    stop: int,
    exclude: MaskTrack | None,
    artifacts: ArtifactCache | None,
    report: Report,
) -> SurfaceMotion:
    """``tracking.track_surface``, kept by content: what was tracked of a surface once is not tracked again, whatever the range."""
    runs = () if exclude is None else tuple(exclude.runs)
    points, region = follow.points_px, follow.region_px
    key = content_key("surface", METHOD, frames.clip.sha256, follow.kind, follow.key_frame, points, region, runs)
    kept = None if artifacts is None else artifacts.load(key)
    first, last = start, stop
    if kept is not None:
        known_first, known_last = (int(value) for value in kept["known"])
        if known_first <= start and stop <= known_last:
            motion = SurfaceMotion(kept["matrices"], kept["is_tracked"], follow.key_frame)
            return within_range(motion, start, stop)
        first, last = min(start, known_first), max(stop, known_last)
    motion = track_surface(frames, follow, first, last, exclude, report)
    if artifacts is not None:
        artifacts.store(key, matrices=motion.matrices, is_tracked=motion.is_tracked, known=np.array([first, last], np.int64))
    return within_range(motion, start, stop)


# -- in front of an engine --------------------------------------------------------------------------------------------------------


class ResolvingEngine:
    """Satisfies ``engines.Engine``: resolves a request, then lets ``engine`` run it. ``artifacts`` keeps masks and motion."""

    def __init__(self, engine: Engine, segmenters: Segmenters, artifacts: ArtifactCache | None) -> None:
        self._engine, self._segmenters, self._artifacts = engine, segmenters, artifacts

    def run(self, request: InsertionRequest, report: Report, warn: Warn) -> Iterator[Frame]:
        """Yield the engine's frames. Raises what resolving and the engine raise."""
        resolved = resolve_request(request, self._segmenters, self._artifacts, report, warn)
        frames: Any = self._engine.run(resolved, report, warn)
        with closing(frames):
            for frame in frames:
                yield replace(frame, layers=resolved.layers)
