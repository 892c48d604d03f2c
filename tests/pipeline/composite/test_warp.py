"""The warped cut-out against a brute-force ground truth, and where it lies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.composite.blend import cutout_from_patch
from pipeline.composite.light import decode_light, encode_light
from pipeline.composite.warp import Patch, ReferencePyramid, render_patch, render_shutter
from pipeline.motion import Pose, Warp
from pipeline.types import Reference
from tests.pipeline.composite.scenes import make_disc

EVERYWHERE = (-400, -400, 800, 800)


def make_warp(scale: float, turn_deg: float, shift: tuple[float, float], tilt: float = 0.0) -> Warp:
    cos, sin = scale * np.cos(np.deg2rad(turn_deg)), scale * np.sin(np.deg2rad(turn_deg))
    return Warp(((1.0, Pose(np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [tilt, 0.3 * tilt, 1.0]]))),))


def supersample(reference: Reference, warp: Warp, roi: tuple[int, int, int, int], per_axis: int = 8) -> np.ndarray:
    """Premultiplied linear f32[h,w,4]: every pixel the mean of 64 cubic look-ups in the reference itself."""
    premultiplied = np.dstack([decode_light(reference.image) * reference.alpha[..., None], reference.alpha])
    x0, y0, x1, y1 = roi
    xs = x0 + (np.arange((x1 - x0) * per_axis) + 0.5) / per_axis
    ys = y0 + (np.arange((y1 - y0) * per_axis) + 0.5) / per_axis
    at = warp.inverse(np.stack(np.meshgrid(xs, ys), axis=-1)).astype(np.float32) - 0.5
    fine = cv2.remap(premultiplied, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
    return cv2.resize(np.clip(fine, 0, 1), (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)


def on_grey(patch: Patch) -> np.ndarray:
    cutout = cutout_from_patch(patch)
    return cutout.rgb * cutout.alpha[..., None] + 128 * (1 - cutout.alpha[..., None])


@pytest.mark.parametrize("tilt", [0.0, 1e-3])
@pytest.mark.parametrize("scale", [0.1, 0.3, 0.7, 1.0, 1.5])
def test_close_to_supersampling(scale: float, tilt: float) -> None:
    reference = make_disc((220, 260))
    pyramid = ReferencePyramid(reference)
    warp = make_warp(scale, 17, (60.37, 20.61), tilt)
    patch = render_patch(pyramid, warp, EVERYWHERE)
    assert patch is not None
    truth = Patch(patch.x0, patch.y0, supersample(reference, warp, patch.roi))
    seen = truth.rgba[..., 3] > 0
    error = (on_grey(patch) - on_grey(truth))[seen]
    psnr_db = 10 * np.log10(255**2 / np.mean(error**2))
    assert psnr_db >= 38, psnr_db


def test_one_to_one_gives_the_reference_back() -> None:
    reference = make_disc()
    patch = render_patch(ReferencePyramid(reference), make_warp(1, 0, (30, 20)), EVERYWHERE)
    assert patch is not None
    shown = np.zeros((200, 200, 3), np.float32)
    x0, y0, x1, y1 = patch.roi
    shown[y0:y1, x0:x1] = cutout_from_patch(patch).rgb
    height, width = reference.hw
    solid = reference.alpha > 0.99
    error = shown[20 : 20 + height, 30 : 30 + width][solid] - reference.image[solid]
    assert np.abs(error).mean() < 0.7
    assert np.quantile(np.abs(error), 0.99) < 4


def test_the_mean_of_light_not_of_display_values() -> None:
    """A checkerboard of black and white, made small, has half the light: 188 of 255, not 128."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[(np.indices((64, 64)).sum(axis=0) % 2) == 0] = 255
    patch = render_patch(ReferencePyramid(Reference(image, np.ones((64, 64), np.float32))), make_warp(0.25, 0, (8, 8)), EVERYWHERE)
    assert patch is not None
    middle = cutout_from_patch(patch).rgb[8:-8, 8:-8]
    assert np.abs(middle - encode_light(np.array(0.5))).max() < 2


def test_size_changes_do_not_pop() -> None:
    """Contrast falls smoothly while the reference shrinks: no step between neighbours stands out."""
    pyramid = ReferencePyramid(make_disc((160, 160), seed=4))
    scales = np.geomspace(1.2, 0.15, 120)
    contrast = []
    for scale in scales:
        patch = render_patch(pyramid, make_warp(scale, 0, (200 - 80 * scale, 200 - 80 * scale)), EVERYWHERE)
        assert patch is not None
        solid = patch.rgba[..., 3] > 0.999
        contrast.append(patch.rgba[..., 1][solid].std())
    jumps = np.abs(np.diff(contrast, n=2))
    assert jumps.max() < 0.012, jumps.max()


