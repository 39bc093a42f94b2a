"""Errors and addresses made safe to print: in one line, without keys, passwords and tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote

LOGIN = re.compile(r"//([^/]*:.*|[^/@]*)@")  # of a URL; a password may contain slashes
# Environment variables that hold secrets, rather than the names of files with secrets.
SECRET = re.compile(
    r"(?!.*_(FILE|PATH|DIR)$).*(TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|(API|ACCESS|ACCOUNT|PRIVATE)_?KEY)", re.I
)
SHORTEST = 8  # characters of such a secret; a shorter one may be an ordinary word
# What secrets look like, each with what is shown instead: in signed and other URLs, headers and settings, and the
# well-known forms of Hub tokens and AWS keys.
LOOKS = tuple(
    (re.compile(pattern, re.IGNORECASE), shown)
    for pattern, shown in (
        (r"(?<=://)([^\s/'\"@]*|[^\s/'\"@:]*:[^\s'\"]*)@", "***@"),
        (r"(://[^\s?'\"<>]*)\?[^\s'\"<>]+", r"\1?***"),
        (r"\b(bearer|basic)\s+[\w+/=.~-]{8,}", r"\1 ***"),
        (
            r"((?:password|passwd|passphrase|secret|token|signature|credential|authorization|\bsig"
            r"|(?:api|access|account|private|secret)[_-]?key(?:[_-]?id)?)[\"']?)"
            r"(\s*[:=]\s*)(?:[bru]?\"[^\"]*\"|[bru]?'[^']*'|(?<!= )[^\s\"',;&()\[\]{}]+)",
            r"\1\2***",
        ),
        (r"hf_[a-z0-9]{16,}", "***"),
        (r"\b(?-i:(?:AKIA|ASIA)[A-Z0-9]{12,})\b", "***"),
    )
)


def one_line(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """The message of an error, in one line of at most 300 characters, without ``secrets`` or what looks like one."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and not error.filename:
        text = error.strerror
    return " ".join(masked(without(text, secrets)).split())[:300] or type(error).__name__


def masked(text: str) -> str:
    """``text`` without the environment's secrets and what looks like one."""
    text = without(text, secrets_in(""))
    for look, shown in LOOKS:
        text = look.sub(shown, text)
    return text


def without(text: str, secrets: Iterable[str]) -> str:
    """``text`` with each of ``secrets``, plain or URL-encoded, masked."""
    forms = {form for word in secrets for form in (word, quote(word), quote(word, safe=""))}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def secrets_in(url: str, *, elsewhere: bool = True) -> tuple[str, ...]:
    """The secrets of a URL, in USER:PASSWORD@ and ?NAME=VALUE; with ``elsewhere`` also those of the environment."""
    login = LOGIN.search(url)
    words = [login[1], *login[1].split(":")[1:]] if login else []
    words += [value for _, value in parse_qsl(url.partition("?")[2])]
    here = os.environ.items() if elsewhere else ()
    words += [value for name, value in here if len(value) >= SHORTEST and SECRET.match(name)]
    return tuple(word for word in words if word)


def shown(place: str) -> str:
    """A path or URL that is safe to print."""
    if "://" not in place:
        return place
    return re.sub(r"\?.*", "?***", LOGIN.sub("//***@", place))
