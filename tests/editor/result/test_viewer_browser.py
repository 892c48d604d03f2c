"""The viewer in a real browser: both sides on the same frame, wipe, flip, keys, takes; what is painted is read back."""

import contextlib
import json
import os
import threading
import time

import numpy as np
import pytest

from editor.canvas import static_version as canvas_version
from editor.canvas.frames import FrameDesk
from editor.result import mount_viewer, static_version
from editor.result.room import ResultRoom
from editor.storage import WorkStore
from editor.workbench import Workbench
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.media import MediaLimits
from tests.editor.result.test_room import ONE, TWO, Bench
from tests.pipeline.sample_project import write_media
from tests.serving import free_port
from tests.tiny import make_clip

NUM_FRAMES, HW = 16, (91, 161)
RANGE = [2, 14]

PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><body class="{theme}" style="margin:12px;background:{back}">
<div class="rv-root" data-viewer="waiting"></div><script type="module">
import {{ mount }} from "./result/static/{version}/viewer.js";
window.told = [];
const at = (path) => new URL(path, document.baseURI).href;
const props = {{ value: {value} }};
const watch = (name, seen) => {{ window.again = (value) => {{ props.value = value; seen(); }}; }};
mount({{ element: document.querySelector(".rv-root"), props, watch,
  styles: at("result/static/{version}/viewer.css"), canvas: at("canvas/static/{canvas}/"), pictures: at("canvas/view/"),
  announce: (name, detail) => window.told.push([name, detail]) }});
