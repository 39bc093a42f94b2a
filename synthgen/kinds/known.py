"""The list of all kinds of images, by their packages; a new one is a folder beside this file and a line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from synthgen.kinds.base import Kind

KNOWN = [
    "synthgen.kinds.fractaldb",
    "synthgen.kinds.diffusion",
]


@cache
def kinds() -> dict[str, Kind]:
    """All kinds, by their names in ``plan.json``."""
    found: list[Kind] = [import_module(name).KIND for name in KNOWN]
    return {kind.name: kind for kind in found}
