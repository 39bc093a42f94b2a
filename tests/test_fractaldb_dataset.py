from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from fractaldb.dataset import AugmentedFractalDataset, FractalDataset
from fractaldb.ifs import IFS, Category, FractalError
from fractaldb.render import DRAW_TYPES, Style, palette, picture
from fractaldb.sampling import sample_svd

CATEGORIES = sample_svd(3, seed=5)
STYLE = Style(size=40, n_points=600)
DIVERGING = Category(  # infinite less infinite at the second point
    name="runaway", ifs=IFS(maps=np.tile([1e300, -1e300, 1e300, -1e300, 1e300, 1e300], (2, 1)), probs=np.full(2, 0.5))
)
# A step multiplies a distance by 2 or 0.8, by 1.26 on average: it overflows near point 3,000.
SLOWLY_DIVERGING = Category(
    name="slow", ifs=IFS(maps=np.array([[2.0, 0, 0, 2, 1, 1], [0.8, 0, 0, 0.8, 0, 1]]), probs=np.full(2, 0.5))
)


def negated(image: torch.Tensor) -> torch.Tensor:
    return 255 - image


def loaded(
    dataset: Dataset[tuple[torch.Tensor, int]], workers: int, indices: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    loader = DataLoader(
        dataset,
        batch_size=4,
        sampler=indices,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("draw", DRAW_TYPES)
def test_items_are_the_published_instances_in_the_published_order(draw: str) -> None:
    style = Style(draw=draw, size=40, n_points=600)
    dataset = FractalDataset(CATEGORIES, style, seed=3)
    assert len(dataset) == 3 * style.n_instances
    for index in (0, 1, 2, 3, 41, style.n_instances - 1, style.n_instances, len(dataset) - 1):
        image, label = dataset[index]
        category = CATEGORIES[index // style.n_instances]
        which = dataset.instance(index)
        assert CATEGORIES[label] is category
        assert which.category == category.name
        expected = palette(style)[picture(category, which, style, seed=3)].transpose(2, 0, 1)
        assert image.dtype == torch.uint8
        assert image.shape == (3, 40, 40)
        assert (image.numpy() == expected).all()
    assert dataset.instance(style.n_instances + 41 % style.n_instances).weight == 41 // (4 * style.n_patches)


def test_pictures_do_not_depend_on_workers_or_order() -> None:
    plain, augmented = FractalDataset(CATEGORIES, STYLE), AugmentedFractalDataset(CATEGORIES, STYLE, length=3000)
    both: ConcatDataset[tuple[torch.Tensor, int]] = ConcatDataset([plain, augmented])  # type: ignore[list-item]
    indices = [5, 2999, 4, 1000, 5, 1041, 0, 7, 3000, 5999, 3000, 3001]
    images, labels = loaded(both, 0, indices)
    in_workers, worker_labels = loaded(both, 2, indices)
    backwards, _ = loaded(pickle.loads(pickle.dumps(both)), 0, indices[::-1])
    assert (images == in_workers).all()
    assert (labels == worker_labels).all()
    assert (images == backwards.flip(0)).all()
    assert (images[0] == images[4]).all()
    assert (images[8] == images[10]).all()


def test_augmented_pictures_do_not_depend_on_the_length_and_labels_are_balanced() -> None:
    short = AugmentedFractalDataset(CATEGORIES, STYLE, length=10)
    long = AugmentedFractalDataset(CATEGORIES, STYLE, length=10**9)
    assert all((short[i][0] == long[i][0]).all() for i in range(10))
    assert [label for _, label in iter(short)] == [0, 1, 2] * 3 + [0]
    assert long[10**9 - 1][1] == 0


def test_augmented_weights_go_beyond_the_published_rows_within_two_steps() -> None:
    dataset = AugmentedFractalDataset(CATEGORIES, Style(size=40, n_points=300, weight_step=0.2), length=400)
    weights = np.array([dataset.weight(i) for i in range(400)])
    assert ((weights != 1).sum(axis=1) == 1).all()  # one of a..f, as in the published rows
    assert np.unique(np.nonzero(weights != 1)[1], return_counts=True)[1].min() > 40  # 67 expected of each
    values = weights[weights != 1]
    assert len(np.unique(values)) == 400
    assert 0.6 <= values.min() < 0.62
    assert 1.38 < values.max() <= 1.4


def test_each_epoch_brings_new_pictures_and_each_comes_back() -> None:
    dataset = AugmentedFractalDataset(CATEGORIES, STYLE, length=6)
    first = [dataset[i][0] for i in range(6)]
    dataset.set_epoch(1)
    assert dataset.epoch == 1
    assert not any((dataset[i][0] == image).all() for i, image in enumerate(first))
    dataset.set_epoch(0)
    assert all((dataset[i][0] == image).all() for i, image in enumerate(first))


def test_a_new_epoch_reaches_persistent_workers() -> None:
    dataset = AugmentedFractalDataset(CATEGORIES, STYLE, length=4)
    loader: DataLoader[tuple[torch.Tensor, int]] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    ((zero, _),) = loader
    dataset.set_epoch(1)
    ((one, _),) = loader
    assert (one != zero).any()
    assert (one == torch.stack([dataset[i][0] for i in range(4)])).all()


def test_a_system_that_diverges_under_fresh_weights_gets_others() -> None:
    on_the_edge = Category(  # 40% of the fresh weights make its first map expand without bound
        name="edge", ifs=IFS(maps=np.array([[0.97, 0, 0, 0.5, 1, 1], [0.97, 0, 0, 0.5, -1, 0]]), probs=np.full(2, 0.5))
    )
    style = Style(size=40, n_points=30_000)
    dataset = AugmentedFractalDataset([on_the_edge], style, length=60)
    multipliers = np.array([dataset.weight(i)[0] for i in range(60)])
    assert multipliers.max() < 1.06  # 0.97 * 1.06 > 1: all others were drawn again
    assert multipliers.min() < 0.9
    assert all(dataset[i][0].any() for i in range(60))


def test_a_system_that_diverges_under_all_weights_is_drawn_as_it_is() -> None:
    dataset = AugmentedFractalDataset([SLOWLY_DIVERGING], Style(size=40, n_points=20_000, weight_step=0.1), length=3)
    assert (dataset.weight(1) == 1).all()
    image, label = dataset[1]
    assert image.any()
    assert label == 0


def test_systems_without_a_finite_point_are_refused_by_name_before_work_starts() -> None:
    with pytest.raises(FractalError, match="category runaway, weight row 0: the system diverges"):
        FractalDataset([*CATEGORIES, DIVERGING], STYLE)
    with pytest.raises(FractalError, match="category runaway"):
        AugmentedFractalDataset([DIVERGING], STYLE, length=1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(FractalError, match="no categories"):
        FractalDataset([], STYLE)
    with pytest.raises(FractalError, match="length 0"):
        AugmentedFractalDataset(CATEGORIES, STYLE, length=0)
    dataset = FractalDataset(CATEGORIES, STYLE)
    for index in (-1, 3000):
        with pytest.raises(IndexError, match=f"item {index}: the dataset has 3000"):
            dataset[index]


def test_a_transform_gets_the_tensor() -> None:
    plain = FractalDataset(CATEGORIES, STYLE)
    assert (FractalDataset(CATEGORIES, STYLE, transform=negated)[7][0] == 255 - plain[7][0]).all()


def test_importing_the_datasets_and_drawing_an_array_does_not_import_torch() -> None:
    code = (
        "import sys, numpy\n"
        "from fractaldb.dataset import FractalDataset\n"
        "from fractaldb.render import Style\n"
        "from fractaldb.sampling import sample_svd\n"
        "FractalDataset(sample_svd(1, seed=1), Style(size=40, n_points=300)).image(3)\n"
        "assert 'torch' not in sys.modules and 'synthgen' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
