"""A problem of a source with an object or a file, for the log and the agent's status."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, order=True):
    """A problem in ``file``, at ``line`` (from 1; 0: unknown).

    ``kind``, ``key`` and ``field`` are empty if they are unknown, or if the problem is with the
    whole document or file.
    """

    file: str
    line: int
    kind: str
    key: str
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        named = " ".join(part for part in (self.kind, self.key) if part)
        return ": ".join(part for part in (place, named, self.field, self.message) if part)
