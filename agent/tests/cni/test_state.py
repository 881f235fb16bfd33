"""Records, addresses and devices: whichever is damaged or lost, pods keep their network."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cubelet.cni import files
from cubelet.cni.attachments import Attachment
from cubelet.cni.note import read_note, write_note
from cubelet.net import NetError

from .test_service import LOCAL, Node, device, name_of, node

__all__ = ["node"]

MAPPINGS = [
    {"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
    {"HostPort": 53, "ContainerPort": 5353, "Protocol": "udp", "HostIP": "2001:db8::1"},
]
HOST_PORTS = {
    "portMappings": [
        {key[0].lower() + key[1:]: value for key, value in mapping.items()} for mapping in MAPPINGS
    ]
}
PODS = ("c1", "c2", "c3")


def record(node: Node, container: str) -> Path:
    return node.state_dir / "attachments" / f"{name_of(container)}.json"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_foreign(path: Path) -> None:
    path.write_text('{"name": "mynet", "type": "bridge"}')


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [truncate, empty, write_foreign, make_folder, remove]
Damage = Callable[[Path], None]


def start_anew(node: Node) -> None:
    """Start the service on what is there, and attach what it knows as a first pass does."""
    node.start()
    node.ports = node.service.load()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("lost", ["records", "addresses", "both"])
def test_what_is_damaged_is_put_together_from_the_rest(
    node: Node, lost: str, damage: Damage
) -> None:
    for container in PODS:
        node.do("ADD", container, runtimeConfig=HOST_PORTS)
    before = sorted(node.ports, key=lambda port: port.ifindex)
    leased = set(node.ipam.leases)
    if lost != "addresses":
        for container in PODS[:2]:
            damage(record(node, container))
    if lost != "records":
        damage(node.state_dir / "ipam.json")
    start_anew(node)
    assert sorted(node.ports, key=lambda port: port.ifindex) == before
    assert set(node.ipam.leases) == leased
    told = list(files.broken(node.state_dir))
    assert bool(told) == (damage is not remove)
    assert all(".unreadable, then remove it" in each for each in told)
    # and all of it is on disk again
    start_anew(node)
    assert sorted(node.ports, key=lambda port: port.ifindex) == before
    assert node.do("ADD", "c4")["ips"][0]["address"] not in {f"{x.address}/24" for x in leased}
    for container in (*PODS, "c4"):
        node.do("DEL", container)
    assert node.left == ()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_the_folder_of_records_may_be_no_folder(node: Node, make: Damage) -> None:
    node.do("ADD")
    before = node.ports
    record(node, "c1").unlink()
    (node.state_dir / "attachments").rmdir()
    make(node.state_dir / "attachments")
    start_anew(node)
    assert node.ports == before
    assert record(node, "c1").exists()


def test_a_record_under_anothers_name_is_not_believed(node: Node) -> None:
    for container in ("c1", "c2"):
        node.do("ADD", container)
    before = sorted(node.ports, key=lambda port: port.ifindex)
    record(node, "c2").write_bytes(record(node, "c1").read_bytes())
    start_anew(node)
    assert sorted(node.ports, key=lambda port: port.ifindex) == before


def test_a_record_of_another_device_gives_way_to_the_devices_own_words(node: Node) -> None:
    """As a folder has that was restored from a backup."""
    node.do("ADD")
    (before,) = node.ports
    document = json.loads(record(node, "c1").read_bytes())
    record(node, "c1").write_text(json.dumps({**document, "ifindex": 999, "name": "other"}))
    start_anew(node)
    assert node.ports == [before]


def test_an_address_belongs_to_who_has_it(node: Node) -> None:
    """The file gives it to a container that is gone, and the pod's own lease is missing."""
    node.do("ADD")
    book = json.loads((node.state_dir / "ipam.json").read_bytes())
    book["leases"][0]["container_id"] = "gone"
    (node.state_dir / "ipam.json").write_text(json.dumps(book))
    start_anew(node)
    assert [(each.address, each.container_id) for each in node.ipam.leases] == [
        ("10.244.1.2", "c1")
    ]


