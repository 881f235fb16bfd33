"""The clsact fallback for kernels without tcx: one bpf filter at a fixed place of a device."""

from __future__ import annotations

import errno
import socket
import struct

from cubelet.bpf.programs import BpfProgram
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import Direction
from cubelet.net.netlink import CREATE, EXCL, Connection, Refused, attribute, number, text

PRIORITY = 0xC0BE
"""Priority among a device's filters: a high number, so that most filters of others run first."""

HANDLE = 1
"""Handle of the filter at its priority: with both given, the kernel replaces it in one step."""

# linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
_NEWQDISC, _NEWTFILTER, _DELTFILTER = 36, 44, 45
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_PARENTS = {Direction.INGRESS: 0xFFFFFFF2, Direction.EGRESS: 0xFFFFFFF3}
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _DIRECT_ACTION = 6, 7, 8, 1
_PLACE = PRIORITY << 16 | socket.htons(0x0003)  # for ETH_P_ALL

_ABSENT = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV})
"""Errors of deleting a filter when the filter, the qdisc or the device does not exist."""

_REMEDIES = {
    errno.ENODEV: "no such device in this network namespace",
    errno.EPERM: "run as root or with CAP_NET_ADMIN",
}
_KERNEL = "the kernel needs CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"


def replace(ifindex: int, program: BpfProgram, direction: Direction) -> None:
    """Run `program` (direct action) on the device; atomically replaces our earlier filter."""
    options = (
        number(_BPF_FD, program.fd),
        text(_BPF_NAME, program.name),
        number(_BPF_FLAGS, _DIRECT_ACTION),
    )
    try:
        with Connection() as kernel:
            _add_qdisc(kernel, ifindex)
            body = _filter(ifindex, direction) + attribute(_OPTIONS, *options)
            kernel.request(_NEWTFILTER, body, CREATE)
    except Refused as error:
        raise _failure(error, ifindex, f"put {program.label} on", direction) from error


def remove(ifindex: int, direction: Direction) -> None:
    """Take our filter off the device, if it is there; the qdisc stays, others may use it."""
    try:
        with Connection() as kernel:
            kernel.request(_DELTFILTER, _filter(ifindex, direction))
    except Refused as error:
        if error.code not in _ABSENT:
            raise _failure(error, ifindex, "remove the filter from", direction) from error


def _add_qdisc(kernel: Connection, ifindex: int) -> None:
    body = _tcmsg(ifindex, _CLSACT_HANDLE, _CLSACT, 0) + text(_KIND, "clsact")
    try:
        kernel.request(_NEWQDISC, body, CREATE | EXCL)
    except Refused as error:
        if error.code != errno.EEXIST:
            raise


def _filter(ifindex: int, direction: Direction) -> bytes:
    return _tcmsg(ifindex, HANDLE, _PARENTS[direction], _PLACE) + text(_KIND, "bpf")


def _tcmsg(ifindex: int, handle: int, parent: int, info: int) -> bytes:
    return struct.pack("=B3xiIII", socket.AF_UNSPEC, ifindex, handle, parent, info)


def _failure(error: Refused, ifindex: int, action: str, direction: Direction) -> BpfError:
    subject = f"clsact {direction.name.lower()} of device {ifindex}"
    return BpfError(error.code, action, subject, _REMEDIES.get(error.code, _KERNEL))
