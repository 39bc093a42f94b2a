"""Taxonomies: what a source's classes are called at coarser levels.

A taxonomy file is tab-separated UTF-8 text.  Its header is ``id`` and the names of the levels, from
coarse to fine; then each line is one class: its name in the source (a folder's name, such as a
wnid) and its label at each level.  iNaturalist's would begin ``id  kingdom  phylum  class  order  family
genus``.  The levels form a tree: a label belongs to one label of the level before.

``imagenet1k`` is the one that comes with the package.  Its levels are named by their number of labels on
ImageNet-1k: 5, 17, 37, 85 and 232 are the granularities of Ramanujan et al. (NeurIPS 2023) and 1000 are
the classes themselves.  The paper does not say how it made them: the rule, which climbs WordNet 3.0 and
which ``taxonomies/from_wordnet.py`` carries out, is inferred from these counts.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthgen.storage.reading import read_file

from ..errors import EvaluateError

IMAGENET1K = Path(__file__).parents[1] / "taxonomies" / "imagenet1k.tsv"
SHOWN = 3  # of many names in a message
LIMIT = 1 << 26  # bytes of a file; ImageNet-21k's would have two million


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The classes with a label at a level of a taxonomy, or all the others."""

    level: str
    label: str
    has: bool  # False: all the other classes

    def __str__(self) -> str:
        return f"{self.level} {'=' if self.has else '!='} {self.label}"


# Named groups in the taxonomy of ImageNet-1k: its classes 0 to 397, the other 602, and 522 of the latter.
GROUPS = {
    "animals": Group(level="85", label="animal.n.01", has=True),
    "objects": Group(level="85", label="animal.n.01", has=False),
    "artifacts": Group(level="17", label="artifact.n.01", has=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taxonomy:
    """The labels of classes at several levels."""

    path: Path  # as messages name it
    levels: tuple[str, ...]  # from coarse to fine
    labels: Mapping[str, tuple[str, ...]]  # by class, one per level

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 over levels and labels; the order of the lines does not matter."""
        content = json.dumps([self.levels, sorted(self.labels.items())], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.path.name} ({self.digest})"

    def at(self, level: str, classes: Sequence[str]) -> list[str]:
        """The label of each class at a level; raises EvaluateError if there is no such level or class."""
        column = self._column(level)
        self._check(classes)
        return [self.labels[name][column] for name in classes]

    def inside(self, group: Group, classes: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the classes belong to a group; raises EvaluateError if the taxonomy has no such label."""
        if group.level not in self.levels:
            raise EvaluateError(f"{self.path}: no level {group.level!r} for group {group}; {self._there_are}")
        column = self._column(group.level)
        known = sorted({labels[column] for labels in self.labels.values()})
        if group.label not in known:
            close = difflib.get_close_matches(group.label, known, SHOWN, 0.5)
            raise EvaluateError(
                f"{self.path}: level {group.level} has {len(known)} labels, but not {group.label!r};"
                f" there are {_some(close or known, len(known))}"
            )
        return np.array([(label == group.label) == group.has for label in self.at(group.level, classes)], bool)

    def order(self, classes: Sequence[str]) -> list[int]:
        """Positions of the classes with related ones side by side.

        They are sorted by their labels from the coarsest level to the finest, then by name: a walk
        through the tree, depth first, in alphabetical order.
        """
        self._check(classes)
        return sorted(range(len(classes)), key=lambda i: (*self.labels[classes[i]], classes[i]))

    @property
    def _there_are(self) -> str:
        return f"there are {', '.join(self.levels)}"

    def _column(self, level: str) -> int:
        if level not in self.levels:
            raise EvaluateError(f"{self.path}: no level {level!r}; {self._there_are}")
        return self.levels.index(level)

    def _check(self, classes: Sequence[str]) -> None:
        missing = [name for name in classes if name not in self.labels]
        if missing:
            raise EvaluateError(
                f"{self.path}: lacks {len(missing)} of the source's {len(classes)} classes:"
                f" {_some(missing, len(missing))}; name a taxonomy that has them"
            )


def parse_group(text: str) -> Group:
    """A group from its name in GROUPS, ``LEVEL = LABEL`` or ``LEVEL != LABEL``."""
    if text in GROUPS:
        return GROUPS[text]
    level, equals, label = text.partition("=")
    group = Group(level=level.removesuffix("!").strip(), label=label.strip(), has=not level.endswith("!"))
    if not (equals and group.level and group.label):
        raise EvaluateError(f"group {text!r}: write {', '.join(GROUPS)}, LEVEL = LABEL or LEVEL != LABEL")
    return group


def imagenet1k() -> Taxonomy:
    """The taxonomy of the ImageNet-1k classes, by wnid."""
    return read_taxonomy(IMAGENET1K)


def read_taxonomy(path: Path) -> Taxonomy:
    """Read a taxonomy file; raises EvaluateError naming file and line if it is invalid."""
    levels, *rows = _read_rows(path)
    if levels[0] != "id" or len(levels) < 2 or len(set(levels)) < len(levels) or not all(map(_plain, levels)):
        raise EvaluateError(
            f"{path}: line 1: {' | '.join(levels)!r} is not a header; write id and the names of the levels, coarse to"
            " fine, with one tab between them"
        )
    labels: dict[str, tuple[str, ...]] = {}
    lines: dict[str, int] = {}
    above: dict[tuple[str, str], tuple[str, int]] = {}  # by level and label: the label above it, and on which line
    for number, row in enumerate(rows, start=2):
        if row == [""]:
            continue
        if len(row) != len(levels) or not all(map(_plain, row)):
            raise EvaluateError(
                f"{path}: line {number}: {' | '.join(row)!r} is not an id and {len(levels) - 1} labels, each with"
                " one tab and no space before it"
            )
        if row[0] in labels:
            raise EvaluateError(f"{path}: line {number}: id {row[0]!r} is also on line {lines[row[0]]}; remove one")
        labels[row[0]], lines[row[0]] = tuple(row[1:]), number
        for coarse, level, parent, label in zip(levels[1:], levels[2:], row[1:], row[2:], strict=False):
            other, line = above.setdefault((level, label), (parent, number))
            if other != parent:
                raise EvaluateError(
                    f"{path}: line {number}: {level} {label!r} is under {coarse} {parent!r}, but on line {line} under"
                    f" {other!r}; make it two labels, or put the levels in order from coarse to fine"
                )
    if not labels:
        raise EvaluateError(f"{path}: no class; write one per line below the header")
    return Taxonomy(path=path, levels=tuple(levels[1:]), labels=labels)


def _read_rows(path: Path) -> list[list[str]]:
    try:
        data = read_file(path, limit=LIMIT)
    except OSError as error:
        raise EvaluateError(f"{path}: {error.strerror}; name a taxonomy file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise EvaluateError(f"{path}: line {line}: not UTF-8 text; save it as UTF-8") from None
    return [line.removesuffix("\r").split("\t") for line in text.split("\n")]


def _plain(field: str) -> bool:
    """Whether a field is neither empty nor padded."""
    return bool(field) and field == field.strip()


def _some(names: Sequence[str], n: int) -> str:
    shown = names[:SHOWN]
    return ", ".join(shown) + (f" and {n - len(shown)} more" if n > len(shown) else "")
