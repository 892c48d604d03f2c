"""Named key-points for things of a known build: a face, a garment. They are suggested from the cut-out, then placed by hand.

``face``: a mean layout of 16 landmarks, fitted to the head of the cut-out (the part above the neck, the skin in it) and moved to
where the eyes, the brows and the mouth are dark. ``garment``: corners of the outline, each the one that lies farthest in some
direction, and the hollows under the arms. Left and right are those of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from .errors import UserError
from .types import Array, Reference

Preset = Literal["face", "garment"]

FACE: Mapping[str, tuple[float, float]] = {
    "left_brow_outer": (0.10, 0.33),
    "left_brow_inner": (0.39, 0.31),
    "right_brow_inner": (0.61, 0.31),
    "right_brow_outer": (0.90, 0.33),
    "left_eye_outer": (0.16, 0.41),
    "left_eye_inner": (0.39, 0.415),
    "right_eye_inner": (0.61, 0.415),
    "right_eye_outer": (0.84, 0.41),
    "nose_tip": (0.50, 0.61),
    "mouth_left": (0.29, 0.745),
    "mouth_top": (0.50, 0.72),
    "mouth_right": (0.71, 0.75),
    "mouth_bottom": (0.50, 0.84),
    "left_jaw": (0.06, 0.70),
    "chin": (0.50, 1.04),
    "right_jaw": (0.94, 0.70),
}
"""The 16 landmarks and their places in the face's box, from the hairline to the chin."""

GARMENT = (
    "left_collar", "right_collar", "left_shoulder", "right_shoulder", "left_cuff_top", "left_cuff_bottom", "right_cuff_top",
    "right_cuff_bottom", "left_armpit", "right_armpit", "left_waist", "right_waist", "left_hem", "right_hem",
)  # fmt: skip
"""The 14 corners of a garment; one without sleeves has no cuffs."""

PRESET_NAMES: Mapping[Preset, tuple[str, ...]] = {"face": tuple(FACE), "garment": GARMENT}

WORK_SIDE_PX = 256
_MIN_APART_PX = 4.0
_INSET = 0.012


def suggest_preset(reference: Reference, preset: Preset) -> dict[str, tuple[float, float]]:
    """The named points of ``preset`` on the object, 0..1 of the picture, in the order of ``PRESET_NAMES``.

    The same reference gives the same points; those that would lie nearer to another than four pixels are left out. Raises
    ``UserError`` for an unknown preset, or an object that is too small for any.
    """
    if preset not in PRESET_NAMES:
        raise UserError("There are points for a face and for a garment, no others.")
    x0, y0, x1, y1 = reference.tight_box_px()
    if min(x1 - x0, y1 - y0) < 16:
        raise UserError("The object on this picture is too small for so many points; use a larger picture.")
    places = _face(reference) if preset == "face" else _garment(reference)
    size = np.array([reference.hw[1], reference.hw[0]], np.float64)
    kept: dict[str, Array] = {}
    for name in PRESET_NAMES[preset]:
        at = places.get(name)
        if at is not None and all(np.linalg.norm((at - other) * size) >= _MIN_APART_PX for other in kept.values()):
            kept[name] = at
    return {name: (float(x), float(y)) for name, (x, y) in kept.items()}


def _small(reference: Reference) -> tuple[Array, Array]:
    """A copy at most ``WORK_SIDE_PX`` long: colours u8[h,w,3], solid bool[h,w]."""
    import cv2

    scale = min(1.0, WORK_SIDE_PX / max(reference.hw))
    size = max(1, round(reference.hw[1] * scale)), max(1, round(reference.hw[0] * scale))
    rgb = cv2.resize(reference.image, size, interpolation=cv2.INTER_AREA)
    return rgb, cv2.resize(reference.alpha, size, interpolation=cv2.INTER_AREA) >= 0.5


# -- face -----------------------------------------------------------------------------------------------------------------------


def _face(reference: Reference) -> dict[str, Array]:
    """The face's points, 0..1 of the picture."""
    rgb, solid = _small(reference)
    head = _head(solid)
    skin = _skin(rgb, head)
    origin, size = _fit_layout(rgb, head, skin)
    sides = np.array([solid.shape[1], solid.shape[0]], np.float64)
    return {name: np.clip((origin + np.array(at) * size) / sides, 0, 1) for name, at in FACE.items()}


