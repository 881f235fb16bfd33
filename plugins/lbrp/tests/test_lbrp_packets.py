"""Packets to Services, through this cube alone and a core that sends all to the uplink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet

from cubelet.testkit import Datapath, Result, network
from cubelet.testkit.samples import ROUTER_MAC
from cubelet.testkit.twins import Twins
from cubelet_hooks.objects import (
    HostPort,
    Node,
    Object,
    Port,
    ServicePort,
)
from cubelet_lbrp.cube import Lbrp
from cubelet_lbrp.records import Frontend, FrontendKey, Scope

from .frames import (
    NODE,
    NODE_PORTS,
    OUTLET_MAC,
    OUTSIDER,
    POD,
    PORTS,
    assert_refused,
    assert_sent,
    backend,
    data,
    datagram,
    draining,
    frame,
    ready,
    service,
    slice_of,
    syn,
)

OPEN = {("10.1.7.4", 8080), ("10.1.0.3", 8080)}
"""The endpoints of Service ``open`` at its target port."""
WEB = ["10.1.7.1", "10.1.7.2", "10.1.7.3"]
OBJECTS: tuple[Object, ...] = (
    service("web", "10.96.0.1"),
    slice_of("web", *map(ready, WEB)),
    service("empty", "10.96.0.2"),
    service("open", "10.96.0.3", type="NodePort", ports=NODE_PORTS),
    slice_of("open", ready("10.1.7.4"), ready("10.1.0.3", "node1")),
)


@pytest.fixture(scope="module", params=[Datapath, Twins], ids=["ipv4", "ipv6"])
def path(
    cubelet_network: network.TestNetwork, request: pytest.FixtureRequest
) -> Iterator[Datapath]:
    """Each test uses client ports, and mostly Services, of its own."""
    made: Datapath = request.param(
        cubelet_network,
        stacks={"pod": [Lbrp], "host": [Lbrp], "uplink": [Lbrp]},
        settings={"outlet": {"leaves": "uplink"}},
        objects=OBJECTS,
    )
    yield made
    made.close()


@pytest.mark.parametrize(
    ("transport", "port", "target"), [(syn, 80, 8080), (datagram, 53, 5353)], ids=["tcp", "udp"]
)
def test_a_flow_to_a_cluster_ip_is_translated_both_ways(
    path: Datapath, transport: Any, port: int, target: int
) -> None:
    for _ in range(2):  # the second packet takes the flow's record
        result = path.send(frame(transport(1001, port), "10.96.0.1"))
        address = result.packet[IP].dst
        assert address in WEB
        assert_sent(result, frame(transport(1001, target), address))
    back = path.send(
        Ether(src=OUTLET_MAC, dst=ROUTER_MAC)
        / IP(src=address, dst=POD)
        / (TCP(sport=target, dport=1001, flags="SA") if port == 80 else datagram(target, 1001)),
        enters="uplink",
    )
    assert (back.leaves, back.packet[IP].src, back.packet[IP].payload.sport) == (
        "pod",
        "10.96.0.1",
        port,
    )


def test_the_host_reaches_a_cluster_ip(path: Datapath) -> None:
    result = path.send(frame(syn(1002, 80), "10.96.0.1", "10.1.0.1", "host"), enters="host")
    assert_sent(result, frame(syn(1002, 8080), result.packet[IP].dst, "10.1.0.1"))
    assert result.packet[IP].dst in WEB


def test_flows_spread_over_the_backends(path: Datapath) -> None:
    seen = Counter(
        backend(path.send(frame(syn(port, 80), "10.96.0.1"))) for port in range(20000, 20300)
    )
    assert set(seen) == {(address, 8080) for address in WEB}
    assert all(60 < count < 140 for count in seen.values()), seen


def test_a_flow_whose_record_is_lost_finds_its_backend_again(
    cubelet_network: network.TestNetwork,
) -> None:
    path = Datapath(cubelet_network, stacks={"pod": [Lbrp]}, objects=OBJECTS)
    with closing(path):
        first = backend(path.send(frame(syn(1003, 80), "10.96.0.1")))
        path.lose_records()
        assert backend(path.send(frame(data(1003, 80), "10.96.0.1"))) == first


@pytest.mark.parametrize(
    ("dst", "transport", "reason"),
    [
        ("10.96.0.1", syn(1004, 81), "lbrp/no_service"),
        ("10.96.0.1", datagram(1004, 80), "lbrp/no_service"),
        ("10.96.0.1", ICMP(type=8, id=4), "lbrp/no_service"),
        ("10.96.0.2", syn(1004, 80), "lbrp/no_endpoints"),
        ("10.96.0.2", datagram(1004, 53), "lbrp/no_endpoints"),
    ],
)
def test_what_nobody_serves_is_refused_at_once(
    path: Datapath, dst: str, transport: Packet, reason: str
) -> None:
    result = path.send(frame(transport, dst))
    assert_refused(result, reason)
    assert result.packet[IP].dst == POD
    if TCP in transport:
        assert (result.packet[TCP].flags, result.packet[TCP].ack) == ("RA", 8)
    else:
        assert (result.packet[ICMP].type, result.packet[ICMP].code) == (3, 3)


def test_other_addresses_are_left_alone(path: Datapath) -> None:
    for transport in (syn(1005, 80), datagram(1005, 53), ICMP(type=8, id=1005)):
        sent = frame(transport, "192.0.2.80")
        assert_sent(path.send(sent), sent)


@pytest.mark.parametrize(
    ("enters", "src"), [("pod", POD), ("host", "10.1.0.1"), ("uplink", OUTSIDER)]
)
def test_a_node_port_is_served_on_the_nodes_address(path: Datapath, enters: str, src: str) -> None:
    result = path.send(frame(syn(1006, 30080), NODE, src, enters), enters=enters)
    assert backend(result) in {("10.1.7.4", 8080), ("10.1.0.3", 8080)}
    assert_sent(result, frame(syn(1006, 8080), result.packet[IP].dst, src))
    udp = path.send(frame(datagram(1006, 30053), NODE, src, enters), enters=enters)
    assert backend(udp) in {("10.1.7.4", 5353), ("10.1.0.3", 5353)}


def test_a_node_port_is_one_of_its_protocol_and_its_node(path: Datapath) -> None:
    for sent in (
        frame(datagram(1007, 30080), NODE),
        frame(syn(1007, 30081), NODE),
        frame(syn(1007, 80), NODE),
        frame(syn(1007, 30080), "172.18.0.3"),
    ):
        assert_sent(path.send(sent), sent)


def test_a_cluster_ip_is_not_served_to_the_outside(path: Datapath) -> None:
    sent = frame(syn(1008, 80), "10.96.0.1", OUTSIDER, "uplink")
    result = path.send(sent, enters="uplink")
    assert (result.verdict, bytes(result.packet)) == ("pass", bytes(sent))


def test_a_local_policy_binds_what_comes_from_outside(path: Datapath) -> None:
    ports = (ServicePort("http", "TCP", 80, 8080, node_port=30180),)
    local = service(
        "local", "10.96.0.4", type="NodePort", ports=ports, external_traffic_policy="Local"
    )
    path.apply(local, slice_of("local", ready("10.1.7.4"), ready("10.1.0.3", "node1")))
    from_outside = [
        path.send(frame(syn(port, 30180), NODE, OUTSIDER, "uplink"), enters="uplink")
        for port in range(1100, 1120)
    ]
    assert {backend(result) for result in from_outside} == {("10.1.0.3", 8080)}
    path.apply(slice_of("local", ready("10.1.7.4")))
    nowhere = path.send(frame(syn(1009, 30180), NODE, OUTSIDER, "uplink"), enters="uplink")
    assert (nowhere.verdict, nowhere.reason) == ("drop", "lbrp/no_local_endpoints")
    assert backend(path.send(frame(syn(1009, 30180), NODE))) == ("10.1.7.4", 8080)


def test_an_external_address_is_virtual_unless_it_is_a_nodes(path: Datapath) -> None:
    external = (ip_address("203.0.113.5"), ip_address("172.18.0.9"))
    path.apply(
        service("external", "10.96.0.5", external_ips=external),
        slice_of("external", ready("10.1.7.5")),
    )
    for address in map(str, external):
        assert backend(path.send(frame(syn(1010, 80), address))) == ("10.1.7.5", 8080)
        assert_refused(path.send(frame(syn(1010, 22), address)), "lbrp/no_service")
    path.apply(Node("node9", addresses=external[1:]))
    assert_refused(path.send(frame(syn(1011, 22), "203.0.113.5")), "lbrp/no_service")
    sent = frame(syn(1011, 22), "172.18.0.9")
    assert_sent(path.send(sent), sent)


def test_of_an_address_that_somebody_has_others_ports_stay_theirs(path: Datapath) -> None:
    """A pod's is not served at all; a stranger's on the nodes' network by port alone."""
    local = path.network.local
    path.apply(
        msgspec.structs.replace(local, onlink=(ip_network("192.0.2.0/24"),)),
        Node("node8", pod_cidrs=(ip_network("10.8.0.0/24"),)),
        service(
            "claims",
            "10.96.0.21",
            external_ips=(ip_address("192.0.2.9"), ip_address("10.8.0.7")),
        ),
        slice_of("claims", ready("10.1.7.5")),
    )
    assert backend(path.send(frame(syn(1030, 80), "192.0.2.9"))) == ("10.1.7.5", 8080)
    for sent in (
        frame(syn(1030, 22), "192.0.2.9"),
        frame(syn(1030, 80), "10.8.0.7"),
        frame(syn(1030, 22), "10.8.0.7"),
    ):
        assert_sent(path.send(sent), sent)
    assert [each.key for each in path.complaints] == ["default/claims"]
    path.apply(local)
    assert_refused(path.send(frame(syn(1031, 22), "192.0.2.9")), "lbrp/no_service")
    path.delete(service("claims", "10.96.0.21"))
    assert path.complaints == frozenset()


