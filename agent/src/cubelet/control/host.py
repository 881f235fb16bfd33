"""The host's side of the node: its devices, its routes into the datapath, and the CNI plugin."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cubelet.cni.conf import write_conflist
from cubelet.cni.install import install_plugin
from cubelet.composer.core import CoreSettings
from cubelet.config.node import Settings
from cubelet.config.setup import Setup
from cubelet.control.problems import Problems
from cubelet.net import NetError
from cubelet.net.node import NodeSettings, ensure
from cubelet.net.routes import sync_routes
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.objects import Change, LocalNode, Network, Node, Service

NODE_KINDS = frozenset({Node.kind, Service.kind, LocalNode.kind})
"""Kinds whose changes may alter devices or routes."""


class HostNetwork:
    """Sets up what the host needs; problems are of the places ``node``, ``routes`` and ``cni``."""

    def __init__(
        self, settings: Settings, state: State, memory: Memory, problems: Problems
    ) -> None:
        self._settings = settings
        self._state = state
        self._memory = memory
        self._problems = problems

    def ensure_devices(self, core: CoreSettings, complete: bool) -> list[Change]:
        """Set up the node's devices; the change of LocalNode that follows, if any.

        Unless all is known (``complete``) the node is as it was known last.
        """
        settings = self._settings
        node = self._state.nodes.get(settings.name)
        if node is None and not complete:
            node = self._memory.known.node(settings.name)
        if node is None or not node.pod_cidrs:
            self._problems.note("node", f"Node {settings.name} is unknown or has no podCIDR yet")
            return []
        try:
            local = ensure(
                NodeSettings(
                    node_name=node.name,
                    pod_cidr=node.pod_cidrs[0],
                    snat_ports=(core.snat_first_port, core.snat_last_port),
                    addresses=node.addresses,
                    gateway=settings.gateway,
                    overlay=settings.overlay,
                    uplink=settings.uplink,
                    vxlan_port=settings.vxlan_port,
                )
            )
            self._memory.remember_node(node)
        except NetError as error:
            self._problems.note("node", str(error))
            return []
        self._problems.note("node", "")
        change = self._state.apply(Change.between(self._state.local, local))
        return [change] if change else []

    def route(self, setup: Setup, local: LocalNode, remove: bool) -> None:
        """Have the host reach pods and Services through the datapath.

        Routes that are wanted no more go, unless not all is known (``remove``).
        """
        report = sync_routes(self._networks(setup), local, remove)
        refused = "; ".join(f"{r.network}: {r.reason}" for r in report.refused)
        self._problems.note("routes", refused)

    def _networks(self, setup: Setup) -> Iterable[Network]:
        """What the host reaches through the datapath: pods, Services, the hairpin address."""
        networks = {cidr for node in self._state.nodes.values() for cidr in node.pod_cidrs}
        networks |= set(setup.service_cidrs)
        networks |= {local.pod_cidr} if (local := self._state.local) else set()
        networks.add(ipaddress.ip_network(setup.core.settings.hairpin_address))
        for service in self._state.services.values():
            addresses = (*service.external_ips, *service.load_balancer_ips)
            networks |= {ipaddress.ip_network(address) for address in addresses}
        return [network for network in networks if network.version == setup.core.family]

    def announce(self) -> None:
        """Let the runtime send pods here: the plugin first, then the list that names it."""
        settings = self._settings
        try:
            if settings.cni_bin is not None:
                install_plugin(settings.cni_bin, settings.cache_dir)
            if settings.cni_conf is not None:
                write_conflist(settings.cni_conf, settings.socket)
        except OSError as error:
            self._problems.note("cni", str(error))
        else:
            self._problems.note("cni", "")
