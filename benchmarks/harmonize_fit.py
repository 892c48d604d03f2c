"""Fits the numbers with which harmonisation reads the light of a scene, ``pipeline/composite/harmonize.npz``.

    python -m benchmarks.harmonize_fit FOLDER [--list harmonize_photos.txt] [-o harmonize.npz] [--views 24] [--epochs 30] [--seed 0]

Every photograph is taken for a scene in neutral light and seen several times: whole or cropped, as one frame or as two, sometimes
beside another photograph (a clip that cuts), or as a collage of parts of many; half of them developed with another contrast and
saturation. Each time it is under another cast: none in a quarter of the views, a dimmed one in a tenth, else drawn along the
colours of daylight and lamps with some green or magenta, lowered or not, as gains of the light or of the display values. The
numbers are those with which 25 objects, lit by what was estimated, come closest to the same objects under the cast; where there is
none, what counts is how often an object is changed visibly. The casts of ``harmonize_quality`` are not among those that are drawn.
The same folder, list and seed give the same numbers on the same machine and versions of NumPy, OpenCV and PyTorch.

What ships was fitted on the 549 freely licensed photographs that ``harmonize_photos.txt`` names, each by its path in FOLDER, where
every source is unpacked in a folder of its name (Debian 12 packages by ``dpkg -x``):

- ``endless-sky-data`` 0.9.8-1.2 (235; landscapes, cities, rooms: public domain, CC BY-SA 3.0 and 4.0)
- ``gcompris-qt-data`` 3.1-2 (221; animals, things, buildings, taken from its ``.rcc`` files by Qt's ``rcc --reverse``: GPL-3+,
  CC BY 1.0 to 3.0, CC BY-SA 2.0 to 4.0, CC0, public domain)
- ``kphotoalbum`` 5.9.1-1 (25; GPL-2+), ``lomiri-wallpapers-16.04`` 20.04.0-2 (11; CC BY 4.0, CC BY-SA 4.0, CC0),
  ``mate-backgrounds`` 1.26.0-1 (9; GPL-2+, CC BY-SA 4.0), ``lxqt-themes`` 1.2.0-1 (8; LGPL-2.1+),
  ``plasma-workspace-wallpapers`` 5.27.5-2 (7; GPL-2+), ``palapeli-data`` 22.12.3-1 (5; GPL-2+),
  ``python3-sklearn`` 1.2.1 (2; CC BY 2.0)
- from their public repositories: ``budgie-backgrounds`` (12; CC0), ``pop-wallpapers`` (5; public domain), the theme
  ``twentytwentyfive`` (4; CC0); from PyPI: ``scikit-image`` 0.26.0 (5; CC0, public domain)

No picture and no part of one is in the file: it holds 5,120 smooth filter values and a thousand weights, measured over thousands of
views. Another seed moves the figures by a few hundredths.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harmonize_quality import COLOR_CHECKER, apply_display_gains, apply_light, shrink
from pipeline.composite.harmonize import BINS, CAST_AXIS, MOST_CAST, MOST_EXPOSURE, NUMBERS, gather_evidence
from pipeline.composite.light import decode_light
from pipeline.images import read_image

PHOTOS = Path(__file__).with_name("harmonize_photos.txt")
NOTE = "Fitted by benchmarks/harmonize_fit.py on the freely licensed photographs of harmonize_photos.txt; it contains none of them."

HIDDEN = 16
SHAPES = 8
VIEW_PX = 160
NONE, DIMMED, DISPLAY = 0.25, 0.1, 0.28
"""Shares of the views without a cast, only dimmed, and of casts on display values."""
VISIBLE_DE = 3.5
FALSE_ALARM = 0.85
"""The weight of views without a cast beside those with one."""
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
OBJECTS = np.array([list(bytes.fromhex(code)) for code in [*COLOR_CHECKER.split(), "8c6b54"]]) / 255
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])


def draw_cast(rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Gains f64[3], and whether they are meant for display values rather than for light."""
    kind, is_display = rng.random(), bool(rng.random() < DISPLAY)
    if kind < NONE:
        return np.ones(3), False
    if kind < NONE + DIMMED:
        return np.full(3, np.exp(rng.uniform(np.log(0.45), np.log(0.92)))), is_display
    warmth, green = rng.normal(0, 0.42), rng.normal(0, 0.3 if rng.random() < 0.15 else 0.13)
    gains = np.exp([0.75 * warmth + green, 0.0, green - warmth])
    gains /= gains @ LUMINANCE if rng.random() < 0.55 else gains.max()
    if rng.random() < 0.3:
        gains *= np.exp(rng.uniform(-0.6, 0.05))
    return (np.sqrt(gains) if is_display else gains), is_display


