"""What the nat cube can be told."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network

from cubelet_hooks import cube

_PRIVILEGED = 1024
_PORTS = 65536


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What sources are translated to. Raises ValueError naming the field that makes no sense.

    The default ports lie below the node ports (30000-32767) and the host's own ephemeral ports
    (32768-60999), so that a reply's port says whose it is.
    """

    first_port: int = 12000
    port_count: int = 18000
    hairpin_address: str = "169.254.1.2"
    """Stands for the sender of what returns to it; routed to the gateway, used by nobody else."""
    exempt: tuple[str, ...] = ()
    """Networks outside the cluster that see pods' own addresses, such as ``10.0.0.0/8``."""
    max_exempt: int = 16384
    """Networks the exempt map holds, every node's podCIDRs among them."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        last = self.first_port + self.port_count - 1
        if self.first_port < _PRIVILEGED:
            raise ValueError(f"first_port must be at least {_PRIVILEGED}, not {self.first_port}")
        if self.port_count < 1 or last >= _PORTS:
            raise ValueError(
                f"port_count: {self.port_count} ports from {self.first_port} on do not exist"
            )
        if self.max_exempt < 1:
            raise ValueError(f"max_exempt must be at least 1, not {self.max_exempt}")
        _check("hairpin_address", ip_address, self.hairpin_address)
        for network in self.exempt:
            _check("exempt", ip_network, network)


def _check(field: str, parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
