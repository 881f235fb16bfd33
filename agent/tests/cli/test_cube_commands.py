"""`cubelet KIND ...`: a package's own commands, and what they ask of its cube in the agent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cubelet.cli.commands import app
from cubelet.cubes.declarations import OWN_COMMANDS
from cubelet.cubes.questions import Questions
from cubelet.ipc.server import AgentServer
from cubelet_hooks.command import INTERNAL_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, AgentError, ask
from cubelet_hooks.context import Context
from cubelet_hooks.cube import Cube, Settings

CUBE = """
from pathlib import Path
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import hookimpl

class Quota(Cube):
    kind = "quota"
    commands = "{commands}"

    @classmethod
    def source(cls):
        return Path(__file__)

@hookimpl
def cubelet_cubes():
    return [Quota]
"""
COMMANDS = '''
import sys
import typer
from cubelet_hooks.command import AgentError, ask

app = typer.Typer(help="Budgets of pods.")

@app.command()
def left(pod: str, instance: str = "quota") -> None:
    """Print how many bytes a pod may still send."""
    print(ask(instance, "left", pod=pod)["bytes"])

@app.command()
def modules() -> None:
    """Print what has been imported."""
    print(*sys.modules)

@app.command()
def fail() -> None:
    """End with an error of its own."""
    raise AgentError(1, "no such budget", "see: cubelet quota left")
'''


class Quota(Cube):
    """Answers one question."""

    kind = "quota"

    def answer(self, method: str, params: Mapping[str, Any], context: Context) -> object:
        if method == "break":
            raise KeyError("budgets")
        if method != "left":
            return super().answer(method, params, context)
        if params["pod"] != "a":
            raise AgentError(1, f"{params['pod']} has no budget", "see: kubectl get budgets")
        return {"bytes": context.table("budgets")[params["pod"]], "of": self.instance}


class Surroundings:
    """Stands in for an instance's maps."""

    def table(self, name: str) -> Any:
        return {"budgets": {"a": 1000}}[name]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What pip leaves of a package `cubelet-quota`."""
    (tmp_path / "cubelet_quota").mkdir()
    (tmp_path / "cubelet_quota/__init__.py").write_text("")
    (tmp_path / "cubelet_quota/cube.py").write_text(
        CUBE.format(commands="cubelet_quota.commands:app")
    )
    (tmp_path / "cubelet_quota/commands.py").write_text(COMMANDS)
    info = tmp_path / "cubelet_quota-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cubelet-quota\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[cubelet.cubes]\nquota = cubelet_quota.cube\n")
    return tmp_path


@pytest.fixture
def composed() -> list[Cube]:
    return [Quota("quota0", Settings())]


@pytest.fixture
def socket(tmp_path: Path, composed: list[Cube]) -> Iterator[str]:
    """The socket of an agent that runs these cubes."""
    path, ready, stop = tmp_path / "agent.sock", threading.Event(), threading.Event()

    async def serve() -> None:
        surroundings: Any = Surroundings()
        questions = Questions(lambda: composed, lambda _cube: surroundings, asyncio.to_thread)
        server = AgentServer(path, {"cube": questions.ask})
        await server.start()
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    yield str(path)
    stop.set()
    thread.join(5)


def run(package: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    found = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "cubelet", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": found, **variables},
    )


def test_a_command_of_a_cube_asks_it_in_the_agent(package: Path, socket: str) -> None:
    done = run(package, "quota", "left", "a", CUBELET_SOCKET=socket)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1000\n", "")
    done = run(package, "quota", "left", "b", CUBELET_SOCKET=socket)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: b has no budget\nsee: kubectl get budgets\n"
    done = run(package, "quota", "fail")
    assert (done.returncode, done.stderr) == (
        1,
        "error: no such budget\nsee: cubelet quota left\n",
    )


def test_without_an_agent_the_error_says_so(package: Path, tmp_path: Path) -> None:
    done = run(package, "quota", "left", "a", CUBELET_SOCKET=str(tmp_path / "none.sock"))
    assert done.returncode == 1
    assert "no cubelet agent answers on" in done.stderr


def test_only_the_package_that_is_asked_for_is_imported(package: Path) -> None:
    done = run(package, "quota", "modules")
    found = set(done.stdout.split())
    assert {"cubelet_quota.cube", "cubelet_quota.commands"} <= found
    others = {
        "cubelet_nat",
        "cubelet_bridge",
        "cubelet.daemon.agent",
        "kubernetes",
        "bcc",
        "pyroute2",
    }
    assert not others & found


def test_help_names_cubes_without_importing_any(package: Path) -> None:
    (package / "cubelet_quota/cube.py").write_text("raise SystemExit('imported')\n")
    done = run(package, "--help")
    assert done.returncode == 0
    assert "cubelet KIND --help" in done.stdout
    assert {"quota,", "nat,"} <= set(done.stdout.split())


def test_a_cube_has_help_of_its_own(package: Path) -> None:
    done = run(package, "quota", "--help")
    assert done.stdout.startswith("Usage: cubelet quota [OPTIONS] COMMAND [ARGS]...\n")
    assert "Budgets of pods." in done.stdout
    assert "Print how many bytes a pod may still send." in done.stdout


@pytest.mark.parametrize(
    ("word", "hint"),
    [("quoat", "Did you mean 'quota'?"), ("statsu", "Did you mean 'status'?"), ("zzz", "'zzz'")],
)
def test_an_unknown_word_is_an_error_with_suggestions(package: Path, word: str, hint: str) -> None:
    done = run(package, word, "left")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"No such command {word!r}, and no cube of this name is installed." in done.stderr
    assert hint in done.stderr


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"cube.py": "import no_such_module"}, "ModuleNotFoundError"),
        ({"commands.py": "import no_such_module"}, "No module named 'no_such_module'"),
        ({"commands.py": "app = 5"}, "cubelet_quota.commands:app is no Typer application"),
        ({"commands.py": ""}, "has no attribute 'app'"),
        ({"cube.py": CUBE.format(commands="quota")}, "'package.module:app' is expected"),
    ],
)
def test_a_broken_package_is_named_with_its_reason(
    package: Path, broken: dict[str, str], reason: str
) -> None:
    for name, text in broken.items():
        (package / "cubelet_quota" / name).write_text(text)
    done = run(package, "quota", "left", "a")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the commands of quota (cubelet-quota 0.3) cannot be used" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cube_without_commands_says_so(package: Path) -> None:
    done = run(package, "nat", "left")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the cube nat has no commands of its own" in done.stderr


def test_no_kind_can_take_a_command_of_ours() -> None:
    names = get_command(app).list_commands(None)  # type: ignore[attr-defined]
    assert set(names) == OWN_COMMANDS


def test_an_instance_is_found_by_its_name_or_its_kind(composed: list[Cube], socket: str) -> None:
    assert ask("quota0", "left", socket=socket, pod="a") == {"bytes": 1000, "of": "quota0"}
    assert ask("quota", "left", socket=socket, pod="a")["of"] == "quota0"
    composed.append(Quota("quota1", Settings()))
    assert ask("quota1", "left", socket=socket, pod="a")["of"] == "quota1"
    with pytest.raises(AgentError, match="several instances of quota") as caught:
        ask("quota", "left", socket=socket, pod="a")
    assert caught.value.details == "name one of quota0, quota1"
    with pytest.raises(AgentError, match="no instance nat is composed") as caught:
        ask("nat", "left", socket=socket)
    assert "composed is quota0, quota1" in caught.value.details


def test_what_a_cube_does_not_know_or_does_wrong_is_told(socket: str) -> None:
    with pytest.raises(AgentError, match="quota has no method 'rigth'") as caught:
        ask("quota", "rigth", socket=socket)
    assert caught.value.code == UNKNOWN_METHOD
    with pytest.raises(AgentError, match="the cube quota0 failed to answer 'break'") as caught:
        ask("quota", "break", socket=socket)
    assert (caught.value.code, caught.value.details) == (INTERNAL_ERROR, "KeyError('budgets')")


def test_a_question_needs_an_instance_and_a_method() -> None:
    questions = Questions(list, lambda cube: None, asyncio.to_thread)  # type: ignore[arg-type, return-value]
    with pytest.raises(AgentError, match="an instance and a method") as caught:
        asyncio.run(questions.ask({"instance": "quota"}))
    assert caught.value.code == INVALID_REQUEST
