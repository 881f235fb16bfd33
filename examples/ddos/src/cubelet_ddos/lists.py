"""The blocked and allowed networks: from the settings, the Blocklists and the cluster's nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cubelet_ddos.networks import parse, parse_all
from cubelet_ddos.settings import Settings
from cubelet_hooks.objects import Address, Custom
from cubelet_hooks.records import Network
from cubelet_hooks.resources import Resource
from cubelet_hooks.view import View

BLOCKLIST = Resource("Blocklist", "ddos.cubelet.io/v1", "blocklists", namespaced=False)
SETTING = "setting block"
"""Stands for the setting in the place of a Blocklist's name."""


class Content(NamedTuple):
    """The networks of a Blocklist, the errors in it, and its reason."""

    networks: list[Network]
    wrong: list[str]
    reason: str


def content(blocklist: Custom) -> Content:
    """The content of a Blocklist; one from a folder of manifests was checked by no schema."""
    prefixes, reason = blocklist.spec.get("prefixes", ()), blocklist.spec.get("reason", "")
    if not isinstance(prefixes, tuple):
        return Content([], [f"spec.prefixes is {prefixes!r}: write a list"], str(reason))
    return Content(*parse_all(prefixes), str(reason))


def blocked_by(settings: Settings, view: View) -> Iterator[tuple[Network, str, str]]:
    """Every network that is listed, with the list's name and reason."""
    for text in settings.block:
        yield parse(text), SETTING, ""
    for key, blocklist in view.custom(BLOCKLIST.kind).items():
        networks, _, reason = content(blocklist)
        for network in networks:
            yield network, key, reason


def allowed_by(settings: Settings, view: View) -> Iterator[tuple[Network, str]]:
    """Every network that is never dropped, and why."""
    for text in settings.allow:
        yield parse(text), "in the setting allow"
    for node in view.nodes.values():
        for network in hosts(node.addresses):
            yield network, f"an address of node {node.name}"
    if view.local is not None:
        for network in hosts(view.local.addresses):
            yield network, "an address of this node"


def hosts(addresses: Iterable[Address]) -> list[Network]:
    """The networks of single addresses."""
    return [parse(str(address)) for address in addresses]
