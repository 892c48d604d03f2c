"""The steps are pure, undo is exact, and what they make is a project file that ``pipeline.project`` accepts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editor import session as steps
from editor.session import EditSession
from pipeline.errors import UserError
from pipeline.project import missing_parts, parse_project

SHA = "a" * 64
NUM_FRAMES = 24

unit = st.floats(0, 1, allow_nan=False)
point = st.tuples(unit, unit)
edit = st.one_of(
    st.builds(lambda a, b: lambda s: steps.set_box(s, "start", (a[0], a[1], b[0] + 1.1, b[1] + 1.1), NUM_FRAMES), point, point),
    st.builds(lambda a, b: lambda s: steps.set_box(s, "end", (a[0], a[1], b[0] + 1.1, b[1] + 1.1), NUM_FRAMES), point, point),
    st.builds(lambda f, p: lambda s: steps.add_path_node(s, f, p), st.integers(0, NUM_FRAMES - 1), point),
    st.builds(lambda f: lambda s: steps.remove_path_node(s, f), st.integers(0, NUM_FRAMES - 1)),
    st.builds(lambda p: lambda s: steps.set_anchor(s, p), point),
    st.builds(lambda v: lambda s: steps.set_blend(s, "shadow", v), unit),
    st.builds(lambda p: lambda s: steps.place_corner(s, "start", p, NUM_FRAMES), point),
    st.sampled_from([steps.clear_path, steps.clear_boxes, lambda s: steps.set_reference(s, "b.png", SHA, (0.2, 0.3))]),
)


def begun() -> EditSession:
    return steps.set_reference(steps.set_clip(EditSession(), "street.mp4", SHA), "cup.png", SHA, (0.5, 0.4))


def applied(session: EditSession, edits) -> EditSession:
    for one in edits:
        try:
            session = one(session)
        except UserError:  # two clicks on one spot make no box
            session = steps.drop_corner(session)
    return session


@settings(max_examples=60, deadline=None)
@given(st.lists(edit, min_size=20, max_size=20))
def test_twenty_edits_undone_and_redone_restore_the_identical_document(edits):
    start = begun()
    done = applied(start, edits)
    count = len(done.past) - len(start.past)
    back = done
    for _ in range(count):
        back = steps.undo(back)
    assert back.text == start.text
    for _ in range(count):
        back = steps.redo(back)
    assert back.text == done.text and back.past == done.past


@settings(max_examples=60, deadline=None)
@given(st.lists(edit, min_size=1, max_size=12))
def test_whatever_the_steps_make_is_a_valid_project(edits):
    document = applied(begun(), edits).document
    assert parse_project(document).to_document() == document


def test_a_complete_session_has_nothing_missing_in_the_project_either():
    session = steps.set_box(begun(), "start", (0.1, 0.1, 0.4, 0.5), NUM_FRAMES)
    session = steps.add_path_node(steps.set_box(session, "end", (0.6, 0.1, 0.9, 0.5), NUM_FRAMES), 12, (0.5, 0.9))
    assert steps.find_gaps(session.document).first is None
    assert missing_parts(parse_project(session.document)) == []


def test_gaps_are_told_in_the_order_of_the_work():
    session = EditSession()
    assert steps.find_gaps(session.document).first == "Add a video to begin."
    session = steps.set_clip(session, "street.mp4", SHA)
    assert steps.find_gaps(session.document).first == "Add a picture of the thing to insert."
    session = steps.set_reference(session, "cup.png", SHA, (0.5, 0.5))
    assert "start box" in steps.find_gaps(session.document).first
    session = steps.add_path_node(session, 0, (0.5, 0.5))
    assert "place the start box as well" in steps.find_gaps(session.document).first


def test_two_clicks_make_a_box_whatever_corner_comes_first():
    session = steps.place_corner(begun(), "start", (0.6, 0.7), NUM_FRAMES)
    assert session.corner == (0.6, 0.7) and session.text == begun().text
    session = steps.place_corner(session, "start", (0.2, 0.3), NUM_FRAMES)
    assert session.corner is None
    assert steps.find_box(session.document, "start") == (0.2, 0.3, 0.6, 0.7)
    assert list(session.layer["boxes"]) == ["0"]


def test_start_and_end_box_are_the_first_and_last_key():
    session = begun()
    assert steps.box_frame(session.document, "start", NUM_FRAMES) == 0
    assert steps.box_frame(session.document, "end", NUM_FRAMES) == NUM_FRAMES - 1
    document = session.document
    document["range"] = [4, 20]
    document["layers"][0]["boxes"] = {"6": {"box": [0, 0, 1, 1], "rotation_deg": 5}, "9": {"box": [0, 0, 0.5, 0.5], "ease": "hold"}}
    session = steps.open_document(session, document)
    assert [steps.box_frame(session.document, end, NUM_FRAMES) for end in ("start", "end")] == [6, 9]
    moved = steps.set_box(session, "end", (0.1, 0.1, 0.2, 0.2), NUM_FRAMES)
    assert moved.layer["boxes"]["9"] == {"box": [0.1, 0.1, 0.2, 0.2], "ease": "hold"}, "the key keeps what else it says"
    assert moved.layer["boxes"]["6"] == document["layers"][0]["boxes"]["6"]


@pytest.mark.parametrize("corners", [(0.1, 0.1, 0.1, 0.5), (0.1, 0.1, 0.5, 0.1), (0, 0, 9, 9), (-1.5, 0, 0.5, 0.5)])
def test_impossible_boxes_are_refused(corners):
    with pytest.raises(UserError):
        steps.set_box(begun(), "start", corners, NUM_FRAMES)


def test_path_nodes_are_kept_in_order_and_the_last_one_takes_the_path_with_it():
    session = begun()
    for frame in (9, 0, 20):
        session = steps.add_path_node(session, frame, (0.1, frame / 24))
    assert list(steps.find_path(session.document)) == [0, 9, 20]
    assert session.layer["references"][0]["points"] == {"path": [0.5, 0.4]}
    for frame in (0, 9, 20):
        session = steps.remove_path_node(session, frame)
    assert "trajectories" not in session.layer


def test_a_path_drawn_before_the_reference_is_kept_when_it_comes():
    session = steps.add_path_node(steps.set_clip(EditSession(), "street.mp4", SHA), 3, (0.2, 0.2))
    session = steps.set_reference(session, "cup.png", SHA, (0.25, 0.75))
    assert steps.find_path(session.document) == {3: (0.2, 0.2)}
    assert steps.find_anchor(session.document) == (0.25, 0.75)
    parse_project(session.document)


def test_another_clip_takes_range_and_motion_away_and_leaves_the_reference():
    session = steps.set_box(begun(), "start", (0.1, 0.1, 0.4, 0.5), NUM_FRAMES)
    session = steps.set_clip(steps.add_path_node(session, 1, (0.5, 0.5)), "other.mp4", SHA)
    assert session.document["clip"]["path"] == "other.mp4"
    assert set(session.layer) == {"name", "kind", "references"}
    assert steps.undo(session).layer["boxes"]


def test_an_edit_that_changes_nothing_is_no_step_and_a_new_edit_ends_redo():
    session = steps.set_blend(begun(), "shadow", 0.25)
    assert steps.set_blend(session, "shadow", 0.25) == session
    undone = steps.undo(session)
    assert undone.future and not steps.set_blend(undone, "grain", 0.5).future


@pytest.mark.parametrize(("key", "value"), [("shadow", 1.01), ("shadow", -0.1), ("nonsense", 0.5), ("feather_px", 1e9)])
def test_blend_values_outside_their_range_are_refused(key, value):
    with pytest.raises(UserError):
        steps.set_blend(begun(), key, value)


def test_the_blend_defaults_are_those_of_the_project_file():
    blend = parse_project(begun().document).layers[0].blend
    assert steps.find_blend(begun().document) == {item.key: getattr(blend, item.key) for item in steps.BLEND_CONTROLS}
    for item in steps.BLEND_CONTROLS:
        for value in (item.low, item.high):
            parse_project(steps.set_blend(begun(), item.key, value).document)


def test_history_is_bounded_and_sessions_never_share_what_they_hold():
    session = begun()
    for number in range(steps.MAX_UNDO + 30):
        session = steps.add_path_node(session, 0, (0.5, number / 1000))
    assert len(session.past) == steps.MAX_UNDO
    session.document["layers"].clear()
    assert session.document["layers"], "a document is a copy"


def test_every_file_that_a_document_names_is_found():
    layer = {
        "references": [{"path": "a.png", "mask": {"path": "m.png"}}, {"path": "a.png"}],
        "target": {"path": "t.mkv"},
        "holdouts": [{"path": "h.mkv"}],
    }
    document = {"clip": {"path": "c.mp4"}, "layers": [layer]}
    assert steps.find_file_names(document) == ["c.mp4", "a.png", "m.png", "t.mkv", "h.mkv"]


def test_texts_refuse_what_json_cannot_say():
    with pytest.raises(ValueError):
        steps.encode_document({"version": float("nan")})
    assert json.loads(EditSession().text)["version"] == 1
