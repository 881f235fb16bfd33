"""Traffic that goes on while something happens to the network, and says what it missed."""

from __future__ import annotations

import contextlib
import multiprocessing
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from cubelet.lab import netns, traffic

_LONGEST = 240.0
_STRAGGLERS = 0.5


class Stop(Protocol):
    """Set when the load is to end."""

    def is_set(self) -> bool:
        """Whether it is."""
        ...


@dataclass(frozen=True)
class Report:
    """What a load did: how often it asked, which of it went wrong, and its longest silence."""

    sent: int
    lost: tuple[str, ...]
    silence: float


class Loads:
    """Loads under way; their reports once the block has been left."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._running: dict[str, Future[Report]] = {}
        self._fork = multiprocessing.get_context("fork")
        self._stop = self._fork.Event()

    def add(self, name: str, place: str, load: Callable[..., Report], *args: Any) -> None:
        """Run a load in a namespace until the end; returns when it has begun.

        So that its process has been forked, and holds no file that is opened after.
        """
        began = self._fork.Event()
        arguments = (began, load, self._stop, *args)
        self._running[name] = self._pool.submit(
            netns.run, place, _begin, *arguments, timeout=_LONGEST
        )
        assert began.wait(10), f"{name} does not begin"

    def end(self) -> None:
        """Stop them."""
        self._stop.set()

    def __getitem__(self, name: str) -> Report:
        return self._running[name].result()

    def check(self, at_least: int) -> None:
        """None lost anything, and each did so much."""
        for name in self._running:
            report = self[name]
            lost = f"{len(report.lost)} of {report.sent} lost"
            assert report.lost == (), f"{name}: {lost}: {', '.join(report.lost[:10])}"
            assert report.sent >= at_least, f"{name}: {report}"


@contextmanager
def loads() -> Iterator[Loads]:
    """Loads that run until the block is left."""
    with ThreadPoolExecutor(16) as pool:
        running = Loads(pool)
        try:
            yield running
        finally:
            running.end()


def _begin(began: Any, load: Callable[..., Report], *args: Any) -> Report:
    began.set()
    return load(*args)


def datagrams(stop: Stop, address: str, port: int, rate: float = 500) -> Report:
    """Numbered UDP datagrams from one source port, `rate` a second; each must be echoed."""
    missing: set[int] = set()
    refused: list[str] = []
    sent, heard, silence = 0, time.monotonic(), 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        # What is lost is to be the network's fault, not that of a busy machine that reads late.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.connect((address, port))
        client.setblocking(False)
        began, ends = time.monotonic(), None
        while ends is None or (missing and time.monotonic() < ends):
            now = time.monotonic()
            if stop.is_set() and ends is None:
                ends = now + _STRAGGLERS
            due = sent if ends else int((now - began) * rate) + 1
            while sent < due:
                missing.add(sent)
                try:
                    client.send(sent.to_bytes(8))
                except OSError as error:
                    refused.append(f"{sent}: {error.strerror}")
                sent += 1
            select.select([client], [], [], 1 / rate)
            with contextlib.suppress(BlockingIOError):
                while True:
                    try:
                        missing.discard(int.from_bytes(client.recv(64)))
                    except ConnectionRefusedError as error:
                        refused.append(str(error.strerror))
                        continue
                    silence = max(silence, time.monotonic() - heard)
                    heard = time.monotonic()
    return Report(sent, (*refused, *map(str, sorted(missing))), silence)


def stream(stop: Stop, address: str, port: int, patience: float = 10) -> Report:
    """One TCP connection on which blocks are echoed until the end, intact.

    A silence of more than `patience` seconds loses the rest.
    """
    sent, silence = 0, 0.0
    with socket.create_connection((address, port), timeout=patience) as client:
        while not stop.is_set():
            block = sent.to_bytes(8) * 2048
            began = time.monotonic()
            try:
                client.sendall(block)
                echoed = b""
                while len(echoed) < len(block) and (data := client.recv(65536)):
                    echoed += data
            except OSError as error:
                return Report(sent, (repr(error),), silence)
            silence = max(silence, time.monotonic() - began)
            if echoed != block:
                return Report(sent, (f"block {sent} came back different",), silence)
            sent += 1
            time.sleep(0.005)
    return Report(sent, (), silence)


def connections(stop: Stop, address: str, port: int, protocol: str = "TCP") -> Report:
    """New connections one after another; each must be answered."""
    sent, silence = 0, 0.0
    lost: list[str] = []
    while not stop.is_set():
        result = traffic.who(address, port, protocol)
        silence = max(silence, result.seconds)
        if not result.answered:
            lost.append(f"{sent}: {result.outcome}, from {result.local}")
        sent += 1
        time.sleep(0.02)
    return Report(sent, tuple(lost), silence)
