"""How well the segmenter without weights finds and follows things whose masks are known.

    python -m benchmarks.segmentation_quality [--objects DIR] [--clips DIR] [--count 12] [--pictures DIR]
                                              [--truth FILE.json --truth-clip CLIP] [--keep DIR]

Every composite is a photographed cut-out (the PNGs of ``--objects`` with an alpha channel; by default the one of the examples and
pieces of scikit-image's photographs, if that is installed) that travels, turns and grows over footage (``--clips``; by default the
example clips) for 49 frames, encoded as a camera would. One click lies at the thing's most inner point; the box is its tight box;
the correction click lies at the most inner point of the largest part that the click got wrong. Printed per composite and as means:
overlap (intersection over union) on the clicked frame, over 48 following frames, and seconds, as wall and processor time.
``--truth`` adds frames of a real clip whose outlines were drawn by hand: {"frames": {"12": [[x, y], ...]}} in pixels, more than one
outline as a list of lists.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from pipeline import media
from pipeline.errors import UserError
from pipeline.images import read_image
from pipeline.segmentation import Segmenter
from pipeline.segmentation.fallback import FallbackSegmenter
from pipeline.types import Click, Prompt

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
BUNNY = Path(__file__).with_name("bunny_outlines.json")
CLIP_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".ogv"}
CLICKED = 6
"""The frame that is clicked: motion before and after it may be used."""
NUM_TRACKED = 48
NUM_FRAMES = CLICKED + NUM_TRACKED + 1
MAX_HW = (720, 1280)
LOW = 0.6
"""Overlaps below this should come with a confidence below 0.5."""


@dataclass(frozen=True)
class Case:
    """A clip of which the masks of some frames are known, and the frame that is clicked."""

    name: str
    clip: Path
    truth: dict[int, np.ndarray]
    clicked: int


def read_objects(folder: Path | None) -> list[tuple[str, np.ndarray]]:
    """Names and cut-outs u8[h,w,4], cropped to what is opaque."""
    found = []
    if folder is not None:
        paths = sorted(folder.rglob("*.png"))
    else:
        paths = [EXAMPLES / "espresso.png"]
        found += photo_pieces()
    for path in paths:
        picture = read_image(path)
        if picture.alpha is None or not 0.05 < (picture.alpha > 0.5).mean() < 0.95:
            continue
        found.append((path.stem, crop(np.dstack([picture.rgb, np.round(255 * picture.alpha).astype(np.uint8)]))))
    return found


def photo_pieces() -> list[tuple[str, np.ndarray]]:
    """Blobs cut out of scikit-image's photographs: textured things with smooth outlines."""
    try:
        import skimage
    except ImportError:
        return []
    pieces = []
    for number, name in enumerate(("chelsea", "coffee", "astronaut", "color", "gravel")):
        path = Path(skimage.__file__).parent / "data" / f"{name}.png"
        if not path.exists():
            continue
        rgb = read_image(path).rgb
        side = min(rgb.shape[:2]) * 3 // 4
        top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
        y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
        turn = np.arctan2(y, x)
        radius = np.hypot(x, y) / (1 + 0.22 * np.cos((2 + number) * turn + number) + 0.1 * np.sin(5 * turn))
        alpha = np.clip((0.36 - radius) * side / 2, 0, 1)
        pieces.append((f"{name} piece", crop(np.dstack([rgb[top : top + side, left : left + side], np.round(255 * alpha)]))))
    return pieces


def crop(rgba: np.ndarray) -> np.ndarray:
    ys, xs = np.flatnonzero((rgba[..., 3] > 8).any(axis=1)), np.flatnonzero((rgba[..., 3] > 8).any(axis=0))
    return np.ascontiguousarray(rgba[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]).astype(np.uint8)


def read_footage(path: Path, rng: np.random.Generator) -> list[np.ndarray] | None:
    """``NUM_FRAMES`` frames in a row without a cut, at most 1280x720; None if the clip has none."""
    clip = media.probe_clip(path)
    starts = list(range(0, clip.num_frames - NUM_FRAMES + 1, 12))
    for start in rng.permutation(starts)[:6] if starts else ():
        try:
            frames = [shrink(frame.image) for frame in media.read_frames(clip, int(start), int(start) + NUM_FRAMES)]
        except UserError:  # damaged there
            continue
        small = [cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA).astype(float) for frame in frames]
        steps = np.array([np.abs(a - b).mean() for a, b in pairwise(small)])
        if steps.max() < max(12.0, 6 * np.median(steps)) and small[0].std() > 8:
            return frames
    return None


