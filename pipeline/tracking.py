"""What moves in the footage itself: matched features, robust fits, the motion of a followed surface, tracks of single points.

Everything is pyramidal Lucas-Kanade (Bouguet 2001) on luma with its local mean and contrast taken out, so that a change of exposure
does not matter; every match is checked forward and backward. A surface is carried from frame to frame, and at every frame matched
once more, directly, against the key frame warped to where the surface should be: what is left of the prediction's error is
corrected there, so that errors do not add up. A homography is then aligned by all pixels (``alignment``), as far as they bear it
out (a Kalman filter): where there is nothing to see, it is carried on smoothly instead of following the noise elsewhere. Where the
key frame has left the picture, frames tracked on the way (*anchors*) take its place.

Convention: points are f64[N,2] as (x, y) in continuous coordinates (pixel ``j`` covers ``[j, j + 1)``) of the picture that they
were found in; a motion is f64[3,3] and takes points of the first picture to the second.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import geometry
from .alignment import Aligner, Bend, SoftPicture, soften
from .engines import Report, ignore_progress
from .looks import Looks, describe_looks, match_looks
from .types import Array, Follow, MaskTrack, Progress, SurfaceKind, SurfaceMotion, lock_array

if TYPE_CHECKING:
    from .media import FrameStore

METHOD = "4"
"""Version of the method, for caches: a new number for whatever may change a matrix."""

WORK_SIDE_PX = 960
"""Pictures are tracked at most this large on their longer side."""

INLIER_PX = 2.0
"""How far a match may lie from the motion that it supports, in pixels of the tracked picture."""

_MAX_FEATURES = 400
_WINDOW_PX = 21
_LEVELS = 4
_FORWARD_BACKWARD_PX = 0.7
_HYPOTHESES = 300
_LEAST_MATCHES = {"translation": 3, "similarity": 5, "homography": 8}
_NEEDED = {"translation": 1, "similarity": 2, "homography": 4}


# -- features and matches ----------------------------------------------------------------------------------------------------------


def find_features(gray: Array, mask: Array | None = None, count: int = _MAX_FEATURES) -> Array:
    """Corners f64[N,2], N at most ``count``, of a picture u8[H,W], spread over it; only where ``mask`` bool[H,W] is true."""
    import cv2

    height, width = gray.shape
    allowed = None if mask is None else mask.astype(np.uint8)
    area = height * width if mask is None else int(np.count_nonzero(mask))
    spacing = max(3.0, 0.6 * float(np.sqrt(area / count)))
    corners = cv2.goodFeaturesToTrack(gray, 0, 0.003, spacing, mask=allowed, blockSize=5)
    if corners is None:
        return np.zeros((0, 2))
    points = corners.reshape(-1, 2).astype(np.float64) + 0.5
    return points[_spread(points, 4 * spacing)[:count]]


def _spread(points: Array, cell_px: float) -> Array:
    """An order of points (strongest first as given) in which every cell of the plane gives its best before any its second best."""
    cells = np.floor(points / cell_px).astype(np.int64)
    _, cell = np.unique(cells[:, 0] * 100_003 + cells[:, 1], return_inverse=True)
    order = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[order], cell[order])
    rank = np.empty(len(points), np.int64)
    rank[order] = np.arange(len(points)) - first
    return np.argsort(rank, kind="stable")


def follow_points(gray_a: Array, gray_b: Array, points: Array, guess: Array | None = None) -> tuple[Array, Array]:
    """Where ``points`` f64[N,2] of picture a are in picture b, f64[N,2], and whether forward and backward agree, bool[N].

    ``guess`` f64[N,2] is where to start looking in b, by default at the same place.
    """
    import cv2

    if len(points) == 0:
        return np.zeros((0, 2)), np.zeros(0, np.bool_)
    start = points if guess is None else guess
    levels = min(_LEVELS, max(0, int(np.log2(max(1.0, min(gray_a.shape) / _WINDOW_PX)))))
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    window, flags = (_WINDOW_PX, _WINDOW_PX), cv2.OPTFLOW_USE_INITIAL_FLOW

    def flow(one: Array, other: Array, at: Array, begin: Array) -> tuple[Array, Array]:
        at32, begin32 = ((value - 0.5).astype(np.float32).reshape(-1, 1, 2) for value in (at, begin))
        found, status, _ = cv2.calcOpticalFlowPyrLK(one, other, at32, begin32.copy(), None, None, window, levels, until, flags)
        return found.reshape(-1, 2).astype(np.float64) + 0.5, status.reshape(-1) == 1

    there, is_found = flow(gray_a, gray_b, points, start)
    there = np.where(np.isfinite(there), there, start)
    back, is_back = flow(gray_b, gray_a, there, there - (start - points))
    height, width = gray_b.shape
    inside = (there >= 0).all(axis=1) & (there[:, 0] < width) & (there[:, 1] < height)
    agrees = np.linalg.norm(np.where(np.isfinite(back), back, 1e9) - points, axis=1) < _FORWARD_BACKWARD_PX
    return there, is_found & is_back & inside & agrees


def match_frames(gray_a: Array, gray_b: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Corners of picture a u8[H,W] and where they are in picture b: f64[N,2] each, forward-backward checked.

    ``mask`` bool[H,W] says which part of a counts.
    """
    points = find_features(gray_a, mask)
    there, is_good = follow_points(flatten_light(gray_a), flatten_light(gray_b), points)
    return points[is_good], there[is_good]


def flatten_light(gray: Array) -> Array:
    """A picture u8[H,W] with its local mean taken out and its local contrast made even, u8[H,W] about 128."""
    import cv2

    picture = gray.astype(np.float32)
    size = (31, 31)
    mean = cv2.boxFilter(picture, -1, size)
    spread = cv2.sqrt(np.maximum(cv2.boxFilter(picture * picture, -1, size) - mean * mean, 0))
    return np.clip((picture - mean) * (48.0 / (spread + 12.0)) + 128.0, 0, 255).astype(np.uint8)


