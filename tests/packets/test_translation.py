"""Two records and one life; translation of every packet, both ways; source ports."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest
from scapy.packet import Packet, Raw

from cubelet_hooks.flows import FlowFlag, Tuple

from .rig import NODE, OTHER_VIP, OUTSIDE, REMOTE, VIP, A, B, C, D, Rig, arrives, ip_of, kept
from .shapes import SHAPES, Ends, Peer, Shape, Talk, direct, echo, hopped, tcp, through, udp

FAMILIES = (4, 6)
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
AWAY = Peer("uplink", OUTSIDE, 443)
SERVICE, OTHER_SERVICE = Peer("", VIP, 80), Peer("", OTHER_VIP, 81)


def number(packet: Packet) -> int:
    """The source port, or the echo identifier."""
    layers = (ICMP, ICMPv6EchoRequest)
    echo = next((packet[each].id for each in layers if each in packet), None)
    return int(transport(packet).sport if echo is None else echo)


def checksum(packet: Packet) -> int:
    """The transport's, of an IP packet of either family."""
    fields = type(packet)(bytes(packet)).payload.fields
    return int(fields["cksum"] if "cksum" in fields else fields["chksum"])


def transport(packet: Packet) -> Packet:
    """TCP's or UDP's header and what is behind it."""
    return packet[TCP] if TCP in packet else packet[UDP]


def serve(rig: Rig, service: Peer = SERVICE, backend: Peer = SERVER) -> None:
    """Both by port, and for what has no port."""
    rig.vip(service.address, service.number, backend.address, backend.number)
    rig.vip(service.address, 0, backend.address, 0)


@shapes
def test_untranslated(rig: Rig, shape: Shape) -> None:
    direct(CLIENT, SERVER, shape).whole(rig)


@shapes
def test_destination(rig: Rig, shape: Shape) -> None:
    serve(rig)
    talk = through(direct(CLIENT, SERVER, shape), SERVICE)
    if shape is echo:
        talk = replace(talk, dialled=Peer("", VIP, 0), server=Peer("b", B, 0))
    talk.whole(rig)


@shapes
def test_source(rig: Rig, shape: Shape) -> None:
    rig.masquerade(A, "uplink", NODE)
    seen = Peer("", NODE, chosen(rig, CLIENT, AWAY, shape))
    assert 20000 <= seen.number < 21000
    replace(direct(CLIENT, AWAY, shape), seen=seen).whole(rig)


@shapes
def test_both(rig: Rig, shape: Shape) -> None:
    serve(rig, SERVICE, AWAY)
    rig.masquerade(A, "uplink", NODE)
    dialled, server = SERVICE, AWAY
    if shape is echo:
        dialled, server = Peer("", VIP, 0), Peer("uplink", OUTSIDE, 0)
    seen = Peer("", NODE, chosen(rig, CLIENT, dialled, shape))
    Talk(shape, CLIENT, server, dialled, seen).whole(rig)


def chosen(rig: Rig, client: Peer, dialled: Peer, shape: Shape) -> int:
    """The source port that the client's flow is given: the same for all of its packets."""
    return number(rig.send(shape(client.to(dialled, "S")), client.port).packet)


def test_records_are_each_others_inverse(rig: Rig) -> None:
    serve(rig, SERVICE, AWAY)
    rig.masquerade(A, "uplink", NODE, 1000, 1)
    talk = Talk(udp, CLIENT, AWAY, SERVICE, Peer("", NODE, 1000))
    talk.opened(rig)
    forward, reply = rig.flow(talk.first), rig.flow(talk.answer)
    assert forward is not None
    assert reply is not None
    assert inverse(forward.to) == rig.key(talk.answer)
    assert inverse(reply.to) == rig.key(talk.first)
    assert (reply.enters, reply.leaves) == (forward.leaves, forward.enters)
    assert forward.flags ^ reply.flags == FlowFlag.REPLY
    assert (forward.state, forward.timeout) == (reply.state, reply.timeout)
    assert forward.epoch_sum == reply.epoch_sum


def inverse(tuple_: Tuple) -> Tuple:
    return Tuple(
        src=tuple_.dst,
        dst=tuple_.src,
        sport=tuple_.dport,
        dport=tuple_.sport,
        protocol=tuple_.protocol,
    )


