"""How missing shards are made: by workers on this machine or a Ray cluster, or by tasks of an array job.

Other rooms need only ``Request``, which says what was asked of an engine, and ``with_request``, which gives a command
the options of engines.
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
