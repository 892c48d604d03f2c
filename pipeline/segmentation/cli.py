"""``python -m pipeline segment`` and ``fetch-models``: masks without a browser. Importing this loads nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import say, show_progress
from ..errors import UserError
from ..types import Array, Click, Clip, Progress, Prompt
from ..videoanydoor.folders import DEFAULT_FOLDER
from .options import add_segmenter_options, read_segmenter_options
from .weights import SAM2_MODELS, fetch_weights

if TYPE_CHECKING:
    from ..media import FrameStore
    from . import Segmenter
    from .tracks import MaskTracks, TrackedMask

DIRECTIONS = ("forward", "backward", "both")


def add_commands(subparsers: Any) -> None:
    """Add ``segment`` and ``fetch-models`` to the command line's subparsers; each sets ``command`` to what runs it."""
    command = subparsers.add_parser(
        "segment",
        help="make masks from clicks",
        description="Make the mask of what is clicked on one frame, and carry it through the clip.",
    )
    command.set_defaults(command=_segment)
    command.add_argument("clip", metavar="CLIP", type=Path, help="the video")
    command.add_argument("--frame", type=_frame_index, default=0, metavar="N", help="the frame that is clicked, from 0 (default)")
    command.add_argument(
        "--click",
        type=_click,
        action="append",
        default=[],
        metavar="X,Y[,0]",
        help="a point on the thing, 0 to 1 from the top left; with ,0 a point beside it; may be given several times",
    )
    command.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="a box around the thing, 0 to 1")
    command.add_argument("--propagate", choices=DIRECTIONS, help="carry the mask through the clip; else one frame is written")
    command.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help="a video, .mkv (exact) or .mp4; a picture, .png; or a folder for one PNG a frame",
    )
    command.add_argument("--checkpoints", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help="where fetched models lie")
    command.add_argument("--json", action="store_true", help="print the summary as one line of JSON")
    add_segmenter_options(command)

    sizes = "; ".join(f"{name}: {each.num_bytes / 1e6:.0f} MB, {each.remark}" for name, each in SAM2_MODELS.items())
    fetch = subparsers.add_parser(
        "fetch-models", help="download SAM 2.1", description=f"Download SAM 2.1's weights, for better masks. {sizes}."
    )
    fetch.set_defaults(command=_fetch_models)
    fetch.add_argument("names", metavar="MODEL", nargs="*", help=f"which ones (default: {next(iter(SAM2_MODELS))})")
    fetch.add_argument("--checkpoints", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help="the folder to put them in")


def _fetch_models(options: argparse.Namespace) -> None:
    names = options.names or [next(iter(SAM2_MODELS))]
    unknown = [name for name in names if name not in SAM2_MODELS]
    if unknown:
        raise UserError(f"There is no model {unknown[0]!r} to fetch; choose one of {', '.join(SAM2_MODELS)}.")
    for name in names:
        say(f"fetching {name}, {SAM2_MODELS[name].num_bytes / 1e6:.0f} MB …")
        folder = fetch_weights(name, options.checkpoints)
        say(f"{folder.parent.name}/{folder.name}: ready")


# -- segment ----------------------------------------------------------------------------------------------------------------------


def _segment(options: argparse.Namespace) -> None:
    from ..cache import ArtifactCache
    from ..cli import cache_folder
    from ..media import FrameStore, check_complete, probe_clip
    from .choice import SegmenterByName
    from .tracks import MaskTracks, check_prompts

    started_s = time.monotonic()
    if not options.click and options.box is None:
        raise UserError("Say what is meant: give --click X,Y on the thing, or --box X0,Y0,X1,Y1 around it.")
    clip = probe_clip(options.clip)
    check_complete(clip, (0, clip.num_frames))
    prompt = _build_prompt(options.click, options.box, clip)
    check_prompts(clip, {options.frame: prompt})
    _check_output(options.output, options.propagate is not None, options.clip)
    choice = SegmenterByName(read_segmenter_options(options, options.checkpoints))
    segmenter = choice.find()
    if options.segmenter in (None, "auto"):
        say(choice.describe())

    tracks = MaskTracks(segmenter, ArtifactCache(cache_folder()))
    with contextlib.closing(FrameStore(clip)) as frames:
        if tracks.segment(frames, options.frame, prompt).runs is None:
            raise UserError(f"Nothing was found there on frame {options.frame}; click elsewhere on the thing, or give a box.")
        span = _span(options.propagate, options.frame, clip)
        masks = show_progress(_collect(tracks, frames, {options.frame: prompt}, span))
    _write(options.output, clip, masks, options.propagate is not None)
    _report(options, segmenter, masks, time.monotonic() - started_s)


def _collect(
    tracks: MaskTracks, frames: FrameStore, prompts: Mapping[int, Prompt], span: range
) -> Generator[Progress, None, dict[int, TrackedMask]]:
    """The masks of ``span`` by frame, in order."""
    masks: dict[int, TrackedMask] = {}
    with contextlib.closing(tracks.track(frames, prompts, span.start, span.stop)) as found:
        for frame_index, mask in found:
            masks[frame_index] = mask
            yield Progress("segmenting", len(masks), len(span))
    return dict(sorted(masks.items()))


