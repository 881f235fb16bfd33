"""Programs on real devices: real frames through a veth pair in a network namespace of its own."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from cubelet.bpf import fs
from cubelet.bpf.constants import MapType
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.links import Attachment, Mode
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram, load
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import Direction, TcxLink, tcx_supported
from cubelet.testkit.network import private_network

TC_ACT_UNSPEC, TC_ACT_OK = -1, 0
FRAME = bytes.fromhex("02000000000102000000000288b5") + bytes(46)
COUNTER = MapLayout(MapType.ARRAY, 4, 8, 1)


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def counting(table: BpfMap, verdict: int) -> bytes:
    """A program that adds one to the first record of `table` and returns `verdict`."""
    return b"".join(
        (
            insn(0x62, 10, off=-4),  # index 0, on the stack
            insn(0xBF, 2, 10), insn(0x07, 2, imm=-4),
            insn(0x18, 1, 1, imm=table.fd), insn(0),
            insn(0x85, imm=1),  # bpf_map_lookup_elem
            insn(0x15, 0, off=2),  # if r0 == 0 skip the addition
            insn(0xB7, 1, imm=1), insn(0xDB, 0, 1),  # *(u64 *)r0 += 1, atomically
            insn(0xB7, 0, imm=verdict), insn(0x95),
        )
    )  # fmt: skip


class Counted:
    """A program and the number of packets it saw."""

    def __init__(self, name: str, verdict: int) -> None:
        self.table = BpfMap.create(name, COUNTER)
        self.program: BpfProgram = load(counting(self.table, verdict), name)

    @property
    def packets(self) -> int:
        value = self.table.lookup(bytes(4))
        assert value is not None
        return int.from_bytes(value, "little")

    def close(self) -> None:
        self.program.close()
        self.table.close()


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def folder() -> Iterator[Path]:
    path = fs.ensure_bpffs(fs.BPFFS / f"cubelet-test-links-{os.getpid()}")
    yield path
    fs.unlink_tree(path)


@pytest.fixture
def device() -> Iterator[int]:
    """Ifindex of veth end `near`, whose peer is `far`; the namespace ends with the test."""
    with private_network():
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        ip("link", "add", "near", "type", "veth", "peer", "name", "far")
        ip("link", "set", "near", "up")
        ip("link", "set", "far", "up")
        yield socket.if_nametoindex("near")


@pytest.fixture
def one(resources: ExitStack) -> Counted:
    counted = Counted("one", TC_ACT_OK)
    resources.callback(counted.close)
    return counted


@pytest.fixture
def two(resources: ExitStack) -> Counted:
    counted = Counted("two", TC_ACT_OK)
    resources.callback(counted.close)
    return counted


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def send(device: str, count: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        for _ in range(count):
            sender.send(FRAME)


def send_until(done: threading.Event, device: str) -> int:
    """The number of frames sent, in small bursts that leave the CPU to others."""
    sent = 0
    while not done.is_set():
        send(device, 10)
        sent += 10
        time.sleep(0.001)
    return sent


def reached(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold, given time to receive what was sent."""
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.001)
    return holds()


def settles(counted: Counted, packets: int) -> bool:
    """Whether the program comes to see exactly `packets`."""
    return reached(lambda: counted.packets >= packets) and counted.packets == packets


def counts_on(counted: Counted) -> bool:
    """Whether the program comes to see another packet."""
    before = counted.packets
    return reached(lambda: counted.packets > before)


