"""A small cluster for trial runs: four pods, another node, the outside; what tests ask of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.testrun import skb_context
from cubelet.composer.composition import Mode
from cubelet.composer.core import TRACE, Trace
from cubelet.datapath.epochs import Epochs
from cubelet.datapath.shared import SharedWords
from cubelet.testkit import Datapath, Result
from cubelet.testkit.families import twin
from cubelet.testkit.network import TestNetwork
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC, pod_mac
from cubelet.testkit.twins import in_six, twin_frame
from cubelet_hooks.cube import PORT_CLASSES
from cubelet_hooks.flows import Flow, Tuple
from cubelet_hooks.maps import EVERYTHING
from cubelet_hooks.records import Address, Family

from .cubes import STACK, STACKS, Answer, End, Pair, Path, Paths, Sender, Source, Target, Way

A, B, C, D = (f"10.1.0.{n}" for n in range(2, 6))
GATEWAY, NODE = "10.1.0.1", "172.18.0.2"
REMOTE, OUTSIDE, ROUTER = "10.1.7.7", "192.0.2.9", "198.51.100.1"
VIP, OTHER_VIP = "10.96.0.1", "10.96.0.2"
UPSTREAM_MAC = "02:00:00:00:00:fe"

WRITTEN = (
    *(f"cubelet_{name}" for name in ("flows", "pending", "exposed")),
    *(f"cubelet_{name}" for name in ("fragments", "fragment_places", "kept", "keepers")),
    *("paths0_known", "vip0_backends", "masq0_sources", "gate0_closed"),
)
"""Maps that tests or their packets fill."""

SHARED = ("shares", "port_shares", "recovery")
"""Words that the programs or the agent write: counts of owners, and the recovery's end."""

Core = Mapping[str, int]


