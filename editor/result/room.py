"""What the page knows about results: which takes there are, what is compared with what, a range rendered anew, the export pack.

No Gradio here: every function takes a visitor's token and raises ``UserError``; the page runs the jobs that are made here.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.project import decode_project
from pipeline.splice import Part, SplicedEngine, cut_in, splice_digest, whole_request

from .. import session as steps
from ..canvas.frames import FrameDesk, encode_jpeg
from ..engine_settings import ENGINE_NAMES
from ..storage import WorkStore, safe_name
from ..takes import (
    GONE,
    Recipe,
    Take,
    TakeList,
    TakeShelf,
    add_take,
    compare_with,
    delete_take,
    rename_take,
    show_take,
    star_take,
)
from ..workbench import Workbench

if TYPE_CHECKING:
    from pipeline.engines import Engine
    from pipeline.project import Project
    from pipeline.render import RenderSummary
    from pipeline.types import Clip, InsertionRequest, Progress

Document = dict[str, Any]

THUMBNAIL_MAX_PX = (168, 112)
THUMBNAIL_QUALITY = 72
NOTHING_YET = "Render something first; it becomes a take."


@dataclass(frozen=True, eq=False, slots=True)
class SpliceJob:
    """A range to be rendered anew into a take: what to render, to where, and the take that comes of it. ``warnings`` are for the
    person."""

    request: InsertionRequest
    engine: SplicedEngine
    output: Path
    metadata: Mapping[str, str]
    take: Take
    recipe: Recipe
    warnings: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """The very same was rendered before."""
        return self.output.exists()


@dataclass(frozen=True, eq=False, slots=True)
class PackJob:
    """A pack to be written to ``output`` by running ``write()``, and the name under which it is handed out."""

    request: InsertionRequest
    output: Path
    name: str
    write: Callable[[], Generator[Progress, None, None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a wish about takes has changed beside the list of them; ``stays`` when the person goes on looking at the result."""

    is_project_changed: bool = False
    is_other_shown: bool = False
    stays: bool = False


