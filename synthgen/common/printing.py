"""Text for people, made printable in one place: nothing that is read from a file reaches a terminal as a command to it.

Names, keys, digests and messages come from files of strangers.  An escape sequence among them could move the
cursor, change what stands on the screen or in its title, or turn the order of letters; a line break could pass
for a line of our own.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TextIO

# What str.isprintable calls unprintable, but for spaces of all widths: controls, formats (among them those that
# turn the direction of text), halves of surrogate pairs, private and unassigned characters, line separators.
_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_DOUBTFUL = re.compile(rf"[^ -~{_SPACES}]")


def printable(text: object) -> str:
    """``text`` in one line of characters that show; others as Python escapes them, such as ``\\x1b``."""
    told = str(text)
    return told if told.isprintable() else _DOUBTFUL.sub(_escaped, told)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def printable_json(record: object) -> str:
    """JSON, a value a line, whose texts read the same but show nothing but characters that show."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return "\n".join(line if line.isprintable() else _DOUBTFUL.sub(_json_escaped, line) for line in text.split("\n"))


def _json_escaped(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each of ``lines``, printable, on a line of its own; to stdout, or to ``file``."""
    print(*map(printable, lines), sep="\n", file=file or sys.stdout, flush=True)
