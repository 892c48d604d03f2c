"""These tests need torch and its company; slow ones run only when asked for: ``pytest -m slow``."""

from __future__ import annotations

import importlib.util

import pytest

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("diffusers") is None else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run it with -m slow"))
