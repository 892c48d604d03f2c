"""What the page shows: values and the words in them. Nothing here knows how they are put on a screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

from . import session as steps
from .engine_settings import GENERATOR, EngineView, find_engine

if TYPE_CHECKING:
    from pipeline.types import Array, Clip, Progress
    from pipeline.videoanydoor.planner import Planner

    from .canvas import Work
    from .canvas.scene import SceneShelf

PREVIEW_HW = (720, 1120)
"""A preview picture is at most this high and this wide."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the checklist. ``detail`` is text, not markup."""

    name: str
    is_done: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Picture:
    """The reference of one layer: its file, or None; ``is_chosen`` says whether the next one goes to this layer."""

    layer: str
    file: str | None
    is_chosen: bool


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """Everything that the page shows about a visitor's work beside the canvas.

    ``clip_note`` is the clip's frame rate and sound; ``missing`` is the sentence that says why Insert is disabled, ``fault`` what
    in the document cannot be drawn or rendered; ``blend`` are the values of the chosen layer; ``plan`` says what the run will
    take, where the engine can tell.
    """

    clip_name: str | None
    clip_note: str
    pictures: tuple[Picture, ...]
    checklist: tuple[Step, ...]
    missing: str | None
    fault: str | None
    blend: Mapping[str, float]
    engine: EngineView
    plan: str


@dataclass(frozen=True, eq=False, slots=True)
class RunView:
    """One moment of a render: a line of progress with its share done (0..1), perhaps a picture; at the end the files to
    download, by kind: ``video``, ``lossless``, ``layer``, ``project``, or ``pack`` alone."""

    is_running: bool
    line: str
    share: float = 0.0
    picture: Array | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


LATER = "Comes after the other steps."
WAITING = RunView(True, "Waiting for its turn…")
PREVIEWED_ALONE = "This frame was generated alone. In a render frames are generated together, so there it will look different."
STOPPED = RunView(False, "Stopped. Your edits and the last finished result are kept.")


def build_view(work: Work, scenes: SceneShelf, layer_index: int, planner: Planner | None = None) -> View:
    """A visitor's work with the layer ``layer_index`` chosen (the last one if there are fewer); ``planner`` tells the plan."""
    document = work.document
    layers = document["layers"]
    chosen = min(layer_index, len(layers) - 1)
    gaps = steps.find_gaps(document)
    fault = _find_fault(work, scenes, is_complete=gaps.first is None)
    pictures = [
        Picture(layer.get("name") or "Layer", (layer.get("references") or [{}])[0].get("path"), index == chosen)
        for index, layer in enumerate(layers)
    ]
    return View(
        clip_name=(document.get("clip") or {}).get("path"),
        clip_note=_tell_tempo(work.clip),
        pictures=tuple(pictures),
        checklist=_checklist(work, gaps, fault),
        missing=gaps.first or fault,
        fault=fault,
        blend=steps.find_blend(document, chosen),
        engine=find_engine(document),
        plan=tell_plan(work, planner),
    )


def tell_plan(work: Work, planner: Planner | None) -> str:
    """What the chosen engine says that the run will take; nothing where it has no plan of its own, or there is nothing to plan."""
    from pipeline.project import parse_project

    document = work.document
    if planner is None or work.clip is None or find_engine(document).name != GENERATOR:
        return ""
    try:
        sampling = parse_project(document).engine.to_sampling()
    except UserError:
        return ""  # told as what is missing or at fault
    start, stop = document.get("range") or (0, work.clip.num_frames)
    num_layers = sum(not layer.get("hidden") for layer in document["layers"])
    return planner.describe(sampling, stop - start, max(1, num_layers))


def _find_fault(work: Work, scenes: SceneShelf, is_complete: bool) -> str | None:
    """The first sentence about what in the document cannot be drawn, or, once nothing is missing, rendered."""
    from pipeline.project import missing_parts, parse_project

    if work.clip is None:
        return None
    try:
        project = parse_project(work.document)
        for layer in work.document["layers"]:
            if not layer.get("hidden") and (fault := scenes.layer(layer, work.clip, work.find_cutout).fault):
                return fault
    except UserError as error:
        return str(error)
    return next(iter(missing_parts(project)), None) if is_complete else None


