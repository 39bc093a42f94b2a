"""What lies in folders and stores, and changes to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a folder, by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(url: str) -> dict[str, bytes]:
    """The same of a store, past all caches."""
    import fsspec

    store, root = fsspec.core.url_to_fs(url)
    store.invalidate_cache()
    return {path.removeprefix(f"{root}/"): store.cat_file(path) for path in store.find(root)}


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a record."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=1) + "\n")
