"""The reference's cut-out: a soft alpha, and colours from which the old background has been removed.

A picture's own transparency is used as it is; a mask is refined; else the object is found before its backdrop
(``pipeline.backdrop``). Corrections by hand (a brush's mask, clicks) change that cut-out around where they differ from it and leave
the rest of it alone. Refining is closed-form matting (Levin et al. 2008) on at most half a megapixel, carried to full size by
the matte's local linear model (guided filter, He et al. 2013; fast form 2015), then multi-level foreground estimation
(Germer et al. 2020).
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

from .backdrop import Found, continue_colors, find_object, is_shaded, is_white, steepness, to_lab
from .cache import ArtifactCache, content_key
from .errors import UserError
from .seeds import apply_clicks
from .types import Array, Click

NOTE_OWN = "used the picture's own transparency"
NOTE_MASK = "refined the given mask"
NOTE_FOUND = "found the object before its background"
NOTE_HAND = "cut out by hand"
NOTE_WHOLE = "the whole picture is the object"

MAX_SOLVED_PIXELS = 500_000
"""Pixels on which closed-form matting is solved; larger objects are solved smaller and carried to full size."""

MIN_SIDE_PX = 16
"""A picture smaller than this has no background that an object could be told from."""

_CUT_OUT_VERSION = "cut-out 1"
_MATTING_EPSILON = 1e-4
_COLOR_MODEL_EPSILON = 1e-5
_TILE_PX = 1024
_TILE_MARGIN_PX = 96
_WINDOW_MARGIN_PX = 12
_MAX_PATCHES = 8

_SOLVER = threading.Lock()
"""Held while pymatting works: one of numba's ways to run in parallel ends the process when two threads use it at once."""

Window = tuple[slice, slice]


class NothingFound(UserError):
    """No object stands out in a picture: it must be said by hand which part of it is the object."""


class CutOut(NamedTuple):
    """``image`` u8[H,W,3] with the object's colours everywhere (continued outwards where it is transparent), ``alpha`` f32[H,W] in
    0..1, and ``note``, how it was made."""

    image: Array
    alpha: Array
    note: str


def cut_out(
    rgb: Array,
    alpha: Array | None = None,
    mask: Array | None = None,
    cache: ArtifactCache | None = None,
    *,
    clicks: Sequence[Click] = (),
    is_correction: bool = False,
) -> CutOut:
    """Cut the object out of ``rgb`` u8[H,W,3].

    ``alpha`` f32[H,W] (the picture's own) is used as it is, only limited to ``mask`` when both are given. ``mask`` alone, bool or
    u8 [H,W] (set from 128), is refined to a soft edge. With neither, the object is found by the colours of the picture's border.
    With ``is_correction``, ``mask`` says what the object is, but where it agrees with the cut-out that would be made without it,
    that one stays. ``clicks`` (in pixels) correct that cut-out in the same way; not together with a mask. The same input gives
    the same output; results of matting are kept in ``cache``. Raises ``UserError`` when nothing is left, ``NothingFound`` when
    nothing plausible is found.
    """
    _check(rgb, alpha, mask)
    mask = None if mask is None else mask if mask.dtype == bool else mask >= 128
    if mask is not None and not mask.any():
        raise UserError("The reference's mask is empty; paint the object white on black.")
    if clicks and mask is not None:
        raise ValueError("give either a mask or clicks, not both")
    if mask is not None and mask.all() and (is_correction or alpha is None):
        return CutOut(rgb, np.ones(rgb.shape[:2], np.float32), NOTE_WHOLE)
    if alpha is not None and alpha.min() < 1 and not clicks and not is_correction:
        return _cut_by_alpha(rgb, alpha, mask)
    places = np.array([(each.x_px, each.y_px, each.is_foreground) for each in clicks], np.float64)
    parts = (mask,) if not clicks and not is_correction else (mask, alpha, places, is_correction)
    key = content_key(_CUT_OUT_VERSION, rgb, *parts)
    kept = cache.load(key) if cache is not None else None
    if kept is not None and kept.keys() == {"image", "alpha", "note"}:
        return CutOut(kept["image"], kept["alpha"], str(kept["note"]))
    result = _cut_by_hand(rgb, alpha, mask, clicks, cache) if clicks or is_correction else _cut_by_matting(rgb, mask)
    if cache is not None:
        cache.store(key, image=result.image, alpha=result.alpha, note=np.array(result.note))
    return result


