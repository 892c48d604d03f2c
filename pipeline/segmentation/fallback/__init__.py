"""The segmenter that needs no weights: superpixels, colours and motion, minimum cuts; dense optical flow from frame to frame."""

from .segmenter import FallbackSegmenter

__all__ = ["FallbackSegmenter"]
