"""Runs -> Comparison: the effect of pre-training on one image set rather than another, and its uncertainty.

Everything is recomputed from stored predictions. The unit of replication is the run, paired by block
(architecture x seed); epochs of a run and images of a cluster are never counted as repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .components import cluster_sizes, components
from .contrasts import contrast_arms, ordered_trends
from .copies import copies
from .fit import line_fits
from .load import LoadedRun
from .results import Comparison, Reference
from .scoring import RESAMPLES, score
from .selection import select
from .summaries import environments_of, locations_of, mean_robustness, rows_of, summarise
from .trends import Scale
from .wording import curved, flattened, notes, scope_of, several_tests, summary, unverified, verdicts


def compare(
    runs: Sequence[LoadedRun],
    *,
    baseline: str | None = None,
    reference: str | None = None,
    scale: Scale | None = None,
    margin: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare arms with the baseline, and with a second arm, the reference (by default those that the suites name).

    What is compared is the suites' judgement; ``scale``, ``margin``, ``baseline`` and ``reference`` replace theirs, and
    the comparison says so. The same ``seed`` gives the same result.
    Raises EvaluateError if runs are of different tasks or were evaluated on different images,
    if the baseline or reference is unknown or suites disagree on it, or if no run is finished.
    """
    # 1. Which runs can be compared, and with which arm.
    chosen = select(runs, baseline=baseline, reference=reference)
    judgement = chosen.judgement.changed({"margin": margin, "scale": scale})
    # 2. Their scores, as observed, without each cluster of test images, and in every resample.
    names = [arm.name for arm in chosen.arms]
    scored = score(chosen.finished, names, judgement, resamples=resamples, seed=seed)
    # 3. Each arm and each run on its own.
    arms = tuple(summarise(scored, arm, chosen, level=judgement.level) for arm in chosen.arms)
    rows = rows_of(scored, arms[0].trend)
    # 4. Every finished arm against the baseline, and against the reference.
    architectures = len({run.member.architecture for run in chosen.finished})
    scope = scope_of(judgement, chosen.words, architectures, scored.clusters is not None)
    spoken = f"{judgement.when}, {scope}" if judgement.epoch != "last" else scope
    done = [arm for arm in chosen.arms if arm.name in scored.table.arm]
    against = partial(contrast_arms, scored, done, judgement=judgement)
    effects = against(chosen.baseline)
    beside = None
    if chosen.reference is not None:
        others = against(chosen.reference)
        beside = Reference(
            arm=chosen.reference,
            effects=others,
            robustness=tuple((arm.name, mean_robustness(scored, arm.name, chosen.reference)) for arm in chosen.arms),
            summary=verdicts(others, chosen.reference, spoken),
        )
    # 5. Factors whose levels have an order.
    ordered = ordered_trends(scored, done, judgement, effects) if chosen.baseline in scored.table.arm else ()
    fits = line_fits(scored)
    # 6. The results in words.
    metric = chosen.words.metric
    return Comparison(
        suites=chosen.suites,
        task=chosen.task,
        n_classes=chosen.n_classes,
        baseline=chosen.baseline,
        scale=judgement.scale,
        epsilon=scored.line.epsilon,
        margin=judgement.margin,
        judgement=judgement,
        chosen_after=chosen.chosen_after(
            {"baseline": baseline, "reference": reference, "margin": margin, "scale": scale}
        ),
        scope=scope,
        resamples=resamples if scored.resamples else 0,
        arms=arms,
        rows=rows,
        effects=effects,
        ordered=ordered,
        reference=beside,
        fit=fits,
        components=components(scored, chosen.words),
        clusters=cluster_sizes(scored.clusters),
        locations=locations_of(scored, chosen.arms),
        environments=environments_of(chosen.finished),
        unfinished=tuple(f"{run.label}: {run.status}" for run in chosen.runs if not run.epochs),
        notes=(
            *filter(None, [several_tests(effects, judgement.level)]),
            *copies(scored),
            *curved(fits, metric),
            *flattened(effects, metric),
            *notes(arms, rows, effects, epsilon=scored.line.epsilon, metric=metric),
        ),
        summary=summary(arms, chosen.finished, effects, ordered, scope=spoken, metric=metric)
        + (beside.summary if beside else ()),
        words=chosen.words,
        unverified=unverified(chosen.finished),
    )
