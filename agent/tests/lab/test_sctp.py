"""The lab's SCTP packets, compared with scapy's."""

from __future__ import annotations

import pytest
from scapy.layers.sctp import SCTP, SCTPChunkAbort, SCTPChunkInit

from cubelet.lab import sctp
from cubelet.lab.sctp import ABORT, INIT, INIT_ACK, Packet


def test_checksum_of_the_standard_test_string() -> None:
    assert sctp.crc32c(b"123456789") == 0xE3069283


def test_init_is_as_scapy_builds_it() -> None:
    chunk = SCTPChunkInit(
        init_tag=7, a_rwnd=65536, n_out_streams=1, n_in_streams=1, init_tsn=7, params=[]
    )
    assert sctp.build(Packet(40000, 3868, 0, INIT, 7)) == bytes(
        SCTP(sport=40000, dport=3868, tag=0) / chunk
    )


def test_a_served_port_is_acknowledged_and_another_aborted() -> None:
    request = Packet(40000, 3868, 0, INIT, 7)
    acknowledged = SCTP(sctp.answer(request, {3868}))
    assert (acknowledged.sport, acknowledged.dport, acknowledged.tag) == (3868, 40000, 7)
    assert acknowledged.getlayer(1).type == INIT_ACK
    aborted = SCTP(sctp.answer(request, {1}))
    assert (aborted.tag, aborted.haslayer(SCTPChunkAbort)) == (7, True)
    assert sctp.answer(Packet(3868, 40000, 7, ABORT), {40000}) is None


@pytest.mark.parametrize("kind", [INIT, INIT_ACK, ABORT])
def test_packets_come_back_and_damaged_ones_do_not(kind: int) -> None:
    tag = 0 if kind == ABORT else 9
    packet = Packet(1, 2, 3, kind, tag)
    data = sctp.build(packet)
    assert sctp.parse(data) == packet
    assert all(sctp.parse(data[:length]) is None for length in range(len(data)))
    assert sctp.parse(bytes([data[0] ^ 1]) + data[1:]) is None


def test_only_the_answer_to_this_request_counts() -> None:
    request = Packet(40000, 3868, 0, INIT, 7)
    header = b"\x45" + bytes(19)
    good = sctp.answer(request, {3868})
    assert good is not None
    assert sctp.answers(request, header + good) == INIT_ACK
    for other in (Packet(3868, 40001, 7, INIT_ACK, 1), Packet(3868, 40000, 8, INIT_ACK, 1)):
        assert sctp.answers(request, header + sctp.build(other)) == 0
