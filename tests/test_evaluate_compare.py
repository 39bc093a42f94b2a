from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthgen_evaluate.analysis.compare import compare
from synthgen_evaluate.analysis.formatting import signed
from synthgen_evaluate.analysis.load import load_runs
from synthgen_evaluate.analysis.published import load_results
from synthgen_evaluate.analysis.results import Comparison, Row, Verdict
from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.judgement import Judgement
from synthgen_evaluate.metrics import scores
from synthgen_evaluate.predictions import Predictions
from synthgen_evaluate.reporting.answer import answer
from synthgen_evaluate.reporting.report_tables import tables
from synthgen_evaluate.runs import (
    Arm,
    Member,
    Run,
    SuiteRecord,
    read_suite_records,
    write_json,
    write_suite_record,
)

N_CLASSES = 12
SIZES = {"id_test": 300, "test": 500}


def truth(split: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([7, len(split)])
    n = SIZES[split]
    weight = 1 / np.arange(1, N_CLASSES + 1)
    return np.array([f"{split}-{i}" for i in range(n)], dtype=object), rng.choice(N_CLASSES, n, p=weight / weight.sum())


def predictions(split: str, skill: float, seed: int) -> Predictions:
    """A share ``skill`` of the predictions is right, the others are drawn at random."""
    rng = np.random.default_rng([seed, len(split)])
    image_id, y_true = truth(split)
    right = rng.random(len(y_true)) < skill
    y_pred = np.where(right, y_true, rng.integers(0, N_CLASSES, len(y_true)))
    order = rng.permutation(len(y_true))
    return Predictions(
        image_id=image_id[order],
        y_true=y_true[order],
        y_pred=y_pred[order],
        location=(np.arange(len(y_true)) % 9)[order],
        sequence=(np.arange(len(y_true)) // 3)[order],
    )


def fake_runs(
    path: Path,
    skills: Mapping[str, float],
    *,
    suite: str = "quickstart",
    architectures: Sequence[str] = ("resnet18", "mobilenet_v3_small"),
    seeds: Sequence[int] = (0, 1),
    epochs: Sequence[int] = (1, 4, 12),
) -> Path:
    """A finished suite: ``skills`` maps arms to the share of ID images learned; the first is the baseline."""
    members = []
    for position, (arm, skill) in enumerate(skills.items()):
        for a, architecture in enumerate(architectures):
            for seed in seeds:
                digest = f"{position:04x}{a:04x}{seed:08x}"
                members.append(
                    Member(
                        arm=arm,
                        architecture=architecture,
                        seed=seed,
                        pretrain=f"f{position:07x}{a:04x}{seed:04x}" if position else None,
                        finetune=digest,
                    )
                )
                run = Run(directory=path / digest)
                for step, epoch in enumerate(epochs):
                    reached = (skill + 0.03 * a) * (0.4 + 0.6 * (step + 1) / len(epochs))
                    for split, share in (("id_test", reached), ("test", 0.6 * reached + 0.05 * position * reached)):
                        run.write_predictions(epoch, split, predictions(split, share, 1000 * position + 10 * seed + a))
                write_json(run.directory / "state.json", {"status": "done"})
    arms = tuple(Arm(name=name, factor="source", level=name, description=f"images of {name}") for name in skills)
    task = {"name": "simulated camera traps", "class_names": [f"class {i}" for i in range(N_CLASSES)]}
    write_suite_record(
        path, SuiteRecord(name=suite, baseline=next(iter(skills)), task=task, arms=arms, members=tuple(members))
    )
    return path


def compared(path: Path, **options: Any) -> Comparison:
    return compare(load_runs([path]), **({"resamples": 500} | options))  # type: ignore[arg-type]


def set_status(path: Path, digest: str, status: str) -> None:
    error = {"error": "the loss is not finite"} if status == "failed" else {}
    write_json(path / digest / "state.json", {"status": status, **error})


def edit_suite(path: Path, **changes: Any) -> None:
    (suite,) = read_suite_records(path)
    write_suite_record(path, replace(suite, **changes))


def test_four_paired_runs_are_said_to_be_too_few(tmp_path: Path) -> None:
    comparison = compared(fake_runs(tmp_path, {"scratch": 0.3, "Fractals": 0.36}))
    assert comparison.summary[0] == (
        "8 of 8 planned fine-tuning runs are finished (2 of 2 arms, 2 architectures, 2 seeds); the baseline is scratch."
    )
    assert comparison.summary[1].startswith("The runs cannot tell whether effective robustness differs (scratch as the")
    assert "on new clusters, for these 2 architectures" in comparison.summary[1]
    (effect,) = comparison.effects
    assert effect.conclusion.verdict is Verdict.CANNOT_TELL
    assert effect.units == 4
    assert effect.smallest is not None
    assert effect.smallest > 5


def test_enough_paired_runs_show_a_large_effect_and_its_interval_holds_it(tmp_path: Path) -> None:
    def more_robust(path: Path) -> Path:
        fake_runs(path, {"scratch": 0.4, "good": 0.4}, seeds=(0, 1, 2, 3))
        (suite,) = read_suite_records(path)
        for member in suite.members:
            run = Run(directory=path / member.finetune)
            for epoch, split in run.evaluated():
                if member.arm == "good" and split == "test":  # as good out of distribution as in it
                    share = run.predictions(epoch, "id_test")
                    skill = float((share.y_true == share.y_pred).mean())
                    run.write_predictions(epoch, split, predictions(split, skill, member.seed + 100 * epoch))
        return path

    comparison = compared(more_robust(tmp_path))
    (effect,) = comparison.effects
    assert effect.conclusion.verdict is Verdict.HIGHER
    assert effect.p_adjusted == pytest.approx(effect.robustness.p)
    assert effect.robustness.low is not None
    assert 0 < effect.robustness.low < effect.robustness.value < effect.robustness.high
    assert comparison.summary[1].startswith(
        "Effective robustness is higher (scratch as the baseline, on new clusters, for these 2 architectures): good +"
    )
    assert "(ID " in comparison.summary[1]
    assert compared(tmp_path) == comparison  # the same seed, the same result
    assert compared(tmp_path, seed=1).effects == comparison.effects  # nothing of a contrast is drawn


def test_all_arms_are_corrected_together_or_those_that_the_judgement_names(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "a": 0.5, "b": 0.3, "c": 0.4}, seeds=(0, 1, 2))
    (suite,) = read_suite_records(tmp_path)
    edit_suite(tmp_path, arms=tuple(replace(arm, factor="other") if arm.name == "c" else arm for arm in suite.arms))
    for effect in compared(tmp_path).effects:
        assert effect.primary
        if effect.robustness.p is not None:
            assert effect.p_adjusted == pytest.approx(1 - (1 - effect.robustness.p) ** 3)
    edit_suite(tmp_path, judgement=Judgement(primary=("a",), margin=2.0))
    a, b, c = (comparison := compared(tmp_path)).effects
    assert (a.primary, b.primary, c.primary) == (True, False, False)
    assert a.p_adjusted == pytest.approx(a.robustness.p)
    assert comparison.notes[0].startswith(
        "1 primary comparison: if nothing differs, it is called a difference in at most"
    )
    assert "2 exploratory comparisons (b, c), not corrected" in comparison.notes[0]
    assert (comparison.margin, comparison.chosen_after) == (2.0, ())
    assert compared(tmp_path, margin=0.5, baseline="b").chosen_after == ("baseline b", "margin 0.5")


@pytest.mark.parametrize("name", ["gone", "scratch"])
def test_a_primary_comparison_of_no_arm_is_refused(tmp_path: Path, name: str) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "a": 0.4})
    edit_suite(tmp_path, judgement=Judgement(primary=(name,)))
    with pytest.raises(EvaluateError, match=f"judgement.primary: '{name}' is not an arm other than the baseline"):
        compared(tmp_path)


