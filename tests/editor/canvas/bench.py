"""The canvas alone, for tests and benchmarks: an in-memory host, and a page that holds nothing but the canvas."""

from __future__ import annotations

import contextlib
import copy
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from editor.canvas import Canvas, CutOut, MaskDesk, Segmenters, Work, static_version
from pipeline.errors import UserError
from pipeline.media import FrameStore, probe_clip
from pipeline.types import Clip, Reference
from tests.serving import free_port

Document = dict[str, Any]

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><body class="{theme}" style="margin:12px;background:{back}">
<div class="cv-root"></div><script type="module">
import {{ mount }} from "./canvas/static/{version}/canvas.js";
window.edits = [];
const base = new URL("canvas/", document.baseURI).href;
const props = {{ value: {{ token: "{token}", stamp: 1 }} }};
mount({{ element: document.querySelector(".cv-root"), base, version: "{version}", props,
  watch: () => {{}}, announce: (state) => window.edits.push(state) }});
</script>"""


def make_reference() -> Reference:
    """A tall opaque shape with texture on a transparent ground; its solid part is 60 x 100 of 80 x 120 pixels."""
    y, x = np.mgrid[:120, :80]
    image = np.stack([120 + 80 * ((x // 8 + y // 8) % 2), 60 + y, 200 - 2 * x], axis=-1).astype(np.uint8)
    alpha = ((x >= 10) & (x < 70) & (y >= 10) & (y < 110)).astype(np.float32)
    return Reference(image, alpha)


@dataclass
class MemoryHost:
    """One visitor's document in memory, with undo. ``token`` alone opens it."""

    clip: Clip
    token: str = "T" * 43
    document: Document = field(default_factory=dict)
    past: list[Document] = field(default_factory=list)
    future: list[Document] = field(default_factory=list)
    reference: Reference = field(default_factory=make_reference)
    kept: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.frames = FrameStore(self.clip)
        self.guard = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Begin anew: a clip, a reference, no motion."""
        layer = {"name": "cup", "kind": "insert", "references": [{"path": "cup.png"}]}
        self.document = {"version": 1, "clip": {"path": self.clip.path.name}, "layers": [layer]}
        self.past, self.future = [], []

    def read(self, token: object) -> Work:
        if token != self.token:
            raise UserError("This page has been idle for too long; reload it.")
        with self.guard:
            document = copy.deepcopy(self.document)
            return Work(
                document,
                bool(self.past),
                bool(self.future),
                self.clip,
                self.frames,
                lambda _: CutOut(self.reference, "cup"),
                self.find_file,
            )

    def find_file(self, name: str) -> Path:
        if name not in self.kept:
            raise UserError(f"{name} is not there.")
        return self.kept[name]

    def keep_file(self, token: object, source: Path, check: Callable[[Path], object]) -> str:
        self.read(token)
        kept = self.clip.path.with_name(f"kept-{source.name}")
        shutil.copyfile(source, kept)
        check(kept)
        self.kept[kept.name] = kept
        return kept.name

    def write(self, token: object, before: Document, after: Document) -> Work:
        self.read(token)
        with self.guard:
            if before != self.document:
                raise UserError("The project was changed elsewhere meanwhile.")
            self.past, self.future = [*self.past, self.document], []
            self.document = copy.deepcopy(after)
        return self.read(token)

    def undo(self, token: object) -> Work:
        self.read(token)
        with self.guard:
            if self.past:
                self.future.append(self.document)
                self.document = self.past.pop()
        return self.read(token)

    def redo(self, token: object) -> Work:
        self.read(token)
        with self.guard:
            if self.future:
                self.past.append(self.document)
                self.document = self.future.pop()
        return self.read(token)


@dataclass(frozen=True)
class Served:
    url: str
    host: MemoryHost
    canvas: Canvas


@contextlib.contextmanager
def serving_canvas(
    clip_path: Path, reference: Reference | None = None, theme: str = "", segmenters: Segmenters | None = None
) -> Iterator[Served]:
    """Serve a page with the canvas alone until the block ends."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    host = MemoryHost(probe_clip(clip_path))
    if reference is not None:
        host.reference = reference
    canvas = Canvas(host, masks=MaskDesk(host, segmenters))

    def page(request: Any) -> HTMLResponse:
        theme_now = request.query_params.get("theme", theme)
        back = "#0b1017" if theme_now == "dark" else "#f8fafc"
        return HTMLResponse(PAGE.format(version=static_version(), token=host.token, theme=theme_now, back=back))

    port = free_port()
    config = uvicorn.Config(Starlette(routes=[Route("/", page), canvas.mount()]), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield Served(f"http://127.0.0.1:{port}/", host, canvas)
    finally:
        server.should_exit = True
        thread.join(10)
        canvas.close()
        host.frames.close()


class Hand:
    """Drives the canvas in a browser tab with a mouse, in coordinates 0..1 of the picture."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab

    def open(self, url: str) -> None:
        self.tab.goto(url)
        self.tab.wait_for_selector('.cv-stage[data-painted-frame="0"]')

    def js(self, code: str) -> Any:
        """Evaluate JavaScript with ``c`` being the canvas."""
        return self.tab.evaluate(f"() => {{ const c = document.querySelector('.cv-root').canvas; return {code}; }}")

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        stage = self.tab.locator(".cv-overlay").bounding_box()
        a, d, e, f = self.js("(([a, , , d, e, f]) => [a, d, e, f])(c.stage.documentMap)")
        return stage["x"] + e + point[0] * a, stage["y"] + f + point[1] * d

    def go(self, frame: int) -> None:
        """Step to a frame by the keyboard's arrows and wait for its picture."""
        now = self.js("c.model.frame")
        self.tab.locator(".cv-overlay").focus()
        for _ in range(abs(frame - now) // 10):
            self.tab.keyboard.press("Shift+ArrowRight" if frame > now else "Shift+ArrowLeft")
        for _ in range(abs(frame - now) % 10):
            self.tab.keyboard.press("ArrowRight" if frame > now else "ArrowLeft")
        self.tab.wait_for_selector(f'.cv-stage[data-painted-frame="{frame}"]')

    def drag(self, *points: tuple[float, float], steps: int = 6, modifier: str | None = None) -> None:
        """Press at the first point, move through the others, let go at the last; then wait for the server."""
        if modifier:
            self.tab.keyboard.down(modifier)
        self.tab.mouse.move(*self.at(points[0]))
        self.tab.mouse.down()
        for point in points[1:]:
            self.tab.mouse.move(*self.at(point), steps=steps)
        self.tab.mouse.up()
        if modifier:
            self.tab.keyboard.up(modifier)
        self.settle()

    def click(self, point: tuple[float, float]) -> None:
        self.tab.mouse.click(*self.at(point))
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)
        self.settle()

    def settle(self) -> None:
        """Wait until the server has answered everything and the answer is drawn."""
        self.tab.wait_for_function(
            "() => { const c = document.querySelector('.cv-root').canvas;"
            " return !c.link.isBusy && !c.link.queue.length && c.dirty.size === 0 && !c.model.draft; }"
        )

    def box(self) -> list[float]:
        """The chosen layer's box as drawn at the current frame, in clip pixels."""
        return self.js("(({x0, y0, x1, y1}) => [x0, y0, x1, y1])(c.model.box(c.model.layerIndex, c.model.frame))")
