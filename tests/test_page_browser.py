"""The page in a real browser: the example in two clicks, own files with boxes and a path drawn by hand, reload, Cancel, and what
goes wrong said clearly."""

import contextlib
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from pipeline.media import probe_clip
from pipeline.motion import BoxKey, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.project import parse_project
from tests.editor.canvas.bench import Hand
from tests.tiny import make_clip

NUM_FRAMES, HW = 60, (180, 320)
EXAMPLE_FRAMES = 120
VISITORS_OWN = re.compile(r"/(?:gradio_api/file=.*/|canvas/view/)([A-Za-z0-9_-]{16,})[./]")
"""Addresses of what belongs to one visitor; the group is what nobody can guess."""


@pytest.fixture(scope="module")
def server(page_server):
    return page_server


def make_material(folder: Path) -> Path:
    """A clip, another one of the same name, a picture, and a file that is no video."""
    make_clip(folder / "street.mp4", num_frames=NUM_FRAMES, hw=HW, audio=["aac"])
    (folder / "other").mkdir()
    make_clip(folder / "other" / "street.mp4", num_frames=9, hw=HW)
    rgba = np.zeros((30, 30, 4), np.uint8)
    rgba[5:25, 5:25] = (220, 30, 30, 255)
    Image.fromarray(rgba, "RGBA").save(folder / "tile.png")
    (folder / "words.mp4").write_text("only words")
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material"))


CUT_OFF = ("AbortError", "Unexpected error Connection errored out")
"""How Gradio's messages begin about requests that a reload cuts off."""

STOP_MS = 30_000
"""How long a page among others, on a machine that renders and paints for all of them, may take to say that its work was stopped."""


def until(holds: Callable[[], bool], what: str, wait_s: float = 30) -> None:
    """Wait until this holds."""
    stop = time.monotonic() + wait_s
    while not holds():
        assert time.monotonic() < stop, what
        time.sleep(0.05)


