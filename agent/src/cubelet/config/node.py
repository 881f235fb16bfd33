"""The agent's settings: one YAML file, checked as a whole before anything is touched."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from cubelet.composer.composition import Chain


class SettingsError(Exception):
    """The settings file is wrong; the text names the file, the key and the remedy."""


ServerURL = Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s]+/?$")]
"""``https://HOST:PORT`` of an API server."""


class KubernetesSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the API server is reached, with ``source: kubernetes``.

    Without ``kubeconfig`` the pod's own service account is used. ``api_servers`` are URLs that
    replace the one given there, tried in their order and again: the agent must reach an API server
    before any Service works. Lists are
    requested in pages of ``page_size`` objects. A watch that receives nothing for
    ``idle_seconds`` is considered dead; servers send a bookmark about once a minute.
    ``config_map`` (namespace/name) holds the cluster-wide configuration.
    """

    kubeconfig: Path | None = None
    api_servers: tuple[ServerURL, ...] = ()
    page_size: Annotated[int, msgspec.Meta(ge=1)] = 500
    idle_seconds: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    config_map: str = "kube-system/cubelet"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of an agent. Its paths are settings, so that agents can run side by side.

    ``source`` says where objects come from: the folder ``manifests``, which is watched, or the API
    server (``kubernetes``). ``cubes`` holds each cube's settings by kind, ``core``
    those of the core (sizes, timeouts, port ranges). ``chain`` replaces the default composition.
    ``service_cidrs`` are routed from the host into the datapath. ``sweep_seconds`` is how often
    idle flows are removed, ``linger_seconds`` how long a cube stays composed after it is no longer
    needed. ``cni_bin`` and ``cni_conf`` are where the CNI plugin and its network configuration are
    put (None: nowhere). ``health`` is the ADDRESS:PORT of ``/livez`` and ``/readyz``, ``metrics``
    that of ``/metrics`` (None: not served). The node's addresses within ``health_check_networks``
    serve the ``healthCheckNodePort`` of Services.
    """

    node_name: str = ""
    source: Literal["manifests", "kubernetes"] = "manifests"
    manifests: Path = Path("/etc/cubelet/manifests")
    kubernetes: KubernetesSettings = KubernetesSettings()
    socket: Path = Path("/run/cubelet/agent.sock")
    state_dir: Path = Path("/var/lib/cubelet")
    cache_dir: Path = Path("/var/cache/cubelet")
    bpffs: Path = Path("/sys/fs/bpf/cubelet")
    cni_bin: Path | None = Path("/opt/cni/bin")
    cni_conf: Path | None = Path("/etc/cni/net.d/10-cubelet.conflist")
    health: str | None = None
    metrics: str | None = None
    health_check_networks: tuple[IPv4Network, ...] = (IPv4Network("0.0.0.0/0"),)
    composition: Literal["fused", "tailcall"] = "fused"
    chain: Chain | None = None
    core: Mapping[str, Any] = {}
    cubes: Mapping[str, Mapping[str, Any]] = {}
    uplink: str | None = None
    gateway: str = "cubelet0"
    overlay: str = "cubelet-vxlan"
    vxlan_port: int = 4789
    service_cidrs: tuple[IPv4Network, ...] = (IPv4Network("10.96.0.0/12"),)
    attach_timeout: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    sweep_seconds: Annotated[float, msgspec.Meta(ge=0.1)] = 5.0
    linger_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0

    @property
    def name(self) -> str:
        """The node's name: as set here, else by NODE_NAME, else the host's own.

        A DaemonSet has one file for all nodes, so there the environment tells them apart.
        """
        return self.node_name or os.environ.get("NODE_NAME") or socket.gethostname()


def load(path: Path | None) -> Settings:
    """Read settings from a YAML file; None gives the defaults. Raises SettingsError."""
    if path is None:
        return Settings()
    try:
        return parse(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is no text in UTF-8") from error
    except (yaml.YAMLError, SettingsError) as error:
        raise SettingsError(f"{path}: {error}") from error


def parse(values: object) -> Settings:
    """Settings from plain values. Raises SettingsError naming the key."""
    try:
        return msgspec.convert(values, Settings, dec_hook=decode_text)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from error


def decode_text(wanted: type[Path | IPv4Network], value: object) -> object:
    """Decode a text to a type that msgspec does not know: a path or a network."""
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r}")
    return wanted(value)
