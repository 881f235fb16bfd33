"""Packets of the uplink as the cube sees them first: in the driver's program, or the uplink's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.datapath.drops import drop_rows
from cubelet.testkit import Datapath
from cubelet_ddos.cube import Ddos

NODE = "172.18.0.2"
WAYS = ("xdp", "fused", "tailcall")
STRANGER = "198.51.100.7"


class Uplink:
    """A datapath with the cube on its uplink, and what it says of packets that arrive there."""

    def __init__(self, make: Callable[..., Datapath], way: str, **settings: Any) -> None:
        mode = "fused" if way == "xdp" else way
        self.xdp = way == "xdp"
        self.dp = make(
            stacks={"uplink": [Ddos]}, settings={"ddos": settings}, mode=mode, early_xdp=self.xdp
        )
        self.cube = next(each for each in self.dp.composition.cubes if each.kind == "ddos")

    def ask(self, packet: Packet, repeat: int = 1) -> str:
        """``pass``, or the cube's reason to drop the last of so many."""
        if not self.xdp:
            result = self.dp.send(packet, enters="uplink", repeat=repeat)
            return "pass" if result.verdict == "pass" else result.reason.removeprefix("ddos/")
        before = self._drops()
        if repeat > 1:
            assert self.dp.programs.early is not None
            self.dp.programs.early.test_run(bytes(packet), repeat - 1)
        if self.dp.receive(packet) == "pass":
            assert self._drops() == before
            return "pass"
        (reason,) = [name for name, n in self._drops().items() if n != before.get(name, 0)]
        return reason

    def burst(self, source: str, packets: int) -> list[str]:
        """What is said of packets of one source, one after another."""
        return [self.ask(frame(source)) for _ in range(packets)]

    def call(self, method: str, **params: object) -> Any:
        """What the cube's commands ask for."""
        return self.cube.answer(method, params, self.dp.context("ddos"))

    def read(self, name: str) -> Any:
        """A map's records, of all CPUs."""
        return self.dp.context("ddos").table(name)

    def _drops(self) -> dict[str, int]:
        rows = drop_rows(self.dp.maps, self.dp.reasons)
        return {row["reason"]: row["packets"] for row in rows if row["cube"] == "ddos"}


def frame(source: str, transport: Packet | None = None, **ip: Any) -> Packet:
    """A packet to the node."""
    return Ether() / IP(src=source, dst=NODE, **ip) / (transport or UDP(dport=9)) / Raw(b"data")
