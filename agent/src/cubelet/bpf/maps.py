"""BPF maps: creating them, opening their pins, and reading or writing many records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cubelet.bpf import batch
from cubelet.bpf.attrs import MapCreate
from cubelet.bpf.constants import Cmd
from cubelet.bpf.elements import MapRecords
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.objects import open_pin
from cubelet.bpf.syscalls import bpf, kernel_name


class BpfMap(MapRecords):
    """An open map. :class:`MapRecords` handles one record, the methods here many."""

    @classmethod
    def create(cls, name: str, layout: MapLayout, inner: BpfMap | None = None) -> BpfMap:
        """A new map; a map of maps needs `inner`, a map with the layout of those it holds."""
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

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records, in the kernel's order; arrays give every index.

        Records written or deleted meanwhile may or may not be among them, none comes twice.
        """
        return batch.items(self)

    def update_batch(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Write many records with few calls; those before a failing one stay written."""
        checked = [(self.checked_key(k), self.checked_value(v)) for k, v in records]
        batch.update(self, checked)

    def delete_batch(self, keys: Iterable[bytes]) -> None:
        """Remove many records with few calls; absent ones are passed over."""
        batch.delete(self, [self.checked_key(key) for key in keys])


def _in_words(layout: MapLayout) -> str:
    return (
        f"{layout.type.name}, key {layout.key_size}, value {layout.value_size}, "
        f"{layout.max_entries} entries, flags {layout.flags:#x}"
    )
