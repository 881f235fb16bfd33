"""Packets between policies, through this cube alone and a core with one way out."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any, cast

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

from cubelet.composer.composition import Mode
from cubelet.testkit import Datapath, Result
from cubelet.testkit.network import TestNetwork
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC, pod_mac
from cubelet.testkit.twins import Twins
from cubelet_firewall.cube import Firewall
from cubelet_hooks.objects import ContainerPort, Namespace, NetworkPolicy, Node, Pod

from .node import policy

OUTLET_MAC = "02:00:00:00:ff:01"
A, D, FRIEND, STRANGER = "10.1.0.2", "10.1.0.5", "10.1.9.2", "10.1.9.3"
OUTSIDE = "192.0.2.7"


def known(name: str, address: str, **labels: str) -> Pod:
    ports = (ContainerPort(8080, "TCP", "web"),)
    return Pod("default", name, labels=labels, ips=(ip_address(address),), ports=ports)


BASICS = (
    Namespace("default", {"kubernetes.io/metadata.name": "default"}),
    known("a", A, app="a"),
    known("b", "10.1.0.3", app="b"),
    known("d", D, app="d"),
    known("friend", FRIEND, app="friend"),
    known("stranger", STRANGER, app="stranger"),
)
SELECTS_A = {"matchLabels": {"app": "a"}}
SELECTS_D = {"matchLabels": {"app": "d"}}
FRIENDS = {"podSelector": {"matchLabels": {"app": "friend"}}}
BLOCK = {"ipBlock": {"cidr": "192.0.0.0/8", "except": ["192.0.2.128/25"]}}


@pytest.fixture(params=["fused", "tailcall"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return cast(Mode, request.param)


@pytest.fixture(params=[Datapath, Twins], ids=["ipv4", "ipv6"])
def kind(request: pytest.FixtureRequest) -> type[Datapath]:
    """The same cases in both families."""
    return cast(type[Datapath], request.param)


@pytest.fixture
def leaving(cubelet_network: TestNetwork, mode: Mode, kind: type[Datapath]) -> Iterator[Datapath]:
    """All leaves by the uplink."""
    yield from _datapath(cubelet_network, mode, "uplink", kind)


@pytest.fixture
def arriving(cubelet_network: TestNetwork, mode: Mode, kind: type[Datapath]) -> Iterator[Datapath]:
    """All leaves by the port of pod d."""
    yield from _datapath(cubelet_network, mode, "pod", kind)


def _datapath(
    network: TestNetwork, mode: Mode, leaves: str, kind: type[Datapath]
) -> Iterator[Datapath]:
    made = kind(
        network,
        stacks={"pod": [Firewall]},
        settings={"outlet": {"leaves": leaves}},
        mode=mode,
        objects=BASICS,
    )
    yield made
    made.close()


def frame(transport: Packet, dst: str, src: str = A, mac: str = pod_mac(0)) -> Packet:
    return Ether(src=mac, dst=ROUTER_MAC) / IP(src=src, dst=dst) / transport


def syn(port: int, sport: int = 4000) -> Packet:
    return TCP(sport=sport, dport=port, flags="S", seq=7)


def verdict(result: Result, sent: Packet) -> str:
    """``sent``, after a look at the whole frame, or why not."""
    if result.verdict == "drop":
        return result.reason
    wanted = Ether(src=result.packet.src, dst=result.packet.dst) / sent[IP].copy()
    wanted[IP].ttl -= 1
    assert bytes(result.packet) == bytes(wanted), f"{result.packet!r}, wanted {wanted!r}"
    assert (result.verdict, result.reason) == ("redirect", "core/none")
    return "sent"


def udp(port: int) -> Packet:
    return UDP(sport=4000, dport=port) / Raw(b"data")


def init(port: int) -> Packet:
    return SCTP(sport=4000, dport=port) / SCTPChunkInit(init_tag=1)


ECHO = ICMP(type=8, id=7, seq=1) / Raw(b"ping")
RULES: list[dict[str, Any]] = [
    {"to": [FRIENDS], "ports": [{"port": 80}, {"port": "web"}, {"port": 9000, "endPort": 9010}]},
    {"to": [BLOCK], "ports": [{"port": 53, "protocol": "UDP"}, {"protocol": "SCTP"}]},
    {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]},
]
EGRESS = policy("leaving", "default", podSelector=SELECTS_A, egress=RULES)
INGRESS = policy(
    "arriving",
    "default",
    podSelector=SELECTS_D,
    ingress=[
        {"from": rule["to"], **{k: v for k, v in rule.items() if k != "to"}} for rule in RULES
    ],
)
JUDGED = [
    (FRIEND, syn(80), True),
    (FRIEND, syn(8080), True),
    (FRIEND, syn(9000), True),
    (FRIEND, syn(9010), True),
    (FRIEND, syn(8999), False),
    (FRIEND, syn(9011), False),
    (FRIEND, udp(80), False),
    (FRIEND, init(80), False),
    (FRIEND, ECHO, False),
    (STRANGER, syn(80), False),
    ("192.0.2.7", udp(53), True),
    ("192.0.2.7", init(9), True),
    ("192.0.2.7", udp(54), False),
    ("192.0.2.7", syn(53), False),
    ("192.0.2.129", udp(53), False),
    ("198.51.100.1", syn(1), True),
    ("198.51.100.1", ECHO, True),
    ("203.0.113.1", syn(80), False),
]


def test_without_policies_all_may_pass(leaving: Datapath) -> None:
    for other, transport, _ in JUDGED:
        sent = frame(transport, other)
        assert verdict(leaving.send(sent), sent) == "sent"


def test_egress(leaving: Datapath) -> None:
    leaving.apply(EGRESS)
    seen = [
        (other, transport, verdict(leaving.send(sent), sent))
        for other, transport, _ in JUDGED
        for sent in [frame(transport, other)]
    ]
    assert seen == [
        (other, transport, "sent" if allowed else "firewall/egress_denied")
        for other, transport, allowed in JUDGED
    ]


def test_ingress(arriving: Datapath) -> None:
    arriving.apply(INGRESS)
    seen = [
        (other, transport, verdict(arriving.send(sent, "overlay"), sent))
        for other, transport, _ in JUDGED
        for sent in [frame(transport, D, other, mac="02:00:00:00:aa:aa")]
    ]
    assert seen == [
        (other, transport, "sent" if allowed else "firewall/ingress_denied")
        for other, transport, allowed in JUDGED
    ]


def test_from_the_uplink_comes_no_pod(arriving: Datapath) -> None:
    """Whatever its source address claims; what is allowed by address still is."""
    arriving.apply(INGRESS)
    for other, transport, allowed in JUDGED:
        sent = frame(transport, D, other, mac="02:00:00:00:aa:aa")
        pod = other in {FRIEND, STRANGER}
        wanted = "sent" if allowed and not pod else "firewall/ingress_denied"
        assert verdict(arriving.send(sent, "uplink"), sent) == wanted


def test_other_pods_stay_open(leaving: Datapath) -> None:
    leaving.apply(EGRESS)
    sent = frame(syn(80), STRANGER, "10.1.0.3", pod_mac(1))
    assert verdict(leaving.send(sent, pod="default/b"), sent) == "sent"


def test_the_node_reaches_its_own_pods(arriving: Datapath) -> None:
    arriving.apply(policy("closed", "default", ingress=[]))
    sent = frame(syn(80), D, "172.18.0.2", GATEWAY_MAC)
    assert verdict(arriving.send(sent, "host"), sent) == "sent"
    claimed = frame(syn(81), D, "172.18.0.2", "02:00:00:00:aa:aa")
    assert verdict(arriving.send(claimed, "uplink"), claimed) == "core/martian"


def test_a_pod_reaches_itself(arriving: Datapath) -> None:
    arriving.apply(policy("closed", "default", ingress=[], egress=[]))
    sent = frame(syn(80), D, D, pod_mac(3))
    assert verdict(arriving.send(sent, pod="default/d"), sent) == "sent"
    claimed = frame(syn(81), D, D, "02:00:00:00:aa:aa")
    # The core knows whose address it is before this cube is asked.
    assert verdict(arriving.send(claimed, "uplink"), claimed) == "core/martian"


def test_both_ends_judge(arriving: Datapath) -> None:
    sent = frame(syn(80), D)
    assert verdict(arriving.send(sent), sent) == "sent"
    closed_in = policy("in", "default", podSelector=SELECTS_D, ingress=[])
    arriving.apply(closed_in)
    assert verdict(arriving.send(sent), sent) == "firewall/ingress_denied"
    arriving.apply(policy("out", "default", podSelector=SELECTS_A, egress=[]))
    assert verdict(arriving.send(sent), sent) == "firewall/egress_denied"


def test_a_reply_follows_its_flow(arriving: Datapath) -> None:
    """Neither end may open a flow the other way; the reply goes back to where the flow began."""
    arriving.apply(
        policy("a", "default", podSelector=SELECTS_A, ingress=[]),
        policy("d", "default", podSelector=SELECTS_D, egress=[]),
    )
    first = frame(syn(80), D)
    assert verdict(arriving.send(first), first) == "sent"
    answer = TCP(sport=80, dport=4000, flags="SA", seq=1, ack=8)
    reply = frame(answer, A, D, pod_mac(3))
    assert verdict(arriving.send(reply, pod="default/d"), reply) == "sent"
    other = frame(TCP(sport=80, dport=4001, flags="S"), A, D, pod_mac(3))
    assert verdict(arriving.send(other, pod="default/d"), other) == "firewall/egress_denied"


def test_what_was_allowed_ends_with_its_permission(leaving: Datapath) -> None:
    allowing = policy("p", "default", podSelector=SELECTS_A, egress=[{"to": [FRIENDS]}])
    leaving.apply(allowing)
    sent = frame(udp(53), FRIEND)
    assert verdict(leaving.send(sent), sent) == "sent"
    leaving.apply(known("friend", FRIEND, app="stranger"))
    assert verdict(leaving.send(sent), sent) == "firewall/egress_denied"
    leaving.apply(known("friend", FRIEND, app="friend"))
    assert verdict(leaving.send(sent), sent) == "sent"
    leaving.apply(policy("p", "default", podSelector=SELECTS_A, egress=[]))
    assert verdict(leaving.send(sent), sent) == "firewall/egress_denied"
    leaving.delete(policy("p", "default", podSelector=SELECTS_A, egress=[]))
    assert verdict(leaving.send(sent), sent) == "sent"


def test_an_attached_pod_that_is_not_known_is_closed(leaving: Datapath) -> None:
    """Pod c has a port, but there is no such pod yet."""
    sent = frame(udp(53), OUTSIDE, "10.1.0.4", pod_mac(2))
    assert verdict(leaving.send(sent, pod="default/c"), sent) == "sent"
    leaving.apply(EGRESS)
    assert verdict(leaving.send(sent, pod="default/c"), sent) == "firewall/egress_denied"
    leaving.apply(known("c", "10.1.0.4", app="c"))
    assert verdict(leaving.send(sent, pod="default/c"), sent) == "sent"


def from_host(dst: str = D) -> Packet:
    """What the host of node2 sends to a pod here: from the first of its pods' addresses."""
    return frame(syn(80), dst, "10.1.9.1", mac="02:00:00:00:aa:aa")


