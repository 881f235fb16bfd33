"""Starts the lab's processes detached, records them by pid and start time, and ends them.

A pid alone may have been reused by another process; pid and start time together are unique.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

import cubelet
from cubelet.lab import netns
from cubelet.lab.errors import LabError
from cubelet.lab.layout import Layout

GRACE: Final = 3.0  # seconds between SIGTERM and SIGKILL
_ENDING: Final = (signal.SIGTERM, signal.SIGKILL)
_START_LIMIT: Final = 15.0  # seconds until a pod's process serves


class Record(msgspec.Struct, frozen=True):
    """A process: `start` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    pid: int
    start: int


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def spawn(
    layout: Layout,
    name: str,
    where: str | None,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> int:
    """Start `argv` in the namespace `where`, in a session of its own, and record it as `name`.

    Without `where` it is in the caller's namespace. Returns its pid. It writes to the lab's log of
    that name, and its stdout to the descriptor `stdout` if given. It outlives the caller.
    """
    log = layout.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    layout.processes.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stderr:
        command = netns.command(where, argv) if where else [*argv]
        pid = os.posix_spawnp(
            command[0],
            command,
            {**os.environ, **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, stderr.fileno() if stdout is None else stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr.fileno(), 2),
            ],
            setsid=True,
        )
    record = Record(pid, start_time(pid) or 0)
    (layout.processes / f"{name}.json").write_bytes(msgspec.json.encode(record))
    return pid


def spawn_server(
    layout: Layout, name: str, where: str, identity: str, ports: Iterable[tuple[str, int]]
) -> None:
    """Start a process that serves `ports` in a namespace and return once it does.

    Raises LabError, with its output, if a port cannot be served.
    """
    document = msgspec.json.encode({"name": identity, "ports": sorted(set(ports))}).decode()
    # Without `site` it starts in a few milliseconds; it needs the standard library alone.
    argv = [sys.executable, "-S", "-m", "cubelet.lab.podserver", document]
    packages = {"PYTHONPATH": str(Path(cubelet.__file__).parents[1])}
    reader, writer = os.pipe()
    with open(reader, "rb") as stdout:
        try:
            spawn(layout, name, where, argv, environment=packages, stdout=writer)
        finally:
            os.close(writer)
        readable, _, _ = select.select([stdout], [], [], _START_LIMIT)
        said = stdout.readline().decode().strip() if readable else "no answer"
    if said != "ready":
        end(layout, [name])
        raise LabError(f"{identity}: cannot serve its ports: {said or tail(layout.log(name))}")


def end(layout: Layout, names: Iterable[str], signals: Sequence[signal.Signals] = _ENDING) -> None:
    """End recorded processes together, as far as they run: by one signal, then by the next."""
    paths = [layout.processes / f"{name}.json" for name in names]
    _end_records([_read(path) for path in paths], signals)
    for path in paths:
        path.unlink(missing_ok=True)


def end_all(layout: Layout) -> None:
    """End all processes recorded in the lab."""
    if layout.processes.is_dir():
        end(layout, [path.stem for path in layout.processes.glob("*.json")])


def end_pids(pids: Iterable[int]) -> None:
    """End processes found by pid, such as those that stayed in a namespace."""
    _end_records([Record(pid, start_time(pid) or 0) for pid in pids], _ENDING)


def alive(layout: Layout, name: str) -> bool:
    """Whether the process recorded as `name` still runs."""
    record = _read(layout.processes / f"{name}.json")
    return record is not None and start_time(record.pid) == record.start


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log; empty when there is none."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _read(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None  # never recorded, or the recording was interrupted


def _end_records(records: Iterable[Record | None], signals: Sequence[signal.Signals]) -> None:
    handles = [fd for record in records if record and (fd := _open(record)) is not None]
    try:
        left = handles
        for number in signals:
            for fd in left:
                _signal(fd, number)
            left = _still_running(left, GRACE)
    finally:
        for fd in handles:
            with contextlib.suppress(ChildProcessError):  # another command's child
                os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
            os.close(fd)


def _open(record: Record) -> int | None:
    """A pidfd of the recorded process; None if it is gone, also if its pid was reused."""
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    # Check after opening: the descriptor stays with this process even if its pid is reused.
    if record.start == 0 or start_time(record.pid) != record.start:
        os.close(fd)
        return None
    return fd


def _signal(fd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        signal.pidfd_send_signal(fd, number)


def _still_running(handles: list[int], limit: float) -> list[int]:
    """Those of `handles` that have not ended after at most `limit` seconds."""
    deadline = time.monotonic() + limit
    left = list(handles)
    while left and (remaining := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(left, [], [], remaining)
        left = [fd for fd in left if fd not in ended]
    return left
