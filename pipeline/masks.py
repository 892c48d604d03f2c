"""Masks over time: run-length coding, mask files, growing and feathering.

A mask is ``bool[H,W]``; at rest it is run-length encoded in COCO's order: column by column, the first run is background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import UserError
from .types import Array, Clip, MaskTrack

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""A mask with one of these names is a picture that holds for every frame; any other is a video."""

MASK_THRESHOLD = 128
"""Luma (0-255) from which a pixel of a mask file belongs to the mask."""

MAX_GROW_PX = 500
MAX_FEATHER_PX = 200

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".ogv", ".m4v")
MASK_SUFFIXES = (".mkv", ".mp4", ".png")
"""Endings of videos, and of the masks ``NAME.mask.…`` that may lie beside them."""

_CHARS_PER_COUNT = 7


def encode_rle(mask: Array) -> Array:
    """Run lengths u32[N] of ``mask`` bool[H,W], column by column, background first (a run of 0 when the first pixel is set)."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size])))
    if flat.size and flat[0]:
        runs = np.concatenate(([0], runs))
    return runs.astype(np.uint32)


def decode_rle(runs: Array, hw: tuple[int, int]) -> Array:
    """The mask bool[H,W] of ``runs``. Raises ``ValueError`` when they do not fill the picture exactly."""
    height, width = hw
    if int(runs.sum(dtype=np.uint64)) != height * width:
        raise ValueError(f"run lengths must add up to {height}x{width} pixels, got {int(runs.sum(dtype=np.uint64))}")
    is_set = (np.arange(len(runs)) & 1).astype(bool)
    return np.ascontiguousarray(np.repeat(is_set, runs.astype(np.int64)).reshape(width, height).T)


def encode_coco_counts(runs: Array) -> str:
    """COCO's compressed ``counts`` string of ``runs``: differences to the run two before, five bits a character."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2].astype(np.int64)
    chars = np.zeros((len(values), _CHARS_PER_COUNT), np.uint8)
    used = np.zeros_like(chars, dtype=bool)
    is_open = np.ones(len(values), bool)
    for place in range(_CHARS_PER_COUNT):
        digit, values = values & 0x1F, values >> 5
        ends = np.where(digit & 0x10, values == -1, values == 0)
        chars[:, place] = digit + np.where(ends, 0, 0x20) + 48
        used[:, place] = is_open
        is_open &= ~ends
    return chars[used].tobytes().decode("ascii")


