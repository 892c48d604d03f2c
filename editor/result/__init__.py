"""The result: before and after on the same frame, and the takes. See ``static/viewer.js`` for what the browser does.

The viewer borrows the canvas's frames (one ``FrameDesk`` serves both sides, by frame number) and its scripts for reading ahead and
playing. Its value, made by ``room.ResultRoom``, says what it shows; what the person wants comes back as the events ``acted`` (with
the action), ``splice`` and ``pack``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr
    from starlette.routing import Mount

__all__ = ["build_viewer", "mount_viewer", "static_version"]

STATIC = Path(__file__).parent / "static"
MOUNT = "result"

_TEMPLATE = '<div class="rv-root" data-viewer="waiting"></div>'

_LOADER = """
const at = (path) => new URL(path, document.baseURI).href;
import(at("{mount}/static/{version}/viewer.js")).then((module) => module.mount({{
  element: element.querySelector(".rv-root"), props, watch, styles: at("{mount}/static/{version}/viewer.css"),
  canvas: at("canvas/static/{canvas_version}/"), pictures: at("canvas/view/"),
  announce: (name, detail) => trigger({{acted: "acted", splice: "splice", pack: "pack"}}[name], detail),
}})).catch((error) => console.error("the result viewer could not be loaded", error));
"""


def build_viewer(**placement: Any) -> gr.HTML:
    """The Gradio component, with events ``acted``, ``splice`` and ``pack``; ``placement`` is passed on."""
    import gradio as gr

    from ..canvas import static_version as canvas_version

    loader = _LOADER.format(mount=MOUNT, version=static_version(), canvas_version=canvas_version())
    return gr.HTML(value=None, html_template=_TEMPLATE, js_on_load=loader, apply_default_css=False, **placement)


def mount_viewer() -> Mount:
    """The viewer's scripts, for the server's routes. The canvas must be mounted too."""
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    return Mount(f"/{MOUNT}", routes=[Mount(f"/static/{static_version()}", StaticFiles(directory=STATIC))])


def static_version() -> str:
    """A digest of the scripts: a new version has a new address, so that no browser runs an old one."""
    sha = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]
