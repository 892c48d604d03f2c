"""Requests to pictures: every disc, mask and window lies where the clip says, to a fraction of a pixel."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline import geometry, masks
from pipeline.errors import UserError
from pipeline.motion import BoxKey, LayerMotion, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.types import Clip, Layer, MaskTrack, Reference
from pipeline.videoanydoor import drawing, regions
from pipeline.videoanydoor.conditioning import Grid, build_conditioning, choose_points, to_frames, to_tensor

HW = (120, 200)
NUM_FRAMES = 12
GRID = Grid(size=128, stride=8, reference_size=56, is_warped=False)
WARPED = Grid(size=128, stride=8, reference_size=56, is_warped=True)
ANCHORS = {"a": (22.3, 14.7), "b": (70.6, 41.2), "c": (30.0, 44.0)}


def make_clip(hw=HW, num_frames=NUM_FRAMES):
    return Clip(
        path=Path("clip.mp4"),
        sha256="0" * 64,
        width=hw[1],
        height=hw[0],
        fps=Fraction(25),
        num_frames=num_frames,
        timestamps=np.arange(num_frames, dtype=np.int64),
        time_base=Fraction(1, 25),
        pixel_format="yuv420p",
    )


def make_reference(color=(200, 40, 60)):
    image = np.zeros((60, 90, 3), np.uint8)
    image[:] = color
    alpha = np.zeros((60, 90), np.float32)
    alpha[10:50, 15:75] = 1
    return Reference(image=image, alpha=alpha, points_px=ANCHORS)


def make_layer(boxes=None, trajectories=(), kind="insert", **more):
    if boxes is None:
        boxes = {0: BoxKey((0.15, 0.3, 0.4, 0.6)), 11: BoxKey((0.5, 0.35, 0.75, 0.65))}
    return Layer(
        name="cup",
        kind=kind,
        references=(make_reference(),),
        boxes=build_box_sequence(boxes, HW, NUM_FRAMES) if boxes else None,
        trajectories=build_trajectory_set(trajectories, ANCHORS, HW, NUM_FRAMES) if trajectories else None,
        **more,
    )


TWO_POINTS = (
    TrajectoryKeys("a", {0: (0.2, 0.35), 11: (0.55, 0.4)}, visible=((2, 12),)),
    TrajectoryKeys("b", {0: (0.38, 0.55), 11: (0.7, 0.62)}),
)


def center_of(picture, color):
    """The centre of mass (x, y) of a disc of ``color`` on black or white: where the picture leans towards that colour."""
    values = picture.astype(float)
    chroma = values - values.min(axis=2, keepdims=True)
    wanted = color.astype(float) - color.min()
    weight = (chroma * wanted).sum(axis=2) / (np.linalg.norm(wanted) * np.maximum(np.linalg.norm(chroma, axis=2), 1e-9))
    share = np.where(weight > 0.98, chroma.max(axis=2), 0)
    y, x = ndimage.center_of_mass(share)
    return np.array([x + 0.5, y + 0.5])


# -- drawing ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [(140.0, 150.0), (140.25, 150.75), (161.5, 133.1)])
def test_convention_a_disc_is_centred_on_its_point(point):
    canvas = np.zeros((256, 256, 3), np.uint8)
    drawing.draw_discs(canvas, np.array([point]), np.array([True]), np.array([[255, 0, 0]], np.uint8))
    y, x = ndimage.center_of_mass(canvas[..., 0].astype(float))
    assert np.abs(np.array([x + 0.5, y + 0.5]) - point).max() < 0.03
    assert np.abs(np.sqrt((canvas[..., 0] / 255).sum() / np.pi) - 6.5) < 0.05, "disc and ring: 13 px at 512"
    assert np.abs(np.sqrt((canvas[..., 0] / 255 - canvas[..., 1] / 255).sum() / np.pi) - 5) < 0.05, "disc: 10 px at 512"


def test_discs_outside_and_invisible_discs_leave_no_trace():
    canvas = np.zeros((64, 64, 3), np.uint8)
    points = np.array([[-30.0, 10.0], [20.0, 1e9], [32.0, 32.0]])
    drawing.draw_discs(canvas, points, np.array([True, True, False]), drawing.make_palette()[:3])
    assert not canvas.any()
    drawing.draw_discs(canvas, np.array([[-1.0, 30.0]]), np.array([True]), drawing.make_palette()[:1])
    assert canvas[28:32, :1].any() and not canvas[:, 4:].any()


def test_colors_are_distinct():
    palette = drawing.make_palette().astype(int)
    distances = np.abs(palette[:, None] - palette[None]).sum(axis=2) + 1000 * np.eye(16, dtype=int)
    assert palette.shape == (16, 3) and distances.min() >= 90


def test_the_reference_is_centred_on_white_and_its_map_is_exact():
    image = np.zeros((61, 90, 3), np.uint8)
    alpha = np.zeros((61, 90), np.float32)
    alpha[2:60, 5:32] = 1
    image[30:34, 10:14] = (255, 0, 0)
    reference = Reference(image=image, alpha=alpha)
    canvas, matrix = drawing.center_reference(reference, 140)
    assert (canvas[0] == 255).all() and (canvas[:, 0] == 255).all()
    corners = geometry.apply_map(matrix, np.array([[5.0, 2.0], [32.0, 60.0]]))
    assert np.abs(corners.mean(axis=0) - 70).max() <= 1, "the object stands in the middle"
    red = (canvas[..., 0].astype(float) - canvas[..., 1]).clip(0)
    y, x = ndimage.center_of_mass(red)
    np.testing.assert_allclose([x + 0.5, y + 0.5], geometry.apply_map(matrix, np.array([12.0, 32.0])), atol=0.05)
    dark = canvas.max(axis=2) < 128
    np.testing.assert_allclose(dark.any(axis=1).sum(), 58 * matrix[0, 0], atol=1.5)


# -- regions ----------------------------------------------------------------------------------------------------------------------


def test_boxes_are_loosened_and_nearly_still_ones_become_their_union():
    moving = np.array([[0, 0, 20, 10], [40, 0, 60, 10]], float)
    np.testing.assert_allclose(regions.loosen_boxes(moving, 1.5), [[-5, -2.5, 25, 12.5], [35, -2.5, 65, 12.5]])
    still = np.array([[0, 0, 20, 20], [3, 0, 23, 20]], float)
    np.testing.assert_allclose(regions.loosen_boxes(still, 1.0), [[0, 0, 23, 20]] * 2)
    growing = np.array([[0, 0, 20, 20], [-4, -4, 24, 24]], float)
    np.testing.assert_allclose(regions.loosen_boxes(growing, 1.0), growing)


def test_a_fixed_window_is_twice_the_union_inside_the_picture():
    boxes = np.array([[60, 40, 90, 60], [80, 50, 110, 70], [0, 0, 0, 0]], float)
    window = regions.build_crop_window(boxes, np.array([True, True, False]), HW, 128)
    assert window.side_px == 100 and (window.offsets_px == [35, 5]).all()
    corner = regions.build_crop_window(boxes[:1] - [60, 40, 60, 40], np.array([True]), HW, 128)
    assert (corner.offsets_px == 0).all()
    small = regions.build_crop_window(np.array([[60, 40, 62, 42]], float), np.array([True]), HW, 128)
    assert small.side_px == 32, "never enlarged more than four times"
    with pytest.raises(ValueError, match="at least one frame"):
        regions.build_crop_window(boxes, np.zeros(3, bool), HW, 128)


def test_a_wide_motion_gets_a_smooth_moving_window_that_holds_every_box():
    x = np.linspace(0, 150, 40)
    boxes = np.stack([x, np.full(40, 10), x + 50, np.full(40, 110)], axis=1)
    window = regions.build_crop_window(boxes, np.ones(40, bool), (120, 240), 128)
    assert window.side_px == 200
    assert (window.offsets_px[:, 0] <= boxes[:, 0]).all() and (window.offsets_px[:, 0] + 200 >= boxes[:, 2]).all()
    assert (window.offsets_px[:, 1] == -40).all(), "higher than the picture: centred on it"
    steps = np.diff(window.offsets_px[:, 0])
    assert steps.min() >= 0 and steps.max() <= 6 and window.offsets_px[-1, 0] == 40
    still = regions.build_crop_window(np.tile(np.array([[10.0, 5, 230, 115]]), (4, 1)), np.ones(4, bool), (120, 240), 128)
    assert still.side_px == 240 and (still.offsets_px == still.offsets_px[0]).all()


def test_masks_cover_the_box_on_the_latent_grid():
    window = regions.CropWindow(np.array([[35, 5]] * 4, np.int64), 100, 128)
    boxes = np.array([[60, 40, 90, 62], [-20, 40, 40, 60], [300, 0, 340, 30], [60, 40, 61, 41]], float)
    snapped = regions.snap_boxes(boxes, window, HW, 8)
    assert (snapped % 8 == 0).all()
    exact = (boxes[0] - [35, 5, 35, 5]) * 1.28
    assert (snapped[0, :2] <= exact[:2]).all() and (snapped[0, 2:] >= exact[2:]).all()
    assert np.abs(snapped[0] - exact).max() < 8
    assert snapped[1, 0] == 0 and not snapped[2].any()
    assert (snapped[3, 2:] - snapped[3, :2] >= 16).all(), "at least an eighth of the window"
    filled = regions.fill_masks(snapped, 128)
    assert filled.shape == (4, 128, 128) and not filled[2].any()
    cells = filled.reshape(4, 16, 8, 16, 8)
    assert (cells.all(axis=(2, 4)) == cells.any(axis=(2, 4))).all(), "full and latent resolution agree"


def test_cropping_is_the_window_map_to_a_fraction_of_a_pixel():
    picture = np.zeros((*HW, 3), np.uint8)
    picture[50:54, 80:84] = 255
    window = regions.CropWindow(np.array([[35, 5]], np.int64), 100, 128)
    for side, tolerance in ((100, 0.05), (190, 0.1)):
        window = regions.CropWindow(np.array([[35 - (side - 100), 5]], np.int64), side, 128)
        cropped = regions.crop_frame(picture, window, 0)
        y, x = ndimage.center_of_mass(cropped[..., 0].astype(float))
        np.testing.assert_allclose([x + 0.5, y + 0.5], geometry.apply_map(window.matrix(0), np.array([82.0, 52.0])), atol=tolerance)


def test_nothing_is_warped_to_where_the_picture_does_not_reach():
    window = regions.CropWindow(np.array([[-20, 30], [150, -10]], np.int64), 100, 50)
    rows, columns = window.inside(0, HW)
    assert (rows, columns) == (slice(0, 45), slice(10, 50)) and window.inside(1, HW) == (slice(5, 50), slice(0, 25))
    layer = make_layer(boxes={0: BoxKey((-0.2, 0.3, 0.2, 0.7))})
    made = build_conditioning(layer, make_clip(), (0, 2), Grid(128, 8, 56, True, "silhouette", True))
    rows, columns = made.window.inside(0, HW)
    outside = np.ones((128, 128), np.bool_)
    outside[rows, columns] = False
    for pictures, covered in zip(made.content, made.pasted.covered, strict=True):
        assert (pictures[outside] == 255).all() and not covered[outside].any() and covered[~outside].any()


def test_pasting_is_full_inside_the_box_exactly_nothing_beyond_the_feather_and_aligned():
    window = regions.CropWindow(np.array([[35, 5]], np.int64), 100, 128)
    box = np.array([32, 40, 80, 88])
    part, alpha = regions.paste_alpha(box, window, 0, HW)
    full = np.zeros(HW, np.float32)
    full[part] = alpha
    edges = box / 1.28 + [35, 5, 35, 5]
    reach = regions.FEATHER_SHARE * 100
    y, x = np.mgrid[: HW[0], : HW[1]] + 0.5
    outside = np.hypot(np.maximum(np.maximum(edges[0] - x, x - edges[2]), 0), np.maximum(np.maximum(edges[1] - y, y - edges[3]), 0))
    assert (full[outside == 0] == 1).all() and (full[outside >= reach] == 0).all()
    assert (full[(outside > 0) & (outside < reach)] < 1).all()
    picture = np.zeros((*HW, 3), np.uint8)
    picture[50:54, 80:84] = 255
    generated = regions.crop_frame(picture, window, 0)
    back = np.zeros((*HW, 3))
    back[part] = regions.uncrop_frame(generated, window, 0, part)
    y, x = ndimage.center_of_mass(back[..., 0])
    np.testing.assert_allclose([x + 0.5, y + 0.5], [82, 52], atol=0.1)


def test_pasting_fades_at_the_windows_edge_where_the_picture_goes_on():
    window = regions.CropWindow(np.array([[0, 0]], np.int64), 120, 128)
    part, alpha = regions.paste_alpha(np.array([0, 0, 128, 128]), window, 0, HW)
    assert part == (slice(0, 120), slice(0, 120))
    assert (alpha[60, :100] == 1).all() and alpha[60, -1] < 0.25, "x: the picture goes on to the right; y: it ends"
    assert (alpha[:, 10] == 1).all()


# -- a layer ----------------------------------------------------------------------------------------------------------------------


def test_trajectory_discs_lie_on_the_trajectories_after_crop_and_resize():
    layer = make_layer(trajectories=TWO_POINTS)
    made = build_conditioning(layer, make_clip(), (0, NUM_FRAMES), GRID)
    palette = drawing.make_palette()
    for frame in range(NUM_FRAMES):
        for index in range(2):
            if not layer.trajectories.is_visible[index, frame]:
                continue
            expected = (layer.trajectories.points_px[index, frame] - made.window.offsets_px[frame]) * made.window.scale
            assert np.abs(center_of(made.motion[frame], palette[index]) - expected).max() < 0.35
    assert made.motion.shape == (NUM_FRAMES, 128, 128, 3) and made.boxes.shape == (NUM_FRAMES, 4)
    ring = (made.motion[0].min(axis=2) > 128).sum()
    assert 0 < ring < (made.motion[5].min(axis=2) > 128).sum(), "the first point is hidden in the first two frames"


def test_key_points_lie_on_the_reference_and_share_their_trajectories_colors():
    layer = make_layer(trajectories=TWO_POINTS)
    made = build_conditioning(layer, make_clip(), (0, NUM_FRAMES), GRID)
    _, matrix = drawing.center_reference(layer.references[0], 128)
    plain = build_conditioning(make_layer(), make_clip(), (0, NUM_FRAMES), GRID)
    changed = (made.content[0] != plain.content[0]).any(axis=2)
    labels, count = ndimage.label(changed)
    assert count == 2 and made.content.shape == plain.content.shape == (1, 128, 128, 3)
    expected = geometry.apply_map(matrix, layer.trajectories.anchors_px)
    for index, (x, y) in enumerate(expected):
        assert (made.content[0][int(y), int(x)] == drawing.make_palette()[index]).all()
        where = ndimage.center_of_mass(labels == labels[int(y), int(x)])
        assert np.abs(np.array(where[::-1]) + 0.5 - (x, y)).max() < 0.5
    assert not plain.motion.any()


def test_warped_content_lies_where_the_motion_puts_the_reference():
    layer = make_layer(trajectories=TWO_POINTS)
    made = build_conditioning(layer, make_clip(), (3, 9), WARPED)
    motion = LayerMotion(layer.references[0], layer.boxes, layer.trajectories)
    assert made.content.shape == (6, 128, 128, 3)
    for index, frame in enumerate(range(3, 9)):
        shown = 255 - made.content[index, ..., 1].astype(float)
        y, x = ndimage.center_of_mass(shown)
        center = motion.warp(frame).forward(np.array([[45.0, 30.0]]))[0]
        expected = (center - made.window.offsets_px[index]) * made.window.scale
        assert np.abs(np.array([x + 0.5, y + 0.5]) - expected).max() < 0.1
        assert np.abs(made.content[index, int(y), int(x)].astype(int) - (200, 40, 60)).max() <= 1


def test_masks_hold_the_effective_box_of_every_frame():
    layer = make_layer(trajectories=TWO_POINTS)
    made = build_conditioning(layer, make_clip(), (0, NUM_FRAMES), GRID)
    motion = LayerMotion(layer.references[0], layer.boxes, layer.trajectories)
    for frame in range(NUM_FRAMES):
        box = (motion.effective_boxes_px[frame] - np.tile(made.window.offsets_px[frame], 2)) * made.window.scale
        assert (made.boxes[frame, :2] <= box[:2]).all() and (made.boxes[frame, 2:] >= box[2:]).all()


def test_where_the_object_is_absent_nothing_is_generated():
    boxes = {4: BoxKey((0.2, 0.3, 0.4, 0.6), enter=True), 8: BoxKey((0.4, 0.3, 0.6, 0.6), leave=True)}
    made = build_conditioning(make_layer(boxes, TWO_POINTS), make_clip(), (0, NUM_FRAMES), GRID)
    present = made.boxes.any(axis=1)
    assert present.tolist() == [False] * 4 + [True] * 5 + [False] * 3
    assert made.motion[~present].any() is np.False_ and made.masks()[present].any(axis=(1, 2)).all()
    assert build_conditioning(make_layer(boxes), make_clip(), (0, 3), GRID) is None
    outside = {0: BoxKey((-0.9, 0.3, -0.5, 0.6))}
    assert build_conditioning(make_layer(outside), make_clip(), (0, 3), GRID) is None


def track_of(box, frames):
    mask = np.zeros(HW, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    runs = tuple(masks.encode_rle(mask) if frame in frames else None for frame in range(NUM_FRAMES))
    return MaskTrack(hw=HW, runs=runs)


def test_replace_follows_its_target_and_remove_inserts_nothing():
    target = track_of((50, 40, 90, 80), range(2, 12))
    replace = Layer(name="swap", kind="replace", references=(make_reference(),), target=target)
    made = build_conditioning(replace, make_clip(), (0, NUM_FRAMES), GRID)
    assert len(made.references) == 1 and not made.boxes[:2].any() and made.boxes[2:].any(axis=1).all()
    box = (np.array([50, 40, 90, 80]) - np.tile(made.window.offsets_px[5], 2)) * made.window.scale
    assert (made.boxes[5, :2] <= box[:2]).all() and (made.boxes[5, 2:] >= box[2:]).all()
    remove = build_conditioning(Layer(name="gone", kind="remove", target=target), make_clip(), (0, NUM_FRAMES), WARPED)
    assert remove.references.shape == (0, 56, 56, 3) and (remove.content == 255).all() and not remove.motion.any()
    with pytest.raises(UserError, match="mark it first"):
        build_conditioning(Layer(name="gone", kind="remove"), make_clip(), (0, 3), GRID)


def test_only_as_many_points_as_colors_and_the_longest_paths_win():
    anchors = {f"p{index}": (16.0 + 3 * index, 12.0 + index) for index in range(18)}
    keys = [TrajectoryKeys(name, {0: (0.2, 0.3), 11: (0.2 + 0.02 * index, 0.3)}) for index, name in enumerate(anchors)]
    chosen = choose_points(build_trajectory_set(keys, anchors, HW, NUM_FRAMES), (0, NUM_FRAMES))
    assert chosen.tolist() == list(range(2, 18))


def test_convention_pictures_survive_the_way_to_tensors_and_back():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    tensor = to_tensor(pictures)
    assert tensor.shape == (1, 3, 5, 8, 12) and tensor.min() >= -1 and tensor.max() <= 1
    assert abs(tensor[0, 2, 4, 3, 7].item() - (pictures[4, 3, 7, 2] / 127.5 - 1)) < 1e-6
    assert (to_frames(tensor) == pictures).all() and (to_frames(tensor.to(torch.float64)) == pictures).all()


def test_conditioning_is_deterministic_and_locked():
    layer = make_layer(trajectories=TWO_POINTS)
    one, two = (build_conditioning(layer, make_clip(), (0, NUM_FRAMES), WARPED) for _ in range(2))
    for name in ("boxes", "references", "content", "motion"):
        assert (getattr(one, name) == getattr(two, name)).all()
    with pytest.raises(ValueError, match="read-only"):
        one.motion[0] = 1
