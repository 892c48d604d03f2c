"""The canvas: the video's own frames, with boxes and paths drawn on them by hand. See README.md for the contract.

``Canvas`` ties the parts together: the component for the page, and the routes that the server must mount under ``/canvas``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .exchange import Exchange, Host, Work
from .follow import FollowDesk
from .frames import FrameDesk
from .masks import MaskDesk, Segmenters
from .pictures import PictureDesk
from .scene import CutOut

if TYPE_CHECKING:
    import gradio as gr
    from starlette.routing import Mount
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Canvas", "CutOut", "Exchange", "FollowDesk", "FrameDesk", "Host", "MaskDesk", "Segmenters", "Work"]

STATIC = Path(__file__).parent / "static"
MOUNT = "canvas"

_TEMPLATE = '<div class="cv-root" data-canvas="waiting"></div>'

_LOADER = """
const base = new URL("{mount}/", document.baseURI).href;
import(base + "static/{version}/canvas.js").then((module) => module.mount({{
  element: element.querySelector(".cv-root"), base, version: "{version}", props, watch,
  announce: (state) => trigger("edited", state),
}})).catch((error) => console.error("the canvas could not be loaded", error));
"""


def build_value(token: str, stamp: int, frame_index: int | None = None) -> dict[str, Any]:
    """What the component takes as its value: whose work to show. A new ``stamp`` makes the canvas look again, ``frame_index`` go
    to that frame."""
    return {"token": token, "stamp": stamp, "frame": frame_index}


class Canvas:
    """The canvas of one process. ``component()`` goes into the page, ``mount()`` into the server's routes."""

    def __init__(
        self, host: Host, desk: FrameDesk | None = None, masks: MaskDesk | None = None, follows: FollowDesk | None = None
    ) -> None:
        self.desk = desk or FrameDesk()
        self.masks = masks or MaskDesk(host)
        self.follows = follows or FollowDesk()
        self.exchange = Exchange(host, self.desk, masks=self.masks, follows=self.follows)
        self.pictures = PictureDesk(host)

    def component(self, **placement: Any) -> gr.HTML:
        """The Gradio component. It has an event ``edited`` (after every change that came from the canvas); ``placement`` is passed
        on."""
        import gradio as gr

        loader = _LOADER.format(mount=MOUNT, version=static_version())
        return gr.HTML(value=None, html_template=_TEMPLATE, js_on_load=loader, apply_default_css=False, **placement)

    def mount(self) -> Mount:
        """Everything below ``/canvas``: frames and cut-outs, the exchange, the scripts. Pass it as ``app_kwargs={"routes":
        [...]}``. Where the page asks for a login, so does all of this."""
        from starlette.middleware import Middleware
        from starlette.routing import Mount
        from starlette.staticfiles import StaticFiles

        static = Mount(f"/static/{static_version()}", StaticFiles(directory=STATIC))
        own = [self.exchange.route(), self.pictures.route(), *self.masks.routes()]
        routes = [static, *own, Mount("/view", routes=self.desk.routes())]
        return Mount(f"/{MOUNT}", routes=routes, middleware=[Middleware(SignedInOnly)])

    def close(self) -> None:
        """End the threads and forget all pictures."""
        self.exchange.close()
        self.masks.close()
        self.follows.close()
        self.pictures.close()
        self.desk.close()


class SignedInOnly:
    """Lets a request through when the Gradio app that serves it has no login, or the request carries the cookie of one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse

        app = self._app if is_signed_in(scope) else PlainTextResponse("Sign in first.", 401, {"Cache-Control": "no-store"})
        await app(scope, receive, send)


def is_signed_in(scope: Scope) -> bool:
    """Whether a request may see what the page shows. A login that is asked for by other means than ``launch(auth=…)`` lets nobody
    in here, since it cannot be checked."""
    from starlette.requests import HTTPConnection

    page: Any = scope.get("app")
    if getattr(page, "auth_dependency", None) is not None:
        return False
    if getattr(page, "auth", None) is None:
        return True
    cookies = HTTPConnection(scope).cookies
    names = (f"access-token-{page.cookie_id}", f"access-token-unsecure-{page.cookie_id}")
    return any(cookies.get(name) in page.tokens for name in names if name in cookies)


def static_version() -> str:
    """A digest of the scripts: a new version has a new address, so that no browser runs an old one."""
    sha = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:12]
