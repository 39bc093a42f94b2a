"""Plans and renders fractal samples: the only module of synthgen that imports fractaldb to draw."""

from __future__ import annotations

import platform
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fractaldb.ifs import IFS, Category, FractalError, read_categories, write_csv
from fractaldb.instances import N_FLIPS, N_WEIGHTS, Instance, instance, patch_seed
from fractaldb.render import Style, check_drawable, drawing, drawing_masks, flip, orbit_cover, orbit_pixels, palette
from fractaldb.sampling import sample_svd
from fractaldb.search import search
from synthgen.common.errors import SynthgenError
from synthgen.common.progress import progress
from synthgen.dataset.encode import PLAIN_PACKET, PNG_KEYWORD
from synthgen.dataset.shard import Item
from synthgen.kinds.base import Renderer, Sample
from synthgen.kinds.fractaldb.content import CategoryRecord, FractalContent

SAMPLINGS = ("published", "svd")
PROBES = 8  # samples, spread over the plan, from whose sizes that of a set is estimated
BYTES_OF_RECORD = 3 * 1024


def find_categories(n: int, *, seed: int, sampling: str = "published") -> list[Category]:
    """The first ``n`` categories of a seed.

    ``sampling`` is "published" (the search by filling rate, with progress; seed 1 is FractalDB-1k)
    or "svd" (contracting systems, see fractaldb.sampling).
    """
    if sampling not in SAMPLINGS:
        raise SynthgenError(f"sampling {sampling!r} is not one of {', '.join(SAMPLINGS)}")
    if n < 1:
        raise SynthgenError(f"categories = {n}: at least 1")
    if not 0 <= seed < 2**32:
        raise SynthgenError(f"seed {seed}: a category search takes 0 to {2**32 - 1}")
    if sampling == "svd":
        return sample_svd(n, seed=seed)
    with progress("search", n, "categories") as show:
        return search(n, seed=seed, progress=show)


def write_categories(directory: Path, categories: Sequence[Category]) -> None:
    """Write one CSV per category, in the published format."""
    directory.mkdir(parents=True, exist_ok=True)
    for category in categories:
        write_csv(directory / f"{category.name}.csv", category.ifs)


def read_category_folder(directory: Path) -> list[Category]:
    """Read a folder of category CSVs; raises SynthgenError naming file and row."""
    try:
        return read_categories(directory)
    except FractalError as error:
        raise SynthgenError(str(error)) from None


def fractal_content(categories: Sequence[Category], *, seed: int, style: Style) -> FractalContent:
    """The part of a plan that the images depend on.

    Raises SynthgenError naming the first category and weight row that cannot be drawn (see
    render.orbit_pixels).
    """
    try:
        for category in categories:
            check_drawable(category, style)
    except FractalError as error:
        raise SynthgenError(str(error)) from None
    return FractalContent(
        seed=seed,
        draw=style.draw,
        size=style.size,
        n_points=style.n_points,
        weight_step=style.weight_step,
        layout=layout(style),
        categories=tuple(
            CategoryRecord(
                name=category.name,
                rows=tuple(map(tuple, np.column_stack([category.ifs.maps, category.ifs.probs]).tolist())),
            )
            for category in categories
        ),
    )


def fractal_style(*, draw: str, size: int, points: int, weights: float) -> Style:
    """A drawing style; raises SynthgenError if a setting is out of range."""
    try:
        return Style(draw=draw, size=size, n_points=points, weight_step=weights)
    except FractalError as error:
        raise SynthgenError(str(error)) from None


def layout(style: Style) -> tuple[int, int, int]:
    """Weight rows, patch draws and flips: the instances of a category."""
    return N_WEIGHTS, style.n_patches, N_FLIPS


def style_of(content: FractalContent) -> Style:
    """The drawing style of a plan's content."""
    return fractal_style(draw=content.draw, size=content.size, points=content.n_points, weights=content.weight_step)


def colors_of(content: FractalContent) -> NDArray[np.uint8]:
    """The palette of a plan's images: RGB, uint8 [n_colors, 3]."""
    return palette(style_of(content))


