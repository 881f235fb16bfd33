"""Which addresses and ports outside clients may ask for: what the core looks at on the uplink."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from cubelet_hooks.addresses import Holding, Standing, affected, holding
from cubelet_hooks.cube import Entry, Unit
from cubelet_hooks.flows import Index
from cubelet_hooks.objects import Change, LocalNode, Protocol, Service
from cubelet_hooks.records import U8, U64, Addr, Address, Family, Record
from cubelet_hooks.view import View

HOST_PORT_PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP", "SCTP")
_WORDS = 65_536 // 64
PORT_WORDS = _WORDS * len(HOST_PORT_PROTOCOLS)
"""How many :class:`PortBits` there are."""


class ExposedKey(Record):
    """An address that outside clients may send to."""

    address: Addr


class ExposedAddress(Record):
    """Whether it is the node's ``own``, and ``every`` port ours or only those that are asked for.

    Of an address that is nobody's but a Service's all are, so that others can be refused.
    """

    own: U8
    every: U8


class PortBits(Record):
    """Which of 64 ports are some pod's host port, or a Service's at an address that is not its
    alone: bit n is the n-th of them.

    Number 1,024 p + i of the map holds ports 64 i to 64 i + 63 of TCP (p = 0), UDP (1), SCTP (2).
    """

    bits: U64


def units(change: Change, view: View) -> Iterable[Unit]:
    """The units of Services whose addresses have to be looked at anew, and the one of all ports."""
    found: set[Unit] = {("service", each.key) for each in affected(change, view)}
    sides = [each for each in (change.old, change.new) if isinstance(each, Service)]
    if found or any(each.exposed_ips for each in sides):
        found.add(("host_ports",))
    return found | {("service", each.key) for each in sides}


def of_node(local: LocalNode, family: Family) -> Iterable[Entry]:
    """The node's further addresses; the first is compiled in."""
    for address in local.addresses[1:]:
        if address.version == family:
            yield _exposed_entry(address, own=1, every=0)


def of_service(service: Service, view: View, family: Family) -> Iterable[Entry]:
    """Another node's address is not asked for here, whatever names it."""
    for address in service.exposed_ips:
        if address.version != family:
            continue
        held = holding(address, view)
        if held.standing is Standing.FREE:
            yield _exposed_entry(address, own=0, every=1)
        elif _shared_here(held):
            yield _exposed_entry(address, own=int(held.here), every=0)


def _exposed_entry(address: Address, own: int, every: int) -> Entry:
    return Entry("exposed", ExposedKey(address=address), ExposedAddress(own=own, every=every))


def _shared_here(held: Holding) -> bool:
    """Whether packets to the address come here, of which the Service's ports alone are ours."""
    return held.standing is Standing.SHARED and (held.here or not held.node)


def _asked_ports(view: View) -> Iterable[tuple[Protocol, int]]:
    """The ports that pods and Services have at addresses that are others', too."""
    for port in view.ports.values():
        for each in port.host_ports:
            yield each.protocol, each.port
    for service in view.exposed_services():
        if any(_shared_here(holding(address, view)) for address in service.exposed_ips):
            for asked in service.ports:
                yield asked.protocol, asked.port


def port_bits(view: View) -> Iterable[Entry]:
    """The words of all ports that are asked for, in one plan: pods and Services share them."""
    words: dict[int, int] = defaultdict(int)
    for protocol, port in _asked_ports(view):
        words[_WORDS * HOST_PORT_PROTOCOLS.index(protocol) + port // 64] |= 1 << port % 64
    return (Entry("host_ports", Index(index), PortBits(bits)) for index, bits in words.items())
