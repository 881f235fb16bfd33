"""What an agent finds when it starts: records, addresses in use and devices, made to agree.

Any of the three may be damaged or missing: a record is put together again from its device's alias,
addresses from the records, and what has no device any more is forgotten. Blocks.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import structlog

from cubelet.cni.attachments import Attachment, AttachmentStore
from cubelet.cni.deletions import Deletions
from cubelet.cni.ipam import Ipam, Key
from cubelet.cni.note import read_note, write_note
from cubelet.cni.protocols import Wiring
from cubelet.net import NetError
from cubelet.net.pods import host_ifname
from cubelet.net.rtnl import Link
from cubelet_hooks.objects import Address

log = structlog.get_logger(__name__)


def restore(store: AttachmentStore, ipam: Ipam, wiring: Wiring, deletions: Deletions) -> None:
    """Leave in `store` and `ipam` the attachments whose devices are there, and their addresses.

    Raises NetError if devices cannot be listed; one that cannot be removed is told and stays.
    """
    for key in deletions.pending():
        if _unwire(wiring, host_ifname(*key)):
            log.info("made good a deletion", container=key[0], interface=key[1])
            store.forget(key)
            deletions.forget(key)
    wired = dict(wiring.list_wired())
    _forget_gone(store, wired, wiring)
    # ADD writes the record before it sets the device up: one that is up served a pod, and one
    # that is not belongs to an ADD that a crash cut short.
    unknown = [link for name, link in wired.items() if name not in store.host_ifnames]
    strange = {link.name for link in unknown if link.up and not _adopt(store, link)}
    for link in unknown:
        if not link.up:
            _unwire(wiring, link.name)
    for attachment in store:
        _annotate(wiring, wired[attachment.link.host_ifname], attachment)
    held: dict[Key, Address] = {
        lease.key: ip_address(lease.address)
        for lease in ipam.leases
        if host_ifname(*lease.key) in strange
    }
    held |= {each.key: ip_address(each.link.address) for each in store}
    networks = {
        ip_network(f"{each.link.address}/{each.link.prefix_length}", strict=False) for each in store
    }
    ipam.restore(held, networks.pop() if len(networks) == 1 else None)


def _forget_gone(store: AttachmentStore, wired: dict[str, Link], wiring: Wiring) -> None:
    """Forget attachments whose device is gone, or another of that name: after a reboot, say."""
    for attachment in store:
        name = attachment.link.host_ifname
        found = wired.get(name)
        if found is not None and found.index == attachment.ifindex:
            continue
        log.info("attachment is gone", port=attachment.port.key)
        store.forget(attachment.key)
        if found is None or not found.up or read_note(found) is None:
            wired.pop(name, None)
            _unwire(wiring, name)


def _adopt(store: AttachmentStore, link: Link) -> bool:
    """Put a lost record together from its device; False if the device does not tell enough."""
    attachment = read_note(link)
    if attachment is None:
        log.warning("device of an unknown pod is left alone", device=link.name)
        return False
    log.warning("a pod's record was lost and is restored", port=attachment.port.key)
    store.adopt(attachment)
    return True


def _annotate(wiring: Wiring, link: Link, attachment: Attachment) -> None:
    note = write_note(attachment)
    if link.alias != note:
        try:
            wiring.annotate(link.name, note)
        except NetError as error:
            log.warning("a device does not say whose it is", device=link.name, error=str(error))


def _unwire(wiring: Wiring, name: str) -> bool:
    try:
        wiring.unwire(name)
    except NetError as error:
        log.error("cannot remove a device", device=name, error=str(error))
        return False
    return True
