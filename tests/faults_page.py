"""The page that tells of a campaign."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

HEAD = """# Faults and their outcomes

Random faults were injected into running commands, at random moments from their start to their end:
`synthgen fractal` and `synthgen sd` with 1 and 2 workers, writing to a folder and to an S3 server, and
`evaluate run`.  One to three faults hit each run, one after the other.  Then the same command was run
again, and every file was compared with those of an undisturbed run: images, records, tables, checksums;
predictions, weights and logs of training.  Versions in records are not compared.

{told}

| campaign | cases | faults that hit | came too late | samples lost | duplicate | corrupt | other deviations |
|---|---|---|---|---|---|---|---|
{totals}
"""

NOTES = """## What each case has to show

- The command ends with 0 the first time it is run again, prints only its progress on stderr, leaves no unfinished
  file and no process behind, and `synthgen verify` finds nothing.
- Every exit code but 0 comes with one line and no traceback; a signal may arrive before there is one.  Each worker
  of `evaluate run --workers 2` prints its own line.  Ctrl-C in the hundredths of a second in which Python itself is
  starting gives Python's own traceback.
- Whatever existed when a fault hit is still there after it, and is not written again ("done again, of what stood"),
  unless it was damaged: all damage is found by `synthgen verify`, by the name of the file, and repaired by
  `verify --repair`, in a store by removing the shard's record and running the command again.  A bit in a record
  that is not among its values cannot be checked before `manifest.json` is written, so none was flipped there.
- In a store, the claim of a killed worker times out after 30 seconds, for which the next run waits.
- The clock that jumps is libfaketime's; the monotonic clock, which no system lets jump, is unaffected.  libfaketime
  then fails every `time.sleep`, with which `evaluate run --workers` watches its workers: it was left out there.
"""


def page(rows: list[dict[str, Any]], lacks: dict[str, str], *, seed: int) -> str:
    """The page, in Markdown."""
    campaigns = [("sets", "making sets"), ("training", "training (`evaluate run`)")]
    numbers = {name: sum(f["hit"] for r in rows if r["campaign"] == name for f in r["faults"]) for name, _ in campaigns}
    command = f"python tests/faults.py --generation {numbers['sets']} --training {numbers['training']} --seed {seed}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "torch", "pyarrow", "s3fs", "moto"))
    told = (
        f"`{command}` (`make faults`), on {platform.machine()} with {os.cpu_count()} cores, Linux"
        f" {platform.release()}, Python {platform.python_version()}, {versions}."
    )
    totals = "\n".join(_total(title, [row for row in rows if row["campaign"] == name]) for name, title in campaigns)
    parts = [HEAD.format(told=told, totals=totals)]
    for name, title in campaigns:
        mine = [row for row in rows if row["campaign"] == name]
        if mine:
            parts.append(f"## Faults while {title}\n\n{_moments(mine)}\n\n{_table(mine)}")
    parts += [f"Left out here: {name} ({why}).\n" for name, why in lacks.items()]
    wrong = [f"- {row['scene']}, case {row['case']}: {line}" for row in rows for line in row["wrong"]]
    parts.append(NOTES)
    parts.append("## Deviations\n\n" + ("\n".join(wrong) or "None.") + "\n")
    return "\n".join(parts)


def _total(title: str, rows: list[dict[str, Any]]) -> str:
    hits = [fault["hit"] for row in rows for fault in row["faults"]]
    counts = [sum(row[what] for row in rows) for what in ("lost", "duplicate", "corrupt")]
    other = sum(len(row["wrong"]) for row in rows)
    cells = [title, len(rows), sum(hits), len(hits) - sum(hits), *counts, other]
    return "| " + " | ".join(map(str, cells)) + " |"


def _moments(rows: list[dict[str, Any]]) -> str:
    """When faults hit, and what the damage was."""
    told = [fault["what"] for row in rows for fault in row["faults"] if fault["hit"]]
    start = sum("after the start" in what for what in told)
    last = sum(re.search(r"at (\d+) of \1\b", what) is not None for what in told)
    files = {how: sum(what.count(how) for what in told) for how in ("bit flipped", "truncated", "deleted")}
    return (
        f"{start} hit while the command was starting, {last} once the last part stood, {len(told) - start - last} in"
        f" between.  Files damaged: {', '.join(f'{n} {how}' for how, n in files.items())}."
    )


def _table(rows: list[dict[str, Any]]) -> str:
    scenes = sorted({row["scene"] for row in rows})
    lines = [
        "| fault | times | " + " | ".join(scenes) + " | exit codes (times) | what was said | done again, of what stood"
        " | afterwards as undisturbed |",
        "|---" * (6 + len(scenes)) + "|",
    ]
    faults = [
        (row["scene"], fault | {"well": not row["wrong"]}) for row in rows for fault in row["faults"] if fault["hit"]
    ]
    for kind in sorted({fault["kind"] for _, fault in faults}):
        mine = [(scene, fault) for scene, fault in faults if fault["kind"] == kind]
        by_scene = Counter(scene for scene, _ in mine)
        codes = Counter(code for _, fault in mine for code in fault["codes"])
        told = Counter[str]()
        for _, fault in mine:
            told.update(fault["said"])
        cells = [
            kind,
            str(len(mine)),
            *(str(by_scene[scene]) for scene in scenes),
            ", ".join(f"{_code(code)} ({count})" for code, count in codes.most_common()),
            "<br>".join(_said(told.most_common(4))) or "nothing",
            str(sum(fault["redone"] for _, fault in mine)),
            f"{sum(fault['well'] for _, fault in mine)} of {len(mine)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _code(code: int | None) -> str:
    names = {-9: "SIGKILL", -15: "SIGTERM", -2: "SIGINT", None: "hung"}
    return names.get(code, str(code))


def _said(told: Iterable[tuple[str, int]]) -> list[str]:
    return [f"`{line[:160].replace('|', '/')}` ({count})" for line, count in told]
