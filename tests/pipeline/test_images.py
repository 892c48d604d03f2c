from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.errors import UserError
from pipeline.images import read_image

GRADIENT = np.stack(np.broadcast_arrays(np.arange(0, 240, 20)[None], np.arange(0, 200, 25)[:, None], 77), axis=-1).astype(np.uint8)


def save(folder: Path, image: Image.Image, name: str = "picture.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png_with_size(path: Path, width: int, height: int) -> Path:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 50)) + chunk(b"IEND", b"")
    )
    return path


def test_a_plain_png_is_read_exactly(tmp_path: Path) -> None:
    loaded = read_image(save(tmp_path, Image.fromarray(GRADIENT)))
    assert loaded.alpha is None
    assert loaded.rgb.dtype == np.uint8 and loaded.rgb.flags.c_contiguous and loaded.rgb.flags.writeable
    np.testing.assert_array_equal(loaded.rgb, GRADIENT)


@pytest.mark.parametrize(
    ("name", "options"), [("a.jpg", {"quality": 98}), ("a.webp", {"quality": 98}), ("a.webp", {"lossless": True})]
)
def test_jpeg_and_webp(tmp_path: Path, name: str, options: dict) -> None:
    smooth = np.repeat(np.repeat(GRADIENT, 8, axis=0), 8, axis=1)
    loaded = read_image(save(tmp_path, Image.fromarray(smooth), name, **options))
    assert np.abs(loaded.rgb.astype(int) - smooth).mean() < 4


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(GRADIENT))
    path.rename(tmp_path / "really.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "really.jpg").rgb, GRADIENT)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, Image.fromarray(GRADIENT), "picture.png", format=kind)
    with pytest.raises(UserError, match=r"picture\.png is not a PNG, JPEG or WEBP"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png"):
        read_image(path)


@pytest.mark.parametrize("place", ["missing.png", "."])
def test_what_cannot_be_opened_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError) as fault:
        read_image(tmp_path / place)
    assert str(tmp_path) not in str(fault.value)


@pytest.mark.parametrize(("name", "keep"), [("a.png", 0.5), ("a.jpg", 0.5), ("a.webp", 0.5), ("a.png", 0.9), ("a.jpg", 0.9)])
def test_truncated_pictures_are_refused(tmp_path: Path, name: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match=f"{name} is damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 12_000), (8_000, 8_000), (1, 60_000_000)])
def test_bombs_are_refused_before_memory_is_taken(tmp_path: Path, size: tuple[int, int]) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"bomb\.png has more than 50 million pixels"):
        read_image(png_with_size(tmp_path / "bomb.png", *size))
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown_bytes < 30e6


def test_the_limit_is_an_argument(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(GRADIENT))
    with pytest.raises(UserError, match="million pixels"):
        read_image(path, max_pixels=95)
    assert read_image(path, max_pixels=96).rgb.shape == (8, 12, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(np.dstack([GRADIENT, GRADIENT[..., 0] + 10]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, stored, exif=exif)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = np.asarray(stored.transpose(turn[orientation]) if orientation > 1 else stored)
    loaded = read_image(path)
    np.testing.assert_array_equal(loaded.rgb, upright[..., :3])
    assert loaded.alpha is not None
    np.testing.assert_allclose(loaded.alpha * 255, upright[..., 3], atol=1e-4)


def test_alpha_is_returned_as_it_is(tmp_path: Path) -> None:
    rgba = np.dstack([GRADIENT, np.arange(96, dtype=np.uint8).reshape(8, 12)])
    for name in ("a.png", "a.webp"):
        loaded = read_image(save(tmp_path, Image.fromarray(rgba), name, lossless=True, exact=True))
        assert loaded.alpha is not None and loaded.alpha.dtype == np.float32
        np.testing.assert_array_equal(np.rint(loaded.alpha * 255), rgba[..., 3])
        np.testing.assert_array_equal(loaded.rgb, GRADIENT)


def test_an_opaque_alpha_counts_as_none(tmp_path: Path) -> None:
    assert read_image(save(tmp_path, Image.fromarray(GRADIENT).convert("RGBA"))).alpha is None


def test_gray_and_gray_with_alpha(tmp_path: Path) -> None:
    gray = np.arange(96, dtype=np.uint8).reshape(8, 12)
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(gray))).rgb, np.dstack([gray] * 3))
    both = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(255 - gray)])
    loaded = read_image(save(tmp_path, both))
    np.testing.assert_array_equal(loaded.rgb[..., 1], gray)
    assert loaded.alpha is not None
    np.testing.assert_array_equal(np.rint(loaded.alpha * 255), 255 - gray)


