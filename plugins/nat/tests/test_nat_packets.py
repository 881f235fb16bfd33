"""The source address of what leaves by each class of port, and the way back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network, ip_address
from typing import ClassVar

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from cubelet.testkit import Datapath, Result, network, samples
from cubelet_hooks.cube import PORT_CLASSES, Cube
from cubelet_hooks.objects import Node
from cubelet_hooks.view import View
from cubelet_nat.cube import Nat

POD, OTHER, GATEWAY, NODE = "10.1.0.2", "10.1.0.3", "10.1.0.1", "172.18.0.2"
OUTSIDE, ELSEWHERE, ROUTED = "192.0.2.9", "10.1.7.7", "10.1.8.8"
OUTSIDER, HAIRPIN, LOCALHOST = "198.51.100.20", "169.254.1.2", "127.0.0.1"
FIRST, COUNT = 12000, 18000


class Crossing(Cube):
    """Forwards by address; see its C source for the Services it plays."""

    kind: ClassVar[str] = "crossing"
    core: ClassVar[bool] = True
    inward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)

    def defines(self, view: View) -> Mapping[str, int]:
        """Addresses in host byte order, and the pods' devices."""
        return {
            "OUTSIDE": int(ip_address(OUTSIDE)),
            "ELSEWHERE": int(ip_address(ELSEWHERE)),
            "ROUTED": int(ip_address(ROUTED)),
            "POD": int(ip_address(POD)),
            "OTHER": int(ip_address(OTHER)),
            "POD_IFINDEX": view.ports["default/a"].ifindex,
            "OTHER_IFINDEX": view.ports["default/b"].ifindex,
        }


@pytest.fixture(scope="module")
def path(cubelet_network: network.TestNetwork) -> Iterator[Datapath]:
    """Each test uses client ports of its own."""
    made = Datapath(
        cubelet_network,
        stacks={name: [Nat] for name in PORT_CLASSES},
        core=[Crossing],
        settings={"nat": {"exempt": ["203.0.113.0/24", "198.51.100.0/24"]}},
        objects=[Node("node2", pod_cidrs=(IPv4Network("10.1.8.0/24"),))],
    )
    yield made
    made.close()


def frame(transport: Packet, dst: str, src: str) -> Packet:
    source = samples.pod_mac(0) if src == POD else "02:00:00:00:aa:aa"
    return Ether(src=source, dst=samples.ROUTER_MAC) / IP(src=src, dst=dst) / transport


def request(protocol: str, sport: int, dport: int) -> Packet:
    """A first packet; an echo request's identifier counts as its source port."""
    if protocol == "tcp":
        return TCP(sport=sport, dport=dport, flags="S")
    if protocol == "icmp":
        return ICMP(type=8, id=sport) / Raw(b"data")
    return UDP(sport=sport, dport=dport) / Raw(b"data")


def reply(protocol: str, sport: int, dport: int) -> Packet:
    """What answers ``request`` with the ports turned around."""
    if protocol == "tcp":
        return TCP(sport=sport, dport=dport, flags="SA")
    if protocol == "icmp":
        return ICMP(type=0, id=dport) / Raw(b"data")
    return UDP(sport=sport, dport=dport) / Raw(b"data")


