"""Reads addresses and prefixes."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from cubelet_hooks.records import Network


def parse(text: object) -> Network:
    """The network of ``203.0.113.0/24`` or of a bare address.

    Raises ValueError with a remedy for any other text, also for a prefix with host bits set, which
    could mean the address or its network.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text: write a prefix such as 203.0.113.0/24 in quotes")
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no prefix ({error}): write 203.0.113.0/24") from None


def parse_all(texts: Iterable[object]) -> tuple[list[Network], list[str]]:
    """The networks of the texts that can be read, and the errors of the others."""
    networks, wrong = [], []
    for text in texts:
        try:
            networks.append(parse(text))
        except ValueError as error:
            wrong.append(str(error))
    return networks, wrong
