"""What may not come of a changed file.

Whatever a command reads, these are forbidden:

- a traceback; a warning of Python's; more than one line of error with exit code 2; another exit code than the command
  has; the end by a signal;
- more than ``Limits`` of time and memory;
- a change outside of the folders that the command is asked to write in, and a try to make one outside of the sandbox;
- characters that steer a terminal in what is printed, in texts that are written, and in names of files; a mark that
  would be code in a page, a table for LaTeX, or a spreadsheet;
- another answer without a word, where the format promises to notice.

Of the last, this is seen: ``verify`` and ``verify --repair`` that find nothing though a tar, a table, the plan, a
record, the sums or the manifest say something else than before, unless all sums were set right, too; the same of images
with all sums right, where they do not decode or have another size or format than the plan; ``export`` whose images or
classes are others; a comparison that is made of predictions which are no labels of the task, of a damaged file or one
that has another sum than its run tells, or that differs from that of the unchanged files where only bytes and not
values were changed; a comparison or status that is told from a record which no strict JSON reader takes, or which has
a key that the format does not have; a selection whose rows are others; a suite that is taken with a number which is
not finite, or with a text for a number.

This is not seen: a valid label in place of another in runs that have no sums; another state, score, description or
arm that is as valid as the one before; a picture in place of another where all sums were set right; and whatever is
behind what cannot be known from the file alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_run import Ended, Listing, changed
from fuzz_subjects import EXPORT, JUDGE, REPAIR, ROOT, Command, Subject
from fuzz_values import MARK, TEX

MARKED = re.compile(re.escape(MARK))
CODE = {  # what would be run, by the ending of the file that it stands in
    **dict.fromkeys((".html", ".svg", ".md"), MARKED),
    ".tex": re.compile(re.escape(TEX)),
    ".csv": re.compile(r"(^|[,\"])=1\+1", re.MULTILINE),
}
PROGRESS = re.compile(r"[\w ]+: \d+ of \d+ \w+(, \d+ s left)?")
FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
WARNING = re.compile(r"\b\w*Warning: ")
SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
TEXTS = {".md", ".csv", ".tex", ".html", ".svg", ".txt", ".tsv", ""}
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
RECORDS = ("suite record", "run's state.json")
PRODUCT = tuple(str(ROOT / name) for name in ("synthgen", "evaluate", "fractaldb"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """One forbidden outcome."""

    kind: str  # "traceback", "lines", "code", "signal", "time", "memory", "outside", "escape", "code in text", "answer"
    where: str  # the innermost line of the product, or what it was about
    told: str  # the end of what was said

    @property
    def name(self) -> str:
        """The same for all of one cause."""
        return f"{self.kind}: {self.where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What was changed, beside the unchanged."""

    subject: Subject
    sealed: bool
    base: Path  # the scene as it was
    inside: Path  # the scene as it is
    file: str  # within it


def judged(
    command: Command, ended: Ended, before: Listing, after: Listing, case: Case, reference: Callable[[], Ended]
) -> list[Wrong]:
    """All that is forbidden of what came of one command; ``reference`` gives its end where nothing was changed."""
    found = [*_end(command, ended, case.subject.name), *_writes(command, ended, before, after)]
    found += [*_printed(command, ended), *_written(case.inside, before, after)]
    if not found and ended.code == 0:
        found += _answer(command, ended, case, reference)
    return found


def _end(command: Command, ended: Ended, subject: str) -> Iterator[Wrong]:
    last, short = _last(ended), " ".join(command.args[:2])
    if ended.stopped:
        yield Wrong(kind=ended.stopped, where=f"{short}, of {subject}", told=last)
    elif "Traceback (most recent call last)" in ended.err:
        yield Wrong(kind="traceback", where=_frame(ended.err), told=last)
    elif ended.code is None:
        yield Wrong(kind="signal", where=f"{short}, of {subject}", told=last)
    elif ended.code not in command.codes:
        yield Wrong(kind="code", where=f"{ended.code} of {short}, of {subject}", told=last)
    elif WARNING.search(ended.err):
        yield Wrong(kind="warning", where=_warned(ended.err), told=last)
    elif ended.code == 2 or (ended.code == 1 and command.args[1] == "fractal"):  # which gave up a shard
        lines = [line for line in ended.err.split("\n") if line and not PROGRESS.fullmatch(line)]
        many = len(lines) != 1 and command != REPAIR  # which first tells the faults
        if many or not lines or not lines[-1].startswith(f"{command.args[0]}: "):
            yield Wrong(kind="lines", where=f"{short}, of {subject}", told=last)


def _last(ended: Ended) -> str:
    return repr(ended.err[-400:] or ended.out[-200:])[1:-1]


def _frame(err: str) -> str:
    """Error and innermost line of the product of the last traceback."""
    frames = [match for match in FRAME.finditer(err) if match[1].startswith(PRODUCT)]
    error = next((line for line in reversed(err.split("\n")) if re.match(r"[\w.]+(Error|Exception|\w+):?", line)), "")
    place = f"{Path(frames[-1][1]).relative_to(ROOT)}: {frames[-1][3]}" if frames else "?"
    return f"{error.partition(':')[0][:60]} in {place}"


