"""What the agent does with fragments that wait for their first: removes them when that is late.

Programs take a port's own old ones away themselves, but only as they need their places.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.maps import BpfMap
from cubelet.composer.core import Keeper, KeptFragment
from cubelet_hooks.records import Family, Record

SECONDS = 30
"""For how long a fragment waits: ``CUBELET_FRAGMENT_TIME`` in fragment.h."""
_MASK = 0xFFFFFFFF
_WAITING: Mapping[str, type[Record]] = {"cubelet_kept": KeptFragment, "cubelet_keepers": Keeper}
"""Maps that are swept: fragments, then who kept any, which says that there may be some."""


class FragmentSweeper:
    """Tidies ``cubelet_kept`` and ``cubelet_keepers``, which pods that are gone leave behind.

    ``maps`` must stay open for as long as a call runs.
    """

    def __init__(self, maps: Mapping[str, BpfMap], clock: Clock, family: Family = 4) -> None:
        self._maps = maps
        self._clock = clock
        self._seen = {name: _seen_at(record, family) for name, record in _WAITING.items()}

    def sweep(self) -> int:
        """Remove what has waited for too long; how many records that were."""
        if self._maps["cubelet_keepers"].next_key(None) is None:
            return 0  # nobody has kept anything lately
        return sum(map(self._tidy, _WAITING))

    def _tidy(self, name: str) -> int:
        table = self._maps[name]
        found = list(self._late(name, table.items()))
        # a look at each once more: its place may have been given to another
        now = ((key, table.lookup(key)) for key in found)
        late = list(self._late(name, ((key, value) for key, value in now if value is not None)))
        table.delete_batch(late)
        return len(late)

    def _late(self, name: str, records: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
        at, now, wait = self._seen[name], self._clock.now(), (SECONDS + 1) * self._clock.hz
        for key, value in records:
            (seen,) = struct.unpack_from("=I", value, at)
            if wait < (now - seen) & _MASK < _MASK // 2:  # beyond that it is ahead of our clock
                yield key


def _seen_at(record: type[Record], family: Family) -> int:
    return next(f.offset for f in record.layout(family).fields if f.name == "seen")
