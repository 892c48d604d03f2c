"""The export pack: whole, dense, exact, and importable again."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.composite import CompositeEngine
from pipeline.export import motion_texts, write_pack
from pipeline.media import probe_clip, read_frames
from pipeline.motion import BoxKey, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.project import build_request, parse_project
from pipeline.render import render
from pipeline.resolve import ResolvingEngine
from pipeline.splice import Part

from ..editor.canvas.colour_segmenter import ColourSegmenter, Segmenters
from ..tiny import make_clip
from .composite.scenes import paint_texture
from .sample_project import DOCUMENT, HW, NUM_FRAMES, changed, write_media

NAMES = [
    "result.mp4",
    "layer.mov",
    "matte.mkv",
    "result-lossless.mkv",
    "boxes.json",
    "trajectories.json",
    "layer-1-boxes.csv",
    "layer-1-trajectories.csv",
    "project.json",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("export"))


def part_of(folder: Path, document: dict, span: tuple[int, int]) -> tuple[Part, dict]:
    project = parse_project(document)
    request = build_request(project, folder)[0]
    return Part(span, request, CompositeEngine()), project.for_result(folder).to_document()


@pytest.fixture(scope="module")
def pack(folder, tmp_path_factory) -> zipfile.ZipFile:
    """The pack of frames 2 to 10."""
    part, document = part_of(folder, changed(DOCUMENT, ("range", [2, 10])), (2, 10))
    where = tmp_path_factory.mktemp("packed")
    list(render(part.request, part.engine, where / "take.mp4"))
    list(write_pack([part], [document], document, where / "take.mp4", where / "take.zip"))
    assert sorted(path.name for path in where.iterdir()) == ["take.mp4", "take.zip"], "nothing else is left behind"
    with zipfile.ZipFile(where / "take.zip") as opened:
        opened.extractall(where / "out")
        yield opened


def rows_of(pack: zipfile.ZipFile, name: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(pack.read(name).decode())))


def extracted(pack: zipfile.ZipFile, name: str) -> Path:
    return Path(pack.filename).parent / "out" / name


def test_it_holds_everything_once(pack):
    assert pack.namelist() == NAMES and pack.testzip() is None
    for name in ("result.mp4", "result-lossless.mkv", "layer.mov", "matte.mkv"):
        clip = probe_clip(extracted(pack, name)) if name != "layer.mov" else None
        assert clip is None or (clip.num_frames, clip.hw) == (8, HW)


def test_tables_have_one_row_per_frame_and_agree_with_the_keys(pack, folder):
    boxes, paths = rows_of(pack, "layer-1-boxes.csv"), rows_of(pack, "layer-1-trajectories.csv")
    assert [int(row["frame"]) for row in boxes] == [int(row["frame"]) for row in paths] == list(range(2, 10))
    assert boxes[0]["time_s"] == "0.000000" and float(boxes[1]["time_s"]) == pytest.approx(1 / 24, abs=1e-6)
    layer = build_request(parse_project(DOCUMENT), folder)[0].layers[0]
    got = np.array([[float(row[f"{side}_px"]) for side in ("x0", "y0", "x1", "y1")] for row in boxes])
    assert np.abs(got - layer.boxes.boxes_px[2:10]).max() < 1e-3
    got = np.array([[float(row["top_x_px"]), float(row["top_y_px"])] for row in paths])
    assert np.abs(got - layer.trajectories.points_px[0, 2:10]).max() < 1e-3


def test_the_keys_import_again_identically(pack, folder):
    layer = build_request(parse_project(DOCUMENT), folder)[0].layers[0]
    boxes = json.loads(pack.read("boxes.json"))
    assert boxes["range"] == [2, 10] and len(boxes["layers"][0]["dense"]) == 8
    (written,) = boxes["layers"][0]["keys"]
    again = build_box_sequence({int(f): BoxKey(tuple(k["box"])) for f, k in written["boxes"].items()}, HW, NUM_FRAMES)
    assert np.array_equal(again.boxes_px, layer.boxes.boxes_px)
    paths = json.loads(pack.read("trajectories.json"))["layers"][0]
    assert [len(rows) for rows in paths["dense"].values()] == [8]
    keys = paths["keys"][0]["trajectories"][0]["keys"]
    made = [TrajectoryKeys("top", {int(frame): tuple(at) for frame, at in keys.items()})]
    again = build_trajectory_set(made, {"top": (20.0, 8.0)}, HW, NUM_FRAMES)
    assert np.array_equal(again.points_px, layer.trajectories.points_px)


def test_the_project_in_it_renders_again(pack):
    project = parse_project(json.loads(pack.read("project.json")))
    assert project.range == (2, 10) and project.clip.path == "clip.mp4" and project.clip.sha256


def test_the_matte_says_where_the_source_was_left_alone(pack, folder):
    source = list(read_frames(probe_clip(folder / "clip.mp4"), 2, 10))
    result = list(read_frames(probe_clip(extracted(pack, "result-lossless.mkv"))))
    mattes = list(read_frames(probe_clip(extracted(pack, "matte.mkv"))))
    for before, after, matte in zip(source, result, mattes, strict=True):
        alpha = matte.planes[0]
        is_changed = before.planes[0] != after.planes[0]
        assert alpha.shape == HW and alpha.max() == 255 and (alpha == 0).sum() > alpha.size / 3
        assert not (is_changed & (alpha == 0)).any()


def test_a_spliced_result_takes_each_row_from_its_part(folder):
    moved = changed(DOCUMENT, ("layers", 0, "boxes", "0", "box", [0.3, 0.1, 0.6, 0.7]), ("layers", 0, "trajectories", ...))
    (first, one), (second, two) = part_of(folder, DOCUMENT, (0, 5)), part_of(folder, moved, (5, NUM_FRAMES))
    texts = motion_texts([first, second], [one, two])
    rows = list(csv.DictReader(io.StringIO(texts["layer-1-boxes.csv"])))
    assert len(rows) == NUM_FRAMES
    for frame, row in enumerate(rows):
        owner = (first if frame < 5 else second).request.layers[0]
        assert float(row["x0_px"]) == pytest.approx(float(owner.boxes.boxes_px[frame, 0]), abs=1e-3)
    paths = list(csv.DictReader(io.StringIO(texts["layer-1-trajectories.csv"])))
    assert [bool(row["top_x_px"]) for row in paths] == [True] * 5 + [False] * 7
    assert [each["range"] for each in json.loads(texts["boxes.json"])["layers"][0]["keys"]] == [[0, 5], [5, NUM_FRAMES]]


def test_what_follows_the_scene_is_listed_where_it_is_on_screen(folder, tmp_path):
    wide = paint_texture((HW[0], HW[1] + 3 * NUM_FRAMES), 5)
    make_clip(tmp_path / "clip.mp4", num_frames=NUM_FRAMES, hw=HW, images=lambda frame: wide[:, 33 - 3 * frame :][:, : HW[1]])
    shutil.copy(folder / "ball.png", tmp_path)
    still = ("layers", 0, "boxes"), {"0": {"box": [0.1, 0.2, 0.4, 0.8]}}
    path = ("layers", 0, "trajectories", 0, "keys"), {"0": [0.25, 0.35]}
    tied = ("layers", 0, "follow"), {"kind": "translation", "key_frame": 0}
    part, document = part_of(tmp_path, changed(DOCUMENT, *((*where, what) for where, what in (still, path, tied))), (4, NUM_FRAMES))
    part = replace(part, engine=ResolvingEngine(part.engine, Segmenters(ColourSegmenter()), None))
    (tmp_path / "take.mp4").write_bytes(b"video")
    list(write_pack([part], [document], document, tmp_path / "take.mp4", tmp_path / "take.zip"))
    with zipfile.ZipFile(tmp_path / "take.zip") as pack:
        boxes, paths = rows_of(pack, "layer-1-boxes.csv"), rows_of(pack, "layer-1-trajectories.csv")
        written = [json.loads(pack.read(name))["layers"][0] for name in ("boxes.json", "trajectories.json")]
    for row, dense, path in zip(boxes, written[0]["dense"], paths, strict=True):
        moved = 3 * int(row["frame"])
        assert float(row["x0_px"]) == pytest.approx(0.1 * HW[1] + moved, abs=0.3)
        assert float(row["y1_px"]) == pytest.approx(0.8 * HW[0], abs=0.3)
        assert dense["box"][0] * HW[1] == pytest.approx(float(row["x0_px"]), abs=1e-3)
        assert float(path["top_x_px"]) == pytest.approx(0.25 * HW[1] + moved, abs=0.3)
    for each in written:
        assert each["keys"][0]["follow"]["kind"] == "translation", "the keys themselves are those of the surface"


def test_stopping_leaves_nothing_behind(folder, tmp_path):
    part, document = part_of(folder, DOCUMENT, (0, NUM_FRAMES))
    (tmp_path / "take.mp4").write_bytes(b"video")
    work = write_pack([part], [document], document, tmp_path / "take.mp4", tmp_path / "take.zip")
    next(work)
    work.close()
    assert [path.name for path in tmp_path.iterdir()] == ["take.mp4"]


def test_a_point_named_like_a_formula_is_made_harmless(folder):
    tricky = changed(
        DOCUMENT,
        ("layers", 0, "references", 0, "points", {"=1+1": [0.5, 0.2]}),
        ("layers", 0, "trajectories", 0, "point", "=1+1"),
    )
    part, document = part_of(folder, tricky, (0, NUM_FRAMES))
    header = motion_texts([part], [document])["layer-1-trajectories.csv"].splitlines()[0]
    assert header == "frame,time_s,'=1+1_x_px,'=1+1_y_px,'=1+1_visible"
