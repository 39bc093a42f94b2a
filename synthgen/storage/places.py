"""Which store a place belongs to: the list of all stores, and the only functions that distinguish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

from synthgen.storage.folder import FOLDERS
from synthgen.storage.hub import HUB
from synthgen.storage.object_store import EXTRAS, OBJECTS
from synthgen.storage.store import Place, Store

P = TypeVar("P", bound=Place)

# A place belongs to the first of these that accepts its text, or the place itself.
STORES: list[Store[Any]] = [
    FOLDERS,
    HUB,
    OBJECTS,  # last: it takes every URL that is left
]


def store_of(place: P) -> Store[P]:
    """The store that a place belongs to."""
    for store in STORES:
        if store.holds(place):
            return cast(Store[P], store)
    raise TypeError(f"{place!r}: not a place of any store")


def store_named(text: str) -> Store[Any]:
    """The store of the place that a text names."""
    return next(store for store in STORES if store.names(text))


def place(text: str | Path) -> Place:
    """The place that a text names: a local path, or a URL such as s3://BUCKET/PREFIX.

    Raises SynthgenError if no client of the URL's protocol is installed, or if the URL contains secrets: it will be
    printed.
    """
    return cast(Place, store_named(str(text)).place(str(text)))


def state_of(text: str) -> tuple[tuple[str, int, int], ...]:
    """Name, modification time and size of the file that a text names, or of a folder and what is in it.

    Empty for places elsewhere, which are not asked.
    """
    inner = text.rsplit("::", 1)[-1].removeprefix("file://")
    if not FOLDERS.names(inner):
        return ()
    path = FOLDERS.place(inner)
    inside = sorted(path.iterdir()) if path.is_dir() else []
    stats = [(str(one), one.stat()) for one in (path, *inside) if one.exists()]
    return tuple((name, found.st_mtime_ns, found.st_size) for name, found in stats)


def extra_of(text: str) -> str | None:
    """The extra of this package that installs the client of a URL; None if there is none."""
    return EXTRAS.get(text.partition("://")[0])
