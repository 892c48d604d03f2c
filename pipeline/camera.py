"""How the camera moved: the map between any two frames of a stretch of footage, read off what does not move by itself.

Every ``NODE_SPACING``-th frame of the clip is a *node*. A node is matched with the next one (Lucas-Kanade on small pictures,
outside whatever is known to move by itself), through the frames between them where they differ too much; other frames are matched
with the node before them, or, behind a cut, after them. Maps between far frames are chained and then, where both look alike,
corrected by one direct match. The nodes lie on a grid of the whole clip, so a map depends on the clip and never on where the
reading began.

Convention: a map f64[3,3] takes pixels of the clip at one frame to pixels at another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import geometry
from .media import FrameStore
from .tracking import estimate_motion, find_features, flatten_light, follow_points
from .types import Array, DecodedFrame

NODE_SPACING = 8
WORK_SIDE_PX = 640
"""Frames are matched at most this large on their longer side."""

_FEATURES = 200
_LEAST_FEATURES = 16
"""With fewer there is nothing to go by, and whether two frames look alike decides."""
_LEAST_SHARE = 0.3
_HOMOGRAPHY_INLIERS = 60
_ALIKE_LEVELS = 10.0
"""Mean difference of two tiny pictures, in 8-bit levels, up to which they may be of one shot."""
_STILL_PX = 0.06
"""A motion of less than this, in pixels of the clip, everywhere in the picture is none."""


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """A frame as it is matched: ``gray`` u8[h,w], the same with its light made even, and which of it stands still in the scene;
    ``features`` f64[N,2] are corners there."""

    frame_index: int
    gray: Array
    even: Array
    is_scene: Array
    features: Array


class CameraPath:
    """The camera's motion in a clip. ``is_moving(frame_index)``, bool[H,W] or None, says what moves by itself. Not thread-safe."""

    def __init__(self, frames: FrameStore, is_moving: Callable[[int], Array | None]) -> None:
        self._frames, self._is_moving = frames, is_moving
        clip = frames.clip
        share = min(1.0, WORK_SIDE_PX / max(clip.hw))
        self._hw = max(1, round(clip.height * share)), max(1, round(clip.width * share))
        self._to_clip = np.diag([clip.width / self._hw[1], clip.height / self._hw[0], 1.0])
        self._views: dict[int, View] = {}
        self._passing: OrderedDict[int, View] = OrderedDict()
        self._steps: dict[tuple[int, int], Array | None] = {}

    def view(self, frame_index: int) -> View:
        """The frame, small. Nodes are kept until ``forget_before`` passes them, of other frames the last few."""
        found = self._views.get(frame_index) or self._passing.get(frame_index)
        if found is None:
            found = self._look_at(self._frames.frame(frame_index))
            kept = self._passing if frame_index % NODE_SPACING else self._views
            kept[frame_index] = found
            if len(self._passing) > 2 * NODE_SPACING:
                self._passing.popitem(last=False)
        return found

    def forget_before(self, frame_index: int) -> None:
        """Let go of the pictures before a frame; the motion that was found stays."""
        for index in [each for each in self._views if each < frame_index]:
            del self._views[index]

    def between(self, start: int, stop: int) -> Array | None:
        """The map from frame ``start`` to frame ``stop``, chained over nodes; None across a cut."""
        if start == stop:
            return np.eye(3)
        for one in self._nodes_beside(start):
            for other in self._nodes_beside(stop):
                there, back = self._from_node(one, start), self._from_node(other, stop)
                chain = self._between_nodes(one, other)
                if there is not None and back is not None and chain is not None:
                    return geometry.normal_map(back @ chain @ np.linalg.inv(there))
        first, last = min(start, stop), max(start, stop)
        if first // NODE_SPACING != last // NODE_SPACING:
            return None
        found = self._step(first, last)  # a shot that lies between two nodes
        return found if found is None or start < stop else geometry.normal_map(np.linalg.inv(found))

    def refine(self, start: int, stop: int, guess: Array) -> Array:
        """A map between two frames, corrected by matching them directly; the guess where they do not match well."""
        one, other = self.view(start), self.view(stop)
        found = self._match(one, other, self._to_work(guess))
        return guess if found is None else self._from_work(found)

    # -- inside -----------------------------------------------------------------------------------------------------------------

    def _look_at(self, frame: DecodedFrame) -> View:
        import cv2

        plane = frame.planes[0] if frame.planes else cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        if plane.dtype != np.uint8:
            plane = cv2.convertScaleAbs(plane, alpha=255.0 / float(max(1, int(plane.max()))))
        gray = cv2.resize(np.ascontiguousarray(plane), self._hw[::-1], interpolation=cv2.INTER_AREA)
        is_scene = np.ones(self._hw, np.bool_)
        moving = self._is_moving(frame.frame_index)
        if moving is not None:
            small = cv2.resize(moving.astype(np.uint8) * 255, self._hw[::-1], interpolation=cv2.INTER_AREA)
            is_scene = cv2.dilate(small, np.ones((9, 9), np.uint8)) == 0
        return View(frame.frame_index, gray, flatten_light(gray), is_scene, find_features(gray, is_scene, _FEATURES))

    def _nodes_beside(self, frame_index: int) -> list[int]:
        before = frame_index // NODE_SPACING * NODE_SPACING
        after = before + NODE_SPACING
        return [before] if frame_index == before or after >= self._frames.clip.num_frames else [before, after]

    def _from_node(self, node: int, frame_index: int) -> Array | None:
        if node <= frame_index:
            return self._step(node, frame_index)
        found = self._step(frame_index, node)
        return None if found is None else geometry.normal_map(np.linalg.inv(found))

    def _between_nodes(self, start: int, stop: int) -> Array | None:
        matrix = np.eye(3)
        for node in range(min(start, stop), max(start, stop), NODE_SPACING):
            step = self._step(node, node + NODE_SPACING)
            if step is None:
                return None
            matrix = geometry.normal_map(step @ matrix)
        return matrix if start <= stop else geometry.normal_map(np.linalg.inv(matrix))

    def _step(self, start: int, stop: int) -> Array | None:
        """The map between two frames at most a node apart; split in two where they do not match. None across a cut."""
        if start == stop:
            return np.eye(3)
        key = start, stop
        if key not in self._steps:
            found = self._match(self.view(start), self.view(stop), np.eye(3))
            if found is not None:
                self._steps[key] = self._from_work(found)
            elif stop - start == 1:
                self._steps[key] = np.eye(3) if _look_alike(self.view(start), self.view(stop)) else None
            else:
                middle = (start + stop) // 2
                halves = self._step(start, middle), self._step(middle, stop)
                whole = None if halves[0] is None or halves[1] is None else geometry.normal_map(halves[1] @ halves[0])
                self._steps[key] = whole
        return self._steps[key]

    def _match(self, one: View, other: View, guess: Array) -> Array | None:
        """The map between two small pictures; None where they do not agree on one."""
        points = one.features
        if len(points) < _LEAST_FEATURES:
            return np.eye(3) if _look_alike(one, other) and np.allclose(guess, np.eye(3)) else None
        there = geometry.apply_map(guess, points)
        inside = (there > 0).all(axis=1) & (there[:, 0] < self._hw[1]) & (there[:, 1] < self._hw[0])
        points, there = points[inside], there[inside]
        if len(points) < _LEAST_FEATURES:
            return None
        found, is_good = follow_points(_warped(one.even, guess, self._hw), other.even, there)
        cells = np.clip(np.floor(found).astype(np.int64), 0, [self._hw[1] - 1, self._hw[0] - 1])
        is_good &= other.is_scene[cells[:, 1], cells[:, 0]]
        if np.count_nonzero(is_good) < _LEAST_FEATURES // 2:
            return None
        points, found = points[is_good], found[is_good]
        least = max(_LEAST_FEATURES // 2, _LEAST_SHARE * np.count_nonzero(inside))
        if len(points) >= _HOMOGRAPHY_INLIERS:
            matrix, is_inlier = estimate_motion(points, found, "homography", inlier_px=1.0)
            if np.count_nonzero(is_inlier) >= max(least, _HOMOGRAPHY_INLIERS) and _is_sound(matrix, self._hw):
                return geometry.normal_map(matrix)
        matrix, is_inlier = estimate_motion(points, found, "similarity", inlier_px=2.0)
        return geometry.normal_map(matrix) if np.count_nonzero(is_inlier) >= least else None

    def _from_work(self, matrix: Array) -> Array:
        full = geometry.normal_map(self._to_clip @ matrix @ np.linalg.inv(self._to_clip))
        corners = geometry.box_corners(np.array([0.0, 0.0, *self._frames.clip.hw[::-1]]))
        is_still = float(np.abs(geometry.apply_map(full, corners) - corners).max()) < _STILL_PX
        return np.eye(3) if is_still else full

    def _to_work(self, matrix: Array) -> Array:
        return geometry.normal_map(np.linalg.inv(self._to_clip) @ matrix @ self._to_clip)


def _is_sound(matrix: Array, hw: tuple[int, int]) -> bool:
    """Whether a homography keeps the picture's corners before the camera and its size within bounds."""
    corners = geometry.box_corners(np.array([0.0, 0.0, hw[1], hw[0]]))
    depth = corners @ matrix[2, :2] + matrix[2, 2]
    return bool(depth.min() > 0.3 * depth.max() > 0)


def _warped(picture: Array, matrix: Array, hw: tuple[int, int]) -> Array:
    import cv2

    if np.allclose(matrix, np.eye(3), atol=1e-9):
        return picture
    pixels = geometry.pixel_map(matrix)
    return cv2.warpPerspective(picture, pixels, hw[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _look_alike(one: View, other: View) -> bool:
    import cv2

    tiny = [cv2.resize(view.gray, (24, 16), interpolation=cv2.INTER_AREA).astype(np.float32) for view in (one, other)]
    return float(np.abs(tiny[0] - tiny[1]).mean()) < _ALIKE_LEVELS
