"""Decoding of plain Kubernetes documents: defaults as in the API, and errors that say where."""

from __future__ import annotations

import contextlib
import copy
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubelet.sources.decode import ObjectError, decode
from cubelet_hooks.objects import (
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Service,
    ServicePort,
)

Document = dict[str, Any]

NODE: Document = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1", "labels": {"zone": "a"}, "annotations": {"x": "y"}},
    "spec": {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24", "fd00:1::/64"]},
    "status": {
        "addresses": [
            {"type": "ExternalIP", "address": "198.51.100.1"},
            {"type": "Hostname", "address": "n1.example"},
            {"type": "InternalIP", "address": "192.0.2.1"},
        ]
    },
}
POD: Document = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"namespace": "shop", "name": "web-0", "uid": "u1", "labels": {"app": "web"}},
    "spec": {
        "nodeName": "n1",
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"containerPort": 9000, "name": "mesh"}]},
            {"ports": [{"containerPort": 1}]},
        ],
        "containers": [
            {
                "ports": [
                    {"containerPort": 8080, "name": "http"},
                    {
                        "containerPort": 53,
                        "protocol": "UDP",
                        "hostPort": 5353,
                        "hostIP": "127.0.0.1",
                    },
                ]
            }
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.1.1.2",
        "podIPs": [{"ip": "10.1.1.2"}, {"ip": "fd00:1::2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
SERVICE: Document = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "shop", "name": "web"},
    "spec": {
        "type": "NodePort",
        "clusterIP": "10.96.0.10",
        "selector": {"app": "web"},
        "ports": [
            {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
    },
}
SLICE: Document = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "namespace": "shop",
        "name": "web-1",
        "labels": {"kubernetes.io/service-name": "web"},
    },
    "addressType": "IPv4",
    "endpoints": [
        {
            "addresses": ["10.1.1.2"],
            "nodeName": "n1",
            "zone": "a",
            "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "shop"},
        },
        {"addresses": ["10.1.1.3"], "conditions": {"ready": False, "terminating": True}},
    ],
    "ports": [{"name": "http", "port": 8080}, {"name": "any", "port": None}],
}
POLICY: Document = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"namespace": "shop", "name": "web"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [
            {
                "from": [
                    {"podSelector": {}},
                    {
                        "namespaceSelector": {
                            "matchExpressions": [
                                {"key": "team", "operator": "In", "values": ["a", "b"]}
                            ]
                        }
                    },
                    {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}},
                ],
                "ports": [{"port": "http"}, {"protocol": "UDP", "port": 5000, "endPort": 5010}],
            }
        ],
    },
}
DOCUMENTS = [NODE, POD, SERVICE, SLICE, POLICY]


def changed(document: Document, path: str, value: object) -> Document:
    """The document with one field set; steps are joined by '/', numbers index lists."""
    result = copy.deepcopy(document)
    *way, last = path.split("/")
    place: Any = result
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    place[int(last) if isinstance(place, list) else last] = value
    return result


def one(document: Document) -> Any:
    (found,) = decode(document)
    return found


def test_node() -> None:
    assert one(NODE) == Node(
        name="n1",
        labels={"zone": "a"},
        annotations={"x": "y"},
        addresses=(ip_address("192.0.2.1"), ip_address("198.51.100.1")),
        pod_cidrs=(ip_network("10.1.1.0/24"), ip_network("fd00:1::/64")),
    )


def test_node_with_the_singular_pod_cidr() -> None:
    assert one(changed(NODE, "spec", {"podCIDR": "10.1.2.0/24"})).pod_cidrs == (
        ip_network("10.1.2.0/24"),
    )


def test_namespace_gets_its_name_label() -> None:
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert one(document) == Namespace("shop", {"kubernetes.io/metadata.name": "shop"})


def test_pod() -> None:
    assert one(POD) == Pod(
        namespace="shop",
        name="web-0",
        uid="u1",
        labels={"app": "web"},
        node_name="n1",
        ips=(ip_address("10.1.1.2"), ip_address("fd00:1::2")),
        phase="Running",
        ready=True,
        ports=(
            ContainerPort(8080, name="http"),
            ContainerPort(53, "UDP", "", 5353, ip_address("127.0.0.1")),
            ContainerPort(9000, name="mesh"),
        ),
    )


