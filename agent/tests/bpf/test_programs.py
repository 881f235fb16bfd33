"""Programs loaded, refused and run; what they send through a ring; the kernel's ticks."""

from __future__ import annotations

import errno
import select
import struct
import time
from collections.abc import Iterator

import pytest

from cubelet.bpf.constants import AttachType, MapType, ProgType
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram, VerifierError, load
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import RETURN_ZERO
from cubelet.bpf.testrun import SkBuff, skb_context

PLACEHOLDER = 7
FRAME = bytes(range(64))


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def constant(register: int, value: int) -> bytes:
    return insn(0xB7, register, imm=value)


def copy(to: int, register: int) -> bytes:
    return insn(0xBF, to, register)


def load_map(register: int) -> bytes:
    return insn(0x18, register, 1, imm=PLACEHOLDER) + insn(0)


def call(helper: int) -> bytes:
    return insn(0x85, imm=helper)


EXIT = insn(0x95)
STACK = 10
SKB_LOAD_BYTES, RINGBUF_OUTPUT, RINGBUF_RESERVE, RINGBUF_DISCARD = 26, 130, 131, 133


def stack(register: int, offset: int) -> bytes:
    return copy(register, STACK) + insn(0x07, register, imm=offset)


def send_packet(size: int) -> bytes:
    """A program that sends the packet's first `size` bytes through the ring."""
    return b"".join(
        (
            constant(2, 0), stack(3, -64), constant(4, size), call(SKB_LOAD_BYTES),
            load_map(1), stack(2, -64), constant(3, size), constant(4, 0), call(RINGBUF_OUTPUT),
            constant(0, 0), EXIT,
        )
    )  # fmt: skip


RESERVE_AND_DISCARD = b"".join(
    (
        load_map(1), constant(2, 24), constant(3, 0), call(RINGBUF_RESERVE),
        insn(0x15, 0, off=3),  # if r0 == 0 skip to the end
        copy(1, 0), constant(2, 0), call(RINGBUF_DISCARD),
        constant(0, 0), EXIT,
    )
)  # fmt: skip

READ_THEN_WRITE_MARK = b"".join(
    (
        insn(0x61, 0, 1, off=8),  # r0 = skb->mark
        constant(2, 99),
        insn(0x63, 1, 2, off=8),  # skb->mark = r2
        EXIT,
    )
)


@pytest.fixture
def ring() -> Iterator[BpfMap]:
    with BpfMap.create("test_ring", MapLayout(MapType.RINGBUF, 0, 0, 4096)) as table:
        yield table


def load_with(code: bytes, table: BpfMap) -> BpfProgram:
    return load(code, "test", relocations={PLACEHOLDER: table.fd})


def test_a_program_tells_what_it_is_and_uses(ring: BpfMap) -> None:
    with load_with(send_packet(16), ring) as program:
        info = program.info()
    assert (info.name, info.type, info.map_ids) == ("test", ProgType.SCHED_CLS, (ring.info.id,))
    assert info.id == program.id > 0
    assert len(info.tag) == 16
    assert info.verified_insns == len(send_packet(16)) // 8 - 1  # a wide load counts once
    assert info.xlated_length > 0
    assert info.jited_length > 0


def test_equal_code_has_equal_tags() -> None:
    with load(RETURN_ZERO, "a") as one, load(RETURN_ZERO, "b") as other:
        assert one.info().tag == other.info().tag
        assert one.id != other.id


def test_the_verifiers_words_are_in_the_error() -> None:
    with pytest.raises(VerifierError) as refused:
        load(EXIT, "no_verdict")
    assert refused.value.errno == errno.EACCES
    assert "R0 !read_ok" in refused.value.log
    assert str(refused.value).startswith("cannot load program no_verdict: Permission denied\n")
    assert "R0 !read_ok" in str(refused.value)


def test_the_attach_type_is_given_to_the_verifier() -> None:
    one = constant(0, 1) + EXIT
    kind = ProgType.CGROUP_SOCK_ADDR
    load(one, "connect", kind, attach_type=AttachType.CGROUP_INET4_CONNECT).close()
    with pytest.raises(VerifierError):
        load(one, "connect", kind)


def test_a_run_returns_verdict_packet_and_time() -> None:
    with load(RETURN_ZERO, "zero") as program:
        run = program.test_run(FRAME, repeat=1000)
    assert (run.retval, run.packet, run.ctx) == (0, FRAME, b"")
    assert 0 < run.duration_ns < 100_000


