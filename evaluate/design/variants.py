"""Tagged unions that a suite file writes as flat keys.

In memory an arm holds one variant of each union, so that mutually exclusive keys cannot both be set.  In
the file the fields of all variants are side by side as keys of the arm.  ``TAG`` is the key that says which
variant is meant, such as ``diversity``; the one variant without a tag is meant if no tag is given.  A tag that
is also a field of another variant that is meant adds nothing: ``n`` beside ``diversity``.  ``INNER`` lists the
fields that hold a union themselves, which is read from the same flat keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from synthgen.common.records import adapter

from ..errors import EvaluateError

V = TypeVar("V", bound="Variant")


class Variant:
    """One form of a part of an arm: a frozen dataclass whose fields, except those in INNER, are keys of the file."""

    __slots__ = ()
    TAG: ClassVar[str] = ""
    INNER: ClassVar[Mapping[str, Sequence[type[Variant]]]] = {}


def read(kind: type[V], given: Mapping[str, Any]) -> V:
    """A variant, with those inside it, from flat keys of JSON types; empty lists and tables count as not given.

    Raises EvaluateError, beginning with the keys, if these do not fit together, and pydantic's
    ValidationError for a key that is unknown or a value of the wrong type.
    """
    given = {key: value for key, value in given.items() if value not in ([], {})}
    found: V = _read((kind,), given)
    problems: dict[str, list[str]] = {}
    for key in given:
        words = _stray((kind,), found, key)
        if words:
            problems.setdefault(words, []).append(key)
    for words, keys in problems.items():
        raise EvaluateError(f"{', '.join(keys)}: {words}")
    return found


def keys_of(kind: type[Variant]) -> list[str]:
    """The keys that are a variant's own."""
    return [one.name for one in fields(kind) if one.name not in kind.INNER]  # type: ignore[arg-type]


def _read(variants: Sequence[type[Variant]], given: Mapping[str, Any]) -> Any:
    kind = _meant(variants, given)
    hints = _hints(kind)  # type: ignore[arg-type]
    values = {key: _checked(key, hints[key], given[key]) for key in keys_of(kind) if key in given}
    lacking = [
        one.name
        for one in fields(kind)  # type: ignore[arg-type]
        if one.name not in given and one.name not in kind.INNER and one.default is one.default_factory is MISSING
    ]
    if lacking and kind.TAG:
        raise EvaluateError(f"{kind.TAG}: needs {', '.join(lacking)}")
    if lacking:
        raise _invalid([("missing", "Field required", (lacking[0],), None)])
    return kind(**values, **{name: _read(inner, given) for name, inner in kind.INNER.items()})


def _meant(variants: Sequence[type[Variant]], given: Mapping[str, Any]) -> type[Variant]:
    tagged = [kind for kind in variants if kind.TAG in given]
    meant = [kind for kind in tagged if not any(kind.TAG in keys_of(one) for one in tagged if one is not kind)]
    if len(meant) > 1:
        raise EvaluateError(f"{', '.join(kind.TAG for kind in meant)}: only one of them at a time")
    return meant[0] if meant else next(kind for kind in variants if not kind.TAG)


def _stray(variants: Sequence[type[Variant]], found: Variant, key: str) -> str | None:
    """Why a given key does not belong to the variant that was read; None if it does."""
    if key in keys_of(type(found)):
        return None
    for name, inner in found.INNER.items():
        if any(_holds(kind, key) for kind in inner):
            return _stray(inner, getattr(found, name), key)
    holders = [kind.TAG for kind in variants if _holds(kind, key)]
    if not holders:
        raise _invalid([("unexpected_keyword_argument", "", (key,), None)])
    return f"not with {found.TAG}" if "" in holders else f"only with {' or '.join(holders)}"


def _holds(kind: type[Variant], key: str) -> bool:
    return key in keys_of(kind) or any(_holds(inner, key) for some in kind.INNER.values() for inner in some)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _checked(key: str, hint: Any, value: object) -> Any:
    try:
        return adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise below(error, key) from None


def below(error: ValidationError, *place: str | int) -> ValidationError:
    """The same errors for a value at a place inside another."""
    return _invalid(
        (one["type"], one["msg"], (*place, *one["loc"]), one["input"]) for one in error.errors(include_url=False)
    )


def _invalid(errors: Iterable[tuple[str, str, tuple[str | int, ...], Any]]) -> ValidationError:
    """Pydantic's error; each of ``errors`` is its type, its message, its place, and the value."""
    details = [
        InitErrorDetails(type=PydanticCustomError(kind, "{told}", {"told": told}), loc=place, input=value)
        for kind, told, place, value in errors
    ]
    return ValidationError.from_exception_data("arm", details)
