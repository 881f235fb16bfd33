"""The settings of the nat cube."""

from __future__ import annotations

from ipaddress import ip_network

from cubelet_hooks import cube


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Exemptions from masquerading. Raises ValueError naming a field with a bad value."""

    exempt: tuple[str, ...] = ()
    """Networks outside the cluster that see pods' own addresses, such as ``10.0.0.0/8``."""
    max_exempt: int = 16384
    """Networks the exempt map holds, every node's podCIDRs among them."""

    def __post_init__(self) -> None:
        """Check constraints beyond the types."""
        if self.max_exempt < 1:
            raise ValueError(f"max_exempt must be at least 1, not {self.max_exempt}")
        for network in self.exempt:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"exempt: {error}") from error
