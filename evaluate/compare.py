"""Runs -> Comparison: what pre-training on one image set rather than another did, and how sure that is.

Everything is recomputed from stored predictions. The unit of replication is the run: arms are
summarised over the last evaluated epoch of each run; earlier epochs only help to draw the trends.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import EvaluateError
from .metrics import Scores, scores
from .runs import Arm, Member, Predictions, Run, SuiteRecord, read_suite_records
from .stats import PairedDifference, describe, paired_difference, points, verdict
from .trends import MIN_POINTS, Scale, Trend, clip_epsilon, effective_robustness, fit_trend

ID_SPLIT, OOD_SPLIT = "id_test", "test"
NO_PAIR_OF_SPLITS = f"done, but no epoch has predictions for both {ID_SPLIT} and {OOD_SPLIT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedEpoch:
    """One epoch of a fine-tuning run with predictions for both splits."""

    epoch: int  # 1 = after the first
    id: Scores
    ood: Scores
    n_id: int  # images
    n_ood: int  # images
    images: str  # digest of the image ids and true labels of both splits, in any order


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """One planned fine-tuning run of a suite, with what it found so far."""

    suite: SuiteRecord
    arm: Arm
    member: Member
    status: str  # "done", or what it is instead
    epochs: tuple[EvaluatedEpoch, ...]  # in order; empty unless done

    @property
    def label(self) -> str:
        """The run in words, for messages."""
        member = self.member
        return f"{member.arm} / {member.architecture} / seed {member.seed} ({member.finetune})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run at one epoch."""

    arm: str
    factor: str
    level: str
    architecture: str
    seed: int
    epoch: int
    final: bool  # whether it is the run's last evaluated epoch
    id: Scores  # fractions
    ood: Scores
    effective_robustness: float | None  # percentage points; None without a baseline trend
    n_id: int  # images
    n_ood: int
    pretrain: str | None  # digest
    finetune: str  # digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm over the final epochs of its finished runs; means and sds are None where there are too few."""

    arm: Arm
    planned: int  # runs
    finished: int
    id_mean: float | None  # macro-F1, fraction
    id_sd: float | None  # over runs (n - 1), architectures and seeds together
    ood_mean: float | None
    ood_sd: float | None
    trend: Trend | None  # over all evaluated epochs of all its runs
    effective_robustness: float | None  # mean over runs, percentage points
    extrapolated: int  # runs whose ID macro-F1 lies outside the points of the baseline's trend


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One arm against the baseline; differences in percentage points."""

    arm: str
    unpaired: int  # finished runs of the arm without a baseline run of their architecture and seed
    ood: PairedDifference  # OOD macro-F1
    ood_verdict: str
    robustness: PairedDifference | None  # effective robustness; None without a baseline trend
    robustness_verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that a report says."""

    suites: tuple[str, ...]
    task: str
    n_classes: int  # of the task, not only those that occur
    baseline: str  # arm name
    scale: Scale
    epsilon: float  # macro-F1 is kept this far from 0 and 1 on the scale
    n_comparisons: int  # arms tested against the baseline; the level is divided by it
    arms: tuple[ArmSummary, ...]  # the baseline first
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    unfinished: tuple[str, ...]  # planned runs that are not in the numbers, and why
    notes: tuple[str, ...]  # what a reader should know before believing the numbers
    summary: tuple[str, ...]  # three sentences


def load_runs(paths: Sequence[Path]) -> list[LoadedRun]:
    """Read all planned runs of all suites in the given runs directories, and score the finished ones.

    Raises EvaluateError where a directory holds no suite, a record or predictions cannot be read,
    or predictions name an image twice.
    """
    loaded = []
    for path in paths:
        cache: dict[str, tuple[str, tuple[EvaluatedEpoch, ...]]] = {}
        for suite in read_suite_records(path):
            arms = {arm.name: arm for arm in suite.arms}
            for member in suite.members:
                if member.arm not in arms:
                    raise EvaluateError(f"suite {suite.name!r}: run {member.finetune} is of unknown arm {member.arm!r}")
                if member.finetune not in cache:
                    cache[member.finetune] = _read_run(Run(directory=path / member.finetune))
                status, epochs = cache[member.finetune]
                loaded.append(LoadedRun(suite=suite, arm=arms[member.arm], member=member, status=status, epochs=epochs))
    return loaded


