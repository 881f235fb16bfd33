"""Deletions that the plugin noted because no agent answered, for the agent to make good.

Each is an empty file `CONTAINER:INTERFACE` in a folder beside the agent's socket, so that a plugin
which knows no more than the socket finds it (see `cubelet-cni.c`), and a reboot, which takes the
pods' devices, takes the notes with them.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from cubelet.cni.ipam import Key
from cubelet.cni.plugin import DELETIONS_SUFFIX

log = structlog.get_logger(__name__)


class Deletions:
    """The noted deletions of the agent that listens on `socket`."""

    def __init__(self, socket: Path) -> None:
        self.folder = socket.with_name(socket.name + DELETIONS_SUFFIX)

    def pending(self) -> list[Key]:
        """The attachments that runtimes have deleted and that may still be there."""
        try:
            names = sorted(entry.name for entry in self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            log.error("cannot read what was deleted without an agent", error=str(error))
            return []
        parts = (name.rpartition(":") for name in names)
        return [(container, ifname) for container, _, ifname in parts if container]

    def noted(self, key: Key) -> bool:
        """Whether a deletion of this attachment is noted."""
        return self._path(key).exists()

    def forget(self, key: Key) -> None:
        """The deletion is made good; no note of it is fine."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            log.error("cannot remove the note of a deletion", error=str(error))

    def _path(self, key: Key) -> Path:
        return self.folder / ":".join(key)
