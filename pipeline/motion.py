"""The motion model: keyframed boxes and point trajectories become one smooth map from the reference to every frame.

Keys (``BoxKey``, ``TrajectoryKeys``: what a person draws, normalised) become dense arrays over the clip (``BoxSequence``,
``TrajectorySet``: pixels), and those become a ``LayerMotion``: for any moment, a ``Warp`` from reference pixels to clip pixels. The
compositor samples that warp, the page draws its mesh, the diffusion engines read its effective boxes: one motion mathematics.

The warp at a frame is the reference placed by its box (the *rest pose*), then moved by the trajectories that are visible:

- none: the rest pose; one: the shift that puts the point on its trajectory; two: the similarity that puts both there;
- three or more: the least-squares similarity, then rigid moving least squares of what is left, exact at the points;
- ``deform="perspective"`` with four visible: the homography.

A point whose visibility ends keeps its offset from where the others would carry it, faded to nothing over ``FADE_FRAMES`` frames
(and symmetrically before its visibility begins). With visibilities ``c`` sorted downwards and S_k the k most visible points, the
warp is ``sum_k (c_k - c_{k+1}) pose(S_k)``: continuous in every ``c``, and exact at every fully visible point.

A layer that follows a surface has all this in the frame of reference of that surface, as it stood at its key frame; at every frame
the surface's matrix comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from . import geometry
from .errors import UserError
from .types import Anchor, Array, BoxSequence, Deform, Fit, Layer, Reference, SurfaceMotion, TrajectorySet

Ease = Literal["linear", "smooth", "hold"]

FADE_FRAMES = 8
"""Over how many frames a point's offset fades once it is no longer visible."""

MESH_CELLS = 32
"""Cells of the mesh along the reference's longer side."""

_NEGLIGIBLE_PX = 0.01


@dataclass(frozen=True, slots=True)
class BoxKey:
    """One keyframe of a box: ``box`` x0 y0 x1 y1 normalised to the clip, ``rotation_deg`` clockwise, ``ease`` of the segment that
    follows it. ``enter``: the object does not exist between the key before and this one; ``leave``: not until the next key."""

    box: tuple[float, float, float, float]
    rotation_deg: float = 0.0
    ease: Ease = "linear"
    enter: bool = False
    leave: bool = False


@dataclass(frozen=True, slots=True)
class TrajectoryKeys:
    """One point's keyframes: where the reference's point ``point`` is, by frame, normalised to the clip; ``visible`` holds
    half-open frame ranges, None for always."""

    point: str
    keys: Mapping[int, tuple[float, float]]
    ease: Ease = "smooth"
    visible: tuple[tuple[int, int], ...] | None = None


def interpolate_keys(frames: Sequence[int], values: Array, eases: Sequence[Ease], num_frames: int) -> tuple[Array, Array]:
    """Dense values f64[num_frames, D] from keys at increasing ``frames`` with ``values`` f64[K, D].

    ``eases[k]`` governs the segment after key k: ``linear``, ``smooth`` (monotone cubic, scipy's ``PchipInterpolator``, through the
    keys of the run between two holds) or ``hold``. Outside the keys the nearest one holds. Also returns ``is_cut``
    bool[num_frames]: true where a held segment ends in a jump.
    """
    values = np.asarray(values, np.float64)
    dense = np.empty((num_frames, values.shape[1]))
    dense[: frames[0]] = values[0]
    dense[frames[-1] :] = values[-1]
    is_cut = np.zeros(num_frames, np.bool_)
    for first, last in _runs_between_holds(eases, len(frames)):
        _fill_run(dense, frames[first : last + 1], values[first : last + 1], eases[first:last])
        if last + 1 < len(frames):
            dense[frames[last] : frames[last + 1]] = values[last]
            dense[frames[last + 1]] = values[last + 1]
            is_cut[frames[last + 1]] = bool((values[last + 1] != values[last]).any())
    return dense, is_cut


def _runs_between_holds(eases: Sequence[Ease], count: int) -> list[tuple[int, int]]:
    """(first, last) key of every run of keys that no held segment interrupts."""
    holds = [index for index in range(count - 1) if eases[index] == "hold"]
    return list(zip([0, *(index + 1 for index in holds)], [*holds, count - 1], strict=True))


