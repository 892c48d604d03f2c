"""How a run trains, as checked YAML: one file per scale and per row of the ablation tables (``configs/``)."""

# ruff: noqa: RUF009  (the checks that class bodies make are functions without state)

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import documents as doc
from ..documents import Node, item
from ..errors import UserError
from .points import PointChoice

MaskShape = Literal["box", "silhouette"]

MAX_CONFIG_BYTES = 1 << 20
MAX_BASES = 8
"""How many files may stand on one another."""

DATASETS = (
    "youtube_vos",
    "youtube_vis",
    "uvo",
    "mose",
    "vipseg",
    "vspw",
    "sa_v",
    "pexels_videos",
    "mvimgnet",
    "vivid",
    "chdtf",
    "celebv_hq",
    "pexels_images",
)
"""The paper's Table 1, in its order; ``datasets.ADAPTERS`` reads them."""

_share = doc.number(0, 1)
_path = doc.line(1, 4096)


def _range(low: float, high: float) -> doc.Check:
    """Two numbers, the smaller first, as floats."""
    check_pair = doc.list_of(doc.number(low, high), 2, 2)

    def check(value: object, path: str) -> tuple[float, float]:
        first, second = check_pair(value, path)
        if second < first:
            doc.fault(path, f"the second number must not be smaller than the first, but {second:g} is smaller than {first:g}")
        return float(first), float(second)

    return check


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig(Node):
    """Where samples come from. ``composites`` need ``footage`` and ``cutouts``, ``simulated`` needs ``cutouts`` and ``pictures``,
    ``real`` needs ``footage`` with masks beside it, of which ``per_video`` clips each are read, ``shards`` a folder of prepared
    clips in ``shards``, a ``dataset`` its ``name`` and ``footage``, the folder in which it lies as docs/training.md says. Paths
    start at the file's folder. ``share`` is relative to the others. ``cast`` and ``exposure``: how far the light of composites and
    simulated clips strays from the reference's, as ``composites.CompositeOptions`` says."""

    kind: str = item(doc.one_of("composites", "simulated", "real", "shards", "dataset"))
    name: str | None = item(doc.nullable(doc.one_of(*DATASETS)), None)
    share: float = item(doc.number(0, 1e6), 1.0)
    footage: str | None = item(doc.nullable(_path), None)
    cutouts: str | None = item(doc.nullable(_path), None)
    pictures: str | None = item(doc.nullable(_path), None)
    shards: str | None = item(doc.nullable(_path), None)
    per_video: int = item(doc.integer(1, 1000), 8)
    cast: float = item(doc.number(0, 2), 0.25)
    exposure: float = item(doc.number(0, 2), 0.45)


_NEEDED = {
    "dataset": ("name", "footage"),
    "composites": ("footage", "cutouts"),
    "simulated": ("pictures", "cutouts"),
    "real": ("footage",),
    "shards": ("shards",),
}


