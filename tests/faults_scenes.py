"""What faults hit: a command that makes something, where it stands, and how it is held against an undisturbed one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from faults_store import BUCKET, KEYS, Trouble, client
from flaky import Proxy

from synthgen.common.errors import SynthgenError
from synthgen.dataset.tar import read_samples

PROGRAMS = Path(sys.executable).parent
IMAGES = ("png", "jpg", "webp")


class Scene(Protocol):
    """A command and its output."""

    name: str  # of the kind of scene
    program: str
    environment: dict[str, str]

    @property
    def total(self) -> int:
        """How many parts the finished output has, by which moments are told."""
        ...

    def command(self, workers: int) -> list[str]:
        """What is run, and run again."""
        ...

    def parts(self) -> int:
        """How many parts stand: shards, or files of runs."""
        ...

    def read(self) -> dict[str, bytes]:
        """All files, by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Make:
    """A set to make: the arguments of ``synthgen``, and how many shards come of it."""

    arguments: tuple[str, ...]
    n_shards: int


@dataclass(slots=True, kw_only=True)
class FolderScene:
    """A set in a folder."""

    make: Make
    out: Path
    name: str = "set in a folder"
    program: str = "synthgen"
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.make.n_shards

    def command(self, workers: int) -> list[str]:
        program = str(PROGRAMS / self.program)
        return [program, *self.make.arguments, "--workers", str(workers), "--out", str(self.out)]

    def parts(self) -> int:
        with suppress(FileNotFoundError):
            return sum(entry.name.endswith(".json") for entry in os.scandir(self.out / "data"))
        return 0

    def read(self) -> dict[str, bytes]:
        return read_folder(self.out)


@dataclass(slots=True, kw_only=True)
class StoreScene:
    """A set in a store, behind a proxy."""

    make: Make
    prefix: str
    server: str  # address
    proxy: Proxy
    trouble: Trouble
    name: str = "set in a store"
    program: str = "synthgen"
    environment: dict[str, str] = field(default_factory=dict)
    client: Any = None

    def __post_init__(self) -> None:
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.proxy.address, **self.environment}
        self.client = client(self.server)

    @property
    def total(self) -> int:
        return self.make.n_shards

    def command(self, workers: int) -> list[str]:
        program, url = str(PROGRAMS / self.program), f"s3://{BUCKET}/{self.prefix}"
        return [program, *self.make.arguments, "--workers", str(workers), "--out", url]

    def parts(self) -> int:
        return len(self.trouble.written)  # to ask the server all the time would keep it busy

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/")  # far fewer than 1,000
        return [entry["Key"].removeprefix(f"{self.prefix}/") for entry in found.get("Contents", ())]

    def read(self) -> dict[str, bytes]:
        return {
            name: self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")["Body"].read()
            for name in self.names()
        }

    def version(self, name: str) -> object:
        """What changes when a file is written again."""
        return self.proxy.puts(".tar")[name.rpartition("/")[2]]

    def write(self, name: str, data: bytes | None) -> None:
        """Put an object, or delete it."""
        where = {"Bucket": BUCKET, "Key": f"{self.prefix}/{name}"}
        self.trouble.written.discard(name)
        if data is None:
            self.client.delete_object(**where)
        else:
            self.client.put_object(Body=data, **where)


@dataclass(slots=True, kw_only=True)
class TrainingScene:
    """A suite of training runs."""

    suite: Path
    out: Path
    total: int
    fleet: bool = False  # whether the command can have several workers
    name: str = "suite of runs"
    program: str = "evaluate"
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, workers: int) -> list[str]:
        several = ["--workers", str(workers)] if self.fleet and workers > 1 else []
        common = ["run", str(self.suite), "--out", str(self.out), "--device", "cpu"]
        return [str(PROGRAMS / self.program), *common, *several]

    def parts(self) -> int:
        return len(lasting(self.out))

    def read(self) -> dict[str, bytes]:
        """Everything that was found; not what tells of speed."""
        kinds = ("predictions/*.parquet", "log.jsonl", "weights.safetensors", "config.json", "selection.parquet")
        found = {path: path.read_bytes() for kind in kinds for path in self.out.glob(f"*/{kind}")}
        found |= {path: path.read_bytes() for path in self.out.glob("suites/*.json")}
        return {str(path.relative_to(self.out)): data for path, data in found.items()}