</script>"""


def gray_of(frame):
    return 30 + 12 * frame


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A page with the viewer alone; its source's frames are grey in a shade that names the frame. Two takes of different ranges."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    from editor.canvas import STATIC

    folder = tmp_path_factory.mktemp("viewer")
    store = WorkStore(folder / "visitors")
    token = store.issue()
    write_media(store.files(token))
    clip = store.files(token) / "clip.mp4"
    make_clip(clip, num_frames=NUM_FRAMES, hw=(90, 160), images=lambda i: np.full((90, 160, 3), gray_of(i), np.uint8))
    desk = FrameDesk()
    workbench = Workbench(MediaLimits(), ArtifactCache(folder / "cache"))
    bench = Bench(store, ResultRoom(store, workbench, desk, CompositeEngine()), token)
    bench.edit(
        ("range", RANGE),
        ("layers", 0, "boxes", {"0": {"box": [0.35, 0.3, 0.65, 0.8]}}),
        ("layers", 0, "trajectories", ...),
    )
    bench.render(ONE)
    bench.edit(("range", [4, 9]))
    bench.render(TWO)
    bench.room.act(token, {"action": "show", "take": ONE})

    def page(request):
        theme = request.query_params.get("theme", "")
        back = "#0b1017" if theme == "dark" else "#f8fafc"
        value = json.dumps(bench.value)
        return HTMLResponse(PAGE.format(version=static_version(), canvas=canvas_version(), value=value, theme=theme, back=back))

    canvas = [Mount(f"/static/{canvas_version()}", StaticFiles(directory=STATIC)), Mount("/view", routes=desk.routes())]
    app = Starlette(routes=[Route("/", page), Mount("/canvas", routes=canvas), mount_viewer()])
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/", bench
    server.should_exit = True
    thread.join(10)
    desk.close()


@contextlib.contextmanager
def opened(chromium, url, **options):
    context = chromium.new_context(**{"viewport": {"width": 900, "height": 900}, **options})
    tab = context.new_page()
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(url)
    wait_for(tab, sum(RANGE) // 2)
    tab.evaluate("document.querySelector('.rv-root').viewer.setWipe(0.5)")
    yield tab
    context.close()
    assert faults == []


def wait_for(tab, frame):
    tab.wait_for_selector(f'.rv-stage[data-painted-frame="{frame}"]', timeout=10_000)


def shades(tab):
    """The grey that is painted near the left and the right edge of the picture, and the red in its middle."""
    return tab.evaluate("""() => {
      const v = document.querySelector(".rv-root").viewer, k = devicePixelRatio, p = v.place, c = v.canvas.getContext("2d");
      const at = (x, y) => [...c.getImageData((p.x + x * p.width) * k, (p.y + y * p.height) * k, 1, 1).data];
      return [at(0.04, 0.9), at(0.96, 0.9), at(0.44, 0.55), at(0.56, 0.55)];
    }""")


def is_red(pixel):
    return pixel[0] > 150 and pixel[1] < 110


def test_both_sides_are_on_the_same_frame_wherever_one_goes(chromium, served):
    with opened(chromium, served[0]) as tab:
        stage = tab.locator(".rv-stage")
        stage.focus()
        for key, frame in [
            ("Home", 2),
            ("ArrowRight", 3),
            ("ArrowRight", 4),
            ("Shift+ArrowRight", 13),
            ("ArrowLeft", 12),
            ("Home", 2),
            ("End", 13),
        ]:
            stage.press(key)
            wait_for(tab, frame)
            left, right, before, after = shades(tab)
            assert abs(left[0] - gray_of(frame)) <= 3 and abs(right[0] - gray_of(frame)) <= 3
            assert not is_red(before) and is_red(after)
        tab.locator(".rv-scrub").fill("7")
        wait_for(tab, 7)
        assert abs(shades(tab)[0][0] - gray_of(7)) <= 3 and tab.locator(".rv-counter").inner_text().split() == [
            "Frame",
            "7",
            "of",
            "13",
        ]


def test_it_opens_where_the_object_is_in_sight(chromium, served):
    with opened(chromium, served[0]) as tab:
        tab.evaluate("value => window.again({ ...value, clip: 'another' })", served[1].value)
        tab.wait_for_function("() => document.querySelector('.rv-root').viewer.wipe < 0.35")
        assert tab.evaluate("document.querySelector('.rv-root').viewer.wipe") > 0.25, "just left of the box"
        assert all(is_red(each) for each in shades(tab)[2:])


def test_a_hurried_scrub_never_paints_two_frames_at_once(chromium, served):
    with opened(chromium, served[0]) as tab:
        tab.evaluate("""() => {
          const v = document.querySelector(".rv-root").viewer, paint = v.paint.bind(v);
          window.seen = [];
          v.paint = () => {
            paint();
            const k = devicePixelRatio, p = v.place, c = v.canvas.getContext("2d");
            const at = (x) => c.getImageData((p.x + x * p.width) * k, (p.y + 0.9 * p.height) * k, 1, 1).data[0];
            window.seen.push([v.painted, at(0.04), at(0.96)]);
          };
        }""")
        for frame in [13, 3, 9, 5, 12, 2, 8, 11, 4, 10]:
            tab.evaluate("f => document.querySelector('.rv-root').viewer.goTo(f)", frame)
        wait_for(tab, 10)
        seen = tab.evaluate("window.seen")
        assert len({row[0] for row in seen}) >= 2
        assert all(abs(left - gray_of(frame)) <= 3 and abs(right - gray_of(frame)) <= 3 for frame, left, right in seen)


def test_wipe_flip_and_play(chromium, served):
    with opened(chromium, served[0]) as tab:
        box = tab.locator(".rv-stage").bounding_box()
        middle = box["y"] + box["height"] / 2
        tab.mouse.move(box["x"] + box["width"] / 2, middle)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.1, middle, steps=4)
        tab.mouse.up()
        assert [is_red(each) for each in shades(tab)[2:]] == [True, True]
        stage = tab.locator(".rv-stage")
        stage.focus()
        for mode, reds in (("after", [True, True]), ("before", [False, False]), ("after", [True, True])):
            stage.press("x")
            assert stage.get_attribute("data-mode") == mode and [is_red(each) for each in shades(tab)[2:]] == reds
        tab.get_by_role("button", name="Loop").click()
        tab.locator(".rv-scrub").fill("9")
        stage.focus()
        stage.press(" ")
        wait_for(tab, 13)
        tab.wait_for_selector('[data-do="play"][aria-label="Play"]')
        assert abs(shades(tab)[1][0] - gray_of(13)) <= 3


def test_takes_tell_the_page_what_the_person_wants(chromium, served):
    url, bench = served
    with opened(chromium, url) as tab:
        card = tab.locator(f'.rv-take[data-key="{TWO}"]')
        card.get_by_role("button", name="Look at this take").click()
        card.get_by_role("button", name="Star").click()
        card.locator('[data-what="reuse"]').click()
        card.get_by_role("button", name="Delete").click()
        card.get_by_text("Delete?").click()
        card.get_by_role("button", name="Rename").click()
        field = card.get_by_role("textbox")
        field.fill("<b>warm</b>")
        field.press("Enter")
        tab.get_by_label("Compare with").select_option(TWO)
        tab.get_by_role("button", name="Export pack").click()
        assert tab.evaluate("window.told") == [
            ["acted", {"action": "show", "take": TWO}],
            ["acted", {"action": "star", "take": TWO, "value": True}],
            ["acted", {"action": "reuse", "take": TWO}],
            ["acted", {"action": "delete", "take": TWO}],
            ["acted", {"action": "rename", "take": TWO, "name": "<b>warm</b>"}],
            ["acted", {"action": "compare", "take": TWO}],
            ["pack", {}],
        ]
        for _, wish in tab.evaluate("window.told")[4:6]:
            bench.room.act(bench.token, wish)
        tab.evaluate("value => window.again(value)", bench.value)
        assert tab.locator(".rv-left").inner_text() == "<b>warm</b>", "names are text, never markup"
        tab.wait_for_function("document.querySelector('.rv-root').viewer.painted === 8")
        tab.locator(".rv-scrub").fill("6")
        wait_for(tab, 6)
        assert is_red(shades(tab)[2]), "both sides are takes now"
        bench.room.act(bench.token, {"action": "compare", "take": None})


def test_a_range_can_be_rendered_anew(chromium, served):
    url, _ = served
    with opened(chromium, url) as tab:
        button = tab.get_by_role("button", name="Re-render frames 4 to 8 into this take")
        assert button.is_enabled()
        button.click()
        assert tab.evaluate("window.told") == [["splice", {}]]


def quality_with_a_dip():
    frames = list(range(*RANGE))
    identity = [0.95] * len(frames)
    identity[7:9] = [0.6, 0.4]
    calm = [0.99] * len(frames)
    return {
        "frames": frames,
        "identity": identity,
        "box_adherence": calm,
        "flicker": [None, *calm[1:]],
        "background_leak": [0.0] * len(frames),
    }


def test_a_click_on_a_dip_goes_there_and_offers_its_range(chromium, served):
    url, bench = served
    with opened(chromium, url) as tab:
        strip = tab.locator(".rv-quality")
        assert bench.value["quality"] is None and strip.is_hidden(), "a take that was never measured has no strip"
        tab.evaluate("value => window.again(value)", {**bench.value, "quality": quality_with_a_dip()})
        assert strip.is_visible() and strip.get_by_role("radio", name="Identity").get_attribute("aria-checked") == "true"
        plot = tab.get_by_role("slider", name="Quality, frame by frame")
        box = plot.bounding_box()
        tab.mouse.move(box["x"] + box["width"] * 2.5 / 12, box["y"] + 10)
        assert strip.locator("output").inner_text() == "Frame 4: identity 0.95"
        tab.mouse.click(box["x"] + box["width"] * 8.4 / 12, box["y"] + 20)
        wait_for(tab, 10)
        assert plot.get_attribute("aria-valuetext") == "Frame 10: identity 0.40"
        strip.get_by_role("button", name="Set in and out to 7 to 12").click()
        assert tab.evaluate("window.told") == [["acted", {"action": "range", "take": ONE, "value": [7, 13]}]]
        plot.focus()
        plot.press("Home")
        wait_for(tab, 2)
        plot.press("Enter")
        wait_for(tab, 10)
        plot.press("ArrowLeft")
        wait_for(tab, 9)
        strip.get_by_role("radio", name="Leak").click()
        assert (
            strip.get_by_role("button", name="Next dip").is_hidden()
            and plot.get_attribute("aria-valuetext") == "Frame 9: leak 0.00"
        )
        tab.evaluate("value => window.again(value)", bench.value)
        assert strip.is_hidden()


def test_nothing_is_asked_for_of_work_that_goes(chromium, served):
    url, bench = served
    with opened(chromium, url) as tab:
        viewer = "document.querySelector('.rv-root').viewer"
        is_asking = f"{viewer}.sides.some((side) => !side.frames.isClosed)"
        tab.evaluate(f"(token) => {{ document.documentElement.dataset.left = token; {viewer}.letGo(); }}", bench.token)
        tab.evaluate("value => window.again(value)", {**bench.value, "token": bench.token, "stamp": 2})
        assert not tab.evaluate(is_asking), "an answer from before it was thrown away comes too late"
        tab.evaluate("delete document.documentElement.dataset.left")
        tab.evaluate("value => window.again(value)", {**bench.value, "token": bench.token, "stamp": 3})
        assert tab.evaluate(is_asking), "it was not thrown away"
        for _ in range(2):
            tab.locator(f'.rv-take [data-what="delete"][data-take="{ONE}"]').click()
        assert tab.evaluate("window.told") == [["acted", {"action": "delete", "take": ONE}]]
        assert not tab.evaluate(is_asking), "the take that is shown goes"
        tab.evaluate("value => window.again(value)", {**bench.value, "stamp": 4})
        assert tab.evaluate(is_asking)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_and_targets_are_large_enough(chromium, served, width):
    with opened(chromium, served[0], viewport={"width": width, "height": 844}) as tab:
        tab.evaluate("value => window.again(value)", {**served[1].value, "quality": quality_with_a_dip()})
        tab.evaluate("document.querySelector('.rv-root').viewer.goTo(10)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        cut_off = """[...document.querySelectorAll('.rv-root :is(button, output, select)')].filter((each) =>
            each.getBoundingClientRect().right > document.querySelector('.rv-root').getBoundingClientRect().right)"""
        assert tab.evaluate(f"{cut_off}.length") == 0
        sizes = tab.evaluate(
            "[...document.querySelectorAll('.rv-root button:not([hidden])')].map((b) => [b.offsetWidth, b.offsetHeight])"
        )
        assert len(sizes) > 10 and min(min(pair) for pair in sizes) >= 32
        if os.environ.get("VIEWER_SHOTS"):
            tab.wait_for_timeout(300)
            tab.screenshot(path=f"{os.environ['VIEWER_SHOTS']}/viewer-{width}.png")
            tab.evaluate("document.body.classList.add('dark'); document.body.style.background = '#0b1017'")
            tab.screenshot(path=f"{os.environ['VIEWER_SHOTS']}/viewer-{width}-dark.png")
