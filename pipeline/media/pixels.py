"""Samples and colours: planes of a decoded frame, their upright turn, RGB out of them and touched pixels back into them.

Convention: planes are upright arrays (u8, or u16 holding ``depth`` bits) in the order of the pixel format: Y, Cb, Cr; or gray; or
G, B, R. A chroma sample covers the ``fx`` x ``fy`` luma pixels from ``(fx * column, fy * row)`` on. Going to RGB every pixel takes
the chroma sample that covers it (replication), coming back a chroma sample is the mean over the pixels that it covers.
Matrices and ranges: ITU-T H.273; the numbers are those of ``ColorTags``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ..types import Array, Clip, ColorTags

HD_HEIGHT_PX = 720
"""From this height on an untagged picture is taken as BT.709, below it as BT.601."""

LUMA_WEIGHTS = {  # matrix number of H.273: (weight of red, weight of blue)
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}

SUBSAMPLING = {  # planar format without its depth: luma pixels that one chroma sample covers, (fx, fy)
    "yuv420p": (2, 2),
    "yuv422p": (2, 1),
    "yuv440p": (1, 2),
    "yuv444p": (1, 1),
    "yuv411p": (4, 1),
    "yuv410p": (4, 4),
    "gray": (1, 1),
    "gbrp": (1, 1),
}

WRITABLE_DEPTHS = {  # planar format without its depth: depths that FFV1 stores
    "yuv420p": (8, 9, 10, 12, 14, 16),
    "yuv422p": (8, 9, 10, 12, 14, 16),
    "yuv440p": (8, 10, 12),
    "yuv444p": (8, 9, 10, 12, 14, 16),
    "yuv411p": (8,),
    "yuv410p": (8,),
    "gray": (8, 9, 10, 12, 14, 16),
    "gbrp": (8, 9, 10, 12, 14, 16),
}

TURNED = {"yuv422p": "yuv440p", "yuv440p": "yuv422p"}
"""What a planar format becomes when the picture is turned by 90 degrees; the rest stay."""

UNPACKED = {  # decoded format: the planar format with the very same samples
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "nv16": "yuv422p",
    "nv24": "yuv444p",
    "p010le": "yuv420p10le",
    "p210le": "yuv422p10le",
    "p410le": "yuv444p10le",
    "yuyv422": "yuv422p",
    "uyvy422": "yuv422p",
    "yvyu422": "yuv422p",
    "rgb24": "gbrp",
    "bgr24": "gbrp",
    "rgb0": "gbrp",
    "bgr0": "gbrp",
    "0rgb": "gbrp",
    "0bgr": "gbrp",
    "rgb48le": "gbrp16le",
    "rgba": "gbrap",
    "bgra": "gbrap",
    "argb": "gbrap",
    "abgr": "gbrap",
    "rgba64le": "gbrap16le",
    "pal8": "gbrap",
    "monow": "gray",
    "monob": "gray",
}

WITHOUT_ALPHA = {"yuva420p": "yuv420p", "yuva422p": "yuv422p", "yuva444p": "yuv444p", "gbrap": "gbrp"}


class TransparentFrameError(Exception):
    """A frame has pixels that are not opaque."""


class UnsupportedFormatError(Exception):
    """A pixel format or a turn of it that this module has no exact planes for."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How upright planes are laid out: ``base`` (a key of ``SUBSAMPLING``), ``depth`` in bits, chroma cell ``fx`` x ``fy``."""

    base: str
    depth: int
    fx: int
    fy: int

    @property
    def name(self) -> str:
        return self.base + ("" if self.depth == 8 else f"{self.depth}le")

    @property
    def family(self) -> Literal["yuv", "gray", "rgb"]:
        return "gray" if self.base == "gray" else "rgb" if self.base == "gbrp" else "yuv"

    @property
    def dtype(self) -> type:
        return np.uint8 if self.depth == 8 else np.uint16

    @property
    def maximum(self) -> int:
        return (1 << self.depth) - 1


