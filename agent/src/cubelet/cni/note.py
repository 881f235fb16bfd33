"""What stands in the alias of a pod's host-side device: enough to know the pod without its record.

The words are those of an attachment that the kernel does not tell otherwise, the weightiest first;
an alias has room for 255 bytes, so the last ones may be missing:

    cubelet pod ADDRESS/LENGTH ROUTE-MTU INTERFACE CONTAINER NAMESPACE/NAME UID NETNS PORTS NETWORK

A word that says nothing is `-`. Ports are written as `8080:80/tcp@192.0.2.1`, joined by commas.
"""

from __future__ import annotations

from ipaddress import ip_interface
from typing import Final

from cubelet.cni.attachments import Attachment
from cubelet.cni.call import PortMapping
from cubelet.net import pods
from cubelet.net.pods import PodLink
from cubelet.net.rtnl import Link

_ROLE: Final = "cubelet pod"
_MOST: Final = 255
_LEAST: Final = 5
"""Words without which nobody can say whose the device is."""
_NOTHING: Final = "-"


def write_note(attachment: Attachment) -> str:
    """The alias of an attachment's device."""
    link = attachment.link
    words = (
        f"{link.address}/{link.prefix_length}",
        str(link.route_mtu),
        link.ifname,
        attachment.container_id,
        f"{attachment.namespace}/{attachment.name}",
        attachment.uid,
        link.netns,
        ",".join(map(_write_port, attachment.port_mappings)),
        attachment.network,
    )
    note = _ROLE
    for word in words:
        longer = f"{note} {word or _NOTHING}"
        if len(longer.encode()) > _MOST or any(c.isspace() for c in word):
            break
        note = longer
    return note


def read_note(device: Link) -> Attachment | None:
    """The attachment that a device's alias tells; None if it does not tell enough, or another's."""
    role, _, rest = device.alias.partition(f"{_ROLE} ")
    words = ["" if word == _NOTHING else word for word in rest.split(" ")]
    if role or len(words) < _LEAST:
        return None
    address, route_mtu, ifname, container_id, pod = words[:_LEAST]
    uid, netns, ports, network = (*words[_LEAST:], "", "", "", "")[:4]
    namespace, slash, name = pod.partition("/")
    if not slash or pods.host_ifname(container_id, ifname) != device.name:
        return None
    try:
        interface = ip_interface(address)
        link = PodLink(
            netns=netns,
            ifname=ifname,
            mac=pods.mac_of(interface.ip),
            host_ifname=device.name,
            host_mac=pods.host_mac(container_id, ifname),
            address=str(interface.ip),
            prefix_length=interface.network.prefixlen,
            gateway=str(interface.network.network_address + 1),
            mtu=device.mtu,
            route_mtu=int(route_mtu),
        )
        mappings = tuple(map(_read_port, ports.split(","))) if ports else ()
    except ValueError:
        return None
    return Attachment(
        network, container_id, namespace, name, uid, device.index, link, port_mappings=mappings
    )


def _write_port(mapping: PortMapping) -> str:
    protocol = (mapping.protocol or "tcp").lower()
    port = f"{mapping.host_port}:{mapping.container_port}/{protocol}"
    return f"{port}@{mapping.host_ip}" if mapping.host_ip else port


def _read_port(text: str) -> PortMapping:
    ports, _, rest = text.partition("/")
    host_port, _, container_port = ports.partition(":")
    protocol, _, host_ip = rest.partition("@")
    return PortMapping(int(host_port), int(container_port), protocol, host_ip)