def test_bare_pod_is_pending_in_the_default_namespace() -> None:
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    assert one(document) == Pod("default", "a", phase="Pending", ready=False)


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({"phase": "Running"}, True),
        ({"phase": "Pending"}, False),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}]}, False),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, True),
    ],
)
def test_pod_readiness(status: Document, ready: bool) -> None:
    assert one(changed(POD, "status", status)).ready is ready


def test_terminating_pod_with_the_singular_address() -> None:
    document = changed(POD, "metadata/deletionTimestamp", "2030-01-01T00:00:00Z")
    pod = one(changed(document, "status", {"podIP": "10.1.1.9"}))
    assert pod.terminating
    assert pod.ips == (ip_address("10.1.1.9"),)


def test_service() -> None:
    assert one(SERVICE) == Service(
        namespace="shop",
        name="web",
        type="NodePort",
        cluster_ips=(ip_address("10.96.0.10"),),
        ports=(
            ServicePort("http", "TCP", 80, "http", 30080),
            ServicePort("dns", "UDP", 53, 53, 0),
        ),
        selector={"app": "web"},
        affinity_timeout=10800,
    )


def test_service_defaults() -> None:
    document = {"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    assert one(document) == Service(
        "default", "a", ports=(ServicePort("", "TCP", 80, 80),), selector=None
    )


def test_service_policies_and_affinity() -> None:
    service = one(
        changed(
            SERVICE,
            "spec",
            {
                "ports": [{"port": 80}],
                "clusterIPs": ["10.96.0.10", "fd00:96::10"],
                "externalIPs": ["198.51.100.9"],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "internalTrafficPolicy": "Local",
                "externalTrafficPolicy": "Local",
                "publishNotReadyAddresses": True,
                "selector": {},
            },
        )
    )
    assert service.cluster_ips == (ip_address("10.96.0.10"), ip_address("fd00:96::10"))
    assert service.external_ips == (ip_address("198.51.100.9"),)
    assert (service.session_affinity, service.affinity_timeout) == ("ClientIP", 60)
    assert (service.internal_traffic_policy, service.external_traffic_policy) == ("Local", "Local")
    assert service.publish_not_ready
    assert service.selector is None


def test_headless_service() -> None:
    service = one(changed(SERVICE, "spec", {"clusterIP": "None", "clusterIPs": ["None"]}))
    assert service.headless
    assert not service.ports


def test_external_name_keeps_no_cluster_address() -> None:
    service = one(changed(SERVICE, "spec/type", "ExternalName"))
    assert not service.cluster_ips
    assert not service.headless


def test_node_ports_of_a_cluster_ip_service_do_not_count() -> None:
    assert all(not port.node_port for port in one(changed(SERVICE, "spec/type", "ClusterIP")).ports)


def test_load_balancer_addresses_without_proxied_ones() -> None:
    document = changed(SERVICE, "spec/type", "LoadBalancer")
    document = changed(document, "spec/healthCheckNodePort", 32000)
    ingress = [
        {"ip": "203.0.113.1"},
        {"ip": "203.0.113.2", "ipMode": "Proxy"},
        {"hostname": "lb.example"},
        {"ip": "203.0.113.3", "ipMode": "VIP"},
    ]
    service = one(changed(document, "status", {"loadBalancer": {"ingress": ingress}}))
    assert service.load_balancer_ips == (ip_address("203.0.113.1"), ip_address("203.0.113.3"))
    assert service.health_check_node_port == 32000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("2024-05-01T12:00:00Z", 1714564800),
        ("2024-05-01T14:00:00+02:00", 1714564800),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), 1714564800),
    ],
)
def test_when_a_service_was_made(text: object, seconds: int | None) -> None:
    assert one(changed(SERVICE, "metadata/creationTimestamp", text)).created == seconds


def test_a_time_that_is_none_is_named() -> None:
    with pytest.raises(ObjectError, match="creationTimestamp: must be a time such as"):
        one(changed(SERVICE, "metadata/creationTimestamp", "yesterday"))


def test_the_port_of_a_nodes_kubelet() -> None:
    endpoints = {"kubeletEndpoint": {"Port": 10250}}
    assert one(changed(NODE, "status/daemonEndpoints", endpoints)).kubelet_port == 10250
    assert one(NODE).kubelet_port == 0


