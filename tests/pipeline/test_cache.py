from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import ArtifactCache, content_key

KEYS = [content_key("entry", number) for number in range(8)]


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "artifacts")


def block(value: int, kilobytes: int = 10) -> np.ndarray:
    return np.full(kilobytes * 1024, value, np.uint8)


def age(cache: ArtifactCache, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.folder / f"{key}.npz", (then, then))


def test_round_trip_keeps_names_dtypes_and_values(cache: ArtifactCache) -> None:
    arrays = {"image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "alpha": np.float32([[0.25]]), "note": np.array("wörter")}
    cache.store(KEYS[0], **arrays)
    loaded = cache.load(KEYS[0])
    assert loaded is not None and loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_missing_is_none_and_makes_no_folder(cache: ArtifactCache) -> None:
    assert cache.load(KEYS[0]) is None
    assert not cache.folder.exists()


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "A" * 64, "g" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_key_is_never_a_path(cache: ArtifactCache, key: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        cache.load(key)


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, max_bytes=35_000)
    for number in range(3):
        cache.store(KEYS[number], data=block(number))
        age(cache, KEYS[number], 100 - number)
    assert cache.load(KEYS[0]) is not None  # now the most recently used
    cache.store(KEYS[3], data=block(3))
    assert [cache.load(KEYS[number]) is not None for number in range(4)] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 35_000


def test_too_big_an_artefact_is_not_kept_and_evicts_nothing(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, max_bytes=30_000)
    cache.store(KEYS[0], data=block(0))
    cache.store(KEYS[1], data=block(1, 40))
    assert cache.load(KEYS[0]) is not None and cache.load(KEYS[1]) is None


def test_old_entries_go(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, max_age_s=60)
    for number in range(3):
        cache.store(KEYS[number], data=block(number))
    age(cache, KEYS[0], 61)
    age(cache, KEYS[1], 61)
    assert cache.load(KEYS[0]) is None
    cache.store(KEYS[3], data=block(3))
    assert {path.stem for path in tmp_path.iterdir()} == {KEYS[2], KEYS[3]}


@pytest.mark.parametrize("content", [b"", b"not an archive", "cut", "flipped"])
def test_a_damaged_entry_is_missing_and_removed(cache: ArtifactCache, content: bytes | str) -> None:
    cache.store(KEYS[0], data=block(7))
    path = cache.folder / f"{KEYS[0]}.npz"
    whole = path.read_bytes()
    if content == "cut":
        content = whole[: len(whole) // 2]
    elif content == "flipped":
        content = whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:]
    path.write_bytes(content)  # type: ignore[arg-type]
    assert cache.load(KEYS[0]) is None
    assert not path.exists()


def test_nothing_is_unpickled(cache: ArtifactCache) -> None:
    cache.folder.mkdir()
    np.savez(cache.folder / f"{KEYS[0]}.npz", data=np.array([{"a": 1}], dtype=object))
    assert cache.load(KEYS[0]) is None


def test_a_full_disk_is_no_error(cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, **arrays: object) -> None:
        file.write(b"half an archive")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    cache.store(KEYS[0], data=block(1))
    assert list(cache.folder.iterdir()) == []
    assert cache.load(KEYS[0]) is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ArtifactCache(tmp_path / "file" / "artifacts")
    cache.store(KEYS[0], data=block(1))
    assert cache.load(KEYS[0]) is None


def test_leftovers_of_crashes_go(cache: ArtifactCache) -> None:
    cache.store(KEYS[0], data=block(0))
    old, young = cache.folder / ".partial-old", cache.folder / ".partial-young"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.store(KEYS[1], data=block(1))
    assert not old.exists() and young.exists()


def test_threads_never_see_half_an_entry(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, max_bytes=200_000)
    faults: list[object] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(40):
            number = int(random.integers(len(KEYS)))
            loaded = cache.load(KEYS[number])
            if loaded is not None and not (loaded["data"] == number).all():
                faults.append(number)
            cache.store(KEYS[number], data=block(number, 20))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200_000


def test_another_process_shares_it(cache: ArtifactCache) -> None:
    code = (
        "import sys, numpy as np; from pipeline.cache import ArtifactCache\n"
        "ArtifactCache(sys.argv[1]).store(sys.argv[2], data=np.arange(5))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(cache.folder), KEYS[0]], check=True, cwd=root)
    loaded = cache.load(KEYS[0])
    assert loaded is not None and loaded["data"].tolist() == [0, 1, 2, 3, 4]


def test_keys_tell_everything_apart() -> None:
    zeros = np.zeros(4, np.uint8)
    parts: list[tuple] = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (b"abc",),
        (1,),
        (1.0,),
        (True,),
        ("1",),
        (None,),
        (),
        ((), ()),
        ((1, 2), 3),
        (1, (2, 3)),
        (zeros,),
        (zeros.reshape(2, 2),),
        (zeros.view(np.int8),),
        (zeros.view(np.uint32),),
        (zeros + 1,),
        (np.zeros((0, 3)),),
    ]
    keys = {content_key(*each) for each in parts}
    assert len(keys) == len(parts) == 19
    assert all(len(key) == 64 for key in keys)


def test_keys_depend_on_content_alone() -> None:
    image = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert content_key(image) == content_key(image.copy(order="F")) == content_key(np.pad(image, 2)[2:-2, 2:-2])


def test_keys_refuse_what_has_no_content() -> None:
    for part in ({"a": 1}, object(), np.array([object()])):
        with pytest.raises(TypeError):
            content_key(part)  # type: ignore[arg-type]