def compare(runs: Sequence[LoadedRun], *, baseline: str | None = None, scale: Scale = "logit") -> Comparison:
    """Compare arms with the baseline (by default the one that the suites name).

    Raises EvaluateError where runs are of different tasks or were evaluated on different images,
    where the baseline is unknown or not agreed on, or where nothing is finished.
    """
    if not runs:
        raise EvaluateError("the suites plan no runs, so there is nothing to compare")
    suites = tuple(dict.fromkeys(run.suite.name for run in runs))
    _check_same_task(runs)
    names = list(dict.fromkeys(run.arm.name for run in runs))
    runs = _one_of_each(runs)
    baseline = _choose_baseline(runs, names, baseline)
    names = [baseline, *(name for name in names if name != baseline)]
    runs = sorted(runs, key=lambda run: (names.index(run.arm.name), run.member.architecture, run.member.seed))
    finished = [run for run in runs if run.epochs]
    if not finished:
        states = ", ".join(f"{n} {status}" for status, n in Counter(run.status for run in runs).items())
        raise EvaluateError(f"no run is finished, so there is nothing to compare ({states})")
    epsilon = clip_epsilon(min(min(epoch.n_id, epoch.n_ood) for run in finished for epoch in run.epochs))
    trends = {
        name: fit_trend(*_points(r for r in finished if r.arm.name == name), scale=scale, epsilon=epsilon)
        for name in names
    }
    trend = trends[baseline]
    rows = tuple(_row(run, epoch, trend) for run in finished for epoch in run.epochs)
    final = {name: [row for row in rows if row.final and row.arm == name] for name in names}
    span = [row.id.macro_f1 for row in rows if row.arm == baseline]
    tested = [name for name in names[1:] if final[name]] if final[baseline] else []
    effects = tuple(_effect(name, final[name], final[baseline], len(tested)) for name in tested)
    arms = tuple(_summarise(name, runs, final[name], trends[name], span if trend else []) for name in names)
    unfinished = tuple(f"{run.label}: {run.status}" for run in runs if not run.epochs)
    return Comparison(
        suites=suites,
        task=str(runs[0].suite.task.get("name", "unnamed task")),
        n_classes=len(runs[0].suite.task.get("class_names", ())),
        baseline=baseline,
        scale=scale,
        epsilon=epsilon,
        n_comparisons=len(effects),
        arms=arms,
        rows=rows,
        effects=effects,
        unfinished=unfinished,
        notes=_notes(arms, rows, effects, epsilon),
        summary=_summary(arms, finished, effects, trend),
    )


def _read_run(run: Run) -> tuple[str, tuple[EvaluatedEpoch, ...]]:
    """The run's status and, where it is done, its epochs with both splits."""
    if not run.done:
        return str(run.state["status"]), ()
    splits = defaultdict(set)
    for epoch, split in run.evaluated():
        splits[epoch].add(split)
    complete = [epoch for epoch, present in splits.items() if {ID_SPLIT, OOD_SPLIT} <= present]
    if not complete:
        return NO_PAIR_OF_SPLITS, ()
    return "done", tuple(_read_epoch(run, epoch) for epoch in complete)


def _read_epoch(run: Run, epoch: int) -> EvaluatedEpoch:
    digest = hashlib.sha256()
    found: dict[str, Scores] = {}
    sizes: dict[str, int] = {}
    for split in (ID_SPLIT, OOD_SPLIT):
        where = f"{run.directory}: predictions of epoch {epoch} on {split}"
        try:
            predictions = run.predictions(epoch, split)
            found[split] = scores(predictions.y_true, predictions.y_pred)
        except EvaluateError as error:
            raise EvaluateError(f"{where}: {error}") from None
        except (OSError, ValueError, KeyError) as error:  # what pyarrow raises for damaged files and missing columns
            raise EvaluateError(f"{where} cannot be read ({error}); run it again") from None
        repeated = len(predictions) - len(set(predictions.image_id))
        if repeated:
            raise EvaluateError(f"{where} name {repeated} images more than once; every image must be there once")
        sizes[split] = len(predictions)
        digest.update(_images(split, predictions))
    return EvaluatedEpoch(
        epoch=epoch,
        id=found[ID_SPLIT],
        ood=found[OOD_SPLIT],
        n_id=sizes[ID_SPLIT],
        n_ood=sizes[OOD_SPLIT],
        images=digest.hexdigest()[:16],
    )


def _images(split: str, predictions: Predictions) -> bytes:
    """Which images were evaluated and what they show, in any order."""
    pairs = sorted(zip(predictions.image_id.tolist(), predictions.y_true.tolist(), strict=True))
    return repr((split, pairs)).encode()


