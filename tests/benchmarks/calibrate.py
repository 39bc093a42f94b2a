"""How often the tests err: simulated studies without and with effects, as ``make calibrate`` runs them.

``python tests/benchmarks/calibrate.py [--studies 400]`` simulates studies of 5 architectures x 3 seeds x 6 epochs,
a baseline and five arms (``synthgen_evaluate.analysis.simulation``), puts each through the tests of ``evaluate
compare`` and through simpler analyses, and prints a Markdown table. In brackets are 95% binomial intervals
(Wilson) over as many independent tests as the arms of a study, which share a baseline, are worth.

Fails where a rate lies outside its bounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from synthgen_evaluate.analysis.bootstrap import with_interval
from synthgen_evaluate.analysis.contrasts import differences, ordered_trend
from synthgen_evaluate.analysis.estimators import Line, difference, robustness
from synthgen_evaluate.analysis.mixed import mixed_model
from synthgen_evaluate.analysis.pairing import Blocks, RunEpochs, complete_blocks
from synthgen_evaluate.analysis.power import equivalence_p
from synthgen_evaluate.analysis.results import Estimate
from synthgen_evaluate.analysis.significance import LEVEL, holm, sign_flip_p
from synthgen_evaluate.analysis.simulation import simulate_study
from synthgen_evaluate.analysis.trends import fit_trend, to_scale

LINE = Line(epsilon=0.5 / 8154)  # iWildCam's id_test
TREND = Line(epsilon=LINE.epsilon, through="baseline")
ARMS = 6  # the baseline too
GAINS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)  # logit units of ID macro-F1: 0.3 is from 37% to 44%
EFFECTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # percentage points
MARGIN = 1.0
RESAMPLES = 400  # of the bootstrap: its intervals' noise averages out over studies
SWAPS = 999
NULLS = {"equal ID macro-F1": {}, "arms raise ID macro-F1": {"gains": GAINS}}
RATE, COVERAGE = (0.03, 0.07), (0.93, 0.97)
BOUNDS = {
    "default test": RATE,
    "family-wise over 5 arms, Holm": RATE,
    "coverage of its 95% interval": COVERAGE,
    "coverage of the bootstrap's": COVERAGE,
}
Rates = dict[str, list[list[bool]]]  # measure -> study -> test


def main() -> None:
    """Simulate, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    start = time.perf_counter()
    nulls = {name: run(null_study, studies, seed, options) for seed, (name, options) in enumerate(NULLS.items())}
    powers = {
        name: run(planted_study, studies, 10 + seed, options) for seed, (name, options) in enumerate(NULLS.items())
    }
    small = run(small_study, studies, 20, {"architectures": 2})
    report(studies, nulls, powers, small, time.perf_counter() - start)
    wrong = [
        f"{measure}, {name}: {np.mean(rates[measure]):.1%} is not within {low:.0%} to {high:.0%}"
        for name, rates in nulls.items()
        for measure, (low, high) in BOUNDS.items()
        if not low <= np.mean(rates[measure]) <= high
    ]
    sys.exit("\n".join(wrong) or 0)


def run(one, studies: int, seed: int, options: Mapping[str, Any]) -> Rates:
    """What ``one`` says of each simulated study."""
    rng, rates = np.random.default_rng(seed), defaultdict(list)
    for number in range(studies):
        for measure, tests in one(rng, number, options).items():
            rates[measure].append(tests)
    return rates


