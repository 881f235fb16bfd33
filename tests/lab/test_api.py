"""Labs whose objects are on an API server: the stand-in, or the one that KUBECONFIG names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from cubelet.lab import api, cluster, netns, processes
from cubelet.lab.apiserver import ApiServer
from cubelet.lab.apistore import LABEL
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.transport import NetnsTransport

from .manifests import pod, policy, service
from .test_lifecycle import LAB, remains
from .world import QUICK, Space, World, eventually

ECHO = ("TCP", 7)


@contextmanager
def lab(layout: Layout, nodes: int = 2) -> Iterator[World]:
    spec = LabSpec(layout.name, plan_nodes(nodes, ()), QUICK, api=True)
    cluster.up(layout, spec, lambda _: None)
    try:
        yield World(layout, spec)
    finally:
        cluster.down(layout)


@pytest.fixture(scope="module")
def given() -> Iterator[World]:
    """A lab on the server that the environment names, else on one of its own."""
    with lab(Layout(f"a{os.getpid()}")) as world:
        yield world


@pytest.fixture
def site(given: World) -> Iterator[Space]:
    """A client and two servers of one Service."""
    space = Space(given, "shop")
    space.apply(
        pod("client", nodeName="node1"),
        pod("near", ECHO, nodeName="node1", labels={"app": "web"}),
        pod("far", ECHO, nodeName="node2", labels={"app": "web"}),
        service("web", "web", ("TCP", 80, 7)),
    )
    try:
        yield space
    finally:
        given.delete(Key("Namespace", "", "shop"))


def with_readiness(stored: Manifest, status: str) -> Manifest:
    conditions = [{"type": "Ready", "status": status}]
    return {**stored, "status": {**stored["status"], "conditions": conditions}}


def test_services_follow_the_readiness_of_pods(site: Space) -> None:
    world, client, vip = site.world, site.at("client"), site.vip("web")
    eventually(lambda: site.backends(client, vip, 80) == {"near", "far"}, 10)
    far = site.get("Pod", "far")
    world.objects.store.put(with_readiness(far, "False"))
    eventually(lambda: site.backends(client, vip, 80) == {"near"}, 10)
    world.objects.store.put(with_readiness(far, "True"))
    eventually(lambda: site.backends(client, vip, 80) == {"near", "far"}, 10)
    site.delete("Pod", "near")
    eventually(lambda: site.backends(client, vip, 80) == {"far"}, 10)


def test_a_policy_is_in_force_when_apply_returns(site: Space) -> None:
    client, address = site.at("client"), site.ip("far")
    assert site.who(client, address, 7) == "far"
    site.apply(policy("closed", "web", ingress=[]))
    assert site.who(client, address, 7, timeout=1) == "timeout"
    site.delete("NetworkPolicy", "closed")
    assert site.who(client, address, 7) == "far"


def test_the_slices_are_objects(site: Space) -> None:
    def targets() -> set[str]:
        slices = site.world.objects.store.list("EndpointSlice", "shop")
        endpoints = [each for found in slices for each in found.get("endpoints") or ()]
        return {each["targetRef"]["name"] for each in endpoints if each["conditions"]["ready"]}

    eventually(lambda: targets() == {"near", "far"}, 10)


def test_nothing_stops_while_the_server_is_away(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with lab(layout, 1) as world:
        space = Space(world, "shop")
        space.apply(pod("client"), pod("server", ECHO), service("server", "server", ("TCP", 80, 7)))
        client, vip = space.at("client"), space.vip("server")
        eventually(lambda: space.who(client, vip, 80) == "server", 10)
        processes.end(layout, [api.SERVER])
        assert space.who(client, vip, 80) == "server"
        world.kill("node1")
        assert space.who(client, vip, 80) == "server"
        api.start(layout, world.spec)
        world.start("node1")
        assert space.who(client, vip, 80) == "server"
        space.apply(policy("closed", "server", ingress=[]))
        assert space.who(client, vip, 80, timeout=1) == "timeout"


def kubeconfig(url: str, folder: Path) -> Path:
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_foreign_server_is_left_as_it_was(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It listens where only the machine reaches it, as that of a cluster in containers does."""
    server = ApiServer(controllers=True, tokens=["secret"])
    server.put({"kind": "Node", "metadata": {"name": "theirs"}})

    def contents() -> set[str]:
        kinds = ("nodes", "leases", "namespaces", "pods", "services", "endpointslices")
        return {f"{kind}/{name}" for kind in kinds for name in server.names(kind)}

    before = contents()
    with server.running() as url:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(url, tmp_path)))
        with lab(layout) as world:
            space = Space(world, "shop")
            space.apply(
                pod("client", nodeName="node1"),
                pod("server", ECHO, nodeName="node2"),
                service("server", "server", ("TCP", 80, 7)),
            )
            vip = space.vip("server")
            eventually(lambda: space.who(space.at("client"), vip, 80) == "server", 10)
            assert server.get("pods", "client", "shop")["metadata"]["labels"][LABEL] == layout.name
            assert {"nodes/node1", "leases/node2"} <= contents()
        assert contents() == before
    assert remains(layout) == []


def test_a_foreign_server_at_an_address_of_its_own_is_reached(layout: Layout) -> None:
    """The relay stands between two namespaces that know the same address of the server."""
    there, here = f"{layout.netns_prefix}there", f"{layout.netns_prefix}here"
    address = "192.0.2.7"
    for name in (there, here):
        netns.create(name)
        netns.ip(["address", "add", f"{address}/32", "dev", "lo"], netns=name)
    serve = [sys.executable, "-m", "cubelet.lab.apiserver", "--listen", f"{address}:6443"]
    relay = [sys.executable, "-m", "cubelet.lab.relay", address, "6443", here]
    processes.spawn(layout, "server", there, serve)
    processes.spawn(layout, "relay", there, relay)
    transport = NetnsTransport(here, address, 6443)

    def answers() -> bool:
        try:
            return transport.call("GET", "/version").status == 200
        except LabError:
            return False

    eventually(answers, 10)
    assert transport.call("GET", "/api/v1/namespaces/default").body["kind"] == "Namespace"


def test_the_commands_work_on_an_api_server_and_leave_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    name = ["--name", layout.name]

    def run(*argv: str) -> str:
        done = subprocess.run([*LAB, *argv, *name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("up", "--api", "--nodes", "1")
    manifests = tmp_path / "all.yaml"
    manifests.write_text(
        yaml.safe_dump_all([pod("a", ECHO), pod("b"), service("a", "a", ("TCP", 80, 7))])
    )
    assert "pod/a created" in run("apply", "-f", str(manifests))
    assert "pod/a unchanged" in run("apply", "-f", str(manifests))
    assert "Running" in run("get", "pods")
    assert "allowed" in run("probe")
    assert "pod/a deleted" in run("delete", "-f", str(manifests))
    run("down")
    assert remains(layout) == []
