from __future__ import annotations

import builtins
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import matting
from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.matting import CutOut, cut_out, warm_up

SIDE = 128
OBJECT_COLOR = (0.75, 0.22, 0.12)
BACKDROPS = {
    "white": (0.98, 0.98, 0.98),
    "gray": (0.6, 0.61, 0.62),
    "green": (0.25, 0.6, 0.3),
    "blue": (0.25, 0.4, 0.75),
    "dark": (0.12, 0.12, 0.14),
}

pytestmark = pytest.mark.timeout(600)  # numba compiles for minutes where it never ran before


@pytest.fixture(scope="module", autouse=True)
def warmed() -> None:
    warm_up()


def disk(side: int = SIDE, radius: float = 34, center: tuple[float, float] = (64, 60)) -> np.ndarray:
    """The exact alpha f32 of a soft-edged disk."""
    y, x = np.mgrid[0:side, 0:side] + 0.5
    return np.clip((radius - np.hypot(x - center[0], y - center[1])) / 2.5 + 0.5, 0, 1).astype(np.float32)


def painted(alpha: np.ndarray, seed: int = 0) -> np.ndarray:
    """An object's colours f32[H,W,3]: red, shaded, with some texture."""
    random = np.random.default_rng(seed)
    y = np.linspace(0.15, -0.15, alpha.shape[0])[:, None, None]
    return np.clip(np.array(OBJECT_COLOR) + y + random.normal(0, 0.03, (*alpha.shape, 1)), 0, 1)


def photo(alpha: np.ndarray, backdrop: Any, seed: int = 0) -> np.ndarray:
    """The object before a backdrop (a colour or a picture, 0..1) as a slightly noisy u8 photograph."""
    mixed = alpha[..., None] * painted(alpha, seed) + (1 - alpha[..., None]) * np.asarray(backdrop)
    noise = np.random.default_rng(seed + 1).normal(0, 0.004, mixed.shape)
    return np.rint(np.clip(mixed + noise, 0, 1) * 255).astype(np.uint8)


def over(cut: CutOut, color: Any) -> np.ndarray:
    return cut.image / 255 * cut.alpha[..., None] + (1 - cut.alpha[..., None]) * np.asarray(color)


def halo(cut: CutOut, alpha: np.ndarray, color: Any) -> float:
    """The mean error, in levels of 255, where the object's edge is soft, when the cut-out is laid over another colour."""
    truth = alpha[..., None] * painted(alpha) + (1 - alpha[..., None]) * np.asarray(color)
    edge = (alpha > 0) & (alpha < 1)
    return float(np.abs(over(cut, color) - truth)[edge].mean() * 255)


# A picture's own transparency


def test_own_alpha_is_used_as_it_is() -> None:
    alpha = disk()
    rgb = photo(alpha, BACKDROPS["green"])
    result = cut_out(rgb, alpha)
    np.testing.assert_array_equal(result.alpha, alpha)
    np.testing.assert_array_equal(result.image[alpha > 0], rgb[alpha > 0])
    assert "transparency" in result.note