class Visitor(Hand):
    """Somebody at the page, in a browser context of their own."""

    def __init__(self, chromium, server, **options) -> None:
        settings = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True, **options}
        self.context = chromium.new_context(**settings)
        super().__init__(self.context.new_page())
        self.faults: list[str] = []
        self.tab.on("console", self.hear)
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.goto(server.url)
        self.ready()

    def hear(self, message: Any) -> None:
        """What the console shows as an error; Gradio's own toasts complain when they are touched."""
        if message.type == "error" and not message.text.startswith("Unable to preventDefault inside passive"):
            self.faults.append(f"{message.text} ({message.location.get('url', '')}:{message.location.get('lineNumber', '')})")

    def ready(self) -> None:
        self.tab.wait_for_selector("#insert:not([disabled])", timeout=30_000)
        self.shown()

    def shown(self) -> None:
        self.tab.wait_for_function("() => document.querySelector('.cv-stage')?.dataset.paintedFrame > ''", timeout=30_000)
        self.settle()

    def settle(self) -> None:
        try:
            super().settle()
        except TimeoutError:
            raise AssertionError(f"the canvas never came to rest: {self.state()}") from None

    def state(self) -> str:
        """What the canvas is doing, for the report of a test that waited in vain."""
        return self.tab.evaluate(
            """() => { const c = document.querySelector(".cv-root")?.canvas; return JSON.stringify(c ? {
              busy: c.link.isBusy, queue: c.link.queue.map((each) => each.message), seen: c.link.seen, dirty: [...c.dirty],
              draft: c.model.draft, drag: c.stage.drag?.kind, frame: c.model.frame, tool: c.model.options.tool, scroll: scrollY,
              toast: c.element.querySelector(".cv-toast").textContent, hidden: document.hidden } : null); }"""
        )

    def shown_or_empty(self) -> None:
        """Wait until the page is there again, whatever it holds."""
        ready = "() => { const c = document.querySelector('.cv-root')?.canvas; return c && c.link.token && !c.link.isBusy; }"
        self.tab.wait_for_function(ready, timeout=30_000)
        self.settle()

    def reload(self) -> None:
        """Load the page anew. Gradio itself tells the console of requests that this cuts off; only that is overlooked, and only
        here."""
        known = len(self.faults)
        self.tab.reload()
        self.shown_or_empty()
        self.faults[known:] = [text for text in self.faults[known:] if not text.startswith(CUT_OFF)]

    def told(self, text: str) -> None:
        """Wait until the checklist says this."""
        self.tab.wait_for_selector(f'#checklist :text("{text}")')

    def upload(self, selector: str, path: Path) -> None:
        self.tab.locator(f"{selector} input[type=file]").set_input_files(str(path))

    def begin(self) -> None:
        """A new project."""
        self.tab.get_by_role("button", name="New project").click()
        self.tab.wait_for_selector("#insert[disabled]")
        self.told("Add a video to begin.")
        self.tab.wait_for_selector(".cv-is-empty")

    def bring(self, clip: Path, picture: Path) -> None:
        """A new project with these files."""
        self.begin()
        self.add(clip, picture)

    def add(self, clip: Path, picture: Path) -> None:
        """These files."""
        self.upload("#clip-file", clip)
        self.told(f"{probe_clip(clip).num_frames} frames")
        self.upload("#reference-file", picture)
        self.tab.wait_for_selector("#reference-file ~ * :text('.png')")
        self.tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.layer?.reference")
        self.shown()

    def open_example(self) -> None:
        """The first example, with its result; the canvas is looked at."""
        playing = "document.querySelector('.rv-root')?.viewer?.player"
        self.tab.evaluate(f"{playing}?.pause()")
        self.tab.locator("button.example").first.click()
        self.tab.wait_for_function(f"{playing}?.isPlaying")  # the last thing that comes of the click
        self.tab.get_by_role("tab", name="Motion").click()
        self.ready()

    def change(self) -> None:
        """Move the object a little, so that Insert has something to render."""
        self.tab.get_by_role("tab", name="Motion").click()
        self.tab.locator(".cv-overlay").focus()
        self.press("Alt+ArrowRight")

    def insert(self) -> None:
        self.tab.locator("#insert").click()
        self.tab.wait_for_selector("#progress :text('Done:')", timeout=60_000)

    def download(self, selector: str, folder: Path) -> Path:
        with self.tab.expect_download() as caught:
            self.tab.locator(selector).click()
        path = folder / caught.value.suggested_filename
        caught.value.save_as(path)
        return path

    def saved(self, folder: Path) -> bytes:
        """The project file, as Save project gives it."""
        with self.tab.expect_download() as caught:
            self.tab.get_by_role("button", name="Save project").click()
        caught.value.save_as(folder / "saved.json")
        return (folder / "saved.json").read_bytes()

    def token(self) -> str:
        return self.js("c.link.token")


@pytest.fixture(scope="module")
def residents():
    """At most one visitor, who stays at the page from test to test, since coming anew takes seconds."""
    staying: list[Visitor] = []
    yield staying
    for each in staying:
        each.context.close()


@pytest.fixture
def visitor(chromium, server, residents, request):
    """Somebody at the page, whose work is whatever it was before. Fails when the browser's console shows an error; whoever was
    there when a test failed does not come back."""
    failed = request.session.testsfailed
    if not residents:
        residents.append(Visitor(chromium, server))
    staying = residents[0]
    staying.tab.set_viewport_size({"width": 1280, "height": 900})
    staying.tab.get_by_role("tab", name="Motion").click()
    staying.settle()
    yield staying
    faults, staying.faults[:] = list(staying.faults), []
    if faults or request.session.testsfailed > failed:
        residents.remove(staying)
        staying.context.close()
    assert faults == [], "the browser's console must stay free of errors"