def _one_of_each(runs: Sequence[LoadedRun]) -> list[LoadedRun]:
    """One entry for each arm, architecture and seed: suites may share runs, but must agree on them."""
    arms: dict[str, LoadedRun] = {}
    chosen: dict[tuple[str, str, int], LoadedRun] = {}
    for run in runs:
        first = arms.setdefault(run.arm.name, run)
        if first.arm != run.arm:
            raise EvaluateError(
                f"arm {run.arm.name!r} means different things in suites {first.suite.name!r} and {run.suite.name!r}"
            )
        key = (run.arm.name, run.member.architecture, run.member.seed)
        other = chosen.setdefault(key, run)
        if other.member.finetune != run.member.finetune:
            raise EvaluateError(
                f"two different runs stand for the same arm, architecture and seed: {other.label} of suite"
                f" {other.suite.name!r} and {run.label} of suite {run.suite.name!r}; compare them separately"
            )
        if run.epochs and not other.epochs:
            chosen[key] = run
    return list(chosen.values())


def _check_same_task(runs: Sequence[LoadedRun]) -> None:
    for run in runs:
        ours, theirs = runs[0].suite, run.suite
        differing = [key for key in {**ours.task, **theirs.task} if ours.task.get(key) != theirs.task.get(key)]
        if differing:
            raise EvaluateError(
                f"suites {ours.name!r} and {theirs.name!r} fine-tune on different tasks"
                f" ({_task(ours.task)} and {_task(theirs.task)}; {', '.join(differing)} differ):"
                " compare them separately"
            )
    evaluated = [(run, epoch) for run in runs for epoch in run.epochs]
    for run, epoch in evaluated:
        first, start = evaluated[0]
        if epoch.images != start.images:
            raise EvaluateError(
                f"{first.label} at epoch {start.epoch} and {run.label} at epoch {epoch.epoch} were evaluated on"
                f" different images or labels ({start.n_id} and {epoch.n_id} of {ID_SPLIT}, {start.n_ood} and"
                f" {epoch.n_ood} of {OOD_SPLIT}): their scores cannot be compared"
            )


def _task(task: Mapping[str, object]) -> str:
    names = task.get("class_names")
    return f"{task.get('name', 'unnamed')!r} with {len(names) if isinstance(names, Sequence) else 'unknown'} classes"


def _choose_baseline(runs: Sequence[LoadedRun], names: Sequence[str], baseline: str | None) -> str:
    planned = list(dict.fromkeys(run.suite.baseline for run in runs))
    if baseline is None and len(planned) > 1:
        raise EvaluateError(f"the suites name different baselines ({', '.join(planned)}): choose one with --baseline")
    chosen = planned[0] if baseline is None else baseline
    if chosen not in names:
        raise EvaluateError(f"no arm is called {chosen!r}: choose the baseline from {', '.join(names)}")
    return chosen


def _points(runs: Iterable[LoadedRun]) -> tuple[list[float], list[float]]:
    """ID and OOD macro-F1 of all evaluated epochs."""
    epochs = [epoch for run in runs for epoch in run.epochs]
    return [epoch.id.macro_f1 for epoch in epochs], [epoch.ood.macro_f1 for epoch in epochs]


def _row(run: LoadedRun, epoch: EvaluatedEpoch, trend: Trend | None) -> Row:
    robustness = float(effective_robustness(epoch.id.macro_f1, epoch.ood.macro_f1, trend)) if trend else None
    return Row(
        arm=run.arm.name,
        factor=run.arm.factor,
        level=run.arm.level,
        architecture=run.member.architecture,
        seed=run.member.seed,
        epoch=epoch.epoch,
        final=epoch is run.epochs[-1],
        id=epoch.id,
        ood=epoch.ood,
        effective_robustness=robustness,
        n_id=epoch.n_id,
        n_ood=epoch.n_ood,
        pretrain=run.member.pretrain,
        finetune=run.member.finetune,
    )


def _summarise(
    name: str, runs: Sequence[LoadedRun], final: Sequence[Row], trend: Trend | None, span: Sequence[float]
) -> ArmSummary:
    """``span`` holds the ID macro-F1 of the points behind the baseline's trend; empty without one."""
    planned = [run for run in runs if run.arm.name == name]
    id_mean, id_sd = _mean_sd([row.id.macro_f1 for row in final])
    ood_mean, ood_sd = _mean_sd([row.ood.macro_f1 for row in final])
    robustness = [row.effective_robustness for row in final if row.effective_robustness is not None]
    return ArmSummary(
        arm=planned[0].arm,
        planned=len(planned),
        finished=len(final),
        id_mean=id_mean,
        id_sd=id_sd,
        ood_mean=ood_mean,
        ood_sd=ood_sd,
        trend=trend,
        effective_robustness=_mean_sd(robustness)[0],
        extrapolated=sum(not min(span) <= row.id.macro_f1 <= max(span) for row in final) if span else 0,
    )


