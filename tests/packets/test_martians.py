"""Sources that cannot be beyond the uplink: no packet of theirs, and no error, gets in there."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address, ip_network

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from cubelet_hooks.objects import Node, Service

from .conftest import MakeRig
from .rig import GATEWAY, NODE, OUTSIDE, REMOTE, A, B, Rig, arrives, kept
from .shapes import Ends, Peer, direct, echo, hopped, tcp, udp

FAR_PODS, FAR_POD, BROADCAST = ip_network("10.1.7.0/24"), "10.1.7.9", "172.18.0.255"
CLUSTER_IP, STRAY_IP, HAIRPIN, SECOND = "10.96.3.4", "192.0.2.200", "169.254.1.2", "172.18.0.9"
AWAY = Peer("uplink", OUTSIDE, 443)
MARTIANS = {
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "loopback": "127.0.0.1",
    "multicast": "224.0.0.1",
    "reserved": "250.0.0.1",
    "limited broadcast": "255.255.255.255",
    "the node": NODE,
    "another address of the node": SECOND,
    "the gateway": GATEWAY,
    "a pod here": B,
    "the pods' broadcast": "10.1.0.255",
    "a pod of another node": FAR_POD,
    "the hairpin address": HAIRPIN,
    "a Service's range": CLUSTER_IP,
    "a ClusterIP beyond the range": STRAY_IP,
    "the underlay's broadcast": BROADCAST,
}
sources = pytest.mark.parametrize("source", MARTIANS.values(), ids=MARTIANS.keys())


@pytest.fixture(params=["fused", "tailcall"])
def border(make_rig: MakeRig, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A rig whose node, Services and other nodes are known."""
    rig = make_rig(request.param)
    local = rig.dp.network.local
    core = rig.dp.core
    core.service_cidrs = (IPv4Network("10.96.0.0/12"),)
    objects = (
        Node("node2", addresses=(ip_address("172.18.0.3"),), pod_cidrs=(FAR_PODS,)),
        Service("default", "stray", cluster_ips=(ip_address(STRAY_IP),)),
        msgspec.structs.replace(
            local,
            addresses=(*local.addresses, ip_address(SECOND)),
            broadcasts=(ip_address(BROADCAST),),
        ),
    )
    rig.dp.apply(*objects)
    yield rig
    core.service_cidrs = ()
    rig.dp.apply(local)
    rig.dp.delete(*objects[:2])


@sources
def test_a_martian_reaches_no_pod(border: Rig, source: str) -> None:
    border.vip(NODE, 30001, A, 80)
    for dst, port in ((A, 80), (NODE, 30001)):
        for shape in (tcp, udp):
            kept(border.send(shape(Ends(source, 1, dst, port, "S")), "uplink"), "core/martian")
    kept(border.send(echo(Ends(source, 1, A, 0)), "uplink"), "core/martian")
    assert not border.dp.flows()


@sources
def test_nor_does_its_error(border: Rig, source: str) -> None:
    talk = direct(Peer("a", A, 1000), AWAY, udp)
    talk.opened(border)
    error = IP(src=source, dst=A) / ICMP(type=3, code=4, nexthopmtu=1000) / hopped(talk.first)
    kept(border.send(error, "uplink"), "core/martian")


def test_others_do(border: Rig) -> None:
    for source in (OUTSIDE, "172.18.0.3", "100.64.0.1", "10.1.8.9", "169.254.169.254"):
        sent = udp(Ends(source, 1, A, 53))
        arrives(border.send(sent, "uplink"), "a", hopped(sent))


def test_a_flow_ends_whose_source_has_become_one(border: Rig) -> None:
    """The next node is given the network that somebody out there was in."""
    client = Peer("uplink", "10.1.9.9", 1)
    talk = direct(client, Peer("a", A, 53), udp).established(border)
    node = Node("node3", pod_cidrs=(ip_network("10.1.9.0/24"),))
    border.dp.apply(node)
    kept(border.send(talk.first, "uplink"), "core/martian")
    border.dp.delete(node)


def test_what_is_not_ours_is_left_to_the_host(border: Rig) -> None:
    frame = border.framed(IP(src="127.0.0.1", dst=NODE) / UDP(dport=53) / Raw(b"x"), "uplink")
    assert border.send(frame, "uplink").verdict == "pass"


@pytest.mark.parametrize("port", ["uplink", "overlay"])
def test_what_came_before_does_not_make_a_pods_error_one(border: Rig, port: str) -> None:
    """The packet judged last on the CPU came from outside: nothing of it is left over."""
    source = OUTSIDE if port == "uplink" else REMOTE
    talk = direct(Peer("b", B, 1000), Peer("a", A, 53), udp)
    talk.opened(border)
    border.send(udp(Ends(source, 5, A, 6)), port)
    error = IP(src=A, dst=B) / ICMP(type=3, code=3) / hopped(talk.first)
    arrives(border.send(error, "a"), "b", hopped(error))
