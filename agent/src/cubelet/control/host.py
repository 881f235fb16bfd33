"""The host's side of the node: its devices, its routes into the datapath, and the CNI plugin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

import structlog
from msgspec import structs

from cubelet.cni.conf import write_conflist
from cubelet.cni.install import install_plugin
from cubelet.composer.core import CoreSettings
from cubelet.config.node import Settings
from cubelet.config.setup import Setup
from cubelet.control.problems import Problems
from cubelet.net import NetError, sysctl
from cubelet.net.node import NodeSettings, Remembered, ensure, remember
from cubelet.net.routes import free, sync_routes
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.addresses import API_SERVICE, Standing, holding
from cubelet_hooks.cube import Complaint
from cubelet_hooks.objects import (
    Address,
    Change,
    EndpointSlice,
    LocalNode,
    Network,
    Node,
    Service,
)

ApiServers = tuple[tuple[str, int], ...]
"""Where the API server was reached last, as it is remembered."""

log = structlog.get_logger()
_KINDS = frozenset({Node.kind, Service.kind, LocalNode.kind})


def free_way(addresses: Iterable[Address]) -> None:
    """Remove the routes of ours to these addresses, which have to be reached. Blocks."""
    try:
        removed = free(addresses)
    except (NetError, OSError) as error:
        log.warning("cannot look for routes in the way", error=str(error))
        return
    if removed:
        log.warning("route removed that was in the way", networks=[*map(str, removed)])


def concerns(change: Change) -> bool:
    """Whether a change may alter devices or routes."""
    return change.kind in _KINDS or (change.kind, change.key) == (EndpointSlice.kind, API_SERVICE)


class HostNetwork:
    """Sets up the host; its problems have the places ``node``, ``routes`` and ``cni``."""

    def __init__(
        self, settings: Settings, state: State, memory: Memory, problems: Problems
    ) -> None:
        self._settings = settings
        self._state = state
        self._memory = memory
        self._problems = problems
        self._api_servers: ApiServers = ()
        self._left: Remembered | None = None
        self.complaints: frozenset[Complaint] = frozenset()
        """What the host is not to reach through the datapath though Services ask for it."""

    @property
    def outdated(self) -> bool:
        """Whether the API server is somewhere else than the devices were last set up for."""
        return self._api_servers != self._memory.known.api_servers

    def astray(self) -> bool:
        """Whether kernel settings have changed since the devices were last set up.

        Of most of them the kernel tells nobody. May be called at any time, on any thread.
        """
        left = self._left
        return left is not None and sysctl.values(left.settings) != left.settings

    def ensure_devices(self, setup: Setup | None, complete: bool) -> list[Change]:
        """Set up the node's devices; the change of LocalNode that follows, if any.

        If the source could not read everything (not ``complete``), a Node object that is missing
        is taken from the memory of the last run.
        """
        settings, core = self._settings, setup.core.settings if setup else CoreSettings()
        node = self._state.nodes.get(settings.name)
        if node is None and not complete:
            node = self._memory.known.node(settings.name)
        if node is None or not node.pod_cidrs:
            self._problems.note("node", f"Node {settings.name} is unknown or has no podCIDR yet")
            return []
        try:
            wanted = NodeSettings(
                node_name=node.name,
                pod_cidr=node.pod_cidrs[0],
                snat_ports=(core.snat_first_port, core.snat_last_port),
                addresses=node.addresses,
                gateway=settings.gateway,
                overlay=settings.overlay,
                uplink=settings.uplink,
                vxlan_port=settings.vxlan_port,
            )
            local = ensure(wanted, self._left)
            self._left = remember(wanted, local)
            self._memory.remember_node(node)
        except NetError as error:
            self._problems.note("node", str(error))
            return []
        self._problems.note("node", "")
        self._api_servers = self._memory.known.api_servers
        local = structs.replace(
            local,
            api_servers=tuple((ip_address(each), port) for each, port in self._api_servers),
            service_cidrs=setup.service_cidrs if setup else (),
        )
        change = self._state.apply(Change.between(self._state.local, local))
        return [change] if change else []

    def route(self, setup: Setup, local: LocalNode, remove: bool) -> None:
        """Route the host's packets to pods and Services into the datapath.

        With ``remove``, routes that are no longer wanted are deleted.
        """
        asked = {ip_network(address): address for address in self._free()}
        spared = {*self._needed(setup, local), *local.next_hops}
        report = sync_routes(self._networks(setup, asked), local, remove, spared)
        complaints = [
            each
            for refused in report.refused
            if refused.network in asked
            for each in self._complaints(asked[refused.network], refused.reason)
        ]
        told = [r for r in report.refused if r.network not in asked]
        self._problems.note("routes", "; ".join(f"{r.network}: {r.reason}" for r in told))
        self.complaints = frozenset(complaints)

    def _needed(self, setup: Setup, local: LocalNode) -> Iterator[Address]:
        """Where the API server is, unless it is reached through its Service, that is by us."""
        for address, _ in local.api_servers:
            services = self._state.services_at(address)
            known = API_SERVICE in self._state.services
            ranged = any(address in cidr for cidr in setup.service_cidrs)
            if not any(address in each.cluster_ips for each in services) and (known or not ranged):
                yield address

    def _free(self) -> Iterator[Address]:
        """The addresses that Services name and that are nobody's but theirs."""
        for service in self._state.exposed_services():
            for address in service.exposed_ips:
                if holding(address, self._state).standing is Standing.FREE:
                    yield address

    def _complaints(self, address: Address, reason: str) -> Iterator[Complaint]:
        text = (
            f"nodes' own processes do not reach {address} through the datapath: {reason}; "
            "remedy: name an address that nobody routes, or remove that route"
        )
        for service in self._state.services_at(address):
            yield Complaint(Service.kind, service.key, "RouteRefused", text)

    def _networks(self, setup: Setup, asked: Iterable[Network]) -> Iterable[Network]:
        """What the host reaches through the datapath: pods, Services, the hairpin address.

        Of the addresses that Services name, those that are ``asked`` for.
        """
        networks = {cidr for node in self._state.nodes.values() for cidr in node.pod_cidrs}
        networks |= set(setup.service_cidrs)
        networks |= {local.pod_cidr} if (local := self._state.local) else set()
        networks.add(ip_network(setup.core.settings.hairpin(setup.core.family)))
        networks |= set(asked)
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
