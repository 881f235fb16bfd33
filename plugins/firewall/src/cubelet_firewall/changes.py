"""Finds the units whose plans a change may have altered.

Changes come in batches, and the view already holds the whole batch: each change yields all units
that depend on its own object, given the new state of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cubelet_firewall.interests import interests
from cubelet_firewall.rules import NAME_LABEL, Space, space_of
from cubelet_hooks.cube import Unit
from cubelet_hooks.objects import (
    Address,
    Change,
    LocalNode,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Port,
)
from cubelet_hooks.view import View

NAMESPACE = "namespace"
IDENTITY = "identity"
NODE = "node"


def changed_units(change: Change, view: View) -> Iterator[Unit]:
    """``("namespace", name)`` for the policies of its local pods, ``("identity", address)`` and
    ``("node", name)`` for a host."""
    match change.old if change.new is None else change.new:
        case Pod():
            yield from _of_pod(change, view)
        case Namespace():
            yield from _of_namespace(change, view)
        case NetworkPolicy() as policy:
            yield NAMESPACE, policy.namespace
            if _first_or_last(change, view):
                yield from _identities(_all_addresses(view))
        case Port() as port:
            yield NAMESPACE, port.namespace
            for each in (change.old, change.new):
                yield from _identities(each.addresses if isinstance(each, Port) else ())
        case Node():
            yield NODE, change.key
        case LocalNode():
            for port in view.ports.values():
                yield from _identities(port.addresses)


def _identities(addresses: Iterable[Address]) -> Iterator[Unit]:
    return ((IDENTITY, str(address)) for address in addresses)


def _of_pod(change: Change, view: View) -> Iterator[Unit]:
    versions = [each for each in (change.old, change.new) if isinstance(each, Pod)]
    if _shape(change.old) == _shape(change.new) or (change.old is None and not view.policies):
        return
    port, namespace = view.ports.get(change.key), versions[0].namespace
    for pod in versions:
        yield from _identities(() if pod.host_network else pod.ips)
    if port is not None:
        yield from _identities(port.addresses)
        yield NAMESPACE, namespace
    space, interested = space_of(namespace, view), interests(view)
    homes = set().union(*(interested.in_pod(space, pod.labels) for pod in versions))
    if namespace not in view.namespaces:
        homes |= interested.in_space(space)
    yield from _policies(homes)


def _shape(pod: object) -> tuple[object, ...] | None:
    """The fields of a pod that plans use; not its readiness, which changes most often."""
    if not isinstance(pod, Pod):
        return None
    return (pod.labels, pod.ports, pod.ips, pod.host_network, pod.finished, pod.terminating)


def _of_namespace(change: Change, view: View) -> Iterator[Unit]:
    for pod in view.pods_in(change.key):
        yield from _identities(() if pod.host_network else pod.ips)
    for port in view.ports.values():
        yield from _identities(port.addresses if port.namespace == change.key else ())
    spaces = [
        Space(change.key, each.labels if isinstance(each, Namespace) else {NAME_LABEL: change.key})
        for each in (change.old, change.new)
    ]
    yield from _policies(set().union(*map(interests(view).in_space, spaces)))


def _policies(homes: Iterable[str]) -> Iterator[Unit]:
    return ((NAMESPACE, home) for home in homes)


def _first_or_last(change: Change, view: View) -> bool:
    """Whether the first policy has come or the last one has gone, which all identities depend on.

    If a batch adds the first policies, the one that the view lists first stands for them.
    """
    if change.new is None:
        return not view.policies
    return change.old is None and next(iter(view.policies), None) == change.key


def _all_addresses(view: View) -> Iterator[Address]:
    for pod in view.pods.values():
        yield from () if pod.host_network else pod.ips
    for port in view.ports.values():
        yield from port.addresses
