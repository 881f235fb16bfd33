"""The base of maps, programs and links: a descriptor, a name for errors, and pins."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from cubelet.bpf.attrs import GetInfo, ObjectPath
from cubelet.bpf.constants import Cmd
from cubelet.bpf.syscalls import BpfError, address_of, bpf

Info = TypeVar("Info", bound=ctypes.Structure)

_KINDS = {"bpf-map": "map", "bpf-prog": "program", "bpf_link": "link", "bpf-link": "link"}
"""The names that /proc has for a descriptor's inode (two for links), each with our own."""


class BpfObject:
    """An open descriptor of a map, program or link; closes it at the end of a `with` block.

    The kernel's object lives on for as long as a pin, an attachment or another object holds it.
    """

    def __init__(self, fd: int, label: str) -> None:
        self._fd = fd
        self.label = label

    @property
    def fd(self) -> int:
        """The open descriptor; `ValueError` once closed."""
        if self._fd < 0:
            raise ValueError(f"{self.label} is closed")
        return self._fd

    def pin(self, path: Path | str, *, replace: bool = False) -> None:
        """Pin on a bpffs at `path`; with `replace`, atomically instead of what is pinned there."""
        if not replace:
            _pin(self.fd, Path(path), self.label)
            return
        beside = Path(f"{path}-new")
        beside.unlink(missing_ok=True)
        _pin(self.fd, beside, self.label)
        beside.rename(path)

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_pin(path: Path | str, kind: str) -> int:
    """A descriptor of the object pinned at `path`, whose `kind` is "map", "program" or "link"."""
    name = os.fsencode(path)
    attr = ObjectPath(pathname=address_of(name))
    fd = bpf(Cmd.OBJ_GET, attr, f"open the {kind} pinned at", str(path))
    found = _kind_of(fd)
    if found != kind:
        os.close(fd)
        raise BpfError(
            errno.EINVAL, f"open the {kind} pinned at", str(path), f"a {found} is pinned there"
        )
    return fd


def get_info(fd: int, info: Info, label: str) -> Info:
    """`info` filled by the kernel; fields that an older kernel does not know stay as given."""
    attr = GetInfo(bpf_fd=fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info))
    bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, "inspect", label)
    return info


def _pin(fd: int, path: Path, label: str) -> None:
    name = os.fsencode(path)
    attr = ObjectPath(pathname=address_of(name), bpf_fd=fd)
    bpf(Cmd.OBJ_PIN, attr, f"pin {label} at", str(path))


def _kind_of(fd: int) -> str:
    # OBJ_GET opens an object of any kind and the info call fills a structure of that kind, so a
    # program pinned in place of a map would be read as a map with nonsense sizes.
    with suppress(OSError):
        inode = str(Path(f"/proc/self/fd/{fd}").readlink()).removeprefix("anon_inode:")
        return _KINDS.get(inode, inode)
    return "object of unknown kind"
