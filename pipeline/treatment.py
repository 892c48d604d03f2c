"""How a project says that a reference picture is cut out, made into the cut-out: the one place that the page and renders share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError
from .masks import decode_rle, grow_mask, image_mask, parse_coco_mask
from .types import Array, Click

if TYPE_CHECKING:
    from .cache import ArtifactCache
    from .images import LoadedImage
    from .matting import CutOut


@dataclass(frozen=True, slots=True)
class Treatment:
    """A reference's mask in a project: a file, or ``clicks`` (x, y, 1 for the object or 0; 0..1 of the picture), or neither;
    ``edit`` (height, width, COCO's run-length code) is what was painted and takes their place. Then the mask is grown by
    ``grow_px``."""

    mask_path: Path | None = None
    clicks: tuple[tuple[float, float, int], ...] = ()
    edit: tuple[int, int, str] | None = None
    grow_px: float = 0.0


AUTOMATIC = Treatment()


def treat_picture(image: LoadedImage, treatment: Treatment = AUTOMATIC, cache: ArtifactCache | None = None) -> CutOut:
    """The cut-out of a picture. What is painted and what is clicked corrects the cut-out that would be made without it; a mask from
    a file says all by itself. Raises ``UserError``, ``matting.NothingFound`` where it must be said by hand what the object is."""
    from .matting import cut_out

    hw = image.rgb.shape[:2]
    if treatment.edit is not None:
        mask = grow_mask(_decode(treatment.edit, hw), treatment.grow_px)
        if not mask.any():
            raise UserError("Everything of the reference is erased; paint what belongs to the object.")
        return cut_out(image.rgb, image.alpha, mask=mask, cache=cache, is_correction=True)
    if treatment.mask_path is not None:
        mask = grow_mask(image_mask(treatment.mask_path, hw), treatment.grow_px)
        return cut_out(image.rgb, image.alpha, mask=mask, cache=cache)
    if treatment.clicks:
        return cut_out(image.rgb, image.alpha, cache=cache, clicks=to_clicks(treatment.clicks, hw))
    return cut_out(image.rgb, image.alpha, cache=cache)


def to_clicks(clicks: tuple[tuple[float, float, int], ...], hw: tuple[int, int]) -> list[Click]:
    """Clicks of a document in pixels of a picture."""
    return [Click(float(x * hw[1]), float(y * hw[0]), bool(is_foreground)) for x, y, is_foreground in clicks]


def _decode(edit: tuple[int, int, str], hw: tuple[int, int]) -> Array:
    height, width, counts = edit
    try:
        return np.asarray(decode_rle(parse_coco_mask({"size": [height, width], "counts": counts}, hw), hw))
    except ValueError as fault:
        raise UserError(f"What was painted on the picture does not fit it: {fault}.") from None