def _check_source(source: SourceConfig, path: str) -> None:
    for name in _NEEDED[source.kind]:
        if getattr(source, name) is None:
            doc.fault(f"{path}.{name}", f"{source.kind} need this")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesConfig(Node):
    """See ``samples.SampleOptions``."""

    expansion: tuple[float, float] = item(_range(1, 3), (1.1, 1.5))
    few_points: float = item(_share, 0.3)
    no_points: float = item(_share, 0.12)
    key_points: bool = item(doc.boolean, True)
    jitter: float = item(_share, 0.0)
    hidden: float = item(_share, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig(Node):
    """``plain``, the ``box`` loss, or the paper's ``trajectory`` loss, with its lambda. ``pure_noise``: see
    ``losses.sample_timesteps``."""

    kind: str = item(doc.one_of("plain", "box", "trajectory"), "trajectory")
    scale: float = item(doc.number(0, 100), 2.0)
    adaptive_timesteps: bool = item(doc.boolean, True)
    pure_noise: float = item(_share, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutConfig(Node):
    """See ``losses.DropoutRates``."""

    identity: float = item(_share, 0.1)
    warper: float = item(_share, 0.1)
    both: float = item(_share, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Node):
    """One run.

    ``scale``: of ``scales.SCALES``, started from random weights where it can be, else from ``checkpoint`` (a folder). ``content``
    and ``warper`` false are ablations of the pixel warper; ``mask_shape`` and ``residual`` (``videoanydoor/conditioning.py``) are
    what the networks are built for where they start from random weights.
    ``trains``: ``all`` parameters, or those that the ``paper`` trains;
    ``frozen_identity`` leaves the ID extractor's backbone out.
    ``fresh_rate_factor``: how much faster the parts learn that start from nothing (pixel warper, identity projection).
    ``batch_size`` is per process. ``parallel``: how several processes share the work.
    """

    scale: str = item(doc.one_of("sd15", "sdxl", "nano", "pico"))
    checkpoint: str | None = item(doc.nullable(_path), None)
    content: str | None = item(doc.nullable(doc.one_of("reference", "warped")), None)
    warper: bool = item(doc.boolean, True)
    mask_shape: MaskShape = item(doc.one_of("box", "silhouette"), "box")
    residual: bool = item(doc.boolean, False)
    trains: str = item(doc.one_of("all", "paper"), "all")
    frozen_identity: bool = item(doc.boolean, False)
    seed: int = item(doc.integer(0, 2**31), 0)
    steps: int = item(doc.integer(1, 100_000_000))
    batch_size: int = item(doc.integer(1, 4096), 1)
    num_frames: int = item(doc.integer(2, 32), 8)
    max_stride: int = item(doc.integer(1, 16), 4)
    footage_side: int = item(doc.integer(32, 2048), 144)
    cutout_side: int = item(doc.integer(16, 2048), 96)
    num_points: int = item(doc.integer(0, 16), 8)
    points: PointChoice = item(doc.one_of("spread", "grid", "random", "dense"), "spread")
    learning_rate: float = item(doc.number(0, 1), 1e-5)
    fresh_rate_factor: float = item(doc.number(0, 1000), 1.0)
    warmup_steps: int = item(doc.integer(0, 10_000_000), 0)
    decay: str = item(doc.one_of("none", "cosine"), "none")
    weight_decay: float = item(doc.number(0, 1), 0.01)
    gradient_clip: float = item(doc.number(0, 1e6), 1.0)
    ema_decay: float = item(_share, 0.999)
    precision: str = item(doc.one_of("no", "bf16", "fp16"), "no")
    gradient_checkpointing: bool = item(doc.boolean, False)
    parallel: str = item(doc.one_of("ddp", "fsdp"), "ddp")
    loss: LossConfig = item(doc.node(LossConfig), LossConfig())
    dropout: DropoutConfig = item(doc.node(DropoutConfig), DropoutConfig())
    samples: SamplesConfig = item(doc.node(SamplesConfig), SamplesConfig())
    sources: tuple[SourceConfig, ...] = item(doc.list_of(doc.node(SourceConfig, _check_source), 1, 64))
    log_every: int = item(doc.integer(1, 10_000_000), 20)
    save_every: int = item(doc.integer(1, 10_000_000), 500)
    preview_every: int = item(doc.integer(0, 10_000_000), 0)
    workers: int = item(doc.integer(0, 64), 0)


def read_config(path: Path, overrides: dict[str, object] | None = None) -> TrainConfig:
    """Read and check a configuration; ``overrides`` replace top-level keys.

    A file may begin with ``base: OTHER.yaml`` and then say only what it changes; inside ``loss``, ``dropout`` and ``samples`` too.
    Raises ``UserError`` with the path of the fault.
    """
    values = {**_read_values(path, 0), **(overrides or {})}
    try:
        config: TrainConfig = doc.read_node(TrainConfig, values, "")
    except UserError as error:
        raise UserError(f"{path.name}: {str(error).removeprefix('the project file: ')}") from error
    return config


def _read_values(path: Path, depth: int) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_bytes()[: MAX_CONFIG_BYTES + 1]
    except OSError as error:
        raise UserError(f"The configuration {path.name!r} cannot be read; give the path of a YAML file.") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise UserError(f"The configuration {path.name!r} is larger than a configuration is; give the path of another one.")
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"The configuration {path.name!r} is not valid YAML; mend it.") from error
    if not isinstance(values, dict):
        raise UserError(f"The configuration {path.name!r} must hold keys and values.")
    base = values.pop("base", None)
    if base is None:
        return values
    if depth == MAX_BASES or not isinstance(base, str) or "\0" in base:
        raise UserError(f"The configuration {path.name!r} names a base that leads nowhere; give the name of a file beside it.")
    under = _read_values(path.parent / base, depth + 1)
    return under | {
        key: under[key] | value if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        for key, value in values.items()
    }
