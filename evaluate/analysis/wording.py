"""A comparison in words: its sentences, and what to know before believing them."""

from __future__ import annotations

from collections.abc import Sequence

from .formatting import signed
from .load import LoadedRun
from .results import ArmSummary, Contrast, OrderedTrend, Row, Verdict
from .trends import MIN_POINTS

MANY = 4  # arms of one verdict; with more, a sentence gives only the estimates
VERDICTS = {  # in the order of the sentences: how one begins for the arms that have the verdict
    Verdict.HIGHER: "Effective robustness is higher",
    Verdict.LOWER: "Effective robustness is lower",
    Verdict.EQUIVALENT: "Effective robustness is equivalent within the margin",
    Verdict.SLOPES_DIFFER: "Slopes differ, so that there is no single difference",
    Verdict.NOT_SHOWN: "Effective robustness is not shown to differ",
    Verdict.CANNOT_TELL: "The runs cannot tell whether effective robustness differs",
}


def notes(
    arms: Sequence[ArmSummary], rows: Sequence[Row], effects: Sequence[Contrast], epsilon: float
) -> tuple[str, ...]:
    """What a reader should know before believing the numbers, one sentence each."""
    found = []
    final = [row for row in rows if row.final]
    epochs = sorted({row.epoch for row in final})
    if len(epochs) > 1:
        found.append(f"The last evaluated epochs differ between runs ({', '.join(map(str, epochs))}).")
    for arm in arms:
        name, own = arm.arm.name, [row for row in final if row.arm == arm.arm.name]
        if own and arm.trend is None:
            found.append(f"{name}: no trend, which takes {MIN_POINTS} points with different ID macro-F1.")
        sources = {row.pretrain for row in own if row.pretrain}
        if 0 < len(sources) < sum(row.pretrain is not None for row in own):
            found.append(
                f"{name}: {len(own)} runs start from only {count(len(sources), 'pre-training run')}, so they are"
                " fewer independent repetitions than the tests count."
            )
    beyond = ", ".join(f"{s.arm.name} ({s.extrapolated} of {s.finished} runs)" for s in arms if s.extrapolated)
    if beyond:
        found.append(
            f"Effective robustness rests on extrapolating the baseline's trend to other ID macro-F1: {beyond}."
        )
    trend = arms[0].trend
    if trend and trend.slope <= 0:
        found.append(
            f"The baseline's trend does not rise (slope {signed(trend.slope, 2)}): it predicts no higher OOD"
            " macro-F1 for higher ID macro-F1, so effective robustness means little here."
        )
    for effect in effects:
        if effect.unpaired:
            found.append(
                f"{effect.arm.name}: {count(effect.unpaired, 'run')} without a baseline run of the same architecture"
                " and seed left out of the paired differences."
            )
    extreme = sum(not epsilon < f1 < 1 - epsilon for row in rows for f1 in (row.id.macro_f1, row.ood.macro_f1))
    if extreme:
        found.append(f"{extreme} scores of 0 or 1 (or nearly) were moved to {epsilon:.2g} from the end for the scale.")
    return tuple(found)


def unverified(finished: Sequence[LoadedRun]) -> str:
    """How many runs have predictions without recorded checksums; empty if there are none."""
    stored = [run for run in finished if any(epoch.n_id is not None for epoch in run.epochs)]
    without = sum(not run.verified for run in stored)
    if not without:
        return ""
    return (
        f"{without} of {len(stored)} finished runs are unverified: they were written before the SHA-256 of predictions"
        " was recorded, so an edited prediction would not be seen."
    )


def summary(
    arms: Sequence[ArmSummary],
    finished: Sequence[LoadedRun],
    effects: Sequence[Contrast],
    ordered: Sequence[OrderedTrend],
) -> tuple[str, ...]:
    """What was measured, and what it says about each arm's effective robustness and ordered factors."""
    baseline = arms[0].arm.name
    architectures = count(len({run.member.architecture for run in finished}), "architecture")
    seeds = count(len({run.member.seed for run in finished}), "seed")
    if all(epoch.n_id is None for run in finished for epoch in run.epochs):
        return (f"{count(len(finished), 'published pair')} of ID and OOD macro-F1 ({architectures}); no predictions.",)
    sentences = [
        f"{len(finished)} of {sum(arm.planned for arm in arms)} planned fine-tuning runs are finished"
        f" ({sum(arm.finished > 0 for arm in arms)} of {len(arms)} arms, {architectures}, {seeds});"
        f" the baseline is {baseline}."
    ]
    if not effects:
        missing = baseline if not arms[0].finished else "any other arm"
        return *sentences, f"Arms cannot be compared, because no run of {missing} is finished."
    sentences += verdicts(effects, baseline)
    for trend in ordered:
        p = "" if trend.step.p is None else f" (p = {trend.step.p:.2g}, {count(trend.step.n, 'block')})"
        levels = ", ".join(trend.levels)
        sentences.append(f"Effective robustness along {trend.factor} ({levels}): {trend.in_words()}{p}.")
    return tuple(sentences)


def verdicts(effects: Sequence[Contrast], baseline: str) -> tuple[str, ...]:
    """What the tests say about each arm's effective robustness, a sentence per verdict."""
    sentences = []
    for verdict, words in VERDICTS.items():
        group = [effect for effect in effects if effect.conclusion.verdict is verdict]
        if group:
            brief = len(group) > MANY
            described = (", " if brief else "; ").join(_described(effect, brief=brief) for effect in group)
            sentences.append(f"{words} ({baseline} as the baseline): {described}.")
    return tuple(sentences)


def _described(effect: Contrast, *, brief: bool) -> str:
    """An arm's effect, and unless ``brief`` its interval and the verdict's reason if it has one."""
    words, found = effect.arm.name, effect.robustness
    if found.value is not None:
        words += f" {signed(found.value)}"
        if brief:
            return words
        words += " points"
        if found.low is not None:
            words += f" ({signed(found.low)} to {signed(found.high)})"
    if brief or not effect.conclusion.reason or effect.conclusion.verdict is Verdict.EQUIVALENT:
        return words
    return f"{words}, {effect.conclusion.reason}"


def count(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
