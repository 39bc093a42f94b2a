from __future__ import annotations

import numpy as np
import pytest

from fractaldb.ifs import FractalError
from fractaldb.render import Style, orbit_pixels
from fractaldb.sampling import sample_svd

CATEGORIES = sample_svd(300, seed=7)
MATRICES = [category.ifs.maps[:, :4].reshape(-1, 2, 2) for category in CATEGORIES]


def test_every_map_contracts() -> None:
    assert max(np.linalg.svd(matrices, compute_uv=False).max() for matrices in MATRICES) < 1


def test_the_weighted_sum_of_singular_values_fills_the_papers_range() -> None:
    above = []  # share of the range [(5 + n) / 2, (6 + n) / 2] below each system's sum
    for matrices in MATRICES:
        s = np.linalg.svd(matrices, compute_uv=False)
        above.append(2 * ((s[:, 0] + 2 * s[:, 1]).sum() - (5 + len(s)) / 2))
    assert min(above) >= -1e-9
    assert max(above) <= 1 + 1e-9
    counts, _ = np.histogram(above, bins=4, range=(0, 1))
    assert counts.min() > 50  # 75 expected of each quarter, standard deviation 7.5


def test_systems_have_two_to_four_maps_as_often_each() -> None:
    counts = np.bincount([len(matrices) for matrices in MATRICES], minlength=5)
    assert counts[:2].tolist() == [0, 0]
    assert counts[2:].min() > 70  # 100 expected, standard deviation 8.2


def test_angles_and_mirrorings_have_no_preferred_direction() -> None:
    first = np.concatenate(MATRICES)[:, :, 0]  # where a map sends (1, 0)
    quadrant = np.arctan2(first[:, 1], first[:, 0]) // (np.pi / 2)
    _, counts = np.unique(quadrant, return_counts=True)
    assert len(counts) == 4
    assert counts.min() > 0.2 * len(first)
    assert 0.4 < np.mean(np.linalg.det(np.concatenate(MATRICES)) < 0) < 0.6


def test_probabilities_are_proportional_to_areas() -> None:
    for category, matrices in zip(CATEGORIES, MATRICES, strict=True):
        areas = abs(np.linalg.det(matrices))
        np.testing.assert_allclose(category.ifs.probs, areas / areas.sum(), rtol=1e-9, atol=1e-12)


def test_fewer_categories_are_the_first_of_more_and_seeds_differ() -> None:
    for one, other in zip(sample_svd(20, seed=7), CATEGORIES, strict=False):
        assert one.name == other.name
        assert (one.ifs.maps == other.ifs.maps).all()
        assert (one.ifs.probs == other.ifs.probs).all()
    assert (sample_svd(1, seed=8)[0].ifs.maps[0] != CATEGORIES[0].ifs.maps[0]).all()


PINNED = [
    [
        -0.4964934149865187,
        -0.16583648161260506,
        0.7801440907983525,
        0.03615602865322021,
        -0.5408455725403489,
        0.06882781789403403,
    ],
    [
        0.13096775106402836,
        -0.9854798649266873,
        -0.24778457696787773,
        0.06491076549158595,
        0.4319410319367285,
        0.6055150078747298,
    ],
    [
        0.644756823650905,
        0.5511875819771105,
        0.30889182844766516,
        -0.3990042758425124,
        -0.45390005156650526,
        -0.8815135973968731,
    ],
]


def test_the_numbers_of_a_seed_stay_what_they_are() -> None:
    """Pinned: a change of these numbers changes everyone's datasets."""
    (category,) = sample_svd(1, seed=1)
    assert category.name == "00000"
    assert category.ifs.maps.tolist() == PINNED


def test_every_system_is_drawn_whole() -> None:
    style = Style(draw="point_gray", size=64, n_points=2000)
    assert all(len(orbit_pixels(category, 2, style)) == 2000 for category in CATEGORIES)


def test_no_categories_are_refused() -> None:
    with pytest.raises(FractalError, match="categories = 0: at least 1"):
        sample_svd(0, seed=1)