@pytest.mark.parametrize("shape", [tcp, udp])
def test_each_packet_counts_once_and_in_its_own_record(rig: Rig, shape: Shape) -> None:
    talk = direct(CLIENT, SERVER, shape)
    talk.whole(rig)
    length = len(rig.packet(shape(CLIENT.to(SERVER)))) + 14
    for packet in (talk.first, talk.answer):
        flow = rig.flow(packet)
        assert flow is not None
        assert (flow.packets, flow.bytes) == (3, 3 * length)


@pytest.mark.parametrize("replied", [False, True])
def test_a_known_flow_runs_no_cube(rig: Rig, replied: bool) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    if replied:
        talk.back(rig)
    rig.close_gate(A, B)
    talk.forward(rig)
    talk.back(rig)


def test_a_udp_checksum_that_comes_out_zero_is_written_as_ones(fused: Rig) -> None:
    """RFC 768: zero on the wire would mean that there is none."""
    serve(fused)
    ends, wanted = Ends(A, 1000, VIP, 80), Ends(A, 1000, B, 8080)
    sum_without = udp(wanted, b"\0\0").copy()
    raw = IP(bytes(sum_without))[UDP].chksum
    payload = struct.pack("!H", raw)
    assert IP(bytes(udp(wanted, payload)))[UDP].chksum == 0xFFFF
    arrives(fused.send(udp(ends, payload)), "b", hopped(udp(wanted, payload)))


@pytest.mark.parametrize("shape", [tcp, udp, echo])
def test_a_wrong_checksum_stays_wrong(rig: Rig, shape: Shape) -> None:
    """Nobody on the way may make damage look whole."""
    serve(rig)
    to_port = 0 if shape is echo else 80
    sent = IP(bytes(shape(CLIENT.to(Peer("", VIP, to_port), "S"))))
    right = shape(CLIENT.to(Peer("", B, 8080 if to_port else 0), "S"))
    sent.payload.chksum ^= 0x0100
    result = rig.send(sent)
    assert result.leaves == "pod"
    assert checksum(ip_of(result.packet)) != checksum(rig.packet(right))


@pytest.mark.parametrize("leaves", ["uplink", "overlay"])
def test_an_echo_reply_without_a_request_keeps_its_identifier(rig: Rig, leaves: str) -> None:
    address = OUTSIDE if leaves == "uplink" else REMOTE
    rig.masquerade(A, leaves, NODE)
    sent, wanted = (echo(Ends(source, 0, address, 1234, back=True)) for source in (A, NODE))
    arrives(rig.send(sent), leaves, hopped(wanted))


def test_a_bridged_packet_keeps_its_ttl(fused: Rig) -> None:
    fused.path(B, "b", routed=False)
    sent = udp(CLIENT.to(SERVER))
    sent.ttl = 1
    arrives(fused.send(sent), "b", sent)


def test_a_second_service_with_the_same_backend_takes_another_source_port(rig: Rig) -> None:
    serve(rig)
    serve(rig, OTHER_SERVICE)
    first = through(direct(CLIENT, SERVER), SERVICE)
    first.established(rig)
    moved = chosen(rig, CLIENT, OTHER_SERVICE, tcp)
    assert 12000 <= moved <= 29999
    second = Talk(tcp, CLIENT, SERVER, OTHER_SERVICE, Peer("", A, moved))
    second.whole(rig)
    first.forward(rig)
    first.back(rig)


def test_a_flow_whose_reply_key_was_taken_over_moves_away(rig: Rig) -> None:
    """The first flow's reply record is evicted; the second, to the same backend, gets its key."""
    serve(rig)
    serve(rig, OTHER_SERVICE)
    first = through(direct(CLIENT, SERVER, udp), SERVICE)
    first.opened(rig)
    rig.forget(first.answer)
    second = through(direct(CLIENT, SERVER, udp), OTHER_SERVICE)
    second.opened(rig)
    moved = chosen(rig, CLIENT, SERVICE, udp)
    assert moved != CLIENT.number
    replace(first, seen=Peer("", A, moved)).whole(rig)
    second.back(rig)


