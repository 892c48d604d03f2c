"""Loaded models, bounded, shared by all visitors of a process, used by one run at a time each."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .runtime import Runtime, free_memory_bytes, release_memory

SHARE = 0.9
"""Of the memory that is free, what models may take."""


class NoRoom(Exception):
    """Models in use left no room for another one for longer than its user would wait."""


@dataclass(eq=False, slots=True)
class _Entry:
    """One model and who waits for it; ``model`` is None until it is built. ``busy_bytes`` is what it takes while it is used."""

    num_bytes: int
    busy_bytes: int
    model: Any = None
    num_users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def taken_bytes(self) -> int:
        return self.busy_bytes if self.num_users else self.num_bytes


class ModelCache:
    """At most ``max_models`` models and ``max_bytes`` of device memory, as their makers state it; the least recently used go first.

    ``lease`` hands a model out exclusively. Models in use are never dropped: who finds no room beside them waits until they are
    idle, in turn. So a model larger than the bound is still served, alone. ``on_drop`` is called after models were let go (to hand
    their memory back).
    """

    def __init__(self, max_bytes: int, max_models: int = 4, on_drop: Callable[[], None] = lambda: None) -> None:
        self.max_bytes, self.max_models = max_bytes, max_models
        self._on_drop = on_drop
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._guard = threading.Condition()
        self._turns: deque[object] = deque()

    @contextmanager
    def lease(
        self, key: str, build: Callable[[], Any], num_bytes: int, peak_bytes: int = 0, patience_s: float | None = None
    ) -> Iterator[Any]:
        """The model ``key``, built now if it is not there, for the length of a ``with`` block; others wait for it meanwhile.

        ``num_bytes`` is what it holds while idle, ``peak_bytes`` what it takes at work: room for that is made first. A build that
        raises leaves nothing behind. Raises ``NoRoom`` when models in use leave no room for ``patience_s`` seconds (None: for as
        long as it takes). A thread that holds a lease must not ask for another one.
        """
        entry = self._join(key, num_bytes, max(num_bytes, peak_bytes), patience_s)
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
            self._guard.notify_all()
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

    def _join(self, key: str, num_bytes: int, room_bytes: int, patience_s: float | None) -> _Entry:
        turn = object()
        with self._guard:
            self._turns.append(turn)
            try:
                if not self._guard.wait_for(lambda: self._turns[0] is turn and self._has_room(key, room_bytes), patience_s):
                    raise NoRoom(key)
                dropped = self._make_room(key, room_bytes)
            finally:
                self._turns.remove(turn)
                self._guard.notify_all()
            entry = self._entries.pop(key, None) or _Entry(num_bytes, room_bytes)
            entry.busy_bytes = max(room_bytes, entry.busy_bytes if entry.num_users else 0)
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
            self._guard.notify_all()
        if must_drop:
            self._on_drop()

    def _has_room(self, key: str, num_bytes: int) -> bool:
        """Whether a model may be used once all idle ones are gone: beside those in use, or alone."""
        busy = [entry.taken_bytes for other, entry in self._entries.items() if other != key and entry.num_users]
        return not busy or sum(busy) + num_bytes <= self.max_bytes

    def _make_room(self, key: str, num_bytes: int) -> int:
        """Drop idle models, oldest first, until the model ``key`` fits with ``num_bytes``; how many went."""
        dropped = 0
        for other in [other for other in self._entries if other != key]:
            kept = [entry for each, entry in self._entries.items() if each != key]
            if sum(entry.taken_bytes for entry in kept) + num_bytes <= self.max_bytes and len(kept) < self.max_models:
                break
            if self._entries[other].num_users == 0:
                del self._entries[other]
                dropped += 1
        return dropped


class ModelCaches:
    """One ``ModelCache`` for each device, shared by all that runs there, engines and segmenters alike. Thread-safe.

    Each is made at its first use, as large as ``SHARE`` of the memory that is free on its device then.
    """

    def __init__(self) -> None:
        self._caches: dict[str, ModelCache] = {}
        self._guard = threading.Lock()

    def find(self, runtime: Runtime) -> ModelCache:
        """The cache of a runtime's device; ``cuda`` is its first one."""
        device = "cuda:0" if runtime.device == "cuda" else runtime.device
        with self._guard:
            if device not in self._caches:
                max_bytes = int(free_memory_bytes(runtime) * SHARE)
                self._caches[device] = ModelCache(max_bytes, on_drop=lambda: release_memory(runtime))
            return self._caches[device]
