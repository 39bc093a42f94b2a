"""The package's one error class."""


class SynthgenError(Exception):
    """A user's mistake or a missing input, reported in one line; commands end with exit code 2."""