def test_own_alpha_never_imports_pymatting() -> None:
    code = (
        "import sys, numpy as np; from pipeline.matting import cut_out\n"
        "alpha = np.zeros((40, 40), np.float32); alpha[10:30, 10:30] = 1\n"
        "cut_out(np.zeros((40, 40, 3), np.uint8), alpha)\n"
        "assert 'pymatting' not in sys.modules and 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_importing_matting_is_light() -> None:
    code = "import sys, pipeline.matting; assert not {'cv2', 'numba', 'pymatting', 'PIL', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("hidden", [(0, 255, 0), (0, 0, 0), (255, 255, 255)])
def test_no_fringe_when_a_transparent_picture_is_resampled(hidden: tuple[int, int, int]) -> None:
    import cv2

    alpha = (disk() > 0.5).astype(np.float32)
    rgb = np.where(alpha[..., None] > 0, (200, 60, 30), hidden).astype(np.uint8)
    result = cut_out(rgb, alpha)
    for size in (37, 61, 300):
        image = cv2.resize(result.image, (size, size), interpolation=cv2.INTER_AREA if size < SIDE else cv2.INTER_LINEAR)
        soft = cv2.resize(result.alpha, (size, size), interpolation=cv2.INTER_AREA if size < SIDE else cv2.INTER_LINEAR)
        np.testing.assert_allclose(image[soft > 0.004], np.broadcast_to((200, 60, 30), image[soft > 0.004].shape), atol=1)


def test_colors_are_continued_from_the_nearest_part_of_the_object() -> None:
    alpha = np.zeros((60, 80), np.float32)
    alpha[20:40, 15:65] = 1
    rgb = np.zeros((60, 80, 3), np.uint8)
    rgb[20:40, 15:40], rgb[20:40, 40:65] = (220, 30, 30), (30, 30, 220)
    image = cut_out(rgb, alpha).image.astype(int)
    assert image[17, 18, 0] > 180 > 60 > image[17, 18, 2]
    assert image[42, 62, 2] > 180 > 60 > image[42, 62, 0]


def test_a_transparent_picture_has_nothing_in_it() -> None:
    with pytest.raises(UserError, match="nothing in it"):
        cut_out(np.zeros((30, 30, 3), np.uint8), np.full((30, 30), 0.3, np.float32))


def test_a_mask_limits_an_alpha() -> None:
    alpha, mask = disk(), np.zeros((SIDE, SIDE), bool)
    mask[:, :64] = True
    result = cut_out(photo(alpha, BACKDROPS["white"]), alpha, mask)
    np.testing.assert_array_equal(result.alpha, alpha * mask)


# Found before a backdrop


@pytest.mark.parametrize("name", BACKDROPS)
def test_a_product_photo_needs_no_click(name: str) -> None:
    alpha = disk()
    result = cut_out(photo(alpha, BACKDROPS[name]))
    assert result.alpha.dtype == np.float32 and result.image.dtype == np.uint8
    assert np.abs(result.alpha - alpha).mean() < 0.001
    assert result.alpha[64, 64] == 1 and result.alpha[3, 3] == 0
    for color in ((0, 0, 0), (1, 1, 1), (0, 1, 0)):
        assert halo(result, alpha, color) < 6


def test_the_halo_bound_means_something() -> None:
    alpha = disk()
    rgb = photo(alpha, BACKDROPS["white"])
    assert halo(CutOut(rgb, alpha, ""), alpha, (0, 0, 0)) > 20
    assert halo(CutOut(rgb, (disk(radius=36) > 0.5).astype(np.float32), ""), alpha, (0, 0, 0)) > 40


def graded() -> np.ndarray:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return np.array([0.85, 0.87, 0.9]) * (1.05 - 0.4 * y - 0.3 * (x - 0.5) ** 2)[..., None]


def shadowed() -> np.ndarray:
    import cv2

    shadow = cv2.GaussianBlur(disk(radius=26, center=(84, 84)), (0, 0), 5)
    return np.array([0.9, 0.9, 0.9]) * (1 - 0.4 * shadow)[..., None]


def textured() -> np.ndarray:
    import cv2

    grain = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 1, (SIDE, SIDE)), (0, 0), 1.2)
    return np.array([0.55, 0.65, 0.7]) * (1 + 0.1 * grain)[..., None]


def table_before_wall() -> np.ndarray:
    rows = np.linspace(0, 1, SIDE)[:, None, None] > 0.62
    return np.where(rows, (0.5, 0.42, 0.33), (0.8, 0.82, 0.8)) * np.ones((SIDE, SIDE, 1))


@pytest.mark.parametrize("backdrop", [graded, shadowed, textured, table_before_wall])
def test_backdrops_that_are_not_plain(backdrop: Any) -> None:
    alpha = disk()
    result = cut_out(photo(alpha, backdrop()))
    assert np.abs(result.alpha - alpha).mean() < 0.001
    assert result.alpha[64, 64] == 1 and result.alpha[120, 10] == 0
    assert halo(result, alpha, (0, 1, 0)) < 6


def test_a_tight_crop_works() -> None:
    alpha = disk(side=100, radius=50, center=(50, 50))
    result = cut_out(photo(alpha, BACKDROPS["gray"]))
    assert np.abs(result.alpha - alpha).mean() < 0.02


def test_a_hole_shows_what_is_behind() -> None:
    alpha = disk() * (1 - disk(radius=14))
    result = cut_out(photo(alpha, graded()))
    assert np.abs(result.alpha - alpha).mean() < 0.001
    assert result.alpha[60, 64] == 0


def test_a_thin_stalk_is_kept() -> None:
    alpha = np.maximum(disk(radius=24, center=(64, 80)), 0)
    alpha[20:60, 63:65] = 1
    result = cut_out(photo(alpha, BACKDROPS["white"]))
    assert result.alpha[30:55, 63:65].mean() > 0.8
    assert result.alpha[30:55, 50:58].max() == 0


def test_large_pictures_are_solved_small_and_carried_to_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matting, "MAX_SOLVED_PIXELS", 2000)
    monkeypatch.setattr(matting, "_TILE_PX", 50)
    monkeypatch.setattr(matting, "_TILE_MARGIN_PX", 12)
    alpha = disk()
    result = cut_out(photo(alpha, BACKDROPS["blue"]))
    assert np.abs(result.alpha - alpha).mean() < 0.005
    assert halo(result, alpha, (1, 1, 1)) < 10


