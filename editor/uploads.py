"""Where uploads land: each in a folder of its own, under a name that nobody can guess.

Gradio keeps an upload under the digest of its bytes and serves it to whoever knows the path. Whoever has the same bytes knows it,
and two visitors who bring the same file share one, which the one's time to live takes from the other. So the page answers the
address of uploads itself, in the same words, and puts every upload into a new folder; once a visitor's folder holds the file, that
one goes.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .canvas import SignedInOnly

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

ADDRESS = "/gradio_api/upload"
PREFIX = "upload-"


def route_uploads() -> Route:
    """``POST /gradio_api/upload``, for the server's routes, which come before Gradio's own. It asks for a login where the page
    does, keeps to ``launch(max_file_size=…)``, and answers with the paths."""
    from starlette.middleware import Middleware
    from starlette.routing import Route

    return Route(ADDRESS, _receive, methods=["POST"], middleware=[Middleware(SignedInOnly)])


def drop_uploads(uploads: Path, paths: Iterable[Path]) -> None:
    """Remove the folders of these uploads below ``uploads``; nothing else that lies there."""
    for path in paths:
        if path.is_relative_to(uploads) and (name := path.relative_to(uploads).parts[0]).startswith(PREFIX):
            shutil.rmtree(uploads / name, ignore_errors=True)


async def _receive(request: Request) -> Response:
    from gradio import route_utils, routes
    from starlette.responses import JSONResponse, PlainTextResponse

    page: Any = request.scope["app"]
    largest = page.blocks.max_file_size
    number = request.query_params.get("upload_id")
    folder = Path(page.uploaded_file_dir) / f"{PREFIX}{secrets.token_urlsafe(32)}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        paths, _, _ = await route_utils.upload_fn(
            request,
            folder,
            math.inf if largest is None else largest,
            number,
            upload_progress=routes.file_upload_statuses if number else None,
        )
    except route_utils.MultiPartException as error:
        shutil.rmtree(folder, ignore_errors=True)
        return PlainTextResponse(error.message, 413 if "maximum allowed size" in error.message else 400)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return JSONResponse([str(path) for path in paths])
