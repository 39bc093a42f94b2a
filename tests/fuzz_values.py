"""Hostile values: long texts, large numbers, and names that lead elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]
ESCAPE = "\x1b[31mfuzz\x1b]0;fuzz\x07"
MARK = "<script>fuzz()</script>"  # must not be told as it is in a page
TEX = r"\input{fuzz}"  # nor in a table for LaTeX
NAMES = (
    "../../victim/important",
    "../victim",
    "/victim/important",  # below the sandbox, see ``fuzz_mutations._led``
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\0b",
    "nul\x00",
    ESCAPE,
    "\u202egpj.exe",
    "a\u2028b",
    "line\nsynthgen: all is well",
    "\x9b31m",
    "x" * 300,
    "y" * 100_000,
    "\U0001f600 e\u0301 \u4e2d",
    "\ufeffbom",
    "-rf",
    "--help",
    "~",
    "$HOME",
    "%s%n",
    "{}",
    "{0.__class__}",
    MARK,
    TEX,
    "=1+1",
    "a\tb",
    "CON",
    " ",
    "null",
    "1e5",
)
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**40, 2**63, 2**64, -(2**63), 10**9, 10**6 + 1, 10**30, 1.5, -0.5)
FLOATS = (0.0, 1e308, -1e308, 5e-324, 1e-9, 0.1)
RAW = (  # of JSON: texts that no value of Python's writes
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-0",
    "01",
    "1" * 5000,
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '"\\u0000"',
    "[" * 200 + "]" * 200,
    "[" * 20_000 + "]" * 20_000,
    '{"a":' * 300 + "1" + "}" * 300,
    "tru",
    "'a'",
    "1.",
    "0x10",
    "// c\n1",
    "",
)


def value(rng: random.Random, old: Any = None) -> Any:
    """Another value, of the same type or not."""
    if isinstance(old, bool) or old is None:
        pool: list[Any] = [True, False, None, 0, 1, "true", [], {}]
    elif isinstance(old, int):
        pool = [*NUMBERS, old + 1, old - 1, -old, str(old), float(old), old + 2**32, old * 1000, [old], None, True]
    elif isinstance(old, float):
        pool = [*NUMBERS, *FLOATS, old * 2, -old, str(old), None]
    elif isinstance(old, str):
        pool = [*NAMES, old + "x", old[:-1], old.upper(), f" {old}", old * 2, f"{old}{ESCAPE}", f"../{old}"]
        pool += [1, None, [old], {old: old}]
    elif isinstance(old, list):
        pool = [[], old * 2, old[::-1], [old], dict(enumerate(map(str, old))), None, 1, "x", old[:1] * 3000]
    else:
        pool = [{}, [old], None, 1, "x", [], {**dict(old), "later": 1}]
    return rng.choice(pool)
