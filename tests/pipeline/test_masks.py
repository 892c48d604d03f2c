from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import UserError
from pipeline.masks import (
    coco_mask,
    decode_coco_counts,
    decode_rle,
    encode_coco_counts,
    encode_rle,
    grow_mask,
    image_mask,
    mask_alpha,
    parse_coco_mask,
    read_mask_track,
)
from pipeline.types import Clip, MaskTrack
from tests.tiny import make_clip

HW = (36, 48)


def a_clip(num_frames: int = 4, hw: tuple[int, int] = HW) -> Clip:
    return Clip(
        path=Path("clip.mkv"),
        sha256="0" * 64,
        width=hw[1],
        height=hw[0],
        fps=Fraction(24),
        num_frames=num_frames,
        timestamps=np.arange(num_frames),
        time_base=Fraction(1, 24),
        pixel_format="yuv420p",
    )


def a_box(hw: tuple[int, int] = HW, top: int = 10, left: int = 12, bottom: int = 26, right: int = 36) -> np.ndarray:
    mask = np.zeros(hw, bool)
    mask[top:bottom, left:right] = True
    return mask


def save(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def mask_video(path: Path, masks: list[np.ndarray], **options: object) -> Path:
    def paint(frame_index: int) -> np.ndarray:
        return np.repeat(masks[frame_index][..., None].astype(np.uint8) * 255, 3, axis=2)

    return make_clip(path, num_frames=len(masks), hw=masks[0].shape, images=paint, **options)  # type: ignore[arg-type]


masks_of_any_size = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda hw: st.lists(st.booleans(), min_size=hw[0] * hw[1], max_size=hw[0] * hw[1]).map(lambda bits: np.array(bits).reshape(hw))
)


# Run lengths


def test_convention_runs_go_down_the_columns_background_first() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert encode_rle(mask).tolist() == [2, 1, 1, 2]
    assert encode_rle(~mask).tolist() == [0, 2, 1, 1, 2]
    assert encode_rle(np.zeros((2, 3), bool)).tolist() == [6]
    assert encode_rle(np.ones((2, 3), bool)).tolist() == [0, 6]
    assert encode_rle(mask).dtype == np.uint32


@given(masks_of_any_size)
def test_run_lengths_round_trip(mask: np.ndarray) -> None:
    runs = encode_rle(mask)
    np.testing.assert_array_equal(decode_rle(runs, mask.shape), mask)
    np.testing.assert_array_equal(decode_coco_counts(encode_coco_counts(runs)), runs)
    np.testing.assert_array_equal(parse_coco_mask(coco_mask(runs, mask.shape), mask.shape), runs)


def test_runs_that_do_not_fill_the_picture_are_refused() -> None:
    for runs in ([5], [7], [3, 4], [0xFFFFFFFF, 0xFFFFFFFF]):
        with pytest.raises(ValueError, match="must add up to 2x3"):
            decode_rle(np.array(runs, np.uint32), (2, 3))


def test_run_lengths_are_fast() -> None:
    y, x = np.mgrid[0:1080, 0:1920]
    mask = (np.hypot(y - 540, x - 960) < 400) ^ (np.hypot(y - 300, x - 500) < 120)
    start = time.perf_counter()
    runs = encode_rle(mask)
    for _ in range(3):
        decode_rle(runs, mask.shape)
    assert time.perf_counter() - start < 1.5
    assert len(runs) < 4000


def reference_counts(runs: list[int]) -> str:
    """COCO's rleToString, as its C source has it."""
    text = ""
    for index, run in enumerate(runs):
        value = run - (runs[index - 2] if index > 2 else 0)
        more = True
        while more:
            digit = value & 0x1F
            value >>= 5
            more = value != -1 if digit & 0x10 else value != 0
            text += chr((digit | 0x20 if more else digit) + 48)
    return text


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=12))
def test_counts_are_those_of_coco(runs: list[int]) -> None:
    text = encode_coco_counts(np.array(runs, np.uint32))
    assert text == reference_counts(runs)
    assert decode_coco_counts(text).tolist() == runs


def test_known_counts() -> None:
    assert encode_coco_counts(np.array([6, 1, 40, 4, 5, 4, 5, 4, 21], np.uint32)) == "61X13mN000`0"


@pytest.mark.parametrize("counts", ["", "é", "/", "p", "61X", "P" * 5, "o" * 8 + "0", "O", "0O", "000O", "oooooo?"])
def test_hostile_counts_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="counts"):
        decode_coco_counts(counts)


