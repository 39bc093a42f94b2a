import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgen.common.errors import SynthgenError
from synthgen.common.printing import counted, printable, say
from synthgen.common.records import parsed, record, validated
from synthgen.dataset.shard import Shard
from synthgen.storage.inside import fits, fits_stored, target
from synthgen.storage.reading import open_file, read_file, read_record, reading


@dataclass
class Small:
    n: int
    rate: float
    names: tuple[str, ...] = ()


BAD = {
    b'{"n": 1, "rate": NaN}': "line 1, column 18: NaN is not a number",
    b'{\n "names": ["\\"NaN", "NaN"],\n "n": NaN\n}': "line 3, column 7: NaN is not a number",
    b'{"n": 1, "rate": -Infinity}': "-Infinity is not a number",
    b'{"n": 1, "rate": 1e400}': "1e400 is too large a number",
    b'{"n": 1, "rate": 1e400x}': "line 1, column 18: 1e400 is too large a number",
    b'{"n": 1, "rate": NaNs}': "line 1, column 18: NaN is not a number",
    b'{"n": 1, "n": 2, "rate": 1}': "n: duplicate key",
    b'{"n": "12", "rate": 1}': "n: Input should be a valid integer",
    b'{"n": 1.0, "rate": 1}': "n: Input should be a valid integer",
    b'{"n": true, "rate": 1}': "n: Input should be a valid integer",
    b'{"n": 1, "rate": 1, "names": ["\\ud800"]}': "contains half of a character",
    b'{"n": 1}': "rate: Field required",
    b"{}": "n: Field required",
    b"": "not JSON (line 1, column 1",
    b"\xff": "not UTF-8 (byte 0)",
    b'\xef\xbb\xbf{"n": 1, "rate": 1}': "a byte order mark before the first character",
    b"[" * 100_000: "more than 100 nested lists and objects",
    b'{"a":' * 500 + b"1" + b"}" * 500: "more than 100 nested lists and objects",
    b'{"n": ' + b"1" * 5000 + b', "rate": 1}': "line 1, column 7: a number of 5000 digits; at most 300",
    b'{"n": 1, "rate": 1' + b"0" * 400 + b"}": "line 1, column 18: a number of 401 digits; at most 300",
}


@pytest.mark.parametrize(("data", "told"), BAD.items(), ids=range(len(BAD)))
def test_what_is_no_record_is_refused_in_one_line_with_file_and_key(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(SynthgenError, match=re.escape(told)) as caught:
        read_record(path, Small)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_key_of_a_later_version_is_called_so() -> None:
    with pytest.raises(SynthgenError, match=r"^x: index: Field required"):
        record(b"{}", Shard, "x")
    with pytest.raises(SynthgenError, match=r"^x: colour: unknown key; perhaps a later version wrote it"):
        record(b'{"colour": 1}', Shard, "x")


def test_brackets_in_texts_do_not_count_as_nesting() -> None:
    assert parsed(json.dumps({"a": '[{"' * 500 + "\\"}).encode(), "x") == {"a": '[{"' * 500 + "\\"}


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_all_that_json_can_say_is_read_as_it_was_written(value: object) -> None:
    assert parsed(json.dumps(value).encode(), "x") == value


def test_parsed_values_are_held_as_strictly_as_files() -> None:
    assert validated({"n": 1, "rate": 2, "names": ["a"]}, Small, "x") == Small(n=1, rate=2.0, names=("a",))
    with pytest.raises(SynthgenError, match=r"x: shards\.n: Input should be a valid integer"):
        validated({"n": "1", "rate": 2}, Small, "x", "shards")


def test_one_thing_is_not_spoken_of_as_several() -> None:
    assert [counted(n, "shard") for n in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]
    assert [counted(n, "class", "classes", form=",") for n in (1, 2000)] == ["1 class", "2,000 classes"]


def test_only_regular_files_are_opened_but_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"there")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to("pipe")
    assert read_file(tmp_path / "link") == b"there"
    for name, what in (("pipe", "a pipe"), ("to-pipe", "a pipe"), (".", "a folder")):
        with pytest.raises(SynthgenError, match=f"{what}, not a regular file"), reading(tmp_path / name):
            open_file(tmp_path / name)
    with pytest.raises(OSError, match="a device, not a regular file"):
        read_file(Path("/dev/zero"))
    with pytest.raises(OSError, match="has 5 bytes; at most 4"):
        read_file(tmp_path / "file", limit=4)


def test_names_of_files_stay_within_their_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "data").symlink_to("there")
    for name in ("../x", "/x", "a/../x", "./x", "a//x", "", "a/", "a\\..\\x", "x\0"):
        with pytest.raises(SynthgenError, match="not the name of a file within it"):
            target(tmp_path, name)
    with pytest.raises(SynthgenError, match="data: a link, and nothing is written through links"):
        target(tmp_path, "data/x.tar")
    assert target(tmp_path, "metadata/x.parquet") == tmp_path / "metadata/x.parquet"


def test_new_names_are_plain_and_stored_ones_may_have_spaces_and_other_scripts() -> None:
    for name in ("sd", "a.b-c_d", "0", "-x"):
        assert fits(name)
        assert fits_stored(name) == (name != "-x")
    for name in ("my suite", "naïve", "名前", "a..b"):
        assert not fits(name)
        assert fits_stored(name)
    for name in ("", ".", "..", ".x", "a/b", "../x", "a\n", "a\0", "\x1b[2J", "x" * 300, "a\\b"):
        assert not fits(name)
        assert not fits_stored(name)


@given(st.text())
def test_printable_text_is_one_line_of_characters_that_show(text: str) -> None:
    told = printable(text)
    assert all(character.isprintable() or character.isspace() for character in told)
    assert not set(told) & {"\n", "\r", "\t", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"}
    assert told == text or not text.isprintable()


def test_escape_sequences_are_shown_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb\n", "naïve 名前\u202e\udc80\x9b")
    assert capsys.readouterr().out == "a\\x1b[2Jb\\n\nnaïve 名前\\u202e\\udc80\\x9b\n"
