"""The real programs, run on frames as quickly as Python can: one system call a frame."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import socket
import struct
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import NamedTuple

import msgspec

from cubelet.bpf.attrs import ProgTestRun
from cubelet.bpf.constants import Cmd
from cubelet.bpf.layout import possible_cpus
from cubelet.bpf.testrun import skb_context
from cubelet.composer.composition import Mode, default_chain
from cubelet.composer.core import TRACE, Trace
from cubelet.datapath.epochs import Epochs
from cubelet.datapath.shared import SharedWords
from cubelet.testkit import Datapath
from cubelet.testkit.network import TestNetwork, build_network
from cubelet_bridge.cube import Bridge
from cubelet_firewall.cube import Firewall
from cubelet_hooks.cube import PORT_CLASSES, Cube
from cubelet_hooks.flows import Flow, Hop
from cubelet_hooks.maps import EVERYTHING
from cubelet_hooks.records import Record
from cubelet_lbrp.cube import Lbrp
from cubelet_nat.cube import Nat
from cubelet_router.cube import Router

from . import cluster, policies, services
from .wire import Tuple

CUBES: dict[str, type[Cube]] = {c.kind: c for c in (Bridge, Router, Lbrp, Nat, Firewall)}
_FLOWS = {"flows": 24 + 4 * possible_cpus(), "pending_flows": 16_384}
"""A case fills the table of replied flows, its owners' shares, and what may be closing."""
SETTINGS = {
    # so that no budget that time fills hides what a packet would do
    "core": {"errors_per_second": 1 << 30, "node_errors_per_second": 1 << 30, **_FLOWS},
    "bridge": {"flood_packets_per_second": 1 << 16, "flood_burst": 1 << 16},
}
ENTRIES = (*cluster.LOCAL_PODS, "host", "overlay", "uplink", "local")
PASSED, DROPPED, REDIRECTED = 0xFFFFFFFF, 2, 7
SENT, ANSWERED, PUNTED, KEPT = 1, 2, 3, 4
WAYS = ("", "sent", "answered", "punted", "kept")
"""How a frame left: on, back as an answer, to the stack, not yet."""
LONGEST = 3000
LOOPBACK = 1

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LEFT = 8192
_HOP_CODES = {
    "ifindex": "I",
    "remote": "4s",
    "dst_mac": "6s",
    "src_mac": "6s",
    "port_class": "B",
    "mtu": "H",
}
_WRITTEN = (
    *("cubelet_flows", "cubelet_pending", "cubelet_fragments", "cubelet_kept", "cubelet_keepers"),
    *("cubelet_fragment_places", "bridge0_learned", "bridge0_flood_rates"),
)
_COUNTED = ("cubelet_shares", "cubelet_port_shares")
"""How many flows each owner has."""
_KEY = struct.Struct("!IIHHB3x")  # cubelet_hooks.flows.Tuple


def _struct(record: type[Record], codes: Mapping[str, str], start: int = 0) -> str:
    """The struct format of a record's fields, with what stands between them."""
    text, end = "=", start
    for placed in record.layout().fields:
        if placed.name in codes:
            code = codes[placed.name]
            text += f"{placed.offset - end}x{code}"
            end = placed.offset + struct.calcsize(f"={code}")
    return text


_WHERE = struct.Struct(_struct(Hop, _HOP_CODES))
_WHY = struct.Struct(_struct(Trace, {"reason": "I", "sent": "B"}))
_TRACE_SIZE = Trace.layout().size
_BLANK = bytes(_TRACE_SIZE)


class Out(NamedTuple):
    """What became of a frame; ``sent`` is a place in :data:`WAYS`."""

    verdict: int
    frame: bytes
    reason: str
    sent: int
    ifindex: int
    remote: int
    dst_mac: bytes
    src_mac: bytes
    mtu: int
    port_class: str


