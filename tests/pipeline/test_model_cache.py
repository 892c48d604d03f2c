"""The bounded cache of models: one build, exclusive use, least recently used first, nothing left by a failed build."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import model_cache
from pipeline.model_cache import ModelCache, ModelCaches, NoRoom
from pipeline.runtime import Runtime


class Model:
    def __init__(self, name):
        self.name = name


def test_a_model_is_built_once_and_the_least_recently_used_goes_first():
    dropped, built = [], []
    cache = ModelCache(100, on_drop=lambda: dropped.append(cache.keys()))

    def use(name, num_bytes=40):
        with cache.lease(name, lambda: built.append(name) or Model(name), num_bytes) as model:
            assert model.name == name

    for name in ("a", "b", "a", "c"):
        use(name)
    assert built == ["a", "b", "c"] and cache.keys() == ("a", "c") and len(dropped) == 1
    assert cache.held_bytes == 80
    use("huge", 1000)
    assert cache.keys() == ("huge",), "larger than the bound: served alone"
    use("a")
    assert cache.keys() == ("a",) and built == ["a", "b", "c", "huge", "a"]


def test_models_that_take_no_device_memory_are_bounded_by_number():
    cache = ModelCache(100, max_models=2)
    for name in ("a", "b", "c"):
        with cache.lease(name, lambda name=name: Model(name), 0):
            pass
    assert cache.keys() == ("b", "c") and cache.held_bytes == 0


def test_room_is_made_for_the_peak_of_a_run_also_when_its_model_is_there():
    cache = ModelCache(100)
    for name in ("a", "b"):
        with cache.lease(name, lambda name=name: Model(name), 40, 50):
            pass
    assert cache.keys() == ("a", "b")
    with cache.lease("a", lambda: pytest.fail("it is there already"), 40, 70):
        assert cache.keys() == ("a",)


def test_dropped_models_are_really_let_go():
    cache = ModelCache(100)
    with cache.lease("a", lambda: Model("a"), 10) as model:
        watch = weakref.ref(model)
        cache.drop("a")
        assert cache.keys() == () and watch() is not None, "in use: kept until its user is done"
        del model
    gc.collect()
    assert watch() is None
    with cache.lease("a", lambda: Model("a"), 10) as model:
        watch = weakref.ref(model)
        del model
    cache.drop("a")
    cache.drop("never there")
    gc.collect()
    assert watch() is None


def test_a_failed_build_or_a_failed_run_leaves_the_cache_usable():
    cache = ModelCache(100)
    with pytest.raises(RuntimeError, match="no file"), cache.lease("a", lambda: (_ for _ in ()).throw(RuntimeError("no file")), 10):
        pass
    assert cache.keys() == ()
    with pytest.raises(KeyError), cache.lease("a", lambda: Model("a"), 10):
        raise KeyError
    with cache.lease("a", lambda: pytest.fail("it is there already"), 10) as model:
        assert model.name == "a"


def test_two_runs_share_one_build_and_never_the_model():
    cache, running, most, built = ModelCache(100), [], [], []

    def build():
        time.sleep(0.02)
        built.append(1)
        return Model("a")

    def run():
        with cache.lease("a", build, 10):
            running.append(1)
            most.append(len(running))
            time.sleep(0.01)
            running.pop()

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and most == [1] * 5


def test_models_in_use_are_never_dropped_for_room_and_others_wait_in_turn():
    cache, order = ModelCache(50), []

    def use(name):
        with cache.lease(name, lambda: Model(name), 10, 40):
            order.append((name, cache.keys()))

    with cache.lease("a", lambda: Model("a"), 10, 40):
        waiting = []
        for name in ("b", "c"):
            waiting.append(threading.Thread(target=use, args=(name,)))
            waiting[-1].start()
            while len(cache._turns) < len(waiting):
                time.sleep(0.001)
        with pytest.raises(NoRoom), cache.lease("d", lambda: pytest.fail("there is no room"), 10, 40, patience_s=0.02):
            pass
        assert cache.keys() == ("a",) and order == []
    for thread in waiting:
        thread.join()
    assert order == [("b", ("a", "b")), ("c", ("b", "c"))], "in turn: beside one at work, one at rest"


def test_what_fits_beside_a_model_at_work_does_not_wait():
    cache = ModelCache(50)
    with cache.lease("a", lambda: Model("a"), 10, 30), ThreadPoolExecutor(1) as other:

        def use():
            with cache.lease("b", lambda: Model("b"), 10, 20, patience_s=0):
                return cache.keys()

        assert other.submit(use).result() == ("a", "b")


def test_every_device_has_one_cache_as_large_as_its_free_memory(monkeypatch):
    monkeypatch.setattr(model_cache, "free_memory_bytes", lambda runtime: 1000 if runtime.device == "cpu" else 200)
    caches = ModelCaches()
    cpu, first = caches.find(Runtime("cpu", "float32")), caches.find(Runtime("cuda", "bfloat16"))
    assert caches.find(Runtime("cpu", "float32")) is cpu and caches.find(Runtime("cuda:0", "bfloat16")) is first
    assert (cpu.max_bytes, first.max_bytes, caches.find(Runtime("cuda:1", "bfloat16")) is first) == (900, 180, False)
