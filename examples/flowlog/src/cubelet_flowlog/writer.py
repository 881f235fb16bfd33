"""Writes lines to a file that is rotated by its size, without waiting for the disk.

A thread writes them. A second after the last line it closes the file and ends, so that a cube which
is no longer composed leaves neither a thread nor an open file, and other software may move the
file.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import threading
from collections.abc import Callable
from logging.handlers import RotatingFileHandler

WAITING = 10_000
"""Lines that may wait for the disk; further ones are lost, and counted."""
LINGER = 1.0
"""Seconds that the thread waits for another line before it ends."""


class Writer:
    """Appends lines to ``path``; see :class:`cubelet_flowlog.settings.Settings` for the others.

    ``written`` and ``lost`` count lines; ``error`` says why the last one could not be written,
    empty if it could.
    """

    def __init__(self, path: str, max_bytes: int, files: int, linger: float = LINGER) -> None:
        self.path = path
        self.written = 0
        self.lost = 0
        self.error = ""
        self._limits = max_bytes, files
        self._linger = linger
        self._lines: queue.Queue[str] = queue.Queue(WAITING)
        self._lock = threading.Lock()
        self._running = False

    def write(self, line: str) -> None:
        """Enqueue a line without its line end; returns at once."""
        with self._lock:
            try:
                self._lines.put_nowait(line)
            except queue.Full:
                self.lost += 1
                return
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="flowlog").start()

    def _run(self) -> None:
        file = _File(self.path, *self._limits)
        try:
            while (line := self._next()) is not None:
                self._append(file.append, line)
        finally:
            file.close()

    def _next(self) -> str | None:
        """The next line; None if none has come for ``linger`` seconds: the thread must then end."""
        try:
            return self._lines.get(timeout=self._linger)
        except queue.Empty:
            with self._lock:
                self._running = not self._lines.empty()
                return self._lines.get_nowait() if self._running else None

    def _append(self, append: Callable[[str], None], line: str) -> None:
        try:
            append(line)
        except OSError as error:
            self.lost += 1
            self.error = str(error)
        else:
            self.written += 1
            self.error = ""


class _File(RotatingFileHandler):
    """logging's rotation, for lines instead of log records; errors are raised.

    Flow records show who talks to whom, so only the owner and its group can read the file.
    """

    def __init__(self, path: str, max_bytes: int, files: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=files - 1, delay=True)

    def append(self, line: str) -> None:
        """Write a line. Raises OSError if the file cannot be opened, put aside or written."""
        self.emit(logging.LogRecord("flowlog", logging.INFO, "", 0, line, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Raise the exception that ``emit`` is handling when it calls this."""
        raise  # noqa: PLE0704 - there is one

    def _open(self) -> io.TextIOWrapper:
        opened = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        return open(opened, "a", encoding="utf-8")
