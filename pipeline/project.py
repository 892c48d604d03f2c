"""The project file, version 1: what a person asked for, as JSON, and the way from there to an ``InsertionRequest``.

``read_project`` / ``parse_project`` check a document completely, without opening any file it names, and ``Project.to_document``
is the exact way back. ``project.schema.json``, next to this module, says the same for other programs. ``build_request`` opens
the files, checks the document against them and makes the request that engines run. A document may be a draft (a layer whose
reference is not chosen yet); ``missing_parts`` says what keeps it from being rendered.

Coordinates are 0–1 of the upright picture; frame keys count the clip's decoded frames from 0.
"""

# ruff: noqa: RUF009  (the checks that class bodies make are functions without state)

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import documents as doc
from .documents import Node, fault, item
from .errors import UserError
from .masks import (
    MAX_FEATHER_PX,
    MAX_GROW_PX,
    decode_coco_counts,
    parse_coco_mask,
    read_mask_track,
)
from .media import MediaLimits, check_complete, file_sha256, probe_clip, read_metadata
from .motion import (
    BoxKey,
    Ease,
    LayerMotion,
    TrajectoryKeys,
    build_box_sequence,
    build_layer_motion,
    build_trajectory_set,
)
from .types import (
    Anchor,
    Array,
    BlendSettings,
    BoxSequence,
    Click,
    Clip,
    Deform,
    Fit,
    Follow,
    InsertionRequest,
    Layer,
    LayerKind,
    MaskPrompts,
    MaskTrack,
    Pending,
    Prompt,
    Reference,
    SamplingConfig,
    SegmenterChoice,
    SurfaceKind,
    TrajectorySet,
)

if TYPE_CHECKING:
    from .cache import ArtifactCache
    from .matting import CutOut
    from .treatment import Treatment

VERSION = 1
MAX_DOCUMENT_BYTES = 32 << 20
MAX_METADATA_BYTES = 1 << 20
METADATA_KEY = "project"
MAX_FRAME = 10_000_000
MAX_KEYS = 100_000
MAX_LAYERS = 32
MAX_REFERENCES = 16
MAX_POINTS = 256
MAX_TRAJECTORIES = 64
MAX_HOLDOUTS = 16
MAX_CLICKS = 1_000
MAX_MASK_SIDE = 16_384
MAX_MASK_CODE = 4_000_000
MAX_REFERENCE_PIXELS = 200_000_000
"""Pixels that all pictures of a project may have together."""

MIN_BOX_PX = 1.0
"""A keyed box must be at least this wide and high on the clip."""

AVAILABLE_ENGINES = ("composite", "videoanydoor")
"""The engines that this version can run; the others of the contract are read and refused by name."""

ENGINES_OF_KIND: Mapping[LayerKind, tuple[str, ...]] = {
    "insert": AVAILABLE_ENGINES,
    "replace": AVAILABLE_ENGINES,
    "remove": AVAILABLE_ENGINES,
}
"""Which engines can do a kind of layer."""

_BLEND = BlendSettings()
_SAMPLING = SamplingConfig()

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Span = tuple[int, int]

_name = doc.line(0, 200)
_path = doc.line(1, 4096)
_frame = doc.integer(0, MAX_FRAME)
_frame_key = doc.frame_key(MAX_FRAME)


def _numbers(count: int, low: float, high: float) -> doc.Check:
    return doc.list_of(doc.number(low, high), count, count)


def _box(low: float, high: float) -> doc.Check:
    check_numbers = _numbers(4, low, high)

    def check(value: object, path: str) -> Box:
        x0, y0, x1, y1 = check_numbers(value, path)
        if x1 <= x0:
            fault(path, f"x1 must be greater than x0, but {x1:g} is not greater than {x0:g}")
        if y1 <= y0:
            fault(path, f"y1 must be greater than y0, but {y1:g} is not greater than {y0:g}")
        return x0, y0, x1, y1

    return check


def _span(value: object, path: str) -> Span:
    start, stop = doc.list_of(_frame, 2, 2)(value, path)
    if stop <= start:
        fault(path, f"the second frame must be greater than the first, but {stop} is not greater than {start}")
    return start, stop


def _spans(value: object, path: str) -> tuple[Span, ...]:
    spans = doc.list_of(_span, 1, MAX_KEYS)(value, path)
    for index in range(1, len(spans)):
        if spans[index][0] < spans[index - 1][1]:
            fault(f"{path}[{index}]", "the ranges must be in order and must not overlap")
    return spans


def _click(value: object, path: str) -> tuple[float, float, int]:
    if isinstance(value, (list, tuple)) and len(value) == 3:
        x, y = _numbers(2, 0, 1)(value[:2], path)
        return x, y, doc.integer(0, 1)(value[2], f"{path}[2]")
    return fault(path, "must be x, y and 1 (foreground) or 0 (background)")


