"""Image files from elsewhere: is one of the planned format and size, and whole, and can it be decoded?"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from synthgen.common.printing import counted

if TYPE_CHECKING:
    from synthgen.kinds.base import ImageFormat

DECODERS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}  # Pillow's names


def image_defect(ending: str, data: bytes, planned: ImageFormat, *, decode: bool = True) -> str | None:
    """Why an image file is not as planned, or None; its size is checked before anything is decoded."""
    from PIL import Image, UnidentifiedImageError

    if ending != planned.ending:
        return f"is a {ending}, planned {planned.ending}"
    try:
        with Image.open(io.BytesIO(data), formats=[DECODERS[ending]]) as image:
            if image.size != (planned.side, planned.side):
                return f"has {image.width} x {image.height} pixels, planned {planned.side} x {planned.side}"
            if decode:
                image.load()
    except UnidentifiedImageError:  # its text contains a memory address
        return f"cannot be decoded (not a {DECODERS[ending]})"
    except Exception as error:  # decoders fail on damaged bytes in many ways
        return f"cannot be decoded ({' '.join(str(error).split())[:100] or type(error).__name__})"
    end = ENDS[ending](data)
    if end == len(data):
        return None
    return f"has {counted(len(data) - end, 'byte')} after its end" if 0 < end < len(data) else "is truncated"


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Suppress the warnings of decoders: what they warn about is then reported as a defect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# How many bytes a file has by what it says itself; 0 if it does not say.  Decoders do not read as far.


def _end_of_png(data: bytes) -> int:
    """After its chunk IEND; each chunk has a length, a name, contents and a checksum (PNG specification, 5.3)."""
    at, name = 8, b""
    while name != b"IEND" and at < len(data):
        name = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4])
    return at if name == b"IEND" else 0


def _end_of_jpeg(data: bytes) -> int:
    """After the first marker EOI behind the header of its scan, whose data cannot contain one (ITU-T T.81, B.1)."""
    at = 2
    while data[at + 1 : at + 2] not in (b"\xda", b""):
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    end = data.find(b"\xff\xd9", at)
    return 0 if end < 0 else end + 2


def _end_of_webp(data: bytes) -> int:
    """By the length in the header of its RIFF container."""
    return 8 + int.from_bytes(data[4:8], "little")


ENDS = {"png": _end_of_png, "jpg": _end_of_jpeg, "webp": _end_of_webp}
