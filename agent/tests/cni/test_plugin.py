"""Both plugins, run as a container runtime runs them; an agent's socket answers them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cubelet.cni import errors, install, plugin
from cubelet.cni.errors import CniError
from cubelet.cni.plugin import VERSIONS
from cubelet.cni.relay import Reply, relay
from cubelet.ipc.client import DEFAULT_SOCKET, AgentError
from cubelet.ipc.server import AgentServer

SOURCE = Path(install.__file__).with_name("cubelet-cni.c")
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")
ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
    "CNI_PATH": "/opt/cni/bin",
}
NODE_WIDE = {"CNI_PATH": "/opt/cni/bin"}


@dataclass
class Agent:
    """Answers `cni` as told and keeps what it was asked; `plugin` is run against it.

    It listens where the plugin looks unless a configuration says otherwise.
    """

    plugin: list[str]
    path: Path

    def __post_init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.result: dict[str, Any] = {}
        self.error: AgentError | None = None

    async def handle(self, params: Mapping[str, Any]) -> Reply:
        return await relay(self._serve, params)

    async def _serve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(params)
        if self.error is not None:
            raise self.error
        return self.result

    def run(self, env: Mapping[str, str], config: Any, methods: Any = None) -> tuple[int, Any]:
        """Run the plugin while the agent is there."""

        async def main() -> tuple[int, Any]:
            handlers = {"cni": self.handle} if methods is None else methods
            server = AgentServer(self.path, handlers)
            await server.start()
            try:
                return await asyncio.to_thread(self.run_alone, env, config)
            finally:
                await server.stop()

        return asyncio.run(main())

    def run_alone(self, env: Mapping[str, str], config: Any) -> tuple[int, Any]:
        """Exit status and output of the plugin; `config` is sent as it is if it is no object."""
        sent = config if isinstance(config, str | bytes) else json.dumps(config)
        done = subprocess.run(
            self.plugin,
            # The process ends, and with it all that it holds.
            env={**env, "ASAN_OPTIONS": "detect_leaks=0"},
            input=sent.encode() if isinstance(sent, str) else sent,
            capture_output=True,
            timeout=20,
        )
        assert done.stderr == b""
        said = done.stdout.decode(errors="replace")  # a path may be named that is no text
        return done.returncode, json.loads(said) if said else None


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], Path]]:
    """How each plugin is run, and where it looks for an agent: not where a real one may be."""
    folder = tmp_path_factory.mktemp("plugin")
    path = folder / "agent.sock"
    script = folder / "plugin.py"
    text = install.script().replace(DEFAULT_SOCKET.encode(), str(path).encode())
    script.write_bytes(text.replace(b"TIMEOUT = 60.0", b"TIMEOUT = 1.0"))
    script.chmod(0o755)
    program, checked = folder / "cubelet-cni", folder / "checked"
    where = [f'-DDEFAULT_SOCKET="{path}"', "-DTIMEOUT_SECONDS=1"]
    for target, flags in (
        (program, ["-static", "-Os"]),
        (checked, ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]),
    ):
        subprocess.run(["cc", *WARNINGS, *flags, *where, "-o", target, SOURCE], check=True)
    return {
        name: ([str(file)], path)
        for name, file in (("C", program), ("Python", script), ("checked", checked))
    }


@pytest.fixture(params=["C", "checked", "Python"])
def agent(request: pytest.FixtureRequest, plugins: dict[str, tuple[list[str], Path]]) -> Agent:
    return Agent(*plugins[request.param])


@pytest.fixture
def checked(plugins: dict[str, tuple[list[str], Path]]) -> Agent:
    """The C program, which ends with words on stderr when it does what C does not define."""
    return Agent(*plugins["checked"])


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
        ("CHECK", errors.TRY_AGAIN_LATER),
        ("GC", errors.TRY_AGAIN_LATER),
        ("STATUS", errors.NOT_AVAILABLE),
    ],
)
def test_without_an_agent_the_error_names_socket_and_remedy(
    agent: Agent, command: str, code: int
) -> None:
    error = failed(agent.run_alone({**ADD, "CNI_COMMAND": command}, config(agent)), code)
    assert str(agent.path) in error["msg"]
    assert "cubelet agent" in error["details"]


DEL = {**ADD, "CNI_COMMAND": "DEL"}


def noted(agent: Agent) -> set[str]:
    """The deletions that the plugin has noted; none are left."""
    folder = agent.path.with_name(agent.path.name + plugin.DELETIONS_SUFFIX)
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    shutil.rmtree(folder, ignore_errors=True)
    return names


def test_del_without_an_agent_succeeds_and_is_noted(agent: Agent) -> None:
    for _ in range(2):
        assert agent.run_alone(DEL, config(agent)) == (0, None)
    assert agent.run_alone({**DEL, "CNI_IFNAME": "net1"}, config(agent)) == (0, None)
    assert noted(agent) == {"c0ffee:eth0", "c0ffee:net1"}


def test_del_is_noted_when_the_agent_does_not_answer(agent: Agent) -> None:
    agent.path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(agent.path))
        listener.listen()
        assert agent.run_alone(DEL, config(agent)) == (0, None)  # nobody accepts
        assert noted(agent) == {"c0ffee:eth0"}
        thread = threading.Thread(target=accept_and_close_all, args=(listener,))
        thread.start()
        assert agent.run_alone(DEL, config(agent)) == (0, None)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    agent.path.unlink()
    assert noted(agent) == {"c0ffee:eth0"}


def test_del_succeeds_where_no_agent_ever_ran(agent: Agent, tmp_path: Path) -> None:
    socket_path = tmp_path / "gone" / "agent.sock"
    assert agent.run_alone(DEL, {**config(agent), "socket": str(socket_path)}) == (0, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"CNI_CONTAINERID": ""},
        {"CNI_CONTAINERID": "../c0ffee"},
        {"CNI_CONTAINERID": ".c0ffee"},
        {"CNI_IFNAME": ""},
        {"CNI_IFNAME": "../eth0"},
    ],
)
def test_what_cannot_be_noted_is_an_error(agent: Agent, changed: dict[str, str]) -> None:
    failed(agent.run_alone({**DEL, **changed}, config(agent)), errors.TRY_AGAIN_LATER)
    assert noted(agent) == set()


def test_a_del_that_cannot_be_written_is_an_error(agent: Agent) -> None:
    folder = agent.path.with_name(agent.path.name + plugin.DELETIONS_SUFFIX)
    folder.write_text("")
    failed(agent.run_alone(DEL, config(agent)), errors.TRY_AGAIN_LATER)
    folder.unlink()


def test_version_needs_no_agent(agent: Agent) -> None:
    status, answer = agent.run_alone({"CNI_COMMAND": "VERSION"}, {"cniVersion": "1.0.0"})
    assert status == 0
    assert answer == {"cniVersion": "1.0.0", "supportedVersions": list(VERSIONS)}


def test_version_needs_no_input(agent: Agent) -> None:
    assert agent.run_alone({"CNI_COMMAND": "VERSION"}, "") == (
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
    error = failed(agent.run({**ADD, **changed}, config(agent)), errors.INVALID_ENVIRONMENT)
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
def test_a_bad_configuration_has_its_code(agent: Agent, text: str, code: int) -> None:
    assert failed(agent.run(ADD, text), code)["cniVersion"] == "1.1.0"


def test_an_ipam_section_is_refused_by_name_and_value(agent: Agent) -> None:
    error = failed(
        agent.run(ADD, config(agent, ipam={"type": "host-local"})), errors.UNSUPPORTED_FIELD
    )
    assert 'ipam: {"type": "host-local"}' in error["msg"]


@pytest.mark.parametrize(
    ("command", "too_old"), [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")]
)
def test_commands_newer_than_the_configuration_are_refused(
    agent: Agent, command: str, too_old: str
) -> None:
    outcome = agent.run({**ADD, "CNI_COMMAND": command}, config(agent, too_old))
    failed(outcome, errors.INCOMPATIBLE_VERSION)


def test_an_answer_that_is_no_cni_error_gets_a_code_of_ours(agent: Agent) -> None:
    error = failed(agent.run(ADD, config(agent), methods={}), errors.INTERNAL)
    assert "unknown method" in error["msg"]
    assert error["details"].startswith("known:")


def test_text_arrives_as_it_was_said(agent: Agent) -> None:
    """Quotes, backslashes, line ends and other alphabets, there and back."""
    strange = 'a "b" \\ \n\t\x01 \x7f é € 𝄞'
    agent.result = {"cniVersion": "1.1.0", "dns": {"search": [strange]}}
    env = {**ADD, "CNI_NETNS": '/run/é "netns"\\\n', "CNI_ARGS": "A=é\x01"}
    sent = config(agent, extra=strange)
    assert agent.run(env, json.dumps(sent, ensure_ascii=False)) == (0, agent.result)
    assert agent.asked[0]["config"] == sent
    assert agent.asked[0]["netns"] == env["CNI_NETNS"]
    assert agent.asked[0]["args"] == {"A": "é\x01"}


def test_the_configurations_own_socket_is_used(agent: Agent, tmp_path: Path) -> None:
    """Whatever stands around it, and the last one if there are two."""
    elsewhere = Agent(agent.plugin, tmp_path / "other.sock")
    plain = json.dumps({"prevResult": {"socket": "/no"}, "x": ['{"socket": "', 1, None]})[1:-1]
    rest = '"cniVersion" : "1.1.0"\n,"name":"n","type":"t"'
    text = f'\n {{ {plain},"socket":"/no", "socket" :\t"{elsewhere.path}"\r\n, {rest} }} '
    assert elsewhere.run(ADD, text) == (0, None)
    failed(agent.run_alone(ADD, text), errors.TRY_AGAIN_LATER)


@pytest.mark.parametrize("size", [107, 1000, 5000])
def test_a_path_too_long_for_a_socket_is_no_crash(agent: Agent, size: int) -> None:
    status, error = agent.run_alone(ADD, {"cniVersion": "1.0.0", "socket": "/" + "x" * size})
    assert (status, error["cniVersion"]) == (1, "1.0.0")
    assert error["code"] in (errors.INVALID_CONFIG, errors.TRY_AGAIN_LATER)


def test_a_configuration_has_a_bound(agent: Agent) -> None:
    failed(agent.run(ADD, config(agent, x="y" * plugin.MAX_SIZE)), errors.INVALID_CONFIG)
    # Under the plugin's own bound, over the agent's: what the agent says of it comes through.
    error = failed(agent.run(ADD, config(agent, x='"' * (plugin.MAX_SIZE // 3))), errors.INTERNAL)
    assert "request longer than" in error["msg"]
    assert agent.run(ADD, config(agent, x="y" * (plugin.MAX_SIZE // 2))) == (0, None)


def test_bytes_that_are_no_text_are_refused(agent: Agent) -> None:
    failed(agent.run(ADD, b'{"x": "\xff\xfe"}'), errors.INTERNAL)


def accept_and_close(listener: socket.socket) -> None:
    listener.accept()[0].close()


def accept_and_close_all(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            accept_and_close(listener)


def test_an_agent_that_goes_away_is_told(agent: Agent) -> None:
    agent.path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(agent.path))
        listener.listen()
        thread = threading.Thread(target=accept_and_close, args=(listener,))
        thread.start()
        failed(agent.run_alone(ADD, config(agent)), errors.TRY_AGAIN_LATER)
        thread.join()
    agent.path.unlink()


def test_both_plugins_know_the_same(plugins: dict[str, tuple[list[str], Path]]) -> None:
    """What stands in both, because it must be known without an agent."""
    text = SOURCE.read_text()
    assert f'#define DEFAULT_SOCKET "{DEFAULT_SOCKET}"' in text
    assert f'#define DELETIONS_SUFFIX "{plugin.DELETIONS_SUFFIX}"' in text
    assert f"#define TIMEOUT_SECONDS {plugin.TIMEOUT:.0f}" in text
    assert plugin.DEFAULT_SOCKET == DEFAULT_SOCKET
    for name in ("IO_FAILURE", "INVALID_CONFIG", "TRY_AGAIN_LATER", "NOT_AVAILABLE", "INTERNAL"):
        code = getattr(errors, name)
        assert f'#define {name} "{code}"' in text
        assert getattr(plugin, name, code) == code


def test_the_program_needs_nothing_and_is_small(tmp_path: Path) -> None:
    target = tmp_path / "cubelet-cni"
    install.build_plugin(target)
    assert target.stat().st_size < 1_000_000
    root = tmp_path / "root"
    root.mkdir()
    os.link(target, root / "cubelet-cni")
    done = subprocess.run(
        [shutil.which("chroot") or "chroot", root, "/cubelet-cni"],
        env={"CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["supportedVersions"] == list(VERSIONS)


SEEDS = (
    '{"cniVersion": "1.1.0", "name": "n", "type": "t", "socket": "/nowhere", "x": [{"y": "\\""}]}',
    '{"socket":"\\u002fx","cniVersion":"1.0.0"',
    '{"a":{"b":[1,2,{"c":"d"}]},"socket":""}',
    '[[[{"socket"',
    "",
)


def test_damaged_input_never_crashes_the_program(checked: Agent) -> None:
    """Always an error result, and nothing that the sanitizers object to."""
    random = Random(1)
    for number in range(150):
        text = bytearray(SEEDS[number % len(SEEDS)].encode())
        for _ in range(random.randrange(6)):
            at = random.randrange(len(text) + 1)
            text[at : at + random.randrange(3)] = random.choice(
                (b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\0", b"\xff")
            )
        status, error = checked.run_alone(ADD, bytes(text[: random.randrange(len(text) + 1)]))
        assert status == 1
        assert error["code"] in (errors.TRY_AGAIN_LATER, errors.INVALID_CONFIG)


REPLIES = (
    b"",
    b"\n",
    b"{",
    b'{"result":',
    b'{"result":{"status":0',
    b'{"result":{"output":{}}}',
    b'{"error":{}}',
    b'{"error":{"message":1}}',
    b'{"error":{"message":"m","details":"',
    b"x" * (plugin.MAX_SIZE + 5000),
)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: repr(reply[:40]))
def test_a_damaged_reply_is_an_error_result(checked: Agent, reply: bytes) -> None:
    checked.path.unlink(missing_ok=True)

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as request:
            request.readline()
            try:
                connection.sendall(reply)
            except ConnectionError:
                assert len(reply) > plugin.MAX_SIZE

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(checked.path))
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        status, error = checked.run_alone(ADD, config(checked))
        thread.join()
    checked.path.unlink()
    assert status == 1
    assert error["code"] in (errors.TRY_AGAIN_LATER, errors.INTERNAL)


def test_the_script_imports_next_to_nothing() -> None:
    """It starts once per pod operation: what it imports, every pod pays for."""
    shown = "import sys, cubelet.cni.plugin; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True
    ).stdout.split()
    own = {name for name in loaded if name.partition(".")[0].startswith("cubelet")}
    assert own == {"cubelet", "cubelet.cni", "cubelet.cni.plugin"}
    assert {"msgspec", "structlog", "pyroute2", "asyncio"}.isdisjoint(loaded)


def test_params_of_no_plugin_of_ours_are_refused() -> None:
    async def serve(_: Mapping[str, Any]) -> dict[str, Any]:
        raise CniError(errors.INTERNAL, "not to be reached")

    with pytest.raises(AgentError, match="another version"):
        asyncio.run(relay(serve, {"command": "ADD"}))
