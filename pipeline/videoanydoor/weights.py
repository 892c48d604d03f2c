"""Loading and saving weights strictly: safetensors only, and every tensor accounted for by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin

from ..errors import UserError

NAMED_KEYS = 5
"""How many faulty tensors an error message names."""


def list_keys(keys: list[str]) -> str:
    """The first few of many names, sorted, for an error message."""
    named = ", ".join(sorted(keys)[:NAMED_KEYS])
    return named if len(keys) <= NAMED_KEYS else f"{named} and {len(keys) - NAMED_KEYS} more"


def check_loading_info(info: dict[str, Any], folder: Path) -> None:
    """Raise ``UserError`` unless what ``from_pretrained(output_loading_info=True)`` tells is a complete, exact match."""
    faults = [
        (f"lacks {list_keys(list(info['missing_keys']))}", info["missing_keys"]),
        (f"has {list_keys(list(info['unexpected_keys']))}, which this model does not know", info["unexpected_keys"]),
        (
            f"holds another shape of {list_keys([str(item[0]) for item in info['mismatched_keys']])}",
            info["mismatched_keys"],
        ),
    ]
    found = [what for what, keys in faults if keys]
    if found:
        raise UserError(
            f"The weights in {folder.name!r} do not fit: the file {'; it '.join(found)}; use a checkpoint made for this scale."
        )


def load_strictly(model_class: Any, folder: Path, dtype: torch.dtype | None = None, surplus_allowed: tuple[str, ...] = ()) -> Any:
    """Load a diffusers or transformers model from a local folder, refusing pickles and every missing or surplus tensor.

    ``surplus_allowed``: endings of names that old files hold beyond need (computed tables). Raises ``UserError`` that names the
    folder (base name) and the tensors at fault.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"There is no model in {folder.name!r}: its config.json is missing; make the checkpoint anew.")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"There are no safetensors weights in {folder.name!r}; other formats can run code and are refused.")
    named = {} if dtype is None else {"torch_dtype" if issubclass(model_class, ModelMixin) else "dtype": dtype}
    load = super(StrictModel, model_class).from_pretrained if issubclass(model_class, StrictModel) else model_class.from_pretrained
    try:
        model, info = load(str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, **named)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"The model in {folder.name!r} cannot be read ({_first_line(error)}); make the checkpoint anew.") from error
    surplus = [key for key in info["unexpected_keys"] if not key.endswith(surplus_allowed or ("\0",))]
    check_loading_info({**info, "unexpected_keys": surplus}, folder)
    _own_memory(model)
    return model.eval()


def _own_memory(model: torch.nn.Module) -> None:
    """Copy every tensor out of the mapped file: it may change afterwards, and aligned memory gives the same sums every time."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


class StrictModel(ModelMixin, ConfigMixin):
    """A diffusers model that is saved as safetensors alone and loaded from a local folder, all of its tensors or none."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, torch_dtype: torch.dtype | None = None) -> Self:
        """Load from a local folder. Raises ``UserError`` for missing, surplus or misshapen tensors, by name."""
        model: Self = load_strictly(cls, Path(folder), torch_dtype)
        return model

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As every torch module: nothing here must stay in single precision, of which the parent would warn."""
        moved: Self = torch.nn.Module.to(self, *args, **kwargs)
        return moved

    def save_pretrained(self, folder: str | Path, max_shard_size: int | str = "10GB") -> None:
        """Write ``config.json`` and safetensors into ``folder``."""
        super().save_pretrained(str(folder), safe_serialization=True, max_shard_size=max_shard_size)


def zero_module(module: torch.nn.Module) -> torch.nn.Module:
    """Set every parameter to 0, as the additions to a pretrained network start (ControlNet, Zhang et al. 2023)."""
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module


def set_trainable(module: torch.nn.Module, is_trainable: bool) -> None:
    """Let every parameter of ``module`` be trained, or none."""
    for parameter in module.parameters():
        parameter.requires_grad_(is_trainable)
