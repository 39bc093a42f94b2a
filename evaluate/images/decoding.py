"""Image files as pixels of one size."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import EvaluateError


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """RGB pixels of the central square, uint8 [size, size, 3], resized with antialiasing.

    A JPEG that is not yet loaded and has twice the size or more is first scaled by its decoder, by 2, 4
    or 8 and never below ``size``: four times as fast, and within one gray level on average.  EXIF
    rotation is applied, 16-bit gray is scaled to 8 bits and other modes are converted.  Raises
    ValueError for the modes whose range of values is unknown (32-bit integers and floats).
    """
    image.draft(None, (size, size))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: 32 bits per pixel; save it with 8 or 16")
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))


def decode_named(name: str, data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode one image file; raises EvaluateError naming it if it is broken."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return fit(image, size)
    except UnidentifiedImageError:  # whose message contains an address in memory
        raise EvaluateError(f"{name}: broken image (not an image in a format that Pillow reads)") from None
    except Exception as error:  # wrong bytes make decoders fail in many ways
        raise EvaluateError(f"{name}: broken image ({str(error) or type(error).__name__})") from None