def network() -> TestNetwork:
    """A node's devices in the current namespace, with the route that agents keep for hairpins."""
    from pyroute2 import IPRoute

    made = build_network()
    broadcast = ip_address(cluster.UNDERLAY.last)
    local = msgspec.structs.replace(made.local, broadcasts=(broadcast,))
    made = replace(made, local=local)
    with IPRoute() as routes:
        routes.route("add", dst=str(ip_address(cluster.HAIRPIN)), oif=made.local.gateway_ifindex)
    return made


class Machine:
    """One composed datapath in the current network namespace, and its cluster's state."""

    def __init__(self, network: TestNetwork, mode: Mode) -> None:
        chain = default_chain()
        self.mode = mode
        self.network = network
        self.path = Datapath(
            network,
            stacks={name: [CUBES[kind] for kind in kinds] for name, kinds in chain.stacks.items()},
            core=[CUBES[kind] for kind in chain.core],
            settings=SETTINGS,
            mode=mode,
            objects=[*cluster.basics(), *services.services()],
        )
        self.cluster = services.Cluster()
        self._programmed = self._chosen()
        self._epochs = Epochs(self.path.maps["cubelet_epochs"], self.path.state)
        self._trace = mmap.mmap(self.path.maps[f"cubelet_{TRACE.name}"].fd, TRACE.size)
        self.reasons = {n: f"{r.cube}/{r.name}" for n, r in self.path.reasons.items()}
        self._shares = [SharedWords(self.path.maps[name]) for name in _COUNTED]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._number = _SYSCALL[platform.machine()]
        self._in = ctypes.create_string_buffer(_LEFT)
        self._out = ctypes.create_string_buffer(_LEFT)
        self._keep: list[ctypes.Array[ctypes.c_char]] = []
        self._attrs = {name: self._attr(name) for name in ENTRIES}
        self._cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(self._cpus)})  # per-CPU state is to be that of one
        self._listeners = {name: self._listener(n) for n, name in enumerate(cluster.LOCAL_PODS)}

    def _attr(self, entry: str) -> ProgTestRun:
        kind = "pod" if entry in cluster.LOCAL_PODS else entry
        context = ctypes.create_string_buffer(skb_context(ifindex=self.ifindex(entry)))
        self._keep.append(context)
        return ProgTestRun(
            prog_fd=self.path.programs.entries[kind].fd,
            data_in=ctypes.addressof(self._in),
            data_out=ctypes.addressof(self._out),
            repeat=1,
            ctx_size_in=len(context) - 1,
            ctx_in=ctypes.addressof(context),
        )

    def ifindex(self, entry: str) -> int:
        """Of the device that frames enter by there."""
        local = self.network.local
        named = {
            "host": local.datapath_ifindex,
            "overlay": local.overlay_ifindex,
            "uplink": local.uplink_ifindex,
            "local": LOOPBACK,
        }
        return named.get(entry) or self.network.ports[f"default/{entry}"].ifindex

    def send(self, entry: str, frame: bytes) -> Out:
        """Run a frame through the program of where it enters."""
        if self._programmed != self._chosen():
            self._program()
        attr, size = self._attrs[entry], len(frame)
        ctypes.memmove(self._in, frame, size)
        attr.data_size_in, attr.data_size_out = size, _LEFT
        self._trace[:_TRACE_SIZE] = _BLANK
        while self._libc.syscall(
            self._number, Cmd.PROG_TEST_RUN, ctypes.byref(attr), ctypes.sizeof(attr)
        ):
            code = ctypes.get_errno()
            if code != 4:  # EINTR
                raise OSError(code, f"{os.strerror(code)}: {size} bytes by {entry}: {frame.hex()}")
        left = ctypes.string_at(self._out, attr.data_size_out)
        reason, sent = _WHY.unpack_from(self._trace)
        ifindex, remote, dst, src, mtu, kind = _WHERE.unpack_from(self._trace)
        where = (ifindex, int.from_bytes(remote), dst, src, mtu, PORT_CLASSES[kind])
        return Out(attr.retval, left, self.reasons[reason], sent, *where)

    # What floods reach

    def _listener(self, pod: int) -> socket.socket:
        every = socket.htons(3)  # ETH_P_ALL
        found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, every)
        found.bind((f"pod{pod}p", 3))
        return found

    def flooded(self) -> dict[str, list[bytes]]:
        """The frames that pods have received since this was asked last."""
        found: dict[str, list[bytes]] = {}
        for name, listener in self._listeners.items():
            try:
                while True:
                    data, address = listener.recvfrom(4096)
                    if address[2] != socket.PACKET_OUTGOING:
                        found.setdefault(name, []).append(data)
            except BlockingIOError:
                continue
        return found

    # What happens to the cluster

    def reset(self) -> None:
        """No flow; policies and backends as at the beginning."""
        for table in self.path.maps:
            if table in _WRITTEN:
                self._clear(table)
        ring = self.path.maps["cubelet_closing"]
        ring.update_batch((key, bytes(_KEY.size)) for key, value in ring.items() if any(value))
        for shares in self._shares:
            shares.words[:] = memoryview(bytes(shares.words.nbytes)).cast("I")
        self.policy(0)
        self.endpoints(0)
        self.pods(frozenset())
        self.flooded()

    def _clear(self, table: str) -> None:
        found = [key for key, _ in self.path.maps[table].items()]
        if found:
            self.path.maps[table].delete_batch(found)

    def policy(self, choice: int) -> None:
        """Other policies are in force from the next frame on."""
        self.cluster.policy = choice

    def endpoints(self, choice: int) -> None:
        """``web`` has other backends from the next frame on."""
        if choice != self.cluster.endpoints:
            self.cluster.choose(choice)

    def pods(self, gone: frozenset[str]) -> None:
        """These pods of the node are gone from the next frame on, all others are there."""
        self.cluster.gone = gone

    def _chosen(self) -> tuple[int, int, frozenset[str]]:
        return self.cluster.policy, self.cluster.endpoints, self.cluster.gone

    def _program(self) -> None:
        """Only now, since changes that come together cost no more than one."""
        policy, endpoints, gone = self._programmed
        if policy != self.cluster.policy:
            self.path.delete(*policies.POLICIES[policy])
            self.path.apply(*policies.POLICIES[self.cluster.policy])
        if endpoints != self.cluster.endpoints:
            self.path.apply(services.web(self.cluster.endpoints))
        ports = self.network.ports
        for pod in self.cluster.gone - gone:
            self.path.delete(ports[f"default/{pod}"])
        for pod in gone - self.cluster.gone:
            self.path.apply(ports[f"default/{pod}"])
        self._programmed = self._chosen()

    def age(self) -> None:
        """Make every cached verdict stale."""
        self._epochs.raise_for([EVERYTHING])

    def forget_fragments(self) -> None:
        """As if half a minute had passed."""
        self._clear("cubelet_fragments")

    def forget(self, *keys: Tuple) -> None:
        """Delete flow records, as sweeping and eviction do."""
        for t in keys:
            raw = _KEY.pack(*t)
            for name in ("cubelet_flows", "cubelet_pending"):
                if self.path.maps[name].lookup(raw) is not None:
                    self.path.maps[name].delete_batch([raw])

    def record(self, t: Tuple) -> Tuple | None:
        """The tuple that packets with this one leave with, by their record."""
        raw = _KEY.pack(*t)
        for name in ("cubelet_flows", "cubelet_pending"):
            found = self.path.maps[name].lookup(raw)
            if found is not None:
                to = Flow.unpack(found).to
                return (int(to.src), int(to.dst), to.sport, to.dport, to.protocol)
        return None

    def close(self) -> None:
        """Let go of all."""
        os.sched_setaffinity(0, self._cpus)
        for each in self._listeners.values():
            each.close()
        self._trace.close()
        for shares in self._shares:
            shares.close()
        self._epochs.close()
        self.path.close()