def filters(direction: str = "ingress") -> list[dict[str, object]]:
    shown = subprocess.run(
        ["tc", "-j", "filter", "show", "dev", "near", direction],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [f for f in json.loads(shown.stdout or "[]") if "options" in f]


def pinned_program(path: Path) -> int:
    with TcxLink.open(path) as link:
        return link.info().prog_id


@pytest.mark.parametrize("mode", list(Mode))
def test_packets_reach_the_program_until_it_is_detached(
    mode: Mode, device: int, folder: Path, one: Counted, two: Counted
) -> None:
    attachment = Attachment.attach(device, one.program, folder / "near", mode=mode)
    assert attachment.mode is mode
    send("far", 3)
    assert settles(one, 3)
    attachment.replace(two.program)
    send("far", 5)
    assert settles(two, 5)
    attachment.detach()
    attachment.detach()
    send("far", 1)
    time.sleep(0.05)
    assert (one.packets, two.packets) == (3, 5)
    assert (fs.pins(folder), filters()) == ((), [])


@pytest.mark.parametrize("mode", list(Mode))
def test_egress_sees_what_the_device_sends(
    mode: Mode, device: int, folder: Path, one: Counted, two: Counted
) -> None:
    inward = Attachment.attach(device, one.program, folder / "in", mode=mode)
    outward = Attachment.attach(device, two.program, folder / "out", Direction.EGRESS, mode)
    send("near", 4)
    assert settles(two, 4)
    inward.detach()
    send("near", 1)
    assert settles(two, 5)
    outward.detach()
    assert one.packets == 0


@pytest.mark.parametrize("mode", list(Mode))
def test_attaching_again_replaces(
    mode: Mode, device: int, folder: Path, one: Counted, two: Counted
) -> None:
    first = Attachment.attach(device, one.program, folder / "near", mode=mode)
    assert Attachment.attach(device, two.program, folder / "near", mode=mode) == first
    send("far", 2)
    assert settles(two, 2)
    assert one.packets == 0
    assert len(filters()) == (mode is Mode.CLSACT)


@pytest.mark.parametrize("mode", list(Mode))
def test_changing_the_mode_leaves_one_program(
    mode: Mode, device: int, folder: Path, resources: ExitStack
) -> None:
    # With TC_ACT_UNSPEC a packet goes on to the next program, so two would both count.
    old, new = Counted("old", TC_ACT_UNSPEC), Counted("new", TC_ACT_UNSPEC)
    resources.callback(old.close)
    resources.callback(new.close)
    other = Mode.CLSACT if mode is Mode.TCX else Mode.TCX
    Attachment.attach(device, old.program, folder / "near", mode=other)
    Attachment.attach(device, new.program, folder / "near", mode=mode)
    send("far", 3)
    assert settles(new, 3)
    assert old.packets == 0
    assert (len(fs.pins(folder)), len(filters())) == ((1, 0) if mode is Mode.TCX else (0, 1))


@pytest.mark.parametrize("mode", list(Mode))
def test_no_packet_sees_both_programs_or_none(
    mode: Mode, device: int, folder: Path, resources: ExitStack
) -> None:
    # With TC_ACT_UNSPEC a packet goes on to the next program, so seeing both would count twice.
    old, new = Counted("old", TC_ACT_UNSPEC), Counted("new", TC_ACT_UNSPEC)
    resources.callback(old.close)
    resources.callback(new.close)
    attachment = Attachment.attach(device, old.program, folder / "near", mode=mode)
    done = threading.Event()
    with ThreadPoolExecutor(1) as background:
        sending = background.submit(send_until, done, "far")
        try:
            for each in (new, old) * 20:
                attachment.replace(each.program)
                assert counts_on(each)
        finally:
            done.set()
    assert reached(lambda: old.packets + new.packets >= sending.result())
    assert old.packets + new.packets == sending.result()


def test_the_kernel_here_has_tcx_and_it_is_chosen(device: int, folder: Path, one: Counted) -> None:
    assert tcx_supported()
    assert Attachment.attach(device, one.program, folder / "near").mode is Mode.TCX
    with TcxLink.open(folder / "near") as link:
        info = link.info()
    assert (info.prog_id, info.ifindex) == (one.program.id, device)
    assert info.direction is Direction.INGRESS


def test_the_pin_of_a_device_that_is_gone_is_taken_over(
    device: int, folder: Path, one: Counted, two: Counted
) -> None:
    stale = Attachment.attach(device, one.program, folder / "near")
    ip("link", "delete", "near")
    with pytest.raises(BpfError) as gone:
        stale.replace(two.program)
    assert gone.value.errno == errno.ENOLINK
    ip("link", "add", "near", "type", "veth", "peer", "name", "far")
    ip("link", "set", "near", "up")
    ip("link", "set", "far", "up")
    fresh = Attachment.attach(socket.if_nametoindex("near"), two.program, folder / "near")
    send("far", 2)
    assert settles(two, 2)
    fresh.detach()
    assert fs.pins(folder) == ()


@pytest.mark.parametrize("mode", list(Mode))
def test_detaching_from_a_device_that_is_gone(
    mode: Mode, device: int, folder: Path, one: Counted
) -> None:
    attachment = Attachment.attach(device, one.program, folder / "near", mode=mode)
    ip("link", "delete", "near")
    attachment.detach()
    assert fs.pins(folder) == ()


@pytest.mark.parametrize("mode", list(Mode))
def test_a_missing_device_is_named(mode: Mode, device: int, folder: Path, one: Counted) -> None:
    with pytest.raises(BpfError, match=r"device 9999.*no such device") as missing:
        Attachment.attach(9999, one.program, folder / "near", mode=mode)
    assert missing.value.errno == errno.ENODEV
    assert fs.pins(folder) == ()


def test_a_failed_pin_leaves_nothing_attached(device: int, folder: Path, one: Counted) -> None:
    with pytest.raises(BpfError, match="create the folder first"):
        Attachment.attach(device, one.program, folder / "none" / "near", mode=Mode.TCX)
    send("far", 2)
    time.sleep(0.05)
    assert one.packets == 0


def test_other_filters_are_left_alone(device: int, folder: Path, one: Counted) -> None:
    one.program.pin(folder / "theirs")
    theirs = ["prio", "1", "bpf", "direct-action", "object-pinned", str(folder / "theirs")]
    subprocess.run(["tc", "qdisc", "add", "dev", "near", "clsact"], check=True)
    subprocess.run(["tc", "filter", "add", "dev", "near", "ingress", *theirs], check=True)
    before = filters()
    attachment = Attachment.attach(device, one.program, folder / "near", mode=Mode.CLSACT)
    assert len(filters()) == len(before) + 1
    attachment.detach()
    assert filters() == before


def test_clsact_works_inside_a_running_event_loop(device: int, folder: Path, one: Counted) -> None:
    async def attach() -> Attachment:
        return Attachment.attach(device, one.program, folder / "near", mode=Mode.CLSACT)

    attachment = asyncio.run(attach())
    send("far", 2)
    assert settles(one, 2)
    attachment.detach()


def test_a_link_that_is_not_pinned_ends_with_its_descriptor(
    device: int, folder: Path, one: Counted
) -> None:
    with TcxLink.create(device, one.program, Direction.INGRESS):
        send("far", 1)
        assert settles(one, 1)
    send("far", 1)
    time.sleep(0.05)
    assert one.packets == 1
    with pytest.raises(BpfError, match="nothing is pinned there"):
        pinned_program(folder / "near")
