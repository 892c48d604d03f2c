"""How good every frame of a result is, measured while it is rendered: where it looks less like its reference, leaves its box,
flickers, or changes what nobody asked to be changed.

No network's weights are needed and no truth is known: the object's region of the result is brought back through the layer's own
motion onto a small canvas, where it ought to look like the reference at every frame, and like itself the frame before. Any engine
is measured by what its frames carry. Of several layers the worst value counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import geometry, masks
from .motion import LayerMotion, build_layer_motion
from .types import Array, Frame, InsertionRequest, Layer

CANVAS_SIDE = 48
"""Samples along the longer side of the canvas."""

CONTROL_POINTS = 9
"""Where the warp is asked, along each side; between them it is interpolated."""

LEAST_SHARE = 0.1
"""An object of which less than this share is laid in the picture is not judged for its looks."""

LEAST_VISIBLE = 0.25
"""An object of which less than this share can lie in the picture is not judged for its place."""

SOLID = 0.9
"""Only what covers at least this much of a cell is judged."""

LEAK_STEP = 4
"""One pixel in so many each way is compared to the source; the touched region is grown by one of these steps."""

MEASURES = ("identity", "box_adherence", "flicker", "background_leak")

_WINDOW_SIGMA = 1.5
_STRUCTURE_C = (0.03 * 255) ** 2
_COLOUR_SCALE = 40.0
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class FrameQuality:
    """One frame; None where a measure is not defined.

    ``identity`` 0..1: structure and colour of the object in the result against its reference. ``box_adherence`` 0..1: how much of
    the object's place was laid, and how little outside its effective box. ``flicker``: mean change of the object since the frame
    before, in 8-bit levels. ``background_leak``: mean absolute difference to the source outside the touched region, likewise.
    """

    identity: float | None = None
    box_adherence: float | None = None
    flicker: float | None = None
    background_leak: float | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """All frames of a result, in order: ``frames`` are their numbers in the clip."""

    frames: tuple[int, ...]
    values: tuple[FrameQuality, ...]

    def to_document(self) -> dict[str, list[Any]]:
        """Plain JSON values: one list for the frames and one for each of ``MEASURES``."""
        lists = {name: [_rounded(getattr(each, name)) for each in self.values] for name in MEASURES}
        return {"frames": list(self.frames), **lists}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


class QualityMeter:
    """Looks at a render's frames in order, once each. Frames that carry the layers they were made of are measured by those, others
    by the request's."""

    def __init__(self, request: InsertionRequest) -> None:
        self._request = request
        self._layers: tuple[Layer, ...] | None = None
        self._judges: list[_Judge] = []
        self._before: tuple[int, list[_Seen | None]] | None = None
        self._frames: list[int] = []
        self._values: list[FrameQuality] = []

    def see(self, frame: Frame) -> None:
        """One more frame."""
        judges = self._find_judges(frame.layers or self._request.layers)
        alpha = np.ascontiguousarray(frame.layer_patch[..., 3])
        seen = [judge.look(frame, alpha, judges) for judge in judges]
        adherence = [judge.adherence(frame, alpha, judges) for judge in judges]
        flicker: list[float | None] = []
        if self._before is not None and self._before[0] == frame.frame_index - 1:
            flicker = [_change(now, then) for now, then in zip(seen, self._before[1], strict=False)]
        self._before = frame.frame_index, seen
        self._frames.append(frame.frame_index)
        self._values.append(
            FrameQuality(
                identity=_worst(min, [None if each is None else each.identity for each in seen]),
                box_adherence=_worst(min, adherence),
                flicker=_worst(max, flicker),
                background_leak=_leak(frame),
            )
        )

    def quality(self) -> Quality:
        """What was seen so far."""
        return Quality(tuple(self._frames), tuple(self._values))

    def _find_judges(self, layers: tuple[Layer, ...]) -> list[_Judge]:
        if layers is not self._layers:
            self._layers = layers
            self._judges = [_Judge(layer) for layer in layers if _is_judged(layer)]
        return self._judges


