"""Synthetic image sets: plan, render, shards, verify.

What other programs may rely on is named here, and is loaded when it is first asked for:

- ``draw_fractals(...)``: formula-driven images drawn when asked for, without files;
- ``read_classes(path)``: a class list, as prompt files have it;
- ``read_class_table(data, where)``: the classes of an exported image folder;
- ``MAX_IMAGES``: the most that a set may have.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthgen.kinds.base import MAX_IMAGES as MAX_IMAGES
    from synthgen.kinds.diffusion.prompts import read_classes as read_classes
    from synthgen.kinds.fractaldb.drawn import draw_fractals as draw_fractals
    from synthgen.publishing.names import read_class_table as read_class_table

_PUBLIC = {
    "MAX_IMAGES": "synthgen.kinds.base",
    "draw_fractals": "synthgen.kinds.fractaldb.drawn",
    "read_class_table": "synthgen.publishing.names",
    "read_classes": "synthgen.kinds.diffusion.prompts",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
