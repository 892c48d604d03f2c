"""The canvas in a real browser, by mouse, keyboard and touch; what is on the screen is compared with what is in the document."""

import random

import numpy as np
import pytest

from pipeline.motion import BoxKey, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.project import parse_project
from tests.editor.canvas.bench import Hand, serving_canvas
from tests.tiny import make_clip

NUM_FRAMES, HW = 60, (180, 320)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    clip = make_clip(tmp_path_factory.mktemp("clip") / "street.mp4", num_frames=NUM_FRAMES, hw=HW, options={"g": "30"})
    with serving_canvas(clip) as running:
        yield running


def opened(chromium, served, **options):
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    tab = context.new_page()
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    hand = Hand(tab)
    hand.open(served.url)
    return context, hand, faults


@pytest.fixture
def hand(chromium, served):
    """A fresh document in a fresh tab. Fails when the browser's console shows an error."""
    served.host.reset()
    context, hand, faults = opened(chromium, served)
    yield hand
    context.close()
    assert faults == []


def layer_of(served, index=0):
    return served.host.document["layers"][index]


def three_keys(hand):
    """Keys at frames 0, 24 and 48: drawn, then moved, then moved and resized."""
    hand.drag((0.1, 0.2), (0.3, 0.6))
    hand.go(24)
    hand.drag((0.2, 0.4), (0.5, 0.5))
    hand.go(48)
    _, _, x1, y1 = hand.box()
    hand.drag((x1 / HW[1], y1 / HW[0]), (0.9, 0.95))


def test_three_keys_give_the_analytic_box_on_screen_and_in_the_file(hand, served):
    three_keys(hand)
    keys = layer_of(served)["boxes"]
    assert list(keys) == ["0", "24", "48"]
    made = build_box_sequence({int(f): BoxKey(tuple(k["box"])) for f, k in keys.items()}, HW, NUM_FRAMES)
    for frame, share, before, after in ((12, 0.5, "0", "24"), (36, 0.5, "24", "48")):
        hand.go(frame)
        a, b = (np.array(keys[name]["box"]) * [HW[1], HW[0], HW[1], HW[0]] for name in (before, after))
        centre = (1 - share) * (a[:2] + a[2:]) / 2 + share * (b[:2] + b[2:]) / 2
        size = np.exp((1 - share) * np.log(a[2:] - a[:2]) + share * np.log(b[2:] - b[:2]))
        analytic = np.concatenate([centre - size / 2, centre + size / 2])
        assert np.abs(np.array(hand.box()) - analytic).max() < 1
        assert np.abs(made.boxes_px[frame] - analytic).max() < 1


def test_the_box_that_is_drawn_is_the_box_in_the_document(hand, served):
    hand.drag((0.2, 0.25), (0.6, 0.75))
    assert np.abs(np.array(layer_of(served)["boxes"]["0"]["box"]) - [0.2, 0.25, 0.6, 0.75]).max() < 1 / 180
    hand.drag((0.4, 0.5), (0.5, 0.4))
    assert np.abs(np.array(layer_of(served)["boxes"]["0"]["box"]) - [0.3, 0.15, 0.7, 0.65]).max() < 1 / 180


def test_handles_turn_lock_and_nudge(hand, served):
    hand.drag((0.3, 0.3), (0.6, 0.8))
    hand.drag((0.6, 0.8), (0.75, 0.82), modifier="Shift")
    x0, y0, x1, y1 = hand.box()
    assert (x1 - x0) / (y1 - y0) == pytest.approx(0.3 * HW[1] / (0.5 * HW[0]), rel=0.02)
    hand.press("Alt+ArrowRight", "Alt+Shift+ArrowDown")
    moved = hand.box()
    assert np.allclose(moved, [x0 + 1, y0 + 10, x1 + 1, y1 + 10], atol=0.01)
    x0, y0, x1, y1 = hand.box()
    above = 26 / hand.js("c.stage.view.scale")
    spin = (x0 + x1) / 2, y0 - above, x1 + 60, (y0 + y1) / 2
    hand.drag((spin[0] / HW[1], spin[1] / HW[0]), (spin[2] / HW[1], spin[3] / HW[0]), steps=12)
    assert layer_of(served)["boxes"]["0"]["rotation_deg"] == pytest.approx(90, abs=1.5)


