"""The plan for the paper's scale: its simulation of the scheduler, and that the page says what the tool prints."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthgen_evaluate.design.cost import stated
from synthgen_evaluate.design.experiments import by_arm
from synthgen_evaluate.design.suite import read_suite

ROOT = Path(__file__).parents[1]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_scale", ROOT / "tests/benchmarks/scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


scale = _load()
Fleet, Job, simulate = scale.Fleet, scale.Job, scale.simulate

JOBS = st.builds(
    Job,
    shards=st.integers(1, 40),
    useful=st.floats(1, 500),
    filled=st.floats(1, 1.5),
    overhead=st.floats(0, 5),
    n_bytes=st.floats(0, 1e9),
)
FLEETS = st.builds(
    Fleet,
    workers=st.integers(1, 60),
    shared=st.booleans(),
    startup=st.floats(0, 300),
    cv=st.floats(0, 0.5),
    slow_share=st.floats(0, 1),
    slow_factor=st.floats(1, 3),
    preempted=st.sampled_from((0.0, 0.3, 3.0)),
    away=st.floats(0, 1000),
    silent=st.floats(0, 100),
    upload=st.floats(1e6, 1e9),
    store=st.floats(1e7, 1e10),
)


@settings(deadline=None, max_examples=60)
@given(job=JOBS, fleet=FLEETS, seed=st.integers(0, 2**32))
def test_every_shard_is_done_once_and_all_paid_time_is_accounted_for(job, fleet, seed):
    out = simulate(job, fleet, seed=seed)
    assert out.commits == [1] * job.shards
    assert out.attempts >= job.shards
    assert out.useful == pytest.approx(job.shards * job.useful)
    assert out.paid == pytest.approx(sum(getattr(out, part) for part in scale.PARTS))
    assert out.paid <= fleet.workers * out.makespan * (1 + 1e-9)
    assert all(getattr(out, part) >= -1e-6 for part in scale.PARTS if part != "slow")


@settings(deadline=None, max_examples=60)
@given(shards=st.integers(1, 200), workers=st.integers(1, 100), shared=st.booleans())
def test_where_nothing_happens_the_fullest_worker_says_how_long_it_takes(shards, workers, shared):
    out = simulate(Job(shards=shards, useful=60), Fleet(workers=workers, shared=shared, startup=100), seed=0)
    assert out.makespan == pytest.approx(100 + 60 * math.ceil(shards / workers))
    assert out.lost == out.store == 0
    assert out.attempts == shards


@settings(deadline=None, max_examples=60)
@given(shards=st.integers(1, 200), workers=st.integers(1, 100), more=st.integers(1, 50), shared=st.booleans())
def test_more_workers_never_take_longer_where_nothing_happens(shards, workers, more, shared):
    job = Job(shards=shards, useful=60, overhead=2)
    few, many = (simulate(job, Fleet(workers=w, shared=shared), seed=0).makespan for w in (workers, workers + more))
    assert many <= few * (1 + 1e-9)


def test_each_misfortune_costs_efficiency():
    job, calm = scale.images(100_000, 1000), replace(scale.CALM, workers=8)
    base = scale.mean(job, calm)["useful"]
    for change in ({"preempted": 2.0}, {"slow_share": 0.5, "slow_factor": 2.0}, {"store": 2e6}, {"startup": 2000.0}):
        assert scale.mean(job, replace(calm, **change))["useful"] < base - 0.02, change


def test_a_store_bounds_the_time_however_many_workers_there_are():
    out = simulate(Job(shards=100, useful=10, n_bytes=1e8), Fleet(workers=100, store=1e7), seed=0)
    assert out.makespan == pytest.approx(10 + 100 * 1e8 / 1e7)


def test_a_dead_workers_shard_is_taken_over_once_its_claim_has_been_silent():
    fleet = Fleet(workers=2, preempted=20.0, away=0.0, silent=500.0)
    runs = [simulate(Job(shards=1, useful=60), fleet, seed=seed) for seed in range(40)]
    taken = [out for out in runs if out.attempts > 1]
    assert taken
    assert all(out.makespan >= 500 * (out.attempts - 1) + 60 for out in taken)


def test_fixed_shares_wait_for_the_slow_worker_but_give_the_others_back():
    fleet = Fleet(workers=10, slow_share=0.2, slow_factor=3.0)
    free, fixed = (
        [simulate(Job(shards=200, useful=60), replace(fleet, shared=shared), seed=seed) for seed in range(10)]
        for shared in (True, False)
    )
    assert np.mean([out.makespan for out in fixed]) > 1.5 * np.mean([out.makespan for out in free])
    assert all(out.idle == 0 for out in fixed)


def test_a_seed_gives_the_same_run_again_and_another_seed_another():
    job, fleet = scale.images(50_000, 1000), replace(scale.BOTH, workers=8)
    assert simulate(job, fleet, seed=1) == simulate(job, fleet, seed=1)
    assert simulate(job, fleet, seed=1).paid != simulate(job, fleet, seed=2).paid


@settings(deadline=None, max_examples=60)
@given(
    chains=st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 10)), min_size=1, max_size=30),
    gpus=st.integers(1, 20),
)
def test_a_schedule_of_trainings_keeps_within_its_bounds(chains, gpus):
    hours, share = scale.schedule(chains, gpus)
    total, longest = sum(map(sum, chains)), max(map(sum, chains))
    assert max(total / gpus, longest) <= hours * (1 + 1e-9)
    assert hours <= (total / gpus + longest) * (1 + 1e-9)  # Graham 1966
    assert share * hours * gpus == pytest.approx(total)


def test_the_hours_of_training_are_those_of_evaluate_plan():
    suite = read_suite(ROOT / "evaluate/suites/paper.toml")
    planned = by_arm(suite, stated(suite.cost, suite.image_size)).values()
    chains = scale.chains()
    assert sum(map(sum, chains)) == pytest.approx(sum(cost.hours for cost in planned))
    assert len(chains) + sum(before > 0 for before, _ in chains) == sum(cost.runs for cost in planned)
    assert sum(map(sum, scale.chains(448, 448))) == pytest.approx(4 * sum(map(sum, chains)))


def test_the_page_says_what_the_tool_prints():
    page = (ROOT / "docs/scale.md").read_text()
    assert scale.written(page) == page
