"""The identity of an address: its pod's properties that policies can distinguish."""

from __future__ import annotations

from cubelet_firewall.numbers import number
from cubelet_firewall.records import Identity
from cubelet_firewall.rules import Space
from cubelet_hooks.objects import Address, Pod
from cubelet_hooks.view import View


def is_peer(pod: Pod) -> bool:
    """Whether peers' selectors can select the pod: one on the host network counts as its node."""
    return not pod.host_network and not pod.finished


def space_number(space: Space) -> int:
    """The number of a namespace with these labels."""
    return number("namespace", space)


def pod_number(pod: Pod) -> int:
    """A number that is the same for all pods of a namespace with equal labels and named ports."""
    named = sorted((port.name, port.protocol, port.port) for port in pod.ports if port.name)
    return number("pod", (pod.namespace, pod.labels, named))


def identity(pod: Pod, space: Space) -> Identity:
    """The pod's identity; ``space`` is its namespace."""
    return Identity(space_number(space), pod_number(pod))


def owner(address: Address, view: View) -> Pod | None:
    """The pod that has an address now; None if none has.

    For a local address this node's attachments decide: the pod's status names the address only
    later, and the status of an earlier pod may still name it.
    """
    local = view.local
    if local is None or address in local.pod_cidr:
        for port in view.ports.values():
            if address in port.addresses:
                pod = view.pods.get(port.key)
                return pod if pod is not None and is_peer(pod) else None
    living = filter(is_peer, view.pods_by_ip(address))
    return min(living, key=lambda pod: pod.terminating, default=None)