def lasting(runs: Path) -> list[Path]:
    """The files of a directory of runs that stay."""
    return [path for path in runs.rglob("*") if path.is_file() and path.suffix not in (".tmp", ".pt", "")]


def read_folder(directory: Path) -> dict[str, bytes]:
    """All files of a folder, by name."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# What stands, against what should


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file; of records, without the versions that they tell."""
    return {name: hashlib.sha256(_plain(name, data)).hexdigest() for name, data in files.items()}


def _plain(name: str, data: bytes) -> bytes:
    if name != "manifest.json" and not (name.startswith("data/") and name.endswith(".json")):
        return data
    try:
        record = json.loads(data)
        for one in record.get("shards", [record]):
            del one["environment"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return data
    return json.dumps(record).encode()


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """In which files two outputs differ."""
    names = [name for name in sorted({**wanted, **found}) if found.get(name) != wanted.get(name)]
    return [
        f"{name}: {'missing' if name not in found else 'not due' if name not in wanted else 'other content'}"
        for name in names
    ]


def count_samples(files: Mapping[str, bytes]) -> dict[str, list[str]]:
    """The SHA-256 of the image of each sample in all tars, by key: one each, if all is well."""
    found: dict[str, list[str]] = {}
    for name, data in files.items():
        if name.endswith(".tar"):
            with suppress(SynthgenError):  # the samples before the damage count
                for sample in read_samples(io.BytesIO(data)):
                    image = next(sample[ending] for ending in IMAGES if ending in sample)
                    found.setdefault(image.key, []).append(hashlib.sha256(image.data).hexdigest())
    return found


def tally(found: Mapping[str, Sequence[str]], wanted: Mapping[str, Sequence[str]]) -> Counter[str]:
    """How many samples are lost, duplicate, corrupt."""
    return Counter(
        lost=len(wanted.keys() - found.keys()),
        duplicate=sum(len(sums) > 1 for sums in found.values()) + len(found.keys() - wanted.keys()),
        corrupt=sum(any(one not in wanted[key] for one in sums) for key, sums in found.items() if key in wanted),
    )


# Places for the output


@dataclass(slots=True, kw_only=True)
class Device:
    """A small file system of its own, which can be full or read-only for a while."""

    mount: Path
    read_only: Path  # the same, where nothing can be written

    @property
    def place(self) -> Path:
        """A folder on it."""
        return self.mount / "place"

    def fill(self, spare: int) -> None:
        """Take all space but ``spare`` bytes."""
        with suppress(OSError), (self.mount / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 20)) == 1 << 20:
                pass
        if spare:
            os.truncate(self.mount / "filler", max(0, (self.mount / "filler").stat().st_size - spare))

    def empty(self) -> None:
        """Make room again."""
        (self.mount / "filler").unlink()

    def lock(self) -> None:
        """Lay the read-only view over the place: no path leads to one that can be written."""
        _mount("--bind", self.read_only / "place", self.place)

    def unlock(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def device(folder: Path, size: str = "24m") -> Iterator[Device]:
    """Mount one; raises CalledProcessError where that is not allowed."""
    found = Device(mount=folder / "device", read_only=folder / "read-only")
    found.mount.mkdir(parents=True)
    found.read_only.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", found.mount)
    try:
        found.place.mkdir()
        _mount("--bind", found.mount, found.read_only)
        try:
            _mount("-o", "remount,bind,ro", found.read_only)
            yield found
        finally:
            subprocess.run(["umount", "--lazy", str(found.read_only)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(found.mount)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def random_bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """A file with one bit that fell over."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
