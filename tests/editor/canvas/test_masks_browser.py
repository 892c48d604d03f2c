"""Picking a thing in a real browser: clicks by mouse and touch, the mask on the screen, tracks, the brush, files, undo, reload."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from pipeline.media import probe_clip
from pipeline.project import parse_project
from tests.editor.canvas.bench import Hand, serving_canvas
from tests.editor.canvas.colour_segmenter import HW, ColourSegmenter, Segmenters, make_square_clip, square_at

NUM_FRAMES = 36
BLUE = (142 / HW[1], 105 / HW[0])
GROUND = (0.1, 0.9)


@pytest.fixture(scope="module")
def segmenter():
    return ColourSegmenter()


@pytest.fixture(scope="module")
def served(tmp_path_factory, segmenter):
    clip = make_square_clip(tmp_path_factory.mktemp("clip") / "squares.mp4", NUM_FRAMES)
    with serving_canvas(clip, segmenters=Segmenters(segmenter)) as running:
        yield running


class Picker(Hand):
    """Somebody who picks things."""

    def done(self):
        """Wait until the masks that are looked at are there."""
        self.settle()
        self.tab.wait_for_function(
            "() => { const c = document.querySelector('.cv-root').canvas;"
            " return !c.masks.isBusy && !c.masks.isWanted && c.masks.isFresh && !c.masks.isTracking && c.dirty.size === 0; }"
        )

    def colour(self, point):
        """What is on the screen at a place of the picture."""
        picture = Image.open(io.BytesIO(self.tab.screenshot())).convert("RGB")
        return np.array(picture.getpixel(tuple(round(value) for value in self.at(point))), int)

    def replace(self):
        self.tab.get_by_role("radio", name="Replace", exact=True).click()
        self.settle()

    def flags(self, name="target"):
        return self.js(f"Array.from(c.masks.flags(0, {name!r}) ?? [])")

    def told(self, text):
        self.tab.wait_for_function(f"() => document.querySelector('.cv-toast').textContent.includes({text!r})")


def open_tab(chromium, served, **options):
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, "accept_downloads": True, **options})
    hand = Picker(context.new_page())
    faults = []
    hand.tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    hand.tab.on("pageerror", lambda error: faults.append(str(error)))
    hand.open(served.url)
    return context, hand, faults


@pytest.fixture
def hand(chromium, served, segmenter):
    served.host.reset()
    served.canvas.masks.forget(served.host.token)
    segmenter.pause_s = 0
    context, picker, faults = open_tab(chromium, served)
    yield picker
    context.close()
    assert faults == []


def target_of(served):
    return served.host.document["layers"][0].get("target")


def red_at(frame):
    x0, y0, x1, y1 = square_at(frame)
    return (x0 + x1) / 2 / HW[1], (y0 + y1) / 2 / HW[0]


def test_a_click_shows_the_mask_and_a_click_on_the_mark_takes_it_away(hand, served):
    hand.replace()
    assert hand.js("c.model.options.tool") == "mask" and "Click the thing to replace" in hand.tab.locator(".cv-hint").inner_text()
    before, ground = hand.colour((BLUE[0] + 0.03, BLUE[1])), hand.colour(GROUND)
    hand.click(BLUE)
    hand.done()
    assert target_of(served)["prompts"]["0"]["clicks"][0][:2] == pytest.approx(BLUE, abs=0.01)
    tinted = hand.colour((BLUE[0] + 0.03, BLUE[1]))
    assert tinted[0] > before[0] + 60, "the thing is tinted on the screen"
    assert np.abs(hand.colour(GROUND) - ground).max() < 8, "and nothing else is"
    mark = hand.colour((BLUE[0] - 0.006, BLUE[1] - 0.006))
    assert mark[1] > mark[0] and mark[1] > mark[2], "the mark is green"
    hand.click(BLUE)
    hand.done()
    assert target_of(served) is None
    assert np.abs(hand.colour((BLUE[0] + 0.03, BLUE[1])) - before).max() < 8


def test_the_right_button_and_the_toggle_take_away_and_a_box_marks_the_whole(hand, served):
    hand.replace()
    hand.drag((0.1, 0.3), (0.35, 0.6))
    hand.done()
    assert target_of(served)["prompts"]["0"]["box"] == pytest.approx([0.1, 0.3, 0.35, 0.6], abs=0.02)
    hand.tab.mouse.click(*hand.at((0.5, 0.5)), button="right")
    hand.settle()
    hand.press("x")
    hand.click((0.6, 0.6))
    assert [click[2] for click in target_of(served)["prompts"]["0"]["clicks"]] == [0, 0]
    hand.go(9)
    hand.click((0.5, 0.2))
    hand.told("Click on the thing itself at frame 9 first")
    assert list(target_of(served)["prompts"]) == ["0"]


def test_a_track_streams_in_stops_goes_on_and_a_correction_leaves_the_old_masks_in_sight(hand, served, segmenter):
    hand.replace()
    hand.click(red_at(0))
    hand.done()
    segmenter.pause_s = 0.04
    hand.tab.locator('[data-track="forward"]').click()
    hand.tab.wait_for_function("() => document.querySelector('.cv-root').canvas.masks.job?.made >= 5")
    hand.tab.get_by_role("button", name="Stop").click()
    hand.done()
    hand.told("Stopped")
    assert hand.tab.locator('[data-part="mask"] [data-told]').inner_text().startswith("Stopped"), "which stays after the toast"
    kept = sum(flag & 1 for flag in hand.flags())
    assert 5 <= kept < NUM_FRAMES
    segmenter.pause_s = 0
    hand.tab.locator('[data-track="forward"]').click()
    hand.done()
    assert all(flag & 1 for flag in hand.flags())
    hand.go(18)
    hand.done()
    edge = ((square_at(18)[0] + 3) / HW[1], red_at(18)[1])
    assert hand.colour(edge)[2] > 45, "the mask is on the screen at a tracked frame"
    hand.press("x")
    hand.tab.mouse.click(*hand.at(red_at(18)))
    hand.settle()
    hand.press("x")
    hand.click(red_at(18))
    hand.done()
    flags = hand.flags()
    assert not flags[0] & 2 and all(flag & 2 for flag in flags[1:18]) and all(flag & 2 for flag in flags[19:])
    hand.go(10)
    hand.done()
    middle = red_at(10)
    shades = {tuple(hand.colour((middle[0] + dx, middle[1]))) for dx in (0, 0.02, 0.04, 0.06)}
    assert len(shades) > 1, "an old mask is hatched"
    hand.press("Control+z")
    hand.done()
    assert not any(flag & 2 for flag in hand.flags())
    hand.tab.reload()
    hand.tab.wait_for_selector('.cv-stage[data-painted-frame="0"]')
    hand.press("s")
    hand.done()
    assert all(flag & 1 for flag in hand.flags()), "masks survive a reload"


def test_brush_eraser_mending_and_files(hand, served, tmp_path):
    hand.press("s")
    assert hand.js("c.model.maskName") == 0, "a layer that inserts has things in front"
    hand.tab.locator('[data-pick="brush"]').click()
    before = hand.js("c.model.options.brush")
    hand.press("]", "]")
    assert hand.js("c.model.options.brush") > before
    hand.drag((0.2, 0.5), (0.6, 0.5), steps=10)
    hand.done()
    mask = served.host.document["layers"][0]["holdouts"][0]
    assert list(mask["edits"]) == ["0"]
    painted = hand.colour((0.4, 0.5))
    assert painted[2] > 150, "the stroke is on the screen"
    hand.press("x")
    hand.drag((0.35, 0.5), (0.45, 0.5), steps=6)
    hand.done()
    assert hand.colour((0.4, 0.5))[2] < painted[2] - 25
    hand.tab.locator('[data-mask="grow_px"]').fill("4")
    hand.settle()
    assert served.host.document["layers"][0]["holdouts"][0]["grow_px"] == 4
    with hand.tab.expect_download() as caught:
        hand.tab.get_by_role("button", name="Save mask").click()
    caught.value.save_as(tmp_path / "mask.mkv")
    film = probe_clip(tmp_path / "mask.mkv")
    assert (film.num_frames, film.hw) == (NUM_FRAMES, HW)
    hand.tab.locator("[data-mask-slot]").select_option("1")
    hand.tab.locator(".cv-file input").set_input_files(str(tmp_path / "mask.mkv"))
    hand.tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.layer.masks.holdouts.length === 2")
    hand.done()
    assert served.host.document["layers"][0]["holdouts"][1]["path"] == "kept-mask.mkv"
    (tmp_path / "words.mp4").write_text("only words")
    hand.tab.locator("[data-mask-slot]").select_option("2")
    hand.tab.locator(".cv-file input").set_input_files(str(tmp_path / "words.mp4"))
    hand.told("words.mp4")
    hand.tab.locator("[data-mask-slot]").select_option("0")
    hand.tab.get_by_role("button", name="Delete mask").click()
    hand.settle()
    assert len(served.host.document["layers"][0]["holdouts"]) == 1


def test_a_layer_that_removes_has_a_target_and_no_motion(hand, served):
    hand.press("s")
    hand.tab.locator("[data-mask-slot]").select_option("remove")
    hand.settle()
    before = hand.colour((BLUE[0] + 0.03, BLUE[1]))
    hand.tab.mouse.move(*hand.at(BLUE))
    hand.tab.wait_for_function("() => document.querySelector('.cv-root').canvas.stage.prompts.hovering.ghost")
    hand.settle()
    assert hand.colour((BLUE[0] + 0.03, BLUE[1]))[0] > before[0] + 25, "what a click would find is shown"
    assert target_of(served) is None
    hand.click(red_at(0))
    hand.done()
    assert hand.js("c.stage.prompts.hovering.ghost") is None
    layer = served.host.document["layers"][0]
    assert layer["kind"] == "remove" and layer["target"]["prompts"] and "references" not in layer
    hand.press("v")
    hand.drag((0.5, 0.5), (0.8, 0.8))
    hand.told("does not move")
    assert "boxes" not in served.host.document["layers"][0]
    lane = hand.tab.get_by_role("button", name="Target", exact=True)
    lane.click()
    hand.press("Delete")
    assert target_of(served) is None


def test_a_monkey_with_masks_finds_no_fault(hand, served):
    dice = random.Random(5)
    keys = [
        "s",
        "v",
        "b",
        "x",
        "[",
        "]",
        "Delete",
        "Control+z",
        "Control+y",
        "ArrowRight",
        "Shift+ArrowLeft",
        "Escape",
        "Space",
        "k",
    ]
    places = ["[data-pick=add]", "[data-pick=take]", "[data-pick=brush]", "[data-track=both]", "[data-track-stop]", "[data-delete]"]
    places += ["[data-refine=fill_holes]", "[data-clear]", "[data-value=replace]", "[data-value=remove]", "[data-value=insert]"]
    area = hand.tab.locator(".cv-root").bounding_box()

    def inside():
        return area["x"] + dice.random() * area["width"], area["y"] + dice.random() * min(area["height"], 880)

    for _ in range(120):
        kind = dice.random()
        if kind < 0.3:
            hand.tab.keyboard.press(dice.choice(keys))
        elif kind < 0.5:
            hand.tab.evaluate("(place) => document.querySelector(place)?.click()", dice.choice(places))
        else:
            spot = hand.at((dice.random(), dice.random())) if kind < 0.85 else inside()
            hand.tab.mouse.move(*spot)
            hand.tab.mouse.down(button=dice.choice(["left", "left", "right"]))
            if dice.random() < 0.5:
                hand.tab.mouse.move(*inside(), steps=3)
            hand.tab.mouse.up(button="left")
            hand.tab.mouse.up(button="right")
        parse_project(served.host.document)
    hand.tab.keyboard.press("Escape")
    hand.tab.wait_for_function("() => !document.querySelector('.cv-root').canvas.link.isBusy")
    parse_project(served.host.document)


def test_clicks_and_marks_by_touch_on_a_small_screen(chromium, served):
    served.host.reset()
    context, hand, faults = open_tab(chromium, served, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    hand.press("s")
    hand.tab.touchscreen.tap(*hand.at(red_at(0)))
    hand.done()
    hand.tab.locator('[data-pick="take"]').tap()
    hand.tab.touchscreen.tap(*hand.at(BLUE))
    hand.done()
    clicks = served.host.document["layers"][0]["holdouts"][0]["prompts"]["0"]["clicks"]
    assert [click[2] for click in clicks] == [1, 0]
    assert hand.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    small = hand.tab.evaluate(
        "[...document.querySelectorAll('.cv-root :is(button, select, .cv-file)')].filter((b) => b.offsetParent)"
        ".filter((b) => Math.min(b.offsetHeight, b.offsetWidth) < 32).map((b) => b.outerHTML.slice(0, 80))"
    )
    assert small == []
    context.close()
    assert faults == []
