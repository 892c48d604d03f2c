"""The composite engine: cut-outs laid over the footage at full resolution, deterministic, on the CPU.

``plan_layers`` measures once what does not change over the clip (pyramids, the footage's light and grain); ``composite_frame`` then
makes any frame from its plan alone, so that frames are independent and two threads share them. A frame's result depends on the
request's clip, layers and seed, never on the range that is rendered.

What is removed is covered by the background that ``pipeline.background`` finds; a replacement is a removal and, on top of it, an
insertion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from .. import media
from ..background import CleanPlates
from ..engines import Report
from ..motion import LayerMotion, build_layer_motion
from ..types import Array, BlendSettings, DecodedFrame, Frame, InsertionRequest, Layer, MaskTrack, Progress
from . import blend, shadow
from .grain import Grain, Noise, build_grain, measure_noise, own_noise
from .harmonize import SceneLight, estimate_light, object_gains
from .holdout import hold_out
from .warp import Patch, ReferencePyramid, Roi, render_patch, render_shutter

SAMPLE_FRAMES = 7
"""How many frames of the clip are measured for light and noise."""
WORKERS = 2
FRAMES_IN_FLIGHT = 4

Warn = Callable[[str], None]


@dataclass(frozen=True, eq=False, slots=True)
class LayerPlan:
    """An insertion and all that was measured for it; shared by the threads, never changed."""

    layer: Layer
    index: int
    motion: LayerMotion
    pyramid: ReferencePyramid
    shadow_step_px: int
    gains: Array | None
    grain: Grain | None


@dataclass(frozen=True, eq=False, slots=True)
class RemovalPlan:
    """A removal: where its background comes from, and the grain that averaging took out of that."""

    layer: Layer
    plates: CleanPlates
    grain: Grain | None
    opacity: float

    def close(self) -> None:
        """Let go of the frames that the background is made of."""
        self.plates.close()


Plan = LayerPlan | RemovalPlan


@dataclass(frozen=True, eq=False, slots=True)
class Footage:
    """What was measured of the clip, as far as any layer needs it."""

    light: SceneLight | None
    noise: Noise | None


class CompositeEngine:
    """Satisfies ``engines.Engine``."""

    def run(self, request: InsertionRequest, report: Report, warn: Warn) -> Iterator[Frame]:
        """Yield every frame of ``request.frame_range`` in order. Raises ``UserError`` for a layer that this engine cannot do."""
        plans = plan_layers(request, report, warn)
        start, stop = request.frame_range
        with ExitStack() as stack:
            for plan in plans:
                if isinstance(plan, RemovalPlan):
                    stack.callback(plan.close)
            sources = media.read_frames(request.clip, start, stop)
            frames = stack.enter_context(closing(_map_in_order(partial(composite_frame, plans), sources)))
            for step, frame in enumerate(frames, start=1):
                report(Progress("compositing", step, request.num_frames, partial(getattr, frame, "image")))
                yield frame


def plan_layers(request: InsertionRequest, report: Report, warn: Warn) -> tuple[Plan, ...]:
    """Build motions and pyramids, measure the footage where a layer asks for it, and tell what is worth a warning.

    The layers must be resolved: their masks made, a replacement's motion known.
    """
    footage = measure_footage(request, report)
    plans: list[Plan] = []
    for index, layer in enumerate(request.layers):
        if layer.kind != "insert":
            plans.append(_plan_removal(request, index, footage, report))
        if layer.kind != "remove":
            motion = build_layer_motion(layer)
            _warn_about(layer, motion, request.frame_range, warn)
            plans.append(_plan_layer(layer, index, motion, footage, request.sampling.seed))
    return tuple(plans)


def _plan_removal(request: InsertionRequest, index: int, footage: Footage, report: Report) -> RemovalPlan:
    layer, settings = request.layers[index], request.layers[index].blend
    if layer.target is None:
        raise ValueError(f"layer {layer.name!r} says not what to {layer.kind}: its target must be resolved")
    others = [each.target for number, each in enumerate(request.layers) if number != index and each.kind != "insert"]
    away: list[MaskTrack] = [track for track in (*others, *layer.holdouts) if track is not None]
    grain = None
    if settings.grain > 0 and footage.noise is not None:
        grain = build_grain(footage.noise, 0.0, settings.grain, (request.sampling.seed, len(request.layers) + index))
    opacity = settings.opacity if layer.kind == "remove" else 1.0
    return RemovalPlan(layer, CleanPlates(request.clip, layer.target, away, report), grain, opacity)


def measure_footage(request: InsertionRequest, report: Report) -> Footage:
    """Light and noise from ``SAMPLE_FRAMES`` frames spread over the whole clip, whatever the range; nothing if no layer asks."""
    wants_light = any(layer.blend.harmonize > 0 for layer in request.layers if layer.kind != "remove")
    wants_noise = any(layer.blend.grain > 0 for layer in request.layers)
    if not (wants_light or wants_noise):
        return Footage(None, None)
    count = min(SAMPLE_FRAMES, request.clip.num_frames)
    images = []
    with closing(media.FrameStore(request.clip, max_bytes=1)) as store:
        for step in range(count):
            images.append(store.frame(int((step + 0.5) / count * request.clip.num_frames)).image)
            report(Progress("measuring the footage", step + 1, count))
    return Footage(
        estimate_light(images) if wants_light else None,
        measure_noise(images[::2]) if wants_noise else None,
    )


def _plan_layer(layer: Layer, index: int, motion: LayerMotion, footage: Footage, seed: int) -> LayerPlan:
    settings, reference = layer.blend, layer.references[0]
    size_px = _typical_size_px(motion) if settings.shadow > 0 or settings.grain > 0 else 1.0
    gains, grain = None, None
    if settings.harmonize > 0 and footage.light is not None:
        gains = object_gains(footage.light, settings.harmonize)
    if settings.grain > 0 and footage.noise is not None:
        x0, y0, x1, y1 = reference.tight_box_px()
        own_sigma = own_noise(reference, size_px / float(np.sqrt((x1 - x0) * (y1 - y0))))
        grain = build_grain(footage.noise, own_sigma, settings.grain, (seed, index))
    return LayerPlan(layer, index, motion, ReferencePyramid(reference), shadow.grid_step_px(size_px), gains, grain)


def _warn_about(layer: Layer, motion: LayerMotion, frame_range: tuple[int, int], warn: Warn) -> None:
    if len(layer.references) > 1:
        warn(f"layer {layer.name!r}: the composite engine uses the first of its {len(layer.references)} references only.")
    folded = motion.folded_frames(*frame_range)
    if folded:
        named = ", ".join(str(frame) for frame in folded[:5]) + (f" and {len(folded) - 5} more" if len(folded) > 5 else "")
        warn(f"layer {layer.name!r}: the reference folds over itself at frame {named}; move its trajectories further apart.")


def composite_frame(plans: tuple[Plan, ...], source: DecodedFrame) -> Frame:
    """One frame: every layer in order, each on the result of the one before, within the bounds of them all."""
    height, width = source.hw
    laid = []
    for plan in plans:
        if isinstance(plan, RemovalPlan):
            cutout = make_removal(plan, source)
        else:
            cutout = make_cutout(plan, source.frame_index, (0, 0, width, height))
        if cutout is not None:
            if plan.layer.holdouts:
                cutout = hold_out(plan.layer.holdouts, source.frame_index, cutout, source.to_rgb(*cutout.roi))
            laid.append((cutout.roi, blend.round_layer(cutout)))
    x0, y0, x1, y1 = _union([roi for roi, _ in laid])
    patch = source.to_rgb(x0, y0, x1, y1)
    layer = np.zeros((y1 - y0, x1 - x0, 4), np.uint8)
    for number, (roi, rounded) in enumerate(laid):
        window = (slice(roi[1] - y0, roi[3] - y0), slice(roi[0] - x0, roi[2] - x0))
        blend.lay_over(rounded, patch[window])
        layer[window] = blend.stack_layers(rounded, layer[window]) if number else rounded
    return Frame(source.frame_index, patch, layer, layer[..., 3] > 0, source, x0, y0)


def make_removal(plan: RemovalPlan, source: DecodedFrame) -> blend.Cutout | None:
    """The background that covers what is removed at a frame, before hold-outs; None when there is nothing of it."""
    if plan.opacity == 0:
        return None
    found = plan.plates.patch(source)
    if found is None:
        return None
    rgb = found.rgb
    if plan.grain is not None:
        rgb = rgb + (plan.grain.add(rgb, source.frame_index) - rgb) * found.freshness[..., None]
    return blend.Cutout(found.roi, rgb, found.alpha * np.float32(plan.opacity))


def _union(rois: list[Roi]) -> Roi:
    """The smallest region that holds them all; one pixel when there are none."""
    if not rois:
        return 0, 0, 1, 1
    lows, highs = np.min(rois, axis=0), np.max(rois, axis=0)
    return int(lows[0]), int(lows[1]), int(highs[2]), int(highs[3])


def make_cutout(plan: LayerPlan, frame_index: int, picture: Roi) -> blend.Cutout | None:
    """What one layer lays over the picture at a frame, before its hold-outs; None when nothing of it is in the picture."""
    settings = plan.layer.blend
    if settings.opacity == 0 or not plan.motion.exists(frame_index):
        return None
    geometry = _near_picture(_shadow_geometry(plan.motion, frame_index), picture) if settings.shadow > 0 else None
    patch = _shutter_patch(plan, frame_index, _surroundings(settings, geometry, picture))
    if patch is None:
        return None
    cutout: blend.Cutout | None = blend.cutout_from_patch(patch, plan.gains)
    assert cutout is not None
    if plan.grain is not None:
        cutout = blend.Cutout(cutout.roi, plan.grain.add(cutout.rgb, frame_index), cutout.alpha)
    if settings.feather_px > 0:
        cutout = blend.feather(cutout, settings.feather_px)
    thrown = shadow.throw_shadow(cutout, geometry, settings, plan.shadow_step_px, picture) if geometry is not None else None
    cutout = blend.over_shadow(cutout, *thrown) if thrown is not None else blend.cut_to(cutout, picture)
    if cutout is None or settings.opacity == 1:
        return cutout
    return blend.Cutout(cutout.roi, cutout.rgb, cutout.alpha * np.float32(settings.opacity))


def _surroundings(settings: BlendSettings, geometry: shadow.ShadowGeometry | None, picture: Roi) -> Roi:
    """The picture, grown by as much of what lies outside it as matters inside: what throws a shadow, what is feathered in."""
    margin = blend.feather_reach_px(settings.feather_px)
    if geometry is not None:
        margin += shadow.reach_px(geometry, settings) + int(np.ceil(settings.shadow_length * geometry.height))
    margin = min(margin, max(picture[2], picture[3]))
    return picture[0] - margin, picture[1] - margin, picture[2] + margin, picture[3] + margin


def _near_picture(geometry: shadow.ShadowGeometry, picture: Roi) -> shadow.ShadowGeometry:
    """The bounds, held within one picture's size of the picture: at the horizon of a perspective they have none of their own."""
    width, height = picture[2] - picture[0], picture[3] - picture[1]
    x0, x1 = np.clip([geometry.x0, geometry.x1], picture[0] - width, picture[2] + width)
    y0, base_y = np.clip([geometry.y0, geometry.base_y], picture[1] - height, picture[3] + height)
    return shadow.ShadowGeometry(float(x0), float(y0), float(x1), float(base_y))


