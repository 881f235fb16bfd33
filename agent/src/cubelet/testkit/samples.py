"""Sample objects, a view of them and the installed cube, for tests of plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

import msgspec

from cubelet.cubes.discovery import discover
from cubelet.state.cluster import State
from cubelet_hooks.cube import Complaint, Condition, Entry
from cubelet_hooks.objects import Change, LocalNode, Object
from cubelet_hooks.records import Network

ROUTER_MAC = "02:00:00:00:00:01"
GATEWAY_MAC = "02:00:00:00:00:02"
UPLINK_MAC = "02:00:00:00:00:03"
PODS = ip_network("10.1.0.0/24")
_LOCAL = LocalNode(
    name="node1",
    addresses=(ip_address("172.18.0.2"),),
    pod_cidr=PODS,
    gateway=PODS[1],
    gateway_mac=GATEWAY_MAC,
    gateway_ifindex=2,
    datapath_ifindex=3,
    overlay_ifindex=4,
    uplink_ifindex=5,
    uplink_mac=UPLINK_MAC,
    uplink_mtu=1500,
    overlay_mtu=1450,
    router_mac=ROUTER_MAC,
)


def local_node(pod_cidr: Network = PODS, **fields: object) -> LocalNode:
    """The LocalNode ``node1``, 172.18.0.2, gateway the podCIDR's first address; or ``fields``."""
    wanted = {"pod_cidr": pod_cidr, "gateway": pod_cidr[1], **fields}
    return msgspec.structs.replace(_LOCAL, **wanted)


def pod_mac(number: int) -> str:
    """The MAC address of the n-th pod's own interface."""
    return f"02:00:00:00:01:{number:02x}"


def view(*objects: Object) -> State:
    """A view of these objects, for a cube's ``units`` and ``plan``; ``apply`` changes it."""
    state = State()
    for each in objects:
        state.apply(Change.between(None, each))
    return state


def entries(planned: Iterable[Entry | Complaint | Condition]) -> list[Entry]:
    """What a plan wants in maps, without what it says of objects."""
    return [each for each in planned if isinstance(each, Entry)]


def conditions(planned: Iterable[Entry | Complaint | Condition]) -> list[Condition]:
    """What a plan says has become of objects: ``conditions(cube.plan(unit, view(...)))``."""
    return [each for each in planned if isinstance(each, Condition)]


def complaints(planned: Iterable[Entry | Complaint | Condition]) -> list[Complaint]:
    """What a plan complains about: ``complaints(cube.plan(unit, view(...)))``."""
    return [each for each in planned if isinstance(each, Complaint)]


def installed(kind: str) -> Mapping[str, object]:
    """An installed cube's row of ``cubelet plugins``: ``state``, ``reason`` and more.

    Raises LookupError for a kind that no installed package offers.
    """
    for row in discover().rows():
        if row["kind"] == kind:
            return row
    raise LookupError(f"no installed package offers the cube {kind}; run: pip install -e '.[test]'")
