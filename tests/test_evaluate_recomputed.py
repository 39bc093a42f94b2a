"""Every number of one report, recomputed from the stored predictions by other means.

Scores are scikit-learn's, lines those of least squares with dummies, variances plain loops over units, clusters and
architectures, power an integral, the mixed model a profile likelihood, variance components reductions of sums of
squares; the bootstrap takes the same draws. See ``recomputed``.
"""

from __future__ import annotations

import csv
import html
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recomputed import comparison
from recomputed_errors import SCALES
from recomputed_scores import TO, Study

from synthgen_evaluate.cli import app
from synthgen_evaluate.runs import Arm, Member, Predictions, Run, SuiteRecord, write_json, write_suite_record

CLASSES = 5
RESAMPLES = 100
SIZES = {"id_test": (40, 30, 25, 20, 15, 12, 8), "test": (60, 45, 30, 25, 20, 12, 7, 5)}
ARMS = {"scratch": ("source", "none"), "images-500": ("quantity", "500"), "images-1000": ("quantity", "1000"),
        "images-2000": ("quantity", "2000")}  # fmt: skip
STATED = {  # what the suite or the command says, and is no number of the comparison
    "suites", "task", "n_classes", "baseline", "scale", "margin", "judgement", "chosen_after", "scope", "resamples",
    "environments",
}  # fmt: skip
SENTENCES = {"notes", "summary", "reference.summary"}  # their numbers are those of the rest, rounded
VALUE = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
FIELDS = {  # of a table's CSV file: where the value is in the part of the record that the row is about
    "blocks": "n", "unpaired_runs": "unpaired", "error_points": "error", "smallest_points": "smallest",
    "id_points": "id", "ood_points": "ood", "effective_robustness_points": "robustness",
    "slope_between": "lines.between.slope", "points_between": "lines.between.robustness",
    "slope_within": "lines.within.slope", "points_within": "lines.within.robustness",
    "points_on_these_clusters": "on_these_clusters", "slope_difference": "slope", "bend_points": "bend",
    "rise_points": "step",
    "points_without_largest_cluster": "without_largest_cluster", "trend_slope": "slope", "source": "name",
    "another architecture (prediction interval)": "checks.another architecture (prediction interval)",
}  # fmt: skip


