"""Gestures on masks: which thing is meant (clicks and boxes on frames), masks painted by hand, how they are grown and softened.

``mask`` names one of a layer's masks: ``"target"`` (what a layer replaces or removes) or the index of a hold-out (what stays in
front). The first click, box, painted mask or file of the index behind the last hold-out makes a new one; none is ever empty.
Like all gestures (see ``gestures``) these are pure and trust nothing; the changed layer is checked again as a whole by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import documents as doc
from pipeline.documents import Node, item
from pipeline.errors import UserError
from pipeline.masks import MAX_FEATHER_PX, MAX_GROW_PX
from pipeline.project import MAX_CLICKS, MAX_HOLDOUTS, MAX_LAYERS, RunLengthSpec

Document = dict[str, Any]

MAX_FRAME = 10_000_000
MAX_EDITED_FRAMES = 300
"""Most frames whose masks one gesture replaces."""

MAX_EDIT_CHARS = 1_500_000
"""Most text that the masks painted by hand may take in a project, all told: a project file must stay one that can be opened."""

MIN_BOX_SIDE = 0.002
"""The smallest side of a box prompt, in pictures."""

KINDS = ("insert", "replace", "remove")

_layer = doc.integer(0, MAX_LAYERS - 1)
_frame = doc.integer(0, MAX_FRAME)
_spot = doc.list_of(doc.number(0, 1), 2, 2)


def _mask(value: object, path: str) -> str | int:
    return "target" if value == "target" else int(doc.integer(0, MAX_HOLDOUTS - 1)(value, path))


def _box(value: object, path: str) -> tuple[float, ...]:
    x0, y0, x1, y1 = doc.list_of(doc.number(0, 1), 4, 4)(value, path)
    if x1 - x0 < MIN_BOX_SIDE or y1 - y0 < MIN_BOX_SIDE:
        raise UserError("The box is too small or inside out; drag it around the whole thing.")
    return x0, y0, x1, y1


_edits = doc.mapping_of(doc.frame_key(MAX_FRAME), doc.nullable(doc.node(RunLengthSpec)), MAX_EDITED_FRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskGesture(Node):
    """``delete_mask``: forget the whole mask. What all gestures on masks share."""

    kind: str = item(doc.line(1, 40))
    layer: int = item(_layer)
    mask: str | int = item(_mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddClick(MaskGesture):
    """A click at ``at`` on ``frame``: on the thing itself, or with ``foreground`` false on what does not belong to it."""

    frame: int = item(_frame)
    at: tuple[float, float] = item(_spot)
    foreground: bool = item(doc.boolean, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveClick(MaskGesture):
    """Take the click ``click`` (its place in the list) of ``frame`` away."""

    frame: int = item(_frame)
    click: int = item(doc.integer(0, MAX_CLICKS - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPromptBox(MaskGesture):
    """A box around the thing on ``frame``; ``null`` takes it away."""

    frame: int = item(_frame)
    box: tuple[float, float, float, float] | None = item(doc.nullable(_box))


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPrompt(MaskGesture):
    """``delete_prompt``: clicks, box and painted mask of ``frame`` go."""

    frame: int = item(_frame)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMaskEdits(MaskGesture):
    """Masks in COCO's run-length code that take the place of what is found on their frames; ``null`` lets that be seen again."""

    edits: Mapping[int, RunLengthSpec | None] = item(_edits)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMask(MaskGesture):
    """Grow (or shrink, below 0) and soften the mask by so many pixels of the clip; what is not given stays."""

    grow_px: float | None = item(doc.nullable(doc.number(-MAX_GROW_PX, MAX_GROW_PX)), None)
    feather_px: float | None = item(doc.nullable(doc.number(0, MAX_FEATHER_PX)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMaskFile(MaskGesture):
    """The mask comes from a file of the visitor's, in place of clicks and painted masks."""

    path: str = item(doc.line(1, 255))


# -- applying them ----------------------------------------------------------------------------------------------------------------


def find_mask(layer: Mapping[str, Any], mask: str | int) -> Document | None:
    """The mask of a layer in a document; None where there is none yet."""
    if mask == "target":
        return layer.get("target")
    holdouts = layer.get("holdouts") or []
    return holdouts[mask] if isinstance(mask, int) and mask < len(holdouts) else None


def count_edit_chars(document: Mapping[str, Any]) -> int:
    """How much text the masks painted by hand take."""
    masks = [mask for layer in document["layers"] for mask in (layer.get("target"), *(layer.get("holdouts") or []))]
    return sum(len(edit["counts"]) for mask in masks if mask for edit in mask.get("edits", {}).values())


def change_kind(layer: Document, kind: str) -> None:
    """Make a layer one that inserts, replaces or removes; what its new kind has no use for goes."""
    unused = {
        "insert": ("target",),
        "replace": (),
        "remove": ("references", "boxes", "trajectories", "follow", "fit", "anchor", "deform"),
    }[kind]
    for name in unused:
        layer.pop(name, None)
    layer["kind"] = kind


def _layer_of(document: Document, gesture: MaskGesture) -> Document:
    if gesture.layer >= len(document["layers"]):
        raise UserError("That layer is not there any more; reload the page.")
    layer: Document = document["layers"][gesture.layer]
    if gesture.mask == "target" and layer["kind"] == "insert":
        raise UserError("A layer that inserts something has no target; let it replace or remove first.")
    return layer


def _existing(document: Document, gesture: MaskGesture) -> Document:
    mask = find_mask(_layer_of(document, gesture), gesture.mask)
    if mask is None:
        raise UserError("That mask is not there any more; reload the page.")
    return mask


def _wanted(document: Document, gesture: MaskGesture) -> Document:
    """The mask that is meant, made now if it is the layer's next one."""
    layer = _layer_of(document, gesture)
    found = find_mask(layer, gesture.mask)
    if found is not None:
        return found
    made: Document = {}
    if gesture.mask == "target":
        layer["target"] = made
        return made
    holdouts = layer.setdefault("holdouts", [])
    if gesture.mask != len(holdouts):
        raise UserError("That mask is not there any more; reload the page.")
    holdouts.append(made)
    return made


def _drop(document: Document, gesture: MaskGesture) -> None:
    layer = _layer_of(document, gesture)
    if gesture.mask == "target":
        layer.pop("target", None)
        return
    del layer["holdouts"][gesture.mask]
    if not layer["holdouts"]:
        del layer["holdouts"]


def _tidy(document: Document, gesture: MaskGesture) -> None:
    """Drop what an edit left without meaning: a frame where nothing marks the thing itself, and then the mask."""
    mask = _existing(document, gesture)
    prompts = mask.get("prompts", {})
    for frame in [frame for frame, prompt in prompts.items() if not _marks_something(prompt)]:
        del prompts[frame]
    for name in ("prompts", "edits"):
        if name in mask and not mask[name]:
            del mask[name]
    if not any(name in mask for name in ("prompts", "edits", "path")):
        _drop(document, gesture)


def _marks_something(prompt: Mapping[str, Any]) -> bool:
    return bool(prompt.get("box")) or any(click[2] for click in prompt.get("clicks", []))


def _ordered(entries: Mapping[Any, Any]) -> Document:
    return {str(frame): entries[frame] for frame in sorted(entries, key=int)}


def _prompt_at(mask: Document, frame: int) -> Document:
    """The prompt of a frame, made now if there is none, to be changed in place."""
    if mask.get("path") is not None:
        raise UserError("This mask comes from a file; delete it before you click.")
    prompts = mask.setdefault("prompts", {})
    found: Document = prompts.setdefault(str(frame), {})
    mask["prompts"] = _ordered(prompts)
    return found


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(float(value), 6) + 0.0 for value in values]


def _add_click(document: Document, gesture: AddClick, num_frames: int) -> None:
    prompt = _prompt_at(_wanted(document, gesture), gesture.frame)
    clicks = prompt.setdefault("clicks", [])
    if len(clicks) >= MAX_CLICKS:
        raise UserError(f"A frame has at most {MAX_CLICKS} clicks; take some away.")
    clicks.append([*_rounded(gesture.at), int(gesture.foreground)])
    if not _marks_something(prompt):
        raise UserError(f"Click on the thing itself at frame {gesture.frame} first; then take away what does not belong to it.")
    # What was painted by hand on this frame would hide what the click finds.
    _existing(document, gesture).get("edits", {}).pop(str(gesture.frame), None)
    _tidy(document, gesture)


def _remove_click(document: Document, gesture: RemoveClick, num_frames: int) -> None:
    prompt = _existing(document, gesture).get("prompts", {}).get(str(gesture.frame), {})
    clicks = prompt.get("clicks", [])
    if gesture.click >= len(clicks):
        raise UserError("That click is not there any more.")
    del clicks[gesture.click]
    if not clicks:
        del prompt["clicks"]
    _tidy(document, gesture)


def _set_prompt_box(document: Document, gesture: SetPromptBox, num_frames: int) -> None:
    mask = _wanted(document, gesture)
    prompt = _prompt_at(mask, gesture.frame)
    if gesture.box is None:
        prompt.pop("box", None)
    else:
        prompt["box"] = _rounded(gesture.box)
        mask.get("edits", {}).pop(str(gesture.frame), None)
    _tidy(document, gesture)


def _delete_prompt(document: Document, gesture: OnPrompt, num_frames: int) -> None:
    mask, frame = _existing(document, gesture), str(gesture.frame)
    found = [mask.get(name, {}).pop(frame, None) for name in ("prompts", "edits")]
    if found == [None, None]:
        raise UserError(f"Nothing is marked at frame {frame}.")
    _tidy(document, gesture)


def _set_edits(document: Document, gesture: SetMaskEdits, num_frames: int) -> None:
    if any(frame >= num_frames for frame in gesture.edits):
        raise UserError(f"The clip has {num_frames} frames, 0 to {num_frames - 1}; there is none behind its end.")
    if not gesture.edits:
        return
    mask = _wanted(document, gesture)
    edits = mask.get("edits", {})
    for frame, edit in gesture.edits.items():
        edits.pop(str(frame), None)
        if edit is not None:
            edits[str(frame)] = {"size": list(edit.size), "counts": edit.counts}
    mask["edits"] = _ordered(edits)
    if count_edit_chars(document) > MAX_EDIT_CHARS:
        raise UserError("The masks painted by hand fill the project; give some back to what is found, or import a mask instead.")
    _tidy(document, gesture)


def _set_mask(document: Document, gesture: SetMask, num_frames: int) -> None:
    mask = _existing(document, gesture)
    for name in ("grow_px", "feather_px"):
        value = getattr(gesture, name)
        if value is not None:
            mask.pop(name, None)
            if value:
                mask[name] = round(float(value), 3)


def _set_file(document: Document, gesture: SetMaskFile, num_frames: int) -> None:
    if gesture.path in {".", ".."} or any(char in gesture.path for char in "/\\"):
        raise UserError("A mask's file is named without folders.")
    mask = _wanted(document, gesture)
    for name in ("prompts", "edits"):
        mask.pop(name, None)
    mask["path"] = gesture.path


def _delete_mask(document: Document, gesture: MaskGesture, num_frames: int) -> None:
    _existing(document, gesture)
    _drop(document, gesture)


MASK_GESTURES: dict[str, tuple[type[Node], Callable[[Document, Any, int], None]]] = {
    "add_click": (AddClick, _add_click),
    "remove_click": (RemoveClick, _remove_click),
    "set_prompt_box": (SetPromptBox, _set_prompt_box),
    "delete_prompt": (OnPrompt, _delete_prompt),
    "set_mask_edits": (SetMaskEdits, _set_edits),
    "set_mask": (SetMask, _set_mask),
    "set_mask_file": (SetMaskFile, _set_file),
    "delete_mask": (MaskGesture, _delete_mask),
}
"""Every gesture on masks: how it is read and what it does; part of ``gestures.GESTURES``."""
