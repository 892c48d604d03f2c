"""Finding the object in a photograph that shows it whole before a backdrop: plain, graded, shadowed or lightly textured.

All colour is CIE Lab (L 0-100). The work is done on a small copy of the picture; ``matting`` refines the outline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .types import Array

WORK_SIDE_PX = 320
"""Longer side of the copy on which the object is looked for."""

_RING = 0.03
_SECOND_SURFACE = 0.08
_MIN_NOISE = 0.7
_GRABCUT_ITERATIONS = 3
_SEED = 20240607


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """``mask`` bool[h,w] of the object on the small copy, ``lab`` f32[h,w,3] the backdrop's colour there (continued behind the
    object, shadows included), ``noise`` f32[3] the standard deviation of the backdrop around it per channel."""

    mask: Array
    lab: Array
    noise: Array


def find_object(rgb: Array) -> Found | None:
    """The object in ``rgb`` u8[H,W,3] by the colours of the picture's border; None when nothing plausible stands out."""
    lab = to_lab(shrink(rgb, WORK_SIDE_PX))
    surfaces = _border_surfaces(lab)
    is_backdrop = _grow_backdrop(lab, surfaces)
    if is_backdrop.mean() > 0.998 or not is_backdrop.any():
        return None
    noise = np.minimum.reduce([surface.noise for surface in surfaces])
    base = np.zeros_like(lab)
    if len(surfaces) == 1:
        whole = _fit_surface(lab, is_backdrop, 3)
        is_backdrop = _grow_surface(lab, _Surface(whole.lab, whole.noise, surfaces[0].follows & is_backdrop), 3.0)
        base, noise = whole.lab, whole.noise
    backdrop = base + continue_colors(lab - base, is_backdrop)
    mask = _cut(lab - backdrop, noise, is_backdrop)
    backdrop = base + continue_colors(lab - base, is_backdrop & ~_dilate(mask, 2))
    distance = np.linalg.norm((lab - backdrop) / noise, axis=2)
    mask = _tidy(mask, distance, 1.5 if is_white(backdrop) else 4.0)
    return Found(mask, backdrop, noise) if _is_plausible(mask, distance, noise) else None


def shrink(image: Array, side_px: int) -> Array:
    """``image`` with its longer side at most ``side_px``."""
    import cv2

    scale = side_px / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def to_lab(rgb: Array) -> Array:
    """CIE Lab f32[H,W,3] (D65, L 0-100) of u8 sRGB."""
    import cv2

    return cv2.cvtColor(rgb.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)


