"""Seeds from names: nothing in this project uses a global random generator."""

from __future__ import annotations

import hashlib
import json


def derive_seed(*key: int | str) -> int:
    """A uint64 seed from a key, the same on every machine and version.

    The first eight bytes, little-endian, of the BLAKE2b hash of the key as JSON.  Raises TypeError
    for anything but plain integers and strings.
    """
    for part in key:
        if type(part) not in (int, str):
            raise TypeError(f"seed key {part!r}: plain integers and strings only")
    text = json.dumps(key, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