def _shutter_patch(plan: LayerPlan, frame_index: int, within: Roi) -> Patch | None:
    """The warped cut-out, averaged over the time that the shutter is open."""
    open_frames = plan.layer.blend.motion_blur
    if open_frames > 0:
        return render_shutter(plan.pyramid, plan.motion.warp, frame_index, open_frames, within)
    return render_patch(plan.pyramid, plan.motion.warp(frame_index), within)


def _shadow_geometry(motion: LayerMotion, frame_index: int) -> shadow.ShadowGeometry:
    return shadow.ShadowGeometry(*(float(value) for value in motion.warped_bounds_px(frame_index)))


def _typical_size_px(motion: LayerMotion) -> float:
    frames = np.unique(np.linspace(0, motion.num_frames - 1, 33).astype(int))
    return float(np.median([_shadow_geometry(motion, int(frame)).size for frame in frames]))


def _one_thread_each() -> None:
    """Workers share the cores among themselves; OpenCV's own threads would only fight over them."""
    cv2.setNumThreads(1)


def _map_in_order(work: Callable[[DecodedFrame], Frame], sources: Iterator[DecodedFrame]) -> Generator[Frame, None, None]:
    """``work`` over ``sources`` on a few threads, results in order, a bounded number in flight; closing it releases all."""
    pending: deque[Future[Frame]] = deque()
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="composite", initializer=_one_thread_each)
    try:
        for source in sources:
            pending.append(pool.submit(work, source))
            if len(pending) >= FRAMES_IN_FLIGHT:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        close: Callable[[], None] | None = getattr(sources, "close", None)
        if close is not None:
            close()
