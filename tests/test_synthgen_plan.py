import json
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthgen.common.errors import SynthgenError
from synthgen.common.records import digest
from synthgen.common.seeds import derive_seed
from synthgen.dataset.plan import Plan, difference, new_plan, read_plan
from synthgen.kinds.fractaldb.content import CategoryRecord, FractalContent


def content(n_categories: int = 3, **changes: Any) -> FractalContent:
    rows = ((0.5, 0.0, 0.0, 0.5, 0.1, 0.2, 0.25), (0.5, 0.1, 0.0, 0.5, 0.1, 0.2, 0.75))
    values: dict[str, Any] = {
        "seed": 1,
        "draw": "patch_gray",
        "size": 32,
        "n_points": 500,
        "weight_step": 0.4,
        "layout": (25, 10, 4),
        "categories": tuple(CategoryRecord(name=f"c{i}", rows=rows) for i in range(n_categories)),
    }
    return FractalContent(**(values | changes))


def plan(n: int = 100, shard_size: int = 30, **changes: Any) -> Plan:
    return new_plan(name="set", content=content(**changes), n=n, shard_size=shard_size, origin={"folder": "x"})


@st.composite
def growing_plans(draw: st.DrawFn) -> tuple[Plan, ...]:
    """A plan and what it grows to, each step with a shard size of its own."""
    layout = draw(st.sampled_from([(25, 10, 4), (25, 1, 4)]))
    one = content(n_categories=draw(st.integers(1, 6)), layout=layout, seed=draw(st.integers(0, 9)))
    sizes = sorted(draw(st.sets(st.integers(1, min(700, one.n_available)), min_size=1, max_size=4)))
    shard = st.integers(1, 200)
    plans = [new_plan(name="set", content=one, n=sizes[0], shard_size=draw(shard), origin={})]
    for n in sizes[1:]:
        plans.append(plans[-1].grown(n, draw(shard)))
    return tuple(plans)


@settings(max_examples=60, deadline=None)
@given(plans=growing_plans())
def test_image_i_is_the_same_whatever_n_the_shard_size_and_the_growth(plans: tuple[Plan, ...]) -> None:
    whole = new_plan(
        name="other", content=plans[0].content, n=plans[0].content.n_available, shard_size=7, origin={"x": 1}
    )
    samples = [whole.sample(i) for i in range(plans[-1].n)]
    for one in plans:
        assert [one.sample(i) for i in range(one.n)] == samples[: one.n]
        assert one.digest == whole.digest
    assert [sample.index for sample in samples] == list(range(len(samples)))


@settings(max_examples=60, deadline=None)
@given(plans=growing_plans())
def test_shards_hold_every_image_once_and_growing_leaves_the_first_ones_as_they_are(plans: tuple[Plan, ...]) -> None:
    for one in plans:
        spans = [one.shard(j) for j in range(one.n_shards)]
        assert [i for span in spans for i in range(span.start, span.stop)] == list(range(one.n))
        assert len({span.stem for span in spans}) == len(spans)
        with pytest.raises(IndexError):
            one.shard(one.n_shards)
    for before, after in pairwise(plans):
        assert [before.shard(j) for j in range(before.n_shards)] == [after.shard(j) for j in range(before.n_shards)]


@pytest.mark.parametrize("layout", [(25, 10, 4), (25, 1, 4)])
def test_the_full_range_holds_every_instance_of_every_category_once(layout: tuple[int, int, int]) -> None:
    one = content(n_categories=4, layout=layout)
    samples = [one.sample(i) for i in range(one.n_available)]
    per_category = layout[0] * layout[1] * layout[2]
    assert one.n_available == 4 * per_category
    assert sorted((s.label, s.variant) for s in samples) == [(c, m) for c in range(4) for m in range(per_category)]
    assert len({s.key for s in samples}) == len(samples)
    assert not any("." in s.key for s in samples)
    assert [s.key for s in samples] == sorted(s.key for s in samples)


@pytest.mark.parametrize(("layout", "group"), [((25, 10, 4), 40), ((25, 1, 4), 4)])
def test_any_number_of_images_is_balanced_to_within_one_group(layout: tuple[int, int, int], group: int) -> None:
    one = content(n_categories=5, layout=layout)
    counts = Counter(dict.fromkeys(range(5), 0))
    for i in range(one.n_available):
        counts[one.sample(i).label] += 1
        assert max(counts.values()) - min(counts.values()) <= group


def test_the_pictures_that_share_an_orbit_stand_together_and_categories_are_mixed() -> None:
    one = content(n_categories=6)
    blocks = [[one.sample(i) for i in range(start, start + 40)] for start in range(0, one.n_available, 40)]
    for block in blocks:
        assert len({s.label for s in block}) == 1
        assert [s.variant for s in block] == list(range(block[0].variant, block[0].variant + 40))
        assert block[0].variant % 40 == 0
    orders = {tuple(block[0].label for block in blocks[row : row + 6]) for row in range(0, 150, 6)}
    assert len(orders) > 15  # each weight row has an order of its own
    assert all(sorted(order) == list(range(6)) for order in orders)


def test_the_order_depends_on_the_seed() -> None:
    one, other = content(n_categories=6, seed=1), content(n_categories=6, seed=2)
    assert [one.sample(i).label for i in range(0, 2000, 40)] != [other.sample(i).label for i in range(0, 2000, 40)]