# -- robust fits -------------------------------------------------------------------------------------------------------------------


def estimate_motion(
    points_a: Array, points_b: Array, kind: SurfaceKind, weights: Array | None = None, inlier_px: float = INLIER_PX
) -> tuple[Array, Array]:
    """The motion f64[3,3] of a kind that most matches f64[N,2] agree on, and which ones do, bool[N].

    Hypotheses of minimal samples, drawn with a fixed seed, compete by a robust cost; the best is refined by iterated least squares
    with Tukey's weights at a scale read off the residuals. ``weights`` f64[N] say how much a match counts. With fewer matches than
    the kind needs (1, 2, 4), or none that agree, the identity and no inliers.
    """
    a, b = np.asarray(points_a, np.float64), np.asarray(points_b, np.float64)
    weights = np.ones(len(a)) if weights is None else weights
    nothing = np.eye(3), np.zeros(len(a), np.bool_)
    if len(a) < _NEEDED[kind]:
        return nothing
    hypotheses = _hypotheses(a, b, kind)
    if len(hypotheses) == 0:
        return nothing
    squared = ((_apply_all(hypotheses, a) - b) ** 2).sum(axis=2) / inlier_px**2
    matrix = hypotheses[int(np.argmin((weights * squared / (1 + squared)).sum(axis=1)))]
    matrix = _refine(matrix, a, b, kind, weights, inlier_px)
    is_inlier = np.linalg.norm(geometry.apply_map(matrix, a) - b, axis=1) < inlier_px
    return (matrix, is_inlier) if np.count_nonzero(is_inlier) >= _NEEDED[kind] else nothing


def _apply_all(matrices: Array, points: Array) -> Array:
    """Every map f64[H,3,3] applied to every point f64[N,2]: f64[H,N,2]."""
    moved = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrices.transpose(0, 2, 1)
    depth = moved[..., 2:]
    return moved[..., :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)


