"""VideoAnydoor where a GPU is lent for single calls (Hugging Face's ZeroGPU): the sampling alone runs in such a call.

The call runs in another process, forked when it starts: what goes in and comes out is plain values, and checkpoints are loaded
before, so that the fork finds them. Nothing is compiled there. Once the server has started, weights exist inside of calls alone
(``spaces`` packs them away), so what a network encodes is encoded there, once: it comes back on its way, is kept here, outside of
the call, and goes along with every later one.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..cache import ArtifactCache
from ..errors import Cancelled, UserError
from ..model_cache import ModelCache
from ..runtime import Runtime
from ..types import Array, Progress
from .engine import Keep, Sampler, SampleTask, VideoAnydoorEngine
from .planner import Machine

DEVICE_BYTES = 45 * 10**9
"""Memory of the smallest part of a GPU that is lent (half of an RTX PRO 6000; a part of an H200 has 74)."""

LENT_RUNTIME = Runtime("cuda", "bfloat16")

START_S, MARGIN, MAX_DURATION_S = 15.0, 1.5, 300
"""A call is asked for as long as its plan says, with this margin and time to start; never longer than the last."""


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """An artefact that a call encoded, and its key."""

    key: str
    arrays: dict[str, Array]


Item = Progress | Encoded | Array | UserError | torch.OutOfMemoryError
Decorate = Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]
"""``spaces.GPU``: called with ``duration``, a function of the task, it returns a decorator."""


def choose_duration_s(task: SampleTask) -> int:
    """For how many seconds a GPU is asked for: from the frames and steps of one layer."""
    seconds = START_S + MARGIN * task.plan.seconds / task.job.extent.num_layers
    return min(MAX_DURATION_S, math.ceil(seconds))


def iterate(sample: Sampler, task: SampleTask) -> Generator[Item, None, None]:
    """Progress and what is encoded; last the pictures, or why there are none. Closing it stops the sampling at its next step."""
    items: queue.SimpleQueue[Item | BaseException] = queue.SimpleQueue()
    is_stopped = threading.Event()

    def report(progress: Progress) -> None:
        if is_stopped.is_set():
            raise Cancelled
        items.put(progress)

    def keep(key: str, arrays: dict[str, Array]) -> None:
        items.put(Encoded(key, arrays))

    def work() -> None:
        try:
            items.put(sample(task, report, keep))
        except BaseException as error:  # noqa: BLE001 - told to, or raised in, the thread that reads
            items.put(error)

    thread = threading.Thread(target=work, name="sample", daemon=True)
    thread.start()
    try:
        while isinstance(item := items.get(), Progress | Encoded):
            yield item
        if isinstance(item, BaseException) and not isinstance(item, UserError | torch.OutOfMemoryError):
            raise item
        yield item
    finally:
        is_stopped.set()
        thread.join()


def wrap_sampler(sample: Sampler, decorate: Decorate) -> Sampler:
    """The same sampler, run inside a decorated generator function."""

    @decorate(duration=choose_duration_s)
    def sample_on_gpu(task: SampleTask) -> Generator[Item, None, None]:
        yield from iterate(sample, task)

    def run(task: SampleTask, report: Callable[[Progress], None], keep: Keep) -> Array:
        with closing(sample_on_gpu(task)) as items:
            for item in items:
                if isinstance(item, BaseException):
                    raise item
                if isinstance(item, Encoded):
                    keep(item.key, item.arrays)
                elif isinstance(item, Progress):
                    report(item)
                else:
                    pictures: Array = item
                    return pictures
        raise RuntimeError("the call on the GPU ended without a result")

    return run


def describe_machine() -> Machine:
    """What a run can count on. Everything that fits is loaded ahead."""
    return Machine(LENT_RUNTIME, lambda: DEVICE_BYTES, lambda: DEVICE_BYTES)


def build_engine(
    checkpoints: Path, artifacts: ArtifactCache, decorate: Decorate, runtime: Runtime | None = None
) -> VideoAnydoorEngine:
    """The engine for such a place, its checkpoints loaded: to be built before the server starts. Raises ``UserError``."""
    engine = VideoAnydoorEngine(
        checkpoints,
        runtime or LENT_RUNTIME,
        ModelCache(DEVICE_BYTES),
        artifacts,
        free_bytes=lambda: DEVICE_BYTES,
        wrap=lambda sample: wrap_sampler(sample, decorate),
    )
    engine.load_ahead()
    return engine
