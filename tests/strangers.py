"""What the tests of sets from elsewhere share: the golden sets, the names of their files, and how a command refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden/records"
PROMPTS = GOLDEN.parents[2] / "prompts/quickstart.txt"
FRACTAL = ("fractal", "--categories", GOLDEN / "categories", "--size", "32", "--points", "2000", "--workers", "1")
MAKE = (*FRACTAL, "--shard-size", "10", "--n", "24", "--out")  # the command that made the golden sets
STEM = "fractal-train-000000"
TAR, RECORD, TABLE = f"data/{STEM}.tar", f"data/{STEM}.json", f"metadata/{STEM}.parquet"
ESCAPE = "\x1b]0;owned\x07\x9b2J\u202eabc"
CLAIM = {"worker": "w-1", "shard": 1, "done": 3, "of": 10, "rate": 1.5, "beat": 2, "failed": ""}
Command = Callable[..., Any]


def refused(told: Any, *words: str) -> None:
    """One line, exit code 2."""
    assert told.returncode == 2, told
    assert told.stderr.count("\n") == 1, told.stderr
    assert told.stderr.isascii()
    assert all(word in told.stderr for word in words), told.stderr
