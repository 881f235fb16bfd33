"""What may become of a frame, from the rules of Kubernetes and the RFCs, and what never may.

The model learns how a flow was translated from its first packet, after it has checked that this
was one of the right ways, and holds every later packet of both directions to it. It is loose
where more than one outcome is right: what it names a violation is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from . import cluster
from .answers import check_answer, check_related, quoted_tuple
from .cluster import GATEWAY, GATEWAY_MAC, LOCAL_PODS, LOOPBACK, NODE, POD_MACS, ROUTER_MAC
from .forwarding import check_frame, check_path, check_sender, check_source, check_whole
from .link import ARP, check_link
from .machine import ANSWERED, DROPPED, KEPT, PASSED, REDIRECTED, SENT, Machine, Out
from .policies import allows
from .rules import (
    may_open,
    must_open,
    must_refuse,
    node_own,
    options_refused,
    ours,
    permitted,
    sound,
)
from .services import Cluster
from .wire import (
    ACK,
    FIN,
    FIRST,
    ICMP,
    LATER,
    RST,
    SYN,
    TCP,
    UDP,
    Packet,
    Tuple,
    inverse,
)

_HALF, _FAR = 1 << 31, 1 << 24
INTERNAL = frozenset({"core/jump", "core/helper"})
"""Reasons that say that the datapath has failed, not the packet."""
NO_CONNECTION = frozenset({"core/no_flow", "core/client_gone"})
"""Reasons that the sender of a segment has to hear of."""


@dataclass(frozen=True)
class Violation:
    """What may never be; ``name`` is the invariant."""

    name: str
    text: str


@dataclass
class Flow:
    """A conversation that was permitted: its first packet's tuple, and that it leaves with."""

    opened: Tuple
    left: Tuple
    entry: str
    exit: str
    hops: int
    sure: bool = True
    """Must its packets pass? Not once it may have ended, or rests on what has changed."""
    evicted: bool = False
    """One of its records was lost."""
    taint: str = ""
    """The invariant that was violated by what opened or struck it: later ones follow from that."""
    live: bool = False
    """Of TCP: both ends have spoken, and the client has acknowledged what the server said."""
    at: dict[bool, int] = field(default_factory=dict)
    """Of TCP: the sequence number that was last seen of replies (true) and of the others."""

    def expected(self, reply: bool) -> tuple[str, str, Tuple]:
        """Where packets of a direction enter and leave, and their tuple as they leave."""
        if reply:
            return self.exit, self.entry, inverse(self.opened)
        return self.entry, self.exit, self.left


