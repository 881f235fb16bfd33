"""A guest's process as the agent has it: started, asked with a limit, and killed beyond it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from cubelet.guests.wire import Channel

_KEPT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "NO_COLOR",
    "PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "TZ",
)
"""What a guest's environment has of ours: no addresses of servers, no credentials."""
_END = 0.5
"""Seconds from the end of a process's socket to its own."""
_LOOK = 50
"""Milliseconds between looks at the clocks."""


class Limit(NamedTuple):
    """Seconds that an answer may take: of CPU, which a busy node does not move, and in all."""

    cpu: float
    wall: float


class StoppedError(Exception):
    """The process has ended, or was ended because it went beyond a limit; the text says which."""


class Process:
    """One guest's process, from :mod:`cubelet.guests.child`. Asked by one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        module = "cubelet.guests.child"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what it prints is no answer of ours to anybody
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._clock = (~self._process.pid << 3) | 2  # clock_getcpuclockid(3) of a process
        self._poller = select.poll()
        self._limit, self._began, self._cpu = Limit(0, 0), 0.0, 0.0
        self._channel = Channel(ours, self._wait)
        self._end = ours

    @property
    def pid(self) -> int:
        """Of the process, and of the group that whatever it starts belongs to."""
        return self._process.pid

    def ask(self, question: bytes, descriptors: Sequence[int], limit: Limit) -> bytes:
        """The answer. Raises StoppedError, after which there is no process any more."""
        self._limit, self._began, self._cpu = limit, time.monotonic(), self._cpu_time()
        try:
            self._channel.send(question, descriptors)
            return self._channel.receive()[0]
        except EOFError:
            raise StoppedError(self._end_of_it()) from None
        except ValueError as error:
            self.close()
            raise StoppedError(f"gave {error}") from None
        except StoppedError:
            self.close()
            raise

    def _wait(self, event: int) -> None:
        self._poller.register(self._end, event)
        ready: object = None
        while not ready:  # who answers byte by byte has no more time than others
            ready = self._poller.poll(_LOOK)
            if time.monotonic() - self._began > self._limit.wall:
                raise StoppedError(f"took over {self._limit.wall:g} s")
            if self._cpu_time() - self._cpu > self._limit.cpu:
                raise StoppedError(f"took over {self._limit.cpu:g} s of CPU")

    def _cpu_time(self) -> float:
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has ended, which the socket tells
            return 0.0

    def _end_of_it(self) -> str:
        ended = self._ends()
        self.close()
        if not ended:
            return "closed what it is asked by"
        status = self._process.returncode
        if status >= 0:
            return f"ended its process with status {status}"
        return f"ended its process by {signal.Signals(-status).name}"

    def _ends(self) -> bool:
        """Whether it ends by itself. It is not reaped: its number has to stay its group's."""
        late, how = time.monotonic() + _END, os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, self.pid, how) is None:
            if time.monotonic() > late:
                return False
            time.sleep(0.01)
        return True

    def kill(self) -> None:
        """Kill it and whatever it has started. May be called by any thread."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it and wait for its end."""
        self.kill()
        self._process.wait()
        self._channel.close()