def test_colors_are_left_alone_where_the_object_is_solid() -> None:
    rgb = photo(disk(), BACKDROPS["green"])
    result = cut_out(rgb)
    np.testing.assert_array_equal(result.image[result.alpha == 1], rgb[result.alpha == 1])
    # no green is left in the edge: the object has little of it, the backdrop much
    assert result.image[result.alpha > 0][:, 1].astype(int).max() < 130


def noise_picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def clouds() -> np.ndarray:
    import cv2

    soft = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, (SIDE, SIDE, 3)), (0, 0), 6)
    return np.clip(128 + 40 * soft / soft.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "rgb",
    [
        pytest.param(np.full((SIDE, SIDE, 3), 255, np.uint8), id="white"),
        pytest.param(np.zeros((SIDE, SIDE, 3), np.uint8), id="black"),
        pytest.param(np.rint(graded() * 255).astype(np.uint8), id="graded"),
        pytest.param(noise_picture(), id="noise"),
        pytest.param(clouds(), id="clouds"),
        pytest.param(photo(disk(radius=2), BACKDROPS["white"]), id="speck"),
        pytest.param(np.zeros((1, 1, 3), np.uint8), id="one pixel"),
        pytest.param(np.zeros((3, 900, 3), np.uint8), id="thin"),
    ],
)
def test_nothing_plausible_is_said(rgb: np.ndarray) -> None:
    with pytest.raises(UserError, match="PNG with transparency, or a mask"):
        cut_out(rgb)


def test_an_object_that_fills_the_picture_is_not_guessed() -> None:
    alpha = np.ones((SIDE, SIDE), np.float32)
    alpha[:4, :4] = alpha[-4:, -4:] = 0
    rgb = photo(alpha, BACKDROPS["blue"])
    try:
        result = cut_out(rgb)
    except UserError:
        return
    assert result.alpha.mean() < 0.1  # only if the corners were taken for the object


# A given mask


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_rough_mask_is_refined(as_bytes: bool) -> None:
    alpha = disk()
    mask: np.ndarray = disk(radius=35, center=(64.5, 59.5)) > 0.5
    if as_bytes:
        mask = mask.astype(np.uint8) * 255
    result = cut_out(photo(alpha, clouds() / 255 * (0.3, 1, 1)), mask=mask)
    rough = np.abs((mask > 0) - alpha).mean()
    assert np.abs(result.alpha - alpha).mean() < 0.5 * rough
    assert "mask" in result.note


def test_a_mask_decides_what_is_cut_out() -> None:
    alpha = np.maximum(disk(radius=20, center=(35, 60)), disk(radius=20, center=(95, 60)))
    result = cut_out(photo(alpha, BACKDROPS["white"]), mask=disk(radius=21, center=(35, 60)) > 0.5)
    assert result.alpha[60, 35] == 1 and result.alpha[60, 95] == 0


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.ones((SIDE, SIDE), bool), id="all"),
        pytest.param(np.pad(np.ones((1, 1), bool), (60, SIDE - 61)), id="one pixel"),
        pytest.param(np.pad(np.ones((SIDE, 40), bool), ((0, 0), (0, SIDE - 40))), id="to the edges"),
    ],
)
def test_odd_masks_work(mask: np.ndarray) -> None:
    result = cut_out(photo(disk(), BACKDROPS["gray"]), mask=mask)
    assert result.alpha[mask].max() == 1
    assert result.alpha.min() >= 0


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(UserError, match="mask is empty"):
        cut_out(noise_picture(), mask=np.zeros((SIDE, SIDE), bool))


def test_wrong_arrays_are_refused() -> None:
    rgb = noise_picture()
    for arguments in (
        (rgb[..., :2],),
        (rgb.astype(np.float32),),
        (rgb, np.zeros((2, 2), np.float32)),
        (rgb, disk().astype(np.float64)),
        (rgb, None, np.zeros((2, 2), bool)),
        (rgb, None, disk()),
    ):
        with pytest.raises(ValueError, match="must be"):
            cut_out(*arguments)


# Repeating


def test_the_same_input_gives_the_same_bytes() -> None:
    rgb = photo(disk(), textured())
    first, second = cut_out(rgb), cut_out(rgb.copy())
    assert first.alpha.tobytes() == second.alpha.tobytes() and first.image.tobytes() == second.image.tobytes()


