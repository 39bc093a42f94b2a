"""A preview of a dataset: a contact sheet and a gallery page of a sample of its images.

The sample is chosen from the metadata tables; only shards that contain a chosen image are opened, and only the chosen
images are read from them.  The same dataset gives the same bytes with the same version of Pillow.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageFont

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import printable
from synthgen.common.progress import progress
from synthgen.common.seeds import derive_seed
from synthgen.dataset.image_file import image_defect, quiet_decoders
from synthgen.dataset.manifest import Manifest
from synthgen.dataset.plan import ShardSpan
from synthgen.dataset.shard import data_path, image_members, table_path
from synthgen.dataset.tables import read_table
from synthgen.storage.atomic import write_atomically
from synthgen.storage.reading import opened

if TYPE_CHECKING:
    from synthgen.storage.store import Place

FLAGS = ("fault", "flagged")  # columns that say what is wrong with an image
MIME = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
# Pixels of an image's longest side: larger images are reduced to THUMB, smaller ones enlarged towards ENLARGED.
THUMB, ENLARGED = 128, 96
PAGE_SIZES = (512, 256, 192, THUMB)  # pixels, of the gallery's pictures: the first at which all of them fit is used
PAGE_BYTES = 14_000_000  # of all pictures as base64; more only if they do not fit even at the last size
SHARDS = 8  # least shards to choose from, so that a small dataset is covered completely
MOST_PER_CLASS = 100  # columns at which a contact sheet is still legible
MARGIN, GAP, TEXT_SIZE, TEXT_WIDTH = 12, 6, 16, 230  # pixels, of the contact sheet

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An image to show."""

    span: ShardSpan
    row: int  # of the shard's metadata table
    label: int
    variant: Any  # value in the column that distinguishes images of a class


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image as it is shown."""

    choice: Choice
    class_id: str  # its class's name in the plan
    record: dict[str, Any]  # its row of the metadata table, which is its json in the shard
    file: str  # its name in the shard, its size in pixels and bytes
    thumb: Image.Image  # for the contact sheet: RGB, longest side at most THUMB
    pixelated: bool  # whether the thumbnail is the stored image enlarged
    source: str  # for the gallery: a data URI

    @property
    def class_name(self) -> str:
        """Its class in words."""
        return printable(self.record.get("class_name") or self.class_id)

    @property
    def class_note(self) -> str:
        """The name of its class in the plan, if that differs."""
        return "" if printable(self.class_id) == self.class_name else printable(self.class_id)

    @property
    def about(self) -> str:
        """The picture in words: its prompt or its name."""
        return printable(self.record.get("prompt") or self.record.get("name") or self.record["key"])

    @property
    def flags(self) -> list[str]:
        """What is wrong with it, for a badge."""
        values = [(name, self.record.get(name)) for name in FLAGS]
        return [name if value is True else printable(f"{name}: {value}") for name, value in values if value]


def write_preview(manifest: Manifest, out: Path, *, per_class: int = 10, max_classes: int = 50) -> tuple[Path, Path]:
    """Write ``out/contact-sheet.png`` and ``out/gallery.html``; returns the two paths.

    Both show ``per_class`` images (1 to 100) of each class, from as many different templates or weight rows as
    possible; if there are more than ``max_classes`` classes, they show that many, evenly spread.  Raises SynthgenError
    if no shard is finished yet, a shard is damaged or ``out`` is a file.
    """
    if not manifest.shards:
        raise SynthgenError(
            f"{manifest.directory}: no shard is finished yet; run the command that makes it until the first one is"
        )
    if out.exists() and not out.is_dir():
        raise SynthgenError(f"{out}: not a directory")
    if not 1 <= per_class <= MOST_PER_CLASS:
        raise SynthgenError(f"{per_class} images per class: 1 to {MOST_PER_CLASS}")
    spans = _spread_order([manifest.plan.shard(shard.index) for shard in manifest.shards])
    kind = manifest.plan.kind.variant
    present = _labels_present(manifest, spans)
    choices = _choose(manifest, spans, kind, labels=_evenly(present, max_classes), per_class=per_class)
    pictures = _read(manifest, choices)
    sheet, page = _contact_sheet(manifest, pictures), _page(manifest, pictures, kind, n_present=len(present))
    paths = out / "contact-sheet.png", out / "gallery.html"
    write_atomically(paths[0], sheet)
    write_atomically(paths[1], page.encode())
    return paths


def _spread_order(spans: list[ShardSpan]) -> list[ShardSpan]:
    """Van der Corput's order: any first few are spread over the dataset."""
    width = len(spans).bit_length()
    return [spans[i] for i in sorted(range(len(spans)), key=lambda i: f"{i:0{width}b}"[::-1])]


