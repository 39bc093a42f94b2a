"""A comparison in words: its three sentences, and what to know before believing them."""

from __future__ import annotations

from collections.abc import Sequence

from .comparison import ArmSummary, Effect, Row
from .load import LoadedRun
from .stats import describe, points
from .trends import MIN_POINTS, Trend


def notes(
    arms: Sequence[ArmSummary], rows: Sequence[Row], effects: Sequence[Effect], epsilon: float
) -> tuple[str, ...]:
    """What a reader should know before believing the numbers, a sentence each."""
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
            f"The baseline's trend does not rise (slope {points(trend.slope, 2)}): it predicts no higher OOD"
            " macro-F1 for higher ID macro-F1, so effective robustness means little here."
        )
    for effect in effects:
        if effect.unpaired:
            found.append(
                f"{effect.arm}: {count(effect.unpaired, 'run')} without a baseline run of the same architecture and"
                " seed left out of the paired differences."
            )
    extreme = sum(not epsilon < f1 < 1 - epsilon for row in rows for f1 in (row.id.macro_f1, row.ood.macro_f1))
    if extreme:
        found.append(f"{extreme} scores of 0 or 1 (or nearly) were moved to {epsilon:.2g} from the end for the scale.")
    return tuple(found)


def summary(
    arms: Sequence[ArmSummary], finished: Sequence[LoadedRun], effects: Sequence[Effect], trend: Trend | None
) -> tuple[str, str, str]:
    """Three sentences: what was measured, OOD macro-F1, effective robustness."""
    baseline = arms[0].arm.name
    architectures = count(len({run.member.architecture for run in finished}), "architecture")
    seeds = count(len({run.member.seed for run in finished}), "seed")
    measured = (
        f"{len(finished)} of {sum(arm.planned for arm in arms)} planned fine-tuning runs are finished"
        f" ({sum(arm.finished > 0 for arm in arms)} of {len(arms)} arms, {architectures}, {seeds});"
        f" the baseline is {baseline}."
    )
    if not effects:
        missing = baseline if not arms[0].finished else "any other arm"
        nothing = f"cannot be compared between arms, because no run of {missing} is finished."
        return measured, f"OOD macro-F1 {nothing}", f"Effective robustness {nothing}"
    ood = describe("OOD macro-F1", {effect.arm: effect.ood for effect in effects}, baseline)
    differences = {effect.arm: effect.robustness for effect in effects if effect.robustness is not None}
    if trend is None:
        return (
            measured,
            ood,
            (
                f"Effective robustness cannot be given, because {baseline} has no trend: it takes {MIN_POINTS} points"
                " with different ID macro-F1."
            ),
        )
    robustness = describe("effective robustness", differences, baseline)
    beyond = [arm.arm.name for arm in arms[1:] if arm.extrapolated]
    if beyond:
        whom = beyond[0] if len(effects) == 1 else f"{len(beyond)} of {len(effects)} arms"
        robustness = f"{robustness[:-1]}; the trend of {baseline} is extrapolated for {whom}."
    return measured, ood, robustness


def count(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
