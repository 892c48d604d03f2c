"""Images that a person pastes or drops onto the canvas: ``POST /picture``, beside the page's own uploads.

The body is the file. The headers ``X-Visitor`` (the token), ``X-Layer``, ``X-Reference``, ``X-Role`` (``replace``, ``add`` or
``mask``) and ``X-Name`` (percent-encoded) say whose it is and what for; a browser lets no other site send them. The answer is
``{"fault": sentence or null}``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import UserError
from pipeline.project import MAX_LAYERS, MAX_REFERENCES

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

log = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 64 << 20
MAX_NAME_CHARS = 600
ROLES = ("replace", "add", "mask")
NEUTRAL = "Something went wrong on the server; it has been noted. Your work is kept, so try again."
_NUMBER = re.compile(r"[0-9]{1,3}")


class PictureHost(Protocol):
    """What the page provides."""

    def read(self, token: object) -> object:
        """Raises ``UserError`` for a token that is not that of a living visitor."""

    def take_image(self, token: object, source: Path, layer: int, reference: int, role: str) -> None:
        """Take the image in, as one step that can be undone. Raises ``UserError``."""


class PictureDesk:
    """Receives images. One per process."""

    def __init__(self, host: PictureHost) -> None:
        self._host = host
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="canvas-pictures")

    def route(self) -> Route:
        """``POST /picture``, relative to wherever it is mounted."""
        from starlette.routing import Route

        return Route("/picture", self._receive, methods=["POST"])

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _receive(self, request: Request) -> Response:
        """The token and all the rest is checked before a byte of the body is taken."""
        try:
            token, layer, reference, role, name = read_headers(request.headers)
            self._host.read(token)
        except UserError as error:
            return _answer(str(error), 400)
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory(prefix="picture-") as folder:
            path = Path(folder) / name
            with open(path, "wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
                    if file.tell() > MAX_IMAGE_BYTES:
                        return _answer(f"A picture may have at most {MAX_IMAGE_BYTES >> 20} MiB; make it smaller.", 413)
            try:
                fault = await loop.run_in_executor(self._pool, self._taken, token, path, layer, reference, role)
            except RuntimeError:  # the server is closing
                fault = NEUTRAL
        return _answer(fault, 200 if fault is None else 400)

    def _taken(self, token: str, path: Path, layer: int, reference: int, role: str) -> str | None:
        try:
            self._host.take_image(token, path, layer, reference, role)
        except UserError as error:
            return str(error)
        except Exception:
            log.exception("an image could not be taken in")
            return NEUTRAL
        return None


def read_headers(headers: Mapping[str, str]) -> tuple[str, int, int, str, str]:
    """Token, layer, reference, role and the file's safe base name. Raises ``UserError``."""
    role, name = headers.get("x-role", ""), headers.get("x-name", "")
    numbers = [headers.get("x-layer", ""), headers.get("x-reference", "0")]
    if role not in ROLES or len(name) > MAX_NAME_CHARS or not all(_NUMBER.fullmatch(each) for each in numbers):
        raise UserError("The page sent a picture in a way that is not known here; reload it and try again.")
    layer, reference = (int(each) for each in numbers)
    if layer >= MAX_LAYERS or reference >= MAX_REFERENCES:
        raise UserError("That layer is not there any more; reload the page.")
    return headers.get("x-visitor", ""), layer, reference, role, safe_image_name(urllib.parse.unquote(name, errors="replace"))


def safe_image_name(name: str) -> str:
    """The last part of ``name`` without anything but letters, digits and ``_-.+ ()``; ``picture.png`` when that is no file name."""
    base = re.sub(r"[^\w .()+-]", "", name.replace("\\", "/").rsplit("/", 1)[-1]).strip(" .")
    stem, dot, suffix = base.rpartition(".")
    is_usable = dot and stem.strip(" .") and re.fullmatch(r"[A-Za-z0-9]{1,8}", suffix)
    return f"{stem[:60]}.{suffix}" if is_usable else "picture.png"


def _answer(fault: str | None, status: int) -> Response:
    from starlette.responses import JSONResponse

    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return JSONResponse({"fault": fault}, status, headers)
