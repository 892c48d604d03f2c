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


def draw_box(session: EditSession, frame: int, corner: tuple[float, float]) -> EditSession:
    """As the canvas does: another document, as one step."""
    document = session.document
    x, y = corner
    document["layers"][0].setdefault("boxes", {})[str(frame)] = {"box": [x, y, x + 0.5, y + 0.25]}
    return steps.open_document(session, document)


edit = st.one_of(
    st.builds(lambda f, p: lambda s: draw_box(s, f, p), st.integers(0, NUM_FRAMES - 1), point),
    st.builds(lambda v: lambda s: steps.set_blend(s, 0, "shadow", v), unit),
    st.builds(lambda p: lambda s: steps.set_reference(s, 0, "b.png", SHA, {"p1": p}), point),
    st.builds(lambda n: lambda s: steps.set_clip(s, n, SHA), st.text('aé你 "\\', min_size=1, max_size=20)),
)


def begun() -> EditSession:
    return steps.set_reference(steps.set_clip(EditSession(), "street.mp4", SHA), 0, "cup.png", SHA, {"p1": (0.5, 0.4)})


def applied(session: EditSession, edits) -> EditSession:
    for one in edits:
        session = one(session)
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


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_a_patch_leads_from_any_text_to_any_other(old, new):
    assert steps._patched(old, steps._find_patch(old, new)) == new


def test_the_way_back_over_long_documents_stays_short():
    """A long freehand path in the document: forty small edits are kept as forty small patches."""
    document = begun().document
    keys = {str(frame): [frame / 7000, 0.123456] for frame in range(5000)}
    document["layers"][0]["trajectories"] = [{"point": "p1", "keys": keys}]
    session = steps.open_document(begun(), document)
    start = session
    for number in range(40):
        session = draw_box(session, number % 3, (number / 100, 0.1))
    assert sum(len(patch.text) for patch in session.past[-40:]) < 0.05 * len(session.text)
    for _ in range(40):
        session = steps.undo(session)
    assert session.text == start.text


def test_what_undo_may_keep_is_bounded():
    session = begun()
    for number in range(12):
        document = session.document
        document["layers"][0]["name"] = str(number) * 600_000
        session = steps.open_document(session, document)
    assert 1 < len(session.past) < 8
    assert sum(len(patch.text) for patch in session.past) <= steps.MAX_UNDO_CHARS


def test_a_complete_session_has_nothing_missing_in_the_project_either():
    session = draw_box(begun(), 0, (0.1, 0.1))
    assert steps.find_gaps(session.document).first is None
    assert missing_parts(parse_project(session.document)) == []


def test_gaps_are_told_in_the_order_of_the_work():
    session = EditSession()
    assert steps.find_gaps(session.document).first == "Add a video to begin."
    session = steps.set_clip(session, "street.mp4", SHA)
    assert steps.find_gaps(session.document).first == "Draw a box where the object should be."
    document = session.document
    document["layers"][0]["trajectories"] = [{"point": "p1", "keys": {"0": [0.5, 0.5]}}]
    session = steps.open_document(session, document)
    assert "draw a box as well" in steps.find_gaps(session.document).first
    session = draw_box(session, 0, (0.1, 0.1))
    assert steps.find_gaps(session.document).first == "Add a picture of the thing to insert."


def test_a_path_drawn_before_the_reference_holds_its_middle_unless_told_otherwise():
    document = steps.set_clip(EditSession(), "street.mp4", SHA).document
    document["layers"][0]["trajectories"] = [{"point": name, "keys": {"3": [0.2, 0.2]}} for name in ("p1", "p2")]
    session = steps.set_reference(steps.open_document(EditSession(), document), 0, "cup.png", SHA, {"p2": (0.25, 0.75)})
    assert session.document["layers"][0]["references"][0]["points"] == {"p1": [0.5, 0.5], "p2": [0.25, 0.75]}
    parse_project(session.document)


def test_another_clip_takes_range_and_motion_away_and_leaves_the_reference():
    session = steps.set_clip(draw_box(begun(), 0, (0.1, 0.1)), "other.mp4", SHA)
    assert session.document["clip"]["path"] == "other.mp4"
    assert set(session.document["layers"][0]) == {"name", "kind", "references"}
    assert steps.undo(session).document["layers"][0]["boxes"]


def test_an_edit_that_changes_nothing_is_no_step_and_a_new_edit_ends_redo():
    session = steps.set_blend(begun(), 0, "shadow", 0.25)
    assert steps.set_blend(session, 0, "shadow", 0.25) == session
    undone = steps.undo(session)
    assert undone.future and not steps.set_blend(undone, 0, "grain", 0.5).future


def test_a_slider_that_is_dragged_is_one_step_of_undo():
    session = begun()
    for value in (0.2, 0.3, 0.4):
        session = steps.set_blend(session, 0, "shadow", value)
    session = steps.set_blend(session, 0, "grain", 0.5)
    assert len(session.past) == len(begun().past) + 2
    session = steps.undo(session)
    assert steps.find_blend(session.document, 0)["shadow"] == 0.4
    assert steps.undo(session).text == begun().text


@pytest.mark.parametrize(("key", "value"), [("shadow", 1.01), ("shadow", -0.1), ("nonsense", 0.5), ("feather_px", 1e9)])
def test_blend_values_outside_their_range_are_refused(key, value):
    with pytest.raises(UserError):
        steps.set_blend(begun(), 0, key, value)


def test_the_blend_defaults_are_those_of_the_project_file():
    blend = parse_project(begun().document).layers[0].blend
    assert steps.find_blend(begun().document, 0) == {item.key: getattr(blend, item.key) for item in steps.BLEND_CONTROLS}
    for item in steps.BLEND_CONTROLS:
        for value in (item.low, item.high):
            parse_project(steps.set_blend(begun(), 0, item.key, value).document)


def test_history_is_bounded_and_sessions_never_share_what_they_hold():
    session = begun()
    for number in range(steps.MAX_UNDO + 30):
        session = draw_box(session, 0, (0.5, number / 1000))
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


def test_layers_that_replace_or_remove_want_a_target_before_anything_else():
    document = {"version": 1, "clip": {"path": "a.mp4"}, "layers": [{"name": "cup", "kind": "replace"}]}
    assert steps.find_gaps(document).first == "Click the thing to replace."
    document["layers"][0]["target"] = {"prompts": {"3": {"clicks": [[0.5, 0.5, 1]]}}}
    assert steps.find_gaps(document).first == "Add a picture of the thing to insert."
    document["layers"].append({"name": "post", "kind": "remove"})
    assert steps.find_gaps(document).target == "post: click the thing to remove."
    document["layers"] = [{"name": "post", "kind": "remove", "target": {"path": "mask.png"}}]
    assert steps.find_gaps(document).first is None
