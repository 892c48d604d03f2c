"""How well harmonisation finds a known colour cast, and how little it does where there is none.

    python -m benchmarks.harmonize_quality [--folder DIR] [--objects DIR] [--strength 1.0]

Every scene (a clip or a photograph of the folder; rendered results, ``*-result.*``, are left out) is given every cast by
multiplying its linear light or, for some casts, its display values, rounded to 8 bits again. The object, photographed neutrally,
must then look as under the same cast. An object's error is the CIE 1976 difference between its mean colour and that truth; plain
pasting is the object as it is. Objects are the PNGs with an alpha channel of ``--objects`` and the 24 patches of the ColorChecker
chart. Clips and photographs are summed up apart, and the scenes that change most without a cast are named.

Without a folder the scenes are those that ship: two clips, a grey street from above and a dim launch under a blue sky, which look
cast by nature and are as hard as footage gets, and a portrait. They show what goes wrong at worst; a folder of footage of one's own
shows what to expect.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import media
from pipeline.composite.engine import SAMPLE_FRAMES
from pipeline.composite.harmonize import estimate_light, object_gains
from pipeline.composite.light import decode_light, encode_light
from pipeline.images import read_image

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
CLIP_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".ogv"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
CASTS = {
    "none": (1.0, 1.0, 1.0),
    "warm": (1.25, 1.0, 0.75),
    "very warm": (1.45, 1.0, 0.55),
    "warm, lowered": (1.0, 0.8, 0.6),
    "cool": (0.8, 1.0, 1.2),
    "very cool": (0.65, 1.0, 1.35),
    "cool, lowered": (0.7, 0.85, 1.0),
    "green": (0.85, 1.12, 0.85),
    "magenta": (1.15, 0.85, 1.1),
    "tungsten": (0.8, 0.6, 0.35),
    "dusk": (0.5, 0.6, 0.8),
    "low sun": (0.95, 0.7, 0.5),
    "slightly warm": (1.1, 1.0, 0.9),
    "dim": (0.65, 0.65, 0.65),
}
DISPLAY_CASTS = {
    "display warm": (1.25, 1.0, 0.75),
    "display cool": (0.75, 1.0, 1.2),
    "display green": (0.9, 1.1, 0.9),
    "display dim": (0.8, 0.8, 0.8),
    "display warm, dim": (0.8, 0.68, 0.55),
}
"""Gains of the display values rather than of the light, as an editing program's channel mixer applies them."""
COLOR_CHECKER = (
    "735244 c29682 627a9d 576c43 8580b1 67bdaa d67e2c 505ba6 c15a63 5e3c6c 9dbc40 e0a32e "
    "383d96 469449 af363c e7c71f bb5695 0885a1 f3f3f2 c8c8c8 a0a0a0 7a7a79 555555 343434"
)
LINEAR_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])