def test_a_reply_whose_request_went_elsewhere_is_dropped(rig: Rig) -> None:
    """The forward record is evicted; opened anew, the flow is given another backend."""
    serve(rig)
    first = through(direct(CLIENT, SERVER, udp), SERVICE)
    first.opened(rig)
    rig.forget(first.first)
    other = Peer("c", C, 8080)
    rig.vip(VIP, 80, C, 8080)
    second = through(direct(CLIENT, other, udp), SERVICE)
    second.opened(rig)
    kept(rig.send(first.answer, "b"), "core/flow_table")
    second.whole(rig)


@pytest.mark.parametrize("direct_first", [True, False])
def test_a_direct_flow_beside_one_through_a_service(rig: Rig, direct_first: bool) -> None:
    serve(rig)
    talks = [direct(CLIENT, SERVER), through(direct(CLIENT, SERVER), SERVICE)]
    first, second = talks if direct_first else talks[::-1]
    first.established(rig)
    moved = chosen(rig, CLIENT, second.dialled, tcp)
    assert moved != CLIENT.number
    replace(second, seen=Peer("", A, moved)).whole(rig)
    first.back(rig)
    first.forward(rig)


def test_a_collision_without_ports_is_dropped(fused: Rig) -> None:
    serve(fused)
    serve(fused, OTHER_SERVICE)
    esp = IP(src=A, dst=VIP, proto=50) / bytes(20)
    assert fused.send(esp).reason == "core/none"
    esp.dst = OTHER_VIP
    kept(fused.send(esp), "core/no_source_port")


def outward(pod: str, number: int, port: int = 53) -> Talk:
    """A pod's exchange with the outside, by whatever source port it is given."""
    return direct(
        Peer(pod, {"a": A, "b": B, "c": C, "d": D}[pod], number), Peer("uplink", OUTSIDE, port), udp
    )


def answered(rig: Rig, talk: Talk) -> int:
    """The talk goes on until it is established; the source port that it has outside."""
    port = number(rig.send(talk.first, talk.client.port).packet)
    reply = udp(Ends(OUTSIDE, talk.server.number, NODE, port))
    for packet, enters in ((reply, "uplink"), (talk.first, talk.client.port)):
        assert rig.send(packet, enters).verdict == "redirect"
    return port


def test_an_exhausted_range_is_a_drop_and_leaves_no_record(rig: Rig) -> None:
    for pod in (A, B, C):
        rig.masquerade(pod, "uplink", NODE, 20000, 2)
    assert {answered(rig, outward(pod, 1000)) for pod in "ab"} == {20000, 20001}
    before = rig.dp.flows().keys()
    kept(rig.send(outward("c", 1000).first, "c"), "core/no_source_port")
    assert rig.dp.flows().keys() == before
    assert rig.send(outward("c", 1000, 54).first, "c").verdict == "redirect"


def fill(rig: Rig, pod: str) -> int:
    """Open flows until there is no port left for one more; how many were opened."""
    for number in range(1000):
        talk = outward(pod, 1000 + number)
        if rig.send(talk.first, pod).verdict != "redirect":
            kept(rig.send(talk.first, pod), "core/no_source_port")
            return number
        answered(rig, talk)
    raise AssertionError("there is no end")


def test_who_is_alone_gets_most_of_a_destinations_ports(rig: Rig) -> None:
    for pod in (A, B, C):
        rig.masquerade(pod, "uplink", NODE, 20000, 256)
    assert fill(rig, "a") in range(195, 205)
    assert fill(rig, "b") in range(20, 30)
    assert fill(rig, "c") in range(2, 10)  # who has few finds some, though the others left none
    assert answered(rig, outward("a", 2000, 54)) in range(20000, 20256)


def test_the_last_port_that_can_be_had_is_found(rig: Rig) -> None:
    for pod in (A, B, C, D):
        rig.masquerade(pod, "uplink", NODE, 20000, 24)
    assert sum(fill(rig, pod) for pod in "abc") == 22
    last = {number(rig.send(outward("d", port).first, "d").packet) for port in range(1000, 1024)}
    assert len(last) <= 2  # unanswered flows give theirs up for the next
    assert last <= set(range(20000, 20024))


