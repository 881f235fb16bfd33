"""The clsact fallback for kernels without tcx: one bpf filter at a fixed place of a device."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cubelet.bpf.programs import BpfProgram
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import Direction

PRIORITY = 0xC0BE
"""Place among a device's filters, late, so that filters of others with small numbers go first."""

HANDLE = 1
"""Number of the filter at its priority; with both given, a replacement is one step."""

_PARENTS = {Direction.INGRESS: 0xFFFFFFF2, Direction.EGRESS: 0xFFFFFFF3}
_ETH_P_ALL = 0x0003
_RTM_DELTFILTER, _TCA_KIND = 45, 1
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_ABSENT = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV})
"""What deleting a filter answers without the filter, the qdisc or the device."""

_REMEDIES = {
    errno.ENODEV: "no such device in this network namespace",
    errno.EPERM: "run as root or with CAP_NET_ADMIN",
}
_KERNEL = "the kernel needs CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"


@dataclass(frozen=True, slots=True)
class _Request:
    command: str
    kind: str
    options: Mapping[str, object] = field(default_factory=dict)
    tolerated: frozenset[int] = frozenset()


def replace(ifindex: int, program: BpfProgram, direction: Direction) -> None:
    """Run `program` (direct action) on the device, atomically instead of an earlier one of ours."""
    body = {"fd": program.fd, "name": program.name, "direct_action": True}
    requests = (
        _Request("add", "clsact", tolerated=frozenset({errno.EEXIST})),
        _Request("replace-filter", "bpf", _place(direction) | body),
    )
    _send(requests, ifindex, f"put {program.label} on", direction)


def remove(ifindex: int, direction: Direction) -> None:
    """Take our filter off the device, if it is there; the qdisc stays, others may use it."""
    code = _delete(ifindex, direction)
    if code not in _ABSENT | {0}:
        raise _failure(code, ifindex, "remove the filter from", direction)


def _delete(ifindex: int, direction: Direction) -> int:
    """Errno of RTM_DELTFILTER, or 0; by hand, as every pod that is attached pays for it."""
    protocol = socket.htons(_ETH_P_ALL)
    # struct tcmsg, then the attribute TCA_KIND (rtnetlink(7)).
    body = struct.pack(
        "=B3xiIII", 0, ifindex, HANDLE, _PARENTS[direction], PRIORITY << 16 | protocol
    )
    body += struct.pack("=HH4s", 8, _TCA_KIND, b"bpf")
    header = struct.pack(
        "=IHHII", 16 + len(body), _RTM_DELTFILTER, _NLM_F_REQUEST | _NLM_F_ACK, 0, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(header + body)
        # struct nlmsghdr, then struct nlmsgerr, which begins with the errno, negative.
        return -int(struct.unpack_from("=16xi", kernel.recv(4096))[0])


def _place(direction: Direction) -> dict[str, object]:
    return {
        "parent": _PARENTS[direction],
        "prio": PRIORITY,
        "protocol": _ETH_P_ALL,
        "handle": HANDLE,
    }


def _send(requests: Sequence[_Request], ifindex: int, action: str, direction: Direction) -> None:
    """Send to the current network namespace; failures that are not tolerated are `BpfError`."""
    # In a thread, which inherits the namespace: pyroute2 starts an event loop of its own and
    # refuses to where one runs already.
    with ThreadPoolExecutor(max_workers=1) as thread:
        code = thread.submit(_first_failure, requests, ifindex).result()
    if code:
        raise _failure(code, ifindex, action, direction)


def _failure(code: int, ifindex: int, action: str, direction: Direction) -> BpfError:
    subject = f"clsact {direction.name.lower()} of device {ifindex}"
    return BpfError(code, action, subject, _REMEDIES.get(code, _KERNEL))


def _first_failure(requests: Sequence[_Request], ifindex: int) -> int:
    """Errno of the first request that failed and may not, or 0; none is sent after it."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        for request in requests:
            try:
                route.tc(request.command, request.kind, ifindex, **request.options)
            except NetlinkError as error:
                code: int = error.code
                if code not in request.tolerated:
                    return code
    return 0
