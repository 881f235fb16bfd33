"""What exists in the cluster, and one ConfigMap, decide what is composed: live, losing nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from cubelet.lab.kinds import Key

from .foreign import NODE, configure
from .load import connections, datagrams, loads, stream
from .manifests import pod, policy, service
from .world import QUICK, Space, World, eventually

ECHO = 7


@pytest.fixture
def pair(world: World, space: Space) -> Iterator[Space]:
    """Two pods on one node, and no policy anywhere."""
    ports = (("TCP", ECHO), ("UDP", ECHO))
    space.apply(pod("client", nodeName=NODE), pod("server", *ports, nodeName=NODE))
    yield space
    space.delete("Pod", "client", "server")


def stack(world: World, port_class: str = "pod", node: str = NODE) -> list[str]:
    return list(world.call(node, "status")["composition"]["stacks"][port_class])


@pytest.fixture
def default(world: World) -> Iterator[None]:
    """The default configuration afterwards."""
    yield
    world.delete(Key("ConfigMap", "kube-system", "cubelet"))


@pytest.fixture
def linger(world: World) -> Iterator[Callable[[float], None]]:
    """Has cubes linger for so many seconds, until the test ends."""

    def restart(seconds: float) -> None:
        world.stop(NODE)
        world.start(NODE, linger_seconds=seconds)

    yield restart
    restart(QUICK["linger_seconds"])


def test_the_first_policy_brings_the_firewall_and_the_last_takes_it_out(
    world: World, pair: Space
) -> None:
    assert "firewall" not in stack(world)
    client, server = pair.at("client"), pair.ip("server")
    with loads() as running:
        running.add("UDP", client, datagrams, server, ECHO)
        running.add("TCP", client, stream, server, ECHO)
        running.add("new TCP", client, connections, server, ECHO)
        time.sleep(0.3)
        allow = policy("allow", "server", ingress=[{"from": [{"podSelector": {}}]}])
        pair.apply(allow)
        assert "firewall" in stack(world)
        assert "firewall" not in stack(world, node="node2")
        time.sleep(0.3)
        pair.delete("NetworkPolicy", "allow")
        assert "firewall" not in stack(world)
        time.sleep(0.3)
    running.check(at_least=20)


def test_what_was_allowed_without_a_firewall_ends_with_the_first_policy(
    world: World, pair: Space
) -> None:
    assert "firewall" not in stack(world)
    with loads() as running:
        running.add("TCP", pair.at("client"), stream, pair.ip("server"), ECHO, 2)
        time.sleep(0.3)
        pair.apply(policy("deny", "server", ingress=[]))
        time.sleep(3)
    assert running["TCP"].lost != ()
    assert pair.who(pair.at("client"), pair.ip("server"), ECHO) == "timeout"
    pair.delete("NetworkPolicy", "deny")
    assert pair.who(pair.at("client"), pair.ip("server"), ECHO) == "server"


def test_a_firewall_that_nobody_needs_any_more_goes_by_itself(
    world: World, pair: Space, linger: Callable[[float], None]
) -> None:
    linger(2)
    client, server = pair.at("client"), pair.ip("server")
    with loads() as running:
        running.add("UDP", client, datagrams, server, ECHO)
        running.add("new TCP", client, connections, server, ECHO)
        pair.apply(policy("allow", "server", ingress=[{"from": [{"podSelector": {}}]}]))
        pair.delete("NetworkPolicy", "allow")
        assert "firewall" in stack(world)
        eventually(lambda: "firewall" not in stack(world), 10)
        time.sleep(0.3)
    running.check(at_least=20)
    pair.apply(policy("deny", "server", ingress=[]))
    pair.delete("NetworkPolicy", "deny")
    assert "firewall" in stack(world)
    assert pair.who(client, server, ECHO) == "server"


@pytest.mark.parametrize("seconds", [0, 60])
def test_what_outsiders_had_opened_ends_with_the_last_exposed_service(
    world: World, pair: Space, linger: Callable[[float], None], seconds: float
) -> None:
    linger(seconds)
    assert "lbrp" not in stack(world, "uplink")
    exposed = service("server", "server", ("UDP", 80, ECHO), type="NodePort")
    pair.apply(exposed)
    assert "lbrp" in stack(world, "uplink")
    port = pair.node_port("server", "UDP")
    with loads() as running:
        address = world.node(NODE).address
        running.add("UDP from outside", world.outside, datagrams, address, port, 50)
        time.sleep(0.5)
        pair.apply(service("server", "server", ("UDP", 80, ECHO)))
        assert ("lbrp" in stack(world, "uplink")) is bool(seconds)
        time.sleep(1)
    report = running["UDP from outside"]
    lost = len(report.lost) / report.sent
    assert 0.4 < lost < 0.9, report  # all before was answered, nothing after


def test_the_loopback_device_runs_a_program_while_something_is_exposed(
    world: World, pair: Space
) -> None:
    pin = world.layout.bpffs_of(NODE) / "links" / "local"
    assert not pin.exists()
    pair.apply(service("server", "server", ("TCP", 80, ECHO), type="NodePort"))
    assert pin.exists()
    # Gone while the agent is away: the next one lets go of what it finds.
    world.kill(NODE)
    (world.layout.manifests / f"service.{pair.name}.server.yaml").unlink()
    world.start(NODE)
    assert not pin.exists()


def test_a_configuration_is_applied_live_and_loses_nothing(
    world: World, pair: Space, default: None
) -> None:
    client, server = pair.at("client"), pair.ip("server")
    with loads() as running:
        running.add("UDP", client, datagrams, server, ECHO)
        running.add("TCP", client, stream, server, ECHO)
        running.add("new TCP", client, connections, server, ECHO)
        time.sleep(0.3)
        assert configure(world, "composition: tailcall") == []
        assert world.call(NODE, "status")["composition"]["mode"] == "tailcall"
        time.sleep(0.3)
        assert configure(world, "{core: {pending_flows: 4096}, exclude: [nat]}") == []
        assert stack(world) == ["lbrp"]
        time.sleep(0.3)
    running.check(at_least=20)


def test_a_bad_configuration_changes_nothing_and_says_why(
    world: World, pair: Space, default: None
) -> None:
    before = world.call(NODE, "status")["composition"]
    (problem,) = configure(world, "insert: [{cube: nobody, ports: [pod]}]")
    assert "no installed cube is called nobody" in problem
    assert world.call(NODE, "status")["composition"] == before
    assert world.call(NODE, "status")["ready"]
    assert pair.who(pair.at("client"), pair.ip("server"), ECHO) == "server"
    world.kill(NODE)
    world.start(NODE)
    assert world.call(NODE, "status")["composition"]["stacks"] == before["stacks"]
    assert pair.who(pair.at("client"), pair.ip("server"), ECHO) == "server"
    assert configure(world, "") == []
