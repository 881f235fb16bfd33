"""Each distribution as users get it: sources, C files, licences, entry points and metadata."""

from __future__ import annotations

import configparser
import email.message
import email.parser
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
LICENSES = {"LICENSE", "LICENSES/BSD-2-Clause.txt", "LICENSES/GPL-2.0-only.txt"}
EXPRESSION = "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"


@dataclass(frozen=True)
class Package:
    """A distribution of this repository: its folder, name and import package."""

    folder: Path
    source: Path

    @property
    def name(self) -> str:
        return self.source.name.replace("_", "-")


CUBES = tuple(
    Package(folder, folder / f"src/cubelet_{folder.name}")
    for folder in sorted((ROOT / "plugins").iterdir())
)
HOOKS = Package(ROOT / "hooks", ROOT / "hooks/src/cubelet_hooks")
AGENT = Package(ROOT, ROOT / "agent/src/cubelet")
PACKAGES = (AGENT, HOOKS, *CUBES)

each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
each_cube = pytest.mark.parametrize("package", CUBES, ids=lambda package: package.name)


class Wheel:
    """The members of a built wheel, its metadata and its entry points."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        (self.info,) = {name.split("/")[0] for name in self.members if ".dist-info/" in name}

    @property
    def metadata(self) -> email.message.Message:
        text = self.members[f"{self.info}/METADATA"].decode()
        return email.parser.Parser().parsestr(text, headersonly=True)

    @property
    def entry_points(self) -> dict[str, dict[str, str]]:
        parser = configparser.ConfigParser(delimiters="=")
        parser.read_string(self.members.get(f"{self.info}/entry_points.txt", b"").decode())
        return {section: dict(parser[section]) for section in parser.sections()}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    """All wheels, built once and installed nowhere."""
    built = tmp_path_factory.mktemp("wheels")
    folders = [str(package.folder) for package in PACKAGES]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    command = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(built), *folders]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return {path.name.split("-")[0].replace("_", "-"): Wheel(path) for path in built.iterdir()}


def project(package: Package) -> dict[str, Any]:
    settings: dict[str, Any] = tomllib.loads((package.folder / "pyproject.toml").read_text())
    return dict(settings["project"])


@each_package
def test_a_wheel_holds_every_source_file_and_nothing_else(
    package: Package, wheels: dict[str, Wheel]
) -> None:
    shipped = {name for name in wheels[package.name].members if ".dist-info/" not in name}
    tracked = {
        str(path.relative_to(package.source.parent))
        for path in package.source.rglob("*")
        if path.is_file()
        and not any(part.endswith("cache") or part == "__pycache__" for part in path.parts)
    }
    assert shipped == tracked
    assert f"{package.source.name}/py.typed" in shipped


@each_cube
def test_a_cube_ships_its_c_source_where_the_composer_looks(
    package: Package, wheels: dict[str, Wheel]
) -> None:
    kind = package.folder.name
    source = wheels[package.name].members[f"cubelet_{kind}/bpf/{kind}.bpf.c"].decode()
    assert source.startswith("/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */\n")


@each_cube
def test_a_cube_comes_in_through_the_entry_point_group(
    package: Package, wheels: dict[str, Wheel]
) -> None:
    kind = package.folder.name
    assert wheels[package.name].entry_points == {"cubelet.cubes": {kind: f"cubelet_{kind}.cube"}}


@each_cube
def test_a_cube_needs_only_the_contract(package: Package, wheels: dict[str, Wheel]) -> None:
    assert wheels[package.name].metadata.get_all("Requires-Dist") == ["cubelet-hooks<0.2,>=0.1"]


def test_the_agent_brings_its_commands(wheels: dict[str, Wheel]) -> None:
    assert set(wheels["cubelet"].entry_points["console_scripts"]) == {"cubelet", "cubelet-cni"}


def test_the_contract_ships_the_c_headers(wheels: dict[str, Wheel]) -> None:
    headers = {name for name in wheels["cubelet-hooks"].members if name.endswith(".h")}
    assert headers
    assert all(name.startswith("cubelet_hooks/include/cubelet") for name in headers)


@each_package
def test_metadata_name_the_licence_and_carry_its_texts(
    package: Package, wheels: dict[str, Wheel]
) -> None:
    wheel = wheels[package.name]
    texts = {f"{wheel.info}/licenses/{name}" for name in LICENSES}
    assert wheel.metadata["License-Expression"] == EXPRESSION
    assert set(wheel.metadata.get_all("License-File", [])) == LICENSES
    assert all(len(wheel.members[name]) > 1000 for name in texts)


@each_package
def test_metadata_describe_the_package(package: Package, wheels: dict[str, Wheel]) -> None:
    metadata = wheels[package.name].metadata
    assert metadata["Name"] == package.name
    assert metadata["Summary"] == project(package)["description"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_all_packages_have_one_version() -> None:
    assert len({project(package)["version"] for package in PACKAGES}) == 1


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("agent", "bench", "examples", "hooks", "plugins", "tests")
        for path in sorted((ROOT / folder).rglob("*.[ch]"))
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_c_file_names_its_licence(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    # What does not run in the kernel is licensed as the Python is.
    user = path.name in {"cubelet-cni.c", "connections.c"}
    licence = "Apache-2.0" if user else "GPL-2.0-only OR BSD-2-Clause"
    assert first == f"/* SPDX-License-Identifier: {licence} */"
