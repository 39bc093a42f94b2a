"""A comparison recomputed from stored predictions, by plain loops; see test_evaluate_recomputed."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
from recomputed_checks import bends, mixed, new_architecture, sensitivity, slope_difference, variance_components
from recomputed_errors import SCALES, Found, Pairs, smallest, verdict
from recomputed_scores import FROM, Cell, Study
from scipy import stats

OPEN = {"not shown to differ", "cannot tell"}
WHOSE = {"between": "between models", "within": "within runs"}


def comparison(study: Study, *, reference: str, factor: str, resamples: int) -> dict[str, Any]:
    """Everything in ``comparison`` of comparison.json that is computed."""
    baseline = study.arms[0]
    draws = drawn(study, resamples)
    others = [arm for arm in study.arms if arm != reference]
    levels = {arm["name"]: arm["level"] for arm in study.suite["arms"] if arm["factor"] == factor}
    ordered = sorted(levels, key=lambda name: float(levels[name]))
    return {
        "epsilon": study.epsilon,
        "arms": [arm_summary(study, arm, draws) for arm in study.arms],
        "rows": [row(study, cell) for cell in study.cells],
        "effects": [effect(study, baseline, arm, len(study.arms) - 1) for arm in study.arms[1:]],
        "ordered": [trend_over(study, ordered, factor, [levels[name] for name in ordered])],
        "reference": {
            "arm": reference,
            "effects": [effect(study, reference, arm, len(others)) for arm in others],
            "robustness": [[arm, mean_robustness(study, arm, reference)] for arm in study.arms],
        },
        "fit": bends(study),
        "components": variance_components(study),
        "clusters": [sizes(study, split) for split in ("id", "ood")],
        "locations": [
            {
                "location": int(cluster),
                "n_images": int(n),
                "few": bool(n < 10),
                "macro_f1": [
                    float(np.mean([study.at_cluster(cell, cluster) for cell in finals(study, arm)]))
                    for arm in study.arms
                ],
            }
            for cluster, n in zip(*study.clusters("ood"), strict=True)
        ],
        "unfinished": study.unfinished,
    }


def finals(study: Study, arm: str) -> list[Cell]:
    return [study.last(arm, block) for block in study.blocks([arm])]


# --- Arms and runs -------------------------------------------------------------------------------------------


def trend(study: Study, arm: str) -> Any:
    full = study.full()
    xy = [[study.scaled(full(cell, split), "logit") for split in ("id", "ood")] for cell in finals(study, arm)]
    return stats.linregress(*np.transpose(xy))


def beyond(study: Study, cell: Cell, line: Any) -> float:
    full = study.full()
    on_line = FROM["logit"](line.intercept + line.slope * study.scaled(full(cell, "id"), "logit"))
    return float(100 * (full(cell, "ood") - on_line))


def mean_robustness(study: Study, arm: str, of: str) -> float:
    line = trend(study, of)
    return float(np.mean([beyond(study, cell, line) for cell in finals(study, arm)]))


def row(study: Study, cell: Cell) -> dict[str, Any]:
    arm, block, epoch = cell
    (factor, level) = next((a["factor"], a["level"]) for a in study.suite["arms"] if a["name"] == arm)
    member = study.member[arm, block]
    scores = {split: dict(zip(("accuracy", "recall", "macro_f1"), study.scores[cell, split], strict=True))
              for split in ("id", "ood")}  # fmt: skip
    return {
        "arm": arm, "factor": factor, "level": level, "architecture": block[0], "seed": block[1], "epoch": epoch,
        "final": cell == study.last(arm, block), **scores,
        "effective_robustness": beyond(study, cell, trend(study, study.arms[0])),
        "n_id": len(study.splits[cell, "id"].y), "n_ood": len(study.splits[cell, "ood"].y),
        "worst_location": study.worst(cell), "pretrain": member["pretrain"], "finetune": member["finetune"],
    }  # fmt: skip


def drawn(study: Study, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each block, ID cluster and OOD cluster is drawn: three streams from seed 0, multinomial."""
    blocks = study.blocks([study.arms[0]])
    sizes = (len(blocks), *(len(study.clusters(split)[0]) for split in ("id", "ood")))
    streams = np.random.SeedSequence(0).spawn(3)
    found = [
        np.random.Generator(np.random.PCG64(stream)).multinomial(size, np.full(size, 1 / size), n)
        for stream, size in zip(streams, sizes, strict=True)
    ]
    return found[0], found[1], found[2]


