"""Masks: image files whose pixels are the numbers of classes."""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any

import numpy as np

from bbg.errors import BbgError
from bbg.formats import FORMATS
from bbg.image.decoder import check_pixels
from bbg.image.metadata import turn_of, upright
from bbg.reading import regular_file

MASKS = ("PNG", "BMP", "GIF", "TIFF")  # formats that keep each number, and do not spread fewer of them over 0 to 255
MODES = ("P", "L", "1")
SPREAD = {"L;2": 85, "L;4": 17}  # what Pillow multiplies greys of few bits by
ADVICE = "; a mask is a PNG with a palette, or a grey one, whose pixels are the numbers of the classes"


def load_mask(source: str | os.PathLike[str] | bytes) -> np.ndarray:
    """The numbers of the classes in a mask (a path, or the bytes of a file), uint8 `[H, W]`, turned upright.

    They are the pixels of a grey picture, or the places in the palette of one that has a palette, whatever its colours
    are. Raises BbgError, which names the file, where it is missing, damaged, no image, a picture in colour or of more
    than 8 bits, in a format that changes numbers (JPEG), or larger than 80 million pixels.
    """
    from PIL import Image, UnidentifiedImageError

    name = "mask" if isinstance(source, bytes) else os.fspath(source)
    try:
        with BytesIO(source) if isinstance(source, bytes) else regular_file(source) as file:
            opened = Image.open(file, formats=[*FORMATS])
            if opened.format not in MASKS:
                raise BbgError(f"{name}: is a {opened.format}, which does not keep the numbers of classes{ADVICE}")
            if opened.mode not in MODES:
                raise BbgError(f"{name}: is a picture of mode {opened.mode}, not of one number for each pixel{ADVICE}")
            check_pixels(*opened.size)
            stated: Any = opened.tile[0].args if opened.tile else ""
            packing = stated if isinstance(stated, str) else str(stated[0] if stated else "")
            opened.load()
            numbers = np.asarray(upright(opened, turn_of(opened))).astype(np.uint8)
    except BbgError as error:
        raise error if str(error).startswith(name) else BbgError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise whatever they like on damaged data
        unknown = isinstance(error, UnidentifiedImageError)
        why = "its format is not known" if unknown else (isinstance(error, OSError) and error.strerror) or str(error)
        raise BbgError(f"{name}: is missing, damaged or no image ({why}){ADVICE}") from error
    found: np.ndarray = numbers // SPREAD.get(packing, 1)
    return found
