"""Mutations of JSON, CSV, TOML and other texts."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from typing import Any

from fuzz_values import NAMES, RAW, value


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, one in inner for place in ((*path, key), *_places(one, (*path, key)))]


def _inside(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        tree = tree[key]
    return tree


def _pick(tree: Any, rng: random.Random) -> tuple[Any, Any]:
    """The container and the key of a value; those near the root come as often as those deep within."""
    places = _places(tree) or [()]
    depth = rng.choice(sorted({len(place) for place in places}))
    place = rng.choice([one for one in places if len(one) == depth])
    return _inside(tree, place), place[-1] if place else None


def change_tree(tree: Any, rng: random.Random) -> None:
    """Change one thing of a tree of lists and dicts."""
    holder, key = _pick(tree, rng)
    how = rng.choice(("delete", "rename", "retype", "retype", "retype", "add", "repeat", "swap"))
    if key is None:
        return
    if how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        renamed = rng.choice((f"{key}_later", *NAMES)) if isinstance(key, str) else key
        holder[renamed] = holder.pop(key)
    elif how == "add" and isinstance(holder, dict):
        holder[rng.choice(("later", *NAMES))] = value(rng, rng.choice((1, "x", [], None)))
    elif how == "repeat" and isinstance(holder, list):
        holder[key:key] = [holder[key]] * rng.choice((1, 2, 3000))
    elif how == "swap" and len(holder) > 1:
        other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = value(rng, holder[key])


def json_tree(data: bytes, rng: random.Random) -> bytes:
    """One value, key or count is another."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        change_tree(tree, rng)
    return json.dumps(tree, indent=1).encode()


def json_raw(data: bytes, rng: random.Random) -> bytes:
    """One value is a text that strict JSON does not have, or that breaks readers."""
    tree = json.loads(data)
    holder, key = _pick(tree, rng)
    if key is None:
        return rng.choice(RAW).encode()
    holder[key] = "@raw@"
    return json.dumps(tree, indent=1).replace('"@raw@"', rng.choice(RAW), 1).encode()


def json_twice(data: bytes, rng: random.Random) -> bytes:
    """A key is there twice."""
    tree = json.loads(data)
    places = [place for place in _places(tree) if isinstance(place[-1], str)]
    if not places:
        return data + data
    place = rng.choice(places)
    holder, key = _inside(tree, place), place[-1]
    text = json.dumps(key) + ": "
    inner = {**holder, "@twice@": value(rng, holder[key])} if rng.random() < 0.7 else {"@twice@": 1, **holder}
    if len(place) == 1:
        tree = inner
    else:
        _inside(tree, place[:-1])[place[-2]] = inner
    return json.dumps(tree, indent=1).replace('"@twice@": ', text, 1).encode()


def json_root(data: bytes, rng: random.Random) -> bytes:
    """The whole is something else: empty, a list, a number, in another encoding, or has something behind it."""
    tree = json.loads(data)
    others = ("{}", "[]", "null", "1", '""', "[{}]", "{}{}", *RAW[:8])
    pool = [*(one.encode() for one in others), json.dumps([tree]).encode(), data + data, data + b"\0"]
    pool += [
        b"\xef\xbb\xbf" + data,
        data.decode().encode("utf-16"),
        b" " * 100_000 + data,
        data.replace(b"\n", b"\r\n"),
    ]
    return rng.choice(pool)


def json_lines(data: bytes, rng: random.Random) -> bytes:
    """One line of several is another, is there again, or is gone."""
    lines = data.splitlines() or [b"{}"]
    place = rng.randrange(len(lines))
    how = rng.randrange(5)
    if how == 0:
        lines.insert(place, lines[place])
    elif how == 1:
        del lines[place]
    elif how == 2:
        lines[place] = rng.choice(RAW).encode()
    else:
        lines[place] = rng.choice((json_tree, json_raw, json_twice))(lines[place], rng).replace(b"\n", b"")
    return b"".join(line + b"\n" for line in lines)


def text_line(data: bytes, rng: random.Random) -> bytes:
    """A line is gone, there again, somewhere else, or has another word in it."""
    lines = data.decode(errors="replace").split("\n")
    place = rng.randrange(len(lines))
    how = rng.randrange(5)
    if how == 0:
        del lines[place]
    elif how == 1:
        lines.insert(place, lines[place])
    elif how == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(place))
    elif how == 3:
        words = re.split(r"(\W+)", lines[place])
        words[rng.randrange(len(words))] = str(value(rng, rng.choice(("x", 1, 0.5))))
        lines[place] = "".join(words)
    else:
        lines[place] += rng.choice(NAMES)
    return "\n".join(lines).encode(errors="surrogatepass")