def test_udp_follows_the_backends_tcp_stays_whatever_becomes_of_its_endpoint(
    path: Datapath,
) -> None:
    path.apply(service("moving", "10.96.0.6"), slice_of("moving", ready("10.1.7.6")))
    connection = frame(data(1012, 80), "10.96.0.6")
    exchange = frame(datagram(1012, 53), "10.96.0.6")

    def backends() -> tuple[tuple[str, int], tuple[str, int]]:
        return backend(path.send(connection)), backend(path.send(exchange))

    path.send(frame(syn(1012, 80), "10.96.0.6"))
    assert backends() == (("10.1.7.6", 8080), ("10.1.7.6", 5353))
    path.apply(slice_of("moving", draining("10.1.7.6"), ready("10.1.7.7")))
    assert backends() == (("10.1.7.6", 8080), ("10.1.7.7", 5353))
    path.apply(slice_of("moving", ready("10.1.7.6"), ready("10.1.7.7")))
    assert backends() == (("10.1.7.6", 8080), ("10.1.7.7", 5353))
    path.apply(slice_of("moving", ready("10.1.7.7")))
    assert backends() == (("10.1.7.6", 8080), ("10.1.7.7", 5353))
    path.apply(slice_of("moving"))
    assert backend(path.send(connection)) == ("10.1.7.6", 8080)
    assert_refused(path.send(exchange), "lbrp/no_endpoints")
    path.delete(service("moving", "10.96.0.6"))
    assert backend(path.send(connection)) == ("10.1.7.6", 8080)
    assert_sent(path.send(exchange), exchange)


