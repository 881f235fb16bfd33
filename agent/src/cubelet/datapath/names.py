"""Names of the numbers in packets and records: protocols, ethertypes, classes, states, flags."""

from __future__ import annotations

from cubelet_hooks.cube import PORT_CLASSES
from cubelet_hooks.flows import FlowState

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 132: "SCTP"}
_ETHERTYPES = {0x0800: "IPv4", 0x0806: "ARP", 0x8100: "VLAN", 0x86DD: "IPv6", 0x88CC: "LLDP"}
_STATES = {state.value: state.name.lower() for state in FlowState}
_TCP_FLAGS = "FSRP.UEW"
"""A letter per bit, lowest first, as tcpdump writes them: ``.`` is ACK."""


def protocol_name(number: int) -> str:
    """An IP protocol's name, such as ``TCP``; its number if it has none here."""
    return _PROTOCOLS.get(number, str(number))


def ethertype_name(number: int) -> str:
    """An ethertype in host byte order, such as ``ARP`` or ``0x88b5``."""
    return _ETHERTYPES.get(number, f"0x{number:04x}")


def class_name(number: int) -> str:
    """A port class by its number."""
    return PORT_CLASSES[number] if number < len(PORT_CLASSES) else str(number)


def state_name(number: int) -> str:
    """A flow's state, such as ``established``."""
    return _STATES.get(number, str(number))


def tcp_flags(flags: int) -> str:
    """TCP's flags in tcpdump's letters: ``S.`` is SYN and ACK."""
    return "".join(letter for bit, letter in enumerate(_TCP_FLAGS) if flags >> bit & 1)