@contextmanager
def pod_device() -> Iterator[Callable[[], Packet]]:
    """Listens at the first pod's end; the function gives the next frame."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind(("pod0p", 3))  # ETH_P_ALL
        end.settimeout(1)
        yield lambda: Ether(end.recv(2048))


def source_port(packet: Packet) -> int:
    return int(packet[ICMP].id if ICMP in packet else packet[IP].payload.sport)


def in_range(port: int) -> bool:
    return FIRST <= port < FIRST + COUNT


def assert_is(result: Result, leaves: str, wanted: Packet) -> None:
    """Out by this class with this IP packet, every checksum right."""
    assert (result.leaves, result.reason) == (leaves, "core/none")
    seen, expected = result.packet[IP], IP(bytes(wanted[IP]))
    assert bytes(seen) == bytes(expected), f"seen {seen!r}, wanted {expected!r}"


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_pods_leave_the_cluster_with_the_nodes_address(path: Datapath, protocol: str) -> None:
    result = path.send(frame(request(protocol, 1001, 80), OUTSIDE, POD))
    port = source_port(result.packet)
    assert in_range(port)
    assert_is(result, "uplink", frame(request(protocol, port, 80), OUTSIDE, NODE))
    with pod_device() as received:
        back = path.send(frame(reply(protocol, 80, port), NODE, OUTSIDE), enters="uplink")
        if back.verdict == "pass":  # the node has it, and the pod a copy
            back = replace(back, verdict="redirect", packet=received())
    assert_is(back, "pod", frame(reply(protocol, 80, 1001), POD, OUTSIDE))


def test_two_pods_never_share_a_port(path: Datapath) -> None:
    ports = set()
    for pod, src in (("default/a", POD), ("default/b", OTHER)):
        for dst in (OUTSIDE, "192.0.2.10"):
            result = path.send(frame(request("tcp", 12345, 81), dst, src), pod=pod)
            ports.add((dst, source_port(result.packet)))
    assert len(ports) == 4


PORTLESS = {
    "IPIP": (4, bytes(IP(src=POD, dst=OUTSIDE))),
    "GRE": (47, bytes(24)),
    "ESP": (50, bytes(40)),
    "AH": (51, bytes(24)),
    "OSPF": (89, bytes(44)),
    "L2TP": (115, bytes(24)),
    "SCTP": (132, bytes(SCTP(sport=3868, dport=3868)) + bytes(16)),
    "echo reply": (1, bytes(ICMP(type=0, id=1002) / b"data")),
    "timestamp": (1, bytes(ICMP(type=13, id=1002))),
    "router advertisement": (1, bytes(ICMP(type=9)) + bytes(8)),
}
portless = pytest.mark.parametrize(("protocol", "body"), PORTLESS.values(), ids=PORTLESS)


def bare(protocol: int, body: bytes, dst: str, src: str, **fields: int) -> Packet:
    source = samples.pod_mac(0) if src == POD else "02:00:00:00:aa:aa"
    ip = IP(src=src, dst=dst, proto=protocol, **fields)
    return Ether(src=source, dst=samples.ROUTER_MAC) / ip / Raw(body)


@portless
@pytest.mark.parametrize("enters", ["pod", "overlay", "host"])
def test_nobody_takes_the_nodes_replies(
    path: Datapath, protocol: int, body: bytes, enters: str
) -> None:
    """Without a port the node's own traffic with the same peer would come to the sender."""
    src = {"pod": POD, "overlay": ELSEWHERE, "host": GATEWAY}[enters]
    before = path.flows()
    result = path.send(bare(protocol, body, OUTSIDE, src), enters=enters)
    assert (result.verdict, result.reason) == ("drop", "nat/no_ports")
    assert path.flows().keys() == before.keys()
    answer = bare(protocol, body, NODE, OUTSIDE)
    assert path.send(answer, enters="uplink").verdict == "pass"


@portless
@pytest.mark.parametrize(("dst", "leaves"), [(OTHER, "pod"), (ELSEWHERE, "overlay")])
def test_between_pods_protocols_without_ports_go_on(
    path: Datapath, protocol: int, body: bytes, dst: str, leaves: str
) -> None:
    sent = bare(protocol, body, dst, POD)
    assert_is(path.send(sent), leaves, sent)


@portless
def test_exempt_networks_see_their_sender_too(path: Datapath, protocol: int, body: bytes) -> None:
    sent = bare(protocol, body, "203.0.113.9", POD)
    assert_is(path.send(sent), "uplink", sent)


def test_a_later_fragment_opens_no_flow_under_its_own_port(path: Datapath) -> None:
    """Its first fragment's flow is gone: it could be given to no port of the range."""
    whole = IP(src=POD, dst=OUTSIDE, id=77) / UDP(sport=1011, dport=53) / Raw(bytes(100))
    first, *later = (
        Ether(src=samples.pod_mac(0), dst=samples.ROUTER_MAC) / part for part in fragment(whole, 64)
    )
    assert path.send(first).leaves == "uplink"
    for name in ("pending", "flows"):
        table = path.maps[f"cubelet_{name}"]
        table.delete_batch([key for key, _ in table.items()])
    result = path.send(later[0])
    assert (result.verdict, result.reason) == ("drop", "nat/no_ports")


