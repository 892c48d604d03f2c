"""Fits the numbers with which the segmenter without weights chooses and weighs, ``pipeline/segmentation/fallback/numbers.npz``.

    python -m benchmarks.segmentation_fit --emoji DIR --clipart DIR --photos DIR --clips CLIP ... [--scenes 60 200] [--check 70]

Every scene is made for it: a shape travels, turns and grows over a photograph that a camera passes, or over real footage. The
shapes are drawings, mostly covered by a piece of a photograph, sometimes in the colours of what lies behind; in some scenes another
one travels there too. Box, click and correction are answered with the numbers so far (at first by hand: the outline's visibility,
the box's sides, and a network that changes nothing), which gives the guesses that there were, the cues, and what would have been
right:

- the guess is chosen by a weighted sum of features; the weights make the expected overlap of a softmax over the guesses large;
- the networks (two hidden layers each; their mean counts) tell from the cues of a pixel whether it belongs;
- the certainty is a logistic regression of whether a mask overlaps the truth by more than 0.85, both outcomes weighing the same.

Each number of ``--scenes`` is a round, whose answers use what the round before has fitted; the certainty is fitted on the
``--check`` scenes, which no round has seen. In what ships, the choice is that of an earlier run, whose shapes were larger, never
dim and never as thin; the networks were fitted on 245 scenes as they are made now, the certainty on 34 others. The material was

- shapes: ``@lobehub/fluent-emoji-3d`` 1.1.0 from npm (3,391 drawings by Microsoft; MIT) and Debian's ``openclipart-png`` 0.18
  (8,121 drawings; public domain), those with one plain outline;
- photographs: the freely licensed ones of ``harmonize_photos.txt``, see ``harmonize_fit``;
- footage: ``bg.mp4`` of ``startbootstrap-coming-soon`` 6.0.7 and ``oa4_launch.webm`` of Ren'Py 8.0.3 (both MIT), the sources of the
  example clips.

No picture and no part of one is in the file: it holds some 6,200 weights. ``segmentation_quality`` measures on other material.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.optimize import minimize

from benchmarks.segmentation_quality import composite, correction, inner_point, overlap
from pipeline.errors import UserError
from pipeline.images import read_image
from pipeline.segmentation.fallback import choose, score
from pipeline.segmentation.fallback.motion import OFFSETS, find_flow
from pipeline.segmentation.fallback.numbers import NUMBERS, read_numbers
from pipeline.segmentation.fallback.outline import grow, shrink
from pipeline.segmentation.fallback.picture import build_picture, build_regions
from pipeline.segmentation.fallback.scene import Scene, build_scene
from pipeline.segmentation.fallback.weigh import Found, certainty_signs, cut_anew, gather_cues, weigh, window
from pipeline.types import Array, Click, Prompt

PHOTOS = Path(__file__).with_name("harmonize_photos.txt")
KINDS = ("click", "box", "correction")
NUM_FEATURES, NUM_CUES = 20, 33
MEMBERS = ((48, 24, 8), (32, 16, 5), (32, 16, 5))
"""The networks that are fitted, each from another start: the units of both layers, epochs. Their mean is what is kept."""

PIXELS = 1000
"""Taken at random from every window, and again from what lies near an outline, the true one or the one that was found."""

GOOD = 0.85
TIMES = (0, *OFFSETS)


@dataclass(frozen=True)
class Material:
    """Where shapes, photographs and footage lie."""

    shapes: tuple[Sequence[Path], Sequence[Path]]
    photos: Sequence[Path]
    clips: Sequence[Path]


@dataclass
class Lessons:
    """What the answers to many prompts teach: ``choices`` (features of every guess, their overlaps, by kind), ``cues`` and
    ``belongs`` of single pixels, ``signs`` of certainty, and ``overlaps`` of the cut and of the weighed mask."""

    choices: dict[str, list[tuple[Array, Array]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    cues: list[Array] = field(default_factory=list)
    belongs: list[Array] = field(default_factory=list)
    signs: list[Array] = field(default_factory=list)
    overlaps: list[tuple[str, float, float]] = field(default_factory=list)


def read_shape(rng: np.random.Generator, material: Material) -> Array:
    """A drawing with one plain outline, cropped, covered by a piece of a photograph or not, lit from one side: f32[h,w,4]."""
    while True:
        paths = material.shapes[rng.integers(2)]
        try:
            picture = read_image(paths[rng.integers(len(paths))])
        except UserError:
            continue
        if picture.alpha is None or not 60 <= min(picture.alpha.shape) <= max(picture.alpha.shape) <= 1500:
            continue
        opaque = picture.alpha > 0.5
        stats = cv2.connectedComponentsWithStats(opaque.astype(np.uint8))[2]
        if not 0.04 < opaque.mean() < 0.8 or stats[1:, cv2.CC_STAT_AREA].max() < 0.6 * opaque.sum():
            continue
        ys, xs = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
        rgba = np.dstack([picture.rgb, 255 * picture.alpha]).astype(np.float32)[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        if max(rgba.shape[:2]) < 5 * min(rgba.shape[:2]):
            break
    scale = 380 / max(rgba.shape[:2])
    rgba = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    height, width = rgba.shape[:2]
    cloth = read_photo(rng, material, int(max(height, width) * rng.uniform(1, 2.5)))
    top, left = rng.integers(cloth.shape[0] - height + 1), rng.integers(cloth.shape[1] - width + 1)
    cloth = cloth[top : top + height, left : left + width]
    rgb, way = rgba[..., :3], rng.random()
    if way < 0.35:
        rgb = cloth
    elif way < 0.7:
        share = rng.uniform(0.2, 0.6)
        rgb = (1 - share) * rgb + share * cloth
    elif way < 0.85:
        rgb = cloth * np.clip(rgb.mean(axis=-1, keepdims=True) / 128, 0.3, 1.6)
    y, x = np.mgrid[:height, :width] / max(height, width) - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    rgb = rgb * (1 + rng.uniform(0, 0.6) * (np.sin(turn) * y + np.cos(turn) * x))[..., None]
    if rng.random() < 0.3:
        mean = rgb[rgba[..., 3] > 128].mean(axis=0)
        rgb = (rgb - mean) * rng.uniform(0.4, 1) + mean * rng.uniform(0.5, 1.2)
    return np.dstack([np.clip(rgb, 0, 255), rgba[..., 3]]).astype(np.float32)


def read_photo(rng: np.random.Generator, material: Material, side: int) -> Array:
    """A photograph whose shorter side is ``side``, f32[h,w,3]."""
    while True:
        rgb = read_image(material.photos[rng.integers(len(material.photos))]).rgb
        if min(rgb.shape[:2]) >= 220:
            break
    scale = side / min(rgb.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=way).astype(np.float32)


def read_background(rng: np.random.Generator, material: Material, hw: tuple[int, int]) -> dict[int, Array]:
    """The frames f32[h,w,3] of ``TIMES``: of real footage, or of a photograph that a camera passes."""
    height, width = hw
    if rng.random() < 0.25:
        footage = cv2.VideoCapture(str(material.clips[rng.integers(len(material.clips))]))
        start = rng.integers(0, min(int(footage.get(cv2.CAP_PROP_FRAME_COUNT)), 200) - 14)
        frames = [footage.read()[1] for _ in range(start + 13)][start:]
        if all(frame is not None for frame in frames):
            frames = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)[..., ::-1] for frame in frames]
            flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
            return {time: frames[6 + time][:, flip].astype(np.float32) for time in TIMES}
    photo = read_photo(rng, material, int(height * rng.uniform(1.15, 1.8)))
    if photo.shape[1] < 1.1 * width:
        scale = 1.15 * width / photo.shape[1]
        photo = cv2.resize(photo, None, fx=scale, fy=scale)
    if rng.random() < 0.3:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(1, 4))
    step, zoom = rng.normal(size=2) * rng.choice([0, 0.4, 1.5]), rng.normal() * 0.001
    turn, tilt = rng.normal() * 0.0008, rng.normal(size=2) * 1e-6
    centred, found = np.eye(3), {}
    centred[:2, 2] = -photo.shape[1] / 2, -photo.shape[0] / 2
    for index in TIMES:
        cos, sin = (1 + zoom * index) * np.cos(turn * index), (1 + zoom * index) * np.sin(turn * index)
        seen = np.array([[cos, -sin, 0], [sin, cos, 0], [*(tilt * index), 1]])
        placed = np.array([[1, 0, width / 2 + step[0] * index], [0, 1, height / 2 + step[1] * index], [0, 0, 1]])
        found[index] = cv2.warpPerspective(photo, placed @ seen @ centred, (width, height), borderMode=cv2.BORDER_REFLECT)
    return found


def path_of(rng: np.random.Generator, rgba: Array, hw: tuple[int, int]) -> dict[int, Array]:
    """One affine matrix f64[2,3] for every one of ``TIMES``."""
    scale = np.exp(rng.uniform(np.log(0.12), np.log(0.6))) * min(hw[0] / rgba.shape[0], 0.75 * hw[1] / rgba.shape[1])
    half = np.array([rgba.shape[1], rgba.shape[0]]) / 2
    start = rng.uniform(0.9 * scale * half, np.array(hw[::-1]) - 0.9 * scale * half)
    angle, turn, growth = rng.uniform(-12, 12), rng.uniform(-0.5, 0.5), rng.uniform(-0.004, 0.004)
    way = rng.uniform(0, 2 * np.pi)
    step = np.array([np.cos(way), np.sin(way)]) * rng.uniform(0, 0.35) * hw[1] / 55
    found = {}
    for index in TIMES:
        radians, size = np.radians(angle + turn * index), scale * (1 + growth * index)
        cos, sin = size * np.cos(radians), size * np.sin(radians)
        linear = np.array([[cos, -sin], [sin, cos]])
        found[index] = np.column_stack([linear, start + step * index - linear @ half])
    return found


def make_scene(rng: np.random.Generator, material: Material) -> tuple[Scene, Array]:
    """A scene, as the segmenter sees it, and the working mask bool[h,w] of the thing in it."""
    hw = (360, 640) if rng.random() < 0.7 else (int(rng.integers(144, 260)), int(rng.integers(176, 400)))
    frames = read_background(rng, material, hw)
    thing = None
    for _ in range(2 if rng.random() < 0.4 else 1):
        thing = read_shape(rng, material)
        if rng.random() < 0.25:
            opaque = thing[..., 3] > 128
            shift = frames[0].mean(axis=(0, 1)) - thing[opaque][:, :3].mean(axis=0)
            thing[..., :3] = np.clip(thing[..., :3] + rng.uniform(0.3, 1) * shift, 0, 255)
        path = path_of(rng, thing, hw)
        made = {index: composite(frame, thing, path[index]) for index, frame in frames.items()}
        frames = {index: frame.astype(np.float32) for index, (frame, _) in made.items()}
        truth = made[0][1]
    dim, middle = (rng.uniform(0.25, 1), rng.uniform(0, 100)) if rng.random() < 0.2 else (1.0, 0.0)
    frames = {index: dim * frame + (1 - dim) * middle for index, frame in frames.items()}
    noise, quality = rng.choice([0, 1, 3]), int(rng.integers(60, 95))
    pictures = {}
    for index, frame in frames.items():
        noisy = np.clip(frame + rng.normal(size=frame.shape) * noise, 0, 255).round().astype(np.uint8)
        kept = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pictures[index] = build_picture(cv2.imdecode(kept, cv2.IMREAD_COLOR)[..., ::-1])
    here = pictures[0]
    others = () if rng.random() < 0.12 else sorted(OFFSETS)
    flows = [find_flow(here.gray, pictures[index].gray) for index in others]
    scene = build_scene(here, build_regions(here), tuple(flow for flow in flows if flow is not None))
    way = cv2.INTER_AREA if hw[1] > here.hw[1] else cv2.INTER_LINEAR
    return scene, cv2.resize(truth.astype(np.float32), here.hw[::-1], interpolation=way) > 0.5


def draw_prompts(rng: np.random.Generator, truth: Array) -> tuple[Prompt, Prompt]:
    """A click somewhere well inside the thing, and a box, half of the time a loose one."""
    ys, xs = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    depth = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 5)
    inner = np.argwhere(depth > 0.5 * depth.max())
    y, x = inner[rng.integers(len(inner))] + 0.5
    click = Click(*inner_point(truth)) if rng.random() < 0.5 else Click(float(x), float(y))
    sides = np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], float)
    if rng.random() < 0.5:
        sides += rng.normal(size=4) * 0.02 * np.array([len(xs), len(ys)] * 2)
    return Prompt((click,)), Prompt((), tuple(sides.tolist()))


def learn_from(rng: np.random.Generator, scene: Scene, truth: Array, lessons: Lessons) -> None:
    """Answer a box, a click and a correction of the click, and keep what they teach."""
    by_click, by_box = draw_prompts(rng, truth)
    area = scene.regions.area
    inside = scene.regions.mean(truth.astype(float)) * area
    choose_best = choose.best_guess

    def best_guess(scene: Scene, moves: Array, found: list[Array], kind: str, extra: Array | None = None) -> Any:
        seen = np.array([score.features(scene, moves, chosen) for chosen in found])
        overlaps = np.array([inside[chosen].sum() / (area[chosen].sum() + inside[~chosen].sum()) for chosen in found])
        lessons.choices[kind].append((seen if extra is None else np.hstack([seen, extra]), overlaps))
        return choose_best(scene, moves, found, kind, extra)

    def refined(scene: Scene, found: Found, *obeyed: Array) -> tuple[Array, float]:
        view = window(found)
        cues = gather_cues(scene, found, view)
        odds = weigh(cues)
        mask = cut_anew(scene, view, odds, *obeyed)
        lessons.signs.append(certainty_signs(scene, found, mask, view, cues, odds))
        kind = "box" if found.in_box is not None else KINDS[2 * (len(found.clicks) > 1)]
        lessons.overlaps.append((kind, overlap(found.mask, truth), overlap(mask, truth)))
        rims = grow(truth, 4) & ~shrink(truth, 4) | grow(found.mask, 3) & ~shrink(found.mask, 3)
        near = np.flatnonzero(rims[view])
        pixels = np.concatenate([rng.integers(0, cues[0].size, PIXELS), rng.choice(near, PIXELS * bool(len(near)))])
        lessons.cues.append(cues.reshape(len(cues), -1)[:, pixels].T.astype(np.float16))
        lessons.belongs.append(truth[view].ravel()[pixels])
        return mask, 1.0

    with patch.object(choose, "best_guess", best_guess), patch.object(choose, "refine", refined):
        choose.answer_first(scene, by_box)
        answer = choose.answer_first(scene, by_click)
        wrong = correction(answer.mask, truth)
        choose.answer_next(scene, by_click, answer, (int(wrong.x_px), int(wrong.y_px), wrong.is_foreground))


def gather(material: Material, seed: int, count: int) -> Lessons:
    """What ``count`` scenes teach."""
    lessons, start = Lessons(), time.perf_counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene, truth = make_scene(rng, material)
        if 0.004 < truth.mean() < 0.4:
            learn_from(rng, scene, truth, lessons)
        if number % 25 == 24:
            print(f"{number + 1} scenes, {time.perf_counter() - start:.0f} s", flush=True)
    for kind in KINDS:
        rows = np.array([row[1:] for row in lessons.overlaps if row[0] == kind])
        print(f"{kind:10s} cut {rows[:, 0].mean():.3f}, weighed {rows[:, 1].mean():.3f}")
    return lessons


def fit_choice(rows: Sequence[tuple[Array, Array]]) -> Array:
    """Weights of the features: those of a ridge regression, moved to where the softmax's expected overlap is large."""
    seen = np.vstack([features for features, _ in rows])
    mean, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    scaled = [((features - mean) / spread, overlaps) for features, overlaps in rows]
    known = np.vstack([features for features, _ in scaled])
    wanted = np.concatenate([overlaps - overlaps.mean() for _, overlaps in scaled])
    start = np.linalg.solve(known.T @ known + 200 * np.eye(known.shape[1]), known.T @ wanted)

    def loss(weights: Array) -> tuple[float, Array]:
        total, slope = 50 * float(((weights - start) ** 2).sum()), 100 * (weights - start)
        for features, overlaps in scaled:
            odds = score.SOFTNESS * (features @ weights)
            share = np.exp(odds - odds.max())
            share /= share.sum()
            expected = float(share @ overlaps)
            total -= expected
            slope = slope - score.SOFTNESS * ((share * (overlaps - expected)) @ features)
        return total, slope

    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    picked = [overlaps[np.argmax(features @ found)] for features, overlaps in scaled]
    best = [overlaps.max() for _, overlaps in scaled]
    print(f"  chosen {np.mean(picked):.3f}, the best guess {np.mean(best):.3f}, {len(rows)} prompts")
    return found / spread