def _is_judged(layer: Layer) -> bool:
    """Whether it is known what should be seen, and where."""
    has_motion = layer.boxes is not None or layer.trajectories is not None
    return layer.kind != "remove" and layer.pending is None and bool(layer.references) and has_motion


def _worst(choose: Any, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return None if not known else float(choose(known))


@dataclass(frozen=True, eq=False, slots=True)
class _Seen:
    """An object brought back to its canvas: ``image`` f32[h,w,3], ``weight`` f32[h,w] (how much of it counts), ``identity``."""

    image: Array
    weight: Array
    identity: float


@dataclass(eq=False, slots=True)
class _Judge:
    """One layer: its motion, and its reference as it should look on the canvas."""

    layer: Layer
    motion: LayerMotion = field(init=False)
    _reference: Array = field(init=False)
    _weight: Array = field(init=False)
    _colour: Array = field(init=False)
    _grid: Array = field(init=False)

    def __post_init__(self) -> None:
        self.motion = build_layer_motion(self.layer)
        box = np.array(self.layer.references[0].tight_box_px())
        self._reference, self._weight = _shrink_reference(self.layer, box)
        self._colour = _lab(self._reference)
        x, y = (np.linspace(box[axis], box[axis + 2], CONTROL_POINTS) for axis in (0, 1))
        self._grid = np.stack(np.meshgrid(x, y), axis=-1)

    def look(self, frame: Frame, alpha: Array, judges: list[_Judge]) -> _Seen | None:
        """The object in the result; None where it is not in the picture, or covered."""
        if not self.motion.exists(frame.frame_index):
            return None
        corners = self.motion.warp(frame.frame_index).forward(self._grid)
        roi = _inside(geometry.bounds_of(corners.reshape(-1, 2)), _region(frame))
        if roi is None:
            return None
        covers = judges[judges.index(self) + 1 :]
        spans = _spans(corners)
        image, laid, scale = _reduced(frame, alpha, roi, spans, self._reference.shape[:2], covers)
        places = _samples((corners - [roi[0], roi[1]]) * scale, self._reference.shape[:2])
        found = _sample(image, places)
        solid = _sample(laid, places) / max(self.layer.blend.opacity, 1e-3)
        weight = self._weight * np.where(solid >= SOLID, np.minimum(solid, 1), 0)  # edges show what lies behind
        if weight.sum() < LEAST_SHARE * self._weight.sum():
            return None
        wanted = _as_fine_as(self._reference, spans)
        identity = self._identity(found, weight, wanted)
        streak = self._streak(frame.frame_index, corners)
        if streak is not None:  # blur that was asked for is not held against the object, nor is its absence
            identity = max(identity, self._identity(found, weight, streak(wanted)))
        return _Seen(found, weight, identity)

    def _streak(self, frame_index: int, corners: Array) -> Callable[[Array], Array] | None:
        """The motion blur that the layer asks for, as a filter of the canvas; None where it is too short to be seen."""
        import cv2

        half = self.layer.blend.motion_blur / 2
        if half == 0:
            return None
        path = self.motion.warp(frame_index + half).forward(self._grid) - self.motion.warp(frame_index - half).forward(self._grid)
        axes = np.stack([(corners[:, -1] - corners[:, 0]).mean(axis=0), (corners[-1] - corners[0]).mean(axis=0)], axis=1)
        if abs(np.linalg.det(axes)) < 1e-3:
            return None
        x, y = np.linalg.solve(axes, path.mean(axis=(0, 1))) * [self._reference.shape[1], self._reference.shape[0]]
        reach = float(np.hypot(x, y)) / 2
        if not 0.75 <= reach <= CANVAS_SIDE / 2:
            return None
        side = int(np.ceil(reach))
        kernel = np.zeros((2 * side + 1, 2 * side + 1), np.float32)
        ends = [(round(16 * (side + sign * x / 2)), round(16 * (side + sign * y / 2))) for sign in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
        return lambda canvas: cv2.filter2D(canvas, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)

    def _identity(self, found: Array, weight: Array, reference: Array) -> float:
        """Contrast and structure of luma (SSIM without its luminance term) times nearness of the local colour."""
        smooth = _Smoother(weight)
        own, wanted = _luma(found), _luma(reference)
        mean_own, mean_wanted = smooth(own), smooth(wanted)
        var_own, var_wanted = smooth(own * own) - mean_own**2, smooth(wanted * wanted) - mean_wanted**2
        covariance = smooth(own * wanted) - mean_own * mean_wanted
        structure = (2 * covariance + _STRUCTURE_C) / (var_own + var_wanted + _STRUCTURE_C)
        apart = smooth(_lab(found) - self._colour) * np.array([0.5, 1, 1], np.float32)
        colour = np.exp(-np.square(apart).sum(axis=-1) / _COLOUR_SCALE**2)
        return float(np.clip((np.clip(structure, 0, 1) * colour * weight).sum() / weight.sum(), 0, 1))

    def adherence(self, frame: Frame, alpha: Array, judges: list[_Judge]) -> float | None:
        """|L and W| / |W or (L less E)|: bounds of what was laid L, of the warped reference W, and of ``place`` E.

        What a layer removes, what stays in front of it, and the places of other layers are left out of the account.
        """
        index, (height, width) = frame.frame_index, frame.source.hw
        if not self.motion.exists(index):
            return None
        own = _bounds_inside(self.motion.warped_outline_px(index), width, height)
        if own is None:
            return None
        laid = self._laid_bounds(frame, alpha, judges, own)
        if laid is None:
            return 0.0
        spilt = _area(laid) - _area(_common(laid, self.place(index)))
        return _area(_common(laid, own)) / (_area(own) + spilt)

    def place(self, frame_index: int) -> Array:
        """The effective box f64[4] at a frame, and where its shadow may fall."""
        box, blend = self.motion.effective_box_px(frame_index).astype(np.float64), self.layer.blend
        if blend.shadow == 0:
            return box
        high, angle = box[3] - box[1], np.deg2rad(blend.shadow_angle_deg)
        away = blend.shadow_length * high * np.array([np.cos(angle), np.sin(angle)])
        margin = 0.25 * high
        low, far = np.minimum(box[:2], box[:2] + away) - margin, np.maximum(box[2:], box[2:] + away) + margin
        return np.concatenate([low, far])

    def _laid_bounds(self, frame: Frame, alpha: Array, judges: list[_Judge], own: Array) -> Array | None:
        """Bounds f64[4] of what was laid for this layer, as far as it can be told from what was laid for others."""
        import cv2

        laid, corner = (alpha >= 128).view(np.uint8), np.array([frame.x0, frame.y0])
        away = [other.place(frame.frame_index) for other in judges if other is not self]
        away += [box for other in judges if (box := _target_bounds(other.layer, frame.frame_index)) is not None]
        if away:
            kept = _window(laid, self.place(frame.frame_index), corner).copy()
            for box in away:
                _window(laid, box, corner)[:] = 0
            _window(laid, self.place(frame.frame_index), corner)[:] = kept
        x, y, width, height = cv2.boundingRect(laid)
        found = [np.array([x, y, x + width, y + height], np.float64) + np.tile(corner, 2)] if width else []
        found += [each for track in self.layer.holdouts if (each := _held_out(track, frame.frame_index, own)) is not None]
        return None if not found else np.concatenate([np.min(found, axis=0)[:2], np.max(found, axis=0)[2:]])


def _target_bounds(layer: Layer, frame_index: int) -> Array | None:
    """Bounds of what a layer takes away at a frame, with a margin for its soft edge."""
    import cv2

    if layer.target is None or layer.target.runs[frame_index] is None:
        return None
    runs = layer.target.runs[frame_index]
    assert runs is not None
    x, y, width, height = cv2.boundingRect(masks.decode_rle(runs, layer.target.hw).astype(np.uint8))
    margin = 8 + 0.1 * max(width, height)
    return np.array([x - margin, y - margin, x + width + margin, y + height + margin])


def _held_out(track: Any, frame_index: int, own: Array) -> Array | None:
    """Bounds of what stays in front of the object within its place ``own``."""
    import cv2

    runs = track.runs[frame_index]
    if runs is None:
        return None
    window = _window(masks.decode_rle(runs, track.hw), own, np.zeros(2))
    x, y, width, height = cv2.boundingRect(window.astype(np.uint8))
    low = np.floor(np.maximum(own[:2], 0))
    return np.array([x, y, x + width, y + height]) + np.tile(low, 2) if width else None


def _window(patch: Array, box: Array, corner: Array) -> Array:
    """The part of a patch, whose top left pixel is ``corner``, that a box covers."""
    low = np.maximum(np.floor(box[:2] - corner), 0).astype(int)
    high = np.maximum(np.ceil(box[2:] - corner), 0).astype(int)
    return patch[low[1] : high[1], low[0] : high[0]]


def _common(one: Array, other: Array | None) -> Array | None:
    if other is None:
        return None
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    return None if (high <= low).any() else np.concatenate([low, high]).astype(np.float64)


def _bounds_inside(outline: Array, width: int, height: int) -> Array | None:
    """Bounds f64[4] of what lies in the picture; None where that is too little to tell."""
    import cv2

    hull = cv2.convexHull(np.clip(outline, -1e5, 1e5).astype(np.float32))
    edges = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    area, inside = cv2.intersectConvexConvex(hull, edges)
    if inside is None or area < LEAST_VISIBLE * cv2.contourArea(hull):
        return None
    return geometry.bounds_of(inside.reshape(-1, 2).astype(np.float64))


def _area(box: Array | None) -> float:
    return 0.0 if box is None else float((box[2] - box[0]) * (box[3] - box[1]))


# -- the canvas -------------------------------------------------------------------------------------------------------------------


def _shrink_reference(layer: Layer, box: Array) -> tuple[Array, Array]:
    """The reference's tight rectangle on the canvas: colour f32[h,w,3], and how solid it is f32[h,w]."""
    import cv2

    reference = layer.references[0]
    x0, y0, x1, y1 = (int(value) for value in box)
    scale = CANVAS_SIDE / max(x1 - x0, y1 - y0)
    size = (max(4, round((x1 - x0) * scale)), max(4, round((y1 - y0) * scale)))
    alpha = reference.alpha[y0:y1, x0:x1]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    premultiplied = cv2.resize(reference.image[y0:y1, x0:x1] * alpha[..., None], size, interpolation=method)
    weight = cv2.resize(alpha, size, interpolation=method)
    colour = premultiplied / np.maximum(weight, 1e-3)[..., None]
    weight = np.where(weight >= SOLID, weight, 0).astype(np.float32)
    if weight.sum() < 4:
        weight = np.ones_like(weight)
    return colour.astype(np.float32), weight


def _region(frame: Frame) -> Array:
    height, width = frame.patch.shape[:2]
    return np.array([frame.x0, frame.y0, frame.x0 + width, frame.y0 + height], np.float64)


def _inside(bounds: Array, region: Array) -> tuple[int, int, int, int] | None:
    common = _common(bounds, region)
    if common is None:
        return None
    low, high = np.floor(common[:2]).astype(int), np.ceil(common[2:]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _spans(corners: Array) -> tuple[float, float]:
    """How many pixels of the clip a reference covers across and along, from a grid of points on it."""
    across = np.linalg.norm(np.diff(corners, axis=1), axis=2).sum(axis=1).mean()
    along = np.linalg.norm(np.diff(corners, axis=0), axis=2).sum(axis=0).mean()
    return max(float(across), 1e-6), max(float(along), 1e-6)


def _as_fine_as(canvas: Array, spans: tuple[float, float]) -> Array:
    """The canvas without the detail that an object of this size cannot show."""
    import cv2

    height, width = canvas.shape[:2]
    size = (min(width, max(2, round(spans[0]))), min(height, max(2, round(spans[1]))))
    if size == (width, height):
        return canvas
    return cv2.resize(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_LINEAR)


def _reduced(
    frame: Frame,
    alpha: Array,
    roi: tuple[int, int, int, int],
    spans: tuple[float, float],
    hw: tuple[int, int],
    covers: list[_Judge],
) -> tuple[Array, Array, Array]:
    """A region of the result and of its layer's alpha, f32, reduced to about the canvas's own sampling; and by what factor."""
    import cv2

    x0, y0, x1, y1 = roi
    part = (slice(y0 - frame.y0, y1 - frame.y0), slice(x0 - frame.x0, x1 - frame.x0))
    wanted = min(1.0, max(hw[1] / spans[0], hw[0] / spans[1]))
    size = (max(1, round((x1 - x0) * wanted)), max(1, round((y1 - y0) * wanted)))
    scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)])
    image = cv2.resize(frame.patch[part], size, interpolation=cv2.INTER_AREA).astype(np.float32)
    laid = cv2.resize(alpha[part], size, interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    for cover in covers:
        if cover.motion.exists(frame.frame_index):
            mesh = (cover.motion.mesh(frame.frame_index) - [x0, y0]) * scale
            cv2.fillConvexPoly(laid, cv2.convexHull(mesh.astype(np.int32)), 0.0)
    return image, laid, scale


def _samples(controls: Array, hw: tuple[int, int]) -> Array:
    """Where every cell of the canvas lies, f32[h,w,2], from the places of ``CONTROL_POINTS`` squared points of it."""
    import cv2

    height, width = hw
    last = CONTROL_POINTS - 1
    x = ((np.arange(width) + 0.5) / width * last).astype(np.float32)
    y = ((np.arange(height) + 0.5) / height * last).astype(np.float32)
    grid_x, grid_y = np.meshgrid(x, y)
    return np.asarray(cv2.remap(controls.astype(np.float32), grid_x, grid_y, cv2.INTER_LINEAR), np.float32)


def _sample(picture: Array, places: Array) -> Array:
    """A picture at continuous places; 0 outside it."""
    import cv2

    half = np.float32(0.5)
    x, y = places[..., 0] - half, places[..., 1] - half
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


class _Smoother:
    """Local means over what counts alone."""

    def __init__(self, weight: Array) -> None:
        self._weight = weight
        self._sum = np.maximum(self._blurred(weight), 1e-4)

    @staticmethod
    def _blurred(values: Array) -> Array:
        import cv2

        return cv2.GaussianBlur(values, (7, 7), _WINDOW_SIGMA, borderType=cv2.BORDER_CONSTANT)

    def __call__(self, values: Array) -> Array:
        if values.ndim == 3:
            return np.asarray(self._blurred(values * self._weight[..., None]) / self._sum[..., None])
        return np.asarray(self._blurred(values * self._weight) / self._sum)


def _luma(image: Array) -> Array:
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _lab(image: Array) -> Array:
    import cv2

    return cv2.cvtColor(np.clip(image, 0, 255).astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)


def _change(now: _Seen | None, then: _Seen | None) -> float | None:
    """Mean absolute difference of two views of one object over what both show."""
    if now is None or then is None or now.image.shape != then.image.shape:
        return None
    weight = np.minimum(now.weight, then.weight)
    total = float(weight.sum())
    if total < LEAST_SHARE * max(float(now.weight.sum()), float(then.weight.sum())):
        return None
    return float((np.abs(now.image - then.image).mean(axis=-1) * weight).sum() / total)


def _leak(frame: Frame) -> float:
    """Outside a frame's region nothing differs by its definition, so that only what lies inside is compared (every
    ``LEAK_STEP``-th pixel each way), and counted over all of the picture outside the grown touched region."""
    import cv2

    thinned = (slice(None, None, LEAK_STEP), slice(None, None, LEAK_STEP))
    touched = np.ascontiguousarray(frame.touched_patch[thinned]).view(np.uint8)
    outside = cv2.dilate(touched, np.ones((3, 3), np.uint8)) == 0
    if not outside.any():
        return 0.0
    height, width = frame.touched_patch.shape
    source = frame.source.to_rgb(frame.x0, frame.y0, frame.x0 + width, frame.y0 + height)[thinned]
    apart = np.abs(frame.patch[thinned][outside].astype(np.int16) - source[outside])
    beyond = (frame.source.hw[0] * frame.source.hw[1] - height * width) / LEAK_STEP**2
    return float(apart.mean() * len(apart) / (len(apart) + beyond))