def _hypotheses(a: Array, b: Array, kind: SurfaceKind) -> Array:
    """Motions f64[H,3,3] of random minimal samples; for a homography similarities compete as well."""
    rng = np.random.default_rng(len(a))
    shifts = np.tile(np.eye(3), (min(len(a), _HYPOTHESES), 1, 1))
    chosen = rng.permutation(len(a))[: len(shifts)]
    shifts[:, :2, 2] = b[chosen] - a[chosen]
    if kind == "translation" or len(a) < 2:
        return shifts
    pairs = rng.integers(0, len(a), (_HYPOTHESES, 2))
    p, q = a @ [1, 1j], b @ [1, 1j]
    gap = p[pairs[:, 1]] - p[pairs[:, 0]]
    is_apart = np.abs(gap) > 1.0
    pairs, gap = pairs[is_apart], gap[is_apart]
    linear = (q[pairs[:, 1]] - q[pairs[:, 0]]) / gap
    linear = np.where(np.abs(linear) < geometry.MIN_SIZE, geometry.MIN_SIZE, linear)
    offset = q[pairs[:, 0]] - linear * p[pairs[:, 0]]
    similarities = np.tile(np.eye(3), (len(pairs), 1, 1))
    similarities[:, 0, 0] = similarities[:, 1, 1] = linear.real
    similarities[:, 1, 0], similarities[:, 0, 1] = linear.imag, -linear.imag
    similarities[:, 0, 2], similarities[:, 1, 2] = offset.real, offset.imag
    if kind == "similarity" or len(a) < 4:
        return np.concatenate([shifts[:1], similarities])
    return np.concatenate([shifts[:1], similarities[: _HYPOTHESES // 3], _four_point_maps(a, b, rng)])


def _four_point_maps(a: Array, b: Array, rng: np.random.Generator) -> Array:
    samples = np.array([rng.permutation(len(a))[:4] for _ in range(_HYPOTHESES)])
    to_a, to_b = _unit_map(a), _unit_map(b)
    p, q = geometry.apply_map(to_a, a)[samples], geometry.apply_map(to_b, b)[samples]  # [H, 4, 2]
    rows = _projective_rows(p, q)  # [H, 8, 9]
    left, right = rows[..., :8], -rows[..., 8]
    is_sound = np.abs(np.linalg.det(left)) > 1e-6
    solved = np.linalg.solve(left[is_sound], right[is_sound][..., None])[..., 0]
    unit = np.concatenate([solved, np.ones((len(solved), 1))], axis=1).reshape(-1, 3, 3)
    return np.linalg.inv(to_b) @ unit @ to_a


def _unit_map(points: Array) -> Array:
    centre = points.mean(axis=0)
    size = max(float(np.linalg.norm(points - centre, axis=1).mean()), 1e-6)
    return np.array([[1 / size, 0, -centre[0] / size], [0, 1 / size, -centre[1] / size], [0, 0, 1.0]])


def _projective_rows(p: Array, q: Array) -> Array:
    """Two rows f64[..., 2N, 9] per match of the linear system of a homography (Hartley and Zisserman 2004, eq. 4.3)."""
    ones, zeros = np.ones_like(p), np.zeros((*p.shape[:-1], 3))
    source = np.concatenate([p, ones[..., :1]], axis=-1)
    along_x = np.concatenate([source, zeros, -q[..., :1] * source], axis=-1)
    along_y = np.concatenate([zeros, source, -q[..., 1:] * source], axis=-1)
    return np.concatenate([along_x, along_y], axis=-2)


def _refine(matrix: Array, a: Array, b: Array, kind: SurfaceKind, weights: Array, inlier_px: float) -> Array:
    for _ in range(6):
        error = np.linalg.norm(geometry.apply_map(matrix, a) - b, axis=1)
        near = error < inlier_px
        if np.count_nonzero(near) < _NEEDED[kind]:
            return matrix
        sigma = max(1.4826 * float(np.median(error[near])), 0.1)
        tukey = np.clip(1 - (error / (4.685 * sigma)) ** 2, 0, None) ** 2 * weights
        if np.count_nonzero(tukey) < 2 * _NEEDED[kind] and np.count_nonzero(near) >= _NEEDED[kind]:
            tukey = near * weights
        if not tukey.any():
            return matrix
        matrix = _weighted_fit(matrix, a, b, kind, tukey)
    return matrix


def _weighted_fit(start: Array, a: Array, b: Array, kind: SurfaceKind, weights: Array) -> Array:
    """The least-squares motion of a kind; ``start`` f64[3,3] is a guess, needed for the depths of a homography."""
    share = weights / weights.sum()
    if kind == "translation":
        return geometry.translation(share @ (b - a))
    if kind == "similarity":
        p, q = a @ [1, 1j], b @ [1, 1j]
        p_mean, q_mean = share @ p, share @ q
        spread = float(share @ np.abs(p - p_mean) ** 2)
        linear = (share @ ((q - q_mean) * np.conj(p - p_mean))) / spread if spread > 1e-9 else 1.0 + 0.0j
        return geometry.similarity_map(complex(linear), complex(q_mean - linear * p_mean))
    to_a, to_b = _unit_map(a), _unit_map(b)
    p, q = geometry.apply_map(to_a, a), geometry.apply_map(to_b, b)
    unit = to_b @ start @ np.linalg.inv(to_a)
    depth = p @ unit[2, :2] + unit[2, 2]
    root = np.sqrt(share) / np.where(np.abs(depth) < 1e-6, 1e-6, depth)
    rows = _projective_rows(p, q) * np.tile(root, 2)[:, None]
    _, vectors = np.linalg.eigh(rows.T @ rows)
    fitted = np.linalg.inv(to_b) @ vectors[:, 0].reshape(3, 3) @ to_a
    return fitted / fitted[2, 2] if abs(fitted[2, 2]) > 1e-9 else start


# -- pictures ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Picture:
    """A frame as it is tracked: ``gray`` u8[h,w] and the same with its light made even, and which of it may be used."""

    gray: Array
    even: Array
    allowed: Array | None = None

    @property
    def hw(self) -> tuple[int, int]:
        return self.gray.shape[0], self.gray.shape[1]

    def allows(self, points: Array) -> Array:
        """Whether points f64[N,2] lie in the picture and on what may be used, bool[N]."""
        height, width = self.hw
        inside = (points >= 0).all(axis=1) & (points[:, 0] < width) & (points[:, 1] < height)
        if self.allowed is not None:
            cells = np.floor(points[inside]).astype(np.int64)
            inside[inside] = self.allowed[cells[:, 1], cells[:, 0]]
        return inside


class _Pictures:
    """Frames of a clip as pictures of at most ``WORK_SIDE_PX``, one at a time; ``exclude`` marks what must not be used."""

    def __init__(self, frames: FrameStore, exclude: MaskTrack | None = None, side_px: int = WORK_SIDE_PX) -> None:
        from .media.pixels import clip_layout

        self._frames, self._exclude = frames, exclude
        clip = frames.clip
        share = min(1.0, side_px / max(clip.hw))
        self.hw = max(1, round(clip.height * share)), max(1, round(clip.width * share))
        self.scale_xy = np.array([self.hw[1] / clip.width, self.hw[0] / clip.height])
        self.to_clip = np.diag([1 / self.scale_xy[0], 1 / self.scale_xy[1], 1.0])
        self.from_clip = np.diag([self.scale_xy[0], self.scale_xy[1], 1.0])
        self._shift = max(0, clip_layout(clip).depth - 8)

    def read(self, frame_index: int) -> _Picture:
        gray = self.gray(frame_index)
        return _Picture(gray, flatten_light(gray), self._allowed(frame_index))

    def gray(self, frame_index: int) -> Array:
        """Luma (green, of an RGB clip) u8[h,w] of a frame."""
        import cv2

        plane = self._frames.frame(frame_index).planes[0]
        if plane.dtype != np.uint8:
            plane = (plane >> self._shift).astype(np.uint8)
        if plane.shape == self.hw:
            return np.ascontiguousarray(plane)
        return cv2.resize(np.ascontiguousarray(plane), self.hw[::-1], interpolation=cv2.INTER_AREA)

    def _allowed(self, frame_index: int) -> Array | None:
        runs = None if self._exclude is None else self._exclude.runs[frame_index]
        if self._exclude is None or runs is None:
            return None
        import cv2

        from .masks import decode_rle

        mask = decode_rle(runs, self._exclude.hw).astype(np.uint8)
        covered = cv2.resize(mask * 255, self.hw[::-1], interpolation=cv2.INTER_AREA) > 0
        margin = np.ones((2 * (_WINDOW_PX // 4) + 1,) * 2, np.uint8)
        return cv2.dilate(covered.astype(np.uint8), margin) == 0


# -- single points -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class PointTracks:
    """Where points of the footage are: ``points_px`` f32[N,T,2] in pixels of the clip, T its number of frames, and ``is_visible``
    bool[N,T]. Where a point is not visible its place is carried on with what is around it."""

    points_px: Array
    is_visible: Array

    def __post_init__(self) -> None:
        lock_array(self, "points_px", np.float32, (None, None, 2))
        lock_array(self, "is_visible", np.bool_, self.points_px.shape[:2])


_PATCH_PX = 17
_ALIKE = 0.75
_STILL_ALIKE = 0.5
_CORRECTION_PX = 1.5
_SUPPORT_FEATURES = 150


def track_points(
    frames: FrameStore, query_frame: int, points_px: Array, start: int, stop: int, report: Report = ignore_progress
) -> PointTracks:
    """Follow points f32[N,2] of the frame ``query_frame`` through the frames ``start`` to ``stop`` (half-open).

    A point is followed from frame to frame and held to how it looked at ``query_frame`` wherever it still looks alike. It is
    invisible where forward and backward disagree, where its surroundings change suddenly, and outside the picture; it is looked for
    again where the rest of the picture would have carried it. Frames outside the range hold the nearest place, invisible. Frames
    are read one by one; a frame's result depends on the frames between ``query_frame`` and it alone.
    """
    walk = walk_points(frames, query_frame, points_px, start, stop)
    while True:
        try:
            report(next(walk))
        except StopIteration as finished:
            tracks: PointTracks = finished.value
            return tracks


def walk_points(
    frames: FrameStore, query_frame: int, points_px: Array, start: int, stop: int
) -> Generator[Progress, None, PointTracks]:
    """``track_points`` frame by frame: yields progress, returns the tracks."""
    pictures = _Pictures(frames)
    queries = np.asarray(points_px, np.float64).reshape(-1, 2)
    num_frames = frames.clip.num_frames
    places = np.repeat(queries[:, None], num_frames, axis=1)
    is_visible = np.zeros((len(queries), num_frames), np.bool_)
    orders = (range(query_frame, max(stop, query_frame + 1)), range(query_frame, min(start, query_frame) - 1, -1))
    total, done = sum(map(len, orders)), 0
    for order in orders:
        walk = _PointWalk(pictures, query_frame, queries * pictures.scale_xy)
        for frame_index in order:
            places[:, frame_index], is_visible[:, frame_index] = walk.step(frame_index)
            done += 1
            yield Progress("following points", done, total)
        places[:, order[-1] :: order.step] = places[:, order[-1], None]
    for frame_index in range(min(start, query_frame), max(stop, query_frame + 1)):
        if not start <= frame_index < stop:
            is_visible[:, frame_index] = False
    return PointTracks(places.astype(np.float32), is_visible)


class _PointWalk:
    """Points on their way from the query frame in one direction."""

    def __init__(self, pictures: _Pictures, query_frame: int, queries: Array) -> None:
        self._pictures = pictures
        self._queries, self._query = queries, pictures.read(query_frame)
        self._looks = _patches(self._query.even, queries)
        self._last, self._here = self._query, queries.copy()
        self._recent = self._looks.copy()
        self._is_visible = self._query.allows(queries)
        self._first = query_frame

    def step(self, frame_index: int) -> tuple[Array, Array]:
        """Places f64[N,2] in clip pixels and visibility bool[N] at the next frame; the first step is the query frame itself."""
        if frame_index != self._first:
            self._advance(self._pictures.read(frame_index))
        return self._here / self._pictures.scale_xy, self._is_visible.copy()

    def _advance(self, picture: _Picture) -> None:
        carried = geometry.apply_map(self._carry(picture), self._here)
        there, is_good = follow_points(self._last.even, picture.even, self._here, carried)
        is_good &= self._is_visible & (_likeness(self._recent, _patches(picture.even, there)) > _STILL_ALIKE)
        lost = ~is_good
        there[lost] = carried[lost]
        held, is_held = self._match_query(picture, there)
        is_near = np.linalg.norm(held - there, axis=1) < _CORRECTION_PX
        is_again = lost & is_held & (np.linalg.norm(held - carried, axis=1) < 0.1 * max(picture.hw))
        use = (is_good & is_held & is_near) | is_again
        there[use] = held[use]
        self._here, self._is_visible = there, is_good | is_again
        seen = self._is_visible
        self._recent[seen] = _patches(picture.even, there[seen])
        self._last = picture

    def _carry(self, picture: _Picture) -> Array:
        """How the picture as a whole moved."""
        seeds = find_features(self._last.gray, count=_SUPPORT_FEATURES)
        there, is_good = follow_points(self._last.even, picture.even, seeds)
        matrix, is_inlier = estimate_motion(seeds[is_good], there[is_good], "similarity")
        is_sure = np.count_nonzero(is_inlier) >= max(8, 0.3 * len(seeds))
        return matrix if is_sure else np.eye(3)

    def _match_query(self, picture: _Picture, guess: Array) -> tuple[Array, Array]:
        held, is_held = follow_points(self._query.even, picture.even, self._queries, guess)
        return held, is_held & (_likeness(self._looks, _patches(picture.even, held)) > _ALIKE)


def _patches(picture: Array, points: Array) -> Array:
    """Square cut-outs f32[N,P,P] around points f64[N,2], the picture's edge repeated outside it."""
    import cv2

    centres = np.clip(points, -1e4, 1e4) - 0.5
    size = (_PATCH_PX, _PATCH_PX)
    cut = [cv2.getRectSubPix(picture, size, (float(x), float(y)), patchType=cv2.CV_32F) for x, y in centres]
    return np.array(cut, np.float32).reshape(len(points), _PATCH_PX, _PATCH_PX)


def _likeness(one: Array, other: Array) -> Array:
    """Normalised cross-correlation of cut-outs, f64[N] in -1..1."""
    a, b = (value.reshape(len(value), math.prod(value.shape[1:])).astype(np.float64) for value in (one, other))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return (a * b).sum(axis=1) / np.maximum(scale, 1e-9)


# -- surfaces ----------------------------------------------------------------------------------------------------------------------


_LEAST_SHARE = 0.25
"""Of the features looked for, the share that must agree on one motion; fewer, and the surface is lost."""

_FOUND_AGAIN_SHARE = 0.4
"""The same, for a lost surface to be taken as found again."""

_LEAST_ALIKE = 10
"""So many features that look alike and agree on one motion say where a lost surface may be."""

_ALIKE_PX = 5.0
"""How far they may lie from that motion, which is a similarity even where the surface leans."""

_LARGEST_CHANGE = 4.0
"""By how much a lost surface may have grown or shrunk when it is found again."""

_LEAST_VISIBLE = 0.35
"""The share of an anchor's features in the picture below which it no longer counts."""

_ANCHOR_VISIBLE = 0.6
"""Below this share of visible features, or beyond ``_ANCHOR_GROWTH``, the frame at hand becomes an anchor too."""

_ANCHOR_GROWTH = 1.4
_MAX_ANCHORS = 24
_STEP_NOISE_PX = 1.0
"""How far off a match from one frame to the next counts as being: more than it is, since neighbours err together."""

_KEY_NOISE_PX = 0.5
"""The same for a match with an anchor."""

_NOISE_FLOOR_PX = 0.1
"""What every step adds to the doubt however many matches there are."""

_BEND_PX = 0.5
"""How far a homography is expected to lie from a similarity where no earlier frame says more, in the mean over the picture."""

_LARGEST_STEP = 1.35
"""A surface that grows or shrinks by more than this from one frame to the next was not followed but mistaken."""


@dataclass(frozen=True, eq=False, slots=True)
class _Anchor:
    """A picture in which the surface is known: ``matrix`` f64[3,3] takes the key frame to it, ``points`` f64[N,2] are features;
    ``soft`` is the same picture as it is aligned."""

    picture: _Picture
    matrix: Array
    points: Array
    soft: SoftPicture


@dataclass(frozen=True, eq=False, slots=True)
class _Matches:
    """Features of an anchor in another picture: where they are by prediction and where they were found, f64[N,2] each, which were
    found at all, bool[N], and how much they count; ``warped`` u8[h,w] is the anchor's picture where it was predicted to be, and
    ``is_covered`` bool[h,w] where that shows anything."""

    predicted: Array
    found: Array
    is_found: Array
    weight: float
    warped: Array
    is_covered: Array


def track_surface(
    frames: FrameStore,
    follow: Follow,
    start: int,
    stop: int,
    exclude: MaskTrack | None = None,
    report: Report = ignore_progress,
) -> SurfaceMotion:
    """How the surface of ``follow`` moves, for the frames ``start`` to ``stop`` (half-open) and one more on either side.

    ``exclude`` marks what is no part of it (a thing that crosses). Tracked outward from the key frame in both directions; a
    frame's matrix depends on the frames between the key frame and it alone. Where the surface is lost (out of sight, blurred beyond
    use, a cut in the clip) the last matrix stays, ``is_tracked`` is false, and the surface is looked for again. Outside the range
    the nearest matrix stays, not tracked. Frames are read one by one. Raises whatever ``report`` raises.
    """
    first, last = max(0, start - 1), min(frames.clip.num_frames, stop + 1)
    pictures = _Pictures(frames, exclude)
    key = follow.key_frame
    matrices = np.tile(np.eye(3), (frames.clip.num_frames, 1, 1))
    is_tracked = np.zeros(frames.clip.num_frames, np.bool_)
    orders = range(key + 1, max(last, key + 1)), range(key - 1, min(first, key) - 1, -1)
    done, total = 0, sum(map(len, orders)) + 1
    origin = _origin(pictures, follow)
    is_tracked[key] = len(origin.points) >= _LEAST_MATCHES[follow.kind]
    for order in orders:
        walk = _SurfaceWalk(pictures, follow, origin)
        for frame_index in order:
            matrix, is_tracked[frame_index] = walk.step(frame_index)
            matrices[frame_index] = matrix
            done += 1
            report(Progress("following the surface", done, total))
    return within_range(SurfaceMotion(_to_clip(matrices, pictures), is_tracked, key), start, stop)


def within_range(motion: SurfaceMotion, start: int, stop: int) -> SurfaceMotion:
    """The same motion known for ``start`` to ``stop`` and one frame on either side (and between them and the key frame) alone."""
    first = min(max(0, start - 1), motion.key_frame)
    last = max(min(len(motion), stop + 1), motion.key_frame + 1)
    matrices, is_tracked = motion.matrices.copy(), motion.is_tracked.copy()
    matrices[:first], matrices[last:] = matrices[first], matrices[last - 1]
    is_tracked[:first] = is_tracked[last:] = False
    return SurfaceMotion(matrices, is_tracked, motion.key_frame)


def _to_clip(matrices: Array, pictures: _Pictures) -> Array:
    """Motions of the tracked pictures as motions of the clip; what is the identity stays exactly that."""
    moved = pictures.to_clip @ matrices @ pictures.from_clip
    moved /= moved[:, 2:, 2:]
    moved[(matrices == np.eye(3)).all(axis=(1, 2))] = np.eye(3)
    return moved


def _origin(pictures: _Pictures, follow: Follow) -> _Anchor:
    picture = pictures.read(follow.key_frame)
    points = find_features(picture.gray, _usable(picture, _outline(pictures, follow), np.eye(3)))
    return _Anchor(picture, np.eye(3), points, soften(picture.gray, picture.allowed))


def _outline(pictures: _Pictures, follow: Follow) -> Array | None:
    """The surface on the key picture as a convex outline f64[N,2]; None for the whole picture."""
    if follow.region_px is not None:
        return geometry.box_corners(np.array(follow.region_px) * np.tile(pictures.scale_xy, 2))
    if not follow.points_px:
        return None
    points = np.array(follow.points_px, np.float64) * pictures.scale_xy
    reach = max(1.5 * _WINDOW_PX, 0.04 * max(pictures.hw))
    around = reach * np.exp(1j * np.arange(0, 2 * np.pi, np.pi / 6))
    return (points[:, None] + np.stack([around.real, around.imag], axis=1)).reshape(-1, 2)


def _usable(picture: _Picture, outline: Array | None, matrix: Array) -> Array | None:
    """Which pixels of a picture show the surface, bool[h,w]: its outline carried by ``matrix``, without what is excluded."""
    if outline is None:
        return picture.allowed
    import cv2

    corners = np.clip(geometry.apply_map(matrix, outline), -8 * max(picture.hw), 8 * max(picture.hw))
    hull = cv2.convexHull(corners.astype(np.float32)).reshape(-1, 2)
    filled = np.zeros(picture.hw, np.uint8)
    cv2.fillConvexPoly(filled, np.round((hull - 0.5) * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    inside = filled > 0
    return inside if picture.allowed is None else inside & picture.allowed


class _Settler(Bend):
    """Homographies as their matches bear them out."""

    def settle(
        self,
        matrix: Array,
        points: Array,
        found: Array,
        noise_px: float,
        weights: Array | None = None,
        doubt: Array | None = None,
    ) -> tuple[Array, Array]:
        """The homography f64[3,3] most likely after inliers f64[N,2] of the robust fit ``matrix`` were found, and the doubt left.

        With ``doubt`` the identity was expected so surely; without, anything near the similarity that fits best. A fit that lies
        further from what was expected than noise explains widens the doubt.
        """
        error = np.linalg.norm(geometry.apply_map(matrix, points) - found, axis=1)
        sigma = max(1.4826 * float(np.median(error)), 0.1)
        share = np.clip(1 - (error / (4.685 * sigma)) ** 2, 0, None) ** 2
        share = share if weights is None else share * weights
        if doubt is None:
            base, hold = _weighted_fit(matrix, points, found, "similarity", share), self.unlike / _BEND_PX**2
        else:
            shift = ((geometry.apply_map(matrix, points) - points) ** 2).sum(axis=1)
            beyond = max(0.0, float(np.sqrt(shift.mean())) - 1.0)
            wider = beyond**2 * self.alike + min(beyond, _BEND_PX) ** 2 * self.unlike
            base, hold = np.eye(3), np.linalg.inv(doubt + wider + np.eye(8) * 1e-6)
        share = share / noise_px**2
        hold = hold + np.eye(8) * 1e-9
        numbers = np.zeros(8)
        for _ in range(2):
            there = geometry.apply_map(self.map(numbers) @ base, points)
            rows = self.rows(there)
            weighted = rows * share[:, None, None]
            known = np.tensordot(weighted, rows, ((0, 1), (0, 1))) + hold
            numbers += np.linalg.solve(known, np.tensordot(weighted, found - there, ((0, 1), (0, 1))) - hold @ numbers)
        return self.map(numbers) @ base, np.linalg.inv(known)


class _SurfaceWalk:
    """A surface on its way from the key frame in one direction."""

    def __init__(self, pictures: _Pictures, follow: Follow, origin: _Anchor) -> None:
        self._pictures, self._kind = pictures, follow.kind
        self._outline = _outline(pictures, follow)
        self._anchors = [origin]
        self._last, self._matrix, self._is_tracked = origin.picture, origin.matrix, True
        self._seeds = self._carried_seeds = origin.points
        self._usual_seeds = len(origin.points)
        self._bend, self._doubt = _Settler(pictures.hw), np.zeros((8, 8))
        self._aligner = Aligner(self._bend, pictures.hw, origin.soft.soft.shape)
        self._looks: dict[_Anchor, list[Looks]] = {}

    def step(self, frame_index: int) -> tuple[Array, bool]:
        """The matrix f64[3,3] from the key picture to the next frame's picture, and whether the surface was found there."""
        picture = self._pictures.read(frame_index)
        chain = self._chain(picture) if self._is_tracked else None
        if chain is not None:
            self._matrix = geometry.normal_map(chain @ self._matrix)
        elif self._outline is not None:
            self._matrix = geometry.normal_map(self._camera(picture) @ self._matrix)
        was_found, self._is_tracked = chain is not None, chain is not None
        matches = [_match_anchor(anchor, picture, self._matrix) for anchor in self._suitable(picture)]
        doubt = self._doubt
        correction = self._correct(matches, was_found)
        if correction is None and not was_found:
            matches, correction = self._look_for(picture, matches)
        if correction is not None:
            if self._kind == "homography":
                correction = self._align(picture, correction, doubt if was_found else None)
            self._matrix, self._is_tracked = geometry.normal_map(correction @ self._matrix), True
        self._last = picture
        if self._is_tracked:
            self._seeds = self._new_seeds(matches, correction)
            self._add_anchor()
        return self._matrix, self._is_tracked

    def _look_for(self, picture: _Picture, matches: list[_Matches]) -> tuple[list[_Matches], Array | None]:
        """A lost surface found again anywhere in the picture: its matches there and their correction. Else ``matches`` and None.

        Looked for are the surface's own features, then all that were around it.
        """
        seen, before = describe_looks(picture.gray, picture.allowed), self._matrix
        for anchor in dict.fromkeys((self._anchors[0], self._anchors[-1])):
            if anchor not in self._looks:
                self._looks[anchor] = self._describe(anchor)
            for looks in self._looks[anchor]:
                there, here = match_looks(looks, seen)
                kind: SurfaceKind = "translation" if self._kind == "translation" else "similarity"
                between, is_alike = estimate_motion(there, here, kind, inlier_px=_ALIKE_PX)
                is_sure = np.count_nonzero(is_alike) >= _LEAST_ALIKE
                if not is_sure or not 1 / _LARGEST_CHANGE < _growth(between, there) < _LARGEST_CHANGE:
                    continue
                self._matrix = geometry.normal_map(between @ anchor.matrix)
                found = [_match_anchor(each, picture, self._matrix) for each in self._suitable(picture)]
                correction = self._correct(found, False)
                if correction is not None:
                    return found, correction
        self._matrix = before
        return matches, None

    def _describe(self, anchor: _Anchor) -> list[Looks]:
        """How the surface looks in an anchor, and, where it is not the whole picture, how that looks."""
        whole = describe_looks(anchor.picture.gray, anchor.picture.allowed)
        if self._outline is None:
            return [whole]
        return [describe_looks(anchor.picture.gray, _usable(anchor.picture, self._outline, anchor.matrix)), whole]

    def _chain(self, picture: _Picture) -> Array | None:
        """The motion since the frame before; None where too few features agree on one."""
        there, is_good = follow_points(self._last.even, picture.even, self._seeds)
        is_good &= picture.allows(there)
        seeds, there = self._seeds[is_good], there[is_good]
        matrix, is_inlier = estimate_motion(seeds, there, self._kind)
        self._carried_seeds = there[is_inlier]
        least = max(_LEAST_MATCHES[self._kind], _LEAST_SHARE * max(len(self._seeds), self._usual_seeds))
        if len(self._carried_seeds) < least or not self._is_plausible(matrix):
            return None
        if self._kind == "homography":
            matrix, doubt = self._bend.settle(matrix, seeds[is_inlier], self._carried_seeds, _STEP_NOISE_PX)
            self._doubt = self._doubt + doubt + np.eye(8) * _NOISE_FLOOR_PX**2
        return matrix

    def _camera(self, picture: _Picture) -> Array:
        """How the whole picture moved since the frame before: what carries a surface on that is lost."""
        seeds = find_features(self._last.gray, self._last.allowed, _SUPPORT_FEATURES)
        there, is_good = follow_points(self._last.even, picture.even, seeds)
        kind: SurfaceKind = "translation" if self._kind == "translation" else "similarity"
        matrix, is_inlier = estimate_motion(seeds[is_good], there[is_good], kind)
        is_sure = np.count_nonzero(is_inlier) >= max(8, _LEAST_SHARE * len(seeds)) and self._is_plausible(matrix)
        return matrix if is_sure else np.eye(3)

    def _new_seeds(self, matches: list[_Matches], correction: Array | None) -> Array:
        """Features to follow into the next frame: those of this one, without those where the anchors show something else; where no
        anchor agrees, only what was followed so far, so that a thing that crosses is not taken for the surface."""
        if matches and correction is None:
            return self._carried_seeds
        seeds = find_features(self._last.gray, _usable(self._last, self._outline, self._matrix))
        self._usual_seeds = len(seeds)
        if correction is None or len(seeds) == 0:
            return seeds
        from scipy.spatial import cKDTree

        places = np.concatenate([geometry.apply_map(correction, item.predicted) for item in matches])
        is_same = np.concatenate([_agrees(item, correction) for item in matches])
        distance, index = cKDTree(places).query(seeds, k=3, distance_upper_bound=2.0 * _WINDOW_PX)
        near = np.isfinite(distance)
        same = np.where(near, np.append(is_same, False)[index], False).sum(axis=1)
        seeds = seeds[(2 * same >= near.sum(axis=1)) & self._is_known(seeds, matches, correction)]
        if self._outline is None:  # a region mostly covered is lost; the camera shows in what is left, but not in next to nothing
            self._usual_seeds = max(len(seeds), self._usual_seeds // 2)
        return seeds

    def _is_known(self, seeds: Array, matches: list[_Matches], correction: Array) -> Array:
        """Which features f64[N,2] of the last picture look as in an anchor, or lie where no anchor shows anything, bool[N]."""
        before = geometry.apply_map(np.linalg.inv(correction), seeds)
        x, y = np.clip(np.floor(before).astype(np.int64), 0, np.array(self._last.hw[::-1]) - 1).T
        looks = _patches(self._last.even, seeds)
        is_alike, is_covered = np.zeros((2, len(seeds)), np.bool_)
        for item in matches:
            covered = item.is_covered[y, x]
            is_covered |= covered
            is_alike |= covered & (_likeness(_patches(item.warped, before), looks) > _STILL_ALIKE)
        return is_alike | ~is_covered

    def _is_plausible(self, matrix: Array) -> bool:
        growth = _growth(matrix, self._seeds)
        return 1 / _LARGEST_STEP < growth < _LARGEST_STEP

    def _correct(self, matches: list[_Matches], was_found: bool) -> Array | None:
        """The motion that takes what was predicted to what matching the anchors directly shows; None where they do not agree."""
        if not matches:
            return None
        points = np.concatenate([item.predicted[item.is_found] for item in matches])
        found = np.concatenate([item.found[item.is_found] for item in matches])
        weights = np.concatenate([np.full(np.count_nonzero(item.is_found), item.weight) for item in matches])
        matrix, is_inlier = estimate_motion(points, found, self._kind, weights)
        share = _LEAST_SHARE if was_found else _FOUND_AGAIN_SHARE
        least = max(_LEAST_MATCHES[self._kind], share * sum(len(item.predicted) for item in matches))
        if np.count_nonzero(is_inlier) < least or not 1 / _LARGEST_STEP < _growth(matrix, points) < _LARGEST_STEP:
            return None
        if self._kind == "homography":
            points, found, weights = points[is_inlier], found[is_inlier], weights[is_inlier]
            doubt = self._doubt if was_found else None
            matrix, self._doubt = self._bend.settle(matrix, points, found, _KEY_NOISE_PX, weights, doubt)
        return matrix

    def _align(self, picture: _Picture, correction: Array, doubt: Array | None) -> Array:
        """The correction f64[3,3] that all pixels show, beginning at the one that the matches show.

        ``doubt`` is that of the prediction; without, the matches are what is expected.
        """
        suitable = self._suitable(picture)
        if not suitable:
            return correction
        expected, start = (np.eye(3), correction) if doubt is not None else (correction, np.eye(3))
        doubt = self._doubt if doubt is None else doubt
        region = None if self._outline is None else _usable(picture, self._outline, correction @ self._matrix)
        between = expected @ self._matrix @ np.linalg.inv(suitable[0].matrix)
        soft = soften(picture.gray, picture.allowed)
        aligned = self._aligner.align(suitable[0].soft, soft, between, start, doubt, region)
        if aligned is None or not 1 / _LARGEST_STEP < _growth(aligned[0], self._seeds) < _LARGEST_STEP:
            return correction
        self._doubt = aligned[1]
        return aligned[0] @ expected

    def _suitable(self, picture: _Picture) -> list[_Anchor]:
        """The oldest anchor that is well in sight (errors add up least), and the newest."""
        seen = [anchor for anchor in self._anchors if _visible_share(anchor, picture, self._matrix) > _LEAST_VISIBLE]
        return [] if not seen else [seen[0]] if seen[0] is seen[-1] else [seen[0], seen[-1]]

    def _add_anchor(self) -> None:
        if len(self._anchors) >= _MAX_ANCHORS or len(self._seeds) < 2 * _LEAST_MATCHES[self._kind]:
            return
        if any(self._is_served_by(anchor) for anchor in self._anchors):
            return
        soft = soften(self._last.gray, self._last.allowed)
        self._anchors.append(_Anchor(self._last, self._matrix, self._seeds, soft))

    def _is_served_by(self, anchor: _Anchor) -> bool:
        between = self._matrix @ np.linalg.inv(anchor.matrix)
        if _visible_share(anchor, self._last, self._matrix) < _ANCHOR_VISIBLE:
            return False
        return 1 / _ANCHOR_GROWTH < _growth(between, anchor.points) < _ANCHOR_GROWTH


def _growth(matrix: Array, points: Array) -> float:
    """The linear size that a map gives to the surroundings of the middle of points f64[N,2]; 0 where it turns them over."""
    if len(points) == 0:
        return 0.0
    centre = points.mean(axis=0)
    corners = geometry.apply_map(matrix, centre + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    return float(np.sqrt(max(0.0, 2 * float(geometry.signed_areas(corners)))))


def _visible_share(anchor: _Anchor, picture: _Picture, predicted: Array) -> float:
    if len(anchor.points) == 0:
        return 0.0
    there = geometry.apply_map(predicted @ np.linalg.inv(anchor.matrix), anchor.points)
    return float(np.mean(picture.allows(there)))


def _agrees(matches: _Matches, correction: Array) -> Array:
    """Which of the features sought were found where the correction says, bool[N]."""
    error = np.linalg.norm(geometry.apply_map(correction, matches.predicted) - matches.found, axis=1)
    return matches.is_found & (error < INLIER_PX)


def _match_anchor(anchor: _Anchor, picture: _Picture, predicted: Array) -> _Matches:
    """An anchor's features in a picture, looked for in the anchor's own picture warped to where the surface should be."""
    import cv2

    between = predicted @ np.linalg.inv(anchor.matrix)
    there = geometry.apply_map(between, anchor.points)
    seen = picture.allows(there)
    weight = float(np.clip((float(np.mean(seen)) - _LEAST_VISIBLE) / 0.25, 0.01, 1.0))
    pixels = geometry.pixel_map(between)
    warped = cv2.warpPerspective(
        anchor.picture.even, pixels, picture.hw[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    there = there[seen]
    found, is_found = follow_points(warped, picture.even, there)
    is_found[is_found] = _likeness(_patches(warped, there[is_found]), _patches(picture.even, found[is_found])) > _STILL_ALIKE
    covered = cv2.warpPerspective(np.ones(anchor.picture.hw, np.uint8), pixels, picture.hw[::-1], flags=cv2.INTER_NEAREST)
    return _Matches(there, found, is_found & picture.allows(found), weight, warped, covered > 0)


# -- the camera --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """Whether the camera moves, and how far the picture shifts from one frame to the next in the mean, in pixels of the clip."""

    is_moving: bool
    shift_px: float


_LOOK_SIDE_PX = 480
_LOOK_STEP = 8
_LOOK_PAIRS = 6
_MOVES_PX = 1.0
"""A picture of ``_LOOK_SIDE_PX`` whose whole shifts by this much in ``_LOOK_STEP`` frames was taken by a moving camera."""


def detect_camera_motion(frames: FrameStore) -> CameraMotion:
    """A quick look (a few pairs of frames at the beginning, and in the middle if nothing moves there): does the camera move?

    It does where most features all over the picture agree on one motion, and that is not standing still. Well below a second at
    1280 x 720.
    """
    pictures = _Pictures(frames, side_px=_LOOK_SIDE_PX)
    num_frames = frames.clip.num_frames
    step = min(_LOOK_STEP, max(1, num_frames - 1))
    found = _camera_steps(pictures, range(0, min(num_frames, step * _LOOK_PAIRS + 1), step))
    middle = num_frames // 2
    if not _is_moving(found) and middle > step * _LOOK_PAIRS:
        found += _camera_steps(pictures, range(middle, min(num_frames, middle + 2 * step + 1), step))
    shift_px = float(np.mean(found)) / step / float(pictures.scale_xy.mean()) if found else 0.0
    return CameraMotion(_is_moving(found), shift_px)


def _is_moving(shifts: list[float]) -> bool:
    """One pair alone among several is a mistake or a cut."""
    return sum(shift > 0 for shift in shifts) >= min(2, max(1, len(shifts)))


def _camera_steps(pictures: _Pictures, order: range) -> list[float]:
    """How far the whole picture shifted between every frame of ``order`` and the next, in its pixels; 0 for next to nothing."""
    shifts: list[float] = []
    last = None
    for frame_index in order:
        picture = pictures.read(frame_index)
        if last is not None:
            shifts.append(_shift_between(last, picture))
        last = picture
    return shifts


def _shift_between(one: _Picture, other: _Picture) -> float:
    seeds = find_features(one.gray, count=_SUPPORT_FEATURES)
    there, is_good = follow_points(one.even, other.even, seeds)
    a, b = seeds[is_good], there[is_good]
    _, is_inlier = estimate_motion(a, b, "similarity")
    if np.count_nonzero(is_inlier) < max(12, 0.3 * len(seeds)):
        return 0.0
    shift = float(np.median(np.linalg.norm(b - a, axis=1)[is_inlier]))
    return shift if shift > _MOVES_PX else 0.0