def _warned(err: str) -> str:
    line = next(line for line in err.split("\n") if WARNING.search(line))
    return re.sub(r"^.*?([\w/]+\.py):\d+", r"\1", line)[:100]


def _writes(command: Command, ended: Ended, before: Listing, after: Listing) -> Iterator[Wrong]:
    may = tuple(f"inside/{name}" for name in command.writes)
    for path in changed(before, after):
        if path not in may and not path.startswith(tuple(f"{one}/" for one in may)):
            yield Wrong(kind="outside", where=command.words, told=repr(path))
            break
    for place in ended.strayed[:1]:
        yield Wrong(kind="outside", where=command.words, told=repr(place))


def _printed(command: Command, ended: Ended) -> Iterator[Wrong]:
    for text in (ended.out, ended.err):
        bad = next((c for c in text if not c.isprintable() and c not in SPACES and c != "\n"), None)
        if bad is not None:
            at = text.index(bad)
            yield Wrong(kind="escape", where=command.words, told=ascii(text[max(at - 100, 0) : at + 20]))
    for name, ending in (("latex", ".tex"), ("markdown", ".md"), ("csv", ".csv")):
        if name in command.args and CODE[ending].search(ended.out):
            yield Wrong(kind="code in text", where=command.words, told=ending)


def _written(inside: Path, before: Listing, after: Listing) -> Iterator[Wrong]:
    for path in changed(before, after):
        if path not in after:
            continue
        if not path.isprintable():
            yield Wrong(kind="escape", where=f"a name of a file ({Path(path).suffix!a})", told=ascii(path))
        kind, size, _ = after[path]
        if kind == "file" and Path(path).suffix in TEXTS and size < 10**7:
            text = (inside.parent / path).read_bytes().decode(errors="surrogateescape")
            bad = CONTROL.search(text)
            if bad:
                at = bad.start()
                yield Wrong(kind="escape", where=_about(path), told=ascii(text[max(at - 100, 0) : at + 20]))
            code = CODE.get(Path(path).suffix)
            if code and code.search(text):
                yield Wrong(kind="code in text", where=_about(path), told=path)


def _about(path: str) -> str:
    return re.sub(r"\d+", "N", "/".join(Path(path).parts[1:]))[:80]


# Another answer without a word


def _answer(command: Command, ended: Ended, case: Case, reference: Callable[[], Ended]) -> Iterator[Wrong]:
    words = command.words
    what = ""
    if words.startswith("synthgen verify"):
        what = _of_pictures(case) if case.sealed else _of_set(case, repaired=command == REPAIR)
    elif command == EXPORT and not case.sealed and case.subject.layout in ("tar", "picture", "parquet"):
        what = "" if _exported(case.inside / "out") == reference().kept else "other images were exported"
    elif case.subject.name == "predictions" and command == JUDGE:
        what = _of_predictions(case, ended, reference)
    elif case.subject.name in RECORDS and command.args[1] in (
        "compare",
        "status",
        "power",
    ):
        what = _of_record(case)
    elif case.subject.name == "selection.parquet":
        what = "" if ended.out == reference().out else "other rows were taken"
    elif case.subject.name == "suite":
        what = _of_suite(case.inside / case.file)
    if what:
        yield Wrong(kind="answer", where=f"{' '.join(command.args[:2])}: {what}", told=_last(ended))


def set_facts(folder: Path, *, whole: bool) -> dict[str, Any]:
    """What a set says and holds, as far as its witnesses tell of it; a ``whole`` one has sums."""
    told: dict[str, Any] = {}
    for path in sorted([*(folder / "data").glob("*"), *(folder / "metadata").glob("*"), *folder.glob("*.json")]):
        name = str(path.relative_to(folder))
        if name in ("croissant.json", "quality.json"):
            continue
        data = path.read_bytes() if path.is_file() else b""
        told[name] = hashlib.sha256(data).hexdigest()
        if path.suffix == ".json":
            told[name] = _json(data)
            if not whole and isinstance(told[name], dict):
                told[name] = {key: value for key, value in told[name].items() if key not in ("origin", "environment")}
    if (folder / "SHA256SUMS").is_file():
        lines = (folder / "SHA256SUMS").read_bytes().splitlines()
        told["SHA256SUMS"] = {line.strip() for line in lines if line.strip()}
    return told