def test_an_example_is_laid_out_with_its_result_and_replays_in_one_click(chromium, server, tmp_path):
    newcomer = Visitor(chromium, server)
    tab = newcomer.tab
    assert newcomer.js("c.model.layers.length") == 1 and newcomer.js("c.model.frame") == EXAMPLE_FRAMES // 2
    assert tab.locator("[data-do=undo]").is_disabled(), "there is nothing before the example"
    tab.locator("#progress :text('rendered already')").wait_for()
    tab.locator("button.example").first.click()
    stage = tab.locator("#viewer .rv-stage")
    stage.wait_for()
    tab.wait_for_function(
        """() => {
          window.played = (window.played ?? new Set()).add(document.querySelector("#viewer .rv-stage").dataset.paintedFrame);
          return window.played.size > 5;
        }""",
        timeout=60_000,
    )
    assert tab.locator(".rv-quality .rv-said").inner_text().startswith("Frame"), "with how good its frames are"
    tab.wait_for_function("document.querySelector('#result-video video')?.readyState >= 2")
    assert tab.evaluate("document.querySelector('#result-video video').videoWidth") == 1280
    tab.locator("#insert").click()
    tab.wait_for_selector("#progress :text('Done:')")
    assert tab.locator(".rv-take").count() == 1, "what is rendered already is not rendered again"
    newcomer.change()
    tab.locator("#insert").click()
    tab.wait_for_selector("#progress .bar")
    tab.locator("#cancel").click()
    tab.wait_for_selector("#progress :text('Stopped')", timeout=STOP_MS)
    assert probe_clip(newcomer.download("#download-video", tmp_path)).num_frames == EXAMPLE_FRAMES
    tab.get_by_role("tab", name="Result").click()
    newcomer.reload()
    tab.wait_for_selector(".rv-take")
    assert stage.is_visible() and tab.locator(".rv-take").count() == 1, "a reload comes back to the result that was looked at"
    assert tab.locator("#insert").is_visible() and not tab.locator("#cancel").is_visible()
    newcomer.context.close()
    assert newcomer.faults == []


PRESS_LAST_EXAMPLE = """new MutationObserver((_, watching) => {
  const last = [...document.querySelectorAll("button.example")].find((each) => each.innerText.trim() === "Launch");
  if (!last) return;
  watching.disconnect();
  last.focus();
  last.click();
}).observe(document, { childList: true, subtree: true })"""


def test_a_click_before_the_page_is_ready_is_not_lost(chromium, server):
    context = chromium.new_context()
    tab, faults = context.new_page(), []
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.add_init_script(PRESS_LAST_EXAMPLE)
    tab.goto(server.url, wait_until="commit")
    tab.wait_for_selector("button.example[aria-busy=true]")
    tab.wait_for_selector(".names :text('launch.mp4')")
    tab.wait_for_selector("button.example:not([aria-busy])")
    tab.wait_for_selector("#progress :text('Rendered from')")
    assert tab.locator(".toast-body").count() == 0 and faults == []
    context.close()


def test_own_files_with_boxes_and_a_path_drawn_by_hand(visitor, material, tmp_path):
    tab = visitor.tab
    visitor.bring(material / "street.mp4", material / "tile.png")
    visitor.told("Draw a box where the object should be.")
    visitor.drag((0.1, 0.2), (0.3, 0.6))
    visitor.told("1 box")
    visitor.go(24)
    visitor.drag((0.2, 0.4), (0.5, 0.5))
    visitor.go(48)
    _, _, x1, y1 = visitor.box()
    visitor.drag((x1 / HW[1], y1 / HW[0]), (0.9, 0.95))
    visitor.told("3 boxes")

    keys = json.loads(visitor.saved(tmp_path))["layers"][0]["boxes"]
    assert list(keys) == ["0", "24", "48"]
    assert np.abs(np.array(keys["0"]["box"]) - [0.1, 0.2, 0.3, 0.6]).max() * HW[1] < 1
    in_file = build_box_sequence({int(f): BoxKey(tuple(k["box"])) for f, k in keys.items()}, HW, NUM_FRAMES)
    sides = np.array([HW[1], HW[0], HW[1], HW[0]])
    for frame, before, after in ((12, "0", "24"), (36, "24", "48")):
        visitor.go(frame)
        a, b = (np.array(keys[name]["box"]) * sides for name in (before, after))
        size = np.sqrt((a[2:] - a[:2]) * (b[2:] - b[:2]))
        centre = (a[:2] + a[2:] + b[:2] + b[2:]) / 4
        analytic = np.concatenate([centre - size / 2, centre + size / 2])
        assert np.abs(np.array(visitor.box()) - analytic).max() < 1, "on the screen"
        assert np.abs(in_file.boxes_px[frame] - analytic).max() < 1, "in the file"

    visitor.go(0)
    visitor.press("d")
    visitor.drag((0.2, 0.4), (0.4, 0.2), (0.6, 0.7), (0.8, 0.5), steps=12)
    visitor.told("1 path")
    trajectory = json.loads(visitor.saved(tmp_path))["layers"][0]["trajectories"][0]
    nodes = {int(frame): tuple(at) for frame, at in trajectory["keys"].items()}
    dense = np.array(visitor.js("c.model.path(0, 0)"))
    assert dense.shape == (NUM_FRAMES, 2) and min(nodes) == 0 and max(nodes) == NUM_FRAMES - 1
    assert max(np.abs(dense[frame] - at).max() for frame, at in nodes.items()) < 1e-6
    made = build_trajectory_set([TrajectoryKeys(trajectory["point"], nodes)], {trajectory["point"]: (1.0, 1.0)}, HW, NUM_FRAMES)
    assert np.abs(made.points_px[0] / [HW[1], HW[0]] - dense).max() < 1e-5

    span = visitor.js("(([x0, x1]) => [x0, x1])([0, 59].map((f) => c.timeline.x(f)))")
    tab.evaluate("document.querySelector('.cv-tracks').scrollIntoView({ block: 'end' })")
    tracks = tab.locator(".cv-tracks").bounding_box()
    lane = tracks["y"] + visitor.js("c.timeline.height") - 17
    tab.mouse.move(tracks["x"] + span[1] + 4, lane)
    tab.mouse.down()
    tab.mouse.move(tracks["x"] + visitor.js("c.timeline.x(40)"), lane, steps=5)
    tab.mouse.up()
    visitor.settle()
    assert visitor.js("c.model.layers[0].trajectories[0].visible") == [[0, 41]], "the end of the visible stretch was dragged"

    visitor.insert()
    got = probe_clip(visitor.download("#download-video", tmp_path))
    assert (got.num_frames, got.hw, len(got.audio_streams)) == (NUM_FRAMES, HW, 1)
    tab.get_by_role("tab", name="Motion").click()
    for _ in range(2):
        tab.locator("[data-do=undo]").click()
        visitor.settle()
    tab.wait_for_function("!document.querySelector('#checklist').innerText.includes('path')")


