"""Writes a new package into its folder: all of it, or nothing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cubelet.console.output import CommandError


def write_package(folder: Path, files: Mapping[str, str], force: bool = False) -> None:
    """Write ``files``, by their paths in ``folder``.

    Without ``force`` the folder may not exist; with it, files that are there are replaced and
    others left. After an error the folder is as it was. Raises CommandError, OSError.
    """
    there = folder.exists()
    if there and not force:
        raise CommandError(
            f"{folder} exists", "nothing was written: --force replaces the files of the template"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as scratch:
        fresh, old = scratch / "fresh", scratch / "old"
        for name, text in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_text(text)
        if not there:
            fresh.rename(folder)
            return
        _replace(folder, fresh, old, list(files))


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the package's, on the same file system, so that renaming suffices."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(folder: Path, fresh: Path, old: Path, names: list[str]) -> None:
    """Move the new files in, one by one; on an error move them out and the old ones back."""
    done: list[str] = []
    try:
        for name in names:
            target, kept = folder / name, old / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(kept)
            done.append(name)
            (fresh / name).rename(target)
    except BaseException:
        for name in done:
            (folder / name).unlink(missing_ok=True)
            if (old / name).exists():
                (old / name).rename(folder / name)
        raise
