"""What is measured in footage, against clips whose motion is known because they are made by it."""

from __future__ import annotations

import csv
from functools import lru_cache

import numpy as np
import pytest

from pipeline import cli, geometry, tracking
from pipeline.errors import Cancelled
from pipeline.masks import encode_rle
from pipeline.media import FrameStore, probe_clip
from pipeline.types import Follow, MaskTrack
from tests.tiny import make_clip

HW = (180, 320)
NUM_FRAMES = 24
CORNERS = np.array([[20.0, 20.0], [300.0, 20.0], [300.0, 160.0], [20.0, 160.0], [160.0, 90.0]])


@lru_cache
def scenery(seed: int = 0) -> np.ndarray:
    """u8[360,640,3]: soft blobs of every size and colour, larger than the clip."""
    import cv2

    rng = np.random.default_rng(seed)
    picture = np.zeros((360, 640, 3), np.float32)
    for cell, strength in ((4, 0.6), (12, 1.0), (40, 1.0)):
        coarse = rng.normal(0, 1, (360 // cell + 2, 640 // cell + 2, 3)).astype(np.float32)
        picture += strength * cv2.resize(coarse, (640, 360), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 45 * picture, 0, 255).astype(np.uint8)


def camera_path(kind: str, num_frames: int = NUM_FRAMES) -> list[np.ndarray]:
    """Maps f64[3,3] from the first frame's pixels to every frame's, as a hand would hold the camera."""
    rng = np.random.default_rng(3)
    centre = np.array([HW[1] / 2, HW[0] / 2])
    maps = []
    for frame in range(num_frames):
        time = frame / 25
        shake = rng.normal(0, 0.3, 2) if frame else np.zeros(2)
        shift = np.array([14 * np.sin(3 * time), 9 * np.sin(4 * time)]) + shake
        moved = np.eye(3)
        if kind != "translation":
            moved = geometry.similarity_map(np.exp(0.05 * np.sin(2 * time) + 0.03j * np.sin(3 * time)), 0j)
        if kind == "homography":
            moved = np.array([[1, 0, 0], [0, 1, 0], [2e-4 * np.sin(3 * time), 1e-4 * np.sin(2 * time), 1]]) @ moved
        maps.append(geometry.translation(centre + shift) @ moved @ geometry.translation(-centre))
    return maps


def look(matrix: np.ndarray, seed: int = 0) -> np.ndarray:
    """The scenery through a camera that moved by ``matrix``, u8[H,W,3]."""
    import cv2

    half = geometry.translation([0.5, 0.5])
    whole = np.linalg.inv(half) @ matrix @ geometry.translation([-160, -90]) @ half
    return cv2.warpPerspective(scenery(seed), whole, HW[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def film(path, images, num_frames=NUM_FRAMES):
    noise = np.random.default_rng(7).normal(0, 3, (*HW, 3))

    def image(frame):
        return np.clip(images(frame) + np.roll(noise, 17 * frame, axis=1), 0, 255).astype(np.uint8)

    clip = make_clip(path, num_frames=num_frames, hw=HW, images=image, options={"crf": "20"})
    return FrameStore(probe_clip(clip))


@pytest.fixture(scope="module")
def hand_held(tmp_path_factory):
    """A clip under a general motion, and the maps that made it."""
    maps = camera_path("homography")
    return film(tmp_path_factory.mktemp("clips") / "hand.mp4", lambda frame: look(maps[frame])), maps


def drift_px(surface, maps, frames=range(NUM_FRAMES), points=CORNERS):
    """The largest distance between where points of the key frame are and where they were taken to be."""
    back = np.linalg.inv(maps[surface.key_frame])
    errors = [
        np.linalg.norm(geometry.apply_map(maps[frame] @ back, points) - geometry.apply_map(surface.matrices[frame], points), axis=1)
        for frame in frames
    ]
    return float(np.max(errors))


# -- fits and matches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["translation", "similarity", "homography"])
def test_a_motion_is_found_among_as_many_mistakes(kind):
    rng = np.random.default_rng(1)
    points = rng.uniform(0, [320, 180], (120, 2))
    true = camera_path(kind)[20]
    there = geometry.apply_map(true, points) + rng.normal(0, 0.1, points.shape)
    is_wrong = np.arange(120) % 2 == 0
    there[is_wrong] += rng.uniform(-60, 60, (60, 2))
    matrix, is_inlier = tracking.estimate_motion(points, there, kind)
    np.testing.assert_allclose(geometry.apply_map(matrix, CORNERS), geometry.apply_map(true, CORNERS), atol=0.3)
    assert is_inlier[~is_wrong].all() and is_inlier[is_wrong].mean() < 0.1


def test_too_few_matches_are_no_motion():
    for kind, count in (("translation", 0), ("similarity", 1), ("homography", 3)):
        matrix, is_inlier = tracking.estimate_motion(np.ones((count, 2)), np.zeros((count, 2)), kind)
        assert (matrix == np.eye(3)).all() and not is_inlier.any()


def test_convention_matches_are_continuous_coordinates():
    import cv2

    one, other = (cv2.cvtColor(look(geometry.translation(shift)), cv2.COLOR_RGB2GRAY) for shift in ([0.0, 0.0], [3.5, -2.25]))
    a, b = tracking.match_frames(one, other)
    assert len(a) > 60
    np.testing.assert_allclose(np.median(b - a, axis=0), [3.5, -2.25], atol=0.05)
    left = np.zeros(HW, bool)
    left[:, :100] = True
    inside, _ = tracking.match_frames(one, other, left)
    assert len(inside) > 10 and inside[:, 0].max() <= 100


# -- surfaces ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["translation", "similarity", "homography"])
def test_the_whole_picture_is_followed_both_ways(tmp_path, kind):
    maps = camera_path(kind)
    frames = film(tmp_path / "clip.mp4", lambda frame: look(maps[frame]))
    surface = tracking.track_surface(frames, Follow(kind, key_frame=9), 0, NUM_FRAMES)
    assert surface.is_tracked.all() and (surface.matrices[9] == np.eye(3)).all()
    assert drift_px(surface, maps) < 0.8
    if kind == "translation":
        assert (surface.matrices[:, :2, :2] == np.eye(2)).all()


@pytest.mark.parametrize(
    "where", [{"region_px": (90.0, 40.0, 230.0, 140.0)}, {"points_px": ((120.0, 60.0), (210.0, 70.0), (160.0, 120.0))}]
)
def test_a_part_of_the_picture_is_followed(hand_held, where):
    frames, maps = hand_held
    surface = tracking.track_surface(frames, Follow("homography", **where), 0, NUM_FRAMES)
    assert surface.is_tracked.all()
    assert drift_px(surface, maps, points=np.array([[130.0, 70.0], [200.0, 70.0], [160.0, 110.0]])) < 0.8


def test_errors_do_not_add_up(tmp_path):
    maps = camera_path("similarity", 60)
    frames = film(tmp_path / "long.mp4", lambda frame: look(maps[frame]), 60)
    surface = tracking.track_surface(frames, Follow("similarity"), 0, 60)
    assert drift_px(surface, maps, range(48, 60)) < 0.3


def test_a_frame_does_not_depend_on_where_the_range_ends(hand_held):
    frames, _ = hand_held
    whole = tracking.track_surface(frames, Follow("similarity", 4), 0, NUM_FRAMES)
    part = tracking.track_surface(frames, Follow("similarity", 4), 8, 14)
    np.testing.assert_array_equal(part.matrices[4:15], whole.matrices[4:15])
    np.testing.assert_array_equal(part.matrices[15:], np.broadcast_to(whole.matrices[14], (NUM_FRAMES - 15, 3, 3)))
    assert part.is_tracked[4:15].all() and not part.is_tracked[15:].any() and not part.is_tracked[:4].any()
    np.testing.assert_array_equal(tracking.within_range(whole, 8, 14).matrices, part.matrices)


def test_what_crosses_does_not_take_the_surface_along(tmp_path):
    maps = camera_path("similarity", 40)
    other = np.random.default_rng(5).integers(0, 255, (HW[0], 90, 3)).astype(np.uint8)
    import cv2

    other = cv2.GaussianBlur(other, (5, 5), 0)

    def image(frame):
        picture, left = look(maps[frame]), -90 + 12 * frame
        first, last = max(left, 0), min(left + 90, HW[1])
        if first < last:
            picture[:, first:last] = other[:, first - left : last - left]
        return picture

    frames = film(tmp_path / "crossed.mp4", image, 40)
    middle = np.array([[130.0, 70.0], [190.0, 70.0], [160.0, 110.0]])
    surface = tracking.track_surface(frames, Follow("similarity", 0, None, (120.0, 60.0, 200.0, 120.0)), 0, 40)
    assert not surface.is_tracked.all(), "while it is covered the surface must not be taken as seen"
    assert surface.is_tracked[36:].all() and drift_px(surface, maps, range(36, 40), middle) < 1.0
    masks = []
    for frame in range(40):
        mask = np.zeros(HW, bool)
        mask[:, max(-90 + 12 * frame, 0) : max(12 * frame, 0)] = True
        masks.append(encode_rle(mask) if mask.any() else None)
    known = tracking.track_surface(frames, Follow("similarity"), 0, 40, MaskTrack(HW, tuple(masks)))
    assert known.is_tracked.all() and drift_px(known, maps, range(40)) < 1.0


def test_where_there_is_nothing_to_see_the_rest_of_the_picture_decides(tmp_path):
    import cv2

    maps = camera_path("homography", 40)
    detail = np.zeros((*HW, 1), np.float32)
    detail[:, 200:] = 1.0
    board = cv2.GaussianBlur(np.random.default_rng(5).integers(0, 255, (140, 70, 3)).astype(np.uint8), (5, 5), 0)

    def image(frame):
        shown = cv2.warpPerspective(detail, maps[frame], HW[::-1], borderMode=cv2.BORDER_REPLICATE)[..., None]
        picture = (shown * look(maps[frame]) + (1 - shown) * 110).astype(np.uint8)
        first = 5 * frame - 70
        if first > -70:
            seen = board[:, max(-first, 0) :]
            picture[20:160, max(first, 0) : first + 70] = seen
        return picture

    surface = tracking.track_surface(film(tmp_path / "half.mp4", image, 40), Follow("homography"), 0, 40)
    assert surface.is_tracked.all() and drift_px(surface, maps, range(40)) < 3.0


def test_surroundings_help_only_where_they_move_with_the_region(tmp_path):
    """A board that moves before its surroundings is followed by itself, although there is more to see around it."""
    import cv2

    maps = camera_path("similarity", 16)
    true = [each @ geometry.translation([2.0 * np.sin(frame / 5), 1.0 * np.sin(frame / 6)]) for frame, each in enumerate(maps)]
    board = np.zeros((*HW, 1), np.float32)
    board[40:140, 90:230] = 1.0

    def image(frame):
        shown = cv2.warpPerspective(board, geometry.pixel_map(true[frame]), HW[::-1])[..., None]
        return shown * look(true[frame], seed=1) + (1 - shown) * look(maps[frame])

    frames = film(tmp_path / "board.mp4", image, 16)
    middle = np.array([[110.0, 60.0], [210.0, 60.0], [160.0, 120.0]])
    surface = tracking.track_surface(frames, Follow("homography", 0, None, (95.0, 45.0, 225.0, 135.0)), 0, 16)
    assert surface.is_tracked.all() and drift_px(surface, true, range(16), middle) < 0.6


def test_what_is_out_of_focus_is_followed_too(tmp_path):
    import cv2

    maps = camera_path("homography", 16)
    sharp = np.zeros((*HW, 1), np.float32)
    sharp[:, 200:] = 1.0

    def image(frame):
        shown = cv2.warpPerspective(sharp, geometry.pixel_map(maps[frame]), HW[::-1], borderMode=cv2.BORDER_REPLICATE)[..., None]
        picture = look(maps[frame]).astype(np.float32)
        return shown * picture + (1 - shown) * cv2.GaussianBlur(picture, (0, 0), 8)

    surface = tracking.track_surface(film(tmp_path / "soft.mp4", image, 16), Follow("homography"), 0, 16)
    assert surface.is_tracked.all() and drift_px(surface, maps, range(16)) < 0.7


@pytest.mark.parametrize("region", [None, (110.0, 50.0, 210.0, 130.0)])
def test_what_was_covered_while_the_camera_went_on_is_found_again(tmp_path, region):
    """Twelve frames show nothing; meanwhile the camera turns further than a surface can be followed without them."""
    maps = [geometry.translation([min(max(frame - 3, 0), 12) * -10.0, 0]) for frame in range(20)]
    covered = np.full((*HW, 3), 110, np.uint8)
    frames = film(tmp_path / "away.mp4", lambda frame: covered if 3 < frame < 15 else look(maps[frame]), 20)
    surface = tracking.track_surface(frames, Follow("similarity", 0, None, region), 0, 20)
    assert surface.is_tracked.tolist() == [not 3 < frame < 15 for frame in range(20)]
    middle = np.array([[120.0, 60.0], [200.0, 120.0]])
    assert drift_px(surface, maps, [*range(3), *range(15, 20)], middle) < 0.5


def test_a_cut_loses_the_surface_there_and_the_matrix_stays(tmp_path):
    maps = camera_path("similarity")
    frames = film(tmp_path / "cut.mp4", lambda frame: look(maps[frame], seed=0 if frame < 12 else 1))
    surface = tracking.track_surface(frames, Follow("similarity"), 0, NUM_FRAMES)
    assert surface.is_tracked[:12].all() and not surface.is_tracked[12:].any()
    np.testing.assert_array_equal(surface.matrices[12:], np.broadcast_to(surface.matrices[11], (12, 3, 3)))


def test_nothing_to_hold_on_to_is_said(tmp_path):
    frames = FrameStore(
        probe_clip(make_clip(tmp_path / "flat.mp4", num_frames=4, hw=HW, images=lambda _: np.full((*HW, 3), 90, np.uint8)))
    )
    surface = tracking.track_surface(frames, Follow("homography", 1), 0, 4)
    assert not surface.is_tracked.any() and (surface.matrices == np.eye(3)).all()


def test_a_clip_of_one_frame(tmp_path):
    frames = film(tmp_path / "one.mp4", lambda _: look(np.eye(3)), 1)
    assert tracking.track_surface(frames, Follow("similarity"), 0, 1).is_tracked.all()
    assert not tracking.detect_camera_motion(frames).is_moving


def test_stopping_stops(hand_held):
    frames, _ = hand_held
    told = []

    def report(progress):
        told.append(progress)
        if progress.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        tracking.track_surface(frames, Follow("similarity"), 0, NUM_FRAMES, report=report)
    assert len(told) <= 3 and told[0].num_steps == NUM_FRAMES


# -- points and the camera --------------------------------------------------------------------------------------------------------


def test_points_are_followed_both_ways_and_hidden_ones_are_said(tmp_path):
    maps = camera_path("similarity", 30)

    def image(frame):
        picture = look(maps[frame])
        if 12 <= frame < 18:
            picture[60:120, 130:190] = 30
        return picture

    frames = film(tmp_path / "points.mp4", image, 30)
    queries = np.array([[60.3, 50.0], [160.0, 90.0], [250.0, 130.5]])
    tracks = tracking.track_points(frames, 5, queries, 0, 28)
    true = np.array([geometry.apply_map(each @ np.linalg.inv(maps[5]), queries) for each in maps]).swapaxes(0, 1)
    error = np.linalg.norm(tracks.points_px - true, axis=2)
    assert tracks.is_visible[[0, 2], :28].all() and not tracks.is_visible[:, 28:].any()
    assert not tracks.is_visible[1, 13:17].any() and tracks.is_visible[1, :12].all() and tracks.is_visible[1, 20:28].all()
    assert error[tracks.is_visible].max() < 1.0 and error[1, 12:18].max() < 6.0


def test_track_writes_every_frame_and_point(tmp_path, capsys):
    maps = camera_path("translation", 6)
    film(tmp_path / "clip.mp4", lambda frame: look(maps[frame]), 6)
    command = ["track", str(tmp_path / "clip.mp4"), "--frame", "2", "--point", "0.5,0.5", "--point", "0.25,0.4"]
    assert cli.main([*command, "-o", str(tmp_path / "tracks.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "tracks.csv").open()))
    assert list(rows[0]) == ["frame", "point", "x", "y", "visible"] and len(rows) == 12
    assert (float(rows[4]["x"]), float(rows[4]["y"]), rows[4]["visible"]) == (0.5, 0.5, "1")
    shift = maps[5][:2, 2] - maps[2][:2, 2]
    assert float(rows[10]["x"]) * 320 == pytest.approx(160 + shift[0], abs=0.5)
    assert cli.main([*command, "-o", str(tmp_path / "tracks.txt")]) == 2
    assert cli.main(["track", str(tmp_path / "clip.mp4"), "--frame", "6", "--point", "0,0", "-o", str(tmp_path / "b.csv")]) == 2
    assert "0 to 5" in capsys.readouterr().err and not (tmp_path / "b.csv").exists()


def test_a_moving_camera_is_told_from_a_still_one(tmp_path, hand_held):
    moving = tracking.detect_camera_motion(hand_held[0])
    assert moving.is_moving and 0.2 < moving.shift_px < 5
    still = film(tmp_path / "still.mp4", lambda _: look(np.eye(3)))
    assert tracking.detect_camera_motion(still) == tracking.CameraMotion(False, 0.0)
