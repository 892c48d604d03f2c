"""What the page tells of a run before it starts: its plan, from what the request, the checkpoint's headers and the device say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..model_cache import ModelCaches
from ..runtime import Runtime, choose_runtime, free_memory_bytes
from ..types import SamplingConfig
from .plan import Plan, measure_extent, plan_run

LOOKING = "Looking at what this machine can do…"
"""What stands in the plan's place while the device is not known yet."""


@dataclass(frozen=True, eq=False, slots=True)
class Machine:
    """Where runs take place. ``held_bytes()``: what loaded models take there; ``free_bytes()``: what a run may take,
    idle models counted."""

    runtime: Runtime
    free_bytes: Callable[[], int]
    held_bytes: Callable[[], int]


def find_machine(device: str, models: ModelCaches) -> Machine:
    """The machine for ``device`` (``auto`` or torch's name), with the models that are loaded there; ``auto`` and accelerators are
    looked for with torch. Raises ``UserError`` for a device that is not there."""
    runtime = choose_runtime(device)
    cache = models.find(runtime)
    return Machine(runtime, lambda: free_memory_bytes(runtime) + cache.held_bytes, lambda: cache.held_bytes)


class Planner:
    """Tells plans without loading anything of a model. ``find`` says where runs take place; it is asked once, by ``look``, which
    may take the seconds that importing torch takes. ``describe`` never waits for that."""

    def __init__(self, checkpoints: Path | None, find: Callable[[], Machine]) -> None:
        self._checkpoints, self._find = checkpoints, find
        self._machine: Machine | None = None

    def look(self) -> Machine:
        """Find the machine, or what is known of it already. Raises ``UserError`` when it is not there."""
        if self._machine is None:
            self._machine = self._find()
        return self._machine

    def plan(self, sampling: SamplingConfig, num_frames: int, num_layers: int) -> Plan:
        """The plan of a run. Raises ``UserError`` when it cannot work."""
        machine = self.look()
        extent = measure_extent(self._checkpoints, sampling, num_frames, num_layers)
        return plan_run(extent, machine.runtime, machine.free_bytes())

    def needs(self, sampling: SamplingConfig, num_frames: int, num_layers: int) -> tuple[float, int]:
        """Seconds, and bytes of the main memory that the run takes beyond what loaded models hold there. Raises ``UserError``."""
        plan = self.plan(sampling, num_frames, num_layers)
        return plan.seconds, max(0, plan.host_bytes - self.look().held_bytes())

    def describe(self, sampling: SamplingConfig, num_frames: int, num_layers: int) -> str:
        """The plan as a sentence, why there is none, or ``LOOKING``."""
        if self._machine is None:
            return LOOKING
        try:
            plan = self.plan(sampling, num_frames, num_layers)
        except UserError as error:
            return str(error)
        frames = f"{num_frames} frame{'s' if num_frames != 1 else ''}"
        short = "" if plan.needed_bytes <= plan.free_bytes else " That is more memory than is free."
        return f"Plan for {frames}: {plan.describe()}.{short}"
