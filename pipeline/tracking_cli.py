"""``python -m pipeline track``: points of one frame followed through the clip, as CSV. Importing this loads nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .console import say, show_progress
from .errors import UserError
from .types import Clip, Progress

if TYPE_CHECKING:
    from .media import FrameStore
    from .tracking import PointTracks

Point = tuple[float, float]
COLUMNS = ("frame", "point", "x", "y", "visible")


def add_commands(subparsers: Any) -> None:
    """Add ``track`` to the command line's subparsers; it sets ``command`` to what runs it."""
    command = subparsers.add_parser(
        "track", help="follow points through a clip", description="Follow points of one frame through the whole clip."
    )
    command.set_defaults(command=_track)
    command.add_argument("clip", metavar="CLIP", type=Path, help="the video")
    command.add_argument("--frame", type=_frame_index, default=0, metavar="N", help="the frame of the points, from 0 (default)")
    command.add_argument(
        "--point",
        type=_point,
        action="append",
        required=True,
        metavar="X,Y",
        help="a point to follow, 0 to 1 from the top left; may be given several times",
    )
    command.add_argument(
        "-o", "--output", metavar="TRACKS.csv", type=Path, required=True, help="one line for every frame and point, in 0 to 1"
    )


def _track(options: argparse.Namespace) -> None:
    from .media import FrameStore, check_complete, probe_clip
    from .render import check_replaceable

    if options.output.suffix.lower() != ".csv":
        raise UserError(f"The tracks must end in .csv, and {options.output.name!r} does not; rename it.")
    clip = probe_clip(options.clip)
    check_complete(clip, (0, clip.num_frames))
    if options.frame >= clip.num_frames:
        raise UserError(f"{options.clip.name} has {clip.num_frames} frames, 0 to {clip.num_frames - 1}; choose one of them.")
    check_replaceable(options.output, (options.clip,))
    with contextlib.closing(FrameStore(clip)) as frames:
        tracks = show_progress(_follow(frames, options.frame, options.point))
    with _unfinished(options.output) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        write_tracks(file, tracks, clip)
    unseen = [index for index, seen in enumerate(tracks.is_visible) if not seen.all()]
    for index in unseen:
        count = int((~tracks.is_visible[index]).sum())
        say(f"note: point {index} is out of sight in {count} of {clip.num_frames} frames.")
    say(f"{options.output.name}: {len(options.point)} points, {clip.num_frames} frames")


def _follow(frames: FrameStore, frame_index: int, points: list[Point]) -> Generator[Progress, None, PointTracks]:
    """The tracks; progress comes between the two directions and the frames of each."""
    import numpy as np

    from .tracking import walk_points

    sides = np.array([frames.clip.width, frames.clip.height], np.float64)
    walk = walk_points(frames, frame_index, np.array(points) * sides, 0, frames.clip.num_frames)
    return (yield from walk)


def write_tracks(file: TextIO, tracks: PointTracks, clip: Clip) -> None:
    """One line for every frame and point: ``frame,point,x,y,visible``, places in 0..1 of the picture."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for frame_index in range(clip.num_frames):
        for index, (path, seen) in enumerate(zip(tracks.points_px, tracks.is_visible, strict=True)):
            x, y = path[frame_index].tolist()
            writer.writerow([frame_index, index, f"{x / clip.width:.6f}", f"{y / clip.height:.6f}", int(seen[frame_index])])


@contextlib.contextmanager
def _unfinished(path: Path) -> Generator[Path, None, None]:
    """A hidden neighbour of ``path`` to write into; it takes the name of ``path`` when all went well, and is gone else."""
    unfinished = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path.name!r} cannot be written: {os.strerror(error.errno or 0)}; choose another place.") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _frame_index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a frame number, 0 or more")
    return int(text)


def _point(text: str) -> Point:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise argparse.ArgumentTypeError("must be X,Y with both from 0 to 1")
    return x, y