def test_a_freehand_stroke_fills_the_range_and_passes_through_its_nodes(hand, served):
    hand.press("d")
    hand.drag((0.2, 0.8), (0.4, 0.2), (0.6, 0.7), (0.8, 0.3), steps=15)
    trajectory = layer_of(served)["trajectories"][0]
    frames = [int(frame) for frame in trajectory["keys"]]
    assert frames[0] == 0 and frames[-1] == NUM_FRAMES - 1
    dense = np.array(hand.js("c.model.path(0, 0)"))
    assert dense.shape == (NUM_FRAMES, 2)
    for frame, at in trajectory["keys"].items():
        assert np.allclose(dense[int(frame)], at, atol=1e-6)
    keys = TrajectoryKeys("p1", {int(f): tuple(at) for f, at in trajectory["keys"].items()})
    made = build_trajectory_set([keys], {"p1": (1.0, 1.0)}, HW, NUM_FRAMES)
    assert np.abs(made.points_px[0] / [HW[1], HW[0]] - dense).max() < 1e-5
    assert np.allclose(dense[0], [0.2, 0.8], atol=0.01) and np.allclose(dense[-1], [0.8, 0.3], atol=0.01)


def test_a_path_by_clicks_its_nodes_dragged_with_neighbours_and_deleted(hand, served):
    hand.press("p")
    hand.click((0.2, 0.2))
    hand.go(20)
    hand.click((0.5, 0.5))
    hand.go(24)
    hand.click((0.6, 0.5))
    assert list(layer_of(served)["trajectories"][0]["keys"]) == ["0", "20", "24"]
    hand.press("v")
    hand.drag((0.6, 0.5), (0.6, 0.7))
    keys = layer_of(served)["trajectories"][0]["keys"]
    assert keys["24"] == pytest.approx([0.6, 0.7], abs=0.01)
    assert keys["20"][1] == pytest.approx(0.5 + 0.2 * 0.5 * (1 + np.cos(np.pi * 4 / 12)), abs=0.01)
    assert keys["0"] == pytest.approx([0.2, 0.2], abs=0.01)
    hand.press("Delete")
    assert list(layer_of(served)["trajectories"][0]["keys"]) == ["0", "20"]


def test_points_are_suggested_and_one_is_pinned_to_a_path_of_its_own(hand, served):
    three_keys(hand)
    hand.go(0)
    hand.tab.get_by_text("Suggest points").click()
    hand.settle()
    points = layer_of(served)["references"][0]["points"]
    assert list(points) == ["p1", "p2", "p3", "p4"]
    x, y = hand.js("c.stage.freePlaces(0, c.stage.meshOf(0)).find((each) => each.name === 'p2').at")
    hand.drag((x / HW[1], y / HW[0]), (x / HW[1] + 0.1, y / HW[0] + 0.05))
    trajectory = layer_of(served)["trajectories"][0]
    assert trajectory["point"] == "p2" and list(trajectory["keys"]) == ["0", "24", "48"]
    assert trajectory["keys"]["0"] == pytest.approx([x / HW[1] + 0.1, y / HW[0] + 0.05], abs=0.01)


def test_a_point_is_placed_on_the_reference_by_a_click(hand, served):
    picture = hand.tab.locator(".cv-picture canvas")
    picture.scroll_into_view_if_needed()
    place = picture.bounding_box()
    scale, x, y, width, height = hand.js(
        "((p) => [p.view.scale, p.view.x, p.view.y, p.reference.width, p.reference.height])(c.panel.reference)"
    )
    hand.tab.mouse.click(place["x"] + x + 0.25 * width * scale, place["y"] + y + 0.75 * height * scale)
    hand.settle()
    assert layer_of(served)["references"][0]["points"]["p1"] == pytest.approx([0.25, 0.75], abs=0.01)
    assert hand.js("c.model.point") == "p1"


