"""Make imagenet1k.tsv, the taxonomy of the 1,000 ImageNet-1k classes, from WordNet 3.0.

    apt-get install wordnet-base
    python evaluate/taxonomies/from_wordnet.py /usr/share/wordnet > evaluate/taxonomies/imagenet1k.tsv

A wnid is ``n`` and the offset of a synset in WordNet's noun file.  From it the rule climbs: while the
synset lies deeper than d, go to the alphabetically first, by name, of its hypernyms.  A synset's depth is
the length of its shortest way to the root; its name is its first word, ``n`` and the number of that
word's sense, as NLTK writes them.  d = 2, 4, 5, 6, 7 gives 5, 17, 37, 85 and 232 labels, the numbers of
Ramanujan et al. (NeurIPS 2023); the rule is inferred from these counts, the paper does not state it.
The other depths, down to the classes themselves, put related classes side by side.  A level is named by
its number of labels.

The two files read are described in WordNet's manual, wndb(5WN).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CLASSES = Path(__file__).parents[2] / "prompts" / "classes" / "imagenet1k.tsv"
DEPTHS = (*range(2, 16), 20)  # no noun lies as deep as 20: there each class is its own label


@dataclass(frozen=True, slots=True, kw_only=True)
class Nouns:
    """WordNet's nouns, by their offset in the noun file."""

    names: dict[str, str]  # such as dog.n.01
    hypernyms: dict[str, list[str]]  # instance hypernyms apart
    kinds: dict[str, list[str]]  # instance hypernyms, which count for the depth alone
    depths: dict[str, int] = field(default_factory=dict)  # those known so far

    def depth(self, offset: str) -> int:
        """The length of the shortest way to the root."""
        if offset not in self.depths:
            above = [self.depth(parent) for parent in self.hypernyms[offset] + self.kinds[offset]]
            self.depths[offset] = 1 + min(above) if above else 0
        return self.depths[offset]

    def label(self, offset: str, depth: int) -> str:
        """The name of the synset that the rule reaches."""
        while self.depth(offset) > depth:
            offset = min(self.hypernyms[offset], key=self.names.__getitem__)
        return self.names[offset]


def read_nouns(wordnet: Path) -> Nouns:
    """Read the noun files of a WordNet folder."""
    senses = {}  # the synsets of a word, most frequent sense first
    for fields in _lines(wordnet / "index.noun"):
        senses[fields[0]] = fields[-int(fields[2]) :]
    names, hypernyms, kinds = {}, {}, {}
    for fields in _lines(wordnet / "data.noun"):
        offset, word = fields[0], fields[4].lower()
        start = 4 + 2 * int(fields[3], 16)  # of the pointers: their number, then four fields each
        stop = start + 1 + 4 * int(fields[start])
        pointers = list(zip(fields[start + 1 : stop : 4], fields[start + 2 : stop : 4], strict=True))
        names[offset] = f"{word}.n.{senses[word].index(offset) + 1:02d}"
        hypernyms[offset] = [target for symbol, target in pointers if symbol == "@"]
        kinds[offset] = [target for symbol, target in pointers if symbol == "@i"]
    return Nouns(names=names, hypernyms=hypernyms, kinds=kinds)


def _lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("  "):  # the license
                yield line.partition(" | ")[0].split()


def table(nouns: Nouns, wnids: list[str]) -> str:
    """The taxonomy file."""
    columns = [[nouns.label(wnid.removeprefix("n"), depth) for wnid in wnids] for depth in DEPTHS]
    levels = [str(len(set(column))) for column in columns]
    rows = [("id", *levels), *zip(wnids, *columns, strict=True)]
    return "".join("\t".join(row) + "\n" for row in rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: from_wordnet.py WORDNET_FOLDER > imagenet1k.tsv")
    classes = [line.partition("\t")[0] for line in CLASSES.read_text().splitlines()[1:]]
    sys.stdout.write(table(read_nouns(Path(sys.argv[1])), classes))
