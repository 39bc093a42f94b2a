import csv
import hashlib
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgen.common.errors import SynthgenError
from synthgen.kinds.diffusion.prompt_check import check, check_command
from synthgen.kinds.diffusion.prompts import (
    Finding,
    class_list_path,
    prompt,
    read_classes,
    read_prompts,
    token_bounds,
)

PROMPTS = Path(__file__).parents[1] / "prompts"
GOLDEN = Path(__file__).parent / "golden"
PROMPT_FILES = sorted(PROMPTS.glob("*.txt"))
CLASS_LISTS = sorted(PROMPTS.glob("classes/*.tsv"))
HEADER = "# name: own\n# version: 1\n# classes: own.tsv\n# source: own\n# license: CC0-1.0\n"
CLASSES = "id\tname\ncat\ta cat\ndog\ta dog\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one sound prompt file and its class list, both recorded."""
    (tmp_path / "own.txt").write_bytes((HEADER + "a photo of {}.\n").encode())
    (tmp_path / "own.tsv").write_bytes(CLASSES.encode())
    record(tmp_path, "own.txt", "own.tsv")
    return tmp_path


def record(folder: Path, *names: str) -> None:
    lines = [f"{name} 1 {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in names]
    (folder / "VERSIONS").write_text("# comment\n\n" + "".join(lines))


def written(folder: Path, name: str, data: bytes) -> list[Finding]:
    (folder / name).write_bytes(data)
    record(folder, "own.txt", "own.tsv")
    return check([folder / name])


# The files that come with the project


def test_every_file_that_comes_with_the_project_passes(capsys: pytest.CaptureFixture[str]) -> None:
    findings = check([*PROMPT_FILES, *CLASS_LISTS])
    assert [str(finding) for finding in findings if finding.severity == "error"] == []
    assert all("both classes get the same prompts" in finding.message for finding in findings)
    assert check_command([*PROMPT_FILES, *CLASS_LISTS]) == 0
    assert "imagenet80 version 1, 80 templates" in capsys.readouterr().out


def test_versions_lists_every_file_and_no_other() -> None:
    lines = [line.split() for line in (PROMPTS / "VERSIONS").read_text().splitlines() if not line.startswith("#")]
    files = {path.relative_to(PROMPTS).as_posix(): path for path in [*PROMPT_FILES, *CLASS_LISTS]}
    assert {name for name, _, _ in lines} == set(files)
    current = {name: sha256 for name, _, sha256 in lines}
    assert current == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


@pytest.mark.parametrize("path", [*PROMPT_FILES, *CLASS_LISTS, PROMPTS / "VERSIONS"], ids=lambda path: path.name)
def test_files_are_plain_lines(path: Path) -> None:
    data = path.read_bytes()
    assert data.isascii()
    assert data.endswith(b"\n")
    assert not re.search(rb"[ \t]\n|\r|\n\n|[\x00-\x08\x0b-\x1f\x7f]", data)


def test_imagenet80_holds_the_80_templates_in_their_order() -> None:
    prompts = read_prompts(PROMPTS / "imagenet80.txt")
    assert len(prompts.templates) == len(set(prompts.templates)) == 80
    assert prompts.templates[:2] == ("a bad photo of a {}.", "a photo of many {}.")
    assert prompts.templates[-1] == "a tattoo of the {}."
    # SHA-256 of the templates of open_clip_torch 3.3.0, joined by line ends
    digest = hashlib.sha256("\n".join(prompts.templates).encode()).hexdigest()
    assert digest == "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af"


def test_imagenet1k_holds_1000_classes_of_998_names() -> None:
    classes = read_classes(PROMPTS / "classes" / "imagenet1k.tsv")
    assert len(classes.ids) == len(set(classes.ids)) == 1000
    assert [name for name, n in Counter(classes.names).items() if n > 1] == ["missile", "sunglasses"]
    assert len(set(classes.names)) == 998
    assert classes.names[0] == "tench"
    assert classes.names[-1] == "toilet paper"
    # SHA-256 of the names of open_clip_torch 3.3.0, joined by line ends
    digest = hashlib.sha256("\n".join(classes.names).encode()).hexdigest()
    assert digest == "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"


def test_animals_are_the_first_398_classes() -> None:
    every, animals = (read_classes(PROMPTS / "classes" / f"imagenet{name}.tsv") for name in ("1k", "-animals"))
    assert (animals.ids, animals.names) == (every.ids[:398], every.names[:398])
    assert animals.names[-1] == "pufferfish"


def test_ids_are_those_of_the_published_sets() -> None:
    every, tiny, cifar10 = (
        read_classes(PROMPTS / "classes" / f"{name}.tsv") for name in ("imagenet1k", "tinyimagenet200", "cifar10")
    )
    with (GOLDEN / "imagenet" / "granularity.csv").open() as file:
        assert list(every.ids) == [row["wnid"] for row in csv.DictReader(file)]
    # SHA-256 of the names of the 200 folders of Tiny-ImageNet's train/, sorted and joined by line ends
    digest = hashlib.sha256("\n".join(tiny.ids).encode()).hexdigest()
    assert digest == "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8"
    names = dict(zip(every.ids, every.names, strict=True))
    assert list(tiny.names) == [names[wnid] for wnid in tiny.ids]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert list(cifar10.ids) == classes  # of https://www.cs.toronto.edu/~kriz/cifar.html


def test_iwildcam_has_a_line_for_each_of_the_182_labels() -> None:
    classes = read_classes(PROMPTS / "classes" / "iwildcam.tsv")
    assert [int(label) for label in classes.ids] == list(range(182))
    assert {0: "empty scene", 24: "cattle", 101: "spotted thick-knee", 172: "motorcycle"}.items() <= dict(
        enumerate(classes.names)
    ).items()


@pytest.mark.parametrize("path", CLASS_LISTS, ids=lambda path: path.stem)
def test_ids_are_sorted_so_an_image_folder_gives_the_same_labels(path: Path) -> None:
    ids = read_classes(path).ids
    assert list(ids) == sorted(ids)


@pytest.mark.parametrize("path", PROMPT_FILES, ids=lambda path: path.stem)
def test_every_prompt_surely_fits_clip(path: Path) -> None:
    prompts = read_prompts(path)
    names = read_classes(class_list_path(path, prompts)).names
    longest = max(names, key=lambda name: token_bounds(name)[1])
    assert max(token_bounds(prompt(template, longest))[1] for template in prompts.templates) <= 77
    assert prompts.name == path.stem


# Reading and checking


def test_sound_files_are_read_whole(folder: Path) -> None:
    prompts, classes = read_prompts(folder / "own.txt"), read_classes(folder / "own.tsv")
    assert (prompts.name, prompts.version, prompts.license) == ("own", "1", "CC0-1.0")
    assert prompts.templates == ("a photo of {}.",)
    assert prompts.sha256 == hashlib.sha256((folder / "own.txt").read_bytes()).hexdigest()
    assert (classes.name, classes.ids, classes.names) == ("own", ("cat", "dog"), ("a cat", "a dog"))
    assert prompt(prompts.templates[0], classes.names[1]) == "a photo of a dog."
    assert class_list_path(folder / "own.txt", prompts) == folder / "own.tsv"
    assert check([folder / "own.txt"]) == []


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("a photo", 6, "template 'a photo': no {}; write one"),
        ("{} and {}", 6, "template '{} and {}': 2 {}; write one"),
        ("a {name}", 6, "braces other than {}"),
        ("a {} in {", 6, "braces other than {}"),
        ("a }{", 6, "braces other than {}"),
        ("a {{}}", 6, "braces other than {}"),
        ("a {}\nthe {}\na {}", 8, "template 'a {}': also on line 6; remove one"),
        ("a {}.\t", 6, "control character U+0009"),
        ("a \u200b{}.", 6, "control character U+200B"),
        ("a {}. ", 6, "space at an end"),
        (" ", 6, "no {}"),
        ("a {}\n# name: late", 7, "a header line after the first template"),
        ("", None, "no template; add one per line"),
    ],
)
def test_a_bad_template_is_one_error_of_file_line_and_value(
    folder: Path, body: str, line: int | None, message: str
) -> None:
    findings = written(folder, "own.txt", f"{HEADER}{body}\n".encode())
    assert any(finding.line == line and message in finding.message for finding in findings)
    assert {finding.severity for finding in findings} == {"error"}
    assert all("\n" not in str(finding) and str(finding).startswith(f"{folder / 'own.txt'}: ") for finding in findings)
    with pytest.raises(SynthgenError, match=re.escape(findings[0].message)):
        read_prompts(folder / "own.txt")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("# license: CC0-1.0\n", "", None, "license: not in the header; add a line '# license: ...'"),
        ("# source", "# origin", 4, "unknown key; the header is '# key: value' with name, version, classes"),
        ("# source: own", "# a comment", 4, "unknown key"),
        ("# version: 1", "# version:", 2, "version: empty"),
        ("# version: 1", "# version: 1\n# version: 2", 3, "version: given twice"),
        ("# version: 1", "# version: 1 b", 2, "version '1 b': letters, digits"),
        ("# name: own", "# name: ../own", 1, "name '../own': letters, digits"),
        ("# classes: own.tsv", "# classes: none.tsv", None, "none.tsv does not exist; name a class list"),
    ],
)
def test_a_bad_header_is_told(folder: Path, old: str, new: str, line: int | None, message: str) -> None:
    findings = written(folder, "own.txt", (HEADER.replace(old, new) + "a {}\n").encode())
    errors = [finding for finding in findings if finding.severity == "error"]
    assert any(finding.line == line and message in finding.message for finding in errors)


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("", None, "no class; write a line 'id', a tab, 'name'"),
        ("id\tname\n", None, "no class"),
        ("cat\tcat\n", 1, "not the header"),
        ("id\tname\ncat\n", 2, "'cat': 0 tabs; write id, one tab, name"),
        ("id\tname\ncat\tcat\tblack\n", 2, "2 tabs"),
        ("id\tname\ncat\t\n", 2, "name: empty"),
        ("id\tname\ncat\t \n", 2, "name: empty"),
        ("id\tname\n\tcat\n", 2, "id '': letters, digits"),
        ("id\tname\n\t\n", 2, "name: empty"),
        ("id\tname\na/b\tcat\n", 2, "id 'a/b': letters, digits"),
        ("id\tname\n..\tcat\n", 2, "id '..': letters, digits"),
        ("id\tname\ncat\tcat\ncat\tdog\n", 3, "id 'cat': also on line 2; ids are unique"),
        ("id\tname\ncat\tcat\x07\n", 2, "control character U+0007"),
        ("id\tname\ncat\tcat \n", 2, "space at an end"),
    ],
)
def test_a_bad_class_list_is_told(folder: Path, body: str, line: int | None, message: str) -> None:
    findings = written(folder, "own.tsv", body.encode())
    errors = [finding for finding in findings if finding.severity == "error"]
    assert any(finding.line == line and message in finding.message for finding in errors)
    with pytest.raises(SynthgenError, match=re.escape(findings[0].message)):
        read_classes(folder / "own.tsv")
    assert set(findings) <= set(check([folder / "own.txt"]))  # found from the prompt file, too