class Oracle:
    """The model of one node, beside the real thing."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.cluster: Cluster = machine.cluster
        self.flows: list[Flow] = []
        self._known: dict[Tuple, tuple[Flow, bool]] = {}
        self._fragments: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        self._exits = {machine.ifindex(pod): pod for pod in LOCAL_PODS}
        self.found: list[Violation] = []
        self._where = ""

    def say(self, name: str, text: str) -> None:
        """A violation."""
        self.found.append(Violation(name, f"{text} [{self._where}]"))

    # Events of the model's own

    def policies_changed(self) -> None:
        """Permissions are asked for anew each time; a later fragment might open what now may."""
        self._fragments.clear()

    def endpoints_changed(self) -> None:
        """Translated flows may keep their backend or get another."""
        self._fragments.clear()
        for flow in self.flows:
            if flow.opened[1] != flow.left[1]:
                flow.sure = False

    def pod_changed(self, pod: str) -> None:
        """It has gone or come; its connections have ended, or end with their next packet."""
        for flow, _ in self._known.values():
            if pod in {flow.entry, flow.exit}:
                flow.sure = False
            if pod == flow.entry:
                flow.evicted = True  # an answer finds out, and may then be a flow's first itself

    def forget(self, flow: Flow) -> None:
        """Both records are gone."""
        self._fragments.clear()
        if flow in self.flows:
            self.flows.remove(flow)
        for key in (flow.opened, inverse(flow.left)):
            if self._known.get(key, (None, False))[0] is flow:
                del self._known[key]

    # Frames

    def judge(self, entry: str, frame: bytes, out: Out) -> None:
        """Compare what became of a frame with what may."""
        self.found.clear()
        self._where = f"{entry}: {out.verdict:#x} {out.reason} sent {out.sent} by {out.port_class}"
        p = Packet(frame)
        if entry == "local":
            self._local(p, out)
            return
        if entry == "uplink" and out.verdict != PASSED and node_own(p):
            self.say("taken", "a packet for the node's own stack was not left to it")
        if out.verdict == REDIRECTED and out.sent == SENT:
            self._sent(p, entry, out)
        elif out.verdict == REDIRECTED and out.sent == ANSWERED:
            self._kept(p, entry)
            check_answer(self.cluster, p, entry, out, self.say)
        elif out.verdict == DROPPED:
            self._dropped(p, entry, out)
        elif out.verdict == PASSED:
            if entry != "uplink":
                self.say("passed", "only the uplink may leave a frame to the node's stack")
            if out.frame != frame:
                self.say("bytes", "a frame that is left to the stack was changed")
            if out.sent == SENT:
                self._shared(p, entry, out)
            else:
                self._kept(p, entry)
        else:
            self.say("verdict", "neither sent, dropped nor passed")
        if p.kind == "ip" and p.fragment == FIRST:
            self._fragments[p.src, p.dst, p.protocol, p.ident] = (p.sport, p.dport)

    def _shared(self, p: Packet, entry: str, out: Out) -> None:
        """What the node may have asked for itself is left to it, and a copy is a pod's."""
        echo = p.type == 0 or p.error or p.fragment == LATER
        if p.kind != "ip" or p.protocol != ICMP or p.dst not in {NODE, GATEWAY} or not echo:
            self.say("shared", "left to the stack, and sent on as well")
            return
        leaves = self._exit(out)
        copies = self._machine.flooded()
        if leaves in LOCAL_PODS and len(copies.get(leaves, ())) != 1:
            self.say("undelivered", f"no copy for {leaves}")
        elif set(copies) - {leaves}:
            self.say("path", f"copies for {set(copies)}, not for {leaves} alone")
        elif leaves in LOCAL_PODS:
            self._sent(p, entry, out._replace(frame=copies[leaves][0]))

    def _dropped(self, p: Packet, entry: str, out: Out) -> None:
        flooded = self._machine.flooded() if out.reason == "core/none" else {}
        if out.reason in INTERNAL:
            self.say("internal", "the datapath failed")
        elif out.reason in NO_CONNECTION and must_refuse(p, entry):
            self.say("refused", "a segment of no connection was dropped without a reset")
        elif out.sent == KEPT:
            if p.kind != "ip" or p.fragment != LATER:
                self.say("fragment", "what is no later fragment waits for its first")
        elif out.reason == "core/none":
            if entry not in {*LOCAL_PODS, "host"} or p.frame[:6] in self.cluster.macs():
                self.say("reason", "dropped without a reason, and no flood")
            self._flooded(p, entry, flooded)
        self._kept(p, entry)

    def _flooded(self, p: Packet, entry: str, reached: dict[str, list[bytes]]) -> None:
        for name, frames in reached.items():
            if p.frame not in frames:
                continue
            if name == entry:
                self.say("flood", "flooded back to its sender")
            if name in self.cluster.gone:
                self.say("path", f"flooded to {name}, which is gone")
            if p.kind == "ip" and not p.frame[0] & 1:
                self.say("flood", f"a packet for one station reached {name} as well")
            if p.kind == "link" and p.ethertype != ARP:
                self.say("flood", f"ethertype {p.ethertype:#x} leads past NetworkPolicy")
            if p.kind != "ip" or entry == "host":
                continue
            asked = (LOCAL_PODS[name], p.src, True, p.protocol, p.dport)
            if not allows(self.cluster.policies, "ingress", *asked):
                self.say("denied", f"flooded to {name}, which policy forbids")

    def _kept(self, p: Packet, entry: str) -> None:
        why = self._must_pass(p, entry)
        flow, reply = self._known.get(p.tuple, (None, False)) if p.kind == "ip" else (None, False)
        if why:
            self._about(flow, "undelivered", why)
        if flow and entry == "uplink" != flow.expected(reply)[0] and cluster.martian(p.src):
            flow.taint = flow.taint or "martian"  # it may have cost the flow its records
        if not flow or p.protocol != TCP or p.fragment == LATER:
            return
        if p.flags & (FIN | RST):
            flow.sure = False
        elif p.flags & (SYN | ACK) == SYN and not reply and not flow.sure:
            flow.evicted = True  # it had ended, and this was to be another

    def _about(self, flow: Flow | None, name: str, text: str) -> None:
        self.say((flow and flow.taint) or name, text)

    def _local(self, p: Packet, out: Out) -> None:
        if out.verdict == PASSED:
            if out.frame != p.frame:
                self.say("bytes", "a frame that is left to the stack was changed")
            return
        if out.verdict != REDIRECTED:
            self.say("verdict", "a packet of the node's own was dropped on loopback")
            return
        looped = p.kind == "ip" and p.dst in LOOPBACK
        own = p.kind == "ip" and (p.src in {NODE, GATEWAY} or (looped and p.src in LOOPBACK))
        if not own or not (looped or p.dst == NODE):
            self.say("spoofed", "taken off loopback from or to an address that is not the node's")
        elif p.fragment != LATER and p.dport not in cluster.NODE_PORTS:
            self.say("translation", "taken off loopback, and no Service's port")
        if out.frame != ROUTER_MAC + GATEWAY_MAC + p.frame[12:]:
            self.say("bytes", "more than its MAC addresses was changed on loopback")
        if p.kind == "ip" and p.fragment == FIRST:
            self._fragments[p.src, p.dst, p.protocol, p.ident] = (p.sport, p.dport)

    # What is sent on

    def _sent(self, p: Packet, entry: str, out: Out) -> None:
        leaves = self._exit(out)
        if leaves in self.cluster.gone:
            self.say("path", f"sent to {leaves}, which is gone")
        if p.kind == "bad":
            self.say("malformed", "a frame that contradicts itself was sent on")
            return
        if p.kind == "link":
            check_link(p, entry, leaves, out, self.say)
            return
        q = Packet(out.frame)
        if q.kind != "ip":
            self.say("bytes", f"it left as no IP packet: {out.frame.hex()}")
            return
        check_frame(p, entry, leaves, q, out, self.say)
        if options_refused(p):
            self.say("source_route", "whoever is behind us would lead it elsewhere")
        if p.error and p.fragment != LATER:
            self._error(p, entry, leaves, q, out)
            return
        check_whole(p, q, out, self.say)
        key = self._key(p, entry)
        if key is None:
            self.say("fragment", "a later fragment was sent whose first was not seen")
            return
        if not self._of_known(p, key, entry, leaves, q):
            self._opened(p, key, entry, leaves, q, out)

    def _exit(self, out: Out) -> str:
        return self._exits.get(out.ifindex, "?") if out.port_class == "pod" else out.port_class

    def _key(self, p: Packet, entry: str) -> Tuple | None:
        ports = (p.sport, p.dport)
        if p.fragment == LATER:
            found = self._fragments.get((p.src, p.dst, p.protocol, p.ident))
            if found is None:
                return None
            ports = found
        key = (p.src, p.dst, *ports, p.protocol)
        if entry == "host" and p.protocol == UDP and key not in self._known:
            # a server that is bound to no address answers from any of the node's
            for own in (NODE, GATEWAY):
                flow, reply = self._known.get((own, *key[1:]), (None, False))
                if flow and reply and flow.exit == "host":
                    return (own, *key[1:])
        return key

    def _of_known(self, p: Packet, key: Tuple, entry: str, leaves: str, q: Packet) -> bool:
        """Did it go the way of its flow?"""
        if key not in self._known:
            return False
        flow, reply = self._known[key]
        came, went, left = flow.expected(reply)
        same = (q.src, q.dst) == left[:2] and (p.fragment == LATER or q.tuple == left)
        if reply and p.flags & (SYN | ACK) == SYN and p.fragment != LATER:
            # it is no reply, but opens another flow; never in place of one that is open
            if flow.sure and flow.live:
                self._about(flow, "syn_forgets", f"a SYN against the direction of {flow}")
            return False
        if came != entry or went != leaves or not same:
            if flow.sure and came == entry:
                text = f"expected {went} and {left}, left by {leaves} as {q.tuple}"
                self._about(
                    flow, "translation", f"{text}, {'reply' if reply else 'forward'} of {flow}"
                )
                return True
            return False
        backends = self.cluster.backends(flow.entry, *flow.opened[1:4:2], flow.opened[4])
        moved = flow.opened[1:4:2] != flow.left[1:4:2]
        if moved and key[4] == UDP and not reply and left[1:4:2] not in (backends or ()):
            self._about(flow, "stale", f"datagrams go on to a backend that is gone: {flow}")
        if flow.sure and p.ttl - q.ttl != flow.hops:
            self._about(flow, "ttl", f"{p.ttl - q.ttl} hops, its flow has {flow.hops}")
        if permitted(self.cluster, flow.opened, flow.entry, flow.left, flow.exit) is False:
            self._forbidden(flow)
        self._follow(p, flow, reply)
        return True

    def _forbidden(self, flow: Flow) -> None:
        """It went on, though policy forbids the flow."""
        text = f"policy {self.cluster.policy} forbids what goes on of {flow}"
        came, went, left = flow.expected(True)
        backward = permitted(self.cluster, inverse(flow.left), came, left, went) is not False
        if flow.evicted and flow.opened[4] == TCP:
            self.say("midstream", f"an answer opened a flow: {text}")
        elif not (backward and flow.evicted):
            self._about(flow, "denied", text)

    @staticmethod
    def _follow(p: Packet, flow: Flow, reply: bool) -> None:
        """What may end a flow makes it one that need not go on.

        RFC 5961: an open connection is ended by no SYN, and by no RST or FIN that is far from
        where its sender is.
        """
        if p.protocol != TCP or p.fragment == LATER:
            return
        sequence = int.from_bytes(p.frame[p.l4 + 4 : p.l4 + 8])
        if p.flags & (FIN | RST):
            near = abs((sequence - flow.at.get(reply, sequence) + _HALF) % (2 * _HALF) - _HALF)
            flow.sure = flow.sure and flow.live and near > _FAR
        elif not p.residue() and not p.fragment:
            if not reply and flow.at.get(True) and not p.flags & SYN and p.flags & ACK:
                flow.live = True
            if not reply or flow.live or p.flags & (SYN | ACK) == SYN | ACK:
                flow.at[reply] = sequence

    # What opens a flow

    def _opened(self, p: Packet, key: Tuple, entry: str, leaves: str, q: Packet, out: Out) -> None:
        if not may_open(p):
            self.say("midstream", f"flags {p.flags:#x} opened {key} to {q.tuple}")
        check_sender(self.cluster, p, entry, self.say)
        if self.found:  # what else is wrong follows from that
            self._learn(Flow(key, q.tuple, entry, leaves, p.ttl - q.ttl))
            return
        if p.frame[:6] == ROUTER_MAC and p.ttl == q.ttl:
            self.say("ttl", f"it was routed without a hop: {key}")
        gateway = bytes(6) if leaves == "host" and q.dst in LOOPBACK else GATEWAY_MAC
        wanted = {**POD_MACS, "host": gateway}.get(leaves, out.frame[:6])
        if (
            out.frame[:6] != wanted and p.ttl != q.ttl
        ):  # a station is bridged to as it was addressed
            self.say("frame", f"it left for {out.frame[:6].hex()}, not for {leaves}")
        ports = q.tuple[2:4]
        if p.fragment == LATER:
            left = self._machine.record(key)
            ports = left[2:4] if left else ports
        left = (q.src, q.dst, *ports, q.protocol)
        check_path(self.cluster, key, entry, leaves, left, out, self.say)
        check_source(key, entry, leaves, left, self.say)
        if permitted(self.cluster, key, entry, left, leaves) is False:
            self.say("denied", f"policy {self.cluster.policy} forbids {key} to {left}")
        other = self._known.get(inverse(left))
        begun = self._known.get(key)  # a SYN of its server takes the place of one that begins
        if other and other[0].sure and other[0].opened != key and (begun or other)[0] != other[0]:
            self.say("translation", f"{left} has the answers of {other[0]}")
        self._learn(Flow(key, left, entry, leaves, p.ttl - q.ttl))

    def _learn(self, flow: Flow) -> None:
        flow.sure = not self.found
        flow.taint = self.found[0].name if self.found else ""
        for key in (flow.opened, inverse(flow.left)):
            if key in self._known:
                other = self._known[key][0]
                other.sure = False
                flow.taint = flow.taint or other.taint
                if other in self.flows:
                    self.flows.remove(other)
        self._known[flow.opened] = (flow, False)
        if flow.opened != inverse(flow.left):
            self._known[inverse(flow.left)] = (flow, True)
        self.flows.append(flow)

    # What must not be lost

    def _must_pass(self, p: Packet, entry: str) -> str:
        """Why the frame had to be sent on; empty if it need not."""
        if p.kind != "ip" or p.error or p.fragment or not sound(p, entry):
            return ""
        found = self._known.get(p.tuple)
        if found:
            flow, reply = found
            came, _, _ = flow.expected(reply)
            if not flow.sure or came != entry or (p.flags & SYN and reply):
                return ""
            if p.protocol == TCP and p.flags & RST:
                return ""
            if entry == "uplink" and p.dst == NODE and not ours(p):
                return ""  # a connection of the node's own stack
            if not permitted(self.cluster, flow.opened, flow.entry, flow.left, flow.exit):
                return ""
            return f"{'a reply' if reply else 'a packet'} of {flow}"
        return must_open(self.cluster, p, entry)

    # ICMP errors of others

    def _error(self, p: Packet, entry: str, leaves: str, q: Packet, out: Out) -> None:
        quoted = quoted_tuple(p)
        found = self._known.get(inverse(quoted)) if quoted else None
        if quoted is None or found is None:
            self.say("related", f"an error about no flow was sent on: {quoted}")
            return
        flow, reply = found  # it travels as this flow's packets of that direction do
        came, went, left = flow.expected(reply)
        if entry in LOCAL_PODS and p.src != LOCAL_PODS[entry]:
            self.say("spoofed", f"pod {entry} sent an error from {p.src:#x}")
        if (came, went) != (entry, leaves):
            if flow.sure:
                self._about(flow, "related", f"expected from {came} to {went} as {flow}")
            return
        if permitted(self.cluster, flow.opened, flow.entry, flow.left, flow.exit) is False:
            self._forbidden(flow)
        if flow.sure:
            check_related(p, q, out, quoted, left, partial(self._about, flow))
