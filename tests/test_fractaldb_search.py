import hashlib
from pathlib import Path

import numpy as np
from test_fractaldb_render import naive_orbit

from fractaldb.ifs import read_csv, write_csv
from fractaldb.search import candidate, filling_rate, search


def test_seed_1_finds_the_published_categories_every_number_equal(tmp_path: Path) -> None:
    published = sorted((Path(__file__).parent / "golden/fractaldb/categories").glob("*.csv"))
    found = search(20, seed=1)
    assert [category.name for category in found] == [path.stem for path in published]
    for category, path in zip(found, published, strict=True):
        expected = read_csv(path)
        assert category.ifs.maps.tobytes() == expected.maps.tobytes()
        assert category.ifs.probs.tobytes() == expected.probs.tobytes()
        write_csv(tmp_path / path.name, category.ifs)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_first_categories_of_seed_1_have_not_changed(categories: Path) -> None:
    text = b"".join(path.read_bytes() for path in sorted(categories.glob("*.csv")))
    assert hashlib.sha256(text).hexdigest() == "0b7466c905c3daf15c5fccbcef7bfd2b408add4584c6d7a4abbc609597b15803"


def test_fewer_categories_are_the_first_of_more() -> None:
    progress: list[int] = []
    three, one = search(3, seed=7, progress=progress.append), search(1, seed=7)
    assert progress == [1, 2, 3]
    assert [category.name for category in three] == ["00000", "00001", "00002"]
    assert one[0].ifs.maps.tobytes() == three[0].ifs.maps.tobytes()
    assert three[0].ifs.maps.tobytes() != search(1, seed=8)[0].ifs.maps.tobytes()


def naive_filling_rate(maps: list[list[float]], thresholds: list[float], draws: list[float]) -> float:
    xy = naive_orbit(maps, thresholds, draws).T
    assert len(xy) == len(draws), "choose candidates that stay finite"
    xy = xy - np.minimum(xy.min(axis=0), 0)
    pixels = (xy / (xy.max(axis=0) - xy.min(axis=0)) * (512 - 12) + 6).astype(np.uint16)
    return len(np.unique(pixels, axis=0)) / 512**2


def test_the_search_accepts_the_first_candidates_that_fill_a_fifth_of_the_picture() -> None:
    rng = np.random.RandomState(1)
    rates: list[float] = []
    while not rates or rates[-1] < 0.2:
        ifs, draws = candidate(rng)
        rates.append(filling_rate(ifs, draws))
    assert search(1, seed=1)[0].ifs.maps.tobytes() == ifs.maps.tobytes()
    assert len(rates) > 1


def test_the_filling_rate_is_that_of_a_plain_loop() -> None:
    rng = np.random.RandomState(1)
    judged = 0
    while judged < 4:
        ifs, draws = candidate(rng)
        rate = filling_rate(ifs, draws)
        if rate > 0.02:  # the others shrink to a point or diverge
            assert rate == naive_filling_rate(ifs.maps.tolist(), ifs.thresholds.tolist(), draws.tolist())
            judged += 1


def test_probabilities_are_proportional_to_the_maps_areas() -> None:
    ifs, _ = candidate(np.random.RandomState(3))
    a, b, c, d, _, _ = ifs.maps.T
    np.testing.assert_allclose(ifs.probs, np.abs(a * d - b * c) / np.abs(a * d - b * c).sum(), rtol=1e-14)
    assert 2 <= len(ifs.maps) <= 7
    assert np.abs(ifs.maps).max() <= 1
