"""The store of features: bounded in bytes, the least used go first."""

from __future__ import annotations

import torch

from pipeline.segmentation.embeddings import EmbeddingStore


def features(kilobytes: int) -> tuple[torch.Tensor, ...]:
    return torch.zeros(kilobytes * 128), torch.zeros(kilobytes * 64, 2)


def test_it_keeps_as_many_bytes_as_it_may_and_drops_the_least_used():
    store = EmbeddingStore(max_bytes=4096)
    for index in range(4):
        store.keep(("clip", index), features(1))
    assert len(store) == 4 and store.num_bytes == 4096
    assert store.find(("clip", 0)) is not None
    store.keep(("clip", 9), features(1))
    assert store.find(("clip", 1)) is None and store.find(("clip", 0)) is not None and store.num_bytes == 4096


def test_what_is_kept_again_counts_once_and_what_is_too_large_is_not_kept():
    store = EmbeddingStore(max_bytes=4096)
    store.keep(("clip", 0), features(2))
    store.keep(("clip", 0), features(3))
    assert len(store) == 1 and store.num_bytes == 3072
    store.keep(("clip", 0), features(5))
    assert len(store) == 0 and store.num_bytes == 0
    store.keep(("clip", 1), features(1))
    store.clear()
    assert store.find(("clip", 1)) is None and store.num_bytes == 0