def predicted(split: str, skill: float, *, run: int) -> Predictions:
    """Images of skewed clusters; a share ``skill`` is right, which differs between clusters, the rest is drawn."""
    truth, rng = np.random.default_rng(len(split)), np.random.default_rng([run, len(split)])
    location = np.repeat(np.arange(len(SIZES[split])), SIZES[split])
    n = len(location)
    y = truth.choice(CLASSES, n, p=[0.4, 0.25, 0.2, 0.1, 0.05])
    easy = truth.uniform(-0.1, 0.1, len(SIZES[split]))[location]
    right = rng.random(n) < skill + easy
    return Predictions(
        image_id=np.array([f"{split}-{i:03}" for i in range(n)], dtype=object),
        y_true=y,
        y_pred=np.where(right, y, rng.integers(0, CLASSES, n)),
        location=location,
        sequence=np.arange(n),
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four arms, three architectures, two seeds, three epochs; one arm's seeds share pre-training, one run failed."""
    path = tmp_path_factory.mktemp("study")
    members = []
    for a, arm in enumerate(ARMS):
        for k, architecture in enumerate(("resnet18", "mobilenet_v3_small", "vit_b_16")):
            for seed in (0, 1):
                digest = f"{a:04x}{k:04x}{seed:08x}"
                pretrain = f"f{a:07x}{k:04x}{0 if a == 1 else seed:04x}" if a else None
                members.append(
                    Member(arm=arm, architecture=architecture, seed=seed, pretrain=pretrain, finetune=digest)
                )
                run = Run(directory=path / digest)
                if (a, k, seed) == (2, 1, 1):
                    write_json(run.directory / "state.json", {"status": "failed", "error": "stopped"})
                    continue
                for step, epoch in enumerate((1, 3, 6)):
                    skill = (0.3 + 0.2 * k + 0.04 * a) * (0.7 + 0.15 * step)
                    for split, share in (("id_test", 1.0), ("test", 0.95 if a == 3 else 0.7)):
                        run.write_predictions(
                            epoch, split, predicted(split, share * skill, run=100 * a + 10 * k + seed)
                        )
                write_json(run.directory / "state.json", {"status": "done"})
    arms = tuple(Arm(name=name, factor=f, level=v, description=name) for name, (f, v) in ARMS.items())
    task = {"name": "simulated traps", "class_names": [f"class {i}" for i in range(CLASSES)]}
    record = SuiteRecord(
        name="study", baseline="scratch", reference="images-2000", task=task, arms=arms, members=tuple(members)
    )
    write_suite_record(path, record)
    return path


@pytest.fixture(scope="module")
def report(study: Path) -> Path:
    out = study.parent / "report"
    app(["compare", str(study), "--out", str(out), "--resamples", str(RESAMPLES)], standalone_mode=False)
    return out


@pytest.fixture(scope="module")
def stored(report: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((report / "comparison.json").read_text())["comparison"]
    return record


@pytest.fixture(scope="module")
def expected(study: Path) -> dict[str, Any]:
    return comparison(Study(study), reference="images-2000", factor="quantity", resamples=RESAMPLES)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a record that holds no other, with where it is."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, f"{place}.{key}".strip("."))
    elif isinstance(value, (list, tuple)):
        yield f"{place}.length", len(value)
        for number, one in enumerate(value):
            yield from leaves(one, f"{place}[{number}]")
    else:
        yield place, value


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, (float, int, np.number)) and isinstance(other, (float, int)):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return bool(one == other)


def test_every_number_of_the_record_is_the_recomputed_one(stored: dict[str, Any], expected: dict[str, Any]) -> None:
    own = {place: value for place, value in leaves(stored) if place.split(".")[0].split("[")[0] not in STATED}
    theirs = dict(leaves(expected))
    mixed = {place for place in own if place.endswith(".mixed_model")}
    sentences = {place for place in own if place.startswith(tuple(SENTENCES))}
    wrong = {place: (value, theirs.get(place)) for place, value in own.items()
             if place not in mixed | sentences and not (place in theirs and equal(theirs[place], value))}  # fmt: skip
    assert not wrong
    assert {place for place in theirs if ".mixed_model." not in place} == own.keys() - mixed - sentences
    assert sum(isinstance(value, float) for value in own.values()) > 2000


def test_the_mixed_model_is_that_of_a_profiled_likelihood(stored: dict[str, Any], expected: dict[str, Any]) -> None:
    for of in (lambda one: one["effects"], lambda one: one["reference"]["effects"]):
        for effect, other in zip(of(stored), of(expected), strict=True):
            words = effect["mixed_model"].replace("−", "-")
            value, low, high, p = (float(one) for one in re.findall(r"[-+]?\d+\.\d+", words))
            fitted = other["mixed_model"]
            assert (value, low, high) == pytest.approx(
                [fitted[key] for key in ("value", "low", "high")], abs=0.02
            )  # Powell's
            assert p == pytest.approx(fitted["p"], abs=0.011)


# --- What is printed


def signed(value: float, digits: int = 1) -> str:
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'−' if value < 0 else '+'}{text}"


def limits(found: dict[str, float]) -> str:
    return f"{signed(found['value'])} ({signed(found['low'])} to {signed(found['high'])})"


def test_sentences_have_the_numbers_of_the_record(stored: dict[str, Any], expected: dict[str, Any]) -> None:
    for effects, summary in (
        (expected["effects"], stored["summary"]),
        (expected["reference"]["effects"], stored["reference"]["summary"]),
    ):
        for effect in effects:
            words = f"{effect['arm']} {limits(effect['robustness'])} points (ID {signed(effect['id']['value'])}, OOD"
            words += f" {signed(effect['ood']['value'])})"
            reason = effect["verdict"].partition(": ")[2]
            assert f"{words}, {reason}" if reason else words in " ".join(summary)
    (trend,) = expected["ordered"]
    assert f": {trend['verdict']} (p = {trend['p']:.2g}, {trend['n']} blocks)." in " ".join(stored["summary"])
    finished = sum(arm["finished"] for arm in expected["arms"])
    planned = sum(arm["planned"] for arm in expected["arms"])
    assert stored["summary"][0].startswith(
        f"{finished} of {planned} planned fine-tuning runs are finished (4 of 4 arms,"
    )
    beyond = [(a["arm"]["name"], a["extrapolated"], a["finished"]) for a in expected["arms"] if a["extrapolated"]]
    assert stored["notes"] == [
        "3 primary comparisons, corrected together: if nothing differs, at least one of them is called a difference in"
        " at most 5% of such studies.",
        "In the tables of arms and runs, effective robustness is measured from the baseline's own trend, which is"
        " extrapolated to other ID macro-F1: "
        + ", ".join(f"{arm} ({n} of {runs} runs)" for arm, n, runs in beyond) + ".",
        *(
            f"{one['arm']}: {one['n']} blocks are only {one['units']} independent runs: several fine-tunings of one"
            " pre-training run or checkpoint share it; tests and intervals count those."
            for one in expected["effects"] if one["units"] < one["n"]
        ),
    ]  # fmt: skip


