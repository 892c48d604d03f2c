"""The command line: the same jobs as on the page, without a browser.

Exit status: 0 done; 2 the input is at fault (one sentence on stderr, nothing left behind); 130 interrupted; 1 anything else.
Progress goes to stderr. This is one of the two places (with ``app.py``) where engines are chosen and the environment is read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .console import say, show_progress
from .engines import Engine
from .errors import UserError

if TYPE_CHECKING:
    from .model_cache import ModelCaches
    from .project import Project
    from .render import RenderSummary
    from .types import InsertionRequest

DONE, FAILED, INPUT_AT_FAULT, INTERRUPTED = 0, 1, 2, 130


def build_composite(
    device: str, checkpoints: Path | None = None, is_compiled: bool = False, models: ModelCaches | None = None
) -> Engine:
    """The deterministic compositor; it needs no device but the CPU, and no checkpoint."""
    if device not in ("auto", "cpu"):
        raise UserError(f"The composite engine runs on the CPU, not on {device!r}; leave --device out.")
    if is_compiled:
        raise UserError("The composite engine has no networks to compile; leave --compile out.")
    from .composite.engine import CompositeEngine

    return CompositeEngine()


def build_videoanydoor(
    device: str, checkpoints: Path | None, is_compiled: bool = False, models: ModelCaches | None = None
) -> Engine:
    """VideoAnydoor with the checkpoints in a folder; it needs torch. ``models``: loaded models that others use too."""
    from . import videoanydoor
    from .cache import ArtifactCache

    return videoanydoor.build_engine(device, checkpoints, ArtifactCache(cache_folder()), is_compiled, models)


ENGINES: Mapping[str, Callable[..., Engine]] = {
    "composite": build_composite,
    "videoanydoor": build_videoanydoor,
}
"""By name: what builds the engine on a device, given the folder of its checkpoints where it has any, whether to compile it, and the
loaded models of this process."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    with _stopped_by_signals():
        try:
            options = _build_parser().parse_args(arguments)
            options.command(options)
        except UserError as error:
            say(f"error: {_one_line(str(error))}")
            return INPUT_AT_FAULT
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED
        except MemoryError:
            say("error: there is not enough memory; close other programs or use a smaller clip.")
            return FAILED
        except Exception:  # noqa: BLE001 - the last line of defence: whatever is left goes to the log
            traceback.print_exc()
            say("error: something broke that is not the input's fault; the lines above say where.")
            return FAILED
        return DONE


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and a request to terminate stop the work the same way; while that cleans up, further ones are ignored."""
    watched = (signal.SIGINT, signal.SIGTERM)

    def interrupt(signal_number: int, frame: object) -> NoReturn:
        for each in watched:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(each, interrupt) for each in watched]
    try:
        yield
    finally:
        for each, handler in zip(watched, before, strict=True):
            signal.signal(each, handler)


class _Parser(argparse.ArgumentParser):
    """One sentence instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help.")


def _build_parser() -> argparse.ArgumentParser:
    from .segmentation.options import add_segmenter_options

    parser = _Parser(prog="python -m pipeline", description="Put an object into a video, moving the way you drew it.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("render", help="render a project file", description="Render a project file.")
    command.set_defaults(command=_render)
    command.add_argument("project", metavar="PROJECT.json", type=Path, help="the project file; the files it names lie beside it")
    command.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="the result: .mp4, or .mkv with --lossless"
    )
    command.add_argument("--engine", choices=tuple(ENGINES), help="instead of the file's engine")
    command.add_argument("--checkpoint", metavar="DIR", type=Path, help="VideoAnydoor's checkpoint, instead of the file's")
    command.add_argument("--checkpoints", metavar="DIR", type=Path, help="where models lie (default: checkpoints)")
    command.add_argument("--device", default="auto", metavar="DEVICE", help="where the engine runs: auto (default), cpu or cuda")
    command.add_argument("--compile", action="store_true", help="compile VideoAnydoor's networks, which takes minutes at first")
    command.add_argument("--seed", type=int, help="instead of the file's seed")
    command.add_argument("--lossless", action="store_true", help="FFV1 in the clip's own pixel format, in .mkv")
    command.add_argument("--layer-alpha", metavar="OUT.mov", type=Path, help="also write the object alone, ProRes 4444 with alpha")
    command.add_argument("--report", metavar="OUT.json", type=Path, help="also write what was done, as JSON")
    command.add_argument("--json", action="store_true", help="print the summary as one line of JSON")
    add_segmenter_options(command)

    from .evaluation.cli import add_commands as add_evaluation_commands
    from .segmentation.cli import add_commands as add_segmentation_commands
    from .tracking_cli import add_commands as add_tracking_commands
    from .training.cli import add_commands as add_training_commands
    from .videoanydoor.cli import add_commands

    add_training_commands(add_commands(commands))
    add_evaluation_commands(commands, ENGINES)
    add_segmentation_commands(commands)
    add_tracking_commands(commands)

    command = commands.add_parser(
        "warm-up", help="prepare the first cut-out", description="Compile what automatic cut-outs need; takes a minute, once."
    )
    command.set_defaults(command=_warm_up)
    return parser


# -- render -----------------------------------------------------------------------------------------------------------------------


