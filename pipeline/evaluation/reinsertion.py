"""The re-insertion benchmark: take a thing out of a clip, put it back by its own motion from a far view of it, compare.

The paper's protocol (Sec. 4.1, 4.3) with a truth: the reference is the frame farthest from the scored ones, boxes and trajectories
are the thing's own, and the original is what the result should be. Any engine, any clip with a mask. The scores that need no other
network's weights are made here; ``encoders`` adds those that do, where their weights can be had.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import render
from ..engines import Engine, Report, ignore_progress
from ..masks import mask_areas, mask_at
from ..media import FrameStore, probe_clip
from ..motion import build_layer_motion
from ..object_tracks import ObjectMotion, study_object
from ..tracking import track_points
from ..types import (
    Array,
    BlendSettings,
    BoxSequence,
    Clip,
    Frame,
    InsertionRequest,
    Layer,
    MaskTrack,
    SamplingConfig,
    TrajectorySet,
)
from .encoders import Encoder, fit_square, similarity
from .pixels import box_iou, squared_error, ssim_map, to_psnr_db
from .tapvid import TapVidScores, score_tracks

NUM_FRAMES = 32
"""How many frames are scored of every clip, unless told."""
NUM_POINTS = 8
"""As many as the paper trains with."""
UNEDITED_MARGIN = 1.25
"""The unedited region is what lies outside the thing's box grown by this factor (the mask that inserting engines are given)."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One clip, one engine; ``nan`` where a score is not defined.

    ``psnr_unedited``: dB outside the grown box, as the paper scores it; ``psnr_untouched``: dB where the engine says it changed
    nothing (a cap of 60 means exact); ``psnr_object`` and ``ssim_object``: inside the thing's mask, against the original.
    ``flicker``: mean change from frame to frame of the result beyond the original's, in 8-bit levels, in the grown box.
    ``box_adherence``: mean overlap of what was laid with its effective box. ``tracks``: the paper's AJ, delta and OA. ``series``:
    ``psnr_object`` frame by frame. ``learned``: scores by other networks, by name.
    """

    psnr_unedited: float
    psnr_untouched: float
    psnr_object: float
    ssim_object: float
    flicker: float
    box_adherence: float
    tracks: TapVidScores
    seconds_per_frame: float
    series: tuple[float, ...] = ()
    learned: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """A thing to re-insert. ``frame_range`` is what is scored."""

    name: str
    clip: Clip
    track: MaskTrack
    frame_range: tuple[int, int]
    study: ObjectMotion

    def to_request(self, sampling: SamplingConfig) -> InsertionRequest:
        """Replace the thing by itself as it looks at the reference frame."""
        layer = Layer(
            name=self.name,
            kind="replace",
            references=(self.study.reference,),
            fit="stretch",
            boxes=_spread_boxes(self.study.boxes, self.frame_range, self.clip.num_frames),
            trajectories=None
            if self.study.trajectories is None
            else _spread_points(self.study.trajectories, self.frame_range, self.clip.num_frames),
            target=self.track,
            blend=BlendSettings(shadow=0),
        )
        return InsertionRequest(self.clip, self.frame_range, (layer,), sampling)


def prepare_case(name: str, clip: Clip, track: MaskTrack, num_frames: int = NUM_FRAMES, report: Report = ignore_progress) -> Case:
    """Choose at most ``num_frames`` in which the thing is seen (``choose_stretch``), and study the thing in them.

    Raises ``ValueError`` when it is never seen, or not elsewhere too.
    """
    start, stop = choose_stretch(track, num_frames)
    with closing(FrameStore(clip)) as frames:
        study = study_object(frames, track, np.arange(start, stop), NUM_POINTS, report)
    return Case(name, clip, track, (start, stop), study)


def choose_stretch(track: MaskTrack, num_frames: int) -> tuple[int, int]:
    """The frames to score: at most ``num_frames`` on end in which the thing is seen, the longest there are, and of those the ones
    that show most of it; something is left for a reference. Raises ``ValueError`` when it is seen in fewer than three frames.
    """
    areas = mask_areas(track)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], areas > 0, [False]]).astype(np.int8)))
    runs = edges.reshape(-1, 2)
    if len(runs) == 0:
        raise ValueError("its mask is empty in every frame")
    seen = int((areas > 0).sum())
    if seen < 3:
        raise ValueError("its thing is seen in fewer than three frames")
    length = min(num_frames, int((runs[:, 1] - runs[:, 0]).max()))
    if length == seen:  # all of it would be scored: leave a third for the reference
        length = max(2, (2 * seen) // 3)
    starts = [start for first, last in runs for start in range(first, last - length + 1)]
    sums = np.concatenate([[0], np.cumsum(areas)])
    best = max(starts, key=lambda start: (int(sums[start + length] - sums[start]), -start))
    return int(best), int(best) + length


class _Watched:
    """An engine whose frames somebody else sees too."""

    def __init__(self, engine: Engine, see: Callable[[Frame], None]) -> None:
        self._engine, self._see = engine, see

    def run(self, request: InsertionRequest, report: Report, warn: Callable[[str], None]) -> Iterator[Frame]:
        """Satisfies ``engines.Engine``."""
        for frame in self._engine.run(request, report, warn):
            self._see(frame)
            yield frame


def score_case(
    case: Case,
    engine: Engine,
    sampling: SamplingConfig,
    encoders: Sequence[Encoder] = (),
    see_pair: Callable[[Array, Array], None] = lambda truth, image: None,
    report: Report = ignore_progress,
) -> Scores:
    """Re-insert and compare. ``see_pair`` is shown every original frame and the result beside it. Raises what the engine raises."""
    request = case.to_request(sampling)
    watcher = _Watcher(case, request, bool(encoders), see_pair)
    with tempfile.TemporaryDirectory(prefix="reinsertion-") as folder:
        path = Path(folder) / "result.mkv"
        work = render.render(request, _Watched(engine, watcher.see), path, lossless=True)
        while True:
            try:
                report(next(work))
            except StopIteration as finished:
                summary = finished.value
                break
        tracks = _score_tracks(case, path, report)
    learned = {each.name: similarity(each, watcher.crops, case.study.reference) for each in encoders}
    return watcher.scores(tracks, summary.seconds / request.num_frames, learned)


class _Watcher:
    """Adds up what can be said frame by frame, so that nothing of the clip is kept."""

    def __init__(self, case: Case, request: InsertionRequest, keeps_crops: bool, see_pair: Callable[[Array, Array], None]) -> None:
        self._case, self._keeps_crops, self._see_pair = case, keeps_crops, see_pair
        self.crops: list[Array] = []
        """The result in the thing's box, small, where encoders will look at it."""
        self._motion = build_layer_motion(request.layers[0])
        self._unedited, self._untouched, self._object = (np.zeros(2) for _ in range(3))
        self._series: list[float] = []
        self._ssim: list[float] = []
        self._flicker: list[float] = []
        self._overlaps: list[float] = []
        self._before: tuple[Array, Array] | None = None

    def see(self, frame: Frame) -> None:
        """One frame of the result, beside its source."""
        truth, image = frame.source.image, frame.image
        box = self._grown_box(frame.frame_index)
        outside = np.ones(truth.shape[:2], np.bool_)
        x0, y0, x1, y1 = box
        outside[y0:y1, x0:x1] = False
        mask = mask_at(self._case.track, frame.frame_index)
        self._unedited += squared_error(image, truth, outside)
        self._untouched += squared_error(image, truth, ~frame.touched)
        own = squared_error(image, truth, mask)
        self._object += own
        self._series.append(to_psnr_db(*own))
        self._see_pair(truth, image)
        if self._keeps_crops and min(y1 - y0, x1 - x0) > 0:
            self.crops.append(fit_square(image[y0:y1, x0:x1]))
        part = (slice(y0, y1), slice(x0, x1))
        if mask[part].any() and min(y1 - y0, x1 - x0) > 0:
            self._ssim.append(float(ssim_map(image[part], truth[part])[mask[part]].mean()))
        if self._before is not None:
            was_truth, was_image = self._before
            change = (image[part].astype(np.int16) - was_image[part]) - (truth[part].astype(np.int16) - was_truth[part])
            self._flicker.append(float(np.abs(change).mean()) if change.size else 0.0)
        self._before = truth, image
        laid = frame.layer_patch[..., 3] >= 128
        if laid.any():
            rows, columns = np.flatnonzero(laid.any(axis=1)), np.flatnonzero(laid.any(axis=0))
            corner = np.array([frame.x0, frame.y0, frame.x0, frame.y0])
            bounds = corner + np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            width, height = self._case.clip.width, self._case.clip.height
            effective = np.clip(self._motion.effective_boxes_px[frame.frame_index], 0, [width, height, width, height])
            self._overlaps.append(box_iou(bounds.astype(np.float64), effective.astype(np.float64)))

    def _grown_box(self, frame_index: int) -> tuple[int, int, int, int]:
        """The thing's box grown by ``UNEDITED_MARGIN``, in whole pixels of the picture."""
        row = frame_index - self._case.frame_range[0]
        x0, y0, x1, y1 = self._case.study.boxes.boxes_px[row].astype(np.float64)
        half = np.array([x1 - x0, y1 - y0]) / 2 * UNEDITED_MARGIN
        centre = np.array([x0 + x1, y0 + y1]) / 2
        low = np.floor(np.maximum(centre - half, 0)).astype(int)
        high = np.ceil(np.minimum(centre + half, [self._case.clip.width, self._case.clip.height])).astype(int)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def scores(self, tracks: TapVidScores, seconds_per_frame: float, learned: dict[str, float]) -> Scores:
        """All of it."""
        return Scores(
            psnr_unedited=to_psnr_db(self._unedited[0], int(self._unedited[1])),
            psnr_untouched=to_psnr_db(self._untouched[0], int(self._untouched[1])),
            psnr_object=to_psnr_db(self._object[0], int(self._object[1])),
            ssim_object=_mean(self._ssim),
            flicker=_mean(self._flicker),
            box_adherence=_mean(self._overlaps),
            tracks=tracks,
            seconds_per_frame=seconds_per_frame,
            series=tuple(self._series),
            learned=learned,
        )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _score_tracks(case: Case, result: Path, report: Report) -> TapVidScores:
    """The first frame's points followed in the original and in the result; the original's paths are the truth."""
    points = case.study.trajectories
    if points is None:
        nothing = float("nan")
        return TapVidScores(nothing, nothing, nothing, (nothing,) * 5, (nothing,) * 5)
    start, stop = case.frame_range
    queries = points.points_px[:, 0]
    with closing(FrameStore(case.clip)) as frames:
        true = track_points(frames, start, queries, start, stop, report)
    with closing(FrameStore(probe_clip(result))) as frames:
        found = track_points(frames, 0, queries, 0, stop - start, report)
    return score_tracks(
        true.points_px[:, start:stop],
        true.is_visible[:, start:stop],
        found.points_px,
        found.is_visible,
        np.zeros(len(queries), np.int64),
        case.clip.hw,
    )


def _spread_boxes(boxes: BoxSequence, frame_range: tuple[int, int], num_frames: int) -> BoxSequence:
    """Boxes of the range as boxes of the whole clip, held outside it."""
    rows = np.clip(np.arange(num_frames), frame_range[0], frame_range[1] - 1) - frame_range[0]
    return BoxSequence(boxes.boxes_px[rows], boxes.rotation_deg[rows], boxes.is_visible[rows], np.zeros(num_frames, np.bool_))


def _spread_points(points: TrajectorySet, frame_range: tuple[int, int], num_frames: int) -> TrajectorySet:
    rows = np.clip(np.arange(num_frames), frame_range[0], frame_range[1] - 1) - frame_range[0]
    cuts = np.zeros((len(points), num_frames), np.bool_)
    return TrajectorySet(points.names, points.points_px[:, rows], points.is_visible[:, rows], cuts, points.anchors_px)
