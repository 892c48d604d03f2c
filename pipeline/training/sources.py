"""Where training clips come from: footage with cut-outs laid over it, still pictures set in motion, shards of prepared clips.

A source answers ``clip(rng)``: the same generator gives the same clip. ``Mixture`` draws from several by their shares and makes
samples of them; sample number i of a seed never depends on the ones before it, so a run can be resumed anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import UserError
from ..masks import VIDEO_SUFFIXES, find_masked_videos
from ..types import Array, Reference
from ..videoanydoor.conditioning import Grid
from .clips import TrainingClip
from .composites import CompositeOptions, build_composite, choose_footage, shrink_reference
from .config import SourceConfig, TrainConfig
from .real import read_real_clips
from .samples import Batch, SampleOptions, build_sample, collate
from .shards import ShardReader
from .simulated import SimulatedOptions, build_simulated

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
MAX_FRAMES_PER_CLIP = 240
"""How much of a clip is kept in memory, from its middle."""

log = logging.getLogger(__name__)

TRIES = 16
"""How often another clip is drawn when an object turns out to be nowhere in the window."""


class ClipSource(Protocol):
    """Makes training clips."""

    def clip(self, rng: np.random.Generator) -> TrainingClip: ...


class CompositeSource:
    """Cut-outs over footage. ``footage``: clips u8[T,H,W,3]."""

    def __init__(
        self, footage: Sequence[Array], cutouts: Sequence[Reference], config: TrainConfig, scene: CompositeOptions
    ) -> None:
        self._footage, self._cutouts, self._config = list(footage), list(cutouts), config
        self._options = scene

    def clip(self, rng: np.random.Generator) -> TrainingClip:
        """A random object on random footage."""
        frames = choose_footage(self._footage, self._config.num_frames, self._config.max_stride, rng)
        cutout = self._cutouts[int(rng.integers(len(self._cutouts)))]
        return build_composite("composite", frames, cutout, self._options, rng)


class SimulatedSource:
    """Cut-outs on still pictures u8[H,W,3] that are moved as one."""

    def __init__(
        self, pictures: Sequence[Array], cutouts: Sequence[Reference], config: TrainConfig, scene: CompositeOptions
    ) -> None:
        self._pictures, self._cutouts, self._config = list(pictures), list(cutouts), config
        self._options = SimulatedOptions(scene=scene)

    def clip(self, rng: np.random.Generator) -> TrainingClip:
        """A random object on a random picture, moved."""
        picture = self._pictures[int(rng.integers(len(self._pictures)))]
        cutout = self._cutouts[int(rng.integers(len(self._cutouts)))]
        return build_simulated("simulated", picture, cutout, self._config.num_frames, self._options, rng)


class RealSource:
    """Clips of real videos that were read beforehand."""

    def __init__(self, clips: Sequence[TrainingClip]) -> None:
        if not clips:
            raise UserError("No clip of the real videos shows its thing long enough; give longer ones, or other masks.")
        self._clips = list(clips)

    def clip(self, rng: np.random.Generator) -> TrainingClip:
        """One of them."""
        return self._clips[int(rng.integers(len(self._clips)))]


class Mixture:
    """Samples from several sources by their shares; a map from numbers to samples, as torch's data loaders want it."""

    def __init__(
        self, sources: Sequence[ClipSource], shares: Sequence[float], grid: Grid, options: SampleOptions, seed: int
    ) -> None:
        total = float(sum(shares))
        if total <= 0:
            raise UserError("sources: at least one source must have a share above 0.")
        self._sources, self._edges = list(sources), np.cumsum(np.array(shares) / total)
        self._grid, self._options, self._seed = grid, options, seed

    def __getitem__(self, number: int) -> Batch:
        """Sample ``number``. Raises ``UserError`` when no usable clip can be drawn."""
        return self._draw(number)[1]

    def clip(self, number: int) -> TrainingClip:
        """The clip that sample ``number`` is made of."""
        return self._draw(number)[0]

    def _draw(self, number: int) -> tuple[TrainingClip, Batch]:
        rng = np.random.default_rng([self._seed, number])
        for _ in range(TRIES):
            place = int(np.searchsorted(self._edges, rng.random(), side="right"))
            source = self._sources[min(place, len(self._sources) - 1)]
            try:
                clip = source.clip(rng)
                return clip, build_sample(clip, self._grid, self._options, rng)
            except ValueError:
                continue
        raise UserError("No clip of the training data shows its object; check the boxes of the prepared clips.")

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Several samples as one batch."""
        return collate([self[number] for number in numbers])


# -- opening ----------------------------------------------------------------------------------------------------------------------


def open_sources(config: TrainConfig, root: Path, grid: Grid, seed: int) -> Mixture:
    """Open every source of a configuration whose paths start at ``root``. Raises ``UserError`` for what is missing or empty."""
    options = SampleOptions(
        config.samples.expansion,
        float(config.samples.few_points),
        float(config.samples.no_points),
        config.samples.key_points,
        float(config.samples.jitter),
        float(config.samples.hidden),
    )
    sources = [_open_source(each, root, config) for each in config.sources]
    return Mixture(sources, [float(each.share) for each in config.sources], grid, options, seed)


def _open_source(source: SourceConfig, root: Path, config: TrainConfig) -> ClipSource:
    if source.kind == "shards":
        return ShardReader(root / str(source.shards))
    if source.kind == "dataset":
        from .datasets import DatasetSource

        return DatasetSource(str(source.name), root / str(source.footage), config)
    if source.kind == "real":
        pairs = find_masked_videos(root / str(source.footage))
        return RealSource(list(read_real_clips(pairs, config, source.per_video, config.seed)))
    cutouts = read_cutouts(root / str(source.cutouts), config)
    scene = CompositeOptions(max_points=config.num_points, cast=float(source.cast), exposure=float(source.exposure))
    if source.kind == "simulated":
        return SimulatedSource(read_pictures(root / str(source.pictures), 2 * config.footage_side), cutouts, config, scene)
    needed = config.num_frames
    return CompositeSource(read_footage(root / str(source.footage), config.footage_side, needed), cutouts, config, scene)


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder and the folders in it with one of these endings, in order. Raises ``UserError`` when there are none."""
    if not folder.is_dir():
        raise UserError(f"The folder {folder.name!r} of the training data does not exist; give another one.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise UserError(f"The folder {folder.name!r} holds no file that ends in {' or '.join(suffixes[:3])}; give another one.")
    return found


def read_footage(folder: Path, side: int, num_frames: int) -> list[Array]:
    """Every clip of a folder that has ``num_frames``, u8[T,h,w,3] with its shorter side at ``side``."""
    import cv2

    from ..media import probe_clip, read_frames

    footage = []
    for path in list_files(folder, VIDEO_SUFFIXES):
        try:
            clip = probe_clip(path)
        except UserError as error:
            log.warning("A clip is left out: %s", error)
            continue
        if clip.num_frames < num_frames:
            continue
        start = max(0, (clip.num_frames - MAX_FRAMES_PER_CLIP) // 2)
        scale = side / min(clip.hw)
        size = (max(side, round(clip.width * scale)), max(side, round(clip.height * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        frames = read_frames(clip, start, min(clip.num_frames, start + MAX_FRAMES_PER_CLIP))
        footage.append(np.stack([cv2.resize(frame.image, size, interpolation=method) for frame in frames]))
    if not footage:
        raise UserError(f"No clip in {folder.name!r} has the {num_frames} frames that a sample needs; give longer ones.")
    return footage


def read_cutouts(folder: Path, config: TrainConfig) -> list[Reference]:
    """Every picture of a folder that has transparency of its own, small, with points chosen on it."""
    from ..images import read_image
    from ..matting import cut_out

    cutouts: list[Reference] = []
    for path in list_files(folder, (".png", ".webp")):
        image = read_image(path)
        if image.alpha is None or image.alpha.max() < 0.5:
            continue
        found = cut_out(image.rgb, alpha=image.alpha)
        if min(found.alpha.shape) >= 8 and (found.alpha >= 0.5).sum() >= 64:
            rng = np.random.default_rng([config.seed, len(cutouts)])
            whole = Reference(found.image, found.alpha)
            cutouts.append(shrink_reference(whole, config.cutout_side, max(config.num_points, 1), config.points, rng))
    if not cutouts:
        raise UserError(f"No picture in {folder.name!r} has a transparent background; give cut-outs.")
    return cutouts


def read_pictures(folder: Path, side: int) -> list[Array]:
    """Every picture of a folder, u8[h,w,3] with its shorter side at ``side``."""
    import cv2

    from ..images import read_image

    pictures = []
    for path in list_files(folder, PICTURE_SUFFIXES):
        rgb = read_image(path).rgb
        scale = side / min(rgb.shape[:2])
        size = (max(side, round(rgb.shape[1] * scale)), max(side, round(rgb.shape[0] * scale)))
        pictures.append(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    return pictures
