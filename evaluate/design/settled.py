"""Keys that a suite file leaves out are taken from the suite of that name that already has runs at the output.

New defaults are for new outputs only: a finished suite is not trained again, and a grown one continues, when a later
version has other defaults.  A file from which a key was removed also continues with the value that it had.  Of
sources the runs record only digests: their defaults never change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from synthgen.common.records import plain

from ..recipe import OFF
from ..runs import Run, RunConfig, SuiteRecord, read_suite_record


def settled(content: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """The content of a valid suite file with the open keys filled in from the records in a directory of runs.

    Raises EvaluateError if a record there is invalid.
    """
    path = runs / "suites" / f"{content['name']}.json"
    if not path.exists():
        return dict(content)
    record = read_suite_record(path)
    fine = next(_configs(runs, (one.finetune for one in record.members)), None)
    there: dict[str, Any] = {"pretrain": _pretraining(content, record, runs), "task": _task(record)}
    if fine is not None:
        there |= {"finetune": plain(fine.recipe), "precision": fine.precision}
    if record.reference is not None:
        there["reference"] = record.reference
    there["judgement"] = plain(record.judgement)
    factors = {arm.name: arm.factor for arm in record.arms}
    arms = [{"factor": factors[arm["name"]], **arm} if arm["name"] in factors else arm for arm in content["arms"]]
    return {**_under(content, there), "arms": arms}


def _under(given: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """The given keys, and for the others those of the existing suite, table by table."""
    both = given.keys() & there.keys()
    tables = {key: {**there[key], **given[key]} for key in both if isinstance(given[key], Mapping)}
    return {**there, **given, **tables}


def _task(record: SuiteRecord) -> dict[str, Any]:
    kind = {"kind": record.task["kind"]} if "kind" in record.task else {}
    return {**kind, "empty": "left_out" not in record.task}


def _pretraining(content: Mapping[str, Any], record: SuiteRecord, runs: Path) -> dict[str, Any]:
    """The keys of the suite's own recipe, each with the value of most arms that do not set it themselves."""
    arms = {arm["name"]: arm for arm in content["arms"]}
    first = {(one.arm, one.architecture): one.pretrain for one in reversed(record.members) if one.pretrain}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    values: dict[tuple[str, str], Any] = {}
    for (name, architecture), digest in first.items():
        own = {**content.get("pretrain_for", {}).get(architecture, {}), **arms.get(name, {}).get("pretrain", {})}
        for config in _configs(runs, [digest]):
            for key, value in plain(config.recipe).items():
                if key not in own and (config.recipe.objective == "supervised" or key not in OFF):
                    found[key][repr(value)] += 1
                    values[key, repr(value)] = value
    return {key: values[key, counts.most_common(1)[0][0]] for key, counts in found.items()}


def _configs(runs: Path, digests: Iterator[str] | list[str]) -> Iterator[RunConfig]:
    """The configurations of the runs that have begun."""
    for digest in digests:
        config = Run(directory=runs / digest).find_config()
        if config is not None:
            yield config