def test_a_connection_that_never_opened_does_not_wait_for_a_draining_backend(
    path: Datapath,
) -> None:
    path.apply(service("slow", "10.96.0.7"), slice_of("slow", ready("10.1.7.6")))
    first = frame(syn(1013, 80), "10.96.0.7")
    assert backend(path.send(first)) == ("10.1.7.6", 8080)
    path.apply(slice_of("slow", draining("10.1.7.6"), ready("10.1.7.7")))
    assert backend(path.send(first)) == ("10.1.7.7", 8080)


def test_draining_backends_serve_when_none_is_ready(path: Datapath) -> None:
    path.apply(service("last", "10.96.0.8"), slice_of("last", draining("10.1.7.8")))
    assert backend(path.send(frame(syn(1014, 80), "10.96.0.8"))) == ("10.1.7.8", 8080)


def test_a_service_without_endpoints_works_as_soon_as_it_has_one(path: Datapath) -> None:
    exchange = frame(datagram(1015, 53), "10.96.0.9")
    path.apply(service("late", "10.96.0.9"))
    assert_refused(path.send(exchange), "lbrp/no_endpoints")
    path.apply(slice_of("late", ready("10.1.7.9")))
    assert backend(path.send(exchange)) == ("10.1.7.9", 5353)
    path.apply(slice_of("late"))
    assert_refused(path.send(exchange), "lbrp/no_endpoints")


