"""Results without a browser: takes of real renders, a range rendered anew, the pack, settings reused, and what is refused."""

import copy
import json
import zipfile

import numpy as np
import pytest

from editor import session as steps
from editor.canvas.frames import FrameDesk
from editor.result.room import NOTHING_YET, Outcome, ResultRoom, find_dropped_project
from editor.storage import WorkStore
from editor.workbench import Workbench
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.errors import UserError
from pipeline.media import MediaLimits, file_sha256, probe_clip, read_frames
from pipeline.project import build_request, parse_project, read_result_project
from pipeline.render import render
from tests.pipeline.sample_project import DOCUMENT, HW, NUM_FRAMES, changed, write_media
from tests.tiny import make_clip


@pytest.fixture(scope="module")
def workbench(tmp_path_factory):
    return Workbench(MediaLimits(max_frames=60), ArtifactCache(tmp_path_factory.mktemp("cache")))


class Bench:
    """One visitor with a project, and renders as the page makes them."""

    def __init__(self, store, room, token):
        self.store, self.room, self.token = store, room, token
        self.document = copy.deepcopy(DOCUMENT)
        self.document["clip"]["sha256"] = file_sha256(store.files(token) / "clip.mp4")

    def edit(self, *changes):
        self.document = changed(self.document, *changes)
        session = steps.open_document(self.store.load(self.token), self.document)
        self.store.save(self.token, session)

    def render(self, key):
        text = self.store.load(self.token).text
        project = parse_project(json.loads(text))
        folder = self.store.files(self.token)
        request = build_request(project, folder)[0]
        metadata = project.for_result(folder).to_metadata()
        list(render(request, CompositeEngine(), self.room.takes.video(self.token, key), metadata=metadata))
        self.room.add(self.token, key, text, request)
        return request

    def splice(self):
        job = self.room.plan_splice(self.token)
        list(render(job.request, job.engine, job.output, metadata=job.metadata))
        self.room.finish_splice(self.token, job)
        return job

    @property
    def value(self):
        return self.room.build_value(self.token)


@pytest.fixture
def bench(tmp_path, workbench):
    store = WorkStore(tmp_path / "visitors")
    token = store.issue()
    write_media(store.files(token))
    desk = FrameDesk()
    made = Bench(store, ResultRoom(store, workbench, desk, CompositeEngine()), token)
    made.edit()
    yield made
    desk.close()


ONE, TWO = "1" * 32, "2" * 32


def test_a_render_becomes_a_take_and_is_compared_with_its_source(bench):
    assert bench.value == {"takes": []}
    bench.edit(("range", [2, 10]))
    bench.render(ONE)
    value = bench.value
    assert (value["shown"], value["against"], value["range"]) == (ONE, None, [2, 10])
    assert (value["before"]["first"], value["before"]["count"]) == (0, NUM_FRAMES)
    assert (value["after"]["first"], value["after"]["count"]) == (2, 8)
    assert (value["width"], value["height"], value["fps"]) == (HW[1], HW[0], 24)
    (take,) = value["takes"]
    assert take["name"] == "Take 1" and take["settings"] == "Compositor, seed 0" and len(take["thumbnail"]) > 200
    assert value["before"]["key"] != value["after"]["key"] and bench.token not in json.dumps(value)


def test_two_takes_are_compared_and_settings_reused(bench):
    bench.render(ONE)
    before = bench.store.load(bench.token).text
    bench.edit(("engine", {"name": "composite", "seed": 5}))
    bench.render(TWO)
    room, token = bench.room, bench.token
    assert room.act(token, {"action": "compare", "take": ONE}) == Outcome()
    assert bench.value["before"]["first"] == 0 and bench.value["against"] == ONE
    room.act(token, {"action": "star", "take": ONE, "value": True})
    room.act(token, {"action": "rename", "take": ONE, "name": "calm"})
    assert [(take["name"], take["starred"]) for take in bench.value["takes"]] == [("calm", True), ("Take 2", False)]
    edited = bench.store.load(token)
    assert room.act(token, {"action": "reuse", "take": ONE}) == Outcome(is_project_changed=True)
    session = bench.store.load(token)
    assert json.loads(session.text) == json.loads(before)
    assert steps.undo(session).text == edited.text, "reusing is one step that can be undone"
    assert room.act(token, {"action": "delete", "take": TWO}) == Outcome(is_other_shown=True)
    assert room.shown_files(token) == {"video": room.takes.video(token, ONE)}
    assert bench.value["shown"] == ONE and not room.takes.video(token, TWO).exists()


