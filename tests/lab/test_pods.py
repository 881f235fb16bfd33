"""Pods that are replaced, and permissions that end: what is cached must follow."""

from __future__ import annotations

import socket
import time

from cubelet.lab import traffic

from .load import connections, datagrams, loads, stream
from .manifests import pod, policy
from .world import Space, eventually

PORTS = (("TCP", 7), ("UDP", 7))
FRIENDS = [{"from": [{"podSelector": {"matchLabels": {"friend": "yes"}}}]}]


def test_a_pod_with_its_predecessors_address_is_reached_at_once(space: Space) -> None:
    """Neighbours have cached the old one's MAC address, and flows its device."""
    space.apply(
        pod("same", nodeName="node2"),
        pod("other", nodeName="node1"),
        pod("old", *PORTS, ip="10.244.2.77", nodeName="node2"),
    )
    clients = [space.at("same"), space.at("other"), space.world.at_node("node2")]
    sources = []
    for client in clients:
        assert space.who(client, "10.244.2.77", 7) == "old"
        sources.append(space.world.run(client, traffic.udp, "10.244.2.77", 7, b"x").local[1])
    space.delete("Pod", "old")
    for client in clients:
        result = space.world.run(client, traffic.udp, "10.244.2.77", 7, b"x")
        assert result.outcome in ("unreachable", "timeout")
    space.apply(pod("new", *PORTS, ip="10.244.2.77", nodeName="node2"))
    for client, source in zip(clients, sources, strict=True):
        assert space.who(client, "10.244.2.77", 7, timeout=0.5) == "new"
        assert space.world.run(client, from_port, source, "10.244.2.77", 7) == b"hello"


def from_port(source: int, address: str, port: int) -> bytes:
    """What a UDP server echoes to one source port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.bind(("", source))
        client.connect((address, port))
        client.send(b"hello")
        return client.recv(64)


def test_connections_end_with_their_permission(space: Space) -> None:
    server = pod("server", *PORTS, nodeName="node2")
    space.apply(
        pod("friend", labels={"friend": "yes"}, nodeName="node1"),
        pod("near", labels={"friend": "yes"}, nodeName="node2"),
        server,
        policy("p", "server", ingress=FRIENDS),
    )
    friend, near, address = space.at("friend"), space.at("near"), space.ip("server")
    with loads() as running:
        running.add("TCP across nodes", friend, stream, address, 7, 0.4)
        running.add("TCP on one node", near, stream, address, 7, 0.4)
        running.add("UDP across nodes", friend, datagrams, address, 7, 100)
        time.sleep(0.5)
        space.apply(policy("p", "server", ingress=[]))
        time.sleep(0.5)
        assert space.who(friend, address, 7, timeout=0.5) == "timeout"
    for name in ("TCP across nodes", "TCP on one node"):
        report = running[name]
        assert report.lost == ("TimeoutError('timed out')",), report
        assert report.sent > 20
    udp = running["UDP across nodes"]
    assert 20 < len(udp.lost) < udp.sent - 20, udp
    # They were all lost from one moment on: the last one was among them, the first was not.
    numbers = [int(number) for number in udp.lost]
    assert numbers == list(range(numbers[0], udp.sent))


def test_permission_that_stays_costs_nothing(space: Space) -> None:
    """Policies around a connection change; the connection itself remains allowed."""
    space.apply(
        pod("friend", labels={"friend": "yes"}, nodeName="node1"),
        pod("server", *PORTS, nodeName="node2"),
    )
    friend, address = space.at("friend"), space.ip("server")
    with loads() as running:
        running.add("UDP", friend, datagrams, address, 7)
        running.add("TCP", friend, stream, address, 7)
        running.add("new", friend, connections, address, 7)
        time.sleep(0.3)
        space.apply(policy("p", "server", ingress=FRIENDS))
        space.apply(policy("q", "friend", egress=[{}]))
        space.apply(policy("r", "server", ingress=[{"ports": [{"port": 9}]}]))
        space.delete("NetworkPolicy", "r", "q", "p")
        time.sleep(0.3)
    running.check(at_least=20)


def test_labels_decide_live(space: Space) -> None:
    space.apply(
        pod("a", nodeName="node1"),
        pod("server", *PORTS, nodeName="node1"),
        policy("p", "server", ingress=FRIENDS),
    )
    a, address = space.at("a"), space.ip("server")
    assert space.who(a, address, 7, timeout=0.4) == "timeout"
    space.apply(pod("a", labels={"friend": "yes"}, nodeName="node1"))
    assert space.who(a, address, 7, timeout=0.4) == "server"
    space.apply(pod("a", nodeName="node1"))
    assert space.who(a, address, 7, timeout=0.4) == "timeout"
    # The node's own traffic to its pods is always allowed.
    assert space.who(space.world.at_node("node1"), address, 7) == "server"


def test_a_policy_applies_before_a_new_pod_can_send(space: Space) -> None:
    space.apply(
        policy("p", "jailed", egress=[], ingress=[]),
        pod("server", *PORTS, nodeName="node1"),
    )
    space.apply(pod("jailed", *PORTS, nodeName="node2"))
    server, jailed = space.ip("server"), space.ip("jailed")
    for _ in range(3):
        assert space.who(space.at("jailed"), server, 7, timeout=0.3) == "timeout"
        assert space.who(space.at("server"), jailed, 7, timeout=0.3) == "timeout"
        space.delete("Pod", "jailed")
        space.apply(pod("jailed", *PORTS, nodeName="node2"))
        jailed = space.ip("jailed")


def test_a_deleted_pods_flows_go(space: Space) -> None:
    space.apply(pod("a", nodeName="node1"), pod("b", *PORTS, nodeName="node1"))
    assert space.who(space.at("a"), space.ip("b"), 7, "UDP") == "b"
    ports = space.world.call("node1", "get", noun="ports")
    (row,) = [row for row in ports if row["name"] == f"{space.name}/a"]
    assert row["addresses"] == [space.ip("a")]
    space.delete("Pod", "a", "b")

    def gone() -> bool:
        names = {row["name"] for row in space.world.call("node1", "get", noun="ports")}
        return not names & {f"{space.name}/a", f"{space.name}/b"}

    eventually(gone, 1)