def test_percentages_of_at_most_one_are_refused_and_some_low_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("id_macro_f1,ood_macro_f1\n0.47,0.31\n0.4,0.2\n")
    with pytest.raises(EvaluateError, match="no score is above 1%: they look like fractions; read them with --unit f"):
        load_results(path, unit="percent")
    path.write_text("id_macro_f1,ood_macro_f1\n3,0.9\n4,1.2\n")
    assert [run.epochs[0].ood.macro_f1 for run in load_results(path)] == pytest.approx([0.009, 0.012])


def test_suites_that_ask_other_questions_are_not_compared(tmp_path: Path) -> None:
    fake_runs(tmp_path / "a", {"scratch": 0.3}, suite="first")
    fake_runs(tmp_path / "b", {"scratch": 0.3}, suite="second")
    edit_suite(tmp_path / "b", judgement=Judgement(line="within"))
    with pytest.raises(EvaluateError, match="suites 'first' and 'second' state different judgements"):
        compare(load_runs([tmp_path / "a", tmp_path / "b"]))


def test_the_best_epoch_is_chosen_by_val_alone(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    edit_suite(tmp_path, judgement=Judgement(epoch="best"))
    with pytest.raises(EvaluateError, match=r"epoch 1 has no predictions of val, which the best epoch is chosen by"):
        compared(tmp_path)
    (suite,) = read_suite_records(tmp_path)
    for member in suite.members:
        for epoch in (1, 4, 12):
            skill = 0.8 if epoch == 4 else 0.3
            Run(directory=tmp_path / member.finetune).write_predictions(epoch, "val", predictions("test", skill, epoch))
    comparison = compared(tmp_path)
    assert {row.epoch for row in comparison.rows if row.final} == {4}
    assert "scratch as the baseline, at the best epoch, on new clusters" in comparison.summary[1]
    assert not [note for note in comparison.notes if "epochs differ" in note]


def test_a_report_says_that_epochs_are_averaged_and_at_which_level(tmp_path: Path) -> None:
    fake_runs(tmp_path / "runs", {"scratch": 0.3, "fractals": 0.5})
    edit_suite(tmp_path / "runs", judgement=Judgement(epoch="mean", line="within", level=0.2, scale="probit"))
    comparison = compared(tmp_path / "runs")
    runs = [
        [row for row in comparison.rows if row.finetune == one] for one in {row.finetune for row in comparison.rows}
    ]
    assert [sum(row.final for row in rows) for rows in runs] == [1] * len(runs)
    for summary in comparison.arms:
        means = [np.mean([row.id.macro_f1 for row in rows]) for rows in runs if rows[0].arm == summary.arm.name]
        assert summary.id_mean == pytest.approx(np.mean(means))
        assert summary.id_sd == pytest.approx(np.std(means, ddof=1))
        assert summary.trend is None or summary.trend.n == len(means)
    assert any("averaged over all evaluated epochs" in sentence for sentence in comparison.summary)
    first = answer(comparison)
    assert first is not None
    assert "averaged over all evaluated epochs, for effective robustness" in first.compared
    effects, epochs = (tables(comparison)[name] for name in ("effects", "epochs"))
    assert "averaged over all evaluated epochs" in effects.caption
    assert "Intervals are 80%" in effects.caption
    assert "it is below 0.2 if" in effects.caption
    assert [column.title for column in epochs.columns][-1] == "ER, difference in points (80% interval)"
    assert "probit scale" in tables(comparison)["arms"].caption
    own = compared(tmp_path / "runs", scale="logit")
    assert (own.scale, own.chosen_after) == ("logit", ("scale logit",))


def test_identical_predictions_of_different_runs_are_named(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    source, target = (tmp_path / f"0001000{a}00000000" / "predictions" for a in (0, 1))
    for path in source.glob("*.parquet"):
        (target / path.name).write_bytes(path.read_bytes())
    (note,) = (note for note in compared(tmp_path).notes if "identical" in note)
    assert "fractals / resnet18 / seed 0" in note
    assert "fractals / mobilenet_v3_small / seed 0" in note


def test_models_that_predict_one_class_are_named_in_place_of_a_verdict(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    run = Run(directory=tmp_path / "0001000000000000")
    for split in ("id_test", "test"):
        whole = run.predictions(12, split)
        run.write_predictions(12, split, replace(whole, y_pred=np.zeros_like(whole.y_pred)))
    comparison = compared(tmp_path)
    assert comparison.effects[0].conclusion.verdict is Verdict.COLLAPSED
    assert comparison.summary[1].startswith("Models collapsed, so that nothing can be said (scratch as the baseline):")
    assert "1 of 4 models of fractals predicts one class or scores no better" in comparison.summary[1]


def test_arms_are_summarised_over_the_last_epoch_of_each_run(tmp_path: Path) -> None:
    comparison = compared(fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5}))
    assert [len(comparison.rows), sum(row.final for row in comparison.rows)] == [24, 8]
    final = [row for row in comparison.rows if row.final and row.arm == "fractals"]
    assert {row.epoch for row in final} == {12}
    scratch, fractals = comparison.arms
    assert fractals.ood_mean == pytest.approx(np.mean([row.ood.macro_f1 for row in final]))
    assert fractals.ood_sd == pytest.approx(np.std([row.ood.macro_f1 for row in final], ddof=1))
    assert scratch.trend is not None
    assert scratch.trend.n == 4  # one point per model
    stored = Run(directory=tmp_path / final[0].finetune).predictions(12, "test")
    assert final[0].ood == scores(stored.y_true, stored.y_pred)
    (effect,) = comparison.effects
    last = [row for row in comparison.rows if row.final]
    every, baseline = ([row for row in last if row.arm == name] for name in ("fractals", "scratch"))
    expected = [100 * (a.ood.macro_f1 - b.ood.macro_f1) for a, b in zip(every, baseline, strict=True)]
    assert effect.ood.value == pytest.approx(np.mean(expected))
    robustness = [100 * (row.ood.macro_f1 - float(scratch.trend.predict(row.id.macro_f1))) for row in every]
    assert [row.effective_robustness for row in every] == pytest.approx(robustness)
    assert fractals.effective_robustness == pytest.approx(np.mean(robustness))
    assert fractals.slope.value == pytest.approx(fractals.trend.slope if fractals.trend else None)
    assert fractals.band is not None
    assert all(low <= high for low, high in zip(fractals.band.low, fractals.band.high, strict=True))


def test_runs_that_are_not_in_the_numbers_are_named_with_the_reason(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    (suite,) = read_suite_records(tmp_path)
    failed, absent, half = (member.finetune for member in suite.members[4:7])
    set_status(tmp_path, failed, "failed")
    (tmp_path / absent / "state.json").unlink()
    for path in (tmp_path / half / "predictions").glob("*-id_test.parquet"):
        path.unlink()
    comparison = compared(tmp_path)
    incomplete = "done, but no epoch has predictions for both id_test and test"
    assert sorted(comparison.unfinished) == [
        f"fractals / mobilenet_v3_small / seed 0 ({half}): {incomplete}",
        f"fractals / resnet18 / seed 0 ({failed}): failed",
        f"fractals / resnet18 / seed 1 ({absent}): absent",
    ]
    assert comparison.arms[1].planned == 4
    assert comparison.arms[1].finished == 1
    assert comparison.effects[0].robustness.p is None
    assert comparison.effects[0].n == 1


def test_an_epoch_counts_only_with_both_splits(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3}, architectures=("resnet18",), seeds=(0,))
    next((tmp_path / "0000000000000000" / "predictions").glob("0012-test*")).unlink()
    assert [(row.epoch, row.final) for row in compared(tmp_path).rows] == [(1, False), (4, True)]


def test_one_run_alone_gives_numbers_and_no_claims(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3}, architectures=("resnet18",), seeds=(0,), epochs=(3,))
    comparison = compared(tmp_path)
    assert comparison.effects == ()
    assert comparison.arms[0].ood_sd is None
    assert comparison.arms[0].trend is None
    assert comparison.summary[1:] == ("Arms cannot be compared, because no run of any other arm is finished.",)


