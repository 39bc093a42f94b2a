"""Permutations that depend on a seed alone, by which the samples of a plan go through classes and variants."""

from __future__ import annotations

from functools import lru_cache

from synthgen.common.seeds import derive_seed


@lru_cache(maxsize=64)  # neighbours share a block
def permuted(n: int, *key: int | str) -> tuple[int, ...]:
    """The numbers below ``n`` in an order that the key determines."""
    return tuple(sorted(range(n), key=lambda item: derive_seed(*key, item)))


@lru_cache(maxsize=1 << 15)  # one per class is in use at a time: ImageNet-21k with 80 templates takes 25 MB
def walk(n: int, *key: int | str) -> tuple[int, ...]:
    """The same, with room for the orders of many classes, all in use at once."""
    return tuple(sorted(range(n), key=lambda item: derive_seed(*key, item)))