def test_a_flow_ends_with_its_service_or_its_port(path: Datapath) -> None:
    moved = service("gone", "10.96.0.10")
    exchange = frame(datagram(1016, 53), "10.96.0.10")
    path.apply(moved, slice_of("gone", ready("10.1.7.10")))
    assert backend(path.send(exchange)) == ("10.1.7.10", 5353)
    path.apply(msgspec.structs.replace(moved, ports=PORTS[:1]))
    assert_refused(path.send(exchange), "lbrp/no_service")
    path.apply(moved)
    assert backend(path.send(exchange)) == ("10.1.7.10", 5353)
    path.delete(moved)
    assert_sent(path.send(exchange), exchange)


def test_a_reply_of_a_flow_that_has_ended_is_dropped(path: Datapath) -> None:
    ended = service("ended", "10.96.0.11")
    path.apply(ended, slice_of("ended", ready("10.1.7.11")))
    path.send(frame(datagram(1017, 53), "10.96.0.11"))
    path.delete(ended)
    reply = frame(datagram(5353, 1017), POD, "10.1.7.11", "uplink")
    result = path.send(reply, enters="uplink")
    assert (result.verdict, result.reason) == ("drop", "lbrp/service_gone")


def test_a_new_service_takes_over_datagrams_but_no_connection(path: Datapath) -> None:
    connection = frame(data(1018, 80), "203.0.113.12")
    exchange = frame(datagram(1018, 53), "203.0.113.12")
    answer = TCP(sport=80, dport=1018, flags="SA", seq=20, ack=8)
    opened = frame(syn(1018, 80), "203.0.113.12")
    assert_sent(path.send(opened), opened)
    path.send(frame(answer, POD, "203.0.113.12", "uplink"), enters="uplink")
    for sent in (connection, exchange):
        assert_sent(path.send(sent), sent)
    path.apply(
        service("new", "10.96.0.12", external_ips=(ip_address("203.0.113.12"),)),
        slice_of("new", ready("10.1.7.12")),
    )
    assert_sent(path.send(connection), connection)
    assert backend(path.send(exchange)) == ("10.1.7.12", 5353)
    assert backend(path.send(frame(syn(1019, 80), "203.0.113.12"))) == ("10.1.7.12", 8080)


def test_a_set_that_is_not_there_is_a_reason_of_its_own(path: Datapath) -> None:
    key = FrontendKey(ip_address("10.96.0.13"), 80, 6, Scope.INSIDE)
    path.put("lbrp", "services", key, Frontend(set_id=13, count=2, elsewhere=0))
    result = path.send(frame(syn(1020, 80), "10.96.0.13"))
    assert (result.verdict, result.reason) == ("drop", "lbrp/no_backend")


def with_host_ports(
    path: Datapath, pod: str, *host_ports: HostPort, ifindex: int | None = None
) -> Port:
    """A pod's port as CNI attaches it when the pod asks for these."""
    port = path.network.ports[f"default/{pod}"]
    return msgspec.structs.replace(
        port, host_ports=host_ports, ifindex=port.ifindex if ifindex is None else ifindex
    )