def draw_crop(image: np.ndarray, rng: np.random.Generator, least: float = 0.5, most: float = 1) -> np.ndarray:
    """A part of u8[H,W,3] of ``least`` to ``most`` of its width and height."""
    height, width = image.shape[:2]
    tall, wide = (int(size * rng.uniform(least, most)) for size in (height, width))
    y, x = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    return image[y : y + tall, x : x + wide]


def develop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another contrast and saturation of u8[H,W,3]; its greys stay grey."""
    display = (image.astype(np.float32) / 255) ** np.exp(rng.normal(0, 0.12))
    grey = (display @ LUMINANCE.astype(np.float32))[..., None]
    return np.round(255 * np.clip(grey + rng.uniform(0.75, 1.2) * (display - grey), 0, 1)).astype(np.uint8)


def draw_collage(photos: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A picture u8[120,160,3] of 12 to 192 square parts of photographs: of many colours, none of them the scene's own."""
    import cv2

    side = int(rng.choice([10, 20, 40]))
    collage = np.empty((120, 160, 3), np.uint8)
    for y in range(0, 120, side):
        for x in range(0, 160, side):
            part = draw_crop(photos[int(rng.integers(len(photos)))], rng, least=0.1, most=0.3)
            collage[y : y + side, x : x + side] = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
    return collage