def test_source_ranges_are_a_load_balancers() -> None:
    document = changed(SERVICE, "spec/loadBalancerSourceRanges", ["192.0.2.7/24", "2001:db8::/64"])
    assert one(document).source_ranges == ()
    assert one(changed(document, "spec/type", "LoadBalancer")).source_ranges == (
        ip_network("192.0.2.0/24"),
        ip_network("2001:db8::/64"),
    )


def test_hints_of_an_endpoint() -> None:
    endpoint = {
        "addresses": ["10.1.1.2"],
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]},
    }
    [found] = one(changed(SLICE, "endpoints", [endpoint])).endpoints
    assert (found.hint_zones, found.hint_nodes) == (("a", "b"), ("n1",))


def test_endpoint_slice() -> None:
    assert one(SLICE) == EndpointSlice(
        namespace="shop",
        name="web-1",
        service="web",
        address_type="IPv4",
        endpoints=(
            Endpoint((ip_address("10.1.1.2"),), True, True, False, "n1", "shop/web-0", "a"),
            Endpoint((ip_address("10.1.1.3"),), False, False, True),
        ),
        ports=(EndpointPort("http", "TCP", 8080),),
    )


@pytest.mark.parametrize(
    ("conditions", "ready", "serving"),
    [
        (None, True, True),
        ({}, True, True),
        ({"ready": None, "serving": None}, True, True),
        ({"ready": False}, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True),
    ],
)
def test_endpoint_conditions(conditions: Document | None, ready: bool, serving: bool) -> None:
    endpoint = one(changed(SLICE, "endpoints/0/conditions", conditions)).endpoints[0]
    assert (endpoint.ready, endpoint.serving) == (ready, serving)


@pytest.mark.parametrize("label", ["headless", "service-proxy-name"])
@pytest.mark.parametrize("value", ["", "x"])
def test_slices_say_by_labels_of_their_own_whether_proxies_serve_them(label, value) -> None:
    labels = {"kubernetes.io/service-name": "web", f"service.kubernetes.io/{label}": value}
    assert one(SLICE).for_proxies
    found = one(changed(SLICE, "metadata/labels", labels))
    assert (found.service, found.for_proxies) == ("web", False)


def test_slice_of_names_has_no_endpoints() -> None:
    document = changed(SLICE, "addressType", "FQDN")
    document = changed(document, "endpoints", [{"addresses": ["db.example"]}])
    assert one(document).endpoints == ()


def test_network_policy() -> None:
    assert one(POLICY) == NetworkPolicy(
        namespace="shop",
        name="web",
        pod_selector=LabelSelector({"app": "web"}),
        ingress=(
            PolicyRule(
                peers=(
                    PolicyPeer(pod_selector=LabelSelector()),
                    PolicyPeer(
                        namespace_selector=LabelSelector(
                            match_expressions=(Requirement("team", "In", ("a", "b")),)
                        )
                    ),
                    PolicyPeer(
                        cidr=ip_network("192.0.2.0/24"), excepts=(ip_network("192.0.2.128/25"),)
                    ),
                ),
                ports=(PolicyPort("TCP", "http"), PolicyPort("UDP", 5000, 5010)),
            ),
        ),
        egress=None,
    )


ALL = (PolicyRule(),)


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        ({"ingress": [{}]}, ALL, None),
        ({"egress": [{}]}, (), ALL),
        ({"policyTypes": ["Ingress"]}, (), None),
        ({"policyTypes": ["Egress"]}, None, ()),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, (), None),
        ({"policyTypes": ["Ingress", "Egress"], "egress": [{"to": []}]}, (), ALL),
    ],
)
def test_policy_types(spec: Document, ingress: object, egress: object) -> None:
    policy = one(changed(POLICY, "spec", {"podSelector": {}, **spec}))
    assert (policy.ingress, policy.egress) == (ingress, egress)


def test_list_is_expanded() -> None:
    found = decode({"apiVersion": "v1", "kind": "List", "items": [NODE, SERVICE]})
    assert [each.kind for each in found] == ["Node", "Service"]


