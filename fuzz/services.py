"""Services, and who serves them by the API's documentation: no code of a cube is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from cubelet_hooks.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    NetworkPolicy,
    Object,
    Service,
    ServicePort,
)

from .cluster import (
    BALANCER,
    EMPTY,
    EXTERNAL,
    FAR,
    HOSTED,
    LOCAL_ONLY,
    LOCAL_PODS,
    LOOPBACK,
    NODE,
    NODE_PORTS,
    OUTSIDE,
    OUTSIDE_VIRTUAL,
    OWN,
    POD_MACS,
    POD_OF,
    PODS,
    REMOTE_PODS,
    ROUTER_MAC,
    VIRTUAL,
    WEB,
)
from .policies import POLICIES
from .wire import TCP, UDP

ENDPOINTS: Sequence[tuple[str, ...]] = (
    *(("b",), ("b", "c"), ("r",), ("b", "r", "s"), ("c", "t"), ()),
)
"""Alternative backends of the Service ``web``."""
_TWO = tuple(ServicePort(p.lower(), p, 80, 8080) for p in ("TCP", "UDP"))


def _service(name: str, address: int, **fields: object) -> Service:
    given: dict[str, object] = {"ports": _TWO, "cluster_ips": (ip_address(address),), **fields}
    return Service("default", name, **given)  # type: ignore[arg-type]


def _slice(name: str, backends: Sequence[int], port: int = 8080) -> EndpointSlice:
    served = tuple(EndpointPort(each.name, each.protocol, port) for each in _TWO)
    ends = tuple(
        Endpoint((ip_address(b),), node_name="node1" if b in PODS else "node2") for b in backends
    )
    return EndpointSlice("default", f"{name}-1", service=name, endpoints=ends, ports=served)


_NODE_PORT = tuple(ServicePort(p.lower(), p, 80, 8080, 30_080) for p in ("TCP", "UDP"))
_LOCAL_PORT = tuple(ServicePort(p.lower(), p, 81, 8080, 30_081) for p in ("TCP", "UDP"))


def web(endpoints: int) -> EndpointSlice:
    """The slice of ``web`` with one of the alternatives of :data:`ENDPOINTS`."""
    pods = LOCAL_PODS | REMOTE_PODS
    return _slice("web", [pods[name] for name in ENDPOINTS[endpoints]])


def services() -> list[Object]:
    """All Services, ``web`` with its first backends."""
    own = LOCAL_PODS["a"]
    return [
        _service(
            "web",
            WEB,
            type="LoadBalancer",
            ports=_NODE_PORT,
            external_ips=(ip_address(EXTERNAL),),
            load_balancer_ips=(ip_address(BALANCER),),
        ),
        web(0),
        _service(
            "local", LOCAL_ONLY, type="NodePort", ports=_LOCAL_PORT, external_traffic_policy="Local"
        ),
        _slice("local", [LOCAL_PODS["c"], REMOTE_PODS["r"]]),
        _service("own", OWN),
        _slice("own", [own]),
        _service("empty", EMPTY),
        _service("hosted", HOSTED),
        _slice("hosted", [NODE], 6443),
        _service("far", FAR),
        _slice("far", [OUTSIDE[2]]),
    ]


Backends = tuple[tuple[int, int], ...]
Frontend = tuple[int, int, int]
"""Address, port, protocol."""


@dataclass
class Cluster:
    """What is in force: a choice of policies and of backends, and which pods are ``gone``."""

    policy: int = 0
    endpoints: int = 0
    gone: frozenset[str] = frozenset()
    inside: dict[Frontend, Backends] = field(default_factory=dict)
    outside: dict[Frontend, Backends] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.choose(self.endpoints)

    @property
    def policies(self) -> tuple[NetworkPolicy, ...]:
        """Those in force."""
        return POLICIES[self.policy]

    def pod_at(self, address: int) -> str:
        """The pod of this node that has the address; '' if nobody has."""
        pod = POD_OF.get(address, "")
        return "" if pod in self.gone else pod

    def macs(self) -> set[bytes]:
        """Of the router and of the pods that are there."""
        return {ROUTER_MAC, *(mac for pod, mac in POD_MACS.items() if pod not in self.gone)}

    def choose(self, endpoints: int) -> None:
        """Other backends for ``web``."""
        self.endpoints = endpoints
        pods = LOCAL_PODS | REMOTE_PODS
        backends = tuple((pods[name], 8080) for name in ENDPOINTS[endpoints])
        self.inside, self.outside = {}, {}
        for protocol in (TCP, UDP):
            for place in ((EXTERNAL, 80), (BALANCER, 80), (NODE, 30_080)):
                self.inside[*place, protocol] = self.outside[*place, protocol] = backends
            self.inside[WEB, 80, protocol] = backends
            near = ((LOCAL_PODS["c"], 8080), (REMOTE_PODS["r"], 8080))
            self.inside[LOCAL_ONLY, 81, protocol] = self.inside[NODE, 30_081, protocol] = near
            self.outside[NODE, 30_081, protocol] = near[:1]
            self.inside[OWN, 80, protocol] = ((LOCAL_PODS["a"], 8080),)
            self.inside[EMPTY, 80, protocol] = ()
            self.inside[HOSTED, 80, protocol] = ((NODE, 6443),)
            self.inside[FAR, 80, protocol] = ((OUTSIDE[2], 8080),)

    def backends(self, entry: str, dst: int, port: int, protocol: int) -> Backends | None:
        """Who may serve that, for who asks by this port; None: it is nobody's virtual address."""
        if entry == "overlay":  # the sender's node has chosen already
            return None
        if dst in LOOPBACK and entry == "host" and port in NODE_PORTS:
            dst = NODE  # the node asks its own ports by any name
        table = self.outside if entry == "uplink" else self.inside
        found = table.get((dst, port, protocol))
        if found is not None:
            return found
        return () if dst in self._virtual(entry) else None

    @staticmethod
    def _virtual(entry: str) -> frozenset[int]:
        return OUTSIDE_VIRTUAL if entry == "uplink" else VIRTUAL
