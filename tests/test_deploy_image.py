"""The image, as far as it can be tested without building one: what goes in, and how."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


class Instruction(NamedTuple):
    """A line of a Dockerfile, continuation lines joined."""

    name: str
    text: str


def dockerfile() -> list[Instruction]:
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line[:1] != "#"]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        Instruction(*map(str.strip, line.split(maxsplit=1)))
        for line in joined.splitlines()
        if line.strip()
    ]


def commands(begin: str) -> list[str]:
    """The commands of all RUN instructions that begin so."""
    runs = [each.text for each in dockerfile() if each.name == "RUN"]
    parts = [part.strip() for run in runs for part in run.split("&&")]
    return [part for part in parts if part.startswith(begin)]


class TestImage:
    def test_instructions_are_known_ones(self) -> None:
        names = {each.name for each in dockerfile()}
        assert names == {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "WORKDIR"}

    def test_both_stages_have_one_pinned_base(self) -> None:
        (argument,) = (each.text for each in dockerfile() if each.name == "ARG")
        assert re.fullmatch(r"DEBIAN=debian:\d+\.\d+-slim", argument)
        bases = [each.text for each in dockerfile() if each.name == "FROM"]
        assert bases == ["${DEBIAN} AS build", "${DEBIAN}"]

    def test_packages_are_those_of_a_developers_machine(self) -> None:
        script = (ROOT / "dev").read_text()
        found = re.search(r"^debian_packages=\(([^)]*)\)", script, re.MULTILINE)
        assert found
        installs = commands("apt-get install")
        flags = shlex.split("apt-get install -y --no-install-recommends")
        words = [shlex.split(each) for each in installs]
        assert all(each[: len(flags)] == flags for each in words)
        packages = {package for each in words for package in each[len(flags) :]}
        # The image is built where the plugin has to be compiled.
        assert packages == {*found[1].split(), "gcc", "libc6-dev"}

    def test_no_compiler_is_shipped(self) -> None:
        final = shlex.split(commands("apt-get install")[-1])
        assert not {"gcc", "libc6-dev", "python3-venv"} & set(final)
        assert {"python3-bpfcc", "linux-libc-dev"} <= set(final)

    def test_packages_do_not_ask_and_leave_no_lists(self) -> None:
        environments = [each.text for each in dockerfile() if each.name == "ENV"]
        assert sum("DEBIAN_FRONTEND=noninteractive" in each for each in environments) == 2
        assert len(commands("rm -rf /var/lib/apt/lists/*")) == len(commands("apt-get update")) == 2

    def test_what_is_copied_exists(self) -> None:
        for copied in self.copied():
            assert (ROOT / copied).exists(), copied

    @staticmethod
    def copied() -> list[str]:
        copies = [each.text.split() for each in dockerfile() if each.name == "COPY"]
        return [source for each in copies if "--from=build" not in each for source in each[:-1]]

    @pytest.mark.parametrize(
        ("name", "wanted"), [("requirements", "cubelet"), ("requirements-build", "hatchling")]
    )
    def test_requirements_are_pinned_and_complete(self, name: str, wanted: str) -> None:
        lines = (DEPLOY / f"{name}.txt").read_text().splitlines()
        pins = dict(line.split("==") for line in lines if not line.startswith("#"))
        assert pins.keys() == closure(wanted) - {"cubelet", "cubelet-hooks"}
        installs = [each for each in commands("/opt/") if f"/{name}.txt" in each]
        assert len(installs) == 1
        assert "--no-deps" in installs[0]

    def test_its_commands_build_all_wheels(self, tmp_path: Path) -> None:
        (command,) = commands("/opt/build/bin/pip wheel")
        source, wheels = tmp_path / "src", tmp_path / "wheels"
        for copied in self.copied():
            ignored = shutil.ignore_patterns("__pycache__", "tests")
            if (ROOT / copied).is_dir():
                shutil.copytree(ROOT / copied, source / copied, ignore=ignored)
            else:
                (source / copied).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / copied, source / copied)
        pip = f"{shlex.quote(sys.executable)} -m pip --disable-pip-version-check"
        here = command.replace("/opt/build/bin/pip", pip).replace("/wheels", str(wheels))
        done = subprocess.run(["bash", "-c", here], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        built = {path.name.split("-")[0].replace("_", "-") for path in wheels.iterdir()}
        cubes = {f"cubelet-{path.name}" for path in (ROOT / "plugins").iterdir()}
        assert built == {"cubelet", "cubelet-hooks", *cubes}
        for path in wheels.iterdir():
            with zipfile.ZipFile(path) as wheel:
                assert any(name.endswith("LICENSES/GPL-2.0-only.txt") for name in wheel.namelist())

    def test_the_plugin_is_built_beside_the_package(self, tmp_path: Path) -> None:
        (command,) = commands("/opt/cubelet/bin/python -c")
        package = tmp_path / "cubelet"
        shutil.copytree(ROOT / "agent/src/cubelet", package)
        (package / "cni/cubelet-cni").unlink(missing_ok=True)
        argv = [sys.executable, *shlex.split(command)[1:]]
        subprocess.run(argv, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}, check=True)
        plugin = (package / "cni/cubelet-cni").read_bytes()
        assert plugin.startswith(b"\x7fELF")

    def test_it_starts_the_agent(self) -> None:
        (entry,) = (each.text for each in dockerfile() if each.name == "ENTRYPOINT")
        assert entry == '["cubelet"]'
        scripts = distribution("cubelet").entry_points.select(group="console_scripts")
        assert "cubelet" in scripts.names
        (copied,) = (each.text for each in dockerfile() if "--from=build" in each.text)
        folder = copied.split()[-1]
        (environment,) = (each.text for each in dockerfile() if "PATH=" in each.text)
        assert f"PATH={folder}/bin:" in environment


def closure(name: str, found: set[str] | None = None) -> set[str]:
    """An installed distribution and all that it needs."""
    found = set() if found is None else found
    normal = re.sub(r"[-_.]+", "-", name).lower()
    if normal in found:
        return found
    found.add(normal)
    for line in distribution(name).requires or ():
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            closure(needed.name, found)
    return found