def test_items_of_a_typed_list_need_no_kind() -> None:
    items = [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]
    found = decode({"apiVersion": "v1", "kind": "PodList", "items": items})
    assert [(each.kind, each.key) for each in found] == [("Pod", "default/a"), ("Pod", "default/b")]


def test_unknown_fields_are_ignored() -> None:
    assert one(changed(SERVICE, "spec/futureField", {"a": [1]})) == one(SERVICE)


BAD = [
    (NODE, "spec/podCIDR", "10.1.1.0", "spec.podCIDR", "must be a CIDR"),
    (NODE, "spec/podCIDR", "10.9.0.0/24", "spec.podCIDR", "first of podCIDRs"),
    (NODE, "status/addresses/2/address", "nowhere", "status.addresses[2].address", "IP address"),
    (NODE, "metadata/name", "N_1", "metadata.name", "lower-case"),
    (NODE, "metadata/labels", ["a"], "metadata.labels", "must be a mapping"),
    (POD, "metadata/labels/app", True, "metadata.labels.app", "must be a string, is true"),
    (POD, "metadata/labels/a.b~c", 1, "metadata.labels[a.b~c]", "must be a string, is 1"),
    (POD, "metadata/namespace", "Shop", "metadata.namespace", "lower-case"),
    (POD, "metadata/name", None, "metadata.name", "is required"),
    (POD, "apiVersion", "v2", "apiVersion", "must be v1"),
    (POD, "status/podIPs/1/ip", "fe80::1%eth0", "status.podIPs[1].ip", "IP address"),
    (
        POD,
        "spec/containers/0/ports/1/containerPort",
        65536,
        "spec.containers[0].ports[1].containerPort",
        "from 1 to 65535",
    ),
    (POD, "spec/containers/0/ports/0/name", "9", "spec.containers[0].ports[0].name", "a letter"),
    (POD, "spec/hostNetwork", "yes", "spec.hostNetwork", "true or false"),
    (SERVICE, "spec/type", "Router", "spec.type", "one of ClusterIP, NodePort"),
    (SERVICE, "spec/clusterIP", "10.96.0.300", "spec.clusterIP", "IP address"),
    (SERVICE, "spec/clusterIPs", ["10.96.0.11"], "spec.clusterIP", "first of clusterIPs"),
    (SERVICE, "spec/ports", [], "spec.ports", "at least one port"),
    (SERVICE, "spec/ports/0/port", 0, "spec.ports[0].port", "from 1 to 65535"),
    (SERVICE, "spec/ports/0/port", "80", "spec.ports[0].port", "must be an integer"),
    (SERVICE, "spec/ports/0/port", True, "spec.ports[0].port", "must be an integer"),
    (SERVICE, "spec/ports/0/port", None, "spec.ports[0].port", "is required"),
    (SERVICE, "spec/ports/0/targetPort", "80", "spec.ports[0].targetPort", "a letter"),
    (SERVICE, "spec/ports/0/targetPort", 70000, "spec.ports[0].targetPort", "65535"),
    (SERVICE, "spec/ports/0/nodePort", -1, "spec.ports[0].nodePort", "from 0 to 65535"),
    (SERVICE, "spec/ports/1/protocol", "ICMP", "spec.ports[1].protocol", "TCP, UDP, SCTP"),
    (SERVICE, "spec/ports/1/name", "", "spec.ports[1].name", "several ports"),
    (SERVICE, "spec/ports/1/name", "http", "spec.ports[1].name", "two ports"),
    (
        SERVICE,
        "spec/ports/1",
        {"name": "x", "port": 80},
        "spec.ports[1].port",
        "TCP port 80 is there twice",
    ),
    (SERVICE, "spec/sessionAffinity", "Cookie", "spec.sessionAffinity", "ClientIP"),
    (
        SERVICE,
        "spec/sessionAffinityConfig/clientIP/timeoutSeconds",
        86401,
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        "from 1 to 86400",
    ),
    (SLICE, "addressType", None, "addressType", "is required"),
    (SLICE, "addressType", "IPv6", "endpoints[0].addresses[0]", "must be an IPv6 address"),
    (SLICE, "endpoints/1/addresses", [], "endpoints[1].addresses", "at least one"),
    (SLICE, "endpoints/1/conditions/ready", "no", "endpoints[1].conditions.ready", "true or"),
    (SLICE, "ports/0/port", 0, "ports[0].port", "from 1 to 65535"),
    (POLICY, "spec/policyTypes", ["Both"], "spec.policyTypes[0]", "Ingress, Egress"),
    (
        POLICY,
        "spec/ingress/0/from/2/ipBlock/except/0",
        "198.51.100.0/25",
        "spec.ingress[0].from[2].ipBlock.except[0]",
        "strict part",
    ),
    (
        POLICY,
        "spec/ingress/0/from/2/ipBlock/except/0",
        "192.0.2.0/24",
        "spec.ingress[0].from[2].ipBlock.except[0]",
        "strict part",
    ),
    (
        POLICY,
        "spec/ingress/0/from/2/ipBlock/except/0",
        "fd00::/64",
        "spec.ingress[0].from[2].ipBlock.except[0]",
        "strict part",
    ),
    (POLICY, "spec/ingress/0/from/0", {}, "spec.ingress[0].from[0]", "must have a podSelector"),
    (
        POLICY,
        "spec/ingress/0/from/2/podSelector",
        {},
        "spec.ingress[0].from[2].ipBlock",
        "must not stand beside",
    ),
    (
        POLICY,
        "spec/ingress/0/from/1/namespaceSelector/matchExpressions/0/operator",
        "Near",
        "spec.ingress[0].from[1].namespaceSelector.matchExpressions[0].operator",
        "In, NotIn, Exists, DoesNotExist",
    ),
    (
        POLICY,
        "spec/podSelector/matchExpressions",
        [{"key": "a", "operator": "NotIn"}],
        "spec.podSelector.matchExpressions[0].values",
        "at least one value",
    ),
    (
        POLICY,
        "spec/podSelector/matchExpressions",
        [{"key": "a", "operator": "Exists", "values": ["b"]}],
        "spec.podSelector.matchExpressions[0].values",
        "must be empty",
    ),
    (POLICY, "spec/ingress/0/ports/1/endPort", 4999, "spec.ingress[0].ports[1].endPort", "below"),
    (
        POLICY,
        "spec/ingress/0/ports/0/endPort",
        90,
        "spec.ingress[0].ports[0].endPort",
        "needs a port that is a number",
    ),
]