def category_of(record: CategoryRecord) -> Category:
    """The system of a stored category."""
    table = np.array(record.rows)
    return Category(name=record.name, ifs=IFS(maps=table[:, :6].copy(), probs=table[:, 6].copy()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A drawn sample."""

    sample: Sample
    instance: Instance
    seed: int | None  # of its patch masks; None in point mode
    image: NDArray[np.uint8]  # [size, size], one palette index per pixel


def pictures(content: FractalContent, samples: Iterable[Sample]) -> Iterator[Picture]:
    """Draw samples.  Neighbours of one category and weight row share their orbit.

    Raises SynthgenError, naming category and weight row, if a system leaves no finite point, and for a layout
    that is not the drawing style's.
    """
    style = style_of(content)
    if content.layout != layout(style):
        raise SynthgenError(f"layout {list(content.layout)}: {content.draw} has {list(layout(style))}")
    placed = (
        (sample, instance(content.categories[sample.label].name, sample.variant, n_patches=style.n_patches))
        for sample in samples
    )
    for (label, weight), group in groupby(placed, key=lambda pair: (pair[0].label, pair[1].weight)):
        try:
            category = category_of(content.categories[label])
            pixels = orbit_pixels(category, weight, style)
        except FractalError as error:
            raise SynthgenError(str(error)) from None
        cover = orbit_cover(pixels, style)
        for patch, shared in groupby(group, key=lambda pair: pair[1].patch):
            seed = patch_seed(content.seed, category.name, weight, patch) if style.n_patches > 1 else None
            masks = drawing_masks(category.name, weight, patch, style, len(pixels), seed=content.seed)
            image = drawing(pixels, masks, style, cover)
            for sample, which in shared:
                yield Picture(sample=sample, instance=which, seed=seed, image=flip(image, which.flip))


def fractal_renderer(content: FractalContent) -> Renderer:
    """A renderer that draws on this process's core."""
    environment = {
        "synthgen": version("synthgen"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "machine": platform.machine(),
    }
    return Renderer(render=partial(render, content), environment=environment)


def bytes_per_image(content: FractalContent, n: int) -> float:
    """About how many bytes an image takes in a shard, from a sample of the first ``n``."""
    probes = [content.sample(k * n // PROBES) for k in range(PROBES)]
    return BYTES_OF_RECORD + sum(len(item.image) for item in render(content, probes)) / PROBES


def render(content: FractalContent, samples: Iterable[Sample]) -> Iterator[Item]:
    """Draw and encode samples, as ``pictures`` does."""
    colors = colors_of(content)
    for picture in pictures(content, samples):
        which = picture.instance
        record = {
            "index": picture.sample.index,  # of the image in the plan
            "label": picture.sample.label,
            "class": which.category,
            "name": which.name,
            "weight": which.weight,
            "patch": which.patch,
            "flip": which.flip,
            "seed": picture.seed,
        }
        png = encode_png(picture.image, colors)
        yield Item(key=picture.sample.key, label=picture.sample.label, ending="png", image=png, record=record)


def encode_png(image: NDArray[np.uint8], colors: NDArray[np.uint8]) -> bytes:
    """A palette PNG: uint8 indices [height, width] and RGB colours [n_colors, 3]; 1 bit per pixel for two colours.

    It states its origin in an XMP packet (``encode.PLAIN_PACKET``).  Written here because no library
    writes these as fast: run-length coding (zlib's Z_RLE) of packed bits is both smaller and
    quicker on sparse fractals than zlib's other strategies.
    """
    height, width = image.shape
    two = len(colors) == 2
    rows = _packed(image) if two else image
    raw = np.zeros((height, rows.shape[1] + 1), np.uint8)  # first byte of a row: filter type 0
    raw[:, 1:] = rows
    deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    data = deflate.compress(raw.tobytes()) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 1 if two else 8, 3, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), ORIGIN, _chunk(b"PLTE", colors.tobytes()), _chunk(b"IDAT", data), END)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


# The same in every image: an uncompressed text chunk without language or translated keyword, and the last chunk.
ORIGIN = _chunk(b"iTXt", PNG_KEYWORD.encode() + bytes(5) + PLAIN_PACKET)
END = _chunk(b"IEND", b"")


def _packed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Eight pixels per byte, each row padded with zeros: uint8 [height, ceil(width / 8)]."""
    if image.strides[1] > 0:
        return np.packbits(image, axis=1)
    # numpy packs mirrored rows fifteen times slower: pack them as they lie in memory, last bit first
    height, width = image.shape
    as_it_lies = np.zeros((height, width + -width % 8), np.uint8)
    as_it_lies[:, -width:] = image[:, ::-1]
    return np.packbits(as_it_lies, axis=1, bitorder="little")[:, ::-1]