def _render(options: argparse.Namespace) -> None:
    from .cache import ArtifactCache
    from .model_cache import ModelCaches
    from .preflight import plan_render
    from .project import build_request, read_project
    from .render import check_outputs, render
    from .resolve import ResolvingEngine, choose_segmenter
    from .segmentation.choice import SegmenterByName
    from .segmentation.options import read_segmenter_options
    from .videoanydoor.folders import DEFAULT_FOLDER

    project = read_project(options.project)
    changes = {"name": options.engine, "seed": options.seed}
    project = project.with_engine(**{key: value for key, value in changes.items() if value is not None})
    if options.segmenter is not None:
        project = project.with_segmenter(options.segmenter)
    root, checkpoints = options.project.absolute().parent, options.checkpoints or DEFAULT_FOLDER
    project, checkpoint = _choose_checkpoint(project, root, options.checkpoint, checkpoints)
    request, warnings = build_request(project, root, cache=ArtifactCache(cache_folder()), allow_absolute=True)
    if checkpoint is not None:
        request = replace(request, sampling=replace(request.sampling, checkpoint=checkpoint.name))

    models = ModelCaches()
    folder = None if checkpoint is None else checkpoint.parent
    engine = ENGINES[project.engine.name](options.device, folder, options.compile, models)
    segmenters = SegmenterByName(read_segmenter_options(options, checkpoints), models)
    request = choose_segmenter(request, segmenters)
    keep = (options.project, *project.source_paths(root, allow_absolute=True))
    check_outputs(request.clip, options.output, options.lossless, options.layer_alpha, keep)
    if options.report is not None:
        _check_report(options.report, keep)
    engine_s, engine_bytes = _plan_engine(engine, request)
    engine = ResolvingEngine(engine, segmenters, ArtifactCache(cache_folder()))
    plan = plan_render(
        request,
        options.output,
        lossless=options.lossless,
        layer_alpha_path=options.layer_alpha,
        engine_s=engine_s,
        engine_bytes=engine_bytes,
    )
    say(plan.describe())

    kept = project.for_result(root, allow_absolute=True, clip_sha256=request.clip.sha256)
    metadata = kept.to_metadata()
    if not metadata:
        warnings.append("The project is too large to travel inside the result; keep the project file.")
    summary: RenderSummary = show_progress(
        render(
            request,
            engine,
            options.output,
            lossless=options.lossless,
            layer_alpha_path=options.layer_alpha,
            metadata=metadata,
            keep=keep,
            wants_quality=options.report is not None,
        )
    )
    document = summary.to_document()
    document["warnings"] = list(dict.fromkeys((*warnings, *summary.warnings)))
    if options.report is not None:
        layer_name = None if options.layer_alpha is None else str(options.layer_alpha)
        settings = {"lossless": options.lossless, "layer_alpha": layer_name, "project": kept.to_document()}
        quality = None if summary.quality is None else summary.quality.to_document()
        _write_whole(options.report, {**document, **settings, "quality": quality})
    for warning in document["warnings"]:
        say(f"note: {warning}")
    say(f"{options.output.name}: {summary.frames} frames in {summary.seconds:.1f} s")
    if options.json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _choose_checkpoint(project: Project, root: Path, given: Path | None, folder: Path) -> tuple[Project, Path | None]:
    """The project naming the checkpoint that its engine is to use, and where that lies; None for engines without one.

    ``given`` on the command line goes before the file's; a file's relative path starts at ``root``, and names are those of
    checkpoints in ``folder``. Raises ``UserError``.
    """
    if project.engine.name != "videoanydoor":
        if given is not None:
            raise UserError(f"The {project.engine.name} engine takes no checkpoint; leave --checkpoint out.")
        return project, None
    from .videoanydoor.folders import locate_checkpoint

    named = project.engine.checkpoint if given is None else str(given.absolute())
    found = locate_checkpoint(named, root, folder)
    return project.with_engine(checkpoint=str(found)), found


def _plan_engine(engine: Engine, request: InsertionRequest) -> tuple[float, int]:
    """Seconds and bytes of this process's memory that an engine with a plan of its own expects; the plan is told."""
    make_plan = getattr(engine, "plan", None)
    if make_plan is None:
        return 0.0, 0
    plan = make_plan(request)
    say(plan.describe())
    return plan.seconds, plan.host_bytes


def _check_report(path: Path, keep: Sequence[Path]) -> None:
    """A report that cannot be written is said before the work, not after it."""
    from .render import check_replaceable

    if path.suffix.lower() != ".json":
        raise UserError(f"The report must end in .json, and {path.name!r} does not; rename it.")
    check_replaceable(path, keep)
    with _unfinished(path):
        pass


def _write_whole(path: Path, document: Mapping[str, object]) -> None:
    with _unfinished(path) as unfinished:
        unfinished.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A hidden neighbour of ``path`` to write into; gone afterwards, unless it was given its name."""
    unfinished = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}.part")
    try:
        unfinished.touch(exist_ok=False)
        yield unfinished
    except OSError as error:
        raise UserError(f"{path.name!r} cannot be written: {os.strerror(error.errno or 0)}; choose another place.") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where the command line keeps what it can always make again: the platform's folder for that."""
    name = "open-videoanydoor"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / name / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / name
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(folder) if os.path.isabs(folder) else Path.home() / ".cache") / name


# -- warm-up ----------------------------------------------------------------------------------------------------------------------


def _warm_up(options: argparse.Namespace) -> None:
    from .matting import warm_up

    say("preparing automatic cut-outs; the first time this takes a minute or two …")
    started_s = time.monotonic()
    warm_up()
    say(f"ready after {time.monotonic() - started_s:.1f} s")


def _one_line(text: str) -> str:
    return " ".join(text.split())
