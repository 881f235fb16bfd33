"""Pod addresses from the node's podCIDR.

The network's first address (the gateway) and, for IPv4, the network and broadcast addresses are
never given out. All state is in one small file, replaced atomically: after a crash, a call has
either taken full effect or none. An address is given out only once that is on disk; it is taken
back even if the disk is full, and the file follows with the next call.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import structlog

from cubelet.cni import errors, files
from cubelet.cni.errors import CniError
from cubelet_hooks.objects import Address, Network

log = structlog.get_logger(__name__)

# Addresses freed lately are given out last, so that clients of the old pod do not reach a new one.
# The list is bounded, as it is written with every call.
_REMEMBERED = 256

Key = tuple[str, str]
"""Container id and interface name, which hold an address."""


class Lease(msgspec.Struct, frozen=True):
    """An address in use."""

    address: str
    container_id: str
    ifname: str

    @property
    def key(self) -> Key:
        """The holder's container id and interface name."""
        return (self.container_id, self.ifname)


class _Book(msgspec.Struct, frozen=True):
    """The file. `last`: the latest address given out in order; `released`: oldest first."""

    pod_cidr: str
    last: str = ""
    leases: tuple[Lease, ...] = ()
    released: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for what is no address, and for one that two hold."""
        if self.pod_cidr:
            ip_network(self.pod_cidr)
        leased = [lease.address for lease in self.leases]
        for address in (*leased, *self.released, *filter(None, [self.last])):
            ip_address(address)
        if len(set(leased)) < len(leased):
            raise ValueError("two containers hold one address")


class Ipam:
    """Gives out addresses and takes them back; safe to call from several threads.

    `path` is the file; one that cannot be read is put aside, see :meth:`restore`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._book = _read(path)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All addresses in use, in the order they were given out."""
        return self._book.leases

    def allocate(self, pod_cidr: Network, key: Key, requested: Address | None = None) -> Address:
        """The address of `key`: the one it holds, else `requested`, else the next free one.

        Raises CniError: 101 when none is free, 102 when `requested` cannot be had, 103 when
        addresses of another podCIDR are in use, 5 when the file cannot be written.
        """
        with self._lock:
            book = _adopt(self._book, pod_cidr)
            held = next((lease for lease in book.leases if lease.key == key), None)
            if held is not None:
                return ip_address(held.address)
            if requested is None:
                address = _next(book, pod_cidr)
                book = msgspec.structs.replace(book, last=str(address))
            else:
                address = _check_requested(book, pod_cidr, requested)
            self._write(
                msgspec.structs.replace(
                    book,
                    leases=(*book.leases, Lease(str(address), *key)),
                    released=tuple(a for a in book.released if a != str(address)),
                )
            )
            return address

    def release(self, key: Key) -> Address | None:
        """Take back the address of `key`; None if it holds none."""
        with self._lock:
            freed = next((lease for lease in self._book.leases if lease.key == key), None)
            if freed is None:
                return None
            self._keep(
                msgspec.structs.replace(
                    self._book,
                    leases=tuple(lease for lease in self._book.leases if lease != freed),
                    released=(*self._book.released, freed.address)[-_REMEMBERED:],
                )
            )
            return ip_address(freed.address)

    def restore(self, held: Mapping[Key, Address], pod_cidr: Network | None) -> None:
        """Make the leases those in `held`, whatever the file says; at an agent's start.

        `pod_cidr` is the network that the addresses are of, None for none: then it stays.
        """
        with self._lock:
            wanted = {Lease(str(address), *key) for key, address in held.items()}
            kept = tuple(lease for lease in self._book.leases if lease in wanted)
            if len(kept) == len(wanted) == len(self._book.leases):
                return
            gone = [lease.address for lease in self._book.leases if lease not in wanted]
            taken = {lease.address for lease in wanted}
            self._keep(
                msgspec.structs.replace(
                    self._book,
                    pod_cidr=str(pod_cidr or self._book.pod_cidr),
                    leases=(*kept, *sorted(wanted.difference(kept), key=lambda each: each.key)),
                    released=tuple(a for a in (*self._book.released, *gone) if a not in taken),
                )
            )

    def _keep(self, book: _Book) -> None:
        """Take over a book that is right even if it cannot be written."""
        try:
            self._write(book)
        except CniError as error:
            log.error("addresses are taken back in memory alone", why=str(error))
            self._book = book

    def _write(self, book: _Book) -> None:
        try:
            files.write_atomic(self._path, msgspec.json.encode(book))
        except OSError as error:
            raise CniError(errors.IO_FAILURE, f"cannot write {self._path}", str(error)) from error
        self._book = book


def _read(path: Path) -> _Book:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Book)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        files.put_aside(path, error)
    return _Book("")


def _adopt(book: _Book, pod_cidr: Network) -> _Book:
    """The book for `pod_cidr`: a new one if the podCIDR changed while no address was in use."""
    if book.pod_cidr == str(pod_cidr):
        return book
    if book.leases:
        raise CniError(
            errors.POD_CIDR_CHANGED,
            f"the node's podCIDR changed from {book.pod_cidr} to {pod_cidr} "
            f"while {len(book.leases)} addresses of the old one are in use",
            "remove the pods of this node, or give the node its old podCIDR again",
        )
    return _Book(pod_cidr=str(pod_cidr))


def _bounds(pod_cidr: Network) -> tuple[int, int]:
    """The first and last address for pods, as numbers; first > last if there is none."""
    last = int(pod_cidr.broadcast_address)
    return int(pod_cidr.network_address) + 2, last - 1 if pod_cidr.version == 4 else last


def _next(book: _Book, pod_cidr: Network) -> Address:
    first, last = _bounds(pod_cidr)
    size = max(0, last - first + 1)
    taken = {int(ip_address(lease.address)) for lease in book.leases}
    waiting = {int(ip_address(address)) for address in book.released}
    start = int(ip_address(book.last)) + 1 if book.last else first
    # Try one candidate more than are taken or waiting: one of them is free, unless none is left.
    for step in range(min(size, len(taken) + len(waiting) + 1)):
        candidate = first + (start - first + step) % size
        if candidate not in taken and candidate not in waiting:
            return pod_cidr.network_address + (candidate - int(pod_cidr.network_address))
    if book.released:
        return ip_address(book.released[0])
    raise CniError(
        errors.ADDRESSES_EXHAUSTED,
        f"all {size} pod addresses of podCIDR {pod_cidr} are in use",
        "remove pods from this node, or give it a larger podCIDR",
    )


def _check_requested(book: _Book, pod_cidr: Network, requested: Address) -> Address:
    first, last = _bounds(pod_cidr)
    if requested.version != pod_cidr.version or not first <= int(requested) <= last:
        raise CniError(
            errors.ADDRESS_UNAVAILABLE,
            f"address {requested} is not one for pods of podCIDR {pod_cidr}",
        )
    for lease in book.leases:
        if lease.address == str(requested):
            raise CniError(
                errors.ADDRESS_UNAVAILABLE,
                f"address {requested} is in use",
                f"by interface {lease.ifname} of container {lease.container_id}",
            )
    return requested
