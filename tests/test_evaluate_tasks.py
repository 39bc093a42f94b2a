import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synthgen_evaluate.errors import EvaluateError
from synthgen_evaluate.simulate import simulate
from synthgen_evaluate.tasks import SPLITS, open_task

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wilds.*", "ignore::DeprecationWarning:ogb.*")


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("traps") / "set"
    simulate(root, n_classes=4, n_locations=6, n_images=90, size=32)
    return root


@pytest.fixture
def copy(traps: Path, tmp_path: Path) -> Path:
    shutil.copytree(traps, tmp_path / "copy")
    return tmp_path / "copy"


def test_all_five_splits_come_with_labels_and_locations(traps: Path) -> None:
    task = open_task(str(traps))
    assert tuple(task.splits) == SPLITS
    assert sum(len(split.y) for split in task.splits.values()) == 90
    assert task.class_names[0] == "empty"
    at = {name: set(split.location.tolist()) for name, split in task.splits.items()}
    assert not (at["val"] | at["test"]) & at["train"]
    assert at["id_test"] <= at["train"]
    (image,) = task.splits["test"].decode(np.array([0]), 24)
    assert image.shape == (24, 24, 3)


def test_real_camera_traps_open(shared: Path) -> None:
    task = open_task(str(shared / "data" / "missouri" / "crops"))
    assert {name: len(split.y) for name, split in task.splits.items()} == {
        "train": 595,
        "val": 81,
        "test": 214,
        "id_val": 90,
        "id_test": 128,
    }
    assert len(task.class_names) == 20
    for split in task.splits.values():
        assert len(set(split.image_id)) == len(split.y)  # several crops of one frame keep apart


def test_importing_wilds_starts_no_thread_and_asks_no_network() -> None:
    code = (
        "import socket, threading\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.getaddrinfo = refuse\n"
        "from synthgen_evaluate.tasks import import_wilds\n"
        "started = []\n"
        "threading.Thread.start = lambda self: started.append(self)\n"
        "import_wilds()\n"
        "assert not started, started\n"
        "import sys; assert sys.modules.get('outdated', 1) is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def remove_release(root: Path) -> None:
    (root / "iwildcam_v2.0" / "RELEASE_v2.0.txt").unlink()


def remove_image(root: Path) -> None:
    (root / "iwildcam_v2.0" / "train" / "00003.jpg").unlink()


def edit(old: str, new: str, count: int = -1) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "iwildcam_v2.0" / "metadata.csv"
        path.write_text(path.read_text().replace(old, new, count))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_release, "RELEASE_v2.0.txt: missing; expected"),
        (remove_image, "1 of 90 images are missing, the first is 00003.jpg"),
        (edit("location_remapped", "place"), "columns missing: location_remapped"),
        (edit("id_val", "id_test"), "splits id_test, test, train, val; expected"),
        (edit("00003.jpg", "00004.jpg"), "1 file names stand more than once"),
        (lambda root: shutil.rmtree(root), "missing; expected"),
    ],
)
def test_an_incomplete_copy_is_refused_saying_what_is_expected(
    copy: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(copy)
    with pytest.raises(EvaluateError) as caught:
        open_task(str(copy))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_copy_is_explained(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="original download host has been down"):
        open_task(str(tmp_path / "iwildcam"))
