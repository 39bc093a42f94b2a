"""Mutations of any file, by its bytes alone."""

from __future__ import annotations

import random

from fuzz_values import NAMES, Mutation


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bits are others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.choice((rng.randrange(len(data) + 1), max(len(data) - 1, 0), 0, 1))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A piece stands somewhere else, too."""
    start, at = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:at] + data[start : start + rng.choice((1, 16, 512, 4096))] + data[at:]


def zero(data: bytes, rng: random.Random) -> bytes:
    """A piece is zeros, ones or noise."""
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 1024))
    fill = rng.choice((b"\0", b"\xff", b"\x80", b" "))
    piece = rng.randbytes(length) if rng.random() < 0.3 else fill * length
    return data[:start] + piece + data[start + length :]


def grow(data: bytes, rng: random.Random) -> bytes:
    """There is more behind the end."""
    return data + rng.choice((b"\0", b"\n", b"x" * 1000, data, b"\0" * 10_240, rng.randbytes(100)))


def weave(data: bytes, rng: random.Random) -> bytes:
    """A hostile text stands in the middle."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(NAMES[:-8]).encode(errors="surrogatepass") + data[at:]


BYTES: tuple[Mutation, ...] = (flip, cut, splice, zero, grow, weave)
