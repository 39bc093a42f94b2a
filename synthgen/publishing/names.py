"""Class names as folder names that every file system accepts, and the table that maps them back."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import ClassVar, Self

from pydantic import with_config

from synthgen.common.errors import SynthgenError
from synthgen.common.records import STRICT, record

CLASSES = "classes.json"  # the table, in the folder that holds the class folders
FORMAT = 1  # of the table
LONGEST = 255  # bytes in a name (ext4, APFS; NTFS counts UTF-16 units)
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
FORBIDDEN = frozenset('<>:"/\\|?*')
RESERVED = frozenset(
    ("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(port + n for port in ("COM", "LPT") for n in "0123456789¹²³"))
)
JOINER = "\u200d"  # within emoji
STRANGE = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))  # Unicode categories without a visible, agreed form


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFolder:
    """A class and the folder of its images."""

    label: int
    name: str  # in the set
    folder: str


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    format: int
    classes: tuple[ClassFolder, ...]


def portable(name: str) -> bool:
    """Whether a name, unchanged, is valid on every usual file system and visible to loaders."""
    return name != "" and name == _cleaned(name)


def class_folders(names: Sequence[str]) -> tuple[ClassFolder, ...]:
    """The folders of classes, by label: portable, and different even if case or Unicode form is not kept.

    A portable name is its own folder; of several that a file system may not distinguish, only the first is.
    The others are written in similar characters and end in a part of their SHA-256.
    """
    folders: dict[int, str] = {}
    taken = {_folded(CLASSES)}
    for label, name in enumerate(names):
        if portable(name) and _folded(name) not in taken:
            folders[label] = name
            taken.add(_folded(name))
    for label, name in enumerate(names):
        if label not in folders:
            folders[label] = next(found for found in _others(name) if _folded(found) not in taken)
            taken.add(_folded(folders[label]))
    return tuple(ClassFolder(label=label, name=name, folder=folders[label]) for label, name in enumerate(names))


def class_table(classes: Sequence[ClassFolder]) -> bytes:
    """The content of ``classes.json``."""
    rows = ",\n".join(f"  {json.dumps(asdict(one))}" for one in classes)
    return f'{{"format": {FORMAT}, "classes": [\n{rows}\n]}}\n'.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """The classes of an exported image folder."""

    FILE: ClassVar = CLASSES  # its name, in the folder that holds the class folders
    names: tuple[str, ...]  # by label
    labels: dict[str, int]  # by folder, whose names are in Unicode's composed form (NFC)

    def label(self, folder: str) -> int | None:
        """The label of a folder as a file system lists it, in whatever form; None if the table lacks it."""
        return self.labels.get(composed(folder))

    @classmethod
    def read(cls, data: bytes, where: str) -> Self:
        """Read the content of ``classes.json``; raises SynthgenError, naming ``where``, if it is not that."""
        try:
            table = record(data, _Table, where)
        except SynthgenError as error:
            raise SynthgenError(f"{error}; not the table of an exported set") from None
        if table.format != FORMAT:
            raise SynthgenError(f"{where}: format {table.format}; this version reads format {FORMAT}")
        if [one.label for one in table.classes] != list(range(len(table.classes))):
            raise SynthgenError(f"{where}: the labels are not 0 to {len(table.classes) - 1}, in that order")
        labels = {one.folder: one.label for one in table.classes}
        if len(labels) != len(table.classes):
            raise SynthgenError(f"{where}: two classes share a folder")
        return cls(names=tuple(one.name for one in table.classes), labels=labels)


def composed(folder: str) -> str:
    """A folder's name in Unicode's composed form (NFC), as in tables: some file systems list another form."""
    return unicodedata.normalize("NFC", folder)


def _cleaned(name: str) -> str:
    """A portable name that looks like ``name``; empty if nothing is left."""
    name = "".join(
        "_" if letter in FORBIDDEN or (unicodedata.category(letter) in STRANGE and letter != JOINER) else letter
        for letter in composed(name)
    )
    name = name.strip(" ")
    if name.startswith((".", "__")):  # hidden on Unix; skipped by datasets
        name = "_" + name.lstrip("._ ")
    name = _cut(name, LONGEST).rstrip(" .")  # Windows drops them at the end
    if name.partition(".")[0].rstrip(" ").upper() in RESERVED:
        name = _cut(f"_{name}", LONGEST)
    return name


def _cut(name: str, n_bytes: int) -> str:
    return name.encode()[:n_bytes].decode(errors="ignore")


def _others(name: str) -> Iterator[str]:
    """An endless supply of portable names for a class whose own cannot be used."""
    for attempt in count():
        text = f"{attempt or ''}{name}".encode(errors="surrogatepass")
        digest = hashlib.sha256(text).hexdigest()[:8]
        base = _cut(_cleaned(name), LONGEST - len(digest) - 1).rstrip(" .") or "class"
        yield f"{base}-{digest}"


def _folded(name: str) -> str:
    """A key that is equal for names that some file system does not distinguish: compatibility forms and all cases."""
    seen = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")  # HFS+ ignores them
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).upper().casefold())
