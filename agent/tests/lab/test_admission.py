"""What the lab fills in before it stores an object."""

from __future__ import annotations

from typing import Any

import pytest

from cubelet.lab import admission
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, Manifest


def service(name: str, **spec: Any) -> Manifest:
    return {"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def pod(name: str, **spec: Any) -> Manifest:
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def node(name: str, **labels: str) -> Manifest:
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}}


NODES = [node("node1"), node("node2", disk="ssd")]


def test_a_namespace_carries_its_name_as_a_label() -> None:
    given: Manifest = {"kind": "Namespace", "metadata": {"name": "a", "labels": {"x": "y"}}}
    labels = admission.normalise(given)["metadata"]["labels"]
    assert labels == {"x": "y", "kubernetes.io/metadata.name": "a"}
    assert given["metadata"]["labels"] == {"x": "y"}


def test_services_get_the_first_free_address() -> None:
    first = admission.service(service("a", ports=[{"port": 80}]), [], None)
    second = admission.service(service("b"), [first], None)
    assert (first["spec"]["clusterIP"], second["spec"]["clusterIP"]) == ("10.96.0.10", "10.96.0.11")
    assert first["spec"]["clusterIPs"] == ["10.96.0.10"]
    assert "nodePort" not in first["spec"]["ports"][0]


def test_a_service_keeps_its_address_and_node_ports() -> None:
    ports = [{"port": 80}, {"port": 53, "protocol": "UDP", "nodePort": 31000}]
    wanted = service("a", type="NodePort", ports=ports)
    old = admission.service(wanted, [], None)
    assert [port["nodePort"] for port in old["spec"]["ports"]] == [30000, 31000]
    blocker = service("b", clusterIP="10.96.0.9", ports=[{"port": 1, "nodePort": 30001}])
    assert admission.service(wanted, [old, blocker], old) == old


def test_the_same_node_port_serves_two_protocols() -> None:
    ports = [{"port": 53, "nodePort": 30053}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]
    made = admission.service(service("dns", type="NodePort", ports=ports), [], None)
    assert [port["nodePort"] for port in made["spec"]["ports"]] == [30053, 30053]


def test_headless_and_external_name_services_get_nothing() -> None:
    other = admission.service(service("h1", clusterIP="None"), [], None)
    headless = admission.service(service("h2", clusterIP="None"), [other], None)
    assert headless["spec"] == {"clusterIP": "None", "clusterIPs": ["None"]}
    external = service("e", type="ExternalName", externalName="example.org")
    assert admission.service(external, [], None) == external


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "10.96.0.10"},
        {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]},
    ],
)
def test_what_another_service_has_is_refused(spec: dict[str, Any]) -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    other = service("other", type="NodePort", clusterIP="10.96.0.10", ports=ports)
    with pytest.raises(LabError, match="service/mine"):
        admission.service(service("mine", **spec), [other], None)


def test_a_deployment_becomes_numbered_pods() -> None:
    deployment = {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}},
    }
    pods = admission.expand(deployment)
    assert [p["metadata"]["name"] for p in pods] == ["web-0", "web-1"]
    assert all(p["metadata"]["labels"] == {"a": "b"} and p["spec"] == {"x": 1} for p in pods)
    assert all(admission.owned_by(p, Key("Deployment", "shop", "web")) for p in pods)
    assert not admission.owned_by(pods[0], Key("Deployment", "default", "web"))
    assert not admission.owned_by(pods[0], Key("Deployment", "shop", "other"))


def test_pods_go_to_the_least_used_node_in_turn() -> None:
    placed: list[Manifest] = []
    for number in range(4):
        placed.append(admission.bind(pod(f"p{number}"), NODES, placed))
    assert [p["spec"]["nodeName"] for p in placed] == ["node1", "node2", "node1", "node2"]
    assert len({p["metadata"]["uid"] for p in placed}) == 4


@pytest.mark.parametrize("spec", [{"nodeName": "node2"}, {"nodeSelector": {"disk": "ssd"}}])
def test_a_pod_may_choose_its_node(spec: dict[str, Any]) -> None:
    assert admission.bind(pod("p", **spec), NODES, [])["spec"]["nodeName"] == "node2"


@pytest.mark.parametrize("spec", [{"nodeName": "node3"}, {"nodeSelector": {"disk": "tape"}}])
def test_a_node_that_is_not_there_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(LabError, match="no node matches"):
        admission.bind(pod("p", **spec), NODES, [])


def test_ports_are_listed_once() -> None:
    containers = [
        {"ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]},
        {"ports": [{"containerPort": 80, "protocol": "TCP"}]},
        {},
    ]
    assert admission.container_ports(pod("p", containers=containers)) == [("TCP", 80), ("UDP", 53)]


def test_labels_change_a_running_pod_and_its_specification_does_not() -> None:
    running = admission.bind(pod("p", containers=[]), NODES, [])
    running["status"] = {"podIP": "10.244.1.2"}
    relabelled = pod("p", containers=[])
    relabelled["metadata"]["labels"] = {"app": "web"}
    assert admission.same_pod(running, relabelled)
    result = admission.relabel(running, relabelled)
    assert result["status"] == running["status"]
    assert result["metadata"]["labels"] == {"app": "web"}
    assert result["metadata"]["uid"] == running["metadata"]["uid"]


def test_another_node_port_or_address_makes_another_pod() -> None:
    running = admission.bind(pod("p", containers=[]), NODES, [])
    asking = pod("p", containers=[])
    asking["metadata"]["annotations"] = {"cubelet.io/ip": "10.244.1.9"}
    others = [
        pod("p", containers=[], nodeName="node2"),
        pod("p", containers=[{"ports": [{"containerPort": 80}]}]),
        asking,
    ]
    assert [admission.same_pod(running, other) for other in others] == [False, False, False]
