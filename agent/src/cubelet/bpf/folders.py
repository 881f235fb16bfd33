"""Folders that root reads programs, pins and code from: nobody else may put any there."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

_GROUP, _OTHERS = stat.S_IWGRP, stat.S_IWOTH


class UnsafeFolderError(OSError):
    """Somebody else could change what is in a folder; the text says who, and names the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason, self.remedy = reason, remedy

    def __str__(self) -> str:
        return f"{self.path} {self.reason}; remedy: {self.remedy}"


def trusted_folder(path: Path, mode: int = 0o755) -> Path:
    """Make the folder unless it is there, and return it if it is ours alone to change.

    That is: it and what it lies in belong to root or to this process's user, and nobody else may
    write there. Links are followed, since they lie in such folders too. Raises UnsafeFolderError,
    and OSError where it cannot be made.
    """
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    place = path.resolve()
    _check(place, sticky=False)
    for parent in place.parents:
        _check(parent, sticky=True)
    return path


def private_folder(path: Path) -> Path:
    """The same, where others may not even look, and which is no link: it must be 0700."""
    _refuse_link(path)
    trusted_folder(path, 0o700)
    _refuse_link(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UnsafeFolderError(path, "is open to others", f"chmod 0700 {path}, or remove it")
    return path


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        reason = f"is a symbolic link of {_name(path.lstat().st_uid)}, not a folder"
        raise UnsafeFolderError(path, reason, f"remove it: rm {path}")


def _check(path: Path, sticky: bool) -> None:
    """``sticky`` allows what everybody may write to, but remove only their own, such as /tmp."""
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise UnsafeFolderError(
            path,
            f"belongs to {_name(found.st_uid)}, who could change what is read from there",
            f"remove it if it is not yours (rm -r {path}), or else: chown root {path}",
        )
    open_to = found.st_mode & (_OTHERS | (_GROUP if found.st_gid else 0))
    if open_to and not (sticky and found.st_mode & stat.S_ISVTX):
        who = "everybody" if open_to & _OTHERS else f"the group {found.st_gid}"
        raise UnsafeFolderError(path, f"may be written by {who}", f"chmod go-w {path}")


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
