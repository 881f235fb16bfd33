"""What a source could not use, for the log and the agent's status."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, order=True):
    """Something wrong in ``file``, at ``line`` (from 1; 0: not known).

    ``kind``, ``key`` and ``field`` are empty where they are not known or the whole document or
    file is meant.
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