@pytest.mark.parametrize("name", ["own.txt", "own.tsv"])
def test_encodings_other_than_utf8_are_told_with_line_and_byte(folder: Path, name: str) -> None:
    sound = (folder / name).read_bytes()
    (finding,) = written(folder, name, sound + "caf\xe9".encode("latin-1"))
    assert (finding.line, finding.severity) == (sound.count(b"\n") + 1, "error")
    assert finding.message == "byte 0xe9: not UTF-8; save the file as UTF-8"
    (finding,) = written(folder, name, b"\xef\xbb\xbf" + sound)
    assert (finding.line, finding.severity) == (1, "error")
    assert "byte order mark" in finding.message
    (finding,) = written(folder, name, sound.replace(b"\n", b"\r\n"))
    assert "carriage return; end lines with \\n alone" in finding.message
    assert any("not UTF-8" in finding.message for finding in written(folder, name, sound.decode().encode("utf-16")))


@pytest.mark.parametrize("name", ["own.txt", "own.tsv"])
@given(data=st.binary(max_size=80))
def test_no_bytes_break_the_check(tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    assert any(finding.severity == "error" for finding in check([path]))


def test_a_repeated_class_name_is_a_warning(folder: Path) -> None:
    (finding,) = written(folder, "own.tsv", (CLASSES + "cat2\ta cat\n").encode())
    assert (finding.severity, finding.line) == ("warning", 4)
    assert "name 'a cat': also on line 2" in finding.message
    assert read_classes(folder / "own.tsv").names == ("a cat", "a dog", "a cat")


def test_a_change_without_a_new_version_is_found(folder: Path) -> None:
    for name in ("own.txt", "own.tsv"):
        path = folder / name
        before = path.read_text()
        path.write_text(before.replace("a ", "one "))
        (finding,) = [finding for finding in check([folder / "own.txt"]) if finding.path == path]
        assert finding.severity == "error"
        assert "changed without a new version: version 1 is recorded with sha256" in finding.message
        path.write_text(before)
    assert check([folder / "own.txt"]) == []


def test_a_new_version_asks_for_its_line_and_then_passes(folder: Path) -> None:
    path = folder / "own.txt"
    path.write_text(path.read_text().replace("version: 1", "version: 2") + "a drawing of {}.\n")
    (finding,) = check([path])
    line = f"own.txt 2 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert finding.severity == "warning"
    assert finding.message.endswith(f"add the line '{line}'")
    with (folder / "VERSIONS").open("a") as file:
        file.write(line + "\n")
    assert check([path]) == []


def test_without_versions_there_is_a_warning(folder: Path) -> None:
    (folder / "VERSIONS").unlink()
    findings = check([folder / "own.txt", folder / "own.tsv"])
    assert [(finding.severity, finding.path.name) for finding in findings] == [
        ("warning", "own.txt"),
        ("warning", "own.tsv"),
    ]
    assert all(f"not in {folder / 'VERSIONS'}; add the line" in finding.message for finding in findings)


@pytest.mark.parametrize("line", ["own.txt 1", "own.txt 1 abc", f"own.txt 1 {'0' * 64}"])
def test_a_bad_line_of_versions_is_refused(folder: Path, line: str) -> None:
    with (folder / "VERSIONS").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SynthgenError, match=r"VERSIONS: line 5: "):
        check([folder / "own.txt"])