@given(st.text(alphabet=[chr(code) for code in range(44, 116)], max_size=40))
def test_any_text_is_counts_or_refused(counts: str) -> None:
    try:
        runs = decode_coco_counts(counts)
    except ValueError:
        return
    assert runs.dtype == np.uint32


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "6",
        {"size": [2, 3]},
        {"size": [2, 3], "counts": "6", "more": 1},
        {"size": [3, 2], "counts": "6"},
        {"size": [2, 3, 1], "counts": "6"},
        {"size": "23", "counts": "6"},
        {"size": [2, 3], "counts": 6},
        {"size": [2, 3], "counts": "5"},
        {"size": [2, 3], "counts": "0" * 50},
        {"size": [2, 3], "counts": [-1, 7]},
        {"size": [2, 3], "counts": [3.0, 3.0]},
        {"size": [2, 3], "counts": [True] * 6},
        {"size": [2, 3], "counts": [1 << 40, 6]},
        {"size": [2, 3], "counts": []},
    ],
)
def test_hostile_masks_are_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"mask must be|size must be|counts"):
        parse_coco_mask(document, (2, 3))


def test_both_forms_of_counts_are_read() -> None:
    for counts in ("33", [3, 3], (3, 3)):
        assert parse_coco_mask({"size": [2, 3], "counts": counts}, (2, 3)).tolist() == [3, 3]


# Pictures


def test_a_picture_is_a_mask_from_half_gray(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(image_mask(tmp_path / "mask.png", (16, 16)), gray >= 128)


def test_a_picture_with_transparency_is_a_mask_by_that(tmp_path: Path) -> None:
    rgba = np.zeros((*HW, 4), np.uint8)
    rgba[..., 3] = a_box() * 200
    Image.fromarray(rgba).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(image_mask(tmp_path / "mask.png", HW), a_box())


def test_a_mask_of_the_same_shape_is_resized(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", a_box())
    np.testing.assert_array_equal(image_mask(path, (72, 96)), np.kron(a_box(), np.ones((2, 2), bool)))
    np.testing.assert_array_equal(image_mask(path, (18, 24)), a_box()[::2, ::2])
    assert image_mask(path, (720, 959)).shape == (720, 959)


@pytest.mark.parametrize("hw", [(48, 36), (36, 50), (72, 90), (36, 24)])
def test_a_mask_of_another_shape_is_refused(tmp_path: Path, hw: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"mask\.png is 48x36 and belongs on .*; make it the same shape"):
        image_mask(save(tmp_path / "mask.png", a_box()), hw)


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mask\.png is empty"):
        image_mask(save(tmp_path / "mask.png", np.zeros(HW, bool)), HW)


# Tracks


def test_a_picture_holds_for_every_frame_and_is_stored_once(tmp_path: Path) -> None:
    track = read_mask_track(save(tmp_path / "mask.png", a_box()), a_clip(5), 0, 0.0)
    assert track.hw == HW and len(track) == 5
    assert all(runs is track.runs[0] for runs in track.runs)
    np.testing.assert_array_equal(mask_alpha(track, 4), a_box().astype(np.float32))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask.mkv", {"codec": "ffv1", "pixel_format": "gray"}),
        ("mask.mkv", {"codec": "ffv1", "pixel_format": "yuv444p"}),
        ("mask.mp4", {"codec": "libx264", "pixel_format": "yuv420p"}),
    ],
)
def test_a_mask_video_is_read_frame_by_frame(tmp_path: Path, name: str, options: dict) -> None:
    masks = [a_box(left=8 + 4 * frame, right=20 + 4 * frame) for frame in range(4)]
    masks[2][:] = False
    track = read_mask_track(mask_video(tmp_path / name, masks, **options), a_clip(4))
    assert track.runs[2] is None
    for frame_index, mask in enumerate(masks):
        np.testing.assert_array_equal(mask_alpha(track, frame_index), mask.astype(np.float32))


def test_a_mask_video_needs_one_frame_for_every_frame(tmp_path: Path) -> None:
    path = mask_video(tmp_path / "mask.mkv", [a_box()] * 3, codec="ffv1", pixel_format="gray")
    with pytest.raises(UserError, match=r"mask\.mkv has 3 frames and the clip 4"):
        read_mask_track(path, a_clip(4))


def test_a_mask_video_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = mask_video(tmp_path / "mask.mkv", [a_box()] * 2, codec="ffv1", pixel_format="gray")
    with pytest.raises(UserError, match="same shape"):
        read_mask_track(path, a_clip(2, (36, 36)))


def test_a_missing_mask_is_refused(tmp_path: Path) -> None:
    for name in ("mask.png", "mask.mkv"):
        with pytest.raises(UserError, match="mask"):
            read_mask_track(tmp_path / name, a_clip())