def test_keys_are_dragged_copied_and_deleted_on_the_lane(hand, served):
    three_keys(hand)
    lane = hand.tab.locator(".cv-tracks").bounding_box()
    y = lane["y"] + hand.js("72 + 17")
    x = [lane["x"] + value for value in hand.js("[24, 30, 40].map((frame) => c.timeline.x(frame))")]
    hand.tab.mouse.move(x[0], y)
    hand.tab.mouse.down()
    hand.tab.mouse.move(x[1], y, steps=5)
    hand.tab.mouse.up()
    hand.settle()
    assert list(layer_of(served)["boxes"]) == ["0", "30", "48"]
    hand.tab.keyboard.press("Control+c")
    hand.go(40)
    hand.press("Control+v")
    boxes = layer_of(served)["boxes"]
    assert list(boxes) == ["0", "30", "40", "48"] and boxes["40"] == boxes["30"]
    hand.press("Delete")
    assert list(layer_of(served)["boxes"]) == ["0", "30", "48"]
    hand.press("k")
    assert list(layer_of(served)["boxes"]) == ["0", "30", "40", "48"]


def test_ease_presence_range_and_fields(hand, served):
    three_keys(hand)
    hand.go(24)
    hand.tab.get_by_role("radio", name="Smooth").first.click()
    hand.tab.get_by_text("Appears at this key").click()
    hand.settle()
    assert layer_of(served)["boxes"]["24"] | {"box": 0} == {"box": 0, "rotation_deg": 0, "ease": "smooth", "enter": True}
    hand.go(5)
    hand.press("i")
    hand.go(40)
    hand.press("u")
    assert served.host.document["range"] == [5, 41]
    hand.go(48)
    hand.tab.locator('[data-field="x"]').fill("20")
    hand.tab.keyboard.press("Enter")
    hand.settle()
    assert layer_of(served)["boxes"]["48"]["box"][0] == pytest.approx(20 / HW[1], abs=1e-5)


def test_twenty_random_edits_are_undone_to_the_identical_document(hand, served):
    before = repr(served.host.document)
    dice = random.Random(7)
    while len(served.host.past) < 20:
        a = (dice.uniform(0.1, 0.8), dice.uniform(0.1, 0.8))
        b = (dice.uniform(0.1, 0.8), dice.uniform(0.1, 0.8))
        hand.press(dice.choice("vbpd"))
        hand.drag(a, b, steps=4)
        hand.go(dice.randrange(NUM_FRAMES))
    hand.press("v", *["Control+z"] * len(served.host.past))
    assert repr(served.host.document) == before
    assert served.host.past == []


def test_playing_walks_the_range_and_stops_for_an_edit(hand, served):
    three_keys(hand)
    hand.go(0)
    hand.press("Space")
    hand.tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.frame > 12")
    assert hand.js("c.player.isPlaying")
    hand.tab.keyboard.press("ArrowRight")
    assert not hand.js("c.player.isPlaying")


def test_the_animatic_is_drawn_where_the_motion_puts_the_object(hand, served):
    three_keys(hand)
    hand.go(12)
    mesh = np.array(hand.js("Array.from(c.meshes.find(0, 12).vertices)")).reshape(-1, 2) * [HW[1], HW[0]]
    x0, y0, x1, y1 = hand.box()
    assert np.allclose((mesh.min(axis=0) + mesh.max(axis=0)) / 2, [(x0 + x1) / 2, (y0 + y1) / 2], atol=0.5)
    scale = min((x1 - x0) / 60, (y1 - y0) / 100)
    assert np.allclose(np.ptp(mesh, axis=0), [60 * scale, 100 * scale], atol=0.5)