def draw_frames(photos: Sequence[np.ndarray], index: int, view: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One or two frames u8[h,w,3] of a clip, as photograph ``index`` and perhaps other ones may show it."""
    import cv2

    kind = rng.random()
    if view % 6 == 5:
        frames = [draw_collage(photos, rng)]
    elif view % 3 == 0:
        frames = [photos[index]]
    elif kind < 0.85:
        frames = [draw_crop(photos[index], rng) for _ in range(1 if kind < 0.6 else 2)]
    else:
        frames = [draw_crop(photos[place], rng) for place in (index, int(rng.integers(len(photos))))]
    scales = [min(1.0, VIEW_PX / max(frame.shape[:2])) for frame in frames]
    small = [cv2.resize(frame, None, fx=by, fy=by, interpolation=cv2.INTER_AREA) for frame, by in zip(frames, scales, strict=True)]
    return [develop(frame, rng) for frame in small] if view % 2 else small


def draw_views(photos: Sequence[np.ndarray], per_photo: int, seed: int) -> Iterator[tuple[Any, np.ndarray, bool]]:
    """Evidence, gains and whether they are display gains of every view of every photograph u8[H,W,3]."""
    for index in range(len(photos)):
        for view in range(per_photo):
            rng = np.random.default_rng([seed, index, view])
            frames = draw_frames(photos, index, view, rng)
            gains, is_display = draw_cast(rng)
            lit = [apply_display_gains(seen, gains) if is_display else apply_light(decode_light(seen), gains) for seen in frames]
            yield gather_evidence(lit), gains, is_display


def read_photos(folder: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The photographs u8[H,W,3], shrunk; stops if one is missing."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise SystemExit(f"{len(missing)} of {len(names)} photographs are not in {folder}, such as {missing[:1]}.")
    return [shrink(read_image(folder / name).rgb) for name in names]


class LightNet(nn.Module):
    """``pipeline.composite.harmonize`` once more, for a batch and with gradients."""

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.mean, self.spread = levels.mean(dim=0), levels.std(dim=0) + 1e-3
        self.axis = torch.tensor(CAST_AXIS, dtype=torch.float32)
        squares = self.axis[:, None] ** 2 + self.axis[None] ** 2
        around = torch.roll(squares, (BINS // 2, BINS // 2), (0, 1))
        self.filters = nn.Parameter(3 * torch.exp(-around / (2 * 0.1**2)).repeat(4, 1, 1))
        self.prior = nn.Parameter(-squares / (2 * 0.4**2))
        self.hidden = nn.Linear(SHAPES + levels.shape[1], HIDDEN)
        self.out = nn.Linear(HIDDEN, 2)
        with torch.no_grad():
            self.out.weight *= 0.1
            self.out.bias.copy_(torch.tensor([1.5, 0.0]))

    def forward(self, spectra: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Gains f32[n,3] and, before confidence, log ratios f32[n,2]; ``spectra`` are those of the histograms' roots."""
        score = torch.fft.irfft2((spectra * torch.fft.rfft2(self.filters).conj()).sum(dim=1), s=(BINS, BINS)) + self.prior
        probability = torch.softmax(score.flatten(1), dim=1).view(-1, BINS, BINS)
        u, v = probability.sum(dim=2) @ self.axis, probability.sum(dim=1) @ self.axis
        squares = (self.axis[None, :, None] - u[:, None, None]) ** 2 + (self.axis[None, None] - v[:, None, None]) ** 2
        entropy = -(probability * torch.log(probability + 1e-9)).sum(dim=(1, 2))
        middle = slice(BINS // 2 - 1, BINS // 2 + 2)
        neutral = torch.log(probability[:, middle, middle].sum(dim=(1, 2)) + 1e-3)
        spread = torch.sqrt((probability * squares).sum(dim=(1, 2)) + 1e-6)
        size = torch.sqrt(u * u + v * v + 1e-6)
        shape = torch.stack([u, v, u.abs(), v.abs(), size, entropy / 5, neutral / 3, 2 * spread], dim=1)
        seen = torch.nn.functional.dropout((levels - self.mean) / self.spread, 0.4, self.training)
        certainty, exposure = self.out(torch.tanh(self.hidden(torch.cat([shape, seen], dim=1)))).T
        cast = torch.stack([u, v], dim=1)
        return _to_gains(cast * torch.sigmoid(certainty)[:, None], exposure), cast

    def roughness(self) -> Tensor:
        """What a rough or large filter costs."""
        tables = (self.filters, self.prior[None])
        steps = [((table - table.roll(1, dim)) ** 2).sum() for table in tables for dim in (-1, -2)]
        return sum(steps, torch.tensor(0.0)) + 0.05 * sum((table**2).sum() for table in tables)

    def numbers(self) -> dict[str, np.ndarray]:
        """As ``harmonize`` reads them."""
        layers = {name: torch.cat([layer.weight, layer.bias[:, None]], dim=1) for name, layer in self.layers().items()}
        tables = {"filters": self.filters, "prior": self.prior, "mean": self.mean, "spread": self.spread, **layers}
        return {name: table.detach().numpy().astype(np.float32) for name, table in tables.items()}

    def layers(self) -> dict[str, nn.Linear]:
        return {"hidden": self.hidden, "out": self.out}


def _to_gains(cast: Tensor, exposure: Tensor) -> Tensor:
    length = torch.sqrt((cast * cast).sum(dim=1, keepdim=True) + 1e-9)
    cast = cast * MOST_CAST * torch.tanh(length / MOST_CAST) / length
    gains = torch.exp(torch.stack([cast[:, 0], torch.zeros_like(exposure), cast[:, 1]], dim=1))
    exposure = MOST_EXPOSURE * torch.tanh(exposure / MOST_EXPOSURE)
    return gains / (gains @ torch.tensor(LUMINANCE, dtype=torch.float32))[:, None] * torch.exp(exposure)[:, None]


def _decode(display: Tensor) -> Tensor:
    return torch.where(display <= 0.04045, display / 12.92, ((display.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)


def _lab(linear: Tensor) -> Tensor:
    """CIE 1976 L*a*b* (D65) of linear sRGB f32[...,3]."""
    xyz = linear.clamp(0, 1) @ (torch.tensor(TO_XYZ) / torch.tensor([[0.95047], [1.0], [1.08883]])).T.float()
    root = torch.where(xyz > 216 / 24389, xyz.clamp(min=1e-6) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    return torch.stack([116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], -1)


def fit(views: list[tuple[Any, np.ndarray, bool]], epochs: int, seed: int, batch: int = 128) -> dict[str, np.ndarray]:
    """The numbers that serve these views best."""
    torch.manual_seed(seed)
    histograms = torch.tensor(np.stack([evidence.histograms for evidence, _, _ in views]))
    spectra = torch.fft.rfft2(torch.sqrt(histograms))
    levels = torch.tensor(np.stack([evidence.levels for evidence, _, _ in views]))
    gains = torch.tensor(np.stack([gains for _, gains, _ in views]), dtype=torch.float32)
    is_display = torch.tensor([is_display for _, _, is_display in views])
    is_none = (gains == 1).all(dim=1)
    objects = torch.tensor(OBJECTS, dtype=torch.float32)
    under_display = _decode((objects * gains[:, None]).clamp(0, 1))
    truth = _lab(torch.where(is_display[:, None, None], under_display, _decode(objects) * gains[:, None]))
    plain = (truth - _lab(_decode(objects))).norm(dim=-1)
    logs = torch.log(gains) * torch.where(is_display, 2.25, 1.0)[:, None]
    ratios = torch.stack([logs[:, 0] - logs[:, 1], logs[:, 2] - logs[:, 1]], dim=1)

    net = LightNet(levels)
    tables, rest = [net.filters, net.prior], [*net.hidden.parameters(), *net.out.parameters()]
    optimizer = torch.optim.AdamW([{"params": tables, "weight_decay": 0.0}, {"params": rest, "weight_decay": 1e-3}], lr=0.01)
    batch = min(batch, len(views))
    steps = epochs * (len(views) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.05, 0.01], total_steps=steps)
    order = torch.cat([torch.randperm(len(views))[: len(views) // batch * batch] for _ in range(epochs)]).view(steps, batch)
    for chosen in order:
        estimate, cast = net(spectra[chosen], levels[chosen])
        error = (_lab(_decode(objects) * estimate[:, None]) - truth[chosen]).norm(dim=-1)
        none = is_none[chosen]
        share = (error / plain[chosen].clamp(min=0.5))[~none]
        loss = (0.5 * torch.log(0.1 + share) + torch.sigmoid((share - 0.45) / 0.15)).mean()
        loss = loss + 0.3 * torch.sigmoid((share - 1) / 0.15).mean() + 0.3 * (cast - ratios[chosen]).norm(dim=1).mean()
        if none.any():
            loss = loss + FALSE_ALARM * (torch.sigmoid((error[none] - VISIBLE_DE) / 0.8) + 0.02 * error[none]).mean()
        optimizer.zero_grad()
        (loss + 2e-4 * net.roughness()).backward()
        optimizer.step()
        schedule.step()
    return net.numbers()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the sources")
    parser.add_argument("--list", type=Path, default=PHOTOS, help="photographs, a path in the folder on each line")
    parser.add_argument("-o", "--output", type=Path, default=NUMBERS)
    parser.add_argument("--views", type=int, default=24, help="views of each photograph")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order
    started = time.monotonic()
    photos = read_photos(arguments.folder, arguments.list.read_text().splitlines())
    views = list(draw_views(photos, arguments.views, arguments.seed))
    print(f"{len(photos)} photographs, {len(views)} views, {time.monotonic() - started:.0f} s")
    tables: dict[str, Any] = {"note": np.array(NOTE), **fit(views, arguments.epochs, arguments.seed)}
    np.savez_compressed(arguments.output, **tables)
    print(f"{arguments.output.name}: {arguments.output.stat().st_size / 1e3:.0f} kB, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
