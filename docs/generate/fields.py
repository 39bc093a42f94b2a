"""Fields of records as rows of a table: name, type, default, range and meaning, all read from the code.

A field's meaning is the comment at the end of its line.  Its range is what its annotation says, or else what the
record's own check says of a value that lies outside.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import re
import textwrap
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow.parquet as pq

Check = Callable[[str, Any], Sequence[str]]  # a field and a value -> the problems of a record that has it
COLUMNS = {"string": "text", "int64": "integer", "double": "number", "bool": "boolean"}
JSON = {str: "text", int: "integer", float: "number", bool: "boolean", list: "list", dict: "table"}
PLAIN = {str: "text", int: "integer", float: "number", bool: "boolean", type(None): "null", Any: "any"}
SHAPE = re.compile(r"^(?:\w+ )?\[[a-z_, ]+\],? ?")  # of an array, at the beginning of a comment
OUTSIDE: tuple[Any, ...] = (-1, -1.0, (-1,), 2**62)  # values that no bounded field takes


def comments(source: str) -> dict[int, str]:
    """The comments of a source text by line number, without their marks."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = (token for token in tokens if token.type == tokenize.COMMENT)
    return {token.start[0]: token.string.removeprefix("#").strip() for token in found}


def meanings(kind: type) -> dict[str, str]:
    """What the comments say of a class's fields."""
    source = textwrap.dedent(inspect.getsource(kind))
    told = comments(source)
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    fields = [node for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: _comment(told, node) for node in fields if isinstance(node.target, ast.Name)}


def keys(function: Callable[..., Any]) -> dict[str, str]:
    """The keys of the dict literals that a function writes, and what the comments beside them say."""
    source = textwrap.dedent(inspect.getsource(function))
    told = comments(source)
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    found[key.value] = told.get(value.end_lineno or 0, "")
    return found


def example_types(path: Path) -> dict[str, str]:
    """The keys of a stored record, or the columns of a stored table, and their types."""
    if path.suffix == ".parquet":
        return {column.name: COLUMNS[str(column.type)] for column in pq.read_schema(path)}
    return {key: JSON[type(value)] for key, value in json.loads(path.read_text()).items()}


def _comment(told: Mapping[int, str], node: ast.AnnAssign) -> str:
    return told.get(node.end_lineno or 0, "")


def type_words(kind: Any, links: Mapping[Any, str]) -> str:
    """A type in a reader's words; ``links`` has the anchors of records by their class."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_words(inner[0], links)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(one, links) for one in inner if one is not type(None))
    if origin in (tuple, list, Sequence):
        several = inner[:-1] if inner[-1] is Ellipsis else inner
        words = dict.fromkeys(type_words(one, links) for one in several)
        count = "" if inner[-1] is Ellipsis or origin is not tuple else f"{len(inner)} "
        return f"list of {count}{', '.join(words)}"
    if origin in (dict, Mapping):
        return f"table of {type_words(inner[1], links)}" if inner[1] is not Any else "table"
    if origin is np.ndarray:  # a column: the type of its values
        return {np.int64: "integer", np.object_: "text"}[get_args(inner[1])[0]]
    return f"[{kind.__name__}]({links[kind]})" if kind in links else PLAIN.get(kind, "table")


def default_words(field: dataclasses.Field[Any]) -> str:
    """A field's default as a suite file or a record would have it; nothing where it has to be given."""
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(field.default):
        return "its defaults"
    return "none" if field.default is None else f"`{json.dumps(field.default)}`"


def range_words(name: str, annotation: Any, check: Check | None) -> str:
    """What values a field takes."""
    told = "; ".join(filter(None, map(_bound, _metadata(annotation))))
    return told or (_refusal(name, check) if check else "")


def _metadata(annotation: Any) -> Iterator[Any]:
    """What annotations say of a value, within unions too."""
    for one in getattr(annotation, "__metadata__", ()):
        yield from getattr(one, "metadata", [one])
    if get_origin(annotation) in (Union, types.UnionType):
        for inner in get_args(annotation):
            yield from _metadata(inner)


def _bound(limit: Any) -> str:
    for attribute, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        if hasattr(limit, attribute):
            return f"{words} {getattr(limit, attribute)}"
    return f"`{limit.pattern}`" if getattr(limit, "pattern", None) else ""


def _refusal(name: str, check: Check) -> str:
    """The range that a check tells when a value lies outside: what follows the value in its message."""
    for value in OUTSIDE:
        try:
            problems = check(name, value)
        except (AttributeError, TypeError, ValueError):  # a value of another type than the field's
            continue
        for problem in problems:
            if found := re.match(rf"(?:.*\.)?{name}: {re.escape(_shown(value))}(?: px)?(?:;|,? outside) (.+)", problem):
                return found[1]
    return ""


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _null(field: dataclasses.Field[Any], annotation: Any) -> bool:
    """Whether a field has to be given, and may be null."""
    return default_words(field) == "required" and type(None) in get_args(annotation)


def rows(
    kind: type, links: Mapping[Any, str], check: Check | None = None, without: Sequence[str] = ()
) -> list[tuple[str, str, str, str, str]]:
    """Name, type, default, range and meaning of each field of a record, ``without`` some."""
    hints = get_type_hints(kind, include_extras=True)
    told: dict[str, Any] = {}
    for one in filter(dataclasses.is_dataclass, kind.__mro__):
        told |= meanings(one)
    left_out = {*without, *getattr(kind, "INNER", ())}  # INNER has fields that a file writes as keys of other records
    return [
        (
            field.name,
            type_words(hints[field.name], links) + " or null" * _null(field, hints[field.name]),
            default_words(field),
            range_words(field.name, hints[field.name], check),
            SHAPE.sub("", told[field.name]),
        )
        for field in dataclasses.fields(kind)
        if field.init and field.name not in left_out
    ]
