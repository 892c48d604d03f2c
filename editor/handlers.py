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

from pipeline.animatic import scale_to
from pipeline.errors import Cancelled, UserError

from . import session as steps
from . import stage
from .checks import check_file_names, check_frame, check_number, check_point, check_text, check_tool, check_upload, check_uploads
from .session import BoxEnd, EditSession
from .storage import WorkStore, safe_name
from .views import STOPPED, TOOLS, RunView, View, box_of, build_view, describe_progress, open_reference, share_of
from .workbench import OpenClip, Workbench

if TYPE_CHECKING:
    from pipeline.engines import Engine
    from pipeline.project import Project
    from pipeline.render import RenderSummary
    from pipeline.types import Array, InsertionRequest, Progress

log = logging.getLogger(__name__)

NEUTRAL = "Something went wrong on the server; it has been noted. Your work is kept, so try again."
PROGRESS_PERIOD_S = 0.2
PREVIEW_PERIOD_S = 0.8

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
    files, the first of which a new visitor finds laid out.
    """

    def __init__(
        self, store: WorkStore, workbench: Workbench, engine: Engine, uploads: Path, examples: Sequence[Path] = ()
    ) -> None:
        self.store, self.workbench, self.engine = store, workbench, engine
        self.uploads, self.examples = Path(uploads), tuple(examples)
        self._stops: dict[str, threading.Event] = {}

    # -- coming and going -------------------------------------------------------------------------------------------------------

    @handler
    def open_visitor(self, kept: object = None) -> tuple[str, list[str], View]:
        """A new visitor, with the worked example laid out where there is one.

        ``kept`` is what the browser remembers: tokens, the newest first. Returns the token, what the browser shall remember, and
        the view; the work that can be resumed, if any, comes second in that list.
        """
        token = self.store.issue()
        view = self._load_example(token, self.examples[0]) if self.examples else self._view(token, EditSession(), 0)
        return token, [token, *self._resumable(kept)[:1]], view

    @handler
    def resume(self, kept: object) -> tuple[str, View]:
        """Come back to the work that this browser left."""
        for token in self._resumable(kept[1:] if isinstance(kept, list) else None):
            return token, self._view(token, self.store.load(token), 0)
        raise UserError("That work is no longer here; it was kept only for a while.")

    def _resumable(self, kept: object) -> list[str]:
        """Those of a browser's tokens whose folder is still there with more in it than the untouched example."""
        found = []
        for token in kept[:4] if isinstance(kept, list) else []:
            with contextlib.suppress(UserError):
                if len(self.store.load(token).past) > 1:
                    found.append(str(token))
        return found

    @handler
    def load_example(self, number: int, token: object) -> View:
        return self._load_example(token, self.examples[number])

    @handler
    def start_empty(self, token: object) -> tuple[str, View]:
        """Forget everything and begin anew, in another folder."""
        self._stop(token)
        fresh = self.store.issue()
        self.store.delete(token)
        return fresh, self._view(fresh, EditSession(), 0)

    # -- files ------------------------------------------------------------------------------------------------------------------

    @handler
    def upload_clip(self, token: object, path: object) -> View:
        source = check_upload(self.uploads, path)
        self._stop(token)
        with self.store.locked(token):
            added = self.store.add_file(token, source)
            try:
                opened = self.workbench.open_clip(self.store.files(token) / added.name)
            except UserError:
                self.store.drop_file(token, added)
                raise
            session = steps.set_clip(self.store.load(token), added.name, opened.clip.sha256)
            return self._saved(token, session, 0)

    @handler
    def upload_reference(self, token: object, path: object, frame: object) -> View:
        from pipeline.media import file_sha256

        source = check_upload(self.uploads, path)
        with self.store.locked(token):
            added = self.store.add_file(token, source)
            kept = self.store.files(token) / added.name
            try:
                reference = self.workbench.cut_out(kept)
            except UserError:
                self.store.drop_file(token, added)
                raise
            x0, y0, x1, y1 = reference.tight_box_px()
            middle = (x0 + x1) / 2 / reference.hw[1], (y0 + y1) / 2 / reference.hw[0]
            session = steps.set_reference(self.store.load(token), added.name, file_sha256(kept), middle)
            return self._saved(token, session, frame)

    @handler
    def open_project(self, token: object, paths: object) -> View:
        """Open a project file, with the files it names unless they are here already."""
        sources = check_uploads(self.uploads, paths)
        projects = [source for source in sources if source.suffix.lower() == ".json"]
        if len(projects) != 1:
            raise UserError("Choose one project file (.json), together with the video and the pictures it names.")
        self._stop(token)
        with self.store.locked(token):
            project = self._take_in(token, projects[0].read_bytes(), [source for source in sources if source not in projects])
            session = steps.open_document(self.store.load(token), project.to_document())
            return self._saved(token, session, 0)

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
    def show_frame(self, token: object, tool: object, frame: object) -> View:
        """The slider moved, or another tool was chosen."""
        return self._view(token, self.store.load(token), frame, check_tool(tool))

    @handler
    def choose_tool(self, token: object, tool: object, frame: object) -> View:
        """Another tool: a half-drawn box is forgotten, and a box tool goes to the frame where its box belongs."""
        tool = check_tool(tool)
        with self.store.locked(token):
            session = steps.drop_corner(self.store.load(token))
            opened = self._opened(token, session)
            if opened is not None and tool != "Path":
                frame = steps.box_frame(session.document, box_of(tool), opened.clip.num_frames)
            return self._saved(token, session, frame, tool)

    @handler
    def click_frame(self, token: object, tool: object, frame: object, pixel: object) -> View:
        """A click on the picture, in pixels of the picture that was sent."""
        tool = check_tool(tool)
        with self.store.locked(token):
            session = self.store.load(token)
            opened = self._require_clip(token, session)
            num_frames = opened.clip.num_frames
            point = stage.point_in_picture(check_point(pixel, "The click"), stage.view_hw(opened.clip.hw))
            if tool == "Path":
                session = steps.add_path_node(session, check_frame(frame, num_frames), point)
            else:
                session = steps.place_corner(session, box_of(tool), point, num_frames)
            if tool == "Start box" and session.corner is None and steps.find_box(session.document, "end") is None:
                tool, frame = "End box", steps.box_frame(session.document, "end", num_frames)
            return self._saved(token, session, frame, tool)

    @handler
    def click_cutout(self, token: object, tool: object, frame: object, pixel: object) -> View:
        """A click on the cut-out chooses the point that follows the path."""
        with self.store.locked(token):
            session = self.store.load(token)
            references = session.layer.get("references")
            if not references:
                raise UserError("Add a picture of the thing first.")
            reference = open_reference(self.workbench, references[0], self.store.files(token))
            point = stage.point_in_picture(check_point(pixel, "The click"), stage.cutout_hw(reference.hw))
            return self._saved(token, steps.set_anchor(session, point), frame, check_tool(tool))

    @handler
    def set_box(self, token: object, end: BoxEnd, numbers: Sequence[object], tool: object, frame: object) -> View:
        """Box numbers typed in; until all four are there, nothing happens."""
        with self.store.locked(token):
            session = steps.drop_corner(self.store.load(token))
            if len(numbers) == 4 and None not in numbers:
                x0, y0, x1, y1 = (check_number(value, "Each number of a box") for value in numbers)
                if x1 <= x0 or y1 <= y0:
                    raise UserError("A box needs its right edge right of its left one, and its bottom below its top.")
                opened = self._require_clip(token, session)
                session = steps.set_box(session, end, (x0, y0, x1, y1), opened.clip.num_frames)
            return self._saved(token, session, frame, check_tool(tool))

    @handler
    def set_node(self, token: object, x: object, y: object, tool: object, frame: object) -> View:
        """Path numbers typed in, for this frame."""
        with self.store.locked(token):
            session = self.store.load(token)
            if x is not None and y is not None:
                num_frames = self._require_clip(token, session).clip.num_frames
                session = steps.add_path_node(session, check_frame(frame, num_frames), check_point((x, y), "A node"))
            return self._saved(token, session, frame, check_tool(tool))

    @handler
    def remove_node(self, token: object, tool: object, frame: object) -> View:
        with self.store.locked(token):
            session = self.store.load(token)
            num_frames = self._require_clip(token, session).clip.num_frames
            return self._saved(token, steps.remove_path_node(session, check_frame(frame, num_frames)), frame, check_tool(tool))

    @handler
    def change(self, step: Callable[[EditSession], EditSession], token: object, tool: object, frame: object) -> View:
        """Any step that needs nothing else: undo, redo, clear the path, clear the boxes."""
        with self.store.locked(token):
            return self._saved(token, step(self.store.load(token)), frame, check_tool(tool))

    @handler
    def set_blend(self, key: str, token: object, value: object, tool: object, frame: object) -> View:
        with self.store.locked(token):
            session = steps.set_blend(self.store.load(token), key, check_number(value, "The setting"))
            return self._saved(token, session, frame, check_tool(tool))

    # -- rendering --------------------------------------------------------------------------------------------------------------

    @handler
    def preview_frame(self, token: object, frame: object) -> Array:
        """This frame as the engine makes it, u8[h,w,3] at the size of the view."""
        with self.store.using(token):
            session = self.store.load(token)
            self._require_complete(session)
            request, _ = self._request(self._parse(session.text), self.store.files(token))
            index = check_frame(frame, request.clip.num_frames)
            return scale_to(self._render_one(request, index), stage.view_hw(request.clip.hw))

    def insert(self, token: object, wants_lossless: object, wants_layer: object) -> Generator[RunView, None, None]:
        """Render, telling progress. Closing the generator, ``cancel``, and a new start of the visitor's work all stop it within a
        frame and keep what was there before. An unchanged request is not rendered again."""
        yield RunView(True, "Starting…")
        try:
            with told_to_the_person(), self.store.using(token) as folder, self._stoppable(folder.name) as stop:
                yield from self._insert(token, wants_lossless is True, wants_layer is True, stop)
        except Cancelled:
            yield STOPPED
        except gr.Error as error:
            yield RunView(False, html.unescape(str(error.message)))
            raise

    def cancel(self, token: object) -> RunView:
        """Stop this visitor's render, if there is one."""
        self._stop(token)
        return STOPPED

    def render_files(self, project_json: object, files: object) -> Generator[tuple[str | None, dict[str, Any]], None, None]:
        """The API's ``/render``: progress as ``(None, {...})``, at the end the video and its report."""
        with told_to_the_person(), self._guest(project_json, files) as (token, project):
            request, warnings = self._request(project, self.store.files(token))
            output = self.store.results(token) / "inserted.mp4"
            summary = yield from _told_as_json(self._run(self._render(request, project, output), threading.Event()))
            yield self._publish(output, "inserted.mp4"), _report(summary, warnings)

    def preview_files(self, project_json: object, files: object) -> Array:
        """The API's ``/preview``: the middle frame of the range as the engine makes it, u8[H,W,3]."""
        with told_to_the_person(), self._guest(project_json, files) as (token, project):
            request, _ = self._request(project, self.store.files(token))
            return self._render_one(request, sum(request.frame_range) // 2)

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

    def _insert(self, token: object, wants_lossless: bool, wants_layer: bool, stop: threading.Event) -> Iterator[RunView]:
        session = self.store.load(token)
        self._require_complete(session)
        project = self._parse(session.text)
        request, warnings = self._request(project, self.store.files(token))
        results = self.store.results(token)
        stem = hashlib.sha256(f"{request.digest()} {session.text}".encode()).hexdigest()[:32]
        video, lossless, layer = (results / f"{stem}{suffix}" for suffix in (".mp4", ".mkv", ".mov"))
        notes = results / f"{stem}.json"
        if not (notes.exists() and video.exists() and (layer.exists() or not wants_layer)):
            summary = yield from self._run(self._render(request, project, video, layer=layer if wants_layer else None), stop)
            warnings = [*warnings, *summary.warnings]
            notes.write_text(json.dumps(warnings), encoding="utf-8")
        if wants_lossless and not lossless.exists():
            yield from self._run(self._render(request, project, lossless, lossless=True), stop)
        found = json.loads(notes.read_text(encoding="utf-8"))
        files = {"video": self._publish(video, "inserted.mp4")}
        if wants_lossless:
            files["lossless"] = self._publish(lossless, "inserted-lossless.mkv")
        if wants_layer:
            files["layer"] = self._publish(layer, "object-layer.mov")
        files["project"] = self._publish_text(json.dumps(session.document, ensure_ascii=False, indent=1), "project.json")
        line = f"Done: {request.num_frames} frame{'s' if request.num_frames != 1 else ''}."
        yield RunView(False, line, 1.0, files=files, warnings=tuple(dict.fromkeys(found)))

    def _run(
        self, work: Generator[Progress, None, RenderSummary], stop: threading.Event
    ) -> Generator[RunView, None, RenderSummary]:
        """Drive a render to its end, showing it now and then. Closing this closes it, and so does ``stop`` (``Cancelled``)."""
        started = time.monotonic()
        shown = pictured = -math.inf
        with contextlib.closing(work):
            while True:
                try:
                    progress = next(work)
                except StopIteration as end:
                    summary: RenderSummary = end.value
                    return summary
                if stop.is_set():
                    raise Cancelled
                now = time.monotonic()
                if now - shown < PROGRESS_PERIOD_S:
                    continue
                shown, picture = now, None
                seen = progress.picture() if now - pictured >= PREVIEW_PERIOD_S else None
                if seen is not None:
                    pictured, picture = now, scale_to(seen, stage.view_hw(seen.shape[:2]))
                yield RunView(True, describe_progress(progress, now - started), share_of(progress), picture)

    def _render(
        self, request: InsertionRequest, project: Project, output: Path, *, lossless: bool = False, layer: Path | None = None
    ) -> Generator[Progress, None, RenderSummary]:
        """A render into the visitor's folder. Raises ``UserError`` when the machine cannot hold it."""
        from pipeline.preflight import plan_render
        from pipeline.render import render

        plan_render(request, output, lossless=lossless, layer_alpha_path=layer)
        metadata = project.for_result(request.clip.path.parent).to_metadata()
        return render(request, self.engine, output, lossless=lossless, layer_alpha_path=layer, metadata=metadata)

    def _render_one(self, request: InsertionRequest, frame_index: int) -> Array:
        from pipeline.render import preview_frame

        start, stop = request.frame_range
        if not start <= frame_index < stop:
            raise UserError(
                f"This frame is outside the part that is rendered, frames {start} to {stop - 1}; move the slider there."
            )
        return preview_frame(request, self.engine, frame_index).image

    def _request(self, project: Project, folder: Path) -> tuple[InsertionRequest, list[str]]:
        from pipeline.project import build_request

        return build_request(project, folder, limits=self.workbench.limits, cache=self.workbench.artifacts)

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

    def _parse(self, text: str | bytes) -> Project:
        from pipeline.project import decode_project

        return decode_project(text)

    def _load_example(self, token: object, example: Path) -> View:
        self._stop(token)
        with self.store.locked(token):
            document = steps.rename_files(self._parse(example.read_bytes()).to_document(), lambda name: Path(name).name)
            sources = [example.parent / name for name in steps.find_file_names(document)]
            project = self._take_in(token, json.dumps(document), sources)
            session = steps.open_document(self.store.load(token), project.to_document())
            return self._saved(token, session, self._middle(token, session), "Path")

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
        return self._parse(json.dumps(document))

    def _middle(self, token: object, session: EditSession) -> int:
        opened = self._require_clip(token, session)
        start, stop = session.document.get("range") or (0, opened.clip.num_frames)
        return (int(start) + int(stop)) // 2

    def _view(self, token: object, session: EditSession, frame: object, tool: str = TOOLS[0]) -> View:
        opened = self._opened(token, session)
        index = check_frame(frame, 1 if opened is None else opened.clip.num_frames)
        return build_view(self.workbench, self.store.files(token), session, opened, index, tool)

    def _saved(self, token: object, session: EditSession, frame: object, tool: str = TOOLS[0]) -> View:
        view = self._view(token, session, frame, tool)
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

    def _publish_text(self, text: str, name: str) -> str:
        folder = self.uploads / secrets.token_urlsafe(32)
        folder.mkdir(parents=True)
        (folder / name).write_text(text, encoding="utf-8")
        return str(folder / name)

    # -- views ------------------------------------------------------------------------------------------------------------------


def _told_as_json(
    work: Generator[RunView, None, RenderSummary],
) -> Generator[tuple[str | None, dict[str, Any]], None, RenderSummary]:
    """The views of a render as the API tells them."""
    with contextlib.closing(work):
        while True:
            try:
                view = next(work)
            except StopIteration as end:
                summary: RenderSummary = end.value
                return summary
            yield None, {"line": view.line, "share": round(view.share, 4)}


def _report(summary: RenderSummary, warnings: Sequence[str]) -> dict[str, Any]:
    return {
        "frames": summary.frames,
        "seconds": round(summary.seconds, 3),
        "engine": summary.engine,
        "segmenter": summary.segmenter,
        "digest": summary.digest,
        "warnings": list(dict.fromkeys([*warnings, *summary.warnings])),
    }