def _mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _effect(name: str, final: Sequence[Row], baseline: Sequence[Row], comparisons: int) -> Effect:
    partners = {(row.architecture, row.seed): row for row in baseline}
    pairs = [(row, partners[key]) for row in final if (key := (row.architecture, row.seed)) in partners]
    ood = paired_difference(*([100 * row.ood.macro_f1 for row in side] for side in _sides(pairs)))
    robustness = None
    if baseline[0].effective_robustness is not None:
        robustness = paired_difference(*([row.effective_robustness or 0.0 for row in side] for side in _sides(pairs)))
    return Effect(
        arm=name,
        unpaired=len(final) - len(pairs),
        ood=ood,
        ood_verdict=verdict(ood, comparisons=comparisons),
        robustness=robustness,
        robustness_verdict=verdict(robustness, comparisons=comparisons) if robustness else "no trend of the baseline",
    )


def _sides(pairs: Sequence[tuple[Row, Row]]) -> tuple[list[Row], list[Row]]:
    return [arm for arm, _ in pairs], [baseline for _, baseline in pairs]


def _notes(
    arms: Sequence[ArmSummary], rows: Sequence[Row], effects: Sequence[Effect], epsilon: float
) -> tuple[str, ...]:
    notes = []
    final = [row for row in rows if row.final]
    epochs = sorted({row.epoch for row in final})
    if len(epochs) > 1:
        notes.append(f"The last evaluated epochs differ between runs ({', '.join(map(str, epochs))}).")
    for summary in arms:
        name, own = summary.arm.name, [row for row in final if row.arm == summary.arm.name]
        if own and summary.trend is None:
            notes.append(f"{name}: no trend, which takes {MIN_POINTS} points with different ID macro-F1.")
        sources = {row.pretrain for row in own if row.pretrain}
        if 0 < len(sources) < sum(row.pretrain is not None for row in own):
            notes.append(
                f"{name}: {len(own)} runs start from only {_count(len(sources), 'pre-training run')}, so they are"
                " fewer independent repetitions than the tests count."
            )
    beyond = ", ".join(f"{s.arm.name} ({s.extrapolated} of {s.finished} runs)" for s in arms if s.extrapolated)
    if beyond:
        notes.append(
            f"Effective robustness rests on extrapolating the baseline's trend to other ID macro-F1: {beyond}."
        )
    trend = arms[0].trend
    if trend and trend.slope <= 0:
        notes.append(
            f"The baseline's trend does not rise (slope {points(trend.slope, 2)}): it predicts no higher OOD"
            " macro-F1 for higher ID macro-F1, so effective robustness means little here."
        )
    for effect in effects:
        if effect.unpaired:
            notes.append(
                f"{effect.arm}: {_count(effect.unpaired, 'run')} without a baseline run of the same architecture and"
                " seed left out of the paired differences."
            )
    extreme = sum(not epsilon < f1 < 1 - epsilon for row in rows for f1 in (row.id.macro_f1, row.ood.macro_f1))
    if extreme:
        notes.append(f"{extreme} scores of 0 or 1 (or nearly) were moved to {epsilon:.2g} from the end for the scale.")
    return tuple(notes)


def _summary(
    arms: Sequence[ArmSummary], finished: Sequence[LoadedRun], effects: Sequence[Effect], trend: Trend | None
) -> tuple[str, str, str]:
    """Three sentences: what was measured, OOD macro-F1, effective robustness."""
    baseline = arms[0].arm.name
    architectures = _count(len({run.member.architecture for run in finished}), "architecture")
    seeds = _count(len({run.member.seed for run in finished}), "seed")
    measured = (
        f"{len(finished)} of {sum(summary.planned for summary in arms)} planned fine-tuning runs are finished"
        f" ({sum(summary.finished > 0 for summary in arms)} of {len(arms)} arms, {architectures}, {seeds});"
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
    beyond = [summary.arm.name for summary in arms[1:] if summary.extrapolated]
    if beyond:
        whom = beyond[0] if len(effects) == 1 else f"{len(beyond)} of {len(effects)} arms"
        robustness = f"{robustness[:-1]}; the trend of {baseline} is extrapolated for {whom}."
    return measured, ood, robustness


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