def fit_networks(lessons: Lessons) -> dict[str, Array]:
    """The layers of all ``MEMBERS`` side by side, so that what comes out is their mean."""
    members = [fit_network(lessons, seed, *sizes) for seed, sizes in enumerate(MEMBERS)]
    made = {f"w{k}": [member[f"w{k}"] for member in members] for k in (1, 2, 3)}
    layers = {"w1": np.vstack(made["w1"]), "w2": block_diag(*made["w2"]), "w3": np.hstack(made["w3"]) / len(members)}
    offsets = {f"b{k}": np.concatenate([member[f"b{k}"] for member in members]) for k in (1, 2)}
    offsets["b3"] = np.mean([member["b3"] for member in members], axis=0)
    return {name: values.astype(np.float32) for name, values in (layers | offsets).items()}


def fit_network(lessons: Lessons, seed: int, wide: int, narrow: int, epochs: int, batch: int = 4096) -> dict[str, Array]:
    """The layers, whose first one takes the cues as they are."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    cues = np.vstack(lessons.cues).astype(np.float32)
    mean, spread = cues.mean(axis=0), cues.std(axis=0) + 1e-3
    given, wanted = torch.tensor((cues - mean) / spread), torch.tensor(np.concatenate(lessons.belongs).astype(np.float32))
    sizes = [NUM_CUES, wide, narrow, 1]
    layers = [torch.nn.Linear(*pair) for pair in pairwise(sizes)]
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    optimizer = torch.optim.Adam(network.parameters(), weight_decay=1e-5)
    steps = epochs * (len(given) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps + 1)
    for epoch in range(epochs):
        losses = []
        for picked in torch.randperm(len(given)).split(batch)[: len(given) // batch]:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(given[picked])[:, 0], wanted[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"  epoch {epoch + 1}: {np.mean(losses):.4f}", flush=True)
    weights = [layer.weight.detach().numpy().astype(np.float64) for layer in layers]
    offsets = [layer.bias.detach().numpy().astype(np.float64) for layer in layers]
    weights[0] = weights[0] / spread
    offsets[0] = offsets[0] - weights[0] @ mean
    made = {f"w{k + 1}": weights[k].astype(np.float32) for k in range(3)}
    return made | {f"b{k + 1}": offsets[k].astype(np.float32) for k in range(3)}


def fit_certainty(lessons: Lessons) -> Array:
    """Weights of the signs and an offset."""
    signs = np.column_stack([np.array(lessons.signs), np.ones(len(lessons.signs))])
    good = np.array([row[2] > GOOD for row in lessons.overlaps])
    share = np.where(good, 0.5 / max(good.mean(), 0.01), 0.5 / max(1 - good.mean(), 0.01)) / len(good)

    def loss(weights: Array) -> tuple[float, Array]:
        odds = (signs @ weights) * np.where(good, 1, -1)
        slope = -(share * np.where(good, 1, -1) / (1 + np.exp(odds))) @ signs
        return float(share @ np.logaddexp(0, -odds)) + 1e-3 * float(weights @ weights), slope + 2e-3 * weights

    found: Array = minimize(loss, np.zeros(signs.shape[1]), jac=True, method="L-BFGS-B").x
    sure, reached = signs @ found > 0, np.array([row[2] for row in lessons.overlaps])
    low, high = 1 - sure[reached < 0.6].mean(), 1 - sure[reached > 0.85].mean()
    print(f"unsure: {low:.2f} of those that overlap less than 0.6, {high:.2f} of those that overlap more than 0.85")
    return found


def first_numbers() -> dict[str, Array]:
    """By hand: a plain outline and a box that is filled speak for a guess, the picture's border against it; cues change nothing."""
    click = np.zeros(NUM_FEATURES)
    click[[0, 1, 4, 5]] = 0.2, 0.2, 0.04, -0.7
    box, corrected = np.concatenate([click, np.zeros(7)]), np.concatenate([click, [-0.05, -0.05]])
    box[[NUM_FEATURES, NUM_FEATURES + 4]] = 0.3, -0.2
    layers = {f"w{k + 1}": np.zeros(shape, np.float32) for k, shape in enumerate(((32, NUM_CUES), (16, 32), (1, 16)))}
    layers |= {f"b{k + 1}": np.zeros(size, np.float32) for k, size in enumerate((32, 16, 1))}
    layers["w1"][0, 0] = layers["w2"][0, 0] = 1
    layers["w3"][0, 0], layers["b3"][0] = 16, -8
    return {"click": click, "box": box, "correction": corrected, "certainty": np.zeros(7), **layers}


def keep(numbers: dict[str, Array]) -> None:
    np.savez_compressed(NUMBERS, **numbers)
    read_numbers.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--clipart", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--scenes", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--check", type=int, default=70)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    photos = [path for line in PHOTOS.read_text().split("\n") if line and (path := args.photos / line).exists()]
    shapes = sorted(args.emoji.rglob("*.webp")), sorted(args.clipart.rglob("*.png"))
    print(f"{len(shapes[0])} and {len(shapes[1])} drawings, {len(photos)} photographs")
    material = Material(shapes, photos, args.clips)
    numbers = first_numbers()
    keep(numbers)
    for seed, count in enumerate(args.scenes):
        lessons = gather(material, seed, count)
        numbers |= {kind: fit_choice(lessons.choices[kind]) for kind in KINDS} | fit_networks(lessons)
        keep(numbers)
    keep(numbers | {"certainty": fit_certainty(gather(material, len(args.scenes), args.check))})


if __name__ == "__main__":
    main()
