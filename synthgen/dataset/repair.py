"""Make the damaged shards of a dataset anew, byte for byte as they were, and touch nothing else."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import DOCUMENTS, check_folders, finish, read_manifest
from synthgen.dataset.plan import Plan, ShardSpan, read_plan
from synthgen.dataset.scan import Fault
from synthgen.dataset.shard import (
    Shard,
    data_name,
    read_record,
    read_shard,
    record_name,
    record_text,
    restore_table,
    rewrite_shard,
    strange,
    table_bytes,
    table_name,
)
from synthgen.dataset.verify import MANIFEST, PLAN, SUMS, Papers, read_papers
from synthgen.kinds.base import Renderer
from synthgen.storage import logs
from synthgen.storage.atomic import write_if_new
from synthgen.storage.inside import target
from synthgen.storage.places import store_of
from synthgen.storage.reading import open_file


def repair(
    directory: Path,
    faults: Iterable[Fault],
    *,
    renderer: Callable[[], Renderer] | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> list[int]:
    """Mend what ``faults`` of ``check`` tell of; returns the indices of the shards that are whole again.

    A damaged or missing tar is rendered anew, by what ``renderer`` gives (the kind's by default), and takes
    the damaged one's place only where it has the SHA-256 that its record, SHA256SUMS or manifest.json
    tells, if any does.  Records and tables are restored from a tar that stands.  SHA256SUMS and
    manifest.json are written again where they are damaged, or missing from a complete set.  A file that
    is right as it stands is not touched, and one that does not belong there is left.  May be killed, and
    called again.

    Raises SynthgenError, after all that can be mended is, where a shard does not come out as it was, and
    before anything is written where plan.json is in doubt or a folder of the set is a link.
    """
    logs.go_beside(directory)
    faults = list(faults)
    for fault in faults:
        if fault.name == PLAN:
            raise SynthgenError(f"{directory}: {fault}; nothing can be made from a plan in doubt")
    plan = read_plan(directory / PLAN)
    papers = read_papers(directory, plan, store_of(directory).listing(directory))
    made = cache(renderer or partial(plan.kind.renderer, plan))  # once, and only where something is to be rendered
    named: dict[int, set[str]] = {}
    for fault in faults:
        if fault.shard is not None:
            named.setdefault(fault.shard, set()).add(fault.name)
    mended, notes = list[int](), list[str]()
    if named:
        check_folders(directory)
    for done, (index, names) in enumerate(sorted(named.items()), 1):
        try:
            notes += _mend(directory, plan, plan.shard(index), names, papers, made)
            mended.append(index)
        except _NotAsItWasError as error:
            notes.append(str(error))
        progress(done)
    if len(mended) == len(named) and (mended or any(fault.name in (SUMS, MANIFEST) for fault in faults)):
        manifest = read_manifest(directory)
        if manifest.complete:
            finish(manifest)
            logs.forget(directory)
    if notes:
        raise SynthgenError(f"{directory}: {'; '.join(notes)}")
    return mended


def why_left(fault: Fault) -> str | None:
    """Why ``repair`` leaves a fault and what to do; None of what it mends."""
    if fault.shard is not None or fault.name in (SUMS, MANIFEST, PLAN):
        return None
    if fault.name in DOCUMENTS:
        return "remove it; synthgen publish writes documents anew"
    if fault.name.endswith(".tmp"):
        return "remove it, or run the command that made the set, which does"
    return "it removes nothing that is not of this set: move it elsewhere"


class _NotAsItWasError(SynthgenError):
    """A shard that cannot be made as it was."""


def _mend(
    directory: Path, plan: Plan, span: ShardSpan, names: set[str], papers: Papers, made: Callable[[], Renderer]
) -> list[str]:
    """Mend a shard's files ``names``; returns what is to be told of it.  Raises _NotAsItWasError."""
    tar, standing = directory / data_name(span), _sha256(directory / data_name(span))
    own = _record(directory, plan, span) if record_name(span) not in names else None
    records = [record for record in (own, papers.shards.get(span.index)) if record]
    told = {record.table_sha256 for record in records} | _present(papers.sums.get(table_name(span)))
    if data_name(span) not in names:
        record = next((record for record in records if record.sha256 == standing), None)
        if record is not None:  # else what the tar depends on is not known any more
            record = restore_table(
                directory, span, record, lambda: table_bytes([item.record for item in read_shard(tar)])
            )
            write_if_new(target(directory, record_name(span)), record_text(record))
            return _table_note(directory, span, told)
        sums = {standing} if standing else set[str]()
    else:
        sums = {record.sha256 for record in records} | _present(papers.sums.get(data_name(span)))
        # What is said of a damaged tar as it stands says nothing, but it may come out so: then it was none.
        sums = sums | {str(standing)} if sums - {standing} else set()
    renderer = made()
    items = renderer.render(plan.sample(index) for index in range(span.start, span.stop))
    written = rewrite_shard(
        directory,
        span,
        items,
        plan_digest=plan.digest,
        environment=renderer.environment,
        known=records,
        sums=sums,
        standing=standing,
    )
    if written is None:
        raise _NotAsItWasError(f"{data_name(span)}: another process is writing it; run again when it is done")
    if sums and written.sha256 not in sums:
        raise _NotAsItWasError(f"{data_name(span)}: {_unlike(written, records)}")
    return _table_note(directory, span, told)


def _present(sum_: str | None) -> set[str]:
    return set() if sum_ is None else {sum_}


def _unlike(written: Shard, records: list[Shard]) -> str:
    before = records[0].environment if records else {}
    now = written.environment
    versions = [
        f"{key} {before.get(key)} then, {now.get(key)} now"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    why = f" ({', '.join(versions)})" if versions else ""
    return (
        f"drawn here it has other bytes than it had{why}, so it was left; repair it where the versions and the device"
        " are those of then, or remove it and its .json and run the command that made the set"
    )


def _table_note(directory: Path, span: ShardSpan, told: set[str]) -> list[str]:
    if not told or _sha256(directory / table_name(span)) in told:
        return []
    return [f"{table_name(span)}: has the rows it had, in other bytes, as pyarrow writes them now; its sum is new"]


def _record(directory: Path, plan: Plan, span: ShardSpan) -> Shard | None:
    try:
        record = read_record(directory / record_name(span))
    except (OSError, SynthgenError):
        return None
    return None if strange(record, span, plan.digest) else record


def _sha256(path: Path) -> str | None:
    try:
        with open_file(path) as file:
            return hashlib.file_digest(cast("Any", file), "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # no regular file
            return None
        raise
