"""Shapes of arrays, checked as tests run: ``Annotated[NDArray[np.float64], "n_blocks n_arms"]`` means what it says.

The product states axes and checks none; here jaxtyping does, in its own notation (``*r``: any number of axes).  An
axis has one length within a call, and within the fields of a dataclass.  Compiled functions are left as they are.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import jaxtyping
import numpy as np
from beartype import beartype

CHECKED = ("fractaldb", "synthgen_evaluate.analysis")
KINDS = {
    np.float64: jaxtyping.Float64,
    np.integer: jaxtyping.Integer,
    np.int64: jaxtyping.Int64,
    np.intp: jaxtyping.Int64,
    np.int32: jaxtyping.Int32,
    np.uint16: jaxtyping.UInt16,
    np.uint8: jaxtyping.UInt8,
    np.bool_: jaxtyping.Bool,
}


class Finder(MetaPathFinder):
    """Finds the modules of the packages whose shapes are checked."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not any(name == package or name.startswith(f"{package}.") for package in CHECKED):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


class Loader(SourceFileLoader):
    """Loads a module and has its functions and dataclasses check the shapes that they state."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                setattr(module, name, checked(value))
            elif hasattr(value, "cache_parameters"):
                setattr(module, name, functools.lru_cache(**value.cache_parameters())(checked(value.__wrapped__)))
            elif inspect.isclass(value) and is_dataclass(value):
                value.__init__ = checked(value.__init__)  # type: ignore[method-assign]


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises jaxtyping.TypeCheckError where an array has other axes or another type than stated."""
    hints = {name: _shape(hint) for name, hint in get_type_hints(function, include_extras=True).items()}
    stated = {name: hint for name, hint in hints.items() if hint is not None}
    if not stated:
        return function
    function.__annotations__ = stated
    return jaxtyping.jaxtyped(function, typechecker=beartype)


def _shape(hint: Any) -> Any:
    """What jaxtyping makes of an annotation with axes, alone, in a tuple or with None; None where none are stated."""
    if get_origin(hint) is Annotated:
        array, axes = get_args(hint)
        kind = get_args(get_args(array)[1])[0]  # of ndarray[shape, dtype[kind]]
        return KINDS[kind][np.ndarray, axes]
    parts = [_shape(part) for part in get_args(hint)]
    if not any(parts):
        return None
    if get_origin(hint) is tuple:
        return tuple[tuple(part or Any for part in parts)]  # type: ignore[misc]
    return Union[tuple(part or kind for part, kind in zip(parts, get_args(hint), strict=True))]  # noqa: UP007


sys.meta_path.insert(0, Finder())
