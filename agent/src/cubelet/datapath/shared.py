"""The values that programs and the agent share as memory, without a system call."""

from __future__ import annotations

import mmap

from cubelet.bpf.maps import BpfMap


class SharedWords:
    """A map of one value as unsigned 32-bit words (see ``composer.core.ValueMap``)."""

    def __init__(self, table: BpfMap) -> None:
        self._memory = mmap.mmap(table.fd, table.layout.value_size)
        self.words = memoryview(self._memory).cast("I")

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._memory.close()
