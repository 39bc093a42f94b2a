"""Prompt files and class lists: parse, check, version.

A prompt file begins with ``# key: value`` lines (name, version, classes, source, license); then
comes one template per line, with exactly one ``{}`` where the class name goes.  ``classes`` is the
class list it was written for, as a path from the prompt file's folder.  A class list is tab-separated,
``id`` and ``name``.  The file ``VERSIONS`` beside the prompt files records each file's version and
SHA-256, so that no file changes under an old version; ``prompt_check`` checks this.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from synthgen.common.errors import SynthgenError
from synthgen.storage.reading import read_file

KEYS = ("name", "version", "classes", "source", "license")
LONGEST = 1 << 26  # bytes in a prompt file or a class list
CLIP_TOKENS = 77  # what CLIP's text encoders read, begin and end marks included

_TOKEN = re.compile(r"\w[\w.-]*")  # names, versions and ids: they become file and folder names
_TOKEN_RULE = "letters, digits, '.', '_' and '-' only"
# The rule by which CLIP's tokenizer splits text, for text mapped by _plain.
_PIECE = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """A prompt file."""

    name: str  # letters, digits, '.', '_' and '-'
    version: str  # likewise; a changed file takes a new one
    classes: str  # path of its class list, from the prompt file's folder
    source: str  # where the templates come from
    license: str  # of the templates
    templates: tuple[str, ...]  # each with one {}
    sha256: str  # of the file's bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """A class list; a label is a position in it."""

    name: str  # the file's, without extension
    ids: tuple[str, ...]  # unique
    names: tuple[str, ...]  # as used in prompts; may repeat
    sha256: str  # of the file's bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with a file, and what to do."""

    path: Path
    line: int | None  # from 1; None if it is the whole file
    severity: str  # error or warning
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.severity}: {self.message}"

    @property
    def where(self) -> str:
        """File and line."""
        return str(self.path) if self.line is None else f"{self.path}: line {self.line}"


def read_prompts(path: Path) -> PromptSet:
    """Read a prompt file; raises SynthgenError with the first of its errors."""
    page = Page.read(path)
    prompts = parse_prompts(page)
    if prompts is None:
        raise SynthgenError(page.refusal)
    return prompts


def read_classes(path: Path) -> ClassList:
    """Read a class list; raises SynthgenError with the first of its errors."""
    page = Page.read(path)
    classes = parse_classes(page)
    if classes is None:
        raise SynthgenError(page.refusal)
    return classes


def class_list_path(path: Path, prompts: PromptSet) -> Path:
    """The class list that the prompt file at ``path`` was written for."""
    return path.parent / prompts.classes


def prompt(template: str, name: str) -> str:
    """The prompt of a class."""
    return template.replace("{}", name)


def token_bounds(text: str) -> tuple[int, int]:
    """Bounds on how many tokens CLIP's tokenizer makes of a text, begin and end marks included: least, most.

    Both hold for every text, as transformers' CLIPTokenizer normalises it (NFC, lower case): each
    piece of the tokenizer's splitting rule becomes at least one token, each byte of a piece at most
    one token.  So a text is read completely if the second number is at most 77, and truncated if
    the first is more.  Between the two, only CLIP's vocabulary decides, which comes with a model.
    """
    text = unicodedata.normalize("NFC", text).lower()
    pieces = _PIECE.findall("".join(map(_plain, text)))
    return len(pieces) + 2, len("".join(text.split()).encode()) + 2


def _plain(character: str) -> str:
    """An ASCII stand-in of the same kind: a letter, a digit, a space, or none of these."""
    if character.isascii():
        return character
    return {"L": "x", "N": "0", "Z": " "}.get(unicodedata.category(character)[0], "-")


