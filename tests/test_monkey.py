"""A monkey at the real page: random gestures by mouse, keys and touch, seeded. Nothing may break, on either side, at any step.

``MONKEY_S`` says for how many seconds it plays (``make soak``: ten minutes), ``MONKEY_SEED`` what it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import deque
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError

from pipeline.project import parse_project
from tests.serving import serving
from tests.test_page_browser import Visitor, make_material

PLAY_S = float(os.environ.get("MONKEY_S", "25"))
SEED = int(os.environ.get("MONKEY_SEED", "7"))

KEYS = [
    *("v", "b", "p", "d", "h", "k", "n", "i", "u", "o", "a", "l", ",", ".", "0", "+", "-", "?", "x", "w"),
    *("ArrowLeft", "ArrowRight", "Shift+ArrowLeft", "Shift+ArrowRight", "Alt+ArrowUp", "Alt+Shift+ArrowRight", "Home", "End"),
    *("Delete", "Backspace", "Escape", " ", "Tab", "Shift+Tab", "Enter", "Control+c", "Control+v", "Control+d"),
    *("Control+z", "Control+z", "Control+Shift+z", "Control+y"),
]
NUMBERS = ["0", "-3", "7", "41.5", "100000", "1e9", "", "-", "0.001"]

SPOTS = """(selector) => [...document.querySelectorAll(selector)].filter((each) => {
  const box = each.getBoundingClientRect();
  return !each.disabled && box.width > 2 && box.height > 2 && getComputedStyle(each).visibility !== "hidden";
}).length"""

CENTRE = """([selector, index]) => {
  const each = [...document.querySelectorAll(selector)].filter((one) => {
    const box = one.getBoundingClientRect();
    return !one.disabled && box.width > 2 && box.height > 2 && getComputedStyle(one).visibility !== "hidden";
  })[index];
  if (!each) return null;
  each.scrollIntoView({ block: "nearest" });
  const box = each.getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
}"""


STATE = """() => {
  const canvas = document.querySelector(".cv-root")?.canvas, viewer = document.querySelector(".rv-root")?.viewer;
  return { covering: (document.fullscreenElement ?? document.querySelector("dialog[open]"))?.outerHTML, zoom: visualViewport.scale,
    canvas: canvas?.model.clip?.key, token: canvas?.link.token, viewer: viewer?.sides.map((side) => side.key),
    shown: viewer?.value?.token, left: document.documentElement.dataset.left };
}"""


class Monkey:
    """Plays on one visitor's page. Every random choice comes from ``dice``; ``done`` remembers the last things it did."""

    def __init__(self, visitor: Visitor, material: Path, dice: random.Random) -> None:
        self.visitor, self.tab, self.material, self.dice = visitor, visitor.tab, material, dice
        self.touch = visitor.context.new_cdp_session(self.tab)
        self.done: deque[str] = deque(maxlen=25)
        self.num_done = 0
        self.gestures = {
            self.drag_on_stage: 22,
            self.press_keys: 20,
            self.drag_on_timeline: 12,
            self.press_a_button: 14,
            self.fill_a_field: 6,
            self.touch_the_stage: 6,
            self.click_twice: 4,
            self.turn_the_wheel: 3,
            self.click_the_picture: 4,
            self.undo_and_redo: 6,
            self.choose_a_tab: 3,
            self.move_a_slider: 2,
            self.use_the_viewer: 3,
            self.preview: 1,
            self.insert_and_cancel: 1,
            self.bring_a_file: 1,
            self.resize: 1,
            self.reload: 0.6,
            self.begin_anew: 0.4,
        }

    def play(self) -> None:
        """One gesture."""
        [gesture] = self.dice.choices(list(self.gestures), list(self.gestures.values()))
        self.note(gesture.__name__)
        self.num_done += 1
        if self.dice.random() < 0.8:
            self.close_sheet()
        self.step_back()
        gesture()

    def step_back(self) -> None:
        """See the whole page again: the result's player has a button that lets it cover all else, which Escape does not take back
        without a window; and two fingers beside the canvas make the page larger."""
        self.tab.evaluate("document.fullscreenElement && document.exitFullscreen()")
        self.touch.send("Emulation.setPageScaleFactor", {"pageScaleFactor": 1})

    def close_sheet(self) -> None:
        """Close the sheet of shortcuts, which covers the page as long as it is open."""
        if self.tab.evaluate("Boolean(document.querySelector('dialog[open]'))"):
            self.tab.keyboard.press("Escape")

    def note(self, text: str) -> None:
        self.done.append(text)

    def story(self) -> str:
        """What it did last, and what stands where."""
        return f"seed {SEED}, gesture {self.num_done}: {', '.join(self.done)}; {self.tab.evaluate(STATE)}"

    # -- where ------------------------------------------------------------------------------------------------------------------

    def find(self, selector: str) -> tuple[float, float, float, float] | None:
        """The place of a random one of the elements that can be seen, scrolled to; None when there is none."""
        count = self.tab.evaluate(SPOTS, selector)
        if not count:
            return None
        return self.tab.evaluate(CENTRE, [selector, self.dice.randrange(count)])

    def inside(self, box: tuple[float, float, float, float], low: float = 0.02, high: float = 0.98) -> tuple[float, float]:
        left, top, width, height = box
        return left + self.dice.uniform(low, high) * width, top + self.dice.uniform(low, high) * height

    def click_one(self, selector: str, low: float = 0.4, high: float = 0.6) -> bool:
        box = self.find(selector)
        if box is not None:
            self.tab.mouse.click(*self.inside(box, low, high))
        return box is not None

    # -- gestures ---------------------------------------------------------------------------------------------------------------

    def drag_over(self, selector: str, steps: int = 5) -> None:
        box = self.find(selector)
        if box is None:
            return
        held = self.dice.choice([None, None, None, "Shift", "Alt", "Control"])
        if held:
            self.tab.keyboard.down(held)
        self.tab.mouse.move(*self.inside(box))
        self.tab.mouse.down()
        for _ in range(self.dice.randint(0, 3)):
            self.tab.mouse.move(*self.inside(box, -0.1, 1.1), steps=self.dice.randint(1, steps))
        if held is None and self.dice.random() < 0.1:  # else it would leave the page by Alt and an arrow, as anybody would
            self.press_keys()
        self.tab.mouse.up()
        if held:
            self.tab.keyboard.up(held)

    def drag_on_stage(self) -> None:
        if self.dice.random() < 0.5:
            self.tab.keyboard.press(self.dice.choice("vbpd"))
        if self.dice.random() < 0.3:
            self.tab.keyboard.press("0")
        self.drag_over(".cv-overlay")

    def drag_on_timeline(self) -> None:
        self.drag_over(".cv-tracks")

    def click_twice(self) -> None:
        box = self.find(self.dice.choice([".cv-overlay", ".cv-tracks", ".cv-name"]))
        if box is not None:
            self.tab.mouse.dblclick(*self.inside(box))

    def turn_the_wheel(self) -> None:
        box = self.find(self.dice.choice([".cv-overlay", ".cv-side", ".cv-tracks"]))
        if box is not None:
            self.tab.mouse.move(*self.inside(box))
            self.tab.mouse.wheel(self.dice.uniform(-200, 200), self.dice.uniform(-400, 400))

    def press_keys(self) -> None:
        for _ in range(self.dice.randint(1, 5)):
            key = self.dice.choice(KEYS)
            self.note(f"key {key}")
            self.tab.keyboard.press(key)

    def undo_and_redo(self) -> None:
        for _ in range(self.dice.randint(1, 6)):
            self.tab.keyboard.press(self.dice.choice(["Control+z", "Control+z", "Control+y"]))

    def press_a_button(self) -> None:
        self.click_one(".cv-root :is([data-do], [data-tool], [data-choice] button, .cv-head button, .cv-head-tools button)")

    def fill_a_field(self) -> None:
        if self.click_one(".cv-root input:is([type=number], [type=text])"):
            self.tab.keyboard.press("Control+a")
            self.tab.keyboard.type(self.dice.choice([*NUMBERS, "<b>a</b>", "Ünï 😀"]))
            self.tab.keyboard.press(self.dice.choice(["Enter", "Tab", "Escape"]))

    def touch_the_stage(self) -> None:
        box = self.find(self.dice.choice([".cv-overlay", ".cv-tracks"]))
        if box is None:
            return
        fingers = self.dice.choice([1, 1, 2])

        def send(kind: str) -> None:
            places = [self.inside(box, 0.1, 0.9) for _ in range(fingers)] if kind != "touchEnd" else []
            points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
            self.touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        send("touchStart")
        for _ in range(self.dice.randint(0, 4)):
            send("touchMove")
        send("touchEnd")

    def click_the_picture(self) -> None:
        self.drag_over(".cv-picture canvas") if self.dice.random() < 0.4 else self.click_one(".cv-picture canvas", 0.05, 0.95)

    def open_tab(self, name: str) -> None:
        self.step_back()
        self.close_sheet()
        self.tab.get_by_role("tab", name=name).click(timeout=15_000)

    def choose_a_tab(self) -> None:
        self.open_tab(self.dice.choice(["Motion", "Motion", "Result"]))

    def move_a_slider(self) -> None:
        if self.tab.locator("#blend-opacity").count() == 0 or not self.tab.locator("#blend-opacity").is_visible():
            self.tab.locator("#blending button").first.dispatch_event("click")
        if self.click_one("#blending input[type=range]", 0.0, 1.0):
            self.tab.keyboard.press(self.dice.choice(["ArrowRight", "Home", "End"]))

    def use_the_viewer(self) -> None:
        self.open_tab("Result")
        if self.find(".rv-stage") is None:
            return
        self.drag_over(self.dice.choice([".rv-stage", ".rv-scrub"]))
        self.click_one(".rv-root :is([data-mode], [data-do=play], [data-do=on], [data-do=back], [data-take])")
        self.press_keys()
        self.open_tab("Motion")

    def preview(self) -> None:
        self.click_one("#preview")

    def insert_and_cancel(self) -> None:
        self.click_one("#insert")
        self.tab.wait_for_timeout(self.dice.choice([0, 150, 900]))
        self.click_one("#cancel")

    def bring_a_file(self) -> None:
        selector, name = self.dice.choice(
            [("#reference-file", "tile.png"), ("#clip-file", "street.mp4"), ("#clip-file", "words.mp4")]
        )
        self.note(name)
        field = self.tab.locator(f"{selector} input[type=file]")
        if field.count():
            field.set_input_files(str(self.material / name))
            self.tab.wait_for_timeout(400)

    def resize(self) -> None:
        width = self.dice.choice([390, 768, 1280, 1280])
        self.tab.set_viewport_size({"width": width, "height": 844})

    def reload(self) -> None:
        self.visitor.reload()

    def begin_anew(self) -> None:
        """A new project, which gets its files at once, or an example."""
        if self.dice.random() < 0.5:
            self.click_one("button.example")
            self.tab.wait_for_timeout(1_500)
        else:
            self.close_sheet()
            self.tab.set_viewport_size({"width": 1280, "height": 900})
            self.visitor.bring(self.material / "street.mp4", self.material / "tile.png")