def test_a_range_is_rendered_anew_into_the_take(bench):
    bench.render(ONE)
    bench.edit(("layers", 0, "boxes", "0", "box", [0.3, 0.1, 0.6, 0.7]), ("layers", 0, "trajectories", ...))
    assert bench.value["splice"] is None and "in and out points" in bench.value["splice_note"]
    with pytest.raises(UserError, match="in and out points"):
        bench.room.plan_splice(bench.token)
    bench.edit(("range", [4, 7]))
    assert bench.value["splice"] == [4, 7]
    job = bench.splice()
    assert bench.value["shown"] == job.take.key and bench.value["range"] == [0, NUM_FRAMES]
    assert bench.value["takes"][-1]["name"] == "Take 1, 4 to 6 anew"
    old, new = (list(read_frames(probe_clip(bench.room.takes.video(bench.token, key)))) for key in (ONE, job.take.key))
    differ = [float(np.abs(a.image.astype(int) - b.image).mean()) for a, b in zip(old, new, strict=True)]
    assert min(differ[4:7]) > 2 * max(differ[:4] + differ[7:])
    carried = read_result_project(job.output)
    assert carried.range == (0, NUM_FRAMES) and carried.layers[0].trajectories == ()
    bench.room.act(bench.token, {"action": "show", "take": ONE})
    again = bench.room.plan_splice(bench.token)
    assert again.take.key == job.take.key and again.is_done, "the same splice is not rendered twice"
    bench.edit(("range", [5, 8]))
    assert bench.room.plan_splice(bench.token).take.key != job.take.key


def test_a_dip_of_a_take_becomes_the_range_to_render_anew(bench):
    bench.edit(("range", [2, 10]))
    bench.render(ONE)
    assert bench.value["quality"] is None
    bench.room.takes.write_quality(bench.token, ONE, {"frames": [2, 3], "identity": [0.9, None]})
    assert bench.value["quality"] == {"frames": [2, 3], "identity": [0.9, None]}
    wish = {"action": "range", "take": ONE, "value": [4, 7]}
    assert bench.room.act(bench.token, wish) == Outcome(is_project_changed=True, stays=True)
    assert bench.value["splice"] == [4, 7]
    for value in ([1, 5], [7, 4], [4, 11], [4.0, 7], [4, 7, 9], [True, 7], "47", None):
        with pytest.raises(UserError, match="within the take's, 2 to 9"):
            bench.room.act(bench.token, {**wish, "value": value})
    bench.room.act(bench.token, {"action": "delete", "take": ONE})
    assert bench.room.takes.read_quality(bench.token, ONE) is None, "it goes with its take"


def test_a_splice_needs_a_range_inside_the_take_and_its_clip(bench):
    bench.edit(("range", [2, 8]))
    bench.render(ONE)
    bench.edit(("range", [1, 5]))
    assert bench.value["splice"] is None and "beyond" in bench.value["splice_note"]
    make_clip(bench.store.files(bench.token) / "other.mp4", num_frames=NUM_FRAMES, hw=HW, images=lambda i: np.zeros((*HW, 3), "u1"))
    bench.edit(("clip", {"path": "other.mp4"}), ("range", [3, 5]))
    assert bench.value["splice"] is None and "another video" in bench.value["splice_note"]
    assert bench.value["before"]["count"] == NUM_FRAMES, "the take is still compared with its own source"


def test_the_pack_of_a_spliced_take_holds_all_its_projects(bench):
    bench.render(ONE)
    bench.edit(("layers", 0, "boxes", "0", "box", [0.3, 0.1, 0.6, 0.7]), ("range", [4, 7]))
    bench.splice()
    job = bench.room.plan_pack(bench.token)
    list(job.write())
    assert job.name == "Take 1, 4 to 6 anew.zip"
    with zipfile.ZipFile(job.output) as pack:
        parts = json.loads(pack.read("parts.json"))
        rows = pack.read("layer-1-boxes.csv").decode().splitlines()
        assert parse_project(json.loads(pack.read("project.json"))).range == (0, NUM_FRAMES)
        assert pack.read("result.mp4") == bench.room.takes.video(bench.token, bench.value["shown"]).read_bytes()
    assert [part["range"] for part in parts] == [[0, 4], [4, 7], [7, NUM_FRAMES]] and len(rows) == NUM_FRAMES + 1
    bench.room.act(bench.token, {"action": "delete", "take": bench.value["shown"]})
    assert not job.output.exists()


LIES = [
    None,
    [],
    "delete",
    {},
    {"action": "show"},
    {"action": "__class__", "take": ONE},
    {"action": ["show"], "take": ONE},
    {"action": "delete", "take": "../session"},
    {"action": "rename", "take": ONE, "name": {"a": 1}},
    {"action": "reuse", "take": {}},
]


def test_whatever_else_a_browser_sends_is_refused(bench):
    bench.render(ONE)
    for wish in LIES:
        with pytest.raises(UserError):
            bench.room.act(bench.token, wish)
    assert len(bench.value["takes"]) == 1


def test_a_stranger_sees_and_does_nothing(bench):
    bench.render(ONE)
    for token in (None, "x" * 43, "../" + bench.token, bench.store.issue() + "x"):
        with pytest.raises(UserError):
            bench.room.build_value(token)
        with pytest.raises(UserError):
            bench.room.act(token, {"action": "delete", "take": ONE})
    other = bench.store.issue()
    assert bench.room.build_value(other) == {"takes": []}
    with pytest.raises(UserError, match=NOTHING_YET):
        bench.room.plan_pack(other)


def test_a_result_among_dropped_files_is_found(bench, tmp_path):
    bench.render(ONE)
    result, source = bench.room.takes.video(bench.token, ONE), bench.store.files(bench.token) / "clip.mp4"
    path, project = find_dropped_project([source, result])
    assert path == result and project.clip.path == "clip.mp4"
    assert find_dropped_project([source]) is None