def _span(direction: str | None, frame_index: int, clip: Clip) -> range:
    start = 0 if direction in ("backward", "both") else frame_index
    return range(start, clip.num_frames if direction in ("forward", "both") else frame_index + 1)


def _build_prompt(clicks: Sequence[tuple[float, float, bool]], box: tuple[float, ...] | None, clip: Clip) -> Prompt:
    places = tuple(Click(x * clip.width, y * clip.height, is_foreground) for x, y, is_foreground in clicks)
    if box is None:
        if not any(place.is_foreground for place in places):
            raise UserError("Every click is beside the thing; add --click X,Y on it, or --box X0,Y0,X1,Y1 around it.")
        return Prompt(places)
    x0, y0, x1, y1 = box
    return Prompt(places, (x0 * clip.width, y0 * clip.height, x1 * clip.width, y1 * clip.height))


def _report(options: argparse.Namespace, segmenter: Segmenter, masks: Mapping[int, TrackedMask], seconds: float) -> None:
    from .tracks import list_doubts

    warnings = list_doubts(masks)
    for warning in warnings:
        say(f"note: {warning}")
    say(f"{options.output.name}: {len(masks)} {'frame' if len(masks) == 1 else 'frames'} in {seconds:.1f} s")
    if options.json:
        document = {
            "output": str(options.output),
            "frames": len(masks),
            "seconds": round(seconds, 3),
            "segmenter": segmenter.name,
            "warnings": warnings,
        }
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()


# -- files ------------------------------------------------------------------------------------------------------------------------


def _check_output(path: Path, is_propagated: bool, clip_path: Path) -> None:
    """What cannot be written is said before the work, not after it."""
    from ..render import check_replaceable

    suffix = path.suffix.lower()
    if suffix == ".png" and is_propagated:
        raise UserError(f"{path.name!r} holds one frame; give a folder, .mkv or .mp4 to propagate.")
    if suffix in (".png", ".mkv", ".mp4"):
        check_replaceable(path, (clip_path,))
        return
    if suffix and not path.is_dir():
        raise UserError(f"{path.name!r} cannot hold masks; end it in .mkv, .mp4 or .png, or give a folder.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"The folder of {path.name!r} does not exist; create it or choose another one.")
    with _disk_faults(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path.name!r} exists already; give a new folder, or an empty one.")


def _write(path: Path, clip: Clip, masks: Mapping[int, TrackedMask], is_propagated: bool) -> None:
    """Whole or not at all. A propagated video has every frame of the clip, black where nothing was asked for, so that a project
    can take it as a mask."""
    from ..mask_files import write_mask_file

    suffix = path.suffix.lower()
    if suffix in (".mkv", ".mp4"):
        span = range(clip.num_frames) if is_propagated else range(min(masks), max(masks) + 1)
        write_mask_file(path, clip, (span.start, span.stop), (_decode(masks.get(index), clip) for index in span))
    elif suffix == ".png":
        (mask,) = masks.values()
        _write_whole(path, lambda unfinished: unfinished.write_bytes(_png(_decode(mask, clip))))
    else:
        pictures = ((f"mask-{index:05d}.png", _decode(mask, clip)) for index, mask in masks.items())
        _write_whole(path, lambda unfinished: _write_pictures(unfinished, pictures))


def _write_pictures(folder: Path, pictures: Iterable[tuple[str, Array]]) -> None:
    folder.mkdir()
    for name, mask in pictures:
        (folder / name).write_bytes(_png(mask))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a hidden neighbour of ``path``, file or folder, which then takes its name."""
    unfinished = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}.part")
    try:
        with _disk_faults(path):
            write(unfinished)
            unfinished.replace(path)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path.name!r} cannot be written: {os.strerror(error.errno or 0)}; choose another place.") from error


def _png(mask: Array) -> bytes:
    from ..mask_files import encode_png

    return encode_png(mask)


def _decode(found: TrackedMask | None, clip: Clip) -> Array:
    import numpy as np

    from ..masks import decode_rle

    return np.zeros(clip.hw, bool) if found is None or found.runs is None else decode_rle(found.runs, clip.hw)


# -- arguments --------------------------------------------------------------------------------------------------------------------


def _frame_index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a frame number, 0 or more")
    return int(text)


def _click(text: str) -> tuple[float, float, bool]:
    values = _numbers(text)
    if values is None or len(values) not in (2, 3) or (len(values) == 3 and values[2] not in (0, 1)):
        raise argparse.ArgumentTypeError("must be X,Y or X,Y,0 with X and Y from 0 to 1")
    return values[0], values[1], len(values) == 2 or values[2] == 1


def _box(text: str) -> tuple[float, ...]:
    values = _numbers(text)
    if values is None or len(values) != 4 or not (values[0] < values[2] and values[1] < values[3]):
        raise argparse.ArgumentTypeError("must be X0,Y0,X1,Y1 from 0 to 1, the top left corner first")
    return tuple(values)


def _numbers(text: str) -> list[float] | None:
    """Numbers from 0 to 1, separated by commas; None if it is anything else."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return values if all(0 <= value <= 1 for value in values) else None
