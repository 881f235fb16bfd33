"""What may enter and leave a node, on real packets: tunnels, martians, and frames of others."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1Q, Dot3, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from cubelet.lab.layout import OUTSIDE_ADDRESS
from cubelet.net.node import mac_of

from . import frames
from .manifests import pod, policy, service
from .world import Space, World

VXLAN_PORT = 4789
ROUTER = "02:00:00:00:00:01"


@pytest.fixture(scope="module")
def border(world: World) -> Iterator[Space]:
    """Two pods on node1, one on node2 that only `friend` may speak to, and node ports."""
    space = Space(world, "border")
    space.apply(
        pod("evil", nodeName="node1"),
        pod("vic", ("UDP", 53), nodeName="node1"),
        policy("vic", "vic", ingress=[], egress=[]),
        pod("friend", ("TCP", 80), ("UDP", 53), nodeName="node1"),
        pod("far", ("TCP", 80), ("UDP", 53), nodeName="node2"),
        service("far", "far", ("UDP", 53, 53), type="NodePort"),
        service("friend", "friend", ("UDP", 53, 53), ("TCP", 80, 80), type="NodePort"),
        policy(
            "far", "far", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]
        ),
    )
    yield space
    space.delete("NetworkPolicy", "far", "vic")
    space.delete("Service", "far", "friend")
    space.delete("Pod", "evil", "vic", "friend", "far")


def datagram(address: str, port: int, data: bytes, sport: int = 0) -> None:
    """Send one by an ordinary socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("", sport))
        client.sendto(data, (address, port))


def tunnelled(source: str, target: str, body: bytes, vni: int = 1, sport: int = 5000) -> bytes:
    """VXLAN's payload of UDP: a datagram between pods."""
    inner = IP(src=source, dst=target, ttl=60) / UDP(sport=sport, dport=53) / Raw(body)
    return bytes(VXLAN(vni=vni, flags=8) / Ether(src=ROUTER, dst=ROUTER) / inner)


def arrived(
    space: Space,
    name: str,
    body: bytes,
    place: str,
    send: Callable[..., object],
    *arguments: object,
) -> int:
    """How many datagrams with these bytes reach a pod when a call is made in a namespace."""
    with frames.heard(space.at(name), contains=body) as heard:
        space.world.run(place, send, *arguments)
        time.sleep(0.2)
    return sum(IP in (seen := Ether(data)) and seen[IP].proto == 17 for data, _ in heard(0))


def dropped(space: Space, reason: str, node: str = "node1") -> int:
    """Packets that the core of a node has dropped for a reason."""
    rows = space.world.call(node, "get", noun="drops", where={"reason": reason})
    return sum(row["packets"] for row in rows if row["cube"] == "core")


# The tunnels' port


@pytest.mark.parametrize("vni", [1, 0, 77])
def test_a_pod_does_not_speak_as_the_tunnel(border: Space, vni: int) -> None:
    before = dropped(border, "tunnel_port")
    body = f"as a friend, {vni}".encode()
    forged = tunnelled(border.ip("friend"), border.ip("far"), body, vni)
    for node in ("node2", "node1"):
        address = border.world.node(node).address
        assert not arrived(
            border, "far", body, border.at("evil"), datagram, address, VXLAN_PORT, forged
        )
    assert dropped(border, "tunnel_port") - before == 2


def test_nor_in_fragments_or_through_a_service(border: Space) -> None:
    node2 = border.world.node("node2").address
    manifest = service("way", "none", ("UDP", 99, VXLAN_PORT), type="NodePort")
    del manifest["spec"]["selector"]
    border.apply(manifest)
    border.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "way", "labels": {"kubernetes.io/service-name": "way"}},
            "addressType": "IPv4",
            "ports": [{"name": "udp-99", "protocol": "UDP", "port": VXLAN_PORT}],
            "endpoints": [{"addresses": [node2]}],
        }
    )
    body = b"by way of a Service"
    forged = tunnelled(border.ip("friend"), border.ip("far"), body)
    big = tunnelled(border.ip("friend"), border.ip("far"), body + bytes(3000))
    evil, node1 = border.at("evil"), border.world.node("node1").address
    for place, address, port, data in (
        (evil, border.vip("way"), 99, forged),
        (evil, node1, border.node_port("way", "UDP"), forged),
        (border.world.outside, node1, border.node_port("way", "UDP"), forged),
        (evil, node2, VXLAN_PORT, big),
    ):
        before = dropped(border, "tunnel_port")
        assert not arrived(border, "far", body, place, datagram, address, port, data)
        assert dropped(border, "tunnel_port") > before, (place, address)
    border.delete("EndpointSlice", "way")
    border.delete("Service", "way")


