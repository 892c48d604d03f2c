"""One command in several processes (``torchrun``, ``accelerate launch``): who takes what of the work, and where it runs.

Started as one process, everything is this one's. Importing this loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

Item = TypeVar("Item")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: as long as their share may take."""


def own_share(items: Sequence[Item]) -> list[Item]:
    """What this process takes of ``items``, in order; all processes together take each once."""
    with _state().split_between_processes(list(items)) as own:
        return list(own)


def gather(items: list[Item]) -> list[Item]:
    """The items of all processes, on all of them. Every process has to call it."""
    if _state().num_processes == 1:
        return items
    from accelerate.utils import gather_object

    together: list[Item] = gather_object(items)
    return together


def is_first() -> bool:
    """Whether this is the process that writes what there is one of."""
    return bool(_state().is_main_process)


def own_device(device: str) -> str:
    """``auto`` on a machine with CUDA devices, as one of its several processes: the device that is this one's. Else as given."""
    state = _state()
    if device != "auto" or state.num_processes == 1:
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{state.local_process_index % count}" if count else device


def _state() -> PartialState:
    """The processes know of each other by gloo, whatever their engines run on: what they exchange is small and plain."""
    from accelerate import PartialState

    made: Any = PartialState(cpu=True, timeout=PATIENCE)
    return made