def warm_up() -> None:
    """Run matting once on a tiny picture, so that numba's compiled code is on disk: the first time takes up to minutes."""
    y, x = np.mgrid[0:64, 0:64]
    disk = np.hypot(x - 32, y - 32) < 16
    rgb = np.where(disk[..., None], (200, 60, 40), (235, 235, 235)).astype(np.uint8)
    cut_out(rgb, mask=disk)


def _check(rgb: Array, alpha: Array | None, mask: Array | None) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"rgb must be u8[H,W,3], got {rgb.dtype}{list(rgb.shape)}")
    if alpha is not None and (alpha.dtype != np.float32 or alpha.shape != rgb.shape[:2]):
        raise ValueError(f"alpha must be f32{list(rgb.shape[:2])}, got {alpha.dtype}{list(alpha.shape)}")
    if mask is not None and (mask.dtype not in (bool, np.uint8) or mask.shape != rgb.shape[:2]):
        raise ValueError(f"mask must be bool or u8 {list(rgb.shape[:2])}, got {mask.dtype}{list(mask.shape)}")


def _cut_by_alpha(rgb: Array, alpha: Array, mask: Array | None) -> CutOut:
    if mask is not None:
        alpha = alpha * mask
    if alpha.max() < 0.5:
        raise UserError("The reference has nothing in it: it is transparent everywhere; use a picture that shows the object.")
    window = _window(alpha > 0, _WINDOW_MARGIN_PX)
    return CutOut(_continued(rgb, alpha, window), alpha.astype(np.float32), NOTE_OWN)


def _find(rgb: Array) -> Found:
    found = find_object(rgb) if min(rgb.shape[:2]) >= MIN_SIDE_PX else None
    if found is None:
        raise NothingFound(
            "No object stands out in the reference; use a photo that shows the object whole before a plain background, "
            "a PNG with transparency, or a mask."
        )
    return found


def _cut_by_matting(rgb: Array, mask: Array | None) -> CutOut:
    """As ``cut_out``, step by step: where the object is, trimap, alpha at the solved size, alpha at full size, colours."""
    hw = rgb.shape[:2]
    found = _find(rgb) if mask is None else None
    inside: Array = mask if found is None else found.mask  # type: ignore[assignment]
    window = _object_window(inside, hw)
    crop = rgb[window]
    small = _shrink_to_pixels(crop, MAX_SOLVED_PIXELS)
    sampler = _Sampler(hw, window, small.shape[:2])
    trimap = _trimap_of_mask(sampler.take_mask(inside)) if found is None else _trimap_of_object(small, found, sampler)
    alpha = np.zeros(hw, np.float32)
    alpha[window] = _carry(_solve(small, trimap), small, crop)
    if alpha.max() < 0.5:
        raise UserError("Nothing is left of the reference after cutting it out; use a PNG with transparency or a larger mask.")
    image = rgb.copy()
    image[window] = _unmix(crop, alpha[window])
    return CutOut(_continued(image, alpha, window), alpha, NOTE_MASK if found is None else NOTE_FOUND)


def _cut_by_hand(
    rgb: Array, alpha: Array | None, mask: Array | None, clicks: Sequence[Click], cache: ArtifactCache | None
) -> CutOut:
    """The cut-out that is made without help, corrected to ``mask``, or by ``clicks``."""
    try:
        before: CutOut | None = cut_out(rgb, alpha, cache=cache)
    except NothingFound:
        before = None
    solid = None if before is None else before.alpha >= 0.5
    wanted = apply_clicks(rgb, solid, clicks) if mask is None else mask
    if not wanted.any():
        raise UserError("Nothing of the reference belongs to the object; click on the object itself, or paint it.")
    if before is None or solid is None:
        return _cut_by_matting(rgb, wanted)._replace(note=NOTE_HAND)
    changed = wanted ^ solid
    if not changed.any():
        return before
    if before.note == NOTE_OWN:
        made = _feathered(before.alpha, wanted, changed)
    else:
        made = before.alpha.copy()
        for near in _patches(changed, _band_px(wanted)):
            _solve_again(made, rgb, wanted, near)
    if made.max() < 0.5:
        raise UserError("Nothing is left of the reference after cutting it out; use a PNG with transparency or a larger mask.")
    window = _window(made > 0, _WINDOW_MARGIN_PX)
    image = rgb.copy()
    if before.note != NOTE_OWN:
        image[window] = _unmix(rgb[window], made[window])
    return CutOut(_continued(image, made, window), made, NOTE_HAND)