def _fill_run(dense: Array, frames: Sequence[int], values: Array, eases: Sequence[Ease]) -> None:
    if len(frames) == 1:
        dense[frames[0]] = values[0]
        return
    curve = None
    if "smooth" in eases:
        from scipy.interpolate import PchipInterpolator

        curve = PchipInterpolator(frames, values, axis=0)
    for index, (start, stop) in enumerate(pairwise(frames)):
        steps = np.arange(start, stop + 1)
        if eases[index] == "smooth" and curve is not None:
            dense[start : stop + 1] = curve(steps)
        else:
            share = ((steps - start) / (stop - start))[:, None]
            dense[start : stop + 1] = values[index] * (1 - share) + values[index + 1] * share
        dense[start], dense[stop] = values[index], values[index + 1]


def build_box_sequence(keys: Mapping[int, BoxKey], clip_hw: tuple[int, int], num_frames: int) -> BoxSequence:
    """Keyframed boxes over the whole clip. Centre, logarithm of the size and rotation are what is interpolated."""
    frames = sorted(keys)
    ordered = [keys[frame] for frame in frames]
    boxes = np.array([key.box for key in ordered]) * np.array([clip_hw[1], clip_hw[0]] * 2, np.float64)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, np.log(boxes[:, 2:] - boxes[:, :2])
    rotation = np.array([[key.rotation_deg] for key in ordered], np.float64)
    dense, is_cut = interpolate_keys(
        frames, np.concatenate([centre, size, rotation], axis=1), [key.ease for key in ordered], num_frames
    )
    half = np.exp(dense[:, 2:4]) / 2
    is_visible = np.ones(num_frames, np.bool_)
    is_visible[: frames[0]] = not ordered[0].enter
    is_visible[frames[-1] + 1 :] = not ordered[-1].leave
    for (start, before), (stop, after) in pairwise(zip(frames, ordered, strict=True)):
        is_visible[start + 1 : stop] = not (before.leave or after.enter)
    return BoxSequence(
        boxes_px=np.concatenate([dense[:, :2] - half, dense[:, :2] + half], axis=1).astype(np.float32),
        rotation_deg=dense[:, 4].astype(np.float32),
        is_visible=is_visible,
        is_cut=is_cut,
    )


def build_trajectory_set(
    trajectories: Sequence[TrajectoryKeys],
    anchors_px: Mapping[str, tuple[float, float]],
    clip_hw: tuple[int, int],
    num_frames: int,
) -> TrajectorySet:
    """Keyframed trajectories over the whole clip; before its first and after its last key a point holds.

    ``anchors_px`` says where each named point sits on the reference, in its pixels. Raises ``UserError`` when two of the points
    lie closer than 2 px on the reference: no map could tell them apart.
    """
    anchors = np.array([anchors_px[item.point] for item in trajectories], np.float64)
    for index, one in enumerate(trajectories):
        distances = np.linalg.norm(anchors[index + 1 :] - anchors[index], axis=1)
        if (distances < 2).any():
            other = trajectories[index + 1 + int(np.argmin(distances))].point
            raise UserError(f"The points {one.point!r} and {other!r} lie less than 2 px apart on the reference; move one of them.")
    points, cuts, visible = [], [], []
    for item in trajectories:
        frames = sorted(item.keys)
        places = np.array([item.keys[frame] for frame in frames], np.float64) * np.array([clip_hw[1], clip_hw[0]], np.float64)
        dense, is_cut = interpolate_keys(frames, places, [item.ease] * len(frames), num_frames)
        points.append(dense)
        cuts.append(is_cut)
        visible.append(_ranges_to_mask(item.visible, num_frames))
    return TrajectorySet(
        names=tuple(item.point for item in trajectories),
        points_px=np.array(points, np.float32),
        is_visible=np.array(visible, np.bool_),
        is_cut=np.array(cuts, np.bool_),
        anchors_px=anchors.astype(np.float32),
    )