def text_whole(data: bytes, rng: random.Random) -> bytes:
    """Another encoding, other ends of lines, a mark at the front, a line without end."""
    text = data.decode(errors="replace")
    pool = [b"\xef\xbb\xbf" + data, text.encode("utf-16"), data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r")]
    pool += [b"", b"\n", data + b"x" * 200_000, data.replace(b"\n", b"\n\n"), data + data, b"\xff" + data]
    return rng.choice(pool)


def csv_cell(data: bytes, rng: random.Random) -> bytes:
    """A cell, a column or a row of a table in text is another."""
    text = data.decode()
    mark = "\t" if "\t" in text else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    row = rng.choice(rows)
    place = rng.randrange(max(len(row), 1))
    how = rng.randrange(7)
    if how == 0 and row:
        del row[place]
    elif how == 1:
        row.append(str(value(rng, "x")))
    elif how == 2:
        for one in rows:
            del one[place : place + 1]
    elif how == 3:
        rows.append(list(row))
    elif how == 4:
        rows.remove(row)
    elif row:
        old: Any = row[place]
        row[place] = str(value(rng, int(old) if re.fullmatch(r"-?\d{1,9}", old) else 0.5 if "." in old else old))
    sink = io.StringIO()
    csv.writer(sink, delimiter=mark, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode(errors="surrogatepass")


def toml_value(data: bytes, rng: random.Random) -> bytes:
    """A value of a suite is another, of its type or not."""
    lines = data.decode().split("\n")
    places = [k for k, line in enumerate(lines) if "=" in line]
    place = rng.choice(places)
    key, _, old = lines[place].partition("=")
    spots = list(re.finditer(r'"[^"]*"|-?\d+(?:\.\d+)?', old))
    if not spots or rng.random() < 0.3:
        lines[place] = f"{key}= {_toml(value(rng, rng.choice((1, 0.5, 'x', [], {}, True))))}"
        return "\n".join(lines).encode(errors="surrogatepass")
    spot = rng.choice(spots)
    new = _toml(value(rng, json.loads(spot[0])))
    lines[place] = f"{key}={old[: spot.start()]}{new}{old[spot.end() :]}"
    return "\n".join(lines).encode(errors="surrogatepass")


TOML_RAW = ("inf", "-inf", "nan", "1979-05-27", "00:00:00", "0xff", "1_000", "true", "1e400", "[[[[]]]]", "9" * 5000)


def toml_raw(data: bytes, rng: random.Random) -> bytes:
    """A value is one that TOML has and suites do not."""
    lines = data.decode().split("\n")
    place = rng.choice([k for k, line in enumerate(lines) if "=" in line])
    lines[place] = f"{lines[place].partition('=')[0]}= {rng.choice((*TOML_RAW, '[' * 3000 + ']' * 3000))}"
    return "\n".join(lines).encode()


KEYS = (
    "n = {}", "control = {}", "group = {}", "classes = {}", "diversity = {}", "taxonomy = {}", "captions = {}",
    "checkpoint = {}", "architectures = [{}]", "granularity = {}", "seeds = [{}]", "image_size = {}", "precision = {}",
    "reference = {}", "later = {}", "mixture = [{{ share = {}, source = {{ kind = \"shards\", path = \"set\" }} }}]",
    "subclasses = {{ level = {}, factor = 2 }}", "pretrain = {{ lr = {} }}", "pretrain = {{ objective = {} }}",
    "cost = {{ device = \"x\", images_per_second = {{ a = {} }} }}", "epochs = {}", "batch_size = {}", "lr = {}",
    "min_crop = {}", "mixup = {}", "accumulate = {}", "evaluate_epochs = [{}]", "warmup_epochs = {}", "kind = {}",
)  # fmt: skip


def toml_key(data: bytes, rng: random.Random) -> bytes:
    """One more key, of those that suites have, with a value of any kind."""
    lines = data.decode().split("\n")
    made = rng.choice(KEYS).format(_toml(value(rng, rng.choice((1, 0.5, "x", [1], True)))))
    lines.insert(rng.randrange(len(lines)), made)
    return "\n".join(lines).encode(errors="surrogatepass")


def toml_many(data: bytes, rng: random.Random) -> bytes:
    """Very many seeds, or arms."""
    text = data.decode()
    if rng.random() < 0.5:
        seeds = f"seeds = [{', '.join(map(str, range(rng.choice((200, 20_000)))))}]"
        return re.sub(r"seeds = .*", seeds, text).encode()
    return (text + "".join(f'\n[[arms]]\nname = "arm {k}"\n' for k in range(rng.choice((50, 2000))))).encode()


def _toml(one: Any) -> str:
    if isinstance(one, dict):
        return "{ " + ", ".join(f"{json.dumps(str(key))} = {_toml(inner)}" for key, inner in one.items()) + " }"
    if isinstance(one, list):
        return "[" + ", ".join(map(_toml, one)) + "]"
    return '""' if one is None else json.dumps(one).replace("\\u001b", "\\u001B")
