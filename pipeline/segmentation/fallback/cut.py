"""Minimum cuts with free costs, and the colour models whose likelihoods become those costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from ...types import Array

_UNIT = 64.0
"""Costs are rounded to 1/64: maximum flows are made of whole numbers."""

_MAX_COST = 1 << 24


def min_cut(gain: Array, first: Array, second: Array, weight: Array) -> Array:
    """bool[n]: the nodes that are foreground in the cheapest labelling.

    ``gain`` f[n] is what a node saves as foreground (below 0: what it costs); ``weight`` f[m] is paid for each pair
    (``first``, ``second``) whose labels differ.
    """
    count = len(gain)
    gains = np.clip(np.round(gain * _UNIT), -_MAX_COST, _MAX_COST).astype(np.int32)
    weights = np.clip(np.round(weight * _UNIT), 0, _MAX_COST).astype(np.int32)
    to_fg, to_bg = np.flatnonzero(gains > 0), np.flatnonzero(gains < 0)
    source, sink = count, count + 1
    rows = np.concatenate([first, second, np.full(len(to_fg), source), to_bg])
    cols = np.concatenate([second, first, to_fg, np.full(len(to_bg), sink)])
    data = np.concatenate([weights, weights, gains[to_fg], -gains[to_bg]])
    graph = coo_matrix((data, (rows, cols)), shape=(count + 2, count + 2)).tocsr()
    flow = maximum_flow(graph, source, sink).flow
    rest = csr_matrix(graph - flow)
    rest.data = (rest.data > 0).astype(np.int8)
    rest.eliminate_zeros()
    reached = breadth_first_order(rest, source, return_predecessors=False)
    found = np.zeros(count + 2, bool)
    found[reached] = True
    return found[:count]


@dataclass(frozen=True, eq=False, slots=True)
class ColorModel:
    """A mixture of Gaussians: ``means`` f64[K,3], ``roots`` f64[K,3,3] (inverse Cholesky factors), ``offsets`` f64[K]."""

    means: Array
    roots: Array
    offsets: Array

    def cost(self, colors: Array) -> Array:
        """Negative log likelihood f32[n] of ``colors`` [n,3]."""
        best = np.full(len(colors), np.inf, np.float32)
        for mean, root, offset in zip(self.means, self.roots, self.offsets, strict=True):
            z = (colors - mean).astype(np.float32) @ root.T.astype(np.float32)
            np.minimum(best, 0.5 * np.einsum("ij,ij->i", z, z) + np.float32(offset), out=best)
        return best


def fit_colors(colors: Array, weight: Array, parts: int = 6) -> ColorModel:
    """The mixture whose clusters come from splitting the widest one again and again (Orchard and Bouman 1991). Deterministic."""
    colors = np.asarray(colors, np.float64)
    label = np.zeros(len(colors), np.intp)
    stats = [_moments(colors, weight)]
    while len(stats) < parts:
        spread = [np.linalg.eigvalsh(cov)[-1] * mass for mass, _, cov in stats]
        widest = int(np.argmax(spread))
        _, mean, cov = stats[widest]
        axis = np.linalg.eigh(cov)[1][:, -1]
        moved = (label == widest) & ((colors - mean) @ axis > 0)
        if not moved.any() or moved.sum() == (label == widest).sum():
            break
        label[moved] = len(stats)
        stats[widest] = _moments(colors[label == widest], weight[label == widest])
        stats.append(_moments(colors[moved], weight[moved]))
    total = sum(mass for mass, _, _ in stats)
    means, roots, offsets = [], [], []
    for mass, mean, cov in stats:
        factor = np.linalg.cholesky(cov + _FLOOR * np.eye(3))
        means.append(mean)
        roots.append(np.linalg.inv(factor))
        offsets.append(np.log(np.diag(factor)).sum() - np.log(max(mass / total, 1e-3)))
    return ColorModel(np.array(means), np.array(roots), np.array(offsets))


_FLOOR = 6.0
"""Variance that every cluster has at least: sensor noise, compression."""


def _moments(colors: Array, weight: Array) -> tuple[float, Array, Array]:
    mass = float(weight.sum()) + 1e-9
    mean = (colors * weight[:, None]).sum(axis=0) / mass
    centred = colors - mean
    return mass, mean, (centred * weight[:, None]).T @ centred / mass
