"""`lab probe`: tries with real packets which pods reach which.

It probes every ordered pair of different pods, for each port that the second one declares. A
verdict is `allowed` only if that very pod answered; SCTP is probed by a raw INIT.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from cubelet.lab import netns, sctp
from cubelet.lab.admission import container_ports
from cubelet.lab.kinds import Manifest, key_of
from cubelet.lab.kubelet import Kubelet
from cubelet.lab.layout import Layout
from cubelet.lab.netns import Call
from cubelet.lab.store import Store

# Seconds to wait for an answer, at the first and the second attempt: a packet may be lost, and the
# machine busy. Answers between pods of one machine take well under a millisecond.
_PATIENCE: Final = (0.4, 0.8)
_CONCURRENT: Final = 128  # probes of one pod at a time; each holds a socket
_PROBERS: Final = 8  # pods that probe at a time; each is a process
_TIMEOUT: Final = 300.0


@dataclass(frozen=True)
class Target:
    """One port of one pod."""

    pod: str
    address: str
    protocol: str
    port: int


class Row(msgspec.Struct, frozen=True):
    """One verdict, in the shape that `lab probe -o json` prints."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    protocol: str
    port: int
    verdict: Literal["allowed", "denied"]


def probe(layout: Layout) -> list[Row]:
    """Probe between all running pods of a lab; sorted by source, target, protocol and port."""
    store = Store(layout)
    kubelet = Kubelet(layout, store)
    pods = [pod for pod in store.list("Pod") if _address(pod)]
    targets = [target for pod in pods for target in _targets(pod)]
    calls = []
    wanted = []
    for pod in pods:
        others = [target for target in targets if target.pod != _name(pod)]
        wanted += [(_name(pod), target) for target in others]
        calls.append(Call(kubelet.netns_of(pod), probe_all, (others,)))
    verdicts = netns.run_all(calls, timeout=_TIMEOUT, limit=_PROBERS)
    answers = [answer for some in verdicts for answer in some]
    return [
        Row(source, t.pod, t.protocol, t.port, "allowed" if answered else "denied")
        for (source, t), answered in zip(wanted, answers, strict=True)
    ]


def probe_all(targets: Sequence[Target]) -> list[bool]:
    """Whether each target answers; all are probed at once, from the caller's namespace."""
    return asyncio.run(_probe_all(targets))


async def _probe_all(targets: Sequence[Target]) -> list[bool]:
    slots = asyncio.Semaphore(_CONCURRENT)

    async def one(target: Target) -> bool:
        async with slots:
            return await _answers(target)

    return await asyncio.gather(*(one(target) for target in targets))


async def _answers(target: Target) -> bool:
    ask = _ask_sctp if target.protocol == "SCTP" else _ask_who
    for patience in _PATIENCE:
        try:
            return await asyncio.wait_for(ask(target), patience)
        except OSError:  # silence (TimeoutError), refused, unreachable
            continue
    return False


async def _ask_who(target: Target) -> bool:
    kind = socket.SOCK_STREAM if target.protocol == "TCP" else socket.SOCK_DGRAM
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, kind) as client:
        client.setblocking(False)
        await loop.sock_connect(client, (target.address, target.port))
        await loop.sock_sendall(client, b"who\n")
        answer = await loop.sock_recv(client, 4096)
    return bool(answer) and json.loads(answer)["name"] == target.pod


async def _ask_sctp(target: Target) -> bool:
    source, tag = random.randrange(32768, 61000), random.randrange(1, 1 << 32)
    request = sctp.Packet(source, target.port, 0, sctp.INIT, tag)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, sctp.PROTOCOL) as client:
        client.setblocking(False)
        client.connect((target.address, 0))  # does not block: it only filters received packets
        await loop.sock_sendall(client, sctp.build(request))
        while True:  # all SCTP packets of that pod arrive here; the caller's timeout ends the loop
            chunk = sctp.answers(request, await loop.sock_recv(client, 4096))
            if chunk:
                return chunk == sctp.INIT_ACK


def _targets(pod: Manifest) -> list[Target]:
    return [
        Target(_name(pod), _address(pod), protocol, port) for protocol, port in container_ports(pod)
    ]


def _name(pod: Manifest) -> str:
    key = key_of(pod)
    return f"{key.namespace}/{key.name}"


def _address(pod: Manifest) -> str:
    return str((pod.get("status") or {}).get("podIP") or "")
