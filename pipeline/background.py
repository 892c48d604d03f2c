"""What lies behind a thing that is taken out: a clean plate, put together from frames in which the background was to be seen.

Every ``KEY_SPACING``-th frame of the clip, and its last one, is a *key*. A key's plate covers what the thing hides in the frames
around it, in the key's own frame of reference: frames near and far in which that background is in sight are laid onto the key by
the camera's motion (``pipeline.camera``), then by what is left of it (``pipeline.parallax``), and matched in exposure. Where they
differ, something moves by itself: what most of them show counts, those near in time the more, and only what agrees with it is
averaged. What no frame shows is made up once for a long stretch, and carried from plate to plate.

A frame takes its background from the plates of the keys before and after it (at a cut, of the shot's last or first frame), laid
onto the frame by what surrounds the hole, and faded into each other over time: so the background stays as still as the scene
itself. Plates lie on a grid of the whole clip and read a fixed reach around them, so a frame's background never depends on the
range that is rendered. Memory is bounded: a window of sample frames and a few plates.

Convention: a plate or patch covers whole pixels [x0, x1) x [y0, y1) of its frame and may lie outside the picture.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from . import geometry, masks
from .camera import NODE_SPACING, CameraPath
from .engines import Report
from .inpaint import fill_hole
from .media import FrameStore
from .parallax import (
    LATITUDE_PX,
    Grid,
    Motion,
    average_by_trust,
    choose_detail,
    complete_flow,
    invert_flow,
    measure_flow,
    spread_flow,
    without_noise,
)
from .types import Array, Clip, DecodedFrame, MaskTrack, Progress

KEY_SPACING = 8
REACH_FRAMES = 192
"""How far from a key the background is looked for."""
BLOCK_FRAMES = 128
"""For about so long what no frame shows is made up only once."""
MAX_VIEWS = 7
"""Frames that are compared at a pixel, the nearest ones."""
SAMPLE_BYTES = 192 << 20
"""Memory for the frames that plates are made of; where they are large, the reach is shorter."""

EDGE_SHARE = 1 / 240
"""How much a mask is grown, for the thing's soft edge, as a share of the picture's height; at least ``MIN_EDGE_PX``."""
MIN_EDGE_PX = 2.0
SEAM_PX = 5.0
"""Over how many pixels outside the grown mask the patch fades into the picture."""

_RING_PX = 48
"""How far around a hole the picture is compared with a plate."""
_BESIDE_STEPS = (-12, -4, 4, 12)
"""How far from a key it is looked for besides at the nodes: what moves by itself is told best by moments close by."""
_MAX_BESIDE = 8
_NEAR_FRAMES = 8.0
"""At this distance in time what a picture says about a moment counts half, further away by the square of the distance less."""
_ALIKE_LEVELS = 8.0
"""Pictures that differ by about this much, over ``_ALIKE_PX`` pixels at half the size, show different things."""
_ALIKE_PX = 5
_LEAST_WEIGHT = 1e-4
"""What a picture unlike the chosen one still weighs: where that one is not seen to its last pixel, the others stand in."""
_ALMOST = 0.9
"""A nearer view is preferred to one that shows more, if it shows this share of that."""
_SPARSE_PX = 4
"""Low frequencies of colour are measured at every so many pixels."""
_MAX_PLATES = 6
_MAX_MASKS = 64

Roi = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Plate:
    """Background in the frame of reference of frame ``key``: ``rgb`` u8[h,w,3] over ``roi``; ``num_views`` f32[h,w] says of how
    many frames it is the mean (0: made up), ``is_filled`` bool[h,w] where there is any."""

    key: int
    roi: Roi
    rgb: Array
    num_views: Array
    is_filled: Array
    motion: Motion


@dataclass(frozen=True, eq=False, slots=True)
class Patch:
    """Background for one frame: ``rgb`` f32[h,w,3] in 0..255 over ``roi`` (inside the picture), ``alpha`` f32[h,w] how far it takes
    the picture's place, ``freshness`` f32[h,w] the share of the footage's grain that averaging took out of it."""

    roi: Roi
    rgb: Array
    alpha: Array
    freshness: Array


class CleanPlates:
    """The background behind ``target``, frame by frame. ``others`` go away too, or are in the way: they are no background either.
    Thread-safe; frames are asked for roughly in order."""

    def __init__(self, clip: Clip, target: MaskTrack, others: Sequence[MaskTrack], report: Report) -> None:
        self._clip, self._target, self._others, self._report = clip, target, tuple(others), report
        self._edge_px = max(MIN_EDGE_PX, clip.height * EDGE_SHARE)
        self._reach = _reach_frames(clip)
        self._frames = FrameStore(clip, max_bytes=SAMPLE_BYTES // 4)
        self._path = CameraPath(self._frames, self._moving_mask)
        self._samples: dict[int, DecodedFrame] = {}
        self._beside: OrderedDict[int, DecodedFrame] = OrderedDict()
        self._read_until = -1
        self._plates: OrderedDict[tuple[int, bool], Plate] = OrderedDict()
        self._moving_seen: OrderedDict[tuple[int, float], Array] = OrderedDict()
        self._guard = threading.RLock()

    def close(self) -> None:
        """Release the decoder and everything that is kept."""
        with self._guard:
            self._frames.close()
            self._samples.clear()
            self._beside.clear()
            self._plates.clear()

    def patch(self, source: DecodedFrame) -> Patch | None:
        """The background for a frame; None where the target is not in it."""
        alpha, roi = self._hole(source.frame_index)
        if alpha is None:
            return None
        around = _grown(roi, _RING_PX, self._clip.hw)
        layers = []
        for key, weight in self._keys_around(source.frame_index):
            with self._guard:
                matrix = self._path.between(source.frame_index, key)
                if matrix is None:
                    continue
                plate = self._plate(key, is_block=False)
                if key != source.frame_index:
                    matrix = np.linalg.inv(self._path.refine(key, source.frame_index, np.linalg.inv(matrix)))
            layers.append((weight, plate, matrix))
        if not layers:  # a frame that matches neither key, as in a flash
            with self._guard:
                layers = [(1.0, self._plate(source.frame_index, is_block=False), np.eye(3))]
        picture, is_scene = source.to_rgb(*around), ~_cut(self._moving(source.frame_index, self._edge_px + SEAM_PX), around)
        laid = [
            (weight, *_lay_onto(picture, is_scene, plate, matrix, around, source.frame_index)) for weight, plate, matrix in layers
        ]
        rgb, freshness = _fade(laid)
        inner = (slice(roi[1] - around[1], roi[3] - around[1]), slice(roi[0] - around[0], roi[2] - around[0]))
        return Patch(roi, rgb[inner], alpha, freshness[inner])

    # -- masks ------------------------------------------------------------------------------------------------------------------

    def _moving_mask(self, frame_index: int) -> Array | None:
        found = self._moving(frame_index, self._edge_px)
        return found if found.any() else None

    def _moving(self, frame_index: int, grow_px: float) -> Array:
        """Everything that is not background at a frame, grown, bool[H,W]."""
        key = frame_index, grow_px
        with self._guard:
            kept = self._moving_seen.get(key)
        if kept is not None:
            return np.unpackbits(kept, count=self._clip.width * self._clip.height).reshape(self._clip.hw).astype(np.bool_)
        found = self._find_moving(frame_index, grow_px)
        with self._guard:
            self._moving_seen[key] = np.packbits(found)
            if len(self._moving_seen) > _MAX_MASKS:
                self._moving_seen.popitem(last=False)
        return found

    def _find_moving(self, frame_index: int, grow_px: float) -> Array:
        union = np.zeros(self._clip.hw, np.bool_)
        for track in (self._target, *self._others):
            runs = track.runs[frame_index]
            if runs is not None:
                union |= masks.decode_rle(runs, track.hw)
        return _grow(union, grow_px)

    def _hole(self, frame_index: int) -> tuple[Array | None, Roi]:
        """How far the background takes the picture's place, f32[h,w], and where; None where the target is not in the frame."""
        runs = self._target.runs[frame_index]
        nothing = None, (0, 0, 1, 1)
        if runs is None:
            return nothing
        mask = masks.decode_rle(runs, self._target.hw)
        if not mask.any():
            return nothing
        seam_px = max(SEAM_PX, 2 * self._target.feather_px)
        roi = _grown(_bounds(mask), int(np.ceil(self._edge_px + seam_px)) + 1, self._clip.hw)
        outside_px = cv2.distanceTransform((~_cut(mask, roi)).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        share = np.clip((outside_px - self._edge_px) / seam_px, 0, 1)
        return (1 - share * share * (3 - 2 * share)).astype(np.float32), roi

    # -- plates -----------------------------------------------------------------------------------------------------------------

    def _keys_around(self, frame_index: int) -> list[tuple[int, float]]:
        """The keys whose plates make a frame, and how much each counts. At a cut the shot's last or first frame is one."""
        before = frame_index // KEY_SPACING * KEY_SPACING
        after = min(before + KEY_SPACING, self._clip.num_frames - 1)
        with self._guard:
            if self._path.between(before, after) is None:
                before, after = self._end_of_shot(frame_index, before), self._end_of_shot(frame_index, after)
        share = (frame_index - before) / max(1, after - before)
        weight = share * share * (3 - 2 * share)
        return [(key, each) for key, each in ((before, 1 - weight), (after, weight)) if each > 0]

    def _end_of_shot(self, frame_index: int, toward: int) -> int:
        """The frame nearest to ``toward``, on the way there from a frame, that is of the same shot."""
        if self._path.between(frame_index, toward) is not None:
            return toward
        inside, outside = frame_index, toward
        while abs(outside - inside) > 1:
            middle = (inside + outside) // 2
            if self._path.between(frame_index, middle) is None:
                outside = middle
            else:
                inside = middle
        return inside

    def _plate(self, key: int, is_block: bool) -> Plate:
        """The plate of a frame, made now if it is not there; the guard is held."""
        found = self._plates.get((key, is_block))
        if found is None:
            self._read_samples(key)
            found = self._plates[(key, is_block)] = self._make_plate(key, is_block)
            if len(self._plates) > _MAX_PLATES:
                self._plates.popitem(last=False)
        self._plates.move_to_end((key, is_block))
        return found

    def _read_samples(self, key: int) -> None:
        """Have the nodes within reach of a frame at hand; let go of those that no later plate can need."""
        first, last = max(0, key - self._reach), min(self._clip.num_frames - 1, key + self._reach)
        first = -(-first // NODE_SPACING) * NODE_SPACING
        nodes = list(range(first, last + 1, NODE_SPACING))
        missing = [index for index in nodes if index not in self._samples]
        for number, index in enumerate(missing):
            self._report(Progress("looking behind what is removed", number + 1, len(missing)))
            self._samples[index] = self._frames.frame(index)
            self._path.view(index)
        for index in self._frames_beside(key):
            self._beside[index] = self._sample(index)
            self._beside.move_to_end(index)
            if len(self._beside) > _MAX_BESIDE:
                self._beside.popitem(last=False)
        oldest = first - BLOCK_FRAMES
        for index in [each for each in self._samples if each < oldest]:
            del self._samples[index]
        self._path.forget_before(oldest)

    def _make_plate(self, key: int, is_block: bool) -> Plate:
        wanted, roi = self._hidden_region(key, is_block)
        views = _Views(key, roi, wanted)
        for index in self._by_distance(key):
            matrix = self._path.between(key, index)
            if matrix is None:
                continue
            is_scene = ~self._moving(index, self._edge_px)
            if not views.needs(is_scene, matrix):
                continue
            if index != key:
                matrix = self._path.refine(key, index, matrix)
            views.add(self._sample(index), is_scene, matrix)
            if views.is_complete():
                break
        rgb, num_views, motion = views.merge()
        is_filled = num_views > 0
        if (wanted & ~is_filled).any():
            self._fill(key, is_block, roi, wanted, rgb, is_filled)
        return Plate(key, roi, cv2.convertScaleAbs(rgb), num_views, is_filled, motion)

    def _sample(self, index: int) -> DecodedFrame:
        return self._samples.get(index) or self._beside.get(index) or self._frames.frame(index)

    def _frames_beside(self, key: int) -> list[int]:
        return [key + step for step in _BESIDE_STEPS if 0 <= key + step < self._clip.num_frames]

    def _by_distance(self, key: int) -> list[int]:
        nodes = [index for index in self._samples if abs(index - key) <= self._reach]
        return sorted({key, *self._frames_beside(key), *nodes}, key=lambda index: (abs(index - key), index))

    def _hidden_region(self, key: int, is_block: bool) -> tuple[Array, Roi]:
        """What the target hides in the frames that a plate serves, bool[h,w] in the key's frame of reference, and where."""
        reach = BLOCK_FRAMES // 2 + KEY_SPACING if is_block else KEY_SPACING
        first, last = max(0, key - reach + 1), min(self._clip.num_frames - 1, key + reach - 1)
        step = 4 if is_block else 1
        outlines = []
        for index in range(first + (key - first) % step, last + 1, step):
            alpha, hole = self._hole(index)
            matrix = None if alpha is None else self._path.between(index, key)
            if matrix is not None and alpha is not None:
                outlines.append((alpha > 0, hole, matrix))
        roi = self._roi_of([geometry.apply_map(matrix, geometry.box_corners(np.array(hole))) for _, hole, matrix in outlines])
        wanted = np.zeros((roi[3] - roi[1], roi[2] - roi[0]), np.uint8)
        for mask, hole, matrix in outlines:
            from_hole = geometry.translation(np.array(hole[:2], np.float64))
            to_roi = geometry.pixel_map(geometry.translation(-np.array(roi[:2], np.float64)) @ matrix @ from_hole)
            np.maximum(wanted, cv2.warpPerspective(mask.astype(np.uint8), to_roi, wanted.shape[::-1]), out=wanted)
        return cv2.dilate(wanted, np.ones((5, 5), np.uint8)) > 0, roi

    def _roi_of(self, outlines: Sequence[Array]) -> Roi:
        """What a plate covers: the bounds of outlines f64[4,2] and what surrounds them, not too far from the picture."""
        height, width = self._clip.hw
        points = np.concatenate(outlines) if outlines else np.zeros((1, 2))
        bounds = geometry.bounds_of(points) + np.array([-_RING_PX, -_RING_PX, _RING_PX, _RING_PX])
        low, high = np.array([-width // 2, -height // 2] * 2), np.array([width * 3 // 2, height * 3 // 2] * 2)
        x0, y0, x1, y1 = (int(value) for value in np.clip(np.round(bounds), low, high))
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    def _fill(self, key: int, is_block: bool, roi: Roi, wanted: Array, rgb: Array, is_filled: Array) -> None:
        """Make up, in place, what no frame shows: taken from the plate of the whole stretch, where that covers it."""
        master = key if is_block else self._block_key(key)
        if not is_block:
            matrix = self._path.between(key, master)
            if matrix is not None:
                plate = self._plate(master, is_block=True)
                made, _, is_known = _project(plate, self._path.refine(key, master, matrix), roi)
                take = wanted & ~is_filled & is_known
                rgb[take] = made[take]
                is_filled |= take
        hole = wanted & ~is_filled
        if hole.any():
            rgb[...] = fill_hole(rgb, is_filled, hole)
            is_filled |= hole

    def _block_key(self, key: int) -> int:
        """The key whose plate makes up what is hidden around ``key``: the middle one of a stretch, within the shot of ``key``."""
        count = max(1, round(self._clip.num_frames / BLOCK_FRAMES))
        length = self._clip.num_frames / count
        block = min(count - 1, int(key / length))
        middle = int((block + 0.5) * length) // KEY_SPACING * KEY_SPACING
        step = KEY_SPACING if key > middle else -KEY_SPACING
        while middle != key and abs(middle - key) >= KEY_SPACING and self._path.between(middle, key) is None:
            middle += step
        return middle if abs(middle - key) >= KEY_SPACING else key


@dataclass(frozen=True, eq=False, slots=True)
class _View:
    """A frame that shows some of the background: a part ``image`` u8[h,w,3] of it, where that is ``scene`` u8[h,w] (255 or 0), the
    map from the key to it, and how it is matched: ``even`` u8[h,w] where ``known`` bool[h,w]."""

    frame_index: int
    image: Array
    scene: Array
    matrix: Array
    even: Array
    known: Array


class _Views:
    """Pictures of one piece of background around frame ``key``, laid onto each other."""

    def __init__(self, key: int, roi: Roi, wanted: Array) -> None:
        self.key, self.roi, self.wanted = key, roi, wanted
        self.grid = Grid.over((wanted.shape[0], wanted.shape[1]))
        self._counts = np.zeros(wanted.shape, np.uint8)
        self._views: list[_View] = []

    def needs(self, is_scene: Array, matrix: Array) -> bool:
        """Whether a frame would add to what is wanted."""
        seen = _warp(is_scene.astype(np.uint8) * 255, matrix, self.roi, cv2.INTER_LINEAR) == 255
        return bool(np.count_nonzero(seen & self.wanted & (self._counts < MAX_VIEWS)) > 0.01 * np.count_nonzero(self.wanted)) or (
            not self._views and bool(seen.any())
        )

    def is_complete(self) -> bool:
        return bool((self._counts[self.wanted] >= MAX_VIEWS).all())

    def add(self, frame: DecodedFrame, is_scene: Array, matrix: Array) -> None:
        """Take a frame in; ``matrix`` takes the key to it."""
        image, part = _read_part(frame, matrix, self.roi)
        if image is None:
            return
        matrix = geometry.translation(-np.array(part[:2], np.float64)) @ matrix
        scene = _cut(is_scene, part).astype(np.uint8) * 255
        is_seen = _warp(scene, matrix, self.roi, cv2.INTER_LINEAR) == 255
        even = self.grid.even(_warp(image, matrix, self.roi, cv2.INTER_CUBIC, border=cv2.BORDER_REPLICATE))
        self._views.append(_View(frame.frame_index, image, scene, matrix, even, self.grid.known(is_seen)))
        self._counts += is_seen & (self._counts < MAX_VIEWS)

    def merge(self) -> tuple[Array, Array, Motion]:
        """The background f32[h,w,3], of how many pictures it is the mean f32[h,w] (0: none shows it), and how it moves."""
        height, width = self.wanted.shape
        flows = self._align()
        counts = np.zeros(self.wanted.shape, np.uint8)
        base, pictures, seen = np.zeros((height, width, 3), np.uint8), [], []
        for view, flow in zip(self._views, flows, strict=True):
            full = None if np.abs(flow).max() < LATITUDE_PX else self.grid.full(without_noise(flow))
            picture = _warp(view.image, view.matrix, self.roi, flow=full)
            is_seen = _warp(view.scene, view.matrix, self.roi, cv2.INTER_LINEAR, flow=full) == 255
            picture = _match_exposure(picture, base, (counts > 0) & is_seen)
            is_seen &= counts < MAX_VIEWS
            fresh = is_seen & (counts == 0)
            base[fresh] = picture[fresh]
            counts += is_seen
            pictures.append(picture)
            seen.append(is_seen)
        away = np.array([view.frame_index - self.key for view in self._views], np.float32)
        nearness = 1 / (1 + (away / np.float32(_NEAR_FRAMES)) ** 2)
        rgb, num_views = _merge(pictures, seen, nearness) if pictures else (np.zeros((height, width, 3), np.float32), counts * 0.0)
        return rgb, num_views, Motion.of(self.grid, self.key, [view.frame_index for view in self._views], flows)

    def _align(self) -> list[Array]:
        """How the scene at the key moved to every view, f32[h,w,2] each; behind the thing as well."""
        still = np.zeros((*self.grid.size[::-1], 2), np.float32)
        others = [view for view in self._views if view.frame_index != self.key]
        if not others:
            return [still for _ in self._views]
        base = self._choose_base(others)
        even, known = base.even.copy(), base.known.copy()
        moved, smooth, seen = {base.frame_index: still}, [still], [(base.even, base.known)]
        for view in sorted(others, key=lambda each: (abs(each.frame_index - base.frame_index), each.frame_index)):
            if view is base:
                continue
            guess = self._guess(moved, base.frame_index, view.frame_index)
            flow, trust = measure_flow(self.grid, even, known, view.even, view.known, guess)
            smooth.append(spread_flow(flow, trust))
            flow = guess + spread_flow(flow - guess, trust, is_fine=True)
            moved[view.frame_index] = flow
            seen.append((view.even, view.known))
            fresh = ~known & (self.grid.moved(view.known.astype(np.uint8) * 255, flow) == 255)
            even[fresh] = self.grid.moved(view.even, flow)[fresh]
            known |= fresh
        chosen = choose_detail(self.grid, smooth, list(moved.values()), seen)
        moved = dict(zip(moved, chosen, strict=True))
        motion = Motion.of(self.grid, base.frame_index, list(moved), list(moved.values()))
        keys = [view for view in self._views if view.frame_index == self.key]
        if keys:
            guess = np.tensordot(motion.expected(self.key).astype(np.float32), motion.fields, 1) if len(motion.fields) else still
            flow, trust = measure_flow(self.grid, even, known, keys[0].even, keys[0].known, guess)
        else:
            flow, trust = still, np.zeros(known.shape, np.float32)
        back = invert_flow(self.grid, complete_flow(flow, trust, motion.fields, motion.expected(self.key)))
        return [
            still if view.frame_index == self.key else back + self.grid.moved(moved[view.frame_index], back) for view in self._views
        ]

    def _guess(self, moved: dict[int, Array], start: int, stop: int) -> Array:
        """The motion from ``start`` to ``stop``, going on as it went to the last frame on the way that is known."""
        way = [index for index in moved if (index - start) * (stop - start) > 0]
        if not way:
            return moved[start]
        last = max(way, key=lambda index: abs(index - start))
        return moved[last] * np.float32(min(2.0, (stop - start) / (last - start)))

    def _choose_base(self, views: list[_View]) -> _View:
        """The view nearest to the key of those that show almost as much of what is wanted as any."""
        wanted = cv2.resize(self.wanted.astype(np.uint8), self.grid.size, interpolation=cv2.INTER_NEAREST) > 0
        shown = [np.count_nonzero(view.known & wanted) for view in views]
        return next(view for view, count in zip(views, shown, strict=True) if count >= _ALMOST * max(shown))


def _merge(pictures: Sequence[Array], seen: Sequence[Array], nearness: Array) -> tuple[Array, Array]:
    """One picture f32[h,w,3] of several u8[h,w,3], each where it is ``seen`` bool[h,w], and of how many it is the mean f32[h,w], 0
    where none is seen. At every place one is chosen: that which the others bear out best, the more so the nearer in time they are
    (``nearness`` f32[n]). Those that show the same there are averaged with it."""
    height, width = seen[0].shape
    size = max(1, width // 2), max(1, height // 2)
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    shown = [cv2.resize(each.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) == 255 for each in seen]
    support = np.stack([near * is_shown.astype(np.float32) for near, is_shown in zip(nearness, shown, strict=True)])
    for one in range(len(small)):
        for other in range(one):
            likeness = _likeness(small[one], small[other]) * (shown[one] & shown[other])
            support[one] += nearness[other] * likeness
            support[other] += nearness[one] * likeness
    chosen = support.argmax(axis=0)
    likely = np.take_along_axis(np.stack(small), chosen[None, ..., None], axis=0)[0]
    total, squares = np.zeros((2, height, width), np.float32)
    rgb = np.zeros((height, width, 3), np.float32)
    for picture, tiny, is_seen, near in zip(pictures, small, seen, nearness, strict=True):
        likeness = cv2.resize(cv2.blur(_likeness(tiny, likely), (3, 3)), (width, height), interpolation=cv2.INTER_LINEAR)
        weight = near * (likeness + np.float32(_LEAST_WEIGHT)) * is_seen
        rgb += weight[..., None] * picture
        total += weight
        squares += weight * weight
    is_any = total > 0
    return rgb / np.where(is_any, total, 1)[..., None], np.where(is_any, total * total / np.where(is_any, squares, 1), 0)


def _likeness(one: Array, other: Array) -> Array:
    """How alike two pictures u8[h,w,3] are around every pixel, f32[h,w] in 0..1."""
    away = cv2.boxFilter(cv2.absdiff(one, other), cv2.CV_32F, (_ALIKE_PX, _ALIKE_PX))
    away = cv2.transform(away, np.full((1, 3), 1 / 3, np.float32))
    likeness: Array = np.exp(-((away / np.float32(_ALIKE_LEVELS)) ** 2))
    return likeness


# -- laying pictures onto each other ----------------------------------------------------------------------------------------------


def _match_exposure(picture: Array, base: Array, both: Array) -> Array:
    """``picture`` u8[h,w,3] with the exposure and colour that ``base`` has where both show the same."""
    if np.count_nonzero(both) < 400:
        return picture
    gains, offsets = _fit_exposure(picture[both], base[both])
    if np.abs(gains - 1).max() < 0.004 and np.abs(offsets).max() < 0.5:
        return picture
    return np.clip(picture * gains + offsets + 0.5, 0, 255).astype(np.uint8)


def _fit_exposure(values: Array, wanted: Array) -> tuple[Array, Array]:
    """Gain and offset f32[3] that bring u8[n,3] to u8[n,3]: least squares, once more without outliers, drawn a little to none."""
    step = 1 + len(values) // 20_000
    a, b = values[::step].astype(np.float64), wanted[::step].astype(np.float64)
    gains, offsets = np.ones(3), np.zeros(3)
    near = np.abs(a - b - np.median(a - b, axis=0)) < 24
    for _ in range(2):
        for channel in range(3):
            x, y = a[near[:, channel], channel], b[near[:, channel], channel]
            if len(x) < 100:
                continue
            x_mean, y_mean = x.mean(), y.mean()
            spread, shrink = ((x - x_mean) ** 2).mean(), 16.0
            gain = (((x - x_mean) * (y - y_mean)).mean() + shrink) / (spread + shrink)
            gains[channel] = np.clip(gain, 0.6, 1.6)
            offsets[channel] = np.clip(y_mean - gains[channel] * x_mean, -64, 64)
        near = np.abs(a * gains + offsets - b) < 12
    return gains.astype(np.float32), offsets.astype(np.float32)


def _lay_onto(
    picture: Array, is_scene: Array, plate: Plate, matrix: Array, roi: Roi, frame_index: int
) -> tuple[Array, Array, Array]:
    """A plate laid onto a frame u8[h,w,3] over ``roi``: its colours f32[h,w,3], its views f32[h,w], and where it has any bool[h,w].
    ``matrix`` takes the frame to the plate's key; ``is_scene`` bool[h,w] is where the frame shows the background itself."""
    grid = Grid.over((picture.shape[0], picture.shape[1]))
    rgb, num_views, is_known = _project(plate, matrix, roi, interpolation=cv2.INTER_CUBIC)
    to_plate = _to_plate(plate, matrix) @ geometry.translation(np.array(roi[:2], np.float64))
    fields, expected = plate.motion.seen_over(grid, to_plate), -plate.motion.expected(frame_index)
    guess = np.tensordot(expected.astype(np.float32), fields, 1) if len(fields) else None
    flow, trust = measure_flow(
        grid, grid.even(picture), grid.known(is_scene), grid.even(rgb), grid.known(is_known & (num_views > 0)), guess
    )
    flow = complete_flow(flow, trust, fields, expected)
    full = None if np.abs(flow).max() < LATITUDE_PX else grid.full(without_noise(flow))
    rgb, num_views, is_known = _project(plate, matrix, roi, full)
    is_shared = is_scene & is_known & (num_views > 0)
    colors = rgb.astype(np.float32)
    sparse = (slice(None, None, 2), slice(None, None, 2))
    if np.count_nonzero(is_shared) >= 400:
        gains, offsets = _fit_exposure(rgb[sparse][is_shared[sparse]], picture[sparse][is_shared[sparse]])
        colors = colors * gains + offsets
        colors += _surround_difference(picture, colors, is_shared)
    return colors, num_views, is_known


def _surround_difference(picture: Array, colors: Array, is_shared: Array) -> Array:
    """The low frequencies of ``picture`` u8[h,w,3] minus ``colors`` f32[h,w,3] around a hole, carried into it: f32[h,w,3]."""
    step = _SPARSE_PX if min(is_shared.shape) >= 8 * _SPARSE_PX else 1
    sparse = (slice(step // 2, None, step), slice(step // 2, None, step))
    difference = picture[sparse].astype(np.float32) - colors[sparse]
    trust = (is_shared[sparse] * np.exp(-((np.abs(difference).max(axis=2) / 16) ** 2))).astype(np.float32)
    smooth = average_by_trust(difference, trust, (max(trust.shape) / 4, max(trust.shape) / 8, 24 / step))
    return cv2.resize(smooth, is_shared.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _fade(laid: list[tuple[float, Array, Array, Array]]) -> tuple[Array, Array]:
    """Plates laid onto a frame, (weight, colours, views, where), as one: colours f32[h,w,3] and freshness f32[h,w]."""
    total = sum(weight * is_known.astype(np.float32) for weight, _, _, is_known in laid)
    shares = [np.where(total > 0, weight * is_known / np.maximum(total, 1e-6), weight) for weight, _, _, is_known in laid]
    rgb = sum(share[..., None] * each[1] for share, each in zip(shares, laid, strict=True))
    views = sum(share * each[2] for share, each in zip(shares, laid, strict=True))
    freshness = np.where(views < 0.5, np.float32(1), np.sqrt(1 - 1 / np.maximum(views, 1)))
    return np.clip(rgb, 0, 255).astype(np.float32), freshness.astype(np.float32)


def _to_plate(plate: Plate, matrix: Array) -> Array:
    """The map from a frame to a plate's own pixels, where ``matrix`` takes the frame to the plate's key."""
    return geometry.translation(-np.array(plate.roi[:2], np.float64)) @ matrix


def _project(
    plate: Plate, matrix: Array, roi: Roi, flow: Array | None = None, interpolation: int = cv2.INTER_LANCZOS4
) -> tuple[Array, Array, Array]:
    """A plate seen over ``roi`` of a frame, which ``matrix`` takes to the plate's key: colours u8, views f32, where it is known."""
    to_plate = _to_plate(plate, matrix)
    rgb = _warp(plate.rgb, to_plate, roi, interpolation, flow, cv2.BORDER_REPLICATE)
    num_views = _warp(plate.num_views, to_plate, roi, cv2.INTER_NEAREST, flow).astype(np.float32)
    is_known = _warp(plate.is_filled.astype(np.uint8) * 255, to_plate, roi, cv2.INTER_LINEAR, flow) == 255
    return rgb, num_views, is_known


def _warp(
    image: Array,
    matrix: Array,
    roi: Roi,
    interpolation: int = cv2.INTER_LANCZOS4,
    flow: Array | None = None,
    border: int = cv2.BORDER_CONSTANT,
) -> Array:
    """``image`` as seen over ``roi``: the value at p is the image's at ``matrix`` of p (plus ``flow`` f32[h,w,2]). A map that moves
    by whole pixels copies."""
    width, height = roi[2] - roi[0], roi[3] - roi[1]
    placed = matrix @ geometry.translation(np.array(roi[:2], np.float64))
    if flow is not None:
        x, y = _moved_grid(placed, flow)
        return cv2.remap(image, x, y, interpolation, borderMode=border)
    shift = np.round(placed[:2, 2])
    if np.allclose(placed, geometry.translation(shift), atol=1e-6):
        interpolation = cv2.INTER_NEAREST
        placed = geometry.translation(shift)
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(image, geometry.pixel_map(placed), (width, height), flags=flags, borderMode=border)


def _moved_grid(matrix: Array, flow: Array) -> tuple[Array, Array]:
    """Pixel indices f32[h,w] each at which ``matrix`` of every pixel's centre plus ``flow`` f32[h,w,2] lies."""
    x = flow[..., 0] + (np.arange(flow.shape[1], dtype=np.float32) + np.float32(0.5))
    y = flow[..., 1] + (np.arange(flow.shape[0], dtype=np.float32) + np.float32(0.5))[:, None]
    rows = (matrix / matrix[2, 2]).astype(np.float32)
    across, down = (rows[axis, 0] * x + rows[axis, 1] * y + rows[axis, 2] for axis in (0, 1))
    if rows[2, :2].any():
        depth = rows[2, 0] * x + rows[2, 1] * y + 1
        across, down = across / depth, down / depth
    return across - np.float32(0.5), down - np.float32(0.5)


def _read_part(frame: DecodedFrame, matrix: Array, roi: Roi) -> tuple[Array | None, Roi]:
    """The part of a frame that is seen over ``roi``, u8, and where it is; None when none of it is."""
    corners = geometry.apply_map(matrix, geometry.box_corners(np.array(roi, np.float64)))
    part = _grown(tuple(int(value) for value in (*np.floor(corners.min(axis=0)), *np.ceil(corners.max(axis=0)))), 8, frame.hw)  # type: ignore[arg-type]
    if part[0] >= part[2] or part[1] >= part[3]:
        return None, part
    return frame.to_rgb(*part), part


# -- small things -----------------------------------------------------------------------------------------------------------------


def needed_reach(clip: Clip) -> int:
    """How many frames before and after a frame its background may depend on, masks included."""
    return KEY_SPACING + BLOCK_FRAMES + max(_reach_frames(clip), BLOCK_FRAMES // 2 + KEY_SPACING)


def _reach_frames(clip: Clip) -> int:
    """How far plates may look, so that the frames in the window fit into ``SAMPLE_BYTES``."""
    fitting = SAMPLE_BYTES // (2 * clip.width * clip.height)
    spare = BLOCK_FRAMES // NODE_SPACING
    return int(min(REACH_FRAMES, max(2, (fitting - spare) // 2) * NODE_SPACING))


def _bounds(mask: Array) -> Roi:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def _grown(roi: Roi, margin_px: int, hw: tuple[int, int]) -> Roi:
    """``roi`` with a margin, inside the picture."""
    x0, y0, x1, y1 = roi
    return max(0, x0 - margin_px), max(0, y0 - margin_px), min(hw[1], x1 + margin_px), min(hw[0], y1 + margin_px)


def _cut(picture: Array, roi: Roi) -> Array:
    return picture[roi[1] : roi[3], roi[0] : roi[2]]


def _grow(mask: Array, grow_px: float) -> Array:
    """``mask`` grown by a disk; only what lies near it is looked at."""
    if not mask.any():
        return mask
    roi = _grown(_bounds(mask), int(np.ceil(grow_px)) + 2, (mask.shape[0], mask.shape[1]))
    grown = np.zeros_like(mask)
    grown[roi[1] : roi[3], roi[0] : roi[2]] = masks.grow_mask(_cut(mask, roi), grow_px)
    return grown