def test_twenty_random_edits_are_undone_to_the_identical_file_and_survive_a_reload(visitor, server, material, tmp_path):
    visitor.bring(material / "street.mp4", material / "tile.png")
    token, before = visitor.token(), visitor.saved(tmp_path)
    session = server.log_path.parent / "work" / "visitors" / token / "session.json"

    def count_steps() -> int:
        return len(json.loads(session.read_text())["past"])

    dice, steps = random.Random(11), count_steps()
    for _ in range(100):
        if count_steps() >= steps + 20:
            break
        a, b = ((dice.uniform(0.1, 0.8), dice.uniform(0.1, 0.8)) for _ in range(2))
        visitor.press("0", dice.choice("bpdv"))  # a drag beside everything moves the view, so it is fitted again each time
        visitor.drag(a, b, steps=2)
        visitor.press(dice.choice(["ArrowRight", "Shift+ArrowRight", "Shift+ArrowLeft"]))
    assert count_steps() >= steps + 20, f"only {count_steps() - steps} of a hundred gestures were edits: {visitor.state()}"
    edited = visitor.saved(tmp_path)
    parse_project(json.loads(edited))
    visitor.reload()
    visitor.shown()
    assert visitor.token() == token and visitor.saved(tmp_path) == edited, "everything is back"
    visitor.press("v", *["Control+z"] * (count_steps() - steps))
    assert visitor.saved(tmp_path) == before


def test_a_second_layer_gets_its_own_picture_and_blending(visitor, material, tmp_path):
    tab = visitor.tab
    visitor.bring(material / "street.mp4", material / "tile.png")
    visitor.drag((0.1, 0.2), (0.3, 0.6))
    tab.get_by_role("button", name="Add a layer").click()
    visitor.settle()
    visitor.told("Layer 2: draw a box")
    tab.wait_for_selector(".pictures .chosen :text('Layer 2')")
    visitor.drag((0.5, 0.5), (0.7, 0.9))
    visitor.upload("#reference-file", material / "tile.png")
    visitor.told("Ready when you are.")
    tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.layers[1]?.reference")
    if not tab.locator("#blend-opacity").is_visible():
        tab.locator("#blending button").first.click()
    tab.locator("#blend-opacity input[type=number]").fill("0")
    tab.keyboard.press("Tab")
    tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.layers[1].opacity === 0")
    tab.locator(".cv-name", has_text="object").click()
    tab.wait_for_function("() => document.querySelector('#blend-opacity input[type=range]').value === '1'")
    layers = json.loads(visitor.saved(tmp_path))["layers"]
    assert [len(layer["references"]) for layer in layers] == [1, 1]
    assert [layer.get("blend") for layer in layers] == [None, {"opacity": 0}]


