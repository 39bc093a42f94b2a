"""What a comparison of published scores says, and what it cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synthgen_evaluate.analysis.compare import compare
from synthgen_evaluate.analysis.published import load_results
from synthgen_evaluate.reporting.report_tables import tables


def published_rows(tmp_path: Path, rows: Sequence[tuple[str, str, float, float]]) -> Path:
    path = tmp_path / "scores.csv"
    lines = [f"{arm},{architecture},{k},{x},{y}" for k, (arm, architecture, x, y) in enumerate(rows)]
    numbered = [line.replace(f",{k},", ",0,", 1) for k, line in enumerate(lines)]
    path.write_text("\n".join(["pretraining,architecture,seed,id_macro_f1,ood_macro_f1", *numbered]) + "\n")
    return path


NETS = [(f"net {k}", 40.0 + 3 * k, 25.0 + 2.5 * k + (-1) ** k) for k in range(6)]


def test_an_arm_on_fewer_architectures_is_said_to_speak_for_these_alone(tmp_path: Path) -> None:
    rows = [("base", *net) for net in NETS] + [
        ("new", name, x, y + 2 + 0.1 * k) for k, (name, x, y) in enumerate(NETS[:3])
    ]
    found = compare(load_results(published_rows(tmp_path, rows)))
    assert (
        "new: compared on 3 of 6 architectures (net 0, net 1, net 2), for which alone the results on it speak."
        in found.notes
    )


def test_published_rows_that_are_copies_are_named_also_in_another_order(tmp_path: Path) -> None:
    turned = NETS[1:] + NETS[:1]
    rows = [("base", *net) for net in NETS]
    rows += [("new", NETS[k][0], x, y) for k, (_, x, y) in enumerate(turned)]
    found = compare(load_results(published_rows(tmp_path, rows)))
    assert "base and new have the same ID and OOD scores in 6 rows (of 6 and 6): they may be copies." in found.notes
    one = [("base", *net) for net in NETS] + [("new", NETS[0][0], *NETS[0][1:])]
    one += [("new", name, x + 1, y + 2) for name, x, y in NETS[1:]]
    assert not any("copies" in note for note in compare(load_results(published_rows(tmp_path, one))).notes)


def test_what_the_baselines_trend_is_used_for_is_said_of_the_tables_alone(tmp_path: Path) -> None:
    rows = [("base", name, x, 60 - y) for name, x, y in NETS] + [("new", name, x + 30, 62 - y) for name, x, y in NETS]
    notes = compare(load_results(published_rows(tmp_path, rows))).notes
    (beyond,) = (note for note in notes if "extrapolated" in note)
    assert beyond.startswith("In the tables of arms and runs, effective robustness is measured from the baseline's own")
    (falling,) = (note for note in notes if "does not rise" in note)
    assert falling.endswith("the baseline's own trend, and means little there.")
    two = compare(load_results(published_rows(tmp_path, rows[:2] + rows[6:8])))
    assert not any("extrapolated" in note for note in two.notes)


def test_of_published_scores_nothing_is_said_of_clusters(tmp_path: Path) -> None:
    rows = [("base", *net) for net in NETS] + [("new", name, x, y + 2 + 0.1 * k) for k, (name, x, y) in enumerate(NETS)]
    table = tables(compare(load_results(published_rows(tmp_path, rows))))["checks"]
    assert "on_these_clusters" not in " ".join(
        k for record in table.records for k, v in record.items() if v is not None
    )
    assert table.records[0]["variance"].startswith("runs ")
    assert "cluster" not in table.records[0]["variance"]
