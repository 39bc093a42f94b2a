"""What a file is replaced with: nothing, a folder, a pipe, a device, or a link."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def _gone(path: Path) -> Path:
    path.unlink()
    return path


def missing(path: Path, sandbox: Path) -> None:
    """Nothing is there."""
    _gone(path)


def empty(path: Path, sandbox: Path) -> None:
    """A file of no bytes."""
    path.write_bytes(b"")


def folder(path: Path, sandbox: Path) -> None:
    """A folder."""
    _gone(path).mkdir()


def full_folder(path: Path, sandbox: Path) -> None:
    """A folder with a file in it."""
    _gone(path).mkdir()
    (path / "x").write_bytes(b"x")


def pipe(path: Path, sandbox: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(_gone(path))


def dangling(path: Path, sandbox: Path) -> None:
    """A link to nothing."""
    _gone(path).symlink_to("nowhere")


def loop(path: Path, sandbox: Path) -> None:
    """A link to itself."""
    _gone(path).symlink_to(path.name)


def link_to_victim(path: Path, sandbox: Path) -> None:
    """A link to a file that is somebody else's."""
    _gone(path).symlink_to(sandbox / "victim/important")


def link_to_same(path: Path, sandbox: Path) -> None:
    """A link to the very content, elsewhere."""
    kept = sandbox / "victim/kept"
    shutil.copyfile(path, kept)
    _gone(path).symlink_to(kept)


def device(path: Path, sandbox: Path) -> None:
    """A link to a device that never ends."""
    _gone(path).symlink_to("/dev/zero")


def linked_folder(path: Path, sandbox: Path) -> None:
    """The folder of the file is a link to a folder elsewhere that holds the same.

    Not that which commands are asked to write to by name: through a link there, they do.
    """
    if sandbox / "inside" in (path.parent, path.parent.parent):
        link_to_same(path, sandbox)
        return
    kept = sandbox / "victim/folder"
    shutil.copytree(path.parent, kept)
    shutil.rmtree(path.parent)
    path.parent.symlink_to(kept)


KINDS: tuple[Callable[[Path, Path], None], ...] = (
    missing, empty, folder, full_folder, pipe, dangling, loop, link_to_victim, link_to_same, device, linked_folder,
)  # fmt: skip
