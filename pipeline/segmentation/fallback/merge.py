"""Superpixels merged pair by pair, the least visible boundary first: a tree of parts, whole things and heaps of things."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from ...types import Array
from .picture import Regions

_SIZE = 0.35
"""How strongly small parts are merged first."""

_SHARES = (0.002, 0.4)
_GROWTH = 1.35
_BOX_SHARE, _BOX_GROWTH = 0.15, 1.12
"""Parts of the picture, and of a box, that are worth looking at, and by how much the next one is larger."""


@dataclass(frozen=True, eq=False, slots=True)
class MergeTree:
    """``parent`` i[m] and ``area`` f64[m] of every node; the first ``count`` nodes are the superpixels, parents come after their
    children, -1 is no parent."""

    parent: Array
    area: Array
    count: int

    def around(self, leaf: int) -> list[Array]:
        """The sets of superpixels bool[count] around ``leaf``, from small to large."""
        total = self.area[: self.count].sum()
        picked: list[int] = []
        last, node = 0.0, leaf
        while node >= 0:
            share = self.area[node] / total
            if _SHARES[0] <= share <= _SHARES[1] and share > last * _GROWTH:
                picked.append(node)
                last = share
            node = int(self.parent[node])
        level = np.full(len(self.parent), len(picked))
        level[picked] = np.arange(len(picked))
        for node in range(len(self.parent) - 1, -1, -1):
            if self.parent[node] >= 0:
                level[node] = min(level[node], level[self.parent[node]])
        return [level[: self.count] <= number for number in range(len(picked))]

    def apart_from(self, outside: Array) -> list[Array]:
        """The sets of superpixels bool[count] that do not hang together with ``outside`` bool[count], from those behind the
        plainest boundary on."""
        mixed = np.zeros(len(self.parent), bool)
        mixed[: self.count] = outside
        for node, parent in enumerate(self.parent):
            if parent >= 0 and mixed[node]:
                mixed[parent] = True
        joined = np.arange(len(self.parent))
        for node in range(len(self.parent) - 1, -1, -1):
            if not mixed[node] and self.parent[node] >= 0:
                joined[node] = joined[self.parent[node]]
        joined = joined[: self.count]
        area = self.area[: self.count]
        total, last = area[~outside].sum(), 0.0
        found = []
        for node in np.unique(joined[~outside])[::-1]:
            part = ~outside & (joined >= node)
            share = area[part].sum() / total
            if share >= _BOX_SHARE and share > last * _BOX_GROWTH:
                found.append(part)
                last = share
        return found


def merge_regions(regions: Regions, motion_step: Array) -> MergeTree:
    """The tree of ``regions``; ``motion_step`` f64[m] says how differently two neighbours move."""
    count = len(regions.area)
    gap = np.sqrt(((regions.color[regions.first] - regions.color[regions.second]) ** 2).sum(axis=1))
    step = 0.5 * np.sqrt(regions.step) + 0.5 * gap + 4.0 * motion_step
    # Of every live node: its neighbours with the length of the common boundary and the sum of the steps along it.
    sides: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    pairs = zip(regions.first.tolist(), regions.second.tolist(), regions.length.tolist(), step.tolist(), strict=True)
    for a, b, length, height in pairs:
        sides[a][b] = sides[b][a] = (length, height * length)
    area = (regions.area / regions.area.sum()).tolist()
    parent = [-1] * count

    def price(a: int, b: int) -> float:
        length, total = sides[a][b]
        return float(total / length * min(area[a], area[b]) ** _SIZE)

    waiting = [(price(a, b), a, b) for a in range(count) for b in sides[a] if a < b]
    heapq.heapify(waiting)
    while waiting:
        _, a, b = heapq.heappop(waiting)
        if parent[a] >= 0 or parent[b] >= 0:
            continue
        new = len(parent)
        merged: dict[int, tuple[float, float]] = {}
        for node in (a, b):
            parent[node] = new
            for other, (length, total) in sides[node].items():
                if other not in (a, b):
                    known = merged.get(other, (0.0, 0.0))
                    merged[other] = (known[0] + length, known[1] + total)
        parent.append(-1)
        area.append(area[a] + area[b])
        sides.append(merged)
        for other, common in merged.items():
            neighbours = sides[other]
            neighbours.pop(a, None)
            neighbours.pop(b, None)
            neighbours[new] = common
            heapq.heappush(waiting, (price(other, new), other, new))
        sides[a], sides[b] = {}, {}
    return MergeTree(np.array(parent), np.array(area), count)
