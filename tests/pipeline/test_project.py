"""The project file: every fault has its path, reading and writing are exact inverses, parser and schema agree."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import project as rooms
from pipeline.errors import UserError
from pipeline.media import MediaLimits, probe_clip
from pipeline.project import build_request, decode_project, missing_parts, parse_project, read_project, safe_join
from pipeline.types import BlendSettings, Click, Follow, Prompt, SamplingConfig, SegmenterChoice

from .sample_project import DOCUMENT, HW, NUM_FRAMES, changed, write_media, write_project

SCHEMA = json.loads((Path(rooms.__file__).parent / "project.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

FULL = json.loads("""
{"version": 1,
 "clip": {"path": "street.mp4", "sha256": null},
 "range": [0, 48],
 "segmenter": {"name": "auto"},
 "layers": [{
   "name": "cup", "kind": "insert", "hidden": false,
   "references": [{"path": "cup.png", "sha256": null, "mask": null, "points": {"p1": [0.50, 0.10], "p2": [0.20, 0.90]}}],
   "fit": "contain", "anchor": "center", "deform": "auto",
   "boxes": {"0": {"box": [0.10, 0.55, 0.25, 0.85], "rotation_deg": 0, "ease": "linear", "enter": true},
             "47": {"box": [0.60, 0.50, 0.80, 0.90]}},
   "trajectories": [{"point": "p1", "keys": {"0": [0.17, 0.58], "20": [0.35, 0.40], "47": [0.70, 0.54]},
                     "ease": "smooth", "visible": [[0, 48]]}],
   "follow": null,
   "target": {"prompts": {"12": {"clicks": [[0.4, 0.5, 1], [0.1, 0.1, 0]], "box": null}}, "path": null, "edits": {},
              "grow_px": 0, "feather_px": 0},
   "holdouts": [{"prompts": {"0": {"clicks": [[0.8, 0.5, 1]]}}}],
   "blend": {"harmonize": 0.7, "shadow": 0.5, "shadow_angle_deg": 90, "shadow_length": 0.0, "shadow_softness": 0.5,
             "motion_blur": 0.5, "grain": 1.0, "feather_px": 1.0, "opacity": 1.0}
 }],
 "engine": {"name": "composite", "seed": 0, "num_inference_steps": 25, "guidance_scale": 5.0, "checkpoint": null,
            "motion_strength": 1.0, "identity_strength": 1.0, "size": null, "window": null, "init": "noise"}}
""")
"""The contract's own example: every key at once."""

LAYER = ("layers", 0)
REMOVE = {"kind": "remove", "target": {"path": "mask.png"}}
EDIT = {"size": [2, 2], "counts": "4"}
NAN, INFINITY = float("nan"), float("inf")

GOOD = [
    [],
    [("range", ...)],
    [("range", None)],
    [("segmenter", ...)],
    [("segmenter", "name", "sam2")],
    [("layers", [])],
    [("engine", {})],
    [("engine", "name", "vace")],
    [("engine", "init", "inversion")],
    [("engine", "seed", 2**53 - 1)],
    [("engine", "size", 512), ("engine", "window", 16)],
    [("clip", "sha256", "0" * 64)],
    [(*LAYER, {"kind": "remove"})],
    [(*LAYER, {"kind": "replace", "target": {"path": "mask.mkv", "grow_px": -3, "feather_px": 2.5}})],
    [(*LAYER, "references", [])],
    [(*LAYER, "references", 0, "mask", {"path": "cup-mask.png"})],
    [(*LAYER, "references", 0, "mask", {"edits": {"0": {"size": [2, 2], "counts": "4"}}})],
    [(*LAYER, "references", 0, "points", ...)],
    [(*LAYER, "fit", "stretch"), (*LAYER, "anchor", "bottom"), (*LAYER, "deform", "perspective")],
    [(*LAYER, "boxes", {})],
    [(*LAYER, "boxes", "47", "box", [-1, -1, 2, 2])],
    [(*LAYER, "boxes", "47", "rotation_deg", -720.5)],
    [(*LAYER, "boxes", "47", "leave", True)],
    [(*LAYER, "boxes", "10000000", {"box": [0, 0, 1, 1]})],
    [(*LAYER, "trajectories", ...)],
    [(*LAYER, "trajectories", 0, "visible", None)],
    [(*LAYER, "trajectories", 0, "visible", [[0, 4], [4, 9], [20, 21]])],
    [(*LAYER, "trajectories", 0, "ease", "hold")],
    [(*LAYER, "follow", {"kind": "homography"})],
    [(*LAYER, "follow", {"kind": "similarity", "key_frame": 3, "points": [[0, 1]], "region": [0, 0, 1, 1]})],
    [(*LAYER, "target", None)],
    [(*LAYER, "target", "prompts", "12", "box", [0.1, 0.1, 0.9, 0.9])],
    [(*LAYER, "name", "Tasse ☕ 杯")],
    [(*LAYER, "blend", {})],
    [(*LAYER, "blend", "shadow_angle_deg", -45)],
]

