"""Image files are whole, in every format that sets have: nothing is missing at the end, and nothing follows it."""

import io
import zipfile

import numpy as np
import pytest

from synthgen.common.printing import counted
from synthgen.dataset.encode import Origin, encode_image
from synthgen.dataset.image_file import image_defect
from synthgen.kinds.base import IMAGE_FORMATS, ImageFormat
from synthgen.kinds.fractaldb.render import encode_png

SIDE = 48


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("x", "x")
    return file.getvalue()


def pictures() -> list[tuple[str, bytes]]:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    flat = np.full_like(noise, 7)
    origin = Origin(prompt="a cat", model="m", revision="r", seed="1", index=0)
    drawn = [
        (ending, encode_image(image, image_format=ending, quality=quality, origin=origin))
        for ending in IMAGE_FORMATS
        for image in (noise, flat)
        for quality in (1, 80, 95, 100)
    ]
    colors = np.array([[0, 0, 0], [127, 127, 127]], np.uint8)
    return [*drawn, ("png", encode_png(noise[:, :, 0] % np.uint8(2), colors))]


PICTURES = pictures()


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize(("ending", "data"), PICTURES)
def test_a_file_is_whole_with_its_last_byte_and_without_another(ending: str, data: bytes, decode: bool) -> None:
    planned = ImageFormat(ending=ending, side=SIDE)
    assert image_defect(ending, data, planned, decode=decode) is None
    for n in (1, 2, 4, 11, 12, 20):
        found = image_defect(ending, data[:-n], planned, decode=decode)
        assert found is not None
        assert "truncated" in found or "cannot be decoded" in found
    for more in (b"\0", archive(), data):  # the last ends as the file should
        assert (
            image_defect(ending, data + more, planned, decode=decode)
            == f"has {counted(len(more), 'byte')} after its end"
        )