@lru_cache(maxsize=64)
def parse_format(name: str) -> tuple[str, int]:
    """``yuv420p10le`` -> (``yuv420p``, 10). Raises ``UnsupportedFormatError`` for what has no place in the tables above."""
    base, depth = name.removesuffix("le"), 8
    for digits in (9, 10, 12, 14, 16):
        if name.endswith("le") and base.endswith(str(digits)):
            base, depth = base.removesuffix(str(digits)), digits
            break
    if base not in SUBSAMPLING or depth not in WRITABLE_DEPTHS[base]:
        raise UnsupportedFormatError(f"the pixel format {name}")
    return base, depth


@lru_cache(maxsize=64)
def upright_layout(planar_format: str, rotation_deg: int = 0) -> Layout:
    """The layout of the upright planes of a planar format that is turned clockwise by ``rotation_deg``."""
    base, depth = parse_format(planar_format)
    if rotation_deg % 180:
        if base == "yuv411p":
            raise UnsupportedFormatError("4:1:1 video with a rotation tag")
        base = TURNED.get(base, base)
        if depth not in WRITABLE_DEPTHS[base]:
            raise UnsupportedFormatError(f"the pixel format {planar_format} with a rotation tag")
    return Layout(base, depth, *SUBSAMPLING[base])


def clip_layout(clip: Clip) -> Layout:
    """The layout of the planes that ``read_frames`` yields for ``clip``."""
    return upright_layout(clip.pixel_format, clip.rotation_deg)


def resolve_colors(tags: ColorTags, stored_height: int, family: str) -> ColorTags:
    """What the samples mean, with every gap filled: matrix by height (BT.709 from 720 lines on, else BT.601), range limited unless
    tagged (gray and RGB: full), primaries and transfer as tagged, else those that belong to the matrix."""
    if family == "rgb":
        return ColorTags(0, _tagged(tags.primaries, 1), _tagged(tags.transfer, 13), 2)
    matrix = tags.matrix if tags.matrix in LUMA_WEIGHTS else (1 if stored_height >= HD_HEIGHT_PX else 6)
    primaries = _tagged(tags.primaries, {1: 1, 5: 5, 7: 7, 9: 9}.get(matrix, 6))
    transfer = _tagged(tags.transfer, {1: 1, 7: 7, 9: 14}.get(matrix, 6))
    return ColorTags(matrix, primaries, transfer, tags.range or (2 if family == "gray" else 1))


def _tagged(value: int, fallback: int) -> int:
    return value if value not in (0, 2) else fallback


def clip_colors(clip: Clip) -> ColorTags:
    """``resolve_colors`` for a clip."""
    stored_height = clip.width if clip.rotation_deg % 180 else clip.height
    return resolve_colors(clip.color, stored_height, clip_layout(clip).family)


# --- planes of decoded frames ---------------------------------------------------------------------------------------------------


def planar_frame(frame: Any) -> tuple[Any, str]:
    """A decoded ``av.VideoFrame`` in a planar format without alpha and its name; the samples are the same, only unpacked.

    Raises ``UnsupportedFormatError``, or ``TransparentFrameError`` when an alpha plane is not opaque all over.
    """
    name = frame.format.name.replace("yuvj", "yuv")
    if frame.format.is_big_endian:
        name = name.removesuffix("be") + "le"
        frame = frame.reformat(format=name)
    if name in UNPACKED:
        name = UNPACKED[name]
        frame = frame.reformat(format=name)
    for with_alpha, without in WITHOUT_ALPHA.items():
        if name.startswith(with_alpha):
            depth = frame.format.components[-1].bits
            if int(_plane(frame, len(frame.planes) - 1, depth).min()) < (1 << depth) - 1:
                raise TransparentFrameError
            name = name.replace(with_alpha, without)
    parse_format(name)
    return frame, name


def frame_planes(frame: Any, planar_format: str, rotation_deg: int) -> tuple[Array, ...]:
    """Upright read-only planes of a frame that ``planar_frame`` answered (zero-copy when it is not turned)."""
    base, depth = parse_format(planar_format)
    count = 1 if base == "gray" else 3
    planes = []
    for index in range(count):
        plane = turn(_plane(frame, index, depth), rotation_deg)
        plane.flags.writeable = False
        planes.append(plane)
    return tuple(planes)