class Rig:
    """Datapath and maps. Ports are named ``a`` to ``d`` (pods) or by their class.

    Of family 6 all that it is given is IPv4's, and stands for its twins: see ``in_six`` of the test
    kit.
    """

    def __init__(self, network: TestNetwork, mode: Mode, core: Core, family: Family = 4) -> None:
        sizes = {"flows": 4096, "pending_flows": 4096, **core}
        self.family: Family = family
        self.dp = Datapath(network, STACKS, (Paths,), {"core": sizes}, mode, family=family)
        self._epochs = Epochs(self.dp.maps["cubelet_epochs"], self.dp.state)
        self._shared = [SharedWords(self.dp.maps[f"cubelet_{name}"]) for name in SHARED]
        self.reset()

    def reset(self) -> None:
        """No flow, nothing translated, all permitted; everyone where they always are."""
        for name in WRITTEN:
            table = self.dp.maps[name]
            table.delete_batch([key for key, _ in table.items()])
        for each in self._shared:
            each.words[:] = memoryview(bytes(each.words.nbytes)).cast("I")
        self.forgive()
        for number, pod in enumerate("abcd"):
            self.path(f"10.1.0.{number + 2}", pod)
        self.path(GATEWAY, "host")
        self.path(REMOTE, "overlay", mtu=1450)
        self.path(OUTSIDE, "uplink")
        self.path(NODE, "stack")

    def forgive(self) -> None:
        """Give all ports their whole budget for errors back."""
        rates = self.dp.maps["cubelet_error_rates"]
        rates.delete_batch([key for key, _ in rates.items()])
        ceilings = self.dp.maps["cubelet_error_ceilings"]
        for key, value in list(ceilings.items()):
            ceilings.update(key, bytes(len(value)))

    def close(self) -> None:
        """Let go of all."""
        self._epochs.close()
        for each in self._shared:
            each.close()
        self.dp.close()

    def ifindex(self, port: str) -> int:
        """Of the device that frames leave by: for the host, the end in the host's stack."""
        local = self.dp.network.local
        named = {
            "host": local.gateway_ifindex,
            "overlay": local.overlay_ifindex,
            "uplink": local.uplink_ifindex,
        }
        return named.get(port) or self.dp.network.ports[f"default/{port}"].ifindex

    def address(self, text: str) -> Address:
        """The address of the rig's family that an IPv4 one stands for."""
        address = IPv4Address(text)
        return address if self.family == 4 else twin(address)

    def text(self, address: str) -> str:
        """The same, as packets' fields have it."""
        return str(self.address(address))

    def packet(self, packet: Packet) -> Packet:
        """The packet of the rig's family that an IPv4 one stands for; any other as it is."""
        if self.family == 4 or IP not in packet or IPv6 in packet:
            return packet
        return twin_frame(packet) if isinstance(packet, Ether) else in_six(packet)

    def path(self, dst: str, port: str, mtu: int = 1500, routed: bool = True) -> None:
        """Where ``dst`` lives: behind a port, or ``stack``."""
        leaves = STACK if port == "stack" else PORT_CLASSES.index(port_class(port))
        ifindex = 0 if port == "stack" else self.ifindex(port)
        remote = int(IPv4Address("172.18.0.3")) if port == "overlay" else 0
        path = Path(
            ifindex=ifindex,
            remote=remote,
            mtu=mtu,
            leaves=leaves,
            routed=int(routed),
            dst_mac=mac_of(port),
        )
        self.dp.put("paths", "known", Target(address=self.address(dst)), path)

    def vip(self, address: str, port: int, backend: str, backend_port: int) -> None:
        """Translate a destination."""
        key, value = (
            End(address=self.address(each), port=number)
            for each, number in ((address, port), (backend, backend_port))
        )
        self.dp.put("vip", "backends", key, value)

    def masquerade(
        self, src: str, leaves: str, address: str, first: int = 20000, count: int = 1000
    ) -> None:
        """Translate the source of what ``src`` sends out by a port class."""
        key = Sender(address=self.address(src), leaves=PORT_CLASSES.index(leaves))
        source = Source(address=self.address(address), first=first, count=count)
        self.dp.put("masq", "sources", key, source)

    def close_gate(
        self, src: str, dst: str, way: Way = Way.DROP, error: tuple[int, int] = (3, 13)
    ) -> None:
        """Permit ``src`` nothing any more towards ``dst``; cached verdicts stay as they are."""
        pair = Pair(src=self.address(src), dst=self.address(dst))
        self.dp.put("gate", "closed", pair, Answer(way=way, type=error[0], code=error[1]))

    def open_gates(self) -> None:
        """Permit everything again."""
        table = self.dp.maps["gate0_closed"]
        table.delete_batch([key for key, _ in table.items()])

    def held(self, slot: int) -> int:
        """How many flows count in a share (see ``flows.share_slot``)."""
        return self._shared[0].words[slot]

    def records_lost(self, seconds: float = 60) -> None:
        """As when the agent has made the tables anew: TCP that is under way may open flows."""
        with Clock() as clock:
            self._shared[2].words[0] = clock.now() + clock.ticks(seconds) & 0xFFFFFFFF

    def age(self, address: str | None = None) -> None:
        """Make verdicts stale: those that rest on the address, or all."""
        self._epochs.raise_for([EVERYTHING if address is None else self.address(address)])

    def send(self, packet: Packet, port: str = "a", gso_size: int = 0) -> Result:
        """One packet, with or without its Ethernet header, into a port.

        Of what is left to the node and sent on as well, the result is the copy that was sent.
        """
        frame = self.packet(packet) if isinstance(packet, Ether) else self.framed(packet, port)
        echo = ICMPv6EchoReply in frame or (IP in frame and frame[IP].proto == 1)
        if port != "uplink" or not echo:
            return self.dp.send(frame, port_class(port), f"default/{port}", gso_size)
        with copies(self.dp.network) as copy_at:
            result = self.dp.send(frame, "uplink")
            if result.verdict != "pass" or result.hop is None:
                return result
            assert bytes(result.packet) == bytes(frame), "what the node gets is as it came"
            copy = copy_at(result.hop.ifindex)
        return replace(result, verdict="redirect", packet=copy)

    def trial(self, frame: bytes, port: str) -> tuple[str, str, bytes, bool]:
        """Like :meth:`send`, on bytes, for many frames: verdict, reason, bytes left, answered."""
        trace, host = self.dp.maps["cubelet_trace"], self.dp.network.local.datapath_ifindex
        trace.update(bytes(4), bytes(TRACE.size))
        context = skb_context(ifindex=host if port == "host" else self.ifindex(port))
        run = self.dp.programs.entries[port_class(port)].test_run(frame, 1, context)
        seen = Trace.unpack(trace.lookup(bytes(4)) or b"")
        reason = self.dp.reasons[seen.reason]
        verdict = {0xFFFFFFFF: "pass", 2: "drop", 7: "redirect"}.get(run.retval, str(run.retval))
        verdict = "keep" if seen.sent == 4 else verdict
        return verdict, f"{reason.cube}/{reason.name}", run.packet, seen.sent == 2

    def framed(self, packet: Packet, port: str) -> Packet:
        """The packet in the Ethernet header that it has when it comes by the port."""
        return Ether(src=mac_of(port), dst=ROUTER_MAC) / self.packet(packet)

    def table(self, name: str) -> dict[Tuple, Flow]:
        """``pending`` or ``flows`` (the replied ones)."""
        return self.dp.table("cubelet", name)

    def key(self, packet: Packet) -> Tuple:
        """What the packet's flow is found by."""
        return tuple_of(self.packet(packet))

    def flow(self, packet: Packet) -> Flow | None:
        """The record that this packet is found by."""
        return self.dp.flows().get(self.key(packet))

    def forget(self, packet: Packet) -> None:
        """Evict one record, as the LRU may."""
        for name in ("pending", "flows"):
            table = self.dp.maps[f"cubelet_{name}"]
            raw = self.key(packet).pack(self.family)
            if table.lookup(raw) is not None:
                table.delete_batch([raw])


