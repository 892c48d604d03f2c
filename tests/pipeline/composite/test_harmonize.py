"""The scene's light: known casts are found, neutral scenes are left alone, the object's own colour plays no part."""

from __future__ import annotations

import inspect
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.composite import harmonize
from pipeline.composite.harmonize import estimate_light, object_gains
from pipeline.composite.light import decode_light, encode_light

PORTRAIT = Path(__file__).parents[3] / "assets" / "examples" / "astronaut.png"
CASTS = {
    "warm": (1.25, 1.0, 0.7),
    "very warm": (1.0, 0.75, 0.45),
    "cool": (0.72, 0.95, 1.2),
    "green": (0.8, 1.1, 0.8),
    "magenta": (1.15, 0.8, 1.1),
    "dusk": (0.5, 0.6, 0.85),
}
OBJECTS = np.array([[0.5, 0.5, 0.5], [0.6, 0.1, 0.08], [0.1, 0.35, 0.12], [0.08, 0.12, 0.5], [0.7, 0.55, 0.1]])
"""Mean linear colours."""


def paint_scene(seed: int) -> np.ndarray:
    """Patches of many colours in uneven light, one colour in the majority, some grey and some nearly white ones."""
    rng = np.random.default_rng(seed)
    colors = rng.uniform(0.03, 0.7, (12, 16, 3)) ** 1.5
    colors[rng.random((12, 16)) < 0.25] = rng.uniform(0.05, 0.6, 3)
    grey = rng.random((12, 16)) < 0.2
    colors[grey] = rng.uniform(0.05, 0.8, grey.sum())[:, None] * rng.normal(1, 0.03, (grey.sum(), 3))
    colors[rng.integers(12), rng.integers(16)] = 0.93
    scene = cv2.resize(colors, (256, 192), interpolation=cv2.INTER_NEAREST)
    light = cv2.resize(rng.uniform(0.6, 1.0, (3, 4)), (256, 192), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(cv2.GaussianBlur(scene * light, (0, 0), 0.8), 0, 1)


def to_image(linear: np.ndarray) -> np.ndarray:
    return np.round(encode_light(np.clip(linear, 0, 1).astype(np.float32))).astype(np.uint8)


def to_lab(linear: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of linear sRGB f64[...,3]."""
    matrix = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    xyz = np.clip(linear, 0, 1) @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], axis=-1)


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.linalg.norm(to_lab(first) - to_lab(second), axis=-1)


def photographs() -> list[np.ndarray]:
    """The shipped portrait and its quarters, linear f32[H,W,3]: one of the photographs that the numbers were fitted on."""
    whole = decode_light(np.asarray(Image.open(PORTRAIT).convert("RGB").resize((256, 256), Image.Resampling.BOX)))
    return [whole, whole[:160, :160], whole[:160, 96:], whole[96:, :160], whole[96:, 96:]]


def test_known_casts_are_found_and_neutral_scenes_left_alone() -> None:
    ratios, changes = [], []
    for scene in photographs():
        neutral = object_gains(estimate_light([to_image(scene)]), 1.0)
        changes.append(difference(OBJECTS * neutral, OBJECTS))
        for cast in CASTS.values():
            gains = object_gains(estimate_light([to_image(scene * np.array(cast))]), 1.0)
            ratios.append(difference(OBJECTS * gains, OBJECTS * cast) / difference(OBJECTS, OBJECTS * cast))
    assert np.size(ratios) >= 150
    assert np.median(ratios) <= 0.5
    assert np.mean(np.array(ratios) > 1) <= 0.2
    assert np.median(changes) < 2
    assert np.quantile(changes, 0.9) < 5


def test_strangely_coloured_scenes_are_rarely_made_worse() -> None:
    """Painted patches of every colour are unlike any photograph: little is found in them, and little harm is done."""
    ratios, changes = [], []
    for seed in range(8):
        scene = paint_scene(seed)
        changes.append(difference(OBJECTS * object_gains(estimate_light([to_image(scene)]), 1.0), OBJECTS))
        for cast in CASTS.values():
            gains = object_gains(estimate_light([to_image(scene * np.array(cast))]), 1.0)
            ratios.append(difference(OBJECTS * gains, OBJECTS * cast) / difference(OBJECTS, OBJECTS * cast))
    assert np.median(ratios) < 1
    assert np.mean(np.array(ratios) > 1.05) <= 0.2
    assert np.quantile(changes, 0.9) < 2


def test_strength() -> None:
    light = estimate_light([to_image(paint_scene(3) * np.array(CASTS["warm"]))])
    none, some, most, all_ = (np.log(object_gains(light, strength)) for strength in (0.0, 0.3, 0.7, 1.0))
    assert not none.any()
    assert np.allclose(all_, np.log(light.gains), atol=1e-5)
    assert np.linalg.norm(none) < np.linalg.norm(some) < np.linalg.norm(most) < np.linalg.norm(all_)


def test_only_the_footage_is_asked() -> None:
    assert list(inspect.signature(estimate_light).parameters) == ["images"]


@pytest.mark.parametrize(
    "image", [np.zeros((40, 60, 3)), np.full((40, 60, 3), 255), np.full((40, 60, 3), 128), np.full((2, 2, 3), 9)]
)
def test_scenes_with_nothing_to_see(image: np.ndarray) -> None:
    gains = object_gains(estimate_light([image.astype(np.uint8)]), 1.0)
    assert np.isfinite(gains).all()
    assert np.abs(gains / gains.max() - 1).max() < 0.05


def test_a_scene_of_one_colour_is_not_taken_for_a_lamp() -> None:
    """A lawn with a little neutral sky: green by nature."""
    rng = np.random.default_rng(0)
    lawn = np.array([0.08, 0.25, 0.04]) * rng.uniform(0.4, 1.6, (192, 256, 1)) * rng.normal(1, 0.1, (192, 256, 3))
    lawn[:40] = np.array([0.8, 0.82, 0.85]) * rng.uniform(0.9, 1.1, (40, 256, 1))
    gains = object_gains(estimate_light([to_image(lawn)]), 1.0)
    assert difference(OBJECTS * gains, OBJECTS).max() < 5


def test_the_frames_are_pooled() -> None:
    """More frames of the same scene say the same; the answer is one for the clip."""
    image = to_image(paint_scene(2) * np.array(CASTS["warm"]))
    one, many = estimate_light([image]), estimate_light([image] * 3)
    assert np.allclose(one.gains, many.gains, rtol=1e-6)
    assert isinstance(many, harmonize.SceneLight)


def test_a_dimmed_scene_dims_the_object() -> None:
    """Highlights that stop far below white: the object must not shine in them."""
    shares = []
    for seed in range(6):
        gains = object_gains(estimate_light([to_image(0.45 * paint_scene(seed))]), 1.0)
        shares.append(difference(OBJECTS * gains, OBJECTS * 0.45) / difference(OBJECTS, OBJECTS * 0.45))
    assert np.median(shares) < 0.8


def test_the_estimate_hardly_depends_on_size_and_place() -> None:
    """A cut in the footage's size and a mirrored picture are the same light."""
    scene = paint_scene(4) * np.array(CASTS["warm"])
    gains = estimate_light([to_image(scene)]).gains
    large = cv2.resize(to_image(scene), (1024, 768), interpolation=cv2.INTER_CUBIC)
    for same in (large, to_image(scene[:, ::-1])):
        assert np.abs(np.log(estimate_light([same]).gains / gains)).max() < 0.05


def test_the_fit_makes_the_numbers_that_the_estimate_reads(monkeypatch) -> None:
    """A short fit to a few painted scenes: tables of the right shapes; the estimate and the fit's network say the same."""
    torch = pytest.importorskip("torch")
    from benchmarks import harmonize_fit

    photos = [to_image(paint_scene(seed)) for seed in range(3)]
    views = list(harmonize_fit.draw_views(photos, 8, seed=0))
    again = harmonize_fit.draw_views(photos, 8, seed=0)
    assert all(np.array_equal(first[0].levels, second[0].levels) for first, second in zip(views, again, strict=True))
    assert len(views) == 24 and any((gains == 1).all() for _, gains, _ in views)
    numbers = harmonize_fit.fit(views, epochs=2, seed=0, batch=8)
    shipped = np.load(harmonize.NUMBERS)
    assert {name: table.shape for name, table in numbers.items()} == {
        name: shipped[name].shape for name in shipped.files if name != "note"
    }

    evidence = harmonize.gather_evidence([to_image(paint_scene(9))])
    net = harmonize_fit.LightNet(torch.tensor(np.stack([seen.levels for seen, _, _ in views]))).eval()
    spectra = torch.fft.rfft2(torch.sqrt(torch.tensor(evidence.histograms)))[None]
    expected, cast = net(spectra, torch.tensor(evidence.levels)[None])
    monkeypatch.setattr(harmonize, "_numbers", net.numbers)
    light = estimate_light([to_image(paint_scene(9))])
    assert np.allclose(light.gains, expected[0].detach().numpy(), rtol=1e-4)
    assert np.abs(cast[0].detach().numpy()).max() > 1e-3


@pytest.mark.parametrize(("cast", "exposure"), [((3.0, -4.0), -5.0), ((-2.0, 2.0), 5.0), ((1e-4, 0.0), 0.0)])
def test_no_light_is_followed_all_the_way(cast: tuple[float, float], exposure: float) -> None:
    gains = harmonize._gains(np.array(cast), exposure)
    ratios = np.log(gains[[0, 2]] / gains[1])
    assert np.linalg.norm(ratios) <= harmonize.MOST_CAST
    assert abs(np.log(gains @ harmonize._LUMINANCE)) <= np.log(1.6) + 1e-9
    assert np.allclose(ratios / np.linalg.norm(ratios), np.array(cast) / np.linalg.norm(cast))


def test_rendered_results_are_no_scenes(tmp_path) -> None:
    from benchmarks.harmonize_quality import read_scenes

    for name in ("street.png", "street-result.png"):
        Image.fromarray(to_image(paint_scene(0))).save(tmp_path / name)
    assert [name for name, _ in read_scenes(tmp_path)] == ["street.png"]


def test_what_the_numbers_were_fitted_on_is_listed() -> None:
    """The file says where it comes from, and every photograph's source is named with its licence in the fit."""
    from benchmarks import harmonize_fit

    assert "harmonize_photos.txt" in str(np.load(harmonize.NUMBERS)["note"])
    names = harmonize_fit.PHOTOS.read_text().splitlines()
    assert len(names) == len(set(names)) > 400
    for source in {name.split("/")[0] for name in names}:
        assert f"``{source}``" in harmonize_fit.__doc__


def test_light_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.abs(encode_light(decode_light(levels)) - levels).max() < 0.05
