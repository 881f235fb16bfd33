"""Turns an event into the record that is written, with pods' names and wall-clock time."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from cubelet_flowlog.names import Names
from cubelet_flowlog.questions import name_of
from cubelet_flowlog.records import How, Told, What
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.flows import FlowState, PortClass, Tuple
from cubelet_hooks.objects import Address
from cubelet_hooks.view import View

Line = Mapping[str, object]
"""A record as it is written: JSON values by name, in one order."""

PROTOCOLS: Mapping[int, str] = {
    number: name.removeprefix("IPPROTO_")
    for name, number in vars(socket).items()
    if name in ("IPPROTO_ICMP", "IPPROTO_TCP", "IPPROTO_UDP", "IPPROTO_SCTP", "IPPROTO_ICMPV6")
}
"""Names of IP protocols; other protocols are written as numbers."""


def clock_offset() -> int:
    """Nanoseconds to add to the kernel's monotonic clock to get the time of day."""
    return time.time_ns() - time.monotonic_ns()


def describe(told: Told, view: View, offset: int, names: Names) -> Line:
    """The record of an event, always in the flow's forward direction."""
    reply = How.REPLY & told.how
    sent, became = (_inverted(told.left), _inverted(told.arrived)) if reply else _forward(told)
    enters, leaves = (told.leaves, told.enters) if reply else (told.enters, told.leaves)
    line = _begin(told.time + offset, What(told.what), sent, became, view, names)
    line |= _translated(sent, became, unknown=bool(How.PORT_UNKNOWN & told.how))
    line["enters"] = PortClass(enters).name.lower()
    if told.what != What.DENIED:
        line["leaves"] = PortClass(leaves).name.lower()
    if name := name_of(told.asked):
        line["asked"] = name
    if told.what == What.COUNTED:
        line["direction"] = "reply" if reply else "forward"
        line |= {"packets": told.packets, "bytes": told.bytes}
    return line


def describe_end(flow: EndedFlow, view: View, now: int, names: Names) -> Line:
    """The record of a flow that has ended, with what both directions have carried.

    ``now`` is in ns since 1970; the last packet came before: see the README.
    """
    sent, became = flow.sent, flow.became
    line = _begin(now, What.ENDED, sent, became, view, names)
    line |= _translated(sent, became, unknown=False)
    return line | {
        "enters": PortClass(flow.enters.port_class).name.lower(),
        "leaves": PortClass(flow.leaves.port_class).name.lower(),
        "closed": flow.state == FlowState.CLOSING,
        "packets": flow.forward.packets,
        "bytes": flow.forward.bytes,
        "reply_packets": flow.reply.packets,
        "reply_bytes": flow.reply.bytes,
    }


def _begin(
    moment: int, what: What, sent: Tuple, became: Tuple, view: View, names: Names
) -> dict[str, object]:
    """What every record begins with.

    ``source`` and ``destination`` are the first packet's, ``to_source`` and ``to_destination``
    those after translation, given only if it changed them. A pod is named if this node knows one
    with the address, or knew one lately, but not pods on the host network, which share the node's.
    """
    return {
        "time": _time_of_day(moment),
        "node": view.local.name if view.local else "",
        "event": what.name.lower(),
        "protocol": PROTOCOLS.get(sent.protocol, str(sent.protocol)),
        **_end("source", sent.src, sent.sport, sent.src, view, names),
        **_end("destination", sent.dst, sent.dport, became.dst, view, names),
    }


def _forward(told: Told) -> tuple[Tuple, Tuple]:
    return told.arrived, told.left


def _inverted(each: Tuple) -> Tuple:
    return Tuple(each.dst, each.src, each.dport, each.sport, each.protocol)


def _time_of_day(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000 / 1_000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _end(
    name: str, address: Address, port: int, whose: Address, view: View, names: Names
) -> Mapping[str, object]:
    end: dict[str, object] = {name: str(address), f"{name}_port": port}
    if pod := names.pod_of(whose, view):
        end[f"{name}_pod"] = pod
    return end


def _translated(sent: Tuple, became: Tuple, unknown: bool) -> Mapping[str, object]:
    found: dict[str, object] = {}
    if unknown or (sent.src, sent.sport) != (became.src, became.sport):
        found |= {"to_source": str(became.src)}
        if not unknown:
            found |= {"to_source_port": became.sport}
    if (sent.dst, sent.dport) != (became.dst, became.dport):
        found |= {"to_destination": str(became.dst), "to_destination_port": became.dport}
    return found
