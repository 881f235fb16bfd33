"""One record at a time. Keys and values are `bytes` in the kernel's layout, never interpreted."""

from __future__ import annotations

import ctypes
import errno

from cubelet.bpf.attrs import MapElement, MapInfoStruct
from cubelet.bpf.constants import Cmd, MapFlags, MapType, UpdateMode
from cubelet.bpf.layout import MapInfo, MapLayout, split_cpus
from cubelet.bpf.objects import BpfObject, get_info
from cubelet.bpf.syscalls import BpfError, address_of, bpf


class MapRecords(BpfObject):
    """An open map's records. All but the per-CPU methods take whole values (`value_stride`).

    Wrong key or value lengths are a `ValueError`, since the kernel would read past them. All
    other failures are a `BpfError`.
    """

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, f"map {name}")
        self.name = name
        self.info = _map_info(fd, self.label)
        self.layout = self.info.layout
        self._value_stride = self.layout.value_stride

    def lookup(self, key: bytes) -> bytes | None:
        """The value of `key`, or None. In an LPM trie: of the longest prefix that covers it."""
        value = ctypes.create_string_buffer(self._value_stride)
        attr = self._element(self.checked_key(key), ctypes.addressof(value))
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
        attr = self._element(self.checked_key(key), address_of(self.checked_value(value)), mode)
        bpf(Cmd.MAP_UPDATE_ELEM, attr, "write a record of", self.label)

    def delete(self, key: bytes) -> bool:
        """Remove one record; False if there was none."""
        try:
            attr = self._element(self.checked_key(key))
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
        after = None if key is None else self.checked_key(key)
        attr = self._element(after, ctypes.addressof(found))
        try:
            bpf(Cmd.MAP_GET_NEXT_KEY, attr, "list", self.label)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return found.raw

    def _element(self, key: bytes | None, value: int = 0, flags: int = 0) -> MapElement:
        # `key` is alive for as long as the caller's argument is, hence during the call.
        at = 0 if key is None else address_of(key)
        return MapElement(map_fd=self.fd, key=at, value=value, flags=flags)

    def checked_key(self, key: bytes) -> bytes:
        """The key, if it has the map's length. Raises ValueError."""
        if len(key) != self.layout.key_size:
            raise ValueError(
                f"{self.label}: keys have {self.layout.key_size} bytes, not {len(key)}"
            )
        return key

    def checked_value(self, value: bytes) -> bytes:
        """The value, if it has the map's length. Raises ValueError."""
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