def _ranges_to_mask(ranges: tuple[tuple[int, int], ...] | None, num_frames: int) -> Array:
    mask = np.full(num_frames, ranges is None)
    for start, stop in ranges or ():
        mask[max(start, 0) : max(stop, 0)] = True
    return mask


def resample_stroke(points_xy: Array, times_s: Array, num_frames: int, spacing: Literal["timing", "even"] = "timing") -> Array:
    """A freehand stroke as one point per frame, f64[num_frames, 2]; first and last point of the stroke are kept.

    ``timing``: the speed of drawing becomes the speed of the object; ``even``: equal steps along the path. ``points_xy`` f64[M,2]
    and ``times_s`` f64[M] (never decreasing) are as recorded. Raises ``ValueError`` for a stroke of no points or times that run
    backwards.
    """
    points, times = np.asarray(points_xy, np.float64), np.asarray(times_s, np.float64)
    if len(points) == 0 or len(points) != len(times) or (np.diff(times) < 0).any() or num_frames < 1:
        raise ValueError("a stroke needs at least one point and a time for each, in order")
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    progress = np.concatenate([[0.0], np.cumsum(steps) if spacing == "even" else times[1:] - times[0]])
    if progress[-1] <= 0:
        progress = np.linspace(0.0, 1.0, len(points)) if len(points) > 1 else np.zeros(1)
    wanted = np.linspace(0.0, progress[-1], num_frames)
    return np.stack([np.interp(wanted, progress, points[:, axis]) for axis in (0, 1)], axis=1)


def _no_points() -> Array:
    return np.zeros((0, 2))


@dataclass(frozen=True, eq=False, slots=True)
class Pose:
    """One map: ``matrix`` f64[3,3]; then, where ``handles`` is not empty, the rigid deformation that takes the points ``handles``
    f64[N,2] of the clip to ``targets`` f64[N,2]."""

    matrix: Array
    handles: Array = field(default_factory=_no_points)
    targets: Array = field(default_factory=_no_points)

    def forward(self, points: Array) -> Array:
        moved = geometry.apply_map(self.matrix, points)
        return geometry.deform_rigid_mls(moved, self.handles, self.targets) if len(self.handles) else moved

    def rough_inverse(self, points: Array) -> Array:
        moved = geometry.deform_rigid_mls(points, self.targets, self.handles) if len(self.handles) else points
        return geometry.apply_map(np.linalg.inv(self.matrix), moved)


@dataclass(frozen=True, eq=False, slots=True)
class Warp:
    """Reference pixels to clip pixels at one moment: a convex mix of poses (one pose, except while a point fades), and after it the
    map ``surface`` f64[3,3], if any."""

    parts: tuple[tuple[float, Pose], ...]
    surface: Array | None = None

    @property
    def matrix(self) -> Array | None:
        """The exact projective map f64[3,3], or None when the warp bends."""
        if self.surface is not None:
            matrix = Warp(self.parts).matrix
            return None if matrix is None else self.surface @ matrix
        if any(len(pose.handles) for _, pose in self.parts):
            return None
        if len(self.parts) == 1:
            return self.parts[0][1].matrix
        if any(pose.matrix[2, :2].any() for _, pose in self.parts):
            return None
        return np.sum([weight * pose.matrix / pose.matrix[2, 2] for weight, pose in self.parts], axis=0)

    def forward(self, points: Array) -> Array:
        """Where reference points f64[...,2] are on the clip."""
        moved = np.sum([weight * pose.forward(points) for weight, pose in self.parts], axis=0)
        return moved if self.surface is None else geometry.apply_map(self.surface, moved)

    def then(self, matrix: Array) -> Warp:
        """This warp with the map f64[3,3] after it."""
        if len(self.parts) == 1 and self.surface is None and not len(self.parts[0][1].handles):
            return Warp(((1.0, Pose(matrix @ self.parts[0][1].matrix)),))
        return Warp(self.parts, matrix if self.surface is None else matrix @ self.surface)

    def inverse(self, points: Array, tolerance_px: float = 0.01, max_steps: int = 12) -> Array:
        """Which reference points land on clip points f64[...,2]: exact for projective maps, else Newton's method to
        ``tolerance_px`` (in clip pixels) from the inverse deformation; where the reference folds, one of the candidates."""
        points = np.asarray(points, np.float64)
        matrix = self.matrix
        if matrix is not None:
            return geometry.apply_map(np.linalg.inv(matrix), points)
        if self.surface is not None:
            before = geometry.apply_map(np.linalg.inv(self.surface), points)
            return Warp(self.parts).inverse(before, tolerance_px, max_steps)
        flat = points.reshape(-1, 2)
        found = max(self.parts, key=lambda part: part[0])[1].rough_inverse(flat)
        pending = np.arange(len(flat))
        for _ in range(max_steps):
            here = found[pending]
            error = self.forward(here) - flat[pending]
            open_ = np.abs(error).max(axis=1) > tolerance_px
            pending, here, error = pending[open_], here[open_], error[open_]
            if len(pending) == 0:
                break
            found[pending] = here - self._newton_step(here, error)
        return found.reshape(points.shape)

    def _newton_step(self, here: Array, error: Array) -> Array:
        h = 0.25
        dx, dy = np.array([h, 0.0]), np.array([0.0, h])
        along_x = (self.forward(here + dx) - self.forward(here - dx)) / (2 * h)
        along_y = (self.forward(here + dy) - self.forward(here - dy)) / (2 * h)
        det = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
        scale = np.maximum(np.abs(along_x).max(axis=1), np.abs(along_y).max(axis=1)) ** 2
        det = np.where(np.abs(det) < 0.05 * scale, np.copysign(np.maximum(0.05 * scale, 1e-9), det), det)
        step = np.stack(
            [along_y[:, 1] * error[:, 0] - along_y[:, 0] * error[:, 1], along_x[:, 0] * error[:, 1] - along_x[:, 1] * error[:, 0]],
            axis=1,
        )
        return step / det[:, None]


