"""Regenerate the damaged shards of a dataset, byte for byte as they were, and touch nothing else."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from synthgen.common.errors import SynthgenError
from synthgen.dataset.manifest import DOCUMENTS, MANIFEST, PLAN, SUMS, check_folders, finish, read_manifest
from synthgen.dataset.plan import Plan, ShardSpan, read_plan
from synthgen.dataset.scan import Defect
from synthgen.dataset.shard import (
    Shard,
    data_name,
    drafted,
    mismatch,
    read_record,
    read_shard,
    record_name,
    record_text,
    table_bytes,
    table_name,
    write_tar,
)
from synthgen.dataset.verify import Papers, read_papers
from synthgen.kinds.base import Renderer
from synthgen.storage import logs
from synthgen.storage.places import store_of
from synthgen.storage.reading import open_file, read_file


def repair(
    directory: Path,
    defects: Iterable[Defect],
    *,
    renderer: Callable[[], Renderer] | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> list[int]:
    """Repair the defects that ``check`` found; returns the indices of the shards that are intact again.

    A damaged or missing tar is rendered again, by what ``renderer`` gives (by default the kind's), and replaces the
    damaged one only if it has the SHA-256 that its record, SHA256SUMS or manifest.json says, if any of them does.
    Records and tables are restored from an intact tar.  SHA256SUMS and manifest.json are written again if they are
    damaged, or missing from a complete set.  A file that is correct is not touched, and one that does not belong there
    is left.  May be killed, and called again.

    Raises SynthgenError, once everything that can be repaired is, if a shard does not come out as it was, and before
    anything is written if plan.json is in doubt or a folder of the set is a link.
    """
    logs.go_beside(directory)
    defects = list(defects)
    if any(defect.name == PLAN for defect in defects):
        raise SynthgenError(f"{directory}: nothing can be generated from a plan in doubt; restore {PLAN}")
    plan = read_plan(directory / PLAN)
    papers = read_papers(directory, plan, store_of(directory).listing(directory))
    renderer_of = cache(renderer or partial(plan.kind.renderer, plan))  # once, and only if something must be rendered
    named: dict[int, set[str]] = {}
    for defect in defects:
        if defect.shard is not None:
            named.setdefault(defect.shard, set()).add(defect.name)
    mended, notes = list[int](), list[str]()
    if named:
        check_folders(directory)
    for done, (index, names) in enumerate(sorted(named.items()), 1):
        try:
            notes += _repair_shard(directory, plan, plan.shard(index), names, papers, renderer_of)
            mended.append(index)
        except _NotAsItWasError as error:
            notes.append(str(error))
        progress(done)
    if len(mended) == len(named) and (mended or any(defect.name in (SUMS, MANIFEST) for defect in defects)):
        manifest = read_manifest(directory)
        if manifest.complete:
            finish(manifest)
            logs.forget(directory)
    if notes:
        raise SynthgenError(f"{directory}: {'; '.join(notes)}")
    return mended


def why_left(defect: Defect) -> str | None:
    """Why ``repair`` leaves a defect and what to do; None for those that it repairs."""
    if defect.shard is not None or defect.name in (SUMS, MANIFEST, PLAN):
        return None
    if defect.name in DOCUMENTS:
        return "remove it; synthgen publish writes documents again"
    if defect.name.endswith(".tmp"):
        return "remove it, or run the command that made the set, which removes it"
    return "it removes nothing that does not belong to this set: move it elsewhere"


class _NotAsItWasError(SynthgenError):
    """A shard cannot be regenerated as it was."""


def _repair_shard(
    directory: Path, plan: Plan, span: ShardSpan, names: set[str], papers: Papers, renderer_of: Callable[[], Renderer]
) -> list[str]:
    """Repair the files ``names`` of a shard; returns notes for the user.  Raises _NotAsItWasError."""
    tar, standing = directory / data_name(span), _sha256(directory / data_name(span))
    own = _record(directory, plan, span) if record_name(span) not in names else None
    if data_name(span) in names and (other := _of_another_plan(directory, plan, span, standing)):
        raise _NotAsItWasError(f"{data_name(span)}: {other}")
    records = [record for record in (own, papers.shards.get(span.index)) if record]
    recorded = {record.table_sha256 for record in records} | _present(papers.sums.get(table_name(span)))
    if data_name(span) not in names:
        record = next((record for record in records if record.sha256 == standing), None)
        if record is not None:  # otherwise it is unknown what the tar depends on
            _restore(directory, span, *_with_table(directory, span, record, partial(_table_of, tar)))
            return _table_note(directory, span, recorded)
        sums = {standing} if standing else set[str]()
    else:
        sums = {record.sha256 for record in records} | _present(papers.sums.get(data_name(span)))
        # A checksum that matches a tar found to be damaged proves nothing, unless the tar comes out the same: then it
        # was not damaged.
        sums = sums | {str(standing)} if sums - {standing} else set()
    _redraw(directory, plan, span, renderer_of(), records, sums, standing)
    return _table_note(directory, span, recorded)


def _redraw(
    directory: Path,
    plan: Plan,
    span: ShardSpan,
    renderer: Renderer,
    records: list[Shard],
    sums: set[str],
    standing: str | None,
) -> None:
    """Draw a shard again, and replace its files if its tar has one of the checksums ``sums``, or none is known.

    Files that come out as they are already are not touched; the existing tar has the checksum ``standing``.
    """
    items = renderer.render(plan.sample(index) for index in range(span.start, span.stop))
    with drafted(directory, span, lambda: False) as draft:
        if draft is None:
            raise _NotAsItWasError(f"{data_name(span)}: another process is writing it; run again when it is done")
        drawn, rows = write_tar(draft.file, span, items, plan.digest, renderer.environment)
        if sums and drawn.sha256 not in sums:
            raise _NotAsItWasError(f"{data_name(span)}: {_unlike(drawn, records)}")
        record = next((record for record in records if record.sha256 == drawn.sha256), drawn)
        table, record = _with_table(directory, span, record, lambda: rows)
        if drawn.sha256 == standing:
            _restore(directory, span, table, record)
        else:
            draft.commit(table, record_text(record))


def _with_table(directory: Path, span: ShardSpan, record: Shard, made: Callable[[], bytes]) -> tuple[bytes, Shard]:
    """The table that matches a shard's record, else the one that ``made`` gives, with the record that is then true.

    That is another one if pyarrow now writes the same rows in other bytes.
    """
    with suppress(OSError):
        table = read_file(directory / table_name(span))
        if hashlib.sha256(table).hexdigest() == record.table_sha256:
            return table, record
    table = made()
    return table, replace(record, table_n_bytes=len(table), table_sha256=hashlib.sha256(table).hexdigest())


def _table_of(tar: Path) -> bytes:
    return table_bytes([item.record for item in read_shard(tar)])


def _restore(directory: Path, span: ShardSpan, table: bytes, record: Shard) -> None:
    """Write what is damaged or missing beside an intact tar."""
    store = store_of(directory)
    store.update(store.target(directory, table_name(span)), table)
    store.update(store.target(directory, record_name(span)), record_text(record))


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
        f"drawn here it has other bytes than it had{why}, so it was left; repair it with the original versions and"
        " device, or remove it and its .json and run the command that made the set"
    )


def _table_note(directory: Path, span: ShardSpan, recorded: set[str]) -> list[str]:
    if not recorded or _sha256(directory / table_name(span)) in recorded:
        return []
    return [f"{table_name(span)}: has the same rows in other bytes, as pyarrow writes them now; its checksum is new"]


def _record(directory: Path, plan: Plan, span: ShardSpan) -> Shard | None:
    try:
        record = read_record(directory / record_name(span))
    except (OSError, SynthgenError):
        return None
    return None if mismatch(record, span, plan.digest) else record


def _of_another_plan(directory: Path, plan: Plan, span: ShardSpan, standing: str | None) -> str | None:
    """Why a shard with other images than planned is not damaged, but belongs to another plan; None if it does not."""
    try:
        record = read_record(directory / record_name(span))
    except (OSError, SynthgenError):
        return None
    if record.plan_digest == plan.digest or record.sha256 != standing:
        return None
    return f"a whole shard of plan {record.plan_digest[:16]}, so it was left: restore plan.json, or move the shard away"


def _sha256(path: Path) -> str | None:
    try:
        with open_file(path) as file:
            return hashlib.file_digest(cast("Any", file), "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # not a regular file
            return None
        raise