def node2(*addresses: str) -> Node:
    found = tuple(map(ip_address, addresses))
    return Node("node2", addresses=found, pod_cidrs=(ip_network("10.1.9.0/24"),))


def allowing(block: dict[str, Any]) -> NetworkPolicy:
    rules = [{"from": [{"ipBlock": block}]}]
    return policy("p", "default", podSelector=SELECTS_D, ingress=rules)


DENIED = "firewall/ingress_denied"


@pytest.mark.parametrize(
    ("block", "addresses", "wanted"),
    [
        ({"cidr": "172.18.0.3/32"}, ["172.18.0.3"], "sent"),
        ({"cidr": "172.18.0.0/24"}, ["172.18.0.3"], "sent"),
        ({"cidr": "172.18.0.0/24", "except": ["172.18.0.3/32"]}, ["172.18.0.3"], DENIED),
        ({"cidr": "172.18.0.4/32"}, ["172.18.0.3"], DENIED),
        ({"cidr": "172.18.0.3/32"}, [], DENIED),
        ({"cidr": "203.0.113.3/32"}, ["172.18.0.3", "203.0.113.3"], "sent"),
        ({"cidr": "10.1.9.1/32"}, ["172.18.0.3"], "sent"),
    ],
)
def test_a_host_is_meant_by_its_nodes_addresses(
    arriving: Datapath, block: dict[str, Any], addresses: list[str], wanted: str
) -> None:
    arriving.apply(node2(*addresses), allowing(block))
    assert verdict(arriving.send(from_host(), "overlay"), from_host()) == wanted