def _checklist(work: Work, gaps: steps.Gaps, fault: str | None) -> tuple[Step, ...]:
    """The steps to a result. What only some kinds of layers need stands there only with such layers."""
    kinds = {layer["kind"] for layer in work.document["layers"] if not layer.get("hidden")}
    steps_there = [Step("Video", gaps.video is None, gaps.video or _tell_clip(work.clip))]
    if kinds & {"replace", "remove"}:
        steps_there.append(Step("Target", gaps.target is None, gaps.target or _tell_target(work.document)))
    if kinds != {"remove"}:
        steps_there += [
            Step("Motion", gaps.motion is None, gaps.motion or _tell_motion(work.document)),
            Step("Reference", gaps.reference is None, gaps.reference or _tell_reference(work)),
        ]
    ready = fault or "Ready when you are."
    return (*steps_there, Step("Insert", gaps.first is None and fault is None, ready if gaps.first is None else LATER))


def _tell_clip(clip: Clip | None) -> str:
    if clip is None:
        return ""
    return f"{clip.width} × {clip.height}, {clip.num_frames} frames"


def _tell_tempo(clip: Clip | None) -> str:
    if clip is None:
        return ""
    return f"{float(clip.fps):.4g} frames a second, {'with sound' if clip.audio_streams else 'silent'}"


def _tell_target(document: Mapping[str, Any]) -> str:
    """How the targets are marked."""
    targets = [layer.get("target") or {} for layer in document["layers"] if layer["kind"] != "insert"]
    prompts = [prompt for target in targets for prompt in target.get("prompts", {}).values()]
    clicks = sum(len(prompt.get("clicks", [])) for prompt in prompts)
    boxes = sum(bool(prompt.get("box")) for prompt in prompts)
    painted = sum(len(target.get("edits", {})) for target in targets)
    files = sum(bool(target.get("path")) for target in targets)
    words = (
        (clicks, "click", "clicks"),
        (boxes, "box", "boxes"),
        (painted, "painted frame", "painted frames"),
        (files, "file", "files"),
    )
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in words if count)


def _tell_motion(document: Mapping[str, Any]) -> str:
    boxes = sum(len(layer.get("boxes", {})) for layer in document["layers"])
    paths = sum(len(layer.get("trajectories", [])) for layer in document["layers"])
    layers = len(document["layers"])
    counts = ((layers if layers > 1 else 0, "layer", "layers"), (boxes, "box", "boxes"), (paths, "path", "paths"))
    told = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)
    return told or "That of the thing it replaces."


def _tell_reference(work: Work) -> str:
    """How the pictures were cut out, as far as they can be opened."""
    notes = []
    for layer in work.document["layers"]:
        for reference in (layer.get("references") or [])[:1]:
            try:
                notes.append(work.find_cutout(reference).reference.note or "cut out")
            except UserError as error:
                notes.append(str(error))
    return _sentence("; ".join(dict.fromkeys(notes)))


def describe_progress(progress: Progress, elapsed_s: float) -> str:
    """One line: stage, step x of y, and the time left of the stage, which began ``elapsed_s`` ago, once it can be told."""
    line = f"{_sentence(progress.stage)}: {progress.step} of {progress.num_steps}"
    share = share_of(progress)
    if elapsed_s < 1 or share <= 0.02 or share >= 1:
        return line
    left_s = elapsed_s * (1 - share) / share
    if left_s < 1:
        return line
    return f"{line}, about {left_s:.0f} s left" if left_s < 90 else f"{line}, about {left_s / 60:.0f} min left"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def share_of(progress: Progress) -> float:
    """How much is done, 0..1."""
    return min(max(progress.step / progress.num_steps, 0.0), 1.0) if progress.num_steps > 0 else 0.0


def preview_hw(clip_hw: tuple[int, int]) -> tuple[int, int]:
    """Size of a preview of a frame of this size: as large as fits into ``PREVIEW_HW``, never larger than it is, aspect kept."""
    scale = min(1.0, PREVIEW_HW[0] / clip_hw[0], PREVIEW_HW[1] / clip_hw[1])
    return max(1, round(clip_hw[0] * scale)), max(1, round(clip_hw[1] * scale))