@pytest.mark.parametrize(("vni", "received"), [(1, 1), (0, 0), (77, 0)])
def test_a_tunnel_is_known_by_its_identifier(border: Space, vni: int, received: int) -> None:
    """From node2's own address; the second packet meets the flow that a right one opened."""
    body = f"from node2 under {vni}".encode()
    far, friend = border.ip("far"), border.ip("friend")
    node1, node2 = border.world.node("node1").address, border.world.at_node("node2")
    for _ in range(2):
        forged = tunnelled(far, friend, body, vni)
        count = arrived(border, "friend", body, node2, datagram, node1, VXLAN_PORT, forged)
        assert count == received
        right = tunnelled(far, friend, b"the right one")
        border.world.run(node2, datagram, node1, VXLAN_PORT, right)


def test_a_tunnel_comes_from_a_node(border: Space) -> None:
    body = b"from no node"
    forged = tunnelled(border.ip("far"), border.ip("friend"), body, sport=5001)
    before = dropped(border, "unknown_node")
    node1 = border.world.node("node1").address
    assert not arrived(
        border, "friend", body, border.world.outside, datagram, node1, VXLAN_PORT, forged
    )
    assert dropped(border, "unknown_node") == before + 1


def test_tunnels_carry_nothing_but_ip_and_answers_of_their_node(border: Space) -> None:
    """A flow between pods of both nodes is open: what may meet it comes by its tunnel alone."""
    world, friend, far = border.world, border.ip("friend"), border.ip("far")
    node1, node2 = world.node("node1").address, world.at_node("node2")
    assert border.who(border.at("friend"), far, 80) == "far"
    body = b"not by this tunnel"
    own = world.run(border.at("friend"), frames.mac).hex(":")

    def inside(packet: Packet, **fields: object) -> bytes:
        frame = Ether(src=mac_of("node2", "router"), dst=own, **fields) / packet
        return bytes(VXLAN(vni=1, flags=8) / frame)

    question = IP(src=friend, dst=far) / UDP(sport=5002, dport=53) / Raw(body)
    error = ICMP(type=3, code=3) / question
    for place, data, reason in (
        (node2, inside(Raw(body.ljust(46, b"\0")), type=0x88B5), "unsupported"),
        (node2, inside(ARP(op=2, psrc=far, pdst=friend) / Raw(body)), "unsupported"),
        (node2, inside(IP(src="192.0.2.1", dst=friend) / UDP() / Raw(body)), "unknown_node"),
        (world.outside, inside(IP(src=far, dst=friend) / error), "unrelated"),
        (node2, inside(IP(src=far, dst=friend) / error), "unrelated"),
    ):
        before = dropped(border, reason)
        with frames.heard(border.at("friend"), contains=body) as heard:
            world.run(place, datagram, node1, VXLAN_PORT, data)
            time.sleep(0.2)
        assert heard(0) == [], (place, reason)
        assert dropped(border, reason) == before + 1, (place, reason)
    world.run(border.at("friend"), datagram, far, 53, body, 5002)
    with frames.heard(border.at("friend"), contains=body) as heard:
        world.run(
            world.outside, datagram, node1, VXLAN_PORT, inside(IP(src=far, dst=friend) / error)
        )
        time.sleep(0.2)
        world.run(node2, datagram, node1, VXLAN_PORT, inside(IP(src=far, dst=friend) / error))
        time.sleep(0.2)
    errors = [data for data, _ in heard(0) if Ether(data)[IP].proto == 1]
    assert len(errors) == 1


# Martians


def uplink_mac(space: Space, node: str = "node1") -> str:
    """The MAC that the outside sends to."""
    return space.world.run(space.world.at_node(node), frames.mac).hex(":")


