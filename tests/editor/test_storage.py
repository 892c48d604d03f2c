"""Visitors never mix, forged tokens open nothing, and disk space comes back."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editor import session as steps
from editor.session import EditSession
from editor.storage import WorkStore, is_token, measure_bytes, remove_unused, safe_name
from pipeline.errors import UserError


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    return WorkStore(tmp_path / "visitors", time_to_live_s=100, max_bytes=10_000, max_visitor_bytes=5_000, clock=clock)


@pytest.fixture
def upload(tmp_path):
    def make(name: str, size: int = 100, fill: bytes = b"x"):
        path = tmp_path / "uploads" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(fill * size)
        return path

    return make


def test_two_visitors_with_the_same_file_name_keep_their_own_bytes(store, upload):
    one, two = store.issue(), store.issue()
    store.add_file(one, upload("clip.mp4", fill=b"1"))
    store.add_file(two, upload("clip.mp4", fill=b"2"))
    assert (store.files(one) / "clip.mp4").read_bytes()[:1] == b"1"
    assert (store.files(two) / "clip.mp4").read_bytes()[:1] == b"2"
    store.delete(one)
    assert (store.files(two) / "clip.mp4").exists()


def test_tokens_are_long_random_and_their_folders_private(store):
    tokens = {store.issue() for _ in range(20)}
    assert len(tokens) == 20 and all(is_token(token) for token in tokens)
    assert all(len(token) == 43 for token in tokens), "256 bits in base 64"
    assert {os.stat(store.folder(token)).st_mode & 0o777 for token in tokens} == {0o700}


FORGED = [
    None,
    7,
    "",
    "..",
    "../x",
    "a" * 42,
    "a" * 44,
    "/" + "a" * 42,
    "a" * 43,
    "a" * 42 + "\n",
    "a" * 43 + "\n",
    "é" * 43,
    ["a" * 43],
    b"a" * 43,
]


@pytest.mark.parametrize("token", FORGED)
def test_forged_tokens_open_nothing(store, upload, token):
    store.issue()
    for use in (
        store.folder,
        store.files,
        store.load,
        lambda t: store.add_file(t, upload("a.png")),
        lambda t: store.save(t, EditSession()),
    ):
        with pytest.raises(UserError):
            use(token)
    store.delete(token)
    assert len(list(store.root.iterdir())) == 1


@given(st.text())
def test_only_43_plain_characters_are_a_token(text):
    assert not is_token(text) or (len(text) == 43 and text.isascii() and all(c.isalnum() or c in "-_" for c in text))


def test_a_link_with_a_tokens_name_is_no_folder(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (store.root / ("b" * 43)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError):
        store.folder("b" * 43)
    store.sweep()
    assert (tmp_path / "elsewhere").exists()


@given(st.text(min_size=1, max_size=300))
def test_safe_names_stay_in_their_folder(name):
    try:
        kept = safe_name(name)
    except UserError:
        return
    assert kept not in ("", ".", "..") and not kept.startswith(".") and len(kept.encode()) <= 140
    assert not set(kept) & set('/\\:*?"<>|\0\n') and os.path.basename(kept) == kept


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\my clip.MP4", "my clip.MP4"),
        (".bashrc", "bashrc"),
        ("straße (1).mov", "straße (1).mov"),
    ],
)
def test_safe_names_of_known_kinds(name, kept):
    assert safe_name(name) == kept


def test_a_session_comes_back_as_it_was(store):
    token = store.issue()
    assert store.load(token) == EditSession()
    session = steps.set_clip(steps.set_clip(EditSession(), "a.mp4", "a" * 64), "b.mp4", "b" * 64)
    session = steps.undo(session)
    assert session.past and session.future
    store.save(token, session)
    assert store.load(token) == session
    assert [path.name for path in store.folder(token).iterdir() if path.is_file()] == ["session.json"]


def test_what_nobody_uses_goes_and_what_is_used_stays(store, clock):
    old, used, busy = store.issue(), store.issue(), store.issue()
    with store.using(busy):
        clock.now += 90
        store.save(used, EditSession())
        clock.now += 20
        assert store.sweep() == [old]
        assert store.folder(used) and store.folder(busy)
    with pytest.raises(UserError, match="reload"):
        store.load(old)


def test_when_space_runs_out_the_longest_unused_goes_first(store, clock, upload):
    tokens = []
    for _ in range(3):
        tokens.append(store.issue())
        store.add_file(tokens[-1], upload("a.bin", 4_500))
        clock.now += 1
    assert store.sweep() == [tokens[0]]
    assert measure_bytes(store.root) <= 10_000


def test_a_visitor_has_a_share_of_the_disk(store, upload):
    token = store.issue()
    store.add_file(token, upload("a.bin", 3_000))
    with pytest.raises(UserError, match="space"):
        store.add_file(token, upload("b.bin", 3_000))
    assert [path.name for path in store.files(token).iterdir()] == ["a.bin"]


def test_files_never_replace_each_other(store, upload):
    token = store.issue()
    first = store.add_file(token, upload("cup.png", fill=b"1"))
    assert store.add_file(token, upload("cup.png", fill=b"1")) == ("cup.png", False)
    assert store.add_file(token, upload("cup.png", fill=b"2")) == ("cup-2.png", True)
    third = store.add_file(token, upload("cup.png", fill=b"3"))
    assert (first, third) == (("cup.png", True), ("cup-3.png", True))
    store.drop_file(token, third)
    store.drop_file(token, store.add_file(token, upload("cup.png", fill=b"1")))
    assert sorted(path.name for path in store.files(token).iterdir()) == ["cup-2.png", "cup.png"]


def test_the_sweep_touches_nothing_that_is_not_a_visitors_folder(store, clock):
    (store.root / "README").write_text("kept")
    (store.root / "not-a-token").mkdir()
    os.utime(store.root / "not-a-token", (0, 0))
    clock.now += 10_000
    assert store.sweep() == []
    assert (store.root / "README").exists() and (store.root / "not-a-token").exists()


def test_what_was_served_goes_with_time(tmp_path):
    for name, age_s in (("old", 500), ("new", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inserted.mp4").write_bytes(b"x")
        os.utime(tmp_path / name, (1_000_000 - age_s,) * 2)
    remove_unused(tmp_path, 100, 1_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_oldest_goes_when_what_was_served_is_too_much(tmp_path):
    for name, age_s in (("older", 90), ("old", 60), ("new", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inserted.mp4").write_bytes(b"x" * 1_000)
        os.utime(tmp_path / name, (1_000_000 - age_s,) * 2)
    remove_unused(tmp_path, 100, 1_000_000, max_bytes=2_500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_folder_that_is_deleted_while_in_use_goes_as_soon_as_it_is_free(store):
    token = store.issue()
    with store.using(token) as folder:
        store.delete(token)
        assert folder.is_dir(), "a render that is still running keeps its folder"
    assert not folder.exists()
