"""Who does the missing shards: workers of this machine, of a Ray cluster, tasks of an array job; and how they share.

``Request`` is what was asked of an engine, ``with_request`` gives a command its options: all that others need to know.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthgen.engines.options import with_request as with_request
    from synthgen.engines.request import Request as Request


_PUBLIC = {"Request": "synthgen.engines.request", "with_request": "synthgen.engines.options"}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