def test_ports_of_unanswered_flows_are_taken_over(rig: Rig) -> None:
    """Whatever is forged from outside cannot keep a destination's ports."""
    rig.masquerade(A, "uplink", NODE, 20000, 2)
    for port in range(1000, 1020):
        assert rig.send(outward("a", port).first, "a").verdict == "redirect"
    assert len(rig.dp.flows()) == 4
    assert answered(rig, outward("a", 1020)) in (20000, 20001)


def test_ports_of_closing_connections_are_taken_over(rig: Rig) -> None:
    rig.masquerade(A, "uplink", NODE, 20000, 1)
    for client in range(1000, 1005):
        talk = replace(
            direct(Peer("a", A, client), Peer("uplink", OUTSIDE, 443)), seen=Peer("", NODE, 20000)
        )
        talk.established(rig)
        talk.forward(rig, "R")


@pytest.mark.parametrize("client", range(1002, 1010))
def test_a_closing_connection_gives_way_before_one_that_may_be_answered(
    rig: Rig, client: int
) -> None:
    """Or the answer to its SYN, which is on its way, would be another's."""
    rig.masquerade(A, "uplink", NODE, 20000, 2)
    peer = Peer("uplink", OUTSIDE, 443)
    closed = number(rig.send(tcp(Ends(A, 1000, OUTSIDE, 443, "S")), "a").packet)
    talk = replace(direct(Peer("a", A, 1000), peer), seen=Peer("", NODE, closed))
    talk.established(rig)
    talk.forward(rig, "R")
    waiting = number(rig.send(tcp(Ends(A, 1001, OUTSIDE, 443, "S")), "a").packet)
    assert waiting != closed
    assert number(rig.send(tcp(Ends(A, client, OUTSIDE, 443, "S")), "a").packet) == closed
    assert chosen(rig, Peer("a", A, 1001), peer, tcp) == waiting


@pytest.mark.parametrize(("own", "is_kept"), [(20000, True), (20999, True), (21000, False)])
@pytest.mark.parametrize("shape", [tcp, udp, echo])
def test_a_port_within_the_range_is_kept(fused: Rig, shape: Shape, own: int, is_kept: bool) -> None:
    fused.masquerade(A, "uplink", NODE, 20000, 1000)
    port = chosen(fused, Peer("a", A, own), AWAY, shape)
    assert (port == own) is is_kept
    assert 20000 <= port < 21000


def test_two_clients_with_one_port_are_told_apart(rig: Rig) -> None:
    for pod in (A, B):
        rig.masquerade(pod, "uplink", NODE)
    clients = [Peer("a", A, 20005), Peer("b", B, 20005)]
    numbers = [chosen(rig, client, AWAY, tcp) for client in clients]
    assert numbers[0] == 20005 != numbers[1]
    for client, seen in zip(clients, numbers, strict=True):
        replace(direct(client, AWAY), seen=Peer("", NODE, seen)).whole(rig)


def test_a_lost_forward_record_is_made_again_with_the_same_source_port(rig: Rig) -> None:
    rig.masquerade(A, "uplink", NODE)
    seen = chosen(rig, CLIENT, AWAY, udp)
    rig.forget(udp(CLIENT.to(AWAY)))
    assert chosen(rig, CLIENT, AWAY, udp) == seen


@pytest.mark.parametrize("kind", [13, 9, 40, 255])
@pytest.mark.parametrize("first", [True, False], ids=["echo first", "echo last"])
def test_an_icmp_message_without_identifier_shares_no_echos_flow(
    rig: Rig, kind: int, first: bool
) -> None:
    """Of an echo whose identifier is 0; only the addresses of such a message change."""
    rig.masquerade(A, "uplink", NODE)
    ping = echo(Ends(A, 0, OUTSIDE, 0))
    chosen = []
    if first:
        chosen.append(number(rig.send(ping).packet))

    def message(source: str) -> Packet:
        return IP(src=source, dst=OUTSIDE, id=5) / ICMP(type=kind) / Raw(bytes(range(9)))

    for _ in range(2):
        arrives(rig.send(message(A)), "uplink", hopped(message(NODE)))
    chosen.append(number(rig.send(ping).packet))
    assert all(20000 <= each < 21000 for each in chosen)
    assert len(rig.dp.flows()) == 4
