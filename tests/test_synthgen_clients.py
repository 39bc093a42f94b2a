import io
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from numpy.typing import NDArray
from PIL import Image

from synthgen.dataset.plan import read_plan
from synthgen.dataset.shard import read_shard
from synthgen.kinds.diffusion.content import DiffusionContent
from synthgen.kinds.fractaldb.content import FractalContent

N, SIZE = 130, 40
Pictures = list[tuple[str, int, NDArray[np.uint8]]]  # key, label, RGB pixels

pytestmark = [  # of third parties
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning:webdataset"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", params=["patch_gray", "patch_color", "diffusion"])
def dataset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path
) -> Path:
    out = tmp_path_factory.mktemp("clients") / request.param
    if request.param == "diffusion":
        prompts = Path(__file__).parents[1] / "prompts/quickstart.txt"
        command = ("sd", "--prompts", prompts, "--model", "tiny", "--steps", 1, "--batch", 25, "--size", SIZE)
        done = synthgen_here(*command, "--n", N, "--shard-size", 50, "--out", out)
        assert done.returncode == 0, done.stderr
        return out
    settings = ("--n", N, "--size", SIZE, "--points", 1500, "--shard-size", 50, "--draw", request.param)
    done = synthgen_here("fractal", "--out", out, "--categories", categories, *settings, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def planned(dataset: Path) -> Pictures:
    """Keys and labels of the plan; pixels as the renderer draws them, or of diffusion images as Pillow reads them."""
    from fractaldb.render import palette
    from synthgen.kinds.fractaldb.render import pictures, style_of

    plan = read_plan(dataset / "plan.json")
    if isinstance(plan.content, DiffusionContent):
        items = [item for path in tars(dataset) for item in read_shard(Path(path))]
        samples = [plan.sample(i) for i in range(plan.n)]
        images = [np.asarray(Image.open(io.BytesIO(item.image))) for item in items]
        return [(s.key, s.label, image) for s, image in zip(samples, images, strict=True)]
    assert isinstance(plan.content, FractalContent)
    colors = palette(style_of(plan.content))
    drawn = pictures(plan.content, [plan.sample(i) for i in range(plan.n)])
    return [(p.sample.key, p.sample.label, colors[p.image]) for p in drawn]


def tars(dataset: Path) -> list[str]:
    return [str(path) for path in sorted(dataset.glob("data/*.tar"))]


def same(read: Pictures, planned: Pictures) -> None:
    assert [(key, label) for key, label, _ in read] == [(key, label) for key, label, _ in planned]
    for (key, _, pixels), (_, _, expected) in zip(read, planned, strict=True):
        assert np.array_equal(pixels, expected), key


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_every_sample_label_and_pixel(
    dataset: Path, planned: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(
        "webdataset", data_files=tars(dataset), split="train", cache_dir=str(tmp_path), streaming=streaming
    )
    rows = list(loaded)
    assert len(rows) == N
    same([(row["__key__"], row["cls"], np.asarray(row["png"].convert("RGB"))) for row in rows], planned)
    assert [row["json"]["index"] for row in rows] == list(range(N))


def test_webdataset_reads_every_sample_label_and_pixel(dataset: Path, planned: Pictures) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = webdataset.WebDataset(tars(dataset), shardshuffle=False).decode("rgb8")
    same([(sample["__key__"], sample["cls"], sample["png"]) for sample in samples], planned)


def test_the_harness_reads_every_sample_label_and_pixel(dataset: Path, planned: Pictures) -> None:
    from synthgen_evaluate.images.shard_source import Shards

    source = Shards(str(dataset))
    assert len(source.labels) == N
    images = list(source.decode(np.arange(N), SIZE))
    keys = [key for key, _, _ in planned]
    same(list(zip(keys, source.labels.tolist(), images, strict=True)), planned)
    backwards = list(source.decode(np.arange(N)[::-1], SIZE))[::-1]
    assert all(np.array_equal(one, other) for one, other in zip(images, backwards, strict=True))


def test_torchvision_decodes_the_pixels_that_pillow_does(dataset: Path, planned: Pictures) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.io import ImageReadMode, decode_png

    from synthgen.dataset.shard import read_shard

    items = [item for path in tars(dataset) for item in read_shard(Path(path))]
    for item, (_, _, expected) in list(zip(items, planned, strict=True))[::7]:
        decoded = decode_png(torch.frombuffer(bytearray(item.image), dtype=torch.uint8), ImageReadMode.RGB)
        assert np.array_equal(decoded.permute(1, 2, 0).numpy(), expected)
        with Image.open(io.BytesIO(item.image)) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), expected)
    if dataset.name == "patch_gray":
        colours = {tuple(colour) for _, _, pixels in planned for colour in np.unique(pixels.reshape(-1, 3), axis=0)}
        assert colours == {(0, 0, 0), (127, 127, 127)}


def test_opencv_decodes_the_pixels_that_pillow_does(dataset: Path, planned: Pictures) -> None:
    cv2 = pytest.importorskip("cv2")
    for shard in sorted((dataset / "data").glob("*.tar")):
        for item in read_shard(shard):
            bgr = cv2.imdecode(np.frombuffer(item.image, np.uint8), cv2.IMREAD_COLOR)
            assert (bgr[:, :, ::-1] == planned[int(item.key)][2]).all()
