"""Simulated studies: scores of runs that vary together as real ones do, to measure the error rates of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from synthgen_evaluate.analysis.pairing import Array, RunEpochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Where scores come from, in logit units; standard deviations of normal noise unless said otherwise.

    Line and level are those of iWildCam-WILDS's published methods (arXiv 2012.07421, Table 4: a line with slope
    0.83 and intercept -0.69 on logits, ERM at 47.0% ID macro-F1), to which epochs rise. ERM's published sd
    over three seeds is 0.056 logit ID and 0.061 OOD; seeds, runs and epochs are of the same order. Runs
    and epochs are balanced so that 5 architectures x 3 seeds x 6 epochs without any effect are called different
    in 24% of studies if epochs count as independent, and in 5.6% if signs of run means are flipped.
    """

    slope: float = 0.83  # of OOD over ID
    intercept: float = -0.69
    level: float = -0.55  # mean ID score over architectures and epochs
    rise: float = 0.8  # ID, from the first evaluated epoch to the last
    architecture_id: float = 0.4  # ID, along the line
    architecture_ood: float = 0.06  # off the line, of all arms
    seed_id: float = 0.05  # ID of an architecture and seed, along the line, of all arms
    seed_ood: float = 0.02  # off the line, likewise
    run_id: float = 0.06  # ID of one run, along the line
    run_ood: float = 0.045  # off the line: a run's own effective robustness
    interaction: float = 0.008  # off the line, of an arm on an architecture
    epoch_id: float = 0.06  # ID of one epoch of a run, along the line
    epoch_ood: float = 0.055  # off the line
    noise_id: float = 0.03  # ID alone, which OOD does not follow
    autocorrelation: float = 0.5  # of the last three, from one evaluated epoch to the next


DEFAULTS = Variation()


def simulate_study(
    rng: np.random.Generator,
    *,
    arms: int = 2,
    architectures: int = 5,
    seeds: int = 3,
    epochs: int = 6,
    effects: Sequence[float] = (),
    gains: Sequence[float] = (),
    slopes: Sequence[float] = (),
    rises: Sequence[float] = (),
    variation: Variation = DEFAULTS,
) -> RunEpochs:
    """Scores of ``arms`` arms, "arm 0" being the baseline, with one run per architecture and seed.

    For each arm, the baseline included: ``effects`` on OOD macro-F1 at equal ID macro-F1, percentage points;
    ``gains`` in ID macro-F1 along the line, logit units, which are not an effect; ``slopes`` beyond that of the
    line, about the mean ID score; ``rises`` over the epochs, as a multiple of the baseline's. All arms are alike
    by default. OOD scores are kept within 0 and 1.
    """
    v, shape = variation, (arms, architectures, seeds, epochs)

    def noise(sd: float, *levels: int) -> Array:
        """One draw per cell of the given axes of the shape, the same along the others."""
        return sd * rng.standard_normal([n if axis in levels else 1 for axis, n in enumerate(shape)])

    def of_arms(values: Sequence[float], default: float) -> Array:
        return np.array([*values, *[default] * (arms - len(values))], np.float64)[:, None, None, None]

    time = np.sqrt(np.arange(1, epochs + 1) / epochs)  # fast at first
    curve = (time - time.mean()) / max(np.ptp(time), 1e-9)
    x = v.level + of_arms(gains, 0) + of_arms(rises, 1) * v.rise * curve
    x = x + noise(v.architecture_id, 1) + noise(v.seed_id, 1, 2) + noise(v.run_id, 0, 1, 2)
    x = x + _walk(noise(v.epoch_id, 0, 1, 2, 3), v.autocorrelation)
    y = v.intercept + v.slope * x + of_arms(slopes, 0) * (x - v.level)
    y = y + noise(v.architecture_ood, 1) + noise(v.seed_ood, 1, 2) + noise(v.run_ood, 0, 1, 2)
    y = y + noise(v.interaction, 0, 1) + _walk(noise(v.epoch_ood, 0, 1, 2, 3), v.autocorrelation)
    x = x + _walk(noise(v.noise_id, 0, 1, 2, 3), v.autocorrelation)
    arm, architecture, seed, epoch = (index.ravel() for index in np.indices(shape))
    run = np.char.mod("run %d", np.ravel_multi_index((arm, architecture, seed), shape[:3]))
    return RunEpochs(
        arm=np.char.add("arm ", arm.astype(str)),
        architecture=np.char.add("architecture ", architecture.astype(str)),
        seed=seed,
        epoch=epoch + 1,
        run=run,
        start=run,
        id_f1=expit(x).ravel(),
        ood_f1=(expit(y) + of_arms(effects, 0) / 100).clip(0, 1).ravel(),
    )


def _walk(steps: Array, autocorrelation: float) -> Array:
    """Autoregressive noise along the last axis, with the variance of its steps."""
    walk = steps.copy()
    for t in range(1, steps.shape[-1]):
        walk[..., t] = autocorrelation * walk[..., t - 1] + np.sqrt(1 - autocorrelation**2) * steps[..., t]
    return walk
