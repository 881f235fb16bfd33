"""Objects of one tenant that are larger than the maps: theirs do not work, everybody else's do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cubelet.lab.kinds import Key, Manifest

from .manifests import pod, policy, service
from .world import Space, World, eventually

PORT = 8080
POLICIES, BLOCKS = 3, 23_000
"""As many blocks as the map has by default, and a few thousand more; etcd takes each policy."""
OTHERS = "198.51.100.0/24"


@pytest.fixture
def tenant(world: World) -> Iterator[Space]:
    """Another namespace, which goes with what is in it."""
    yield Space(world, "tenant")
    world.delete(Key("Namespace", "", "tenant"))


def large(number: int) -> Manifest:
    blocks = [
        {"ipBlock": {"cidr": f"100.{64 + number}.{at >> 8}.{at & 255}/32"}} for at in range(BLOCKS)
    ]
    ports = [{"protocol": "TCP", "port": 1000 + number}]
    return policy(f"large{number}", "t", egress=[{"to": blocks, "ports": ports}])


def told(world: World) -> str:
    return "\n".join(world.call("node1", "status")["problems"])


def test_a_policy_that_fits_no_map_is_its_owners_alone(
    world: World, space: Space, tenant: Space
) -> None:
    space.apply(pod("web", ("TCP", PORT), nodeName="node1"), pod("client", nodeName="node2"))
    tenant.apply(pod("t", nodeName="node1"), pod("u", nodeName="node1"))
    web = space.ip("web")

    def reached(place: str) -> str:
        return space.who(place, web, PORT, timeout=0.5)

    assert [reached(each) for each in (space.at("client"), tenant.at("t"))] == ["web", "web"]
    tenant.apply(*(large(number) for number in range(POLICIES)))
    assert "ipBlocks in the egress policies of tenant/t: refused" in told(world)

    # The tenant's pod is closed, the others are as they were.
    assert reached(tenant.at("t")) != "web"
    assert [reached(each) for each in (space.at("client"), tenant.at("u"))] == ["web", "web"]

    # Others' policies are enforced anew, in both ways.
    space.apply(policy("only", "web", ingress=[{"from": [{"ipBlock": {"cidr": OTHERS}}]}]))
    assert reached(space.at("client")) != "web"
    friends = [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]
    space.apply(policy("only", "web", ingress=friends))
    assert reached(space.at("client")) == "web"
    assert reached(tenant.at("u")) != "web"
    space.delete("NetworkPolicy", "only")

    # Pods start: everybody's as they should be, the tenant's closed.
    space.apply(pod("late", ("TCP", PORT), nodeName="node1"))
    tenant.apply(pod("t2", labels={"app": "t"}, nodeName="node1"))
    assert space.who(space.at("client"), space.ip("late"), PORT) == "late"
    assert reached(tenant.at("t2")) != "web"

    # An agent that starts finds the same.
    world.kill("node1")
    world.start("node1")
    assert "ipBlocks in the egress policies of tenant/t and 1 more: refused" in told(world)
    assert reached(tenant.at("t")) != "web"
    assert reached(space.at("client")) == "web"

    # Smaller ones are taken in.
    tenant.delete("NetworkPolicy", "large1", "large2")
    eventually(lambda: "tenant" not in told(world), 10)
    assert reached(tenant.at("t")) != "web"
    tenant.delete("NetworkPolicy", "large0")
    assert reached(tenant.at("t")) == "web"


def test_a_service_that_fits_no_map_is_its_owners_alone(
    world: World, space: Space, tenant: Space
) -> None:
    space.apply(pod("web", ("TCP", PORT), nodeName="node1"), pod("client", nodeName="node1"))
    tenant.apply(pod("t", ("TCP", PORT), nodeName="node1"))
    many = [("TCP", port, PORT) for port in range(1, 18_001)]
    for number in range(3):
        tenant.apply(service(f"large{number}", "t", *many))
    refused = [each for each in told(world).splitlines() if "Service tenant/large" in each]
    assert len(refused) == 2, told(world)
    client = space.at("client")
    served = [tenant.who(client, tenant.vip(f"large{n}"), 17_000) for n in range(3)]
    assert sorted(served) == ["refused", "refused", "t"]

    space.apply(service("web", "web", ("TCP", 80, PORT)))
    assert space.who(client, space.vip("web"), 80) == "web"
    space.apply(pod("late", nodeName="node1"))
    assert space.who(space.at("late"), space.vip("web"), 80) == "web"

    tenant.delete("Service", *(f"large{n}" for n in range(3) if served[n] == "t"))
    eventually(lambda: told(world).count("Service tenant/large") == 1, 10)
