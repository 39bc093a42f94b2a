"""The tar of a shard, byte for byte: a writer without times or owners, and a reader that trusts nothing.

Python's tarfile follows links, believes any declared size, and takes some truncated files for complete ones.  This
reader accepts one form, that of the writer and of any plain tar: files in no folder, in samples of an image, a class
and a record next to each other, and two empty blocks at the end.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from synthgen.common.errors import SynthgenError

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)  # of a tar
IMAGES = ("png", "jpg", "webp")
# The most bytes that a member may say it has; a 4096 x 4096 image of noise has 50 MB.
LIMITS = {"cls": 32, "json": 1 << 20} | dict.fromkeys(IMAGES, 1 << 28)
CHUNK = 1 << 20  # bytes asked for at once: a size is only believed as far as the file goes
NAME = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_.]+)")  # of a member: key and file extension
KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class Member(NamedTuple):
    """A file of a tar."""

    key: str
    ending: str
    start: int  # byte of the tar at which its content begins
    size: int  # bytes
    data: bytes  # its content; empty if it is skipped


def _blank_header() -> bytes:
    info = tarfile.TarInfo("")
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


BLANK = _blank_header()  # of an empty member without a name, with fixed times and owners
BLANK_SUM = sum(BLANK[:148]) + sum(b" " * 8) + sum(BLANK[156:]) - sum(BLANK[124:136])


def member(name: str, data: bytes) -> bytes:
    """A tar member (ustar; a name of at most 100 bytes) in which only name, size and content vary.

    Fills in a header made by tarfile, which is three times as fast as making each of them.
    """
    stem = name.encode()
    assert len(stem) <= 100
    size = b"%011o\0" % len(data)
    checksum = b"%06o\0 " % (BLANK_SUM + sum(stem) + sum(size))
    header = stem.ljust(100, b"\0") + BLANK[100:124] + size + BLANK[136:148] + checksum + BLANK[156:]
    return header + data + bytes(-len(data) % BLOCK)


def read_samples(file: IO[bytes], *, skip: bool = False) -> Iterator[dict[str, Member]]:
    """The samples of a tar in order: ending -> member.  With ``skip`` contents are skipped, not read.

    Raises SynthgenError, without naming the file, for anything that does not belong in a shard.
    """
    seen: set[str] = set()
    key, sample = "", dict[str, Member]()
    for found in _members(file, skip):
        if found.key != key:
            yield from _whole(key, sample)
            if found.key in seen:
                raise SynthgenError(f"the members of sample {found.key} are not next to each other")
            key, sample = found.key, {}
            seen.add(key)
        if found.ending in sample:
            raise SynthgenError(f"member {found.key}.{found.ending}: duplicate member")
        sample[found.ending] = found
    yield from _whole(key, sample)


def _whole(key: str, sample: dict[str, Member]) -> Iterator[dict[str, Member]]:
    if not key:  # before the first
        return
    if len(sample) != 3 or not {"cls", "json"} < sample.keys() or not sample.keys() & set(IMAGES):
        raise SynthgenError(f"sample {key} has members {sorted(sample)}; expected an image, cls and json")
    yield sample


def _members(file: IO[bytes], skip: bool) -> Iterator[Member]:
    at = 0
    length = file.seek(0, io.SEEK_END) if skip else 0
    if skip:
        file.seek(0)
    while (block := _header_at(file, at)) is not None:
        key, ending, size = _parsed(block, at)
        start, padded = at + BLOCK, -(-size // BLOCK) * BLOCK
        data = b""
        if skip:
            left = min(padded, length - start)
            file.seek(left, io.SEEK_CUR)
        else:
            data = _read(file, padded)
            left = len(data)
        if left < padded:
            raise _truncated(start + left, f"within member {key}.{ending}")
        yield Member(key=key, ending=ending, start=start, size=size, data=data[:size])
        at = start + padded


def _header_at(file: IO[bytes], at: int) -> bytes | None:
    """The header at a byte of the tar; None at its end, after which there is nothing else."""
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise _truncated(at + len(block), "before its end marks")
    if block.strip(b"\0"):
        return block
    rest = file.read(BLOCK)
    if len(rest) < BLOCK:
        raise _truncated(at + BLOCK + len(rest), "within its end marks")
    while rest:  # the second empty block, and empty ones that fill a tape record
        if rest.strip(b"\0"):
            raise SynthgenError(f"damaged tar (there is something after its end, at byte {at})")
        rest = file.read(CHUNK)
    return None


def _parsed(block: bytes, at: int) -> tuple[str, str, int]:
    """Key, ending and size of a member, from its header."""
    if _octal(block[148:156]) != sum(block) - sum(block[148:156]) + sum(b" " * 8):
        raise SynthgenError(f"damaged tar (no header at byte {at})")
    name = block[:100].partition(b"\0")[0].decode("ascii", "backslashreplace")
    kind = block[156:157]
    if kind not in (b"0", b"\0"):
        what = KINDS.get(kind, "of a kind that shards do not contain")
        raise SynthgenError(f"member {name!r} is not a plain file but {what}")
    if block[257:263] == b"ustar\0" and block[345]:  # the folder part of a long name
        name = f"{block[345:500].partition(bytes(1))[0].decode('ascii', 'backslashreplace')}/{name}"
    match = NAME.fullmatch(name)
    if match is None:
        raise SynthgenError(f"member {name!r}: not a sample's file; expected a name such as 000000000.png")
    key, ending = match.groups()
    limit = LIMITS.get(ending)
    if limit is None:
        raise SynthgenError(f"sample {key} has a member {name!r}; expected an image, cls and json")
    size = _octal(block[124:136])
    if size is None or size > limit:  # None: in base 256, as sizes of 8 GiB and more are written
        raise SynthgenError(f"member {name!r} says it has {size or 'too many'} bytes; at most {limit}")
    return key, ending, size


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else None


def _read(file: IO[bytes], size: int) -> bytes:
    """``size`` bytes, fewer at the end of the file."""
    if size <= CHUNK:
        return file.read(size)
    pieces = []
    while size and (piece := file.read(min(size, CHUNK))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _truncated(at: int, where: str) -> SynthgenError:
    return SynthgenError(f"damaged tar (truncated at byte {at}, {where})")