def test_never_visible_outside_the_analytic_shape() -> None:
    reference = make_disc((60, 70))
    for scale in (0.2, 0.9, 2.5):
        warp = make_warp(scale, 30, (80.3, 60.7))
        patch = render_patch(ReferencePyramid(reference), warp, EVERYWHERE)
        assert patch is not None
        x0, y0, x1, y1 = patch.roi
        xs, ys = np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5
        at = warp.inverse(np.stack(np.meshgrid(xs, ys), axis=-1)).astype(np.float32) - 0.5
        analytic = cv2.remap((reference.alpha > 0).astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR) > 0
        grown = cv2.dilate(analytic.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))) > 0
        assert not ((cutout_from_patch(patch).alpha * 255 >= 0.5) & ~grown).any()


def test_outside_the_picture_is_nothing() -> None:
    pyramid = ReferencePyramid(make_disc())
    assert render_patch(pyramid, make_warp(1, 0, (900, 20)), (0, 0, 160, 120)) is None
    patch = render_patch(pyramid, make_warp(1, 0, (-50, -40)), (0, 0, 160, 120))
    assert patch is not None and patch.x0 == patch.y0 == 0


@pytest.mark.parametrize("speed_px", [(3.0, 0.0), (14.0, -9.0), (240.0, 60.0)])
def test_shutter_keeps_the_light_and_smears_along_the_path(speed_px: tuple[float, float]) -> None:
    pyramid = ReferencePyramid(make_disc((40, 40)))

    def warp_at(time: float) -> Warp:
        return make_warp(1, 0, (100 + speed_px[0] * time, 90 + speed_px[1] * time))

    still = render_patch(pyramid, warp_at(0), EVERYWHERE)
    smeared = render_shutter(pyramid, warp_at, 0, 0.5, EVERYWHERE)
    assert still is not None and smeared is not None
    assert np.allclose(smeared.rgba.sum(axis=(0, 1)), still.rgba.sum(axis=(0, 1)), rtol=5e-3)
    centres, spreads = [], []
    for patch in (still, smeared):
        weight = patch.rgba[..., 3] / patch.rgba[..., 3].sum()
        y, x = np.indices(weight.shape) + 0.5
        x, y = x + patch.x0, y + patch.y0
        centres.append(np.array([(weight * x).sum(), (weight * y).sum()]))
        spreads.append(np.array([(weight * (x - centres[-1][0]) ** 2).sum(), (weight * (y - centres[-1][1]) ** 2).sum()]))
    assert np.abs(centres[0] - centres[1]).max() < 0.1
    # a box of length L adds L^2 / 12 to the variance
    assert np.allclose(spreads[1] - spreads[0], (0.5 * np.array(speed_px)) ** 2 / 12, rtol=0.05, atol=0.3)


def test_fast_motion_shows_no_ghosts() -> None:
    """Along a long smear, alpha rises and falls once."""
    pyramid = ReferencePyramid(make_disc((30, 30)))
    patch = render_shutter(pyramid, lambda time: make_warp(1, 0, (100 + 400 * time, 90)), 0, 0.5, EVERYWHERE)
    assert patch is not None
    row = patch.rgba[patch.rgba.shape[0] // 2, :, 3]
    top = int(row.argmax())
    assert np.diff(row[: top + 1]).min() > -0.004 and np.diff(row[top:]).max() < 0.004


def test_a_still_object_is_not_blurred() -> None:
    pyramid = ReferencePyramid(make_disc())
    still = render_patch(pyramid, make_warp(0.8, 5, (40, 30)), EVERYWHERE)
    open_shutter = render_shutter(pyramid, lambda _: make_warp(0.8, 5, (40, 30)), 3, 0.5, EVERYWHERE)
    assert still is not None and open_shutter is not None
    assert np.array_equal(still.rgba, open_shutter.rgba)


def test_bending_warps_agree_with_the_matrix() -> None:
    """A warp that only seems to bend (its handles stay where they are) gives the same picture through the lattice."""
    pyramid = ReferencePyramid(make_disc())
    plain = make_warp(0.9, 10, (50.2, 40.4))
    handles = plain.forward(np.array([[10.0, 10], [90, 20], [50, 80]]))
    bent = Warp(((1.0, Pose(plain.parts[0][1].matrix, handles, handles)),))
    assert bent.matrix is None
    first, second = render_patch(pyramid, plain, EVERYWHERE), render_patch(pyramid, bent, EVERYWHERE)
    assert first is not None and second is not None
    dx, dy = first.x0 - second.x0, first.y0 - second.y0
    height, width = first.rgba.shape[:2]
    assert np.abs(second.rgba[dy : dy + height, dx : dx + width] - first.rgba).max() < 0.02
