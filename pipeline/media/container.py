"""Opening files that a stranger made: known containers, local files only, a ceiling on the picture's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"
"""FFmpeg's names of the containers that are read; playlists, image sequences, concatenations and devices are not among them."""

FORMAT_WORDS = "MP4, MOV, MKV, WebM, AVI or GIF"


def open_input(path: Path, max_pixels: int) -> Any:
    """An ``av`` input container. Raises ``UserError`` when the file is none of ``FORMATS`` or cannot be opened."""
    import av

    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(max_pixels)}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace", timeout=(20, 20))
    except FileNotFoundError:
        raise UserError(f"{path.name} does not exist; check the path.") from None
    except PermissionError:
        raise UserError(f"{path.name} may not be read; check its permissions.") from None
    except (av.FFmpegError, MemoryError, ValueError, OSError):
        raise UserError(
            f"{path.name} is not a video that can be read: it is damaged, cut off before its index, or not {FORMAT_WORDS}."
        ) from None
    for stream in container.streams.video:
        stream.codec_context.options = {"max_pixels": str(max_pixels)}
    return container


def choose_video(container: Any, name: str) -> Any:
    """The video stream that a player shows; cover pictures of songs are none. Raises ``UserError`` if there is no such stream."""
    from av.stream import Disposition

    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not moving:
        what = "only sound" if container.streams.audio else "no video stream"
        raise UserError(f"{name} has {what}; choose a file with a picture.")
    best = container.streams.best("video")
    return next((stream for stream in moving if best is not None and stream.index == best.index), moving[0])
