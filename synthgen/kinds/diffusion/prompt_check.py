"""Check prompt files and class lists: format, length, and that nothing changed under an old version."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os.path import realpath
from pathlib import Path

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted, say
from synthgen.kinds.diffusion.prompts import (
    CLIP_TOKENS,
    ClassList,
    Finding,
    Page,
    PromptSet,
    class_list_path,
    parse_classes,
    parse_prompts,
    prompt,
    shown,
    token_bounds,
)

VERSIONS = "VERSIONS"


def check(paths: Sequence[Path]) -> list[Finding]:
    """What is wrong with prompt files and class lists (``.tsv``), and with the class lists that the prompts name.

    Errors: text that is not UTF-8, a byte order mark, invisible characters, spaces at an end; header
    keys that are missing, unknown, repeated or empty; a template without or with two ``{}`` or with
    other braces; repeated templates or ids; empty ids or names; no template, no class; a missing
    class list; contents that changed under a recorded version.

    Warnings: repeated class names; a version that ``VERSIONS`` does not record; a template whose
    prompt CLIP certainly truncates (see token_bounds), given the class name with the most pieces.

    Raises SynthgenError if a file cannot be read.
    """
    return [finding for report in _reports(paths) for finding in report.page.findings]


def check_command(files: Sequence[Path], *, as_json: bool = False) -> int:
    """Print what ``check`` finds; returns the exit code, 1 if there is an error."""
    reports = _reports(files)
    findings = [finding for report in reports for finding in report.page.findings]
    n_errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        records = [asdict(finding) | {"path": str(finding.path)} for finding in findings]
        say(json.dumps({"errors": n_errors, "warnings": len(findings) - n_errors, "findings": records}))
    else:
        for finding in findings:
            say(finding)
        for report in reports:
            if report.value is not None:
                say(f"{report.page.path}: {report.summary}")
        counts = {"file": len(reports), "error": n_errors, "warning": len(findings) - n_errors}
        say(", ".join(counted(n, noun) for noun, n in counts.items()))
    return 1 if n_errors else 0


@dataclass(slots=True, kw_only=True)
class _Report:
    """A file that was checked."""

    page: Page
    value: PromptSet | ClassList | None  # None if there are errors
    longest: tuple[int, int] | None = None  # token_bounds of the prompts, once the classes are known

    @property
    def summary(self) -> str:
        """What the file contains, in one line."""
        if isinstance(self.value, ClassList):
            n_classes = counted(len(self.value.ids), "class", "classes")
            return f"{n_classes}, {counted(len(set(self.value.names)), 'name')}, sha256 {self.page.sha256[:16]}"
        assert self.value is not None
        words = [f"{self.value.name} version {self.value.version}", counted(len(self.value.templates), "template")]
        if self.longest is not None:
            least, most = self.longest
            words.append(f"longest prompt {least} to {most} of CLIP's {CLIP_TOKENS} tokens")
        return ", ".join([*words, f"sha256 {self.page.sha256[:16]}"])


def _reports(paths: Sequence[Path]) -> list[_Report]:
    reports: dict[str, _Report] = {}  # by the file behind any links
    for path in paths:
        if realpath(path) in reports:
            continue
        if path.suffix == ".tsv":
            reports[realpath(path)] = _report_classes(path)
            continue
        report = reports[realpath(path)] = _report_prompts(path)
        if not isinstance(report.value, PromptSet):
            continue
        beside = class_list_path(path, report.value)
        if not beside.exists():
            report.page.error(
                None, f"classes: {beside} does not exist; name a class list, relative to this file's folder"
            )
            continue
        if realpath(beside) not in reports:
            reports[realpath(beside)] = _report_classes(beside)
        classes = reports[realpath(beside)].value
        if isinstance(classes, ClassList):
            _judge_length(report, classes.names)
    return list(reports.values())


def _report_prompts(path: Path) -> _Report:
    page = Page.read(path)
    prompts = parse_prompts(page)
    if prompts is not None:
        _judge_version(page, path.absolute().parent, prompts.version)
    return _Report(page=page, value=prompts)


def _report_classes(path: Path) -> _Report:
    page = Page.read(path)
    classes = parse_classes(page)
    if classes is not None:
        folder = path.absolute().parent
        above = not (folder / VERSIONS).is_file() and (folder.parent / VERSIONS).is_file()
        _judge_version(page, folder.parent if above else folder, None)
    return _Report(page=page, value=classes)


def _judge_length(report: _Report, names: Sequence[str]) -> None:
    """Set the report's bounds; warn of templates whose prompt with the longest name is certainly truncated."""
    templates = {line: number for number, line in report.page.lines if not line.startswith("#")}
    longest = max(names, key=lambda name: token_bounds(name)[0])
    least = {template: token_bounds(prompt(template, longest))[0] for template in templates}
    most = max(token_bounds(prompt(template, ""))[1] for template in templates)
    most += max(token_bounds(name)[1] for name in names) - 2  # the marks were counted twice
    report.longest = max(least.values()), most
    for template, number in templates.items():
        if least[template] > CLIP_TOKENS:
            report.page.warn(
                number,
                f"template {shown(template)}: at least {least[template]} tokens with {shown(longest)};"
                f" CLIP reads {CLIP_TOKENS} and drops the rest: shorten it",
            )


def _judge_version(page: Page, folder: Path, version: str | None) -> None:
    """Compare a file with its line in VERSIONS; ``version`` None means the last recorded one."""
    name = page.path.absolute().relative_to(folder).as_posix()
    recorded = _read_versions(folder / VERSIONS).get(name, {})
    if version is None:
        version = next(reversed(recorded), "1")
    line = f"'{name} {version} {page.sha256}'"
    if version not in recorded:
        page.warn(None, f"version {version}: not in {folder / VERSIONS}; add the line {line}")
    elif recorded[version] != page.sha256:
        page.error(
            None,
            f"changed without a new version: version {version} is recorded with sha256 {recorded[version][:16]},"
            f" this is {page.sha256[:16]}; give it a new version and add a line to {folder / VERSIONS}",
        )


def _read_versions(path: Path) -> dict[str, dict[str, str]]:
    """The recorded SHA-256 by file, then by version; empty if there is no such file."""
    recorded: dict[str, dict[str, str]] = {}
    if not path.exists():
        return recorded
    page = Page.read(path)
    if not page.sound:
        raise SynthgenError(page.refusal)
    for number, line in page.lines:
        fields = line.split()
        if line.startswith("#"):
            continue
        if len(fields) != 3 or not re.fullmatch("[0-9a-f]{64}", fields[2]):
            raise SynthgenError(f"{path}: line {number}: {shown(line)}: write file, version and SHA-256")
        versions = recorded.setdefault(fields[0], {})
        if fields[1] in versions:
            raise SynthgenError(f"{path}: line {number}: version {fields[1]} of {fields[0]} twice; give a new version")
        versions[fields[1]] = fields[2]
    return recorded
