"""The bpf filesystem: mounting it, listing its pins and removing them."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from cubelet.bpf.folders import trusted_folder
from cubelet.bpf.syscalls import BpfError, libc

BPFFS = Path("/sys/fs/bpf")
"""Where the kernel provides an empty folder to mount it on."""

_BPF_FS_MAGIC = 0xCAFE4A11
_STATFS_BYTES = 256
"""More than `struct statfs` has; its first long is the filesystem's type."""


def is_bpffs(path: Path | str) -> bool:
    """Whether `path` exists and lies on a bpf filesystem."""
    room = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc().statfs(os.fsencode(path), room) != 0:
        return False
    return ctypes.c_long.from_buffer(room).value & 0xFFFFFFFF == _BPF_FS_MAGIC


def ensure_bpffs(path: Path | str = BPFFS) -> Path:
    """Make the folder `path` on a bpffs and return it, mounting one at /sys/fs/bpf if need be.

    Raises `BpfError`: EPERM without the right to mount, EINVAL where `path` is neither on a bpffs
    nor below /sys/fs/bpf; `UnsafeFolderError` if others could put pins there.
    """
    folder = Path(path)
    if not is_bpffs(_nearest(folder)):
        if not folder.is_relative_to(BPFFS):
            remedy = f"mount one: mount -t bpf bpf {folder}"
            raise BpfError(errno.EINVAL, "find a bpf filesystem at", str(folder), remedy)
        _mount()
    return trusted_folder(folder, 0o700)


def pins(folder: Path | str) -> tuple[Path, ...]:
    """Everything pinned in `folder` and below, sorted; nothing if the folder is missing."""
    return tuple(sorted(path for path in Path(folder).rglob("*") if not path.is_dir()))


def unlink(path: Path | str) -> bool:
    """Remove a pin; False if there was none. The kernel frees the object with its last holder."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True


def unlink_tree(folder: Path | str) -> None:
    """Remove a folder with all pins below it; a missing one is no error.

    `ValueError` if it is not on a bpffs, lest a wrong path remove a user's files.
    """
    if not Path(folder).exists():
        return
    if not is_bpffs(folder):
        raise ValueError(f"{folder} is not on a bpf filesystem")
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _nearest(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _mount() -> None:
    if libc().mount(b"bpf", os.fsencode(BPFFS), b"bpf", ctypes.c_ulong(0), b"mode=0700") == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EBUSY and is_bpffs(BPFFS):  # another process was faster
        return
    remedy = f"as root: mount -t bpf bpf {BPFFS}"
    raise BpfError(code, "mount a bpf filesystem at", str(BPFFS), remedy)
