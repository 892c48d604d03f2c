"""The reference panel in a real browser: a picture is pasted, painted, taken whole, and everything undone."""

import base64
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from editor.canvas import Canvas, static_version
from editor.canvas.host import StoredWork
from editor.session import set_clip
from editor.storage import WorkStore
from editor.workbench import Workbench
from pipeline.cache import ArtifactCache
from pipeline.masks import decode_rle, parse_coco_mask
from pipeline.media import MediaLimits, file_sha256
from tests.editor.canvas.bench import PAGE, Hand
from tests.serving import free_port
from tests.tiny import make_clip

HW = (90, 120)
PASTE = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], name, { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""
DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
  const panel = document.querySelector('[data-part="reference"]');
  panel.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


def busy_png():
    """A picture of noise with a blue square: nothing stands out by itself."""
    rgb = np.random.default_rng(0).integers(0, 255, (*HW, 3)).astype(np.uint8)
    rgb[25:65, 35:85] = (30, 60, 210)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(url, store, token): the canvas alone over a real visitor's folder."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    folder = tmp_path_factory.mktemp("reference")
    clip = make_clip(folder / "street.mp4", num_frames=12, hw=(90, 160))
    store = WorkStore(folder / "visitors")
    canvas = Canvas(StoredWork(store, Workbench(MediaLimits(), ArtifactCache(folder / "cache"))))
    token = store.issue()
    store.add_file(token, clip)
    store.save(token, set_clip(store.load(token), "street.mp4", file_sha256(clip)))
    text = PAGE.format(version=static_version(), token=token, theme="", back="#f8fafc")
    routes = [Route("/", lambda request: HTMLResponse(text)), canvas.mount()]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=free_port(), log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.config.port}/", store, token
    server.should_exit = True
    thread.join(10)
    canvas.close()


class Panel(Hand):
    """The hand on the reference panel, in coordinates 0..1 of the picture."""

    def spot(self, x, y):
        picture = self.tab.locator(".cv-picture canvas")
        picture.scroll_into_view_if_needed()
        bounds = picture.bounding_box()
        scale, dx, dy, width, height = self.js(
            "((p) => [p.view.scale, p.view.x, p.view.y, p.reference.width, p.reference.height])(c.panel.reference)"
        )
        return bounds["x"] + dx + x * width * scale, bounds["y"] + dy + y * height * scale

    def bring(self, how, name):
        self.tab.evaluate(how, [busy_png(), name])
        self.tab.wait_for_function(f"() => document.querySelector('.cv-root').canvas.panel.reference.reference?.name === '{name}'")
        self.settle()

    def settle(self):
        super().settle()
        self.tab.wait_for_function(
            "() => { const p = document.querySelector('.cv-root').canvas.panel.reference;"
            " return !p.isBusy && (!p.reference?.key || p.picture.dataset.shown === p.reference.key); }"
        )

    def press_button(self, selector):
        self.tab.locator(selector).click()
        self.settle()

    def stroke(self, *places):
        self.tab.mouse.move(*self.spot(*places[0]))
        self.tab.mouse.down()
        for place in places[1:]:
            self.tab.mouse.move(*self.spot(*place), steps=6)
        self.tab.mouse.up()
        self.settle()


def test_a_picture_is_pasted_painted_taken_whole_and_all_of_it_undone(chromium, served):
    url, store, token = served
    context = chromium.new_context(viewport={"width": 1280, "height": 1100})
    tab = context.new_page()
    faults = []
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    hand = Panel(tab)
    hand.open(url)
    texts = [store.load(token).text]

    def layer():
        return store.load(token).document["layers"][0]

    def painted():
        return decode_rle(parse_coco_mask(layer()["references"][0]["mask"]["edits"]["0"], HW), HW)

    def keep():
        texts.append(store.load(token).text)

    hand.bring(PASTE, "busy.png")
    keep()
    assert layer()["references"][0]["path"] == "busy.png" and hand.js("c.panel.reference.tool") == "belongs"
    assert "no object stands out" in tab.locator("[data-ref-note]").inner_text()
    tab.mouse.click(*hand.spot(0.5, 0.5))
    hand.settle()
    keep()
    assert layer()["references"][0]["mask"]["prompts"]["0"]["clicks"][0] == pytest.approx([0.5, 0.5, 1], abs=0.01)
    shown = tab.locator(".cv-picture canvas").evaluate("(canvas) => canvas.dataset.way")
    assert shown == "clicked"
    tab.locator('[data-ref-tool="brush"]').click()
    hand.stroke((0.1, 0.9), (0.3, 0.9))
    keep()
    assert painted()[81, 24] and not painted()[81, 60]
    tab.locator('[data-ref-tool="eraser"]').click()
    hand.stroke((0.5, 0.5), (0.55, 0.5))
    keep()
    assert not painted()[45, 60] and painted()[45, 40]
    hand.press_button('[data-ref="whole"]')
    keep()
    assert painted().all()
    tab.locator('[data-ref="large"]').click()
    assert tab.locator(".cv-large .cv-picture canvas").bounding_box()["width"] > 500
    tab.keyboard.press("Control+z")
    hand.settle()
    assert store.load(token).text == texts[-2]
    tab.keyboard.press("Escape")
    tab.locator(".cv-overlay").focus()
    for text in reversed(texts[:-2]):
        hand.press("Control+z")
        assert store.load(token).text == text
    for _ in texts[1:]:
        hand.press("Control+y")
    assert store.load(token).text == texts[-1]
    hand.bring(DROP, "other.png")
    assert layer()["references"][0]["path"] == "other.png"
    assert faults == []
    context.close()
