"""Text for people, made printable in one place: nothing read from a file reaches a terminal as a control sequence.

Names, keys, digests and messages come from untrusted files.  An escape sequence in them could move the cursor,
change the screen or its title, or reverse the order of letters; a line break could pass for a line of our own.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TextIO

# What str.isprintable calls unprintable, except spaces of all widths: controls, formats (including those that change
# the direction of text), lone surrogates, private and unassigned characters, line separators.
_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_SUSPECT = re.compile(rf"[^ -~{_SPACES}]")


def printable(text: object) -> str:
    """``text`` on one line of printable characters, the others escaped as in Python, such as ``\\x1b``."""
    line = str(text)
    return line if line.isprintable() else _SUSPECT.sub(_escaped, line)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def counted(n: float, noun: str, plural: str = "", *, form: str = "") -> str:
    """A number of things, as "1 shard" and "3 shards"; ``form`` is a format of the number, such as ","."""
    return f"{n:{form}} {noun if n == 1 else plural or f'{noun}s'}"


def printable_json(record: object) -> str:
    """JSON with one value per line, that parses to the same texts but consists of printable characters."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return "\n".join(line if line.isprintable() else _SUSPECT.sub(_json_escaped, line) for line in text.split("\n"))


def _json_escaped(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each of ``lines``, made printable, on a line of its own, to stdout or to ``file``."""
    print(*map(printable, lines), sep="\n", file=file or sys.stdout, flush=True)
