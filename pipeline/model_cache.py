"""Loaded models, bounded, shared by all visitors of a process, used by one run at a time each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class _Entry:
    """One model and who waits for it; ``model`` is None until it is built."""

    num_bytes: int
    model: Any = None
    num_users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class ModelCache:
    """At most ``max_models`` models and ``max_bytes`` of device memory, as their makers state it; the least recently used go first.

    ``lease`` hands a model out exclusively. Models in use are never dropped, so a model larger than the bound is still served,
    alone. ``on_drop`` is called after models were let go (to hand their memory back).
    """

    def __init__(self, max_bytes: int, max_models: int = 4, on_drop: Callable[[], None] = lambda: None) -> None:
        self.max_bytes, self.max_models = max_bytes, max_models
        self._on_drop = on_drop
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._guard = threading.Lock()

    @contextmanager
    def lease(self, key: str, build: Callable[[], Any], num_bytes: int, peak_bytes: int = 0) -> Iterator[Any]:
        """The model ``key``, built now if it is not there, for the length of a ``with`` block; others wait for it meanwhile.

        ``num_bytes`` is what it holds while idle, ``peak_bytes`` what it takes at work: room for that is made first. A build that
        raises leaves nothing behind.
        """
        entry = self._join(key, num_bytes, max(num_bytes, peak_bytes))
        try:
            with entry.lock:
                if entry.model is None:
                    entry.model = build()
                yield entry.model
        finally:
            self._leave(key, entry)

    def drop(self, key: str) -> None:
        """Let a model go as soon as nobody uses it; the next lease builds it anew."""
        with self._guard:
            found = self._entries.pop(key, None)
        if found is not None and found.num_users == 0:
            found.model = None
            self._on_drop()

    def keys(self) -> tuple[str, ...]:
        """What is held, the least recently used first."""
        with self._guard:
            return tuple(self._entries)

    @property
    def held_bytes(self) -> int:
        """Device memory of all that is held. A run may count on it beside what is free: idle models go when room is needed."""
        with self._guard:
            return sum(entry.num_bytes for entry in self._entries.values())

    def _join(self, key: str, num_bytes: int, room_bytes: int) -> _Entry:
        with self._guard:
            entry = self._entries.pop(key, None) or _Entry(num_bytes)
            dropped = self._make_room(room_bytes)
            self._entries[key] = entry
            entry.num_users += 1
        if dropped:
            self._on_drop()
        return entry

    def _leave(self, key: str, entry: _Entry) -> None:
        with self._guard:
            entry.num_users -= 1
            is_held = self._entries.get(key) is entry
            if entry.num_users == 0 and is_held and entry.model is None:
                del self._entries[key]
            must_drop = entry.num_users == 0 and not is_held
            if must_drop:
                entry.model = None
        if must_drop:
            self._on_drop()

    def _make_room(self, num_bytes: int) -> int:
        """Drop idle models, oldest first, until ``num_bytes`` more fit; how many went."""
        dropped = 0
        for key in list(self._entries):
            held = sum(item.num_bytes for item in self._entries.values())
            if held + num_bytes <= self.max_bytes and len(self._entries) < self.max_models:
                break
            if self._entries[key].num_users == 0:
                del self._entries[key]
                dropped += 1
        return dropped
