"""Where SAM 2.1's weights lie, looked for without the network, and how they are fetched. Importing this loads nothing heavy."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"

FETCH_COMMAND = "python -m pipeline fetch-models"

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """Weights on the hub: the commit that is meant, the file's size and SHA-256, and how good it is in a few words."""

    repository: str
    revision: str
    num_bytes: int
    sha256: str
    remark: str


SAM2_MODELS: Mapping[str, PublishedModel] = {
    "sam2.1-hiera-tiny": PublishedModel(
        "facebook/sam2.1-hiera-tiny",
        "de431c4043854a71d8101e17995dfe596bf101a5",
        155_908_064,
        "48c14467e5cf9e51870511feb72c89688e82dd74523142c0538b663e193ac2a7",
        "the fastest, for the CPU too",
    ),
    "sam2.1-hiera-small": PublishedModel(
        "facebook/sam2.1-hiera-small",
        "ee5bba1d82bb8749febdf90f45e84b687142ba03",
        184_305_280,
        "0a4067b11ce1e23d5229203f11c718a823060d15a4b23fa2372a7d4b77cbbc60",
        "a little better",
    ),
    "sam2.1-hiera-base-plus": PublishedModel(
        "facebook/sam2.1-hiera-base-plus",
        "b7320756a13354e7530a63935656d35b2f91a290",
        323_476_296,
        "2012733a0de5d03efd1bba550a2847c4551be9ef2e0d497c83074df66189f780",
        "for a GPU",
    ),
    "sam2.1-hiera-large": PublishedModel(
        "facebook/sam2.1-hiera-large",
        "665f8e2ad61cf5f53d65644ff27c8ee525124610",
        897_897_416,
        "dc407dce21301fd94abb395c5099b4f2c455fdc8a8f261ac3d0ea6d4cd197230",
        "the best, for a GPU",
    ),
}
"""By name, the smallest first."""


def find_weights(model: str | Path | None = None, folder: Path | None = None) -> Path | None:
    """The local folder with the weights of ``model``, or None: a folder itself, or one of ``SAM2_MODELS`` in ``folder`` or in the
    hub's own cache. Without a ``model`` the largest that is there. Never touches the network."""
    if model is None:
        found = (find_weights(name, folder) for name in reversed(tuple(SAM2_MODELS)))
        return next((path for path in found if path is not None), None)
    name = str(model).rpartition("/")[2] if str(model).startswith("facebook/") else str(model)
    if name in SAM2_MODELS:
        inside = None if folder is None else folder / name
        return inside if inside is not None and is_model(inside) else _find_in_hub_cache(SAM2_MODELS[name])
    return Path(model) if is_model(Path(model)) else None


def is_model(folder: Path) -> bool:
    """Whether a folder holds what a model needs."""
    return (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()


def own_size(folder: Path) -> int:
    """Side, in pixels, of the input that the weights in ``folder`` were trained at. Raises ``UserError``."""
    try:
        size = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("image_size", 1024)
    except (OSError, ValueError, AttributeError):
        raise UserError(f"The {CONFIG_NAME} in {folder.name!r} cannot be read; fetch the SAM 2.1 weights again.") from None
    return size if isinstance(size, int) else 0


def _find_in_hub_cache(published: PublishedModel) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = [
        try_to_load_from_cache(published.repository, name, revision=published.revision) for name in (CONFIG_NAME, WEIGHTS_NAME)
    ]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent if len(paths) == 2 else None


def fetch_weights(name: str, folder: Path) -> Path:
    """Download one of ``SAM2_MODELS`` into ``folder``/``name``, checked against its SHA-256; what is there already is kept.

    What did not come whole leaves nothing behind. Raises ``UserError`` in one sentence without a network, or room on the disk.
    """
    if name not in SAM2_MODELS:
        raise UserError(f"There is no model {name!r} to fetch; choose one of {', '.join(SAM2_MODELS)}.")
    target = folder / name
    if is_model(target):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))
    except OSError as error:
        raise UserError(f"The folder {folder.name!r} cannot be written to ({os.strerror(error.errno or 0)}).") from error
    try:
        _download(SAM2_MODELS[name], unfinished)
        _check(SAM2_MODELS[name], unfinished)
        target.mkdir(exist_ok=True)
        for file_name in (CONFIG_NAME, WEIGHTS_NAME):
            (unfinished / file_name).replace(target / file_name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _download(published: PublishedModel, folder: Path) -> None:
    """Configuration and safetensors at the pinned commit, nothing else: no pickles, no code."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError("Fetching models needs huggingface_hub; install it with 'pip install -r requirements.txt'.") from None
    try:
        snapshot_download(
            published.repository, revision=published.revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME], local_dir=folder
        )
    except Exception as error:  # the hub's client raises whatever its HTTP library raises
        number = error.errno if isinstance(error, OSError) else None
        if number in _DISK_FAULTS:
            raise UserError(f"{published.repository} cannot be written ({os.strerror(number)}); free some space.") from error
        raise UserError(
            f"{published.repository} could not be fetched because the hub cannot be reached; connect this machine to the network "
            f"and run '{FETCH_COMMAND}' again."
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _check(published: PublishedModel, folder: Path) -> None:
    from ..media import file_sha256

    if not is_model(folder) or file_sha256(folder / WEIGHTS_NAME) != published.sha256:
        raise UserError(f"What came for {published.repository} is not what was published; run '{FETCH_COMMAND}' again.")
