"""How true the background is that a removal puts in the place of a thing, and how still it keeps.

    python -m benchmarks.remove_quality [--clip FILE ...] [--picture FILE ...] [--frames 48] [--height 540] [--radius 0.1] [--rest]
                                        [--folder DIR]

A thing is laid over real footage (``--clip``, or pictures that a shaking, panning, zooming camera looks at) and crosses it, so that
what it hides is known. Its exact mask is given to the removal, whose result is compared with the footage itself: PSNR in the hidden
pixels, all channels and all frames together; the same where the footage stands still, and the share of such pixels; the worst
frame; and pumping: how much the error's mean in blocks of 16 pixels changes from one frame to the next, root mean square, in 8-bit
levels. ``--folder`` receives the composite, the result and the truth side by side.

What changes by itself behind the thing (traffic, water, leaves) is in no other frame. A pixel of the footage stands still where the
footage itself, 8 and 12 frames before and after, laid onto it by dense flow, differs from it by less than ``STILL_LEVELS`` in the
mean over 5 x 5 pixels and all channels, at all of these frames that there are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from pipeline import masks, media
from pipeline.composite.engine import CompositeEngine
from pipeline.engines import ignore_progress
from pipeline.images import read_image
from pipeline.types import BlendSettings, InsertionRequest, Layer, MaskTrack
from tests.tiny import make_clip

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
BLOCK_PX = 16
STILL_LEVELS = 10.0
STILL_STEPS = (-12, -8, 8, 12)
Footage = Callable[[int], np.ndarray]


def camera_over(picture: np.ndarray, hw: tuple[int, int], num_frames: int, seed: int) -> Footage:
    """A hand-held camera that looks at a picture u8[H,W,3]: a pan, a slow zoom and turn, shake, and grain."""
    height, width = hw
    scale = 1.5 * max(height / picture.shape[0], width / picture.shape[1])
    rng = np.random.default_rng(seed)
    shake = cv2.GaussianBlur(rng.normal(0, 1, (num_frames, 3)), (1, 0), sigmaX=1e-3, sigmaY=2.0) * [4.0, 4.0, 0.003]
    pan = np.array([0.18 * width, 0.08 * height]) * rng.choice([-1, 1], 2)

    def image(frame_index: int) -> np.ndarray:
        share = frame_index / max(1, num_frames - 1) - 0.5
        zoom = scale * (1 + 0.08 * share)
        angle = 0.03 * share + shake[frame_index, 2]
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([width / 2, height / 2]) + pan * share + shake[frame_index, :2]
        shift = centre - turn @ (np.array(picture.shape[1::-1]) / 2)
        seen = cv2.warpAffine(
            picture, np.column_stack([turn, shift]), (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        return np.clip(seen + np.random.default_rng([seed, frame_index]).normal(0, 1.5, seen.shape), 0, 255).astype(np.uint8)

    return image


def frames_of(path: Path, height: int, first: int) -> tuple[Footage, int, tuple[int, int]]:
    """A clip's frames from ``first`` on, at most ``height`` high, how many there are, and their size."""
    clip = media.probe_clip(path)
    scale = min(1.0, height / clip.height)
    hw = round(clip.height * scale / 2) * 2, round(clip.width * scale / 2) * 2
    store = media.FrameStore(clip)
    return (
        lambda index: cv2.resize(store.frame(first + index).image, hw[::-1], interpolation=cv2.INTER_AREA),
        clip.num_frames - first,
        hw,
    )


def blob_mask(
    hw: tuple[int, int], frame_index: int, num_frames: int, seed: int, radius: float = 0.1, rests: bool = False
) -> np.ndarray:
    """A lumpy thing that crosses the picture, its ``radius`` a share of the picture's height: alpha f32[H,W]. If it ``rests``, it
    crosses in the first half of the clip and stands still from then on."""
    height, width = hw
    share = frame_index / max(1, num_frames - 1)
    share = min(1.0, 2 * share) if rests else share
    direction = 1 if seed % 2 else -1
    x = width * (0.5 + direction * 0.32 * (share - 0.5) * 2)
    y = height * (0.55 + 0.12 * np.sin(2 * np.pi * share + seed))
    grid_y, grid_x = np.mgrid[:height, :width] + 0.5
    angle = np.arctan2(grid_y - y, grid_x - x)
    reach = radius * height * (1 + 0.2 * np.cos(3 * angle + 4 * share) + 0.1 * np.cos(5 * angle - seed))
    return np.clip(reach - np.hypot(grid_x - x, (grid_y - y) * 0.7) + 0.5, 0, 1).astype(np.float32)


