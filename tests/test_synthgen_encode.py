import io
import json
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from origins import read_origin
from PIL import Image, PngImagePlugin

from synthgen.common.errors import SynthgenError
from synthgen.dataset.encode import PLAIN_PACKET, Origin, encode_image, xmp_packet
from synthgen.kinds.fractaldb.render import encode_png

FORMATS = ("png", "jpg", "webp")
ORIGIN = Origin(
    prompt='a photo of a "tench" & a <koi>, 鯉 é \U0001f41f',
    model="stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    seed=str(2**64 - 1),
    index=149_999,
)
TOLD = {
    "tool": "synthgen",
    "source_type": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    "prompt": ORIGIN.prompt,
    "model": ORIGIN.model,
    "revision": ORIGIN.revision,
    "seed": "18446744073709551615",
    "index": "149999",
}


def noise(size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def smooth(size: int) -> NDArray[np.uint8]:
    """An image as gentle as a photograph, of varied colour."""
    y, x = np.mgrid[:size, :size] * (255 / size)
    return np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)


def encoded(image: NDArray[np.uint8], image_format: str, quality: int = 95, prompt: str = ORIGIN.prompt) -> bytes:
    origin = Origin(prompt=prompt, model=ORIGIN.model, revision=ORIGIN.revision, seed=ORIGIN.seed, index=ORIGIN.index)
    return encode_image(image, image_format=image_format, quality=quality, origin=origin)


def decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def decoded_by_opencv(data: bytes) -> NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], np.uint8)


# Pixels


def test_png_keeps_every_pixel_for_every_reader() -> None:
    for image in (noise(32), smooth(64), np.zeros((8, 24, 3), np.uint8)):
        data = encoded(image, "png")
        assert np.array_equal(decoded(data), image)
        assert np.array_equal(decoded_by_opencv(data), image)


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_jpeg_and_webp_are_close_for_every_reader(image_format: str) -> None:
    image = smooth(64)
    data = encoded(image, image_format)
    for pixels in (decoded(data), decoded_by_opencv(data)):
        assert pixels.shape == image.shape
        assert np.abs(pixels.astype(int) - image).mean() < 2


def test_jpeg_keeps_colours_at_full_resolution_from_quality_90() -> None:
    for quality, sampling in ((89, (2, 2)), (90, (1, 1)), (100, (1, 1))):
        with Image.open(io.BytesIO(encoded(smooth(32), "jpg", quality))) as image:
            assert image.layer[0][1:3] == sampling  # type: ignore[attr-defined]


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_more_quality_is_a_larger_file(image_format: str) -> None:
    sizes = [len(encoded(noise(64), image_format, quality)) for quality in (10, 50, 90, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("quality", [75, 90, 94, 100])
def test_noise_can_be_written(image_format: str, quality: int) -> None:
    assert decoded(encoded(noise(256), image_format, quality)).shape == (256, 256, 3)


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_same_image_and_origin_give_the_same_bytes(image_format: str) -> None:
    image = noise(48)
    fortran = np.asfortranarray(image)
    view = np.repeat(image, 2, axis=1)[:, ::2]
    assert {encoded(each, image_format) for each in (image, fortran, view)} == {encoded(image, image_format)}
    assert encoded(noise(48, seed=1), image_format) != encoded(image, image_format)


# Origins


@pytest.mark.parametrize("image_format", FORMATS)
def test_an_origin_is_read_back_from_the_file(image_format: str) -> None:
    assert read_origin(encoded(noise(32), image_format)) == TOLD


@given(st.text(), st.text(max_size=20), st.integers(0, 2**63))
def test_any_text_makes_a_packet_that_gives_it_back(prompt: str, model: str, index: int) -> None:
    packet = xmp_packet(Origin(prompt=prompt, model=model, revision="r", seed="0", index=index))
    ElementTree.fromstring(packet)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet.decode())
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "png", pnginfo=text)
    found = read_origin(file.getvalue())
    assert (found["prompt"], found["model"], found["index"]) == (in_xml(prompt), in_xml(model), str(index))


def in_xml(text: str) -> str:
    """A text, with U+FFFD for what XML 1.0 cannot hold: control characters, lone surrogates, U+FFFE and U+FFFF."""

    def fits(code: int) -> bool:
        return code in (9, 10, 13) or 32 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or code >= 0x10000

    return "".join(character if fits(ord(character)) else "\ufffd" for character in text)


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(
    "prompt", ["", "]]>", "&amp; &#0; <!-- -->", "'\"`", " a  b ", "a\tb\nc\r\nd", "\u0085\u2028", "\ufeffa", "e\u0301"]
)
def test_prompts_that_xml_gives_a_meaning_come_back_as_they_were(image_format: str, prompt: str) -> None:
    assert read_origin(encoded(noise(16), image_format, prompt=prompt))["prompt"] == prompt


