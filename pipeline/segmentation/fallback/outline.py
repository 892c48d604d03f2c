"""The outline: a minimum cut pixel by pixel in a band around it, then the full picture's own edges."""

from __future__ import annotations

import numpy as np

from ...types import Array
from .cut import ColorModel, fit_colors, min_cut
from .picture import Picture

_CONTRAST = 7.0
"""What a unit of outline costs where nothing is to be seen in the picture."""

_MAX_COLOR_GAIN = 5.0
_STEPS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.7071), (1, -1, 0.7071))


def disc(radius_px: int) -> Array:
    """u8[2r+1,2r+1], for morphology."""
    import cv2

    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1)).astype(np.uint8)


def grow(mask: Array, radius_px: int) -> Array:
    """``mask`` bool[h,w] and what lies within ``radius_px`` of it."""
    import cv2

    return cv2.dilate(mask.view(np.uint8), disc(radius_px)).astype(bool)


def shrink(mask: Array, radius_px: int) -> Array:
    """``mask`` bool[h,w] without what lies within ``radius_px`` of its outside (the picture's border is no outside)."""
    import cv2

    return cv2.erode(mask.view(np.uint8), disc(radius_px)).astype(bool)


def color_models(picture: Picture, mask: Array, reach_px: int) -> tuple[ColorModel, ColorModel] | None:
    """Colours of the inside, and of the outside up to ``reach_px`` away; None if one of the two is empty."""
    inside, outside = shrink(mask, 1), ~grow(mask, 2) & grow(mask, reach_px)
    inside = inside if inside.any() else mask
    if inside.sum() < 8 or outside.sum() < 8:
        return None
    models = []
    for part in (inside, outside):
        colors = picture.lab[part]
        colors = colors[:: 1 + len(colors) // 3000]
        models.append(fit_colors(colors, np.ones(len(colors))))
    return models[0], models[1]


def color_gain(models: tuple[ColorModel, ColorModel], colors: Array) -> Array:
    """How much ``colors`` [n,3] speak for the inside, f32[n]."""
    inside, outside = models
    return np.clip(outside.cost(colors) - inside.cost(colors), -_MAX_COLOR_GAIN, _MAX_COLOR_GAIN)


def cut_band(picture: Picture, mask: Array, gain: Array, band: Array) -> Array:
    """``mask`` bool[h,w] with the pixels of ``band`` labelled anew: by ``gain`` f[h,w] and by where the picture has edges."""
    if not band.any():
        return mask
    ys, xs = np.flatnonzero(band.any(axis=1)), np.flatnonzero(band.any(axis=0))
    view = slice(max(ys[0] - 1, 0), ys[-1] + 2), slice(max(xs[0] - 1, 0), xs[-1] + 2)
    lab, inside, free = picture.lab[view], mask[view], band[view]
    number = np.full(free.shape, -1, np.int64)
    number[free] = np.arange(int(free.sum()))
    gains = gain[view][free].astype(np.float64)
    pairs: list[tuple[Array, Array, Array]] = []
    for down, right, _ in _STEPS:
        here, there = _shifted(free.shape, down, right)
        step = ((lab[here] - lab[there]) ** 2).sum(axis=-1)
        pairs.append((number[here].ravel(), number[there].ravel(), step.ravel()))
    typical = np.mean(np.concatenate([step for _, _, step in pairs])) + 1.0
    first, second, weight = [], [], []
    flat = inside.ravel()
    for (down, right, share), (a, b, step) in zip(_STEPS, pairs, strict=True):
        cost = _CONTRAST * share * (np.exp(-step / (2 * typical)) + 0.04)
        both = (a >= 0) & (b >= 0)
        first.append(a[both])
        second.append(b[both])
        weight.append(cost[both])
        here, there = _shifted(free.shape, down, right)
        index = np.arange(flat.size).reshape(free.shape)
        for node, other, place in ((a, b, index[there].ravel()), (b, a, index[here].ravel())):
            rim = (node >= 0) & (other < 0)
            np.add.at(gains, node[rim], np.where(flat[place[rim]], cost[rim], -cost[rim]))
    result = inside.copy()
    result[free] = min_cut(gains, np.concatenate(first), np.concatenate(second), np.concatenate(weight))
    whole = mask.copy()
    whole[view] = result
    return whole


def _shifted(shape: tuple[int, ...], down: int, right: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a pixel and its neighbour ``down`` and ``right`` of it lie."""
    height, width = shape
    rows = slice(0, height - down), slice(down, height)
    if right >= 0:
        return (rows[0], slice(0, width - right)), (rows[1], slice(right, width))
    return (rows[0], slice(-right, width)), (rows[1], slice(0, width + right))


def tidy(mask: Array, keep: Array | None = None) -> Array:
    """``mask`` bool[h,w] without small holes, specks and lace; parts that touch ``keep`` bool[h,w] stay, whatever their size."""
    import cv2

    if not mask.any():
        return mask
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0) > 0.5
    if not soft.any():
        soft = mask
    _, parts, stats, _ = cv2.connectedComponentsWithStats(soft.astype(np.uint8), connectivity=4)
    areas = stats[:, cv2.CC_STAT_AREA]
    stays = areas >= 0.12 * areas[1:].max(initial=0)
    if keep is not None:
        touched = np.unique(parts[keep])
        stays[touched] = True
    stays[0] = False
    solid = stays[parts]
    _, where, stats, _ = cv2.connectedComponentsWithStats((~solid).astype(np.uint8), connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    small = area < max(12.0, 0.01 * solid.sum())
    small[0] = False
    return solid | small[where]


def sharpen(mask: Array, image: Array) -> Array:
    """Logits f32[H,W] at the size of ``image`` u8[H,W,3] of a working ``mask`` bool[h,w]: its
    outline moves onto the picture's edges."""
    import cv2

    height, width = image.shape[:2]
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)
    ratio = max(height, width) / max(mask.shape)
    logits = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR if ratio > 1 else cv2.INTER_AREA)
    if ratio > 1.01 and mask.any() and not mask.all():
        margin = round(6 * ratio)
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        view = (
            slice(max(0, int(ys[0] * height / mask.shape[0]) - margin), int((ys[-1] + 1) * height / mask.shape[0]) + margin),
            slice(max(0, int(xs[0] * width / mask.shape[1]) - margin), int((xs[-1] + 1) * width / mask.shape[1]) + margin),
        )
        radius = max(2, round(1.6 * ratio))
        guide = np.ascontiguousarray(image[view])
        refined = cv2.ximgproc.guidedFilter(guide, logits[view], radius, 60.0)
        near = np.abs(logits[view] - 0.5) < 0.49
        logits[view] = np.where(near, refined, logits[view])
    logits = (logits - 0.5) * 12
    return np.where(np.abs(logits) < 1e-3, np.float32(-1e-3), logits).astype(np.float32)
