"""`BPF_PROG_TEST_RUN`: a program run on a packet, without any device, timed by the kernel."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_uint8, c_uint32, c_uint64
from dataclasses import dataclass

from cubelet.bpf.attrs import ProgTestRun
from cubelet.bpf.constants import Cmd
from cubelet.bpf.syscalls import address_of, bpf

_ROOM_TO_GROW = 4096
"""Bytes by which a program may lengthen the packet (encapsulation, ICMP errors)."""


@dataclass(frozen=True, slots=True)
class TestRun:
    """A trial's outcome: unsigned 32-bit verdict, packet left, mean ns per run, context left.

    With `repeat`, each run gets the packet that the run before it left; packet and verdict are the
    last run's.
    """

    __test__ = False  # not a test case, whatever its name makes pytest think

    retval: int
    packet: bytes
    duration_ns: int
    ctx: bytes


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keep the thread on one CPU, so that all runs use the same per-CPU state and caches."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class SkBuff(ctypes.Structure):
    """`struct __sk_buff`, the context of tc programs (Linux 5.16: up to `hwtstamp`).

    `SkBuff.from_buffer_copy(run.ctx)` reads the context which a trial run left.
    """

    _fields_ = (
        ("len", c_uint32),
        ("pkt_type", c_uint32),
        ("mark", c_uint32),
        ("queue_mapping", c_uint32),
        ("protocol", c_uint32),
        ("vlan_present", c_uint32),
        ("vlan_tci", c_uint32),
        ("vlan_proto", c_uint32),
        ("priority", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("ifindex", c_uint32),
        ("tc_index", c_uint32),
        ("cb", c_uint32 * 5),
        ("hash", c_uint32),
        ("tc_classid", c_uint32),
        ("data", c_uint32),
        ("data_end", c_uint32),
        ("napi_id", c_uint32),
        ("family", c_uint32),
        ("remote_ip4", c_uint32),
        ("local_ip4", c_uint32),
        ("remote_ip6", c_uint32 * 4),
        ("local_ip6", c_uint32 * 4),
        ("remote_port", c_uint32),
        ("local_port", c_uint32),
        ("data_meta", c_uint32),
        ("flow_keys", c_uint64),
        ("tstamp", c_uint64),
        ("wire_len", c_uint32),
        ("gso_segs", c_uint32),
        ("sk", c_uint64),
        ("gso_size", c_uint32),
        ("tstamp_type", c_uint8),
        ("_unused", c_uint8 * 3),
        ("hwtstamp", c_uint64),
    )


def skb_context(
    *,
    mark: int = 0,
    priority: int = 0,
    ingress_ifindex: int = 0,
    ifindex: int = 0,
    cb: tuple[int, ...] = (),
    tstamp: int = 0,
    wire_len: int = 0,
    gso_segs: int = 0,
    gso_size: int = 0,
    hwtstamp: int = 0,
) -> bytes:
    """A context for a trial run of a tc program: the fields that the kernel lets a trial set.

    `ifindex` must exist in the current network namespace (0: its loopback); `cb` has at most five
    words.
    """
    return bytes(
        SkBuff(
            mark=mark,
            priority=priority,
            ingress_ifindex=ingress_ifindex,
            ifindex=ifindex,
            cb=(c_uint32 * 5)(*cb),
            tstamp=tstamp,
            wire_len=wire_len,
            gso_segs=gso_segs,
            gso_size=gso_size,
            hwtstamp=hwtstamp,
        )
    )


def run(
    fd: int, label: str, packet: bytes, repeat: int = 1, ctx_in: bytes | None = None
) -> TestRun:
    """Run program `fd` on `packet` (from the Ethernet header on, at least 14 bytes).

    Helpers have real effects: `bpf_clone_redirect` sends frames, map writes stay. `TestRun.ctx` is
    empty unless `ctx_in` is given.
    """
    left = ctypes.create_string_buffer(len(packet) + _ROOM_TO_GROW)
    context = ctx_in or b""
    context_left = ctypes.create_string_buffer(max(len(context), 1))
    attr = ProgTestRun(
        prog_fd=fd,
        data_size_in=len(packet),
        data_size_out=len(left),
        data_in=address_of(packet),
        data_out=ctypes.addressof(left),
        repeat=repeat,
        ctx_size_in=len(context),
        ctx_size_out=len(context),
        ctx_in=address_of(context) if context else 0,
        ctx_out=ctypes.addressof(context_left) if context else 0,
    )
    bpf(Cmd.PROG_TEST_RUN, attr, f"run on {len(packet)} bytes", label)
    return TestRun(
        retval=attr.retval,
        packet=left.raw[: attr.data_size_out],
        duration_ns=attr.duration,
        ctx=context_left.raw[: attr.ctx_size_out],
    )
