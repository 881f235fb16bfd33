"""Makes network namespaces, and runs Python in them.

A function runs in a forked child that enters the namespace (`setns(2)`) and sends its result back,
so the caller never leaves its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from cubelet.lab.errors import LabError
from cubelet.lab.layout import NETNS_ROOT
from cubelet.net.netns import enter, opened

T = TypeVar("T")

_fork = multiprocessing.get_context("fork")


def path(name: str) -> Path:
    """The file that holds the namespace `name` open."""
    return NETNS_ROOT / name


def exists(name: str) -> bool:
    """Whether there is a namespace of that name."""
    return path(name).exists()


def matching(prefix: str) -> list[str]:
    """The names of all namespaces that begin with `prefix`, sorted."""
    if not NETNS_ROOT.is_dir():
        return []
    return sorted(entry.name for entry in NETNS_ROOT.iterdir() if entry.name.startswith(prefix))


def create(name: str) -> None:
    """Make a namespace with its loopback device up; raises LabError if it exists."""
    ip(["netns", "add", name])
    ip(["link", "set", "lo", "up"], netns=name)


def delete(name: str) -> None:
    """Delete a namespace or the rest of an interrupted `create`, if it exists."""
    if exists(name):
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    # An `ip netns add` that is interrupted before it mounts leaves a plain file.
    path(name).unlink(missing_ok=True)


def ip(arguments: Sequence[str], netns: str | None = None) -> None:
    """Run one `ip` command, in a namespace if given; raises LabError with its output."""
    _run_ip([*arguments], netns, None)


def ip_batch(lines: Sequence[str], netns: str) -> None:
    """Run several `ip` commands in a namespace, in one process; raises LabError at the first."""
    _run_ip(["-batch", "-"], netns, "\n".join(lines))


def _run_ip(arguments: list[str], netns: str | None, text: str | None) -> None:
    command = ["ip", *(["-netns", netns] if netns else []), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        where = f" in {netns}" if netns else ""
        raise LabError(f"ip {' '.join(arguments)}{where}: {done.stderr.strip()}")


def command(name: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in a namespace; the process keeps its pid and mounts.

    `ip netns exec` would hide the BPF file system behind a new /sys.
    """
    return ["nsenter", f"--net={path(name)}", "--", *argv]


def inhabitants(names: Sequence[str]) -> list[int]:
    """The pids of the processes whose network namespace is one of `names`, never the caller's."""
    own = os.stat("/proc/self/ns/net")
    inodes = {(s.st_dev, s.st_ino) for s in (path(n).stat() for n in names if exists(n))}
    inodes.discard((own.st_dev, own.st_ino))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = os.stat(entry / "ns" / "net")
            except OSError:
                continue  # ended meanwhile
            if (stat.st_dev, stat.st_ino) in inodes:
                found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class Call(Generic[T]):
    """A function to be run in a namespace; its result has to be picklable."""

    netns: str
    function: Callable[..., T]
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def run(netns: str, function: Callable[..., T], *args: Any, timeout: float = 30) -> T:
    """Run one function in a namespace and return its result; errors as `run_all`."""
    return run_all([Call(netns, function, args)], timeout=timeout)[0]


def run_all(calls: Sequence[Call[T]], *, timeout: float, limit: int = 16) -> list[T]:
    """Run functions in their namespaces, up to `limit` at a time; results in the calls' order.

    `timeout` (seconds) holds for all together. Raises LabError when a function raises, its process
    dies, or time runs out; all children have ended when this returns or raises.
    """
    deadline = time.monotonic() + timeout
    results: dict[int, T] = {}
    waiting = list(enumerate(calls))[::-1]
    with _children() as running:
        while waiting or running:
            while waiting and len(running) < limit:
                index, call = waiting.pop()
                connection, process = _start(call)
                running[connection] = (index, process)
            ready = wait(list(running), max(0.0, deadline - time.monotonic()))
            if not ready:
                names = ", ".join(calls[index].netns for index, _ in running.values())
                raise LabError(f"no result within {timeout:g} s from {names}")
            for connection in [connection for connection in running if connection in ready]:
                index, process = running[connection]
                results[index] = _result(connection, calls[index])
                process.join()
                del running[connection]
    return [results[index] for index in range(len(calls))]


@contextmanager
def _children() -> Iterator[dict[Connection, tuple[int, BaseProcess]]]:
    """The running children; those still running at the end are killed."""
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        yield running
    finally:
        for connection, (_, process) in running.items():
            process.kill()
            process.join()
            connection.close()


def _start(call: Call[Any]) -> tuple[Connection, BaseProcess]:
    receiver, sender = _fork.Pipe(duplex=False)
    process = _fork.Process(target=_child, args=(call, sender), daemon=True)
    process.start()
    sender.close()
    return receiver, process


def _child(call: Call[Any], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with opened(str(path(call.netns))) as descriptor:
            enter(descriptor)
        sender.send((call.function(*call.args, **call.options), None))
    except Exception as error:
        sender.send((None, f"{type(error).__name__}: {error}"))


def _result(connection: Connection, call: Call[T]) -> T:
    try:
        value, error = connection.recv()
    except EOFError:
        error = "the process ended without a result"
    finally:
        connection.close()
    if error is not None:
        raise LabError(f"{call.function.__name__} in {call.netns}: {error}")
    result: T = value
    return result
