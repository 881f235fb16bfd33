"""What the flowlog cube can be told."""

from __future__ import annotations

from cubelet_hooks import cube

LONGEST_INTERVAL = 86_400
"""A day, in seconds: far below the 49 days after which a count of jiffies may begin anew."""


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which flows are told, and where to. Raises ValueError naming the wrong field."""

    sample: int = 1
    """One flow of so many is told, chosen by its addresses and ports: the same on every node."""
    denied: bool = True
    """Whether to tell of packets that no cube let out."""
    interval: int = 0
    """Seconds after which a flow's packets and bytes are told again, and at its end; 0: never, and
    then established packets are not looked at."""
    rate: int = 200
    """Events that each CPU may send in a second; the others are lost, and counted. A thousand
    keep the agent's one thread busy for about 40 ms."""
    file: str = ""
    """An absolute path to write JSON lines to; empty: the agent's log."""
    max_bytes: int = 10_000_000
    """A file that would become longer is put aside as ``FILE.1``, an older one as ``FILE.2``..."""
    files: int = 5
    """How many of them there are, the one that is written to included."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        for name, least in (("sample", 1), ("interval", 0), ("rate", 1), ("files", 2)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if self.interval > LONGEST_INTERVAL:
            raise ValueError(f"interval must be at most {LONGEST_INTERVAL}, not {self.interval}")
        if self.max_bytes < 1_000:
            raise ValueError(f"max_bytes must hold a record, so 1000 or more, not {self.max_bytes}")
        if self.file and not self.file.startswith("/"):
            raise ValueError(f"file must be an absolute path, not {self.file!r}")
