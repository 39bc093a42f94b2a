"""Where a dataset stands: a local folder, or a URL of any store that fsspec reaches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synthgen.errors import SynthgenError

if TYPE_CHECKING:
    from upath import UPath

    Place = Path | UPath

# Protocol -> the extra of this package that installs its client; hf:// comes with huggingface_hub.
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def is_url(text: str | Place) -> bool:
    """Whether a place is a URL such as s3://BUCKET/PREFIX rather than a local path."""
    return "://" in str(text)


def place(text: str | Path) -> Place:
    """The path object of a local path or an fsspec URL.

    Raises SynthgenError where nothing is installed that speaks the URL's protocol.
    """
    if not is_url(text):
        return Path(text)
    from upath import UPath

    protocol = str(text).partition("://")[0]
    try:
        found = UPath(str(text))
        found.fs  # noqa: B018 - makes the client
    except (ImportError, ValueError, OSError) as error:
        extra = f"; pip install 'synthgen[{EXTRAS[protocol]}]'" if protocol in EXTRAS else ""
        raise SynthgenError(f"{text}: cannot be reached ({' '.join(str(error).split())}){extra}") from None
    return found
