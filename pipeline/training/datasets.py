"""The data sets of the paper's Table 1, each read from the folder layout in which it is published or, where only addresses are
published, from ours. docs/training.md has the layouts, the licences, and what of both is unconfirmed.

An adapter lists ``ThingClip`` handles, cheaply; a handle opens its frames and reads the mask of *one* thing, always the same one:
of the things seen in enough of the clip, neither tiny nor filling the picture, the one seen the longest, then the largest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..masks import encode_rle, find_masked_videos, image_mask, parse_coco_mask, read_mask_track
from ..media import FrameStore, probe_clip
from ..types import Array, MaskTrack
from .clips import TrainingClip
from .composites import CompositeOptions
from .config import TrainConfig
from .losses import Source
from .real import draw_clip
from .simulated import SimulatedOptions, move_picture
from .stores import PictureStore, SelectedStore

log = logging.getLogger(__name__)

PROBES = 8
"""How many frames of a clip are looked at to choose its thing."""

LEAST_SEEN = 0.5
AREA_SHARE = (0.002, 0.6)
"""A thing must be seen in this share of those frames, and fill between these shares of the picture."""

SPAN_SHARE = 0.95
"""What is as wide or as high as this share of the picture is a surrounding and no thing."""

SAV_STEP = 4
"""SA-V: 24 frames a second, of which six are annotated."""

Frames = Callable[[], FrameStore]
Masks = Callable[[FrameStore], MaskTrack]


@dataclass(frozen=True, eq=False, slots=True)
class ThingClip:
    """A clip of a data set: ``open_frames()``, and ``read_masks(frames)`` of its thing (``ValueError`` when it has none)."""

    name: str
    open_frames: Frames
    read_masks: Masks
    source: Source


@dataclass(frozen=True, eq=False, slots=True)
class ThingPicture:
    """A still picture with a thing in it: two files."""

    name: str
    picture: Path
    mask: Path


# -- masks ------------------------------------------------------------------------------------------------------------------------

IdMap = Callable[[Path], Array]
"""Reads the ids of things i32[H,W] from a mask file; 0 is nobody."""


def read_index_map(path: Path) -> Array:
    """Palette or grey pictures whose values are ids, 8 or 16 bits (DAVIS, YouTube-VOS, MOSE)."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
                raise UserError(f"{path.name} holds colours where ids are expected; give the masks as they are published.")
            return np.asarray(image).astype(np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"The mask {path.name} is damaged; remove its clip.") from error


def read_panoptic_things(path: Path) -> Array:
    """VIPSeg: up to 124 is stuff, a thing is its category times 100 plus a number."""
    ids = read_index_map(path)
    return np.where(ids > 124, ids, 0) * (ids != 200)  # 200 is a known slip of the annotators for "nothing"


def read_class_map(path: Path) -> Array:
    """VSPW: ids are classes, 255 is to be ignored."""
    ids = read_index_map(path)
    return np.where(ids == 255, 0, ids)


def read_silhouette(path: Path) -> Array:
    """One thing: transparent or black around it."""
    from ..images import read_image

    loaded = read_image(path)
    solid = loaded.rgb.max(axis=2) >= 128 if loaded.alpha is None else loaded.alpha >= 0.5
    return solid.astype(np.int32)


def _masks_of_files(paths: Sequence[Path], read_ids: IdMap, frames: FrameStore) -> MaskTrack:
    """The chosen thing's masks from one file per frame."""
    hw = frames.clip.hw
    chosen = choose_thing([_fitted(read_ids(paths[index]), hw) for index in _probes(len(paths))])
    return _track(hw, [_fitted(read_ids(path), hw) == chosen for path in paths])


