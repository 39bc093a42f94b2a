"""The order in which a set's files are sent to another place.

A reader of the place never sees a manifest whose files are missing.  ``plan.json`` claims an empty
place; of each shard the record comes last; the checksums and the manifest close the set, and are
removed before a file that they cover is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from synthgen.storage.outlet import File, Standing, Work

CLOSING = ("SHA256SUMS", "manifest.json")  # they mark a set as finished


def arrange(files: Sequence[File], standing: Mapping[str, Standing], same: set[str], documents: Iterable[str]) -> Work:
    """Order what is still to be sent.  Without ``manifest.json`` among ``files`` the set stays unfinished."""
    covered = {file.name for file in files} - set(documents)  # by checksums and manifest
    replaced = {name for name in covered - same - set(CLOSING) if name in standing}
    todo = [file for file in files if file.name not in same]
    by_shard: dict[str, list[File]] = {}
    for file in todo:
        if file.name.startswith(("metadata/", "data/")):
            by_shard.setdefault(Path(file.name).stem, []).append(file)
    early = any(file.name in replaced for shard in by_shard.values() for file in shard)
    late = bool(replaced) or "manifest.json" not in covered
    withdrawn = tuple(name for name in reversed(CLOSING) if name in standing) if late else ()
    claim = tuple(file for file in todo if file.name == "plan.json" and file.name not in standing)
    closing = [file for file in files if "/" not in file.name and file not in claim]
    return Work(
        withdraw=withdrawn if early else (),
        claim=claim,
        shards=tuple(tuple(shard) for shard in by_shard.values()),
        withdraw_late=() if early else withdrawn,
        closing=tuple(file for file in closing if file.name not in same or file.name in withdrawn),
    )
