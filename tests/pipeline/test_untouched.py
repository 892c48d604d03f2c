"""Nothing else in the video changes: the finished files against the source's own samples, read back with PyAV alone."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.composite import CompositeEngine
from pipeline.project import build_request, parse_project
from pipeline.render import render
from tests import tiny

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
NUM_FRAMES = 8
CORNERS = {"a": (20, 14), "b": (104, 14), "c": (104, 74), "d": (20, 74)}
GOALS = {"a": (0.25, 0.30), "b": (0.60, 0.20), "c": (0.66, 0.75), "d": (0.22, 0.62)}
PLAIN = {"harmonize": 0, "shadow": 0, "motion_blur": 0, "grain": 0, "feather_px": 0, "opacity": 1}
SOURCES = {
    "8-bit 4:2:0": {"hw": (120, 180)},
    "10-bit": {"hw": (120, 180), "pixel_format": "yuv420p10le", "codec": "libx265"},
    "odd size": {"hw": (121, 181), "pixel_format": "yuv444p"},
    "odd size 4:2:0": {"hw": (121, 181), "codec": "ffv1"},
}


def write_reference(path: Path) -> np.ndarray:
    """An elliptic cut-out with a soft rim in a 124 x 88 picture; returns its alpha f32."""
    from PIL import Image

    y, x = np.mgrid[:88, :124] + 0.5
    alpha = np.clip((1 - np.hypot((x - 62) / 56, (y - 44) / 40)) * 30, 0, 1)
    colour = np.stack([220 - x, 60 + y * 2, 90 + x], axis=2)
    Image.fromarray(np.dstack([colour, np.round(alpha * 255)]).astype(np.uint8), "RGBA").save(path)
    return np.round(alpha * 255) / 255


def planes_of(path: Path) -> list[list[np.ndarray]]:
    with av.open(str(path)) as container:
        return [[read_plane(plane, frame) for plane in frame.planes] for frame in container.decode(video=0)]


def read_plane(plane, frame) -> np.ndarray:
    depth = 16 if frame.format.components[0].bits > 8 else 8
    samples = np.frombuffer(plane, np.uint16 if depth == 16 else np.uint8).reshape(plane.height, -1)
    return samples[:, : plane.width].astype(np.int32)


def make_project(clip: Path, case: str, blend: dict, deform: str = "perspective") -> dict:
    points = {name: [x / 124, y / 88] for name, (x, y) in CORNERS.items()}
    layer: dict = {"name": "ellipse", "kind": "insert", "references": [{"path": "reference.png", "points": points}], "blend": blend}
    if case == "trajectories":
        layer |= {"deform": deform, "trajectories": [{"point": name, "keys": {"0": list(goal)}} for name, goal in GOALS.items()]}
    else:
        layer |= {"boxes": {"0": {"box": [-0.1, 0.2, 0.4, 0.8]}, "7": {"box": [0.5, 0.3, 0.9, 0.9], "rotation_deg": 25}}}
    return {"version": 1, "clip": {"path": clip.name}, "layers": [layer]}


def run(folder: Path, document: dict, out: str, **options):
    request, _ = build_request(parse_project(document), folder)
    for _ in render(request, CompositeEngine(), folder / out, **options):
        pass
    return request


def analytic_touch(alpha: np.ndarray, to_clip: np.ndarray, hw: tuple[int, int], grow_px: int) -> np.ndarray:
    """Where the reference's alpha, pushed forward sample by sample through ``to_clip``, can show; grown by ``grow_px``."""
    from scipy.ndimage import binary_dilation

    touch = np.zeros(hw, bool)
    fine = 8
    y, x = np.mgrid[: alpha.shape[0] * fine, : alpha.shape[1] * fine]
    solid = alpha[y // fine, x // fine] > 0
    points = np.stack([(x[solid] + 0.5) / fine, (y[solid] + 0.5) / fine, np.ones(solid.sum())])
    landed = to_clip @ points
    columns, rows = (np.floor(landed[:2] / landed[2])).astype(int)
    inside = (columns >= 0) & (columns < hw[1]) & (rows >= 0) & (rows < hw[0])
    touch[rows[inside], columns[inside]] = True
    disc = np.hypot(*np.mgrid[-grow_px : grow_px + 1, -grow_px : grow_px + 1]) <= grow_px + 0.5
    return binary_dilation(touch, disc)


def homography(source, target) -> np.ndarray:
    """Direct linear transform, independent of the code under test."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, -u], [0, 0, 0, x, y, 1, -v * x, -v * y, -v]]
    return np.linalg.svd(np.array(rows, float))[2][-1].reshape(3, 3)


def box_map(alpha: np.ndarray, frame: int, hw: tuple[int, int]) -> np.ndarray:
    """The documented placement of the two keyed boxes, written out."""
    solid = alpha >= 0.5
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    share = frame / 7
    first, last = np.array([-0.1, 0.2, 0.4, 0.8]), np.array([0.5, 0.3, 0.9, 0.9])
    size = np.exp(np.log(first[2:] - first[:2]) * (1 - share) + np.log(last[2:] - last[:2]) * share) * [hw[1], hw[0]]
    centre = ((first[:2] + first[2:]) * (1 - share) + (last[:2] + last[2:]) * share) / 2 * [hw[1], hw[0]]
    scale, angle = (size / (tight[2:] - tight[:2])).min(), np.deg2rad(25 * share)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = centre - turn @ ((tight[:2] + tight[2:]) / 2)
    return np.vstack([np.column_stack([turn, offset]), [0, 0, 1]])


def grow_to_chroma(touch: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """The chroma samples that cover any touched pixel."""
    if plane.shape == touch.shape:
        return touch
    padded = np.zeros((plane.shape[0] * 2, plane.shape[1] * 2), bool)
    padded[: touch.shape[0], : touch.shape[1]] = touch
    return padded.reshape(plane.shape[0], 2, plane.shape[1], 2).any(axis=(1, 3))


@pytest.mark.parametrize("case", ["boxes", "trajectories"])
@pytest.mark.parametrize("source", SOURCES)
def test_lossless_equals_the_source_outside_an_independent_warp(tmp_path, source, case):
    suffix = "clip.mkv"
    clip = tiny.make_clip(tmp_path / suffix, num_frames=NUM_FRAMES, **SOURCES[source])
    alpha = write_reference(tmp_path / "reference.png")
    run(tmp_path, make_project(clip, case, PLAIN), "out.mkv", lossless=True)
    hw = SOURCES[source]["hw"]
    changed = 0
    for frame, (before, after) in enumerate(zip(planes_of(clip), planes_of(tmp_path / "out.mkv"), strict=True)):
        if case == "boxes":
            to_clip = box_map(alpha, frame, hw)
        else:
            to_clip = homography(CORNERS.values(), [(x * hw[1], y * hw[0]) for x, y in GOALS.values()])
        touch = analytic_touch(alpha, to_clip, hw, grow_px=2)
        for source_plane, result_plane in zip(before, after, strict=True):
            differs = source_plane != result_plane
            assert not (differs & ~grow_to_chroma(touch, source_plane)).any(), f"frame {frame}"
            changed += differs.sum()
    assert changed > 1000, "the object must have been put in at all"


def test_shadow_and_feather_stay_within_the_documented_bound(tmp_path):
    clip = tiny.make_clip(tmp_path / "clip.mkv", num_frames=NUM_FRAMES, hw=(240, 360))
    alpha = write_reference(tmp_path / "reference.png")
    blend = PLAIN | {"shadow": 0.8, "shadow_length": 0.5, "shadow_angle_deg": 60, "shadow_softness": 0.5, "feather_px": 2}
    document = make_project(clip, "boxes", blend)
    run(tmp_path, document, "out.mkv", lossless=True)
    hw = (240, 360)
    for frame, (before, after) in enumerate(zip(planes_of(clip), planes_of(tmp_path / "out.mkv"), strict=True)):
        touch = analytic_touch(alpha, box_map(alpha, frame, hw), hw, grow_px=0)
        rows, columns = np.flatnonzero(touch.any(axis=1)), np.flatnonzero(touch.any(axis=0))
        size = np.sqrt((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) * 1.6)
        reach = np.ceil(3 * 2) + 2 + size * (0.06 + 0.30 * 0.5) + 24 + 0.5 * (rows[-1] - rows[0] + 1)
        allowed = np.zeros(hw, bool)
        allowed[
            max(0, int(rows[0] - reach)) : int(rows[-1] + reach) + 1, max(0, int(columns[0] - reach)) : int(columns[-1] + reach) + 1
        ] = True
        outside = (before[0] != after[0]) & ~allowed
        assert not outside.any(), f"frame {frame}"
        assert (before[0] != after[0]).sum() > touch.sum(), "there must be a shadow to bound"


def encode_again(source: Path, out: Path, num_frames: int) -> None:
    """The source itself, re-encoded at the settings that the result has."""
    with av.open(str(source)) as reader, av.open(str(out), "w") as writer:
        stream = writer.add_stream("libx264", rate=Fraction(24), options={"preset": "medium", "crf": "18"})
        video = reader.streams.video[0]
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for index, frame in enumerate(islice(reader.decode(video=0), num_frames)):
            frame.pict_type, frame.pts, frame.time_base = av.video.frame.PictureType.NONE, index, Fraction(1, 24)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())


def test_the_mp4_is_as_good_there_as_the_source_re_encoded(tmp_path):
    """On real footage: where the lossless result is the source, the mp4 loses what any encoding at these settings loses."""
    count, clip = 48, EXAMPLES / "launch.mp4"
    document = json.loads((EXAMPLES / "launch.json").read_text()) | {"range": [0, count]}
    document["layers"][0]["blend"] = PLAIN
    for name, lossless in (("out.mkv", True), ("out.mp4", False)):
        request, _ = build_request(parse_project(document), EXAMPLES)
        for _ in render(request, CompositeEngine(), tmp_path / name, lossless=lossless):
            pass
    encode_again(clip, tmp_path / "again.mp4", count)
    truth = np.array([planes[0] for planes in planes_of(clip)[:count]])
    outside = truth == np.array([planes[0] for planes in planes_of(tmp_path / "out.mkv")])
    assert outside.mean() > 0.9

    def psnr(path: Path) -> float:
        frames = np.array([planes[0] for planes in planes_of(path)])
        return float(10 * np.log10(255**2 / ((frames - truth)[outside] ** 2).mean()))

    assert psnr(tmp_path / "out.mp4") >= psnr(tmp_path / "again.mp4") - 0.2