def test_threads_do_not_disturb_each_other() -> None:
    rgbs = [photo(disk(), BACKDROPS[name]) for name in ("white", "blue")]
    expected = [cut_out(rgb).alpha.tobytes() for rgb in rgbs]
    results: list[bytes | None] = [None] * 4

    def work(slot: int) -> None:
        results[slot] = cut_out(rgbs[slot % 2]).alpha.tobytes()

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected * 2


def test_a_result_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ArtifactCache(tmp_path)
    rgb = photo(disk(), BACKDROPS["green"])
    first = cut_out(rgb, cache=cache)
    other = cut_out(rgb, mask=disk() > 0.5, cache=cache)
    monkeypatch.setattr(matting, "_cut_by_matting", lambda rgb, mask: pytest.fail("computed again"))
    again = cut_out(rgb, cache=cache)
    np.testing.assert_array_equal(again.alpha, first.alpha)
    np.testing.assert_array_equal(again.image, first.image)
    assert again.note == first.note != other.note


def test_matting_works_where_numba_cannot_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    real_import = builtins.__import__
    attempts = []

    def guarded(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "pymatting":
            attempts.append(numba.config.CACHE_DIR)
            if not numba.config.CACHE_DIR:
                raise RuntimeError("cannot cache function '_cf_laplacian': no locator available for file 'cf_laplacian.py'")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(builtins, "__import__", guarded)
    assert matting._pymatting().__name__ == "pymatting"
    assert len(attempts) == 2 and Path(attempts[1]).is_dir()


# Corrections by hand


def test_a_correction_changes_the_cut_out_around_it_and_leaves_the_rest_bit_for_bit() -> None:
    alpha = disk()
    rgb = photo(alpha, BACKDROPS["gray"])
    before = cut_out(rgb)
    wanted = before.alpha >= 0.5
    wanted[:, :45] = False
    after = cut_out(rgb, mask=wanted, is_correction=True)
    np.testing.assert_array_equal(after.alpha[:, 75:], before.alpha[:, 75:])
    assert after.alpha[:, :38].max() == 0 and before.alpha[:, :38].max() == 1
    assert after.note == matting.NOTE_HAND


def test_a_correction_that_says_nothing_new_is_the_automatic_cut_out() -> None:
    rgb = photo(disk(), BACKDROPS["blue"])
    before = cut_out(rgb)
    after = cut_out(rgb, mask=before.alpha >= 0.5, is_correction=True)
    np.testing.assert_array_equal(after.alpha, before.alpha)
    np.testing.assert_array_equal(after.image, before.image)


def test_the_whole_picture_can_be_the_object() -> None:
    rgb = noise_picture()
    with pytest.raises(matting.NothingFound):
        cut_out(rgb)
    whole = cut_out(rgb, mask=np.ones(rgb.shape[:2], bool), is_correction=True)
    assert whole.note == matting.NOTE_WHOLE and (whole.alpha == 1).all()
    np.testing.assert_array_equal(whole.image, rgb)


def test_a_picture_with_transparency_can_be_corrected_both_ways() -> None:
    alpha = disk()
    rgb = photo(alpha, BACKDROPS["green"])
    wanted = alpha >= 0.5
    wanted[:40], wanted[100:110, 50:60] = False, True
    after = cut_out(rgb, alpha, mask=wanted, is_correction=True)
    assert after.alpha[:36].max() == 0 and after.alpha[103:107, 53:57].min() > 0.9
    np.testing.assert_array_equal(after.alpha[50:90], alpha[50:90])


def test_clicks_find_what_nothing_else_finds_and_are_kept(tmp_path: Path) -> None:
    from pipeline.types import Click

    rgb = photo(disk(), clouds() / 255 * (0.3, 1, 1))
    cache = ArtifactCache(tmp_path)
    found = cut_out(rgb, clicks=[Click(60, 64)], cache=cache)
    assert ((found.alpha >= 0.5) & (disk() >= 0.5)).sum() / ((found.alpha >= 0.5) | (disk() >= 0.5)).sum() > 0.85
    again = cut_out(rgb, clicks=[Click(60, 64)], cache=cache)
    np.testing.assert_array_equal(again.alpha, found.alpha)
    other = cut_out(rgb, clicks=[Click(60, 64), Click(60, 45, is_foreground=False)], cache=cache)
    assert not np.array_equal(other.alpha, found.alpha)
    with pytest.raises(UserError, match="click on the object itself"):
        cut_out(noise_picture(), clicks=[Click(5, 5, is_foreground=False)])
    with pytest.raises(ValueError, match="either a mask or clicks"):
        cut_out(rgb, mask=disk() > 0.5, clicks=[Click(5, 5)])
