from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgen.common.records import digest
from synthgen.common.seeds import derive_seed
from synthgen.dataset.plan import Plan, difference, new_plan, read_plan
from synthgen.kinds.diffusion.content import ClassRecord, DiffusionContent, ModelRecord, PromptRecord, Sampling


def content(n_classes: int = 10, n_templates: int = 8, seed: int = 0, **changes: Any) -> DiffusionContent:
    ids = tuple(f"c{number}" for number in range(n_classes))
    values: dict[str, Any] = {
        "seed": seed,
        "prompts": PromptRecord(
            name="p", version="1", sha256="0" * 64, templates=tuple(f"photo {i} of {{}}." for i in range(n_templates))
        ),
        "classes": ClassRecord(name="c", sha256="1" * 64, ids=ids, names=tuple(name.upper() for name in ids)),
        "model": ModelRecord(name="tiny", revision="sha256:2", variant=None),
        "sampling": Sampling(scheduler="dpm++", steps=2, guidance=3.0, negative_prompt="", size=32, dtype="float32"),
        "image_format": "png",
        "quality": 95,
        "exclude_flagged": False,
    }
    return DiffusionContent(**(values | changes))


SIZES = {"n_classes": st.integers(1, 12), "n_templates": st.integers(1, 9), "seed": st.integers(0, 2**32)}


@given(n=st.integers(1, 400), **SIZES)
def test_any_n_is_balanced_over_classes_and_templates(n: int, n_classes: int, n_templates: int, seed: int) -> None:
    one = content(n_classes, n_templates, seed)
    samples = [one.sample(index) for index in range(n)]
    per_class = Counter(sample.label for sample in samples)
    counts = [per_class[label] for label in range(n_classes)]
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1
    pairs = Counter((sample.label, sample.variant) for sample in samples)
    for label in range(n_classes):
        counts = [pairs[label, template] for template in range(n_templates)]
        assert sum(counts) == per_class[label]
        assert max(counts) - min(counts) <= 1


@given(block=st.integers(0, 10**7), **SIZES)
def test_every_block_holds_every_class_once(block: int, n_classes: int, n_templates: int, seed: int) -> None:
    one = content(n_classes, n_templates, seed)
    samples = [one.sample(block * n_classes + slot) for slot in range(n_classes)]
    assert sorted(sample.label for sample in samples) == list(range(n_classes))


@given(indices=st.lists(st.integers(0, 3000), max_size=40), **SIZES)
def test_a_sample_does_not_depend_on_what_was_asked_before(
    indices: list[int], n_classes: int, n_templates: int, seed: int
) -> None:
    one = content(n_classes, n_templates, seed)
    backwards = {index: one.sample(index) for index in reversed(indices)}
    assert [one.sample(index) for index in indices] == [backwards[index] for index in indices]


def test_orders_differ_by_block_by_class_by_walk_and_by_seed() -> None:
    one, other = content(10, 20, seed=1), content(10, 20, seed=2)
    samples = [one.sample(index) for index in range(10 * 20 * 2)]
    blocks = {tuple(sample.label for sample in samples[start : start + 10]) for start in range(0, 400, 10)}
    walks = [tuple(sample.variant for sample in samples if sample.label == wanted) for wanted in range(10)]
    assert len(blocks) == 40
    assert len({walk[:20] for walk in walks} | {walk[20:] for walk in walks}) == 20
    assert samples != [other.sample(index) for index in range(len(samples))]


def test_order_seeds_and_digest_are_the_same_on_every_machine_and_version() -> None:
    one = content(5, 3, seed=1)
    samples = [one.sample(index) for index in range(10)]
    assert [sample.label for sample in samples] == [0, 4, 1, 3, 2, 3, 0, 1, 2, 4]
    assert [sample.variant for sample in samples] == [0, 1, 0, 2, 1, 0, 1, 1, 2, 2]
    assert samples[7].key == "000000007"
    assert one.caption(samples[1]) == "photo 1 of C4."
    large = [content(1000, 80).sample(index) for index in (0, 999_999)]
    assert [(sample.label, sample.variant) for sample in large] == [(322, 24), (534, 76)]
    assert one.image_seed(7) == derive_seed(1, 7) == 15671470579826425510
    assert digest(one) == "1bcd07072446bce63425b5d75b8db01109a5bbef12cd611b99af45eeab1853d7"


def test_each_attempt_at_an_image_has_a_seed_of_its_own() -> None:
    one = content()
    seeds = [one.image_seed(index, attempt) for index in range(50) for attempt in range(5)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)


def plan(**changes: Any) -> Plan:
    return new_plan(name="sd", content=content(**changes), n=30, shard_size=10, origin={"batch": 5})


def test_a_plan_of_diffusion_images_reads_back_as_it_was_written(tmp_path: Any) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan().to_json())
    assert read_plan(path) == plan()


BASE = content()
CHANGES: dict[str, Any] = {
    "seed": 2,
    "prompts.version": replace(BASE.prompts, version="2"),
    "prompts.templates": replace(BASE.prompts, templates=("{}", "a {}")),
    "classes.names": replace(BASE.classes, names=(*BASE.classes.names[:9], "other")),
    "model.revision": replace(BASE.model, revision="sha256:3"),
    "sampling.steps": replace(BASE.sampling, steps=3),
    "sampling.guidance": replace(BASE.sampling, guidance=3.5),
    "sampling.negative_prompt": replace(BASE.sampling, negative_prompt="blurry"),
    "image_format": "jpg",
    "quality": 90,
    "exclude_flagged": True,
}


@pytest.mark.parametrize("key", CHANGES)
def test_any_change_of_the_content_changes_the_digest_and_is_told(key: str) -> None:
    other = replace(plan(), content=replace(BASE, **{key.partition(".")[0]: CHANGES[key]}))
    assert other.digest != plan().digest
    assert difference(plan(), other).startswith(f"{key}: ")