def test_the_samples_and_the_digest_of_a_known_plan_have_not_changed() -> None:
    one = content(n_categories=5)
    assert [one.sample(i).label for i in range(0, 600, 40)] == [1, 4, 0, 3, 2, 2, 0, 4, 1, 3, 4, 0, 3, 1, 2]
    assert digest(one) == "4f37ec20bd8cc7a6a80812af5e5aa3932f2eb594592ec41fc75e6a132f1f8ec2"
    assert one.sample(201) == one.sample(201)


def test_the_digest_does_not_depend_on_n_shard_size_origin_or_name() -> None:
    one = plan()
    assert plan(n=7).digest == plan(shard_size=1).digest == one.grown(500, 3).digest == one.digest
    assert replace(one, origin={"search": 3}, name="other").digest == one.digest


CHANGES: dict[str, Any] = {
    "seed": 2,
    "draw": "point_gray",
    "size": 33,
    "n_points": 501,
    "weight_step": 0.3,
    "layout": (25, 1, 4),
    "categories": content(n_categories=4).categories,
}


@pytest.mark.parametrize("key", [field.name for field in fields(FractalContent)])
def test_any_change_of_the_content_changes_the_digest_and_is_told(key: str) -> None:
    one, other = plan(), replace(plan(), content=content(**{key: CHANGES[key]}))
    assert one.digest != other.digest
    assert difference(one, other).startswith(f"{key}: ")
    assert difference(one, one) == ""


def test_one_bit_of_one_parameter_changes_the_digest() -> None:
    one = content()
    first, second = one.categories[2].rows
    changed = replace(one.categories[2], rows=(first, (*second[:4], second[4] + 2**-56, *second[5:])))
    other = replace(one, categories=(*one.categories[:2], changed))
    assert digest(other) != digest(one)
    assert difference(plan(), replace(plan(), content=other)).endswith("or others")


@settings(max_examples=30, deadline=None)
@given(plans=growing_plans())
def test_a_plan_reads_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, plans: tuple[Plan, ...]) -> None:
    path = tmp_path_factory.getbasetemp() / "plan.json"
    path.write_text(plans[-1].to_json())
    assert read_plan(path) == plans[-1]


def edited(tmp_path: Path, change: Any) -> Path:
    record = json.loads(plan().to_json())
    change(record)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda r: r.update(extra=1), r"extra: .*"),
        (lambda r: r["content"].update(colour="red"), r"content\.colour: "),
        (lambda r: r["content"]["categories"][1].update(weight=1), r"content\.categories\.1\.weight: "),
        (lambda r: r.pop("segments"), r"segments: "),
        (lambda r: r["content"].update(size="large"), r"content\.size: "),
        (lambda r: r.update(format=2), r"format 2; this version reads format 1"),
        (lambda r: r["content"].update(seed=2), r"its content was edited: digest [0-9a-f]{16}, recorded [0-9a-f]{16}"),
        (lambda r: r["content"]["categories"][0]["rows"][0].__setitem__(2, 0.5), r"its content was edited"),
        (lambda r: r.update(digest="0" * 64), r"its content was edited"),
        (lambda r: r.update(n=99), r"n: 99 images; the segments contain 100"),
        (lambda r: r.update(segments=[], n=0), r"n: 0 images; its content describes 3000"),
        (lambda r: r["segments"][0].update(start=5), r"segments: they are not consecutive from 0"),
        (lambda r: r["segments"][0].update(shard_size=0), r"segments: "),
        (
            lambda r: (r["segments"][0].update(stop=3001), r.update(n=3001)),
            r"n: 3001 images; its content describes 3000",
        ),
    ],
)
def test_a_damaged_plan_is_refused_by_file_and_key(tmp_path: Path, change: Any, complaint: str) -> None:
    path = edited(tmp_path, change)
    with pytest.raises(SynthgenError, match=complaint) as error:
        read_plan(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_file_that_is_no_plan_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(data)
    with pytest.raises(SynthgenError, match=r"plan\.json: (the file: |not JSON|not UTF-8)"):
        read_plan(tmp_path / "plan.json")


def test_a_missing_plan_asks_whether_this_is_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(SynthgenError, match="No such file or directory; is this a dataset directory"):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("n", [-1, 0, 3001])
def test_n_out_of_range_is_refused_with_what_there_is(n: int) -> None:
    with pytest.raises(SynthgenError, match=rf"n = {n}: 3 categories have 3000 images \(25 x 10 x 4 each\)"):
        plan(n=n)


def test_a_shard_size_below_one_is_refused() -> None:
    with pytest.raises(SynthgenError, match="shard size 0: at least 1"):
        plan(shard_size=0)


def test_a_plan_never_shrinks_and_growing_to_its_own_size_changes_nothing() -> None:
    one = plan(n=100)
    with pytest.raises(SynthgenError, match="already planned for 100 images; asked for 99"):
        one.grown(99, 30)
    assert one.grown(100, 7) is one


def test_seeds_follow_from_their_key_alone() -> None:
    assert derive_seed(1, "order", 2) == derive_seed(1, "order", 2)
    keys: list[tuple[int | str, ...]] = [(1,), ("1",), (1, 1), (11,), ("1", "1"), (1, "order", 2), (1, "order", 3), ()]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= derive_seed(*key) < 2**64 for key in keys)
    assert derive_seed(1, "order", 2) == 7556668741655670286


@pytest.mark.parametrize("part", [1.0, True, None, (1,), b"x"])
def test_a_seed_from_anything_but_integers_and_strings_is_refused(part: Any) -> None:
    with pytest.raises(TypeError):
        derive_seed(1, part)