@contextmanager
def copies(network: TestNetwork) -> Iterator[Callable[[int], Packet]]:
    """Listens at the pods' ends; the function gives the frame that a pod's device sent."""
    with ExitStack() as stack:
        ends = {}
        for port in network.ports.values():
            end = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            end.bind((f"{port.host_ifname}p", 3))  # ETH_P_ALL
            end.settimeout(1)
            ends[port.ifindex] = end
        yield lambda ifindex: Ether(ends[ifindex].recv(2048))


def port_class(port: str) -> str:
    """A port's class: a single letter is a pod's name."""
    return "pod" if len(port) == 1 else port


def mac_of(port: str) -> str:
    """Whom frames to and from a port are addressed to and come from."""
    if len(port) == 1:
        return pod_mac("abcd".index(port))
    return GATEWAY_MAC if port == "host" else UPSTREAM_MAC


def tuple_of(packet: Packet) -> Tuple:
    """What a packet's flow is found by."""
    if IPv6 in packet:
        return _tuple_of_six(packet[IPv6])
    ip, sport, dport = packet[IP], 0, 0
    name = {6: "TCP", 17: "UDP", 1: "ICMP"}[ip.proto]
    l4 = ip[name]
    if name == "ICMP":
        sport, dport = (l4.id, 0) if l4.type == 8 else (0, l4.id)
    else:
        sport, dport = l4.sport, l4.dport
    src, dst = IPv4Address(ip.src), IPv4Address(ip.dst)
    return Tuple(src=src, dst=dst, sport=sport, dport=dport, protocol=ip.proto)


def _tuple_of_six(ip: Packet) -> Tuple:
    src, dst = IPv6Address(ip.src), IPv6Address(ip.dst)
    for asks, layer in ((True, ICMPv6EchoRequest), (False, ICMPv6EchoReply)):
        if layer in ip:
            ports = {"sport": ip[layer].id if asks else 0, "dport": 0 if asks else ip[layer].id}
            return Tuple(src=src, dst=dst, protocol=58, **ports)
    l4 = ip[TCP] if TCP in ip else ip[UDP]
    protocol = 6 if TCP in ip else 17
    return Tuple(src=src, dst=dst, sport=l4.sport, dport=l4.dport, protocol=protocol)


def arrives(result: Result, port: str, wanted: Packet) -> None:
    """It left by this port, as these bytes (checksums and all), in a frame for its next hop."""
    hop = result.hop
    assert (result.verdict, result.reason, hop is not None) == ("redirect", "core/none", True)
    assert hop is not None
    assert not result.answered
    assert PORT_CLASSES[hop.port_class] == port_class(port)
    ether = result.packet[Ether]
    assert (ether.dst, ether.src) == (hop.dst_mac, hop.src_mac) == (mac_of(port), ROUTER_MAC)
    same(ip_of(result.packet), wanted)


def ip_of(frame: Packet) -> Packet:
    """The IP header of either family, and what is behind it."""
    return frame[IPv6] if IPv6 in frame else frame[IP]


def same(seen: Packet, wanted: Packet) -> None:
    """Byte by byte; a difference prints both. ``wanted`` may be IPv4's and stand for its twin."""
    if isinstance(seen, IPv6) and IP in wanted:
        wanted = in_six(wanted)
    expected = type(seen)(bytes(wanted))
    assert bytes(seen) == bytes(expected), f"\nseen   {seen!r}\nwanted {expected!r}"


def kept(result: Result, reason: str) -> None:
    """It was dropped, for this reason."""
    assert (result.verdict, result.reason) == ("drop", reason)
