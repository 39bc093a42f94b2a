"""Synthetic image sets: plan, render, shards, verify.

These names are the public interface; each is loaded when it is first used:

- ``draw_fractals(...)``: formula-driven images, drawn on demand, without files;
- ``read_classes(path)``: a class list, as used by prompt files;
- ``ClassTable.read(data, where)``: the classes of an exported image folder;
- ``open_set(where)``: a finished set, in a folder or at a URL, as images with labels and captions;
- ``MAX_IMAGES``: the most images that a set may have.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthgen.dataset.opened import open_set as open_set
    from synthgen.kinds.base import MAX_IMAGES as MAX_IMAGES
    from synthgen.kinds.diffusion.prompts import read_classes as read_classes
    from synthgen.kinds.fractaldb.drawn import draw_fractals as draw_fractals
    from synthgen.publishing.names import ClassTable as ClassTable

_PUBLIC = {
    "ClassTable": "synthgen.publishing.names",
    "MAX_IMAGES": "synthgen.kinds.base",
    "draw_fractals": "synthgen.kinds.fractaldb.drawn",
    "open_set": "synthgen.dataset.opened",
    "read_classes": "synthgen.kinds.diffusion.prompts",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