def test_only_the_overlay_brings_another_nodes_host(arriving: Datapath) -> None:
    arriving.apply(node2("172.18.0.3"), allowing({"cidr": "172.18.0.3/32"}))
    assert verdict(arriving.send(from_host(), "uplink"), from_host()) == "core/martian"
    pod = frame(syn(80), D, FRIEND, mac="02:00:00:00:aa:aa")
    assert verdict(arriving.send(pod, "overlay"), pod) == DENIED


def test_a_hosts_flow_ends_with_its_permission(arriving: Datapath) -> None:
    arriving.apply(node2("172.18.0.3"), allowing({"cidr": "172.18.0.3/32"}))
    sent = frame(udp(53), D, "10.1.9.1", mac="02:00:00:00:aa:aa")
    assert verdict(arriving.send(sent, "overlay"), sent) == "sent"
    arriving.apply(node2("172.18.0.9"))
    assert verdict(arriving.send(sent, "overlay"), sent) == DENIED
    arriving.apply(node2("172.18.0.3"))
    assert verdict(arriving.send(sent, "overlay"), sent) == "sent"
    arriving.delete(node2("172.18.0.3"))
    assert verdict(arriving.send(sent, "overlay"), sent) == DENIED


def test_egress_to_a_hosts_address_among_its_pods_is_meant_by_that_one(leaving: Datapath) -> None:
    allowed = [{"to": [{"ipBlock": {"cidr": "172.18.0.3/32"}}]}]
    leaving.apply(
        node2("172.18.0.3"), policy("p", "default", podSelector=SELECTS_A, egress=allowed)
    )
    to_host, among_pods = frame(syn(80), "172.18.0.3"), frame(syn(80), "10.1.9.1")
    assert verdict(leaving.send(to_host), to_host) == "sent"
    assert verdict(leaving.send(among_pods), among_pods) == "firewall/egress_denied"