@pytest.mark.parametrize(
    ("enters", "src"), [("pod", POD), ("host", "10.1.0.1"), ("uplink", OUTSIDER)]
)
def test_a_host_port_leads_to_its_pod_and_the_client_keeps_its_address(
    path: Datapath, enters: str, src: str
) -> None:
    path.apply(with_host_ports(path, "b", HostPort(443, 8443), HostPort(443, 8444, "UDP")))
    for transport, target in ((syn, 8443), (datagram, 8444)):
        for _ in range(2):
            result = path.send(frame(transport(1030, 443), NODE, src, enters), enters=enters)
            assert_sent(result, frame(transport(1030, target), "10.1.0.3", src, enters))
    if enters != "uplink":  # where this core sends all, and what it sends to strangers is no one's
        answer = frame(TCP(sport=8443, dport=1030, flags="SA"), src, "10.1.0.3", "uplink")
        back = path.send(answer, enters="uplink")
        assert (back.packet[IP].src, back.packet[TCP].sport) == (NODE, 443)
    other = frame(syn(1031, 8443), NODE, src, enters)
    untouched = path.send(other, enters=enters)
    assert untouched.packet[IP].dst == NODE
    path.apply(with_host_ports(path, "b"))


@pytest.mark.parametrize("host_ip", [None, "127.0.0.1"])
def test_127_0_0_1_is_asked_by_the_node_alone(path: Datapath, host_ip: str | None) -> None:
    """At ::1 nothing is served: the kernel would take no answers for it from anywhere else."""
    address = ip_address(host_ip) if host_ip else None
    path.apply(with_host_ports(path, "b", HostPort(447, 8447, host_ip=address)))
    for number, targets in ((447, {("10.1.0.3", 8447)}), (30080, OPEN)):
        asked = frame(syn(1035, number), "127.0.0.1", "127.0.0.1", "host")
        served = {("127.0.0.1", number)} if isinstance(path, Twins) else targets
        assert backend(path.send(asked, enters="host")) in served
        for enters, src in (("pod", POD), ("uplink", OUTSIDER)):
            other = frame(syn(1035, number), "127.0.0.1", src, enters)
            assert path.send(other, enters=enters).packet[IP].dst == "127.0.0.1"
    other = frame(syn(1035, 448), "127.0.0.1", "127.0.0.1", "host")
    assert path.send(other, enters="host").packet[IP].dst == "127.0.0.1"
    path.apply(with_host_ports(path, "b"))


def test_a_host_port_of_sctp_keeps_its_number(path: Datapath) -> None:
    path.apply(with_host_ports(path, "b", HostPort(3868, 3868, "SCTP")))
    sent = frame(SCTP(sport=5, dport=3868) / SCTPChunkInit(), NODE, OUTSIDER, "uplink")
    result = path.send(sent, enters="uplink")
    assert (result.verdict, result.packet[IP].dst) == ("redirect", "10.1.0.3")
    path.apply(with_host_ports(path, "b"))


@pytest.mark.parametrize(
    ("host_ip", "served"), [(None, True), (NODE, True), ("0.0.0.0", True), ("172.18.0.9", False)]
)
def test_a_host_port_of_one_address_is_served_there_alone(
    path: Datapath, host_ip: str | None, served: bool
) -> None:
    """A stranger's address is not the pod's to take, neither from outside nor from other pods."""
    asked = HostPort(444, 8443, host_ip=ip_address(host_ip) if host_ip else None)
    path.apply(with_host_ports(path, "b", asked))
    sent = frame(syn(1032, 444), NODE, OUTSIDER, "uplink")
    result = path.send(sent, enters="uplink")
    if served:
        assert backend(result) == ("10.1.0.3", 8443)
    else:
        assert_sent(result, sent)
        within = frame(syn(1032, 444), "172.18.0.9")
        assert_sent(path.send(within), within)
    path.apply(with_host_ports(path, "b"))


def test_datagrams_to_a_host_port_follow_its_pods(path: Datapath) -> None:
    """Connections stay with the pod that they had, until the core says that it is gone."""
    asked = HostPort(445, 8445, "UDP")
    pod = with_host_ports(path, "b", asked)
    path.apply(pod)
    sent = frame(datagram(1033, 445), NODE, OUTSIDER, "uplink")
    assert backend(path.send(sent, enters="uplink")) == ("10.1.0.3", 8445)
    path.delete(pod)
    gone = path.send(sent, enters="uplink")
    assert (gone.verdict, bytes(gone.packet)) == ("pass", bytes(sent))
    path.apply(with_host_ports(path, "c", asked))
    moved = path.send(sent, enters="uplink")
    assert backend(moved) == ("10.1.0.4", 8445)
    path.apply(path.network.ports["default/b"], path.network.ports["default/c"])


