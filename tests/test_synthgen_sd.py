"""``synthgen sd`` with the built-in model."""

import json
import os
import random
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from files import contents
from origins import read_origin
from PIL import Image
from processes import Start, installed, starting

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import read_manifest
from synthgen.dataset.shard import Item, data_path, read_shard
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.kinds.diffusion.models import find_model

ROOT = Path(__file__).parents[1]
PROMPTS = ROOT / "prompts/quickstart.txt"
N, SHARD = 60, 20
COMMAND = ("sd", "--prompts", PROMPTS, "--model", "tiny", "--steps", 2, "--batch", 10, "--shard-size", SHARD)
THREAD = {"OMP_NUM_THREADS": "1"}  # what the tests run with; the number of threads is part of a shard's environment


def items(directory: Path) -> list[Item]:
    manifest = read_manifest(directory)
    spans = [manifest.plan.shard(shard.index) for shard in manifest.shards]
    return [item for span in spans for item in read_shard(data_path(directory, span))]


def pixels(item: Item, tmp_path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.int16]]":
    path = tmp_path / f"pixels.{item.ending}"
    path.write_bytes(item.image)
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int16)


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start the command."""
    with starting() as launch:
        yield lambda out, *more: launch(
            [installed("synthgen"), *COMMAND, "--n", N, "--out", out, *more], env=os.environ | THREAD
        )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    out = tmp_path_factory.mktemp("sd") / "set"
    process = start(out)
    said, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert said.startswith(f"{out}: {N} images of 10 classes in 3 shards")
    return out


def test_every_image_has_its_record_in_the_tar_the_table_and_the_file_itself(undisturbed: Path) -> None:
    import pyarrow.parquet as pq

    manifest = read_manifest(undisturbed)
    content, model = manifest.plan.content, find_model("tiny")
    assert manifest.complete
    assert isinstance(content, DiffusionContent)
    table = pq.read_table(undisturbed / "metadata").to_pylist()
    found = items(undisturbed)
    assert len(found) == len(table) == N
    for index, (item, row) in enumerate(zip(found, table, strict=True)):
        record = item.record
        sample = manifest.plan.sample(index)
        assert row == record
        assert (record["index"], item.label, record["label"]) == (index, sample.label, sample.label)
        assert record["prompt"] == content.caption(sample)
        assert record["seed"] == str(content.image_seed(index))
        assert (record["model"], record["revision"]) == ("tiny", model.revision)
        assert (record["prompts"], record["prompts_version"], record["template"]) == ("quickstart", "1", sample.variant)
        assert (record["class"], record["class_name"]) == (record["class"], record["class"])
        assert (record["attempt"], record["fault"], record["flagged"]) == (0, "", False)
        assert record["scheduler_class"] == "DPMSolverMultistepScheduler"
        assert "solver_order=2" in record["scheduler_settings"]
        inside = read_origin(item.image)
        assert record["prompt"] in inside.values()
        assert record["seed"] in inside.values()
        assert any(value.endswith("/trainedAlgorithmicMedia") for value in inside.values())


def test_classes_and_templates_are_balanced(undisturbed: Path) -> None:
    records = [item.record for item in items(undisturbed)]
    assert set(Counter(record["class"] for record in records).values()) == {N // 10}
    pairs = Counter((record["class"], record["template"]) for record in records)
    assert max(pairs.values()) - min(pairs.values()) <= 1
    assert len(pairs) == 40


def killed_at_random_times(out: Path, start: Start, *, case: int, times: int) -> None:
    """Start and kill again and again: while the model loads, and while shards are written."""
    rng = random.Random(case)
    for number in range(times):
        process = start(out)
        end = time.monotonic() + 60
        wanted = "plan.json" if number % 2 else "data/*.tar.tmp"
        while process.poll() is None and not list(out.glob(wanted)):
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "times"), [(0, 2), pytest.param(1, 10, marks=pytest.mark.timeout(600))])
def test_a_run_killed_at_any_time_resumes_to_identical_bytes(
    tmp_path: Path, undisturbed: Path, start: Start, case: int, times: int
) -> None:
    killed_at_random_times(tmp_path / "set", start, case=case, times=times)
    process = start(tmp_path / "set")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert contents(tmp_path / "set") == contents(undisturbed)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(synthgen_here: Command, out: Path, n: int, *more: object) -> None:
    done = synthgen_here(*COMMAND, "--n", n, "--out", out, *more)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("one_thread")
def test_a_set_that_grows_keeps_its_images_and_draws_none_twice(
    tmp_path: Path, synthgen_here: Command, undisturbed: Path
) -> None:
    make(synthgen_here, tmp_path / "set", 30)
    before = {path: path.stat() for path in (tmp_path / "set").glob("*/*")}
    make(synthgen_here, tmp_path / "set", N)
    for path, stat in before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert [item.image for item in items(tmp_path / "set")] == [item.image for item in items(undisturbed)]


@pytest.mark.usefixtures("one_thread")
def test_another_batch_or_shard_size_gives_the_same_seeds_and_nearly_the_same_images(
    tmp_path: Path, synthgen_here: Command, undisturbed: Path
) -> None:
    make(synthgen_here, tmp_path / "set", 26, "--batch", 7, "--shard-size", 9)
    for item, before in zip(items(tmp_path / "set"), items(undisturbed), strict=False):
        assert item.record["seed"] == before.record["seed"]
        assert item.record["prompt"] == before.record["prompt"]
        # within one step of 256: sums may be taken in another order
        assert np.abs(pixels(item, tmp_path) - pixels(before, tmp_path)).max() <= 1


@pytest.mark.usefixtures("one_thread")
def test_one_image_made_again_from_its_record_equals_the_stored_one(
    tmp_path: Path, synthgen_here: Command, undisturbed: Path
) -> None:
    with tarfile.open(undisturbed / "data/sd-train-000001.tar") as tar:
        for name in (f"{key}.{ending}" for key in ("000000027", "000000033") for ending in ("json", "png")):
            member = tar.extractfile(name)
            assert member is not None
            (tmp_path / name).write_bytes(member.read())
    for key in ("000000027", "000000033"):
        again = tmp_path / "again.png"
        done = synthgen_here("sd", "--from-record", tmp_path / f"{key}.json", "--out", again)
        assert done.returncode == 0, done.stderr
        assert again.read_bytes() == (tmp_path / f"{key}.png").read_bytes()
    record = json.loads((tmp_path / "000000033.json").read_text()) | {"prompt": "a painting of the dog."}
    (tmp_path / "edited.json").write_text(json.dumps(record))
    done = synthgen_here("sd", "--from-record", tmp_path / "edited.json", "--out", tmp_path / "edited.png")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "edited.png: redrawn, but not with the sha256 in " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    Image.open(tmp_path / "edited.png").load()


def test_a_record_finds_its_own_model_commit_and_precision_unless_told_otherwise(
    tmp_path: Path, synthgen_here: Command, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def find(text: str, *, revision: str | None, dtype: str | None) -> None:
        asked.append((text, revision, dtype))
        raise SynthgenError("seen")

    monkeypatch.setattr("synthgen.kinds.diffusion.remake.find_model", find)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(items(undisturbed)[0].record | {"model": "a/b", "revision": "c" * 40}))
    for more in ((), ("--model", "elsewhere")):
        assert "seen" in synthgen_here("sd", "--from-record", path, "--out", tmp_path / "x.png", *more).stderr
    assert asked == [("a/b", "c" * 40, "float32"), ("elsewhere", None, "float32")]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "other"}, "model tiny at sha256:"),
        ({"revision": "sha256:0"}, "the record's is tiny at sha256:0; give it as --model"),
        ({"steps": None}, "record.json: steps: Field required"),
    ],
)
def test_a_record_of_something_else_is_refused(
    tmp_path: Path, synthgen_here: Command, undisturbed: Path, change: dict[str, object], told: str
) -> None:
    record = items(undisturbed)[0].record | change
    path = tmp_path / "record.json"
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    done = synthgen_here("sd", "--from-record", path, "--model", "tiny", "--out", tmp_path / "x.png")
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_other_formats_are_stored_under_their_ending_and_verify(
    tmp_path: Path, synthgen_here: Command, image_format: str
) -> None:
    make(synthgen_here, tmp_path / "set", 10, "--format", image_format, "--steps", 1)
    assert {item.ending for item in items(tmp_path / "set")} == {image_format}
    assert synthgen_here("verify", tmp_path / "set").returncode == 0


def test_a_dry_run_says_the_plan_and_writes_nothing(tmp_path: Path, synthgen_here: Command) -> None:
    done = synthgen_here(*COMMAND, "--n", 1005, "--out", tmp_path / "set", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "set").exists()
    for words in (
        "1005 images, 10 classes of cifar10 (100 to 101 per class)",
        "4 templates of quickstart version 1 (25 to 26 per class and template)",
        f"model tiny at {find_model('tiny').revision}",
        "dpm++, 2 steps, guidance 3, 32 px, float32, png",
        "51 shards, about",
        "images/s, measured here",
        "photo of the",
    ):
        assert words in done.stdout


def refusals(tmp_path: Path) -> list[tuple[tuple[object, ...], str]]:
    def prompts(name: str, *lines: bytes) -> Path:
        head = b"# name: x\n# version: 1\n# classes: none.tsv\n# source: s\n# license: l\n"
        (tmp_path / name).write_bytes(head + b"\n".join(lines) + b"\n")
        return tmp_path / name

    (tmp_path / "empty.tsv").write_text("id\tname\n")
    good = ("--prompts", PROMPTS, "--model", "tiny")
    return [
        (("--n", 5), "--prompts FILE is missing"),
        (good, "--n N is missing"),
        ((*good, "--n", 0), "n = 0: "),
        ((*good, "--n", 10**9 + 1), "n = 1000000001: "),
        ((*good, "--n", 5, "--shard-size", 0), "shard size 0"),
        ((*good, "--n", 5, "--steps", 0), "steps 0: 1 to 1000"),
        ((*good, "--n", 5, "--guidance", "nan"), "guidance nan"),
        ((*good, "--n", 5, "--size", 33), "size 33: must be a multiple of 8"),
        ((*good, "--n", 5, "--seed", -1), "seed -1"),
        ((*good, "--n", 5, "--scheduler", "best"), "scheduler 'best' is not one of dpm++"),
        ((*good, "--n", 5, "--dtype", "int8"), "dtype 'int8' is not one of"),
        ((*good, "--n", 5, "--format", "gif"), "format 'gif' is not one of"),
        ((*good, "--n", 5, "--device", "cuda:9"), "cuda:9"),
        ((*good, "--n", 5, "--device", "toaster"), "toaster"),
        ((*good, "--n", 5, "--classes", tmp_path / "empty.tsv"), "no class"),
        (("--prompts", prompts("none.txt", b"a photo"), "--n", 5), "template 'a photo': no {}"),
        (("--prompts", prompts("two.txt", b"{} and {}"), "--n", 5), "template '{} and {}': 2 {}"),
        (("--prompts", prompts("latin.txt", "a caf\xe9 {}".encode("latin-1")), "--n", 5), "not UTF-8"),
        (("--prompts", tmp_path / "absent.txt", "--n", 5), "No such file"),
        (("--prompts", PROMPTS, "--model", tmp_path, "--n", 5), "model_index.json"),
    ]


def test_bad_input_is_refused_in_one_line_before_anything_is_written(tmp_path: Path, synthgen_here: Command) -> None:
    for arguments, told in refusals(tmp_path):
        done = synthgen_here("sd", "--out", tmp_path / "set", *arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("synthgen: ")
        assert told in done.stderr, arguments
        assert done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "set").exists()


def test_a_directory_of_another_plan_is_refused_with_what_differs(synthgen_here: Command, undisturbed: Path) -> None:
    done = synthgen_here(*COMMAND, "--n", N, "--out", undisturbed, "--guidance", 4)
    assert done.returncode == 2
    assert "sampling.guidance: 3.0 there, 4.0 asked" in done.stderr


@pytest.mark.usefixtures("one_thread")
def test_prompts_longer_than_the_text_encoder_reads_are_told_with_their_number(
    tmp_path: Path, synthgen_here: Command
) -> None:
    (tmp_path / "c.tsv").write_text("id\tname\na\tcat\nb\t" + "dog " * 40 + "dog\n")
    done = synthgen_here(*COMMAND, "--classes", tmp_path / "c.tsv", "--n", 2, "--steps", 1, "--out", tmp_path / "set")
    assert done.returncode == 0
    assert "warning: 4 of 8 prompts are longer than the 32 tokens that tiny reads" in done.stderr
    assert "the first: template 0, class b: 'a photo of the dog dog" in done.stderr
