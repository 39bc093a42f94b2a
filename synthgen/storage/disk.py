"""The disks of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_space(directory: Path) -> int:
    """Bytes free on the disk that a directory is on, or would be on."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
