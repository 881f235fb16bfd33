"""What stands behind the lab's API server: addresses for Services, slices that follow pods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cubelet.lab.apiserver import ApiServer

from ...helpers.apiclient import Client, pod

SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


@pytest.fixture
def server() -> ApiServer:
    return ApiServer(controllers=True)


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    with server.running() as url:
        yield Client(url)


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    spec = {"ports": [{"port": 80, "targetPort": 8080}], "selector": {"app": name}, **spec}
    return {"kind": "Service", "metadata": {"name": name}, "spec": spec}


def running(name: str, address: str, *, ready: bool = True, app: str = "web") -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    status = {"phase": "Running", "podIPs": [{"ip": address}], "conditions": [condition]}
    return {**pod(name, on="n1", app=app), "status": status}


def backends(client: Client, *, ready: bool = True) -> list[str]:
    return sorted(
        address
        for item in client.get(SLICES).body["items"]
        for endpoint in item["endpoints"]
        for address in endpoint["addresses"]
        if endpoint["conditions"]["ready"] is ready
    )


def eventually(look: Callable[[], Any], expected: Any) -> None:
    deadline = time.monotonic() + 5
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"{seen}, expected {expected}"
        time.sleep(0.02)


def test_services_get_addresses_and_node_ports(client: Client) -> None:
    first = client.call("POST", SERVICES, service("a", type="NodePort")).body["spec"]
    second = client.call("POST", SERVICES, service("b", type="NodePort")).body["spec"]
    assert first["clusterIP"] != second["clusterIP"]
    assert first["clusterIPs"] == [first["clusterIP"]]
    assert first["ports"][0]["nodePort"] != second["ports"][0]["nodePort"]
    taken = client.call("POST", SERVICES, service("c", clusterIP=first["clusterIP"]))
    assert (taken.status, taken.body["reason"]) == (422, "Invalid")
    kept = client.call("PUT", f"{SERVICES}/a", service("a", type="NodePort")).body["spec"]
    assert kept == first


def test_slices_follow_pods(server: ApiServer, client: Client) -> None:
    client.call("POST", SERVICES, service())
    server.put(running("a", "10.0.0.1"))
    server.put(running("b", "10.0.0.2", ready=False))
    server.put(running("other", "10.0.0.9", app="db"))
    eventually(lambda: backends(client), ["10.0.0.1"])
    eventually(lambda: backends(client, ready=False), ["10.0.0.2"])
    server.put(running("b", "10.0.0.2"))
    eventually(lambda: backends(client), ["10.0.0.1", "10.0.0.2"])
    server.delete("pods", "a", "default")
    eventually(lambda: backends(client), ["10.0.0.2"])


def test_slices_are_what_clients_expect(server: ApiServer, client: Client) -> None:
    server.put(running("a", "10.0.0.1"))
    client.call("POST", SERVICES, service())
    eventually(lambda: backends(client), ["10.0.0.1"])
    (found,) = client.get(SLICES, labelSelector="kubernetes.io/service-name=web").body["items"]
    assert found["addressType"] == "IPv4"
    assert found["ports"] == [{"name": "", "protocol": "TCP", "port": 8080}]
    assert found["endpoints"] == [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "a"},
            "nodeName": "n1",
        }
    ]


def test_slices_follow_the_selector_and_go_with_the_service(
    server: ApiServer, client: Client
) -> None:
    server.put(running("a", "10.0.0.1"))
    server.put(running("b", "10.0.0.2", app="db"))
    client.call("POST", SERVICES, service())
    eventually(lambda: backends(client), ["10.0.0.1"])
    client.patch(f"{SERVICES}/web", "merge", {"spec": {"selector": {"app": "db"}}})
    eventually(lambda: backends(client), ["10.0.0.2"])
    client.call("DELETE", f"{SERVICES}/web")
    eventually(lambda: client.get(SLICES).names, [])


def test_a_pod_that_ends_is_terminating(server: ApiServer, client: Client) -> None:
    server.put(running("a", "10.0.0.1"))
    client.call("POST", SERVICES, service())
    eventually(lambda: backends(client), ["10.0.0.1"])
    client.call("DELETE", "/api/v1/namespaces/default/pods/a")
    eventually(lambda: backends(client), [])
    (found,) = client.get(SLICES).body["items"]
    conditions = {"ready": False, "serving": True, "terminating": True}
    assert found["endpoints"][0]["conditions"] == conditions
    client.call("DELETE", "/api/v1/namespaces/default/pods/a", {"gracePeriodSeconds": 0})
    eventually(lambda: client.get(SLICES).names, [])


def test_a_slice_that_somebody_deletes_comes_back(server: ApiServer, client: Client) -> None:
    server.put(running("a", "10.0.0.1"))
    client.call("POST", SERVICES, service())
    eventually(lambda: backends(client), ["10.0.0.1"])
    uid = client.get(SLICES).body["items"][0]["metadata"]["uid"]
    client.call("DELETE", f"{SLICES}/web-derived")
    eventually(lambda: backends(client), ["10.0.0.1"])
    assert client.get(SLICES).body["items"][0]["metadata"]["uid"] != uid


def test_what_went_while_the_server_was_away_has_no_slice(server: ApiServer) -> None:
    server.put(running("a", "10.0.0.1"))
    with server.running() as url:
        Client(url).call("POST", SERVICES, service())
        eventually(lambda: backends(Client(url)), ["10.0.0.1"])
    server.delete("services", "web", "default")
    with server.running() as url:
        eventually(lambda: Client(url).get(SLICES).names, [])
