"""A CNI call as `cubelet.cni.request` reads it, decoded."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec.structs import fields

from cubelet.cni import errors
from cubelet.cni.errors import CniError
from cubelet.cni.ipam import Key
from cubelet_hooks.objects import HostPort, Protocol


class ValidAttachment(msgspec.Struct, frozen=True):
    """An attachment that GC must keep."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


class PrevIp(msgspec.Struct, frozen=True):
    """An address with its prefix length."""

    address: str


class PrevResult(msgspec.Struct, frozen=True):
    """The result of ADD, which runtimes hand to CHECK."""

    ips: tuple[PrevIp, ...] = ()


class PortMapping(msgspec.Struct, frozen=True):
    """A port of the node for one of the container's, as runtimes write it (CNI conventions).

    ``protocol`` comes in either case, '' is TCP; ``host_ip`` is '' for all the node's addresses.
    A ``host_port`` of 0 or less asks for none, whatever else the mapping says.
    """

    host_port: Annotated[int, msgspec.Meta(le=65535)] = msgspec.field(name="hostPort", default=0)
    container_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = msgspec.field(
        name="containerPort", default=0
    )
    protocol: str = ""
    host_ip: str = msgspec.field(name="hostIP", default="")

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown protocol, a port of 0 or a malformed address."""
        if self.host_port <= 0:
            return
        if not self.container_port:
            raise ValueError("containerPort is 0: it has to be 1 to 65535")
        if (self.protocol or "TCP").upper() not in get_args(Protocol):
            raise ValueError(f"protocol {self.protocol!r} is none of TCP, UDP and SCTP")
        if self.host_ip:
            ip_address(self.host_ip)

    @property
    def decoded(self) -> HostPort:
        """The mapping as cubes see it."""
        return HostPort(
            port=self.host_port,
            container_port=self.container_port,
            protocol=msgspec.convert((self.protocol or "TCP").upper(), Protocol),
            host_ip=ip_address(self.host_ip) if self.host_ip else None,
        )


class RuntimeConfig(msgspec.Struct, frozen=True):
    """What the runtime adds to the configuration for one container."""

    port_mappings: tuple[PortMapping, ...] = msgspec.field(name="portMappings", default=())


class Config(msgspec.Struct, frozen=True):
    """The fields that we read of the network configuration."""

    name: str
    version: str = msgspec.field(name="cniVersion")
    dns: dict[str, Any] = {}
    prev_result: PrevResult | None = msgspec.field(name="prevResult", default=None)
    valid: tuple[ValidAttachment, ...] | None = msgspec.field(
        name="cni.dev/valid-attachments", default=None
    )
    runtime: RuntimeConfig = msgspec.field(name="runtimeConfig", default=RuntimeConfig())


class Args(msgspec.Struct, frozen=True):
    """The fields of CNI_ARGS that Kubernetes runtimes set; empty for other runtimes."""

    namespace: str = msgspec.field(name="K8S_POD_NAMESPACE", default="")
    name: str = msgspec.field(name="K8S_POD_NAME", default="")
    uid: str = msgspec.field(name="K8S_POD_UID", default="")


class Call(msgspec.Struct, frozen=True):
    """One CNI call. `netns` is a path, and may be empty in a DEL."""

    command: Literal["ADD", "DEL", "CHECK", "GC", "STATUS"]
    container_id: str
    netns: str
    ifname: str
    args: Args
    config: Config

    @property
    def key(self) -> Key:
        """Container id and interface name."""
        return (self.container_id, self.ifname)

    @property
    def port_mappings(self) -> tuple[PortMapping, ...]:
        """The mappings that have a host port."""
        return tuple(each for each in self.config.runtime.port_mappings if each.host_port > 0)


NAMES: Final[frozenset[str]] = frozenset(
    each.encode_name
    for struct in (Config, RuntimeConfig, PortMapping, PrevResult, PrevIp, ValidAttachment)
    for each in fields(struct)
)
"""The names of all members that are read, at any depth."""


def decode(params: Mapping[str, Any]) -> Call:
    """The params as a Call. Raises CniError, code 7, for params of another shape."""
    try:
        return msgspec.convert(params, Call)
    except msgspec.ValidationError as error:
        raise CniError(
            errors.INVALID_CONFIG, "the call or its network configuration is not valid", str(error)
        ) from None
