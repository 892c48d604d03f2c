"""Training tests run on one thread, at a scale of a few thousand parameters put in the place of the random ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.pipeline.training.material import use_tiny_scales


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def tiny_scales(monkeypatch) -> None:
    use_tiny_scales(monkeypatch.setitem)
