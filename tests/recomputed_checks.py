"""Checks, curves and variance components, by plain loops, least squares and SciPy; see test_evaluate_recomputed."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from recomputed_errors import SCALES, Found, Pairs, dummies, residuals
from recomputed_scores import FROM, Study
from scipy import optimize, stats


def signed(value: float) -> str:
    """With one digit, and a minus as wide as the plus."""
    return f"{value:+.1f}".replace("-", "−")


def final_points(pairs: Pairs, scale: str) -> np.ndarray:
    """ID and OOD scores of the compared epoch on the scale, [n_blocks, 2 arms, 2]."""
    full = pairs.study.full()
    rows = [[pairs.xy(full, pairs.cell(arm, block), scale) for arm in pairs.arms] for block in pairs.blocks]
    return np.array(rows)


def axis(dx: np.ndarray, dy: np.ndarray) -> float:
    """The slope of the first principal axis of centred points."""
    vectors = np.linalg.eigh(np.cov(dx, dy, bias=True)).eigenvectors
    return float(vectors[1, 1] / vectors[0, 1])


def sensitivity(pairs: Pairs) -> list[Any]:
    """The difference on other scales, from an orthogonal line, and from the baseline's own trend; means over blocks."""
    full = pairs.study.full()

    def along(scale: str, beta: float) -> float:
        return float(np.mean(pairs.robustness(scale)(full, beta)))

    found: list[Any] = [
        [f"{scale} scale", along(scale, pairs.slope(full, "between", scale))] for scale in ("probit", "linear")
    ]
    points = final_points(pairs, "logit")
    centred = points - points.mean(0)
    found.append(["noise in ID macro-F1 too", along("logit", axis(*centred.reshape(-1, 2).T))])
    base, own = points[:, 0], points[:, 1]
    level = base.mean(0)
    slopes = {
        "the baseline's own trend": stats.linregress(*base.T).slope,
        "the baseline's own trend, noise in ID macro-F1 too": axis(*(base - level).T),
    }
    oods = [[full(pairs.cell(arm, block), "ood") for block in pairs.blocks] for arm in pairs.arms]
    for name, beta in slopes.items():
        beyond = [
            np.array(ood) - FROM["logit"](level[1] + beta * (xy[:, 0] - level[0]))
            for ood, xy in zip(oods, (base, own), strict=True)
        ]
        found.append([name, float(100 * (beyond[1] - beyond[0]).mean())])
    return found


def slope_difference(pairs: Pairs) -> Found:
    """Slope within the runs of the second arm minus that of the first, with the jackknife over independent runs."""
    study = pairs.study

    def difference(blocks: list[Any]) -> float:
        slopes = []
        for arm in pairs.arms:
            names, x, y = [], [], []
            for block, epoch in ((b, e) for b in blocks for e in study.epochs(arm, b)):
                point = pairs.xy(study.full(), (arm, block, epoch), "logit")
                names.append(block)
                x.append(point[0])
                y.append(point[1])
            dx = residuals(np.array(x), dummies(names))
            slopes.append(float(dx @ np.array(y) / (dx @ dx)))
        return slopes[1] - slopes[0]

    value = difference(pairs.blocks)
    kept = [[b for b, k in zip(pairs.blocks, pairs.units, strict=True) if k != unit] for unit in set(pairs.units)]
    n = len(kept)
    error = np.sqrt((n - 1) * np.var([difference(blocks) for blocks in kept]))
    half = stats.t.ppf(0.975, n - 1) * error
    p = float(2 * stats.t.sf(abs(value) / error, n - 1))
    return Found(value=value, low=value - half, high=value + half, p=p)


def mixed(pairs: Pairs) -> dict[str, float]:
    """OOD ~ ID + arm + architecture + (1 | run) by REML, profiled over the ratio of the two variances."""
    study, rows = pairs.study, []
    for block, (number, arm) in product(pairs.blocks, enumerate(pairs.arms)):
        for epoch in study.epochs(arm, block):
            rows.append((f"{arm} {block}", number, block[0], *pairs.xy(study.full(), (arm, block, epoch), "logit")))
    columns: list[Any] = [np.array(column) for column in zip(*rows, strict=True)]
    run, arm, architecture, x, y = columns
    design = np.column_stack([arm, x, *dummies([*architecture])])
    same = (run[:, None] == run).astype(float)
    n, k = design.shape

    def fit(log_ratio: float) -> tuple[float, np.ndarray, np.ndarray]:
        v = np.eye(n) + np.exp(log_ratio) * same
        weighted = np.linalg.solve(v, design)
        information = design.T @ weighted
        beta = np.linalg.solve(information, weighted.T @ y)
        left = y - design @ beta
        scale = left @ np.linalg.solve(v, left) / (n - k)
        sizes = np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1]
        return (n - k) * np.log(scale) + sizes, beta, scale * np.linalg.inv(information)

    best = optimize.minimize_scalar(lambda one: fit(one)[0], bounds=(-12, 6), method="bounded")
    _, beta, covariance = fit(best.x)
    error, freedom = covariance[0, 0] ** 0.5, len(set(run)) - len(set(architecture)) - 1
    half, level = stats.t.ppf(0.975, freedom) * error, y[arm == 0].mean()
    value, low, high = (
        100 * (FROM["logit"](level + one) - FROM["logit"](level)) for one in (beta[0], beta[0] - half, beta[0] + half)
    )
    return {"value": value, "low": low, "high": high, "p": 2 * stats.t.sf(abs(beta[0]) / error, freedom)}


