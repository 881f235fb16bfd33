"""A node whose plans are asked by the lookups that the C makes, in the planned bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from cubelet.control.planner import Planner
from cubelet.sources.decode import decode_object
from cubelet.state.cluster import State
from cubelet.testkit import local_node
from cubelet_firewall.cube import Firewall
from cubelet_firewall.portsets import EVERYTHING_NUMBER, NOTHING_NUMBER
from cubelet_firewall.records import (
    BlockKey,
    Direction,
    Identity,
    IdentityKey,
    IsolatedKey,
    PeerKey,
    Policy,
    PortKey,
    PortSet,
)
from cubelet_firewall.settings import Settings
from cubelet_hooks.cube import Unit
from cubelet_hooks.objects import Address, Change, NetworkPolicy, Object, Pod, Port
from cubelet_hooks.records import Record

PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "SCTP": 132}
LOCAL = local_node(ip_network("10.1.1.0/24"), name="n1")


class Tries:
    """Contents of maps, with the kernel's two ways to look something up."""

    def __init__(self, contents: Mapping[str, Mapping[bytes, bytes]]) -> None:
        self._maps = contents
        self._lengths = {
            name: sorted({int.from_bytes(key[:4], "little") for key in entries}, reverse=True)
            for name, entries in contents.items()
        }

    def exact(self, name: str, key: Record) -> bytes | None:
        return self._maps[f"firewall0_{name}"].get(key.pack())

    def longest(self, name: str, key: Record) -> bytes | None:
        raw = key.pack()
        given, bits = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "big")
        width = 8 * (len(raw) - 4)
        for length in self._lengths[f"firewall0_{name}"]:
            data = (bits >> (width - length) << (width - length)).to_bytes(width // 8, "big")
            wanted = length.to_bytes(4, "little") + data
            found = self._maps[f"firewall0_{name}"].get(wanted)
            if length <= given and found is not None:
                return found
        return None


class Node:
    """A node's state and its firewall's plans; ``allows`` is what the C does with them."""

    def __init__(self, *objects: Object) -> None:
        self.state = State()
        self.firewall = Firewall("firewall0", Settings())
        self.planner = Planner([self.firewall])
        self.bits = self.firewall.defines(self.state)
        self.put(LOCAL, *objects)

    def put(self, *objects: Object) -> set[Unit]:
        return self.take_in(Change.between(None, each) for each in objects)

    def remove(self, *objects: Object) -> set[Unit]:
        return self.take_in(Change.between(each, None) for each in objects)

    def take_in(self, changes: Iterable[Change]) -> set[Unit]:
        real = [change for change in map(self.state.apply, changes) if change]
        units = self.planner.units(real, self.state)
        self.planner.replan(units, self.state)
        assert self.planner.failures == {}
        self.tries = Tries(self.planner.contents())
        return {unit for _, unit in units}

    def entries(self, name: str) -> int:
        return len(self.planner.contents()[f"firewall0_{name}"])

    def planned_afresh(self) -> Mapping[str, Mapping[bytes, bytes]]:
        planner = Planner([self.firewall])
        changes = [Change.between(None, each) for each in self.state]
        planner.replan(planner.units(changes, self.state), self.state)
        return planner.contents()

    def allows(
        self, direction: Direction, pod: Address, peer: Address, protocol: str, port: int
    ) -> bool:
        raw = self.tries.exact("isolated", IsolatedKey(pod, direction))
        if raw is None:
            return True
        policy = Policy.unpack(raw)
        if policy.peers:
            found = self.tries.exact("identities", IdentityKey(peer))
            if found is not None:
                who = Identity.unpack(found)
                key = PeerKey(self.bits["PEER_BITS"], policy.policy, who.namespace, who.pod)
                if self._in_set(self.tries.longest("peers", key), protocol, port):
                    return True
                if not policy.blocks:
                    return False
        block = BlockKey(self.bits["BLOCK_BITS"], policy.policy, peer)
        return self._in_set(self.tries.longest("blocks", block), protocol, port)

    def _in_set(self, raw: bytes | None, protocol: str, port: int) -> bool:
        number = PortSet.unpack(raw).set if raw is not None else NOTHING_NUMBER
        if number in (NOTHING_NUMBER, EVERYTHING_NUMBER):
            return number == EVERYTHING_NUMBER
        key = PortKey(self.bits["PORT_BITS"], number, PROTOCOLS[protocol], port)
        return self.tries.longest("ports", key) is not None

    def egress(self, pod: Pod, peer: Pod | str, protocol: str = "TCP", port: int = 80) -> bool:
        return self.allows(Direction.EGRESS, pod.ips[0], _address(peer), protocol, port)

    def ingress(self, pod: Pod, peer: Pod | str, protocol: str = "TCP", port: int = 80) -> bool:
        return self.allows(Direction.INGRESS, pod.ips[0], _address(peer), protocol, port)


def _address(peer: Pod | str) -> Address:
    return ip_address(peer) if isinstance(peer, str) else peer.ips[0]


def pod(name: str, address: str, namespace: str = "x", **fields: Any) -> Pod:
    fields.setdefault("labels", {"pod": name})
    return Pod(namespace, name, ips=(ip_address(address),), phase="Running", **fields)


def port(of: Pod) -> Port:
    return Port(
        namespace=of.namespace,
        name=of.name,
        container_id=of.name,
        ifname="eth0",
        netns="",
        host_ifname="cbl0",
        ifindex=9,
        mac="02:00:00:00:00:07",
        host_mac="06:00:00:00:00:07",
        addresses=of.ips,
        mtu=1450,
    )


def policy(name: str = "p", namespace: str = "x", **spec: Any) -> NetworkPolicy:
    if "policyTypes" not in spec:
        spec["policyTypes"] = [key.title() for key in ("ingress", "egress") if key in spec]
    read = decode_object(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"podSelector": {}, **spec},
        }
    )
    assert isinstance(read, NetworkPolicy)
    return read
