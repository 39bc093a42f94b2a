"""The pictures of one category: 25 weight rows x 10 patch draws x 4 flips, named and ordered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

N_WEIGHTS = 25
N_PATCHES = 10  # drawings that differ in their patch masks; point drawings have one
N_FLIPS = 4  # none, top-bottom, left-right, both


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One picture of a category."""

    category: str
    weight: int  # row of the weight table, 0..24
    patch: int  # number of the patch draw, 0..9
    flip: int  # 0 none, 1 top-bottom, 2 left-right, 3 both

    @property
    def name(self) -> str:
        """The published file name without extension, such as ``00000_00_count_0_flip0``."""
        return f"{self.category}_{self.weight:02d}_count_{self.patch}_flip{self.flip}"


def instance(category: str, m: int, *, n_patches: int = N_PATCHES) -> Instance:
    """Instance ``m`` of a category in the published enumeration: weight row, then patch, then flip."""
    if not 0 <= m < N_WEIGHTS * n_patches * N_FLIPS:
        raise IndexError(f"instance {m} of category {category}: there are {N_WEIGHTS * n_patches * N_FLIPS}")
    weight, rest = divmod(m, n_patches * N_FLIPS)
    patch, flip = divmod(rest, N_FLIPS)
    return Instance(category=category, weight=weight, patch=patch, flip=flip)


def patch_seed(seed: int, category: str, weight: int, patch: int) -> int:
    """The uint64 seed of a drawing's patch masks; its four flips share it.

    A hash of (seed, category, weight, patch): it depends on nothing else, so a picture is the same
    in every set, order and process.  The published set left its masks unseeded.
    """
    key = f"{seed}/{category}/{weight}/{patch}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
