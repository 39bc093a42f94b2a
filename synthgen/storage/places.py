"""Which store a place is of: the list of all kinds of places, and the only function that tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

from synthgen.storage.folder import FOLDERS
from synthgen.storage.hub import HUB
from synthgen.storage.object_store import OBJECTS
from synthgen.storage.store import Place, Store

P = TypeVar("P", bound=Place)

# The first that says that a text names a place of its kind, or that a place is one, has it.
STORES: tuple[Store[Any], ...] = (
    FOLDERS,
    HUB,
    OBJECTS,
)


def store_of(place: P) -> Store[P]:
    """The store that a place is of."""
    return cast(Store[P], next(store for store in STORES if store.holds(place)))


def store_named(text: str) -> Store[Any]:
    """The store of which a text names a place."""
    return next(store for store in STORES if store.names(text))


def place(text: str | Path) -> Place:
    """The place that a text names: a local path, or a URL such as s3://BUCKET/PREFIX.

    Raises SynthgenError where nothing is installed that speaks the URL's protocol, or where the URL holds secrets: it
    will be printed.
    """
    return cast(Place, store_named(str(text)).place(str(text)))