def test_sctp_through_a_node_port_still_reaches_another_node(path: Datapath) -> None:
    """All that the gateway's address sends by the overlay passes here: a taken key shows."""
    sent = frame(SCTP(sport=1002, dport=30002, chksum=1), NODE, OUTSIDER)
    wanted = frame(SCTP(sport=1002, dport=8080, chksum=1), ELSEWHERE, GATEWAY)
    assert_is(path.send(sent, enters="uplink"), "overlay", wanted)


def test_a_reply_to_a_pods_ping_is_left_to_the_node_too(path: Datapath) -> None:
    """Its own ping may have the identifier that the pod's was given."""
    sent = path.send(frame(request("icmp", 12_345, 0), OUTSIDE, POD))
    assert sent.packet[ICMP].id == 12_345
    for size in (8, 600):
        answer = frame(ICMP(type=0, id=12_345) / Raw(bytes(size)), NODE, OUTSIDE)
        result = path.send(answer, enters="uplink")
        assert (result.verdict, result.leaves) == ("pass", "pod")
        assert bytes(result.packet) == bytes(answer)


@pytest.mark.parametrize(
    "dst",
    [
        pytest.param("203.0.113.8", id="network of the settings"),
        pytest.param(ROUTED, id="pod of another node"),
    ],
)
def test_exempt_networks_see_the_pod(path: Datapath, dst: str) -> None:
    assert_is(
        path.send(frame(request("tcp", 1003, 80), dst, POD)),
        "uplink",
        frame(request("tcp", 1003, 80), dst, POD),
    )


def test_another_nodes_address_is_not_exempt(path: Datapath) -> None:
    result = path.send(frame(request("tcp", 1004, 80), "172.18.0.3", POD))
    assert (result.leaves, result.packet[IP].src) == ("uplink", NODE)


def test_the_nodes_own_address_is_left_alone_and_its_replies_to_its_stack(path: Datapath) -> None:
    sent = frame(request("tcp", 1009, 80), OUTSIDE, NODE)
    assert_is(path.send(sent, enters="host"), "uplink", sent)
    answer = frame(reply("tcp", 80, 1009), NODE, OUTSIDE)
    assert path.send(answer, enters="uplink").verdict == "pass"


@pytest.mark.parametrize(
    ("enters", "src", "dst", "dport", "leaves", "seen"),
    [
        pytest.param("host", NODE, NODE, 30001, "uplink", NODE, id="own address, translated"),
        pytest.param("host", GATEWAY, OUTSIDE, 80, "uplink", NODE, id="gateway by uplink"),
        pytest.param("overlay", ELSEWHERE, OUTSIDE, 80, "uplink", NODE, id="transit pod"),
        pytest.param("uplink", OUTSIDER, NODE, 30001, "uplink", NODE, id="back out"),
        pytest.param("uplink", OUTSIDER, NODE, 30002, "overlay", GATEWAY, id="to another node"),
        pytest.param("uplink", OUTSIDER, NODE, 30003, "pod", None, id="to a pod here"),
        pytest.param("uplink", OUTSIDER, NODE, 30004, "host", HAIRPIN, id="to the host network"),
        pytest.param("uplink", OUTSIDER, POD, 80, "pod", None, id="straight to a pod"),
        pytest.param("pod", POD, ELSEWHERE, 80, "overlay", None, id="pod to pod far away"),
        pytest.param("pod", POD, OTHER, 80, "pod", None, id="pod to pod"),
        pytest.param("pod", POD, NODE, 22, "host", None, id="pod to its node"),
        pytest.param("pod", POD, NODE, 30004, "host", None, id="pod to a host network's pod"),
        pytest.param("pod", POD, NODE, 30002, "overlay", None, id="pod through a Service"),
        pytest.param("host", GATEWAY, ELSEWHERE, 80, "overlay", None, id="gateway by overlay"),
        pytest.param("host", NODE, ELSEWHERE, 80, "overlay", GATEWAY, id="node by overlay"),
        pytest.param("host", GATEWAY, OTHER, 80, "pod", None, id="host to pod"),
        pytest.param("host", NODE, POD, 80, "pod", None, id="node to pod"),
        pytest.param("host", GATEWAY, NODE, 30004, "host", HAIRPIN, id="host to itself"),
        pytest.param("overlay", ELSEWHERE, POD, 80, "pod", None, id="from a pod far away"),
    ],
)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_source(
    path: Datapath,
    protocol: str,
    enters: str,
    src: str,
    dst: str,
    dport: int,
    leaves: str,
    seen: str | None,
) -> None:
    """``seen`` None: the sender's own address and port."""
    result = path.send(frame(request(protocol, 1005, dport), dst, src), enters=enters)
    to = {30001: OUTSIDE, 30002: ELSEWHERE, 30003: POD, 30004: NODE}.get(dport, dst)
    target = 8080 if dport > 30000 else dport
    port = source_port(result.packet)
    assert in_range(port) if seen else port == 1005
    assert_is(result, leaves, frame(request(protocol, port, target), to, seen or src))
    answers = path.send(
        frame(reply(protocol, target, port), seen or src, to),
        enters=leaves,
        pod="default/a" if to == POD else "default/b",
    )
    assert_is(answers, enters, frame(reply(protocol, dport, 1005), src, dst))