class ResultRoom:
    """Results of all visitors. Keeps nothing itself: takes lie in the visitors' folders, pictures in the canvas's ``desk``."""

    def __init__(self, store: WorkStore, workbench: Workbench, desk: FrameDesk, engine: Engine) -> None:
        self._store, self._workbench, self._desk, self._engine = store, workbench, desk, engine
        self.takes = TakeShelf(store, store.max_visitor_bytes // 2)

    # -- what is shown -------------------------------------------------------------------------------------------------------------

    def build_value(self, token: object) -> Document:
        """The viewer's value: the takes, and the two sides that are compared; no takes, nothing to show."""
        takes = self.takes.load(token)
        shown = takes.shown_take
        if shown is None:
            return {"takes": []}
        source = self._workbench.open_clip(self._store.files(token) / shown.clip_name).clip
        against = None if takes.against is None else takes.find(takes.against)
        splice, note = self._find_splice(token, shown)
        return {
            "takes": [_describe(take, shown) for take in takes.takes],
            "shown": shown.key,
            "against": takes.against,
            "clip": source.sha256[:24],
            "before": self._source_side(token, shown) if against is None else self._side(token, against),
            "after": self._side(token, shown),
            "range": list(shown.frame_range),
            "fps": float(source.fps),
            "width": source.width,
            "height": source.height,
            "splice": splice,
            "splice_note": note,
            "quality": self.takes.read_quality(token, shown.key),
        }

    def _side(self, token: object, take: Take) -> Document:
        return self._describe_side(token, self.takes.video(token, take.key), take.frame_range[0])

    def _source_side(self, token: object, take: Take) -> Document:
        return self._describe_side(token, self._store.files(token) / take.clip_name, 0)

    def _describe_side(self, token: object, path: Path, first: int) -> Document:
        opened = self._workbench.open_clip(path)
        clip = opened.clip
        key = self._desk.show_clip(str(token), clip, opened.frames)
        return {"key": key, "first": first, "count": clip.num_frames, "width": clip.width, "height": clip.height}

    def _find_splice(self, token: object, take: Take) -> tuple[list[int] | None, str]:
        """The project's range, where it can be rendered anew into this take; and a sentence about it."""
        document = self._store.load(token).document
        first, last = take.frame_range[0], take.frame_range[1] - 1
        if not document.get("clip"):
            return None, "The project has no video now; choose this take's settings again to go on from it."
        clip = self._workbench.open_clip(self._store.files(token) / document["clip"]["path"]).clip
        if clip.sha256 != take.clip_sha256:
            return None, "The project is about another video than this take."
        start, stop = document.get("range") or (0, clip.num_frames)
        if start <= take.frame_range[0] and stop >= take.frame_range[1]:
            return None, f"To render a few frames anew, set the in and out points on the timeline, within {first} to {last}."
        if start < take.frame_range[0] or stop > take.frame_range[1]:
            return None, f"The in and out points reach beyond this take, which has frames {first} to {last}."
        return [start, stop], "The frames outside the in and out points stay as they are."

    def shown_files(self, token: object) -> dict[str, Path]:
        """The files of the take that is shown, by kind: ``video``, and ``lossless`` and ``layer`` where they were rendered."""
        shown = self.takes.load(token).shown_take
        if shown is None:
            return {}
        video = self.takes.video(token, shown.key)
        files = {"video": video, "lossless": video.with_suffix(".mkv"), "layer": video.with_suffix(".mov")}
        return {kind: path for kind, path in files.items() if path.exists()}

    def is_shown_made_of(self, token: object, project_text: str) -> bool:
        """Whether there is a take that is shown, and this is the project that it was made of."""
        return self.takes.load(token).shown_take is not None and self.shown_project(token) == project_text

    def shown_project(self, token: object) -> str:
        """The project of the take that is shown, as JSON text. Raises ``UserError`` when none is."""
        return self.takes.read_recipe(token, self._shown(token).key).project

    # -- what the person does ------------------------------------------------------------------------------------------------------

    def act(self, token: object, wish: object) -> Outcome:
        """One of ``ACTIONS`` on a take, ``reuse`` or ``range``, as the viewer sends it: ``action``, ``take`` (its key), and what
        more it takes."""
        wish = wish if isinstance(wish, Mapping) else {}
        action, key = wish.get("action"), wish.get("take")
        if action == "range":
            self._set_range(token, wish.get("value"))
            return Outcome(is_project_changed=True, stays=True)
        if action == "reuse":
            self._reuse(token, key)
            return Outcome(is_project_changed=True)
        step = ACTIONS.get(action) if isinstance(action, str) else None
        if step is None:
            raise UserError("There is no such thing to do with a take.")
        before = self.takes.load(token).shown
        after = self.takes.change(token, lambda takes: step(takes, key, wish))
        return Outcome(is_other_shown=after.shown != before)

    def _set_range(self, token: object, span: object) -> None:
        """The frames ``span`` (half-open) of the take that is shown become the project's range, to be rendered anew."""
        shown = self._shown(token)
        first, last = shown.frame_range
        numbers = [each for each in span if type(each) is int] if isinstance(span, list) else []
        if len(numbers) != 2 or len(numbers) != len(span) or not first <= numbers[0] < numbers[1] <= last:  # type: ignore[arg-type]
            raise UserError(f"The frames to render anew must lie within the take's, {first} to {last - 1}.")
        with self._store.locked(token):
            session = self._store.load(token)
            clip = session.document.get("clip")
            if not clip or self._workbench.open_clip(self._store.files(token) / clip["path"]).clip.sha256 != shown.clip_sha256:
                raise UserError("The project is about another video than this take; choose this take's settings again first.")
            self._store.save(token, steps.open_document(session, {**session.document, "range": numbers}))

    def _reuse(self, token: object, key: object) -> None:
        """The take's project becomes the visitor's, as one step that can be undone."""
        with self._store.locked(token):
            recipe = self.takes.read_recipe(token, self.takes.load(token).find(key).key)
            session = steps.open_document(self._store.load(token), json.loads(recipe.project))
            self._store.save(token, session)

    # -- takes ---------------------------------------------------------------------------------------------------------------------

    def add(self, token: object, key: str, project_text: str, request: InsertionRequest, name: str = "") -> None:
        """A finished render, ``results/<key>.mp4``, becomes a take, under its number or this ``name``; one that is a take already
        is shown."""
        if not any(take.key == key for take in self.takes.load(token).takes):
            recipe = Recipe(project_text, ((*request.frame_range, project_text),))
            self.takes.write_recipe(token, key, recipe)
        take = self._make_take(key, request.digest(), decode_project(project_text), request.frame_range, request.clip, name)
        self._keep(token, take)

    def keep_quality(self, token: object, key: str, summary: RenderSummary) -> None:
        """Keep what was measured while a take was rendered, before it is added."""
        if summary.quality is not None:
            self.takes.write_quality(token, key, summary.quality.to_document())

    def finish_splice(self, token: object, job: SpliceJob) -> None:
        """A splice that was rendered becomes a take."""
        self.takes.write_recipe(token, job.take.key, job.recipe)
        self._keep(token, job.take)

    def _keep(self, token: object, take: Take) -> None:
        opened = self._workbench.open_clip(self.takes.video(token, take.key))
        picture = opened.frames.frame(opened.clip.num_frames // 2).image
        thumbnail = base64.b64encode(encode_jpeg(picture, THUMBNAIL_MAX_PX, THUMBNAIL_QUALITY)).decode()
        self.takes.change(token, lambda takes: add_take(takes, dataclasses.replace(take, thumbnail=thumbnail)))

    def _make_take(self, key: str, digest: str, project: Project, span: tuple[int, int], clip: Clip, name: str = "") -> Take:
        engine = project.engine
        settings = f"{ENGINE_NAMES.get(engine.name, engine.name)}, seed {engine.seed}"
        return Take(key, name, time.time(), digest, settings, span, clip.path.name, clip.sha256)

    # -- jobs ----------------------------------------------------------------------------------------------------------------------

    def plan_splice(self, token: object) -> SpliceJob:
        """The project's range, rendered anew into the take that is shown. Raises ``UserError`` where that cannot be."""
        shown = self._shown(token)
        splice, note = self._find_splice(token, shown)
        if splice is None:
            raise UserError(note)
        session = self._store.load(token)
        start, stop = splice
        pieces = cut_in(self.takes.read_recipe(token, shown.key).pieces, (start, stop, session.text))
        whole = steps.encode_document({**session.document, "range": list(shown.frame_range)})
        parts, _, warnings = self._parts(token, pieces)
        project = decode_project(whole)
        digest = splice_digest(parts)
        key = hashlib.sha256(json.dumps([digest, pieces, whole]).encode()).hexdigest()[:32]
        request = whole_request(parts)
        name = f"{shown.name[:36]}, {start} to {stop - 1} anew"
        return SpliceJob(
            request=request,
            engine=SplicedEngine(parts),
            output=self.takes.video(token, key),
            metadata=project.for_result(self._store.files(token)).to_metadata(),
            take=self._make_take(key, digest, project, shown.frame_range, request.clip, name),
            recipe=Recipe(whole, pieces),
            warnings=tuple(warnings),
        )

    def plan_pack(self, token: object) -> PackJob:
        """The export pack of the take that is shown."""
        from pipeline.export import write_pack

        shown = self._shown(token)
        recipe = self.takes.read_recipe(token, shown.key)
        parts, documents, _ = self._parts(token, recipe.pieces)
        project = decode_project(recipe.project).for_result(self._store.files(token)).to_document()
        video, output = self.takes.video(token, shown.key), self.takes.pack(token, shown.key)

        def write() -> Generator[Progress, None, None]:
            yield from write_pack(parts, documents, project, video, output)
            with self._store.locked(token):
                if not video.exists():
                    output.unlink(missing_ok=True)
                    raise UserError(GONE)

        return PackJob(whole_request(parts), output, safe_name(f"{shown.name}.zip"), write)

    def _shown(self, token: object) -> Take:
        shown = self.takes.load(token).shown_take
        if shown is None:
            raise UserError(NOTHING_YET)
        return shown

    def _parts(self, token: object, pieces: tuple[tuple[int, int, str], ...]) -> tuple[list[Part], list[Document], list[str]]:
        """Parts, their projects as results carry them, and warnings. A project that made several parts is read once."""
        folder = self._store.files(token)
        made: dict[str, tuple[InsertionRequest, Document, list[str]]] = {}
        for _, _, text in pieces:
            if text not in made:
                project = decode_project(text)
                request, warnings = self._workbench.build_request(project, folder)
                made[text] = request, project.for_result(folder).to_document(), warnings
        parts = [Part((start, stop), made[text][0], self._engine) for start, stop, text in pieces]
        warnings = [warning for _, _, found in made.values() for warning in found]
        return parts, [made[text][1] for _, _, text in pieces], list(dict.fromkeys(warnings))


Step = Callable[[TakeList, object, Mapping[str, Any]], TakeList]

ACTIONS: dict[str, Step] = {
    "show": lambda takes, key, wish: show_take(takes, key),
    "compare": lambda takes, key, wish: compare_with(takes, key),
    "star": lambda takes, key, wish: star_take(takes, key, wish.get("value") is True),
    "rename": lambda takes, key, wish: rename_take(takes, key, wish.get("name")),
    "delete": lambda takes, key, wish: delete_take(takes, key),
}
"""What can be done with a take, by the name that the viewer uses."""


def _describe(take: Take, shown: Take) -> Document:
    return {
        "key": take.key,
        "name": take.name,
        "made_s": take.made_s,
        "settings": take.settings,
        "thumbnail": take.thumbnail,
        "starred": take.is_starred,
        "range": list(take.frame_range),
        "comparable": take.clip_sha256 == shown.clip_sha256,
    }


def find_dropped_project(paths: list[Path]) -> tuple[Path, Project] | None:
    """The rendered file among these that carries its project, and that project; None when there is none. Of several, the one that
    no other's project names. The files must have been checked as clips before."""
    from pipeline.project import read_result_project

    found = []
    for path in paths:
        with contextlib.suppress(UserError):
            found.append((path, read_result_project(path)))
    named = {name for _, project in found for name in steps.find_file_names(project.to_document())}
    return next(((path, project) for path, project in found if path.name not in named), None)
