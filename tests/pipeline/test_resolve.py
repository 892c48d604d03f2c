from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline import masks, media, resolve
from pipeline.cache import ArtifactCache
from pipeline.composite.engine import CompositeEngine
from pipeline.engines import ignore_progress
from pipeline.errors import Cancelled, UserError
from pipeline.motion import BoxKey, build_box_sequence
from pipeline.project import build_request, decode_project
from pipeline.render import render
from pipeline.resolve import ResolvingEngine, choose_segmenter, follow_surface, resolve_masks, resolve_request
from pipeline.segmentation import Segmentation
from pipeline.target_motion import find_key, follow_target
from pipeline.types import (
    BlendSettings,
    Click,
    Follow,
    InsertionRequest,
    Layer,
    MaskPrompts,
    MaskTrack,
    Pending,
    Progress,
    Prompt,
    SurfaceMotion,
)

from ..editor.canvas.colour_segmenter import ColourSegmenter, Segmenters
from ..tiny import make_clip
from .composite.removal_scenes import HW, NUM_FRAMES, disc_mask, psnr, truth, write_scene
from .composite.scenes import make_disc, paint_texture

OFF = BlendSettings(harmonize=0, shadow=0, motion_blur=0, grain=0, feather_px=0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def artifacts(tmp_path):
    return ArtifactCache(tmp_path / "cache")


def on_disc(frame_index: int) -> Prompt:
    rows, cols = np.nonzero(disc_mask(frame_index))
    return Prompt((Click(float(cols.mean()), float(rows.mean())),))


def held_out(clip, prompts: MaskPrompts, frame_range: tuple[int, int]) -> InsertionRequest:
    boxes = build_box_sequence({0: BoxKey((0.2, 0.2, 0.8, 0.8))}, clip.hw, clip.num_frames)
    layer = Layer("cup", "insert", (make_disc(),), boxes=boxes, blend=OFF, pending=Pending(holdouts=(prompts,)))
    return InsertionRequest(clip, frame_range, (layer,))


def test_prompts_become_masks_of_the_frames_that_are_needed(clip, artifacts):
    segmenter = ColourSegmenter()
    told: list[str] = []
    steps: list[Progress] = []
    request = held_out(clip, MaskPrompts({12: on_disc(12)}, feather_px=1.5), (10, 16))
    resolved = resolve_masks(request, segmenter, artifacts, steps.append, told.append)
    (layer,) = resolved.layers
    assert layer.pending is None and told == [] and not resolved.has_prompts
    (track,) = layer.holdouts
    assert [index for index, runs in enumerate(track.runs) if runs is not None] == list(range(10, 16))
    assert track.feather_px == 1.5
    for index in range(10, 16):
        assert masks.decode_rle(track.runs[index], HW)[disc_mask(index)].all()
    assert [step.step for step in steps] == list(range(1, 7)) and steps[0].num_steps == 6
    assert set(segmenter.propagated) <= set(range(10, 16))
    again = ColourSegmenter()
    resolve_masks(request, again, artifacts, ignore_progress, told.append)
    assert again.propagated == [] and again.segmented == []


def test_edits_take_the_place_of_masks_and_growing_comes_last(clip, artifacts):
    square = np.zeros(HW, bool)
    square[40:44, 60:64] = True
    prompts = MaskPrompts({12: on_disc(12)}, {13: masks.encode_rle(square), 14: masks.encode_rle(~square & square)}, grow_px=2)
    resolved = resolve_masks(held_out(clip, prompts, (12, 15)), ColourSegmenter(), artifacts, ignore_progress, print)
    (track,) = resolved.layers[0].holdouts
    assert np.array_equal(masks.decode_rle(track.runs[12], HW), masks.grow_mask(disc_mask(12), 2))
    assert np.array_equal(masks.decode_rle(track.runs[13], HW), masks.grow_mask(square, 2))
    assert track.runs[14] is None


def test_doubtful_frames_are_told_once(clip, artifacts):
    told: list[str] = []
    prompts = MaskPrompts({10: on_disc(10)}, {13: masks.encode_rle(disc_mask(13))})
    segmenter = ColourSegmenter(doubtful=(12, 13, 14, 30))
    resolve_masks(held_out(clip, prompts, (10, 16)), segmenter, artifacts, ignore_progress, told.append)
    assert len(told) == 1 and "uncertain at frames 12, 14;" in told[0] and "'cup'" in told[0]


def test_a_cut_is_named_with_what_to_do(tmp_path, artifacts):
    """However sure the segmenter is behind it."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    shots = [np.dstack([100 + 80 * np.sin(x / a + y / b)] * 3).astype(np.uint8) for a, b in ((19, 40), (50, 11))]

    def images(frame_index):
        image = shots[int(frame_index >= 9)].copy()
        image[disc_mask(frame_index)] = (230, 30, 200)
        return image

    clip = media.probe_clip(make_clip(tmp_path / "cut.mp4", num_frames=18, hw=HW, images=images))
    told: list[str] = []
    resolve_masks(held_out(clip, MaskPrompts({4: on_disc(4)}), (2, 16)), ColourSegmenter(), artifacts, ignore_progress, told.append)
    assert len(told) == 1 and "'cup'" in told[0] and "cuts to another shot at frame 9;" in told[0] and "9 or later" in told[0]
    resolve_masks(held_out(clip, MaskPrompts({4: on_disc(4)}), (2, 9)), ColourSegmenter(), artifacts, ignore_progress, told.append)
    follow = Follow("similarity", 4)
    layer = Layer("cup", "insert", (make_disc(),), blend=OFF, pending=Pending(follow=follow))
    layer = replace(layer, boxes=build_box_sequence({0: BoxKey((0.2, 0.2, 0.8, 0.8))}, clip.hw, clip.num_frames))
    resolve_request(InsertionRequest(clip, (2, 16), (layer,)), Segmenters(None), artifacts, ignore_progress, told.append)
    assert len(told) == 2 and "cuts to another shot at frame 9" in told[1] and "layer of their own" in told[1]


class Blind(ColourSegmenter):
    """Never finds anything."""

    def segment(self, frames, frame_index, prompt) -> Segmentation:
        return Segmentation(np.full(frames.clip.hw, -5, np.float32), 0.9)

    def propagate(self, frames, seeds, order) -> Iterator[tuple[int, tuple[Segmentation, ...]]]:
        for index in order:
            yield index, (self.segment(frames, index, None),)


def test_an_empty_mask_is_said_in_one_sentence(clip, artifacts):
    request = held_out(clip, MaskPrompts({3: on_disc(3)}), (0, 8))
    with pytest.raises(UserError, match=r"'cup': nothing of what stays in front of it is found where it was marked, at frame 3"):
        resolve_masks(request, Blind("blind"), artifacts, ignore_progress, print)


def test_cancelling_keeps_what_was_made(clip, artifacts):
    def stop(progress: Progress) -> None:
        if progress.step == 4:
            raise Cancelled

    request = held_out(clip, MaskPrompts({10: on_disc(10)}), (10, 30))
    with pytest.raises(Cancelled):
        resolve_masks(request, ColourSegmenter(), artifacts, stop, print)
    after = ColourSegmenter()
    resolve_masks(request, after, artifacts, ignore_progress, print)
    assert 12 not in after.propagated or after.propagated.index(12) < 3
    assert after.segmented == []


def test_a_clicked_thing_is_removed_through_project_and_render(clip, artifacts, tmp_path):
    rows, cols = np.nonzero(disc_mask(20))
    click = [cols.mean() / HW[1], rows.mean() / HW[0], 1]
    layer = {"name": "disc", "kind": "remove", "target": {"prompts": {"20": {"clicks": [click]}}}, "blend": {"grain": 0}}
    document = {"version": 1, "clip": {"path": clip.path.name}, "range": [18, 24], "layers": [layer]}
    project = decode_project(json.dumps(document))
    request, warnings = build_request(project, clip.path.parent)
    segmenters = Segmenters(ColourSegmenter("weights 1"))
    chosen = choose_segmenter(request, segmenters)
    assert warnings == [] and chosen.segmenter.name == "colour"
    assert chosen.digest() != choose_segmenter(request, Segmenters(ColourSegmenter("weights 2"))).digest()
    work = render(chosen, ResolvingEngine(CompositeEngine(), segmenters, artifacts), tmp_path / "out.mkv", lossless=True)
    stages = []
    try:
        while True:
            stages.append(next(work).stage)
    except StopIteration as end:
        summary = end.value
    assert summary.segmenter == "colour" and summary.digest == chosen.digest() and summary.warnings == ()
    assert stages[0] == "finding its target" and "compositing" in stages
    made = media.probe_clip(tmp_path / "out.mkv")
    for index, frame in enumerate(media.read_frames(made)):
        assert psnr(frame.image, truth(18 + index), disc_mask(18 + index)) > 30


# -- replacing --------------------------------------------------------------------------------------------------------------------

CARD_HW = (56, 44)


def card_pose(frame_index: int) -> tuple[np.ndarray, float, float]:
    """Centre, turn in degrees (clockwise) and scale of the card."""
    centre = np.array([40 + 1.6 * frame_index, 48 + 4 * np.sin(frame_index / 7)])
    return centre, 1.2 * frame_index, 1 + 0.002 * frame_index


def card_map(frame_index: int) -> np.ndarray:
    centre, turn_deg, scale = card_pose(frame_index)
    matrix = cv2.getRotationMatrix2D((CARD_HW[1] / 2, CARD_HW[0] / 2), -turn_deg, scale)
    matrix[:, 2] += centre - np.array([CARD_HW[1] / 2, CARD_HW[0] / 2])
    return matrix


def card_mask(frame_index: int) -> np.ndarray:
    return cv2.warpAffine(np.full(CARD_HW, 255, np.uint8), card_map(frame_index), HW[::-1]) > 127


def card_picture(frame_index: int) -> np.ndarray:
    image = truth(frame_index)
    card = cv2.resize(paint_texture((28, 22), 8), CARD_HW[::-1], interpolation=cv2.INTER_CUBIC)
    seen = cv2.warpAffine(card, card_map(frame_index), HW[::-1], flags=cv2.INTER_LINEAR)
    return np.where(card_mask(frame_index)[..., None], seen, image)


@pytest.fixture(scope="module")
def card_clip(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("card"), NUM_FRAMES, card_picture)


def card_track(noise: int = 0, hidden: tuple[int, ...] = ()) -> MaskTrack:
    """Exact masks; ``noise`` gives them an edge that changes at random by so many pixels."""
    runs = []
    for index in range(NUM_FRAMES):
        grow = 0 if noise == 0 else np.random.default_rng(index).integers(-noise, noise + 1)
        runs.append(None if index in hidden else masks.encode_rle(masks.grow_mask(card_mask(index), float(grow))))
    return MaskTrack(HW, tuple(runs))


def test_a_replacement_moves_as_its_target_does(card_clip):
    target = card_track(noise=2, hidden=(37, 38))
    key = 0
    with closing(media.FrameStore(card_clip)) as frames:
        boxes = follow_target(frames, target, key, (0, NUM_FRAMES), True, ignore_progress)
        part = follow_target(frames, target, key, (9, 13), True, ignore_progress)
    for index in range(2, NUM_FRAMES - 4):
        centre, turn_deg, scale = card_pose(index)
        x0, y0, x1, y1 = boxes.boxes_px[index]
        assert np.hypot((x0 + x1) / 2 - centre[0], (y0 + y1) / 2 - centre[1]) < 1.0
        assert abs(boxes.rotation_deg[index] - turn_deg) < 1.5 + 0.12 * turn_deg
        assert abs((y1 - y0) / (CARD_HW[0] * scale) - 1) < 0.15
    steps = np.diff(boxes.boxes_px[4:34, :2] + boxes.boxes_px[4:34, 2:], n=2, axis=0) / 2
    assert np.abs(steps).max() < 0.6
    assert boxes.is_visible[:37].all() and not boxes.is_visible[37:39].any()
    assert np.allclose(part.boxes_px[9:13], boxes.boxes_px[9:13], atol=1e-3)
    assert np.allclose(part.rotation_deg[9:13], boxes.rotation_deg[9:13], atol=1e-3)


def test_the_masks_alone_move_what_has_no_points(tmp_path):
    def images(frame_index):
        image = truth(0)
        image[card_mask(frame_index)] = (220, 30, 200)
        return image

    clip = write_scene(tmp_path, NUM_FRAMES, images)
    with closing(media.FrameStore(clip)) as frames:
        boxes = follow_target(frames, card_track(), 0, (0, NUM_FRAMES), False, ignore_progress)
    assert (boxes.rotation_deg == 0).all()
    for index in range(3, NUM_FRAMES - 3):
        rows, cols = np.nonzero(card_mask(index))
        x0, y0, x1, y1 = boxes.boxes_px[index]
        assert abs((x0 + x1) / 2 - (cols.min() + cols.max() + 1) / 2) < 1.5
        assert abs((y1 - y0) - (rows.max() + 1 - rows.min())) < 4


def test_the_key_is_where_the_thing_is_largest():
    assert find_key(card_track()) == int(np.argmax([card_mask(index).sum() for index in range(NUM_FRAMES)]))
    assert find_key(MaskTrack(HW, (None, None))) is None


def test_a_replaced_target_is_gone_and_another_thing_is_in_its_place(card_clip, artifacts):
    reference = make_disc()
    layer = Layer("card", "replace", (reference,), target=card_track(), blend=OFF)
    request = InsertionRequest(card_clip, (18, 22), (layer,))
    engine = ResolvingEngine(CompositeEngine(), Segmenters(ColourSegmenter()), artifacts)
    with closing(engine.run(request, ignore_progress, print)) as frames:
        for frame in frames:
            mask = card_mask(frame.frame_index)
            layer_alpha = frame.layer[..., 3]
            assert frame.touched[mask].all()
            x, y = (int(value) for value in card_pose(frame.frame_index)[0])
            assert layer_alpha[y, x] == 255
            corner = mask & (masks.grow_mask(mask, -3) ^ mask)
            background = np.abs(frame.image.astype(int) - truth(frame.frame_index))[corner].max(axis=1) < 12
            assert background.mean() > 0.1  # the ellipse leaves the card's corners to the background


# -- following --------------------------------------------------------------------------------------------------------------------


def test_a_followed_surface_is_tracked_once(clip, artifacts, monkeypatch):
    calls = []

    def track(frames, follow, start, stop, exclude, report) -> SurfaceMotion:
        calls.append((start, stop))
        matrices = np.tile(np.eye(3), (frames.clip.num_frames, 1, 1))
        matrices[:, 0, 2] = np.arange(frames.clip.num_frames)
        return SurfaceMotion(matrices, np.ones(frames.clip.num_frames, bool), follow.key_frame)

    monkeypatch.setattr(resolve, "track_surface", track)
    follow = Follow("translation", 0)
    with closing(media.FrameStore(clip)) as frames:
        for start, stop in ((4, 8), (5, 6), (6, 12), (4, 12)):
            motion = follow_surface(frames, follow, start, stop, None, artifacts, ignore_progress)
            assert np.array_equal(motion.matrices[start:stop, 0, 2], np.arange(start, stop))
        follow_surface(frames, Follow("similarity", 0), 4, 8, None, artifacts, ignore_progress)
    assert calls == [(4, 8), (4, 12), (4, 8)]


def test_a_layer_follows_the_camera(clip, artifacts):
    boxes = build_box_sequence({0: BoxKey((0.4, 0.3, 0.6, 0.6))}, clip.hw, clip.num_frames)
    layer = Layer("sign", "insert", (make_disc(),), boxes=boxes, blend=OFF, pending=Pending(follow=Follow("similarity", 0)))
    request = InsertionRequest(clip, (0, 24), (layer,))
    told: list[str] = []
    resolved = resolve_request(request, Segmenters(ColourSegmenter()), artifacts, ignore_progress, told.append)
    surface = resolved.layers[0].surface
    assert resolved.layers[0].pending is None and surface is not None and told == []
    place = surface.matrices[23] @ [72, 40, 1]
    turn = cv2.getRotationMatrix2D((130, 80), 0.06 * 23, 1 + 0.0008 * 23)
    turn[:, 2] += [-58 - 0.55 * 23, -32 + 0.21 * 23]
    start = np.array([72 + 58, 40 + 32, 1.0])  # the first frame's turn is none
    assert np.abs(place[:2] - turn @ start).max() < 1.0


def test_nothing_to_resolve_leaves_the_request_alone(clip):
    boxes = build_box_sequence({0: BoxKey((0.4, 0.3, 0.6, 0.6))}, clip.hw, clip.num_frames)
    request = InsertionRequest(clip, (0, 4), (Layer("sign", "insert", (make_disc(),), boxes=boxes),))
    assert resolve_request(request, Segmenters(None), None, ignore_progress, print) is request
    assert choose_segmenter(request, Segmenters(None)) is request
    assert replace(request).digest() == request.digest()