def test_one_epoch_a_run_gives_a_difference_from_the_runs_of_a_block_and_no_trend(tmp_path: Path) -> None:
    comparison = compared(fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5}, seeds=(0,), epochs=(3,)))
    assert comparison.effects[0].slope.value is None
    assert {one.name: one.estimate.note for one in comparison.effects[0].checks}["mixed model"] == (
        "one evaluated epoch a run"
    )
    assert {row.effective_robustness for row in comparison.rows} == {None}
    assert "fractals: no trend, which takes 3 points with different ID macro-F1." in comparison.notes


def test_extrapolation_beyond_the_baseline_is_noted(tmp_path: Path) -> None:
    comparison = compared(fake_runs(tmp_path, {"scratch": 0.2, "fractals": 0.7}))
    assert comparison.arms[1].extrapolated == 4
    assert any("extrapolated" in note and "fractals (4 of 4 runs)" in note for note in comparison.notes)


# iWildCam, macro-F1 in percent: the WILDS paper (arXiv 2012.07421v3), tables 4 (appendix E.1.2) and 3.
PUBLISHED = """\
model,architecture,id_macro_f1,ood_macro_f1,split
ERM,ResNet-50,47.0,31.0,test
CORAL,ResNet-50,43.5,32.8,test
IRM,ResNet-50,22.4,15.1,test
Group DRO,ResNet-50,37.5,23.9,test
Reweighted (label),ResNet-50,42.2,26.2,test
ERM,ResNet-50,48.8,37.4,val
ERM (tuned on ID val),ResNet-50,47.2,29.8,test
"""