def stop_a_render(visitor: Visitor) -> None:
    """Stop the render that runs; when it has come to its end meanwhile, another one."""
    for _ in range(3):
        with contextlib.suppress(TimeoutError):  # gone with the render
            visitor.tab.locator("#cancel").click(timeout=2000)
        visitor.tab.wait_for_selector("#progress :text-matches('Stopped|Done:')", timeout=STOP_MS)
        if visitor.tab.locator("#progress :text('Stopped')").is_visible():
            return
        visitor.change()
        visitor.tab.locator("#insert").click()
        visitor.tab.wait_for_selector("#progress :text('Compositing')")
    raise AssertionError("three renders came to their end before they could be stopped")


def test_two_visitors_with_files_of_one_name_stay_apart(visitor, chromium, server, material, tmp_path):
    other = Visitor(chromium, server)
    for each, clip in ((visitor, material / "street.mp4"), (other, material / "other" / "street.mp4")):
        each.bring(clip, material / "tile.png")
        each.drag((0.1, 0.2), (0.3, 0.6))
    assert visitor.token() != other.token() and visitor.js("c.model.clip.key") != other.js("c.model.clip.key")
    assert [each.js("c.model.clip.num_frames") for each in (visitor, other)] == [NUM_FRAMES, 9]
    visitor.open_example()
    visitor.change()
    visitor.tab.locator("#insert").click()
    visitor.tab.wait_for_selector("#progress :text('Compositing')")
    other.drag((0.2, 0.4), (0.6, 0.6))
    other.told("1 box")  # the canvas never waits for a render
    other.tab.locator("#insert").click()
    stop_a_render(visitor)
    other.tab.wait_for_selector("#progress :text('Done: 9 frames.')", timeout=30_000)
    forged = other.token()[:-1] + ("A" if other.token()[-1] != "A" else "B")
    for token in (forged, "", None, "../" + other.token(), [other.token()]):
        answer = httpx.post(f"{server.url}/canvas/exchange", json={"token": token, "gestures": [{"kind": "undo"}]}).json()
        assert answer["fault"] and answer["scene"] is None and answer["revision"] is None
    before = other.saved(tmp_path)
    key = other.js("c.model.clip.key")
    assert httpx.get(f"{server.url}/canvas/view/{key}/0.jpg").status_code == 200
    other.tab.get_by_role("button", name="New project").click()
    other.tab.wait_for_selector(".cv-is-empty")
    assert httpx.get(f"{server.url}/canvas/view/{key}/0.jpg").status_code == 404, "its pictures went with the folder"
    assert before and other.faults == []
    other.context.close()


def test_two_visitors_with_the_very_same_files_share_no_address(visitor, chromium, server, material):
    other = Visitor(chromium, server)
    both, uploads, served = (visitor, other), [], []
    for each in both:
        taken, seen = [], set()
        each.begin()
        each.tab.on(
            "response",
            lambda answer, taken=taken: taken.extend(answer.json()) if answer.url.split("?")[0].endswith("/upload") else None,
        )
        each.tab.on("request", lambda request, seen=seen: seen.add(request.url) if VISITORS_OWN.search(request.url) else None)
        each.add(material / "other" / "street.mp4", material / "tile.png")
        each.drag((0.1, 0.2), (0.3, 0.6))
        each.tab.locator("#preview").click()
        each.tab.locator("#result-picture img").wait_for()
        each.insert()
        each.tab.wait_for_function("document.querySelector('#result-video video')?.readyState >= 2")
        emitted = each.tab.evaluate("[...document.querySelectorAll('[src], [href]')].map((one) => one.src || one.href)")
        seen |= {address for address in emitted if VISITORS_OWN.search(address)}
        uploads.append(taken)
        served.append(seen)
    assert all(len(taken) == 2 and len(seen) > 4 for taken, seen in zip(uploads, served, strict=True))
    assert not set(uploads[0]) & set(uploads[1]) and not served[0] & served[1]
    assert all(len(part) >= 32 for address in served[0] | served[1] for part in [VISITORS_OWN.search(address)[1]])
    for path in (*uploads[0], *uploads[1]):
        assert not Path(path).exists() and httpx.get(f"{server.url}/gradio_api/file={path}").status_code in (403, 404)
    other.tab.get_by_role("button", name="New project").click()
    other.tab.wait_for_selector(".cv-is-empty")
    for address in served[0]:
        assert httpx.get(address).status_code == 200, "what one visitor throws away is nothing of the other's"
    other.context.close()
    assert other.faults == []


