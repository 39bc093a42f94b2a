"""The package's one error class."""

from collections.abc import Iterator
from contextlib import contextmanager

from synthgen.common.errors import SynthgenError


class EvaluateError(Exception):
    """A user's mistake or a missing input, told in one line; commands end with exit code 2."""


@contextmanager
def told_here() -> Iterator[None]:
    """Give what ``synthgen`` finds wrong with a file as this package's error, in the same words."""
    try:
        yield
    except SynthgenError as error:
        raise EvaluateError(str(error)) from None
