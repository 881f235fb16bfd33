"""The settings of the flowlog cube."""

from __future__ import annotations

from cubelet_hooks import cube

LONGEST_INTERVAL = 86_400
"""A day, in seconds: far below the 49 days after which 32 bits of jiffies can wrap."""


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which flows are recorded, and where. Raises ValueError naming the wrong field."""

    sample: int = 1
    """One flow of so many is recorded, by a hash of addresses and ports: the same on every node."""
    denied: bool = True
    """Whether to record denied packets."""
    interval: int = 0
    """Seconds after which a flow's packets and bytes are recorded again. 0: never; then the cube
    does not see established packets."""
    ends: int = 200
    """How many flows' ends are recorded in a second, with all that they have carried; 0: none."""
    names: bool = False
    """Whether to record the name that a flow's first packet asks a DNS server for."""
    rate: int = 200
    """Events that the node may send per second; the others are lost, and counted. A thousand events
    keep the agent's one thread busy for about 40 ms."""
    file: str = ""
    """An absolute path to write JSON lines to; empty: the agent's log."""
    max_bytes: int = 10_000_000
    """A file that would become longer is renamed to ``FILE.1``, an older one to ``FILE.2``..."""
    files: int = 5
    """How many files there are, the one that is written to included."""

    def __post_init__(self) -> None:
        """Check constraints beyond the types."""
        for name, least in (("sample", 1), ("interval", 0), ("ends", 0), ("rate", 1), ("files", 2)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if self.interval > LONGEST_INTERVAL:
            raise ValueError(f"interval must be at most {LONGEST_INTERVAL}, not {self.interval}")
        if self.max_bytes < 1_000:
            raise ValueError(f"max_bytes must hold a record, so 1000 or more, not {self.max_bytes}")
        if self.file and not self.file.startswith("/"):
            raise ValueError(f"file must be an absolute path, not {self.file!r}")