def _head(solid: Array) -> Array:
    """What of the object lies above its neck, bool[h,w]: the first place, going down, that is much narrower than what is above
    and below it; all of it when there is none."""
    rows = np.flatnonzero(solid.any(axis=1))
    top, height = int(rows[0]), int(rows[-1] - rows[0] + 1)
    widths = solid[top : top + height].sum(axis=1).astype(np.float64)
    kernel = np.ones(max(1, height // 40))
    widths = np.convolve(widths, kernel / len(kernel), mode="same")
    for row in range(round(0.15 * height), round(0.75 * height)):
        above, below = widths[:row].max(), widths[row + 1 :].max()
        if widths[row] <= widths[max(0, row - 3) : row + 4].min() and widths[row] < 0.8 * above and widths[row] < 0.8 * below:
            head = solid.copy()
            head[top + row + max(1, height // 30) :] = False
            return head
    return solid


def _skin(rgb: Array, head: Array) -> Array:
    """The largest patch of the head that can be skin, whatever its tone, the higher the likelier: bool[h,w]; the head itself when
    nothing can."""
    import cv2

    y, cr, cb = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(np.int32), 2, 0)
    skin = head & (cr > 134) & (cr < 178) & (cb > 80) & (cb < 128) & (y > 45) & (cr - cb < 70)
    if skin.any():
        skin &= y > 0.6 * np.percentile(y[skin], 85)  # hair of the same tint is darker
    opened = cv2.morphologyEx(skin.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, parts, stats, centres = cv2.connectedComponentsWithStats(opened, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA] * (1.5 - centres[1:, 1] / head.shape[0])
    chosen = 1 + int(areas.argmax()) if len(areas) else 0
    return parts == chosen if chosen and stats[chosen, cv2.CC_STAT_AREA] > 0.02 * head.sum() else head


_MARKS = (
    ((0.275, 0.405), 1.4), ((0.725, 0.405), 1.4), ((0.25, 0.285), 0.35), ((0.75, 0.285), 0.35), ((0.34, 0.755), 0.5),
    ((0.66, 0.755), 0.5), ((0.5, 0.755), 0.3), ((0.25, 0.56), -0.7), ((0.75, 0.56), -0.7), ((0.5, 0.42), -0.6),
    ((0.5, 0.55), -0.4), ((0.5, 0.22), -0.3), ((0.5, 0.91), -0.4), ((0.14, 0.56), -0.2), ((0.86, 0.56), -0.2),
)  # fmt: skip
"""Where in its box a face is darker than around (eyes, brows, mouth), and where it is lighter (cheeks, nose, forehead, chin)."""


def _fit_layout(rgb: Array, head: Array, skin: Array) -> tuple[Array, Array]:
    """Top left corner and size, f64[2] each, of the face's box in which dark, light and skin lie where a face has them."""
    import cv2

    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gray = np.where(head, gray, gray[head].mean()).astype(np.float32)
    places, weights = np.array([at for at, _ in _MARKS]), np.array([weight for _, weight in _MARKS])
    rows, cols = np.flatnonzero(skin.any(axis=1)), np.flatnonzero(skin.any(axis=0))
    limit = np.array([gray.shape[1] - 1, gray.shape[0] - 1])
    room = float(min(cols[-1] - cols[0] + 1, (rows[-1] - rows[0] + 1) / 1.1))
    best, chosen = -np.inf, (np.zeros(2), np.ones(2))
    for width in np.geomspace(max(0.5 * room, 8), max(1.3 * room, 9), 12):
        fine, coarse = (cv2.GaussianBlur(gray, (0, 0), share * width) for share in (0.03, 0.13))
        darkness = np.clip((coarse - fine) / max(float((coarse - fine)[skin].std()), 1.0), -1.5, 1.5)
        looks = np.where(skin, 1.0, 0.0)
        for aspect in (1.2, 1.3, 1.4, 1.5):
            size = np.array([width, aspect * width])
            x = np.linspace(cols[0] - 0.25 * width, cols[-1] - 0.75 * width, 33)
            y = np.linspace(rows[0] - 0.2 * size[1], rows[-1] - 0.9 * size[1], 41)
            origins = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
            at = np.clip(origins[:, None] + places * size, 0, limit).astype(int)
            score = darkness[at[..., 1], at[..., 0]] @ weights + looks[at[..., 1], at[..., 0]] @ np.where(weights < 0, 0.5, 0.1)
            score += 2.2 * np.log(width / room) - 3 * (aspect - 1.32) ** 2
            index = int(score.argmax())
            if score[index] > best + 1e-9:
                best, chosen = float(score[index]), (origins[index], size)
    return chosen


# -- garment ----------------------------------------------------------------------------------------------------------------------


def _garment(reference: Reference) -> dict[str, Array]:
    """The garment's points, 0..1 of the picture."""
    import cv2

    _, solid = _small(reference)
    contours, _ = cv2.findContours(solid.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=len)[:, 0].astype(np.float64) + 0.5
    sides = np.array([solid.shape[1], solid.shape[0]], np.float64)
    (x0, y0), (x1, y1) = outline.min(axis=0), outline.max(axis=0)
    unit = (outline - [x0, y0]) / [x1 - x0, y1 - y0]
    found: dict[str, Array] = {}
    for side, mirrored in (("left", unit), ("right", unit * [-1, 1] + [1, 0])):
        for name, at in _half(mirrored).items():
            found[f"{side}_{name}"] = at if side == "left" else at * [-1, 1] + [1, 0]
    middle = unit.mean(axis=0)
    inset = {name: at + _INSET * (middle - at) / max(float(np.linalg.norm(middle - at)), 1e-9) for name, at in found.items()}
    return {name: np.clip((at * [x1 - x0, y1 - y0] + [x0, y0]) / sides, 0, 1) for name, at in inset.items()}


def _half(outline: Array) -> dict[str, Array]:
    """The points of the left half of a closed outline f64[N,2] in its own box, along the way from the collar to the hem."""
    near_middle = (outline[:, 0] > 0.22) & (outline[:, 0] <= 0.5)
    collar = _farthest(outline, (-0.25, -1.0), near_middle if near_middle.any() else outline[:, 0] <= 0.5)
    hem = _farthest(outline, (-0.45, 1.0), outline[:, 0] <= 0.5)
    way = _way(outline, collar, hem)
    end = int((way @ np.array([-1.0, 0.1])).argmax())
    armpit = end + int(_depth(way[end:], way[end], way[-1]).argmax()) if end < len(way) - 1 else end
    if way[end, 1] > 0.8 or _depth(way[armpit : armpit + 1], way[end], way[-1])[0] < 0.04:  # no sleeve
        armpit = int(np.abs(way[:, 1] - (0.65 * way[0, 1] + 0.35 * way[-1, 1])).argmin())
        cuffs, shoulder = {}, _corner(way[: armpit + 1])
    else:
        cuffs = {"cuff_top": way[end], "cuff_bottom": _corner(way[end : armpit + 1])}
        shoulder = _corner(way[: end + 1])
    side = way[armpit:]
    waist = side[int(np.abs(side[:, 1] - (way[armpit, 1] + way[-1, 1]) / 2).argmin())]
    return {"collar": way[0], "shoulder": shoulder, **cuffs, "armpit": way[armpit], "waist": waist, "hem": way[-1]}


def _farthest(points: Array, direction: tuple[float, float], allowed: Array) -> int:
    """Which of the ``allowed`` points lies farthest in ``direction``."""
    return int(np.where(allowed, points @ np.array(direction), -np.inf).argmax())


def _way(outline: Array, start: int, stop: int) -> Array:
    """The outline from one of its points to another, on the side that lies farther to the left."""
    count = len(outline)
    ways = [outline[(start + np.arange(((stop - start) * turn) % count + 1) * turn) % count] for turn in (1, -1)]
    return min(ways, key=lambda way: float(way[:, 0].mean()))


def _depth(points: Array, start: Array, stop: Array) -> Array:
    """How far each of ``points`` lies on the inner side (to the right) of the line from ``start`` to ``stop``."""
    along = (stop - start) / max(float(np.linalg.norm(stop - start)), 1e-9)
    away = points - start
    found: Array = away[:, 0] * along[1] - away[:, 1] * along[0]
    return found


def _corner(way: Array) -> Array:
    """The point of ``way`` that lies farthest from the straight line between its ends; its middle where it is straight."""
    away = np.abs(_depth(way, way[0], way[-1]))
    return way[int(away.argmax())] if away.max() > 0.015 else way[len(way) // 2]
