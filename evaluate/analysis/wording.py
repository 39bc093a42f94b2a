"""A comparison in words: its sentences, and what to know before believing them."""

from __future__ import annotations

from collections.abc import Sequence

from synthgen.common.printing import counted

from ..judgement import Judgement
from ..tasks.base import Words
from .checks import NOISY_ID
from .contrasts import WHOSE
from .formatting import estimate, signed
from .load import LoadedRun
from .pairing import ARCHITECTURE
from .results import ArmSummary, Contrast, Estimate, LineFit, OrderedTrend, Row, Verdict
from .trends import MIN_POINTS

MANY = 4  # arms of one verdict; with more, a sentence gives only the estimates
VERDICTS = {  # in the order of the sentences: how one begins for the arms that have the verdict
    Verdict.COLLAPSED: "Models collapsed, so that nothing can be said",
    Verdict.SAME_RUNS: "The same runs as another arm, or copies",
    Verdict.HIGHER: "Effective robustness is higher",
    Verdict.LOWER: "Effective robustness is lower",
    Verdict.EQUIVALENT: "Effective robustness is equivalent within the margin",
    Verdict.DEPENDS: "Whether effective robustness differs depends on the line that it is measured from",
    Verdict.NOT_SHOWN: "Effective robustness is not shown to differ",
    Verdict.CANNOT_TELL: "The runs cannot tell whether effective robustness differs",
}
ALWAYS = (Verdict.COLLAPSED, Verdict.SAME_RUNS, Verdict.DEPENDS, Verdict.CANNOT_TELL)  # verdicts that need their reason


def notes(
    arms: Sequence[ArmSummary], rows: Sequence[Row], effects: Sequence[Contrast], *, epsilon: float, metric: str
) -> tuple[str, ...]:
    """What a reader should know before believing the numbers, one sentence each."""
    found = []
    final = [row for row in rows if row.final]
    if unequal := _unequal(rows):
        found.append(f"The last evaluated epochs differ between runs: {unequal}.")
    for arm in arms:
        name, own = arm.arm.name, [row for row in final if row.arm == arm.arm.name]
        if own and arm.trend is None:
            found.append(f"{name}: no trend, which takes {MIN_POINTS} points with different ID {metric}.")
    trend = arms[0].trend
    beyond = ", ".join(
        f"{s.arm.name} ({s.extrapolated} of {counted(s.finished, 'run')})" for s in arms if trend and s.extrapolated
    )
    own_trend = "In the tables of arms and runs, effective robustness is measured from the baseline's own trend"
    if beyond:
        found.append(f"{own_trend}, which is extrapolated to other ID {metric}: {beyond}.")
    if trend and trend.slope <= 0:
        found.append(
            f"The baseline's own trend does not rise (slope {signed(trend.slope, 2)}): it predicts no higher OOD"
            f" {metric} for higher ID {metric}. {own_trend}, and means little there."
        )
    everything = dict.fromkeys(row.architecture for row in rows)
    for effect in effects:
        if 0 < len(effect.architectures) < len(everything):
            found.append(
                f"{effect.arm.name}: compared on {len(effect.architectures)} of {len(everything)} architectures"
                f" ({', '.join(effect.architectures)}), for which alone the results on it speak."
            )
        if 0 < effect.units < effect.n:
            why = (
                "the judgement is about new architectures, of which these are a sample"
                if effect.unit == ARCHITECTURE
                else "several fine-tunings of one pre-training run or checkpoint share it"
            )
            found.append(
                f"{effect.arm.name}: {counted(effect.n, 'block')} are only {counted(effect.units, effect.unit)}: {why};"
                " tests and intervals count those."
            )
        if effect.unpaired:
            found.append(
                f"{effect.arm.name}: {counted(effect.unpaired, 'run')} without a baseline run of the same architecture"
                " and seed left out of the paired differences."
            )
    extreme = sum(not epsilon < f1 < 1 - epsilon for row in rows for f1 in (row.id.macro_f1, row.ood.macro_f1))
    if extreme:
        were = "1 score of 0 or 1 (or nearly) was" if extreme == 1 else f"{extreme} scores of 0 or 1 (or nearly) were"
        found.append(f"{were} moved to {epsilon:.2g} from the end for the scale.")
    return tuple(found)


