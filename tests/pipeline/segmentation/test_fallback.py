"""The weight-free segmenter on small composites whose masks are known: a cut-out that travels over footage of the examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.images import read_image
from pipeline.segmentation import LOW_CONFIDENCE
from pipeline.segmentation.fallback import FallbackSegmenter, choose
from pipeline.segmentation.fallback import segmenter as fallback_segmenter
from pipeline.segmentation.fallback.cut import fit_colors, min_cut
from pipeline.segmentation.fallback.merge import merge_regions
from pipeline.segmentation.fallback.outline import tidy
from pipeline.segmentation.fallback.picture import Regions, build_picture, build_regions
from pipeline.segmentation.fallback.scene import Scene
from pipeline.segmentation.fallback.score import box_features, box_reach, change_features
from pipeline.segmentation.fallback.weigh import Found, _unlike_nearby
from pipeline.types import Click, Prompt
from tests.tiny import make_clip

EXAMPLES = Path(__file__).resolve().parents[3] / "assets" / "examples"
HW = (180, 320)
NUM_FRAMES = 16


@cache
def backdrop() -> np.ndarray:
    """A street from above, u8[260,440,3]: larger than the picture, so that a camera can travel over it."""
    import cv2

    clip = media.probe_clip(EXAMPLES / "crossing.mp4")
    store = media.FrameStore(clip, max_bytes=1)
    image = store.frame(0).image
    store.close()
    return cv2.resize(image, (440, 260), interpolation=cv2.INTER_AREA)


@cache
def cup() -> np.ndarray:
    """The espresso cup, u8[60,90,4]."""
    import cv2

    picture = read_image(EXAMPLES / "espresso.png")
    alpha = np.round(255 * picture.alpha).astype(np.uint8)
    return cv2.resize(np.dstack([picture.rgb, alpha]), (90, 60), interpolation=cv2.INTER_AREA)


def paint(frame_index: int, places: list[tuple[int, int]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """A frame over which the camera drifts, a cup at every place (its top left, x and y), and the mask of each."""
    image = backdrop()[20 : 20 + HW[0], 20 + frame_index : 20 + frame_index + HW[1]].astype(np.float32)
    masks = []
    for left, top in places:
        layer = np.zeros((HW[0] + 600, HW[1] + 600, 4), np.float32)
        layer[300 + top : 360 + top, 300 + left : 390 + left] = cup()
        layer = layer[300:-300, 300:-300]
        alpha = layer[..., 3:] / 255
        image = layer[..., :3] * alpha + image * (1 - alpha)
        masks.append(alpha[..., 0] > 0.5)
    return np.round(image).astype(np.uint8), masks


def build(path: Path, places: Callable[[int], list[tuple[int, int]]], num_frames: int = NUM_FRAMES) -> media.FrameStore:
    make_clip(path, num_frames=num_frames, hw=HW, images=lambda index: paint(index, places(index))[0])
    return media.FrameStore(media.probe_clip(path))


def crossing_place(frame_index: int) -> list[tuple[int, int]]:
    return [(60 + 5 * frame_index, 50 + frame_index)]


def truth(frame_index: int) -> np.ndarray:
    return paint(frame_index, crossing_place(frame_index))[1][0]


def on_cup(frame_index: int, is_foreground: bool = True) -> Click:
    left, top = crossing_place(frame_index)[0]
    return Click(left + 45.0, top + 30.0, is_foreground)


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> media.FrameStore:
    return build(tmp_path_factory.mktemp("moving") / "cup.mp4", crossing_place)


@pytest.fixture(scope="module")
def segmenter() -> FallbackSegmenter:
    return FallbackSegmenter()


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((found & wanted).sum() / (found | wanted).sum())


def test_one_click_finds_the_whole_thing(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    found = segmenter.segment(moving, 7, Prompt((on_cup(7),)))
    assert found.logits.dtype == np.float32
    assert found.logits.shape == HW
    assert np.isfinite(found.logits).all()
    assert overlap(found.mask, truth(7)) > 0.8
    assert found.confidence >= LOW_CONFIDENCE


def test_a_box_finds_the_thing_and_nothing_outside(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    ys, xs = np.nonzero(truth(7))
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    found = segmenter.segment(moving, 7, Prompt((), box)).mask
    assert overlap(found, truth(7)) > 0.8
    outside = np.ones(HW, bool)
    outside[ys.min() - 4 : ys.max() + 5, xs.min() - 4 : xs.max() + 5] = False
    assert not (found & outside).any()


def test_clicks_are_obeyed(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    """A background click takes its place away, a second foreground click adds its own."""
    found = segmenter.segment(moving, 7, Prompt((on_cup(7),)))
    left, top = crossing_place(7)[0]
    corner = Click(left + 28.5, top + 30.5, False)
    assert found.mask[int(corner.y_px), int(corner.x_px)]
    without = segmenter.segment(moving, 7, Prompt((on_cup(7), corner)))
    assert not without.mask[int(corner.y_px), int(corner.x_px)]
    assert without.mask[int(on_cup(7).y_px), int(on_cup(7).x_px)]
    far = Click(20.5, 20.5)
    assert not found.mask[20, 20]
    assert segmenter.segment(moving, 7, Prompt((on_cup(7), far))).mask[20, 20]


def test_follows_both_ways_and_obeys_its_prompt(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    prompt = Prompt((on_cup(7),))
    clicked = segmenter.segment(moving, 7, prompt).mask
    for order in (range(7, NUM_FRAMES), range(7, -1, -1)):
        made = dict(segmenter.propagate(moving, [{7: prompt}], order))
        assert list(made) == list(order)
        assert (made[7][0].mask == clicked).all()
        assert min(overlap(made[index][0].mask, truth(index)) for index in order) > 0.75


def test_a_prompt_ahead_of_the_order_counts(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    """Frames before the first prompt, asked for forwards, are those that going backwards from it gives."""
    seeds = {7: Prompt((on_cup(7),))}
    forwards = dict(segmenter.propagate(moving, [seeds], range(4, 11)))
    backwards = dict(segmenter.propagate(moving, [seeds], range(7, 3, -1)))
    assert list(forwards) == list(range(4, 11))
    for index in range(4, 8):
        assert (forwards[index][0].mask == backwards[index][0].mask).all()
    behind = dict(segmenter.propagate(moving, [seeds], range(9, 11)))
    assert (behind[10][0].mask == forwards[10][0].mask).all()


def test_seeds_on_two_frames_are_both_obeyed(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    seeds = {3: Prompt((on_cup(3),)), 7: Prompt((on_cup(7),))}
    made = dict(segmenter.propagate(moving, [seeds], range(3, 9)))
    for index, prompt in seeds.items():
        assert (made[index][0].mask == segmenter.segment(moving, index, prompt).mask).all()
    assert overlap(made[5][0].mask, truth(5)) > 0.75


def test_a_thing_that_leaves_gives_an_empty_mask(tmp_path: Path, segmenter: FallbackSegmenter) -> None:
    with_cup = build(tmp_path / "leaving.mp4", lambda index: [(180 + 13 * index, 60)])
    made = dict(segmenter.propagate(with_cup, [{1: Prompt((Click(238.0, 90.0),))}], range(1, NUM_FRAMES)))
    assert made[4][0].mask.any()
    assert not made[NUM_FRAMES - 1][0].mask.any()
    assert (made[NUM_FRAMES - 1][0].logits < 0).all()
    with_cup.close()


def test_a_cut_ends_the_track_and_says_so(tmp_path: Path, segmenter: FallbackSegmenter) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (HW[0] // 6, HW[1] // 6 + 1, 3), np.uint8)
    other = np.kron(noise, np.ones((6, 6, 1), np.uint8))[: HW[0], : HW[1]]
    path = tmp_path / "cut.mp4"
    make_clip(path, num_frames=10, hw=HW, images=lambda i: paint(i, crossing_place(i))[0] if i < 6 else other)
    frames = media.FrameStore(media.probe_clip(path))
    made = dict(segmenter.propagate(frames, [{2: Prompt((on_cup(2),))}], range(2, 10)))
    assert overlap(made[5][0].mask, truth(5)) > 0.7
    assert made[7][0].confidence < LOW_CONFIDENCE
    assert not made[9][0].mask.any()
    frames.close()


def test_several_things_at_once_are_those_alone(tmp_path: Path, segmenter: FallbackSegmenter) -> None:
    frames = build(tmp_path / "two.mp4", lambda index: [(10 + 3 * index, 20), (200 - 4 * index, 105)], num_frames=4)
    first, second = {1: Prompt((Click(58.0, 50.0),))}, {1: Prompt((Click(241.0, 135.0),))}
    together = list(segmenter.propagate(frames, [first, second], range(1, 4)))
    for number, seeds in enumerate((first, second)):
        for (index, found), (_, (alone,)) in zip(together, segmenter.propagate(frames, [seeds], range(1, 4)), strict=True):
            assert (found[number].logits == alone.logits).all(), index
    assert not (together[-1][1][0].mask & together[-1][1][1].mask).any()
    frames.close()


def test_same_input_same_masks(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    """A fresh segmenter with empty caches, and another length of the order, give the same bytes."""
    seeds = {7: Prompt((on_cup(7),))}
    long = dict(segmenter.propagate(moving, [seeds], range(7, 12)))
    short = dict(FallbackSegmenter().propagate(moving, [seeds], range(7, 10)))
    for index, (found,) in short.items():
        assert (found.logits == long[index][0].logits).all()
        assert found.confidence == long[index][0].confidence


def test_closing_stops_the_work(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    asked: list[int] = []

    class Counted:
        clip = moving.clip

        def frame(self, frame_index: int) -> object:
            asked.append(frame_index)
            return moving.frame(frame_index)

    made = FallbackSegmenter().propagate(Counted(), [{0: Prompt((on_cup(0),))}], range(NUM_FRAMES))  # type: ignore[arg-type]
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert max(asked) < NUM_FRAMES - 5


def test_refuses_a_thing_without_prompts(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    with pytest.raises(ValueError, match="prompt"):
        next(segmenter.propagate(moving, [{}], range(3)))


def test_prompts_at_the_border_and_clips_of_one_frame(tmp_path: Path, segmenter: FallbackSegmenter) -> None:
    frames = build(tmp_path / "still.mp4", crossing_place, num_frames=1)
    for prompt in (Prompt((Click(320.0, 180.0), Click(-3.0, 0.0))), Prompt((), (-9.0, -9.0, 400.0, 400.0))):
        assert np.isfinite(segmenter.segment(frames, 0, prompt).logits).all()
    assert segmenter.segment(frames, 0, Prompt((), (300.0, 170.0, 301.0, 171.0))).logits.shape == HW
    frames.close()


def test_min_cut_by_hand() -> None:
    """Three nodes in a row: the middle one follows its stronger bond."""
    gain = np.array([5.0, 0.0, -5.0])
    first, second = np.array([0, 1]), np.array([1, 2])
    assert min_cut(gain, first, second, np.array([3.0, 1.0])).tolist() == [True, True, False]
    assert min_cut(gain, first, second, np.array([1.0, 3.0])).tolist() == [True, False, False]
    assert min_cut(gain, first, second, np.array([9.0, 9.0])).sum() in (0, 3)


def test_colour_models_tell_two_colours_apart() -> None:
    rng = np.random.default_rng(0)
    red, blue = rng.normal((50, 40, 10), 3, (400, 3)), rng.normal((30, 5, -40), 3, (400, 3))
    model = fit_colors(red, np.ones(len(red)))
    assert model.cost(red).max() < model.cost(blue).min()


def test_tidy_fills_holes_and_drops_specks() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    mask[30:32, 30:32] = False
    mask[2:5, 55:58] = True
    found = tidy(mask)
    assert found[31, 31]
    assert not found[3, 56]
    assert tidy(mask, keep=mask & (np.mgrid[:60, :60][1] > 52))[3, 56]


def squares(picture_hw: tuple[int, int] = (216, 432)) -> tuple[Regions, np.ndarray]:
    """Superpixels of a picture of two squares, one bright, one dark, and which of them lie in the bright one."""
    image = np.full((*picture_hw, 3), 128, np.uint8)
    image[60:150, 36:126] = 230
    image[60:150, 168:258] = 20
    regions = build_regions(build_picture(image))
    bright = np.zeros(picture_hw)
    bright[60:150, 36:126] = 1
    return regions, regions.mean(bright) > 0.5


def test_merged_parts_hold_the_clicked_thing_alone() -> None:
    regions, bright = squares()
    tree = merge_regions(regions, np.zeros(len(regions.first)))
    inside = int(regions.labels[105, 81])
    found = tree.around(inside)
    assert all(part[inside] for part in found)
    assert all((larger | part == larger).all() for part, larger in pairwise(found))
    assert max((part & bright).sum() / (part | bright).sum() for part in found) > 0.75


def test_merged_parts_leave_what_hangs_together_with_the_outside() -> None:
    regions, bright = squares()
    tree = merge_regions(regions, np.zeros(len(regions.first)))
    box = np.ones(regions.labels.shape)
    box[30:180, 12:150] = 0
    outside = regions.mean(box) > 0.5
    found = tree.apart_from(outside)
    assert not any((part & outside).any() for part in found)
    assert (found[0] & bright).sum() / (found[0] | bright).sum() > 0.9


def test_a_tight_box_is_touched_on_all_sides_but_not_along_them() -> None:
    round_ = np.hypot(*(np.mgrid[:40, :60].T - [19.5, 29.5]).T / [[[20]], [[30]]]) <= 1.02
    fill, _, share, _, pressed, _, gap = box_features(round_)
    assert fill > 0.9
    assert 0.7 < share < 0.85
    assert gap < 0.05
    assert pressed < 0.5
    assert box_features(np.ones((40, 60), bool))[4] == 1
    half = np.zeros((40, 60), bool)
    half[:20] = True
    assert box_features(half)[6] == 0.5
    assert box_features(np.zeros((40, 60), bool))[6] == 1


def test_a_correction_should_change_what_its_click_lies_in_the_middle_of() -> None:
    assert change_features(300.0, 10.0).tolist() == [0, 0]
    assert change_features(5000.0, 10.0)[0] > 1
    assert change_features(20.0, 10.0)[1] > 1


def test_a_small_picture_is_seen_at_the_same_size() -> None:
    assert build_picture(np.zeros((144, 176, 3), np.uint8)).hw == (353, 432)
    assert build_picture(np.zeros((720, 1280, 3), np.uint8)).hw == (243, 432)


def test_a_correction_starts_from_the_answer_that_is_known(
    moving: media.FrameStore, segmenter: FallbackSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found for the first click is kept; asked for anew, both give the same."""
    prompt = Prompt((on_cup(7), Click(20.5, 20.5)))
    segmenter.segment(moving, 7, Prompt(prompt.clicks[:1]))
    anew = FallbackSegmenter().segment(moving, 7, prompt)
    monkeypatch.setattr(fallback_segmenter, "answer_first", None)
    assert (segmenter.segment(moving, 7, prompt).logits == anew.logits).all()