def test_edits_replace_single_frames(tmp_path: Path) -> None:
    edit = a_box(top=2, left=3, bottom=8, right=9)
    path = save(tmp_path / "mask.png", a_box())
    track = read_mask_track(path, a_clip(4), edits={1: coco_mask(encode_rle(edit), HW)})
    for frame_index, mask in enumerate([a_box(), edit, a_box(), a_box()]):
        np.testing.assert_array_equal(mask_alpha(track, frame_index) > 0, mask)
    alone = read_mask_track(None, a_clip(4), edits={3: coco_mask(encode_rle(edit), HW)})
    assert [runs is None for runs in alone.runs] == [True, True, True, False]


def test_hostile_edits_are_refused(tmp_path: Path) -> None:
    good = coco_mask(encode_rle(a_box()), HW)
    for edits in ({4: good}, {-1: good}, {0: {"size": [36, 48], "counts": "7"}}, {0: coco_mask(encode_rle(a_box().T), HW[::-1])}):
        with pytest.raises(UserError, match="frame"):
            read_mask_track(None, a_clip(4), edits=edits)


def test_grow_comes_after_edits_and_also_for_them() -> None:
    edit = coco_mask(encode_rle(a_box()), HW)
    track = read_mask_track(None, a_clip(1), 3, edits={0: edit})
    np.testing.assert_array_equal(mask_alpha(track, 0) > 0, grow_mask(a_box(), 3))


@pytest.mark.parametrize("radius", [1, 2, 5, 7.5])
def test_growing_is_by_a_disk(radius: float) -> None:
    dot = np.zeros((41, 41), bool)
    dot[20, 20] = True
    y, x = np.mgrid[-20:21, -20:21]
    disk = np.hypot(x, y) <= radius
    np.testing.assert_array_equal(grow_mask(dot, radius), disk)
    np.testing.assert_array_equal(grow_mask(~dot, -radius), ~disk)


def test_growing_and_shrinking_at_the_pictures_edge() -> None:
    half = np.zeros((20, 30), bool)
    half[:, :10] = True
    np.testing.assert_array_equal(grow_mask(half, -3).sum(axis=1), np.full(20, 7))
    np.testing.assert_array_equal(grow_mask(half, 3).sum(axis=1), np.full(20, 13))
    assert grow_mask(np.ones((4, 4), bool), -9).all() and not grow_mask(np.zeros((4, 4), bool), 9).any()
    assert not grow_mask(a_box(), -30).any()


def test_what_shrinks_away_is_none(tmp_path: Path) -> None:
    track = read_mask_track(save(tmp_path / "mask.png", a_box()), a_clip(2), -30)
    assert track.runs == (None, None)
    assert not mask_alpha(track, 1).any()


@pytest.mark.parametrize(("grow_px", "feather_px"), [(501, 0), (-501, 0), (0, 201), (0, -1), (float("nan"), 0), (0, float("nan"))])
def test_grow_and_feather_are_bounded(grow_px: float, feather_px: float) -> None:
    with pytest.raises(UserError, match="at most"):
        read_mask_track(None, a_clip(), grow_px, feather_px)


@pytest.mark.parametrize("sigma", [1.0, 2.5, 4.0])
def test_feather_is_a_gaussian_that_leaves_the_core_at_one(sigma: float) -> None:
    from scipy.ndimage import distance_transform_edt
    from scipy.special import ndtr

    mask = a_box((90, 120), 20, 25, 70, 95)
    alpha = mask_alpha(MaskTrack(hw=mask.shape, runs=(encode_rle(mask),), feather_px=sigma), 0)
    assert alpha.dtype == np.float32 and alpha.min() == 0 and alpha.max() == 1
    reach = round(2 * sigma)
    assert (alpha[distance_transform_edt(mask) > 2**0.5 * reach] == 1).all()
    assert (alpha[distance_transform_edt(~mask) > 2**0.5 * reach] == 0).all()
    across = alpha[45, 25 - reach : 25 + reach]
    expected = ndtr((np.arange(-reach, reach) + 0.5) / sigma)
    assert (np.diff(across) > 0).all()
    np.testing.assert_allclose(across, expected, atol=0.04)


def test_feather_softens_nothing_at_the_pictures_edge() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    alpha = mask_alpha(MaskTrack(hw=mask.shape, runs=(encode_rle(mask),), feather_px=3.0), 0)
    assert (alpha[:, :14] == 1).all() and (alpha[:, 26:] == 0).all()
    np.testing.assert_allclose(alpha, np.broadcast_to(alpha[20], (40, 40)), atol=1e-6)


def test_no_feather_is_exactly_the_mask() -> None:
    alpha = mask_alpha(MaskTrack(hw=HW, runs=(encode_rle(a_box()), None)), 0)
    np.testing.assert_array_equal(alpha, a_box().astype(np.float32))
