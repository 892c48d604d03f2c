"""The compositor: warp, harmonise, shadow, grain, blend. Deterministic, full resolution, no weights, no GPU."""

from .engine import CompositeEngine

__all__ = ["CompositeEngine"]
