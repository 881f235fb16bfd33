"""Small state files: written so that a crash at any step leaves the old content or the new.

A file that cannot be read is put aside, so that it stops nobody and somebody can look at it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

TEMPORARY_SUFFIX = ".tmp"
ASIDE_SUFFIX = ".unreadable"


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path`, durably: the content is on disk before the name points at it.

    One writer at a time: the temporary file has a fixed name, so that one left by a crash is
    overwritten by the next write. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        _write(temporary, content, mode)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # on a full disk it would take what room is left
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_aside(path: Path, why: object) -> None:
    """Rename `path`, of any type, to `NAME.unreadable`, in place of an earlier one, and say so.

    If even that fails, it stays where it is.
    """
    aside = path.with_name(path.name + ASIDE_SUFFIX)
    try:
        os.replace(path, aside)
    except OSError as error:
        log.error("a file of the agent's state is broken", path=str(path), why=str(why))
        log.error("cannot put it aside", path=str(path), error=str(error))
    else:
        log.error("a broken file is put aside", path=str(aside), why=str(why))


def broken(state_dir: Path) -> Iterator[str]:
    """What is to be told of files that were put aside, as long as they are there."""
    for folder in (state_dir, state_dir / "attachments"):
        for path in sorted(folder.glob(f"*{ASIDE_SUFFIX}")):
            yield (
                f"{path.name.removesuffix(ASIDE_SUFFIX)} in {folder} was broken, and what it held "
                f"was put together from the rest: look at {path}, then remove it"
            )


def remove(path: Path) -> bool:
    """Remove `path`, durably; False if it was gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
