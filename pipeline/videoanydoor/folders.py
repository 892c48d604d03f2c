"""Where checkpoints lie: each is a folder with a ``model_index.json``. Importing this loads nothing heavy."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError

DEFAULT_FOLDER = Path("checkpoints")
"""Where the command line looks for checkpoints when nothing is named."""

INIT_COMMAND = "python -m pipeline videoanydoor init --scale nano -o checkpoints/nano"
"""Makes a checkpoint anywhere, from nothing. What is made of published weights needs a commit that the person must look up."""
NO_CHECKPOINT = (
    f"There is no VideoAnydoor checkpoint yet; make one with '{INIT_COMMAND}' (tiny, untrained) or of published weights as "
    "docs/videoanydoor.md says, and train it as docs/training.md says; until then use the compositor."
)
"""What a person without a checkpoint is told."""


def list_checkpoints(folder: Path | None) -> list[Path]:
    """The checkpoints in a folder, by name; none where there is no folder."""
    return sorted(path.parent for path in folder.glob("*/model_index.json")) if folder is not None and folder.is_dir() else []


def find_checkpoint(folder: Path | None, name: str | None) -> Path:
    """The checkpoint ``name`` in ``folder``; without a name the only one there. Raises ``UserError`` that says how to get one."""
    found = list_checkpoints(folder)
    if not found:
        raise UserError(NO_CHECKPOINT)
    names = ", ".join(repr(path.name) for path in found)
    if name is None:
        if len(found) > 1:
            raise UserError(f"There are several checkpoints; name one of {names} as the engine's checkpoint.")
        return found[0]
    for path in found:
        if path.name == name:
            return path
    raise UserError(f"There is no checkpoint {Path(name).name!r}; use one of {names}.")


def locate_checkpoint(named: str | None, root: Path, folder: Path = DEFAULT_FOLDER) -> Path:
    """The checkpoint that a project file or a person on the command line names: a path, relative ones from ``root``, or the name
    of one in ``folder``; None is the only one there. Raises ``UserError`` that says how to get one."""
    if named is not None and (root / named / "model_index.json").is_file():
        return (root / named).resolve()
    return find_checkpoint(folder, None if named is None else Path(named).name).resolve()