def test_published_scores_alone_give_a_trend(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text(PUBLISHED)
    comparison = compare(load_results(tmp_path / "published.csv"))
    (arm,) = comparison.arms
    assert arm.trend is not None
    assert arm.trend.n == 6  # rows of the split test
    assert 0.5 < arm.trend.slope < 1.5
    assert (comparison.effects, comparison.resamples, comparison.n_classes) == ((), 0, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id_macro_f1\n30\n", "no column ood_macro_f1"),
        ("id_macro_f1,ood_macro_f1\n", "no row of the split test"),
        ("id_macro_f1,ood_macro_f1\n30,x\n", "line 2: ood_macro_f1 'x' is not a number"),
        ("id_macro_f1,ood_macro_f1\n30,20\n130,20\n", "line 3: id_macro_f1 130; must be a percentage from 0 to 100"),
        ("id_macro_f1,ood_macro_f1\n0.47,0.31\n0.4,0.2\n", "line 2: scores look like fractions; say which they are"),
        ("id_macro_f1,ood_macro_f1\n47,31\n0.4,0.2\n", "line 3: scores look like a fraction among percentages"),
        ("id_macro_f1,ood_macro_f1\n47,31\n0.45,30\n", "line 3: scores look like a fraction among percentages"),
        ("id_macro_f1,ood_macro_f1\n0.36,23.6\n0.34,22\n", "line 2: scores look like a fraction among percentages"),
        ("id_macro_f1,ood_macro_f1,seed\n30,20,a\n", "line 2: seed 'a' is not a whole number"),
        ("id_macro_f1,ood_macro_f1,seed\n30,20,1\n30,21,1\n", "2 rows of arm, architecture and seed"),
    ],
)
def test_a_wrong_file_of_published_scores_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(EvaluateError, match=told):
        load_results(tmp_path / "r.csv")


