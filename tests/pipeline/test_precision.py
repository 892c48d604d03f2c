"""Where the pixels really land: fiducial dots measured on the luma of the lossless file, against the trajectories asked for.

References are white cards with black dots; every blend option is off; frames are read back with PyAV alone.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.composite import CompositeEngine
from pipeline.project import build_request, parse_project
from pipeline.render import render

NUM_FRAMES, WIDTH, HEIGHT = 25, 480, 360
CARD_HW = (300, 400)
DOTS = {"a": (80, 70), "b": (320, 70), "c": (320, 230), "d": (80, 230), "e": (200, 150)}
DOT_RADIUS_PX = 12.0
ALL_OFF = {
    "harmonize": 0,
    "shadow": 0,
    "motion_blur": 0,
    "grain": 0,
    "feather_px": 0,
    "opacity": 1,
}


def write_card(path: Path, dots: dict[str, tuple[float, float]]) -> None:
    """A white card with anti-aliased black dots and a transparent rim, so that its own alpha is used."""
    from PIL import Image

    size = 8
    y, x = (np.mgrid[: CARD_HW[0] * size, : CARD_HW[1] * size] + 0.5) / size
    dark = np.zeros(x.shape, bool)
    for dot_x, dot_y in dots.values():
        dark |= (x - dot_x) ** 2 + (y - dot_y) ** 2 < DOT_RADIUS_PX**2
    share = dark.reshape(CARD_HW[0], size, CARD_HW[1], size).mean(axis=(1, 3))
    grey = np.round(255 * (1 - share)).astype(np.uint8)
    alpha = np.full(CARD_HW, 255, np.uint8)
    alpha[:3], alpha[-3:], alpha[:, :3], alpha[:, -3:] = 0, 0, 0, 0
    Image.fromarray(np.stack([grey, grey, grey, alpha], axis=2)).save(path)


def write_grey_clip(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(NUM_FRAMES):
            grey = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            grey[:HEIGHT] = 110 + (np.arange(WIDTH) // 16 + index) % 20
            frame = av.VideoFrame.from_ndarray(grey, format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def luma_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.array([frame.to_ndarray()[: frame.height] for frame in container.decode(video=0)])


def find_dot(luma: np.ndarray, near: np.ndarray, radius_px: float) -> np.ndarray:
    """The dot's centre: the centroid of darkness within a disc that follows it."""
    y, x = np.mgrid[: luma.shape[0], : luma.shape[1]] + 0.5
    darkness = np.clip(235.0 - luma, 0, None)
    centre = np.asarray(near, float)
    for _ in range(8):
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius_px**2
        weight = darkness * inside
        centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    return centre


def similarity_paths(names: str, turn_deg: float, growth: float) -> dict[str, dict[int, tuple[float, float]]]:
    """Nodes on every frame of a card that turns and grows about the picture's middle."""
    paths: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in names}
    for frame in range(NUM_FRAMES):
        share = frame / (NUM_FRAMES - 1)
        linear = 0.45 * growth**share * np.exp(1j * np.deg2rad(turn_deg * share))
        for name in names:
            z = linear * complex(DOTS[name][0] - 200, DOTS[name][1] - 150) + complex(WIDTH / 2 + 20 * share, HEIGHT / 2)
            paths[name][frame] = (z.real / WIDTH, z.imag / HEIGHT)
    return paths


WANDERING = {
    "a": {0: (0.30, 0.35), 12: (0.36, 0.25), 24: (0.28, 0.40)},
    "b": {0: (0.65, 0.32), 12: (0.72, 0.38), 24: (0.62, 0.30)},
    "c": {0: (0.66, 0.70), 12: (0.64, 0.78), 24: (0.70, 0.66)},
    "d": {0: (0.31, 0.68), 12: (0.27, 0.75), 24: (0.34, 0.71)},
    "e": {0: (0.48, 0.52), 12: (0.52, 0.50), 24: (0.46, 0.55)},
}
BOX = {"0": {"box": [0.2, 0.15, 0.7, 0.75]}, "24": {"box": [0.3, 0.25, 0.8, 0.9], "rotation_deg": 12}}

CASES = {
    "one point": ({"a": WANDERING["a"]}, BOX, "auto", 0.5),
    "two points": ({name: WANDERING[name] for name in "ac"}, BOX, "auto", 0.5),
    "two points without boxes": ({name: WANDERING[name] for name in "ac"}, None, "auto", 0.5),
    "perspective": ({name: WANDERING[name] for name in "abcd"}, BOX, "perspective", 0.5),
    "three points": ({name: WANDERING[name] for name in "abd"}, BOX, "auto", 1.0),
    "five points": (WANDERING, BOX, "auto", 1.0),
    "five points without boxes": (WANDERING, None, "auto", 1.0),
    "a doubling of size": (similarity_paths("abcd", 0, 2), BOX, "auto", 1.0),
    "a strong turn": (similarity_paths("abcd", 170, 1), None, "auto", 1.0),
}


