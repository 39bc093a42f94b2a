"""Runs that are another arm's, and runs with the predictions of others."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping

import numpy as np

from synthgen.common.printing import counted

from .pairing import Paired
from .scoring import Scored

MANY = 2  # rows of one arm with the scores of rows of another
_At = tuple[str, int, int, str]  # architecture, seed and epoch of a run, and its digest or that of its predictions


def same_runs(scored: Scored, baseline: str, pairs: Mapping[str, Paired]) -> dict[str, str]:
    """The arms that are the same runs as the baseline or an earlier arm of ``pairs``, or copies of them: as which.

    All runs that are paired with the baseline's must be the other arm's own, or have all of its predictions. Equal
    scores stand for equal predictions where there are none, if there are several blocks and not all scores are alike.
    """
    table, found = scored.table, dict[str, str]()
    earlier = {baseline: _content(scored, baseline, set(zip(table.architecture, table.seed, strict=True)))}
    what = "scores" if scored.clusters is None else "predictions"
    for arm, two in pairs.items():
        blocks = set(two.final.names)
        runs, predictions = _content(scored, arm, blocks)
        for other, (their_runs, theirs) in earlier.items():
            if runs and runs <= their_runs:
                found[arm] = f"as {other}, under another name"
            elif predictions and predictions <= theirs and (scored.clusters is not None or _differ(predictions)):
                found[arm] = f"{what} identical to those of {other} in {counted(len(blocks), 'block')}"
            else:
                continue
            break
        else:
            earlier[arm] = runs, predictions
    return found


def _differ(scores: set[_At]) -> bool:
    """Whether they are those of several blocks, and not all alike."""
    return len({block[:2] for block in scores}) > 1 and len({taken for *_, taken in scores}) > 1


def _content(scored: Scored, arm: str, blocks: Container[tuple[str, int]]) -> tuple[set[_At], set[_At]]:
    """The runs of an arm in some blocks, and what they predicted; none if one of them is collapsed."""
    table = scored.table
    rows = [
        row for row in np.flatnonzero(table.arm == arm).tolist() if (table.architecture[row], table.seed[row]) in blocks
    ]
    runs, predictions = (
        {(str(table.architecture[row]), int(table.seed[row]), int(table.epoch[row]), str(column[row])) for row in rows}
        for column in (table.run, scored.predictions)
    )
    return runs, set() if scored.collapsed[rows].any() else predictions


def copies(scored: Scored) -> tuple[str, ...]:
    """A sentence for runs that are different, but whose predictions are the same at every epoch.

    Of published scores, a sentence for two arms with the same scores in at least ``MANY`` rows: one may be chance.
    """
    if scored.clusters is None:
        return _published(scored)
    predictions: dict[str, list[str]] = {}  # of all epochs, by run in words
    for run, predicted, collapsed in zip(scored.run, scored.predictions.tolist(), scored.collapsed, strict=True):
        predictions.setdefault(run.label, []).append("" if collapsed else predicted)
    digests = {run.label: run.member.finetune for run in scored.run}
    groups: dict[tuple[str, ...], dict[str, str]] = {}  # labels by digest
    for label, all_ in predictions.items():
        if all(all_):
            groups.setdefault(tuple(all_), {}).setdefault(digests[label], label)
    return tuple(
        f"The predictions of {' and '.join(same.values())} are identical: one may be a copy of the other."
        for same in groups.values()
        if len(same) > 1
    )


def _published(scored: Scored) -> tuple[str, ...]:
    rows: dict[str, set[str]] = {}
    for arm, scores in zip(scored.table.arm.tolist(), scored.predictions.tolist(), strict=True):
        rows.setdefault(arm, set()).add(scores)
    found = []
    for first, second in itertools.combinations(rows, 2):
        shared = len(rows[first] & rows[second])
        if shared >= MANY:
            found.append(
                f"{first} and {second} have the same ID and OOD scores in {counted(shared, 'row')}"
                f" (of {len(rows[first])} and {len(rows[second])}): they may be copies."
            )
    return tuple(found)
