"""Comparisons made by hand, for tests of what is shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from scipy.stats import t as student

from synthgen_evaluate.analysis.contrasts import conclude
from synthgen_evaluate.analysis.pairing import RUN
from synthgen_evaluate.analysis.power import smallest_effect
from synthgen_evaluate.analysis.results import (
    ArmSummary,
    AtEpoch,
    Band,
    CheckResult,
    Choices,
    ClusterSizes,
    Comparison,
    Component,
    Components,
    Conclusion,
    Contrast,
    Estimate,
    LineFit,
    Location,
    OnLine,
    OrderedTrend,
    Reference,
    Row,
    Variance,
    Verdict,
)
from synthgen_evaluate.analysis.trends import Scale, Slope, fit_trend, to_scale
from synthgen_evaluate.analysis.wording import scope_of, verdicts
from synthgen_evaluate.judgement import DEFAULT
from synthgen_evaluate.metrics import Scores
from synthgen_evaluate.runs import Arm
from synthgen_evaluate.tasks.base import UNKNOWN

FACTORS = {
    "scratch": ("source", "none", 0.2),
    "natural": ("source", "natural", 0.5),
    "fractals": ("source", "fractals", 0.32),
    "diffusion": ("source", "diffusion", 0.45),
    "natural-1500": ("quantity", "1500", 0.28),
    "natural-3000": ("quantity", "3000", 0.38),
    "labels-5": ("granularity", "5", 0.3),
    "labels-17": ("granularity", "17", 0.36),
    "labels-85": ("granularity", "85", 0.44),
}


def made(
    arms: Mapping[str, tuple[str, str, float]] = FACTORS,
    *,
    architectures: Sequence[str] = ("resnet18", "mobilenet_v3_small"),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: Sequence[int] = (4, 8, 12),
    scale: Scale = "logit",
) -> Comparison:
    """A comparison of arms given as (factor, level, ID macro-F1); the first is the baseline, the second the reference.

    Scores scatter around parallel trends; an arm lies the higher, the better it is.
    """
    epsilon = 0.5 / 300
    rng = np.random.default_rng(0)
    rows = [
        _row(name, factor, level, architecture, seed, epoch, epoch == epochs[-1], skill, rng)
        for name, (factor, level, skill) in arms.items()
        for architecture in architectures
        for seed in seeds
        for epoch in epochs
    ]
    baseline = next(iter(arms))
    trend = fit_trend(*_f1(rows, baseline), scale=scale, epsilon=epsilon)
    if trend:
        rows = [
            replace(r, effective_robustness=float(100 * (r.ood.macro_f1 - trend.predict(r.id.macro_f1)))) for r in rows
        ]
    others = [name for name in arms if name != baseline]
    n = len(architectures) * len(seeds)
    comparison = Comparison(
        suites=("miniature",),
        task="missouri",
        n_classes=20,
        baseline=baseline,
        scale=scale,
        epsilon=epsilon,
        margin=1.0,
        judgement=DEFAULT,
        chosen_after=(),
        scope=scope_of(DEFAULT, UNKNOWN, len(architectures), predicted=True),
        resamples=10_000,
        arms=tuple(_summary(name, arms[name], rows, scale, epsilon, n) for name in arms),
        rows=tuple(rows),
        effects=tuple(_effect(name, arms[name], n, epochs, with_trend=trend is not None) for name in others),
        ordered=(
            OrderedTrend(
                factor="granularity",
                levels=("5", "17", "85"),
                step=Estimate(value=0.7, p=0.012, n=n),
                conclusion=Conclusion(verdict=Verdict.HIGHER),
            ),
        )
        if "labels-5" in arms
        else (),
        reference=Reference(
            arm=others[0],
            effects=tuple(
                _effect(name, arms[name], n, epochs, with_trend=trend is not None) for name in (baseline, *others[1:])
            ),
            robustness=tuple((name, -1.5 if name == baseline else 0.3) for name in arms),
            summary=(),
        )
        if len(others) > 1
        else None,
        fit=tuple(
            LineFit(line=line, scale=one, bend=Estimate(value=0.4, low=-0.3, high=1.1, p=0.2, n=5))
            for line in get_args(Slope)
            for one in (scale, *(other for other in get_args(Scale) if other != scale))
        ),
        components=Components(
            parts=tuple(
                Component(name=name, variance=size, share=size / 10, shared=shared)
                for name, size, shared in (
                    ("architecture", 6.0, True),
                    ("pre-training run", 3.0, False),
                    ("epoch", 1.0, False),
                )
            ),
            unknown=("Pre-training and fine-tuning runs cannot be told apart.",),
        ),
        clusters=tuple(
            ClusterSizes(split=split, clusters=14, images=735, effective=10.2, largest=0.13) for split in ("id", "ood")
        ),
        locations=tuple(
            Location(location=k, n_images=7 * k, few=7 * k < 10, macro_f1=tuple(0.01 * k for _ in arms))
            for k in range(1, 15)
        ),
        environments=(f"{n * len(arms)} runs on x86_64, 2 cores, 1 process: torch 2.7.0, numpy 2.1.0",),
        unfinished=(),
        notes=("Effective robustness rests on extrapolating the baseline's trend to other ID macro-F1.",),
        summary=(),
    )
    return told(comparison)


def told(comparison: Comparison) -> Comparison:
    """The comparison with the sentences that its effects lead to."""
    runs, beside = sum(arm.finished for arm in comparison.arms), comparison.reference
    sentences = [f"{runs} of {runs} planned fine-tuning runs are finished."]
    sentences += verdicts(comparison.effects, comparison.baseline, comparison.scope)
    sentences += verdicts(beside.effects, beside.arm, comparison.scope) if beside else ()
    return replace(comparison, summary=tuple(sentences))


def published() -> Comparison:
    """Scores of publications: one arm, nothing known of runs, recall and accuracy not a number."""
    nothing = float("nan")
    pairs = {"ERM": (0.47, 0.31), "CORAL": (0.435, 0.328), "IRM": (0.224, 0.151), "Group DRO": (0.375, 0.239)}
    rows = tuple(
        Row(
            arm="published",
            factor="published",
            level="",
            architecture=f"{model} (ResNet-50)",
            seed=0,
            epoch=0,
            final=True,
            id=Scores(nothing, nothing, id_f1),
            ood=Scores(nothing, nothing, ood_f1),
            effective_robustness=0.0,
            n_id=None,
            n_ood=None,
            worst_location=None,
            pretrain=None,
            finetune="WILDS paper (arXiv 2012.07421v3), Table 4, appendix E.1.2",
        )
        for model, (id_f1, ood_f1) in pairs.items()
    )
    trend = fit_trend(*_f1(rows, "published"), scale="logit", epsilon=1e-4)
    assert trend
    summary = ArmSummary(
        arm=Arm(name="published", factor="published", level="", description="ImageNet"),
        planned=4,
        finished=4,
        id_mean=0.376,
        id_sd=0.109,
        ood_mean=0.257,
        ood_sd=0.082,
        trend=trend,
        slope=Estimate(value=trend.slope),
        band=None,
        effective_robustness=0.0,
        worst_location=None,
        extrapolated=0,
    )
    return replace(
        made({"published": ("published", "", 0.4)}),
        suites=(),
        task="iwildcam",
        n_classes=None,
        epsilon=1e-4,
        resamples=0,
        arms=(summary,),
        rows=rows,
        effects=(),
        reference=None,
        fit=(),
        components=Components(parts=(), unknown=()),
        clusters=(),
        locations=(),
        environments=(),
        notes=(),
        summary=("Four published models lie on one trend.",),
    )


def _row(
    name: str,
    factor: str,
    level: str,
    architecture: str,
    seed: int,
    epoch: int,
    final: bool,
    skill: float,
    rng: np.random.Generator,
) -> Row:
    x = (
        float(to_scale(skill, "logit", 1e-3))
        + rng.normal(0, 0.12)
        + 0.05 * (epoch - 12)
        + 0.15 * (architecture[0] == "r")
    )
    y = 0.9 * x - 0.8 + 0.5 * skill + rng.normal(0, 0.08)
    id_f1, ood_f1 = (float(1 / (1 + np.exp(-v))) for v in (x, y))
    return Row(
        arm=name,
        factor=factor,
        level=level,
        architecture=architecture,
        seed=seed,
        epoch=epoch,
        final=final,
        id=Scores(min(1.0, id_f1 + 0.2), id_f1, id_f1),
        ood=Scores(min(1.0, ood_f1 + 0.2), ood_f1, ood_f1),
        effective_robustness=None,
        n_id=300,
        n_ood=1500,
        worst_location=ood_f1 / 3,
        pretrain=None if name == "scratch" else "1234567890abcdef",
        finetune=f"{sum(map(ord, name + architecture)):08x}{seed:08x}",
    )


def _f1(rows: Sequence[Row], arm: str) -> tuple[list[float], list[float]]:
    own = [row for row in rows if row.arm == arm]
    return [row.id.macro_f1 for row in own], [row.ood.macro_f1 for row in own]


def _summary(
    name: str, arm: tuple[str, str, float], rows: Sequence[Row], scale: Scale, epsilon: float, n: int
) -> ArmSummary:
    ids, oods = _f1(rows, name)
    last = [row for row in rows if row.arm == name and row.final]
    final_id, final_ood = _f1(last, name)
    trend = fit_trend(ids, oods, scale=scale, epsilon=epsilon)
    band = None
    if trend:
        x = np.linspace(min(ids), max(ids), 21)
        line = trend.predict(x)
        width = 0.015 + 0.1 * np.abs(x - x.mean())
        band = Band(id=tuple(x), ood=tuple(line), low=tuple(line - width), high=tuple(line + width))
    robustness = [row.effective_robustness for row in last if row.effective_robustness is not None]
    return ArmSummary(
        arm=Arm(
            name=name,
            factor=arm[0],
            level=arm[1],
            description=f"6,000 images of {name}",
            origin=(f"image folder {name}", "diffusion images of prompts imagenet80 1.0"),
        ),
        planned=n,
        finished=n,
        id_mean=float(np.mean(final_id)),
        id_sd=float(np.std(final_id, ddof=1)) if n > 1 else None,
        ood_mean=float(np.mean(final_ood)),
        ood_sd=float(np.std(final_ood, ddof=1)) if n > 1 else None,
        trend=trend,
        slope=Estimate(value=trend.slope, low=trend.slope - 0.1, high=trend.slope + 0.12) if trend else Estimate(),
        band=band,
        effective_robustness=float(np.mean(robustness)) if robustness else None,
        worst_location=float(np.mean([row.worst_location for row in last if row.worst_location is not None])),
        extrapolated=n // 2,
    )


def estimated(value: float, error: float, n: int, *, line: float = 0.1, clusters: float = 0.3) -> Estimate:
    """An estimate of ``n`` independent runs, with shares of its variance that come from the line and the clusters."""
    total = error**2
    parts = Variance(
        units=(1 - line - clusters) * total,
        line=line * total,
        id_clusters=0.0,
        ood_clusters=clusters * total,
        cells=0.0,
        freedoms=(n - 1, 4, 40.0, 40.0),
    )
    half = float(student.ppf(0.975, parts.freedom)) * error
    p = 2 * float(student.sf(abs(value) / error, parts.freedom))
    return Estimate(value=value, low=value - half, high=value + half, p=p, n=n, parts=parts)


def with_effect(effect: Contrast, found: Estimate) -> Contrast:
    """The effect with another difference in effective robustness, and what follows from that."""
    conclusion = conclude(found, 1.0, units=found.n)
    return replace(
        effect,
        units=found.n,
        robustness=found,
        here=found,
        p_adjusted=found.p,
        lines=(
            OnLine(
                slope="between",
                fitted=Estimate(value=0.9, low=0.7, high=1.1, n=found.n),
                estimate=found,
                conclusion=conclusion,
            ),
        ),
        epochs=tuple(
            replace(at, robustness=_moved(found, (k + 1) / len(effect.epochs) - 1))
            for k, at in enumerate(effect.epochs)
        ),
        smallest=smallest_effect(found.parts),
        conclusion=conclusion,
    )


def _moved(found: Estimate, share: float) -> Estimate:
    """The estimate with its value and interval moved by a share of its value."""
    if found.value is None or found.low is None or found.high is None:
        return found
    by = share * found.value
    return replace(found, value=found.value + by, low=found.low + by, high=found.high + by)


def _effect(name: str, arm: tuple[str, str, float], n: int, epochs: Sequence[int], *, with_trend: bool) -> Contrast:
    """Good arms are higher; of the others the runs cannot tell."""
    value = 20 * (arm[2] - 0.25)
    nothing = Estimate(n=n)
    raw = [
        estimated(times * value, error, n) if n > 2 else Estimate(value=times * value, n=n)
        for times, error in ((5, 1.2), (4, 1.5))
    ]
    effect = Contrast(
        arm=Arm(name=name, factor=arm[0], level=arm[1], description=f"6,000 images of {name}"),
        unpaired=0,
        units=n,
        unit=RUN,
        architectures=("resnet18", "mobilenet_v3_small"),
        primary=True,
        id=raw[0],
        ood=raw[1],
        robustness=nothing,
        p_adjusted=None,
        here=nothing,
        lines=(),
        epochs=tuple(AtEpoch(epoch=epoch, id=raw[0], ood=raw[1], robustness=nothing) for epoch in epochs),
        without_largest=None,
        choices=Choices(choices=()),
        smallest=None,
        slope=Estimate(value=0.05, low=-0.1, high=0.2, p=0.6, n=n),
        checks=(
            CheckResult(
                name="mixed model", estimate=Estimate(value=3.0, low=1.0, high=5.1, p=0.004), stored_as="mixed_model"
            ),
            CheckResult(name="probit", estimate=Estimate(value=value + 0.1), stored_as="sensitivity"),
            CheckResult(name="linear", estimate=Estimate(value=value - 0.4), stored_as="sensitivity"),
            CheckResult(name="orthogonal", estimate=Estimate(), stored_as="sensitivity"),
        ),
        conclusion=conclude(nothing, 1.0),
    )
    if not with_trend or n < 3:
        note = "no line of OOD over ID macro-F1 could be fitted" if not with_trend else "too few independent runs"
        return with_effect(effect, Estimate(value=value if with_trend else None, n=n, note=note))
    return with_effect(effect, estimated(value, 0.6, n))


# --- Studies that come out in one way ------------------------------------------------------------------------


def few_arms() -> dict[str, tuple[str, str, float]]:
    """A baseline and three other arms."""
    return {name: FACTORS[name] for name in ("scratch", "natural", "fractals", "diffusion")}


def many_arms(n: int = 46) -> dict[str, tuple[str, str, float]]:
    """A baseline and others, of four factors."""
    return {"scratch": ("source", "none", 0.2)} | {
        f"images-{k:02}": (("source", "quantity", "granularity", "style")[k % 4], str(k), 0.2 + 0.3 * (k * 7 % n) / n)
        for k in range(1, n)
    }


def all_equal() -> Comparison:
    """Every arm is equivalent to the baseline."""
    comparison = made(few_arms())
    effects = (with_effect(e, estimated(0.1 * k, 0.2, 6)) for k, e in enumerate(comparison.effects))
    return told(replace(comparison, effects=tuple(effects)))


def one_winner() -> Comparison:
    """One arm is higher; of the others the runs cannot tell."""
    comparison = made(few_arms())
    best, *others = comparison.effects
    effects = (with_effect(best, estimated(4.0, 0.6, 6)), *(with_effect(e, estimated(0.2, 0.9, 6)) for e in others))
    return told(replace(comparison, effects=effects))


def all_collapsed() -> Comparison:
    """Every model predicts one class, so that all runs have the same scores."""
    comparison = made(few_arms())
    why = "6 of 6 models of scratch and 6 of 6 models of {} predict one class or score no better than a constant guess"
    low = Scores(0.1, 0.02, 0.02)
    collapsed = replace(
        comparison,
        rows=tuple(replace(row, id=low, ood=low) for row in comparison.rows),
        arms=tuple(
            replace(s, trend=None, band=None, slope=Estimate(), id_mean=0.02, ood_mean=0.02, id_sd=0.0, ood_sd=0.0)
            for s in comparison.arms
        ),
        effects=tuple(
            replace(
                with_effect(e, Estimate(n=6, note="no line of OOD over ID macro-F1 could be fitted")),
                conclusion=Conclusion(verdict=Verdict.COLLAPSED, reason=why.format(e.arm.name)),
            )
            for e in comparison.effects
        ),
        ordered=(),
        reference=None,
    )
    return told(collapsed)


def one_block() -> Comparison:
    """One run of every arm."""
    return made(few_arms(), architectures=["resnet18"], seeds=[0])