def read_work(folder: Path, visitor: Visitor, story: str) -> str:
    """The project as the server keeps it; a page that has just let go of its work learns of the new one a moment later."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((folder / "visitors" / visitor.token() / "session.json").read_text())["text"]
        time.sleep(0.05)
    raise AssertionError(f"the work of this page is nowhere; {story}")


@pytest.mark.timeout(PLAY_S + 180)
def test_a_monkey_breaks_nothing(chromium, tmp_path):
    material = make_material(tmp_path)
    with serving(tmp_path, "--workdir", str(tmp_path / "work")) as server:
        visitor = Visitor(chromium, server, has_touch=True)
        visitor.bring(material / "street.mp4", material / "tile.png")
        visitor.drag((0.1, 0.2), (0.4, 0.6))
        monkey = Monkey(visitor, material, random.Random(SEED))
        stop, texts = time.monotonic() + PLAY_S, set()
        while time.monotonic() < stop:
            try:
                monkey.play()
                visitor.settle()
            except TimeoutError as error:
                raise AssertionError(f"{error}\n{visitor.faults[:3]}\n{monkey.story()}") from None
            story = monkey.story()
            assert visitor.faults == [], f"the browser's console: {visitor.faults[:3]}; {story}"
            assert "Traceback" not in server.log and " ERROR " not in server.log, f"{server.log[-3000:]}\n{story}"
            text = read_work(tmp_path / "work", visitor, story)
            if text not in texts:
                texts.add(text)
                document = json.loads(text)
                assert not document.get("clip") or parse_project(document), story
        assert len(texts) > monkey.num_done / 25, (
            f"only {len(texts)} different projects in {monkey.num_done} gestures: it did nothing"
        )
        print(f"{monkey.num_done} gestures, {len(texts)} different projects")
        visitor.context.close()