def test_a_file_that_cannot_be_read_is_refused(folder: Path) -> None:
    for read in (read_prompts, read_classes, lambda path: check([path])):
        with pytest.raises(SynthgenError, match=r"none\.txt: No such file or directory; name a prompt file"):
            read(folder / "none.txt")
        with pytest.raises(SynthgenError, match="a folder, not a regular file"):
            read(folder)
    (folder / "zero.txt").write_text(HEADER.replace("own.tsv", "/dev/zero") + "a {}\n")
    with pytest.raises(SynthgenError, match="/dev/zero: a device, not a regular file; name a prompt file or a class"):
        check([folder / "zero.txt"])
    (folder / "VERSIONS").unlink()
    (folder / "VERSIONS").mkdir()
    with pytest.raises(SynthgenError, match="VERSIONS: a folder, not a regular file"):
        check([folder / "own.txt"])


def test_the_command_prints_findings_and_answers_with_an_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_command([folder / "own.txt"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 files, 0 errors, 0 warnings"
    (folder / "bad.txt").write_text(HEADER + "a photo\n")
    assert check_command([folder / "bad.txt"]) == 1
    out = capsys.readouterr().out
    assert f"{folder / 'bad.txt'}: line 6: error: template 'a photo': no {{}}" in out
    assert out.splitlines()[-1] == "1 file, 1 error, 0 warnings"
    assert check_command([folder / "bad.txt"], as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["errors"], answer["warnings"], answer["findings"][0]["line"]) == (1, 0, 6)


# The length of prompts


def test_a_template_that_clip_surely_cuts_is_a_warning_with_its_length(folder: Path) -> None:
    long = "a photo of {} " + "1" * 75
    findings = written(folder, "own.txt", f"{HEADER}a {{}}\n{long}\n".encode())
    (finding,) = findings
    assert (finding.severity, finding.line) == ("warning", 7)
    assert "at least 82 tokens with 'a cat'; CLIP reads 77 and drops the rest" in finding.message


def test_the_bounds_of_a_length_are_told_where_they_do_not_decide(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert written(folder, "own.txt", f"{HEADER}{{}} {'word ' * 30}end\n".encode()) == []
    check_command([folder / "own.txt"])
    assert "longest prompt 35 to 129 of CLIP's 77 tokens" in capsys.readouterr().out


@given(st.text(st.characters(codec="utf-8"), max_size=30) | st.text("ab'sS1 ².{}|<>é\u0301İ", max_size=30))
def test_the_least_number_of_tokens_is_that_of_clips_own_rule(text: str) -> None:
    regex = pytest.importorskip("regex")  # transformers brings it
    rule = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    normal = unicodedata.normalize("NFC", text).lower()
    if not any(unicodedata.category(character) in ("Cc", "Cn") for character in normal):
        pieces = regex.findall(rule, normal)
        assert token_bounds(text) == (len(pieces) + 2, len("".join(pieces).encode()) + 2)


@given(st.text("aé1 .'", max_size=12), st.text("aé1 .'", max_size=12))
def test_the_longest_template_and_the_longest_name_bound_every_prompt(template: str, name: str) -> None:
    whole = token_bounds(prompt("{}" + template, name))[1]
    assert whole <= token_bounds(template)[1] + token_bounds(name)[1] - 2
