"""Markdown in which every value shows as its text, whatever it holds."""

from __future__ import annotations

import re

from markupsafe import Markup

# What begins or ends a construct of Markdown within a line (CommonMark 0.31, and GitHub's tables, links, names,
# emoji and formulas).  No value stands at the beginning of a line.
_SPECIAL = re.compile(r"[\\`*_\[\]<>#!|~&@$]|:(?=\S)|(?<=www)\.", re.IGNORECASE)


def escaped(text: str) -> str:
    """Text as Markdown that shows it, on one line; what cannot be seen becomes a space."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", line)


def markdown(template: str, **values: object) -> Markup:
    """Markdown of our own with ``{name}`` where values go, which are escaped unless they are Markup."""
    shown = {name: str(value) if isinstance(value, Markup) else escaped(str(value)) for name, value in values.items()}
    return Markup(template.format(**shown))


def fenced(text: str, language: str = "") -> Markup:
    """A block of code, in a fence that nothing in it can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{text}\n{fence}")