def decode_coco_counts(counts: str) -> Array:
    """Run lengths u32[N] of a COCO ``counts`` string. Raises ``ValueError`` when it is not one."""
    digits = np.frombuffer(counts.encode("utf-8", errors="replace"), np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63:
        raise ValueError("counts holds a character that COCO's run-length code does not use")
    ends = np.flatnonzero(digits < 0x20)
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("counts stops in the middle of a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _CHARS_PER_COUNT:
        raise ValueError("counts holds a number that no picture needs")
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 0x1F) << (5 * place), starts)
    values -= np.where(digits[ends] & 0x10, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0 or values.max() >= 1 << 32:
        raise ValueError("counts holds a negative or impossible run")
    return values.astype(np.uint32)


def coco_mask(runs: Array, hw: tuple[int, int]) -> dict[str, object]:
    """``runs`` as the object that the project file's ``edits`` hold: ``{"size": [h, w], "counts": "..."}``."""
    return {"size": [hw[0], hw[1]], "counts": encode_coco_counts(runs)}


def parse_coco_mask(document: object, hw: tuple[int, int]) -> Array:
    """Checked run lengths u32[N] of such an object, for pictures of size ``hw``; ``counts`` may also be a list of run lengths.

    Raises ``ValueError`` with what is wrong.
    """
    if not isinstance(document, Mapping) or set(document) != {"size", "counts"}:
        raise ValueError('a mask must be {"size": [height, width], "counts": "..."}')
    size, counts = document["size"], document["counts"]
    if not isinstance(size, list | tuple) or list(size) != list(hw):
        raise ValueError(f"size must be [{hw[0]}, {hw[1]}], the picture's height and width")
    num_pixels = hw[0] * hw[1]
    if isinstance(counts, str) and len(counts) <= _CHARS_PER_COUNT * (num_pixels + 1):
        runs = decode_coco_counts(counts)
    elif isinstance(counts, list | tuple) and all(type(run) is int and 0 <= run <= num_pixels for run in counts):
        runs = np.array(counts, np.uint32)
    else:
        raise ValueError("counts must be run lengths: COCO's compressed string, or a list of whole numbers")
    total = int(runs.sum(dtype=np.uint64))
    if total != num_pixels:
        raise ValueError(f"counts must add up to {num_pixels} pixels, not {total}")
    return runs


def read_mask_track(
    path: Path | None,
    clip: Clip,
    grow_px: float = 0.0,
    feather_px: float = 0.0,
    edits: Mapping[int, object] | None = None,
) -> MaskTrack:
    """The mask of every frame of ``clip`` from a file: a picture (holds for all frames) or a video with as many frames.

    ``edits`` (frame -> COCO mask) replace the file's masks; then all are grown by ``grow_px`` (a disk; negative shrinks) and
    marked to be feathered by ``feather_px`` (``mask_alpha``). Without a ``path`` there are the edits alone. A file of another
    size but the same shape is resized, nearest neighbour. Raises ``UserError`` for anything that does not fit the clip.
    """
    if not (abs(grow_px) <= MAX_GROW_PX and 0 <= feather_px <= MAX_FEATHER_PX):
        raise UserError(f"A mask can grow by at most {MAX_GROW_PX} and be feathered by at most {MAX_FEATHER_PX} pixels.")
    edited = _parse_edits(edits or {}, clip)
    runs: list[Array | None] = []
    held: tuple[Array, Array | None] | None = None
    for frame_index, mask in enumerate(_file_masks(path, clip)):
        if frame_index in edited:
            runs.append(_encode_grown(decode_rle(edited[frame_index], clip.hw), grow_px))
            continue
        if held is None or held[0] is not mask:
            held = (mask, _encode_grown(mask, grow_px))
        runs.append(held[1])
    return MaskTrack(hw=clip.hw, runs=tuple(runs), feather_px=float(feather_px))


@dataclass(frozen=True, slots=True)
class MaskedVideo:
    """A video and the mask of one thing in it."""

    video: Path
    mask: Path


def find_masked_videos(folder: Path) -> list[MaskedVideo]:
    """Every video of a folder that has a mask beside it. Raises ``UserError`` when there is none."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.suffix.lower() not in VIDEO_SUFFIXES or path.stem.endswith(".mask") or not path.is_file():
            continue
        for suffix in MASK_SUFFIXES:
            mask = path.with_name(f"{path.stem}.mask{suffix}")
            if mask.is_file():
                found.append(MaskedVideo(path, mask))
                break
    if not found:
        raise UserError(f"No video in {folder.name!r} has a mask beside it (NAME.mask.mkv); make one with the segment command.")
    return found


def mask_at(track: MaskTrack, frame_index: int) -> Array:
    """The mask bool[H,W] of one frame, empty where there is none."""
    runs = track.runs[frame_index]
    return np.zeros(track.hw, np.bool_) if runs is None else decode_rle(runs, track.hw)


def mask_areas(track: MaskTrack) -> Array:
    """Pixels i64[T] of every frame's mask."""
    return np.array([0 if runs is None else int(runs[1::2].sum(dtype=np.uint64)) for runs in track.runs], np.int64)


def mask_bounds(track: MaskTrack, start: int = 0, stop: int | None = None) -> tuple[Array, Array]:
    """Tightest boxes f64[n,4] of the masks of the frames ``start`` to ``stop`` (all of them), 0 where there is none; and where
    there is one, bool[n]."""
    stop = len(track) if stop is None else stop
    bounds, is_present = np.zeros((stop - start, 4)), np.zeros(stop - start, np.bool_)
    for row, frame_index in enumerate(range(start, stop)):
        mask = mask_at(track, frame_index)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            bounds[row] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            is_present[row] = True
    return bounds, is_present


def lie_on_mask(track: MaskTrack, frame_index: int, points: Array) -> Array:
    """Which points f[N,2] (x, y in pixels) lie on the mask of a frame, bool[N]."""
    mask = mask_at(track, frame_index)
    cells = np.floor(points).astype(np.int64)
    inside = (cells >= 0).all(axis=1) & (cells[:, 0] < track.hw[1]) & (cells[:, 1] < track.hw[0])
    inside[inside] = mask[cells[inside, 1], cells[inside, 0]]
    return inside


def mask_alpha(track: MaskTrack, frame_index: int) -> Array:
    """The soft mask f32[H,W] in 0..1 of one frame: feathered by a Gaussian of ``track.feather_px`` standard deviation.

    The Gaussian is cut off at two standard deviations: what lies deeper inside the mask stays exactly 1, what lies further
    outside exactly 0. The picture's edges soften nothing.
    """
    runs = track.runs[frame_index]
    alpha = np.zeros(track.hw, np.float32)
    if runs is None:
        return alpha
    mask = decode_rle(runs, track.hw)
    radius = round(2 * track.feather_px)
    if radius == 0:
        return mask.astype(np.float32)
    rows, cols = _window(mask, 2 * radius)
    alpha[rows, cols] = _feather(mask[rows, cols], track.feather_px, radius)
    return alpha


def image_mask(path: Path, hw: tuple[int, int]) -> Array:
    """The mask bool[H,W] that a picture holds, for pictures of size ``hw``: its transparency if it has any, else luma >= 128.

    Resized (nearest neighbour) when its shape is the same but its size is not. Raises ``UserError`` when the shape differs or
    nothing is marked.
    """
    import cv2

    from .images import read_image

    path = Path(path)
    loaded = read_image(path)
    if loaded.alpha is not None:
        mask = loaded.alpha >= 0.5
    else:
        mask = cv2.cvtColor(loaded.rgb, cv2.COLOR_RGB2GRAY) >= MASK_THRESHOLD
    if not mask.any():
        raise UserError(f"The mask {path.name} is empty; paint the area white on black.")
    return _fit(mask, hw, path)


def _file_masks(path: Path | None, clip: Clip) -> Iterator[Array]:
    """One bool[H,W] for every frame of ``clip``; the same array again while the mask holds."""
    if path is None or path.suffix.lower() in IMAGE_SUFFIXES:
        mask = np.zeros(clip.hw, bool) if path is None else image_mask(path, clip.hw)
        for _ in range(clip.num_frames):
            yield mask
    else:
        yield from _video_masks(path, clip)


def _video_masks(path: Path, clip: Clip) -> Iterator[Array]:
    import cv2

    from .media import probe_clip, read_frames

    track = probe_clip(path)
    if track.num_frames != clip.num_frames:
        raise UserError(
            f"The mask video {path.name} has {track.num_frames} frames and the clip {clip.num_frames}; give it one for every frame."
        )
    for frame in read_frames(track):
        yield _fit(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY) >= MASK_THRESHOLD, clip.hw, path)


