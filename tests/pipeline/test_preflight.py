"""The estimate before a render, and what it refuses."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import preflight as room
from pipeline.errors import UserError
from pipeline.media import probe_clip
from pipeline.preflight import available_memory_bytes, check_preview, plan_render
from pipeline.types import InsertionRequest

from ..tiny import make_clip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> InsertionRequest:
    return InsertionRequest(probe_clip(make_clip(tmp_path_factory.mktemp("preflight") / "clip.mp4")), (0, 12), ())


@pytest.fixture
def large(small: InsertionRequest) -> InsertionRequest:
    """A 4K clip of 1200 frames, by its numbers alone."""
    import numpy as np

    times = np.arange(1200, dtype=np.int64)
    clip = dataclasses.replace(small.clip, width=3840, height=2160, num_frames=1200, timestamps=times)
    return dataclasses.replace(small, clip=clip, frame_range=(0, 1200))


def with_memory(monkeypatch: pytest.MonkeyPatch, megabytes: float | None) -> None:
    monkeypatch.setattr(room, "available_memory_bytes", lambda: None if megabytes is None else int(megabytes * 1e6))


def with_disk(monkeypatch: pytest.MonkeyPatch, megabytes: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(megabytes * 1e6)))


def test_more_work_takes_more_of_everything(small, large, tmp_path, monkeypatch):
    with_memory(monkeypatch, None)
    with_disk(monkeypatch, 1e6)
    little, much = plan_render(small, tmp_path / "a.mp4"), plan_render(large, tmp_path / "a.mp4")
    assert little.seconds < 3 < much.seconds and little.output_bytes < 1e5 < much.output_bytes
    assert 1.5e8 < little.memory_bytes < 3e8 and 2.5e9 < much.memory_bytes < 4e9
    lossless = plan_render(large, tmp_path / "a.mkv", lossless=True)
    assert lossless.output_bytes > much.output_bytes and lossless.memory_bytes < much.memory_bytes
    layered = plan_render(large, tmp_path / "a.mp4", layer_alpha_path=tmp_path / "a.mov")
    assert layered.layer_bytes > 0 and layered.seconds > much.seconds and layered.memory_bytes > much.memory_bytes
    half = plan_render(dataclasses.replace(large, frame_range=(0, 600)), tmp_path / "a.mp4")
    assert half.output_bytes < much.output_bytes and half.memory_bytes == much.memory_bytes


def test_the_plan_is_one_readable_line(small, tmp_path):
    assert plan_render(small, tmp_path / "a.mp4").describe() == "12 frames of 96x64: about 2 s, 1 MB on disk, 202 MB of memory"


def test_memory_that_is_missing_is_said_with_what_would_fit(large, tmp_path, monkeypatch):
    layer = {"layer_alpha_path": tmp_path / "a.mov"}
    with_disk(monkeypatch, 1e6)
    for megabytes, options, advice in (
        (4000, layer, "without the layer of its own"),
        (2500, {}, "render lossless"),
        (1000, {}, "use a clip of at most "),
        (150, {}, "close other programs"),
    ):
        with_memory(monkeypatch, megabytes)
        with pytest.raises(UserError, match=advice):
            plan_render(large, tmp_path / "a.mp4", **options)
    with_memory(monkeypatch, 4000)
    plan_render(large, tmp_path / "a.mp4")


def test_the_size_that_is_advised_does_fit(large, tmp_path, monkeypatch):
    with_disk(monkeypatch, 1e6)
    with_memory(monkeypatch, 1000)
    with pytest.raises(UserError) as caught:
        plan_render(large, tmp_path / "a.mp4")
    width, height = map(int, str(caught.value).split("at most ")[1].split(",")[0].split("x"))
    plan_render(dataclasses.replace(large, clip=dataclasses.replace(large.clip, width=width, height=height)), tmp_path / "a.mp4")


def test_a_disk_that_is_too_full_is_said_with_what_would_fit(large, tmp_path, monkeypatch):
    with_memory(monkeypatch, None)
    with_disk(monkeypatch, 150)
    with pytest.raises(UserError, match=r"too full for 'a\.mp4'.*render at most \d+ frames") as caught:
        plan_render(large, tmp_path / "a.mp4")
    fitting = int(str(caught.value).split("at most ")[1].split()[0])
    plan_render(dataclasses.replace(large, frame_range=(0, fitting)), tmp_path / "a.mp4")
    with_disk(monkeypatch, 10)
    with pytest.raises(UserError, match="choose another folder"):
        plan_render(large, tmp_path / "a.mp4")


def test_two_files_on_one_disk_share_its_room(large, tmp_path, monkeypatch):
    with_memory(monkeypatch, None)
    plan = plan_render(large, tmp_path / "a.mp4", layer_alpha_path=tmp_path / "a.mov")
    room_mb = (max(plan.output_bytes, plan.layer_bytes) + room.DISK_RESERVE_BYTES) / 1e6 + 1
    with_disk(monkeypatch, room_mb)
    plan_render(large, tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"too full for 'a\.mov'"):
        plan_render(large, tmp_path / "a.mp4", layer_alpha_path=tmp_path / "a.mov")


def test_memory_is_read_from_the_system_and_from_the_container(tmp_path):
    available = available_memory_bytes()
    assert available is None or 1e6 < available < 1e14
    assert room._container_available(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\nactive_file 5\n")
    assert room._container_available(tmp_path) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert room._container_available(tmp_path) is None


def test_the_older_kind_of_container_is_read_too(tmp_path):
    folder: Path = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("2000000")
    (folder / "memory.usage_in_bytes").write_text("1500000")
    (folder / "memory.stat").write_text("total_inactive_file 100000\n")
    assert room._container_available(tmp_path) == 600_000


def test_a_preview_is_refused_only_when_not_even_one_frame_fits(large, monkeypatch):
    with_memory(monkeypatch, 1000)
    check_preview(large)
    with_memory(monkeypatch, 100)
    with pytest.raises(UserError, match="preview needs about 498 MB of memory and 100 MB are free"):
        check_preview(large)
