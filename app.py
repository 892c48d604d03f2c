"""The page's composition root: arguments, folders, limits, engine, page, server.

``python app.py`` serves at http://127.0.0.1:7860. On a Hugging Face Space (``SPACE_ID`` is set) it listens on every address and
works in a temporary folder, since the program's own folder may be read-only there.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from editor.canvas import Canvas
    from pipeline.cache import ArtifactCache
    from pipeline.engine_choice import EngineByName
    from pipeline.model_cache import ModelCaches
    from pipeline.segmentation.options import SegmenterOptions
    from pipeline.videoanydoor.planner import Planner

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
    device: str
    checkpoints: Path
    compile: bool
    segmenter: SegmenterOptions
    is_lent: bool
    """Whether GPUs are lent for single calls here (``SPACES_ZERO_GPU`` is set)."""


def parse_arguments(argv: Sequence[str] | None = None, environ: dict[str, str] | None = None) -> Settings:
    """Settings from the command line; a Space changes the defaults. Exits with 2 when an argument is at fault."""
    from pipeline.segmentation.options import add_segmenter_options, read_segmenter_options

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
    parser.add_argument("--device", type=_device, default="auto", help="where VideoAnydoor runs: auto, cpu or cuda (%(default)s)")
    parser.add_argument(
        "--checkpoints", type=Path, default=ROOT / "checkpoints", metavar="DIR", help="folder of VideoAnydoor's checkpoints"
    )
    parser.add_argument("--compile", action="store_true", help="compile VideoAnydoor's networks, which takes minutes at first")
    add_segmenter_options(parser)
    values = parser.parse_args(argv)
    workdir = values.workdir or (_temporary_workdir() if on_space else ROOT / "workdir")
    is_lent = _is_lent(environ)
    if values.segmenter_device is None and is_lent:
        values.segmenter_device = "cpu"  # a GPU is there inside the engine's calls alone
    settings = {name: value for name, value in vars(values).items() if not name.startswith("segmenter")}
    segmenter = read_segmenter_options(values, values.checkpoints)
    return Settings(**{**settings, "workdir": workdir.resolve(), "segmenter": segmenter, "is_lent": is_lent})


def build_demo(settings: Settings) -> tuple[gr.Blocks, Canvas]:
    """Make the folders, the engine and the page, with the canvas in it, whose routes the server must mount."""
    uploads = settings.workdir / "served"
    uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

    from editor.handlers import Page
    from editor.layout import build_page
    from editor.storage import WorkStore, keep_house
    from editor.workbench import Workbench
    from pipeline.cache import ArtifactCache
    from pipeline.media import MediaLimits
    from pipeline.model_cache import ModelCaches
    from pipeline.resolve import ResolvingEngine
    from pipeline.segmentation.choice import SegmenterByName
    from pipeline.videoanydoor.folders import list_checkpoints

    max_bytes = settings.max_disk_mb * 2**20
    store = WorkStore(settings.workdir / "visitors", settings.time_to_live_s, max_bytes, max_visitor_bytes=max_bytes // 4)
    keep_house(store, uploads, min(60.0, settings.time_to_live_s / 4), max_served_bytes=max_bytes // 2)
    limits = MediaLimits(max_frames=settings.max_frames, max_pixels=settings.max_pixels, cpu_s=60, timeout_s=90)
    artifacts = ArtifactCache(settings.workdir / "cache")
    models = ModelCaches()
    segmenters = SegmenterByName(settings.segmenter, models)
    page = Page(
        store,
        Workbench(limits, artifacts, segmenters),
        ResolvingEngine(build_engines(settings, artifacts, models), segmenters, artifacts),
        uploads,
        sorted(EXAMPLES.glob("*.json")),
        [path.name for path in list_checkpoints(settings.checkpoints)],
        segmenters,
        build_planner(settings, models),
    )
    page.canvas.masks.max_import_bytes = settings.max_upload_mb * 2**20
    return build_page(page, settings.time_to_live_s, settings.queue_size), page.canvas


def build_engines(settings: Settings, artifacts: ArtifactCache, models: ModelCaches) -> EngineByName:
    """The engines that projects may name, each built at its first use, so that the page opens without them; ``models`` is what
    they and the segmenter keep loaded.

    Where GPUs are lent for single calls, VideoAnydoor and its checkpoints are loaded here, before the
    server starts, and its sampling runs in such calls.
    """
    from pipeline import videoanydoor
    from pipeline.composite import CompositeEngine
    from pipeline.engine_choice import EngineByName

    build = partial(videoanydoor.build_engine, settings.device, settings.checkpoints, artifacts, settings.compile, models)
    if settings.is_lent:
        import spaces  # must come before torch

        from pipeline.videoanydoor import zero_gpu

        if settings.compile:
            logging.getLogger(__name__).warning("--compile is ignored: nothing is compiled where GPUs are lent for single calls.")
        lent = zero_gpu.build_engine(settings.checkpoints, artifacts, spaces.GPU)
        return EngineByName({"composite": CompositeEngine, "videoanydoor": lambda: lent})
    return EngineByName({"composite": CompositeEngine, "videoanydoor": build})


def build_planner(settings: Settings, models: ModelCaches) -> Planner:
    """What tells the page the plans of runs, for where ``build_engines`` has them run."""
    from pipeline.videoanydoor.planner import Planner, find_machine

    if settings.is_lent:
        from pipeline.videoanydoor.zero_gpu import describe_machine

        return Planner(settings.checkpoints, describe_machine)
    return Planner(settings.checkpoints, partial(find_machine, settings.device, models))


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = parse_arguments(argv)
    demo, canvas = build_demo(settings)
    try:
        _serve(demo, canvas, settings)
    finally:
        canvas.close()


def _serve(demo: gr.Blocks, canvas: Canvas, settings: Settings) -> None:
    from editor.layout import CSS_PATH, build_theme
    from editor.result import mount_viewer
    from editor.uploads import route_uploads

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
        footer_links=[],  # the API panel asks for addresses that are closed here, and covers the page; the README has the API
        theme=build_theme(),
        css_paths=[CSS_PATH],
        app_kwargs={"routes": [canvas.mount(), mount_viewer(), route_uploads()]},
    )


def _is_lent(environ: dict[str, str]) -> bool:
    return environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"} and importlib.util.find_spec("spaces") is not None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}")
        return int(text)

    return convert


def _device(text: str) -> str:
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,2})?", text) is None:
        raise argparse.ArgumentTypeError("must be auto, cpu, cuda, cuda:NUMBER or mps")
    return text


def _user_and_password(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("must be USER:PASSWORD")
    return user, password


def _temporary_workdir() -> Path:
    return Path(tempfile.mkdtemp(prefix="open-videoanydoor-"))


if __name__ == "__main__":
    main()