def test_a_device_that_does_not_tell_whose_it_is_is_left_alone(node: Node) -> None:
    """A release that wrote no aliases made it: it keeps its address until the runtime's DEL."""
    node.do("ADD")
    record(node, "c1").unlink()
    node.wiring.annotate(name_of("c1"), "")
    start_anew(node)
    assert node.ports == []
    assert set(node.wiring.links) == {name_of("c1")}
    assert [each.container_id for each in node.ipam.leases] == ["c1"]
    node.do("DEL")
    assert node.left == ()


def test_devices_of_earlier_releases_get_their_alias(node: Node) -> None:
    node.do("ADD")
    noted = node.wiring.links[name_of("c1")].alias
    node.wiring.annotate(name_of("c1"), "")
    start_anew(node)
    assert node.wiring.links[name_of("c1")].alias == noted


@pytest.mark.parametrize("step", ["annotate", "unwire"])
def test_a_device_that_cannot_be_changed_stops_no_agent(node: Node, step: str) -> None:
    node.do("ADD")
    node.wiring.annotate(name_of("c1"), "")
    node.wiring.links["cblx"] = device("cblx", 99, up=False)
    node.wiring.failing[step] = NetError("busy")
    start_anew(node)
    assert [port.key for port in node.ports] == ["shop/pod-c1"]


def attached(node: Node, **changed: Any) -> Attachment:
    node.do("ADD", **changed)
    (attachment,) = node.service._store
    return attachment


def test_a_note_tells_all_that_has_room(node: Node) -> None:
    attachment = attached(node, runtimeConfig=HOST_PORTS)
    note = write_note(attachment)
    assert note == (
        "cubelet pod 10.244.1.2/24 1450 eth0 c1 shop/pod-c1 u1 /run/netns/pod "
        "8080:80/tcp,53:5353/udp@2001:db8::1 cubelet"
    )
    assert read_note(device(name_of("c1"), 11, up=True, alias=note)) == attachment
    long = {"K8S_POD_NAMESPACE": "n" * 63, "K8S_POD_NAME": "p" * 120, "K8S_POD_UID": "u" * 36}
    node.do("DEL")
    short = attached(node, args=long, runtimeConfig=HOST_PORTS)
    note = write_note(short)
    assert len(note) <= 255
    found = read_note(device(name_of("c1"), 12, up=True, alias=note))
    assert found is not None
    assert (found.namespace, found.name, found.uid) == ("n" * 63, "p" * 120, "")


@pytest.mark.parametrize(
    "alias",
    [
        "",
        "cubelet gateway",
        "cubelet pod",
        "cubelet pod 10.244.1.2/24 1450 eth0 c1",
        "cubelet pod 10.244.1.2/24 1450 eth0 c2 shop/pod-c2",
        "cubelet pod 10.244.1.999/24 1450 eth0 c1 shop/pod-c1",
        "cubelet pod 10.244.1.2/24 large eth0 c1 shop/pod-c1",
        "cubelet pod 10.244.1.2/24 1450 eth0 c1 pod-c1",
        "cubelet pod 10.244.1.2/24 1450 eth0 c1 shop/pod-c1 u1 /run/netns/pod 80/tcp",
        "somebody's cubelet pod 10.244.1.2/24 1450 eth0 c1 shop/pod-c1",
    ],
)
def test_other_words_are_no_note(alias: str) -> None:
    assert read_note(device(name_of("c1"), 11, up=True, alias=alias)) is None


def test_the_gateway_is_that_of_the_node(node: Node) -> None:
    """A restored attachment names the gateway by the rule by which the node has it."""
    assert ip_address(attached(node).link.gateway) == LOCAL.gateway
