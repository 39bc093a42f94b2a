"""Orders that depend on a seed alone, in which samples of a plan walk through classes and variants."""

from __future__ import annotations

from functools import lru_cache

from synthgen.common.seeds import derive_seed


@lru_cache(maxsize=64)  # neighbours share a block
def permuted(n: int, *key: int | str) -> tuple[int, ...]:
    """The numbers below ``n`` in an order of their own for each key."""
    return tuple(sorted(range(n), key=lambda item: derive_seed(*key, item)))


@lru_cache(maxsize=1 << 15)  # one a class is in use at a time: ImageNet-21k with 80 templates takes 25 MB
def walk(n: int, *key: int | str) -> tuple[int, ...]:
    """The same, for the many orders of many classes that are in use at a time."""
    return tuple(sorted(range(n), key=lambda item: derive_seed(*key, item)))
