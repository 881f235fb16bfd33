"""Kernel settings of the current network namespace.

Keys are paths below ``/proc/sys/net`` (``ipv4/conf/eth0.7/rp_filter``): device names may hold
dots but never slashes. The kernel resolves these files in the namespace of the thread that opens
them, so any mounted ``/proc`` serves. Container runtimes mount a container's own read-only: there
the environment variable CUBELET_SYSCTLS names the folder where the host's ``/proc/sys/net`` is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cubelet.net import NetError

_ROOT = Path(os.environ.get("CUBELET_SYSCTLS") or "/proc/sys/net")
RESERVED = "ipv4/ip_local_reserved_ports"


def exists(key: str) -> bool:
    """Whether this kernel has the setting (it may lack IPv6, or the device may be gone)."""
    return (_ROOT / key).exists()


def read(key: str) -> str:
    """The value without its newline. Raises NetError."""
    try:
        return (_ROOT / key).read_text().strip()
    except OSError as error:
        raise NetError(f"cannot read {_ROOT / key}: {error.strerror}") from error


def write(key: str, value: str) -> None:
    """Write a value that differs (a read-only /proc may suffice). Raises NetError."""
    if read(key) == value:
        return
    try:
        (_ROOT / key).write_text(value + "\n")
    except OSError as error:
        raise NetError(
            f"cannot write {value!r} to {_ROOT / key}: {error.strerror}; "
            "the agent needs root and a writable /proc/sys, or CUBELET_SYSCTLS"
        ) from error


def values(keys: Iterable[str]) -> dict[str, str]:
    """The values of those settings that can be read."""
    found = {}
    for key in keys:
        with suppress(NetError):
            found[key] = read(key)
    return found


def parse_ports(text: str) -> frozenset[int]:
    """Ports from the kernel's list form, ``8080,20000-20999``."""
    ports: set[int] = set()
    for item in filter(None, text.strip().split(",")):
        first, _, last = item.partition("-")
        ports.update(range(int(first), int(last or first) + 1))
    return frozenset(ports)


def format_ports(ports: Iterable[int]) -> str:
    """The shortest list form of the ports, ascending."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and port == ranges[-1][1] + 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in ranges)


def reserved_ports() -> frozenset[int]:
    """Ports the kernel never picks by itself for a local socket. Raises NetError."""
    return parse_ports(read(RESERVED))


def reserve_ports(ports: Iterable[int]) -> None:
    """Make exactly these ports the reserved ones. Raises NetError."""
    write(RESERVED, format_ports(ports))
