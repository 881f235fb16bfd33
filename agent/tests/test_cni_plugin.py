"""The executable, run as a container runtime runs it; an agent's socket answers it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cubelet.client import AgentError
from cubelet.cni import errors
from cubelet.cni.request import VERSIONS
from cubelet.server import AgentServer

PLUGIN = Path(sys.executable).with_name("cubelet-cni")
ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
    "CNI_PATH": "/opt/cni/bin",
}
NODE_WIDE = {"CNI_PATH": "/opt/cni/bin"}


class Agent:
    """Answers `cni` as told and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[Mapping[str, Any]] = []
        self.result: Any = {}
        self.error: AgentError | None = None

    async def handle(self, params: Mapping[str, Any]) -> Any:
        self.asked.append(params)
        if self.error is not None:
            raise self.error
        return self.result

    def run(self, env: Mapping[str, str], config: Any) -> tuple[int, Any]:
        async def main() -> tuple[int, Any]:
            server = AgentServer(self.path, {"cni": self.handle})
            await server.start()
            try:
                return await asyncio.to_thread(run, env, config)
            finally:
                await server.stop()

        return asyncio.run(main())


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "agent.sock")


def run(env: Mapping[str, str], config: Any) -> tuple[int, Any]:
    """Exit status and output of the plugin; `config` is sent as it is if it is text."""
    text = config if isinstance(config, str) else json.dumps(config)
    done = subprocess.run(
        [PLUGIN], env=dict(env), input=text, capture_output=True, text=True, timeout=20
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout) if done.stdout else None


def config(agent: Agent, version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    return {
        "cniVersion": version,
        "name": "cubelet",
        "type": "cubelet-cni",
        "socket": str(agent.path),
        **more,
    }


def failed(outcome: tuple[int, Any], code: int) -> dict[str, Any]:
    status, error = outcome
    assert status == 1
    assert set(error) == {"cniVersion", "code", "msg", "details"}
    assert error["code"] == code
    return dict(error)


def test_add_relays_the_call_and_prints_the_result(agent: Agent) -> None:
    agent.result = {"cniVersion": "1.1.0", "ips": [{"address": "10.244.1.2/24"}]}
    sent = config(agent)
    assert agent.run(ADD, sent) == (0, agent.result)
    assert agent.asked == [
        {
            "command": "ADD",
            "container_id": "c0ffee",
            "netns": "/run/netns/pod",
            "ifname": "eth0",
            "args": {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web"},
            "config": sent,
        }
    ]


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
def test_what_is_not_add_prints_nothing(agent: Agent, command: str) -> None:
    env = NODE_WIDE if command in ("GC", "STATUS") else ADD
    assert agent.run({**env, "CNI_COMMAND": command}, config(agent)) == (0, None)
    assert [asked["command"] for asked in agent.asked] == [command]


def test_del_needs_no_netns(agent: Agent) -> None:
    env = {**ADD, "CNI_COMMAND": "DEL", "CNI_NETNS": ""}
    assert agent.run(env, config(agent)) == (0, None)


def test_the_agents_error_becomes_the_plugins(agent: Agent) -> None:
    agent.error = AgentError(errors.ADDRESSES_EXHAUSTED, "none left", "remove pods")
    error = failed(agent.run(ADD, config(agent, "1.0.0")), errors.ADDRESSES_EXHAUSTED)
    assert error == {
        "cniVersion": "1.0.0",
        "code": errors.ADDRESSES_EXHAUSTED,
        "msg": "none left",
        "details": "remove pods",
    }


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("ADD", errors.TRY_AGAIN_LATER),
        ("DEL", errors.TRY_AGAIN_LATER),
        ("STATUS", errors.NOT_AVAILABLE),
    ],
)
def test_without_an_agent_the_error_names_socket_and_remedy(
    agent: Agent, command: str, code: int
) -> None:
    error = failed(run({**ADD, "CNI_COMMAND": command}, config(agent)), code)
    assert str(agent.path) in error["msg"]
    assert "cubelet agent" in error["details"]


