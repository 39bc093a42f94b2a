"""Object stores that fsspec can reach: objects are complete or absent, and failed requests are retried."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard
from urllib.parse import urlsplit

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import LOGIN, one_line, secrets_in, shown, without
from synthgen.storage.atomic import reporting_full_disk
from synthgen.storage.file_by_file import FileByFile
from synthgen.storage.folder import FOLDERS
from synthgen.storage.inside import check_name
from synthgen.storage.outlet import Outlet, refuse_public
from synthgen.storage.regular import LIMIT
from synthgen.storage.retries import with_retries
from synthgen.storage.store import FOLDERS as SETS
from synthgen.storage.store import Publishable

if TYPE_CHECKING:
    from upath import UPath
from synthgen.storage.object_writes import ChangingClaim, Upload, create_object, remove_object, start_of, write_object

# Protocol -> the extra of this package that installs its client; hf:// comes with huggingface_hub.
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
ON_DISK = ("file", "local")  # protocols of URLs of local files
PROBE = "claims/write-test"
PUBLISHED_PROBE = ".synthgen-write-test"


class ObjectStore(Publishable["UPath"]):
    """See ``Store``."""

    remote = True
    locks = False
    spools = True

    def names(self, text: str) -> bool:
        return "://" in text

    def holds(self, place: object) -> TypeGuard[UPath]:
        from upath import UPath

        return isinstance(place, UPath)

    def place(self, text: str) -> UPath:
        if secrets_in(text, elsewhere=False):
            raise SynthgenError(f"{shown(text)}: keys in a URL would be printed; give them in the client's own way")
        return _reached(text)

    def local(self, path: UPath) -> Path | None:
        return Path(path.path) if path.protocol in ON_DISK else None

    def open(self, path: UPath) -> IO[bytes]:
        return path.open("rb")

    def read(self, path: UPath, *, limit: int = LIMIT, patient: bool = False) -> bytes:
        return with_retries(path.read_bytes, brief=not patient)

    def fetch(self, path: UPath, to: Path) -> None:
        path.fs.get_file(path.path, str(to))

    def exists(self, path: UPath) -> bool:
        return path.exists()

    def size(self, path: UPath) -> int | None:
        with suppress(FileNotFoundError):
            return path.stat().st_size
        return None

    def listing(self, directory: UPath) -> dict[str, int]:
        root = str(directory.fs._strip_protocol(directory.path)).strip("/")
        with _reporting_reads(directory):
            files = with_retries(lambda: _found(directory), brief=True)
        names = {}
        for path, info in files.items():
            name = path.strip("/").removeprefix(root).strip("/")
            if not name:  # the folder itself, for which some tools create an object
                continue
            folder, _, rest = name.partition("/")
            if folder in SETS and rest:
                inner, slash, _ = rest.partition("/")
                name = f"{folder}/{inner}{slash}"
            elif rest:
                name = f"{folder}/"
            names[name] = 0 if name.endswith("/") else info["size"]
        return names

    def names_in(self, folder: UPath) -> list[str]:
        folder.fs.invalidate_cache()
        try:
            return [path.name for path in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def check_writable(self, directory: UPath) -> None:
        with _reporting_writes(directory):
            _probe(directory / PROBE)

    def check_folder(self, folder: UPath) -> None:
        """Do nothing: object stores have no links."""

    def target(self, directory: UPath, name: str) -> UPath:
        check_name(directory, name)
        return directory / name

    def write(self, path: UPath, data: bytes) -> None:
        with _reporting_writes(path):
            write_object(path, data)

    def update(self, path: UPath, data: bytes) -> None:
        with _reporting_reads(path):
            stands = with_retries(lambda: path.exists() and path.read_bytes() == data, brief=True)
        if not stands:
            self.write(path, data)

    def create(self, path: UPath, data: bytes) -> bool:
        with _reporting_writes(path):
            return create_object(path, data)

    def replace(self, path: UPath, data: bytes, *, unchanged: Callable[[], bool], first: Callable[[], object]) -> bool:
        if not unchanged():
            return False
        first()
        self.write(path, data)
        return True

    def remove(self, path: UPath) -> None:
        remove_object(path)

    def remove_folder(self, folder: UPath) -> None:
        """Do nothing: object stores have no folders."""

    def put(self, path: UPath, source: Path) -> None:
        if path.protocol not in EXTRAS:  # object stores have no folders; SFTP and the like do
            path.fs.makedirs(path.fs._parent(path.path), exist_ok=True)
        path.fs.put_file(str(source), path.path)

    @contextmanager
    def draft(self, tar: UPath, table: UPath, record: UPath, stands: Callable[[], bool]) -> Iterator[Upload | None]:
        def standing() -> bool:
            record.fs.invalidate_cache()
            return start_of(record, 1) is not None and with_retries(stands)  # one request if there is no record

        if standing():
            yield None
            return
        with reporting_full_disk(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
            yield Upload(file, tar, table, record, standing)

    def clear(self, directory: UPath) -> None:
        """Do nothing: unfinished objects are invisible, and the store itself removes them."""

    def disk(self, directory: UPath) -> Path:
        return Path(tempfile.gettempdir())

    def claim(self, path: UPath, data: bytes, *, force: bool, timeout: float) -> ChangingClaim | None:
        claim = ChangingClaim(path, timeout)
        if force:
            with suppress(Exception):  # a claim must not cause a failure
                claim.renew(data)
            return claim
        return claim if create_object(path, data) else None

    def is_locked(self, path: UPath) -> bool:
        return False

    def outlet(self, text: str, *, source: Path, public: bool) -> Outlet:
        refuse_public(text, public=public)
        protocol, secrets = text.partition("://")[0], secrets_in(text)
        if protocol in ON_DISK:
            from urllib.request import url2pathname  # takes 10 ms, and is needed for few URLs

            return FOLDERS.outlet(url2pathname(urlsplit(text).path), source=source, public=public)
        if protocol in ("http", "https"):
            raise SynthgenError(f"{shown(text)}: http(s) cannot be written to; use hf://, s3://, gs:// or a folder")
        if protocol in EXTRAS and LOGIN.search(text):
            raise SynthgenError(f"{shown(text)}: keys must not be in the URL; set them in the environment")
        try:
            return FileByFile(store=self, root=_reached(text), shown=shown(text), secrets=secrets)
        except SynthgenError as error:
            raise SynthgenError(without(str(error).replace(text, shown(text)), secrets)) from None

    def check_outlet(self, root: UPath, shown: str, *, write: bool) -> None:
        bucket = root.path.partition("/")[0]
        if bucket and not root.fs.exists(bucket):
            raise SynthgenError(f"{shown}: {bucket} does not exist, or is not visible with these keys")
        if write:
            _probe(root / PUBLISHED_PROBE)

    def find(self, root: UPath) -> dict[str, int]:
        start = root.path.rstrip("/")
        root.fs.invalidate_cache()
        found: dict[str, dict[str, int]] = root.fs.find(start, detail=True)
        named = {path.removeprefix(start).lstrip("/"): info["size"] for path, info in found.items()}
        return {name: size for name, size in named.items() if name not in ("", PUBLISHED_PROBE)}

    def loads(self, shown: str) -> str:
        return f'datasets.load_dataset("webdataset", data_files="{shown.rstrip("/")}/data/*.tar", split="train")'


OBJECTS = ObjectStore()


def _reached(text: str) -> UPath:
    """The path of a URL; raises SynthgenError if its client is missing or cannot start."""
    from upath import UPath

    for name in ("gcsfs", "asyncio"):  # they would print tracebacks of what is reported in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    protocol = text.partition("://")[0]
    try:
        found = UPath(text)
        found.fs  # noqa: B018 - creates the client
    except (ImportError, ValueError, OSError) as error:
        extra = f"; pip install 'synthgen[{EXTRAS[protocol]}]'" if protocol in EXTRAS else ""
        why = one_line(error, secrets_in(text))
        raise SynthgenError(f"{shown(text)}: cannot be reached ({why}){extra}") from None
    return found


@contextmanager
def _reporting_writes(path: UPath) -> Iterator[None]:
    """Report a failure to write in one line without keys."""
    try:
        yield
    except SynthgenError:
        raise
    except Exception as error:  # each client has its own errors
        why = one_line(error, secrets_in(str(path)))
        raise SynthgenError(f"{shown(str(path))}: cannot be written to ({why})") from None


@contextmanager
def _reporting_reads(path: UPath) -> Iterator[None]:
    """Report a failure to read in one line, without the client's message, which may contain requests and keys."""
    try:
        yield
    except Exception as error:
        why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise SynthgenError(f"{path}: cannot be read ({why})") from None


def _found(directory: UPath) -> dict[str, Any]:
    directory.fs.invalidate_cache()  # or a listing from before its files were written
    return dict(directory.fs.find(str(directory.fs._strip_protocol(directory.path)).rstrip("/"), detail=True))


def _probe(path: UPath) -> None:
    path.fs.pipe_file(path.path, b"")
    with suppress(Exception):  # another process did; or the keys do not allow it, which is no harm
        path.fs.rm_file(path.path)