# -- what a document is made of ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec(Node):
    """The video: its file, and the hash that the file must have, if given."""

    path: str = item(_path)
    sha256: str | None = item(doc.nullable(doc.sha256), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterSpec(Node):
    """Who turns prompts into masks."""

    name: str = item(doc.one_of("auto", "sam2", "fallback"), "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec(Node):
    """Clicks (x, y, 1 foreground or 0 background) and a box on one frame, 0–1 of the picture."""

    clicks: tuple[tuple[float, float, int], ...] = item(doc.list_of(_click, 0, MAX_CLICKS), ())
    box: Box | None = item(doc.nullable(_box(0, 1)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLengthSpec(Node):
    """One mask in COCO's compressed run-length code: ``size`` is height and width, ``counts`` the coded runs."""

    size: tuple[int, int] = item(doc.list_of(doc.integer(1, MAX_MASK_SIDE), 2, 2))
    counts: str = item(doc.line(1, MAX_MASK_CODE))


def _check_runs(mask: RunLengthSpec, path: str) -> None:
    pixels = mask.size[0] * mask.size[1]
    try:
        total = int(decode_coco_counts(mask.counts).sum(dtype="u8"))
    except ValueError as error:
        fault(f"{path}.counts", str(error))
    if total != pixels:
        fault(f"{path}.counts", f"the runs must add up to {mask.size[0]} x {mask.size[1]} = {pixels} pixels, not {total}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSpec(Node):
    """A mask over time: from a file or from prompts, then single frames replaced, then grown, then feathered."""

    prompts: Mapping[int, PromptSpec] = item(doc.mapping_of(_frame_key, doc.node(PromptSpec), MAX_KEYS), {})
    path: str | None = item(doc.nullable(_path), None)
    edits: Mapping[int, RunLengthSpec] = item(doc.mapping_of(_frame_key, doc.node(RunLengthSpec, _check_runs), MAX_KEYS), {})
    grow_px: float = item(doc.number(-MAX_GROW_PX, MAX_GROW_PX), 0)
    feather_px: float = item(doc.number(0, MAX_FEATHER_PX), 0)


def _check_mask(mask: MaskSpec, path: str) -> None:
    if mask.path is not None and mask.prompts:
        fault(path, "give either path or prompts, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSpec(Node):
    """One picture of the thing: its file, how it is cut out, and named points, 0–1 of the upright picture."""

    path: str = item(_path)
    sha256: str | None = item(doc.nullable(doc.sha256), None)
    mask: MaskSpec | None = item(doc.nullable(doc.node(MaskSpec, _check_mask)), None)
    points: Mapping[str, Point] = item(doc.mapping_of(doc.line(1, 200), _numbers(2, 0, 1), MAX_POINTS), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSpec(Node):
    """One keyframe of the box. ``ease`` governs the segment after it."""

    box: Box = item(_box(-1, 2))
    rotation_deg: float = item(doc.number(-36_000, 36_000), 0)
    ease: Ease = item(doc.one_of("linear", "smooth", "hold"), "linear")
    enter: bool = item(doc.boolean, False)
    leave: bool = item(doc.boolean, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectorySpec(Node):
    """Where the reference's point ``point`` is, by frame, and the half-open frame ranges in which it is visible."""

    point: str = item(doc.line(1, 200))
    keys: Mapping[int, Point] = item(doc.mapping_of(_frame_key, _numbers(2, -1, 2), MAX_KEYS))
    ease: Ease = item(doc.one_of("linear", "smooth", "hold"), "smooth")
    visible: tuple[Span, ...] | None = item(doc.nullable(_spans), None)


def _check_trajectory(trajectory: TrajectorySpec, path: str) -> None:
    if not trajectory.keys:
        fault(f"{path}.keys", "a trajectory needs at least one key")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSpec(Node):
    """The surface in whose frame of reference, as it stood at ``key_frame``, boxes and trajectories are read."""

    kind: SurfaceKind = item(doc.one_of("translation", "similarity", "homography"))
    key_frame: int = item(_frame, 0)
    points: tuple[Point, ...] | None = item(doc.nullable(doc.list_of(_numbers(2, 0, 1), 1, MAX_CLICKS)), None)
    region: Box | None = item(doc.nullable(_box(0, 1)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendSpec(Node):
    """How the layer is married to the footage; 0 is off, everywhere."""

    harmonize: float = item(doc.number(0, 1), _BLEND.harmonize)
    shadow: float = item(doc.number(0, 1), _BLEND.shadow)
    shadow_angle_deg: float = item(doc.number(-360, 360), _BLEND.shadow_angle_deg)
    shadow_length: float = item(doc.number(0, 4), _BLEND.shadow_length)
    shadow_softness: float = item(doc.number(0, 1), _BLEND.shadow_softness)
    motion_blur: float = item(doc.number(0, 1), _BLEND.motion_blur)
    grain: float = item(doc.number(0, 4), _BLEND.grain)
    feather_px: float = item(doc.number(0, 64), _BLEND.feather_px)
    opacity: float = item(doc.number(0, 1), _BLEND.opacity)

    def to_settings(self) -> BlendSettings:
        return BlendSettings(**{each.name: float(getattr(self, each.name)) for each in dataclasses.fields(BlendSettings)})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec(Node):
    """One thing done to the clip: insert, replace or remove."""

    name: str = item(_name, "")
    kind: LayerKind = item(doc.one_of("insert", "replace", "remove"))
    hidden: bool = item(doc.boolean, False)
    references: tuple[ReferenceSpec, ...] = item(doc.list_of(doc.node(ReferenceSpec), 0, MAX_REFERENCES), ())
    fit: Fit = item(doc.one_of("contain", "stretch"), "contain")
    anchor: Anchor = item(doc.one_of("center", "bottom"), "center")
    deform: Deform = item(doc.one_of("auto", "perspective"), "auto")
    boxes: Mapping[int, BoxSpec] = item(doc.mapping_of(_frame_key, doc.node(BoxSpec), MAX_KEYS), {})
    trajectories: tuple[TrajectorySpec, ...] = item(
        doc.list_of(doc.node(TrajectorySpec, _check_trajectory), 0, MAX_TRAJECTORIES), ()
    )
    follow: FollowSpec | None = item(doc.nullable(doc.node(FollowSpec)), None)
    target: MaskSpec | None = item(doc.nullable(doc.node(MaskSpec, _check_mask)), None)
    holdouts: tuple[MaskSpec, ...] = item(doc.list_of(doc.node(MaskSpec, _check_mask), 0, MAX_HOLDOUTS), ())
    blend: BlendSpec = item(doc.node(BlendSpec), BlendSpec())


def _check_layer(layer: LayerSpec, path: str) -> None:
    if layer.kind == "remove" and layer.references:
        fault(f"{path}.references", "a layer that removes something has no reference")
    seen: set[str] = set()
    for index, trajectory in enumerate(layer.trajectories):
        if trajectory.point in seen:
            fault(f"{path}.trajectories[{index}].point", f"the point {doc.shown(trajectory.point)} already has a trajectory")
        seen.add(trajectory.point)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec(Node):
    """Which engine runs, and how. The compositor reads ``seed`` alone."""

    name: str = item(doc.one_of("composite", "videoanydoor", "vace"), _SAMPLING.name)
    seed: int = item(doc.integer(0, 2**53 - 1), _SAMPLING.seed)
    num_inference_steps: int = item(doc.integer(1, 1_000), _SAMPLING.num_inference_steps)
    guidance_scale: float = item(doc.number(0, 100), _SAMPLING.guidance_scale)
    checkpoint: str | None = item(doc.nullable(_path), _SAMPLING.checkpoint)
    motion_strength: float = item(doc.number(0, 2), _SAMPLING.motion_strength)
    identity_strength: float = item(doc.number(0, 2), _SAMPLING.identity_strength)
    size: int | None = item(doc.nullable(doc.integer(64, 4_096)), _SAMPLING.size)
    window: int | None = item(doc.nullable(doc.integer(1, 1_024)), _SAMPLING.window)
    init: str = item(doc.one_of("noise", "source", "inversion"), _SAMPLING.init)

    def to_sampling(self) -> SamplingConfig:
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(SamplingConfig)}
        floats = {name: float(values[name]) for name in ("guidance_scale", "motion_strength", "identity_strength")}
        return SamplingConfig(**{**values, **floats})


@dataclass(frozen=True, slots=True, kw_only=True)
class Project(Node):
    """A checked project document. Made by ``parse_project`` and ``read_project``; change it with ``dataclasses.replace`` and
    have ``parse_project(project.to_document())`` check the result."""

    version: int = item(doc.integer(VERSION, VERSION))
    clip: ClipSpec = item(doc.node(ClipSpec))
    range: Span | None = item(doc.nullable(_span), None)
    segmenter: SegmenterSpec = item(doc.node(SegmenterSpec), SegmenterSpec())
    layers: tuple[LayerSpec, ...] = item(doc.list_of(doc.node(LayerSpec, _check_layer), 0, MAX_LAYERS))
    engine: EngineSpec = item(doc.node(EngineSpec), EngineSpec())

    def to_document(self) -> dict[str, Any]:
        """The document this project was read from, with the changes made since; keys that were absent stay absent."""
        return doc.write_document(self)

    def to_json(self) -> str:
        """The document as readable JSON text."""
        return json.dumps(self.to_document(), ensure_ascii=False, allow_nan=False, indent=1)

    def with_engine(self, **changes: object) -> Project:
        """The same project with other engine settings, for example ``name`` or ``seed``; checked."""
        engine = {**doc.write_document(self.engine), **changes}
        return parse_project({**self.to_document(), "engine": engine})

    def with_segmenter(self, name: str) -> Project:
        """The same project with its masks made by the segmenter ``name``; checked."""
        return parse_project({**self.to_document(), "segmenter": {"name": name}})

    def source_paths(self, root: Path, *, allow_absolute: bool = False) -> tuple[Path, ...]:
        """Every file that the project names and that is there, hidden layers included: what a result must never replace."""
        found = []
        for name in _names_of_files(self):
            with contextlib.suppress(UserError):
                found.append(safe_join(root, name, allow_absolute=allow_absolute))
        return tuple(found)

    def for_result(self, root: Path, *, allow_absolute: bool = False, clip_sha256: str | None = None) -> Project:
        """The project as a result carries it: base names and hashes, no folders, and only the layers that were rendered.

        ``clip_sha256`` saves reading the clip once more where its hash is known.
        """
        paths = _Paths(root, allow_absolute)
        return dataclasses.replace(
            self,
            clip=paths.named(self.clip, "clip", clip_sha256),
            layers=tuple(paths.named_layer(layer, where) for where, layer in _shown_layers(self)),
            engine=_without_folder(self.engine, "checkpoint"),
        )

    def to_metadata(self) -> dict[str, str]:
        """What goes into a result's container, so that ``read_result_project`` finds the project again; nothing if it is huge."""
        text = json.dumps(self.to_document(), ensure_ascii=False, allow_nan=False)
        return {METADATA_KEY: text} if len(text.encode()) <= MAX_METADATA_BYTES else {}


def parse_project(document: object) -> Project:
    """Check a project document (plain JSON values). Raises ``UserError`` with the path of the first fault."""
    if isinstance(document, Mapping) and document.get("version") != VERSION and "version" in document:
        fault("version", f"this program reads version {VERSION}, not {doc.shown(document['version'])}")
    return doc.read_node(Project, document, "")


def decode_project(data: bytes | str) -> Project:
    """Read a project from JSON text. Raises ``UserError``."""
    return parse_project(doc.decode_json(data, MAX_DOCUMENT_BYTES))


def read_project(path: Path) -> Project:
    """Read a project file. Raises ``UserError`` when it cannot be read or is at fault."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise UserError(f"The project file {path.name!r} cannot be read: {os.strerror(error.errno or 0)}.") from error
    return decode_project(data)


def read_result_project(path: Path) -> Project:
    """The project that a rendered file carries. Raises ``UserError`` when it carries none."""
    text = read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise UserError(f"{path.name!r} carries no project; choose a file that was rendered here.")
    return decode_project(text)


# -- files ----------------------------------------------------------------------------------------------------------------------


def safe_join(root: Path, name: str, *, where: str = "", allow_absolute: bool = False) -> Path:
    """The real path of an existing, regular file that a document names. ``where`` is the path in the document, for the fault.

    Without ``allow_absolute`` the file must lie inside ``root`` once every link is resolved; with it (the command line, where the
    person's own rights are the limit) any path is fine, and relative ones start at ``root``. Raises ``UserError``.
    """
    base = Path(name.replace("\0", "")).name or name
    outside = f"{doc.shown(base)} lies outside the project's folder; use the name of a file inside it"
    if "\0" in name or (not allow_absolute and (os.path.isabs(name) or ".." in Path(name).parts)):
        fault(where, outside)
    try:
        folder = Path(os.path.realpath(root))
        path = Path(os.path.realpath(folder / name))
        if not allow_absolute and not path.is_relative_to(folder):
            fault(where, outside)
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UserError(f"{where or 'the project file'}: the file {doc.shown(base)} cannot be found or opened") from error
    if not stat.S_ISREG(mode):
        fault(where, f"{doc.shown(base)} is not a file")
    return path


@dataclass(frozen=True, slots=True)
class _Paths:
    """Where a document's file names lead."""

    root: Path
    allow_absolute: bool

    def find(self, name: str, where: str) -> Path:
        return safe_join(self.root, name, where=f"{where}.path", allow_absolute=self.allow_absolute)

    def named(self, spec: Any, where: str, sha256: str | None = None) -> Any:
        """A clip or reference as a result carries it."""
        return dataclasses.replace(_without_folder(spec, "path"), sha256=sha256 or file_sha256(self.find(spec.path, where)))

    def named_layer(self, layer: LayerSpec, where: str) -> LayerSpec:
        references = tuple(
            dataclasses.replace(self.named(each, f"{where}.references[{index}]"), mask=_without_folder(each.mask, "path"))
            for index, each in enumerate(layer.references)
        )
        holdouts = tuple(_without_folder(each, "path") for each in layer.holdouts)
        return dataclasses.replace(layer, references=references, target=_without_folder(layer.target, "path"), holdouts=holdouts)


def _without_folder(spec: Any, key: str) -> Any:
    """The node with the path under ``key`` cut down to its base name; ``None`` stays ``None``."""
    name = None if spec is None else getattr(spec, key)
    return spec if name is None else dataclasses.replace(spec, **{key: Path(name).name})


def _names_of_files(project: Project) -> Iterator[str]:
    yield project.clip.path
    for layer in project.layers:
        yield from (each.path for each in layer.references)
        for mask in (layer.target, *layer.holdouts, *(each.mask for each in layer.references)):
            if mask is not None and mask.path is not None:
                yield mask.path


def _shown_layers(project: Project) -> list[tuple[str, LayerSpec]]:
    """Path in the document and value of every layer that is not hidden."""
    return [(f"layers[{index}]", layer) for index, layer in enumerate(project.layers) if not layer.hidden]


# -- what keeps a document from being rendered ------------------------------------------------------------------------------------


def missing_parts(project: Project) -> list[str]:
    """What keeps this version from rendering the project, as sentences with their path; empty when nothing in the document does.

    Everything that can be said without opening a file: parts that are not chosen yet, and parts whose machinery this version
    lacks.
    """
    found: list[str] = []
    if project.engine.name not in AVAILABLE_ENGINES:
        found.append(f"engine.name: {_not_yet(project.engine.name)}; use {' or '.join(AVAILABLE_ENGINES)}")
    if not project.layers:
        found.append("layers: there is nothing to insert; add a layer")
    elif not _shown_layers(project):
        found.append("layers: every layer is hidden, so there is nothing to insert; show one")
    for where, layer in _shown_layers(project):
        found.extend(f"{where}{reason}" for reason in _missing_in_layer(layer, project.engine.name))
    return found


def _not_yet(what: str) -> str:
    return f"{what} is not available yet in this version"


def _missing_in_layer(layer: LayerSpec, engine: str) -> Iterator[str]:
    able = ENGINES_OF_KIND[layer.kind]
    if engine in AVAILABLE_ENGINES and engine not in able:
        yield f".kind: {_not_yet(layer.kind)} with the {engine} engine; use {' or '.join(able)}, or hide the layer"
        return
    yield from _missing_in_target(layer)
    for index, mask in enumerate(layer.holdouts):
        yield from (f".holdouts[{index}]{reason}" for reason in _missing_in_mask(mask))
    if layer.kind == "remove":
        if layer.boxes or layer.trajectories or layer.follow is not None:
            part = "boxes" if layer.boxes else "trajectories" if layer.trajectories else "follow"
            yield f".{part}: a layer that removes something does not move; take them away"
        return
    yield from _missing_in_references(layer)
    yield from _missing_in_motion(layer)


def _missing_in_target(layer: LayerSpec) -> Iterator[str]:
    target = layer.target
    is_given = target is not None and bool(target.prompts or target.path or target.edits)
    if layer.kind == "insert":
        if is_given:
            yield ".target: only a layer that replaces or removes something has a target; take it away or change the kind"
    elif target is None or not is_given:
        yield f".target: nothing says what to {layer.kind}; click on it, or give the path of a mask of it"
    else:
        yield from (f".target{reason}" for reason in _missing_in_mask(target))


def _missing_in_mask(mask: MaskSpec) -> Iterator[str]:
    for frame, prompt in mask.prompts.items():
        if prompt.box is None and not any(is_foreground for _, _, is_foreground in prompt.clicks):
            yield f'.prompts["{frame}"]: nothing says what is meant; click on the thing itself, or draw a box around it'
    if not mask.prompts and mask.path is None and not mask.edits:
        yield ".path: nothing is marked; click on the thing, or give the path of a mask image or video"


def _missing_in_references(layer: LayerSpec) -> Iterator[str]:
    if not layer.references:
        yield ".references: no picture of the object is chosen; add one"
    for index, reference in enumerate(layer.references):
        if reference.mask is not None:
            yield from (f".references[{index}].mask{reason}" for reason in _missing_in_reference_mask(reference.mask))
            if reference.mask.feather_px:
                yield f".references[{index}].mask.feather_px: matting finds a picture's soft edge; set 0 and use blend.feather_px"


def _missing_in_reference_mask(mask: MaskSpec) -> Iterator[str]:
    prompt = mask.prompts.get(0)
    if prompt is None:
        if not mask.prompts:
            yield from _missing_in_mask(mask)
    elif prompt.box is not None or not prompt.clicks:
        yield ".prompts: a picture is cut out by clicks on its frame 0; give clicks, and no box"


def _missing_in_motion(layer: LayerSpec) -> Iterator[str]:
    if layer.kind == "insert" and not layer.boxes and len(layer.trajectories) < 2:
        yield ".boxes: nothing says where the object is; draw a box, or at least two trajectories"
    if layer.deform == "perspective" and len(layer.trajectories) != 4:
        yield f".deform: perspective needs exactly four trajectories, not {len(layer.trajectories)}"
    for index, trajectory in enumerate(layer.trajectories):
        if layer.references and trajectory.point not in layer.references[0].points:
            yield f".trajectories[{index}].point: the first reference has no point {doc.shown(trajectory.point)}; add it there"


# -- the request ------------------------------------------------------------------------------------------------------------------


def build_request(
    project: Project,
    root: Path,
    *,
    limits: MediaLimits | None = None,
    cache: ArtifactCache | None = None,
    allow_absolute: bool = False,
) -> tuple[InsertionRequest, list[str]]:
    """Open the files of a project, check the project against them, and make the request; the warnings are for the person.

    ``root`` is the folder that relative paths start from (see ``safe_join``), ``limits`` bounds the clip, ``cache`` keeps
    cut-outs. Hidden layers are left out. Raises ``UserError``.
    """
    for reason in missing_parts(project):
        raise UserError(reason)
    paths = _Paths(root, allow_absolute)
    clip = _open_clip(project.clip, paths, limits or MediaLimits())
    frame_range = _frame_range(project.range, clip)
    builder = _LayerBuilder(clip, frame_range, paths, cache)
    layers = tuple(builder.build(layer, where) for where, layer in _shown_layers(project))
    request = InsertionRequest(
        clip, frame_range, layers, project.engine.to_sampling(), segmenter=SegmenterChoice(project.segmenter.name)
    )
    return request, [*_warnings(layers, clip, frame_range), *builder.warnings]


def _open_clip(spec: ClipSpec, paths: _Paths, limits: MediaLimits) -> Clip:
    path = paths.find(spec.path, "clip")
    with _located("clip.path"):
        clip = probe_clip(path, limits)
    _check_hash("clip", spec.path, spec.sha256, clip.sha256)
    return clip


def _check_hash(where: str, name: str, expected: str | None, got: str) -> None:
    if expected is not None and expected != got:
        fault(
            f"{where}.sha256",
            f"{doc.shown(Path(name).name)} is not the file this project was made with; use the original or remove sha256",
        )


def _frame_range(span: Span | None, clip: Clip) -> Span:
    start, stop = span or (0, clip.num_frames)
    if stop > clip.num_frames:
        fault(
            "range", f"the clip has {clip.num_frames} frames, so the range must end at {clip.num_frames} or before, not at {stop}"
        )
    with _located("clip.path" if span is None else "range"):
        check_complete(clip, (start, stop))
    return start, stop


@dataclass(frozen=True, slots=True)
class _LayerBuilder:
    """Turns checked layer documents into layers of a request, for one clip."""

    clip: Clip
    frame_range: Span
    paths: _Paths
    cache: ArtifactCache | None
    opened: dict[tuple[Path, str], Any] = dataclasses.field(default_factory=dict)
    """Pictures and masks by file and treatment: what several layers share is opened once."""
    warnings: list[str] = dataclasses.field(default_factory=list)
    """What is legal, but hardly meant."""

    def build(self, spec: LayerSpec, where: str) -> Layer:
        self._check_frames(spec, where)
        boxes = self._boxes(spec, where)
        references = tuple(self._reference(each, f"{where}.references[{i}]") for i, each in enumerate(spec.references))
        layer = Layer(
            name=spec.name,
            kind=spec.kind,
            references=references,
            fit=spec.fit,
            anchor=spec.anchor,
            deform=spec.deform,
            boxes=boxes,
            trajectories=self._trajectories(spec, references, where),
            target=None if spec.kind == "insert" else self._mask(spec.target, f"{where}.target"),
            holdouts=tuple(
                track for i, mask in enumerate(spec.holdouts) if (track := self._mask(mask, f"{where}.holdouts[{i}]")) is not None
            ),
            blend=spec.blend.to_settings(),
            pending=self._pending(spec, where),
        )
        self._check_seen(layer, where)
        return layer

    def _check_frames(self, spec: LayerSpec, where: str) -> None:
        """Every key and every visible range must lie inside the clip."""
        count = self.clip.num_frames
        keyed = [(f"{where}.boxes", spec.boxes.keys())]
        for index, each in enumerate(spec.trajectories):
            keyed.append((f"{where}.trajectories[{index}].keys", each.keys.keys()))
            if each.visible is not None and each.visible[-1][1] > count:
                fault(f"{where}.trajectories[{index}].visible", f"the clip has {count} frames, so no range may end after {count}")
        marked = [] if spec.target is None else [(f"{where}.target", spec.target)]
        marked += [(f"{where}.holdouts[{index}]", mask) for index, mask in enumerate(spec.holdouts)]
        for path, mask in marked:
            keyed += [(f"{path}.prompts", mask.prompts.keys()), (f"{path}.edits", mask.edits.keys())]
        for path, frames in keyed:
            for frame in frames:
                if frame >= count:
                    fault(f'{path}["{frame}"]', f"the clip has {count} frames, 0 to {count - 1}; move this key or remove it")
        if spec.follow is not None and spec.follow.key_frame >= count:
            fault(f"{where}.follow.key_frame", f"the clip has {count} frames, 0 to {count - 1}; choose one of them")

    def _boxes(self, spec: LayerSpec, where: str) -> BoxSequence | None:
        if not spec.boxes:
            return None
        keys = {}
        for frame, each in spec.boxes.items():
            x0, y0, x1, y1 = each.box
            if (x1 - x0) * self.clip.width < MIN_BOX_PX or (y1 - y0) * self.clip.height < MIN_BOX_PX:
                fault(f'{where}.boxes["{frame}"].box', "the box is less than one pixel of the clip wide or high; make it larger")
            keys[frame] = BoxKey(each.box, float(each.rotation_deg), each.ease, each.enter, each.leave)
        return build_box_sequence(keys, self.clip.hw, self.clip.num_frames)

    def _trajectories(self, spec: LayerSpec, references: Sequence[Reference], where: str) -> TrajectorySet | None:
        if not spec.trajectories:
            return None
        reference = references[0]
        keys = [TrajectoryKeys(each.point, each.keys, each.ease, each.visible) for each in spec.trajectories]
        with _located(f"{where}.trajectories"):
            return build_trajectory_set(keys, reference.points_px, self.clip.hw, self.clip.num_frames)

    def _reference(self, spec: ReferenceSpec, where: str) -> Reference:
        path = self.paths.find(spec.path, where)
        if spec.sha256 is not None:
            _check_hash(where, spec.path, spec.sha256, file_sha256(path))
        key = (path, json.dumps(doc.write_document(spec.mask)))
        if key not in self.opened:
            self.opened[key] = self._cut_out(path, spec.mask, where)
        rgb, alpha, note = self.opened[key]
        height, width = alpha.shape
        points = {name: (float(x * width), float(y * height)) for name, (x, y) in spec.points.items()}
        return Reference(rgb, alpha, points, note)

    def _cut_out(self, path: Path, mask: MaskSpec | None, where: str) -> CutOut:
        from .images import read_image
        from .treatment import AUTOMATIC, treat_picture

        with _located(where):
            image = read_image(path)
        height, width = image.rgb.shape[:2]
        before = sum(value.alpha.size for value in self.opened.values() if not isinstance(value, MaskTrack))
        if before + height * width > MAX_REFERENCE_PIXELS:
            fault(
                f"{where}.path",
                f"the pictures of all layers together may have {MAX_REFERENCE_PIXELS // 10**6} megapixels; make them smaller",
            )
        treatment = AUTOMATIC if mask is None else self._treatment(mask, f"{where}.mask")
        with _located(where if mask is None else f"{where}.mask"):
            return treat_picture(image, treatment, self.cache)

    def _treatment(self, spec: MaskSpec, where: str) -> Treatment:
        """The mask of a reference: a picture has one frame, 0."""
        from .treatment import Treatment

        for part, frames in (("edits", spec.edits), ("prompts", spec.prompts)):
            for frame in frames:
                if frame != 0:
                    fault(f'{where}.{part}["{frame}"]', "a picture has only frame 0")
        edit = spec.edits.get(0)
        return Treatment(
            mask_path=None if spec.path is None or edit is not None else self.paths.find(spec.path, where),
            clicks=spec.prompts[0].clicks if 0 in spec.prompts else (),
            edit=None if edit is None else (*edit.size, edit.counts),
            grow_px=float(spec.grow_px),
        )

    def _pending(self, spec: LayerSpec, where: str) -> Pending | None:
        """What the clip's own pixels must still tell; None when that is nothing."""
        target = None if spec.kind == "insert" else self._mask_prompts(spec.target, f"{where}.target")
        found = [self._mask_prompts(mask, f"{where}.holdouts[{index}]") for index, mask in enumerate(spec.holdouts)]
        holdouts = tuple(each for each in found if each is not None)
        follow = None if spec.follow is None else self._follow(spec.follow)
        return Pending(target, holdouts, follow) if target is not None or holdouts or follow is not None else None

    def _mask_prompts(self, spec: MaskSpec | None, where: str) -> MaskPrompts | None:
        """A mask that a segmenter is to make; None for one without prompts."""
        if spec is None or not spec.prompts:
            return None
        width, height = self.clip.width, self.clip.height
        prompts, edits = {}, {}
        for frame, each in spec.prompts.items():
            clicks = tuple(Click(float(x * width), float(y * height), bool(is_foreground)) for x, y, is_foreground in each.clicks)
            box = each.box
            prompts[frame] = Prompt(clicks, None if box is None else self._in_pixels(box))
        for frame, edit in spec.edits.items():
            with _located(f'{where}.edits["{frame}"]'), _as_user_error():
                edits[frame] = parse_coco_mask(doc.write_document(edit), self.clip.hw)
        return MaskPrompts(prompts, edits, float(spec.grow_px), float(spec.feather_px))

    def _follow(self, spec: FollowSpec) -> Follow:
        width, height = self.clip.width, self.clip.height
        points = None if spec.points is None else tuple((float(x * width), float(y * height)) for x, y in spec.points)
        region = None if spec.region is None else self._in_pixels(spec.region)
        return Follow(spec.kind, spec.key_frame, points, region)

    def _in_pixels(self, box: Box) -> Box:
        width, height = self.clip.width, self.clip.height
        return float(box[0] * width), float(box[1] * height), float(box[2] * width), float(box[3] * height)

    def _mask(self, spec: MaskSpec | None, where: str) -> MaskTrack | None:
        """A mask from a file or from edits; None for one that prompts make."""
        if spec is None or spec.prompts:
            return None
        path = None if spec.path is None else self.paths.find(spec.path, where)
        key = (path or Path(), json.dumps(doc.write_document(spec)))
        if key not in self.opened:
            edits = {frame: doc.write_document(edit) for frame, edit in spec.edits.items()}
            grow_px, feather_px = float(spec.grow_px), float(spec.feather_px)
            with _located(where):
                self.opened[key] = read_mask_track(path, self.clip, grow_px=grow_px, feather_px=feather_px, edits=edits)
        return self.opened[key]

    def _check_seen(self, layer: Layer, where: str) -> None:
        """The object must exist, and touch the picture, in some frame of the clip, a target must mark something there; where that
        is so in no frame of the range, it is only said. What the clip's pixels must tell first is checked when they have."""
        if layer.target is not None:
            marked = [index for index, runs in enumerate(layer.target.runs) if runs is not None]
            if not marked:
                fault(f"{where}.target", "the mask is empty in every frame of the clip; use another mask")
            self._warn_unless(layer, any(map(self._is_rendered, marked)))
        is_followed = layer.pending is not None and layer.pending.follow is not None
        if layer.kind == "remove" or is_followed or (layer.kind == "replace" and layer.boxes is None):
            return
        with _located(where):
            motion = build_layer_motion(layer)
        frames = [frame for frame in range(self.clip.num_frames) if motion.exists(frame)]
        if not frames:
            fault(f"{where}.boxes", "the object exists in no frame of the clip; move the keys that say enter or leave")
        inside = [frame for frame in frames if self._is_rendered(frame)]
        if any(self._shows(layer, motion, frame) for frame in inside):
            return
        if not any(self._shows(layer, motion, frame) for frame in frames):
            part = "trajectories" if layer.boxes is None else "boxes"
            fault(f"{where}.{part}", "the object touches the picture in no frame of the clip; move it into the picture")
        self._warn_unless(layer, False)

    def _shows(self, layer: Layer, motion: LayerMotion, frame: int) -> bool:
        return (layer.boxes is not None and self._touches(layer.boxes.boxes_px[frame])) or self._touches(
            motion.warped_bounds_px(frame)
        )

    def _is_rendered(self, frame: int) -> bool:
        return self.frame_range[0] <= frame < self.frame_range[1]

    def _warn_unless(self, layer: Layer, is_there: bool) -> None:
        if not is_there:
            self.warnings.append(f"Layer {layer.name!r} is in no frame of the range.")

    def _touches(self, box_px: Array) -> bool:
        x0, y0, x1, y1 = box_px
        return bool(x0 < self.clip.width and x1 > 0 and y0 < self.clip.height and y1 > 0)


def _warnings(layers: Sequence[Layer], clip: Clip, frame_range: Span) -> list[str]:
    """What is legal, but hardly meant."""
    found = []
    if clip.promised_frames is not None:
        found.append(f"{clip.path.name} is cut short; what lies in the range is whole.")
    start, stop = frame_range
    for layer in layers:
        if layer.blend.opacity == 0:
            found.append(f"Layer {layer.name!r} is invisible: its opacity is 0.")
        if layer.trajectories is not None:
            is_visible = layer.trajectories.is_visible[:, start:stop]
            names = [name for name, here in zip(layer.trajectories.names, is_visible, strict=True) if not here.any()]
            found += [f"Layer {layer.name!r}: the point {name!r} moves nothing, as it is visible in no frame." for name in names]
    return found


@contextlib.contextmanager
def _as_user_error() -> Iterator[None]:
    """Show a ``ValueError`` of another room to the person: the document made it."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Add the path in the document to a ``UserError`` from another room."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