def read_scenes(folder: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Name and sample frames u8[H,W,3], at most 480 px on the long side, of every clip and picture in the folder but results."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.stem.endswith("-result")):
        if path.suffix.lower() in CLIP_SUFFIXES:
            clip = media.probe_clip(path)
            count = min(SAMPLE_FRAMES, clip.num_frames)
            store = media.FrameStore(clip, max_bytes=1)
            yield path.name, [shrink(store.frame(int((step + 0.5) / count * clip.num_frames)).image) for step in range(count)]
            store.close()
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            picture = read_image(path)
            if picture.alpha is None or picture.alpha.min() == 1:
                yield path.name, [shrink(picture.rgb)]


def shrink(image: np.ndarray) -> np.ndarray:
    import cv2

    scale = 480 / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def read_objects(folder: Path) -> dict[str, np.ndarray]:
    """Linear pixels f32[n,3] of every object's opaque part."""
    objects = {}
    for index, code in enumerate(COLOR_CHECKER.split()):
        objects[f"patch {index + 1}"] = decode_light(np.array([list(bytes.fromhex(code))], np.uint8))
    for path in sorted(folder.rglob("*.png")):
        picture = read_image(path)
        if picture.alpha is not None and 0.02 < (picture.alpha > 0.9).mean() < 0.98:
            pixels = picture.rgb[picture.alpha > 0.9]
            objects[path.name] = decode_light(pixels[:: 1 + len(pixels) // 4000])
    return objects


def apply_light(linear: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Display values u8 of linear light under ``gains``."""
    return np.round(encode_light(linear * np.asarray(gains, np.float32))).astype(np.uint8)


def mean_lab(pixels: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of the mean display colour of u8[n,3]."""
    linear = decode_light(np.round(pixels.mean(axis=0)).astype(np.uint8)).astype(float)
    xyz = LINEAR_TO_XYZ @ linear / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def apply_display_gains(display: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Display values u8 multiplied by ``gains``, rounded and clipped."""
    return np.clip(np.round(display * gains), 0, 255).astype(np.uint8)


def measure_scene(frames: list[np.ndarray], objects: dict[str, np.ndarray], strength: float) -> dict[str, np.ndarray]:
    """Per cast, f64[objects,2]: the error of plain pasting and of harmonising."""
    errors = {}
    plain = {name: apply_light(pixels, np.ones(3)) for name, pixels in objects.items()}
    for name, cast in (CASTS | DISPLAY_CASTS).items():
        if name in CASTS:
            seen = [apply_light(decode_light(frame), np.array(cast)) for frame in frames]
        else:
            seen = [apply_display_gains(frame, np.array(cast)) for frame in frames]
        gains = object_gains(estimate_light(seen), strength)
        rows = []
        for key, pixels in objects.items():
            true = apply_light(pixels, np.array(cast)) if name in CASTS else apply_display_gains(plain[key], np.array(cast))
            truth, pasted, ours = (mean_lab(image) for image in (true, plain[key], apply_light(pixels, gains)))
            rows.append((np.linalg.norm(pasted - truth), np.linalg.norm(ours - truth)))
        errors[name] = np.array(rows)
    return errors


def print_casts(scenes: dict[str, dict[str, np.ndarray]]) -> None:
    """A line for every cast, over all scenes."""
    for name in CASTS | DISPLAY_CASTS:
        plain, ours = np.concatenate([errors[name] for errors in scenes.values()]).T
        share = np.median(ours / np.maximum(plain, 1e-6))
        if name != "none":
            print(f"  {name:18s} error plain {np.median(plain):5.1f}, harmonised {np.median(ours):5.1f} dE; ratio {share:.2f}")


def print_summary(kind: str, scenes: dict[str, dict[str, np.ndarray]]) -> None:
    """What is judged, over the scenes of a kind."""
    cast = np.concatenate([errors[name] for errors in scenes.values() for name in errors if name != "none"])
    every = cast[:, 1] / np.maximum(cast[:, 0], 1e-6)
    changes = {name: errors["none"][:, 1] for name, errors in scenes.items()}
    unchanged = np.concatenate(list(changes.values()))
    print(f"{len(scenes)} {kind}")
    median, worse = np.median(every), np.mean(every > 1)
    print(f"  with a cast ({every.size} combinations): median ratio {median:.2f} (aim: 0.5), worse {worse:.1%} (20 %)")
    change, most = np.median(unchanged), np.quantile(unchanged, 0.9)
    print(f"  without ({unchanged.size} combinations): median change {change:.2f} dE (aim: 2), 90th percentile {most:.2f} dE (5)")
    weakest = sorted(changes, key=lambda name: -float(np.median(changes[name])))[:3]
    print("  most changed without: " + ", ".join(f"{name} {np.median(changes[name]):.1f} dE" for name in weakest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=EXAMPLES, help="scenes: clips and photographs")
    parser.add_argument("--objects", type=Path, default=EXAMPLES, help="objects: PNGs with an alpha channel")
    parser.add_argument("--strength", type=float, default=1.0, help="the blend option harmonize")
    arguments = parser.parse_args()
    objects = read_objects(arguments.objects)
    scenes = {name: measure_scene(frames, objects, arguments.strength) for name, frames in read_scenes(arguments.folder)}
    if not scenes:
        raise SystemExit(f"there is no clip and no photograph in {arguments.folder}.")
    count = len(CASTS) + len(DISPLAY_CASTS) - 1
    print(f"{len(scenes)} scenes, {len(objects)} objects, {count} casts, harmonize {arguments.strength:g}")
    print_casts(scenes)
    clips = {name: errors for name, errors in scenes.items() if Path(name).suffix.lower() in CLIP_SUFFIXES}
    photos = {name: errors for name, errors in scenes.items() if name not in clips}
    for kind, chosen in (("clips", clips), ("photographs", photos)):
        if chosen:
            print_summary(kind, chosen)


if __name__ == "__main__":
    main()
