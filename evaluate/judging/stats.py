"""What all tests over blocks of paired runs have in common.

The blocks are runs of the same architecture and seed. Epochs and images are no blocks: those of
one run are not independent of each other.
"""

from __future__ import annotations

import math

LEVEL = 0.05  # of the tests
EXACT_BLOCKS = 14  # up to here all 2^n sign patterns are tried
RESAMPLES = 99_999  # random sign patterns beyond


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a sign-flip test of n blocks can give: 2 / 2^n, at most 1."""
    return min(1.0, 2.0 ** (1 - n))


def pairs_needed(level: float = LEVEL) -> int:
    """The fewest blocks whose sign-flip test can give p <= level: 6 for 0.05."""
    return math.ceil(1 - math.log2(level))
