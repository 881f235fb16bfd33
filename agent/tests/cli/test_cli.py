"""The command line, against a stand-in for the agent that listens on a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from cubelet.cli.commands import app
from cubelet.ipc.client import AgentError
from cubelet.ipc.server import AgentServer, Handler

STATUS: dict[str, Any] = {
    "ready": True,
    "node": "node1",
    "addresses": ["172.18.0.11"],
    "pod_cidr": "10.244.1.0/24",
    "composition": {
        "mode": "fused",
        "identity": "3f2a",
        "earlier": [],
        "core": ["bridge", "router"],
        "stacks": {"pod": ["lbrp", "firewall"], "host": []},
    },
    "ports": 2,
    "flows": {"established": 4},
    "waiting": [],
    "problems": [],
}
FLOW: dict[str, Any] = {
    "protocol": "TCP",
    "src": "10.1.0.2",
    "sport": 1000,
    "dst": "10.96.0.1",
    "dport": 80,
    "state": "established",
    "direction": "forward",
    "to_src": "10.1.0.2",
    "to_sport": 1000,
    "to_dst": "10.1.0.5",
    "to_dport": 8080,
    "enters": "pod",
    "enters_ifindex": 7,
    "leaves": "uplink",
    "leaves_ifindex": 2,
    "packets": 3,
    "bytes": 180,
    "idle": 1.4,
    "timeout": 8000,
}
ROUTES = [{"prefix": "0.0.0.0/0", "remote": None, "kind": "uplink"}] * 3
DROP: dict[str, Any] = {
    "time": "2026-01-02T03:04:05.678Z",
    "class": "pod",
    "ifindex": 7,
    "cube": "firewall",
    "stage": "firewall",
    "reason": "denied",
    "text": "no policy allows it",
    "packet": "10.1.0.2:1000 > 10.96.0.1:80 TCP [S]",
    "length": 60,
}
PLUGIN: dict[str, Any] = {
    "kind": "router",
    "distribution": "cubelet-router",
    "version": "0.1.0",
    "hooks": ["cubelet_cubes"],
    "state": "active",
    "reason": "",
    "metrics": [],
    "commands": "",
    "watches": ["budgets.example.com"],
}


class Agent:
    """A stand-in: answers what a test puts into it, and remembers what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = STATUS
        self.tables: dict[str, list[dict[str, Any]]] = {"flows": [FLOW], "routes": ROUTES}
        self.events = [DROP, {"lost": 3}, DROP]
        self.asked: list[Mapping[str, Any]] = []

    async def _status(self, params: Mapping[str, Any]) -> Any:
        return self.status

    async def _plugins(self, params: Mapping[str, Any]) -> Any:
        return [PLUGIN]

    async def _get(self, params: Mapping[str, Any]) -> Any:
        self.asked.append(params)
        if params["noun"] not in self.tables:
            raise AgentError(-1, f"there are no {params['noun']} to show", "known: flows, routes")
        return self.tables[params["noun"]][: params["limit"]]

    async def _monitor(self, params: Mapping[str, Any]) -> AsyncIterator[Any]:
        for event in self.events:
            yield event
        await asyncio.sleep(60)

    def serve(self, ready: threading.Event, stop: threading.Event) -> None:
        async def main() -> None:
            handlers: dict[str, Handler] = {
                "status": self._status,
                "plugins": self._plugins,
                "get": self._get,
                "monitor": self._monitor,
            }
            server = AgentServer(self.path, handlers)
            await server.start()
            ready.set()
            await asyncio.to_thread(stop.wait)
            await server.stop()

        asyncio.run(main())


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    made = Agent(tmp_path / "agent.sock")
    monkeypatch.setenv("CUBELET_SOCKET", str(made.path))
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=made.serve, args=(ready, stop))
    thread.start()
    assert ready.wait(5)
    yield made
    stop.set()
    thread.join(5)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBELET_SOCKET", str(tmp_path / "none.sock"))


def cubelet(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cubelet", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
    )


def test_status_of_a_ready_agent(agent: Agent) -> None:
    result = cubelet("status")
    assert result.exit_code == 0
    assert result.stdout == (
        "ready:         yes\n"
        "node:          node1\n"
        "addresses:     172.18.0.11\n"
        "pod cidr:      10.244.1.0/24\n"
        "composition:   fused 3f2a\n"
        "core:          bridge, router\n"
        "pod stack:     lbrp, firewall\n"
        "host stack:    none\n"
        "ports:         2\n"
        "flows:         established 4\n"
        "waiting:       none\n"
    )


