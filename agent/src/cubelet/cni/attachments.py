"""Records the agent's attachments on disk, one file each, for the next start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import msgspec
import structlog

from cubelet.cni import errors, files
from cubelet.cni.call import Call, PortMapping
from cubelet.cni.errors import CniError
from cubelet.cni.ipam import Key
from cubelet.net import pods
from cubelet.net.pods import PodLink
from cubelet_hooks.objects import Address, LocalNode, Port

log = structlog.get_logger(__name__)


class Attachment(msgspec.Struct, frozen=True):
    """A pod's interface that was added and not deleted. `ifindex` is the host side's.

    Records of earlier releases lack the fields that have a default.
    """

    network: str
    container_id: str
    namespace: str
    name: str
    uid: str
    ifindex: int
    link: PodLink
    port_mappings: tuple[PortMapping, ...] = ()

    @classmethod
    def of(cls, call: Call, link: PodLink, ifindex: int) -> Attachment:
        """The attachment of an ADD. If the call names no pod, the container's id is the name."""
        return cls(
            network=call.config.name,
            container_id=call.container_id,
            namespace=call.args.namespace,
            name=call.args.name or call.container_id,
            uid=call.args.uid,
            ifindex=ifindex,
            link=link,
            port_mappings=call.port_mappings,
        )

    @property
    def key(self) -> Key:
        """Container id and interface name."""
        return (self.container_id, self.link.ifname)

    @property
    def port(self) -> Port:
        """The attachment as cubes see it."""
        link = self.link
        return Port(
            namespace=self.namespace,
            name=self.name,
            container_id=self.container_id,
            ifname=link.ifname,
            netns=link.netns,
            host_ifname=link.host_ifname,
            ifindex=self.ifindex,
            mac=link.mac,
            host_mac=link.host_mac,
            addresses=(ip_address(link.address),),
            mtu=link.mtu,
            uid=self.uid,
            host_ports=tuple(each.decoded for each in self.port_mappings),
        )


def plan_link(call: Call, local: LocalNode, address: Address) -> PodLink:
    """The veth pair that an ADD is to make."""
    return PodLink(
        netns=call.netns,
        ifname=call.ifname,
        mac=pods.mac_of(address),
        host_ifname=pods.host_ifname(*call.key),
        host_mac=pods.host_mac(*call.key),
        address=str(address),
        prefix_length=local.pod_cidr.prefixlen,
        gateway=str(local.gateway),
        mtu=local.uplink_mtu,
        route_mtu=local.overlay_mtu,
    )


class AttachmentStore:
    """The attachments in `directory`, each in a file named for its host-side interface.

    Reads the directory once; only one process may use it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._attachments: dict[Key, Attachment] = {}
        if os.path.lexists(directory) and not directory.is_dir():
            files.put_aside(directory, "it is no folder")
        for path in directory.glob(f".*{files.TEMPORARY_SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()  # a write that a crash cut short; its container may never come again
        for path in sorted(directory.glob("*.json")):
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            attachment = msgspec.json.decode(path.read_bytes(), type=Attachment)
            if not path.stem == attachment.port.host_ifname == pods.host_ifname(*attachment.key):
                raise ValueError(f"it is that of {attachment.link.host_ifname}")
        except (OSError, ValueError, RecursionError) as error:
            files.put_aside(path, error)
        else:
            self._attachments[attachment.key] = attachment

    def __iter__(self) -> Iterator[Attachment]:
        return iter(tuple(self._attachments.values()))

    def get(self, key: Key) -> Attachment | None:
        """The attachment of a container's interface."""
        return self._attachments.get(key)

    @property
    def host_ifnames(self) -> set[str]:
        """The host-side interfaces of all attachments."""
        return {a.link.host_ifname for a in self._attachments.values()}

    def save(self, attachment: Attachment) -> None:
        """Record, durably. Raises CniError, code 5."""
        path = self._path(attachment.key)
        try:
            files.write_atomic(path, msgspec.json.encode(attachment))
        except OSError as error:
            raise CniError(errors.IO_FAILURE, f"cannot write {path}", str(error)) from error
        self._attachments[attachment.key] = attachment

    def adopt(self, attachment: Attachment) -> None:
        """Know an attachment whose record was lost, and record it if the disk lets us."""
        try:
            self.save(attachment)
        except CniError as error:
            log.error("an attachment has no record", port=attachment.port.key, why=str(error))
            self._attachments[attachment.key] = attachment

    def forget(self, key: Key) -> None:
        """Remove the record of an attachment; none is fine.

        A record that stays for an error of the disk is one without a device at the next start.
        """
        path = self._path(key)
        try:
            files.remove(path)
        except OSError as error:
            log.error("the record of a deleted pod stays", path=str(path), error=str(error))
        self._attachments.pop(key, None)

    def _path(self, key: Key) -> Path:
        return self._directory / f"{pods.host_ifname(*key)}.json"
