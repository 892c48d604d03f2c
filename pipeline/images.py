"""Still pictures from disk: checked, upright, sRGB."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import UserError
from .types import Array

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
"""What the content of a picture may be, whatever its name says."""

_EXIF_ORIENTATION = 0x0112
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, OverflowError, MemoryError, struct.error, zlib.error)


class LoadedImage(NamedTuple):
    """``rgb`` u8[H,W,3], sRGB and upright, and ``alpha`` f32[H,W] in 0..1, None when absent or opaque everywhere."""

    rgb: Array
    alpha: Array | None


def read_image(path: Path, max_pixels: float = 50e6) -> LoadedImage:
    """Read a PNG, JPEG or WEBP picture (the first one, if it is animated).

    The EXIF orientation is applied and an embedded ICC profile converted to sRGB; CMYK, grey, palette and 16-bit pictures become
    8-bit RGB; transparency in any of its forms becomes ``alpha``. Raises ``UserError`` when the file is missing, is no such
    picture, is damaged, or has more than ``max_pixels`` pixels (found before memory for them is taken).
    """
    from PIL import Image

    path = Path(path)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise UserError(_too_large(path, max_pixels))
            image.load()
            rgb, alpha = _decode(image)
            orientation = _orientation(image)
    except Image.DecompressionBombError:
        raise UserError(_too_large(path, max_pixels)) from None
    except FileNotFoundError:
        raise UserError(f"The picture {path.name} does not exist; check its name and folder.") from None
    except (IsADirectoryError, PermissionError):
        raise UserError(f"The picture {path.name} cannot be opened; check that it is a file that may be read.") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path.name} is not a PNG, JPEG or WEBP picture; save it as one of these.") from None
    except _BROKEN:
        raise UserError(f"The picture {path.name} is damaged or cut short; save or download it again.") from None
    rgb = np.ascontiguousarray(_upright(rgb, orientation))
    if alpha is None or (alpha == 1).all():
        return LoadedImage(rgb, None)
    return LoadedImage(rgb, np.ascontiguousarray(_upright(alpha, orientation)))


def check_pixels(path: Path, max_pixels: float) -> None:
    """Raise ``UserError`` when a picture has more than ``max_pixels`` pixels, as its header says. Whatever else is wrong with the
    file is left to ``read_image``."""
    from PIL import Image

    path = Path(path)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            is_large = image.width * image.height > max_pixels
    except Image.DecompressionBombError:
        is_large = True
    except _BROKEN:
        return
    if is_large:
        raise UserError(_too_large(path, max_pixels))


def _too_large(path: Path, max_pixels: float) -> str:
    return f"The picture {path.name} has more than {max_pixels / 1e6:g} million pixels; make it smaller."


def _decode(image: Image) -> tuple[Array, Array | None]:
    """u8[H,W,3] in sRGB and alpha f32[H,W] or None, of a loaded picture of any mode that the three formats have."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        return _decode_gray16(image)
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    alpha = None
    if has_alpha:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float32) / np.float32(255)
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    return np.array(_to_srgb(image)), alpha


def _decode_gray16(image: Image) -> tuple[Array, Array | None]:
    from PIL import Image as pillow

    samples = np.asarray(image).astype(np.int64)
    transparent = image.info.get("transparency")
    alpha = (samples != transparent).astype(np.float32) if isinstance(transparent, int) else None
    gray = pillow.fromarray(np.clip((samples + 128) // 257, 0, 255).astype(np.uint8))
    gray.info.update(icc_profile=image.info.get("icc_profile"))
    return np.array(_to_srgb(gray)), alpha


def _to_srgb(image: Image) -> Image:
    """An L, RGB or CMYK picture as sRGB, by its ICC profile if it has a usable one (a broken one is ignored, as viewers do)."""
    from io import BytesIO

    from PIL import ImageCms

    profile_bytes = image.info.get("icc_profile")
    if profile_bytes:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(profile_bytes))
            if not ImageCms.getProfileDescription(profile).startswith("sRGB"):
                converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
                return converted if converted is not None else image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 (upright) when there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (*_BROKEN, TypeError):
        return 1


def _upright(picture: Array, orientation: int) -> Array:
    """Undo an EXIF orientation (Exif 2.3, tag 0x0112); [H,W] or [H,W,C]."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return picture


def scale_to(image: Array, hw: tuple[int, int]) -> Array:
    """``image`` u8[H,W,C] at size ``hw``: averaged over areas when it gets smaller."""
    import cv2

    if image.shape[:2] == hw:
        return image
    method = cv2.INTER_AREA if hw[0] < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (hw[1], hw[0]), interpolation=method)
