"""Where a dataset stands: a local folder, or a URL of any store that fsspec reaches."""

from __future__ import annotations

import logging
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING

from synthgen.common.errors import SynthgenError
from synthgen.common.masking import one_line, secrets_in, shown

if TYPE_CHECKING:
    from upath import UPath

    Place = Path | UPath

# Protocol -> the extra of this package that installs its client; hf:// comes with huggingface_hub.
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def check_outside(directory: Place, out: Path) -> None:
    """Raise SynthgenError where a path to write at lies in the dataset that is read."""
    if not isinstance(directory, Path):
        if directory.protocol not in ("file", "local"):
            return
        directory = Path(directory.path)
    if Path(realpath(out)).is_relative_to(realpath(directory)):
        raise SynthgenError(f"{out}: lies in the dataset {directory} itself; name another place")


def is_url(text: str | Place) -> bool:
    """Whether a place is a URL such as s3://BUCKET/PREFIX rather than a local path."""
    return "://" in str(text)


def place(text: str | Path, *, with_secrets: bool = False) -> Place:
    """The path object of a local path or an fsspec URL.

    Raises SynthgenError where nothing is installed that speaks the URL's protocol, and, unless
    ``with_secrets``, where the URL holds some: it will be printed.
    """
    if not is_url(text):
        return Path(text)
    if secrets_in(str(text), elsewhere=False) and not with_secrets:
        raise SynthgenError(f"{shown(str(text))}: keys in a URL would be printed; give them as the store's client says")
    from upath import UPath

    for name in ("gcsfs", "asyncio"):  # which would print tracebacks of what is told in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    protocol = str(text).partition("://")[0]
    try:
        found = UPath(str(text))
        found.fs  # noqa: B018 - makes the client
    except (ImportError, ValueError, OSError) as error:
        extra = f"; pip install 'synthgen[{EXTRAS[protocol]}]'" if protocol in EXTRAS else ""
        why = one_line(error, secrets_in(str(text)))
        raise SynthgenError(f"{shown(str(text))}: cannot be reached ({why}){extra}") from None
    return found
