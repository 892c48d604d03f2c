"""The page's composition root: arguments, folders, limits, engine, page, server.

``python app.py`` serves at http://127.0.0.1:7860. On a Hugging Face Space (``SPACE_ID`` is set) it listens on every address and
works in a temporary folder, since the program's own folder may be read-only there.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

ROOT = Path(__file__).resolve().parent
EXAMPLES = ROOT / "assets" / "examples"


@dataclass(frozen=True, slots=True)
class Settings:
    """How this server runs. Sizes in MiB and pixels, times in seconds."""

    host: str
    port: int
    workdir: Path
    auth: tuple[str, str] | None
    max_upload_mb: int
    max_frames: int
    max_pixels: int
    max_disk_mb: int
    queue_size: int
    time_to_live_s: float


def parse_arguments(argv: Sequence[str] | None = None, environ: dict[str, str] | None = None) -> Settings:
    """Settings from the command line; a Space changes the defaults. Exits with 2 when an argument is at fault."""
    environ = dict(os.environ) if environ is None else environ
    on_space = bool(environ.get("SPACE_ID"))
    parser = argparse.ArgumentParser(prog="app.py", description="Serve the Open VideoAnydoor page.")
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_whole(0, 65535), default=7860, help="port to listen on, 0 for any free one (%(default)s)")
    parser.add_argument("--workdir", type=Path, default=None, help="folder for visitors' files and caches")
    parser.add_argument("--auth", type=_user_and_password, default=None, metavar="USER:PASSWORD", help="ask for this login")
    parser.add_argument("--max-upload-mb", type=_whole(1, 100_000), default=300, help="largest uploaded file (%(default)s)")
    parser.add_argument("--max-frames", type=_whole(1, 1_000_000), default=1800, help="longest clip, in frames (%(default)s)")
    parser.add_argument("--max-pixels", type=_whole(256, 10**9), default=3840 * 2160, help="largest frame, in pixels (%(default)s)")
    parser.add_argument("--max-disk-mb", type=_whole(10, 10**9), default=20_000, help="most that all visitors keep (%(default)s)")
    parser.add_argument("--queue-size", type=_whole(1, 10_000), default=20, help="most jobs that may wait (%(default)s)")
    parser.add_argument(
        "--time-to-live-s", type=_whole(60, 10**8), default=4 * 3600, help="how long unused files stay (%(default)s)"
    )
    values = parser.parse_args(argv)
    workdir = values.workdir or (_temporary_workdir() if on_space else ROOT / "workdir")
    return Settings(**{**vars(values), "workdir": workdir.resolve()})


def build_demo(settings: Settings) -> gr.Blocks:
    """Make the folders, the engine and the page."""
    uploads = settings.workdir / "served"
    uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

    from editor.handlers import Page
    from editor.layout import build_page
    from editor.storage import WorkStore, keep_house
    from editor.workbench import Workbench
    from pipeline.cache import ArtifactCache
    from pipeline.composite import CompositeEngine
    from pipeline.media import MediaLimits

    max_bytes = settings.max_disk_mb * 2**20
    store = WorkStore(settings.workdir / "visitors", settings.time_to_live_s, max_bytes, max_visitor_bytes=max_bytes // 4)
    keep_house(store, uploads, max(30.0, settings.time_to_live_s / 24))
    limits = MediaLimits(max_frames=settings.max_frames, max_pixels=settings.max_pixels, cpu_s=60, timeout_s=90)
    workbench = Workbench(limits, ArtifactCache(settings.workdir / "cache"))
    page = Page(store, workbench, CompositeEngine(), uploads, sorted(EXAMPLES.glob("*.json")))
    return build_page(page, settings.time_to_live_s, settings.queue_size)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = parse_arguments(argv)
    demo = build_demo(settings)

    from editor.layout import CSS_PATH, build_theme

    demo.launch(
        server_name=settings.host,
        server_port=settings.port or None,
        auth=settings.auth,
        share=False,
        show_error=False,
        max_file_size=settings.max_upload_mb * 2**20,
        max_threads=16,
        allowed_paths=[],
        blocked_paths=[str(settings.workdir / "visitors"), str(settings.workdir / "cache")],
        state_session_capacity=1000,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        footer_links=["api"],
        theme=build_theme(),
        css_paths=[CSS_PATH],
    )


def _whole(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}")
        return int(text)

    return convert


def _user_and_password(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("must be USER:PASSWORD")
    return user, password


def _temporary_workdir() -> Path:
    return Path(tempfile.mkdtemp(prefix="open-videoanydoor-"))


if __name__ == "__main__":
    main()
