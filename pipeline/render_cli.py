"""``python -m pipeline render`` and ``batch``: a project file into a video, many into a folder.

Importing this loads nothing heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import say, show_progress
from .engines import Engine
from .errors import UserError

if TYPE_CHECKING:
    from .project import Project
    from .render import RenderSummary
    from .types import InsertionRequest

BuildEngine = Callable[..., Engine]


def add_commands(subparsers: Any, builders: Mapping[str, BuildEngine]) -> None:
    """Add ``render`` and ``batch``. ``builders`` make the engines by name, given device, folder of checkpoints, whether to compile,
    and the loaded models of this process."""
    command = subparsers.add_parser("render", help="render a project file", description="Render a project file.")
    command.set_defaults(command=lambda options: _render(options, builders))
    command.add_argument("project", metavar="PROJECT.json", type=Path, help="the project file; the files it names lie beside it")
    command.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="the result: .mp4, or .mkv with --lossless"
    )
    _add_render_options(command, tuple(builders))
    command.add_argument("--layer-alpha", metavar="OUT.mov", type=Path, help="also write the object alone, ProRes 4444 with alpha")
    command.add_argument("--report", metavar="OUT.json", type=Path, help="also write what was done, as JSON")
    command.add_argument("--json", action="store_true", help="print the summary as one line of JSON")

    command = subparsers.add_parser(
        "batch",
        help="render many project files",
        description="Render many project files into a folder, each under its own name. What is loaded stays loaded from one to the "
        "next; one that cannot be rendered is told and left out. Under torchrun every process takes its share, each on a device of "
        "its own where there are several.",
    )
    command.set_defaults(command=lambda options: _render_batch(options, builders))
    command.add_argument("projects", metavar="PROJECT.json", type=Path, nargs="+", help="project files")
    command.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="where the results go")
    _add_render_options(command, tuple(builders))
    command.add_argument("--layer-alpha", action="store_true", help="also write every object alone, ProRes 4444 with alpha")
    command.add_argument("--report", action="store_true", help="also write what was done for each, as JSON")


def _add_render_options(command: argparse.ArgumentParser, engines: Sequence[str]) -> None:
    from .segmentation.options import add_segmenter_options

    command.add_argument("--engine", choices=engines, help="instead of the file's engine")
    command.add_argument("--checkpoint", metavar="DIR", type=Path, help="VideoAnydoor's checkpoint, instead of the file's")
    command.add_argument("--checkpoints", metavar="DIR", type=Path, help="where models lie (default: checkpoints)")
    command.add_argument("--device", default="auto", metavar="DEVICE", help="where the engine runs: auto (default), cpu or cuda")
    command.add_argument("--compile", action="store_true", help="compile VideoAnydoor's networks, which takes minutes at first")
    command.add_argument("--seed", type=int, help="instead of the file's seed")
    command.add_argument("--lossless", action="store_true", help="FFV1 in the clip's own pixel format, in .mkv")
    add_segmenter_options(command)


# -- the commands -----------------------------------------------------------------------------------------------------------------


def _render(options: argparse.Namespace, builders: Mapping[str, BuildEngine]) -> None:
    job = Job(options.project, options.output, options.layer_alpha, options.report)
    document = Renderer(options, builders).run(job)
    if options.json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _render_batch(options: argparse.Namespace, builders: Mapping[str, BuildEngine]) -> None:
    from .processes import gather, own_device, own_share

    jobs = _plan_batch(options)  # before anything heavy is loaded
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(f"{options.output.name!r} cannot be made: {reason}; choose another folder.") from error
    renderer, failed = Renderer(options, builders, own_device(options.device)), []
    own = own_share(jobs)
    for number, job in enumerate(own, start=1):
        say(f"{job.project.name}, {number} of {len(own)}")
        try:
            renderer.run(job)
        except UserError as error:
            say(f"{job.project.name} is left out: {error}")
            failed.append(job.project.name)
    failed = gather(failed)  # so that none ends, and with it all, while another is still at work
    if failed:
        names = ", ".join(failed)
        raise UserError(f"{len(failed)} of {len(jobs)} projects could not be rendered ({names}); mend what is said above.")


def _plan_batch(options: argparse.Namespace) -> list[Job]:
    """What is rendered to where. Raises ``UserError`` for two projects of one name."""
    jobs: dict[str, Job] = {}
    for project in options.projects:
        name = project.stem
        if name in jobs:
            raise UserError(f"Two projects are called {name!r}, and their results would be too; rename one.")
        folder = options.output
        jobs[name] = Job(
            project,
            folder / f"{name}{'.mkv' if options.lossless else '.mp4'}",
            folder / f"{name}.mov" if options.layer_alpha else None,
            folder / f"{name}.report.json" if options.report else None,
        )
    return list(jobs.values())


@dataclass(frozen=True, slots=True)
class Job:
    """One project file and where what comes of it goes."""

    project: Path
    output: Path
    layer_alpha: Path | None = None
    report: Path | None = None


class Renderer:
    """Renders one project after the other as the flags say; engines and what they have loaded are kept from one to the next.

    ``device`` is where networks run when the flags leave it open.
    """

    def __init__(self, options: argparse.Namespace, builders: Mapping[str, BuildEngine], device: str = "auto") -> None:
        from .cache import ArtifactCache
        from .cli import cache_folder
        from .model_cache import ModelCaches
        from .segmentation.choice import SegmenterByName
        from .segmentation.options import read_segmenter_options
        from .videoanydoor.folders import DEFAULT_FOLDER

        self._options, self._builders = options, builders
        self._device = device if options.device == "auto" else options.device
        self._checkpoints = options.checkpoints or DEFAULT_FOLDER
        self._models, self._artifacts = ModelCaches(), ArtifactCache(cache_folder())
        asked = read_segmenter_options(options, self._checkpoints)
        self._segmenters = SegmenterByName(replace(asked, device=device) if asked.device == "auto" else asked, self._models)
        self._engines: dict[tuple[str, Path | None], Engine] = {}

    def run(self, job: Job) -> dict[str, Any]:
        """Render; the summary as plain JSON values. Raises ``UserError``, and what an engine raises."""
        from .preflight import plan_render
        from .project import build_request, read_project
        from .render import check_outputs, render
        from .resolve import ResolvingEngine, choose_segmenter

        options, root = self._options, job.project.absolute().parent
        project, checkpoint = self._adapt(read_project(job.project), root)
        request, warnings = build_request(project, root, cache=self._artifacts, allow_absolute=True)
        if checkpoint is not None:
            request = replace(request, sampling=replace(request.sampling, checkpoint=checkpoint.name))
        engine = self._engine(project.engine.name, None if checkpoint is None else checkpoint.parent)
        request = choose_segmenter(request, self._segmenters)
        keep = (job.project, *project.source_paths(root, allow_absolute=True))
        check_outputs(request.clip, job.output, options.lossless, job.layer_alpha, keep)
        if job.report is not None:
            _check_report(job.report, keep)
        engine_s, engine_bytes = _plan_engine(engine, request)
        plan = plan_render(
            request,
            job.output,
            lossless=options.lossless,
            layer_alpha_path=job.layer_alpha,
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
                ResolvingEngine(engine, self._segmenters, self._artifacts),
                job.output,
                lossless=options.lossless,
                layer_alpha_path=job.layer_alpha,
                metadata=metadata,
                keep=keep,
                wants_quality=job.report is not None,
            )
        )
        document = summary.to_document()
        document["warnings"] = list(dict.fromkeys((*warnings, *summary.warnings)))
        if job.report is not None:
            layer_name = None if job.layer_alpha is None else str(job.layer_alpha)
            settings = {"lossless": options.lossless, "layer_alpha": layer_name, "project": kept.to_document()}
            quality = None if summary.quality is None else summary.quality.to_document()
            _write_whole(job.report, {**document, **settings, "quality": quality})
        for warning in document["warnings"]:
            say(f"note: {warning}")
        say(f"{job.output.name}: {summary.frames} frames in {summary.seconds:.1f} s")
        return document

    def _adapt(self, project: Project, root: Path) -> tuple[Project, Path | None]:
        """The project as the flags change it, and where the checkpoint of its engine lies."""
        options = self._options
        changes = {"name": options.engine, "seed": options.seed}
        project = project.with_engine(**{key: value for key, value in changes.items() if value is not None})
        if options.segmenter is not None:
            project = project.with_segmenter(options.segmenter)
        return _choose_checkpoint(project, root, options.checkpoint, self._checkpoints)

    def _engine(self, name: str, folder: Path | None) -> Engine:
        """The engine with the checkpoints of a folder, built at its first use."""
        if (name, folder) not in self._engines:
            device = self._options.device if name == "composite" else self._device
            self._engines[name, folder] = self._builders[name](device, folder, self._options.compile, self._models)
        return self._engines[name, folder]


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
