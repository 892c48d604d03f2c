"""What an image encoder made of frames, kept in memory by the frames' content: at most so many bytes, the least used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FrameKey = tuple[str, int]
"""A clip's SHA-256 and a frame index."""

Features = tuple["torch.Tensor", ...]


class EmbeddingStore:
    """Feature maps by frame, of at most ``max_bytes`` together. Thread-safe. One store serves one set of weights at one size."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[FrameKey, Features] = OrderedDict()
        self._num_bytes = 0
        self._guard = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """What is held now."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._held)

    def find(self, key: FrameKey) -> Features | None:
        """The features of a frame, which are then the last to go, or None."""
        with self._guard:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def keep(self, key: FrameKey, features: Features) -> None:
        """Keep the features of a frame, as far as they fit."""
        size = _num_bytes(features)
        with self._guard:
            old = self._held.pop(key, None)
            self._num_bytes -= _num_bytes(old) if old is not None else 0
            if size > self.max_bytes:
                return
            self._held[key] = features
            self._num_bytes += size
            while self._num_bytes > self.max_bytes:
                _, dropped = self._held.popitem(last=False)
                self._num_bytes -= _num_bytes(dropped)

    def clear(self) -> None:
        """Let everything go."""
        with self._guard:
            self._held.clear()
            self._num_bytes = 0


def _num_bytes(features: Features) -> int:
    return sum(each.numel() * each.element_size() for each in features)
