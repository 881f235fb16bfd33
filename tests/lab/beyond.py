"""A host beyond the lab's wire, to which two gateways lead: the outside, and another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cubelet.lab import netns, processes
from cubelet.lab.layout import OUTSIDE_ADDRESS, UNDERLAY

from .world import World

ADDRESS, ECHO = "192.0.2.10", 7
SECOND = "172.18.0.101"
"""The other gateway's address on the wire."""
_BEHIND = "192.0.2.0/24"
_FIRST_HOP, _SECOND_HOP, _SECOND_END = "192.0.2.1", "192.0.3.1", "192.0.3.2"


@dataclass(frozen=True)
class Beyond:
    """The host's namespace, and the one of its second gateway."""

    world: World
    place: str
    gateway: str

    def lead(self, gateway: str) -> None:
        """By this gateway alone, as its neighbours are told: the other one forwards no more."""
        first = gateway == OUTSIDE_ADDRESS
        netns.ip(["link", "set", "far0", "up" if first else "down"], self.world.outside)
        netns.ip(["link", "set", "far1", "down" if first else "up"], self.gateway)
        if not first:  # its route went with the device
            netns.ip(["route", "replace", _BEHIND, "via", _SECOND_END], self.gateway)
        netns.ip(
            ["route", "replace", "default", "via", _FIRST_HOP if first else _SECOND_HOP], self.place
        )


@contextmanager
def beyond(world: World) -> Iterator[Beyond]:
    """Make it, and take it away again; the outside forwards meanwhile."""
    prefix, outside = world.layout.netns_prefix, world.outside
    made = Beyond(world, f"{prefix}beyond", f"{prefix}gateway")
    wire = world.layout.wire_netns
    try:
        for place in (made.place, made.gateway):
            netns.create(place)
        netns.ip_batch(
            [
                f"link add far0 type veth peer name eth0 netns {made.place}",
                f"address add {_FIRST_HOP}/24 dev far0",
                "link set far0 up",
            ],
            outside,
        )
        netns.ip_batch(
            [
                f"link add wire9 type veth peer name eth0 netns {made.gateway}",
                "link set wire9 master wire0 up",
            ],
            wire,
        )
        netns.ip_batch(
            [
                f"address add {SECOND}/{UNDERLAY.prefixlen} dev eth0",
                "link set eth0 up",
                f"link add far1 type veth peer name eth1 netns {made.place}",
                f"address add {_SECOND_HOP}/24 dev far1",
                "link set far1 up",
            ],
            made.gateway,
        )
        netns.ip_batch(
            [
                f"address add {ADDRESS}/24 dev eth0",
                "link set eth0 up",
                f"address add {_SECOND_END}/24 dev eth1",
                "link set eth1 up",
            ],
            made.place,
        )
        for place, on in ((outside, "1"), (made.gateway, "1")):
            world.set(place, "ipv4/ip_forward", on)
        for device in ("all", "eth0", "eth1"):
            world.set(made.place, f"ipv4/conf/{device}/rp_filter", "0")
        made.lead(OUTSIDE_ADDRESS)
        processes.spawn_server(
            world.layout, "beyond", made.place, "beyond", [("TCP", ECHO), ("UDP", ECHO)]
        )
        yield made
    finally:
        processes.end(world.layout, ["beyond"])
        for place in (made.place, made.gateway):
            netns.delete(place)
        world.set(outside, "ipv4/ip_forward", "0")
