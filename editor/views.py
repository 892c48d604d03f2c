"""What the page shows: values and the words and pictures in them. Nothing here knows how they are put on a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.animatic import lay_over, scale_to
from pipeline.errors import UserError

from . import session as steps
from . import stage
from .session import BoxCorners, BoxEnd, EditSession, Point
from .workbench import LiveLayer, OpenClip, Workbench

if TYPE_CHECKING:
    from pipeline.types import Array, Progress, Reference

TOOLS = ("Start box", "End box", "Path")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the checklist. ``detail`` is text, not markup."""

    name: str
    is_done: bool
    detail: str


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """Everything the page shows about a session at one frame.

    ``picture`` u8[h,w,3], ``cutout`` u8[h,w,4] or None (nothing to show); ``missing`` is the sentence that says why Insert is
    disabled, ``hint`` what the chosen tool waits for, ``fault`` what in the document cannot be drawn.
    """

    tool: str
    frame_index: int
    num_frames: int
    picture: Array | None
    cutout: Array | None
    clip_name: str | None
    reference_name: str | None
    checklist: tuple[Step, ...]
    missing: str | None
    hint: str
    fault: str | None
    start_box: BoxCorners | None
    end_box: BoxCorners | None
    node: Point | None
    blend: Mapping[str, float]
    can_undo: bool
    can_redo: bool


@dataclass(frozen=True, eq=False, slots=True)
class RunView:
    """One moment of a render: a line of progress with its share done (0..1), perhaps a picture; at the end the files to
    download, by kind: ``video``, ``lossless``, ``layer``, ``project``."""

    is_running: bool
    line: str
    share: float = 0.0
    picture: Array | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


WAITING = RunView(True, "Waiting for its turn…")
STOPPED = RunView(False, "Stopped. Your edits and the last finished result are kept.")


def build_view(workbench: Workbench, folder: Path, session: EditSession, opened: OpenClip | None, index: int, tool: str) -> View:
    """A session at the frame ``index`` of its clip, with its files in ``folder``. Raises ``UserError`` when one is missing."""
    document = session.document
    layers, fault = _live_layers(workbench, folder, session, opened)
    gaps = steps.find_gaps(document)
    first = next(iter(document["layers"][0].get("references", [])), None)
    reference = None if first is None else open_reference(workbench, first, folder)
    return View(
        tool=tool,
        frame_index=index,
        num_frames=1 if opened is None else opened.clip.num_frames,
        picture=None if opened is None else _draw(opened, session, layers, index),
        cutout=None if reference is None else stage.draw_cutout(reference, steps.find_anchor(document)),
        clip_name=(document.get("clip") or {}).get("path"),
        reference_name=None if first is None else first["path"],
        checklist=_checklist(document, opened, None if reference is None else reference.note, gaps, fault),
        missing=gaps.first or fault,
        hint=_hint(session, tool, opened is not None),
        fault=fault,
        start_box=steps.find_box(document, "start"),
        end_box=steps.find_box(document, "end"),
        node=steps.find_path(document).get(index),
        blend=steps.find_blend(document),
        can_undo=bool(session.past),
        can_redo=bool(session.future),
    )


def _live_layers(
    workbench: Workbench, folder: Path, session: EditSession, opened: OpenClip | None
) -> tuple[list[LiveLayer], str | None]:
    """What can be drawn, and the first sentence about what in the document cannot be rendered."""
    from pipeline.project import decode_project, missing_parts

    if opened is None:
        return [], None
    try:
        project = decode_project(session.text)
        layers = workbench.live_layers(project, folder, opened.clip)
    except UserError as error:
        return [], str(error)
    is_complete = steps.find_gaps(session.document).first is None
    return layers, next(iter(missing_parts(project)), None) if is_complete else None


def open_reference(workbench: Workbench, written: Mapping[str, Any], folder: Path) -> Reference:
    """The cut-out of a reference as the document writes it."""
    mask = written.get("mask") or {}
    mask_path = folder / mask["path"] if mask.get("path") else None
    return workbench.cut_out(folder / written["path"], mask_path, mask.get("grow_px", 0))


def describe_progress(progress: Progress, elapsed_s: float) -> str:
    """One line: stage, step x of y, and the time left once it can be told."""
    line = f"{_sentence(progress.stage)}: {progress.step} of {progress.num_steps}"
    share = share_of(progress)
    if elapsed_s < 1 or share <= 0.02 or share >= 1:
        return line
    left_s = elapsed_s * (1 - share) / share
    if left_s < 1:
        return f"{line}, almost done"
    return f"{line}, about {left_s:.0f} s left" if left_s < 90 else f"{line}, about {left_s / 60:.0f} min left"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def share_of(progress: Progress) -> float:
    """How much is done, 0..1."""
    return min(max(progress.step / progress.num_steps, 0.0), 1.0) if progress.num_steps > 0 else 0.0


def box_of(tool: str) -> BoxEnd:
    """Which box a box tool draws."""
    return "start" if tool == "Start box" else "end"


def _draw(opened: OpenClip, session: EditSession, layers: Sequence[LiveLayer], index: int) -> Array:
    """The frame with every layer in its place, and the guides of the first."""
    clip, document = opened.clip, session.document
    picture = scale_to(opened.frames.frame(index).image, stage.view_hw(clip.hw))
    for layer in layers:
        if layer.motion is not None and layer.reference is not None:
            picture = lay_over(picture, layer.reference, layer.motion, index, clip.hw, layer.opacity)
    first = layers[0] if layers else LiveLayer()
    guides = stage.Guides(
        frame_index=index,
        start_box=steps.find_box(document, "start"),
        end_box=steps.find_box(document, "end"),
        box=None if first.boxes is None else stage.box_in_picture(first.boxes.boxes_px[index], clip.hw),
        rotation_deg=0.0 if first.boxes is None else float(first.boxes.rotation_deg[index]),
        path=None if first.trajectories is None else stage.points_in_picture(first.trajectories.points_px[0], clip.hw),
        nodes=steps.find_path(document),
        corner=session.corner,
    )
    return stage.draw_guides(picture, guides)


def _checklist(
    document: Mapping[str, Any], opened: OpenClip | None, note: str | None, gaps: steps.Gaps, fault: str | None
) -> tuple[Step, ...]:
    clip = None if opened is None else opened.clip
    boxes, nodes = document["layers"][0].get("boxes", {}), steps.find_path(document)
    parts = [f"{len(boxes)} box{'es' if len(boxes) != 1 else ''}"] if boxes else []
    parts += [f"{len(nodes)} path node{'s' if len(nodes) != 1 else ''}"] if nodes else []
    video = gaps.video or ""
    if clip is not None:
        sound = "with sound" if clip.audio_streams else "silent"
        video = f"{clip.width} × {clip.height}, {clip.num_frames} frames, {float(clip.fps):.4g} fps, {sound}"
    return (
        Step("Video", gaps.video is None, video),
        Step("Reference", gaps.reference is None, gaps.reference or _sentence(note or "cut out")),
        Step("Motion", gaps.motion is None, gaps.motion or ", ".join(parts)),
        Step("Insert", gaps.first is None and fault is None, gaps.first or fault or "Ready when you are."),
    )


def _hint(session: EditSession, tool: str, has_clip: bool) -> str:
    if not has_clip:
        return "Your video appears here."
    if tool == "Path":
        return "Move the frame slider, then click where the object should be at that frame."
    where = "begins" if tool == "Start box" else "ends"
    if session.corner is None:
        return f"Click one corner of the box where the object {where}."
    return "Now click the opposite corner."
