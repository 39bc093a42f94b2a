"""How much a difference depends on choices that an analyst could have made otherwise.

The specification curve of Simonsohn, Simmons and Nelson 2020 (doi 10.1038/s41562-020-0912-z), as a table: every
combination of scale, epoch, line and metric, on the test images at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import get_args

import numpy as np

from .lines import unbridged
from .pairing import Paired, complete_blocks
from .results import Choice, Choices
from .scoring import Scored
from .significance import LEVEL
from .trends import Scale, Slope
from .uncertainty import estimate, robustness_difference

METRICS = ("macro_f1", "recall", "accuracy")  # of ``metrics.Scores``
MOST_EPOCHS = 3  # the first, one in the middle, and the last that all paired runs have


def choices(scored: Scored, paired: Paired, epochs: Sequence[int], *, level: float = LEVEL) -> Choices:
    """The difference in effective robustness of the second arm under every combination of choices.

    ``epochs`` are those that all paired runs have. Combinations without a line are left out, as are other metrics of
    published scores.
    """
    found = []
    kept = sorted({epochs[round(place)] for place in np.linspace(0, len(epochs) - 1, MOST_EPOCHS)}) if epochs else ()
    for metric in METRICS:
        table = scored.table
        if metric != "macro_f1":
            values = [[getattr(split, metric) for split in (one.id, one.ood)] for one in scored.epoch]
            if not np.isfinite(values).all() or not values:
                continue
            ids, oods = np.array(values).T
            table = replace(table, id_f1=ids, ood_f1=oods)
        every = complete_blocks(table, paired.final.arms)
        for epoch in kept:
            final = complete_blocks(table, paired.final.arms, where=table.epoch == epoch)
            pairs = replace(paired, final=final, every=every)
            for scale, slope in product(get_args(Scale), get_args(Slope)):
                line = replace(scored.line, scale=scale, slope=slope)
                if unbridged(pairs, line):
                    continue
                one = estimate(partial(robustness_difference, line=line), pairs, line, None, level=level)
                if one.value is not None:
                    found.append(Choice(scale=scale, epoch=epoch, line=slope, metric=metric, estimate=one))
    return Choices(choices=tuple(found))
