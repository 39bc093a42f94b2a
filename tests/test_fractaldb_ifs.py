from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractaldb.ifs import IFS, FractalError, read_categories, read_csv, weight_table, write_csv

GOLDEN = Path(__file__).parent / "golden/fractaldb"
GOOD = "0.5,0,0,0.5,0,0,0.25"
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "c.csv"
    path.write_text(text)
    return path


def test_the_weight_table_is_the_published_one() -> None:
    published = np.loadtxt(GOLDEN / "weights_0.4.csv", delimiter=",")
    assert weight_table(0.4).tolist() == published.tolist()


@pytest.mark.parametrize("step", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_25_weight_rows_each_change_at_most_one_parameter_by_up_to_two_steps(step: float) -> None:
    table = weight_table(step)
    assert table.shape == (25, 6)
    assert len({tuple(row) for row in table.tolist()}) == 25
    assert table[2].tolist() == [1.0] * 6
    changed = table != 1
    assert changed.sum(axis=1).tolist() == [0 if row == 2 else 1 for row in range(25)]
    assert {round(float(value), 9) for value in (table[changed] - 1) / step} == {-2.0, -1.0, 1.0, 2.0}


def test_a_weight_step_that_was_not_published_is_refused() -> None:
    with pytest.raises(FractalError, match=r"weight step 0\.25 is not one of the published"):
        weight_table(0.25)


def test_a_weight_row_multiplies_the_maps_and_leaves_the_probabilities() -> None:
    ifs = IFS(maps=np.arange(12.0).reshape(2, 6), probs=np.array([0.25, 0.75]))
    heavier = ifs.weighted(np.array([1.0, 1.0, 2.0, 1.0, 1.0, 1.0]))
    assert heavier.maps.tolist() == [[0, 1, 4, 3, 4, 5], [6, 7, 16, 9, 10, 11]]
    assert heavier.probs.tolist() == [0.25, 0.75]
    assert ifs.maps[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_thresholds_are_added_up_one_by_one() -> None:
    probs = np.random.RandomState(5).dirichlet(np.ones(7))
    total, sums = 0.0, []
    for p in probs.tolist():
        total += p
        sums.append(total)
    assert IFS(maps=np.zeros((7, 6)), probs=probs).thresholds.tolist() == sums


@settings(max_examples=60, deadline=None)
@given(maps=st.lists(st.tuples(*[FINITE] * 6), min_size=1, max_size=7), data=st.data())
def test_a_csv_reads_back_every_float_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, maps: list[tuple[float, ...]], data: st.DataObject
) -> None:
    shares = data.draw(st.lists(st.floats(0.01, 1), min_size=len(maps), max_size=len(maps)))
    ifs = IFS(maps=np.array(maps), probs=np.array(shares) / sum(shares))
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    write_csv(path, ifs)
    again = read_csv(path)
    assert again.maps.tobytes() == ifs.maps.tobytes()
    assert again.probs.tobytes() == ifs.probs.tobytes()


def test_the_published_files_are_written_byte_for_byte(tmp_path: Path) -> None:
    files = sorted((GOLDEN / "categories").glob("*.csv"))
    assert len(files) == 20
    for path in files:
        write_csv(tmp_path / path.name, read_csv(path))
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{GOOD}\n1,2,3\n", r"row 2: 3 columns, expected 7 \(a,b,c,d,e,f,p\)"),
        (f"{GOOD},9\n", r"row 1: 8 columns"),
        (f"{GOOD}\n\n0,0,nan,0,0,0,0.75\n", r"row 3: nan is not a finite number"),
        ("0,0,0,0,-inf,0,1\n", r"row 1: -inf is not a finite number"),
        ("0,0,0,0,1e999,0,1\n", r"row 1: 1e999 is not a finite number"),
        ("0,0,0,0,0,0.1.2,1\n", r"row 1: '0\.1\.2' is not a number"),
        ("a,b,c,d,e,f,p\n", r"row 1: 'a' is not a number"),
        ("0,0,0,0,0,,1\n", r"row 1: '' is not a number"),
        ("0,0,0,0,0,0,-0.5\n", r"row 1: probability -0\.5 is not between 0 and 1"),
        ("0,0,0,0,0,0,1.5\n", r"row 1: probability 1\.5 is not between 0 and 1"),
        (f"{GOOD}\n{GOOD}\n", r"probabilities sum to 0\.5, not to 1"),
        ("", r"no rows; expected a,b,c,d,e,f,p in each row"),
        ("\n  \n", r"no rows"),
        ("0,0,0,0,0,0,0.00390625\n" * 256, r"256 rows; at most 255"),
    ],
)
def test_a_bad_csv_is_refused_by_file_row_and_value(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FractalError, match=complaint) as error:
        read_csv(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"0,0,0,0,0,\xff\xfe,1\n")
    with pytest.raises(FractalError, match=r"c\.csv, row 1: .* is not a number"):
        read_csv(path)


def test_a_folder_gives_its_categories_in_name_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c.v2"):
        (tmp_path / f"{name}.csv").write_text("0.5,0,0,0.5,1,1,1\n")
    (tmp_path / "notes.txt").write_text("no category")
    assert [category.name for category in read_categories(tmp_path)] == ["a", "b", "c.v2"]


def test_a_folder_that_is_missing_or_has_no_csv_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FractalError, match=r"nowhere: no such folder of category CSVs"):
        read_categories(tmp_path / "nowhere")
    with pytest.raises(FractalError, match=f"{tmp_path}: contains no .csv file"):
        read_categories(tmp_path)