def test_published_fractions_are_read_as_such_and_names_are_trimmed(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("id_macro_f1,ood_macro_f1,pretraining\n 0.47 ,0.31, ImageNet \n0.4,0.2,ImageNet\n")
    runs = load_results(tmp_path / "r.csv", unit="fraction")
    assert [run.epochs[0].id.macro_f1 for run in runs] == [0.47, 0.4]
    assert {run.arm.name for run in runs} == {"ImageNet"}


def test_published_rows_of_one_architecture_and_seed_are_paired(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["id_macro_f1,ood_macro_f1,pretraining,architecture,seed"]
    for seed in range(9):
        for arm, gain in (("scratch", 0), ("ImageNet", 5)):
            ids = rng.uniform(30, 45)
            rows.append(f"{ids},{0.8 * ids + gain + rng.normal(0, 0.3)},{arm},r50,{seed}")
    (tmp_path / "r.csv").write_text("\n".join(rows))
    (effect,) = compare(load_results(tmp_path / "r.csv")).effects
    assert (effect.n, effect.unpaired) == (9, 0)
    assert 3 < effect.robustness.value < 6
    assert effect.conclusion.verdict is Verdict.HIGHER


def test_published_rows_of_one_source_are_different_runs(tmp_path: Path) -> None:
    rows = ["id_macro_f1,ood_macro_f1,pretraining,architecture,seed,source"]
    for seed in range(5):
        rows += [
            f"{40 + seed},{30 + seed},scratch,r50,{seed},a paper",
            f"{41 + seed},{33 + seed},ImageNet,r50,{seed},a paper",
        ]
    (tmp_path / "r.csv").write_text("\n".join(rows))
    (effect,) = compare(load_results(tmp_path / "r.csv")).effects
    assert (effect.n, effect.units, effect.unpaired) == (5, 5, 0)
    assert effect.ood.value == pytest.approx(3)


def test_runs_that_share_a_pre_training_run_are_noted(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "natural": 0.5})
    (suite,) = read_suite_records(tmp_path)
    edit_suite(tmp_path, members=tuple(replace(m, pretrain=m.pretrain and "5" * 16) for m in suite.members))
    assert any(
        "natural: 4 blocks are only 1 independent run: several fine-tunings of one" in note
        for note in compared(tmp_path).notes
    )


def test_unpaired_runs_are_left_out_of_differences_and_noted(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    set_status(tmp_path, "0000000000000000", "running")
    comparison = compared(tmp_path)
    assert comparison.effects[0].n == 3
    assert any("fractals: 1 run without a baseline run" in note for note in comparison.notes)


def test_the_baseline_can_be_chosen_and_an_unknown_one_lists_the_arms(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    assert compared(tmp_path, baseline="fractals").effects[0].arm.name == "scratch"
    with pytest.raises(EvaluateError, match=r"no arm is called 'x': choose the baseline from scratch, fractals"):
        compared(tmp_path, baseline="x")


def test_different_tasks_are_not_compared(tmp_path: Path) -> None:
    fake_runs(tmp_path / "a", {"scratch": 0.3}, suite="first")
    fake_runs(tmp_path / "b", {"scratch": 0.3}, suite="second")
    edit_suite(tmp_path / "b", task={"name": "iwildcam", "class_names": [f"animal {k}" for k in range(N_CLASSES)]})
    with pytest.raises(EvaluateError, match=r"'first' and 'second'.*'simulated camera traps' with 12.*'iwildcam' with"):
        compare(load_runs([tmp_path / "a", tmp_path / "b"]))


def test_different_images_under_one_task_are_not_compared(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    run = Run(directory=tmp_path / "0001000000000000")
    whole = run.predictions(12, "test")
    part = {name: getattr(whole, name)[:-1] for name in ("image_id", "y_true", "y_pred", "location", "sequence")}
    run.write_predictions(12, "test", Predictions(**part))
    with pytest.raises(EvaluateError, match=r"fractals .*different images or labels.*500 and 499 of test"):
        compared(tmp_path)


def test_repeated_images_are_counted_and_refused(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3})
    run = Run(directory=tmp_path / "0000000000000000")
    stored = run.predictions(12, "test")
    stored.image_id[:3] = stored.image_id[10]
    run.write_predictions(12, "test", stored)
    with pytest.raises(EvaluateError, match=r"0012-test\.parquet: 3 images appear more than once"):
        load_runs([tmp_path])


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3})
    path = tmp_path / "0000000000000000" / "predictions" / "0012-test.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(EvaluateError, match=f"^{path}: cannot be read as predictions"):
        load_runs([tmp_path])


def test_nothing_finished_is_refused_with_what_there_is(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3}, seeds=(0,))
    set_status(tmp_path, "0000000000000000", "failed")
    set_status(tmp_path, "0000000100000000", "running")
    with pytest.raises(EvaluateError, match=r"no run is finished.*1 running, 1 failed|1 failed, 1 running"):
        compared(tmp_path)