def test_the_first_screen_has_the_numbers_of_the_record(report: Path, expected: dict[str, Any]) -> None:
    found = re.search('<div class="summary">(.*?)</div>', (report / "index.html").read_text(), re.DOTALL)
    assert found
    words = " ".join(html.unescape(re.sub("<[^>]+>", "", found[1])).split())
    effects = expected["effects"]
    sizes = sorted(one["smallest"] for one in effects if one["verdict"].startswith("cannot tell"))
    assert f"find differences of {sizes[0]:.1f} to {sizes[-1]:.1f} points or more" in words
    for one in (one for one in effects if one["verdict"] in ("higher", "lower")):
        assert f"{one['arm']} ({signed(one['robustness']['value'])} points)" in words
    for text in (*ARMS, f"{sizes[0]:.1f} to {sizes[-1]:.1f}", "3 arms", "3 architectures", "macro-F1"):
        words = words.replace(text, "")
    assert not re.search(r"\d", re.sub(r"\d+ more independent runs", "", words))


def parts_of(name: str, expected: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the record that the rows of a table are about."""
    effects = expected["reference"]["effects"] if name.endswith("-reference") else expected["effects"]
    rows = expected["rows"]
    if name == "worst":
        found = [(arm, [r for r in rows if r["arm"] == arm["arm"]["name"] and r["final"]]) for arm in expected["arms"]]
        return [
            {"arm": arm["arm"]["name"], "runs": len(own), "ood": arm["ood_mean"],
             "worst_location": arm["worst_location"], "worst_location_lowest": min(r["worst_location"] for r in own),
             "worst_location_highest": max(r["worst_location"] for r in own)}
            for arm, own in found
        ]  # fmt: skip
    beside = dict(expected["reference"]["robustness"])
    arms = [
        {**arm, **arm["arm"], "arm": arm["arm"]["name"], "images": arm["arm"]["description"],
         "effective_robustness_from_reference": beside[arm["arm"]["name"]],
         **{f"trend_{key}": arm["trend"][key] for key in ("scale", "intercept", "r2", "n")}}
        for arm in expected["arms"]
    ]  # fmt: skip
    return {
        "arms": arms,
        "epochs": [{"arm": one["arm"], **at} for one in effects for at in one["epochs"]],
        "ordered": [{**one, "levels": " → ".join(one["levels"])} for one in expected["ordered"]],
        "fit": expected["fit"],
        "components": [
            {**one, "differences": "free of it" if one["shared"] else "contain it"}
            for one in expected["components"]["parts"]
        ],
        "sizes": expected["clusters"],
        "locations": [
            {**one, "images": one["n_images"], "few_images": one["few"]}
            for one in sorted(expected["locations"], key=lambda one: -one["n_images"])
        ],
        "runs": [r | {f"{s}_{key}": v for s in ("id", "ood") for key, v in r[s].items()} for r in rows],
    }.get(name, [{**one, "margin_points": 1.0, "variance": shares(one), "choices": spread(one)} for one in effects])


def shares(effect: dict[str, Any]) -> str:
    parts = effect["variance"]
    clusters = max(parts["id_clusters"] + parts["ood_clusters"] - parts["cells"], 0)
    sizes = {"runs": parts["units"], "line": parts["line"], "clusters": clusters}
    return ", ".join(f"{name} {100 * size / sum(sizes.values()):.0f}" for name, size in sizes.items())


def spread(effect: dict[str, Any]) -> str:
    """Shares of the choices with the sign, and with the side of the interval, that are reported."""

    def side(low: float, high: float) -> int:
        return (low > 0) - (high < 0)

    found, values = effect["robustness"], [one[4] for one in effect["choices"]]
    same = np.mean([(value > 0) == (found["value"] > 0) for value in values])
    sides = np.mean([side(one[5], one[6]) == side(found["low"], found["high"]) for one in effect["choices"]])
    return f"{100 * same:.0f}, {100 * sides:.0f} of {len(values)} ({signed(min(values))} to {signed(max(values))})"


def field(part: dict[str, Any], key: str, names: list[str]) -> Any:
    """The value of a field of a CSV file in its part of the record."""
    if key.startswith("otherwise: "):
        return dict(part["sensitivity"])[key.removeprefix("otherwise: ")]
    if key.startswith("macro_f1: "):
        return part["macro_f1"][names.index(key.removeprefix("macro_f1: "))]
    stem, end = (key[: key.rindex("_")], key[key.rindex("_") + 1 :]) if re.search("_(low|high|p)$", key) else (key, "")
    if key in part and not isinstance(part[key], dict):
        return part[key]
    value: Any = part
    for name in FIELDS.get(stem, stem).split("."):
        value = value[name]
    return value[end or "value"] if isinstance(value, dict) else value


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{key: text.removeprefix("'") for key, text in row.items()} for row in csv.DictReader(file)]


def test_every_field_of_every_table_is_the_recomputed_one(report: Path, expected: dict[str, Any]) -> None:
    names = [arm["arm"]["name"] for arm in expected["arms"]]
    files = sorted((report / "tables").glob("*.csv"))
    assert len(files) == 13
    for path in files:
        parts = parts_of(path.stem, expected)
        for row, part in zip(read(path), parts, strict=True):
            for key, text in row.items():
                if key == "mixed_model":
                    continue
                value = field(part, key, names)
                if isinstance(value, bool):
                    assert text == ("yes" if value else "no"), (path.stem, key)
                elif isinstance(value, (int, float)):
                    assert float(text) == pytest.approx(float(value), rel=1e-6, abs=1e-9), (path.stem, key)
                else:
                    assert text == ("" if value is None else str(value)), (path.stem, key)


def test_every_number_in_the_tables_of_the_page_is_one_of_its_row_rounded(
    report: Path, expected: dict[str, Any]
) -> None:
    effects = [*expected["effects"], *expected["reference"]["effects"]]
    notes = [check["note"] for effect in effects for check in effect["checks"].values()]
    page = (report / "index.html").read_text()
    checked = 0
    for path in sorted((report / "tables").glob("*.csv")):
        found = re.search(rf'href="tables/{path.stem}\.csv".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
        assert found, path.stem
        rows = [
            html.unescape(re.sub(r"<svg.*?</svg>|<code>.*?</code>|<[^>]+>", " ", one, flags=re.DOTALL))
            for one in found[1].split("</tr>")[:-1]
        ]
        records = [one for one in read(path) if one.get("final", "yes") == "yes"]
        assert len(rows) == len(records)
        for row, record in zip(rows, records, strict=True):
            known = [float(text) for text in record.values() if VALUE.fullmatch(text)]
            if path.stem == "components":
                known.append(float(record["variance"]) ** 0.5)
            words = [text for text in (*record.values(), *notes, *ARMS) if text and not VALUE.fullmatch(text)]
            for text in (*sorted(words, key=len, reverse=True), "95% interval"):  # compared above; they hold digits too
                row = row.replace(text, " ")
            for text in re.findall(r"(?<![\w.])[+−]?\d[\d,]*(?:\.\d+)?", row):
                digits = len(text.partition(".")[2])
                value = float(text.replace("−", "-").replace(",", ""))
                near = 0.5000001 * 10.0**-digits
                assert any(abs(times * one - value) <= near for one in known for times in (1, 100)), (path.stem, text)
                checked += 1
    assert checked > 500


def test_the_points_of_the_page_are_the_recomputed_scores(report: Path, expected: dict[str, Any]) -> None:
    found = re.search(r'id="scatter-data">(.*?)</script>', (report / "index.html").read_text(), re.DOTALL)
    assert found
    points = json.loads(found[1])["points"]
    rows = {(r["arm"], r["architecture"], str(r["seed"]), r["epoch"]): r for r in expected["rows"]}
    assert len(points) == len(rows)
    own = [rows[(*point["words"][:3], int(point["words"][3].split()[0]))] for point in points]
    for point, row in zip(points, own, strict=True):
        id_f1, ood_f1, robustness = point["words"][4:7]
        assert (id_f1, ood_f1) == tuple(f"{100 * row[split]['macro_f1']:.1f}%" for split in ("id", "ood"))
        assert robustness == f"{signed(row['effective_robustness'])} points"
    for scale, place in itertools.product(SCALES, (0, 1)):  # the axes are straight on the scale
        at = np.array([point["at"][scale][place] for point in points])
        scores = [TO[scale](row[("id", "ood")[place]]["macro_f1"]) for row in own]
        slope, start = np.polyfit(scores, at, 1)
        assert np.abs(start + slope * np.array(scores) - at).max() < 1e-4
