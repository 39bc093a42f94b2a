"""Errors and addresses as they may be printed: in one line, without keys, passwords and tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote

LOGIN = re.compile(r"//([^/]*:.*|[^/@]*)@")  # of a URL; a password may hold slashes
ELSEWHERE = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # of the environment


def one_line(error: BaseException, secrets: Iterable[str]) -> str:
    """What an error says, in one line of bounded length without ``secrets``."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and not error.filename:
        text = error.strerror
    return without(" ".join(text.split()) or type(error).__name__, secrets)[:300]


def without(text: str, secrets: Iterable[str]) -> str:
    """``text`` with each of ``secrets``, plain or as URLs write it, masked."""
    forms = {form for word in secrets for form in (word, quote(word), quote(word, safe=""))}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def secrets_in(url: str, *, elsewhere: bool = True) -> tuple[str, ...]:
    """The secrets of a URL, in USER:PASSWORD@ and ?NAME=VALUE; with ``elsewhere`` those of the environment too."""
    login = LOGIN.search(url)
    words = [login[1], *login[1].split(":")[1:]] if login else []
    words += [value for _, value in parse_qsl(url.partition("?")[2])]
    words += [os.environ.get(name, "") for name in ELSEWHERE] if elsewhere else []
    return tuple(word for word in words if word)


def shown(place: str) -> str:
    """A path or URL as it may be printed."""
    if "://" not in place:
        return place
    return re.sub(r"\?.*", "?***", LOGIN.sub("//***@", place))