BAD = [
    ([("version", 2)], "version"),
    ([("version", True)], "version"),
    ([("version", "1")], "version"),
    ([("version", ...)], "the project file"),
    ([("clip", ...)], "the project file"),
    ([("layers", ...)], "the project file"),
    ([("layer", [])], "layer"),
    ([("two words", 1)], '["two words"]'),
    ([("clip", "path", ...)], "clip"),
    ([("clip", "path", "")], "clip.path"),
    ([("clip", "path", "a\nb")], "clip.path"),
    ([("clip", "path", "a\n")], "clip.path"),
    ([("clip", "path", "a\0b")], "clip.path"),
    ([("clip", "path", "\ud800")], "clip.path"),
    ([("clip", "path", 3)], "clip.path"),
    ([("clip", "sha256", "A" * 64)], "clip.sha256"),
    ([("clip", "sha256", "0" * 64 + "\n")], "clip.sha256"),
    ([("clip", "url", "x")], "clip.url"),
    ([("range", [0])], "range"),
    ([("range", [0, 1, 2])], "range"),
    ([("range", [-1, 4])], "range[0]"),
    ([("range", ["0", 4])], "range[0]"),
    ([("range", 4)], "range"),
    ([("segmenter", "name", "sam3")], "segmenter.name"),
    ([("segmenter", None)], "segmenter"),
    ([("layers", {})], "layers"),
    ([("layers", [{"kind": "insert"}] * 33)], "layers"),
    ([(*LAYER, "kind", ...)], "layers[0]"),
    ([(*LAYER, "kind", "add")], "layers[0].kind"),
    ([(*LAYER, "kind", "remove")], "layers[0].references"),
    ([(*LAYER, "hidden", 0)], "layers[0].hidden"),
    ([(*LAYER, "colour", "red")], "layers[0].colour"),
    ([(*LAYER, "references", None)], "layers[0].references"),
    ([(*LAYER, "references", 0, "points", "p1", [0.5])], 'layers[0].references[0].points["p1"]'),
    ([(*LAYER, "references", 0, "points", "p1", [0.5, 1.01])], 'layers[0].references[0].points["p1"][1]'),
    ([(*LAYER, "references", 0, "mask", "mask.png")], "layers[0].references[0].mask"),
    ([(*LAYER, "fit", "cover")], "layers[0].fit"),
    ([(*LAYER, "deform", None)], "layers[0].deform"),
    ([(*LAYER, "boxes", "01", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["01"]'),
    ([(*LAYER, "boxes", "-1", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["-1"]'),
    ([(*LAYER, "boxes", "+1", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["+1"]'),
    ([(*LAYER, "boxes", "1.0", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["1.0"]'),
    ([(*LAYER, "boxes", "1\n", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["1\\n"]'),
    ([(*LAYER, "boxes", "١", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["\\u0661"]'),
    ([(*LAYER, "boxes", "10000001", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["10000001"]'),
    ([(*LAYER, "boxes", "9" * 5000, {"box": [0, 0, 1, 1]})], "layers[0].boxes["),
    ([(*LAYER, "boxes", "", {"box": [0, 0, 1, 1]})], 'layers[0].boxes[""]'),
    ([(*LAYER, "boxes", "47", {})], 'layers[0].boxes["47"]'),
    ([(*LAYER, "boxes", "47", "box", [0, 0, 1])], 'layers[0].boxes["47"].box'),
    ([(*LAYER, "boxes", "47", "box", [0, 0, 1, 2.5])], 'layers[0].boxes["47"].box[3]'),
    ([(*LAYER, "boxes", "47", "box", [0, 0, "1", 1])], 'layers[0].boxes["47"].box[2]'),
    ([(*LAYER, "boxes", "47", "box", [0, 0, True, 1])], 'layers[0].boxes["47"].box[2]'),
    ([(*LAYER, "boxes", "47", "box", [0, 0, 10**400, 1])], 'layers[0].boxes["47"].box[2]'),
    ([(*LAYER, "boxes", "47", "box", None)], 'layers[0].boxes["47"].box'),
    ([(*LAYER, "boxes", "47", "ease", "bounce")], 'layers[0].boxes["47"].ease'),
    ([(*LAYER, "boxes", "47", "enter", 1)], 'layers[0].boxes["47"].enter'),
    ([(*LAYER, "boxes", "47", "rotation_deg", 1e9)], 'layers[0].boxes["47"].rotation_deg'),
    ([(*LAYER, "boxes", "47", "rotation_deg", INFINITY)], 'layers[0].boxes["47"].rotation_deg'),
    ([(*LAYER, "trajectories", 0, "point", ...)], "layers[0].trajectories[0]"),
    ([(*LAYER, "trajectories", 0, "keys", {})], "layers[0].trajectories[0].keys"),
    ([(*LAYER, "trajectories", 0, "keys", "20", [0.1, -1.1])], 'layers[0].trajectories[0].keys["20"][1]'),
    ([(*LAYER, "trajectories", 0, "visible", [])], "layers[0].trajectories[0].visible"),
    ([(*LAYER, "trajectories", 0, "visible", [0, 4])], "layers[0].trajectories[0].visible[0]"),
    ([(*LAYER, "follow", {})], "layers[0].follow"),
    ([(*LAYER, "follow", {"kind": "affine"})], "layers[0].follow.kind"),
    ([(*LAYER, "follow", {"kind": "similarity", "points": []})], "layers[0].follow.points"),
    ([(*LAYER, "target", "path", "mask.png")], "layers[0].target"),
    ([(*LAYER, "target", "prompts", "12", "clicks", 0, [0.4, 0.5])], 'layers[0].target.prompts["12"].clicks[0]'),
    ([(*LAYER, "target", "prompts", "12", "clicks", 0, [0.4, 0.5, 2])], 'layers[0].target.prompts["12"].clicks[0][2]'),
    ([(*LAYER, "target", "prompts", "12", "clicks", 0, [0.4, 1.5, 1])], 'layers[0].target.prompts["12"].clicks[0][1]'),
    ([(*LAYER, "target", "edits", {"0": {"size": [2, 0], "counts": "4"}})], 'layers[0].target.edits["0"].size[1]'),
    ([(*LAYER, "target", "edits", {"0": {"size": [2, 2]}})], 'layers[0].target.edits["0"]'),
    ([(*LAYER, "target", "grow_px", 501)], "layers[0].target.grow_px"),
    ([(*LAYER, "target", "feather_px", -1)], "layers[0].target.feather_px"),
    ([(*LAYER, "holdouts", [None])], "layers[0].holdouts[0]"),
    ([(*LAYER, "blend", "harmonize", 1.5)], "layers[0].blend.harmonize"),
    ([(*LAYER, "blend", "harmonize", None)], "layers[0].blend.harmonize"),
    ([(*LAYER, "blend", "opacity", -0.1)], "layers[0].blend.opacity"),
    ([(*LAYER, "blend", "glow", 1)], "layers[0].blend.glow"),
    ([("engine", "name", "sora")], "engine.name"),
    ([("engine", "seed", -1)], "engine.seed"),
    ([("engine", "seed", 0.5)], "engine.seed"),
    ([("engine", "seed", 2**53)], "engine.seed"),
    ([("engine", "num_inference_steps", 0)], "engine.num_inference_steps"),
    ([("engine", "size", 10)], "engine.size"),
    ([("engine", "init", "random")], "engine.init"),
]

RELATIONS = [
    ([("range", [4, 4])], "range"),
    ([("range", [0.0, 4])], "range[0]"),
    ([("range", [4, 2])], "range"),
    ([(*LAYER, "boxes", "47", "box", [0.5, 0, 0.5, 1])], 'layers[0].boxes["47"].box: x1 must be greater than x0'),
    ([(*LAYER, "boxes", "47", "box", [0.5, 0.9, 0.6, 0.1])], 'layers[0].boxes["47"].box: y1 must be greater than y0'),
    ([(*LAYER, "boxes", "47", "box", [NAN, 0, 1, 1])], 'layers[0].boxes["47"].box[0]: must be a finite number'),
    ([(*LAYER, "trajectories", 0, "keys", "20", [0.1, NAN])], 'layers[0].trajectories[0].keys["20"][1]: must be a finite number'),
    ([(*LAYER, "trajectories", 0, "visible", [[5, 9], [8, 12]])], "layers[0].trajectories[0].visible[1]"),
    ([(*LAYER, "trajectories", 1, {"point": "p1", "keys": {"0": [0, 0]}})], "layers[0].trajectories[1].point"),
    ([(*LAYER, "target", "edits", {"0": {"size": [2, 2], "counts": "5"}})], 'layers[0].target.edits["0"].counts'),
    ([(*LAYER, "target", "edits", {"0": {"size": [2, 2], "counts": "é"}})], 'layers[0].target.edits["0"].counts'),
    ([("engine", "seed", 3.0)], "engine.seed"),
]
"""Faults that JSON Schema cannot state (relations between values, not-a-number, 3.0 for 3): the parser alone finds them."""


def is_valid_by_schema(document: object) -> bool:
    return VALIDATOR.is_valid(document)


def fault_of(document: object) -> str | None:
    try:
        parse_project(document)
    except UserError as error:
        return str(error)
    return None


# -- one document, two readers ---------------------------------------------------------------------------------------------------


def test_the_corpus_is_as_large_as_it_says():
    assert (len(GOOD), len(BAD), len(RELATIONS)) == (35, 86, 12)


def test_the_shipped_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("steps", GOOD, ids=str)
def test_good_documents_pass_both_and_come_back_exactly(steps):
    document = changed(FULL, *steps)
    assert is_valid_by_schema(document)
    assert json.dumps(parse_project(document).to_document()) == json.dumps(document)


@pytest.mark.parametrize(("steps", "where"), BAD, ids=[str(where) + str(i) for i, (_, where) in enumerate(BAD)])
def test_bad_documents_fail_in_both_with_their_path(steps, where):
    document = changed(FULL, *steps)
    assert not is_valid_by_schema(document)
    fault = fault_of(document)
    assert fault is not None and fault.startswith(where)
    assert "\n" not in fault and len(fault) < 300


@pytest.mark.parametrize(("steps", "where"), RELATIONS, ids=[where for _, where in RELATIONS])
def test_relations_are_checked_by_the_parser(steps, where):
    document = changed(FULL, *steps)
    assert is_valid_by_schema(document)
    assert (fault_of(document) or "").startswith(where)


@pytest.mark.parametrize("document", [None, [], 3, "x", {}, {"version": 1}])
def test_what_is_no_project_at_all(document):
    assert fault_of(document) is not None and not is_valid_by_schema(document)


# -- documents by the thousand ---------------------------------------------------------------------------------------------------

frames = st.integers(0, 500).map(str)
names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=8)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(int(np.ceil(low)), int(high)) | st.floats(low, high, allow_nan=False)


def spans(count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 500), min_size=2 * count, max_size=2 * count, unique=True).map(sorted)


def boxes(low: float, high: float) -> st.SearchStrategy[list[float]]:
    side = st.lists(numbers(low, high), min_size=2, max_size=2).map(sorted).filter(lambda pair: pair[0] < pair[1])
    return st.tuples(side, side).map(lambda sides: [sides[0][0], sides[1][0], sides[0][1], sides[1][1]])


def points(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(numbers(low, high), min_size=2, max_size=2)


def objects(required: dict[str, st.SearchStrategy], **optional: st.SearchStrategy) -> st.SearchStrategy[dict]:
    """Objects with their keys in any order."""
    made = st.fixed_dictionaries(required, optional=optional)
    return made.flatmap(lambda value: st.permutations(list(value.items())).map(dict))


eases = st.sampled_from(["linear", "smooth", "hold"])
none = st.none()
clicks = st.tuples(numbers(0, 1), numbers(0, 1), st.integers(0, 1)).map(list)
prompts = objects({}, clicks=st.lists(clicks, max_size=3), box=none | boxes(0, 1))
masks = objects({}, path=none | names, grow_px=numbers(-9, 9), feather_px=numbers(0, 9)) | objects(
    {}, prompts=st.dictionaries(frames, prompts, max_size=2), path=none
)
references = objects(
    {"path": names},
    sha256=none | st.text("0123456789abcdef", min_size=64, max_size=64),
    mask=none | masks,
    points=st.dictionaries(names, points(0, 1), max_size=3),
)
box_keys = objects({"box": boxes(-1, 2)}, rotation_deg=numbers(-720, 720), ease=eases, enter=st.booleans(), leave=st.booleans())
visible = none | spans(2).map(lambda ends: [ends[:2], ends[2:]])
trajectories = objects(
    {"point": names, "keys": st.dictionaries(frames, points(-1, 2), min_size=1, max_size=3)}, ease=eases, visible=visible
)
follows = objects(
    {"kind": st.sampled_from(["translation", "similarity", "homography"])},
    key_frame=st.integers(0, 99),
    points=none | st.lists(points(0, 1), min_size=1, max_size=3),
    region=none | boxes(0, 1),
)
blends = objects({}, harmonize=numbers(0, 1), shadow_angle_deg=numbers(-360, 360), shadow_length=numbers(0, 4), grain=numbers(0, 4))
layers = objects(
    {"kind": st.sampled_from(["insert", "replace"])},
    name=names,
    hidden=st.booleans(),
    references=st.lists(references, max_size=2),
    fit=st.sampled_from(["contain", "stretch"]),
    deform=st.sampled_from(["auto", "perspective"]),
    boxes=st.dictionaries(frames, box_keys, max_size=3),
    trajectories=st.lists(trajectories, max_size=2, unique_by=lambda each: each["point"]),
    follow=none | follows,
    target=none | masks,
    holdouts=st.lists(masks, max_size=2),
    blend=blends,
)
engines = objects({}, name=st.sampled_from(["composite", "vace"]), seed=st.integers(0, 2**53 - 1), guidance_scale=numbers(0, 9))
documents = objects(
    {"version": st.just(1), "clip": objects({"path": names}, sha256=none), "layers": st.lists(layers, max_size=2)},
    range=none | spans(1),
    segmenter=objects({}, name=st.sampled_from(["auto", "fallback"])),
    engine=engines,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | frames, inner, max_size=2),
    max_leaves=6,
)
quietly = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@quietly
@given(documents)
def test_reading_and_writing_are_exact_inverses(document):
    text = json.dumps(document)
    project = decode_project(text)
    assert json.dumps(project.to_document()) == text
    assert parse_project(project.to_document()) == project
    assert json.loads(project.to_json()) == document
    assert is_valid_by_schema(document)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every path into a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


@settings(quietly, max_examples=300)
@given(st.data(), values)
def test_whatever_the_parser_takes_the_schema_takes_and_faults_are_user_errors(data, value):
    path = data.draw(st.sampled_from(places(FULL)[1:]))
    document = changed(FULL, (*path, value))
    if fault_of(document) is None:
        assert is_valid_by_schema(document)
        assert json.dumps(parse_project(document).to_document()) == json.dumps(document)


def test_changes_are_written_and_defaults_are_not():
    import dataclasses

    project = parse_project(DOCUMENT)
    assert "engine" not in project.with_engine().to_document() or project.with_engine().to_document()["engine"] == {}
    assert project.with_engine(seed=7).to_document()["engine"] == {"seed": 7}
    layer = dataclasses.replace(project.layers[0], hidden=True, anchor="center")
    assert dataclasses.replace(project, layers=(layer,)).to_document()["layers"][0] == {**DOCUMENT["layers"][0], "hidden": True}
    with pytest.raises(UserError, match=r"engine\.seed"):
        project.with_engine(seed=-1)


def test_missing_keys_have_the_defaults_of_the_values_they_become():
    project = parse_project({"version": 1, "clip": {"path": "a"}, "layers": [{"kind": "insert"}]})
    assert project.layers[0].blend.to_settings() == BlendSettings()
    assert project.engine.to_sampling() == SamplingConfig()
    assert (project.range, project.layers[0].fit, project.layers[0].anchor) == (None, "contain", "center")


# -- text that is hostile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"version": NaN}', "NaN"),
        ('{"version": 1, "range": [0, Infinity]}', "Infinity"),
        ('{"version": 1, "range": [0, 1e999]}', "clip"),
        ('{"version": 1, "version": 1}', "twice"),
        ('{"layers": [{"boxes": {"1": {}, "1": {}}}]}', "twice"),
        ("[" * 200_000, "nested"),
        ('{"a":' * 200_000, "nested"),
        ("9" * 10_000, "digits"),
        ("", "not valid JSON"),
        ("{'version': 1}", "line 1, column 2"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        (b"\x00\x00\x00\x1cftypisom", "not"),
        ("[]", "must be an object"),
    ],
)
def test_hostile_text_is_refused_in_one_sentence(text, said):
    with pytest.raises(UserError) as caught:
        decode_project(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_document_may_not_be_huge(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "MAX_DOCUMENT_BYTES", 1000)
    path = tmp_path / "big.json"
    path.write_text(" " * 5000)
    with pytest.raises(UserError, match="more than"):
        read_project(path)


def test_many_keys_are_read_in_reasonable_time():
    box = {"box": [0.1, 0.1, 0.2, 0.2]}
    document = changed(DOCUMENT, (*LAYER, "boxes", {str(frame): box for frame in range(20_000)}))
    assert len(parse_project(document).layers[0].boxes) == 20_000
    document["layers"][0]["boxes"] = {str(frame): box for frame in range(100_001)}
    assert "at most" in (fault_of(document) or "")


# -- what keeps a document from being rendered -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "where"),
    [
        ([("engine", {"name": "vace"})], "engine.name"),
        ([("layers", [])], "layers"),
        ([(*LAYER, "hidden", True)], "layers"),
        ([(*LAYER, "kind", "replace")], "layers[0].target"),
        ([("engine", {"name": "videoanydoor"}), (*LAYER, "kind", "replace")], "layers[0].target"),
        ([("engine", {"name": "videoanydoor"}), (*LAYER, {"kind": "remove", "target": {"grow_px": 2}})], "layers[0].target"),
        ([("engine", {"name": "videoanydoor"}), (*LAYER, "target", {"path": "mask.png"})], "layers[0].target"),
        ([(*LAYER, {"kind": "remove"})], "layers[0].target"),
        ([(*LAYER, {**REMOVE, "follow": {"kind": "translation"}})], "layers[0].follow"),
        ([(*LAYER, {**REMOVE, "boxes": DOCUMENT["layers"][0]["boxes"]})], "layers[0].boxes"),
        ([(*LAYER, "target", {"path": "mask.png"})], "layers[0].target"),
        ([(*LAYER, "holdouts", [{"prompts": {"0": {"clicks": [[0, 0, 0]]}}}])], 'layers[0].holdouts[0].prompts["0"]'),
        ([(*LAYER, {**REMOVE, "target": {"prompts": {"3": {}}}})], 'layers[0].target.prompts["3"]'),
        ([(*LAYER, "holdouts", [{}])], "layers[0].holdouts[0].path"),
        ([(*LAYER, "references", [])], "layers[0].references"),
        ([(*LAYER, "references", 0, "mask", {"prompts": {"0": {}}})], "layers[0].references[0].mask.prompts"),
        ([(*LAYER, "references", 0, "mask", {"path": "m.png", "feather_px": 2})], "layers[0].references[0].mask.feather_px"),
        ([(*LAYER, "boxes", ...)], "layers[0].boxes"),
        ([(*LAYER, "deform", "perspective")], "layers[0].deform"),
        ([(*LAYER, "trajectories", 0, "point", "nose")], "layers[0].trajectories[0].point"),
    ],
)
def test_what_is_missing_is_said_before_any_file_is_opened(steps, where, tmp_path):
    project = parse_project(changed(DOCUMENT, *steps))
    assert missing_parts(project)[0].startswith(f"{where}: ")
    with pytest.raises(UserError) as caught:
        build_request(project, tmp_path)
    assert str(caught.value) == missing_parts(project)[0]


def test_nothing_is_missing_in_a_whole_project():
    assert missing_parts(parse_project(DOCUMENT)) == []


# -- files -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a neighbour that must not be reachable, and links that try to reach it."""
    outside = tmp_path_factory.mktemp("outside")
    root = outside / "root"
    (root / "deep").mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (outside / "root-twin").mkdir()
    (outside / "root-twin" / "secret.txt").write_text("secret")
    (root / "inside.txt").write_text("fine")
    (root / "deep" / "also.txt").write_text("fine")
    (root / "link.txt").symlink_to(outside / "secret.txt")
    (root / "linked").symlink_to(outside)
    (root / "good-link.txt").symlink_to(root / "inside.txt")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("name", ["inside.txt", "deep/also.txt", "./inside.txt", "good-link.txt", "deep//also.txt"])
def test_files_inside_the_folder_are_found(fenced, name):
    assert safe_join(fenced, name).read_text() == "fine"


UNREACHABLE = """../secret.txt deep/../../secret.txt link.txt linked/secret.txt /etc/passwd ../root-twin/secret.txt ~/.ssh/id ..
    deep/../inside.txt . deep pipe loop no.txt inside.txt/x"""


@pytest.mark.parametrize("name", [*UNREACHABLE.split(), "", "a\0b", "x" * 4000, "\ud800"], ids=repr)
def test_everything_else_is_refused_without_telling_where_things_lie(fenced, name):
    with pytest.raises(UserError) as caught:
        safe_join(fenced, name, where="clip.path")
    assert str(caught.value).startswith("clip.path: ") and str(fenced.parent) not in str(caught.value)


@settings(quietly, max_examples=300)
@given(st.lists(st.sampled_from([*"/.~", "..", "", "deep", "linked", "root-twin", "root", "secret.txt", "link.txt", "inside.txt"])))
def test_no_name_leads_outside(fenced, parts):
    try:
        found = safe_join(fenced, "/".join(parts))
    except UserError:
        return
    assert found.is_relative_to(fenced) and found.read_text() == "fine"


def test_the_command_line_may_name_any_file(fenced):
    secret = fenced.parent / "secret.txt"
    assert safe_join(fenced, str(secret), allow_absolute=True) == secret
    assert safe_join(fenced, "../secret.txt", allow_absolute=True) == secret
    with pytest.raises(UserError, match="not a file"):
        safe_join(fenced, "pipe", allow_absolute=True)


# -- the request -----------------------------------------------------------------------------------------------------------------


def built(folder: Path, *steps: tuple):
    return build_request(parse_project(changed(DOCUMENT, *steps)), folder)


def test_the_request_holds_what_the_document_says(folder):
    request, warnings = built(
        folder,
        ("range", [2, 8]),
        ("engine", {"seed": 5}),
        (*LAYER, "blend", "shadow_angle_deg", 45),
        ("layers", 1, {"kind": "insert", "hidden": True}),
    )
    layer = request.layers[0]
    assert (request.frame_range, request.sampling.seed, len(request.layers), warnings) == ((2, 8), 5, 1, [])
    assert (request.clip.num_frames, request.clip.hw) == (NUM_FRAMES, HW)
    np.testing.assert_allclose(layer.boxes.boxes_px[0], np.array([0.1, 0.2, 0.4, 0.8]) * [96, 64, 96, 64], atol=1e-4)
    np.testing.assert_allclose(layer.trajectories.points_px[0, 11], [0.65 * 96, 0.35 * 64], atol=1e-4)
    np.testing.assert_allclose(layer.trajectories.anchors_px, [[20, 8]])
    assert dict(layer.references[0].points_px) == {"top": (20.0, 8.0), "left": (8.0, 20.0)}
    assert layer.blend == BlendSettings(0, 0, 45, 0, 0.5, 0, 0, 0, 1)
    assert isinstance(layer.blend.shadow_angle_deg, float)
    assert layer.references[0].note


def test_equal_documents_have_equal_digests_and_others_do_not(folder):
    digests = {
        built(folder, *steps)[0].digest()
        for steps in ([], [("engine", {"seed": 1})], [(*LAYER, "boxes", "0", "box", [0.1, 0.2, 0.4, 0.81])], [("range", [0, 11])])
    }
    assert len(digests) == 4 and built(folder)[0].digest() in digests


def test_a_holdout_from_a_picture_and_from_an_edit(folder):
    from PIL import Image

    from pipeline.masks import coco_mask, decode_rle, encode_rle

    mask = np.zeros(HW, np.uint8)
    mask[10:20, 30:40] = 255
    Image.fromarray(mask).save(folder / "front.png")
    edit = coco_mask(encode_rle(np.roll(mask, 5, axis=1) > 0), HW)
    request, _ = built(folder, (*LAYER, "holdouts", [{"path": "front.png", "edits": {"3": edit}, "feather_px": 2}]))
    track = request.layers[0].holdouts[0]
    assert track.feather_px == 2.0
    assert (decode_rle(track.runs[0], HW) == (mask > 0)).all() and (decode_rle(track.runs[11], HW) == (mask > 0)).all()
    assert (decode_rle(track.runs[3], HW) == (np.roll(mask, 5, axis=1) > 0)).all()


def test_a_references_mask_limits_its_alpha(folder):
    from PIL import Image

    half = np.zeros((40, 40), np.uint8)
    half[:20] = 255
    Image.fromarray(half).save(folder / "half.png")
    request, _ = built(folder, (*LAYER, "references", 0, "mask", {"path": "half.png"}))
    alpha = request.layers[0].references[0].alpha
    assert alpha[:19].max() == 1 and alpha[22:].max() == 0
    shrunk, _ = built(folder, (*LAYER, "references", 0, "mask", {"path": "half.png", "grow_px": -5}))
    assert shrunk.layers[0].references[0].alpha[16:].max() < 0.5


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([(*LAYER, "boxes", "12", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["12"]: the clip has 12 frames, 0 to 11'),
        ([(*LAYER, "trajectories", 0, "keys", "99", [0, 0])], 'layers[0].trajectories[0].keys["99"]: the clip has 12 frames'),
        ([(*LAYER, "trajectories", 0, "visible", [[0, 13]])], "layers[0].trajectories[0].visible: the clip has 12 frames"),
        ([("range", [0, 13])], "range: the clip has 12 frames"),
        ([(*LAYER, "boxes", "0", "box", [0.1, 0.1, 0.105, 0.9])], 'layers[0].boxes["0"].box: the box is less than one pixel'),
        ([("clip", "sha256", "0" * 64)], 'clip.sha256: "clip.mp4" is not the file'),
        ([(*LAYER, "references", 0, "sha256", "0" * 64)], 'layers[0].references[0].sha256: "ball.png" is not the file'),
        ([("clip", "path", "none.mp4")], 'clip.path: the file "none.mp4" cannot be found'),
        ([(*LAYER, "references", 0, "path", "none.png")], "layers[0].references[0].path: "),
        ([(*LAYER, "references", 0, "path", "clip.mp4")], "layers[0].references[0]: "),
        ([(*LAYER, "holdouts", [{"path": "../front.png"}])], "layers[0].holdouts[0].path: "),
        ([("clip", "path", "ball.png")], "clip.path: ball.png"),
        (
            [
                (*LAYER, "references", 0, "points", "left", [0.51, 0.2]),
                (*LAYER, "trajectories", 1, {"point": "left", "keys": {"0": [0, 0]}}),
            ],
            "layers[0].trajectories: The points 'top' and 'left' lie less than 2 px apart",
        ),
        (
            [(*LAYER, "trajectories", ...), (*LAYER, "boxes", {"0": {"box": [1.1, 0, 1.5, 1]}})],
            "layers[0].boxes: the object touches the picture in no frame",
        ),
        (
            [(*LAYER, {**REMOVE, "target": {"prompts": {"12": {"clicks": [[0.5, 0.5, 1]]}}}})],
            'layers[0].target.prompts["12"]: the clip has 12 frames',
        ),
        (
            [(*LAYER, {**REMOVE, "target": {"prompts": {"0": {"box": [0, 0, 1, 1]}}, "edits": {"12": EDIT}}})],
            'layers[0].target.edits["12"]: the clip has 12 frames',
        ),
        ([(*LAYER, "follow", {"kind": "homography", "key_frame": 12})], "layers[0].follow.key_frame: the clip has 12 frames"),
        (
            [(*LAYER, "references", 0, "mask", {"edits": {"1": EDIT}})],
            'layers[0].references[0].mask.edits["1"]: a picture has only',
        ),
        (
            [(*LAYER, "references", 0, "mask", {"edits": {"0": EDIT}})],
            "layers[0].references[0].mask: What was painted on the picture does not fit",
        ),
        ([(*LAYER, "holdouts", [{"edits": {"0": EDIT}}])], "layers[0].holdouts[0]: The mask edited at frame 0"),
    ],
)
def test_what_only_the_files_can_tell_is_refused_with_its_path(folder, steps, said):
    with pytest.raises(UserError) as caught:
        built(folder, *steps)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert str(folder) not in str(caught.value)


@pytest.mark.parametrize(
    "steps",
    [
        [
            (*LAYER, "trajectories", ...),
            ("range", [6, 12]),
            (*LAYER, "boxes", "11", "box", [1.2, 0, 1.5, 1]),
            (*LAYER, "boxes", "5", {"box": [1.2, 0, 1.5, 1]}),
        ],
        [("range", [0, 3]), (*LAYER, "boxes", {"8": {"box": [0, 0, 1, 1], "enter": True}})],
    ],
)
def test_a_layer_that_is_elsewhere_in_the_clip_refuses_no_part_of_it(folder, steps):
    request, warnings = built(folder, *steps)
    assert len(request.layers) == 1
    assert warnings == ["Layer 'ball' is in no frame of the range."]


def test_prompts_and_surfaces_are_left_to_be_resolved(folder):
    follow = {"kind": "similarity", "key_frame": 3, "points": [[0.5, 0.25]], "region": [0, 0, 0.5, 1]}
    prompts = {"7": {"box": [0.25, 0.5, 0.5, 0.75]}, "2": {"clicks": [[0.5, 0.25, 1], [0, 0, 0]]}}
    front = {"prompts": prompts, "grow_px": 2, "feather_px": 1.5}
    request, _ = built(folder, (*LAYER, "follow", follow), (*LAYER, "holdouts", [front]))
    pending = request.layers[0].pending
    assert pending.target is None and request.layers[0].holdouts == () and request.has_prompts
    assert pending.follow == Follow("similarity", 3, ((48.0, 16.0),), (0.0, 0.0, 48.0, 64.0))
    marked = pending.holdouts[0]
    assert list(marked.prompts) == [2, 7] and (marked.grow_px, marked.feather_px) == (2, 1.5)
    assert marked.prompts[2] == Prompt((Click(48.0, 16.0), Click(0.0, 0.0, False)))
    assert marked.prompts[7] == Prompt((), (24.0, 32.0, 48.0, 48.0))
    removal = {"kind": "remove", "target": {"prompts": prompts}}
    digests = set()
    for name in ("auto", "fallback"):
        request, _ = built(folder, (*LAYER, removal), ("segmenter", {"name": name}))
        assert request.layers[0].target is None and request.layers[0].pending.target is not None
        digests |= {request.digest(), dataclasses.replace(request, segmenter=SegmenterChoice(name, "weights 7")).digest()}
    assert len(digests) == 4


def test_a_box_that_only_grazes_the_picture_is_fine(folder):
    built(folder, (*LAYER, "trajectories", ...), (*LAYER, "boxes", {"11": {"box": [0.99, 0.2, 1.4, 0.8], "enter": True}}))


def test_what_is_hardly_meant_is_a_warning(folder):
    late = {"point": "left", "keys": {"0": [0.2, 0.5]}, "visible": [[10, 12]]}
    _, warnings = built(folder, ("range", [0, 6]), (*LAYER, "blend", "opacity", 0), (*LAYER, "trajectories", 1, late))
    assert warnings == [
        "Layer 'ball' is invisible: its opacity is 0.",
        "Layer 'ball': the point 'left' moves nothing, as it is visible in no frame.",
    ]


def test_pictures_are_opened_once_and_bounded_together(folder, monkeypatch):
    from pipeline import images

    opened = []
    read_image = images.read_image
    monkeypatch.setattr(images, "read_image", lambda path: (opened.append(path), read_image(path))[1])
    twice = ("layers", 1, DOCUMENT["layers"][0])
    built(folder, twice)
    assert opened == [folder / "ball.png"]
    (folder / "other.png").write_bytes((folder / "ball.png").read_bytes())
    other = changed(DOCUMENT["layers"][0], ("references", 0, "path", "other.png"))
    monkeypatch.setattr(rooms, "MAX_REFERENCE_PIXELS", 2000)
    built(folder, twice)
    with pytest.raises(UserError, match=r"layers\[1\]\.references\[0\]\.path: the pictures of all layers"):
        built(folder, ("layers", 1, other))


short_frames = st.integers(0, NUM_FRAMES - 1).map(str)
short_boxes = st.dictionaries(short_frames, objects({"box": boxes(-1, 2)}, ease=eases, enter=st.booleans()), max_size=3)
short_keys = st.dictionaries(short_frames, points(-1, 2), min_size=1, max_size=3)
placed = st.lists(st.tuples(points(0, 1), short_keys, eases), max_size=5)


@settings(quietly, max_examples=80)
@given(short_boxes, placed, st.sampled_from(["contain", "stretch"]), st.sampled_from(["auto", "perspective"]))
def test_any_checked_document_makes_a_request_or_a_user_error(folder, box_keys, trajectories, fit, deform):
    anchors = {f"p{index}": anchor for index, (anchor, _, _) in enumerate(trajectories)}
    moves = [{"point": f"p{index}", "keys": keys, "ease": ease} for index, (_, keys, ease) in enumerate(trajectories)]
    layer = {"kind": "insert", "references": [{"path": "ball.png", "points": anchors}], "fit": fit, "deform": deform}
    document = changed(DOCUMENT, (*LAYER, {**layer, "boxes": box_keys, "trajectories": moves}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "probe_clip", lambda path, limits: probed(path))
        try:
            request, _ = build_request(parse_project(document), folder)
        except UserError as error:
            assert str(error).startswith("layers[0].")
        else:
            assert request.digest()


@functools.cache
def probed(path: Path):
    return probe_clip(path)


def test_limits_are_those_that_are_given(folder):
    with pytest.raises(UserError, match=r"clip\.mp4"):
        build_request(parse_project(DOCUMENT), folder, limits=MediaLimits(max_width=64))


def test_a_cut_off_clip_needs_a_range(folder, tmp_path):
    from ..tiny import make_clip

    whole = make_clip(tmp_path / "whole.mkv", num_frames=40, options={"g": "1", "bf": "0"})
    data = whole.read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UserError, match="last good one is frame"):
        built(folder, ("clip", "path", "cut.mkv"))
    request, _ = built(folder, ("clip", "path", "cut.mkv"), ("range", [0, 12]))
    assert request.frame_range == (0, 12) and request.clip.num_frames < 40


# -- what a result carries -------------------------------------------------------------------------------------------------------


def test_a_result_carries_names_and_hashes_but_no_folders(folder):
    import hashlib

    document = changed(DOCUMENT, ("clip", "path", str(folder / "clip.mp4")), ("layers", 1, {"kind": "insert", "hidden": True}))
    project = parse_project(document)
    carried = project.for_result(folder, allow_absolute=True).to_document()
    assert str(folder) not in json.dumps(carried) and len(carried["layers"]) == 1
    assert carried["clip"] == {"path": "clip.mp4", "sha256": hashlib.sha256((folder / "clip.mp4").read_bytes()).hexdigest()}
    assert carried["layers"][0]["references"][0]["sha256"] == hashlib.sha256((folder / "ball.png").read_bytes()).hexdigest()
    again, _ = build_request(parse_project(carried), folder)
    assert again.digest() == build_request(project, folder, allow_absolute=True)[0].digest()
    hidden = {"kind": "remove", "hidden": True, "target": {"path": "ball.png"}, "holdouts": [{"path": "none.png"}]}
    project = parse_project(changed(document, ("layers", 1, hidden)))
    assert project.source_paths(folder, allow_absolute=True) == (folder / "clip.mp4", folder / "ball.png", folder / "ball.png")


def test_a_project_file_is_read_from_disk(folder, tmp_path):
    assert read_project(write_project(folder)).to_document() == DOCUMENT
    with pytest.raises(UserError, match="cannot be read"):
        read_project(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_project(tmp_path)