@pytest.mark.parametrize(
    ("dport", "leaves", "to", "seen"),
    [
        pytest.param(30001, "uplink", OUTSIDE, NODE, id="by the uplink"),
        pytest.param(30002, "overlay", ELSEWHERE, GATEWAY, id="to another node"),
        pytest.param(30003, "pod", POD, GATEWAY, id="to a pod here"),
        pytest.param(30004, "host", NODE, HAIRPIN, id="to the host network"),
        pytest.param(30005, "uplink", ROUTED, NODE, id="to an exempt network"),
    ],
)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_nobody_sees_that_the_node_asked_127_0_0_1(
    path: Datapath, protocol: str, dport: int, leaves: str, to: str, seen: str
) -> None:
    sent = frame(request(protocol, 1010, dport), LOCALHOST, LOCALHOST)
    result = path.send(sent, enters="host")
    port = source_port(result.packet)
    assert in_range(port)
    assert_is(result, leaves, frame(request(protocol, port, 8080), to, seen))


def test_a_request_to_127_0_0_1_without_ports_leaves_the_node_by_no_uplink(path: Datapath) -> None:
    sent = frame(SCTP(sport=1003, dport=30001), LOCALHOST, LOCALHOST)
    result = path.send(sent, enters="host")
    assert (result.verdict, result.reason) == ("drop", "nat/no_ports")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_pod_that_reaches_itself_sees_the_hairpin_address(path: Datapath, protocol: str) -> None:
    result = path.send(frame(request(protocol, 1006, 30003), NODE, POD))
    assert_is(result, "pod", frame(request(protocol, 1006, 8080), POD, HAIRPIN))
    back = path.send(frame(reply(protocol, 8080, 1006), HAIRPIN, POD))
    assert_is(back, "pod", frame(reply(protocol, 30003, 1006), POD, NODE))


def test_another_pod_behind_the_same_service_sees_the_client(path: Datapath) -> None:
    sent = frame(request("tcp", 1007, 30003), NODE, OTHER)
    result = path.send(sent, pod="default/b")
    assert_is(result, "pod", frame(request("tcp", 1007, 8080), POD, OTHER))


def test_a_flow_that_is_judged_again_keeps_its_translation(path: Datapath) -> None:
    first = path.send(frame(request("udp", 1008, 53), OUTSIDE, POD))
    path.apply(Node("node3", addresses=(ip_address("172.18.0.9"),)))
    again = path.send(frame(request("udp", 1008, 53), OUTSIDE, POD))
    assert bytes(again.packet) == bytes(first.packet)
    assert len([key for key in path.flows() if 1008 in {key.sport, key.dport}]) == 1