def test_cancel_stops_the_work_and_the_next_insert_runs(visitor, server):
    tab = visitor.tab
    visitor.open_example()
    results = server.log_path.parent / "work" / "visitors" / visitor.token() / "results"
    before = sorted(results.iterdir())
    visitor.change()
    tab.locator("#insert").click()
    tab.wait_for_selector("#progress :text('Compositing')")
    tab.locator("#cancel").click()
    tab.wait_for_selector("#progress :text('Stopped')", timeout=STOP_MS)
    tab.locator("#insert").wait_for()
    until(lambda: sorted(results.iterdir()) == before, "a stopped render leaves nothing behind")
    tab.locator("#insert").click()
    tab.wait_for_selector("#progress :text('of 120')")
    tab.locator("#cancel").click()
    tab.wait_for_selector("#progress :text('Stopped')", timeout=STOP_MS)


def test_closing_the_tab_stops_its_render(visitor, chromium, server):
    visitors = server.log_path.parent / "work" / "visitors"
    visitor.open_example()
    leaving = Visitor(chromium, server)
    results = [visitors / each.token() / "results" for each in (visitor, leaving)]
    before = [sorted(folder.iterdir()) for folder in results]
    leaving.change()
    visitor.change()
    leaving.tab.locator("#insert").click()
    leaving.tab.wait_for_selector("#progress :text('Compositing')")
    leaving.context.close()
    visitor.tab.locator("#insert").click()
    visitor.tab.wait_for_selector("#progress :text('Compositing')")
    visitor.tab.locator("#cancel").click()
    visitor.tab.wait_for_selector("#progress :text('Stopped')", timeout=STOP_MS)
    until(lambda: [sorted(folder.iterdir()) for folder in results] == before, "nothing of either render is left")


def test_a_file_that_is_no_video_gets_one_clear_sentence(visitor, material):
    visitor.open_example()
    visitor.upload("#clip-file", material / "words.mp4")
    line = visitor.tab.locator("#trouble p")
    line.wait_for()
    text = line.inner_text()
    assert "words.mp4" in text and "Traceback" not in text and "/" not in text.replace("and/or", "")
    assert not visitor.tab.locator(".toast-body").is_visible(), "it is said once"
    visitor.tab.mouse.wheel(0, 2000)
    assert visitor.tab.evaluate("document.querySelector('#trouble p').getBoundingClientRect().top") >= 0, "and stays in sight"
    line.get_by_role("button").click()
    line.wait_for(state="hidden")
    assert visitor.tab.locator("#insert").is_enabled(), "the work before is still there"


def test_the_frame_on_the_canvas_is_the_one_that_is_previewed(visitor, material):
    visitor.bring(material / "street.mp4", material / "tile.png")
    visitor.drag((0.1, 0.2), (0.3, 0.6))
    visitor.go(24)
    visitor.drag((0.2, 0.4), (0.7, 0.6))
    visitor.told("2 boxes")
    visitor.tab.locator("#preview").click()
    picture = visitor.tab.locator("#result-picture img")
    picture.wait_for()
    red = visitor.tab.evaluate(
        """async () => {
          const image = document.querySelector("#result-picture img");
          await image.decode();
          const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 180 });
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0, 320, 180);
          return Array.from(context.getImageData(0.7 * 320, 0.6 * 180, 1, 1).data);
        }"""
    )
    assert red[0] > 100 > red[2]


def test_nothing_overflows_or_lies_over_what_is_below_it(visitor):
    visitor.open_example()
    for width in (390, 768, 1280):
        visitor.tab.set_viewport_size({"width": width, "height": 844})
        visitor.tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert visitor.tab.evaluate("document.documentElement.scrollWidth") <= width
        last = """() => {
          scrollTo(0, 1e6);
          const last = document.querySelector("#research button"), { x, y, width, height } = last.getBoundingClientRect();
          return last.contains(document.elementFromPoint(x + width / 2, y + height / 2));
        }"""
        visitor.tab.wait_for_function(last)  # the bar with Insert leaves room for the page's end
