"""A CNI call as the plugin relays it (see `cubelet.cni.request`), decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from cubelet.cni import errors
from cubelet.cni.errors import CniError
from cubelet.cni.ipam import Key


class ValidAttachment(msgspec.Struct, frozen=True):
    """One that garbage collection must keep."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


class PrevIp(msgspec.Struct, frozen=True):
    """An address with its prefix length."""

    address: str


class PrevResult(msgspec.Struct, frozen=True):
    """What ADD answered, for CHECK."""

    ips: tuple[PrevIp, ...] = ()


class Config(msgspec.Struct, frozen=True):
    """What we read of the network configuration."""

    name: str
    version: str = msgspec.field(name="cniVersion")
    dns: dict[str, Any] | None = None
    prev_result: PrevResult | None = msgspec.field(name="prevResult", default=None)
    valid: tuple[ValidAttachment, ...] | None = msgspec.field(
        name="cni.dev/valid-attachments", default=None
    )


class Args(msgspec.Struct, frozen=True):
    """What Kubernetes runtimes say in CNI_ARGS; empty for other runtimes."""

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


def decode(params: Mapping[str, Any]) -> Call:
    """Raises CniError, code 7, for params of another shape."""
    try:
        return msgspec.convert(params, Call)
    except msgspec.ValidationError as error:
        raise CniError(
            errors.INVALID_CONFIG, "the call or its network configuration is not valid", str(error)
        ) from None
