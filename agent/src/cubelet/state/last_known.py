"""Remembers on disk what an agent needs after a restart while the API server is unreachable.

Such an agent knows no objects, and must not act as if there were none: the facts that the last run
compiled in stay compiled in, and the node keeps its podCIDR.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec

from cubelet.cni.files import put_aside, write_atomic
from cubelet.composer.composition import Facts
from cubelet.composer.slots import Slots
from cubelet_hooks.objects import Node


class Remembered(msgspec.Struct, frozen=True):
    """``config`` is the last configuration in force, None if it was the default.

    ``reasons`` are the places of kinds' drop reasons, ``slots`` those of instances' flow fields;
    ``addresses`` and ``pod_cidrs`` are the node's; ``policed`` the namespaces that had
    NetworkPolicies. ``api_servers`` is where API servers were to be reached, address and port;
    ``api_endpoints`` where they said that they are, ``api_names`` the addresses of their names.
    ``refused`` says why what is in force is not in the wanted mode, by the identity of what was
    refused.
    """

    config: str | None = None
    reasons: Mapping[str, int] = {}
    facts: Facts = Facts()
    slots: Slots = Slots()
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    policed: tuple[str, ...] = ()
    api_servers: tuple[tuple[str, int], ...] = ()
    api_endpoints: tuple[tuple[str, int], ...] = ()
    api_names: Mapping[str, tuple[str, ...]] = {}
    refused: Mapping[str, str] = {}

    @property
    def composed(self) -> bool:
        """Whether some composition has taken over on this node."""
        return bool(self.facts.versions)

    def node(self, name: str) -> Node | None:
        """The node as it was last known; None if it never was."""
        if not self.pod_cidrs:
            return None
        return Node(
            name=name,
            addresses=tuple(map(ip_address, self.addresses)),
            pod_cidrs=tuple(map(ip_network, self.pod_cidrs)),
        )


class Memory:
    """One small file. If it cannot be read, it is put aside and the agent has no memory.

    The datapath thread remembers things, and so does the loop. ``problem`` says why it cannot be
    written; the next change is another try.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.known = _read(path)
        self.problem = ""

    def remember(self, **changed: object) -> None:
        """Replace fields, in memory and, if possible, on disk."""
        with self._lock:
            fresh = msgspec.structs.replace(self.known, **changed)
            if fresh == self.known and not self.problem:
                return
            self.known = fresh
            try:
                write_atomic(self._path, msgspec.json.encode(fresh))
            except OSError as error:
                self.problem = f"cannot write {self._path}: {error.strerror}"
            else:
                self.problem = ""

    def remember_node(self, node: Node) -> None:
        """Remember the fields of the node that :meth:`Remembered.node` returns."""
        self.remember(
            addresses=tuple(map(str, node.addresses)), pod_cidrs=tuple(map(str, node.pod_cidrs))
        )


def _read(path: Path) -> Remembered:
    try:
        content = path.read_bytes()
        known = msgspec.json.decode(content, type=Remembered)
        known.node("")  # its addresses have to be some
        for address, _ in (*known.api_servers, *known.api_endpoints):
            ip_address(address)
        if "slots" not in msgspec.json.decode(content):  # every run writes them
            raise ValueError("an agent did not write it")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        put_aside(path, error)
    else:
        return known
    return Remembered(slots=Slots.forgotten())