def null_study(rng: np.random.Generator, number: int, options: Mapping[str, Any]) -> dict[str, list[bool]]:
    """Which tests call a difference where there is none, and which intervals hold 0."""
    table = simulate_study(rng, arms=ARMS, **options)
    told: dict[str, list[bool]] = defaultdict(list)
    family = []
    for blocks in paired(table):
        slopes, whole, found = differences(blocks, LINE)
        family += [effect.p for effect in found.values()]
        told["default test"].append(whole.p <= LEVEL)
        told["coverage of its 95% interval"].append(whole.low <= 0 <= whole.high)
        told["coverage of the bootstrap's"].append(bootstrap_covers(blocks, LINE, number))
        told["coverage of the bootstrap's, baseline's own trend"].append(bootstrap_covers(blocks, TREND, number))
        told["slopes"].append(slopes.p <= LEVEL)
        moved = [value + MARGIN for value in whole.contributions]  # a true effect of the margin
        told[f"equivalence, true effect {MARGIN:g} point"].append(equivalence_p(moved, MARGIN) <= LEVEL)
        for name, p in simpler(blocks, number):
            told[name].append(p <= LEVEL)
    mixed = mixed_model(blocks, LINE).p  # of the last arm: it takes long
    told["mixed model"] = [mixed is not None and mixed <= LEVEL]
    told["family-wise over 5 arms, Holm"] = [min(holm(family)) <= LEVEL]
    levels = tuple(f"arm {k}" for k in range(1, ARMS))
    told["ordered trend over 5 arms"] = [
        ordered_trend(complete_blocks(table, levels), LINE, factor="", levels=levels).step.p <= LEVEL
    ]
    return told


def simpler(blocks: Blocks, number: int) -> Iterator[tuple[str, float]]:
    """Analyses that the default replaces, and their p."""
    once = np.ones((1, len(blocks)))
    for name, line in (("the same, slope taken as known", LINE), ("baseline's own trend taken as known", TREND)):
        runs = robustness(blocks, line, once)[0]
        yield name, float(sign_flip_p(runs[:, 1] - runs[:, 0]))
    yield "baseline's own trend, jackknife", difference(blocks, TREND).p
    yield "runs swapped, baseline's trend refitted", swapping(blocks, number)
    yield from naive(blocks).items()