def test_zoom_keeps_the_place_under_the_pointer(hand):
    hand.drag((0.2, 0.2), (0.6, 0.7))
    place = hand.at((0.3, 0.4))
    hand.tab.mouse.move(*place)
    hand.tab.mouse.wheel(0, -300)
    hand.settle()
    assert hand.js("c.stage.percent") > 120
    assert hand.at((0.3, 0.4)) == pytest.approx(place, abs=1)  # wheel events come in whole pixels
    hand.press("0")
    assert hand.js("c.stage.isFitted")


def test_touch_draws_and_pinches_on_a_small_screen(chromium, served):
    served.host.reset()
    context, hand, faults = opened(chromium, served, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    wire = context.new_cdp_session(hand.tab)

    def touch(kind, *points):
        spots = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
        wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots})

    touch("touchStart", hand.at((0.2, 0.2)))
    for share in (0.3, 0.5, 0.7):
        touch("touchMove", hand.at((share, share)))
    touch("touchEnd")
    hand.settle()
    assert layer_of(served)["boxes"]["0"]["box"] == pytest.approx([0.2, 0.2, 0.7, 0.7], abs=0.02)
    before = hand.js("c.stage.view.scale")
    a, b = hand.at((0.4, 0.5)), hand.at((0.6, 0.5))
    touch("touchStart", a, b)
    touch("touchMove", (a[0] - 40, a[1]), (b[0] + 40, b[1]))
    touch("touchEnd")
    assert hand.js("c.stage.view.scale") > 1.2 * before
    assert hand.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    inner = "(() => { const s = document.querySelector('.cv-stage').getBoundingClientRect(); return [s.left, s.right]; })()"
    left, right = hand.tab.evaluate(inner)
    assert 0 <= left < right <= 390 - 12
    small = hand.tab.evaluate(
        "[...document.querySelectorAll('.cv-root button')].filter((b) => b.offsetParent)"
        ".filter((b) => Math.min(b.offsetHeight, b.offsetWidth) < 32).map((b) => b.outerHTML.slice(0, 80))"
    )
    assert small == []
    context.close()
    assert faults == []


def test_a_monkey_finds_no_fault(hand, served):
    dice = random.Random(3)
    keys = [
        "v",
        "b",
        "p",
        "d",
        "h",
        "k",
        "Delete",
        "Control+z",
        "Control+y",
        "o",
        "a",
        "l",
        "Space",
        "ArrowRight",
        "Shift+ArrowLeft",
    ]
    keys += ["Home", "End", ",", ".", "i", "u", "n", "Escape", "Control+c", "Control+v", "Alt+ArrowUp", "+", "-", "0"]
    area = hand.tab.locator(".cv-root").bounding_box()

    def inside():
        return area["x"] + dice.random() * area["width"], area["y"] + dice.random() * min(area["height"], 880)

    for _ in range(150):
        if dice.random() < 0.45:
            hand.tab.keyboard.press(dice.choice(keys))
            continue
        hand.tab.mouse.move(*inside())
        hand.tab.mouse.down()
        hand.tab.mouse.move(*inside(), steps=3)
        if dice.random() < 0.15:
            hand.tab.keyboard.press(dice.choice(keys))
        hand.tab.mouse.up()
        if dice.random() < 0.2:
            hand.tab.mouse.wheel(dice.uniform(-50, 50), dice.uniform(-400, 400))
        parse_project(served.host.document)
    hand.tab.keyboard.press("Escape")
    hand.tab.wait_for_function("() => !document.querySelector('.cv-root').canvas.link.isBusy")
    parse_project(served.host.document)


def test_the_canvas_finds_its_frames_again_after_the_server_forgot_their_addresses(chromium, served):
    served.host.reset()
    context, hand, faults = opened(chromium, served)
    hand.drag((0.2, 0.2), (0.6, 0.7))
    served.canvas.desk.forget(served.host.token)
    hand.js("c.lookAgain(50)")
    hand.go(33)
    context.close()
    assert all("404" in fault for fault in faults)
