"""Host ports as container runtimes pass them (CNI conventions: the capability portMappings)."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cubelet.cni import errors
from cubelet.cni.attachments import Attachment, AttachmentStore
from cubelet.cni.call import Call, decode
from cubelet.cni.errors import CniError
from cubelet.cni.request import read_config
from cubelet.net.pods import PodLink, host_ifname
from cubelet_hooks.objects import HostPort

LINK = PodLink(
    netns="/run/netns/pod",
    ifname="eth0",
    mac="02:00:00:00:01:01",
    host_ifname=host_ifname("c1", "eth0"),
    host_mac="02:00:00:00:02:01",
    address="10.244.1.5",
    prefix_length=24,
    gateway="10.244.1.1",
    mtu=1500,
    route_mtu=1450,
)


def call(**config: Any) -> Call:
    document = {"cniVersion": "1.1.0", "name": "cubelet", "type": "cubelet-cni", **config}
    return decode(
        {
            "command": "ADD",
            "container_id": "c1",
            "netns": LINK.netns,
            "ifname": LINK.ifname,
            "args": {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web", "K8S_POD_UID": "u1"},
            "config": read_config(json.dumps(document)),
        }
    )


def mapped(*mappings: Any) -> tuple[HostPort, ...]:
    """What cubes see of a pod that was added with these port mappings."""
    asked = call(runtimeConfig={"portMappings": list(mappings)})
    return Attachment.of(asked, LINK, 7).port.host_ports


def test_the_ports_of_an_attachment_are_those_that_the_runtime_passed() -> None:
    assert mapped(
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
        {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"hostPort": 3868, "containerPort": 3868, "protocol": "sctp", "hostIP": "::"},
        {"hostPort": 81, "containerPort": 81},
        {"hostPort": 82, "containerPort": 82, "protocol": "", "hostIP": None},
    ) == (
        HostPort(8080, 80, "TCP", None),
        HostPort(53, 5353, "UDP", ip_address("192.0.2.1")),
        HostPort(3868, 3868, "SCTP", ip_address("::")),
        HostPort(81, 81, "TCP", None),
        HostPort(82, 82, "TCP", None),
    )


@pytest.mark.parametrize(
    "mapping",
    [
        {"hostPort": 0, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": -1, "containerPort": 0, "protocol": "icmp", "hostIP": "node1"},
        {"containerPort": 80},
        {"HostPort": 0, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
    ],
)
def test_a_port_that_asks_for_none_of_the_nodes_is_left_out(mapping: dict[str, Any]) -> None:
    assert mapped(mapping) == ()


@pytest.mark.parametrize(
    "config", [{}, {"runtimeConfig": None}, {"runtimeConfig": {"portMappings": None, "ips": []}}]
)
def test_a_runtime_need_not_pass_any(config: dict[str, Any]) -> None:
    assert Attachment.of(call(**config), LINK, 7).port.host_ports == ()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"protocol": "icmp"}, "protocol 'icmp' is none of TCP, UDP and SCTP"),
        ({"hostIP": "node1"}, "'node1' does not appear to be an IPv4 or IPv6 address"),
        ({"hostPort": 65536}, "<= 65535"),
        ({"hostPort": "80"}, "Expected `int`, got `str`"),
        ({"containerPort": 0}, "containerPort is 0"),
        ({"containerPort": -1}, ">= 0"),
    ],
)
def test_a_mapping_of_another_shape_is_refused_and_named(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(CniError) as caught:
        mapped({"hostPort": 80, "containerPort": 80, "protocol": "tcp", **wrong})
    assert caught.value.code == errors.INVALID_CONFIG
    assert told in caught.value.details
    assert "$.config.runtimeConfig.portMappings[0]" in caught.value.details


def test_a_restarted_agent_knows_them(tmp_path: Path) -> None:
    asked = {"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "192.0.2.1"}
    made = Attachment.of(call(runtimeConfig={"portMappings": [asked]}), LINK, 7)
    AttachmentStore(tmp_path).save(made)
    assert [each.port for each in AttachmentStore(tmp_path)] == [made.port]


def test_a_record_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    made = Attachment.of(call(), LINK, 7)
    record = msgspec.to_builtins(made)
    del record["port_mappings"]
    (tmp_path / f"{LINK.host_ifname}.json").write_bytes(msgspec.json.encode(record))
    assert list(AttachmentStore(tmp_path)) == [made]
