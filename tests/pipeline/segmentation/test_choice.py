"""Which segmenter is at work: weights are looked for without the network, and what is missing is said in one sentence."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.segmentation import choice
from pipeline.segmentation.choice import SegmenterByName
from pipeline.segmentation.options import SegmenterOptions
from pipeline.segmentation.weights import SAM2_MODELS

from .tiny_sam2 import save_sam2


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection can be opened, and the hub's cache is empty."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_sam2(folder / "sam2.1-hiera-tiny")
    return folder


def make(device: str, checkpoints: Path | None, model: str | Path | None = None, input_size: int | None = None, name="auto"):
    options = SegmenterOptions(name, None if model is None else str(model), input_size, device, checkpoints)
    return SegmenterByName(options)


class Fallback:
    name = "fallback"
    key = "fallback"


@pytest.fixture(autouse=True)
def fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_build_fallback", Fallback)


def test_auto_is_sam2_where_its_weights_are(checkpoints, tmp_path):
    there = make("cpu", checkpoints)
    assert there.resolve() == "sam2" and there.find("auto").name == "sam2"
    assert there.find("auto") is there.find("sam2") is there.find(), "built once"
    assert "SAM 2.1 (sam2.1-hiera-tiny, at 64 px)" in there.describe()
    absent = make("cpu", tmp_path / "nothing")
    assert absent.resolve() == "fallback" and absent.find("auto").name == "fallback"
    assert "python -m pipeline fetch-models" in absent.describe()
    assert there.find("fallback").name == "fallback"


def test_the_options_say_what_auto_is(checkpoints, tmp_path):
    plain = make("cpu", checkpoints, name="fallback")
    assert plain.find("auto").name == "fallback" and plain.find("sam2").name == "sam2", "a project may name its own"
    assert plain.describe() == "The built-in segmenter, which needs no download, finds and follows what you click."
    absent = make("cpu", tmp_path / "nothing", name="sam2")
    with pytest.raises(UserError, match="no weights"):
        absent.find("auto")
    assert "SAM 2.1 is to find what you click, but it is not here yet; run 'python -m" in absent.describe()


def test_weights_that_arrive_later_are_found(tmp_path):
    found = make("cpu", tmp_path)
    assert found.find("auto").name == "fallback"
    save_sam2(tmp_path / "sam2.1-hiera-small")
    assert found.find("auto").name == "sam2"


def test_sam2_without_weights_names_the_command_that_fetches_them(tmp_path):
    with pytest.raises(UserError, match="python -m pipeline fetch-models"):
        make("cpu", tmp_path).find("sam2")


def test_a_named_model_that_cannot_be_fetched_is_one_sentence(tmp_path, monkeypatch):
    def download(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route")  # after the client's own patience, some twenty seconds

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name in ("sam2.1-hiera-small", "facebook/sam2.1-hiera-small"):
        with pytest.raises(UserError, match=r"hub cannot be reached; .*fetch-models"):
            make("cpu", tmp_path, model=name).find("sam2")
        assert make("cpu", tmp_path, model=name).find("auto").name == "fallback", "auto never downloads"
    assert list(tmp_path.glob("*")) == [], "nothing is left of the attempt"


def test_a_local_folder_and_an_input_size_are_taken(checkpoints):
    folder = checkpoints / "sam2.1-hiera-tiny"
    found = make("cpu", None, model=folder, input_size=96)
    assert found.find("sam2").input_size == 96
    assert "at 96 px" in found.describe()
    with pytest.raises(UserError, match="no weights"):
        make("cpu", None, model=checkpoints / "nothing").find("sam2")


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="use auto or sam2 or fallback"):
        make("cpu", tmp_path).find("sam3")


def test_without_the_libraries_sam2_says_what_to_install(checkpoints, monkeypatch):
    monkeypatch.setattr(choice, "NEEDED", ("torch", "no_such_library"))
    found = make("cpu", checkpoints)
    assert found.find("auto").name == "fallback"
    assert "install no_such_library" in found.describe()
    with pytest.raises(UserError, match="needs no_such_library"):
        found.find("sam2")


def test_a_device_that_is_not_there_is_refused(checkpoints):
    with pytest.raises(UserError, match="no device 'cuda:7'"):
        make("cuda:7", checkpoints).find("sam2")


def test_published_models_are_pinned():
    assert len(SAM2_MODELS) == 4
    for name, each in SAM2_MODELS.items():
        assert each.repository == f"facebook/{name}" and len(each.revision) == 40 and len(each.sha256) == 64
        assert set(each.revision + each.sha256) <= set("0123456789abcdef")
    sizes = [each.num_bytes for each in SAM2_MODELS.values()]
    assert sizes == sorted(sizes), "the smallest first"
