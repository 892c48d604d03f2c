"""The fitted numbers of this package, ``numbers.npz``: made by ``benchmarks/segmentation_fit.py``, which says from what."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from ...types import Array

NUMBERS = Path(__file__).with_suffix(".npz")


@cache
def read_numbers() -> dict[str, Array]:
    """``click``, ``box`` and ``correction`` f64[k], weights of the features by which a guess is chosen; ``w1`` to ``w3`` and
    ``b1`` to ``b3`` f32, the layers of the network that weighs the cues; ``certainty`` f64[7], from signs to a confidence."""
    with np.load(NUMBERS) as kept:
        return {name: kept[name] for name in kept.files}