def arm_summary(study: Study, arm: str, draws: tuple[np.ndarray, ...]) -> dict[str, Any]:
    full, cells, line = study.full(), finals(study, arm), trend(study, arm)
    ids, oods = ([full(cell, split) for cell in cells] for split in ("id", "ood"))
    span = [full(cell, "id") for cell in finals(study, study.arms[0])]
    outside = {cell[1] for cell in cells if not min(span) <= full(cell, "id") <= max(span)}
    grid = np.linspace(min(ids), max(ids), 25)
    x = np.array([study.scaled(one, "logit") for one in grid])
    slopes, curves = [], []
    blocks = study.blocks([study.arms[0]])
    for times, of_id, of_ood in zip(*draws, strict=True):
        counts = np.array([times[blocks.index(cell[1])] for cell in cells])
        score = study.resampled("id", of_id), study.resampled("ood", of_ood)
        xs, ys = (np.array([study.scaled(of(cell), "logit") for cell in cells]) for of in score)
        kept = counts > 0
        if kept.sum() >= 3 and np.ptp(xs[kept]) > 1e-9:
            slope, intercept = np.polyfit(xs[kept], ys[kept], 1, w=np.sqrt(counts[kept]))
            slopes.append(slope)
            curves.append(FROM["logit"](intercept + slope * x))
    n = len(cells)
    half = stats.t.ppf(0.975, n - 1) * np.std(slopes, ddof=1) * np.sqrt(n / (n - 1))
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    described = next(a for a in study.suite["arms"] if a["name"] == arm)
    return {
        "arm": {key: described.get(key, []) for key in ("name", "factor", "level", "description", "origin")},
        "planned": sum(member["arm"] == arm for member in study.suite["members"]),
        "finished": n,
        "id_mean": np.mean(ids), "id_sd": np.std(ids, ddof=1),
        "ood_mean": np.mean(oods), "ood_sd": np.std(oods, ddof=1),
        "trend": {
            "slope": line.slope, "intercept": line.intercept, "scale": "logit", "epsilon": study.epsilon,
            "r2": line.rvalue**2, "n": n,
        },
        "slope": {"value": line.slope, "low": line.slope - half, "high": line.slope + half},
        "band": {
            "id": [*grid], "ood": [*FROM["logit"](line.intercept + line.slope * x)], "low": [*low], "high": [*high],
        },
        "effective_robustness": mean_robustness(study, arm, study.arms[0]),
        "worst_location": np.mean([study.worst(cell) for cell in cells]),
        "extrapolated": len(outside),
    }  # fmt: skip


def sizes(study: Study, split: str) -> dict[str, Any]:
    images = study.clusters(split)[1]
    return {
        "split": split,
        "clusters": len(images),
        "images": int(images.sum()),
        "effective": images.sum() ** 2 / (images**2).sum(),
        "largest": images.max() / images.sum(),
    }


# --- Differences ---------------------------------------------------------------------------------------------


