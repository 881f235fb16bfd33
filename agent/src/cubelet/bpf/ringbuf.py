"""The reader of a BPF_MAP_TYPE_RINGBUF, by shared memory (kernel/bpf/ringbuf.c).

Page 0 holds the consumer's position, page 1 the producers', then come the data pages, mapped
twice in a row so that no record is split. A record is a 32-bit word (length, busy and discard
bits), a 32-bit word of the kernel's, the data, and padding to 8 bytes. Positions only grow.
"""

from __future__ import annotations

import mmap
import platform
import select
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from cubelet.bpf.constants import MapType
from cubelet.bpf.maps import BpfMap

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_LENGTH = _DISCARDED - 1
_HEADER = 8


class RingBuffer:
    """The one consumer of a ring buffer map. Close it before the map, or use `with`."""

    def __init__(self, table: BpfMap) -> None:
        if table.layout.type is not MapType.RINGBUF:
            raise ValueError(f"{table.label} is a {table.layout.type.name}, not a ring buffer")
        page = mmap.PAGESIZE
        self._fd = table.fd
        size = table.layout.max_entries
        self._consumer_page = mmap.mmap(
            table.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        self._pages = mmap.mmap(
            table.fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        # 64-bit views, so that a position is read and written in one access.
        self._consumed = memoryview(self._consumer_page)[:8].cast("Q")
        self._produced = memoryview(self._pages)[:8].cast("Q")
        self._data = memoryview(self._pages)[page:]
        self._words = self._data.cast("I")

    def fileno(self) -> int:
        """The map's descriptor: readable, for epoll or asyncio, while records wait."""
        return self._fd

    def records(self) -> Iterator[bytes]:
        """The records that are complete now, oldest first; each is freed as it is yielded.

        Ends before a record that its producer is still writing, to keep the order.
        """
        return drain(self._consumed, self._produced, self._words, self._data)

    def poll(self, timeout: float) -> Iterator[bytes]:
        """`records` after waiting at most `timeout` seconds for the first."""
        waiting = select.poll()
        waiting.register(self._fd, select.POLLIN)
        waiting.poll(timeout * 1000)
        return self.records()

    def close(self) -> None:
        """Unmap the buffer; records not read stay for the next consumer."""
        for view in (self._words, self._data, self._produced, self._consumed):
            view.release()
        self._pages.close()
        self._consumer_page.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def drain(
    consumed: memoryview[int], produced: memoryview[int], words: memoryview[int], data: memoryview
) -> Iterator[bytes]:
    """Yield a ring's records from its positions and its doubled data, as words and as bytes."""
    position = consumed[0]
    while True:
        end = produced[0]
        _fence()
        if position >= end:
            return
        start = position % (len(data) // 2)
        header = words[start // 4]
        _fence()
        if header & _BUSY:
            return
        length = header & _LENGTH
        record = bytes(data[start + _HEADER : start + _HEADER + length])
        position += -(-(_HEADER + length) // 8) * 8
        _fence()
        consumed[0] = position
        if not header & _DISCARDED:
            yield record


_lock = threading.Lock()


def _full_fence() -> None:
    # The kernel orders its accesses by acquire and release; Python has these only in a lock.
    # Taking and releasing it keeps the accesses before it apart from those after it.
    with _lock:
        pass
    with _lock:
        pass


def _no_fence() -> None:
    """x86 keeps loads in order, stores in order, and stores behind earlier loads."""


_fence: Callable[[], None] = _no_fence if platform.machine() == "x86_64" else _full_fence
