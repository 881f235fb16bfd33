"""The cluster-wide configuration of all agents' compositions, from one ConfigMap.

It is a ConfigMap rather than an API type of our own: agents need not wait for a registration, RBAC
can name it, and a manifests folder can hold it as plain YAML. It is checked by the same models as
the settings file, against the installed cubes, which no schema in the API server could know.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any, Literal

import msgspec
import yaml

from cubelet.config.node import SettingsError, decode_text
from cubelet_hooks.cube import PORT_CLASSES, Direction
from cubelet_hooks.objects import ConfigMap

KEY = "config.yaml"
"""The ConfigMap's key that holds the configuration."""


class Insert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A further cube on the stacks of ``ports`` (port classes; empty: its own ``placement``).

    ``before`` and ``after`` name cubes of those stacks, as listed from the port inward.
    ``name`` tells a second instance of a kind from the first, such as ``policer1``.
    """

    cube: str
    ports: tuple[str, ...] = ()
    direction: Direction = "both"
    before: str | tuple[str, ...] = ()
    after: str | tuple[str, ...] = ()
    name: str = ""
    settings: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        """Check ports and places. Raises ValueError."""
        unknown = sorted(set(self.ports) - set(PORT_CLASSES))
        if unknown:
            raise ValueError(f"ports: {', '.join(unknown)} is none of {', '.join(PORT_CLASSES)}")
        if not self.ports and (self.before or self.after or self.direction != "both"):
            raise ValueError(f"ports: needed where {self.cube} is placed by anything else")
        stem = self.name.rstrip("0123456789")
        if self.name and (stem != self.cube or self.name == self.cube):
            raise ValueError(f"name: {self.name} must be {self.cube} and a number")

    @property
    def instance(self) -> str:
        """The instance's name."""
        return self.name or f"{self.cube}0"


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the whole cluster, which win over those of a node's own file.

    ``core`` and ``cubes`` are merged key by key. ``insert`` adds cubes to the chain; ``exclude``
    names kinds that are left out of all stacks.
    """

    composition: Literal["fused", "tailcall"] | None = None
    core: Mapping[str, Any] = {}
    cubes: Mapping[str, Mapping[str, Any]] = {}
    insert: tuple[Insert, ...] = ()
    exclude: tuple[str, ...] = ()
    service_cidrs: tuple[IPv4Network, ...] | None = None


def read_config(found: ConfigMap | None) -> ClusterConfig:
    """The configuration in a ConfigMap; the default without one. Raises SettingsError."""
    if found is None:
        return ClusterConfig()
    unknown = sorted(found.data.keys() - {KEY})
    if unknown or not found.data:
        had = ", ".join(unknown) or "nothing"
        raise SettingsError(f"ConfigMap {found.key}: data must have {KEY} alone, has {had}")
    try:
        return parse_config(found.data[KEY])
    except SettingsError as error:
        raise SettingsError(f"ConfigMap {found.key}: {KEY}: {error}") from error


def parse_config(text: str) -> ClusterConfig:
    """The configuration from its YAML. Raises SettingsError naming the key or the line."""
    try:
        values = yaml.safe_load(text) or {}
        return msgspec.convert(values, ClusterConfig, dec_hook=decode_text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: msgspec's, PyYAML's for scalars
        raise SettingsError(str(error)) from error
    except RecursionError as error:
        raise SettingsError("is nested too deeply") from error