def effect(study: Study, base: str, arm: str, tests: int) -> dict[str, Any]:
    pairs, full = Pairs(study, [base, arm]), study.full()
    described = next(a for a in study.suite["arms"] if a["name"] == arm)
    lines: dict[str, Any] = {}
    for slope in ("between", "within"):
        why = pairs.unbridged(full, slope, "logit")
        found = Found(note=why) if why else pairs.estimate(pairs.robustness(), slope, tests=tests)
        lines[slope] = {"slope": pairs.fitted(slope), "found": found, "verdict": verdict(found, pairs.n_units, tests)}
    if lines["within"]["found"].value is None:
        del lines["within"]
    chosen = lines["between"]["found"]
    heavy = int(study.clusters("ood")[1].argmax())
    light = study.without("ood", heavy)
    largest = np.dot(pairs.weights, pairs.robustness()(light, pairs.slope(light, "between", "logit")))
    parts = {split: pairs.estimate(pairs.difference(split), None, tests=tests) for split in ("id", "ood")}
    here = (
        Found() if chosen.value is None else pairs.estimate(pairs.robustness(), "between", tests=tests, clusters=False)
    )
    slopes = slope_difference(pairs)
    return {
        "arm": arm, "factor": described["factor"], "level": described["level"], "n": len(pairs.blocks),
        "units": pairs.n_units, "unpaired": len(study.blocks([arm])) - len(pairs.blocks), "primary": True,
        "id": parts["id"].stored(), "ood": parts["ood"].stored(), "robustness": chosen.stored(),
        "error": chosen.error, "freedom": chosen.freedom, "variance": chosen.parts, "p": chosen.p,
        "p_adjusted": None if chosen.p is None else 1 - (1 - chosen.p) ** tests,
        "verdict": over_lines(lines),
        "on_these_clusters": here.stored(),
        "without_largest_cluster": None if chosen.value is None else largest,
        "choices": choices(study, base, arm),
        "smallest": smallest(chosen, tests),
        "lines": {
            name: {"slope": one["slope"].stored(), "robustness": one["found"].stored(), "verdict": one["verdict"]}
            for name, one in lines.items()
        },
        "epochs": [at_epoch(study, base, arm, epoch) for epoch in common_epochs(study, base, arm)],
        "slope": slopes.stored(), "slope_p": slopes.p,
        "mixed_model": mixed(pairs),
        "sensitivity": sensitivity(pairs),
        "checks": {"another architecture (prediction interval)": new_architecture(pairs)},
    }  # fmt: skip


def over_lines(lines: dict[str, Any]) -> str:
    """The verdict along the judgement's line, unless it would be another one along the other line."""
    words = {name: re.split(r":| \(", one["verdict"])[0] for name, one in lines.items()}
    if len({*words.values()}) == 1 or {*words.values()} <= OPEN:
        return str(lines["between"]["verdict"])
    return "depends on the line: " + "; ".join(f"{WHOSE[name]} {word}" for name, word in words.items())


def common_epochs(study: Study, *arms: str) -> list[int]:
    pairs = product(arms, study.blocks(arms))
    return sorted(set.intersection(*(set(study.epochs(*pair)) for pair in pairs)))


def at_epoch(study: Study, base: str, arm: str, epoch: int) -> dict[str, Any]:
    pairs = Pairs(study, [base, arm], epoch)
    bridged = not pairs.unbridged(study.full(), "between", "logit")
    found = {split: pairs.estimate(pairs.difference(split), None).stored() for split in ("id", "ood")}
    along = pairs.estimate(pairs.robustness(), "between").stored() if bridged else None
    return {"epoch": epoch, **found, "robustness": along}


def choices(study: Study, base: str, arm: str) -> list[Any]:
    """Every combination of metric, epoch (all, of at most three), scale and line, on the test images at hand."""
    found = []
    for metric, epoch in product(("macro_f1", "recall", "accuracy"), common_epochs(study, base, arm)):
        pairs, view = Pairs(study, [base, arm], epoch), study.full(metric)
        for scale, slope in product(SCALES, ("between", "within")):
            if not pairs.unbridged(view, slope, scale):
                one = pairs.estimate(pairs.robustness(scale), slope, scale=scale, view=view, clusters=False)
                found.append([scale, epoch, slope, metric, one.value, one.low, one.high])
    return found


def trend_over(study: Study, arms: list[str], factor: str, levels: list[str]) -> dict[str, Any]:
    pairs = Pairs(study, arms)
    why = pairs.unbridged(study.full(), "between", "logit")
    found = Found(note=why) if why else pairs.estimate(pairs.step, "between")
    words = verdict(found, pairs.n_units, 1)
    for one, other in {"higher": "rises", "lower": "falls", "not shown to differ": "no trend shown"}.items():
        words = words.replace(one, other)
    return {
        "factor": factor, "levels": levels, "step": found.stored(), "n": len(pairs.blocks), "p": found.p,
        "verdict": words,
    }  # fmt: skip
