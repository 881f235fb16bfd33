"""Route netlink by hand: what the kernel says yes to, and how it says no."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from cubelet.net.netlink import CREATE, EXCL, Connection, Refused, attribute, number, text
from cubelet.testkit.network import private_network

NEWLINK, DELLINK, NEWROUTE = 16, 17, 24
IFNAME, LINKINFO, INFO_KIND, GATEWAY = 3, 18, 1, 5
DEVICE = bytes(16)  # struct ifinfomsg
PAIR = DEVICE + text(IFNAME, "d0") + attribute(LINKINFO, text(INFO_KIND, "veth"))


@pytest.fixture
def kernel() -> Iterator[Connection]:
    """A connection to an empty network namespace."""
    with private_network(), Connection() as connection:
        yield connection


def test_attributes_are_padded_and_nested() -> None:
    assert text(IFNAME, "abc") == b"\x08\0\x03\0abc\0"
    assert text(IFNAME, "abcd") == b"\x09\0\x03\0abcd\0\0\0\0"
    assert attribute(LINKINFO, text(INFO_KIND, "abc"), number(2, 1)) == (
        b"\x14\0\x12\0" + b"\x08\0\x01\0abc\0" + b"\x08\0\x02\0\x01\0\0\0"
    )


def test_requests_follow_each_other(kernel: Connection) -> None:
    kernel.request(NEWLINK, PAIR, CREATE | EXCL)
    assert socket.if_nametoindex("d0")
    kernel.request(DELLINK, DEVICE + text(IFNAME, "d0"))
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


def test_a_refusal_says_which_errno_and_the_next_request_is_answered(kernel: Connection) -> None:
    kernel.request(NEWLINK, PAIR, CREATE | EXCL)
    with pytest.raises(Refused) as refused:
        kernel.request(NEWLINK, PAIR, CREATE | EXCL)
    assert refused.value.code == errno.EEXIST
    assert refused.value.args[-1].startswith("File exists")
    kernel.request(DELLINK, DEVICE + text(IFNAME, "d0"))


def test_a_refusal_gives_the_kernels_reason(kernel: Connection) -> None:
    gateway = attribute(GATEWAY, socket.inet_aton("192.0.2.1"))
    message = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0) + gateway
    with pytest.raises(Refused, match=r"Network is unreachable \(Nexthop has invalid gateway\)"):
        kernel.request(NEWROUTE, message, CREATE)
