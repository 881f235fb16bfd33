"""The mirror cube: copies of a pod's packets for another pod of its namespace, the collector.

Whose packets somebody may see is decided here, for the core copies what a cube's C names. A pod's
annotation names a collector in the pod's own namespace and no other: who may write the pod could
read its packets in the pod itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

from cubelet_hooks import cube
from cubelet_hooks.cube import Complaint, Cube, Entry, Placement, Read, Unit
from cubelet_hooks.flows import PortKey
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, LocalNode, Pod, Port
from cubelet_hooks.records import U32, Addr, Record
from cubelet_hooks.view import View

ANNOTATION = "mirror.cubelet.io/to"


class Collector(Record):
    """The port that copies go to. ``address`` is that of the pod whose packets they are."""

    ifindex: U32
    address: Addr


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the mirror cube."""

    max_pods: int = 1024
    """How many pods of a node can be mirrored."""


class Mirror(Cube):
    """Copies what a pod sends and receives to the pod that its annotation names."""

    kind: ClassVar[str] = "mirror"
    abi: ClassVar[int] = 1  # of the contract that the C is written for
    inward: ClassVar[frozenset[str]] = frozenset({"pod"})
    outward: ClassVar[frozenset[str]] = frozenset({"pod"})
    mirrors: ClassVar[bool] = True
    placement: ClassVar[tuple[Placement, ...]] = (Placement("pod"),)
    specialised_by: ClassVar[frozenset[str] | None] = frozenset({Pod.kind, LocalNode.kind})
    settings_type: ClassVar[type[cube.Settings]] = Settings
    maps: ClassVar[tuple[Map, ...]] = (
        Map(
            "collectors",
            MapType.HASH,
            PortKey,
            Collector,
            "max_pods",
            # What a flow's packets are copied to is found out when it is judged.
            concerns=lambda key, value: value.address,
        ),
    )
    shows: ClassVar[Mapping[str, str]] = {"mirrors": "collectors"}

    def needed_on(self, view: View) -> Collection[str]:
        """Pods' ports, while a pod of this node, attached or not yet, has the annotation."""
        if view.local is None:
            return ()
        here = (pod for pod in view.pods_on(view.local.name) if not pod.host_network)
        wanted = any(ANNOTATION in pod.annotations for pod in here if not pod.finished)
        return ("pod",) if wanted else ()

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """A pod when it changes or is attached, and those that name it as their collector."""
        if change.kind == Pod.kind:
            return [("pod", change.key)]
        if change.kind != Port.kind:
            return ()
        namespace, _, name = change.key.partition("/")
        naming = (
            each.key
            for each in view.ports.values()
            if each.namespace == namespace and _asked(view.pods.get(each.key)) == name
        )
        return [("pod", key) for key in dict.fromkeys((change.key, *naming))]

    def plan(self, unit: Unit, view: View) -> Iterable[Entry | Complaint]:
        """The pod's collector, if it is attached to this node, too."""
        pod, port = view.pods.get(unit[1]), view.ports.get(unit[1])
        name = _asked(pod)
        if pod is None or port is None or not name:
            return
        collector = view.ports.get(f"{pod.namespace}/{name}")
        if collector is None or name == pod.name:
            yield Complaint(Pod.kind, pod.key, "NotMirrored", _why(pod, name, view))
            return
        for address in port.addresses:
            if address.version == self.family:
                value = Collector(collector.ifindex, address)
                yield Entry("collectors", PortKey(port.ifindex), value)

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Mapping[str, object]]:
        """Each pod of this node that asks for copies, and whether its collector gets them."""
        known = read("collectors")
        for key, port in sorted(view.ports.items()):
            if name := _asked(view.pods.get(key)):
                copied = PortKey(port.ifindex) in known
                to = f"{port.namespace}/{name}"
                yield {"pod": key, "to": to, "state": "copied" if copied else "not copied"}


def _asked(pod: Pod | None) -> str:
    """The collector that a pod asks for; empty for none."""
    return pod.annotations.get(ANNOTATION, "") if pod else ""


def _why(pod: Pod, name: str, view: View) -> str:
    """Why a pod's packets are not copied, and what to do."""
    said = f"{ANNOTATION}: {name[:100]!r}"
    if "/" in name:
        return f"{said} names another namespace; write the name of a pod of {pod.namespace}"
    if name == pod.name:
        return f"{said} is the pod itself; name another one"
    other = view.pods.get(f"{pod.namespace}/{name}")
    if other is None:
        return f"{said} is no pod of {pod.namespace}; create it, or name another one"
    if other.host_network:
        return f"{said} is on the host's network, which has no port of its own; name another pod"
    return f"{said} is not attached to this node, {pod.node_name}; have both pods on one node"


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """The one cube of this package."""
    return [Mirror]
