import csv
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgen_evaluate.design.taxonomy import (
    GROUPS,
    IMAGENET1K,
    Group,
    Taxonomy,
    imagenet1k,
    parse_group,
    read_taxonomy,
)
from synthgen_evaluate.errors import EvaluateError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "evaluate" / "taxonomies" / "from_wordnet.py"
WORDNET = Path("/usr/share/wordnet")  # Debian's wordnet-base
TINY_IMAGENET = ROOT / "prompts/classes/tinyimagenet200.tsv"
PAPER = ("5", "17", "37", "85", "232")
GOOD = "id\tclass\torder\nfox\tmammal\tcarnivore\nhare\tmammal\tlagomorph\nowl\tbird\tstrigiform\n"


def taxonomy_of(labels: Mapping[str, Sequence[str]]) -> Taxonomy:
    """A taxonomy of the levels coarse and fine."""
    return Taxonomy(
        path=Path("two.tsv"), levels=("coarse", "fine"), labels={name: tuple(row) for name, row in labels.items()}
    )


def wnids() -> list[str]:
    """Those of ImageNet-1k in the order of its labels."""
    lines = (ROOT / "prompts" / "classes" / "imagenet1k.tsv").read_text().splitlines()[1:]
    return [line.partition("\t")[0] for line in lines]


def test_every_level_of_imagenet1k_has_the_number_of_labels_it_is_named_by() -> None:
    taxonomy, classes = imagenet1k(), wnids()
    assert sorted(taxonomy.labels) == sorted(classes)
    assert set(PAPER) | {"1000"} < set(taxonomy.levels)
    assert [str(len(set(taxonomy.at(level, classes)))) for level in taxonomy.levels] == list(taxonomy.levels)
    assert taxonomy.digest == "0f3d906a35879a64"


def test_the_labels_of_imagenet1k_are_those_computed_with_nltk() -> None:
    with (Path(__file__).parent / "golden/imagenet/granularity.csv").open() as file:
        rows = list(csv.DictReader(file))
    taxonomy = imagenet1k()
    assert len(rows) == 1000
    for level in PAPER:
        labels = taxonomy.at(level, [row["wnid"] for row in rows])
        assert labels == [row[f"g{level}_synset"] for row in rows]
    assert taxonomy.at("1000", [row["wnid"] for row in rows]) == [row["synset"] for row in rows]


def test_the_file_that_comes_with_the_package_is_what_its_script_makes() -> None:
    if not (WORDNET / "data.noun").is_file():
        pytest.skip(f"no WordNet in {WORDNET}; apt-get install wordnet-base")
    made = subprocess.run([sys.executable, SCRIPT, WORDNET], capture_output=True, text=True, check=True).stdout
    assert made == IMAGENET1K.read_text()


def test_animals_are_the_first_398_classes_and_objects_the_others_most_of_them_artifacts() -> None:
    taxonomy, classes = imagenet1k(), wnids()
    inside = {name: np.flatnonzero(taxonomy.inside(group, classes)).tolist() for name, group in GROUPS.items()}
    assert inside["animals"] == list(range(398))
    assert inside["objects"] == list(range(398, 1000))
    assert len(inside["artifacts"]) == 522
    assert set(inside["artifacts"]) < set(inside["objects"])


def test_a_subset_of_the_classes_has_fewer_labels() -> None:
    with TINY_IMAGENET.open() as file:
        classes = [row["id"] for row in csv.DictReader(file, delimiter="\t")]
    taxonomy = imagenet1k()
    assert [len(set(taxonomy.at(level, classes))) for level in (*PAPER, "1000")] == [2, 8, 18, 39, 82, 200]
    assert taxonomy.inside(GROUPS["animals"], classes).sum() == 59


def test_in_the_order_of_neighbours_the_classes_of_a_label_stand_together_at_every_level() -> None:
    taxonomy, classes = imagenet1k(), wnids()
    order = [classes[position] for position in taxonomy.order(classes)]
    assert sorted(order) == sorted(classes)
    for level in taxonomy.levels:
        runs = [label for label, _ in groupby(taxonomy.at(level, order))]
        assert len(runs) == len(set(runs))
    dogs = Counter(run // 50 for run, label in enumerate(taxonomy.at("380", order)) if label == "dog.n.01")
    assert len(dogs) <= 4  # 116 of them


@given(st.permutations(GOOD.splitlines()[1:]), st.permutations(["fox", "hare", "owl"]))
def test_neither_the_order_of_lines_nor_of_classes_matters(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], classes: list[str]
) -> None:
    path = tmp_path_factory.mktemp("taxonomy") / "a.tsv"
    path.write_text("\n".join([GOOD.splitlines()[0], *lines]))
    taxonomy = read_taxonomy(path)
    assert str(taxonomy) == "a.tsv (424288f25bb7a7f0)"
    assert [classes[position] for position in taxonomy.order(classes)] == ["owl", "fox", "hare"]


