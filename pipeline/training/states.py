"""What a run needs to go on where it stopped: weights, their average, the optimizer's moments. Safetensors and JSON, no pickles.

A state is a folder ``step-00001000``; it is written beside and renamed, so that one that exists is whole, whatever happened in the
middle of writing it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import UserError

KEEP = 2
"""How many states stay."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def list_states(folder: Path) -> list[Path]:
    """The whole states of a run, the oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def write_state(
    folder: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    average: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
) -> Path:
    """Write the state after ``step`` steps and drop the oldest. Raises ``UserError`` for a full disk; what was there stays."""
    path = folder / f"step-{step:08d}"
    partial = folder / f".partial-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, tensors in (("weights", weights), ("average", average), ("moments", moments)):
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial / f"{name}.safetensors")
        (partial / "state.json").write_text(json.dumps({**about, "step": step}, indent=1), encoding="utf-8")
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"The state after step {step} cannot be written ({str(error).splitlines()[0]}); make room and run the same "
            "command again: it goes on from the state before."
        ) from error
    for old in list_states(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return path


class State(NamedTuple):
    """What a state holds: tensors by name, and what it says of its run."""

    weights: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    about: dict[str, Any]


def read_state(path: Path) -> State:
    """Read a state. Raises ``UserError`` when it is damaged."""
    try:
        about = json.loads((path / "state.json").read_text(encoding="utf-8"))
        weights, average, moments = (load_file(path / f"{name}.safetensors") for name in ("weights", "average", "moments"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"The state {path.name!r} is damaged; remove it to go on from the one before.") from error
    return State(weights, average, moments, about)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that several processes hold in parts, put together (all of them must call this); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def parted(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The reverse: ``value`` spread over the processes as ``like`` is."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def flatten_moments(optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> dict[str, torch.Tensor]:
    """AdamW's moments by the names of their parameters, whole."""
    found = {}
    for parameter, state in optimizer.state.items():
        for key in _MOMENTS:
            found[f"{names[parameter]}:{key}"] = whole(torch.as_tensor(state[key])).clone()
    return found


def restore_moments(optimizer: torch.optim.Optimizer, names: Mapping[Any, str], moments: Mapping[str, torch.Tensor]) -> None:
    """Give AdamW its moments back. Raises ``UserError`` when they are another model's."""
    by_name = {name: parameter for parameter, name in names.items()}
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name in {key.rpartition(":")[0] for key in moments}:
        parameter = by_name.get(name)
        if parameter is None or id(parameter) not in known or moments[f"{name}:exp_avg"].shape != parameter.shape:
            raise UserError(f"The state was made by another configuration: {name} does not fit; give another output folder.")
        optimizer.state[parameter] = {
            key: moments[f"{name}:{key}"] if key == "step" else parted(moments[f"{name}:{key}"], parameter) for key in _MOMENTS
        }
