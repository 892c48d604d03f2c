"""Takes: what is kept, what makes room, and what lies on the disk."""

import json

import pytest

from editor.storage import WorkStore
from editor.takes import (
    MAX_NAME_CHARS,
    MAX_STARRED,
    MAX_TAKES,
    Recipe,
    Take,
    TakeList,
    TakeShelf,
    add_take,
    choose_surplus,
    compare_with,
    delete_take,
    rename_take,
    show_take,
    star_take,
)
from pipeline.errors import UserError


def take_of(number, clip="a" * 64):
    return Take(f"{number:032x}", "", 1000.0 + number, "d" * 64, "Composite, seed 0", (0, 10), "street.mp4", clip)


def list_of(count):
    takes = TakeList()
    for number in range(1, count + 1):
        takes = add_take(takes, take_of(number))
    return takes


def key_of(number):
    return f"{number:032x}"


def test_a_new_take_is_shown_and_numbered_and_the_same_render_is_no_second_take():
    takes = list_of(2)
    assert [take.name for take in takes.takes] == ["Take 1", "Take 2"] and takes.shown == key_of(2)
    again = add_take(takes, take_of(1))
    assert len(again.takes) == 2 and again.shown == key_of(1)
    assert add_take(delete_take(takes, key_of(2)), take_of(3)).takes[-1].name == "Take 3", "numbers are not used twice"


def test_comparing_never_puts_one_take_on_both_sides():
    takes = compare_with(list_of(3), key_of(1))
    assert (takes.shown, takes.against) == (key_of(3), key_of(1))
    assert show_take(takes, key_of(2)).against == key_of(1)
    assert show_take(takes, key_of(1)).against is None
    assert compare_with(takes, None).against is None
    with pytest.raises(UserError):
        compare_with(takes, key_of(3))


def test_takes_of_two_clips_are_not_compared():
    takes = add_take(list_of(1), take_of(2, clip="b" * 64))
    with pytest.raises(UserError, match="same video"):
        compare_with(takes, key_of(1))
    takes = compare_with(add_take(list_of(2), take_of(3)), key_of(1))
    assert add_take(takes, take_of(4, clip="b" * 64)).against is None


def test_names_are_one_line_of_some_length():
    takes = rename_take(list_of(1), key_of(1), "  night\n, warm ")
    assert takes.takes[0].name == "night, warm"
    for name in ("", " \n", "x" * (MAX_NAME_CHARS + 1), None, 7, ["a"]):
        with pytest.raises(UserError):
            rename_take(takes, key_of(1), name)


def test_deleting_shows_the_newest_of_the_others():
    takes = delete_take(compare_with(list_of(3), key_of(2)), key_of(3))
    assert (takes.shown, takes.against) == (key_of(2), None)
    assert delete_take(list_of(1), key_of(1)) == TakeList(num_made=1)
    for key in (key_of(9), None, ["x"], {}):
        with pytest.raises(UserError, match="no longer here"):
            delete_take(takes, key)


def test_the_oldest_without_a_star_make_room():
    takes = star_take(list_of(MAX_TAKES + 2), key_of(1), True)
    assert choose_surplus(takes, {}, 10**9) == [key_of(2), key_of(3)]
    takes = star_take(list_of(4), key_of(2), True)
    sizes = {take.key: 100 for take in takes.takes}
    assert choose_surplus(takes, sizes, 400) == []
    assert choose_surplus(takes, sizes, 250) == [key_of(1), key_of(3)]
    assert choose_surplus(takes, sizes, 1) == [key_of(1), key_of(3), key_of(2)], "the newest one always stays"


def test_only_so_many_stars():
    takes = list_of(MAX_TAKES)
    for number in range(1, MAX_STARRED + 1):
        takes = star_take(takes, key_of(number), True)
    assert star_take(takes, key_of(1), True) == takes
    with pytest.raises(UserError, match="star"):
        star_take(takes, key_of(MAX_STARRED + 1), True)
    assert not star_take(takes, key_of(1), False).takes[0].is_starred


# -- on the disk ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return WorkStore(tmp_path / "visitors")


@pytest.fixture
def token(store):
    return store.issue()


def keep(shelf, store, token, number, size=100):
    """A take with a video of ``size`` bytes."""
    (store.results(token) / f"{key_of(number)}.mp4").write_bytes(b"v" * size)
    (store.results(token) / f"{key_of(number)}.mkv").write_bytes(b"")
    shelf.write_recipe(token, key_of(number), Recipe('{"n": 1}', ((0, 10, '{"n": 1}'),)))
    return shelf.change(token, lambda takes: add_take(takes, take_of(number)))


def test_takes_come_back_from_the_disk_as_they_were(store, token):
    shelf = TakeShelf(store, 10**6)
    keep(shelf, store, token, 1)
    takes = shelf.change(token, lambda takes: star_take(takes, key_of(1), True))
    assert TakeShelf(store, 10**6).load(token) == takes
    assert shelf.read_recipe(token, key_of(1)) == Recipe('{"n": 1}', ((0, 10, '{"n": 1}'),))
    assert json.loads((store.folder(token) / "takes" / "takes.json").read_text())["shown"] == key_of(1)


def test_files_go_with_their_takes(store, token):
    shelf = TakeShelf(store, max_bytes=400)
    for number in (1, 2):
        keep(shelf, store, token, number)
    shelf.pack(token, key_of(1)).write_bytes(b"zip")
    shelf.change(token, lambda takes: delete_take(takes, key_of(1)))
    assert {path.stem for path in store.results(token).iterdir()} == {key_of(2)}
    assert not shelf.pack(token, key_of(1)).exists()
    takes = keep(shelf, store, token, 3, size=250)
    assert [take.key for take in takes.takes] == [key_of(3)], "bytes are bounded too"
    assert {path.stem for path in store.results(token).iterdir()} == {key_of(3)}


def test_a_take_whose_video_is_gone_is_gone(store, token):
    shelf = TakeShelf(store, 10**6)
    for number in (1, 2):
        keep(shelf, store, token, number)
    (store.results(token) / f"{key_of(2)}.mp4").unlink()
    takes = shelf.load(token)
    assert [take.key for take in takes.takes] == [key_of(1)] and takes.shown == key_of(1)


def test_keys_are_never_paths(store, token):
    shelf = TakeShelf(store, 10**6)
    for key in ("../session", "*", ""):
        with pytest.raises(ValueError, match="hexadecimal"):
            shelf.change(token, lambda takes, key=key: add_take(takes, Take(key, "", 0, "", "", (0, 1), "a", "b")))


def test_a_stranger_has_no_takes(store):
    for token in ("x" * 43, None, "../..", 7):
        with pytest.raises(UserError):
            TakeShelf(store, 1).load(token)
