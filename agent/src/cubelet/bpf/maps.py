"""BPF maps. Keys and values are `bytes` in the kernel's layout; nothing here interprets them."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable, Iterator
from pathlib import Path

from cubelet.bpf import batch
from cubelet.bpf.attrs import MapCreate, MapElement, MapInfoStruct
from cubelet.bpf.constants import Cmd, MapFlags, MapType, UpdateMode
from cubelet.bpf.layout import MapInfo, MapLayout, split_cpus
from cubelet.bpf.objects import BpfObject, get_info, open_pin
from cubelet.bpf.syscalls import BpfError, address_of, bpf, kernel_name


class BpfMap(BpfObject):
    """An open map. Every method but the per-CPU ones works with whole values (`value_stride`).

    Wrong key or value lengths are a `ValueError`, since the kernel would read past them. All
    other failures are a `BpfError`.
    """

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, f"map {name}")
        self.name = name
        self.info = _map_info(fd, self.label)
        self.layout = self.info.layout
        self._value_stride = self.layout.value_stride

    @classmethod
    def create(cls, name: str, layout: MapLayout, inner: BpfMap | None = None) -> BpfMap:
        """A new map; `inner` is the model of what a map of maps holds."""
        attr = MapCreate(
            map_type=layout.type,
            key_size=layout.key_size,
            value_size=layout.value_size,
            max_entries=layout.max_entries,
            map_flags=layout.flags,
            inner_map_fd=inner.fd if inner else 0,
            map_name=kernel_name(name),
        )
        return cls(bpf(Cmd.MAP_CREATE, attr, "create", f"map {name} ({_in_words(layout)})"), name)

    @classmethod
    def open(cls, path: Path | str) -> BpfMap:
        """The map pinned at `path`, named after its pin."""
        return cls(open_pin(path, "map"), Path(path).name)

    def lookup(self, key: bytes) -> bytes | None:
        """The value of `key`, or None. In an LPM trie: of the longest prefix that covers it."""
        value = ctypes.create_string_buffer(self._value_stride)
        attr = self._element(self._checked_key(key), ctypes.addressof(value))
        try:
            bpf(Cmd.MAP_LOOKUP_ELEM, attr, "read a record of", self.label)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def lookup_cpus(self, key: bytes) -> tuple[bytes, ...] | None:
        """The values of `key` in a per-CPU map, one per possible CPU, or None."""
        value = self.lookup(key)
        return None if value is None else split_cpus(value, self.layout)

    def update(self, key: bytes, value: bytes, mode: UpdateMode = UpdateMode.ANY) -> None:
        """Write one record; EEXIST or ENOENT if `mode` forbids, E2BIG if the map is full."""
        attr = self._element(self._checked_key(key), address_of(self._checked_value(value)), mode)
        bpf(Cmd.MAP_UPDATE_ELEM, attr, "write a record of", self.label)

    def delete(self, key: bytes) -> bool:
        """Remove one record; False if there was none."""
        try:
            attr = self._element(self._checked_key(key))
            bpf(Cmd.MAP_DELETE_ELEM, attr, "delete a record of", self.label)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def next_key(self, key: bytes | None) -> bytes | None:
        """The key after `key` (None: the first), or None at the end.

        After a key that no longer exists the kernel starts over at the first one.
        """
        found = ctypes.create_string_buffer(self.layout.key_size)
        after = None if key is None else self._checked_key(key)
        attr = self._element(after, ctypes.addressof(found))
        try:
            bpf(Cmd.MAP_GET_NEXT_KEY, attr, "list", self.label)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return found.raw

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records, in the kernel's order; arrays give every index.

        Records written or deleted meanwhile may or may not be among them, none comes twice.
        """
        return batch.items(self)

    def update_batch(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Write many records with few calls; those before a failing one stay written."""
        checked = [(self._checked_key(k), self._checked_value(v)) for k, v in records]
        batch.update(self, checked)

    def delete_batch(self, keys: Iterable[bytes]) -> None:
        """Remove many records with few calls; absent ones are passed over."""
        batch.delete(self, [self._checked_key(key) for key in keys])

    def _element(self, key: bytes | None, value: int = 0, flags: int = 0) -> MapElement:
        # `key` is alive for as long as the caller's argument is, hence during the call.
        at = 0 if key is None else address_of(key)
        return MapElement(map_fd=self.fd, key=at, value=value, flags=flags)

    def _checked_key(self, key: bytes) -> bytes:
        if len(key) != self.layout.key_size:
            raise ValueError(
                f"{self.label}: keys have {self.layout.key_size} bytes, not {len(key)}"
            )
        return key

    def _checked_value(self, value: bytes) -> bytes:
        if len(value) != self._value_stride:
            raise ValueError(
                f"{self.label}: values have {self._value_stride} bytes, not {len(value)}"
            )
        return value


def _map_info(fd: int, label: str) -> MapInfo:
    info = get_info(fd, MapInfoStruct(), label)
    layout = MapLayout(
        MapType(info.type),
        info.key_size,
        info.value_size,
        info.max_entries,
        MapFlags(info.map_flags),
    )
    return MapInfo(info.id, info.name.decode(), layout)


def _in_words(layout: MapLayout) -> str:
    return (
        f"{layout.type.name}, key {layout.key_size}, value {layout.value_size}, "
        f"{layout.max_entries} entries, flags {layout.flags:#x}"
    )
