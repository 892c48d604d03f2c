"""The segmenter that needs nothing fetched: superpixels, colours and motion, minimum cuts; dense optical flow from frame to frame.

What it chooses by was fitted on freely licensed material and comes with it (``numbers``).
"""

from .segmenter import FallbackSegmenter

__all__ = ["FallbackSegmenter"]
