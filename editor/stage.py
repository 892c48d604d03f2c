"""The picture that the page shows: how large it is, and the guides drawn on it. The object in it is ``pipeline.animatic``'s.

Works on a reduced copy of the frame (``view_hw``); all coordinates that come in are clip pixels or 0..1 of the picture, as said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.animatic import scale_to
from pipeline.types import Array, Reference

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

VIEW_HW = (720, 1120)
"""The picture that is sent to the browser fills this height or this width. It must never be shown larger than it is (page.css sees
to that): the browser component reports clicks wrongly on enlarged pictures."""

CUTOUT_PX = 480
"""Longest side of the cut-out's preview, for the same reason always this long."""

START_COLOR = (46, 196, 182)
END_COLOR = (255, 159, 67)
PATH_COLOR = (255, 92, 138)
_CASING = (16, 18, 24)

SMOOTH = 2
"""Guides are drawn this much larger and then averaged, so that their edges are smooth; the picture below comes back unchanged."""


@dataclass(frozen=True, eq=False, slots=True)
class Guides:
    """What is drawn over the frame, all 0..1 of the picture: the two keyed boxes, the box at this frame with its rotation, the
    path as points f32[T,2] with its nodes by frame, and a first corner that waits for its second."""

    frame_index: int
    start_box: Sequence[float] | None = None
    end_box: Sequence[float] | None = None
    box: Sequence[float] | None = None
    rotation_deg: float = 0.0
    path: Array | None = None
    nodes: Mapping[int, tuple[float, float]] | None = None
    corner: tuple[float, float] | None = None


def view_hw(clip_hw: tuple[int, int]) -> tuple[int, int]:
    """Size of the picture that is shown for a clip of this size: as large as fits into ``VIEW_HW``, aspect kept."""
    return _fitted(clip_hw, VIEW_HW)


def cutout_hw(reference_hw: tuple[int, int]) -> tuple[int, int]:
    """Size of the cut-out's preview."""
    return _fitted(reference_hw, (CUTOUT_PX, CUTOUT_PX))


def _fitted(hw: tuple[int, int], frame_hw: tuple[int, int]) -> tuple[int, int]:
    scale = min(frame_hw[0] / hw[0], frame_hw[1] / hw[1])
    return max(1, round(hw[0] * scale)), max(1, round(hw[1] * scale))


def box_in_picture(box_px: Array, clip_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box in clip pixels as 0..1 of the picture."""
    x0, y0, x1, y1 = (float(value) for value in box_px)
    return x0 / clip_hw[1], y0 / clip_hw[0], x1 / clip_hw[1], y1 / clip_hw[0]


def points_in_picture(points_px: Array, clip_hw: tuple[int, int]) -> Array:
    """Points f32[N,2] in clip pixels as 0..1 of the picture."""
    return points_px / np.array([clip_hw[1], clip_hw[0]], np.float32)


def point_in_picture(pixel: tuple[float, float], hw: tuple[int, int]) -> tuple[float, float]:
    """A clicked pixel of a picture of size ``hw`` as 0..1: the middle of the pixel, held inside the picture."""
    x, y = (pixel[0] + 0.5) / hw[1], (pixel[1] + 0.5) / hw[0]
    return min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)


def draw_guides(picture: Array, guides: Guides) -> Array:
    """``picture`` u8[h,w,3] with boxes, path, nodes and a waiting corner drawn on it."""
    from PIL import Image
    from PIL.ImageDraw import Draw

    height, width = picture.shape[:2]
    size = width * SMOOTH, height * SMOOTH
    image = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    draw = Draw(image)
    if guides.box is not None:
        _polygon(draw, _corners(guides.box, guides.rotation_deg, size), (255, 255, 255), 1)
    for box, color, name in ((guides.start_box, START_COLOR, "start"), (guides.end_box, END_COLOR, "end")):
        if box is not None:
            corners = _corners(box, 0.0, size)
            _polygon(draw, corners, color, 2)
            _label(draw, corners[0], name, color, size)
    if guides.path is not None and len(guides.path) > 1:
        _line(draw, [(x * size[0], y * size[1]) for x, y in guides.path], PATH_COLOR, 2)
    for frame, (x, y) in (guides.nodes or {}).items():
        is_here = frame == guides.frame_index
        _dot(draw, (x * size[0], y * size[1]), 7 if is_here else 4, (255, 255, 255) if is_here else PATH_COLOR, PATH_COLOR)
    if guides.corner is not None:
        _dot(draw, (guides.corner[0] * size[0], guides.corner[1] * size[1]), 5, (255, 255, 255), _CASING)
    return np.asarray(image.reduce(SMOOTH))


def draw_cutout(reference: Reference, anchor: tuple[float, float] | None) -> Array:
    """The cut-out as RGBA u8[h,w,4], reduced, with the point that follows the path marked (0..1 of the picture)."""
    from PIL import Image
    from PIL.ImageDraw import Draw

    hw = cutout_hw(reference.hw)
    alpha = np.round(reference.alpha * 255).astype(np.uint8)
    large = hw[1] * SMOOTH, hw[0] * SMOOTH
    image = Image.fromarray(scale_to(np.dstack([reference.image, alpha]), hw)).resize(large, Image.Resampling.NEAREST)
    if anchor is not None:
        _dot(Draw(image), (anchor[0] * large[0], anchor[1] * large[1]), 6, PATH_COLOR, (255, 255, 255))
    return np.asarray(image.reduce(SMOOTH))


# -- strokes --------------------------------------------------------------------------------------------------------------------

Color = tuple[int, int, int]
Spot = tuple[float, float]


def _corners(box: Sequence[float], rotation_deg: float, size: tuple[int, int]) -> list[Spot]:
    """The four corners in view pixels, clockwise from the upper left, turned about the centre."""
    x0, y0, x1, y1 = box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]
    angle = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    spots = (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) - centre) @ turn.T + centre
    return [(float(x), float(y)) for x, y in spots]


def _polygon(draw: ImageDraw, corners: list[Spot], color: Color, width: int) -> None:
    _line(draw, [*corners, corners[0]], color, width)


def _line(draw: ImageDraw, spots: list[Spot], color: Color, width: int) -> None:
    """A line with a dark casing, so that it reads on any footage."""
    draw.line(spots, fill=_CASING, width=(width + 2) * SMOOTH, joint="curve")
    draw.line(spots, fill=color, width=width * SMOOTH, joint="curve")


def _dot(draw: ImageDraw, spot: Spot, radius: int, fill: Color, rim: Color) -> None:
    x, y = spot
    radius *= SMOOTH
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=rim, width=2 * SMOOTH)


def _label(draw: ImageDraw, corner: Spot, text: str, color: Color, size: tuple[int, int]) -> None:
    """A small tag at a box's corner, kept inside the picture."""
    from PIL.ImageFont import load_default

    font = load_default(13 * SMOOTH)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 10 * SMOOTH, bottom - top + 8 * SMOOTH
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = min(max(corner[1] - height, 0), max(size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 5 * SMOOTH - left, y + 4 * SMOOTH - top), text, fill=_CASING, font=font)