def test_suites_that_share_runs_count_them_once(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5}, suite="first")
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5}, suite="second")
    comparison = compared(tmp_path)
    assert comparison.suites == ("first", "second")
    assert sum(row.final for row in comparison.rows) == 8


@pytest.mark.parametrize("unequal", [False, True])
def test_tables_of_runs_and_clusters_average_the_epochs_that_are_averaged(tmp_path: Path, unequal: bool) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    if unequal:
        (directory := next(tmp_path.glob("*/predictions"))).joinpath("0012-test.parquet").unlink()
        directory.joinpath("0012-id_test.parquet").unlink()
    edit_suite(tmp_path, judgement=Judgement(epoch="mean"))
    comparison = compared(tmp_path)
    by_run: dict[tuple[str, str, str], list[Row]] = {}
    for row in comparison.rows:
        by_run.setdefault((row.arm, row.architecture, str(row.seed)), []).append(row)
    assert {len(rows) for rows in by_run.values()} == ({2, 3} if unequal else {3})
    made = tables(comparison)
    assert "mean ER over all its evaluated epochs" in made["runs"].caption
    titles = [column.title for column in made["runs"].columns]
    for cells in made["runs"].cells:
        shown = dict(zip(titles, cells, strict=True))
        own = by_run[shown["Arm"], shown["Architecture"], shown["Seed"]]
        assert shown["OOD macro-F1 (%)"] == f"{100 * np.mean([row.ood.macro_f1 for row in own]):.1f}"
        assert shown["ID recall (%)"] == f"{100 * np.mean([row.id.recall for row in own]):.1f}"
        assert shown["ER (points)"] == signed(float(np.mean([row.effective_robustness for row in own])))
    for summary, record in zip(comparison.arms, made["worst"].records, strict=True):
        runs = [rows for (arm, *_), rows in by_run.items() if arm == summary.arm.name]
        worst = [np.mean([row.worst_location for row in rows]) for rows in runs]
        found = [record[f"worst_location{end}"] for end in ("", "_lowest", "_highest")]
        assert found == pytest.approx([np.mean(worst), min(worst), max(worst)])
        robustness = [np.mean([row.effective_robustness for row in rows]) for rows in runs]
        assert summary.effective_robustness == pytest.approx(np.mean(robustness))


