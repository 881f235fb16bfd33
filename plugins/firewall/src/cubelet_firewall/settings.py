"""Sizes of the firewall's maps."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cubelet_hooks import cube

_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Entries each map may have, for a node of 110 to 250 pods in a cluster of 150,000.

    Memory is allocated per entry: by the kernel's count 80 bytes in the hash maps, 45 to 60 in the
    tries, which may have as many inner nodes again. Only the buckets of the hash maps are allocated
    at the start, 16 bytes for each entry allowed. So ``identities`` takes 4 MiB empty, and 16 MiB
    with 150,000 pods.

    What does not fit is denied. One namespace has half of what others leave free, and 512 entries
    of each map. Have two entries in ``isolated`` for each pod that the node can run: a pod that
    finds no place there is not started.
    """

    max_isolated: _Count = 1024
    """Local pods times directions they are isolated in."""
    max_identities: _Count = 262_144
    """Pods of the cluster."""
    max_peers: _Count = 262_144
    """Identities and namespaces that the local pods' policies distinguish."""
    max_blocks: _Count = 65_536
    """CIDRs and exceptions of the local pods' policies."""
    max_hosts: _Count = 16_384
    """Nodes times their addresses."""
    max_ports: _Count = 65_536
    """Ports, or prefixes of port ranges, of all different sets of ports."""