def shrink(image: np.ndarray) -> np.ndarray:
    scale = min(1.0, MAX_HW[0] / image.shape[0], MAX_HW[1] / image.shape[1])
    height, width = (int(side * scale) // 2 * 2 for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def paths_of(rng: np.random.Generator, rgba: np.ndarray, hw: tuple[int, int]) -> list[np.ndarray]:
    """One affine matrix f64[2,3] per frame: a thing that crosses part of the picture, turns and grows a little."""
    height, width = hw
    scale = rng.uniform(0.28, 0.6) * min(height / rgba.shape[0], 0.75 * width / rgba.shape[1])
    half = np.array([rgba.shape[1], rgba.shape[0]]) * scale / 2
    low, high = half * 0.9, np.array([width, height]) - half * 0.9
    start, angle = rng.uniform(low, high), rng.uniform(-12, 12)
    speed = rng.uniform(0.1, 0.35) * width / NUM_FRAMES
    aim = rng.uniform(low, high) - start
    step = aim / (np.hypot(*aim) + 1e-6) * speed
    turn, growth, wave = rng.uniform(-0.5, 0.5), rng.uniform(-0.004, 0.004), rng.uniform(0, 6.3)
    matrices = []
    for index in range(NUM_FRAMES):
        place = np.clip(start + step * index + 0.012 * height * np.sin(wave + index / 7), low * 0.8, [width, height] - low * 0.8)
        radians = np.radians(angle + turn * index)
        size = scale * (1 + growth * index)
        cos, sin = size * np.cos(radians), size * np.sin(radians)
        linear = np.array([[cos, -sin], [sin, cos]])
        matrices.append(np.column_stack([linear, place - linear @ [rgba.shape[1] / 2, rgba.shape[0] / 2]]))
    return matrices


def composite(frame: np.ndarray, rgba: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frame with the cut-out laid over it, and its mask bool[H,W]."""
    height, width = frame.shape[:2]
    size = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    alpha = rgba[..., 3:] / np.float32(255)
    layer = np.dstack([rgba[..., :3] * alpha, alpha]).astype(np.float32)
    if size < 0.8:
        layer = cv2.GaussianBlur(layer, (0, 0), 0.45 / size)
    laid = cv2.warpAffine(layer, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return np.round(laid[..., :3] + frame * (1 - laid[..., 3:])).clip(0, 255).astype(np.uint8), laid[..., 3] > 0.5


def make_composites(folder: Path, objects: Path | None, clips: Path | None, count: int) -> Iterator[Case]:
    """``count`` composites, written to ``folder``; what lies there already is used again."""
    from tests.tiny import make_clip

    things = read_objects(objects)
    footage = sorted(p for p in (clips or EXAMPLES).iterdir() if p.suffix.lower() in CLIP_SUFFIXES)
    order = np.random.default_rng(0).permutation(len(things))
    for number in range(count):
        rng = np.random.default_rng([1, number])
        name, rgba = things[order[number % len(things)]]
        source = footage[number % len(footage)]
        path, masks = folder / f"{number:02d}.mp4", folder / f"{number:02d}.npz"
        if not (path.exists() and masks.exists()):
            frames = read_footage(source, rng)
            if frames is None:
                continue
            matrices = paths_of(rng, rgba, frames[0].shape[:2])
            made = [composite(frame, rgba, matrix) for frame, matrix in zip(frames, matrices, strict=True)]
            pictures = [image for image, _ in made]
            options = {"preset": "veryfast", "crf": "18"}
            hw = pictures[0].shape[:2]
            make_clip(path, num_frames=NUM_FRAMES, hw=hw, fps=25, options=options, images=pictures.__getitem__)
            np.savez_compressed(masks, **{str(index): mask for index, (_, mask) in enumerate(made)})
        with np.load(masks) as kept:
            truth = {int(index): kept[index] for index in kept.files}
        yield Case(f"{name[:22]} over {source.stem[:12]}", path, truth, CLICKED)


def read_truth(path: Path, clip: Path) -> Case:
    """The frames of ``clip`` whose outlines ``path`` holds; the first one is clicked."""
    known = media.probe_clip(clip)
    truth = {}
    for index, outlines in json.loads(path.read_text())["frames"].items():
        rings = outlines if isinstance(outlines[0][0], list) else [outlines]
        mask = np.zeros(known.hw, np.uint8)
        cv2.fillPoly(mask, [np.round(np.array(ring)).astype(np.int32) for ring in rings], 1)
        truth[int(index)] = mask.astype(bool)
    return Case(clip.stem, clip, truth, min(truth))


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def inner_point(mask: np.ndarray) -> tuple[float, float]:
    """The pixel centre that lies deepest inside ``mask`` bool[H,W]."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def correction(found: np.ndarray, truth: np.ndarray) -> Click:
    """A click in the middle of the largest part that is wrong."""
    parts = []
    for wrong, is_foreground in ((truth & ~found, True), (found & ~truth, False)):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=4)
        if len(stats) > 1:
            largest = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1
            parts.append((int(stats[largest, cv2.CC_STAT_AREA]), labels == largest, is_foreground))
    if not parts:
        return Click(*inner_point(truth))
    _, part, is_foreground = max(parts, key=lambda item: item[0])
    return Click(*inner_point(part), is_foreground)


@dataclass
class Row:
    name: str
    click: float
    box: float
    corrected: float
    tracked: float
    last: float
    confidence: list[tuple[float, float]]
    click_s: float
    click_cpu_s: float
    frame_s: float
    frame_cpu_s: float


def measure(segmenter: Segmenter, case: Case, pictures: Path | None = None) -> Row:
    """Every figure of one case."""
    frames = media.FrameStore(media.probe_clip(case.clip))
    truth = case.truth[case.clicked]
    first = Click(*inner_point(truth))
    prompt = Prompt((first,))
    frames.frame(case.clicked)
    wall, cpu = time.perf_counter(), time.process_time()
    by_click = segmenter.segment(frames, case.clicked, prompt)
    click_s, click_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    ys, xs = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    box = (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))
    by_box = segmenter.segment(frames, case.clicked, Prompt((), box))
    by_two = segmenter.segment(frames, case.clicked, Prompt((first, correction(by_click.mask, truth))))
    confidence = [(by_click.confidence, overlap(by_click.mask, truth)), (by_box.confidence, overlap(by_box.mask, truth))]
    overlaps, shown = [], [(case.clicked, by_click.mask), (case.clicked, by_box.mask), (case.clicked, by_two.mask)]
    stop = min(max(case.truth), case.clicked + NUM_TRACKED if len(case.truth) > NUM_TRACKED else max(case.truth)) + 1
    wall, cpu = time.perf_counter(), time.process_time()
    for index, (found,) in segmenter.propagate(frames, [{case.clicked: prompt}], range(case.clicked, stop)):
        if index != case.clicked and index in case.truth:
            overlaps.append(overlap(found.mask, case.truth[index]))
            confidence.append((found.confidence, overlaps[-1]))
            last = index, found.mask
    steps = max(1, stop - 1 - case.clicked)
    frame_s, frame_cpu_s = (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
    shown.append(last)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        tiles = [overlay(frames.frame(index).image, mask) for index, mask in shown]
        sheet = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
        cv2.imwrite(str(pictures / f"{case.clip.stem}.jpg"), sheet[..., ::-1])
    frames.close()
    tracked, final = float(np.mean(overlaps)), overlaps[-1]
    corrected = overlap(by_two.mask, truth)
    click, boxed = confidence[0][1], confidence[1][1]
    return Row(case.name, click, boxed, corrected, tracked, final, confidence, click_s, click_cpu_s, frame_s, frame_cpu_s)


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the mask in green and its outline in magenta."""
    shown = image.copy()
    shown[mask] = shown[mask] // 2 + np.array([0, 110, 0], np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, (255, 0, 255), 1)
    return shown


def print_rows(measured: Iterable[Row]) -> None:
    """Every row as soon as it is there, then the means."""
    print(f"{'':38s} click    box   corr  track   last  conf  click s (cpu)  frame s (cpu)")
    rows = []
    for row in measured:
        rows.append(row)
        print(
            f"{row.name:38s} {row.click:5.3f}  {row.box:5.3f}  {row.corrected:5.3f}  {row.tracked:5.3f}  {row.last:5.3f}  "
            f"{row.confidence[0][0]:4.2f}  {row.click_s:4.2f} ({row.click_cpu_s:4.2f}) {row.frame_s:5.3f} ({row.frame_cpu_s:.2f})",
            flush=True,
        )
    mean = np.array([[r.click, r.box, r.corrected, r.tracked, r.last] for r in rows]).mean(axis=0)
    times = np.median([[r.click_s, r.click_cpu_s, r.frame_s, r.frame_cpu_s] for r in rows], axis=0)
    print(f"{f'mean of {len(rows)}':38s} " + "  ".join(f"{value:5.3f}" for value in mean))
    print(f"median click {times[0]:.2f} s ({times[1]:.2f} s of processor), frame {times[2]:.3f} s ({times[3]:.3f} s)")
    pairs = np.array([pair for row in rows for pair in row.confidence])
    unsure, bad = pairs[:, 0] < 0.5, pairs[:, 1] < LOW
    right = bad[unsure].mean() if unsure.any() else 1.0
    marked = unsure[bad].mean() if bad.any() else 1.0
    print(f"confidence below 0.5: {unsure.mean():.2f} of the masks; {right:.2f} of these overlap less than {LOW}, ", end="")
    print(f"and {marked:.2f} of all that do are among them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--keep", type=Path, help="folder where composites are kept, and found again")
    parser.add_argument("--truth", type=Path, default=BUNNY)
    parser.add_argument("--truth-clip", type=Path)
    args = parser.parse_args()
    segmenter = FallbackSegmenter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        cases = make_composites(folder, args.objects, args.clips, args.count)
        print_rows(measure(segmenter, case, args.pictures) for case in cases)
    if args.truth_clip is not None:
        print_rows([measure(segmenter, read_truth(args.truth, args.truth_clip), args.pictures)])


if __name__ == "__main__":
    main()
