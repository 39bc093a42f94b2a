"""Simulated studies at the level of predictions, whose truth is known, for ``calibrate.py``.

A run has a macro-F1 that it would reach on test images of infinitely many cameras, ID and OOD: it follows a line on the
logit scale over architectures, over the epochs of a run, and over what single runs add (``Study``). Predictions are
then drawn for the images of a few cameras of skewed sizes, with errors that runs share by image, class and camera, so
that the macro-F1 over all cameras is the wanted one. It is known in closed form (``population_f1``), so that neither
the line nor a difference between arms has an error of simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr

from synthgen_evaluate.analysis.estimators import Line
from synthgen_evaluate.analysis.pairing import RunEpochs
from synthgen_evaluate.analysis.scoring import Scored
from synthgen_evaluate.analysis.trends import clip_epsilon
from synthgen_evaluate.analysis.uncertainty import Clusters

Array = NDArray[np.float64]
ID, OOD = 0, 1
SKEW = 1.6  # sd of the log of cameras' sizes, as of iWildCam's
SCALED = 1.7  # a logistic distribution is nearly a normal one with this sd
LEVEL, INTERCEPT, BETWEEN = -0.12, -0.69, 0.85  # logit macro-F1: ID 47%, the line of OOD over ID (iWildCam-WILDS)
RISE = 0.8  # of ID, from the first evaluated epoch to the last
ARCHITECTURE = (0.4, 0.06)  # sd along the line, and off it
SEED = (0.05, 0.02)  # likewise, of all runs of an architecture and seed
RUN = (0.06, 0.045)  # likewise, of one run
EPOCH = (0.06, 0.055)  # likewise, of one epoch of a run
FOLLOWS = 0.5  # autocorrelation of the last, from one epoch to the next
CLASS, CAMERA, RUN_CAMERA = 0.8, 0.5, 0.15  # sd of difficulty, logit
SHARED, OF_RUN = 0.6, 0.2  # share of an image's noise that all runs share, and all epochs of a run
CONFUSED = 0.7  # of wrong predictions of an image that are one class, the same for all runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Two arms, "arm 0" and "arm 1", with a run per architecture and seed; by default nothing differs."""

    architectures: int = 5
    seeds: int = 3
    epochs: int = 2
    shared: int = 1  # fine-tunings from one pre-training run, which adds as much variance as they have themselves
    gain: float = 0.0  # ID macro-F1 of the second arm along the line, logit; 0.41 is 10 points
    effect: float = 0.0  # OOD macro-F1 of the second arm at equal ID macro-F1, percentage points, at the last epoch
    first: float | None = None  # the same at the first epoch, from where it changes evenly; the same by default
    within: float = BETWEEN  # slope of OOD over ID along the epochs of a run
    arm_camera: float = 0.0  # sd of what each arm adds at a camera, logit
    arm_architecture: float = 0.0  # sd of what each arm adds to OOD macro-F1 of an architecture, off the line, logit
    rare: int = 0  # classes besides 30, which are a third as frequent as by Zipf's law
    cameras: tuple[int, int] = (60, 48)  # ID, OOD
    images: tuple[int, int] = (2500, 2500)


def simulate(study: Study, *, rng: np.random.Generator) -> tuple[Scored, float]:
    """A study as ``evaluate compare`` scores it, and the difference in effective robustness of its architectures.

    The latter is that over all cameras and all runs of these architectures, at the last epoch, percentage points.
    """
    wanted, truth = targets(study, rng=rng)
    in_domain, out_of_domain = (predict(study, wanted[split], split, rng=rng) for split in (ID, OOD))
    ids, id_without, id_images = leaving_out(in_domain)
    oods, ood_without, ood_images = leaving_out(out_of_domain)
    arm, architecture, seed, epoch = (index.ravel() for index in np.indices(wanted.shape[1:]))
    pre = seed // study.shared
    labels = [f"{a} {b} {c}" for a, b, c in zip(arm, architecture, seed, strict=True)]
    table = RunEpochs(
        arm=np.char.add("arm ", arm.astype(str)),
        architecture=np.char.add("architecture ", architecture.astype(str)),
        seed=seed,
        epoch=epoch + 1,
        run=np.array(labels),
        start=np.array([f"{a} {b} {c}" for a, b, c in zip(arm, architecture, pre, strict=True)]),
        id_f1=ids,
        ood_f1=oods,
    )
    scored = Scored(
        run=(),
        epoch=(),
        table=table,
        line=Line(epsilon=clip_epsilon(min(study.images))),
        resamples=None,
        locations=None,
        worst=None,
        compared=epoch == study.epochs - 1,
        clusters=Clusters(id_f1=id_without, ood_f1=ood_without, id_images=id_images, ood_images=ood_images),
        collapsed=_collapsed(in_domain, ids) | (np.ptp(out_of_domain.y_pred, axis=1) == 0),
        predictions=np.arange(len(epoch)).astype(str),
    )
    return scored, truth