def _fit(mask: Array, hw: tuple[int, int], path: Path) -> Array:
    """``mask`` at size ``hw``, if it has that shape to within one of its own pixels."""
    import cv2

    (height, width), (want_height, want_width) = mask.shape, hw
    if (height, width) == (want_height, want_width):
        return mask
    pixel = max(want_height / height, want_width / width, 1.0)
    if abs(width * want_height / height - want_width) > pixel:
        raise UserError(
            f"The mask {path.name} is {width}x{height} and belongs on {want_width}x{want_height}; make it the same shape."
        )
    resized = cv2.resize(mask.astype(np.uint8), (want_width, want_height), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(bool)


def _parse_edits(edits: Mapping[int, object], clip: Clip) -> dict[int, Array]:
    parsed = {}
    for frame_index, document in edits.items():
        if not 0 <= frame_index < clip.num_frames:
            raise UserError(f"A mask is edited at frame {frame_index}, but the clip's last frame is {clip.num_frames - 1}.")
        try:
            parsed[frame_index] = parse_coco_mask(document, clip.hw)
        except ValueError as fault:
            raise UserError(f"The mask edited at frame {frame_index} cannot be used: {fault}.") from None
    return parsed


def _encode_grown(mask: Array, grow_px: float) -> Array | None:
    """Run lengths of the grown mask, locked; None when nothing is left."""
    grown = grow_mask(mask, grow_px)
    if not grown.any():
        return None
    runs = encode_rle(grown)
    runs.flags.writeable = False
    return runs


def grow_mask(mask: Array, grow_px: float) -> Array:
    """``mask`` bool[H,W] grown by a disk of radius ``grow_px``, shrunk when that is negative; picture edges shrink nothing."""
    import cv2

    if grow_px == 0 or not mask.any() or mask.all():
        return mask
    outside = ~mask if grow_px > 0 else mask
    distance = cv2.distanceTransform(outside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = distance <= abs(grow_px) + 1e-4
    return near if grow_px > 0 else ~near


def _window(mask: Array, margin_px: int) -> tuple[slice, slice]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin_px), int(rows[-1]) + margin_px + 1),
        slice(max(0, int(cols[0]) - margin_px), int(cols[-1]) + margin_px + 1),
    )


def _feather(mask: Array, sigma_px: float, radius: int) -> Array:
    import cv2

    side = 2 * radius + 1
    soft = cv2.GaussianBlur(mask.astype(np.float32), (side, side), sigma_px, borderType=cv2.BORDER_REPLICATE)
    soft[soft > 1 - 1e-5] = 1
    soft[soft < 1e-5] = 0
    return soft
