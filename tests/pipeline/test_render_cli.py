"""Many projects into a folder, in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli, processes
from pipeline.cli import DONE, INPUT_AT_FAULT, main

from .sample_project import DOCUMENT, NUM_FRAMES, changed, write_media

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Writes project files by name beside their clip and reference; their paths."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_media(tmp_path)

    def write(**documents: dict) -> list[str]:
        for name, document in documents.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(document))
        return [str(tmp_path / f"{name}.json") for name in documents]

    return write


def test_a_batch_renders_what_it_can_with_one_engine(projects, tmp_path, capsys, monkeypatch) -> None:
    built: list[str] = []
    build = cli.build_composite
    monkeypatch.setattr(cli, "ENGINES", {"composite": lambda *given: built.append("composite") or build(*given)})
    broken = changed(DOCUMENT, ("clip", "path", "missing.mp4"))
    paths = projects(one=DOCUMENT, broken=broken, two=DOCUMENT)
    output = tmp_path / "made" / "results"
    assert main(["batch", *paths, "-o", str(output), "--report", "--layer-alpha"]) == INPUT_AT_FAULT
    error = capsys.readouterr().err
    assert "broken.json is left out: " in error and "missing.mp4" in error
    assert error.splitlines()[-1].startswith("error: 1 of 3 projects could not be rendered (broken.json)")
    names = {path.name for path in output.iterdir()}
    assert names == {f"{name}{ending}" for name in ("one", "two") for ending in (".mp4", ".mov", ".report.json")}
    assert json.loads((output / "two.report.json").read_text())["frames"] == NUM_FRAMES
    assert (output / "one.mp4").read_bytes()[:64] == (output / "two.mp4").read_bytes()[:64]
    assert built == ["composite"]


def test_a_batch_at_fault_says_so_before_it_starts(projects, tmp_path, capsys) -> None:
    paths = projects(one=DOCUMENT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "one.json").write_text("{}")
    assert main(["batch", *paths, str(tmp_path / "other" / "one.json"), "-o", str(tmp_path / "out")]) == INPUT_AT_FAULT
    assert "Two projects are called 'one'" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["batch", *paths, "-o", str(tmp_path / "clip.mp4" / "out")]) == INPUT_AT_FAULT
    assert "'out' cannot be made" in capsys.readouterr().err


def test_two_processes_share_a_batch_and_wait_for_each_other(projects, tmp_path) -> None:
    broken = changed(DOCUMENT, ("clip", "path", "missing.mp4"))
    paths = projects(broken=broken, one=DOCUMENT, two=DOCUMENT)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pipeline", "batch"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *paths, "-o", str(tmp_path / "out")], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode != DONE and "1 of 3 projects could not be rendered (broken.json)" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one.mp4", "two.mp4"}
    assert "broken.json, 1 of 2" in done.stderr and "two.json, 1 of 1" in done.stderr


def test_every_process_has_a_device_of_its_own(monkeypatch) -> None:
    import torch
    from accelerate import PartialState

    assert processes.own_device("auto") == "auto"
    monkeypatch.setattr(processes, "_state", lambda: state)
    state = PartialState.__new__(PartialState)
    state.num_processes, state.local_process_index = 4, 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.own_device("auto") == "cuda:1" and processes.own_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert processes.own_device("auto") == "auto"
