"""The tables of `cubelet get NOUN`: the core's own, and those that cubes offer.

A cube's tables are declared in ``Cube.shows`` and made by ``Cube.rows``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice

from cubelet.bpf.maps import BpfMap
from cubelet.composer.composition import Composition
from cubelet.cubes.context import Counts
from cubelet.datapath.drops import Reasons, drop_rows
from cubelet.datapath.flows import FlowSweeper, Row
from cubelet.datapath.records import reader_of, shown_row
from cubelet.ipc.client import INTERNAL_ERROR, INVALID_REQUEST, AgentError
from cubelet_hooks.cube import PORT_CLASSES, Condition, Cube
from cubelet_hooks.objects import LocalNode
from cubelet_hooks.records import Address
from cubelet_hooks.view import View

Where = Mapping[str, str]
"""Wanted texts by column."""


class Tables:
    """Rows by noun: the core's own, and what the composed cubes offer.

    ``maps``, ``sweeper``, ``counts`` (of events and packets, by instance) and ``conditions`` (of
    cubes' own objects) are functions that give those in force.
    """

    def __init__(
        self,
        composition: Composition,
        view: View,
        reasons: Reasons,
        maps: Callable[[], Mapping[str, BpfMap]],
        sweeper: Callable[[], FlowSweeper | None],
        counts: Callable[[], Mapping[str, Counts]] = dict,
        conditions: Callable[[], Iterable[Condition]] = tuple,
    ) -> None:
        self._composition = composition
        self._view = view
        self._reasons = reasons
        self._maps = maps
        self._sweeper = sweeper
        self._counts = counts
        self._conditions = conditions

    def nouns(self) -> tuple[str, ...]:
        """The nouns of all tables."""
        offered = {noun for cube in self._composition.cubes for noun in cube.shows}
        return (*self._own(), *sorted(offered - self._own().keys()))

    def rows(self, noun: str, limit: int | None = None, where: Where | None = None) -> list[Row]:
        """Rows of a table, at most ``limit``, that have these texts in these columns.

        Raises AgentError for an unknown noun or column, and before anything is composed.
        """
        own = self._own()
        if noun in own:
            return list(own[noun](limit, _Filter(where or {})))
        owners = [cube for cube in self._composition.cubes if noun in cube.shows]
        if not owners:
            known = ", ".join(self.nouns())
            raise AgentError(INVALID_REQUEST, f"there are no {noun} to show", f"known: {known}")
        found = (row for cube in owners for row in self._shown(cube, noun, len(owners) > 1))
        return _chosen(found, limit, _Filter(where or {}))

    def _own(self) -> Mapping[str, Callable[[int | None, _Filter], Iterable[Row]]]:
        return {
            "cubes": lambda limit, keep: _chosen(
                _cubes(self._composition, self._counts()), limit, keep
            ),
            "ports": lambda limit, keep: _chosen(self._ports(), limit, keep),
            "flows": self._flows,
            "drops": lambda limit, keep: _chosen(self._drops(), limit, keep),
            "conditions": lambda limit, keep: _chosen(_said(self._conditions()), limit, keep),
        }

    def _flows(self, limit: int | None, keep: _Filter) -> Iterable[Row]:
        sweeper = self._sweeper()
        if sweeper is None:
            raise _nothing_composed()
        return sweeper.list(limit, keep)

    def _drops(self) -> Iterable[Row]:
        self._map("cubelet_drops")
        return drop_rows(self._maps(), self._reasons)

    def _ports(self) -> Iterator[Row]:
        """This node's ports: its own devices, then the pods'."""
        if self._view.local is not None:
            yield from _node_ports(self._view.local)
        sweeper = self._sweeper()
        for key, port in sorted(self._view.ports.items()):
            yield {
                "class": "pod",
                "name": key,
                "device": port.host_ifname,
                "ifindex": port.ifindex,
                "addresses": list(port.addresses),
                "mac": port.mac,
                "mtu": port.mtu,
                "flows": sweeper.held(port.ifindex) if sweeper else 0,
            }

    def _shown(self, cube: Cube, noun: str, several: bool) -> Iterator[Row]:
        own = {"cube": cube.instance} if several else {}
        interfaces = self._interfaces()
        try:
            for given in cube.rows(noun, reader_of(cube, self._map), self._view):
                yield {**own, **_with_interface(shown_row(cube, given), interfaces)}
        except AgentError:
            raise
        except Exception as error:  # a cube's bug is not the agent's
            message = f"the cube {cube.instance} failed to list {noun}"
            raise AgentError(INTERNAL_ERROR, message, repr(error)) from error

    def _interfaces(self) -> Mapping[int, str]:
        """Names of this node's interfaces by ifindex: the pod's key, or the port class."""
        names = {port.ifindex: key for key, port in self._view.ports.items()}
        local = self._view.local
        if local is not None:
            names[local.datapath_ifindex] = "host"
            names[local.overlay_ifindex] = "overlay"
            names |= {nic.ifindex: "uplink" for nic in local.uplinks}
        return names

    def _map(self, name: str) -> BpfMap:
        maps = self._maps()
        if name not in maps:
            raise _nothing_composed()
        return maps[name]


class _Filter:
    """Says whether a row has the wanted texts."""

    def __init__(self, where: Where) -> None:
        self._where = where

    def __call__(self, row: Row) -> bool:
        unknown = self._where.keys() - row.keys()
        if unknown:
            raise AgentError(
                INVALID_REQUEST,
                f"there is no column {', '.join(sorted(unknown))}",
                f"known: {', '.join(row)}",
            )
        return all(str(row[column]) == text for column, text in self._where.items())


def _chosen(rows: Iterable[Row], limit: int | None, keep: _Filter) -> list[Row]:
    return list(islice(filter(keep, rows), limit))


def _nothing_composed() -> AgentError:
    return AgentError(INTERNAL_ERROR, "nothing is composed yet", "see: cubelet status")


def _cubes(composition: Composition, counts: Mapping[str, Counts]) -> Iterator[Row]:
    """The composed instances: the port classes each sees, and its counts of callbacks.

    ``lost`` counts events, packets and flows' ends over the rate or without room in the ring.
    """
    per_packet = {each.cube.instance: each.classes for each in composition.packet_stages()}
    early = {each.cube.instance for each in composition.early_stages()}
    for cube in composition.cubes:
        if cube in composition.core:
            inward, outward = cube.inward, cube.outward
        else:
            inward = frozenset(n for n in PORT_CLASSES if cube in composition.inward(n))
            outward = frozenset(n for n in PORT_CLASSES if cube in composition.outward(n))
        yield {
            "name": cube.instance,
            "kind": cube.kind,
            "place": "core" if cube in composition.core else "stack",
            "inward": [name for name in PORT_CLASSES if name in inward],
            "outward": [name for name in PORT_CLASSES if name in outward],
            "per_packet": list(per_packet.get(cube.instance, ())),
            "early": cube.instance in early,
            "shows": list(cube.shows),
            "maps": [declared.name for declared in cube.maps],
            **_told(counts.get(cube.instance)),
        }


def _said(conditions: Iterable[Condition]) -> Iterator[Row]:
    """What has become of cubes' own objects on this node."""
    for each in sorted(conditions, key=str):
        yield {
            "kind": each.kind,
            "name": each.key,
            "type": each.type,
            "status": each.status,
            "reason": each.reason,
            "message": each.message,
            "generation": each.generation,
        }


def _told(counts: Counts | None) -> Row:
    return {
        "events": counts.events if counts else None,
        "packets": counts.packets if counts else None,
        "ticks": counts.ticks if counts else None,
        "gone": counts.gone if counts else None,
        "ended": counts.ended if counts else None,
        "lost": counts.lost_events + counts.lost_packets + counts.lost_ended if counts else None,
        "failures": counts.failures if counts else None,
    }


def _node_ports(local: LocalNode) -> Iterator[Row]:
    devices: tuple[tuple[str, int, list[Address], str, int], ...] = (
        ("host", local.datapath_ifindex, [local.gateway], local.gateway_mac, local.overlay_mtu),
        ("overlay", local.overlay_ifindex, [], local.router_mac, local.overlay_mtu),
        ("uplink", local.uplink_ifindex, list(local.addresses), local.uplink_mac, local.uplink_mtu),
    )
    for name, ifindex, addresses, mac, mtu in devices:
        device = ""
        with suppress(OSError):  # it has just been removed
            device = socket.if_indextoname(ifindex)
        yield {
            "class": name,
            "name": local.name,
            "device": device,
            "ifindex": ifindex,
            "addresses": addresses,
            "mac": mac,
            "mtu": mtu,
            "flows": None,
        }


def _with_interface(row: Row, interfaces: Mapping[int, str]) -> Row:
    """The row with an interface's name behind its number, if it has one."""
    named: Row = {}
    for column, value in row.items():
        named[column] = value
        if column == "ifindex":
            named["interface"] = interfaces.get(value)
    return named