def test_a_note_names_the_arms_whose_runs_end_at_other_epochs(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3, "fractals": 0.5})
    for split in ("id_test", "test"):
        (tmp_path / "0001000000000000" / "predictions" / f"0012-{split}.parquet").unlink()
    told = "The last evaluated epochs differ between runs: 12 in scratch; 4 or 12 in fractals."
    assert told in compared(tmp_path).notes


def test_an_arm_that_means_two_things_is_refused(tmp_path: Path) -> None:
    fake_runs(tmp_path / "a", {"scratch": 0.3}, suite="first")
    fake_runs(tmp_path / "b", {"scratch": 0.3}, suite="second")
    edit_suite(tmp_path / "b", arms=(Arm(name="scratch", factor="source", level="?", description="other"),))
    with pytest.raises(EvaluateError, match="arm 'scratch' means different things in suites 'first' and 'second'"):
        compare(load_runs([tmp_path / "a", tmp_path / "b"]))


def test_two_runs_in_one_place_are_refused(tmp_path: Path) -> None:
    fake_runs(tmp_path, {"scratch": 0.3}, seeds=(0,))
    (suite,) = read_suite_records(tmp_path)
    other = replace(suite, name="other", members=(replace(suite.members[0], finetune="5" * 16),))
    write_suite_record(tmp_path, other)
    with pytest.raises(EvaluateError, match="two different runs have the same arm, architecture and seed"):
        compared(tmp_path)


