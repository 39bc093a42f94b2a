"""One strict reader for every record that may come from elsewhere.

Python's own JSON reader accepts NaN, keeps the last of duplicate keys, lets lone surrogates through, and fails on
deep nesting with a RecursionError.  Pydantic turns "12" into 12.  Here each of these is refused, in one line that
names the file and the key.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, NoReturn, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from synthgen.common.errors import SynthgenError

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid")
ADDED = "added"  # in the metadata of a field that older records lack
DEPTH = 100  # nested lists and objects
DIGITS = 300  # of a whole number: no more than a floating-point number can have
SHORT = 4096  # characters; in shorter texts checking every number is faster than searching for large ones
DEEP = f"more than {DEPTH} nested lists and objects"
LATER = "unknown key; perhaps a later version wrote it"
# Pydantic's error types for unknown keys, of models and of dataclasses.
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def added(default: Any) -> Any:
    """A field that is added to a hashed record later: ``name: TYPE = added(DEFAULT)``.

    Records may grow, under one rule.  The default of an added field means what was done before the field existed, and
    the field enters a record and its digest only if its value differs from that default.  So everything made earlier
    keeps its digest, and older versions can read records that do not use the field.  The fields that a record had from
    the start are not marked and always enter.  A default never changes: a new default for new outputs is set where
    these are planned.
    """
    return field(default=default, metadata={ADDED: True})


def plain(value: Any) -> Any:
    """A record as JSON values, without the added fields that have their default; see ``added``."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = {one.name: getattr(value, one.name) for one in fields(value) if not _left_out(value, one)}
        return {name: plain(inner) for name, inner in kept.items()}
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _left_out(value: Any, one: Any) -> bool:
    return ADDED in one.metadata and one.default is not MISSING and getattr(value, one.name) == one.default


def digest(record: Any) -> str:
    """SHA-256 of a record as canonical JSON: 64 hex digits."""
    text = json.dumps(plain(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def record(data: bytes, kind: type[T], where: object) -> T:
    """The record in ``data``, which was read from ``where``; raises SynthgenError naming that and the key."""
    try:
        value = adapter(cast(Any, kind)).validate_json(data, strict=True)
    except ValidationError as error:
        parsed(data, where)  # which says more if it is not JSON
        raise SynthgenError(f"{where}: {first_problem(error)}") from None
    if not _as_written(data, value, kind):
        parsed(data, where)
    return cast(T, value)


def validated(data: bytes | object, kind: type[T], where: object, key: str = "") -> T:
    """JSON, or the result of ``parsed``, as a type that pydantic knows; ``key`` is its place in the file.

    The numbers and texts of parsed values, too, must have exactly the right types, but a tuple counts as a list.
    """
    try:
        text = data if isinstance(data, bytes) else json.dumps(data).encode()
        return cast(T, adapter(cast(Any, kind)).validate_json(text, strict=True))
    except ValidationError as error:
        raise SynthgenError(f"{where}: {first_problem(error, key)}") from None


def parsed(data: bytes, where: object) -> Any:
    """JSON in UTF-8 without NaN, infinite numbers, duplicate keys, deep nesting or lone surrogates.

    Raises SynthgenError naming ``where``.
    """
    if data.startswith(codecs.BOM_UTF8):
        raise SynthgenError(f"{where}: a byte order mark before the first character; save it as UTF-8 without one")
    try:
        text = data.decode()
        value = (_CAREFUL if len(text) < SHORT or _has_large(text) else _READER).decode(text)
        if text.count("[") + text.count("{") > DEPTH:
            _check_depth(value)
        if "\\u" in text:
            _check_characters(value)
        return value
    except RecursionError:
        raise SynthgenError(f"{where}: {DEEP}") from None
    except UnicodeDecodeError as error:
        raise SynthgenError(f"{where}: not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise SynthgenError(f"{where}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except _NumberError as error:
        raise SynthgenError(f"{where}: {_place_of(error.token, text)}: {error}") from None
    except ValueError as error:
        raise SynthgenError(f"{where}: {error}") from None


def _as_written(data: bytes, value: object, kind: Any) -> bool:
    """Whether ``data`` is exactly what pydantic would write for the record, as it is for completion records.

    Then it has neither duplicate keys nor NaN: most records, of which a set has thousands, need no second pass.
    """
    shallow = len(data) < SHORT and data.count(b"[") + data.count(b"{") <= DEPTH
    return shallow and adapter(kind).dump_json(value, indent=1) == data.rstrip()


def first_problem(error: ValidationError, key: str = "") -> str:
    """The first error that pydantic found, beginning with its key; unknown keys come before missing ones."""
    found = error.errors(include_url=False)
    return problem(next((one for one in found if one["type"] in UNKNOWN), found[0]), key)


def problem(found: Any, key: str = "") -> str:
    """An error that pydantic found, beginning with its key."""
    place = _place([key, *found["loc"]] if key else found["loc"])
    return f"{place or 'the file'}: {LATER if found['type'] in UNKNOWN else found['msg']}"


def _place(loc: Sequence[object]) -> str:
    return ".".join(str(part)[:80] for part in loc)[:200]


@lru_cache(maxsize=64)  # building one takes longer than reading a record
def adapter(kind: Any) -> TypeAdapter[Any]:
    """The validator of a type."""
    return TypeAdapter(kind)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{twice[:80]}: duplicate key")
    return found


class _NumberError(ValueError):
    """A number that is not read, with its text."""

    def __init__(self, token: str, words: str) -> None:
        super().__init__(words)
        self.token = token


def _constant(name: str) -> NoReturn:
    raise _NumberError(name, f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NumberError(text, f"{text[:20]} is too large a number")
    return number


def whole_number(text: str) -> int:
    """A whole number of JSON; raises ValueError if it is larger than any floating-point number."""
    if len(text) > DIGITS:
        raise _NumberError(text, f"a number of {len(text)} digits; at most {DIGITS}")
    return int(text)


def _place_of(token: str, text: str) -> str:
    """Line and column of a number, which may also occur in texts."""
    at = next(match.start() for match in _TOKEN.finditer(text) if match[0] == token)
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


# Building a JSON reader takes longer than reading a record.  A number can be infinite only with an exponent of three
# digits or with hundreds of digits: only texts that may have such a number are read with _CAREFUL.
_READER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
_CAREFUL = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=whole_number
)
_TOKEN = re.compile(  # a text, or a number as JSON's readers cut it from what follows
    r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?'
)
_EXPONENT = re.compile(r"[eE]\+?[0-9]{3}")


def _has_large(text: str) -> bool:
    """Whether a number may have an exponent of three digits, or 300 digits: such a run fills a block of 150."""
    blocks = (text[at : at + 150] for at in range(0, len(text), 150))
    return _EXPONENT.search(text) is not None or any(map(str.isdecimal, blocks))


def _check_depth(value: Any) -> None:
    """Raise ValueError if more than DEPTH lists and objects are nested."""
    level = [value]
    for _ in range(DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, list | dict))
        level = [one for some in inner for one in some if isinstance(one, list | dict)]
    if level:
        raise ValueError(DEEP)


def _check_characters(value: Any) -> None:
    """Raise ValueError if a text contains a lone surrogate, which can be in neither the name nor the text of a file."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{value[:40]!a} contains half of a character (a lone surrogate)")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_characters(key)
            _check_characters(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_characters(inner)