def test_a_run_takes_and_returns_the_context() -> None:
    with load(READ_THEN_WRITE_MARK, "mark") as program:
        run = program.test_run(FRAME, ctx_in=skb_context(mark=1234, ifindex=1, priority=7))
    left = SkBuff.from_buffer_copy(run.ctx)
    assert (run.retval, left.mark, left.priority, left.ifindex) == (1234, 99, 7, 1)


def test_verdicts_are_unsigned() -> None:
    with load(constant(0, -1) + EXIT, "unspec") as program:
        assert program.test_run(FRAME).retval == 0xFFFFFFFF


def test_a_run_that_the_kernel_refuses_is_an_error() -> None:
    with load(RETURN_ZERO, "zero") as program:
        with pytest.raises(BpfError, match="cannot run on 13 bytes program zero"):
            program.test_run(bytes(13))
        with pytest.raises(BpfError) as unknown:
            program.test_run(FRAME, ctx_in=skb_context(ifindex=0x7FFFFFFF))
        assert unknown.value.errno == errno.ENODEV


def test_ring_records_arrive_in_order_over_many_rounds(ring: BpfMap) -> None:
    with load_with(send_packet(20), ring) as program, RingBuffer(ring) as reader:
        for start in range(0, 600, 50):  # 50 x 32 bytes a round, in a ring of 4096
            sent = [struct.pack("=I60x", number) for number in range(start, start + 50)]
            for packet in sent:
                program.test_run(packet)
            assert list(reader.records()) == [packet[:20] for packet in sent]


def test_a_full_ring_keeps_its_oldest_records(ring: BpfMap) -> None:
    with load_with(send_packet(20), ring) as program, RingBuffer(ring) as reader:
        for number in range(200):
            program.test_run(struct.pack("=I60x", number))
        kept = [struct.unpack_from("=I", record)[0] for record in reader.records()]
        assert kept == list(range(127))  # a ring is never filled to the last byte
        program.test_run(struct.pack("=I60x", 999))
        assert [record[:4] for record in reader.records()] == [struct.pack("=I", 999)]


def test_discarded_records_are_not_seen(ring: BpfMap) -> None:
    with (
        load_with(RESERVE_AND_DISCARD, ring) as discarding,
        load_with(send_packet(16), ring) as sending,
        RingBuffer(ring) as reader,
    ):
        discarding.test_run(FRAME)
        sending.test_run(FRAME)
        discarding.test_run(FRAME)
        assert list(reader.records()) == [FRAME[:16]]
        assert list(reader.records()) == []


def test_epoll_wakes_while_records_wait(ring: BpfMap) -> None:
    with (
        load_with(send_packet(16), ring) as program,
        RingBuffer(ring) as reader,
        select.epoll() as epoll,
    ):
        epoll.register(reader, select.EPOLLIN)
        assert epoll.poll(0) == []
        assert list(reader.poll(0.01)) == []
        program.test_run(FRAME)
        assert epoll.poll(1) == [(ring.fd, select.EPOLLIN)]
        assert list(reader.poll(1)) == [FRAME[:16]]
        assert epoll.poll(0) == []


def test_a_second_consumer_continues_where_the_first_ended(ring: BpfMap) -> None:
    with load_with(send_packet(16), ring) as program:
        for number in range(3):
            program.test_run(bytes([number]) * 64)
        with RingBuffer(ring) as reader:
            assert next(reader.records()) == bytes(16)
        with RingBuffer(ring) as reader:
            assert list(reader.records()) == [b"\1" * 16, b"\2" * 16]


def test_only_rings_are_read_as_rings() -> None:
    layout = MapLayout(MapType.ARRAY, 4, 4, 1)
    with (
        BpfMap.create("array", layout) as table,
        pytest.raises(ValueError, match="map array is a ARRAY, not a ring buffer"),
    ):
        RingBuffer(table)


def test_the_clock_ticks_with_the_kernel() -> None:
    with Clock() as clock:
        times = [time.monotonic()]
        stamp = clock.now()
        times.append(time.monotonic())
        time.sleep(0.5)
        times.append(time.monotonic())
        age = clock.age(stamp)
        times.append(time.monotonic())
        tick = 1 / clock.hz
        assert times[2] - times[1] - tick <= age <= times[3] - times[0] + tick
        assert clock.age((clock.now() + clock.hz) % 2**32) == pytest.approx(-1, abs=0.1)
        assert clock.ticks(0.5001) == int(clock.hz * 0.5) + 1