def test_comparing_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, synthgen_evaluate.analysis.compare; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_reference_takes_the_place_of_the_baseline(tmp_path: Path) -> None:
    path = fake_runs(tmp_path, {"scratch": 0.3, "natural": 0.5, "fractals": 0.4}, seeds=(0, 1, 2))
    edit_suite(path, reference="natural")
    both = compared(path)
    assert both.baseline == "scratch"
    assert both.reference is not None
    assert both.reference.arm == "natural"
    alone = compared(path, baseline="natural", reference="scratch")
    by_arm = {effect.arm.name: effect for effect in alone.effects}
    for effect in both.reference.effects:
        other = by_arm[effect.arm.name]
        assert (effect.robustness.p, effect.conclusion, effect.n) == (other.robustness.p, other.conclusion, other.n)
        for ours, theirs in ((effect.robustness, other.robustness), (effect.ood, other.ood)):
            assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))
    means = {summary.arm.name: summary.effective_robustness for summary in alone.arms}
    assert dict(both.reference.robustness) == pytest.approx(means)
    assert all(sentence in both.summary for sentence in both.reference.summary)
    (natural,) = (effect.ood for effect in both.effects if effect.arm.name == "natural")
    (scratch,) = (effect.ood for effect in both.reference.effects if effect.arm.name == "scratch")
    assert natural.value == pytest.approx(-scratch.value)


def test_a_reference_must_be_another_arm(tmp_path: Path) -> None:
    path = fake_runs(tmp_path, {"scratch": 0.3, "natural": 0.5})
    for name in ("scratch", "nature"):
        with pytest.raises(EvaluateError, match="choose from natural"):
            compared(path, reference=name)
    edit_suite(path, reference="scratch")  # a suite's reference gives way to a baseline that is chosen
    assert compared(path).reference is None
    assert compared(path, baseline="natural").reference is not None


def test_every_location_has_the_mean_macro_f1_of_the_last_epochs(tmp_path: Path) -> None:
    found = compared(fake_runs(tmp_path, {"scratch": 0.3, "natural": 0.5}))
    assert [one.location for one in found.locations] == list(range(9))
    last = [run.epochs[-1].ood_predicted for run in load_runs([tmp_path]) if run.arm.name == "natural"]
    for one in found.locations:
        own = [(p.truth.y[at], p.y[at]) for p in last if p is not None for at in [p.truth.location == one.location]]
        assert one.n_images == len(own[0][0])
        assert one.few == (one.n_images < 10)
        assert one.macro_f1[1] == pytest.approx(np.mean([scores(y, p.astype(np.int64)).macro_f1 for y, p in own]))


def test_machines_and_versions_of_the_runs_are_told(tmp_path: Path) -> None:
    path = fake_runs(tmp_path, {"scratch": 0.3, "natural": 0.5})
    for position, record in enumerate(sorted(path.glob("*/state.json"))):
        device = "x86_64" if position else "NVIDIA H100"
        state = {"status": "done", "device": device, "cores": 2, "processes": 1, "versions": {"torch": "2.7.0"}}
        write_json(record, state)
    assert compared(path).environments == (
        "7 runs on x86_64, 2 cores, 1 process: torch 2.7.0",
        "1 run on NVIDIA H100, 2 cores, 1 process: torch 2.7.0",
    )


def test_a_comparison_shows_itself_in_a_notebook() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from comparisons import made; from synthgen_evaluate import compare;"
        "from synthgen_evaluate.analysis.compare import compare as inner; assert compare is inner;"
        "print(made()._repr_html_())"
    )
    html = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "<table>" in html
    assert "natural" in html