def test_the_next_pod_takes_over_a_host_port_and_its_flows_start_anew(path: Datapath) -> None:
    first = with_host_ports(path, "b", HostPort(446, 8446, "UDP"), ifindex=900)
    second = with_host_ports(path, "c", HostPort(446, 8446, "UDP"), ifindex=901)
    sent = frame(datagram(1034, 446), NODE, OUTSIDER, "uplink")
    path.apply(second)
    assert backend(path.send(sent, enters="uplink")) == ("10.1.0.4", 8446)
    path.apply(first)
    assert backend(path.send(sent, enters="uplink")) == ("10.1.0.3", 8446)
    path.delete(first)
    assert backend(path.send(sent, enters="uplink")) == ("10.1.0.4", 8446)
    path.apply(path.network.ports["default/b"], path.network.ports["default/c"])


def test_a_node_port_goes_before_a_host_port(path: Datapath) -> None:
    path.apply(with_host_ports(path, "b", HostPort(30380, 8446)))
    assert backend(path.send(frame(syn(1035, 30380), NODE))) == ("10.1.0.3", 8446)
    port = (ServicePort("http", "TCP", 80, 8080, node_port=30380),)
    first = service("first", "10.96.0.14", type="NodePort", ports=port)
    path.apply(first, slice_of("first", ready("10.1.7.14")))
    assert backend(path.send(frame(syn(1036, 30380), NODE))) == ("10.1.7.14", 8080)
    path.delete(first)
    assert backend(path.send(frame(syn(1037, 30380), NODE))) == ("10.1.0.3", 8446)
    path.apply(path.network.ports["default/b"])


def test_a_host_port_alone_is_looked_for_on_the_uplink(
    cubelet_network: network.TestNetwork,
) -> None:
    port = msgspec.structs.replace(
        cubelet_network.ports["default/b"], host_ports=(HostPort(80, 8080),)
    )
    made = Datapath(
        cubelet_network,
        stacks={"uplink": [Lbrp]},
        settings={"outlet": {"leaves": "uplink"}},
        objects=(port,),
    )
    result = made.send(frame(syn(1038, 80), NODE, OUTSIDER, "uplink"), enters="uplink")
    assert backend(result) == ("10.1.0.3", 8080)
    made.close()


def test_only_the_source_ranges_may_ask_a_load_balancers_address(path: Datapath) -> None:
    """Flows that were open end too; the node is known by its own address, not the gateway's."""
    balanced = "203.0.113.30"
    open_to_all = service("ranged", "10.96.0.15", load_balancer_ips=(ip_address(balanced),))
    path.apply(open_to_all, slice_of("ranged", ready("10.1.7.15")))
    clients = {"pod": POD, "host": "10.1.0.1", "uplink": OUTSIDER}
    served = ("10.1.7.15", 8080)

    def ask(enters: str, transport: Packet, dst: str = balanced) -> Result:
        return path.send(frame(transport, dst, clients[enters], enters), enters=enters)

    for enters in clients:
        assert backend(ask(enters, syn(1040, 80))) == served
    for allowed, permitted in (
        ("198.51.100.0/24", "uplink"),
        ("10.1.0.2/32", "pod"),
        ("172.18.0.2/32", "host"),
    ):
        ranges = (ip_network(allowed), ip_network("192.0.2.0/24"))
        path.apply(msgspec.structs.replace(open_to_all, source_ranges=ranges))
        for enters in clients:
            for transport in (syn(1041, 80), data(1040, 80)):
                result = ask(enters, transport)
                if enters == permitted:
                    assert backend(result) == served
                else:
                    assert (result.verdict, result.reason) == ("drop", "lbrp/source_range")
            if enters != "uplink":
                assert backend(ask(enters, syn(1042, 80), "10.96.0.15")) == served
    path.apply(open_to_all)
    for enters in clients:
        assert backend(ask(enters, data(1040, 80))) == served