def test_a_packet_is_small_and_stands_before_the_pixels() -> None:
    assert len(xmp_packet(ORIGIN)) < 1100
    image = np.zeros((32, 32, 3), np.uint8)
    for image_format in FORMATS:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg" if image_format == "jpg" else image_format, quality=95)
        assert len(encoded(image, image_format)) < file.tell() + 1200
    png = encoded(image, "png")
    assert png.index(b"iTXtXML:com.adobe.xmp\0\0\0\0\0<?xpacket") < png.index(b"IDAT")


def test_a_prompt_too_long_for_a_jpeg_is_refused_and_fits_a_png() -> None:
    prompt = "a very " * 10_000
    with pytest.raises(SynthgenError, match="prompt of 70000 characters: too long for a JPEG; write a PNG"):
        encoded(noise(8), "jpg", prompt=prompt)
    for image_format in ("png", "webp"):
        assert read_origin(encoded(noise(8), image_format, prompt=prompt))["prompt"] == prompt


def test_pillow_reads_the_packet() -> None:
    pytest.importorskip("defusedxml")  # which Pillow reads it with
    for image_format in FORMATS:
        with Image.open(io.BytesIO(encoded(noise(8), image_format))) as image:
            description: Any = image.getxmp()["xmpmeta"]["RDF"]["Description"]
        assert description["AIPromptInformation"] == ORIGIN.prompt
        assert description["description"]["Alt"]["li"]["text"] == ORIGIN.prompt


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_it_valid_and_keeps_it_when_it_writes(tmp_path: Path) -> None:
    paths = [tmp_path / f"image.{image_format}" for image_format in FORMATS]
    for path in paths:
        path.write_bytes(encoded(noise(32), path.suffix[1:]))

    def exiftool(*arguments: str) -> str:
        command = ["exiftool", *arguments, *map(str, paths)]
        return subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout

    for found in json.loads(exiftool("-json", "-G1", "-a", "-validate", "-charset", "utf8", "-XMP:all")):
        assert found["ExifTool:Validate"] in ("OK", "0 0 0")
        assert found["XMP-iptcExt:DigitalSourceType"] == TOLD["source_type"]
        assert found["XMP-iptcExt:AISystemUsed"] == ORIGIN.model
        assert found["XMP-iptcExt:AISystemVersionUsed"] == ORIGIN.revision
        assert found["XMP-iptcExt:AIPromptInformation"] == found["XMP-dc:Description"] == ORIGIN.prompt
        assert found["XMP-xmp:CreatorTool"] == "synthgen"
        assert str(found["XMP-synthgen:Index"]) == "149999"
    exiftool("-quiet", "-overwrite_original", "-XMP-dc:Title=a title")
    for path in paths:
        assert read_origin(path.read_bytes()) == TOLD
    assert np.array_equal(decoded(paths[0].read_bytes()), noise(32))


def chunks(data: bytes) -> list[bytes]:
    """The kinds of a PNG's chunks, whose checksums hold."""
    kinds, place = [], 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert zlib.crc32(kind + body) == int.from_bytes(data[place + 8 + size : place + 12 + size], "big")
        kinds.append(kind)
        place += size + 12
    return kinds


def test_a_png_is_well_formed() -> None:
    assert chunks(encoded(noise(16), "png")) == [b"IHDR", b"iTXt", b"IDAT", b"IEND"]


# Fractals, which no model drew


@pytest.fixture(params=[2, 129])
def fractal(request: pytest.FixtureRequest) -> bytes:
    """A fractal's PNG, of 1 or 8 bits a pixel."""
    colors = np.random.default_rng(0).integers(0, 256, (request.param, 3), dtype=np.uint8)
    return encode_png(np.random.default_rng(1).integers(0, request.param, (37, 41), dtype=np.uint8), colors)


def test_a_fractal_names_its_source_type_and_the_program(fractal: bytes) -> None:
    assert read_origin(fractal) == {
        "tool": "synthgen",
        "source_type": "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia",
    }
    assert chunks(fractal) == [b"IHDR", b"iTXt", b"PLTE", b"IDAT", b"IEND"]
    assert fractal.index(b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + PLAIN_PACKET) < 64


def test_the_origin_leaves_a_fractals_pixels_as_they_are() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (2, 3), dtype=np.uint8)
    image = np.random.default_rng(1).integers(0, 2, (37, 41), dtype=np.uint8)
    data = encode_png(image, colors)
    with Image.open(io.BytesIO(data)) as decoded_image:
        assert np.array_equal(np.asarray(decoded_image.convert("RGB")), colors[image])
    assert np.array_equal(decoded_by_opencv(data), colors[image])


def test_the_origin_of_a_fractal_is_small() -> None:
    assert len(PLAIN_PACKET) < 400  # stored once in each of a million files


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_a_fractal_valid(fractal: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fractal.png"
    path.write_bytes(fractal)
    command = ["exiftool", "-json", "-G1", "-a", "-validate", "-warning", "-XMP:all", str(path)]
    (found,) = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout)
    assert found["ExifTool:Validate"] in ("OK", "0 0 0")
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
    assert found["XMP-iptcExt:DigitalSourceType"] == kind
    assert found["XMP-xmp:CreatorTool"] == "synthgen"