def naive(blocks: Blocks) -> dict[str, float]:
    """Two analyses that take every epoch as an independent point: t test of robustness, analysis of covariance."""
    ids, oods = (values.transpose(1, 0, 2).reshape(2, -1) for values in (blocks.id_f1, blocks.ood_f1))
    beyond = oods - fit_trend(ids[0], oods[0], epsilon=LINE.epsilon).predict(ids)
    x, y = (to_scale(values, "logit", LINE.epsilon).ravel() for values in (ids, oods))
    design = np.column_stack([np.ones(len(x)), np.repeat([0, 1], len(x) // 2), x])
    solved, (residual,), _, _ = np.linalg.lstsq(design, y)
    freedom = len(x) - 3
    error = np.sqrt(residual / freedom * np.linalg.inv(design.T @ design)[1, 1])
    return {
        "naive: epochs independent, t test": float(stats.ttest_ind(*beyond).pvalue),
        "naive: epochs independent, covariance": float(2 * stats.t.sf(abs(solved[1]) / error, freedom)),
    }


def swapping(blocks: Blocks, number: int) -> float:
    """p of swapping whole runs between arm and baseline, whose trend is refitted each time, on the scale."""
    x, y = (to_scale(f1, "logit", LINE.epsilon) for f1 in (blocks.id_f1, blocks.ood_f1))
    sums = np.stack([v.sum(2) for v in (x, y, x * x, x * y)])  # [4, n_blocks, 2]
    swap = np.random.default_rng(number).integers(0, 2, (SWAPS + 1, len(blocks)))
    swap[0] = 0
    sx, sy, sxx, sxy = (s[:, 0].sum() + swap @ (s[:, 1] - s[:, 0]) for s in sums)  # of what stands as baseline
    n = x[:, 0].size
    slope = (sxy - sx * sy / n) / (sxx - sx * sx / n)
    gap = np.abs((sums[1].sum() - 2 * sy) - slope * (sums[0].sum() - 2 * sx))
    return float(np.mean(gap >= gap[0] * (1 - 1e-9)))


def planted_study(rng: np.random.Generator, number: int, options: Mapping[str, Any]) -> dict[str, list[bool]]:
    """Which effects are found, and which intervals hold the truth."""
    table = simulate_study(rng, arms=ARMS, effects=EFFECTS, **options)
    told = {}
    for effect, blocks in zip(EFFECTS[1:], paired(table), strict=True):
        found = difference(blocks, LINE)
        told[f"power, default test, {effect:g}"] = [found.p <= LEVEL]
        told[f"power, naive, {effect:g}"] = [p <= LEVEL for p in list(naive(blocks).values())[:1]]
        told[f"coverage, {effect:g}"] = [found.low <= effect <= found.high]
    return told


def small_study(rng: np.random.Generator, number: int, options: Mapping[str, Any]) -> dict[str, list[bool]]:
    """The default test with few blocks."""
    table = simulate_study(rng, arms=ARMS, gains=GAINS, **options)
    found = [difference(blocks, LINE) for blocks in paired(table)]
    return {
        "default test": [one.p <= LEVEL for one in found],
        "coverage": [one.low <= 0 <= one.high for one in found],
    }


def paired(table: RunEpochs) -> list[Blocks]:
    """The baseline with each arm."""
    return [complete_blocks(table, ("arm 0", f"arm {k}")) for k in range(1, ARMS)]


def bootstrap_covers(blocks: Blocks, line: Line, number: int) -> bool:
    """Whether the bootstrap's interval of the difference holds 0; blocks are drawn, test images stay as they are."""
    n = len(blocks)
    weights = np.random.default_rng(number).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float64)
    runs = robustness(blocks, line, np.vstack([np.ones(n), weights]))
    each = runs[1:, :, 1] - runs[1:, :, 0]
    plain = Estimate(value=float((runs[0, :, 1] - runs[0, :, 0]).mean()), n=n)
    found = with_interval(plain, (weights * each).sum(1) / n)
    return found.low <= 0 <= found.high


def report(studies: int, nulls: Mapping[str, Rates], powers: Mapping[str, Rates], small: Rates, seconds: float) -> None:
    """The tables and where they come from."""
    print(f"{studies} studies of 15 blocks x 6 epochs, without an effect, share at p <= {LEVEL:g} or covered:\n")
    print(f"| | wanted | {' | '.join(nulls)} |\n|---|---|{'---|' * len(nulls)}")
    for measure in next(iter(nulls.values())):
        wanted = "{:.0%} to {:.0%}".format(*BOUNDS[measure]) if measure in BOUNDS else ""
        print(f"| {measure} | {wanted} | {' | '.join(share(rates[measure]) for rates in nulls.values())} |")
    print(f"| default test, 6 blocks | | | {share(small['default test'])} |")
    print(f"| coverage of its 95% interval, 6 blocks | | | {share(small['coverage'])} |")
    print("\nWith an effect, in percentage points: share found, and intervals that hold it:\n")
    print("| effect | " + " | ".join(f"default, {name} | coverage | naive" for name in powers) + " |")
    print("|---" * (1 + 3 * len(powers)) + "|")
    for effect in EFFECTS[1:]:
        cells = [
            share(rates[key])
            for rates in powers.values()
            for key in (f"power, default test, {effect:g}", f"coverage, {effect:g}", f"power, naive, {effect:g}")
        ]
        print(f"| {effect:g} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version(name)}" for name in ("synthgen", "numpy", "scipy", "statsmodels"))
    print(f"\nseeds 0, 1, 10, 11, 20; {seconds:.0f} s on {platform.machine()}, {os.cpu_count()} cores,")
    print(f"{platform.platform()}, python {platform.python_version()}, {versions}")


def share(tests: list[list[bool]]) -> str:
    """A rate with its interval; studies are independent, tests of one study less so."""
    values = np.array(tests, dtype=np.float64)  # [n_studies, n_tests]
    rate, of_mean = values.mean(), values.mean(1).var(ddof=1) / len(values)
    n = rate * (1 - rate) / of_mean if of_mean else len(values)
    low, high = proportion_confint(rate * n, n, method="wilson")
    return f"{rate:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
