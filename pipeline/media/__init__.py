"""Video files in and out: the checked handle, frames by reading, frames by writing. PyAV, numpy; nothing heavy at import."""

from .probe import MediaLimits, check_complete, file_sha256, probe_clip, read_metadata
from .reader import FrameStore, read_frames
from .writer import LayerWriter, VideoWriter

__all__ = [
    "FrameStore",
    "LayerWriter",
    "MediaLimits",
    "VideoWriter",
    "check_complete",
    "file_sha256",
    "probe_clip",
    "read_frames",
    "read_metadata",
]