def _band_px(mask: Array) -> float:
    """How far from the outline of a mask, in its pixels, the true one may lie: masks drawn by hand are inexact."""
    scale = max(1.0, (mask.sum() / MAX_SOLVED_PIXELS) ** 0.5)
    return scale * float(np.clip(0.015 * mask.sum() ** 0.5 / scale, 2, 10))


def _feathered(alpha: Array, wanted: Array, changed: Array) -> Array:
    """A picture's own ``alpha``, with the mask ``wanted`` in place of it where it ``changed``, softened by about a pixel."""
    import cv2

    soft = cv2.GaussianBlur(wanted.astype(np.float32), (5, 5), 1.0)
    return np.where(_grown(changed, 2), np.where(wanted, np.maximum(alpha, soft), np.minimum(alpha, soft)), alpha)


def _patches(changed: Array, band_px: float) -> Iterator[Array]:
    """The surroundings of every place that ``changed``, bool[H,W] each, wide enough to hold the outline there; places that are near
    each other share one, and so do all when they are many."""
    import cv2

    near = _within(changed, 2 * band_px + 2)
    count, parts = cv2.connectedComponents(near.astype(np.uint8), connectivity=8)
    if count - 1 > _MAX_PATCHES:
        yield near
    else:
        yield from (parts == part for part in range(1, count))


def _within(mask: Array, distance_px: float) -> Array:
    """Where ``mask`` is at most ``distance_px`` away."""
    import cv2

    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= distance_px