def continue_colors(image: Array, weight: Array) -> Array:
    """Fill in ``image`` f32[H,W,C] smoothly where ``weight`` (bool or 0..1, [H,W]) is low, from where it is high.

    Push-pull (Gortler et al. 1996): weighted averages over ever larger squares, each used where the finer one knows too little.
    """
    import cv2

    known: Array = weight.astype(np.float32)
    summed: Array = image * known[..., None]
    levels = [(summed, known)]
    while max(known.shape) > 1:
        size = (max(1, (known.shape[1] + 1) // 2), max(1, (known.shape[0] + 1) // 2))
        summed = cv2.resize(summed, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
        known = cv2.resize(known, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0])
        levels.append((summed, known))
    color = np.zeros((1, 1, image.shape[2]), np.float32)
    for summed, known in reversed(levels):
        size = (known.shape[1], known.shape[0])
        coarse = cv2.resize(color, size, interpolation=cv2.INTER_LINEAR).reshape(*known.shape, -1)
        trust = np.minimum(1, known / max(float(known.max()), 1e-6))[..., None]
        color = trust * summed / np.maximum(known, 1e-6)[..., None] + (1 - trust) * coarse
    return color


@dataclass(frozen=True, eq=False, slots=True)
class _Surface:
    """A smooth backdrop: its colours ``lab`` f32[h,w,3], the ``noise`` f32[3] around them, and which samples ``follows`` it."""

    lab: Array
    noise: Array
    follows: Array


def _border_surfaces(lab: Array) -> list[_Surface]:
    """The surface that most of the picture's border follows, and a second one when the rest runs from side to side, as the
    table in front of a wall does."""
    height, width = lab.shape[:2]
    ring_px = max(2, round(_RING * min(height, width)))
    ring = np.ones((height, width), bool)
    ring[ring_px:-ring_px, ring_px:-ring_px] = False
    first = _fit_surface(lab, ring, 2)
    rest = ring & ~first.follows
    sides = (rest[:, 0].mean(), rest[:, -1].mean()), (rest[0].mean(), rest[-1].mean())
    if not any(min(pair) > _SECOND_SURFACE for pair in sides):
        return [first]
    second = _fit_surface(lab, rest, 2)
    return [first, second] if second.follows.sum() > 0.6 * rest.sum() else [first]


def is_white(backdrop: Array) -> bool:
    """Whether highlights and white parts of the object look like this backdrop, so that holes cannot be told from them."""
    return float(np.median(backdrop[..., 0])) > 96


def is_shaded(lab: Array, backdrop: Array, noise: Array) -> Array:
    """Where ``lab`` has the tint of ``backdrop``, at least a quarter as light: bool[h,w]."""
    shade = np.clip(lab[..., :1] / np.maximum(backdrop[..., :1], 1), 0, 1)
    tint = np.linalg.norm((lab[..., 1:] - backdrop[..., 1:] * shade) / np.maximum(4.5 * noise[1:], 4.5), axis=2)
    return (tint < 1) & (shade[..., 0] > 0.25)


def _fit_surface(lab: Array, samples: Array, degree: int) -> _Surface:
    """A polynomial surface through the colours of ``samples`` bool[h,w], robust against those that are not backdrop:
    iteratively reweighted least squares with Tukey's weights."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], axis=-1)
    colors, rows = lab[samples].astype(np.float64), basis[samples]
    distance = np.linalg.norm(colors - np.median(colors, axis=0), axis=1)
    weight = 1 / (1 + (distance / max(3.0, float(np.median(distance)))) ** 2)
    for _ in range(8):
        weighted = (rows * weight[:, None]).T
        fit = np.linalg.lstsq(weighted @ rows, weighted @ colors, rcond=None)[0]
        residual = colors - rows @ fit
        noise = np.maximum(1.4826 * np.median(np.abs(residual), axis=0), _MIN_NOISE)
        distance = np.linalg.norm(residual / noise, axis=1)
        weight = np.clip(1 - (distance / 7) ** 2, 0, 1) ** 2
    follows = np.zeros_like(samples)
    follows[samples] = distance < 5
    return _Surface((basis @ fit).astype(np.float32), noise.astype(np.float32), follows)


def _may_be(lab: Array, surface: _Surface, lighter: float) -> Array:
    """Where the picture can be that surface: of its tint, perhaps in shadow, at most ``lighter`` lighter (or 3 x noise)."""
    brighter = lab[..., 0] - surface.lab[..., 0]
    return is_shaded(lab, surface.lab, surface.noise) & (brighter < max(lighter, 3 * float(surface.noise[0])))


def _grow_backdrop(lab: Array, surfaces: list[_Surface]) -> Array:
    """Let every surface spread inwards from the border while colours change no faster than shading and soft shadows do.

    Steep places are kept clear of at first, so that nothing leaks through a gap in the object's outline. What lies between two
    surfaces that meet is backdrop too.
    """
    regions = [_grow_surface(lab, surface, 6.0) for surface in surfaces]
    if len(regions) == 2:
        between = _dilate(regions[0], 4) & _dilate(regions[1], 4)
        regions.append(between & _is_mixture(lab, *surfaces))
    return np.logical_or.reduce(regions)


def _grow_surface(lab: Array, surface: _Surface, lighter: float) -> Array:
    import cv2

    is_edge = steepness(lab, surface.noise) > 1
    may_be = _may_be(lab, surface, lighter) & ~is_edge
    open_floor = may_be & ~_dilate(is_edge, 1)
    step = np.maximum(3 * surface.noise, (5, 3.5, 3.5))
    grown = surface.follows & ~is_edge
    for floor, rounds in ((open_floor, 2 * WORK_SIDE_PX), (may_be, 2)):
        for _ in range(rounds):
            known = grown.astype(np.float32)
            weight = cv2.GaussianBlur(known, (7, 7), 1.5)
            near = cv2.GaussianBlur(lab * known[..., None], (7, 7), 1.5) / np.maximum(weight, 1e-4)[..., None]
            added = (np.abs(lab - near) < step).all(axis=2) & floor & _dilate(grown, 1) & ~grown
            if not added.any():
                break
            grown = grown | added
    return grown


def _is_mixture(lab: Array, first: _Surface, second: _Surface) -> Array:
    """Where a colour lies on the line between those of two surfaces."""
    line = second.lab - first.lab
    share = ((lab - first.lab) * line).sum(axis=2) / np.maximum((line * line).sum(axis=2), 1e-6)
    nearest = first.lab + np.clip(share, 0, 1)[..., None] * line
    return np.linalg.norm((lab - nearest) / np.maximum(first.noise, second.noise), axis=2) < 5


def steepness(lab: Array, noise: Array) -> Array:
    """How fast colours change, in units of the fastest change that still passes for shading or a soft shadow."""
    import cv2

    smooth = cv2.GaussianBlur(lab, (0, 0), 0.7)
    slope = [cv2.Sobel(smooth, cv2.CV_32F, dx, dy, ksize=3) / 8 for dx, dy in ((1, 0), (0, 1))]
    limit = np.maximum(1.5 * noise, (3.2, 1.8, 1.8))
    return np.linalg.norm(np.hypot(*slope) / limit, axis=2)


def _cut(residual: Array, noise: Array, is_backdrop: Array) -> Array:
    """GrabCut (Rother et al. 2004) on what differs from the backdrop."""
    import cv2

    cv2.setRNGSeed(_SEED)
    features = np.clip(128 + residual * 2, 0, 255).astype(np.uint8)
    calm = cv2.blur(np.linalg.norm(residual / noise, axis=2), (3, 3)) < 3.5
    labels = np.where(is_backdrop | calm, cv2.GC_PR_BGD, cv2.GC_PR_FGD).astype(np.uint8)
    labels[cv2.erode(is_backdrop.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0] = cv2.GC_BGD
    if not (labels == cv2.GC_PR_FGD).any() or not (labels == cv2.GC_BGD).any():
        return np.zeros_like(is_backdrop)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(features, labels, (0, 0, 0, 0), *models, _GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _tidy(mask: Array, distance: Array, tolerance: float) -> Array:
    """Keep the largest part and what belongs to it, fill holes that are small or differ from the backdrop by more than
    ``tolerance``; ``distance`` f32[h,w] is how much each pixel differs from it, in units of its noise."""
    import cv2

    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    largest = 1 + int(areas[1:].argmax())
    kept = parts == largest
    around = _dilate(kept, round(0.06 * WORK_SIDE_PX))
    for part in np.flatnonzero(areas >= 4):
        part_mask = parts == part
        if part in (0, largest) or _touches_border(part_mask):
            continue
        contrast = np.median(distance[part_mask])
        if (areas[part] > 0.02 * areas[largest] and contrast > 5) or (contrast > 8 and (part_mask & around).any()):
            kept |= part_mask
    return _fill_holes(kept, distance, tolerance)


def _fill_holes(mask: Array, distance: Array, tolerance: float) -> Array:
    import cv2

    _, parts, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    is_hole = np.ones(len(stats), bool)
    is_hole[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = False
    for part in np.flatnonzero(is_hole & (stats[:, cv2.CC_STAT_AREA] >= 0.002 * mask.sum())):
        is_hole[part] = np.median(distance[parts == part]) > tolerance
    return mask | is_hole[parts]


def _touches_border(mask: Array) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _is_plausible(mask: Array, distance: Array, noise: Array) -> bool:
    """One thing (perhaps in a few parts) that is neither a speck nor nearly everything, does not run out of the picture on all
    sides, and stands out the more clearly the less uniform its backdrop is."""
    import cv2

    if not 0.002 <= mask.mean() <= 0.95:
        return False
    sides = [mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean()]
    if min(sides) > 0.3 or sum(sides) > 2.5:
        return False
    areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    if areas.max() < 0.4 * mask.sum() or solid.sum() < 0.3 * mask.sum():
        return False
    return bool(np.median(distance[mask]) > 4 + 0.6 * (np.linalg.norm(noise) - _MIN_NOISE * 3**0.5))


def _dilate(mask: Array, radius: int) -> Array:
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)) > 0
