"""The model notices what it is for: outcomes that would be wrong, made up, and right ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from fuzz import cluster
from fuzz.cluster import (
    GATEWAY,
    GATEWAY_MAC,
    LOCAL_PODS,
    NODE,
    OUTSIDE,
    POD_MACS,
    ROUTER_MAC,
    UPLINK_MAC,
    WEB,
)
from fuzz.machine import DROPPED, PASSED, REDIRECTED, Machine, Out
from fuzz.oracle import Oracle
from fuzz.services import Cluster
from fuzz.wire import ACK, FIN, RST, SYN, TCP, UDP, Tuple, ether, inverse, ip, transport

A, B, C = (LOCAL_PODS[name] for name in "abc")
REMOTE, CLIENT = cluster.REMOTE_PODS["r"], OUTSIDE[0]
NEIGHBOUR = cluster.number("172.18.0.3")
IFINDEX = {name: number for number, name in enumerate(LOCAL_PODS, 10)}
BARE = b"\2\0\0\0\0\xfe"


class StandIn:
    """What the model asks of the machine."""

    def __init__(self) -> None:
        self.cluster = Cluster()

    def ifindex(self, entry: str) -> int:
        return IFINDEX.get(entry, 2)

    def flooded(self) -> dict[str, list[bytes]]:
        return {}

    def record(self, t: Tuple) -> Tuple | None:
        return None


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(cast(Machine, StandIn()))


def frame(entry: str, t: Tuple, flags: int = SYN, ttl: int = 64, data: bytes = b"") -> bytes:
    dst, src = {"uplink": (UPLINK_MAC, BARE), "host": (ROUTER_MAC, GATEWAY_MAC)}.get(
        entry, (ROUTER_MAC, ROUTER_MAC)
    )
    if entry in LOCAL_PODS:
        src = POD_MACS[entry]
    return ether(dst, src, ip(t[0], t[1], t[4], transport(t, flags, data), ttl=ttl))


def sent(leaves: str, t: Tuple, flags: int = SYN, ttl: int = 63, data: bytes = b"") -> Out:
    """It left like this; right, unless the caller says otherwise."""
    dst = {"host": GATEWAY_MAC, "uplink": bytes(6)}.get(leaves, ROUTER_MAC)
    dst, kind = (POD_MACS[leaves], "pod") if leaves in LOCAL_PODS else (dst, leaves)
    packet = ip(t[0], t[1], t[4], transport(t, flags, data), ttl=ttl)
    remote = cluster.tunnel_to(t[1]) if leaves == "overlay" else cluster.ROUTER
    left = ether(dst, ROUTER_MAC, packet)
    where = (IFINDEX.get(leaves, 2), remote, dst, ROUTER_MAC, 1500, kind)
    return Out(REDIRECTED, left, "core/none", 1, *where)


def dropped(reason: str = "core/no_path") -> Out:
    return Out(DROPPED, b"", reason, 0, 0, 0, bytes(6), bytes(6), 0, "pod")


def names(oracle: Oracle, entry: str, packet: bytes, out: Out) -> set[str]:
    oracle.judge(entry, packet, out)
    return {each.name for each in oracle.found}


def tcp(src: int, dst: int, dport: int = 8080, sport: int = 1024) -> Tuple:
    return (src, dst, sport, dport, TCP)


RIGHT: dict[str, tuple[str, Tuple, str, Tuple]] = {
    "pod to pod": ("a", tcp(A, B), "b", tcp(A, B)),
    "ClusterIP": ("a", tcp(A, WEB, 80), "b", tcp(A, B)),
    "remote pod": ("a", tcp(A, REMOTE), "overlay", tcp(A, REMOTE)),
    "masquerade": ("a", tcp(A, CLIENT), "uplink", tcp(NODE, CLIENT, 8080, 12_345)),
    "NodePort": ("uplink", tcp(CLIENT, NODE, 30_080), "b", tcp(CLIENT, B)),
    "from the host": ("host", tcp(NODE, B), "b", tcp(NODE, B)),
    "host to a remote pod": (
        "host",
        tcp(NODE, REMOTE),
        "overlay",
        tcp(GATEWAY, REMOTE, 8080, 12_345),
    ),
    "from another node": ("overlay", tcp(REMOTE, B), "b", tcp(REMOTE, B)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_right_ones_pass_in_both_directions(oracle: Oracle, case: str) -> None:
    entry, opened, leaves, left = RIGHT[case]
    assert names(oracle, entry, frame(entry, opened), sent(leaves, left)) == set()
    back = frame(leaves, inverse(left), SYN | ACK)
    assert names(oracle, leaves, back, sent(entry, inverse(opened), SYN | ACK)) == set()
    assert names(oracle, entry, frame(entry, opened, ACK), sent(leaves, left, ACK)) == set()


@pytest.mark.parametrize("case", RIGHT)
def test_what_must_pass_is_missed(oracle: Oracle, case: str) -> None:
    entry, opened, leaves, left = RIGHT[case]
    assert names(oracle, entry, frame(entry, opened), dropped()) == {"undelivered"}
    names(oracle, entry, frame(entry, opened), sent(leaves, left))
    assert names(oracle, leaves, frame(leaves, inverse(left), ACK), dropped()) == {"undelivered"}


@pytest.mark.parametrize("case", RIGHT)
def test_an_answer_to_somebody_else_is_noticed(oracle: Oracle, case: str) -> None:
    entry, opened, leaves, left = RIGHT[case]
    names(oracle, entry, frame(entry, opened), sent(leaves, left))
    other = sent("d", tcp(left[1], LOCAL_PODS["d"], 1024, 8080), ACK)
    assert "translation" in names(oracle, leaves, frame(leaves, inverse(left), ACK), other)


WRONG: dict[str, tuple[str, Tuple, str, Tuple, str]] = {
    "a pod's own address outside": ("a", tcp(A, CLIENT), "uplink", tcp(A, CLIENT), "source"),
    "a port of the node's": ("a", tcp(A, CLIENT), "uplink", tcp(NODE, CLIENT), "source"),
    "no backend": ("a", tcp(A, WEB, 80), "c", tcp(A, C), "translation"),
    "without endpoints": ("a", tcp(A, cluster.EMPTY, 80), "b", tcp(A, B), "translation"),
    "a ClusterIP outside": (
        *("a", tcp(A, WEB, 99), "uplink", tcp(NODE, WEB, 99, 12_345)),
        "translation",
    ),
    "another pod": ("a", tcp(A, B), "c", tcp(A, B), "path"),
    "somebody else's address": ("a", tcp(C, B), "b", tcp(C, B), "spoofed"),
    "forwarded by the host": ("host", tcp(CLIENT, B), "b", tcp(CLIENT, B), "spoofed"),
    "a node's tunnel": (
        *("a", (A, NEIGHBOUR, 1024, 4789, UDP), "uplink"),
        *((NODE, NEIGHBOUR, 12_345, 4789, UDP), "tunnel"),
    ),
    "a node's tunnel, by a Service": (
        *("uplink", (CLIENT, NODE, 1024, 30_080, UDP), "host"),
        *((CLIENT, NODE, 1024, 4789, UDP), "tunnel"),
    ),
    "answers to a node's tunnel": (
        *("uplink", (NEIGHBOUR, B, 4789, 80, UDP), "b", (NEIGHBOUR, B, 4789, 80, UDP), "tunnel"),
    ),
    "the node's address, and no port": (
        *("a", (A, CLIENT, 0, 0, 47), "uplink", (NODE, CLIENT, 0, 0, 47), "no_ports"),
    ),
    "what is the node's own": (
        *("uplink", tcp(CLIENT, NODE, 22), "b", tcp(CLIENT, B, 22), "taken"),
    ),
    "loopback from outside": (
        *("uplink", tcp(cluster.number("127.0.0.1"), B), "b"),
        *(tcp(cluster.number("127.0.0.1"), B), "martian"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_ones_are_noticed(oracle: Oracle, case: str) -> None:
    entry, opened, leaves, left, name = WRONG[case]
    assert name in names(oracle, entry, frame(entry, opened), sent(leaves, left))


def test_a_frame_for_another_station_is_noticed(oracle: Oracle) -> None:
    opened = tcp(CLIENT, B)
    packet = POD_MACS["b"] + frame("uplink", opened)[6:]
    assert names(oracle, "uplink", packet, sent("b", opened)) == {"other_mac"}


def test_what_is_no_syn_opens_nothing(oracle: Oracle) -> None:
    opened = tcp(A, B)
    assert names(oracle, "a", frame("a", opened, ACK), sent("b", opened, ACK)) == {"midstream"}


def test_a_syn_that_ends_its_sender_opens_nothing(oracle: Oracle) -> None:
    opened = tcp(A, B)
    assert "midstream" in names(
        oracle, "a", frame("a", opened, SYN | FIN), sent("b", opened, SYN | FIN)
    )


def handshake(oracle: Oracle, opened: Tuple) -> None:
    """Of a pod ``a`` with a pod ``b``."""
    back = inverse(opened)
    for entry, leaves, t, flags in (
        ("a", "b", opened, SYN),
        ("b", "a", back, SYN | ACK),
        ("a", "b", opened, ACK),
    ):
        assert names(oracle, entry, frame(entry, t, flags), sent(leaves, t, flags)) == set()


def test_a_syn_takes_the_place_of_no_open_connection(oracle: Oracle) -> None:
    opened = tcp(A, B)
    back = inverse(opened)
    assert names(oracle, "a", frame("a", opened), sent("b", opened)) == set()
    assert names(oracle, "b", frame("b", back), sent("a", back)) == set()
    other = tcp(A, B, sport=2048)
    handshake(oracle, other)
    back = inverse(other)
    assert "syn_forgets" in names(oracle, "b", frame("b", back), sent("a", back))


def numbered(step: bytes, sequence: int) -> bytes:
    """With another sequence number."""
    return step[:38] + sequence.to_bytes(4) + step[42:]


@pytest.mark.parametrize(("sequence", "ends"), [(1, True), (1 << 31, False)])
@pytest.mark.parametrize("flags", [RST, FIN | ACK])
def test_only_who_knows_the_sequence_ends_a_connection(
    oracle: Oracle, flags: int, sequence: int, ends: bool
) -> None:
    opened = tcp(A, B)
    back = inverse(opened)
    handshake(oracle, opened)
    out = sent("a", back, flags)
    out = out._replace(frame=numbered(out.frame, sequence))
    assert names(oracle, "b", numbered(frame("b", back, flags), sequence), out) == set()
    lost = names(oracle, "a", frame("a", opened, ACK), dropped())
    assert lost == (set() if ends else {"undelivered"})


@pytest.mark.parametrize(
    ("options", "refused"),
    [("83070400000000 00", True), ("89030400", True), ("94040000", False), ("44ff0500", True)],
)
def test_no_way_of_the_senders_choice(oracle: Oracle, options: str, refused: bool) -> None:
    opened = tcp(A, B)

    def made(entry_frame: bytes, ttl: int) -> bytes:
        body = transport(opened, SYN)
        packet = ip(A, B, TCP, body, ttl=ttl, options=bytes.fromhex(options))
        return entry_frame[:14] + packet

    out = sent("b", opened)
    out = out._replace(frame=made(out.frame, 63))
    found = names(oracle, "a", made(frame("a", opened), 64), out)
    assert found == ({"source_route"} if refused else set())


def test_what_else_is_not_left_to_the_stack_and_sent_on(oracle: Oracle) -> None:
    packet = frame("uplink", tcp(CLIENT, NODE, 30_080))
    out = sent("b", tcp(CLIENT, B))._replace(verdict=PASSED, frame=packet)
    assert "shared" in names(oracle, "uplink", packet, out)


def test_only_for_groups_and_what_policies_see_is_flooded(oracle: Oracle) -> None:
    stand_in = cast(Any, oracle)._machine
    head = bytes.fromhex("0200000000aa") + POD_MACS["a"]
    for packet, name in (
        (head + frame("a", tcp(A, B))[12:], "flood"),
        (b"\xff" * 6 + POD_MACS["a"] + b"\x88\x47" + bytes(40), "flood"),
    ):
        stand_in.flooded = lambda packet=packet: {"b": [packet]}
        assert names(oracle, "a", packet, dropped("core/none")) == {name}


def test_policy_forbids_at_once_and_goes_on_to(oracle: Oracle) -> None:
    opened = tcp(LOCAL_PODS["d"], B)
    assert names(oracle, "d", frame("d", opened), sent("b", opened)) == set()
    oracle.cluster.policy = 2
    assert names(oracle, "d", frame("d", opened, ACK), sent("b", opened, ACK)) == {"denied"}
    back = inverse(opened)
    assert names(oracle, "b", frame("b", back, ACK), sent("d", back, ACK)) == {"denied"}
    assert names(oracle, "d", frame("d", opened, ACK), dropped("firewall/egress_denied")) == set()
    other = (*opened[:2], 4000, *opened[3:])
    assert names(oracle, "d", frame("d", other), sent("b", other)) == {"denied"}


@pytest.mark.parametrize("flags", [ACK, FIN | ACK])
def test_who_has_no_connection_hears_of_it(oracle: Oracle, flags: int) -> None:
    for reason in ("core/no_flow", "core/client_gone"):
        packet = frame("a", tcp(A, B), flags)
        assert names(oracle, "a", packet, dropped(reason)) == {"refused"}


@pytest.mark.parametrize("flags", [SYN | ACK, RST, RST | ACK])
def test_an_answer_that_nobody_knows_has_no_answer(oracle: Oracle, flags: int) -> None:
    assert names(oracle, "a", frame("a", tcp(A, B), flags), dropped("core/no_flow")) == set()


def test_a_group_has_no_connections(oracle: Oracle) -> None:
    group = tcp(A, cluster.number("224.0.0.251"))
    assert names(oracle, "a", frame("a", group, ACK), dropped("core/no_flow")) == set()


def test_nothing_reaches_a_pod_that_is_gone(oracle: Oracle) -> None:
    opened = tcp(A, B)
    handshake(oracle, opened)
    oracle.cluster.gone = frozenset("b")
    oracle.pod_changed("b")
    packet = frame("a", opened, ACK)
    assert names(oracle, "a", packet, sent("b", opened, ACK)) == {"path"}
    assert names(oracle, "a", packet, dropped()) == set()
    other = tcp(A, B, sport=2048)
    assert names(oracle, "a", frame("a", other), dropped()) == set()
    assert "path" in names(oracle, "a", frame("a", other), sent("b", other))


def test_nobody_answers_for_a_pod_that_is_gone(oracle: Oracle) -> None:
    asked = bytes.fromhex("00010800060400010200000001020a010002000000000000") + B.to_bytes(4)
    packet = b"\xff" * 6 + POD_MACS["a"] + b"\x08\6" + asked
    said = bytes.fromhex("0001080006040002") + POD_MACS["b"] + B.to_bytes(4) + asked[8:18]
    answer = POD_MACS["a"] + POD_MACS["b"] + b"\x08\6" + said
    out = sent("a", tcp(A, B))._replace(frame=answer, sent=2)
    assert names(oracle, "a", packet, out) == set()
    oracle.cluster.gone = frozenset("b")
    assert names(oracle, "a", packet, out) == {"arp"}
    stand_in = cast(Any, oracle)._machine
    stand_in.flooded = lambda: {"b": [packet]}
    assert names(oracle, "a", packet, dropped("core/none")) == {"path"}


def test_datagrams_to_a_backend_that_is_gone(oracle: Oracle) -> None:
    opened, left = (A, WEB, 1024, 80, UDP), (A, B, 1024, 8080, UDP)
    assert names(oracle, "a", frame("a", opened), sent("b", left)) == set()
    oracle.cluster.choose(2)
    oracle.endpoints_changed()
    assert names(oracle, "a", frame("a", opened), sent("b", left)) == {"stale"}


Change = Callable[[bytearray], Any]


def _set(at: int, value: int) -> Change:
    return lambda left: left.__setitem__(at, value)


DAMAGE: dict[str, tuple[Change, str]] = {
    "TTL as it was": (_set(22, 64), "ttl"),
    "TTL spent twice": (_set(22, 62), "ttl"),
    "no header checksum": (_set(24, 0), "checksum"),
    "a wrong transport checksum": (_set(50, 0xEE), "checksum"),
    "another TOS": (_set(15, 3), "bytes"),
    "another sequence number": (_set(38, 9), "bytes"),
    "other data": (_set(-1, 9), "bytes"),
    "longer": (lambda left: left.append(0), "length"),
    "to another MAC address": (_set(5, 9), "frame"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_frames_that_left_damaged(oracle: Oracle, case: str) -> None:
    change, name = DAMAGE[case]
    opened = tcp(REMOTE, B)
    out = sent("b", opened, data=b"data")
    left = bytearray(out.frame)
    change(left)
    out = out._replace(frame=bytes(left))
    assert name in names(oracle, "overlay", frame("overlay", opened, data=b"data"), out)


def test_drops_have_reasons_and_only_the_uplink_passes(oracle: Oracle) -> None:
    packet = frame("a", tcp(A, cluster.number("127.0.0.1")))
    assert names(oracle, "a", packet, dropped("core/none")) == {"reason"}
    assert names(oracle, "a", packet, dropped("core/jump")) == {"internal"}
    passed = dropped()._replace(verdict=PASSED, frame=packet)
    assert names(oracle, "a", packet, passed) == {"passed"}
    unknown = frame("uplink", tcp(CLIENT, NODE, 22))
    passed = passed._replace(frame=unknown)
    assert names(oracle, "uplink", unknown, passed) == set()
    assert names(oracle, "uplink", unknown, passed._replace(frame=unknown + b"x")) == {"bytes"}
