"""What needs torch is not collected without it; tiny networks run fastest on one thread, whatever else the machine is doing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import pytest

NEED_TORCH = ("sam2", "preprocessing", "embeddings", "choice", "cli")

has_torch = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))
collect_ignore = [] if has_torch else [f"test_{name}.py" for name in NEED_TORCH]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
