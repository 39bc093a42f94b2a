"""Markdown in which every value is shown literally, whatever it contains."""

from __future__ import annotations

import re

from markupsafe import Markup

# What begins or ends a construct of Markdown within a line (CommonMark 0.31, and GitHub's tables, links, names,
# emoji and formulas).  No value is at the beginning of a line.
_SPECIAL = re.compile(r"[\\`*_\[\]<>#!|~&@$]|:(?=\S)|(?<=www)\.", re.IGNORECASE)


def escaped(text: str) -> str:
    """Text as Markdown that shows it literally, on one line; unprintable characters become spaces."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", line)


def markdown(template: str, **values: object) -> Markup:
    """A Markdown template of our own, with values for each ``{name}``, escaped unless they are Markup."""
    shown = {name: str(value) if isinstance(value, Markup) else escaped(str(value)) for name, value in values.items()}
    return Markup(template.format(**shown))


def fenced(text: str, language: str = "") -> Markup:
    """A block of code, in a fence that nothing in it can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{text}\n{fence}")