@dataclass(slots=True, kw_only=True)
class Page:
    """A file being read, and the findings on it so far."""

    path: Path
    sha256: str
    lines: list[tuple[int, str]]  # number and text of every line that is not empty
    findings: list[Finding] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Page:
        """Read a file's lines; raises SynthgenError if there is no such file."""
        try:
            data = read_file(path, limit=LONGEST)
        except OSError as error:
            raise SynthgenError(f"{path}: {error.strerror}; name a prompt file or a class list") from None
        page = cls(path=path, sha256=hashlib.sha256(data).hexdigest(), lines=[])
        if data.startswith(codecs.BOM_UTF8):
            page.error(1, "a byte order mark before the first character; save as UTF-8 without one")
            data = data.removeprefix(codecs.BOM_UTF8)
        if b"\r" in data:
            page.error(data[: data.index(b"\r")].count(b"\n") + 1, "a carriage return; end lines with \\n alone")
            data = data.replace(b"\r\n", b"\n")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            page.error(line, f"byte 0x{data[error.start]:02x}: not UTF-8; save the file as UTF-8")
            return page
        page.lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line]
        return page

    def error(self, line: int | None, message: str) -> None:
        """Note an error."""
        self.findings.append(Finding(path=self.path, line=line, severity="error", message=message))

    def warn(self, line: int | None, message: str) -> None:
        """Note a warning."""
        self.findings.append(Finding(path=self.path, line=line, severity="warning", message=message))

    @property
    def sound(self) -> bool:
        """No error so far."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def refusal(self) -> str:
        """The first error, as one line."""
        first = next(finding for finding in self.findings if finding.severity == "error")
        return f"{first.where}: {first.message}"

    def look(self, line: int, value: str, what: str) -> None:
        """Find invisible characters and spaces at an end of a value."""
        for character in value:
            if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp"):
                self.error(line, f"{what} {shown(value)}: control character U+{ord(character):04X}; remove it")
                return
        if value != value.strip():
            self.error(line, f"{what} {shown(value)}: space at an end; remove it")


def shown(value: str) -> str:
    """A value as shown in a message: quoted, and truncated if long."""
    return repr(value if len(value) <= 60 else value[:57] + "...")


def parse_prompts(page: Page) -> PromptSet | None:
    """A page as a prompt file; None, with findings on the page, if it is not one."""
    header: dict[str, str] = {}
    templates: dict[str, int] = {}  # and the line of each
    for number, line in page.lines:
        if not line.startswith("#"):
            _parse_template(page, number, line, templates)
        elif templates:
            page.error(number, f"{shown(line)}: a header line after the first template; move it to the top")
        else:
            _parse_header(page, number, line, header)
    if page.lines or page.sound:  # otherwise nothing could be read
        for key in KEYS:
            if key not in header:
                page.error(None, f"{key}: not in the header; add a line '# {key}: ...' at the top")
        if not templates:
            page.error(None, "no template; add one per line, with {} where the class name goes")
    if not page.sound:
        return None
    return PromptSet(**header, templates=tuple(templates), sha256=page.sha256)


def _parse_header(page: Page, number: int, line: str, header: dict[str, str]) -> None:
    key, colon, value = (part.strip() for part in line.removeprefix("#").partition(":"))
    page.look(number, value, key)
    if not colon or key not in KEYS:
        page.error(number, f"{shown(line)}: unknown key; the header is '# key: value' with {', '.join(KEYS)}")
    elif key in header:
        page.error(number, f"{key}: given twice; keep one")
    elif not value:
        page.error(number, f"{key}: empty; give a value")
    elif key in ("name", "version") and not _TOKEN.fullmatch(value):
        page.error(number, f"{key} {shown(value)}: {_TOKEN_RULE}")
    header.setdefault(key, value)


def _parse_template(page: Page, number: int, line: str, templates: dict[str, int]) -> None:
    page.look(number, line, "template")
    places = line.count("{}")
    if line.count("{") + line.count("}") > 2 * places:
        page.error(number, f"template {shown(line)}: braces other than {{}}; remove them")
    elif places != 1:
        page.error(number, f"template {shown(line)}: {places or 'no'} {{}}; write one, where the class name goes")
    if line in templates:
        page.error(number, f"template {shown(line)}: also on line {templates[line]}; remove one")
    templates.setdefault(line, number)


def parse_classes(page: Page) -> ClassList | None:
    """A page as a class list; None, with findings on the page, if it is not one."""
    ids: dict[str, int] = {}  # and the line of each
    names: list[str] = []
    first: dict[str, int] = {}  # line on which a name first occurs
    if page.lines and page.lines[0][1] != "id\tname":
        page.error(page.lines[0][0], f"{shown(page.lines[0][1])}: not the header; begin with 'id', a tab and 'name'")
    for number, line in page.lines[1:]:
        identifier, tab, name = line.partition("\t")
        if not tab or "\t" in name:
            page.error(number, f"{shown(line)}: {line.count(chr(9))} tabs; write id, one tab, name")
            continue
        page.look(number, name, "name")
        if not _TOKEN.fullmatch(identifier):
            page.error(number, f"id {shown(identifier)}: {_TOKEN_RULE}; it names a folder")
        elif identifier in ids:
            page.error(number, f"id {shown(identifier)}: also on line {ids[identifier]}; ids are unique")
        if not name.strip():
            page.error(number, "name: empty; write what the prompt calls the class")
        elif name in first:
            page.warn(number, f"name {shown(name)}: also on line {first[name]}; both classes get the same prompts")
        ids.setdefault(identifier, number)
        first.setdefault(name, number)
        names.append(name)
    if len(page.lines) < 2 and page.sound:
        page.error(None, "no class; write a line 'id', a tab, 'name', then one class per line")
    if not page.sound:
        return None
    return ClassList(name=page.path.stem, ids=tuple(ids), names=tuple(names), sha256=page.sha256)