def make_project(paths: dict, boxes: dict | None, deform: str) -> dict:
    layer: dict = {
        "name": "card",
        "kind": "insert",
        "references": [{"path": "card.png", "points": {n: [DOTS[n][0] / CARD_HW[1], DOTS[n][1] / CARD_HW[0]] for n in paths}}],
        "deform": deform,
        "trajectories": [{"point": name, "keys": {str(f): list(xy) for f, xy in keys.items()}} for name, keys in paths.items()],
        "blend": ALL_OFF,
    }
    if boxes is not None:
        layer["boxes"] = boxes
    return {"version": 1, "clip": {"path": "clip.mp4"}, "layers": [layer]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precision")
    write_grey_clip(path / "clip.mp4")
    return path


def render_to(folder: Path, document: dict, name: str):
    request, _ = build_request(parse_project(document), folder)
    for _ in render(request, CompositeEngine(), folder / name, lossless=True):
        pass
    return request, luma_frames(folder / name)


@pytest.mark.parametrize("case", CASES)
def test_every_dot_is_on_its_trajectory(folder, case):
    paths, boxes, deform, bound_px = CASES[case]
    write_card(folder / "card.png", {name: DOTS[name] for name in paths})
    request, luma = render_to(folder, make_project(paths, boxes, deform), f"{case}.mkv")
    assert len(luma) == NUM_FRAMES
    goals = request.layers[0].trajectories.points_px
    errors = [
        np.linalg.norm(find_dot(luma[frame], goals[index, frame], 1.7 * DOT_RADIUS_PX) - goals[index, frame])
        for index in range(len(goals))
        for frame in range(NUM_FRAMES)
    ]
    assert max(errors) <= bound_px, f"{case}: {max(errors):.2f} px"


@pytest.mark.parametrize(("fit", "anchor"), [("contain", "center"), ("contain", "bottom"), ("stretch", "center")])
def test_boxes_are_analytic(folder, fit, anchor):
    """The card's own extent, read off the file at half cover, is the box's fit at every frame."""
    write_card(folder / "card.png", {})
    document = make_project({}, {"0": {"box": [0.1, 0.2, 0.4, 0.8]}, "24": {"box": [0.5, 0.1, 0.9, 0.5]}}, "auto")
    document["layers"][0] |= {"fit": fit, "anchor": anchor}
    _, luma = render_to(folder, document, f"box {fit} {anchor}.mkv")
    tight_w, tight_h = CARD_HW[1] - 6, CARD_HW[0] - 6
    for frame in range(0, NUM_FRAMES, 4):
        share = frame / 24
        start, end = np.array([0.1, 0.2, 0.4, 0.8]), np.array([0.5, 0.1, 0.9, 0.5])
        centre = ((start[:2] + start[2:]) * (1 - share) + (end[:2] + end[2:]) * share) / 2
        size = (start[2:] - start[:2]) ** (1 - share) * (end[2:] - end[:2]) ** share
        centre, size = centre * [WIDTH, HEIGHT], size * [WIDTH, HEIGHT]
        bottom = centre[1] + size[1] / 2
        if fit == "contain":
            size = np.array([tight_w, tight_h]) * (size / [tight_w, tight_h]).min()
        top = bottom - size[1] if anchor == "bottom" else centre[1] - size[1] / 2
        expected = np.array([centre[0] - size[0] / 2, top, centre[0] + size[0] / 2, top + size[1]])
        cover = np.clip((luma[frame].astype(float) - 130) / (235 - 130), 0, 1)
        middle_row, middle_column = cover[round(top + size[1] / 2)], cover[:, round(centre[0])]
        lengths = np.array([middle_row.sum(), middle_column.sum()])
        middles = (
            np.array([(middle_row * (np.arange(WIDTH) + 0.5)).sum(), (middle_column * (np.arange(HEIGHT) + 0.5)).sum()]) / lengths
        )
        measured = np.concatenate([middles - lengths / 2, middles + lengths / 2])
        assert np.abs(measured - expected).max() <= 0.5, f"frame {frame}: {measured} for {expected}"


def test_nothing_pops_on_screen_when_a_point_becomes_invisible(folder):
    """The dots that stay move no faster in the frames after the loss than the fade allows."""
    paths = {name: WANDERING[name] for name in "abcd"}
    write_card(folder / "card.png", {name: DOTS[name] for name in paths})
    document = make_project(paths, BOX, "auto")
    document["layers"][0]["trajectories"][1]["visible"] = [[0, 10]]
    request, luma = render_to(folder, document, "pop.mkv")
    lost = [find_dot(luma[9], request.layers[0].trajectories.points_px[1, 9], 1.7 * DOT_RADIUS_PX)]
    for frame in range(10, NUM_FRAMES):
        lost.append(find_dot(luma[frame], lost[-1], 1.7 * DOT_RADIUS_PX))
    steps = np.linalg.norm(np.diff(lost, axis=0), axis=1)
    assert steps.max() < 8, f"the lost dot jumps by {steps.max():.1f} px"