def _unequal(rows: Sequence[Row]) -> str:
    """The epochs that runs end at, with their arms; empty if all runs end at one."""
    last: dict[tuple[str, str, int], int] = {}
    for row in rows:
        run = row.arm, row.architecture, row.seed
        last[run] = max(row.epoch, last.get(run, row.epoch))
    if len(set(last.values())) < 2:
        return ""
    arms: dict[tuple[int, ...], list[str]] = {}
    for arm in dict.fromkeys(row.arm for row in rows):
        ends = tuple(sorted({epoch for run, epoch in last.items() if run[0] == arm}))
        arms.setdefault(ends, []).append(arm)
    return "; ".join(
        f"{' or '.join(map(str, ends))} in {', '.join(names) if len(names) <= MANY else f'{len(names)} arms'}"
        for ends, names in arms.items()
    )


def unverified(finished: Sequence[LoadedRun]) -> str:
    """How many runs have no configuration or predictions without checksums; empty if there are none."""
    stored = [run for run in finished if any(epoch.n_id is not None for epoch in run.epochs)]
    without = sum(not run.verified for run in stored)
    if not without:
        return ""
    are, their = ("is", "its") if without == 1 else ("are", "their")
    return (
        f"{without} of {counted(len(stored), 'finished run')} {are} unverified: {their} configuration or the SHA-256 of"
        " some predictions is not recorded, so an edit would not be seen."
    )


def summary(
    arms: Sequence[ArmSummary],
    finished: Sequence[LoadedRun],
    effects: Sequence[Contrast],
    ordered: Sequence[OrderedTrend],
    *,
    scope: str,
    metric: str,
) -> tuple[str, ...]:
    """What was measured, and what it says about each arm's effective robustness and ordered factors."""
    baseline = arms[0].arm.name
    architectures = counted(len({run.member.architecture for run in finished}), "architecture")
    seeds = counted(len({run.member.seed for run in finished}), "seed")
    published = all(epoch.n_id is None for run in finished for epoch in run.epochs)
    if published:
        pairs = counted(len(finished), "published pair")
        sentences = [f"{pairs} of ID and OOD {metric} ({architectures}); no predictions."]
    else:
        planned = counted(sum(arm.planned for arm in arms), "planned fine-tuning run")
        sentences = [
            f"{len(finished)} of {planned} {'is' if len(finished) == 1 else 'are'} finished"
            f" ({sum(arm.finished > 0 for arm in arms)} of {counted(len(arms), 'arm')}, {architectures}, {seeds});"
            f" the baseline is {baseline}."
        ]
    if published and len(arms) < 2:
        return tuple(sentences)
    if not effects:
        missing = baseline if not arms[0].finished else "any other arm"
        return *sentences, f"Arms cannot be compared, because no run of {missing} is finished."
    sentences += verdicts(effects, baseline, scope)
    sentences += fading(effects)
    for trend in ordered:
        p = "" if trend.step.p is None else f" (p = {trend.step.p:.2g}, {counted(trend.step.n, 'block')})"
        levels = ", ".join(trend.levels)
        sentences.append(f"Effective robustness along {trend.factor} ({levels}): {trend.in_words()}{p}.")
    return tuple(sentences)


def verdicts(effects: Sequence[Contrast], baseline: str, scope: str) -> tuple[str, ...]:
    """What the tests say about each arm's effective robustness, a sentence per verdict; ``scope`` is where it holds."""
    sentences = []
    for verdict, words in VERDICTS.items():
        group = [effect for effect in effects if effect.conclusion.verdict is verdict]
        if group:
            brief = len(group) > MANY
            described = (", " if brief else "; ").join(_described(effect, brief=brief) for effect in group)
            against = f"{baseline} as the baseline" + ("" if verdict in ALWAYS[:2] else f", {scope}")
            sentences.append(f"{words} ({against}): {described}.")
    return tuple(sentences)


def scope_of(judgement: Judgement, words: Words, architectures: int, predicted: bool) -> str:
    """Whom a sentence about a difference speaks for."""
    these = "for this architecture" if architectures == 1 else f"for these {architectures} architectures"
    names = "for other architectures too" if judgement.architectures == "new" else these
    if not predicted:
        return f"on the published scores, {names}"
    return f"on {'new' if judgement.clusters == 'new' else 'these'} {words.clusters}, {names}"


