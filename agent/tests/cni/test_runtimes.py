"""What container runtimes send, word for word (`runtimes/`), through both plugins to the agent."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cubelet.cni import errors
from cubelet.cni.call import decode
from cubelet.cni.relay import Reply, relay
from cubelet_hooks.objects import HostPort

from .test_plugin import Agent, agent, checked, config, plugins
from .test_service import Node, node

__all__ = ["agent", "checked", "node", "plugins"]

CALLS = Path(__file__).with_name("runtimes")
ADDED = ("containerd", "crio", "crio-own-hostports", "cri-dockerd")
MAPPED = (HostPort(8080, 80, "TCP", None), HostPort(53, 5353, "UDP", ip_address("192.0.2.1")))
UID = "0b5ef7a1-6c1e-4d6b-9c75-2f6a1c3f8a10"


def recorded(runtime: str, command: str) -> tuple[dict[str, str], str]:
    """The environment and the standard input of a call."""
    text = (CALLS / f"{runtime}-{command}.txt").read_text()
    environment, _, stdin = text.partition("\n\n")
    return dict(line.split("=", 1) for line in environment.splitlines()), stdin


def answer(node: Node, environment: dict[str, str], stdin: str) -> Reply:
    return asyncio.run(relay(node.service.serve, {"env": environment, "stdin": stdin}))


@pytest.mark.parametrize("runtime", ADDED)
def test_a_pod_of_each_runtime_comes_with_its_host_ports_and_goes(node: Node, runtime: str) -> None:
    reply = answer(node, *recorded(runtime, "ADD"))
    assert reply.status == 0, reply
    (port,) = node.ports
    assert (port.key, port.ifname) == ("shop/web-0", "eth0")
    assert port.uid == ("" if runtime == "cri-dockerd" else UID)
    assert port.host_ports == (() if runtime == "crio-own-hostports" else MAPPED)
    assert answer(node, *recorded(runtime, "DEL")) == Reply(0, None)
    assert node.left == ()


def test_a_pod_of_containerd_is_deleted_twice(node: Node) -> None:
    answer(node, *recorded("containerd", "ADD"))
    for runtime in ("containerd", "containerd-again"):
        assert answer(node, *recorded(runtime, "DEL")) == Reply(0, None)
        assert node.left == ()


def test_the_other_calls_of_containerd_are_understood(node: Node) -> None:
    answer(node, *recorded("containerd", "ADD"))
    for command in ("CHECK", "STATUS", "GC"):
        assert answer(node, *recorded("containerd", command)) == Reply(0, None), command
    assert [port.key for port in node.ports] == ["shop/web-0"]


@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize("runtime", ADDED)
def test_both_plugins_hand_it_on(agent: Agent, runtime: str, command: str) -> None:
    environment, stdin = recorded(runtime, command)
    sent = {**json.loads(stdin), "socket": str(agent.path)}
    assert agent.run(environment, json.dumps(sent)) == (0, None)
    call = decode(agent.asked[0])
    assert call.command == command
    assert call.netns == (environment["CNI_NETNS"] if command == "ADD" else "")
    assert call.key == (environment["CNI_CONTAINERID"], "eth0")


def test_members_are_found_as_go_finds_them(node: Node) -> None:
    """In any case, the last of several, and null is none."""
    environment, _ = recorded("containerd", "ADD")
    stdin = """{"CNIVERSION": "1.0.0", "Name": "cubelet", "type": null, "TYPE": "cubelet-cni",
        "ipam": null, "DNS": {"Nameservers": ["10.96.0.10"]}, "runtimeconfig": {"PORTMAPPINGS": [
        {"hostPort": 1, "HOSTPORT": 8080, "containerport": 80, "PROTOCOL": "Tcp", "hostip": null}
    ]}}"""
    reply = answer(node, environment, stdin)
    assert reply.output is not None, reply
    assert reply.output["cniVersion"] == "1.0.0"
    assert reply.output["dns"] == {"nameservers": ["10.96.0.10"]}
    assert node.ports[0].host_ports == MAPPED[:1]
    checks = json.dumps(
        {"CniVersion": "1.0.0", "name": "n", "type": "t", "prevresult": {"IPs": []}}
    )
    refused = answer(node, {**environment, "CNI_COMMAND": "CHECK"}, checks)
    assert refused.output is not None
    assert refused.output["code"] == errors.CHECK_FAILED


def test_both_plugins_find_members_so_too(agent: Agent, tmp_path: Path) -> None:
    elsewhere = Agent(agent.plugin, tmp_path / "other.sock")
    sent = {k: v for k, v in config(agent, "1.0.0").items() if k not in ("socket", "cniVersion")}
    said = {"cniversion": "1.0.0", "socket": "/no", "Socket": str(elsewhere.path), **sent}
    assert elsewhere.run(recorded("containerd", "ADD")[0], said) == (0, None)
    status, error = agent.run_alone(recorded("containerd", "ADD")[0], said)
    assert (status, error["cniVersion"]) == (1, "1.0.0")
    assert str(elsewhere.path) in error["msg"]


@pytest.mark.parametrize(
    "stdin",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"cniVersion": "9.9.9", "name": "n", "type": "t"}',
        '{"cniVersion": "1.0.0", "name": "n", "type": "t", "ipam": {"type": "host-local"}}',
        '{"cniVersion": "1.0.0", "name": "n", "type": "t", "runtimeConfig": {"portMappings": 1}}',
        '{"cniVersion": "1.0.0", "name": "n", "type": "t", "prevResult": [], "socket": 7}',
    ],
)
def test_del_needs_to_understand_the_container_alone(node: Node, stdin: str) -> None:
    answer(node, *recorded("containerd", "ADD"))
    environment, _ = recorded("containerd", "DEL")
    asked: dict[str, Any] = {**environment, "CNI_ARGS": "K8S_POD_NAME"}
    assert answer(node, asked, stdin) == Reply(0, None)
    assert node.left == ()


def test_an_attachment_of_containerd_is_that_of_the_conventions() -> None:
    """The two ways to write a mapping mean the same."""
    made = []
    for runtime in ("containerd", "crio"):
        environment, stdin = recorded(runtime, "ADD")
        params = asyncio.run(said(environment, stdin))
        made.append(decode(params).port_mappings)
    assert [each.decoded for each in made[0]] == [each.decoded for each in made[1]] == list(MAPPED)


async def said(environment: dict[str, str], stdin: str) -> dict[str, Any]:
    """The params that a call becomes."""
    asked: list[Any] = []

    async def serve(params: Any) -> dict[str, Any]:
        asked.append(params)
        return {}

    await relay(serve, {"env": environment, "stdin": stdin})
    return dict(asked[0])