def targets(study: Study, *, rng: np.random.Generator) -> tuple[Array, float]:
    """Logit macro-F1 over all cameras, [2, n_arms, n_architectures, n_seeds, n_epochs], and the true difference."""
    shape = (2, study.architectures, study.seeds, study.epochs)

    def noise(sd: float, *axes: int) -> Array:
        return sd * rng.standard_normal([n if axis in axes else 1 for axis, n in enumerate(shape)])

    def pretrained(sd: float) -> Array:
        if study.shared == 1:
            return np.zeros((1, 1, 1, 1))
        runs = sd * rng.standard_normal((2, study.architectures, -(-study.seeds // study.shared), 1))
        return np.repeat(runs, study.shared, axis=2)[:, :, : study.seeds]

    second = np.array([0.0, 1.0])[:, None, None, None]
    left = 1 - np.sqrt(np.arange(1, study.epochs + 1) / study.epochs)  # of the rise; fast at first
    x = LEVEL + second * study.gain + noise(ARCHITECTURE[0], 1) + noise(SEED[0], 1, 2)
    x = x + noise(RUN[0], 0, 1, 2) + pretrained(RUN[0])
    y = INTERCEPT + BETWEEN * x + noise(ARCHITECTURE[1], 1)
    own = second * 0 + noise(study.arm_architecture, 0, 1)  # [2, n_architectures, 1, 1]
    middle = y.mean((0, 2), keepdims=True)
    truth = study.effect + 100 * float((expit(middle + own[1:]) - expit(middle + own[:1])).mean())
    y = y + own + noise(SEED[1], 1, 2) + noise(RUN[1], 0, 1, 2) + pretrained(RUN[1])
    moved = _walk(noise(EPOCH[0], 0, 1, 2, 3)) - RISE * left / max(left[0], 1e-9)
    y = y + study.within * moved + _walk(noise(EPOCH[1], 0, 1, 2, 3))
    first = study.effect if study.first is None else study.first
    effects = np.linspace(first, study.effect, study.epochs) if study.epochs > 1 else np.array([study.effect])
    y = logit((expit(y) + second * effects / 100).clip(0.01, 0.99))
    return np.stack(np.broadcast_arrays(x + moved, y)), truth


def _walk(steps: Array) -> Array:
    """Autoregressive noise along the last axis, with the variance of its steps."""
    walk = steps.copy()
    for t in range(1, steps.shape[-1]):
        walk[..., t] = FOLLOWS * walk[..., t - 1] + np.sqrt(1 - FOLLOWS**2) * steps[..., t]
    return walk


# --- Predictions ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _classes(rare: int) -> tuple[Array, Array]:
    """How frequent classes are, and how easy, [n_classes]; the same in all studies, since classes are no sample."""
    frequency = 1 / np.arange(1, 30 + rare + 1)
    frequency[30:] /= 3
    return frequency / frequency.sum(), CLASS * np.random.default_rng(0).standard_normal(30 + rare)


def population_f1(levels: Array, rare: int, arm_camera: float) -> Array:
    """Macro-F1 over all images of all cameras, fractions, for levels of skill of any shape, logit."""
    frequency, ease = _classes(rare)
    sd = np.sqrt(SCALED**2 + CAMERA**2 + RUN_CAMERA**2 + arm_camera**2)
    right = ndtr((np.asarray(levels)[..., None] + ease) / sd)  # [..., n_classes]
    wrong = ((1 - right) * frequency).sum(-1, keepdims=True)
    confused = CONFUSED * frequency + (1 - CONFUSED) / len(frequency)  # classes that wrong predictions are of
    hits = frequency * (right + (1 - right) * confused)
    predictions = frequency * right + wrong * confused
    return np.asarray((2 * hits / (frequency + predictions)).mean(-1))


@lru_cache(maxsize=16)
def _curve(rare: int, arm_camera: float) -> tuple[Array, Array]:
    levels = np.linspace(-8, 8, 1601)
    return levels, logit(population_f1(levels, rare, arm_camera))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predicted:
    """The labels, cameras and predictions of the images of a split."""

    y_true: NDArray[np.int64]  # [n_images]
    camera: NDArray[np.int64]  # [n_images]
    y_pred: NDArray[np.int64]  # [n_run_epochs, n_images]


def predict(study: Study, wanted: Array, split: int, *, rng: np.random.Generator) -> Predicted:
    """Predictions of all run-epochs, whose macro-F1 over all cameras has these logits.

    ``wanted`` are [n_arms, n_architectures, n_seeds, n_epochs].
    """
    frequency, ease = _classes(study.rare)
    n_classes, n_cameras, n_epochs = len(frequency), study.cameras[split], study.epochs
    n_runs = study.architectures * study.seeds  # of an arm
    sizes = rng.lognormal(0, SKEW, n_cameras)
    sizes = np.maximum(1, np.round(study.images[split] * sizes / sizes.sum())).astype(np.int64)
    camera, n = np.repeat(np.arange(n_cameras), sizes), int(sizes.sum())
    shares = rng.dirichlet(8 * frequency + 1e-3, n_cameras)  # a few classes make up most of a camera
    y_true = (rng.random((n, 1)) > shares.cumsum(1)[camera, :-1]).sum(1)
    levels, reached = _curve(study.rare, study.arm_camera)
    skill = np.interp(wanted, reached, levels).reshape(2, n_runs, n_epochs, 1)
    at_camera = rng.normal(0, CAMERA, n_cameras) + rng.normal(0, study.arm_camera, (2, 1, n_cameras))
    at_camera = at_camera + rng.normal(0, RUN_CAMERA, (2, n_runs, n_cameras))
    of_image = ease[y_true] / SCALED - SHARED**0.5 * rng.standard_normal(n)
    of_run = (at_camera / SCALED).astype(np.float32)[..., camera] + of_image.astype(np.float32)
    of_run -= np.float32(OF_RUN**0.5) * rng.standard_normal(of_run.shape, dtype=np.float32)
    own = rng.standard_normal((2, n_runs, n_epochs, n), dtype=np.float32)
    right = np.float32((1 - SHARED - OF_RUN) ** 0.5) * own < (skill / SCALED).astype(np.float32) + of_run[:, :, None]
    usual = rng.choice(n_classes, n, p=frequency)
    other = rng.integers(0, n_classes, (2, n_runs, 1, n))
    guessed = np.where(rng.random(other.shape, dtype=np.float32) < CONFUSED, usual, other)
    return Predicted(y_true=y_true, camera=camera, y_pred=np.where(right, y_true, guessed).reshape(-1, n))


def leaving_out(found: Predicted) -> tuple[Array, Array, NDArray[np.int64]]:
    """Macro-F1 of all images [n_run_epochs] and without each camera [n_run_epochs, n_cameras]; images of cameras.

    Those of ``analysis.counts``, of which this is the short form for few images.
    """
    n_classes, n_cameras = int(max(found.y_true.max(), found.y_pred.max())) + 1, int(found.camera.max()) + 1
    n_run_epochs, n_cells = len(found.y_pred), n_classes * n_cameras

    def counts(of: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        return np.bincount(of, minlength=n * n_cells).reshape(n, n_classes, n_cameras)

    cell = found.y_pred * n_cameras + found.camera + n_cells * np.arange(n_run_epochs)[:, None]
    predictions = counts(cell.ravel(), n_run_epochs)
    hits = counts(cell[found.y_pred == found.y_true], n_run_epochs)
    support = counts(found.y_true * n_cameras + found.camera, 1)

    def f1(hits: NDArray[np.int64], predictions: NDArray[np.int64], support: NDArray[np.int64]) -> Array:
        of_classes = 2 * hits / np.maximum(support + predictions, 1)
        return np.asarray(of_classes.sum(1) / (support > 0).sum(1))

    all_of = [values.sum(2, keepdims=True) for values in (hits, predictions, support)]
    without = [whole - values for whole, values in zip(all_of, (hits, predictions, support), strict=True)]
    return f1(*all_of)[:, 0], f1(*without), support.sum((0, 1))


def _collapsed(found: Predicted, id_f1: Array) -> NDArray[np.bool_]:
    """Whether run-epochs predict one class for all ID images or are no better than guessing one."""
    most, present = np.bincount(found.y_true).max(), len(np.unique(found.y_true))
    constant = 2 * most / (most + len(found.y_true)) / present
    return np.asarray((np.ptp(found.y_pred, axis=1) == 0) | (id_f1 <= constant))
