"""Finding weights without the network, and fetching them whole or not at all."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.media import file_sha256
from pipeline.segmentation import weights
from pipeline.segmentation.weights import CONFIG_NAME, SAM2_MODELS, WEIGHTS_NAME, fetch_weights, find_weights

TINY = "sam2.1-hiera-tiny"


def fill(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text("{}")
    (folder / WEIGHTS_NAME).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes = b"weights", error: Exception | None = None) -> list[dict]:
    """Let the hub's client "download" ``content``, or fail after a part of it."""
    asked = []

    def download(repository: str, *, revision: str, allow_patterns: list[str], local_dir: Path) -> str:
        asked.append({"repository": repository, "revision": revision, "patterns": allow_patterns})
        (local_dir / ".cache").mkdir()
        (local_dir / CONFIG_NAME).write_text("{}")
        if error is not None:
            raise error
        (local_dir / WEIGHTS_NAME).write_bytes(content)
        return str(local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def pin(monkeypatch: pytest.MonkeyPatch, folder: Path, content: bytes = b"weights") -> None:
    """Pretend that ``content`` is what was published."""
    sha256 = file_sha256(fill(folder / "pinned", content) / WEIGHTS_NAME)
    monkeypatch.setattr(weights, "SAM2_MODELS", {**SAM2_MODELS, TINY: replace(SAM2_MODELS[TINY], sha256=sha256)})


def test_the_largest_that_is_there_is_found(tmp_path):
    assert find_weights(None, tmp_path) is None and find_weights(TINY, tmp_path) is None and find_weights() is None
    tiny = fill(tmp_path / TINY)
    assert find_weights(None, tmp_path) == tiny
    base = fill(tmp_path / "sam2.1-hiera-base-plus")
    assert find_weights(None, tmp_path) == base and find_weights(TINY, tmp_path) == tiny
    assert find_weights(f"facebook/{TINY}", tmp_path) == tiny
    assert find_weights(tiny) == tiny and find_weights(tmp_path) is None
    (base / WEIGHTS_NAME).unlink()
    assert find_weights(None, tmp_path) == tiny, "half a model is none"


def test_the_hubs_cache_is_looked_through_at_the_pinned_commit(hub):
    published = SAM2_MODELS[TINY]
    repository = hub / "models--facebook--sam2.1-hiera-tiny"
    snapshot = fill(repository / "snapshots" / published.revision)
    assert find_weights() == snapshot
    snapshot.rename(snapshot.with_name("0" * 40))
    assert find_weights() is None, "another commit is another model"


def test_fetching_puts_config_and_safetensors_where_they_are_looked_for(tmp_path, monkeypatch):
    pin(monkeypatch, tmp_path)
    asked = serve(monkeypatch)
    folder = fetch_weights(TINY, tmp_path / "checkpoints")
    assert find_weights(None, tmp_path / "checkpoints") == folder
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]
    revision = SAM2_MODELS[TINY].revision
    assert asked == [{"repository": f"facebook/{TINY}", "revision": revision, "patterns": [CONFIG_NAME, WEIGHTS_NAME]}]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [TINY]
    fetch_weights(TINY, tmp_path / "checkpoints")
    assert len(asked) == 1, "what is there is not fetched again"
    (folder / WEIGHTS_NAME).unlink()
    (folder / "notes.txt").write_text("mine")
    fetch_weights(TINY, tmp_path / "checkpoints")
    assert find_weights(TINY, tmp_path / "checkpoints") == folder and (folder / "notes.txt").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionError("no route"), "hub cannot be reached"),
        (RuntimeError("anything of the client's"), "hub cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
    ],
)
def test_a_failed_fetch_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, error, says):
    serve(monkeypatch, error=error)
    with pytest.raises(UserError, match=says):
        fetch_weights(TINY, tmp_path / "checkpoints")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_something_else_than_was_published_is_refused(tmp_path, monkeypatch):
    serve(monkeypatch, b"something else")
    with pytest.raises(UserError, match="not what was published"):
        fetch_weights(TINY, tmp_path / "checkpoints")
    assert find_weights(None, tmp_path / "checkpoints") is None and list((tmp_path / "checkpoints").iterdir()) == []


def test_an_unknown_name_lists_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"sam2\.1-hiera-large"):
        fetch_weights("sam3", tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="'file' cannot be written to"):
        fetch_weights(TINY, tmp_path / "file")
