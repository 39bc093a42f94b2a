"""The image classification sets of WILDS that can be fine-tuned on: one table of where everything is in each.

Another set is a row of SETS.  The sets whose images do not have one class each are left out, and so are CelebA,
Waterbirds and DomainNet, which have no in-distribution split or no cluster of dependent images.  Imports neither
wilds nor numpy: the command line takes the names from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base import MACRO_F1, SPLITS, Words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Cells(NamedTuple):
    """What the cells of a column may be."""

    pattern: str
    words: str


WHOLE = Cells(r"\s*[0-9]{1,18}\s*", "a whole number of up to 18 digits")
NAME = Cells(r"(?!(-?[Nn]a[Nn]|<?NA>?|[Nn]/[Aa]|NULL|null|None)$)(?s:.+)", "a name")  # pandas takes those for nothing
ANY = Cells(r"(?s:.*)", "a text")
TIME = Cells(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2} [0-9:]+\.[0-9]{1,6}", "a time like 2013-07-08 16:03:55.000")
INSTANT = Cells(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.{1,40}", "a time like 2014-07-08T16:03:55Z")


def _one_of(*words: str) -> Cells:
    return Cells("|".join(words), f"one of {', '.join(words)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WildsSet:
    """Where one set keeps everything; the functions take the dataset object of ``wilds``."""

    words: Words
    version: str  # the set is in the folder <kind>_v<version>
    metadata: str  # file name
    columns: Mapping[str, Cells]  # of the metadata, that are read
    others: tuple[str, ...] = ()  # further files that are read
    images: str  # the folder of the images
    splits: Mapping[str, str]  # splits of the task, each with the set's own split that serves as it
    files: Callable[[Any], Sequence[str]]  # path of every image, relative to the folder of the images
    cluster: Callable[[Any], NDArray[np.int64]]  # cluster of dependent images of every image
    sequence: Callable[[Any], NDArray[np.int64]] | None = None  # finer group of images taken together
    class_names: Callable[[Any], Sequence[str]] | None = None  # None: those of categories.csv, or none
    rules: str  # what wilds requires of the metadata
    origin: str  # where to get a copy


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


ALL_SPLITS = {name: name for name in SPLITS}
DOWN = "WILDS's original download host has been down for months"

SETS = {
    "iwildcam": WildsSet(
        words=Words(
            metric=MACRO_F1,
            cluster="camera location",
            clusters="camera locations",
            id="from camera locations that were also in the training images",
            ood="from camera locations that were not in the training images",
        ),
        version="2.0",
        metadata="metadata.csv",
        columns={
            "split": _one_of(*SPLITS),
            "location_remapped": WHOLE,
            "sequence_remapped": WHOLE,
            "datetime": TIME,
            "y": WHOLE,
            "filename": NAME,
        },
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
        words=Words(
            metric=MACRO_F1,
            cluster="country",
            clusters="countries",
            id="from the years of the training images",
            ood="from later years than the training images",
        ),
        version="1.1",
        metadata="rgb_metadata.csv",
        columns={
            "split": _one_of("train", "val", "test", "seq"),
            "category": NAME,
            "country_code": ANY,
            "timestamp": INSTANT,
        },
        others=("country_code_mapping.csv",),
        images="images",
        splits=ALL_SPLITS,
        files=lambda dataset: [f"rgb_img_{number}.png" for number in dataset.full_idxs],
        # Countries, of which there are some two hundred: the six regions are too few to resample.  A place, of which
        # there are several images, is in one country; the metadata do not number places.
        cluster=_country,
        class_names=lambda dataset: list(dataset.category_to_idx),
        rules="every category must be one of FMoW's 62, and timestamps be like 2014-07-08T16:03:55Z",
        origin=DOWN,
    ),
    "camelyon17": WildsSet(
        words=Words(
            metric=MACRO_F1,
            cluster="slide",
            clusters="slides",
            id="from the hospitals of the training images",
            ood="from a hospital that was not in the training images",
        ),
        version="1.0",
        metadata="metadata.csv",
        columns={
            "patient": NAME,
            **dict.fromkeys(("node", "x_coord", "y_coord", "tumor", "slide", "center", "split"), WHOLE),
        },
        images="patches",
        # There is no id_test.  id_val serves as it, as in WILDS's own tables, so no split is left for model selection.
        splits={"train": "train", "val": "val", "test": "test", "id_test": "id_val"},
        files=_below("patches"),
        cluster=_field("slide"),  # val and test are one hospital each, of ten slides
        class_names=lambda dataset: ["no tumor", "tumor"],
        rules="tumor must be 0 or 1; center, slide and split whole numbers",
        origin=DOWN,
    ),
    "rxrx1": WildsSet(
        words=Words(
            metric=MACRO_F1,
            cluster="experiment",
            clusters="experiments",
            id="from experiments that were also in the training images",
            ood="from experiments that were not in the training images",
        ),
        version="1.0",
        metadata="metadata.csv",
        columns={
            "dataset": _one_of("train", "val", "test"),
            **dict.fromkeys(("cell_type", "experiment", "well"), NAME),
            **dict.fromkeys(("plate", "site", "sirna_id"), WHOLE),
        },
        images="images",
        splits={"train": "train", "val": "val", "test": "test", "id_test": "id_test"},  # there is no id_val
        files=_below("images"),
        cluster=_field("experiment"),  # the batch, whose effects the set is about
        rules="sirna_id must run from 0 without gaps",
        origin=DOWN,
    ),
}
