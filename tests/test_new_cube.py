"""`cubelet new`: the package works as it is generated, and nothing of the author's is harmed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cubelet.cli.commands import app
from cubelet.console.output import CommandError
from cubelet.cubes.discovery import check_cube
from cubelet.scaffold.names import LONGEST, check_name
from cubelet.scaffold.render import prototype, render
from cubelet.scaffold.write import write_package
from cubelet_hooks.cube import PORT_CLASSES

from .author import OURS, Author

NAMES = ("a", "dscp", "abcdefghijklmnopqrst")
PORTS = (("pod",), ("pod", "uplink"), PORT_CLASSES)


def new(*words: str) -> Any:
    return CliRunner().invoke(app, ["new", *words])


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("Fast-Path", "cannot be the name of a cube", "such as fastpath"),
        ("a" * (LONGEST + 1), "cannot be the name of a cube", "up to 20"),
        ("skb", "is reserved", "none of bpf"),
        ("get", "one of cubelet's own commands", "such as myget"),
        ("flows", "one of cubelet's own commands, metrics or tables", "such as myflows"),
        ("nat", "cubelet-nat 0.1.0 is installed", "another name"),
        ("hooks", "cubelet-hooks 0.1.0 is installed", "another name"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_remedy(name, message, remedy) -> None:
    with pytest.raises(CommandError) as caught:
        check_name(name)
    assert message in str(caught.value)
    assert remedy in caught.value.detail


@pytest.mark.parametrize("name", NAMES)
def test_other_names_can_be(name: str) -> None:
    check_name(name)


def test_port_classes_that_there_are_not_are_told(tmp_path: Path) -> None:
    found = new("dscp", "--directory", str(tmp_path), "--ports", "pod,door")
    assert found.exit_code == 1
    assert "'door' is no port class" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ports", PORTS, ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_generated_is_formatted(name, ports, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    write_package(folder, render(name, ports))
    c_file = folder / f"src/cubelet_{name}/bpf/{name}.bpf.c"
    for command in (
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "--select", "E,F,I,B,UP,RUF,SIM", "."],
        ["clang-format", "--dry-run", "-Werror", str(c_file)],
    ):
        done = subprocess.run([OURS / command[0], *command[1:]], cwd=folder, capture_output=True)
        assert done.returncode == 0, done
    assert "{{" not in "".join(render(name, ports).values())


def test_what_is_generated_keeps_to_the_contract(tmp_path: Path, monkeypatch) -> None:
    write_package(tmp_path / "package", render("dscp", ("uplink", "pod")))
    monkeypatch.syspath_prepend(str(tmp_path / "package/src"))
    from cubelet_dscp.cube import cubelet_cubes  # type: ignore[import-not-found]

    (cube,) = cubelet_cubes()
    check_cube(cube)
    assert [place.port_class for place in cube.placement] == ["uplink", "pod"]
    assert cube.per_packet == {"pod", "uplink"}
    assert cube.reasons
    assert cube.metrics
    assert cube.shows
    for name in [each for each in sys.modules if each.startswith("cubelet_dscp")]:
        monkeypatch.delitem(sys.modules, name)


def test_prototypes_are_broken_where_they_must() -> None:
    assert prototype("int f", "int a", "int b") == "int f(int a, int b)"
    long = ("char first[40]" + "x" * 40, "char second[40]" + "x" * 40)
    assert prototype("static int fgh", *long) == f"static int fgh({long[0]},\n\t       {long[1]})"


def contents(folder: Path) -> Mapping[str, str]:
    return {
        str(each.relative_to(folder)): each.read_text()
        for each in folder.rglob("*")
        if each.is_file()
    }


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert new("dscp", "--directory", str(tmp_path)).exit_code == 0
    folder = tmp_path / "cubelet-dscp"
    generated = contents(folder)
    (folder / "README.md").write_text("mine")
    (folder / "notes").write_text("mine too")
    refused = new("dscp", "--directory", str(tmp_path))
    assert refused.exit_code == 1
    assert "exists" in refused.stderr
    assert "--force" in refused.stderr
    assert (folder / "README.md").read_text() == "mine"
    assert new("dscp", "--directory", str(tmp_path), "--force").exit_code == 0
    assert contents(folder) == {**generated, "notes": "mine too"}
    assert [each.name for each in tmp_path.iterdir()] == ["cubelet-dscp"]


@pytest.mark.parametrize("there", [False, True])
def test_what_fails_leaves_everything_as_it_was(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    if there:
        write_package(folder, {"a": "old", "sub": "a file where a folder would be"})
    before = contents(tmp_path)
    bad = {"a": "new", "b": "new"} | ({"sub/c": "new"} if there else {"a/c": "new"})
    with pytest.raises(OSError, match=r"directory|exists"):
        write_package(folder, bad, force=there)
    assert contents(tmp_path) == before
    assert [each.name for each in tmp_path.iterdir()] == (["package"] if there else [])


def test_its_own_tests_pass_as_generated(tmp_path: Path) -> None:
    author = Author(tmp_path)
    author.ok("cubelet new dscp --ports pod,uplink")
    author.ok("cd cubelet-dscp && pip install -e '.[test]'")
    said = author.ok("cd cubelet-dscp && pytest -q")
    assert "12 passed" in said
    # A cube that does not do what its tests say is noticed.
    source = tmp_path / "cubelet-dscp/src/cubelet_dscp/bpf/dscp.bpf.c"
    source.write_text(source.read_text().replace("first[1] >> 2", "first[1] >> 3"))
    said = author.run("cd cubelet-dscp && pytest -q -k counted").stdout
    assert "2 failed" in said