def with_thing(footage: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The footage with a striped, unmistakable thing over it."""
    y, x = np.mgrid[: footage.shape[0], : footage.shape[1]]
    paint = np.stack([200 + 40 * np.sin(x / 5), 60 + 40 * np.sin(y / 4), 120 + 60 * np.sin((x + y) / 9)], axis=2)
    return (footage * (1 - alpha[..., None]) + paint * alpha[..., None] + 0.5).astype(np.uint8)


def measure(
    footage: Footage, hw: tuple[int, int], alphas: list[np.ndarray], out: Path | None = None, grain: float = 0
) -> dict[str, float]:
    """Lay the thing (its ``alphas`` f32[H,W], one for every frame) over, take it out, compare. PSNR in dB, pumping in 8-bit levels,
    frames per second."""
    num_frames = len(alphas)
    with tempfile.TemporaryDirectory() as name:
        path = make_clip(
            Path(name) / "clip.mp4",
            num_frames=num_frames,
            hw=hw,
            fps=Fraction(25),
            options={"crf": "10"},
            images=lambda index: with_thing(footage(index), alphas[index]),
        )
        clip = media.probe_clip(path)
        runs = tuple(masks.encode_rle(alpha > 0.05) if (alpha > 0.05).any() else None for alpha in alphas)
        layer = Layer("thing", "remove", target=MaskTrack(hw, runs), blend=BlendSettings(grain=grain))
        started_s = time.perf_counter()
        errors, shown = [], []
        with closing(CompositeEngine().run(InsertionRequest(clip, (0, num_frames), (layer,)), ignore_progress, print)) as frames:
            for frame in frames:
                image, truth = frame.image, footage(frame.frame_index)
                errors.append(np.where((alphas[frame.frame_index] > 0.5)[..., None], image.astype(np.float32) - truth, np.nan))
                if out is not None:
                    shown.append(np.hstack([frame.source.image, image, truth]))
        seconds = time.perf_counter() - started_s
    if out is not None:
        make_clip(
            out, num_frames=num_frames, hw=shown[0].shape[:2], fps=25, images=lambda index: shown[index], options={"crf": "16"}
        )
    squares = [float(np.nanmean(error**2)) for error in errors if np.isfinite(error).any()]
    everything = np.concatenate([error[np.isfinite(error)] for error in errors])
    stands = [stands_still(footage, index, num_frames) for index in range(num_frames)]
    unmoved = np.concatenate(
        [error[stood & np.isfinite(error[..., 0])].ravel() for error, stood in zip(errors, stands, strict=True)]
    )
    return {
        "psnr": 10 * np.log10(255**2 / float((everything**2).mean())),
        "still": 10 * np.log10(255**2 / float((unmoved**2).mean())) if unmoved.size else float("nan"),
        "share": unmoved.size / everything.size,
        "worst": 10 * np.log10(255**2 / max(squares)),
        "pumping": pumping(errors),
        "fps": num_frames / seconds,
    }


def stands_still(footage: Footage, frame_index: int, num_frames: int) -> np.ndarray:
    """Where the footage at a frame does not change by itself, bool[H,W]."""
    truth = footage(frame_index)
    height, width = truth.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    still = np.ones((height, width), bool)
    for step in STILL_STEPS:
        if 0 <= frame_index + step < num_frames:
            other = footage(frame_index + step)
            still_image, moved_image = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (truth, other))
            flow = finder.calc(still_image, moved_image, np.zeros((height, width, 2), np.float32))
            laid = cv2.remap(other, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
            difference = np.abs(laid.astype(np.float32) - truth).mean(axis=2)
            still &= cv2.blur(difference, (5, 5)) < STILL_LEVELS
    return still


def pumping(errors: list[np.ndarray]) -> float:
    """Root mean square, over blocks that are hidden in two frames that follow each other, of the change of the error's mean."""
    means = []
    for error in errors:
        rows, cols = error.shape[0] // BLOCK_PX, error.shape[1] // BLOCK_PX
        blocks = error[: rows * BLOCK_PX, : cols * BLOCK_PX].reshape(rows, BLOCK_PX, cols, BLOCK_PX, 3)
        means.append(np.where(np.isfinite(blocks).all(axis=(1, 3, 4)), np.nan_to_num(blocks).mean(axis=(1, 3, 4)), np.nan))
    changes = np.diff(np.array(means), axis=0)
    return float(np.sqrt(np.nanmean(changes**2))) if np.isfinite(changes).any() else 0.0


def scenes(arguments: argparse.Namespace) -> Iterator[tuple[str, Footage, tuple[int, int], int]]:
    count = arguments.frames
    for name in arguments.clip or [] if arguments.clip or arguments.picture else [EXAMPLES / "crossing.mp4"]:
        path, _, first = str(name).partition("@")
        footage, available, hw = frames_of(Path(path), arguments.height, int(first or 0))
        yield f"{Path(path).name}@{first or 0}", footage, hw, min(count, available)
    hw = arguments.height, round(arguments.height * 16 / 9 / 2) * 2
    for number, path in enumerate(arguments.picture or []):
        yield path.name, camera_over(read_image(path).rgb, hw, count, number), hw, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", nargs="*", help="footage, perhaps with its first frame: FILE@120")
    parser.add_argument("--picture", type=Path, nargs="*", help="pictures for a camera to look at")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--height", type=int, default=540)
    parser.add_argument("--radius", type=float, default=0.1, help="the thing's, as a share of the height")
    parser.add_argument("--rest", action="store_true", help="the thing stands still in the second half")
    parser.add_argument("--grain", type=float, default=0, help="the blend option grain; 0 compares with the plain plate")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, footage, hw, count) in enumerate(scenes(arguments)):
        out = None if arguments.folder is None else arguments.folder / f"{Path(name).stem}-{seed}.mp4"
        alphas = [blob_mask(hw, index, count, seed, arguments.radius, arguments.rest) for index in range(count)]
        found = measure(footage, hw, alphas, out, arguments.grain)
        print(
            f"{name:28s} {hw[1]}x{hw[0]}  PSNR {found['psnr']:5.1f} dB, "
            f"{found['still']:.1f} where the footage stands still ({found['share']:.0%}), "
            f"worst frame {found['worst']:5.1f} dB, "
            f"pumping {found['pumping']:.2f} levels, {found['fps']:.1f} frames/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