def test_version_needs_no_agent() -> None:
    status, answer = run({"CNI_COMMAND": "VERSION"}, {"cniVersion": "1.0.0"})
    assert status == 0
    assert answer == {"cniVersion": "1.0.0", "supportedVersions": list(VERSIONS)}


def test_version_needs_no_input() -> None:
    assert run({"CNI_COMMAND": "VERSION"}, "") == (
        0,
        {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)},
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"CNI_COMMAND": ""}, "CNI_COMMAND"),
        ({"CNI_COMMAND": "add"}, "CNI_COMMAND"),
        ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "../../etc"}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "-c0ffee"}, "CNI_CONTAINERID"),
        ({"CNI_NETNS": ""}, "CNI_NETNS"),
        ({"CNI_IFNAME": ""}, "CNI_IFNAME"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "sixteen-bytes-xx"}, "CNI_IFNAME"),
        ({"CNI_ARGS": "K8S_POD_NAME"}, "CNI_ARGS"),
    ],
)
def test_a_bad_environment_is_named(agent: Agent, changed: Mapping[str, str], named: str) -> None:
    error = failed(run({**ADD, **changed}, config(agent)), errors.INVALID_ENVIRONMENT)
    assert error["msg"].startswith(named)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", errors.DECODE_FAILURE),
        ("", errors.DECODE_FAILURE),
        ("[]", errors.INVALID_CONFIG),
        ('{"cniVersion": "1.1.0", "type": "cubelet-cni"}', errors.INVALID_CONFIG),
        ('{"cniVersion": "1.1.0", "name": "n", "type": "t", "socket": 1}', errors.INVALID_CONFIG),
        ('{"name": "n", "type": "t"}', errors.INCOMPATIBLE_VERSION),
        ('{"cniVersion": "0.2.0", "name": "n", "type": "t"}', errors.INCOMPATIBLE_VERSION),
        ('{"cniVersion": "2.0.0", "name": "n", "type": "t"}', errors.INCOMPATIBLE_VERSION),
        ('{"cniVersion": ["1.0.0"], "name": "n", "type": "t"}', errors.INCOMPATIBLE_VERSION),
    ],
)
def test_a_bad_configuration_has_its_code(text: str, code: int) -> None:
    assert failed(run(ADD, text), code)["cniVersion"] == "1.1.0"


def test_an_ipam_section_is_refused_by_name_and_value(agent: Agent) -> None:
    error = failed(run(ADD, config(agent, ipam={"type": "host-local"})), errors.UNSUPPORTED_FIELD)
    assert 'ipam: {"type": "host-local"}' in error["msg"]


@pytest.mark.parametrize(
    ("command", "too_old"), [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")]
)
def test_commands_newer_than_the_configuration_are_refused(
    agent: Agent, command: str, too_old: str
) -> None:
    outcome = run({**ADD, "CNI_COMMAND": command}, config(agent, too_old))
    failed(outcome, errors.INCOMPATIBLE_VERSION)


def test_an_answer_that_is_no_cni_error_gets_a_code_of_ours(agent: Agent) -> None:
    async def main() -> tuple[int, Any]:
        server = AgentServer(agent.path, {})
        await server.start()
        try:
            return await asyncio.to_thread(run, ADD, config(agent))
        finally:
            await server.stop()

    assert "unknown method" in failed(asyncio.run(main()), errors.INTERNAL)["msg"]


def test_the_plugin_imports_next_to_nothing() -> None:
    """It starts once per pod operation: what it imports, every pod pays for."""
    shown = "import sys, cubelet.cni.plugin; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"msgspec", "structlog", "pyroute2", "asyncio", "cubelet_hooks"}.isdisjoint(loaded)
    assert "cubelet.cni.request" in loaded