def _solve_again(alpha: Array, rgb: Array, wanted: Array, near: Array) -> None:
    """Solve ``alpha`` f32[H,W] anew, in place, where it is ``near`` a change: the outline of ``wanted`` there, fixed to what stays
    around it, into which it passes smoothly."""
    import cv2

    window = _object_window(near, near.shape)
    crop, kept = rgb[window], alpha[window]
    small = _shrink_to_pixels(crop, MAX_SOLVED_PIXELS)
    size = small.shape[1::-1]
    shrunk = [cv2.resize(each[window].astype(np.float32), size, interpolation=cv2.INTER_AREA) for each in (wanted, near, alpha)]
    band_px = _band_px(wanted) * size[0] / crop.shape[1]
    drawn = _banded(shrunk[0] >= 0.5, band_px, band_px)
    around = np.where(shrunk[2] > 0.98, 1.0, np.where(shrunk[2] < 0.02, 0.0, 0.5))
    solved = _carry(_solve(small, np.where(shrunk[1] >= 0.5, drawn, around)), small, crop)
    inside = cv2.distanceTransform(np.pad(near[window], 1, mode="edge").astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.clip(inside[1:-1, 1:-1] / max(0.5 * _band_px(wanted), 1.0), 0, 1)
    alpha[window] = share * solved + (1 - share) * kept


@dataclass(frozen=True, slots=True)
class _Sampler:
    """Reads grids that cover the whole picture, of whatever resolution, on the pixels of a window shown at ``out_hw``."""

    picture_hw: tuple[int, int]
    window: Window
    out_hw: tuple[int, int]

    def take(self, grid: Array) -> Array:
        """``grid`` f32[h,w] or [h,w,C], bilinear, f32[out_hw] or [out_hw, C]."""
        import cv2

        rows, cols = self.window
        scale_y, scale_x = grid.shape[0] / self.picture_hw[0], grid.shape[1] / self.picture_hw[1]
        step_y = (rows.stop - rows.start) / self.out_hw[0] * scale_y
        step_x = (cols.stop - cols.start) / self.out_hw[1] * scale_x
        offset_x = cols.start * scale_x + step_x / 2 - 0.5
        offset_y = rows.start * scale_y + step_y / 2 - 0.5
        matrix = np.array([[step_x, 0, offset_x], [0, step_y, offset_y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(grid, matrix, self.out_hw[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def take_mask(self, mask: Array) -> Array:
        """``mask`` bool[h,w], bool[out_hw]."""
        return self.take(mask.astype(np.float32)) >= 0.5

    def pixel(self, grid_hw: tuple[int, int]) -> float:
        """The size of one grid pixel in pixels of the output."""
        rows, cols = self.window
        return max(
            self.picture_hw[0] / grid_hw[0] * self.out_hw[0] / (rows.stop - rows.start),
            self.picture_hw[1] / grid_hw[1] * self.out_hw[1] / (cols.stop - cols.start),
        )


def _object_window(inside: Array, hw: tuple[int, int]) -> Window:
    """The part of the picture, size ``hw``, that holds what is set in ``inside`` (a grid over the picture) and a margin."""
    window = []
    for axis in (0, 1):
        marked = np.flatnonzero(inside.any(axis=1 - axis))
        scale = hw[axis] / inside.shape[axis]
        start, stop = marked[0] * scale, (marked[-1] + 1) * scale
        margin = _WINDOW_MARGIN_PX + 0.08 * (stop - start)
        window.append(slice(max(0, int(start - margin)), min(hw[axis], int(np.ceil(stop + margin)))))
    return window[0], window[1]


def _shrink_to_pixels(image: Array, max_pixels: int) -> Array:
    import cv2

    scale = (max_pixels / (image.shape[0] * image.shape[1])) ** 0.5
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _trimap_of_mask(mask: Array) -> Array:
    """0 background, 1 object, 0.5 unknown (f64[h,w]): a band around the mask's outline, as wide as drawn masks are inexact."""
    band_px = float(np.clip(0.015 * mask.sum() ** 0.5, 2, 10))
    return _banded(mask, band_px, band_px)


def _banded(mask: Array, inner_px: float, outer_px: float) -> Array:
    import cv2

    padded = np.pad(mask.astype(np.uint8), 1, mode="edge")
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    gap = cv2.distanceTransform(1 - padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    inner_px = min(inner_px, 0.7 * float(depth.max()))
    return np.where(depth > inner_px, 1.0, np.where(gap > outer_px, 0.0, 0.5))


def _trimap_of_object(small: Array, found: Found, sampler: _Sampler) -> Array:
    """As ``_trimap_of_mask``, corrected by what the backdrop's known colour tells at this finer size: see the steps."""
    lab, backdrop = to_lab(small), sampler.take(found.lab)
    mask = sampler.take_mask(found.mask)
    pixel = sampler.pixel(found.mask.shape)
    trimap = _banded(mask, pixel + 1.5, 1.5 * pixel + 2)
    outside = trimap == 0
    noise = found.noise
    if outside.any():
        noise = np.maximum(1.4826 * np.median(np.abs((lab - backdrop)[outside]), axis=0), 1.0)
    distance = np.linalg.norm((lab - backdrop) / noise, axis=2)
    trimap[_strands(distance > 7, mask, outside, round(6 * pixel))] = 0.5
    shadow = _contact_shadow(lab, backdrop, noise, trimap, 6 * pixel)
    trimap[shadow & (trimap == 1)] = 0.5
    trimap[_shrunk(shadow, 1)] = 0
    calm = _smooth(distance) < 3
    trimap[_shrunk(calm | (distance < 2), 1) & (trimap == 0.5)] = 0
    trimap[_gaps(distance < 3, trimap, pixel)] = 0.5
    smallest = 0.0015 * mask.sum() if is_white(backdrop) else (2.5 * pixel) ** 2
    holes = _holes(calm, steepness(lab, noise) > 1, trimap, smallest)
    trimap[_grown(holes, round(pixel) + 2)] = 0.5
    trimap[_shrunk(holes, 1)] = 0
    return trimap


def _strands(unlike: Array, mask: Array, outside: Array, reach_px: int) -> Array:
    """What lies outside, differs from the backdrop and hangs on to the object: hair, stalks, strings."""
    import cv2

    _, parts = cv2.connectedComponents((unlike | mask).astype(np.uint8), connectivity=8)
    linked = np.isin(parts, np.unique(parts[mask]))
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=reach_px) > 0
    return _grown(unlike & linked & near, 1) & outside


def _contact_shadow(lab: Array, backdrop: Array, noise: Array, trimap: Array, reach_px: float) -> Array:
    """What lies near the outline, has the backdrop's tint and passes into the backdrop without an edge. Nothing, if the object has
    much of that tint itself."""
    import cv2

    inside = trimap == 1
    shaded = is_shaded(lab, backdrop, noise)
    if (shaded & inside).sum() > 0.15 * inside.sum():
        return np.zeros_like(inside)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    floor = shaded & ~_grown(steepness(lab, noise) > 0.6, 1) & (depth < reach_px)
    _, parts = cv2.connectedComponents(floor.astype(np.uint8), connectivity=4)
    return floor & np.isin(parts, np.unique(parts[floor & (trimap == 0)])) & (trimap > 0)


def _holes(calm: Array, is_edge: Array, trimap: Array, smallest: float) -> Array:
    """Patches inside the object that look like the backdrop and end at edges all around (a shade that happens to be the
    backdrop's fades out instead), of at least ``smallest`` pixels: bool[h,w]."""
    import cv2

    inside = (calm & (trimap == 1)).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    near_edge = _grown(is_edge, 2)
    holes = np.zeros_like(calm)
    for part in range(1, count):
        left, top, width, height, area = stats[part]
        if area < smallest:
            continue
        around = slice(max(0, top - 3), top + height + 3), slice(max(0, left - 3), left + width + 3)
        patch = parts[around] == part
        if near_edge[around][_grown(patch, 2) & ~patch].mean() > 0.9:
            holes[around] |= patch
    return holes


def _gaps(close: Array, trimap: Array, pixel: float) -> Array:
    """Slits in the object that show the backdrop and open to it, too narrow for the small copy."""
    import cv2

    inside = close & (trimap == 1)
    side = 2 * round(3 * pixel) + 1
    narrow = inside & (cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8)) == 0)
    _, parts = cv2.connectedComponents((narrow | (close & (trimap < 1))).astype(np.uint8), connectivity=8)
    open_parts = np.unique(parts[(trimap == 0) & close])
    return _grown(narrow & np.isin(parts, open_parts) & (parts > 0), 1) & (trimap == 1)


def _smooth(image: Array) -> Array:
    import cv2

    return cv2.blur(image, (3, 3))


def _grown(mask: Array, radius: int) -> Array:
    return ~_shrunk(~mask, radius)


def _shrunk(mask: Array, radius: int) -> Array:
    import cv2

    side = 2 * radius + 1
    return cv2.erode(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def _solve(small: Array, trimap: Array) -> Array:
    """Alpha f32[h,w] by closed-form matting of ``small`` u8[h,w,3] under ``trimap``."""
    if not (trimap == 0.5).any():
        return trimap.astype(np.float32)
    if not (trimap == 0).any() or not (trimap == 1).any():
        return (trimap >= 0.5).astype(np.float32)
    with _SOLVER:
        alpha = _pymatting().estimate_alpha_cf(
            small.astype(np.float64) / 255, trimap, laplacian_kwargs={"epsilon": _MATTING_EPSILON}, cg_kwargs={"rtol": 1e-5}
        )
    return _stretched(alpha)


def _carry(alpha: Array, small: Array, full: Array) -> Array:
    """``alpha`` f32[h,w] of ``small`` at the size of ``full`` u8[H,W,3]: the linear colour model of every small window, applied
    to the full picture's colours."""
    import cv2

    if small.shape == full.shape:
        return alpha
    side = np.ones((5, 5), np.uint8)
    mixed = cv2.erode(alpha, side) != cv2.dilate(alpha, side)
    model = _color_model(alpha, small.astype(np.float32) / 255, _grown(mixed, 2))
    size = (full.shape[1], full.shape[0])
    result = cv2.resize(alpha, size, interpolation=cv2.INTER_LINEAR)
    chosen = cv2.resize(mixed.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    carried = cv2.resize(model[..., 3], size, interpolation=cv2.INTER_LINEAR)[chosen]
    for channel in range(3):
        gain = cv2.resize(model[..., channel], size, interpolation=cv2.INTER_LINEAR)[chosen]
        carried += gain * full[..., channel][chosen].astype(np.float32) / 255
    result[chosen] = _stretched(carried)
    return result


def _stretched(alpha: Array) -> Array:
    """Clear the faint remains of background and the faint holes that matting leaves: 0.02..0.98 becomes 0..1."""
    return np.clip((alpha - 0.02) / 0.96, 0, 1).astype(np.float32)


def _color_model(alpha: Array, image: Array, where: Array) -> Array:
    """For every 3x3 window around ``where`` bool[h,w] the least-squares ``alpha = gain . colour + offset``, averaged over the
    windows that hold a pixel: f32[h,w,4]."""
    import cv2

    side = (3, 3)
    wide = np.concatenate([image, alpha[..., None]], axis=2).astype(np.float64)
    mean = cv2.blur(wide, side)
    rows, cols = np.triu_indices(4)
    second = np.stack([cv2.blur(wide[..., i] * wide[..., j], side)[where] for i, j in zip(rows, cols, strict=True)], axis=-1)
    around = mean[where]
    covariance = np.empty((len(around), 4, 4))
    covariance[:, rows, cols] = covariance[:, cols, rows] = second - around[:, rows] * around[:, cols]
    matrix = covariance[:, :3, :3] + _COLOR_MODEL_EPSILON * np.eye(3)
    gain = np.linalg.solve(matrix, covariance[:, :3, 3:])[..., 0]
    model = np.zeros((*alpha.shape, 4), np.float32)
    model[..., 3] = alpha
    model[where, :3] = gain
    model[where, 3] = around[:, 3] - (gain * around[:, :3]).sum(axis=1)
    return cv2.blur(model, side)


def _unmix(rgb: Array, alpha: Array) -> Array:
    """The object's own colours u8[H,W,3]: where ``alpha`` is between 0 and 1 the background's part is taken out."""
    result = rgb.copy()
    for tile, inner in _tiles(rgb.shape[:2]):
        part = alpha[tile]
        mixed = (part > 0) & (part < 1)
        if not mixed.any():
            continue
        with _SOLVER:
            colors = _pymatting().estimate_foreground_ml(rgb[tile].astype(np.float32) / 255, part)
        colors = np.where(mixed[..., None], np.rint(colors * 255).astype(np.uint8), rgb[tile])
        rows, cols = (slice(mine.start - all_.start, mine.stop - all_.start) for mine, all_ in zip(inner, tile, strict=True))
        result[inner] = colors[rows, cols]
    return result


def _tiles(hw: tuple[int, int]) -> Iterator[tuple[Window, Window]]:
    """Overlapping tiles of a picture, and the part of the picture that each one is responsible for."""
    for top in range(0, hw[0], _TILE_PX):
        for left in range(0, hw[1], _TILE_PX):
            inner = slice(top, min(top + _TILE_PX, hw[0])), slice(left, min(left + _TILE_PX, hw[1]))
            outer = tuple(
                slice(max(0, part.start - _TILE_MARGIN_PX), min(part.stop + _TILE_MARGIN_PX, side))
                for part, side in zip(inner, hw, strict=True)
            )
            yield (outer[0], outer[1]), inner


def _continued(rgb: Array, alpha: Array, window: Window) -> Array:
    """``rgb`` with the object's colours carried on into transparent pixels, so that no resampling brings other ones in."""
    colors = rgb[window]
    part = alpha[window]
    smooth = continue_colors(colors.astype(np.float32), part)
    result = np.empty_like(rgb)
    result[...] = np.rint(np.average(colors.reshape(-1, 3), axis=0, weights=part.ravel())).astype(np.uint8)
    result[window] = np.where((part > 0)[..., None], colors, np.rint(np.clip(smooth, 0, 255)).astype(np.uint8))
    return result


def _window(mask: Array, margin_px: int) -> Window:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin_px), min(mask.shape[0], int(rows[-1]) + 1 + margin_px)),
        slice(max(0, int(cols[0]) - margin_px), min(mask.shape[1], int(cols[-1]) + 1 + margin_px)),
    )


def _pymatting() -> ModuleType:
    """pymatting, whose import compiles with numba and keeps the result in its own folder or the user's cache folder. Where
    neither can be written numba refuses to import; then the compiled code goes to a folder that lives as long as the process."""
    try:
        import pymatting
    except RuntimeError as fault:
        if "cannot cache function" not in str(fault):
            raise
        import numba

        folder = tempfile.mkdtemp(prefix="numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
        import pymatting
    return pymatting
