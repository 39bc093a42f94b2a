"""The file of a source's decoded images at one size.

It is sparse: a line of JSON that says what it holds, a bitmap of the images that are there, and, from the next
whole block on, a slot for every image.  Pixels are written, then flushed to the disk, then their bits are set: a
process killed at any moment leaves a valid file.  Only the holder of the file's lock writes; a file is never
truncated, since others may have it mapped, but removed and created again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, with_config

from synthgen.common.records import STRICT, record
from synthgen.storage.inside import check_folder
from synthgen.storage.reading import open_file

from ..errors import EvaluateError, told_here

FORMAT = 1  # of the files, and of what ``sources.fit`` makes of an image
ENDING = ".pixels"
BLOCK = 4096  # bytes; file systems allocate such blocks
CHUNK = 256  # images that a thread decodes at a time
COMMIT_EVERY = 5.0  # seconds between flushes to the disk
LONGEST = 1 << 20  # bytes in the first line


class Decoder(Protocol):
    """Anything that decodes images by position: a source or a split."""

    def decode(self, indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.uint8]]:
        """The images at ``indices`` as uint8 [size, size, 3]; callable from threads."""
        ...


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a file."""

    format: int
    identity: dict[str, Any]  # the source's, see ``sources``
    n_images: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=1)]  # pixels, width and height


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFile:
    """Its path, and what it has slots for."""

    path: Path
    what: str  # JSON of identity, n_images and size
    n_images: int
    size: int  # pixels, width and height

    @staticmethod
    def of(folder: Path, identity: dict[str, Any], n_images: int, size: int) -> PixelFile:
        """The file of a source in a folder; other images, sizes and formats have other files."""
        what = json.dumps({"format": FORMAT, "identity": identity, "n_images": n_images, "size": size}, sort_keys=True)
        name = hashlib.sha256(what.encode()).hexdigest()[:16] + ENDING
        return PixelFile(path=folder / name, what=what, n_images=n_images, size=size)

    @staticmethod
    def read(path: Path) -> PixelFile | None:
        """An existing file; None if its creation has only begun.

        Raises FileNotFoundError if it does not exist, and EvaluateError, naming it, if it is not such a file.
        """
        try:
            with open_file(path) as file:
                line = file.readline(LONGEST)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise EvaluateError(f"{path}: cannot be read ({error.strerror})") from None
        if not line:
            return None
        with told_here():
            what = record(line, Header, path)
        found = PixelFile.of(path.parent, what.identity, what.n_images, what.size)
        if what.format != FORMAT or found.path.name != path.name:
            raise EvaluateError(f"{path}: not the images that its first line names; remove it")
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """The source's identity."""
        identity: dict[str, Any] = json.loads(self.what)["identity"]
        return identity

    @property
    def image_bytes(self) -> int:
        """Bytes per image."""
        return 3 * self.size**2

    @property
    def start(self) -> int:
        """Where the pixels begin, in bytes."""
        return -(-(self._bitmap_start + self._bitmap_bytes) // BLOCK) * BLOCK

    @property
    def n_bytes(self) -> int:
        """Length of the file, holes included."""
        return self.start + self.n_images * self.image_bytes

    @property
    def _bitmap_start(self) -> int:
        return len(self.what.encode()) + 1

    @property
    def _bitmap_bytes(self) -> int:
        return -(-self.n_images // 8)

    def room(self, indices: NDArray[np.int64]) -> int:
        """Bytes of the blocks that hold the images at ``indices``, which are in ascending order."""
        first = (self.start + indices * self.image_bytes) // BLOCK
        last = (self.start + (indices + 1) * self.image_bytes - 1) // BLOCK
        first[1:] = np.maximum(first[1:], last[:-1] + 1)  # a block shared with the image before counts once
        return int((last - first + 1).sum()) * BLOCK

    def present(self, file: IO[bytes] | None = None) -> NDArray[np.bool_]:
        """Which images are there, bool [n_images]; none if there is no file, or one of another length."""
        if file is None:
            try:
                with open_file(self.path) as found:
                    return self.present(found)
            except (FileNotFoundError, NotADirectoryError):
                return np.zeros(self.n_images, np.bool_)
        if os.fstat(file.fileno()).st_size != self.n_bytes:
            return np.zeros(self.n_images, np.bool_)
        bits = np.frombuffer(os.pread(file.fileno(), self._bitmap_bytes, self._bitmap_start), np.uint8)
        return np.unpackbits(bits, count=self.n_images, bitorder="little").view(np.bool_)

    def n_present(self) -> int:
        """How many images are there, without allocating memory for those that an invalid file claims to hold."""
        with suppress(FileNotFoundError), open_file(self.path) as file:
            if os.fstat(file.fileno()).st_size == self.n_bytes:
                return int(self.present(file).sum())
        return 0

    def map(self, file: IO[bytes]) -> NDArray[np.uint8]:
        """All slots, uint8 [n_images, size, size, 3]; stays valid when the file is closed or removed."""
        shape = (self.n_images, self.size, self.size, 3)
        return np.asarray(np.memmap(file, np.uint8, "r", self.start, shape))

    @contextmanager
    def claimed(self) -> Iterator[IO[bytes]]:
        """The file, created if necessary, with its lock; waits for a process that holds it."""
        with self._disk_errors():
            file = self._claim()
        with file:
            try:
                yield file
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a mapping would keep holding it

    def _claim(self) -> IO[bytes]:
        with told_here():
            check_folder(self.path.parent)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with ExitStack() as stack:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                file = stack.enter_context(os.fdopen(descriptor, "r+b", buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX)
                if not self.is_linked(file):  # it was removed while we waited
                    continue
                length = os.fstat(descriptor).st_size
                if length not in (0, self.n_bytes):
                    self.path.unlink()
                    continue
                if length == 0:
                    head = self.what.encode() + b"\n"
                    self._write(file, 0, head.ljust(self.start, b"\0"))  # room on the disk for all bits
                    os.ftruncate(descriptor, self.n_bytes)
                stack.pop_all()
                return file

    def is_linked(self, file: IO[bytes]) -> bool:
        """Whether an open file is still the one of that name."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def fill(
        self, file: IO[bytes], decoder: Decoder, indices: NDArray[np.int64], progress: Callable[[int], None]
    ) -> None:
        """Decode images into the claimed file; what is decoded is kept, however this ends.

        Raises EvaluateError naming an image that cannot be decoded, and if the disk is full.
        """
        present, done = self.present(file), list[int]()

        def one(chunk: NDArray[np.int64]) -> None:
            for index, image in zip(chunk.tolist(), decoder.decode(chunk, self.size), strict=True):
                self._write(file, self.start + index * self.image_bytes, np.ascontiguousarray(image).data)
                done.append(index)

        def commit() -> None:
            present[list(done)] = True
            with self._disk_errors():
                os.fsync(file.fileno())
            self._write(file, self._bitmap_start, np.packbits(present, bitorder="little").data)

        progress(0)
        last = time.monotonic()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for _ in pool.map(one, np.split(indices, range(CHUNK, len(indices), CHUNK))):
                    progress(len(done))
                    if time.monotonic() - last > COMMIT_EVERY:
                        commit()
                        last = time.monotonic()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                commit()

    def _write(self, file: IO[bytes], offset: int, data: bytes | memoryview) -> None:
        rest = memoryview(data).cast("B")
        with self._disk_errors():
            while rest:
                written = os.pwrite(file.fileno(), rest, offset)
                rest, offset = rest[written:], offset + written

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn disk errors into EvaluateError."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EvaluateError(
                    f"{self.path}: no space left for decoded images; those already decoded are kept:"
                    " free some space and run again"
                ) from None
            raise EvaluateError(f"{self.path}: decoded images cannot be kept there ({error})") from None


def busy(path: Path) -> bool:
    """Whether a process is writing to a file."""
    try:
        with open_file(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
