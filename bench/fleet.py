"""A large cluster's objects as an API server serves them, with fields that a network never needs.

Sizes and order of fields follow what a server of version 1.36 answers for a Deployment's pods, a
Service in front of them, and a node with 50 images.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

Manifest = dict[str, Any]
_NAMESPACES = 100
_ZONES = 3
_NODE_PODS = IPv4Network("100.64.0.0/10")
"""Each node has a /24 of this network."""
_NODES = IPv4Network("172.20.0.0/16")
_SERVICES = IPv4Network("10.96.0.0/16")
_IMAGES = [
    {"names": [f"registry.example/image-{n}@sha256:{n:064x}"], "sizeBytes": 10_000_000 + n}
    for n in range(50)
]


class Fleet(NamedTuple):
    """Numbers of objects. Endpoints are spread evenly over Services, and over nodes.

    Pods are those behind the endpoints: none, or as many as endpoints.
    """

    nodes: int
    services: int
    endpoints: int
    pods: int = 0

    @property
    def per_service(self) -> int:
        """Endpoints of one Service."""
        return self.endpoints // self.services


def vip(service: int) -> IPv4Address:
    """The cluster address of a Service."""
    return _SERVICES[service + 256]


def pod_address(fleet: Fleet, number: int, move: int = 0) -> IPv4Address:
    """The address of a pod; another ``move`` gives another address in the same node's range."""
    node, place = number % fleet.nodes, number // fleet.nodes
    return _NODE_PODS[node * 256 + 2 + (place + move) % 250]


def namespaces() -> Iterator[Manifest]:
    """The namespaces of all objects."""
    for number in range(_NAMESPACES):
        name = f"team-{number}"
        yield {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}


def nodes(fleet: Fleet) -> Iterator[Manifest]:
    """Nodes called ``far-N``, without the measured one."""
    for number in range(fleet.nodes):
        cidr = f"{_NODE_PODS[number * 256]}/24"
        name = f"far-{number}"
        conditions = [
            {"type": t, "status": "False", "reason": "KubeletHas", "message": "kubelet has " * 3}
            for t in ("MemoryPressure", "DiskPressure", "PIDPressure")
        ]
        yield {
            "metadata": {
                **_metadata(name, number),
                "labels": {
                    "kubernetes.io/arch": "amd64",
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "node.kubernetes.io/instance-type": "large",
                    "topology.kubernetes.io/zone": f"zone-{number % _ZONES}",
                },
            },
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": str(_NODES[number + 256])},
                    {"type": "Hostname", "address": name},
                ],
                "conditions": conditions,
                "images": _IMAGES,
            },
        }


def services(fleet: Fleet) -> Iterator[Manifest]:
    """Services with one port and a cluster address."""
    for number in range(fleet.services):
        address = str(vip(number))
        yield {
            "metadata": {
                **_metadata(f"app-{number}", number),
                "labels": {"app": f"app-{number}"},
            },
            "spec": {
                "clusterIP": address,
                "clusterIPs": [address],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
                "selector": {"app": f"app-{number}"},
                "sessionAffinity": "None",
                "type": "ClusterIP",
            },
            "status": {"loadBalancer": {}},
        }


def slices(fleet: Fleet) -> Iterator[Manifest]:
    """One EndpointSlice for each Service."""
    return (endpoint_slice(fleet, number) for number in range(fleet.services))


def endpoint_slice(fleet: Fleet, number: int, move: int = 0) -> Manifest:
    """A Service's slice; ``move`` gives its last endpoint another address."""
    first, last = number * fleet.per_service, (number + 1) * fleet.per_service
    endpoints = [
        {
            "addresses": [str(pod_address(fleet, pod, move if pod == last - 1 else 0))],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"far-{pod % fleet.nodes}",
            "targetRef": {
                "kind": "Pod",
                **_named(f"app-{number}-{pod:x}", number),
                "uid": _uid(pod),
            },
            "zone": f"zone-{pod % fleet.nodes % _ZONES}",
        }
        for pod in range(first, last)
    ]
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "addressType": "IPv4",
        "endpoints": endpoints,
        "metadata": {
            **_metadata(f"app-{number}-abcde", number),
            "labels": {
                "app": f"app-{number}",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": f"app-{number}",
            },
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def pods(fleet: Fleet) -> Iterator[Manifest]:
    """The running pods behind the endpoints."""
    for pod in range(fleet.pods):
        number = pod // fleet.per_service
        address = str(pod_address(fleet, pod))
        yield {
            "metadata": {
                **_metadata(f"app-{number}-{pod:x}", number),
                "labels": {"app": f"app-{number}", "pod-template-hash": "5d4f8c7b9d"},
            },
            "spec": {
                "containers": [
                    {
                        "name": "app",
                        "image": "registry.example/app:1",
                        "env": [{"name": f"SETTING_{n}", "value": "x" * 20} for n in range(10)],
                        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                    }
                ],
                "nodeName": f"far-{pod % fleet.nodes}",
                "restartPolicy": "Always",
            },
            "status": {
                "conditions": [
                    {"type": each, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                    for each in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
                ],
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
            },
        }


def _named(name: str, number: int) -> Manifest:
    return {"name": name, "namespace": f"team-{number % _NAMESPACES}"}


def _metadata(name: str, number: int) -> Manifest:
    """Metadata with managedFields, which are as long as the rest."""
    fields: Manifest = {
        f"f:{each}": {".": {}, "f:value": {}} for each in ("labels", "ports", "spec", "type")
    }
    managed = {
        "apiVersion": "v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": fields, "f:spec": fields},
        "manager": "kube-controller-manager",
        "operation": "Update",
        "time": "2026-01-01T00:00:00Z",
    }
    return {**_named(name, number), "uid": _uid(number), "managedFields": [managed]}


def _uid(number: int) -> str:
    return f"1a2b3c4d-5e6f-4a7b-8c9d-{number:012x}"
