import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import Command
from files import contents
from hub import TOKEN, Hub, broken_promises, serving
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import installed

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import secrets_in, shown, without
from synthgen.dataset.manifest import DOCUMENTS, read_manifest
from synthgen.dataset.plan import read_plan
from synthgen.dataset.shard import read_shard
from synthgen.publishing.export import export
from synthgen.publishing.names import class_folders
from synthgen.publishing.publish import publish
from synthgen.publishing.upload import arrange
from synthgen.storage import object_store
from synthgen.storage.folder import Folders
from synthgen.storage.outlet import File, Standing

N, SIZE = 40, 32
SMALL = ("--size", SIZE, "--points", 1000, "--workers", 1)
Told = list[tuple[str, int, str]]  # key, label, sha256 of the RGB pixels

pytestmark = [  # of third parties
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning:webdataset"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def fractal_set(out: Path, synthgen_here: Command, categories: Path, n: int = N) -> Path:
    done = synthgen_here("fractal", "--out", out, "--categories", categories, "--n", n, "--shard-size", 15, *SMALL)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def fractals(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command, categories: Path) -> Path:
    return fractal_set(tmp_path_factory.mktemp("publish") / "fractals", synthgen_here, categories)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory, synthgen_here: Command) -> Path:
    out = tmp_path_factory.mktemp("publish") / "diffusion"
    prompts = Path(__file__).parents[1] / "prompts/quickstart.txt"
    command = ("sd", "--prompts", prompts, "--model", "tiny", "--steps", 1, "--batch", 20, "--size", SIZE)
    done = synthgen_here(*command, "--n", N, "--shard-size", 20, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(params=["fractals", "diffusion"])
def dataset(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def copied(fractals: Path, tmp_path: Path) -> Path:
    """A set of one's own, as it was before anything was published."""
    return Path(shutil.copytree(fractals, tmp_path / "set", ignore=shutil.ignore_patterns(*DOCUMENTS)))


def wanted(directory: Path) -> dict[str, bytes]:
    """What is to stand where a set was published."""
    top = {*DOCUMENTS, "plan.json", "SHA256SUMS", "manifest.json"}
    own = {name: data for name, data in contents(directory).items() if "/" in name or name in top}
    assert top <= own.keys()
    return own


def in_bucket(url: str) -> dict[str, bytes]:
    """What stands in a bucket of moto's, which runs in this process."""
    from moto.s3.models import s3_backends

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    keys = s3_backends["123456789012"]["aws"].buckets[bucket].keys
    return {name.removeprefix(f"{prefix}/"): key.value for name, key in list(keys.items()) if name.startswith(prefix)}


# Reading back

READ = """
import hashlib, json, sys
import datasets, numpy as np
for path, arguments, ways in json.loads(sys.argv[1]):
    for streaming in ways:
        loaded = datasets.load_dataset(path, split="train", streaming=streaming, **arguments)
        rows = []
        for row in loaded:
            (image,) = [row[name] for name in ("png", "jpg", "webp") if name in row]
            pixels = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
            rows.append((row["__key__"], row["cls"], pixels))
        names = getattr((loaded.features or {}).get("cls"), "names", None)
        print(json.dumps([names, rows]))
"""


def by_datasets(cache: Path, hub: Hub, *calls: tuple[str, dict[str, Any], list[bool]]) -> list[tuple[Any, Told]]:
    """Class names and rows that load_dataset gives, by path, arguments and whether it is to stream."""
    environment = {"HF_HOME": str(cache), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(calls)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(names, [(key, label, digest) for key, label, digest in rows]) for names, rows in found]


def pixels(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


def by_webdataset(urls: list[str]) -> Told:
    webdataset = pytest.importorskip("webdataset")
    samples = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    endings = ("png", "jpg", "webp")
    return [(s["__key__"], s["cls"], pixels(next(s[e] for e in endings if e in s))) for s in samples]


def by_croissant(path: Path, cache: Path) -> Told:
    croissant = pytest.importorskip("mlcroissant")
    from mlcroissant._src.operation_graph.operations import extract

    extract.EXTRACT_PATH = extract.EXTRACT_PATH.__class__(cache)  # it takes tars of one relative name for the same
    rows = croissant.Dataset(str(path)).records("images")
    return [(row["images/key"].decode(), row["images/label"], pixels(row["images/image"])) for row in rows]


def by_harness(path: str) -> tuple[tuple[str, ...], list[int], list[str]]:
    from synthgen_evaluate.design.sources import ShardSource
    from synthgen_evaluate.images.sources import open_source

    source = open_source(ShardSource(kind="shards", path=path), SIZE)
    images = source.decode(np.arange(source.n_images), SIZE)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return source.class_names, source.labels.tolist(), digests


def by_torchvision(folder: Path, class_names: tuple[str, ...]) -> Counter[tuple[int, str]]:
    torchvision = pytest.importorskip("torchvision")
    loaded = torchvision.datasets.ImageFolder(str(folder))
    labels = {row.folder: row.label for row in class_folders(class_names)}
    return Counter((labels[loaded.classes[target]], pixels(image)) for image, target in loaded)


def test_a_set_published_to_a_folder_to_s3_and_to_the_hub_is_read_alike_by_every_client(
    dataset: Path, tmp_path: Path, s3: str, s3_server: str, synthgen: Command, synthgen_here: Command
) -> None:
    import s3fs

    folder, url, plan = tmp_path / "there", f"{s3}/sets/one", read_plan(dataset / "plan.json")
    items = [item for path in sorted((dataset / "data").glob("*.tar")) for item in read_shard(path)]
    images = [pixels(Image.open(io.BytesIO(item.image))) for item in items]
    samples = [plan.sample(i) for i in range(N)]
    expected = [(sample.key, sample.label, image) for sample, image in zip(samples, images, strict=True)]
    classes = list(plan.content.class_names)

    for target in (folder, url):
        done = synthgen_here("publish", dataset, "--to", target)
        assert done.returncode == 0, done.stderr
        assert f"{target}: {len(wanted(dataset))} files sent" in done.stdout
    assert contents(folder) == in_bucket(url) == wanted(dataset)
    with serving() as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        done = synthgen(
            "publish", dataset, "--to", "hf://datasets/ann/set", "--public", env={**os.environ, **environment}
        )
        assert done.returncode == 0, done.stderr
        there = hub.head("ann/set")
        assert there.pop(".gitattributes")
        assert there == wanted(dataset)  # with the repository's name in its card

        stems = [plan.shard(j).stem for j in range(plan.n_shards)]
        s3fs.S3FileSystem().chmod(url, acl="public-read", recursive=True)  # else only with keys
        by_http = [f"{s3_server}/{url.removeprefix('s3://')}/data/{stem}.tar" for stem in stems]
        read = by_datasets(
            tmp_path / "cache",
            hub,
            (str(folder), {}, [True, False]),
            ("ann/set", {}, [True, False]),
            ("webdataset", {"data_files": f"{url}/data/*.tar"}, [False]),  # datasets 5.2 cannot stream tars of s3://
            ("webdataset", {"data_files": by_http}, [True]),
        )
        assert [rows for _, rows in read] == [expected] * 6
        assert [names for names, _ in read[:4]] == [classes] * 4
        on_hub = [f"{hub.endpoint}/datasets/ann/set/resolve/main/data/{stem}.tar" for stem in stems]
        assert by_webdataset(on_hub) == expected
    assert by_webdataset(by_http) == expected
    assert by_webdataset([str(folder / "data" / f"{stem}.tar") for stem in stems]) == expected
    assert sorted(by_croissant(folder / "croissant.json", tmp_path / "extracted")) == expected  # files in any order
    labels = [label for _, label, _ in expected]
    assert by_harness(str(folder)) == by_harness(url) == (tuple(classes), labels, images)
    export(read_manifest(folder), tmp_path / "images", layout="imagefolder", shard_bytes=10**9, progress=lambda n: None)
    assert by_torchvision(tmp_path / "images", tuple(classes)) == Counter(row[1:] for row in expected)


# A folder

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from synthgen.publishing.publish import publish
copy, left = shutil.copyfileobj, int(sys.argv[3])
def half(source, target, *rest):
    global left
    left -= 1
    if left == 0:
        target.write(source.read(50))
        target.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    copy(source, target, *rest)
shutil.copyfileobj = half
publish(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_copy_killed_at_several_files_ends_complete_and_copies_nothing_whole_again(
    fractals: Path, tmp_path: Path
) -> None:
    out = tmp_path / "there"
    seen: dict[Path, tuple[int, int]] = {}
    for at in (3, 4, 5, 20):  # of the files that are still to go; the last is never reached
        done = subprocess.run([sys.executable, "-c", KILLED, fractals, out, str(at)], capture_output=True, text=True)
        assert done.returncode == (0 if at == 20 else -signal.SIGKILL), done.stderr
        states = {path: path.stat() for path in out.rglob("*") if path.is_file() and path.suffix != ".tmp"}
        found = {path: (state.st_ino, state.st_mtime_ns) for path, state in states.items()}
        assert found.items() >= seen.items()
        assert len(found) > len(seen)
        assert (out / "manifest.json").exists() == (at == 20)
        seen = found
    assert contents(out) == wanted(fractals)


def test_nobody_sees_a_manifest_whose_files_are_missing_or_old_while_a_set_grows(
    copied: Path, tmp_path: Path, synthgen_here: Command, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, states, broken = tmp_path / "there", [], []
    publish(copied, str(out))
    fractal_set(copied, synthgen_here, categories, n=N + 10)

    def looked(action: Any) -> Any:
        def act(*arguments: Any, **options: Any) -> None:
            action(*arguments, **options)
            there = {name: data for name, data in contents(out).items() if not name.endswith(".tmp")}
            states.append("manifest.json" in there)
            broken.extend(broken_promises(there))

        return act

    monkeypatch.setattr(Folders, "put", looked(Folders.put))
    monkeypatch.setattr(Path, "unlink", looked(Path.unlink))
    found = publish(copied, str(out))
    assert broken == []
    assert (states[0], states[-1], False in states) == (True, True, True)  # it goes away before files are replaced
    assert found.n_sent <= 3 + len(("plan.json", "SHA256SUMS", "manifest.json")) + len(DOCUMENTS)
    assert contents(out) == wanted(copied)


names_of_shards = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)


@given(old=names_of_shards, extra=names_of_shards, remade=st.sets(st.sampled_from("abcdef")), data=st.data())
def test_in_whatever_state_a_place_is_no_step_leaves_a_manifest_that_lies(
    old: list[str], extra: list[str], remade: set[str], data: st.DataObject
) -> None:
    """Files are modelled by their content's version; a place holds an old set, whole or in part, or nothing."""

    def files(shards: list[str], version: str) -> dict[str, str]:
        made = {
            f"{folder}/{shard}.{ending}": version if shard in remade else "same"
            for shard in shards
            for folder, ending in (("metadata", "parquet"), ("data", "tar"), ("data", "json"))
        }
        whole = " ".join(f"{name}={made[name]}" for name in sorted(made))
        return {
            "plan.json": f"{len(shards)}",
            **made,
            "SHA256SUMS": whole,
            "README.md": version,
            "manifest.json": whole,
        }

    new = [*old, *(shard for shard in extra if shard not in old)]
    before, after = files(old, "old"), files(new, "new")
    there = dict(before)
    if data.draw(st.booleans(), label="unfinished"):
        for name in ("manifest.json", "SHA256SUMS", *data.draw(st.sets(st.sampled_from(sorted(before))), label="gone")):
            there.pop(name, None)

    def honest() -> bool:
        promised = there.get("manifest.json")
        return promised is None or any(
            promised == made["manifest.json"]
            and all(there.get(name) == made[name] for name in made if name != "README.md")
            for made in (before, after)
        )

    assert honest()
    sent = [File(name=name, source=Path(), size=1, sha256=version) for name, version in after.items()]
    standing = {name: Standing(size=1) for name in there}
    work = arrange(sent, standing, {name for name in there if there[name] == after.get(name)}, ("README.md",))
    shards = data.draw(st.permutations(work.shards), label="order")  # they are sent side by side
    steps: list[tuple[str, str | None]] = [(name, None) for name in work.withdraw]
    steps += [(file.name, file.sha256) for group in (work.claim, *shards) for file in group]
    steps += [(name, None) for name in work.withdraw_late]
    steps += [(file.name, file.sha256) for file in work.closing]
    for name, version in steps:
        assert there.get(name) != version, f"{name}: sent again"
        if version is None:
            del there[name]
        else:
            there[name] = version
        assert honest(), name
    assert there == after


def test_a_damaged_file_at_the_target_is_sent_again_and_nothing_else(fractals: Path, tmp_path: Path) -> None:
    out = tmp_path / "there"
    publish(fractals, str(out))
    tar, record = out / "data/fractal-train-000001.tar", out / "data/fractal-train-000002.json"
    tar.write_bytes(tar.read_bytes()[:-512])
    record.unlink()
    again = publish(fractals, str(out))
    assert again.n_sent == 2 + 2  # sums and manifest went away meanwhile
    assert contents(out) == wanted(fractals)
    assert publish(fractals, str(out)).n_sent == 0


# S3


@dataclass(slots=True)
class Watched:
    """What a proxy before an S3 server sees."""

    url: str = ""
    puts: Counter[str] = field(default_factory=Counter)  # whole files that the server took
    broken: list[str] = field(default_factory=list)  # promises to readers, after each change
    fail: list[int] = field(default_factory=list)  # statuses of the next answers to PUT
    stall_at: int = 0  # the PUT, counted from 1, that is never passed on
    n: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def watching(server: str, set_url: str) -> Iterator[Watched]:
    watched = Watched()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = urlsplit(self.path).path
            counted = self.command == "PUT" and object_store.PUBLISHED_PROBE not in key
            with watched.lock:
                watched.n += counted
                stalls = counted and watched.n == watched.stall_at
                if not stalls:
                    self.pass_on(key, body, counted)
            if stalls:
                watched.stalled.set()
                watched.released.wait(60)
                self.close_connection = True

        def pass_on(self, key: str, body: bytes, counted: bool) -> None:
            if counted and watched.fail:
                self.answer(watched.fail.pop(), b"")
                return
            link = http.client.HTTPConnection(urlsplit(server).netloc)
            link.request(self.command, self.path, body, dict(self.headers))
            answer = link.getresponse()
            data = answer.read()
            link.close()
            if self.command in ("PUT", "DELETE", "POST"):
                watched.puts.update([key] * counted)
                watched.broken += broken_promises(in_bucket(set_url))
            self.answer(answer.status, data, dict(answer.getheaders()))

        def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    watched.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield watched
    watched.released.set()
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def command(*arguments: object) -> list[str]:
    return [installed("synthgen"), *map(str, arguments)]


def test_an_upload_to_s3_killed_twice_ends_complete_and_nobody_saw_half_a_set(
    fractals: Path, s3: str, s3_server: str
) -> None:
    url = f"{s3}/sets/one"
    with watching(s3_server, url) as watched:
        environment = {**os.environ, "AWS_ENDPOINT_URL": watched.url}
        for at in (4, 5):  # of the files that are still to go
            watched.stall_at = watched.n + at
            watched.stalled.clear()
            process = subprocess.Popen(command("publish", fractals, "--to", url), env=environment, stderr=-1)
            assert watched.stalled.wait(60)
            assert len(in_bucket(url)) >= at - 1
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert "manifest.json" not in in_bucket(url)
        watched.stall_at = 0
        done = subprocess.run(command("publish", fractals, "--to", url), env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert in_bucket(url) == wanted(fractals)
        assert watched.broken == []
        assert set(watched.puts.values()) == {1}
        assert len(watched.puts) == len(wanted(fractals))


def test_a_set_grows_in_a_bucket_through_passing_faults_of_the_server(
    copied: Path, s3: str, s3_server: str, synthgen_here: Command, categories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    url = f"{s3}/sets/one"
    with watching(s3_server, url) as watched:
        monkeypatch.setenv("AWS_ENDPOINT_URL", watched.url)
        s3fs.S3FileSystem.clear_instance_cache()
        publish(copied, url)
        before = Counter(watched.puts)
        fractal_set(copied, synthgen_here, categories, n=N + 10)
        watched.fail = [503, 500]
        publish(copied, url)
        sent = {Path(name).name for name in watched.puts - before}
        assert sent >= {"fractal-train-000003.tar", "plan.json", "SHA256SUMS", "manifest.json", "README.md"}
        assert not any("00000" in name and "000003" not in name for name in sent)
        assert in_bucket(url) == wanted(copied)
        assert watched.broken == []
    s3fs.S3FileSystem.clear_instance_cache()


# Refusals


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("verify: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("synthgen: ")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{set}", " itself; choose another place"),
        ("{set}/sub", "is inside the dataset "),
        ("{set}/../set", "is inside the dataset "),
        ("file://{set}/sub", "is inside the dataset "),
        ("{set}/..", "holds file and is not a dataset; choose an empty place"),
        ("{set}/../file", "not a folder"),
        ("{set}/../file/sub", "file: not a folder"),
        ("https://example.org/set", "http(s) cannot be written to"),
        ("s3://no-such-bucket-here/x", "no-such-bucket-here does not exist, or is not visible with these keys"),
        ("s3://AKIA:abc/d+e@bucket/x", "s3://***@bucket/x: keys must not be in the URL; set them in the environment"),
        ("nothing://x?token=abcdef", "nothing://x?***: cannot be reached"),
        ("hf://ann/set", "not a dataset on the Hub; write hf://datasets/USER/NAME"),
        ("hf://datasets/set", "not a dataset on the Hub"),
        ("hf://datasets/ann/set/sub", "not a dataset on the Hub"),
        ("hf://datasets/ann/set", "no Hugging Face Hub token found; run hf auth login or set HF_TOKEN"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_the_set_is_verified(
    copied: Path,
    s3: str,
    tmp_path: Path,
    synthgen_here: Command,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    told: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("synthgen.publishing.publish.inspect", None)
    (tmp_path / "file").touch()
    before = contents(copied)
    line = refused(synthgen_here("publish", copied, "--to", target.format(set=copied)))
    assert told in line
    assert "abc" not in line
    assert contents(copied) == before


def test_a_place_that_holds_another_set_or_more_of_this_one_is_refused(
    fractals: Path, diffusion: Path, copied: Path, tmp_path: Path, synthgen_here: Command, categories: Path
) -> None:
    out = tmp_path / "there"
    publish(fractals, str(out))
    before = contents(out)
    with pytest.raises(SynthgenError, match=r"holds a set of another plan \(\w{16} there, \w{16} here\)"):
        publish(diffusion, str(out))
    other = tmp_path / "otherwise cut"
    done = synthgen_here("fractal", "--out", other, "--categories", categories, "--n", N, "--shard-size", 30, *SMALL)
    assert done.returncode == 0
    with pytest.raises(SynthgenError, match=r"holds data/fractal-train-000002.json, which this set does not have"):
        publish(other, str(out))
    (out / "plan.json").write_bytes((out / "plan.json").read_bytes().replace(b'"n": 40', b'"n": 41', 1))
    with pytest.raises(SynthgenError, match="holds the same set with 41 images, more than the 40 here"):
        publish(fractals, str(out))
    (out / "plan.json").write_bytes(b"[]")
    with pytest.raises(SynthgenError, match=r"its plan\.json is not a dataset's"):
        publish(fractals, str(out))
    (out / "plan.json").write_bytes(before["plan.json"])
    assert contents(out) == before


def test_a_bucket_that_cannot_be_written_to_is_refused_before_the_set_is_verified(
    fractals: Path, tmp_path: Path, synthgen_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def forbidden(*arguments: object, **options: object) -> None:
        raise PermissionError("Forbidden for secret=abcdef")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", forbidden)
    monkeypatch.setattr("synthgen.publishing.publish.inspect", None)
    assert refused(synthgen_here("publish", fractals, "--to", "memory://bucket/x?k=abcdef")).endswith("secret=***")


# Unfinished and damaged sets


def test_an_unfinished_set_is_refused_and_published_only_where_that_is_asked_and_says_so(
    copied: Path, tmp_path: Path, synthgen_here: Command
) -> None:
    out = tmp_path / "there"
    for name in ("data/fractal-train-000001.json", "manifest.json", "SHA256SUMS"):
        (copied / name).unlink()
    line = refused(synthgen_here("publish", copied, "--to", out))
    assert f"{copied}: unfinished, 25 of 40 images in 2 of 3 shards; finish it" in line
    assert not out.exists()
    done = synthgen_here("publish", copied, "--to", out, "--allow-incomplete")
    assert done.returncode == 0, done.stderr
    assert "unfinished, as its card says: " in done.stdout
    there = contents(out)
    assert not {"manifest.json", "SHA256SUMS"} & there.keys()
    assert {name for name in there if name.endswith(".tar")} == {f"data/fractal-train-00000{j}.tar" for j in (0, 2)}
    assert b"unfinished: 25 of 40 images" in there["README.md"]


def test_a_damaged_set_is_refused_by_its_first_defects_and_published_without_the_damaged_shard(
    copied: Path, tmp_path: Path, synthgen_here: Command
) -> None:
    out, tar = tmp_path / "there", copied / "data/fractal-train-000001.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[5000] ^= 1
    tar.write_bytes(damaged)
    line = refused(synthgen_here("publish", copied, "--to", out))
    assert "1 defect (data/fractal-train-000001.tar: " in line
    assert "repair shards with synthgen verify --repair and remove what does not belong there, or" in line
    assert not out.exists()
    assert synthgen_here("publish", copied, "--to", out, "--allow-incomplete").returncode == 0
    there = contents(out)
    assert not {"manifest.json", "SHA256SUMS", "data/fractal-train-000001.tar"} & there.keys()
    assert b"data/fractal-train-000001.tar" in there["README.md"]


def test_publishing_the_whole_of_a_set_finishes_what_was_published_of_it(
    fractals: Path, copied: Path, tmp_path: Path
) -> None:
    out = tmp_path / "there"
    (copied / "data/fractal-train-000001.json").unlink()
    first = publish(copied, str(out), allow_incomplete=True)
    assert first.faults
    done = publish(fractals, str(out))
    assert done.faults == ()
    assert {"manifest.json", "SHA256SUMS"} <= contents(out).keys()
    assert contents(out) == wanted(fractals)
    with pytest.raises(SynthgenError, match=r"holds data/fractal-train-000001\.json, which this set does not have"):
        publish(copied, str(out), allow_incomplete=True)  # it would take a shard away


# What is printed


def test_a_dry_run_lists_every_file_and_touches_nothing(copied: Path, tmp_path: Path, synthgen_here: Command) -> None:
    out = tmp_path / "there"
    before = contents(copied)
    done = synthgen_here("publish", copied, "--to", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    listed = {line[2]: (line[0], int(line[1])) for line in lines if len(line) == 3 and line[1].isdecimal()}
    own = {name: data for name, data in before.items() if name not in DOCUMENTS}
    assert listed == {name: ("new", len(data)) for name, data in own.items()}
    assert contents(copied) == before
    assert not out.exists()

    publish(copied, str(out))
    (out / "data/fractal-train-000000.json").write_bytes(b"{}")
    (out / "README.md").unlink()
    states = {(path, path.stat().st_mtime_ns) for path in out.rglob("*")}
    done = synthgen_here("publish", copied, "--to", out, "--dry-run")
    told = {line.split()[2]: line.split()[0] for line in done.stdout.splitlines() if line[:1] == " "}
    assert {name for name, state in told.items() if state == "new"} == {"README.md"}
    assert {name for name, state in told.items() if state == "different"} == {"data/fractal-train-000000.json"}
    assert told.keys() == wanted(copied).keys()
    assert states == {(path, path.stat().st_mtime_ns) for path in out.rglob("*")}


words = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters="@/?&=+#%"), min_size=4, max_size=12)


@given(user=words, password=words, value=words)
def test_no_key_of_a_url_is_shown(user: str, password: str, value: str) -> None:
    url = f"ftp://{user}:{password}/x@host/folder?token={value}"
    if not any(word in "ftp://***@host/folder?***" for word in (user, password, value)):
        assert not any(word in shown(url) for word in (user, password, value))
        told = without(f"cannot log in as {user}:{password}/x with {value}", secrets_in(url))
        assert not any(word in told.split(" ", 4)[4] for word in (user, f"{password}/x"))
    assert shown("s3://bucket/a@b") == "s3://bucket/a@b"
    assert shown("hf://datasets/ann/set@branch") == "hf://datasets/ann/set@branch"
