"""What the page does when a person does something: plain functions of a visitor's token and an event.

Everything that comes from a browser is checked here as if an enemy had sent it, before anything else sees it. ``UserError`` becomes
``gr.Error`` with its sentence; whatever else goes wrong is logged with its traceback, and the person reads a neutral line.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import html
import json
import logging
import math
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import gradio as gr

from pipeline.errors import Cancelled, UserError
from pipeline.images import scale_to
from pipeline.mask_files import encode_png

from . import engine_settings
from . import session as steps
from .canvas import Canvas, FollowDesk, MaskDesk, Segmenters
from .canvas.host import StoredWork
from .checks import check_file_names, check_frame, check_layer, check_number, check_text, check_uploads
from .mask_api import MaskApi
from .references import check_pictures, take_image
from .result.room import ResultRoom, find_dropped_project
from .session import EditSession
from .storage import WorkStore, safe_name
from .uploads import drop_uploads
from .views import PREVIEWED_ALONE, STOPPED, RunView, View, build_view, describe_progress, preview_hw, share_of, tell_plan
from .workbench import OpenClip, Workbench

if TYPE_CHECKING:
    from pipeline.engines import Engine
    from pipeline.project import Project
    from pipeline.render import RenderSummary
    from pipeline.types import Array, InsertionRequest, Progress
    from pipeline.videoanydoor.planner import Planner

    from .result.room import Outcome

log = logging.getLogger(__name__)

NEUTRAL = "Something went wrong on the server; it has been noted. Your work is kept, so try again."
PROGRESS_PERIOD_S = 0.2
PREVIEW_PERIOD_S = 0.8

DOWNLOAD_NAMES = {"video": "inserted.mp4", "lossless": "inserted-lossless.mkv", "layer": "object-layer.mov"}
RESULT_SUFFIXES = (".mp4", ".mkv")

Params = ParamSpec("Params")
Result = TypeVar("Result")


# -- errors ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def told_to_the_person() -> Iterator[None]:
    """Turn what is raised inside into what a person may read. Text is escaped: the page shows errors as markup."""
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error), quote=False), title="That did not work", print_exception=False) from None
    except (gr.Error, Cancelled):
        raise
    except Exception:
        log.exception("a handler failed")
        raise gr.Error(NEUTRAL, title="Sorry", print_exception=False) from None


def handler(function: Callable[Concatenate[Page, Params], Result]) -> Callable[Concatenate[Page, Params], Result]:
    """Mark a method as called by the page."""

    @functools.wraps(function)
    def wrapped(self: Page, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        with told_to_the_person():
            return function(self, *args, **kwargs)

    return wrapped


class Page:
    """The page's functions. One serves every visitor and keeps nothing about any of them (that lies in ``store``) but a flag while
    it renders for them, which stops the render.

    ``uploads`` is the folder where Gradio puts uploads and serves files from; ``examples`` are the worked examples' project
    files, the first of which a new visitor finds laid out; ``planner`` tells what a run of VideoAnydoor will take.
    """

    def __init__(
        self,
        store: WorkStore,
        workbench: Workbench,
        engine: Engine,
        uploads: Path,
        examples: Sequence[Path] = (),
        checkpoints: Sequence[str] = (),
        segmenters: Segmenters | None = None,
        planner: Planner | None = None,
    ) -> None:
        self.store, self.workbench, self.engine, self.planner = store, workbench, engine, planner
        self.uploads, self.examples, self.checkpoints = Path(uploads), tuple(examples), tuple(checkpoints)
        self._stops: dict[str, threading.Event] = {}
        self._host = StoredWork(store, workbench)
        self.masks = MaskApi(segmenters, workbench.limits, workbench.artifacts)
        masks, follows = MaskDesk(self._host, segmenters, workbench.artifacts), FollowDesk(workbench.artifacts)
        self.canvas = Canvas(self._host, masks=masks, follows=follows)
        store.when_removed(self.canvas.desk.forget)
        store.when_removed(self.canvas.masks.forget)
        self.results = ResultRoom(store, workbench, self.canvas.desk, engine)

    # -- coming and going -------------------------------------------------------------------------------------------------------

    @handler
    def open_visitor(self, kept: object = None) -> tuple[str, View, int]:
        """The visitor who comes: the one whose token this browser has ``kept``, work and all, or a new one, with the worked example
        laid out where there is one. Returns the token, the view, and the frame to begin at."""
        with contextlib.suppress(UserError), self.store.using(kept):
            session = self.store.load(kept)
            return str(kept), self._view(kept, session), self._middle(kept, session)
        token = self.store.issue()
        with contextlib.suppress(UserError):  # a server with narrow limits may refuse its own example
            for example in self.examples[:1]:
                view, frame_index = self._load_example(token, example)
                self.store.save(token, EditSession(self.store.load(token).text))  # nothing before it to go back to
                return token, view, frame_index
        return token, self._view(token, EditSession()), 0

    @handler
    def load_example(self, number: int, token: object) -> tuple[View, int]:
        """The view, and the frame to go to. The example's result becomes a take."""
        return self._load_example(token, self.examples[number])

    @handler
    def start_empty(self, token: object) -> tuple[str, View]:
        """Forget everything and begin anew, in another folder."""
        self._stop(token)
        fresh = self.store.issue()
        self.store.delete(token)
        return fresh, self._view(fresh, EditSession())

    # -- files ------------------------------------------------------------------------------------------------------------------

    @handler
    def upload_clip(self, token: object, path: object) -> View:
        with self._received([path]) as [source], self.store.locked(token):
            self._stop(token)
            added = self.store.add_file(token, source)
            try:
                opened = self.workbench.open_clip(self.store.files(token) / added.name)
            except UserError:
                self.store.drop_file(token, added)
                raise
            session = steps.set_clip(self.store.load(token), added.name, opened.clip.sha256)
            return self._saved(token, session)

    @handler
    def upload_reference(self, token: object, path: object, layer: object = 0) -> View:
        """The picture of a layer's thing, in place of the first one it has."""
        with self._received([path]) as [source]:
            session, index = take_image(self.store, self.workbench, token, source, check_layer(layer))
            return self._view(token, session, index)

    @handler
    def open_project(self, token: object, paths: object) -> View:
        """Open a project file, or a video that was rendered here and carries its project, with the files it names unless they are
        here already."""
        with self._received(paths) as sources:
            chosen, text = self._find_project(sources)
            self._stop(token)
            with self.store.locked(token):
                project = self._take_in(token, text, [source for source in sources if source != chosen])
                session = steps.open_document(self.store.load(token), project.to_document())
                return self._saved(token, session)

    @handler
    def save_project(self, token: object) -> str:
        """The project file, for download."""
        document = self.store.load(token).document
        if not document.get("clip"):
            raise UserError("There is nothing to save yet; add a video first.")
        text = json.dumps(document, ensure_ascii=False, indent=1)
        return self._publish_text(text, "project.json")

    # -- editing ----------------------------------------------------------------------------------------------------------------

    @handler
    def refresh(self, token: object, layer: object = 0) -> View:
        """What the page shows beside the canvas, after an edit there or the choice of another layer."""
        return self._view(token, self.store.load(token), check_layer(layer))

    @handler
    def set_blend(self, key: str, token: object, value: object, layer: object = 0) -> View:
        with self.store.locked(token):
            session, index = self.store.load(token), check_layer(layer)
            return self._saved(token, steps.set_blend(session, index, key, check_number(value, "The setting")), index)

    @handler
    def choose_engine(self, token: object, name: object, layer: object = 0) -> View:
        with self.store.locked(token):
            session = engine_settings.choose_engine(self.store.load(token), name, self.checkpoints)
            return self._saved(token, session, check_layer(layer))

    @handler
    def choose_checkpoint(self, token: object, name: object, layer: object = 0) -> View:
        with self.store.locked(token):
            session = engine_settings.choose_checkpoint(self.store.load(token), name, self.checkpoints)
            return self._saved(token, session, check_layer(layer))

    @handler
    def set_engine_number(self, key: str, token: object, value: object, layer: object = 0) -> View:
        with self.store.locked(token):
            number = check_number(value, "The setting")
            session = engine_settings.set_engine_number(self.store.load(token), key, number)
            return self._saved(token, session, check_layer(layer))

    # -- rendering --------------------------------------------------------------------------------------------------------------

    @handler
    def preview_frame(self, token: object, frame: object) -> Array:
        """This frame as the engine makes it, u8[h,w,3] at the size of the view."""
        with self.store.using(token):
            session = self.store.load(token)
            self._require_complete(session)
            request, _ = self._request(self._parse(session.text), self.store.files(token))
            index = check_frame(frame, request.clip.num_frames)
            return scale_to(self._render_one(request, index), preview_hw(request.clip.hw))

    @handler
    def note_preview(self, token: object) -> str | None:
        """What must be said of a previewed frame: how it differs from the same frame of a render, if it does."""
        engine = engine_settings.find_engine(self.store.load(token).document)
        return PREVIEWED_ALONE if engine.name == engine_settings.GENERATOR else None

    @handler
    def tell_plan(self, token: object) -> str | None:
        """The plan of a run, once it is found out where it takes place, which may take seconds the first time; None without one."""
        if self.planner is None:
            return None
        self.planner.look()
        return tell_plan(self._host.work_of(token, self.store.load(token)), self.planner) or None

    def insert(self, token: object, wants_lossless: object, wants_layer: object) -> Generator[RunView, None, None]:
        """Render, telling progress. Closing the generator, ``cancel``, and a new start of the visitor's work all stop it within a
        frame and keep what was there before. An unchanged request is not rendered again."""
        yield from self._told(token, lambda stop: self._insert(token, wants_lossless is True, wants_layer is True, stop))

    def splice(self, token: object) -> Generator[RunView, None, None]:
        """Render the frames between the in and out points anew, into the take that is shown; told and stopped like ``insert``."""
        yield from self._told(token, lambda stop: self._splice(token, stop))

    def pack(self, token: object) -> Generator[RunView, None, None]:
        """Make the export pack of the take that is shown; told and stopped like ``insert``. The last view's file is ``pack``."""
        yield from self._told(token, lambda stop: self._pack(token, stop))

    def cancel(self, token: object) -> RunView:
        """Stop this visitor's render, if there is one."""
        self._stop(token)
        return STOPPED

    # -- results ----------------------------------------------------------------------------------------------------------------

    @handler
    def show_results(self, token: object) -> dict[str, Any]:
        """What the result viewer shows."""
        return self.results.build_value(token)

    def is_here(self, token: object) -> bool:
        """Whether this visitor's work is still there."""
        with contextlib.suppress(UserError):
            return self.store.folder(token).is_dir()
        return False

    @handler
    def has_results(self, token: object) -> bool:
        """Whether there is anything that the result viewer can show."""
        return bool(self.results.takes.load(token).takes)

    @handler
    def is_rendered(self, token: object) -> bool:
        """Whether the take that is shown was made of the work as it is."""
        return self.results.is_shown_made_of(token, self.store.load(token).text)

    @handler
    def show_files(self, token: object) -> dict[str, str]:
        """The files of the take that is shown, by kind, to play and to download."""
        return self._published_take(token)

    @handler
    def act_on_take(self, token: object, wish: object) -> Outcome:
        """What the person asks of a take, as the viewer sends it."""
        return self.results.act(token, wish)

    # -- the API ----------------------------------------------------------------------------------------------------------------

    def render_files(self, project_json: object, files: object) -> Generator[tuple[str | None, dict[str, Any]], None, None]:
        """The API's ``/render``: progress as ``(None, {...})``, at the end the video and its report."""
        with told_to_the_person(), self._guest(project_json, files) as (token, project):
            request, warnings = self._request(project, self.store.files(token))
            output = self.store.results(token) / "inserted.mp4"
            work = self._render(request, project, output, wants_quality=True)
            summary = yield from _told_as_json(self._run(work, threading.Event()))
            yield self._publish(output, "inserted.mp4"), _report(summary, warnings)

    def preview_files(self, project_json: object, files: object) -> Array:
        """The API's ``/preview``: the middle frame of the range as the engine makes it, u8[H,W,3]."""
        with told_to_the_person(), self._guest(project_json, files) as (token, project):
            request, _ = self._request(project, self.store.files(token))
            return self._render_one(request, sum(request.frame_range) // 2)

    def segment_file(self, video: object, frame: object, clicks: object, box: object, name: object) -> tuple[str, dict[str, Any]]:
        """The API's ``/segment``: the mask of a thing on one frame as a PNG, and a report."""
        with told_to_the_person(), self._guest_clip(video) as (token, path):
            mask, report = self.masks.segment(path, frame, clicks, box, name)
            picture = self.store.results(token) / "mask.png"
            picture.write_bytes(encode_png(mask))
            return self._publish(picture, "mask.png"), report

    def propagate_file(
        self, video: object, prompts: object, start: object, stop: object, name: object
    ) -> Generator[tuple[str | None, dict[str, Any]], None, None]:
        """The API's ``/propagate``: progress as ``(None, {...})``, at the end the masks as a video without loss, and a report."""
        with told_to_the_person(), self._guest_clip(video) as (token, path):
            output = self.store.results(token) / "masks.mkv"
            work = self.masks.propagate(path, prompts, start, stop, name, output)
            report = yield from _told_as_json(self._run(work, threading.Event()))
            yield self._publish(output, "masks.mkv"), report

    # -- inside -----------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _stoppable(self, name: str) -> Iterator[threading.Event]:
        """The flag that stops a visitor's render; an earlier render of the same visitor is stopped."""
        self._stop(name)
        stop = self._stops[name] = threading.Event()
        try:
            yield stop
        finally:
            if self._stops.get(name) is stop:
                del self._stops[name]

    def _stop(self, token: object) -> None:
        stop = self._stops.get(token) if isinstance(token, str) else None
        if stop is not None:
            stop.set()

    def _told(self, token: object, work: Callable[[threading.Event], Iterator[RunView]]) -> Generator[RunView, None, None]:
        """A job of this visitor's, from its start to whatever end it comes to."""
        yield RunView(True, "Starting…")
        try:
            with told_to_the_person(), self.store.using(token) as folder, self._stoppable(folder.name) as stop:
                yield from work(stop)
        except Cancelled:
            yield STOPPED
        except gr.Error:
            yield RunView(False, "")
            raise

    def _insert(self, token: object, wants_lossless: bool, wants_layer: bool, stop: threading.Event) -> Iterator[RunView]:
        session = self.store.load(token)
        self._require_complete(session)
        project = self._parse(session.text)
        request, warnings = self._request(project, self.store.files(token))
        results = self.store.results(token)
        stem = _result_stem(request, session)
        video, lossless, layer = (results / f"{stem}{suffix}" for suffix in (".mp4", ".mkv", ".mov"))
        notes = results / f"{stem}.json"
        self.store.trim_results(token)
        if not (notes.exists() and video.exists() and (layer.exists() or not wants_layer)):
            work = self._render(request, project, video, layer=layer if wants_layer else None, wants_quality=True)
            summary = yield from self._run(work, stop)
            warnings = [*warnings, *summary.warnings]
            self.results.keep_quality(token, stem, summary)
            notes.write_text(json.dumps(warnings), encoding="utf-8")
        if wants_lossless and not lossless.exists():
            yield from self._run(self._render(request, project, lossless, lossless=True), stop)
        found = json.loads(notes.read_text(encoding="utf-8"))
        self.results.add(token, stem, session.text, request)
        files = self._published_take(token)
        line = f"Done: {request.num_frames} frame{'s' if request.num_frames != 1 else ''}."
        yield RunView(False, line, 1.0, files=files, warnings=tuple(dict.fromkeys(found)))

    def _splice(self, token: object, stop: threading.Event) -> Iterator[RunView]:
        from pipeline.preflight import plan_render
        from pipeline.render import render

        self.store.trim_results(token)
        job = self.results.plan_splice(token)
        warnings = job.warnings
        if not job.is_done:
            plan_render(job.request, job.output, **self._engine_needs(job.request))
            work = render(job.request, job.engine, job.output, metadata=job.metadata, wants_quality=True)
            summary = yield from self._run(work, stop)
            warnings = (*warnings, *summary.warnings)
            self.results.keep_quality(token, job.take.key, summary)
        self.results.finish_splice(token, job)
        line = f"Done: {job.take.name}."
        yield RunView(False, line, 1.0, files=self._published_take(token), warnings=tuple(dict.fromkeys(warnings)))

    def _pack(self, token: object, stop: threading.Event) -> Iterator[RunView]:
        from pipeline.preflight import plan_render

        job = self.results.plan_pack(token)
        if not job.output.exists():
            plan_render(job.request, job.output, lossless=True, layer_alpha_path=job.output)
            yield from self._run(job.write(), stop)
        yield RunView(False, "The export pack is ready.", 1.0, files={"pack": self._publish(job.output, job.name)})

    def _published_take(self, token: object) -> dict[str, str]:
        """The files of the take that is shown, where the browser can fetch them; none without a take."""
        found = self.results.shown_files(token)
        files = {kind: self._publish(path, DOWNLOAD_NAMES[kind]) for kind, path in found.items()}
        if files:
            text = json.dumps(json.loads(self.results.shown_project(token)), ensure_ascii=False, indent=1)
            files["project"] = self._publish_text(text, "project.json")
        return files

    @contextlib.contextmanager
    def _received(self, paths: object) -> Iterator[list[Path]]:
        """The checked uploads at these paths. What is wanted of them is copied to the visitor's folder meanwhile; then they go."""
        sources = check_uploads(self.uploads, paths)
        try:
            yield sources
        finally:
            drop_uploads(Path(os.path.realpath(self.uploads)), sources)

    def _find_project(self, sources: Sequence[Path]) -> tuple[Path, str | bytes]:
        """The file among these that holds the project to open, and the project's text."""
        from pipeline.media import probe_clip

        projects = [source for source in sources if source.suffix.lower() == ".json"]
        if len(projects) == 1:
            if projects[0].stat().st_size > steps.MAX_DOCUMENT_CHARS:
                raise UserError(f"{projects[0].name} is too large for a project file; choose another one.")
            return projects[0], projects[0].read_bytes()
        videos = []
        for source in sources if not projects else ():
            if source.suffix.lower() in RESULT_SUFFIXES:
                probe_clip(source, self.workbench.limits)
                videos.append(source)
        found = find_dropped_project(videos)
        if found is None:
            raise UserError(
                "Choose one project file (.json), or a video rendered here, together with the video and the pictures it names."
            )
        return found[0], found[1].to_json()

    def _run(self, work: Generator[Progress, None, Result], stop: threading.Event) -> Generator[RunView, None, Result]:
        """Drive a render to its end, showing it now and then. Closing this closes it, and so does ``stop`` (``Cancelled``)."""
        stage, began = "", time.monotonic()
        shown = pictured = -math.inf
        with contextlib.closing(work):
            while True:
                try:
                    progress = next(work)
                except StopIteration as end:
                    outcome: Result = end.value
                    return outcome
                if stop.is_set():
                    raise Cancelled
                now = time.monotonic()
                if progress.stage != stage:
                    stage, began = progress.stage, now
                if now - shown < PROGRESS_PERIOD_S:
                    continue
                shown, picture = now, None
                seen = progress.picture() if now - pictured >= PREVIEW_PERIOD_S else None
                if seen is not None:
                    pictured, picture = now, scale_to(seen, preview_hw(seen.shape[:2]))
                yield RunView(True, describe_progress(progress, now - began), share_of(progress), picture)

    def _render(
        self,
        request: InsertionRequest,
        project: Project,
        output: Path,
        *,
        lossless: bool = False,
        layer: Path | None = None,
        wants_quality: bool = False,
    ) -> Generator[Progress, None, RenderSummary]:
        """A render into the visitor's folder. Raises ``UserError`` when the machine cannot hold it."""
        from pipeline.preflight import plan_render
        from pipeline.render import render

        plan_render(request, output, lossless=lossless, layer_alpha_path=layer, **self._engine_needs(request))
        metadata = project.for_result(request.clip.path.parent).to_metadata()
        return render(
            request,
            self.engine,
            output,
            lossless=lossless,
            layer_alpha_path=layer,
            metadata=metadata,
            wants_quality=wants_quality,
        )

    def _engine_needs(self, request: InsertionRequest) -> dict[str, Any]:
        """What an engine that has a plan needs beside the frames, as ``plan_render`` takes it. Raises ``UserError``."""
        if self.planner is None or request.sampling.name != engine_settings.GENERATOR:
            return {}
        seconds, num_bytes = self.planner.needs(request.sampling, request.num_frames, len(request.layers))
        return {"engine_s": seconds, "engine_bytes": num_bytes}

    def _render_one(self, request: InsertionRequest, frame_index: int) -> Array:
        from pipeline.render import preview_frame

        start, stop = request.frame_range
        if not start <= frame_index < stop:
            raise UserError(
                f"This frame is outside the part that is rendered, frames {start} to {stop - 1}; move the slider there."
            )
        return preview_frame(request, self.engine, frame_index).image

    def _request(self, project: Project, folder: Path) -> tuple[InsertionRequest, list[str]]:
        return self.workbench.build_request(project, folder)

    @contextlib.contextmanager
    def _guest(self, project_json: object, files: object) -> Iterator[tuple[str, Project]]:
        """A visitor for one call of the API: the files under their base names, the project checked; all gone afterwards."""
        text = check_text(project_json, "The project", steps.MAX_DOCUMENT_CHARS)
        sources = check_uploads(self.uploads, files)
        token = self.store.issue()
        try:
            with self.store.using(token):
                project = self._take_in(token, text, sources)
                yield token, project
        finally:
            self.store.delete(token)

    @contextlib.contextmanager
    def _guest_clip(self, video: object) -> Iterator[tuple[str, Path]]:
        """A visitor for one call of the API that brings a video alone; gone afterwards."""
        with self._received([video]) as [source]:
            token = self.store.issue()
            try:
                with self.store.using(token):
                    yield token, self.store.files(token) / self.store.add_file(token, source).name
            finally:
                self.store.delete(token)

    def _parse(self, text: str | bytes) -> Project:
        from pipeline.project import decode_project

        return decode_project(text)

    def _load_example(self, token: object, example: Path) -> tuple[View, int]:
        self._stop(token)
        with self.store.locked(token):
            document = steps.rename_files(self._parse(example.read_bytes()).to_document(), lambda name: Path(name).name)
            sources = [example.parent / name for name in steps.find_file_names(document)]
            project = self._take_in(token, json.dumps(document), sources)
            session = steps.open_document(self.store.load(token), project.to_document())
            view = self._saved(token, session)
            self._take_in_result(token, example, session)
            return view, self._middle(token, session)

    def _take_in_result(self, token: object, example: Path, session: EditSession) -> None:
        """The result that lies beside an example becomes a take; Insert then finds it done."""
        shipped = find_example_result(example)
        if shipped is None:
            return
        request, warnings = self._request(self._parse(session.text), self.store.files(token))
        stem = _result_stem(request, session)
        results = self.store.results(token)
        if not (results / f"{stem}.mp4").exists():
            shutil.copyfile(shipped, results / f"{stem}.mp4")
            (results / f"{stem}.json").write_text(json.dumps(warnings), encoding="utf-8")
            measured = shipped.with_suffix(".quality")
            if measured.exists():
                self.results.takes.write_quality(token, stem, json.loads(measured.read_text(encoding="utf-8")))
        self.results.add(token, stem, session.text, request, f"Example: {example.stem}")

    def _take_in(self, token: object, text: str | bytes, sources: Sequence[Path]) -> Project:
        """Bring files and the project that names them into the visitor's folder; returns the project as it is to be kept.

        Files may have got other names on the way (unsafe characters, a name that is taken); the project follows them.
        """
        document = self._parse(text).to_document()
        check_file_names(document)
        added = {safe_name(source.name): self.store.add_file(token, source).name for source in sources}
        document = steps.rename_files(document, lambda name: added.get(safe_name(name), safe_name(name)))
        for name in steps.find_file_names(document):
            if not (self.store.files(token) / name).is_file():
                raise UserError(f"The project names {name!r}; choose that file together with the project.")
        check_pictures(document, self.store.files(token))
        return self._parse(json.dumps(document))

    def _middle(self, token: object, session: EditSession) -> int:
        """The frame in the middle of what is rendered, where there is most to see; 0 without a clip."""
        opened = self._opened(token, session)
        start, stop = session.document.get("range") or (0, 1 if opened is None else opened.clip.num_frames)
        return (int(start) + int(stop)) // 2

    def _view(self, token: object, session: EditSession, layer_index: int = 0) -> View:
        return build_view(self._host.work_of(token, session), self.canvas.exchange.scenes, layer_index, self.planner)

    def _saved(self, token: object, session: EditSession, layer_index: int = 0) -> View:
        view = self._view(token, session, layer_index)
        self.store.save(token, session)
        return view

    def _require_clip(self, token: object, session: EditSession) -> OpenClip:
        opened = self._opened(token, session)
        if opened is None:
            raise UserError("Add a video first.")
        return opened

    def _require_complete(self, session: EditSession) -> None:
        missing = steps.find_gaps(session.document).first
        if missing is not None:
            raise UserError(missing)

    def _opened(self, token: object, session: EditSession) -> OpenClip | None:
        clip = session.document.get("clip")
        return None if not clip else self.workbench.open_clip(self.store.files(token) / clip["path"])

    def _publish(self, path: Path, name: str) -> str:
        """Put a file where Gradio serves from, under a name that nobody can guess; returns its path."""
        folder = self.uploads / secrets.token_urlsafe(32)
        folder.mkdir(parents=True)
        try:
            os.link(path, folder / name)
        except OSError:
            shutil.copyfile(path, folder / name)
        return str(folder / name)

    def publish_picture(self, picture: Array, suffix: str = ".jpg") -> str:
        """Put a picture, u8[h,w,3], where Gradio serves from, like every other file; Gradio itself would name it by its content."""
        from PIL import Image

        folder = self.uploads / secrets.token_urlsafe(32)
        folder.mkdir(parents=True)
        Image.fromarray(picture).save(folder / f"picture{suffix}", quality=90)
        return str(folder / f"picture{suffix}")

    def _publish_text(self, text: str, name: str) -> str:
        folder = self.uploads / secrets.token_urlsafe(32)
        folder.mkdir(parents=True)
        (folder / name).write_text(text, encoding="utf-8")
        return str(folder / name)


def find_example_result(example: Path) -> Path | None:
    """The video beside an example's project that was rendered from it; None when there is none, or when the project or one of its
    files has changed since."""
    from pipeline.project import read_project, read_result_project

    path = example.with_name(f"{example.stem}-result.mp4")
    if not path.exists():
        return None
    rendered, project = read_result_project(path), read_project(example).for_result(example.parent)
    return path if rendered.to_document() == project.to_document() else None


def _result_stem(request: InsertionRequest, session: EditSession) -> str:
    """The name of a render's files: what is rendered, and the document that it came from."""
    return hashlib.sha256(f"{request.digest()} {session.text}".encode()).hexdigest()[:32]


def _told_as_json(
    work: Generator[RunView, None, Result],
) -> Generator[tuple[str | None, dict[str, Any]], None, Result]:
    """The views of a render as the API tells them."""
    with contextlib.closing(work):
        while True:
            try:
                view = next(work)
            except StopIteration as end:
                outcome: Result = end.value
                return outcome
            yield None, {"line": view.line, "share": round(view.share, 4)}


def _report(summary: RenderSummary, warnings: Sequence[str]) -> dict[str, Any]:
    return {
        "frames": summary.frames,
        "seconds": round(summary.seconds, 3),
        "engine": summary.engine,
        "segmenter": summary.segmenter,
        "digest": summary.digest,
        "warnings": list(dict.fromkeys([*warnings, *summary.warnings])),
        "quality": None if summary.quality is None else summary.quality.to_document(),
    }