@pytest.mark.parametrize(
    ("document", "path", "value", "field", "message"),
    BAD,
    ids=[f"{document['kind']}-{path}={value}" for document, path, value, _, _ in BAD],
)
def test_bad_value_is_named(
    document: Document, path: str, value: object, field: str, message: str
) -> None:
    with pytest.raises(ObjectError) as caught:
        decode(changed(document, path, value), file="shop.yaml")
    assert (caught.value.file, caught.value.kind) == ("shop.yaml", document["kind"])
    assert caught.value.field == field
    assert message in caught.value.message


def test_error_reads_as_one_line() -> None:
    with pytest.raises(ObjectError) as caught:
        decode(changed(SERVICE, "spec/ports/0/port", 0), file="shop.yaml")
    assert str(caught.value) == (
        "shop.yaml: Service shop/web: spec.ports[0].port: must be from 1 to 65535, is 0"
    )


def test_unknown_kind_names_those_that_are_known() -> None:
    with pytest.raises(ObjectError) as caught:
        decode({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}})
    assert caught.value.kind == "Deployment"
    assert caught.value.field == "kind"
    assert "Node, Namespace, Pod, Service, EndpointSlice, NetworkPolicy" in caught.value.message


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below),
    max_leaves=6,
)


def paths(value: object, path: str = "") -> list[str]:
    members: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    below = [f"{path}/{step}" if path else str(step) for step, _ in members if "/" not in str(step)]
    deeper = [
        found
        for step, member in members
        if "/" not in str(step)
        for found in paths(member, f"{path}/{step}" if path else str(step))
    ]
    return below + deeper


@settings(deadline=None)  # other work on the machine is no failure
@given(
    place=st.sampled_from([(each, path) for each in DOCUMENTS for path in paths(each)]), junk=JUNK
)
def test_junk_anywhere_is_an_object_error_or_fine(
    place: tuple[Document, str], junk: object
) -> None:
    document, path = place
    with contextlib.suppress(ObjectError):
        decode(changed(document, path, junk))