def test_martians_reach_no_pod(border: Space) -> None:
    world, friend = border.world, border.ip("friend")
    mac = uplink_mac(border)
    sources = (
        *("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "250.0.0.1", "255.255.255.255"),
        *(world.node("node1").address, border.ip("far"), border.ip("evil"), "192.168.1.1"),
        *("10.244.2.1", "192.168.1.255", "169.254.1.2", border.vip("friend"), "10.99.1.1"),
        "172.18.0.255",
    )
    node_port = border.node_port("friend", "UDP")
    for source in sources:
        body = f"martian from {source}.".encode()
        sent = [
            bytes(Ether(dst=mac) / IP(src=source, dst=dst) / UDP(sport=53, dport=port) / Raw(body))
            for dst, port in ((friend, 53), (world.node("node1").address, node_port))
        ]
        before = dropped(border, "martian")
        assert not arrived(border, "friend", body, world.outside, frames.send, *sent), source
        assert dropped(border, "martian") == before + 2, source


@pytest.mark.parametrize("mac", ["02:77:77:77:77:77", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"])
def test_frames_to_others_are_left_alone(border: Space, mac: str) -> None:
    """The uplink hears them when it is promiscuous, as in a bridge."""
    world = border.world
    body = f"to {mac}".encode()
    ip = IP(src=OUTSIDE_ADDRESS, dst=border.ip("friend")) / UDP(sport=9, dport=53) / Raw(body)
    place = world.outside
    frame, right = (bytes(Ether(dst=each) / ip) for each in (mac, uplink_mac(border)))
    assert arrived(border, "friend", body, place, frames.send, right) == 1
    assert arrived(border, "friend", body, place, frames.send, frame) == 0
    assert arrived(border, "friend", body, place, frames.send, right) == 1


def test_what_may_come_from_out_there_does(border: Space) -> None:
    node1, port = border.world.node("node1").address, border.node_port("friend", "TCP")
    assert border.who(border.world.outside, node1, port) == "friend"
    assert border.who(border.world.at_node("node2"), node1, port) == "friend"


# The segment of a node with policies


def test_no_frame_leads_past_policies(border: Space) -> None:
    """An isolated pod hears nothing but ARP, and IP in somebody's frame goes nowhere else."""
    world, evil = border.world, border.at("evil")
    own, vic, friend = (
        world.run(border.at(n), frames.mac).hex(":") for n in ("evil", "vic", "friend")
    )
    body = b"past the policies"
    everybody = "ff:ff:ff:ff:ff:ff"

    def question(name: str) -> Packet:
        return IP(src=border.ip("evil"), dst=border.ip(name)) / UDP(dport=53) / Raw(body)

    ip = bytes(question("vic"))
    sent = [
        Ether(src=own, dst=dst, type=0x88B5) / Raw(body.ljust(46, b"\0"))
        for dst in (vic, everybody)
    ]
    sent += [
        Ether(src=own, dst=vic, type=0x8847) / Raw(b"\0\0\x11\x40" + ip),
        Ether(src=own, dst=vic, type=0x8864) / Raw(b"\x11\0\0\1\0\x40\0\x21" + ip),
        Dot3(src=own, dst=vic) / LLC() / SNAP(code=0x0800) / Raw(ip),
        Ether(src=own, dst=vic) / Dot1Q(vlan=0) / question("vic"),
        Ether(src=own, dst=vic) / Dot1Q(vlan=5) / question("vic"),
        *(
            Ether(src=own, dst=dst) / question(name)
            for dst in (everybody, "02:77:77:77:77:77", "01:00:5e:00:00:01", friend)
            for name in ("vic", "friend")
            if (dst, name) != (friend, "friend")
        ),
    ]
    with frames.heard(border.at("vic"), border.at("friend"), contains=body) as heard:
        world.run(evil, frames.send, *map(bytes, sent))
        time.sleep(0.3)
    assert [heard(0), heard(1)] == [[], []]


def test_arp_speaks_of_its_sender_alone(border: Space) -> None:
    world, evil = border.world, border.at("evil")
    source = world.run(evil, frames.mac)
    unused = "192.168.1.201"
    wrong = [frames.who_has(source, sender, unused) for sender in (unused, border.ip("vic"))]
    right = frames.who_has(source, border.ip("evil"), unused)
    with frames.heard(border.at("vic"), ethertype=frames.ETH_P_ARP, contains=right[-4:]) as heard:
        world.run(evil, frames.send, *wrong, right)
        time.sleep(0.2)
    assert [data for data, _ in heard(0)] == [right]


# Source routes


def test_a_pod_does_not_choose_its_packets_way(border: Space) -> None:
    world = border.world
    own = world.run(border.at("evil"), frames.mac).hex(":")
    before = dropped(border, "source_route")
    for number, option in enumerate((0x83, 0x89)):
        body = f"by way of {option}".encode()
        options = IPOption(bytes([option, 7, 4]) + socket.inet_aton(border.ip("far")) + b"\0")
        for name in ("friend", "far"):
            ip = IP(src=border.ip("evil"), dst=border.ip(name), ihl=7, options=[options])
            frame = Ether(src=own, dst=router_mac(border)) / ip / UDP(dport=53) / Raw(body)
            assert not arrived(border, name, body, border.at("evil"), frames.send, bytes(frame))
        assert dropped(border, "source_route") - before == 2 * (number + 1)


def router_mac(space: Space) -> str:
    """Whom pods of node1 send to what is not theirs."""
    return mac_of("node1", "router")
