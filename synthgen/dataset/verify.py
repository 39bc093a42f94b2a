"""Is a dataset complete and undamaged, and as its plan says?  Local or at a URL.

Each shard is read once: its tar is hashed, every image is decoded, and every label, record and table row is checked
against the plan.  What the completion records, ``SHA256SUMS`` and ``manifest.json`` say about a tar and a table are
three witnesses: the file that disagrees with the others is the one reported.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from typing import TYPE_CHECKING

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted
from synthgen.common.processes import end_with_parent, interrupts_later
from synthgen.common.records import parsed, validated
from synthgen.dataset.image_file import quiet_decoders
from synthgen.dataset.manifest import CONNECTIONS, DOCUMENTS, MANIFEST, PLAN, SUMS, summary_of, unlike_plan
from synthgen.dataset.plan import LONGEST, Plan, ShardSpan, read_plan
from synthgen.dataset.scan import Defect, Job, Scanned, scan
from synthgen.dataset.shard import Shard, data_name, mismatch, record_name, table_name
from synthgen.storage import logs
from synthgen.storage.places import store_of
from synthgen.storage.reading import read_file, reading
from synthgen.storage.store import NO_FILE, Place

if TYPE_CHECKING:
    from synthgen.dataset.quality import Quality

# Beside the dataset's own files: documents, files of Hub clients, and what workers report.
ALLOWED = (*DOCUMENTS, ".git*", ".cache/", "claims/", f"{logs.FOLDER}/")
CHECKSUM = re.compile(r"([0-9a-f]{64})  (\S.*)")  # a line of sha256sum
LISTED = 100  # defects listed for each of SHA256SUMS and manifest.json; the rest are counted
FEW = 1 << 26  # bytes of tars that one process reads in the time that others take to start


def check(directory: Place, *, progress: Callable[[int], object] = lambda done: None) -> list[Defect]:
    """The defects of a dataset directory; none if it is intact.  See ``inspect``."""
    return inspect(directory, progress=progress)[0]


def inspect(
    directory: Place, *, quality: bool = False, progress: Callable[[int], object] = lambda done: None
) -> tuple[list[Defect], Quality | None]:
    """The defects of a dataset directory, by shard, and with ``quality`` the quality of its images.

    The quality is None if a shard has defects.  Shards are scanned in parallel, at a URL by threads and otherwise by
    processes; ``progress`` is called with the number of shards done.  A missing shard is a defect, and so is any file
    that does not belong to a dataset.  Raises SynthgenError if there is no readable plan.
    """
    with reading(directory / PLAN):
        plan = read_plan(directory / PLAN)
    sizes = store_of(directory).listing(directory)
    spans = plan.shards()
    job = Job(directory=directory, plan=plan, digest=plan.digest, quality=quality)
    papers = read_papers(directory, plan, sizes)
    defects, keys, looks = list[Defect](), list[str](), []
    with quiet_decoders():
        for done, (span, found) in enumerate(zip(spans, _scan_all(job, spans, sizes), strict=True), 1):
            defects += _shard_defects(span, found, papers)
            keys += found.keys
            looks += found.looks
            progress(done)
    sound = not any(defect.shard is not None for defect in defects)
    defects += papers.defects
    defects += _extras(directory, spans, sizes)
    if not (quality and sound):
        return defects, None
    import numpy as np

    from synthgen.dataset.quality import LOOK, quality_of

    return defects, quality_of(plan.content.class_names, keys, np.concatenate([np.zeros(0, LOOK), *looks]))


# What SHA256SUMS and manifest.json say about the shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """What SHA256SUMS and manifest.json say."""

    sums: Mapping[str, str]  # name -> SHA-256
    shards: Mapping[int, Shard]  # index -> record, of those in the manifest that fit the plan
    defects: list[Defect]  # of these files themselves, and of plan.json


def read_papers(directory: Place, plan: Plan, sizes: Mapping[str, int]) -> Papers:
    """Read SHA256SUMS and manifest.json and check them against the plan."""
    spans = plan.shards()
    names = [name for span in spans for name in (data_name(span), record_name(span), table_name(span))]
    due = all(name in sizes for name in names) or SUMS in sizes or MANIFEST in sizes  # otherwise it is unfinished
    defects = [
        Defect(name=name, what="missing, though the other files of a finished dataset are there")
        for name in (SUMS, MANIFEST)
        if due and name not in sizes
    ]
    sums: dict[str, str] = {}
    shards: dict[int, Shard] = {}
    if SUMS in sizes:
        data, wrong = _paper(directory / SUMS, (1 << 20) + (len(names) << 10))
        if not wrong:
            sums, wrong = _read_sums(data, [*(name for name in names if not name.endswith(".json")), PLAN])
        defects += _listed(SUMS, wrong)
    if MANIFEST in sizes:
        data, wrong = _paper(directory / MANIFEST, LONGEST + (len(spans) << 12))
        if not wrong:
            shards, wrong = _read_manifest(data, plan, spans)
        defects += _listed(MANIFEST, wrong)
    own = hashlib.sha256(_bytes(directory / PLAN, LONGEST)).hexdigest()
    if sums.get(PLAN, own) != own:
        defects.append(Defect(name=PLAN, what=unlike_plan(own, sums[PLAN])))
    return Papers(sums=sums, shards=shards, defects=defects)


def _listed(name: str, wrong: list[str]) -> Iterator[Defect]:
    more = [f"and {counted(len(wrong) - LISTED, 'more defect')}"] if len(wrong) > LISTED else []
    for what in [*wrong[:LISTED], *more]:
        yield Defect(name=name, what=what)


def _paper(path: Place, limit: int) -> tuple[bytes, list[str]]:
    """The content of a file, or why it cannot be read; raises SynthgenError if a store is unreachable."""
    try:
        return _bytes(path, limit), []
    except SynthgenError as error:
        if store_of(path).remote:
            raise
        return b"", [str(error).removeprefix(f"{path}: ")]


def _bytes(path: Place, limit: int) -> bytes:
    with reading(path):
        return read_file(path, limit=limit)


def _read_sums(data: bytes, names: list[str]) -> tuple[dict[str, str], list[str]]:
    sums: dict[str, str] = {}
    wrong = []
    known = set(names)
    for number, line in enumerate(data.decode(errors="replace").removesuffix("\n").split("\n"), 1):
        match = CHECKSUM.fullmatch(line)
        if match is None:
            wrong.append(f"line {number} is not a checksum and a name: {line[:80]!r}")
        elif match[2] not in known:
            wrong.append(f"line {number} names {match[2][:80]!r}, which is not a file of this dataset")
        elif match[2] in sums:
            wrong.append(f"line {number} names {match[2]} again")
        else:
            sums[match[2]] = match[1]
    return sums, wrong + [f"has no line for {name}" for name in names if name not in sums]


def _read_manifest(data: bytes, plan: Plan, spans: list[ShardSpan]) -> tuple[dict[int, Shard], list[str]]:
    try:
        stored = parsed(data, "cannot be read")
        if not isinstance(stored, dict):
            return {}, ["cannot be read: not a JSON object"]
        records = validated(stored.get("shards"), list[Shard], "cannot be read", "shards")
    except SynthgenError as error:
        return {}, [str(error)[:200]]
    digest = plan.digest
    whys = [mismatch(record, span, digest) for record, span in zip(records, spans, strict=False)]
    wrong = [f"entry {i} of shards: {why}" for i, why in enumerate(whys) if why]
    if len(records) != len(spans):
        wrong.append(f"has {counted(len(records), 'shard')}, planned {len(spans)}")
    expected = summary_of(plan, records)
    keys = [key for key in {**expected, **stored} if key not in expected or stored.get(key) != expected[key]]
    wrong += [f"{key}: differs from plan and shards" for key in keys]
    fitting = zip(spans, records, whys, strict=False)
    return {span.index: record for span, record, why in fitting if not why}, wrong


# Shard by shard


def _shard_defects(span: ShardSpan, found: Scanned, papers: Papers) -> list[Defect]:
    """The defects of a shard: those found in it, and contradictions with its record, SHA256SUMS and manifest.json."""
    tar, table, record = data_name(span), table_name(span), record_name(span)
    defects, entry = list(found.defects), papers.shards.get(span.index)
    said = {name: shard for name, shard in ((record, found.record), (MANIFEST, entry)) if shard}
    told = {name: {SUMS: papers.sums[name]} if name in papers.sums else {} for name in (tar, table)}
    for witness, shard in said.items():
        told[tar][witness], told[table][witness] = shard.sha256, shard.table_sha256
    defects += _unlike(span, tar, found.sums.get(tar), told[tar], defects)
    if found.row and all(defect.name != tar for defect in defects):
        defects.append(Defect(name=table, what=found.row, shard=span.index))
    defects += _unlike(span, table, found.sums.get(table), told[table], defects)
    if found.record and entry and found.record != entry and all(len(set(sums.values())) == 1 for sums in told.values()):
        defects.append(Defect(name=MANIFEST, what=f"entry {span.index} of shards: differs from {record}"))
    return defects


def _unlike(
    span: ShardSpan, name: str, own: str | None, witnesses: Mapping[str, str], defects: Sequence[Defect]
) -> Iterator[Defect]:
    """The file, if its checksum is not what most witnesses say, or else the witnesses that contradict it."""
    blamed = any(defect.name == name for defect in defects)
    others = {witness: sum_ for witness, sum_ in witnesses.items() if sum_ != own}
    if own is None or not others:
        return
    if blamed or 2 * len(others) > len(witnesses):
        what = "; ".join(
            f"{sum_[:16]} by {', '.join(witness for witness in others if others[witness] == sum_)}"
            for sum_ in dict.fromkeys(others.values())
        )
        yield Defect(name=name, what=f"has sha256 {own[:16]}; {what}", shard=span.index)
        return
    for witness, sum_ in others.items():
        what = f"says sha256 {sum_[:16]} of {name}, which has {own[:16]}"
        yield Defect(name=witness, what=what, shard=span.index if witness == record_name(span) else None)


def _extras(directory: Place, spans: list[ShardSpan], sizes: Mapping[str, int]) -> Iterator[Defect]:
    store, own = store_of(directory), {PLAN, SUMS, MANIFEST}
    own.update(name for span in spans for name in (data_name(span), record_name(span), table_name(span)))
    for name in sorted(sizes.keys() - own):
        if sizes[name] == NO_FILE and (name in DOCUMENTS or name.endswith(".tmp")):
            yield Defect(name=name, what="not a regular file")
            continue
        if any(fnmatch(name, pattern) for pattern in ALLOWED):
            continue
        if name.endswith(".tmp") and store.locks:
            if not store.is_locked(directory / name.removesuffix(".tmp")):
                yield Defect(name=name, what="unfinished, left by a process that was killed")
            continue
        yield Defect(name=name, what="not a file of this dataset" if name[-1] != "/" else "not a folder of a dataset")


# In parallel


def _scan_all(job: Job, spans: list[ShardSpan], sizes: Mapping[str, int]) -> Iterator[Scanned]:
    """The results of scanning the shards, in order."""
    names = [(data_name(span), record_name(span), table_name(span)) for span in spans]
    there = [{name: sizes[name] for name in some if name in sizes} for some in names]
    if store_of(job.directory).remote:
        return _in_threads(job, spans, there)
    workers = min(os.cpu_count() or 1, sum(map(bool, there)))
    if workers < 2 or sum(chain.from_iterable(some.values() for some in there)) < FEW:
        return (scan(job, span, some) for span, some in zip(spans, there, strict=True))
    return _in_processes(job, spans, there, workers)


def _in_threads(job: Job, spans: list[ShardSpan], there: list[dict[str, int]]) -> Iterator[Scanned]:
    stop = threading.Event()
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        yield from pool.map(lambda span, some: scan(job, span, some, stop), spans, there)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _in_processes(job: Job, spans: list[ShardSpan], there: list[dict[str, int]], workers: int) -> Iterator[Scanned]:
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(job,))
    whole = False
    try:
        with interrupts_later():  # until the workers, which start here, are ready
            futures: list[Future[Scanned]] = [
                pool.submit(_scan_in_worker, span, some) for span, some in zip(spans, there, strict=True)
            ]
        for future in futures:
            yield future.result()
        whole = True
    except BrokenProcessPool:
        raise SynthgenError("a worker process was killed, perhaps for lack of memory; run again") from None
    finally:
        if not whole:  # safe, as they only read
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
        pool.shutdown(cancel_futures=True)


_worker: Job | None = None  # in a worker process, set once when it starts


def _start_worker(job: Job) -> None:
    global _worker
    _worker = job
    threading.Thread(target=end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # of decoders: what they warn about is then reported as a defect
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process of a terminal
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _scan_in_worker(span: ShardSpan, sizes: dict[str, int]) -> Scanned:
    assert _worker is not None
    return scan(_worker, span, sizes)