def test_what_does_not_fit_is_closed_and_others_pods_are_not(
    cubelet_network: TestNetwork, mode: Mode, kind: type[Datapath]
) -> None:
    """Of two policies in the same namespace the one that is too large is refused, alone."""
    many = [{"ipBlock": {"cidr": f"192.0.2.{n}/32"}} for n in range(8)]
    large = policy("large", "default", podSelector=SELECTS_A, egress=[{"to": many}])
    small = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    made = kind(
        cubelet_network,
        stacks={"pod": [Firewall]},
        settings={"outlet": {"leaves": "uplink"}, "firewall": {"max_blocks": 8}},
        mode=mode,
        objects=BASICS,
    )
    try:
        made.apply(
            large,
            policy(
                "small",
                "default",
                podSelector={"matchLabels": {"app": "b"}},
                egress=[{"to": small}],
            ),
        )
        [complaint] = made.complaints
        told = str(complaint)
        assert (
            "ipBlocks in the egress policies of default/a: refused: it needs more than the 7"
            in told
        )
        mine, others = frame(syn(80), OUTSIDE), frame(syn(80), OUTSIDE, "10.1.0.3", pod_mac(1))
        assert verdict(made.send(mine), mine) == "firewall/egress_denied"
        assert verdict(made.send(others, pod="default/b"), others) == "sent"
        made.apply(policy("large", "default", podSelector=SELECTS_A, egress=[{"to": many[-3:]}]))
        assert made.rejected == []
        assert verdict(made.send(mine), mine) == "sent"
    finally:
        made.close()
