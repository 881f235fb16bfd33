"""Objects and pods of a lab whose agents are stand-ins: real CNI calls, real pods, real probes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cubelet.lab import cluster, netns, processes, traffic
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.layout import BPFFS_ROOT, OUTSIDE_ADDRESS, OUTSIDE_PORT, Layout
from cubelet.lab.objects import Objects
from cubelet.lab.probe import probe

from .manifests import pod


def running(objects: Objects, name: str, namespace: str = "default") -> Manifest:
    stored = objects.store.get(Key("Pod", namespace, name))
    assert stored is not None
    return stored


def test_a_pod_is_attached_served_and_removed(objects: Objects, layout: Layout) -> None:
    outcomes = objects.apply([pod("a", ("TCP", 80)), pod("b", ("TCP", 80))])
    assert [(str(o.key), o.done) for o in outcomes] == [("pod/a", "created"), ("pod/b", "created")]
    a, b = running(objects, "a"), running(objects, "b")
    assert (a["spec"]["nodeName"], b["spec"]["nodeName"]) == ("node1", "node2")
    assert a["status"] == {
        "phase": "Running",
        "podIP": "10.244.1.2",
        "podIPs": [{"ip": "10.244.1.2"}],
        "hostIP": "172.18.0.11",
        "hostIPs": [{"ip": "172.18.0.11"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    place = layout.pod_netns("default", "a")
    result = netns.run(place, traffic.who, b["status"]["podIP"], 80)
    assert (result.server, result.seen_as) == ("default/b", "10.244.1.2")

    outcomes = objects.delete([Key("Pod", "default", "a"), Key("Pod", "default", "never")])
    assert [o.done for o in outcomes] == ["deleted", "not found"]
    assert not netns.exists(place)
    assert not processes.alive(layout, "pod.default.a")
    assert objects.store.get(Key("Pod", "default", "a")) is None


def test_an_address_may_be_asked_for(objects: Objects) -> None:
    asking = pod("a")
    asking["metadata"]["annotations"] = {"cubelet.io/ip": "10.244.1.77"}
    objects.apply([asking])
    assert running(objects, "a")["status"]["podIP"] == "10.244.1.77"


def test_a_pod_that_fails_leaves_nothing_and_others_run(objects: Objects, layout: Layout) -> None:
    refused = pod("bad")
    refused["metadata"]["annotations"] = {"test/refuse": "yes"}
    nowhere = pod("lost", nodeName="node9")
    config = {"kind": "Ingress", "metadata": {"name": "c"}}
    outcomes = objects.apply([refused, nowhere, config, pod("good")])
    done = {o.key.name: (o.done, o.detail) for o in outcomes}
    assert done["good"] == ("created", "")
    assert done["c"][0] == "ignored"
    assert done["lost"][0] == "failed"
    assert done["bad"] == ("failed", "pod/bad: CNI ADD: refused by test")
    assert [m["metadata"]["name"] for m in objects.store.list("Pod")] == ["good"]
    assert not netns.exists(layout.pod_netns("default", "bad"))


def test_labels_change_without_wiring_anew_and_ports_with(objects: Objects, layout: Layout) -> None:
    objects.apply([pod("a", ("TCP", 80))])
    before = netns.path(layout.pod_netns("default", "a")).stat().st_ino
    relabelled = pod("a", ("TCP", 80))
    relabelled["metadata"]["labels"] = {"app": "other"}
    assert [o.done for o in objects.apply([relabelled])] == ["configured"]
    assert [o.done for o in objects.apply([relabelled])] == ["unchanged"]
    assert running(objects, "a")["metadata"]["labels"] == {"app": "other"}
    assert netns.path(layout.pod_netns("default", "a")).stat().st_ino == before
    assert [o.done for o in objects.apply([pod("a", ("TCP", 81))])] == ["configured"]
    assert running(objects, "a")["status"]["podIP"] == "10.244.1.3"


def test_a_deployment_grows_shrinks_and_goes(objects: Objects) -> None:
    def deployment(replicas: int) -> Manifest:
        template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}
        spec = {"replicas": replicas, "template": template}
        metadata = {"name": "web", "namespace": "shop"}
        return {"kind": "Deployment", "metadata": metadata, "spec": spec}

    def names() -> list[str]:
        return [m["metadata"]["name"] for m in objects.store.list("Pod", "shop")]

    outcomes = objects.apply([deployment(3)])
    assert (str(outcomes[0].key), outcomes[0].done) == ("namespace/shop", "created")
    assert names() == ["web-0", "web-1", "web-2"]
    objects.apply([deployment(1)])
    assert names() == ["web-0"]
    objects.delete([Key("Deployment", "shop", "web")])
    assert names() == []


def test_a_namespace_takes_its_objects_along(objects: Objects, layout: Layout) -> None:
    service = {"kind": "Service", "metadata": {"name": "s", "namespace": "x"}, "spec": {}}
    inside = pod("a")
    inside["metadata"]["namespace"] = "x"
    objects.apply([service, inside])
    objects.delete([Key("Namespace", "", "x")])
    assert [m for kind in ("Pod", "Service") for m in objects.store.list(kind)] == []
    assert not netns.exists(layout.pod_netns("x", "a"))


def test_node_labels_may_be_changed_and_nodes_not(objects: Objects) -> None:
    node = {"kind": "Node", "metadata": {"name": "node1", "labels": {"zone": "a"}}}
    assert [o.done for o in objects.apply([node])] == ["configured"]
    stored = objects.store.get(Key("Node", "", "node1"))
    assert stored is not None
    assert stored["metadata"]["labels"] == {"zone": "a", "kubernetes.io/hostname": "node1"}
    assert stored["spec"]["podCIDR"] == "10.244.1.0/24"
    assert [o.done for o in objects.delete([Key("Node", "", "node1")])] == ["failed"]


def test_a_host_network_pod_lives_on_its_node(objects: Objects, layout: Layout) -> None:
    objects.apply([pod("h", ("TCP", 8080), hostNetwork=True, nodeName="node1"), pod("a")])
    assert running(objects, "h")["status"]["podIP"] == "172.18.0.11"
    result = netns.run(layout.pod_netns("default", "a"), traffic.who, "172.18.0.11", 8080)
    assert result.server == "default/h"
    objects.delete([Key("Pod", "default", "h")])
    assert netns.exists(layout.node_netns("node1"))


def test_the_outside_is_reached_from_a_node(objects: Objects, layout: Layout) -> None:
    place = layout.node_netns("node2")
    assert netns.run(place, traffic.who, OUTSIDE_ADDRESS, OUTSIDE_PORT).seen_as == "172.18.0.12"


def test_probe_tells_what_is_reached_from_what_is_not(objects: Objects, layout: Layout) -> None:
    ports = [("TCP", 80), ("UDP", 80), ("SCTP", 80)]
    objects.apply([pod("a"), pod("b", *ports), pod("c", ("TCP", 9))])
    c = running(objects, "c")["status"]["podIP"]
    netns.ip(["route", "add", "blackhole", c], layout.pod_netns("default", "b"))
    rows = probe(layout)
    assert {(r.source, r.target, r.protocol, r.port): r.verdict for r in rows} == {
        ("default/a", "default/b", "SCTP", 80): "allowed",
        ("default/a", "default/b", "TCP", 80): "allowed",
        ("default/a", "default/b", "UDP", 80): "allowed",
        ("default/a", "default/c", "TCP", 9): "allowed",
        ("default/b", "default/c", "TCP", 9): "denied",
        ("default/c", "default/b", "SCTP", 80): "denied",
        ("default/c", "default/b", "TCP", 80): "denied",
        ("default/c", "default/b", "UDP", 80): "denied",
    }


def test_an_answer_of_another_pod_does_not_count(objects: Objects, layout: Layout) -> None:
    objects.apply([pod("a"), pod("b", ("TCP", 80))])
    processes.end(layout, ["pod.default.b"])
    place = layout.pod_netns("default", "b")
    processes.spawn_server(layout, "impostor", place, "default/x", [("TCP", 80)])
    assert [row.verdict for row in probe(layout)] == ["denied"]


@pytest.mark.parametrize("half", ["whole", "without records", "without files"])
def test_down_takes_everything_from_any_state(objects: Objects, layout: Layout, half: str) -> None:
    objects.apply([pod("a", ("TCP", 80))])
    stray = processes.spawn(layout, "stray", layout.node_netns("node1"), ["sleep", "60"])
    while Path(f"/proc/{stray}/comm").read_text() != "sleep\n":
        time.sleep(0.001)  # still on its way into the namespace
    layout.bpffs_of("node1").mkdir(parents=True)
    if half == "without records":
        for record in layout.processes.iterdir():
            record.unlink()
    if half == "without files":
        layout.spec.unlink()
        (layout.manifests / "pod.default.a.yaml").unlink()
    assert cluster.down(layout)
    assert processes.start_time(stray) is None
    assert netns.matching(layout.netns_prefix) == []
    assert not any(BPFFS_ROOT.glob(f"cubelet-{layout.name}*"))
    assert not layout.root.exists()
    assert not layout.lock.exists()
    assert not cluster.down(layout)


def test_two_labs_have_nothing_in_common(objects: Objects, layout: Layout) -> None:
    objects.apply([pod("a", ("TCP", 80)), pod("b")])
    assert not cluster.down(Layout(layout.name[:-1]))
    assert not cluster.down(Layout(f"{layout.name}y"))
    assert [row.verdict for row in probe(layout)] == ["allowed"]