class LayerMotion:
    """The motion of one layer's reference over the clip. Made by ``build_layer_motion``; immutable once made."""

    def __init__(
        self,
        reference: Reference,
        boxes: BoxSequence | None,
        trajectories: TrajectorySet | None,
        fit: Fit = "contain",
        anchor: Anchor = "center",
        deform: Deform = "auto",
        surface: SurfaceMotion | None = None,
    ) -> None:
        self._reference, self._boxes, self._deform, self._surface = reference, boxes, deform, surface
        self._anchors, self._targets, self._weights, self._cuts = _point_arrays(boxes, trajectories)
        self.num_frames = self._targets.shape[1]
        is_visible = self._weights > 0
        self._rest: _BoxRest | _FreeRest
        if boxes is not None:
            self._rest = _BoxRest(np.array(reference.tight_box_px()), boxes, fit, anchor)
        else:
            self._rest = _FreeRest(self._anchors, self._targets, is_visible)
        self._targets, self._weights = self._with_fades(is_visible)

    # -- where the object is ----------------------------------------------------------------------------------------------------

    def exists(self, frame_index: int) -> bool:
        """Whether the object is there at all at this frame (``enter`` and ``leave``); it may still be outside the picture."""
        return self._boxes is None or bool(self._boxes.is_visible[frame_index])

    def warp(self, time: float) -> Warp:
        """The warp at ``time`` in frames; between frames all is interpolated linearly, except across a jump or an absence."""
        before, share = self._split_time(time)
        after = min(before + 1, self.num_frames - 1)
        weights = self._weights[:, before] * (1 - share) + self._weights[:, after] * share
        targets = self._targets[:, before] * (1 - share) + self._targets[:, after] * share
        levels = sorted({0.0, 1.0, *(float(weight) for weight in weights)}, reverse=True)
        rest = self._rest.matrix(before, after, share)
        parts = [(high - low, self._pose(rest, targets, weights >= high)) for high, low in pairwise(levels)]
        surface = None if self._surface is None else surface_matrix(self._surface, before, share)
        return Warp(tuple(parts)) if surface is None else Warp(tuple(parts)).then(surface)

    def _split_time(self, time: float) -> tuple[int, float]:
        time = min(max(float(time), 0.0), self.num_frames - 1.0)
        before = int(np.floor(time))
        share = time - before
        if share == 0 or before + 1 >= self.num_frames:
            return before, 0.0
        jumps = bool(self._cuts[:, before + 1].any()) or (self._boxes is not None and bool(self._boxes.is_cut[before + 1]))
        jumps |= self._surface is not None and bool(self._surface.is_tracked[before] != self._surface.is_tracked[before + 1])
        if self.exists(before) != self.exists(before + 1):
            return (before if self.exists(before) else before + 1), 0.0
        return (round(time), 0.0) if jumps else (before, share)

    def _pose(self, rest: Array, targets: Array, chosen: Array) -> Pose:
        """The pose that the chosen points alone ask for."""
        count = int(chosen.sum())
        if count == 0:
            return Pose(rest)
        goal = targets[chosen]
        if self._deform == "perspective" and count == 4:
            try:
                return Pose(geometry.fit_homography(self._anchors[chosen], goal))
            except ValueError:
                pass  # three goals on one line: no homography exists at this moment; the deformation below still meets all four
        start = geometry.apply_map(rest, self._anchors[chosen])
        matrix = geometry.fit_similarity(start, goal)
        if count < 3:
            return Pose(matrix @ rest)
        handles = geometry.apply_map(matrix, start)
        if np.abs(handles - goal).max() < _NEGLIGIBLE_PX:
            return Pose(matrix @ rest)
        return Pose(matrix @ rest, handles, goal)

    # -- fades ------------------------------------------------------------------------------------------------------------------

    def _with_fades(self, is_visible: Array) -> tuple[Array, Array]:
        """Targets f64[N,T,2] and weights f64[N,T] in which an invisible point fades out after, and in before, its visible runs."""
        targets, weights = self._targets.copy(), self._weights.copy()
        sums = np.zeros_like(targets)
        totals = np.zeros_like(weights)
        edges = np.flatnonzero(np.diff(is_visible, axis=1).any(axis=0))
        for edge in (int(value) for value in edges):
            changed = is_visible[:, edge] != is_visible[:, edge + 1]
            for index in (int(value) for value in np.flatnonzero(changed)):
                inside, outside = (edge, edge + 1) if is_visible[index, edge] else (edge + 1, edge)
                others = is_visible[:, outside]
                offset = self._targets[index, inside] - self._carried(index, inside, others)
                for step in range(1, FADE_FRAMES):
                    frame = inside + step * (outside - inside)
                    if not 0 <= frame < self.num_frames or is_visible[index, frame]:
                        break
                    weight = 1 - step / FADE_FRAMES
                    sums[index, frame] += weight * (self._carried(index, frame, others) + offset)
                    totals[index, frame] += weight
                    weights[index, frame] = max(weights[index, frame], weight)
        fading = totals > 0
        targets[fading] = sums[fading] / totals[fading][:, None]
        return targets, weights

    def _carried(self, index: int, frame: int, others: Array) -> Array:
        """Where the pose of the other points alone would carry point ``index`` at a frame."""
        pose = self._pose(self._rest.matrix(frame, frame, 0.0), self._targets[:, frame], others)
        return pose.forward(self._anchors[index])

    # -- what the others draw and read -------------------------------------------------------------------------------------------

    @cached_property
    def _mesh(self) -> tuple[Array, Array]:
        support = self._reference.alpha > 0
        rows, columns = np.flatnonzero(support.any(axis=1)), np.flatnonzero(support.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
        return geometry.grid_mesh(box, MESH_CELLS)

    @property
    def mesh_uv_px(self) -> Array:
        """Mesh vertices f32[V,2] in reference pixels, over everything whose alpha is not 0."""
        return self._mesh[0].astype(np.float32)

    @property
    def mesh_triangles(self) -> Array:
        """Mesh triangles i32[F,3], clockwise on the reference."""
        return self._mesh[1]

    def mesh(self, frame_index: int) -> Array:
        """Mesh vertices f32[V,2] in clip pixels at a frame."""
        return self.warp(frame_index).forward(self._mesh[0]).astype(np.float32)

    def warped_outline_px(self, frame_index: int) -> Array:
        """Points f64[N,2] all around the warped reference (alpha of at least 0.5) at a frame."""
        return self.warp(frame_index).forward(self._outline)

    def warped_bounds_px(self, frame_index: int) -> Array:
        """Bounds f64[4] of the warped reference (alpha of at least 0.5) at a frame."""
        return geometry.bounds_of(self.warped_outline_px(frame_index))

    @cached_property
    def _outline(self) -> Array:
        """Corner points of the convex hull of all pixels whose alpha is at least 0.5, and points along its edges."""
        solid = self._reference.alpha >= 0.5
        rows = np.flatnonzero(solid.any(axis=1))
        first = solid[rows].argmax(axis=1)
        last = solid.shape[1] - solid[rows][:, ::-1].argmax(axis=1)
        corners = np.concatenate([np.stack([x, rows + dy], axis=1) for x in (first, last) for dy in (0, 1)])
        import cv2

        hull = cv2.convexHull(corners.astype(np.float32))[:, 0].astype(np.float64)
        between = [hull * (1 - share) + np.roll(hull, -1, axis=0) * share for share in (0.0, 0.25, 0.5, 0.75)]
        return np.concatenate(between)

    def effective_box_px(self, frame_index: int) -> Array:
        """f64[4]: the keyed box at a frame, united with the bounds of the warped reference."""
        bounds = self.warped_bounds_px(frame_index)
        if self._boxes is None:
            return bounds
        keyed = self._boxes.boxes_px[frame_index]
        if self._surface is not None:
            keyed = geometry.bounds_of(geometry.apply_map(self._surface.matrices[frame_index], geometry.box_corners(keyed)))
        return np.concatenate([np.minimum(bounds[:2], keyed[:2]), np.maximum(bounds[2:], keyed[2:])])

    @cached_property
    def effective_boxes_px(self) -> Array:
        """f32[T,4]: ``effective_box_px`` of every frame."""
        return np.array([self.effective_box_px(frame) for frame in range(self.num_frames)]).astype(np.float32)

    def folded_frames(self, start: int = 0, stop: int | None = None) -> tuple[int, ...]:
        """Frames in ``start .. stop`` at which the object exists and some part of the reference lies over another, or is turned
        inside out; exactness at the points is kept there at the cost of beauty."""
        folded = []
        for frame in range(start, self.num_frames if stop is None else stop):
            if not self.exists(frame):
                continue
            warp = self.warp(frame)
            if warp.matrix is not None and not warp.matrix[2, :2].any():
                continue
            areas = geometry.signed_areas(warp.forward(self._mesh[0])[self._mesh[1]])
            if areas.min() <= 0 or _crosses_horizon(warp, self._mesh[0]):
                folded.append(frame)
        return tuple(folded)


def surface_matrix(surface: SurfaceMotion, frame_index: int, share: float = 0.0) -> Array | None:
    """The map f64[3,3] from a surface's key frame to the moment a ``share`` of the way from a frame to the next; None for the
    identity. Between frames the motion from the one to the other is interpolated linearly."""
    matrix = surface.matrices[frame_index]
    if share > 0 and not np.array_equal(matrix, surface.matrices[frame_index + 1]):
        step = surface.matrices[frame_index + 1] @ np.linalg.inv(matrix)
        matrix = ((1 - share) * np.eye(3) + share * step / step[2, 2]) @ matrix
    return None if np.array_equal(matrix, np.eye(3)) else matrix


def carry_points(surface: SurfaceMotion | None, points_px: Array) -> Array:
    """Points f[N,T,2], one place per frame of the clip as it lies at the surface's key frame: where they are on screen, f64."""
    points = np.asarray(points_px, np.float64)
    if surface is None:
        return points
    moved = [geometry.apply_map(matrix, points[:, frame]) for frame, matrix in enumerate(surface.matrices)]
    return np.stack(moved, axis=1) if moved else points


def carry_boxes(surface: SurfaceMotion | None, boxes: BoxSequence) -> BoxSequence:
    """A box sequence as it lies at the surface's key frame, where its boxes are on screen (``geometry.carry_box``)."""
    if surface is None:
        return boxes
    carried = [
        geometry.carry_box(matrix, box, float(rotation))
        for matrix, box, rotation in zip(surface.matrices, boxes.boxes_px.astype(np.float64), boxes.rotation_deg, strict=True)
    ]
    turn_deg = np.unwrap([rotation for _, rotation in carried] - boxes.rotation_deg, period=360)
    rotation_deg = (boxes.rotation_deg + turn_deg).astype(np.float32)
    return BoxSequence(np.array([box for box, _ in carried], np.float32), rotation_deg, boxes.is_visible, boxes.is_cut)


def _crosses_horizon(warp: Warp, points: Array) -> bool:
    depths = [points @ pose.matrix[2, :2] + pose.matrix[2, 2] for _, pose in warp.parts]
    if warp.surface is not None:
        depths.append(Warp(warp.parts).forward(points) @ warp.surface[2, :2] + warp.surface[2, 2])
    return any(depth.min() <= 0 < depth.max() for depth in depths)


def _point_arrays(boxes: BoxSequence | None, trajectories: TrajectorySet | None) -> tuple[Array, Array, Array, Array]:
    """Anchors f64[N,2], targets f64[N,T,2], weights f64[N,T], cuts bool[N,T]; N is 0 without trajectories."""
    if trajectories is not None:
        is_visible = trajectories.is_visible.astype(np.float64)
        return (
            trajectories.anchors_px.astype(np.float64),
            trajectories.points_px.astype(np.float64),
            is_visible,
            trajectories.is_cut,
        )
    if boxes is None:
        raise ValueError("a layer's motion needs boxes or trajectories")
    return np.zeros((0, 2)), np.zeros((0, len(boxes), 2)), np.zeros((0, len(boxes))), np.zeros((0, len(boxes)), np.bool_)


class _BoxRest:
    """The rest pose of a layer with boxes: the reference placed by its box."""

    def __init__(self, tight_box_px: Array, boxes: BoxSequence, fit: Fit, anchor: Anchor) -> None:
        self._tight_box_px, self._fit, self._anchor = tight_box_px, fit, anchor
        self._boxes, self._rotation_deg = boxes.boxes_px.astype(np.float64), boxes.rotation_deg.astype(np.float64)

    def matrix(self, before: int, after: int, share: float) -> Array:
        box = self._boxes[before] * (1 - share) + self._boxes[after] * share
        rotation = self._rotation_deg[before] * (1 - share) + self._rotation_deg[after] * share
        return geometry.place_in_box(self._tight_box_px, box, rotation, self._fit, self._anchor)


class _FreeRest:
    """The rest pose of a layer without boxes: turn, size and place read off the trajectories wherever two are visible, carried on
    (size by its logarithm, turn unwrapped) where fewer are."""

    def __init__(self, anchors: Array, targets: Array, is_visible: Array) -> None:
        known = np.flatnonzero(is_visible.sum(axis=0) >= 2)
        if len(known) == 0:
            raise UserError(
                "Without boxes, at least two trajectories must be visible together in some frame; draw a box or extend one."
            )
        self._centre = anchors.mean(axis=0)
        maps = [geometry.fit_similarity(anchors[is_visible[:, frame]], targets[is_visible[:, frame], frame]) for frame in known]
        linear = np.array([matrix[0, 0] + 1j * matrix[1, 0] for matrix in maps])
        places = np.array([geometry.apply_map(matrix, self._centre) for matrix in maps])
        log_size, angle = np.log(np.maximum(np.abs(linear), 1e-6)), np.unwrap(np.angle(linear))
        frames = np.arange(targets.shape[1])
        self._state = np.stack(
            [np.interp(frames, known, values) for values in (log_size, angle, places[:, 0], places[:, 1])], axis=1
        )

    def matrix(self, before: int, after: int, share: float) -> Array:
        log_size, angle, x, y = self._state[before] * (1 - share) + self._state[after] * share
        linear = complex(np.exp(log_size + 1j * angle))
        return geometry.similarity_map(linear, complex(x, y) - linear * complex(*self._centre))


def build_layer_motion(layer: Layer) -> LayerMotion:
    """The motion of an ``insert`` layer by its first reference. Raises ``UserError`` when its keys leave the pose undefined."""
    return LayerMotion(layer.references[0], layer.boxes, layer.trajectories, layer.fit, layer.anchor, layer.deform, layer.surface)
