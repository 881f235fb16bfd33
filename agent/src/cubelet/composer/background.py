"""Compiles beside the datapath's thread, so that passes go on and pods start meanwhile.

Whoever wants a source compiled asks again: until it is done the answer is :class:`Compiling`. A
result that nobody asks for any more, because the facts have changed, is dropped.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cubelet.composer.compiler import Compiled, compile_source, find_compiled, source_identity
from cubelet.composer.source import Source

_KEPT: Final = 2
"""Results that wait to be asked for: of the composition in force, and of one that is proposed."""


class Compiling(Exception):
    """The source is not compiled yet: ask again after the word that one is done."""


@dataclass
class _Job:
    """One source. ``process`` is the compiler while it runs; ``outcome`` is set in the end."""

    identity: str
    began: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[str] | None = None
    outcome: Compiled | Exception | None = None


class BackgroundCompiler:
    """Compiles one source at a time on a thread of its own, and calls ``on_done`` from it."""

    def __init__(self) -> None:
        self.on_done: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._done: dict[str, _Job] = {}
        self._closed = False

    @property
    def seconds(self) -> float | None:
        """For how long it has been compiling; None if it is not."""
        job = self._job
        return time.monotonic() - job.began if job is not None else None

    def __call__(self, source: Source, cache: Path) -> Compiled:
        """What ``compile_source`` returns or raises, or Compiling."""
        identity = source_identity(source)
        found = find_compiled(source, cache, identity)
        with self._lock:
            job = self._done.pop(identity, None)
            if found is None and job is None and self._job is None and not self._closed:
                self._job = _Job(identity)
                arguments = (self._job, source, cache)
                threading.Thread(target=self._run, args=arguments, daemon=True).start()
        if found is not None:
            return found
        if job is None or job.outcome is None:
            raise Compiling
        if isinstance(job.outcome, Exception):
            raise job.outcome
        return job.outcome

    def close(self) -> None:
        """End the compiler that runs, and start no more."""
        with self._lock:
            self._closed = True
            if self._job is not None and self._job.process is not None:
                self._job.process.kill()

    def _run(self, job: _Job, source: Source, cache: Path) -> None:
        def started(process: subprocess.Popen[str]) -> None:
            with self._lock:
                job.process = process
                if self._closed:
                    process.kill()

        try:
            job.outcome = compile_source(source, cache, started)
        except Exception as error:  # whoever asks gets it
            job.outcome = error
        with self._lock:
            self._job = None
            self._done[job.identity] = job
            while len(self._done) > _KEPT:
                del self._done[next(iter(self._done))]
            closed = self._closed
        if not closed:
            self.on_done()