def test_black_and_white(tmp_path: Path) -> None:
    bits = np.indices((8, 12)).sum(axis=0) % 2 == 0
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(bits))).rgb[..., 0], bits * 255)


def test_palette_and_its_transparency(tmp_path: Path) -> None:
    indices = np.arange(96, dtype=np.uint8).reshape(8, 12) % 3
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert read_image(save(tmp_path, image)).alpha is None
    loaded = read_image(save(tmp_path, image, transparency=bytes([0, 128, 255])))
    np.testing.assert_array_equal(loaded.rgb.argmax(axis=2), indices)
    assert loaded.alpha is not None
    np.testing.assert_array_equal(np.rint(loaded.alpha * 255), np.array([0, 128, 255])[indices])


def test_one_transparent_color(tmp_path: Path) -> None:
    loaded = read_image(save(tmp_path, Image.fromarray(GRADIENT), transparency=tuple(int(v) for v in GRADIENT[2, 3])))
    assert loaded.alpha is not None and loaded.alpha[2, 3] == 0 and loaded.alpha.sum() == 95


def test_sixteen_bits_a_sample(tmp_path: Path) -> None:
    import cv2

    deep = (GRADIENT.astype(np.uint16) * 257)[..., ::-1]
    for name, samples in {"rgb.png": deep, "gray.png": deep[..., 2]}.items():
        assert cv2.imwrite(str(tmp_path / name), samples)
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.png").rgb, GRADIENT)
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png").rgb[..., 2], GRADIENT[..., 0])
    assert cv2.imwrite(str(tmp_path / "rgba.png"), np.dstack([deep, deep[..., 2]]))
    loaded = read_image(tmp_path / "rgba.png")
    assert loaded.alpha is not None
    np.testing.assert_allclose(loaded.alpha, GRADIENT[..., 0] / 255, atol=0.004)


def test_cmyk(tmp_path: Path) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    color = read_image(save(tmp_path, red, "a.jpg", quality=95)).rgb[8, 8]
    assert color[0] > 220 and color[1] < 60 and color[2] < 60


def swapped_srgb_profile() -> bytes:
    """sRGB with its red and green primaries exchanged: what is stored as red is green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    for entry in range(count):
        place = 132 + 12 * entry
        name = bytes(profile[place : place + 4])
        if name in (b"rXYZ", b"gXYZ"):
            profile[place : place + 4] = b"gXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_icc_profile_is_applied(tmp_path: Path, mode: str) -> None:
    red = Image.new(mode, (8, 8), (255, 0, 0, 100)[: len(mode)])
    loaded = read_image(save(tmp_path, red, icc_profile=swapped_srgb_profile()))
    assert loaded.rgb[4, 4].tolist() == pytest.approx([0, 255, 0], abs=3)
    assert (loaded.alpha is None) == (mode == "RGB")


def test_an_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(GRADIENT), icc_profile=profile)).rgb, GRADIENT)


def test_a_broken_profile_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(GRADIENT), icc_profile=b"no profile at all" * 20)
    np.testing.assert_array_equal(read_image(path).rgb, GRADIENT)


def test_the_first_picture_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    path = save(tmp_path, frames[0], "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(path).rgb[0, 0].tolist() == [255, 0, 0]


def test_one_pixel(tmp_path: Path) -> None:
    assert read_image(save(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)))).rgb.tolist() == [[[1, 2, 3]]]


def test_flipped_bits_never_escape_as_another_error(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    sources = []
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(GRADIENT).save(buffer, kind, exif=exif)
        sources.append(buffer.getvalue())
    path = tmp_path / "bits"
    read = 0
    for trial in range(300):
        content = bytearray(sources[trial % 3])
        for place in random.integers(0, len(content), 4):
            content[place] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            read += read_image(path, max_pixels=1e6).rgb.size > 0
    assert 0 < read < 300