def _json(data: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(data)
    return "not JSON"


def _of_set(case: Case, *, repaired: bool) -> str:
    """What is unlike before and was not told; what a repair wrote may have other bytes, but for the images."""
    whole = (case.base / "set/SHA256SUMS").exists()
    before, now = (set_facts(folder / "set", whole=whole) for folder in (case.base, case.inside))
    names = {name for name in before if name.endswith(("tar", "plan.json"))} if repaired else before.keys() | now.keys()
    gone = sorted(name for name in names if before.get(name) != now.get(name))
    return f"nothing is told of {_about('x/' + gone[0])}" if gone else ""


def _of_pictures(case: Case) -> str:
    """With all sums right: whether the pictures are still some."""
    if case.subject.layout != "picture":
        return ""
    from fuzz_archives import members
    from PIL import Image

    for header, body in members((case.inside / case.file).read_bytes()):
        if bytes(header[:100]).rstrip(b"\0").endswith(b".png"):
            try:
                with Image.open(io.BytesIO(body)) as picture:
                    picture.load()
                    if (picture.format, picture.size) != ("PNG", (32, 32)):
                        return f"a picture of format {picture.format} or another size is right"
            except Exception as error:
                return f"a picture that does not decode is right ({type(error).__name__})"
    return ""


def _exported(out: Path) -> str:
    """Names and contents of an export's images."""
    names = sorted(path for path in out.rglob("*") if path.suffix in (".png", ".jpg") and path.is_file())
    return repr([(str(p.relative_to(out)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in names])


def kept_of(command: Command, inside: Path) -> str:
    """What a judgement needs of what a command wrote where nothing was changed."""
    return _exported(inside / "out") if command == EXPORT else ""


def _of_predictions(case: Case, ended: Ended, reference: Callable[[], Ended]) -> str:
    """Whether predictions that are none were taken, or the comparison is another one though they are the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = case.inside / case.file
    if not re.fullmatch(r"\d{4}-(id_test|test)\.parquet", path.name) or not _counts(case):
        return ""
    try:
        was, now = (
            pq.read_table(pa.BufferReader(one.read_bytes()), use_threads=False) if one.is_file() else None
            for one in (case.base / case.file, path)
        )
    except (pa.ArrowException, OSError):
        return "a damaged file was taken"
    assert was is not None
    if case.subject.scene == "summed" and now is not None:
        same = path.read_bytes() == (case.base / case.file).read_bytes()
        return "" if same else "a file was taken that is not the one of its sum"
    if now is None or path.is_symlink():
        return ""  # an epoch without a split does not count, which is told
    names = ("image_id", "y_true", "y_pred", "location")
    if any(name not in now.column_names for name in names):
        return "a file that lacks columns was taken"
    if not all(pa.types.is_integer(now[name].type) for name in names[1:]):
        return "numbers that are not whole were taken"
    if any(now[name].null_count for name in names):
        return "rows without values were taken"
    values = {name: now[name].to_pylist() for name in names}
    if len(set(values["image_id"])) < len(values["image_id"]):
        return "images that come twice were taken"
    n_classes = max(was["y_true"].to_pylist()) + 1
    if any(not 0 <= one < max(n_classes, 5) for name in ("y_true", "y_pred") for one in values[name]):
        return "labels that the task does not have were taken"
    rows = [sorted(zip(*(table[name].to_pylist() for name in names), strict=True)) for table in (was, now)]
    same = rows[0] == rows[1]
    if same and _numbers(ended.out) != _numbers(reference().out):
        return "the comparison is another one, though no value is"
    return ""


def _counts(case: Case) -> bool:
    state = _json((case.inside / case.file).parents[1].joinpath("state.json").read_bytes())
    return isinstance(state, dict) and state.get("status") == "done"


def _numbers(out: str) -> Any:
    """A comparison without what tells of files and machines."""
    told = _json(out.encode())
    return {key: value for key, value in told.items() if key != "environments"} if isinstance(told, dict) else told


def _of_record(case: Case) -> str:
    path = case.inside / case.file
    if not path.is_file():
        return ""
    data = path.read_bytes()
    if not strict(data):
        return "a record was taken that strict JSON is not"
    keys = _keys(json.loads(data)) - _keys(json.loads((case.base / case.file).read_bytes()))
    return (
        "a record was taken with a key that the format has not" if keys and case.subject.name == "suite record" else ""
    )


def _keys(record: Any) -> set[str]:
    """The keys of a suite record and of its arms and members; a task may have any."""
    if not isinstance(record, dict):
        return {"?"}
    inner = [one for key in ("arms", "members") for one in record.get(key, ()) if isinstance(one, dict)]
    return set(record).union(*inner)


def strict(data: bytes) -> bool:
    """Whether a text is JSON as its standard has it, with every key once and whole characters."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    def none(name: str) -> Any:
        raise ValueError(name)

    try:
        tree = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=none)
        json.dumps(tree, ensure_ascii=False).encode()
        return True
    except (ValueError, RecursionError):
        return False


NUMBERS = re.compile(r"^(image_size|epochs|batch_size|n|lr|min_crop|points) = ['\"]", re.MULTILINE)


def _of_suite(path: Path) -> str:
    if not path.is_file():
        return "a suite was taken that is no file"
    try:
        text = path.read_text(encoding="utf-8-sig")  # a mark at the front and other ends of lines are no fault
        tree = tomllib.loads(text)
    except (ValueError, OSError):
        return "a suite was taken that is no TOML"
    if not all(math.isfinite(one) for one in _floats(tree)):
        return "a number was taken that is not finite"
    return "a text was taken for a number" if NUMBERS.search(text) else ""


def _floats(tree: Any) -> Iterator[float]:
    if isinstance(tree, float):
        yield tree
    elif isinstance(tree, Mapping):
        for one in tree.values():
            yield from _floats(one)
    elif isinstance(tree, list):
        for one in tree:
            yield from _floats(one)