def _evenly(values: Sequence[Value], n: int) -> list[Value]:
    """Up to ``n`` of the values, evenly spread, in their order."""
    n = min(n, len(values))
    return [values[i * len(values) // n] for i in range(n)]


def _labels_present(manifest: Manifest, spans: list[ShardSpan]) -> list[int]:
    """Labels of the classes that have images; stops reading once it has seen all classes."""
    planned = range(len(manifest.plan.content.class_names))
    present: set[int] = set()
    for span in spans:
        present.update(read_table(table_path(manifest.directory, span), ["label"])["label"].unique().to_pylist())
        if len(present) == len(planned):
            break
    return [label for label in planned if label in present]


def _choose(
    manifest: Manifest, spans: list[ShardSpan], kind: str, *, labels: list[int], per_class: int
) -> list[Choice]:
    """Images of these classes, by class and variant; stops reading once each class has enough variants."""
    found: dict[int, dict[Any, list[Choice]]] = {label: {} for label in labels}
    for n_read, span in enumerate(spans):
        wanted = {label for label, variants in found.items() if n_read < SHARDS or len(variants) < per_class}
        if not wanted:
            break
        for choice in _candidates(table_path(manifest.directory, span), span, kind, wanted):
            same = found[choice.label].setdefault(choice.variant, [])
            if len(same) < per_class:
                same.append(choice)
    return [choice for variants in found.values() for choice in _of_class(variants, per_class)]


def _candidates(path: Place, span: ShardSpan, kind: str, wanted: set[int]) -> list[Choice]:
    """The images of these classes in a shard, shuffled, so that the first of a variant is not special."""
    table = read_table(path, ["label", kind])
    pairs = zip(table["label"].to_pylist(), table[kind].to_pylist(), strict=True)
    choices = [
        Choice(span=span, row=row, label=label, variant=variant)
        for row, (label, variant) in enumerate(pairs)
        if label in wanted
    ]
    return sorted(choices, key=lambda choice: derive_seed("preview", span.start + choice.row))


def _of_class(variants: dict[Any, list[Choice]], n: int) -> list[Choice]:
    """``n`` images of a class: variants evenly spread, each once before any is used twice."""
    lists = _evenly([variants[variant] for variant in sorted(variants, key=_order)], n)
    taken = islice((choice for turn in zip_longest(*lists) for choice in turn if choice), n)
    return sorted(taken, key=lambda choice: (_order(choice.variant), choice.span.start + choice.row))


def _order(variant: Any) -> tuple[bool, Any]:
    return variant is None, variant


def _read(manifest: Manifest, choices: list[Choice]) -> list[Picture]:
    """The chosen images, shard by shard; returned in the order asked for."""
    pictures: dict[Choice, Picture] = {}
    room = PAGE_BYTES * 3 // 4 // len(choices)  # bytes per picture; base64 turns three into four
    by_shard = groupby(sorted(choices, key=lambda choice: choice.span.index), key=lambda choice: choice.span)
    with progress("preview", len(choices), "images") as show:
        for span, group in by_shard:
            pictures.update((picture.choice, picture) for picture in _read_shard(manifest, span, list(group), room))
            show(len(pictures))
    return [pictures[choice] for choice in choices]


def _read_shard(manifest: Manifest, span: ShardSpan, choices: list[Choice], room: int) -> Iterator[Picture]:
    path = data_path(manifest.directory, span)
    records = read_table(table_path(manifest.directory, span)).take([choice.row for choice in choices]).to_pylist()
    members = {name.partition(".")[0]: (name, start, size) for name, start, size in image_members(path)}
    with opened(path) as file, quiet_decoders():
        for choice, record in zip(choices, records, strict=True):
            key, class_id = record["key"], manifest.plan.content.class_names[choice.label]
            if key not in members:
                raise SynthgenError(f"image {key} is missing")
            name, start, size = members[key]
            file.seek(start)
            data = file.read(size)
            if hashlib.sha256(data).hexdigest() != record.get("sha256"):
                raise SynthgenError(f"image {key} differs from its record; see synthgen verify, and --repair")
            if what := image_defect(name.partition(".")[2], data, manifest.plan.content.image):
                raise SynthgenError(f"image {key} {what}; see synthgen verify, and --repair")
            yield _picture(choice, record, class_id, name, data, room)


def _picture(choice: Choice, record: dict[str, Any], class_id: str, name: str, data: bytes, room: int) -> Picture:
    with Image.open(io.BytesIO(data)) as stored:
        image = stored.convert("RGB")
    factor = max(1, ENLARGED // max(image.size))
    thumb = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    file = f"{name}, {image.width} × {image.height} pixels, {len(data):,} bytes"
    mime, shown = MIME[name.partition(".")[2]], data
    if len(data) > room:
        mime, (shown, small) = "image/jpeg", _fitting_jpeg(image, room)
        file += f"; shown here as JPEG of {small.width} × {small.height} pixels"
    return Picture(
        choice=choice,
        class_id=class_id,
        record=record,
        file=file,
        thumb=_reduced(thumb, THUMB),
        pixelated=factor > 1,
        source=f"data:{mime};base64,{base64.b64encode(shown).decode()}",
    )


def _fitting_jpeg(image: Image.Image, room: int) -> tuple[bytes, Image.Image]:
    """A JPEG in the first of PAGE_SIZES that takes at most ``room`` bytes, else in the last; and the image in it."""
    for longest in PAGE_SIZES:
        small, buffer = _reduced(image, longest), io.BytesIO()
        small.save(buffer, "JPEG", quality=82)
        if buffer.tell() <= room:
            break
    return buffer.getvalue(), small


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=None)
    return small


def _contact_sheet(manifest: Manifest, pictures: list[Picture]) -> bytes:
    """A PNG: a line that says what it shows, then one row per class with its name on the left."""
    rows = [list(row) for _, row in groupby(pictures, key=lambda picture: picture.choice.label)]
    what = (
        f"{printable(manifest.plan.name)}: {len(pictures):,} of {manifest.n_samples:,} images,"
        f" {len(rows):,} of {len(manifest.plan.content.class_names):,} classes; plan {manifest.plan.digest[:16]}"
    )
    font, small = ImageFont.load_default(TEXT_SIZE), ImageFont.load_default(TEXT_SIZE - 4)
    names = [_fitting(row[0].class_name, font, TEXT_WIDTH) for row in rows]
    left, top = MARGIN + max(int(font.getlength(name)) for name in names) + 2 * GAP, MARGIN + 2 * TEXT_SIZE
    wide = max(picture.thumb.width for picture in pictures) + GAP
    high = max(picture.thumb.height for picture in pictures) + GAP
    right = max(left + wide * max(map(len, rows)) - GAP, MARGIN + int(font.getlength(what)))
    sheet = Image.new("RGB", (right + MARGIN, top + high * len(rows) - GAP + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), what, "black", font)
    for y, (row, name) in enumerate(zip(rows, names, strict=True)):
        middle = top + y * high + (high - GAP) // 2
        draw.text((MARGIN, middle), name, "black", font, "lm")
        note = _fitting(row[0].class_note, small, left - MARGIN)
        draw.text((MARGIN, middle + TEXT_SIZE + 2), note, "#555555", small, "lm")
        for x, picture in enumerate(row):
            sheet.paste(picture.thumb, (left + x * wide, top + y * high))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """One line of text, truncated to ``width`` pixels."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _page(manifest: Manifest, pictures: list[Picture], kind: str, *, n_present: int) -> str:
    """The gallery; everything that its script needs is in ``data``, one entry per picture."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return environment.get_template("preview.html.j2").render(
        manifest=manifest,
        pictures=pictures,
        n_present=n_present,
        kind=manifest.plan.kind.variant_words,
        data=[_data(manifest, picture, manifest.plan.kind.variant_words) for picture in pictures],
    )


def _data(manifest: Manifest, picture: Picture, kind: str) -> dict[str, Any]:
    """A picture's group in each view (sort key, title, note) and its record as lines of text."""
    choice, prompt = picture.choice, picture.record.get("prompt")
    shard = data_path(manifest.directory, choice.span).name
    details = [*picture.record.items(), ("shard", shard), ("file", picture.file)]
    return {
        "class": [choice.label, picture.class_name, picture.class_note],
        "variant": [choice.variant, f"{kind} {choice.variant}", printable(f"as in “{prompt}”") if prompt else ""],
        "record": [[printable(key), _text(value)] for key, value in details],
    }


def _text(value: Any) -> str:
    """A value as the page shows it: as text, because JavaScript would round large numbers."""
    if value is None:
        return "none"
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
