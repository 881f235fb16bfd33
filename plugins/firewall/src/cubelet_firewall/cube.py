"""The firewall cube: judges a flow's first packet by the NetworkPolicies of its pods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import ClassVar

from cubelet_firewall.changes import IDENTITY, NAMESPACE, NODE, changed_units
from cubelet_firewall.identities import owner
from cubelet_firewall.plan import (
    host_entries,
    identity_entries,
    isolated_entries,
    policy_parts,
)
from cubelet_firewall.policies import isolates_local_pods
from cubelet_firewall.portsets import EVERYTHING_NUMBER, NOTHING_NUMBER
from cubelet_firewall.records import (
    HOST_ADDRESSES,
    BlockKey,
    Direction,
    Host,
    HostKey,
    Identity,
    IdentityKey,
    IsolatedKey,
    PeerKey,
    Policy,
    PortKey,
    PortSet,
    Present,
    bits_to,
)
from cubelet_firewall.settings import Settings
from cubelet_hooks import cube
from cubelet_hooks.cube import Cube, Entry, Part, Read, Reason, Unit
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.objects import Change, LocalNode, NetworkPolicy, Pod, Port
from cubelet_hooks.view import View

_address = lru_cache(maxsize=4)(ip_address)
"""Asked for several times in a row."""


class Firewall(Cube):
    """Lets a flow begin only if the policies of its sender and of its receiver allow it."""

    kind: ClassVar[str] = "firewall"
    essential: ClassVar[bool] = True
    inward: ClassVar[frozenset[str]] = frozenset({"pod"})
    outward: ClassVar[frozenset[str]] = frozenset({"pod"})
    admits: ClassVar[bool] = True
    specialised_by: ClassVar[frozenset[str] | None] = frozenset(
        {NetworkPolicy.kind, Pod.kind, Port.kind, LocalNode.kind}
    )
    settings_type: ClassVar[type[cube.Settings]] = Settings
    settings: Settings
    reasons: ClassVar[tuple[Reason, ...]] = (
        Reason("egress_denied", "no policy of the sending pod allows it"),
        Reason("ingress_denied", "no policy of the receiving pod allows it"),
    )
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("isolated_pods", "gauge", "This node's pods that policies isolate.", ("direction",)),
    )
    # The keys of the first three maps are hashes of contents, whose entries never change: verdicts
    # become stale only when an address gets another identity or another policy's number.
    maps: ClassVar[tuple[Map, ...]] = (
        Map("ports", MapType.LPM_TRIE, PortKey, Present, "max_ports"),
        Map("peers", MapType.LPM_TRIE, PeerKey, PortSet, "max_peers"),
        Map("blocks", MapType.LPM_TRIE, BlockKey, PortSet, "max_blocks"),
        Map(
            "identities",
            MapType.HASH,
            IdentityKey,
            Identity,
            "max_identities",
            concerns=lambda key, value: key.address,
        ),
        Map(
            "hosts",
            MapType.HASH,
            HostKey,
            Host,
            "max_hosts",
            concerns=lambda key, value: key.address,
        ),
        Map(
            "isolated",
            MapType.HASH,
            IsolatedKey,
            Policy,
            "max_isolated",
            concerns=lambda key, value: key.address,
        ),
    )

    def defines(self, view: View) -> Mapping[str, int]:
        """Constants that no policy changes: a policy must not wait for a compiler."""
        return {
            "INGRESS": Direction.INGRESS,
            "EGRESS": Direction.EGRESS,
            "NOTHING": NOTHING_NUMBER,
            "EVERYTHING": EVERYTHING_NUMBER,
            "PORT_BITS": bits_to(PortKey, "port", self.family),
            "PEER_BITS": bits_to(PeerKey, "pod", self.family),
            "BLOCK_BITS": bits_to(BlockKey, "network", self.family),
            "HOST_ADDRESSES": HOST_ADDRESSES,
        }

    def needed_on(self, view: View) -> Collection[str]:
        """Pods' ports, as long as some policy selects a pod of this node."""
        return ("pod",) if isolates_local_pods(view) else ()

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """The namespaces of local pods, the addresses of pods anywhere, and nodes."""
        return changed_units(change, view)

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """Which of the namespace's local pods are isolated, or who speaks from an address."""
        if unit[0] == NAMESPACE:
            return isolated_entries(unit[1], view, self.family, closed=False)
        if unit[0] == NODE:
            node = view.nodes.get(unit[1])
            return host_entries(node, self.family) if node else ()
        address = _address(unit[1])
        return identity_entries(address, view) if address.version == self.family else ()

    def parts(self, unit: Unit, view: View) -> Iterable[Part]:
        """What the namespace's local pods may do; what is refused of it is not allowed."""
        return policy_parts(unit[1], view, self.family) if unit[0] == NAMESPACE else ()

    def refused(self, unit: Unit, view: View) -> Iterable[Entry]:
        """Isolates the pods all the same, and allows them nothing."""
        if unit[0] != NAMESPACE:
            return ()
        return isolated_entries(unit[1], view, self.family, closed=True)

    def namespace_of(self, unit: Unit, view: View) -> str:
        """Whose policies they are, or whose pod."""
        if unit[0] != IDENTITY:
            return unit[1] if unit[0] == NAMESPACE else ""
        pod = owner(_address(unit[1]), view) if view.policies else None
        return pod.namespace if pod is not None else ""

    def object_of(self, unit: Unit, view: View) -> tuple[str, str] | None:
        """The pod that speaks from an address, or the namespace or node."""
        if unit[0] != IDENTITY:
            return super().object_of(unit, view)
        pod = owner(ip_address(unit[1]), view)
        return (Pod.kind, pod.key) if pod is not None else None

    def collect(self, read: Read, view: View) -> Iterable[Sample]:
        """The number of isolated pods by direction, from the map in force."""
        isolated = Counter(key.direction for key in read("isolated"))
        for direction in Direction:
            yield Sample("isolated_pods", isolated[direction], (direction.name.lower(),))


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """The one cube of this package."""
    return [Firewall]