def _fitted(ids: Array, hw: tuple[int, int]) -> Array:
    """An id map at the size of the frames."""
    import cv2

    if ids.shape == hw:
        return ids
    return cv2.resize(ids, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _masks_of_runs(things: Sequence[Sequence[object]], frames: FrameStore) -> MaskTrack:
    """The chosen thing's masks from run lengths: one list per thing, one COCO mask or None per frame."""
    from ..masks import decode_rle

    hw = frames.clip.hw

    def mask(thing: Sequence[object], index: int) -> Array:
        document = thing[index] if index < len(thing) else None
        return np.zeros(hw, np.bool_) if document is None else decode_rle(parse_coco_mask(document, hw), hw)

    count = frames.clip.num_frames
    maps = []
    for index in _probes(count):
        ids = np.zeros(hw, np.int32)
        for number, thing in enumerate(things, start=1):
            ids[mask(thing, index)] = number
        maps.append(ids)
    chosen = things[choose_thing(maps) - 1]
    return _track(hw, [mask(chosen, index) for index in range(count)])


def _probes(count: int) -> list[int]:
    return sorted({int(value) for value in np.linspace(0, count - 1, min(PROBES, count)).round()})


def choose_thing(maps: Sequence[Array]) -> int:
    """The id of the thing to follow, from id maps i32[H,W] of a few frames. Raises ``ValueError`` when none is fit."""
    areas: dict[int, list[float]] = {}
    surroundings: set[int] = set()
    for ids in maps:
        for value in (int(each) for each in np.unique(ids) if each != 0):
            mask = ids == value
            areas.setdefault(value, []).append(float(mask.mean()))
            spans = [np.ptp(np.flatnonzero(mask.any(axis=axis))) + 1 for axis in (1, 0)]
            if max(span / side for span, side in zip(spans, ids.shape, strict=True)) >= SPAN_SHARE:
                surroundings.add(value)
    fit = {
        value: (len(found), float(np.mean(found)), -value)
        for value, found in areas.items()
        if len(found) >= LEAST_SEEN * len(maps) and AREA_SHARE[0] <= np.median(found) <= AREA_SHARE[1] and value not in surroundings
    }
    if not fit:
        raise ValueError("no thing in it is seen long enough at a fit size")
    return max(fit, key=lambda value: fit[value])


def _track(hw: tuple[int, int], masks: Sequence[Array]) -> MaskTrack:
    return MaskTrack(hw, tuple(encode_rle(mask) if mask.any() else None for mask in masks))


# -- layouts ----------------------------------------------------------------------------------------------------------------------


def _pictures_and_masks(frames: Path, masks: Path, read_ids: IdMap, source: Source) -> ThingClip | None:
    """A folder of pictures and a folder of masks of the same names; only frames that have both."""
    found = {_stem(path): path for path in masks.iterdir() if path.suffix.lower() == ".png"} if masks.is_dir() else {}
    pairs = [(path, found[path.stem]) for path in _sorted_pictures(frames) if path.stem in found]
    if not pairs:
        return None
    pictures, files = zip(*pairs, strict=True)
    reader = partial(_masks_of_files, files, read_ids)
    return ThingClip(f"{frames.parent.name}/{frames.name}", partial(PictureStore, pictures), reader, source)


def _stem(path: Path) -> str:
    """``001`` for ``001.png`` and for ``001.jpg.png``."""
    return path.name.split(".")[0]


def _sorted_pictures(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    return sorted(found, key=lambda path: (len(path.stem), path.stem))  # 2.png before 10.png


def _folders(folder: Path) -> list[Path]:
    """The folders in one. Raises ``UserError`` when it does not exist."""
    if not folder.is_dir():
        raise UserError(f"The folder {folder.name!r} of the data set does not exist; see docs/training.md for its layout.")
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _split(root: Path) -> Path:
    return root / "train" if (root / "train").is_dir() else root


def _video_objects(root: Path, source: Source) -> Iterator[ThingClip]:
    """``[train/]JPEGImages/VIDEO/00000.jpg`` and ``[train/]Annotations/VIDEO/00000.png`` (DAVIS's layout)."""
    for frames in _folders(_split(root) / "JPEGImages"):
        clip = _pictures_and_masks(frames, _split(root) / "Annotations" / frames.name, read_index_map, source)
        if clip is not None:
            yield clip


def _video_instances(pictures: Path, annotations: Path, source: Source) -> Iterator[ThingClip]:
    """COCO for videos: ``videos`` with ``file_names``, ``annotations`` with ``segmentations``, one per frame."""
    document = _read_json(annotations)
    things: dict[object, list[list[object]]] = {}
    try:
        for annotation in document["annotations"]:
            things.setdefault(annotation["video_id"], []).append(annotation["segmentations"])
        videos = [(video["id"], tuple(pictures / name for name in video["file_names"])) for video in document["videos"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"The annotations {annotations.name} do not say which masks belong to which frames.") from error
    for number, paths in videos:
        if number in things:
            reader = partial(_masks_of_runs, things[number])
            yield ThingClip(f"{pictures.name}/{number}", partial(PictureStore, paths), reader, source)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The annotations {path.name} cannot be read; see docs/training.md for the layout.") from error
    except ValueError as error:
        raise UserError(f"The annotations {path.name} are damaged; fetch them again.") from error
    if not isinstance(found, dict):
        raise UserError(f"The annotations {path.name} are not those of a data set; fetch them again.")
    return found


def _first_there(paths: Sequence[Path]) -> Path:
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise UserError(f"Neither {' nor '.join(path.name for path in paths)} is there; see docs/training.md for the layout.")
    return found


def youtube_vis(root: Path) -> Iterator[ThingClip]:
    """``train/JPEGImages/…`` and ``train/instances.json`` (2021) or ``train.json`` (2019)."""
    return _video_instances(
        _split(root) / "JPEGImages", _first_there([root / "train" / "instances.json", root / "train.json"]), "coarse_video"
    )


def uvo(root: Path) -> Iterator[ThingClip]:
    """``uvo_videos_dense_frames`` with ``VideoDenseSet``, and the sparse ones likewise; those that are there."""
    sets = (
        ("uvo_videos_dense_frames", "VideoDenseSet/UVO_video_train_dense.json"),
        ("uvo_videos_sparse_frames", "VideoSparseSet/UVO_sparse_train_video_with_interpolation.json"),
    )
    there = [(root / frames, root / instances) for frames, instances in sets if (root / instances).exists()]
    if not there:
        raise UserError(f"{root.name!r} holds neither VideoDenseSet nor VideoSparseSet; see docs/training.md for the layout.")
    for frames, instances in there:
        yield from _video_instances(frames, instances, "coarse_video")


def vipseg(root: Path) -> Iterator[ThingClip]:
    """``imgs/VIDEO/*.jpg`` (``images`` at 720 lines) and ``panomasks/VIDEO/*.png``."""
    for frames in _folders(_first_there([root / "imgs", root / "images"])):
        clip = _pictures_and_masks(frames, root / "panomasks" / frames.name, read_panoptic_things, "fine_video")
        if clip is not None:
            yield clip


def vspw(root: Path) -> Iterator[ThingClip]:
    """``data/VIDEO/origin/*.jpg`` and ``data/VIDEO/mask/*.png``, the videos that ``train.txt`` lists where it is there."""
    listed = (root / "train.txt").read_text(encoding="utf-8").split() if (root / "train.txt").exists() else None
    for video in _folders(root / "data"):
        if (listed is None or video.name in listed) and (video / "origin").is_dir():
            clip = _pictures_and_masks(video / "origin", video / "mask", read_class_map, "fine_video")
            if clip is not None:
                yield clip


def sa_v(root: Path) -> Iterator[ThingClip]:
    """``**/sav_000001.mp4`` with ``sav_000001_manual.json`` (or ``_auto.json``), whose ``masklet`` holds, for every annotated
    frame, one run-length mask per thing."""
    for video in sorted(root.rglob("*.mp4")):
        named = [video.with_name(f"{video.stem}_{kind}.json") for kind in ("manual", "auto")]
        annotations = next((path for path in named if path.exists()), None)
        if annotations is not None:
            yield ThingClip(video.stem, partial(_open_sav, video, annotations), partial(_sav_masks, annotations), "fine_video")


def _open_sav(video: Path, annotations: Path) -> FrameStore:
    return SelectedStore(video, SAV_STEP, len(_masklets(annotations)))


def _masklets(annotations: Path) -> list[list[object]]:
    found = _read_json(annotations).get("masklet")
    if not isinstance(found, list) or not found:
        raise UserError(f"The annotations {annotations.name} hold no masklets; remove the video.")
    return found


def _sav_masks(annotations: Path, frames: FrameStore) -> MaskTrack:
    by_frame = _masklets(annotations)
    count = max(len(each) for each in by_frame)
    things = [[each[number] if number < len(each) else None for each in by_frame] for number in range(count)]
    return _masks_of_runs(things, frames)


def mvimgnet(root: Path) -> Iterator[ThingClip]:
    """``CLASS/INSTANCE/images/*.jpg`` and ``CLASS/INSTANCE/masks/*.png`` (as MVImgNet 2.0 has it; or ``mask``)."""
    for instance in (each for label in _folders(root) for each in _folders(label)):
        masks = instance / "masks" if (instance / "masks").is_dir() else instance / "mask"
        if (instance / "images").is_dir():
            clip = _pictures_and_masks(instance / "images", masks, read_silhouette, "fine_video")
            if clip is not None:
                yield clip


def _masked_videos(root: Path, source: Source) -> Iterator[ThingClip]:
    """Our own layout: ``NAME.mp4`` with ``NAME.mask.mkv`` beside it, as the ``segment`` command writes it."""
    for pair in find_masked_videos(root):
        yield ThingClip(pair.video.stem, partial(_open_video, pair.video), partial(_video_masks, pair.mask), source)


def _open_video(path: Path) -> FrameStore:
    return FrameStore(probe_clip(path))


def _video_masks(path: Path, frames: FrameStore) -> MaskTrack:
    return read_mask_track(path, frames.clip)


def pexels_images(root: Path) -> Iterator[ThingPicture]:
    """Our own layout: ``NAME.jpg`` with ``NAME.mask.png`` beside it."""
    for picture in sorted(root.rglob("*")):
        mask = picture.with_name(f"{picture.stem}.mask.png")
        if picture.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") and not picture.stem.endswith(".mask") and mask.is_file():
            yield ThingPicture(picture.stem, picture, mask)


Adapter = Callable[[Path], Iterator[ThingClip] | Iterator[ThingPicture]]

ADAPTERS: Mapping[str, Adapter] = {
    "youtube_vos": partial(_video_objects, source="coarse_video"),
    "youtube_vis": youtube_vis,
    "uvo": uvo,
    "mose": partial(_video_objects, source="fine_video"),
    "vipseg": vipseg,
    "vspw": vspw,
    "sa_v": sa_v,
    "pexels_videos": partial(_masked_videos, source="coarse_video"),
    "mvimgnet": mvimgnet,
    "vivid": partial(_masked_videos, source="fine_video"),
    "chdtf": partial(_masked_videos, source="fine_video"),
    "celebv_hq": partial(_masked_videos, source="fine_video"),
    "pexels_images": pexels_images,
}
"""By the names of ``config.DATASETS``. Sets whose masks *and* videos Table 1 calls high in quality teach the whole noise schedule
(``fine_video``), the others its upper half (``coarse_video``), pictures its lower half."""


# -- drawing ----------------------------------------------------------------------------------------------------------------------


class DatasetSource:
    """Clips of one data set, read when they are drawn: memory holds the list of them and the frames of one."""

    def __init__(self, name: str, root: Path, config: TrainConfig) -> None:
        if not root.is_dir():
            raise UserError(f"The folder {root.name!r} of the data set {name} does not exist; give another one or leave it out.")
        self._things: list[ThingClip | ThingPicture] = list(ADAPTERS[name](root))
        self._config = config
        if not self._things:
            raise UserError(f"The folder {root.name!r} holds nothing in the layout of {name}; docs/training.md describes it.")

    def __len__(self) -> int:
        return len(self._things)

    def clip(self, rng: np.random.Generator) -> TrainingClip:
        """A random clip of a random thing. Raises ``ValueError`` for one that cannot be used."""
        thing = self._things[int(rng.integers(len(self._things)))]
        try:
            if isinstance(thing, ThingPicture):
                return self._move(thing, rng)
            with closing(thing.open_frames()) as frames:
                return draw_clip(thing.name, frames, thing.read_masks(frames), self._config, rng, thing.source)
        except UserError as error:
            log.warning("%s is left out: %s", thing.name, error)
            raise ValueError(str(error)) from error

    def _move(self, thing: ThingPicture, rng: np.random.Generator) -> TrainingClip:
        from ..images import read_image

        picture = read_image(thing.picture).rgb
        mask = image_mask(thing.mask, picture.shape[:2])
        options = SimulatedOptions(scene=CompositeOptions(max_points=self._config.num_points))
        return move_picture(thing.name, picture, mask, self._config, options, rng)