def _plane(frame: Any, index: int, depth: int) -> Array:
    """One plane of a frame as an array that shares its memory."""
    plane = frame.planes[index]
    dtype = np.uint8 if depth == 8 else np.uint16
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return rows[: plane.height, : plane.width]


def turn(array: Array, rotation_deg: int) -> Array:
    """The array turned clockwise by a multiple of 90 degrees; the array itself for 0."""
    if rotation_deg % 360 == 0:
        return array
    import cv2

    codes = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return cv2.rotate(array, codes[rotation_deg % 360])


def video_frame(planes: tuple[Array, ...], format_name: str, hw: tuple[int, int]) -> Any:
    """A new ``av.VideoFrame`` of a planar format that holds a copy of the planes."""
    import av

    frame = av.VideoFrame(hw[1], hw[0], format_name)
    for index, plane in enumerate(planes):
        target = frame.planes[index]
        rows: Array = np.frombuffer(memoryview(target), plane.dtype).reshape(-1, target.line_size // plane.dtype.itemsize)
        rows[: plane.shape[0], : plane.shape[1]] = plane
    return frame


# --- planes to RGB --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def decode_matrix(matrix: int, full_range: bool, depth: int) -> Array:
    """f64[3,4]: (Y, Cb, Cr, 1) in samples of ``depth`` bits -> RGB 0..255."""
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    to_rgb = np.array(
        [[1, 0, 2 * (1 - red)], [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green], [1, 2 * (1 - blue), 0]]
    )
    unit = 1 << (depth - 8)
    if full_range:
        scale, offset = np.full(3, 1 / ((1 << depth) - 1)), np.array([0, 128 * unit, 128 * unit])
    else:
        scale, offset = 1 / (np.array([219, 224, 224]) * unit), np.array([16, 128, 128]) * unit
    linear = 255 * to_rgb * scale
    return np.concatenate([linear, (-linear @ offset)[:, None]], axis=1)


@lru_cache(maxsize=64)
def encode_matrix(matrix: int, full_range: bool, depth: int) -> Array:
    """f64[3,4]: (R, G, B, 1) in 0..255 -> samples of ``depth`` bits; the inverse of ``decode_matrix``."""
    decode = decode_matrix(matrix, full_range, depth)
    linear = np.linalg.inv(decode[:, :3])
    return np.concatenate([linear, (-linear @ decode[:, 3])[:, None]], axis=1)


def planes_to_rgb(planes: tuple[Array, ...], layout: Layout, colors: ColorTags) -> Array:
    """u8[H,W,3] RGB of upright planes, within 1/255 of the exact formula; ``colors`` as ``resolve_colors`` answers."""
    import cv2

    height, width = planes[0].shape
    if layout.family == "gray":
        levels = _gray_levels(planes[0], layout, colors)
        return cv2.merge((levels, levels, levels))
    if layout.family == "rgb":
        green, blue, red = (_to_8_bits(plane, layout.depth) for plane in planes)
        return cv2.merge((red, green, blue))
    samples = cv2.merge([planes[0], *(_spread(plane, layout, height, width) for plane in planes[1:])])
    matrix = decode_matrix(colors.matrix, colors.range == 2, layout.depth).astype(np.float32)
    rgb = cv2.transform(samples, matrix)  # rounds to nearest and saturates
    return rgb if layout.depth == 8 else cv2.convertScaleAbs(rgb)


def region_to_rgb(planes: tuple[Array, ...], layout: Layout, colors: ColorTags, x0: int, y0: int, x1: int, y1: int) -> Array:
    """u8[h,w,3] RGB of the pixels [x0, x1) x [y0, y1) of upright planes; only the chroma cells that cover them are converted."""
    height, width = planes[0].shape
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"the region {x0} {y0} {x1} {y1} does not lie inside {width}x{height}")
    left, top = x0 // layout.fx, y0 // layout.fy
    right, bottom = -(-x1 // layout.fx), -(-y1 // layout.fy)
    luma = planes[0][top * layout.fy : bottom * layout.fy, left * layout.fx : right * layout.fx]
    rgb = planes_to_rgb((luma, *(plane[top:bottom, left:right] for plane in planes[1:])), layout, colors)
    return rgb[y0 - top * layout.fy :, x0 - left * layout.fx :][: y1 - y0, : x1 - x0]


def _spread(plane: Array, layout: Layout, height: int, width: int) -> Array:
    """A chroma plane at the size of the luma plane, each sample repeated over the pixels that it covers."""
    if layout.fx == 1 and layout.fy == 1:
        return plane
    import cv2

    size = (plane.shape[1] * layout.fx, plane.shape[0] * layout.fy)
    return cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST)[:height, :width]


