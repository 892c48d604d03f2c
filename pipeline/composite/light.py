"""Display light to linear light and back: the only place that knows the sRGB transfer function (IEC 61966-2-1)."""

from __future__ import annotations

import numpy as np

from ..types import Array

_ENCODE_STEPS = 1 << 16


def _decode(display: Array) -> Array:
    return np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def _encode(linear: Array) -> Array:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


_DECODE_TABLE = _decode(np.arange(256) / 255.0).astype(np.float32)
_ENCODE_TABLE = (255.0 * _encode(np.arange(_ENCODE_STEPS) / (_ENCODE_STEPS - 1.0))).astype(np.float32)


def decode_light(display: Array) -> Array:
    """u8 display values of any shape to f32 linear light in 0..1."""
    return _DECODE_TABLE[display]


def encode_light(linear: Array) -> Array:
    """f32 linear light (clipped to 0..1) to f32 display values in 0..255, not rounded."""
    steps = np.clip(linear, 0.0, 1.0)
    steps *= _ENCODE_STEPS - 1
    steps += 0.5
    return np.take(_ENCODE_TABLE, steps.astype(np.uint16))
