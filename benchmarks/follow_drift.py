"""How far a followed surface drifts from where it really is, on photographs filmed by a known hand.

    python -m benchmarks.follow_drift PHOTO [PHOTO ...] [--frames 81] [--keep DIR]

Every photograph is seen through a camera that sways, turns, leans and comes closer as a hand-held one does (no parallax, so that
the truth is known for every point), with motion blur, changing exposure, sensor noise and H.264 at 1280 x 720; in the hard case
with a thing that crosses, more noise and stronger compression. From one key frame everything is followed; printed is the largest
and the mean distance, in pixels, over all frames and a grid of points that are in the picture, and the speed.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline import geometry
from pipeline.media import FrameStore, probe_clip
from pipeline.tracking import track_surface
from pipeline.types import Follow, SurfaceMotion

from .material import ffmpeg_path

WIDTH, HEIGHT = 1280, 720
MARGIN = 1.16
SHUTTER = 0.5
BLUR_SAMPLES = 5
CASES = {"easy": {"noise": 4.0, "crf": 26, "is_crossed": False}, "hard": {"noise": 8.0, "crf": 30, "is_crossed": True}}
WHOLE = np.stack(np.meshgrid(np.linspace(40, 1240, 7), np.linspace(40, 680, 5)), axis=-1).reshape(-1, 2)
MIDDLE = np.stack(np.meshgrid(np.linspace(440, 840, 5), np.linspace(220, 500, 4)), axis=-1).reshape(-1, 2)
FOLLOWS = {
    "whole picture": (Follow("homography"), WHOLE),
    "whole, key in the middle": (Follow("homography", 40), WHOLE),
    "region": (Follow("homography", 0, None, (400.0, 200.0, 880.0, 520.0)), MIDDLE),
    "three points": (Follow("homography", 0, ((500.0, 300.0), (800.0, 300.0), (640.0, 450.0))), MIDDLE),
}


def sway(num_frames: int, seed: int) -> np.ndarray:
    """Maps f64[N,3,3] from the first frame to every frame."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_frames) / 25

    def wave(size: float, rate_hz: float) -> np.ndarray:
        parts = [size / k * np.sin(2 * np.pi * (rate_hz * k * time_s + rng.random())) for k in (1, 2, 3)]
        return np.sum(parts, axis=0)

    x, y = wave(18, 0.4) + rng.normal(0, 1, num_frames), wave(14, 0.5) + rng.normal(0, 1, num_frames)
    turn, log_size = np.deg2rad(wave(1.2, 0.35)), wave(0.02, 0.3)
    lean_x, lean_y = wave(1.2e-5, 0.3), wave(1.2e-5, 0.3)
    maps = []
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    for i in range(num_frames):
        moved = geometry.similarity_map(np.exp(log_size[i] - log_size[0] + 1j * (turn[i] - turn[0])), 0j)
        leaning = np.array([[1, 0, 0], [0, 1, 0], [lean_x[i] - lean_x[0], lean_y[i] - lean_y[0], 1.0]])
        shift = geometry.translation(centre + np.array([x[i] - x[0], y[i] - y[0]]))
        maps.append(shift @ leaning @ moved @ geometry.translation(-centre))
    return np.array(maps)


def film(photo: Path, out: Path, maps: np.ndarray, seed: int, *, noise: float, crf: int, is_crossed: bool) -> None:
    import cv2

    picture = cv2.imread(str(photo))
    if picture is None:
        raise SystemExit(f"{photo.name} is no picture")
    scale = max(WIDTH * MARGIN / picture.shape[1], HEIGHT * MARGIN / picture.shape[0])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    place = geometry.translation(np.array([WIDTH - picture.shape[1], HEIGHT - picture.shape[0]]) / 2)
    half, rng = geometry.translation(np.array([0.5, 0.5])), np.random.default_rng(seed)
    command = [ffmpeg_path(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25"]
    command += ["-i", "-", "-c:v", "libx264", "-crf", str(crf), "-pix_fmt", "yuv420p", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for index in range(len(maps)):
            moving = (maps[min(index + 1, len(maps) - 1)] - maps[max(index - 1, 0)]) / 2
            seen = np.zeros((HEIGHT, WIDTH, 3), np.float32)
            for sample in range(BLUR_SAMPLES):
                share = ((sample + 0.5) / BLUR_SAMPLES - 0.5) * SHUTTER * (index > 0)
                matrix = np.linalg.inv(half) @ (maps[index] + share * moving) @ place @ half
                seen += cv2.warpPerspective(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
            seen *= (1 + 0.15 * np.sin(index / 12)) / BLUR_SAMPLES
            if is_crossed:
                _cross(seen, -200 + 18 * index)
            noisy = seen + rng.normal(0, noise, seen.shape)
            encoder.stdin.write(np.clip(noisy, 0, 255).astype(np.uint8).tobytes())
        encoder.stdin.close()
    if encoder.returncode:
        raise SystemExit("ffmpeg failed")


def _cross(picture: np.ndarray, left: int) -> None:
    """A striped board of 220 x 440 pixels whose left edge is at ``left``."""
    first, last = max(left, 0), min(left + 220, WIDTH)
    if first < last:
        y, x = np.mgrid[200:640, first:last]
        picture[200:640, first:last] = np.array([60, 90, 200]) + 30 * np.sin((y + x - left) / 6)[..., None]


def measure_drift(maps: np.ndarray, surface: SurfaceMotion, points: np.ndarray) -> np.ndarray:
    """The largest error f64[N] over the points that are in the picture, for every tracked frame."""
    errors = []
    back = np.linalg.inv(maps[surface.key_frame])
    for index in np.flatnonzero(surface.is_tracked):
        true = geometry.apply_map(maps[index] @ back, points)
        inside = ((true >= 0) & (true < [WIDTH, HEIGHT])).all(axis=1)
        error = np.linalg.norm(geometry.apply_map(surface.matrices[index], points) - true, axis=1)
        errors.append(error[inside].max(initial=0.0))
    return np.array(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PHOTO", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the clips here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(options.photos):
            maps = sway(options.frames, number)
            for case, settings in CASES.items():
                path = folder / f"{number}-{photo.stem}-{case}.mp4"
                film(photo, path, maps, number, **settings)
                for name, (follow, points) in FOLLOWS.items():
                    frames = FrameStore(probe_clip(path))
                    started_s = time.monotonic()
                    surface = track_surface(frames, follow, 0, options.frames)
                    speed = options.frames / (time.monotonic() - started_s)
                    frames.close()
                    error = measure_drift(maps, surface, points)
                    found = f"{int(surface.is_tracked.sum())}/{options.frames} frames"
                    figures = f"max {error.max():5.2f}  mean {error.mean():5.2f}  last {error[-1]:5.2f} px"
                    print(f"{photo.stem:18.18} {case:5} {name:25} {figures}  {found}  {speed:.0f} fps", flush=True)


if __name__ == "__main__":
    main()
