"""The harness: pre-train on synthetic or natural images, fine-tune on a task with a shift, compare.

``sources`` and ``tasks`` bring images in, ``suite`` turns a suite file into runs, ``train``
executes one, ``runs`` keeps what it found, ``analysis`` compares runs and ``reporting`` shows it.

In a notebook, ``compare(load_runs(["runs/miniature"]))`` gives a Comparison that shows itself.
"""

from typing import Any

__all__ = ["compare", "load_results", "load_runs"]
_HOMES = {"compare": "notebook", "load_results": "analysis.published", "load_runs": "analysis.load"}


def __getattr__(name: str) -> Any:
    """The library's functions, imported when they are asked for: the package itself imports nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
