"""A frame at working size: its colours, its superpixels and how strongly they hang together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...types import Array

WORK_SIDE_PX = 432
"""The long side of the picture that is segmented; a third of 1280."""

SUPERPIXEL_PX = 8


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """``rgb`` u8[h,w,3] and ``gray`` u8[h,w] at working size; ``lab`` f32[h,w,3] with the lightness weakened."""

    rgb: Array
    gray: Array
    lab: Array

    @property
    def hw(self) -> tuple[int, int]:
        return self.gray.shape[0], self.gray.shape[1]


def working_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """The working size of a picture of size ``hw``; smaller ones are enlarged, superpixels being as large in every picture."""
    scale = WORK_SIDE_PX / max(hw)
    return max(8, round(hw[0] * scale)), max(8, round(hw[1] * scale))


def build_picture(image: Array) -> Picture:
    """The working picture of ``image`` u8[H,W,3]."""
    import cv2

    height, width = working_hw(image.shape[:2])
    smaller = width < image.shape[1]
    rgb = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab = (lab - np.array([0, 128, 128], np.float32)) * np.array([0.8 / 2.55, 1, 1], np.float32)
    return Picture(rgb, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), lab)


@dataclass(frozen=True, eq=False, slots=True)
class Regions:
    """Superpixels: ``labels`` i32[h,w]; of each its ``area`` f64[n], mean ``color`` f64[n,3], ``center`` f64[n,2] (x, y), how much
    of the picture's border it has, ``border`` f64[n]. Neighbours ``first``, ``second`` i[m] share ``length`` f64[m] pixel edges
    with a mean squared step of colour ``step`` f64[m]."""

    labels: Array
    area: Array
    color: Array
    center: Array
    border: Array
    first: Array
    second: Array
    length: Array
    step: Array

    def mean(self, values: Array) -> Array:
        """The mean f64[n] of ``values`` [h,w] over every superpixel."""
        return np.bincount(self.labels.ravel(), values.ravel(), len(self.area)) / self.area


def build_regions(picture: Picture) -> Regions:
    """The picture's superpixels."""
    import cv2

    height, width = picture.hw
    size = max(3, min(SUPERPIXEL_PX, min(picture.hw) // 8))
    finder = cv2.ximgproc.createSuperpixelSLIC(picture.lab, cv2.ximgproc.SLIC, size, 12.0)
    finder.iterate(5)
    finder.enforceLabelConnectivity(20)
    labels, count = finder.getLabels(), finder.getNumberOfSuperpixels()
    flat = labels.ravel()
    area = np.bincount(flat, minlength=count).astype(float)
    area = np.maximum(area, 1)
    color = np.stack([np.bincount(flat, picture.lab[..., k].ravel(), count) / area for k in range(3)], axis=1)
    y, x = np.mgrid[:height, :width] + 0.5
    center = np.stack([np.bincount(flat, axis.ravel(), count) / area for axis in (x, y)], axis=1)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    border = np.bincount(edge, minlength=count).astype(float)
    first, second, length, step = _neighbours(labels, cv2.GaussianBlur(picture.lab, (0, 0), 0.8), count)
    return Regions(labels, area, color, center, border, first, second, length, step)


def _neighbours(labels: Array, lab: Array, count: int) -> tuple[Array, Array, Array, Array]:
    """Pairs that touch, the length of their common edge and the mean squared colour step over it, taken two pixels apart."""
    keys, steps = [], []
    for axis in (0, 1):
        a, b = np.take(labels, range(labels.shape[axis] - 1), axis), np.take(labels, range(1, labels.shape[axis]), axis)
        low, high = np.arange(labels.shape[axis] - 1), np.arange(1, labels.shape[axis])
        near = np.take(lab, np.maximum(low - 1, 0), axis) - np.take(lab, np.minimum(high + 1, labels.shape[axis] - 1), axis)
        differs = a != b
        pair_low, pair_high = np.minimum(a, b)[differs].astype(np.int64), np.maximum(a, b)[differs].astype(np.int64)
        keys.append(pair_low * count + pair_high)
        steps.append((near[differs] ** 2).sum(axis=-1))
    unique, inverse, length = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    step = np.bincount(inverse, np.concatenate(steps), len(unique)) / length
    return unique // count, unique % count, length.astype(float), step
