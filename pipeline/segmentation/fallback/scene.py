"""Everything about one frame that does not depend on what is clicked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, dijkstra

from ...types import Array
from .merge import MergeTree, merge_regions
from .motion import Flow
from .picture import Picture, Regions

_CONTRAST = 10.0


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """A frame's working picture, its superpixels, its motion to neighbouring frames, the price ``bond`` f64[m] of parting two
    neighbouring superpixels, how differently these move, ``motion_step`` f64[m], the ``tree`` in which they merge, how plainly
    the pictures refute that a pixel moves with the camera, ``refuted`` f32[h,w] in 0..1, and how fast it seems to move against it,
    ``speed`` f32[h,w] in 0..3."""

    picture: Picture
    regions: Regions
    flows: tuple[Flow, ...]
    bond: Array
    motion_step: Array
    tree: MergeTree
    refuted: Array
    speed: Array

    def connected(self, chosen: Array, seeds: Array) -> Array:
        """Those superpixels of ``chosen`` bool[n] that hang together with one of ``seeds`` i[k]."""
        regions = self.regions
        both = chosen[regions.first] & chosen[regions.second]
        count = len(chosen)
        ones = np.ones(int(both.sum()))
        graph = coo_matrix((ones, (regions.first[both], regions.second[both])), shape=(count, count))
        part = connected_components(graph, directed=False)[1]
        return chosen & np.isin(part, part[seeds[chosen[seeds]]])

    def distances(self, seeds: Array, allowed: Array | None = None) -> Array:
        """How far every superpixel lies from ``seeds`` i[k], counted in steps of colour and motion, f64[n]; infinite where no
        way leads through ``allowed`` bool[n]."""
        regions = self.regions
        count = len(regions.area)
        gap = regions.color[regions.first] - regions.color[regions.second]
        cost = 1.0 + 0.35 * np.sqrt(regions.step) + 0.35 * np.sqrt((gap**2).sum(axis=1)) + 3.0 * self.motion_step
        if allowed is not None:
            cost = np.where(allowed[regions.first] & allowed[regions.second], cost, np.inf)
        open_ = np.isfinite(cost)
        graph = coo_matrix((cost[open_], (regions.first[open_], regions.second[open_])), shape=(count, count)).tocsr()
        return dijkstra(graph, directed=False, indices=seeds, min_only=True)


def build_scene(picture: Picture, regions: Regions, flows: tuple[Flow, ...]) -> Scene:
    """What the frame's superpixels are to each other."""
    typical = float(np.average(regions.step, weights=regions.length)) + 1.0
    step = np.zeros(len(regions.first))
    refuted, speed = np.zeros(picture.hw, np.float32), np.zeros(picture.hw, np.float32)
    for flow in flows:
        rest = flow.to_other - flow.camera
        mean = np.stack([regions.mean(rest[..., k] * flow.trust) for k in (0, 1)], axis=1)
        mean /= regions.mean(flow.trust)[:, None] + 1e-3
        step += np.hypot(*(mean[regions.first] - mean[regions.second]).T) / len(flows)
        refuted += flow.refuted / len(flows)
        speed += np.minimum(flow.away, 3) * flow.trust / len(flows)
    step = np.minimum(step, 3.0)
    bond = _CONTRAST * regions.length * (np.exp(-regions.step / (2 * typical)) * np.exp(-step / 1.5) + 0.03)
    return Scene(picture, regions, flows, bond, step, merge_regions(regions, step), refuted, speed)