def test_a_correction_leaves_what_lies_elsewhere(moving: media.FrameStore, segmenter: FallbackSegmenter) -> None:
    first = segmenter.segment(moving, 7, Prompt((on_cup(7),))).mask
    second = segmenter.segment(moving, 7, Prompt((on_cup(7), Click(20.5, 20.5)))).mask
    assert second[20, 20]
    assert (first & ~second).sum() < 0.05 * first.sum()


def test_a_thin_line_is_unlike_the_gradient_around_it() -> None:
    lab = np.zeros((60, 80, 3), np.float32)
    lab[..., 0] = np.linspace(10, 70, 80)
    lab[:, 40, 0] += 15
    ground = np.ones((60, 80), bool)
    ground[:, 35:46] = False
    unlike = _unlike_nearby(lab, ground, 12.0)
    assert unlike[30, 40] > 2 * unlike[30, [36, 38, 42, 44]].max()


def test_what_is_found_in_a_box_spans_it() -> None:
    inside = np.zeros((20, 40), bool)
    assert box_reach(inside) == 0
    inside[5:15, 30:32] = True
    assert box_reach(inside) == 2 / 40
    inside[5:7, 0] = True
    assert box_reach(inside) == 10 / 20


def test_a_box_is_never_answered_with_a_speck(moving: media.FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the weighed cues leave next to nothing, the cut stays."""

    def speck(scene: Scene, found: Found, *obeyed: np.ndarray) -> tuple[np.ndarray, float]:
        mask = np.zeros_like(found.mask)
        mask[tuple(np.argwhere(found.mask)[0])] = True
        return mask, 0.1

    monkeypatch.setattr(choose, "refine", speck)
    ys, xs = np.nonzero(truth(7))
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    found = FallbackSegmenter().segment(moving, 7, Prompt((), box))
    assert overlap(found.mask, truth(7)) > 0.6
    assert found.confidence == 0.1
