"""The frame desk: the right pixels under unguessable addresses, bounded, and nobody sees another's."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from editor.canvas.frames import FRAME_MAX_PX, ByteStore, FrameDesk, encode_cutout, encode_jpeg, shown_size
from pipeline.media import FrameStore, probe_clip
from pipeline.types import Reference
from tests.editor.canvas.bench import make_reference
from tests.tiny import make_clip, paint_frame

HW = (64, 96)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", num_frames=12, hw=HW))


@pytest.fixture
def desk():
    made = FrameDesk(max_bytes=8 << 20)
    yield made
    made.close()


@pytest.fixture
def client(desk):
    with TestClient(Starlette(routes=desk.routes())) as made:
        yield made


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def test_a_frame_is_that_frame(desk, client, clip):
    key = desk.show_clip("alice", clip, FrameStore(clip))
    for index in (11, 0, 5):
        answer = client.get(f"/{key}/{index}.jpg")
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
        assert "private" in answer.headers["cache-control"] and answer.headers["x-content-type-options"] == "nosniff"
        shown = pixels(answer.content)
        errors = [np.abs(shown - paint_frame(other, HW)).mean() for other in range(12)]
        assert int(np.argmin(errors)) == index and errors[index] < 12
    assert pixels(client.get(f"/{key}/t3.jpg").content).shape == (64, 96, 3)


@pytest.mark.parametrize(
    "name",
    [
        "12.jpg",
        "-1.jpg",
        "01.jpg",
        "1.png",
        "1.jpg/x",
        "tt1.jpg",
        "999999999999.jpg",
        "..%2f..%2fetc%2fpasswd",
        "%00.jpg",
        "1.jpg%00",
        "t.jpg",
        "١.jpg",
    ],
)
def test_other_names_are_not_found(desk, client, clip, name):
    key = desk.show_clip("alice", clip, FrameStore(clip))
    assert client.get(f"/{key}/{name}").status_code == 404
    assert client.get(f"/{'A' * 32}/1.jpg").status_code == 404


def test_keys_are_long_random_one_for_each_visitor_and_withdrawn(desk, client, clip):
    frames = FrameStore(clip)
    one, two = desk.show_clip("alice", clip, frames), desk.show_clip("bob", clip, frames)
    assert one != two and len(one) == 32 and "alice" not in one
    assert desk.show_clip("alice", clip, frames) == one
    desk.forget("alice")
    assert client.get(f"/{one}/1.jpg").status_code == 404
    assert client.get(f"/{two}/1.jpg").status_code == 200
    assert desk.show_clip("alice", clip, frames) != one


def test_cutouts_have_their_own_addresses(desk, client, clip):
    reference = make_reference()
    key = desk.show_cutout("alice", "cup", reference)
    answer = client.get(f"/{key}.png")
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(shown[..., :3], reference.image) and np.array_equal(shown[..., 3] == 255, reference.alpha == 1)
    assert client.get(f"/{key}/0.jpg").status_code == 404
    assert client.get(f"/{desk.show_clip('alice', clip, FrameStore(clip))}.png").status_code == 404


def test_the_walk_fills_the_store_and_then_frames_come_from_there(desk, client, clip):
    class Broken(FrameStore):
        def frame(self, frame_index):
            raise AssertionError("asked although the store has it")

    key = desk.show_clip("alice", clip, Broken(clip))
    deadline = time.monotonic() + 10
    while len(desk.store) < 24 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(client.get(f"/{key}/{name}{index}.jpg").status_code == 200 for index in range(12) for name in ("", "t"))


def test_bytes_and_keys_are_bounded(clip):
    desk = FrameDesk(max_bytes=20_000, max_keys=3)
    keys = [desk.show_clip(f"visitor {index}", clip, FrameStore(clip)) for index in range(5)]
    for key in keys[-3:]:
        for index in range(12):
            assert desk.frame_jpeg(key, index) is not None
    assert desk.store.num_bytes <= 20_000
    assert [desk.frame_jpeg(key, 0) is None for key in keys] == [True, True, False, False, False]
    desk.close()
    assert desk.frame_jpeg(keys[-1], 0) is None


def test_a_clip_that_breaks_off_is_a_missing_picture_not_an_error(desk, client, clip, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(clip.path.read_bytes())
    broken = probe_clip(bad)
    bad.write_bytes(b"gone")
    key = desk.show_clip("alice", broken, FrameStore(broken))
    assert client.get(f"/{key}/3.jpg").status_code == 404


def test_the_byte_store_forgets_the_longest_unused():
    store = ByteStore(30)
    for name in "abc":
        store.put(name, b"x" * 10)
    store.find("a")
    store.put("d", b"x" * 10)
    assert [store.find(name) is not None for name in "abcd"] == [True, False, True, True]
    store.put("a", b"y" * 5)
    assert store.num_bytes == 25
    store.drop(lambda key: key in ("c", "d"))
    assert store.num_bytes == 5 and len(store) == 1


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1920, 1080), (1280, 720)), ((1080, 1920), (720, 1280)), ((640, 360), (640, 360)), ((4096, 100), (1280, 31))],
)
def test_frames_are_made_smaller_never_larger(size, shown):
    assert shown_size(*size, FRAME_MAX_PX) == shown
    image = np.zeros((size[1], size[0], 3), np.uint8)
    assert Image.open(io.BytesIO(encode_jpeg(image, FRAME_MAX_PX, 80))).size == shown


def test_large_cutouts_are_made_smaller():
    reference = Reference(np.zeros((2400, 1200, 3), np.uint8), np.ones((2400, 1200), np.float32))
    assert Image.open(io.BytesIO(encode_cutout(reference))).size == (512, 1024)