def new_architecture(pairs: Pairs) -> dict[str, Any]:
    """The mean over architectures with a prediction interval; each, pooled partially; without each."""
    full = pairs.study.full()
    values = pairs.robustness()(full, pairs.slope(full, "between", "logit"))
    groups = {one: [v for v, b in zip(values, pairs.blocks, strict=True) if b[0] == one] for one in pairs.architectures}
    a = len(groups)
    squares = sum(float(np.var(own)) * len(own) for own in groups.values())
    noise = squares / sum(len(own) - 1 for own in groups.values())
    means = {one: float(np.mean(own)) for one, own in groups.items()}
    mean, of_means = float(np.mean([*means.values()])), float(np.var([*means.values()], ddof=1))
    tau = max(0.0, of_means - float(np.mean([noise / len(own) for own in groups.values()])))
    half = stats.t.ppf(0.975, a - 1) * np.sqrt(tau + of_means / a)
    pooled = {one: mean + (tau / (tau + noise / len(groups[one]))) * (m - mean) for one, m in means.items()}
    without = [float(np.mean([m for other, m in means.items() if other != one])) for one in means]
    each = ", ".join(f"{one} {signed(value)}" for one, value in pooled.items())
    note = f"{each}; without one of them {signed(min(without))} to {signed(max(without))}"
    return {"value": mean, "low": mean - half, "high": mean + half, "p": None, "note": note}


# --- Curves --------------------------------------------------------------------------------------------------


def bends(study: Study) -> list[dict[str, Any]]:
    """The quadratic term beside the linear one and dummies, of all runs, with a jackknife over architectures."""
    full, found = study.full(), []
    for slope, scale in product(("between", "within"), SCALES):
        cells = [cell for cell in study.cells if slope == "within" or cell == study.last(*cell[:2])]
        x, y = (np.array([study.scaled(full(cell, split), scale) for cell in cells]) for split in ("id", "ood"))
        means = [cell[0] if slope == "between" else f"{cell[:2]}" for cell in cells]

        def quadratic(keep: list[int], x: np.ndarray = x, y: np.ndarray = y, means: list[str] = means) -> float:
            design = [x[keep], x[keep] ** 2, *dummies([means[k] for k in keep])]
            return float(np.linalg.lstsq(np.column_stack(design), y[keep], rcond=None)[0][1])

        architectures = list(dict.fromkeys(cell[1][0] for cell in cells))
        n = len(architectures)
        kept = [[k for k, cell in enumerate(cells) if cell[1][0] != out] for out in architectures]
        value = quadratic([*range(len(cells))])
        error = float(np.sqrt((n - 1) * np.var([quadratic(keep) for keep in kept])))
        groups = {"all": x} if slope == "between" else {run: x[[m == run for m in means]] for run in means}
        squared = np.mean([np.ptp(one) / 2 for one in groups.values()]) ** 2
        half, level = stats.t.ppf(0.975, n - 1) * error, y.mean()
        middle, low, high = (
            100 * (FROM[scale](level - squared * one) - FROM[scale](level))
            for one in (value, value + half, value - half)
        )
        p = 2 * stats.t.sf(abs(value) / error, n - 1)
        found.append({"line": slope, "scale": scale, "bend": {"value": middle, "low": low, "high": high}, "p": p})
    return found


# --- Variance components -------------------------------------------------------------------------------------


def variance_components(study: Study) -> dict[str, Any]:
    """Henderson's method 3: reductions of sums of squares by least squares, level by level."""
    cells = study.cells
    labels: list[list[Any]] = [
        ["mean" for _ in cells],
        [cell[0] for cell in cells],
        [(cell[0], cell[2]) for cell in cells],
        [cell[1][0] for cell in cells],
        [study.start(*cell[:2]) for cell in cells],
        [cell[:2] for cell in cells],
        [*cells],
    ]
    columns = [dummies(one) for one in labels]

    def left(v: np.ndarray, groups: int) -> float:
        """Sum of squares beyond the first groups of columns."""
        design = [column for group in columns[:groups] for column in group]
        return float(np.sum(residuals(v, design) ** 2)) if design else float(v @ v)

    def reduced(v: np.ndarray, group: int) -> float:
        return left(v, group) - (left(v, group + 1) if group < len(columns) - 1 else 0.0)

    k = len(columns)
    expected = np.array(
        [[sum(reduced(c, i) for c in columns[j]) if j >= i else 0.0 for j in range(k)] for i in range(k)]
    )
    full = study.full()
    scores = np.array([100 * full(cell, "ood") for cell in cells])
    own = np.linalg.solve(expected, [reduced(scores, i) for i in range(k)])
    m = len(study.clusters("ood")[0])
    moved = np.array([[100 * study.without("ood", c)(cell, "ood") for c in range(m)] for cell in cells])
    moved = (moved - moved.mean(1, keepdims=True)) * np.sqrt((m - 1) / m)
    at = np.linalg.solve(expected, [sum(reduced(moved[:, c], i) for c in range(m)) for i in range(k)])
    sizes = {
        "architecture": own[3] - at[3],
        "pre-training run": own[4] - at[4],
        "fine-tuning run": own[5] - at[5],
        "epoch": own[6] - at[6],
        "cluster": at[0],
        "arm x cluster": at[1] + at[2],
        "run x cluster": sum(at[3:]),
    }
    total = sum(max(size, 0.0) for size in sizes.values())
    return {
        "parts": [
            {
                "name": name,
                "variance": max(size, 0.0),
                "share": max(size, 0.0) / total,
                "shared": name in ("architecture", "cluster"),
            }
            for name, size in sizes.items()
        ],
        "unknown": [],
    }
