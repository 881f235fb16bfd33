"""The settings of the cube."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cubelet_ddos.networks import parse
from cubelet_hooks import cube

_Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sources to drop, sources never to drop, and the rate limit.

    Memory by the kernel's count: 30 bytes for each prefix, and as much again for inner nodes;
    allocated at once are 80 bytes for each of ``max_sources`` and 96 for each of ``max_blocked``.
    """

    block: tuple[str, ...] = ()
    """Prefixes and addresses to drop on every node that has this setting."""
    allow: tuple[str, ...] = ()
    """Prefixes and addresses never to drop; addresses of the cluster's nodes never are."""
    rate: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """Packets a second that one address may send; 0: any number."""
    burst: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """Packets it may send at once; 0: those of one second."""
    block_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60
    """Seconds for which an address that sends more is dropped."""
    max_prefixes: _Size = 65_536
    """Entries of each of the two lists."""
    max_sources: _Size = 65_536
    """Addresses whose rate is tracked; the least recently seen one is evicted."""
    max_blocked: _Size = 16_384
    """Addresses with a temporary block; likewise."""

    def __post_init__(self) -> None:
        """Raise ValueError naming a field with a bad value."""
        for name in ("block", "allow"):
            for text in getattr(self, name):
                try:
                    parse(text)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        least = self.rate // 10
        if 0 < self.burst < least:
            raise ValueError(
                f"burst {self.burst} is less than a tenth of a second at the rate {self.rate}, too "
                f"few for the datapath's clock of up to 10 ms: at least {least}, or 0"
            )

    @property
    def depth(self) -> int:
        """Packets that a source may send at once."""
        return self.burst or self.rate