def several_tests(effects: Sequence[Contrast], level: float) -> str:
    """How many comparisons there are, how they are corrected, and how many false ones to expect; empty for one."""
    primary = [effect for effect in effects if effect.primary]
    rest = [effect for effect in effects if effect.exploratory]
    if len(primary) + len(rest) < 2:
        return ""
    sentences = []
    if primary:
        several = "s, corrected together: if nothing differs, at least one of them"
        called = ": if nothing differs, it" if len(primary) == 1 else several
        sentences.append(
            f"{len(primary)} primary comparison{called} is called a difference in at most {100 * level:g}% of such"
            " studies."
        )
    if rest:
        named = f"{counted(len(rest), 'exploratory comparison')} ({', '.join(effect.arm.name for effect in rest)})"
        called = f"about {level * len(rest):.1f} of them are called a difference"
        if len(rest) == 1:
            called = f"it is called a difference in about {100 * level:g}% of such studies"
        sentences.append(f"{named}, not corrected: if nothing differs, {called}.")
    return " ".join(sentences)


def fading(effects: Sequence[Contrast]) -> tuple[str, ...]:
    """A sentence for each arm whose difference at an earlier epoch is gone at the last one, or has turned."""
    found = []
    for effect in effects:
        *earlier, last = effect.epochs or (None,)
        shown = [one for one in earlier if one and one.robustness.side]
        if not shown or last is None or last.robustness.low is None:
            continue
        strongest = max(shown, key=lambda one: abs(one.robustness.value or 0.0))
        if last.robustness.side != strongest.robustness.side:
            found.append(
                f"{effect.arm.name}: the difference in effective robustness fades: {estimate(strongest.robustness)}"
                f" points at epoch {strongest.epoch}, {estimate(last.robustness)} at epoch {last.epoch}."
            )
    return tuple(found)


def flattened(effects: Sequence[Contrast], metric: str) -> tuple[str, ...]:
    """A sentence for each difference that is none along a line that allows for noise in ID scores."""
    found = []
    for effect in effects:
        noisy = next((one.estimate for one in effect.checks if one.name == NOISY_ID), Estimate())
        decided = effect.conclusion.verdict in (Verdict.HIGHER, Verdict.LOWER)
        if decided and noisy.low is not None and noisy.side != effect.robustness.side:
            found.append(
                f"{effect.arm.name}: noise in ID {metric} makes a line too flat; along one that allows for as much"
                f" of it as in OOD {metric}, the difference in effective robustness is {estimate(noisy)} points."
            )
    return tuple(found)


def curved(fits: Sequence[LineFit], metric: str) -> tuple[str, ...]:
    """A sentence for each line that does not fit on the comparison's scale, which is that of the first entry."""
    found = []
    for line, words in WHOSE.items():
        first, *others = (fit for fit in fits if fit.line == line)
        if not first.bend.side:
            continue
        straight = [fit.scale for fit in others if fit.bend.low is not None and not fit.bend.side]
        where = f"no curve is shown on the {' or '.join(straight)} scale" if straight else "it fits on no other scale"
        found.append(
            f"The line {words} does not fit on the {first.scale} scale: OOD {metric} in the middle of the ID scores"
            f" lies {estimate(first.bend)} points from a straight line (p = {first.bend.p:.2g}), so that arms of"
            f" different ID {metric} may seem to differ; {where}."
        )
    return tuple(found)


def _described(effect: Contrast, *, brief: bool) -> str:
    """An arm's differences, and unless ``brief`` the interval and the verdict's reason if it has one."""
    words, found = effect.arm.name, effect.robustness
    conclusion = effect.conclusion
    if effect.exploratory:
        words += " [exploratory]"
    if found.value is not None:
        words += f" {signed(found.value)}" if brief else f" {estimate(found)} points"
    if effect.ood.value is not None:
        words += f" (ID {signed(effect.id.value)}, OOD {signed(effect.ood.value)})"
    if brief or not conclusion.reason or conclusion.verdict is Verdict.EQUIVALENT:
        return words
    return f"{words}, {conclusion.reason}"