def _gray_levels(plane: Array, layout: Layout, colors: ColorTags) -> Array:
    if colors.range == 2:
        return _to_8_bits(plane, layout.depth)
    unit = 1 << (layout.depth - 8)
    return np.clip(np.rint((plane.astype(np.float32) - 16 * unit) * (255 / (219 * unit))), 0, 255).astype(np.uint8)


def _to_8_bits(plane: Array, depth: int) -> Array:
    if depth == 8:
        return plane
    return np.rint(plane * np.float32(255 / ((1 << depth) - 1))).astype(np.uint8)


# --- touched pixels back into planes --------------------------------------------------------------------------------------------


def write_back(
    planes: tuple[Array, ...], layout: Layout, colors: ColorTags, patch: Array, touched: Array, x0: int = 0, y0: int = 0
) -> tuple[Array, ...]:
    """The planes with the touched pixels of ``patch`` u8[h,w,3], whose top left is at (x0, y0), converted into them; everything
    else is the source's sample.

    A touched pixel whose colour equals the source's keeps its samples too, so that an unchanged block comes back exactly at any
    depth. A chroma sample is written if any pixel that it covers has changed: the mean of the new chroma of those pixels and its
    own value for the others. Untouched planes are returned as they are; work is done in the bounding box of ``touched`` alone.
    """
    box = _bounding_box(touched)
    if box is None:
        return planes
    top, bottom, left, right = box
    patch, touched = patch[top:bottom, left:right], touched[top:bottom, left:right]
    cells = _whole_cells((y0 + top, y0 + bottom, x0 + left, x0 + right), planes[0].shape, layout)
    new = region_to_rgb(planes, layout, colors, cells[2], cells[0], cells[3], cells[1])
    inside = np.s_[y0 + top - cells[0] :, x0 + left - cells[2] :]
    target = new[inside][: patch.shape[0], : patch.shape[1]]
    changed = np.zeros(new.shape[:2], np.bool_)
    changed[inside][: patch.shape[0], : patch.shape[1]] = touched & (target != patch).any(axis=2)
    if not changed.any():
        return planes
    target[...] = patch
    return _write_changed(planes, layout, _encode_samples(new, layout, colors), changed, cells)