@pytest.mark.parametrize("wrong", [{"ready": False}, {"problems": ["a.yaml: no such kind"]}])
def test_status_of_an_unhealthy_agent_fails(agent: Agent, wrong: dict[str, Any]) -> None:
    agent.status = {**STATUS, **wrong}
    result = cubelet("status")
    assert result.exit_code == 1
    assert ("no such kind" in result.stdout) == ("problems" in wrong)
    document = cubelet("status", "-o", "yaml")
    assert document.exit_code == 1
    assert yaml.safe_load(document.stdout) == agent.status


@pytest.mark.parametrize(
    ("earlier", "said"),
    [(["1b7c"], "fused not in force; of an earlier run: 1b7c"), ([], "none in")],
)
def test_what_forwards_before_a_composition_is_in_force_is_told(
    agent: Agent, earlier: list[str], said: str
) -> None:
    composition = {**STATUS["composition"], "identity": "", "earlier": earlier}
    busy = "a pass has been running for 9 s"
    agent.status = {**STATUS, "composition": composition, "busy": busy}
    shown = cubelet("status").stdout
    assert said in shown
    assert f"busy:          {busy}" in shown


def test_an_unreachable_agent_is_an_error_with_its_remedy(nobody: None) -> None:
    result = cubelet("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no cubelet agent answers on" in result.stderr
    assert "start it with `cubelet agent`" in result.stderr
    result = cubelet("get", "flows", "-o", "json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert "no cubelet agent" in error["message"]
    assert "cubelet agent" in error["detail"]


def test_an_option_says_where_the_agent_listens(agent: Agent, tmp_path: Path) -> None:
    assert cubelet("status", "--socket", str(tmp_path / "other")).exit_code == 1
    assert cubelet("status", "--socket", str(agent.path)).exit_code == 0


def test_flows_have_a_table_of_their_own(agent: Agent) -> None:
    lines = cubelet("get", "flows").stdout.splitlines()
    assert [re.split(" {3,}", line) for line in lines] == [
        ["PROTOCOL", "SOURCE", "DESTINATION", "TRANSLATED", "STATE", "DIRECTION", "IDLE"],
        [
            *("TCP", "10.1.0.2:1000", "10.96.0.1:80"),
            *("10.1.0.2:1000 > 10.1.0.5:8080", "established", "forward", "1s"),
        ],
    ]
    wide = cubelet("get", "flows", "-o", "wide").stdout.splitlines()
    assert [line.split()[-5:] for line in wide] == [
        ["TIMEOUT", "ENTERS", "LEAVES", "PACKETS", "BYTES"],
        ["8000s", "pod/7", "uplink/2", "3", "180"],
    ]


def test_what_is_not_translated_or_has_no_ports_shows_none(agent: Agent) -> None:
    same = {f"to_{name}": FLOW[name] for name in ("src", "dst")}
    ports = dict.fromkeys(("sport", "dport", "to_sport", "to_dport"), 0)
    agent.tables["flows"] = [{**FLOW, **same, **ports, "protocol": "GRE"}]
    row = cubelet("get", "flows").stdout.splitlines()[1].split()
    assert row[:4] == ["GRE", "10.1.0.2", "10.96.0.1", "<none>"]


def test_a_cubes_table_shows_whatever_fields_there_are(agent: Agent) -> None:
    result = cubelet("get", "routes")
    assert result.stdout.splitlines()[:2] == [
        "PREFIX      REMOTE   KIND",
        "0.0.0.0/0   <none>   uplink",
    ]
    assert json.loads(cubelet("get", "routes", "-o", "json").stdout) == ROUTES


def test_an_empty_table_says_so(agent: Agent) -> None:
    agent.tables["routes"] = []
    assert cubelet("get", "routes").stdout == "no routes\n"
    assert cubelet("get", "routes", "-o", "json").stdout == "[]\n"


def test_an_unknown_noun_is_the_agents_error(agent: Agent) -> None:
    result = cubelet("get", "cats")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: there are no cats to show\nknown: flows, routes\n"


def test_rows_beyond_the_limit_are_mentioned(agent: Agent) -> None:
    result = cubelet("get", "routes", "--limit", "2", "-o", "json")
    assert len(json.loads(result.stdout)) == 2
    assert "more than 2 routes" in result.stderr
    whole = cubelet("get", "routes", "--limit", "0", "-o", "json")
    assert (len(json.loads(whole.stdout)), whole.stderr) == (3, "")
    assert [asked["limit"] for asked in agent.asked] == [3, None]


def test_rows_are_chosen_by_the_agent(agent: Agent) -> None:
    cubelet("get", "flows", "--where", "protocol=TCP", "--where", "dport=80")
    assert agent.asked[-1]["where"] == {"protocol": "TCP", "dport": "80"}
    result = cubelet("get", "flows", "--where", "protocol")
    assert result.exit_code == 1
    assert "COLUMN=TEXT" in result.stderr


def test_the_monitor_ends_after_so_many_packets(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    result = cubelet("monitor", "--count", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["TIME", "CLASS", "CUBE", "REASON", "PACKET"]
    assert lines[1].split(maxsplit=4) == [
        *("03:04:05.678", "pod", "firewall", "denied", "10.1.0.2:1000 > 10.96.0.1:80 TCP [S]")
    ]
    assert len(lines) == 3
    assert "3 packets are not shown" in result.stderr


def test_the_monitor_gives_a_document_a_line(agent: Agent) -> None:
    result = cubelet("monitor", "--count", "2", "-o", "json")
    assert list(map(json.loads, result.stdout.splitlines())) == agent.events
    result = cubelet("monitor", "--count", "2", "-o", "yaml")
    assert list(yaml.safe_load_all(result.stdout)) == agent.events


def test_plugins_come_from_the_agent_which_knows_what_is_active(agent: Agent) -> None:
    assert cubelet("plugins").stdout.splitlines() == [
        "KIND     DISTRIBUTION     VERSION   HOOKS           STATE    REASON",
        "router   cubelet-router   0.1.0     cubelet_cubes   active",
    ]
    assert json.loads(cubelet("plugins", "-o", "json").stdout) == [PLUGIN]
    wide = cubelet("plugins", "-o", "wide").stdout.splitlines()
    assert wide[0].split()[-3:] == ["METRICS", "COMMANDS", "WATCHES"]
    assert wide[1].split()[-2:] == ["<none>", "budgets.example.com"]


def test_plugins_are_found_without_an_agent(nobody: None) -> None:
    result = cubelet("plugins", "-o", "json")
    rows = {row["kind"]: row for row in json.loads(result.stdout)}
    assert rows.keys() >= {"bridge", "firewall", "lbrp", "nat", "router"}
    assert rows["router"].keys() == PLUGIN.keys()
    assert {row["state"] for row in rows.values()} <= {"inactive", "quarantined"}


def test_a_doctor_that_finds_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from cubelet.node import doctor

    checks = (doctor.Check("kernel", True, "6.1", ""), doctor.Check("bpffs", False, "no", "mount"))
    monkeypatch.setattr(doctor, "run_checks", lambda: checks)
    result = cubelet("doctor")
    assert result.exit_code == 1
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["NAME", "OK", "DETAIL", "REMEDY"],
        ["kernel", "yes", "6.1"],
        ["bpffs", "no", "no", "mount"],
    ]
    found = json.loads(cubelet("doctor", "-o", "json").stdout)
    assert [check["ok"] for check in found] == [True, False]
    monkeypatch.setattr(doctor, "run_checks", lambda: checks[:1])
    assert cubelet("doctor").exit_code == 0


def test_bad_settings_stop_the_agent_before_it_does_anything(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("nodename: a\n")
    result = process("agent", "--config", str(config))
    assert (result.returncode, result.stdout) == (1, "")
    assert "nodename" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_lab_is_mounted() -> None:
    result = cubelet("lab", "--help")
    assert result.exit_code == 0
    assert {"up", "down", "probe"} <= {
        line.split()[0] for line in result.stdout.splitlines() if line
    }
    result = cubelet("lab", "get", "pods", "--name", "nosuchlab")
    assert (result.exit_code, "not up" in result.stderr) == (1, True)


def test_the_version_is_printed() -> None:
    assert cubelet("version").stdout.startswith("cubelet 0.")


def test_help_has_no_boxes_and_names_every_command() -> None:
    result = cubelet("--help")
    for name in ("agent", "status", "get", "monitor", "plugins", "doctor", "lab", "version"):
        assert f"\n  {name} " in result.stdout
    assert result.stdout.isascii()


def test_asking_the_agent_imports_little(agent: Agent) -> None:
    code = (
        "import sys; from cubelet.cli.commands import app\n"
        "try: app(['status'])\n"
        "finally: print(*sys.modules, file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    heavy = {"kubernetes", "bcc", "pyroute2", "cubelet.lab.cli", "cubelet.bpf", "yaml", "structlog"}
    assert run.returncode == 0
    assert not heavy & set(run.stderr.split())


def test_starting_is_quick() -> None:
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.3, f"{min(taken):.2f} s of CPU time"


def test_a_closed_pipe_is_no_traceback(agent: Agent) -> None:
    agent.tables["routes"] = ROUTES * 5000
    command = f"{sys.executable} -m cubelet get routes --limit 0 | head -n 1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    assert run.stdout.startswith("PREFIX")
    assert "Traceback" not in run.stderr
