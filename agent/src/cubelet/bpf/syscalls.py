"""The raw bpf(2) and membarrier(2) calls, and the error that all of this layer raises."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
from functools import cache
from typing import NamedTuple

from cubelet.bpf.constants import Cmd

ENOTSUPP = 524
"""Kernel-internal errno that bpf(2) leaks for operations which a map type lacks."""


class _Numbers(NamedTuple):
    bpf: int
    membarrier: int


_NUMBERS = {
    "x86_64": _Numbers(bpf=321, membarrier=324),
    "aarch64": _Numbers(bpf=280, membarrier=283),
}

_ATTEMPTS = 8
"""Tries of a call that a signal interrupted; the verifier and test runs give way to signals."""

_LOCKING = frozenset((Cmd.MAP_CREATE, Cmd.PROG_LOAD))

_PRIVILEGES = "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
_REMEDIES: dict[tuple[Cmd | None, int], str] = {
    (None, errno.EPERM): _PRIVILEGES,
    (None, errno.ENOSYS): "the kernel needs CONFIG_BPF_SYSCALL",
    (Cmd.MAP_CREATE, errno.EPERM): f"{_PRIVILEGES}; before Linux 5.11 CAP_SYS_RESOURCE too",
    (Cmd.PROG_LOAD, errno.EPERM): f"{_PRIVILEGES}; before Linux 5.11 CAP_SYS_RESOURCE too",
    (Cmd.MAP_UPDATE_ELEM, errno.E2BIG): "the map is full: raise its size",
    (Cmd.MAP_UPDATE_BATCH, errno.E2BIG): "the map is full: raise its size",
    (Cmd.OBJ_PIN, errno.EPERM): f"{_PRIVILEGES}; a pin's name may not contain a '.', and its "
    "folder must be on a bpffs",
    (Cmd.OBJ_PIN, errno.EINVAL): "the folder is not on a bpffs: mount -t bpf bpf /sys/fs/bpf",
    (Cmd.OBJ_PIN, errno.ENOENT): "create the folder first, on a mounted bpffs",
    (Cmd.OBJ_GET, errno.ENOENT): "nothing is pinned there: check that bpffs is mounted "
    "(mount -t bpf bpf /sys/fs/bpf) and that the agent has run",
    (Cmd.LINK_CREATE, errno.ENODEV): "no such device in this network namespace",
}


class BpfError(OSError):
    """A failed attempt on a map, program, link or pin.

    `action` is the attempt ("create"), `subject` its object ("map lbrp_services"), `remedy` a hint
    that helps, or empty. `errno` is the kernel's.
    """

    def __init__(self, code: int, action: str, subject: str, remedy: str = "") -> None:
        super().__init__(code, _strerror(code))
        self.action = action
        self.subject = subject
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"cannot {self.action} {self.subject}: {self.strerror}"
        return f"{text} ({self.remedy})" if self.remedy else text

    def __reduce__(self) -> tuple[type[BpfError], tuple[object, ...]]:
        # OSError would rebuild itself from (errno, strerror), which fails where an error crosses
        # from the compiling process to the agent.
        return type(self), (self.errno, self.action, self.subject, self.remedy)


def bpf(cmd: Cmd, attr: ctypes.Structure, action: str, subject: str) -> int:
    """Call bpf(2) and return its result; `action` and `subject` word the `BpfError`."""
    for _ in range(_ATTEMPTS):
        result = _call(_numbers().bpf, int(cmd), ctypes.byref(attr), ctypes.sizeof(attr))
        if result >= 0:
            return result
        code = ctypes.get_errno()
        interrupted = code == errno.EINTR or (code == errno.EAGAIN and cmd is Cmd.PROG_LOAD)
        unlocked = code == errno.EPERM and cmd in _LOCKING and unlock_memory()
        if not (interrupted or unlocked):
            break
    remedy = _REMEDIES.get((cmd, code)) or _REMEDIES.get((None, code), "")
    raise BpfError(code, action, subject, remedy)


def unlock_memory() -> bool:
    """Let this process lock any amount of memory; False if it could already, or may not.

    Before Linux 5.11 maps and programs count against that limit, of 64 kB as a rule, and a call
    beyond it fails with EPERM.
    """
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    if resource.getrlimit(resource.RLIMIT_MEMLOCK) == unlimited:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    except (OSError, ValueError):
        return False
    return True


def membarrier(command: int) -> None:
    """Call membarrier(2); raises `OSError`."""
    if _call(_numbers().membarrier, command, 0, 0) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def address_of(data: bytes) -> int:
    """Address of the first byte; the caller keeps `data` alive during the call."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def kernel_name(name: str) -> bytes:
    """`name` as the kernel takes it: [A-Za-z0-9_.], at most 15 bytes, the rest cut off."""
    allowed = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)
    return allowed[:15].encode()


def _strerror(code: int) -> str:
    # ENOTSUPP is the kernel's own and unknown to libc, yet bpf(2) returns it.
    return "Operation not supported by the kernel" if code == ENOTSUPP else os.strerror(code)


@cache
def libc() -> ctypes.CDLL:
    """The C library, for the calls that Python does not offer; errors by `ctypes.get_errno`."""
    return ctypes.CDLL(None, use_errno=True)


@cache
def _numbers() -> _Numbers:
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise BpfError(errno.ENOSYS, "use", f"bpf(2) on {machine}", "x86_64 and aarch64 are known")
    return _NUMBERS[machine]


def _call(number: int, *arguments: object) -> int:
    result: int = libc().syscall(ctypes.c_long(number), *arguments)
    return result