def _write_changed(
    planes: tuple[Array, ...], layout: Layout, samples: Array, changed: Array, cells: tuple[int, int, int, int]
) -> tuple[Array, ...]:
    """Copies of the planes with ``samples`` f32[h,w,planes] stored where ``changed`` bool[h,w], in the region ``cells``."""
    y0, y1, x0, x1 = cells
    result = []
    for index, plane in enumerate(planes):
        plane = plane.copy()
        if index == 0 or layout.fx * layout.fy == 1:
            region = plane[y0:y1, x0:x1]
            np.copyto(region, _quantise(samples[..., index], layout), where=changed)
        else:
            chroma = plane[y0 // layout.fy : -(-y1 // layout.fy), x0 // layout.fx : -(-x1 // layout.fx)]
            _write_cells(chroma, samples[..., index], changed, layout)
        result.append(plane)
    return tuple(result)


def _bounding_box(touched: Array) -> tuple[int, int, int, int] | None:
    """Bounding box y0 y1 x0 x1 of what is true; None when nothing is."""
    rows = np.flatnonzero(touched.any(axis=1))
    if not len(rows):
        return None
    cols = np.flatnonzero(touched[rows[0] : rows[-1] + 1].any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1


def _whole_cells(box: tuple[int, int, int, int], hw: tuple[int, ...], layout: Layout) -> tuple[int, int, int, int]:
    """The box y0 y1 x0 x1, grown to whole chroma cells (the picture's edge may cut the last ones)."""
    y0, y1, x0, x1 = box
    return (
        y0 // layout.fy * layout.fy,
        min(hw[0], -(-y1 // layout.fy) * layout.fy),
        x0 // layout.fx * layout.fx,
        min(hw[1], -(-x1 // layout.fx) * layout.fx),
    )


def _encode_samples(image: Array, layout: Layout, colors: ColorTags) -> Array:
    """f32[h,w,planes]: the exact sample values, not rounded, of u8 RGB pixels in the order of the planes."""
    import cv2

    pixels = image.astype(np.float32)
    if layout.family == "rgb":
        return pixels[..., [1, 2, 0]] * np.float32(layout.maximum / 255)
    if layout.family == "gray":
        luma = encode_matrix(1, colors.range == 2, layout.depth)[:1]
        return np.ascontiguousarray(pixels @ luma[0, :3].astype(np.float32) + np.float32(luma[0, 3]))[..., None]
    return cv2.transform(pixels, encode_matrix(colors.matrix, colors.range == 2, layout.depth).astype(np.float32))


def recode(planes: tuple[Array, ...], layout: Layout, have: ColorTags, want: ColorTags) -> tuple[Array, ...]:
    """Y, Cb, Cr planes in another matrix or range, at the same depth and size; every sample is computed exactly and rounded once.

    (libswscale does this with tables whose errors are one-sided and add up to 3/255.)
    """
    decode = decode_matrix(have.matrix, have.range == 2, layout.depth)
    encode = encode_matrix(want.matrix, want.range == 2, layout.depth)
    (yy, yb, yr), (_, bb, br), (_, rb, rr) = (encode[:, :3] @ decode[:, :3]).tolist()
    y0, b0, r0 = (encode[:, :3] @ decode[:, 3] + encode[:, 3]).tolist()
    luma, cb, cr = (plane.astype(np.float32) for plane in planes)
    luma *= yy
    if max(abs(yb), abs(yr)) > 1e-9:  # the matrix changes; gray stays gray, so chroma never depends on luma
        luma += _spread(yb * cb + yr * cr, layout, *luma.shape)
    return tuple(_quantise(values, layout) for values in (luma + y0, bb * cb + br * cr + b0, rb * cb + rr * cr + r0))


def _quantise(values: Array, layout: Layout) -> Array:
    return np.clip(np.rint(values), 0, layout.maximum).astype(layout.dtype)


def _write_cells(cells: Array, chroma: Array, changed: Array, layout: Layout) -> None:
    """Write the chroma of changed pixels into the chroma samples ``cells`` that cover them, in place."""
    import cv2

    height, width = cells.shape[0] * layout.fy, cells.shape[1] * layout.fx
    weight = changed.astype(np.float32)
    stacked = cv2.merge((chroma * weight, weight))
    bottom, right = height - changed.shape[0], width - changed.shape[1]
    if bottom or right:  # a cell that the picture's edge cuts is the mean over the pixels that exist
        stacked = _pad_partial_cells(stacked, bottom, right, layout)
    mean = cv2.resize(stacked, (cells.shape[1], cells.shape[0]), interpolation=cv2.INTER_AREA)
    blended = mean[..., 0] + cells.astype(np.float32) * (1 - mean[..., 1])
    written = mean[..., 1] > 0
    cells[written] = _quantise(blended, layout)[written]


def _pad_partial_cells(stacked: Array, bottom: int, right: int, layout: Layout) -> Array:
    """Fill the missing part of the last cells with the mean of the part that exists, so that a plain mean is right."""
    height, width = stacked.shape[:2]
    padded = np.zeros((height + bottom, width + right, stacked.shape[2]), np.float32)
    padded[:height, :width] = stacked
    if right:
        first = width - (layout.fx - right)
        padded[:, width:] = padded[:, first:width].mean(axis=1, keepdims=True)
    if bottom:
        first = height - (layout.fy - bottom)
        padded[height:] = padded[first:height].mean(axis=0, keepdims=True)
    return padded