@pytest.mark.parametrize("written", [GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD.rstrip("\n"), GOOD + "\n\n"])
def test_what_editors_add_to_a_file_changes_nothing(tmp_path: Path, written: str) -> None:
    (tmp_path / "plain.tsv").write_text(GOOD)
    (tmp_path / "edited.tsv").write_text(written, newline="")
    assert read_taxonomy(tmp_path / "edited.tsv").labels == read_taxonomy(tmp_path / "plain.tsv").labels


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("id\t", "name\t", "line 1: 'name | class | order' is not a header; write id and the names of the levels"),
        ("\tclass\torder", "", "line 1: 'id' is not a header"),
        ("\torder", "\tclass", "line 1: 'id | class | class' is not a header"),
        ("\tcarnivore", "", "line 2: 'fox | mammal' is not an id and 2 labels"),
        ("\tcarnivore", "\t", "line 2: 'fox | mammal | ' is not an id and 2 labels"),
        ("\tcarnivore", "\t carnivore", "line 2: 'fox | mammal |  carnivore' is not an id and 2 labels"),
        ("hare", "fox", "line 3: id 'fox' is also on line 2; remove one"),
        ("strigiform", "carnivore", "line 4: order 'carnivore' is under class 'bird', but on line 2 under 'mammal';"),
        ("owl", "\udce4", "line 4: not UTF-8 text; save it as UTF-8"),
        (GOOD.partition("\n")[2], "", "no class; write one per line below the header"),
        (GOOD, "", "line 1: '' is not a header"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    path = tmp_path / "a.tsv"
    path.write_bytes(GOOD.replace(old, new, 1).encode(errors="surrogateescape"))
    with pytest.raises(EvaluateError) as caught:
        read_taxonomy(path)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match=r"none\.tsv: No such file or directory; name a taxonomy file"):
        read_taxonomy(tmp_path / "none.tsv")


def test_missing_classes_and_levels_are_named_with_what_there_is() -> None:
    taxonomy = taxonomy_of({"a": "xu", "b": "yv"})
    with pytest.raises(EvaluateError, match=r"two\.tsv: lacks 4 of the source's 5 classes: c, d, e and 1 more; name"):
        taxonomy.at("fine", ["a", "c", "d", "e", "f"])
    with pytest.raises(EvaluateError, match=r"two\.tsv: lacks 1 of the source's 1 classes: c; name"):
        taxonomy.order(["c"])
    with pytest.raises(EvaluateError, match=r"two\.tsv: no level '17'; there are coarse, fine"):
        taxonomy.at("17", ["a"])
    with pytest.raises(
        EvaluateError, match=r"level 85 has 85 labels, but not 'animal'; there are animal\.n\.01 and 84"
    ):
        imagenet1k().inside(Group(level="85", label="animal", has=True), wnids())


def test_a_group_is_written_as_it_is_read() -> None:
    assert parse_group(" genus=Felis (cats)") == Group(level="genus", label="Felis (cats)", has=True)
    assert parse_group("genus != a = b") == Group(level="genus", label="a = b", has=False)
    for text in ("genus = Felis", "genus != Felis"):
        assert str(parse_group(text)) == text


NOUNS = """  1 a license line
00000001 03 n 01 entity 0 000 | what there is
00000002 03 n 02 Thing 0 object 0 001 @ 00000001 n 0000 | a second name does not count
00000003 03 n 01 agent 0 001 @ 00000001 n 0000 | it acts
00000004 05 n 01 pet 0 002 @ 00000003 n 0000 ~ 00000006 n 0000 | kept
00000005 05 n 01 beast 0 001 @ 00000002 n 0000 | wild
00000006 05 n 01 dog 1 002 @ 00000004 n 0000 @ 00000007 n 0000 | two ways up
00000007 05 n 01 canine 0 001 @ 00000005 n 0000 | with teeth
00000008 05 n 01 Rex 0 002 @ 00000006 n 0000 @i 00000001 n 0000 | one dog
"""
WORDS = {
    "entity": [1],
    "thing": [9, 2],
    "agent": [3],
    "pet": [4],
    "beast": [5],
    "dog": [8, 7, 6],
    "canine": [7],
    "rex": [8],
}


def test_the_rule_goes_to_the_alphabetically_first_hypernym_and_counts_the_shortest_way(tmp_path: Path) -> None:
    index = [f"{word} n {len(at)} 1 @ {len(at)} 0 {' '.join(f'{k:08d}' for k in at)}" for word, at in WORDS.items()]
    (tmp_path / "index.noun").write_text("  1 a license line\n" + "".join(f"{line}  \n" for line in index))
    (tmp_path / "data.noun").write_text(NOUNS)
    nouns = runpy.run_path(str(SCRIPT))["read_nouns"](tmp_path)
    assert (nouns.names["00000006"], nouns.names["00000002"]) == ("dog.n.03", "thing.n.02")
    assert nouns.depth("00000006") == 3  # by way of pet, though the way taken is longer
    assert [nouns.label("00000006", depth) for depth in range(4)] == [
        "entity.n.01",
        "thing.n.02",
        "beast.n.01",
        "dog.n.03",
    ]
    assert nouns.label("00000008", 1) == "rex.n.01"  # depth 1 by its instance hypernym
    assert nouns.label("00000008", 0) == "entity.n.01"
