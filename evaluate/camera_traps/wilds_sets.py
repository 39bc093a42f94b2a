"""The image classification sets of WILDS that can be fine-tuned on: one table of what lies where in each.

WILDS: Koh et al. 2021, arXiv 2012.07421.  Left out are its sets with no images of one class each, and CelebA,
Waterbirds and DomainNet, which have no split in distribution or no cluster of dependent images.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class WildsSet:
    """Where one set keeps what; the functions take the dataset object of ``wilds``."""

    version: str  # the set lies in the folder <kind>_v<version>
    metadata: str  # file name
    columns: tuple[str, ...]  # of the metadata, that are read
    others: tuple[str, ...] = ()  # further files that are read
    images: str  # the folder of the images
    splits: Mapping[str, str]  # of the task, each with the set's own split that plays it
    files: Callable[[Any], Sequence[str]]  # path of every image, below the folder of the images
    cluster: Callable[[Any], NDArray[np.int64]]  # cluster of dependent images of every image
    sequence: Callable[[Any], NDArray[np.int64]] | None = None  # finer group of images taken together
    class_names: Callable[[Any], Sequence[str]] | None = None  # None: those of categories.csv, or none
    rules: str  # what wilds demands of the metadata
    origin: str  # where a copy comes from


def _field(name: str) -> Callable[[Any], NDArray[np.int64]]:
    def column(dataset: Any) -> NDArray[np.int64]:
        found: NDArray[np.int64] = dataset.metadata_array[:, dataset.metadata_fields.index(name)].numpy()
        return found

    return column


def _country(dataset: Any) -> NDArray[np.int64]:
    codes, _ = dataset.metadata["country_code"].factorize(use_na_sentinel=False)
    numbers: NDArray[np.int64] = codes[dataset.full_idxs]
    return numbers


def _below(folder: str) -> Callable[[Any], list[str]]:
    return lambda dataset: [name.removeprefix(f"{folder}/") for name in dataset._input_array]


ALL_SPLITS = {name: name for name in ("train", "val", "test", "id_val", "id_test")}
DOWN = "WILDS's original download host has been down for months"

SETS = {
    "iwildcam": WildsSet(
        version="2.0",
        metadata="metadata.csv",
        columns=("split", "location_remapped", "sequence_remapped", "datetime", "y", "filename"),
        images="train",
        splits=ALL_SPLITS,
        files=lambda dataset: [str(name) for name in dataset._input_array],
        cluster=_field("location"),  # one camera's frames share background, light and animals
        sequence=_field("sequence"),  # a burst of frames
        rules="y, location_remapped and sequence_remapped must run from 0 without gaps",
        origin=(
            "the original download host has been down for months: the images are those of the iWildCam 2020"
            " competition (Kaggle, LILA BC); metadata.csv is WILDS's, and so is categories.csv, which names the classes"
        ),
    ),
    "fmow": WildsSet(
        version="1.1",
        metadata="rgb_metadata.csv",
        columns=("split", "category", "country_code", "timestamp"),
        others=("country_code_mapping.csv",),
        images="images",
        splits=ALL_SPLITS,
        files=lambda dataset: [f"rgb_img_{number}.png" for number in dataset.full_idxs],
        # Countries, of which there are some two hundred: the six regions are too few to resample.  A place, of which
        # there are several images, lies in one country; the metadata number no places.
        cluster=_country,
        class_names=lambda dataset: list(dataset.category_to_idx),
        rules="every category must be one of FMoW's 62, and timestamps be like 2014-07-08T16:03:55Z",
        origin=DOWN,
    ),
    "camelyon17": WildsSet(
        version="1.0",
        metadata="metadata.csv",
        columns=("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split"),
        images="patches",
        # There is no id_test.  id_val plays it, as in WILDS's own tables, and then nothing is left to choose on.
        splits={"train": "train", "val": "val", "test": "test", "id_test": "id_val"},
        files=_below("patches"),
        cluster=_field("slide"),  # val and test are one hospital each, of ten slides
        class_names=lambda dataset: ["no tumor", "tumor"],
        rules="tumor must be 0 or 1; center, slide and split whole numbers",
        origin=DOWN,
    ),
    "rxrx1": WildsSet(
        version="1.0",
        metadata="metadata.csv",
        columns=("cell_type", "dataset", "experiment", "plate", "well", "site", "sirna_id"),
        images="images",
        splits={"train": "train", "val": "val", "test": "test", "id_test": "id_test"},  # there is no id_val
        files=_below("images"),
        cluster=_field("experiment"),  # the batch, whose effects the set is about
        rules="sirna_id must run from 0 without gaps",
        origin=DOWN,
    ),
}


def import_wilds() -> Any:
    """Import ``wilds`` without the thread that asks the network for its newest version."""
    if "wilds" not in sys.modules:
        before = sys.modules.get("outdated")
        sys.modules["outdated"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("wilds")
        finally:
            del sys.modules["outdated"]
            if before is not None:
                sys.modules["outdated"] = before
    return sys.modules["wilds"]


def load(kind: str, root: str) -> Any:
    """The dataset object of ``wilds`` for a local copy; raises whatever wilds raises of a bad one."""
    wilds = import_wilds()
    limit = Image.MAX_IMAGE_PIXELS
    module = importlib.import_module(f"wilds.datasets.{kind}_dataset")
    Image.MAX_IMAGE_PIXELS = limit  # FMoW's module lifts the guard against huge images for the whole process
    module.pd = _earlier_pandas()  # type: ignore[attr-defined]
    return wilds.get_dataset(kind, version=SETS[kind].version, root_dir=root, download=False)


def _earlier_pandas() -> SimpleNamespace:
    """What these sets need of pandas, as wilds 2.0 knows it.

    Since pandas 2 dates must all be written alike, but some of FMoW's have fractions of a second (wilds issue 146);
    since pandas 3 a column's values are read-only, but RxRx1 writes into them.
    """
    import pandas

    class Column(pandas.Series):  # type: ignore[misc]
        _constructor = property(lambda self: Column)
        values = property(lambda self: self.to_numpy(copy=True))

    class Table(pandas.DataFrame):  # type: ignore[misc]
        _constructor = property(lambda self: Table)
        _constructor_sliced = property(lambda self: Column)

    return SimpleNamespace(
        read_csv=lambda *args, **options: Table(pandas.read_csv(*args, **options)),
        to_datetime=partial(pandas.to_datetime, format="ISO8601"),
    )
