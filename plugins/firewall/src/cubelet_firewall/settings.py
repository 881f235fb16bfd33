"""Sizes of the firewall's maps."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cubelet_hooks import cube

_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Entries each map may have, for a node of 110 to 250 pods in a cluster of 150,000.

    Memory is taken entry by entry, some 64 to 128 bytes each, but for 16 bytes of every entry
    that ``max_identities`` allows: 4 MiB as it is, and 14 MiB more with 150,000 pods in it. All
    other maps together seldom reach one MiB. What a full map refuses is denied, except that a
    pod which finds no place in ``isolated`` is open: two entries a pod are always enough there.
    """

    max_isolated: _Count = 1024
    """Local pods times directions they are isolated in."""
    max_identities: _Count = 262_144
    """Pods of the cluster."""
    max_peers: _Count = 262_144
    """Identities and namespaces that the local pods' policies tell apart."""
    max_blocks: _Count = 65_536
    """CIDRs and exceptions of the local pods' policies."""
    max_ports: _Count = 65_536
    """Ports, or parts of port ranges, of different sets of ports."""
