"""The tables of `cubelet get NOUN`: the core's own, and the maps that cubes offer to show.

Nothing here knows any cube: what it shows of one is declared in ``Cube.shows`` and in the records
of its maps.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import socket
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from cubelet.bpf.layout import ARRAYS, PER_CPU, split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.client import INTERNAL_ERROR, INVALID_REQUEST, AgentError
from cubelet.composer.composition import Composition
from cubelet.flows import FlowSweeper, Row
from cubelet.monitor import Reasons, drop_rows
from cubelet.names import class_name, protocol_name
from cubelet_hooks.cube import PORT_CLASSES, Cube
from cubelet_hooks.flows import Count, PortKey
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import LocalNode
from cubelet_hooks.records import Address, Family, Record
from cubelet_hooks.view import View

Where = Mapping[str, str]
"""The texts that columns must have."""

_NAMED: Mapping[str, Callable[[int], str]] = {
    "protocol": protocol_name,
    "port_class": class_name,
}
"""Numbers that have names wherever they occur, by the name of their field."""


class Tables:
    """Rows by noun: ``cubes``, ``ports``, ``flows``, ``drops``, and what the composed cubes offer.

    ``maps`` and ``sweeper`` give what is in force when they are asked.
    """

    def __init__(
        self,
        composition: Composition,
        view: View,
        reasons: Reasons,
        maps: Callable[[], Mapping[str, BpfMap]],
        sweeper: Callable[[], FlowSweeper | None],
    ) -> None:
        self._composition = composition
        self._view = view
        self._reasons = reasons
        self._maps = maps
        self._sweeper = sweeper

    def nouns(self) -> tuple[str, ...]:
        """What can be shown."""
        offered = {noun for cube in self._composition.cubes for noun in cube.shows}
        return (*self._own(), *sorted(offered - self._own().keys()))

    def rows(self, noun: str, limit: int | None = None, where: Where | None = None) -> list[Row]:
        """Rows of a table, at most ``limit``, that have these texts in these columns.

        Raises AgentError for a noun or a column that there is not, and before anything is composed.
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
            "cubes": lambda limit, keep: _chosen(_cubes(self._composition), limit, keep),
            "ports": lambda limit, keep: _chosen(self._ports(), limit, keep),
            "flows": self._flows,
            "drops": lambda limit, keep: _chosen(self._drops(), limit, keep),
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
        counts = self._maps().get("cubelet_flow_counts")
        for key, port in sorted(self._view.ports.items()):
            held = counts.lookup(PortKey(ifindex=port.ifindex).pack()) if counts else None
            yield {
                "class": "pod",
                "name": key,
                "device": port.host_ifname,
                "ifindex": port.ifindex,
                "addresses": list(port.addresses),
                "mac": port.mac,
                "mtu": port.mtu,
                "flows": Count.unpack(held).count if held else 0,
            }

    def _shown(self, cube: Cube, noun: str, several: bool) -> Iterator[Row]:
        declared = next(each for each in cube.maps if each.name == cube.shows[noun])
        table = self._map(f"{cube.instance}_{declared.name}")
        own = {"cube": cube.instance} if several else {}
        return ({**own, **row} for row in map_rows(declared, table, cube.family))

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
    return [row for row in rows if keep(row)][:limit]


def _nothing_composed() -> AgentError:
    return AgentError(INTERNAL_ERROR, "nothing is composed yet", "see: cubelet status")


def _cubes(composition: Composition) -> Iterator[Row]:
    """The composed instances, and the port classes whose packets each sees."""
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
            "shows": list(cube.shows),
            "maps": [declared.name for declared in cube.maps],
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


def map_rows(declared: Map, table: BpfMap, family: Family) -> Iterator[Row]:
    """A map's records as rows: the key's fields, then the value's, in the order of the keys' bytes.

    An array's empty records are left out; numbers kept per CPU are summed up.
    """
    for key, value in sorted(table.items()):
        if table.layout.type in ARRAYS and not any(value):
            continue
        wanted = declared.key.unpack(key, family)
        prefix = declared.type is MapType.LPM_TRIE
        yield {
            **(_prefix_row(wanted, family) if prefix else record_row(wanted)),
            **record_row(_value(declared, table, value, family)),
        }


def _value(declared: Map, table: BpfMap, raw: bytes, family: Family) -> Record:
    if table.layout.type not in PER_CPU:
        return declared.value.unpack(raw, family)
    each = [declared.value.unpack(part, family) for part in split_cpus(raw, table.layout)]
    numbers = {k: v for k, v in vars(each[0]).items() if isinstance(v, int)}
    return dataclasses.replace(each[0], **{k: sum(getattr(r, k) for r in each) for k in numbers})


def record_row(record: Record) -> Row:
    """A record's fields as people read them; nested records' fields get their name in front."""
    row: Row = {}
    hints = _hints(type(record))  # type: ignore[arg-type]
    for name, value in vars(record).items():
        if isinstance(value, Record):
            row |= {f"{name}_{inner}": each for inner, each in record_row(value).items()}
        else:
            row[name] = _readable(name, value, getattr(hints[name], "__metadata__", ()))
    return row


def _readable(name: str, value: Any, metadata: tuple[Any, ...]) -> Any:
    names = next((m for m in metadata if isinstance(m, enum.EnumType)), None)
    if names is not None and value in [member.value for member in names]:  # type: ignore[var-annotated]
        return names(value).name.lower()
    if "be32" in metadata:  # an IPv4 address of the underlay
        return ipaddress.IPv4Address(value) if value else None
    if isinstance(value, bytes):
        return value.hex()
    return _NAMED[name](value) if name in _NAMED else value


def _prefix_row(key: Record, family: Family) -> Row:
    """A trie's key: the number of bits that count, then what they count in, an address last.

    The address and its share of the bits become one column, ``prefix``.
    """
    length, *others = key.layout(family).fields
    address = others[-1]
    bits = getattr(key, length.name) - 8 * (address.offset - length.scalar.size)
    network = ipaddress.ip_network((getattr(key, address.name), bits), strict=False)
    row = record_row(key)
    inner = {name: row[name] for name in (field.name for field in others[:-1])}
    return {"prefix": network, **inner}


@cache
def _hints(record: type[Record]) -> Mapping[str, Any]:
    return typing.get_type_hints(record, include_extras=True)
