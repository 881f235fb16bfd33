"""A folder on the import path with a package of a cube, as pip keeps it, and agents that start."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

from cubelet.cubes.discovery import Discovery
from cubelet.cubes.keeping import Keeper
from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP

CUBE = """
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import hookimpl
from . import number

class Gate(Cube):
    kind = "gate"
    essential = {essential}
    inward = frozenset({{"pod"}})
    release = number.NUMBER

    def late(self):
        from .late import NUMBER
        return NUMBER

@hookimpl
def cubelet_cubes():
    return [Gate]
"""


class Site:
    """A folder on the import path, as pip keeps it, with one package or none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site-packages"
        self.folder.mkdir()
        self.package = self.folder / "cubelet_gate"
        self.state = folder / "state"

    def install(self, number: int, essential: bool = True, broken: str = "") -> None:
        self.uninstall()
        (self.package / "bpf").mkdir(parents=True)
        (self.package / "__init__.py").write_text(CUBE.format(essential=essential) + broken)
        (self.package / "number.py").write_text(f"NUMBER = {number}\n")
        (self.package / "late.py").write_text(f"NUMBER = {number}\n")
        (self.package / "bpf/gate.bpf.c").write_text(f"// {number}\n")
        info = self.folder / f"cubelet_gate-0.{number}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: cubelet-gate\nVersion: 0.{number}\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\ngate = cubelet_gate\n")

    def uninstall(self) -> None:
        for each in self.folder.iterdir():
            shutil.rmtree(each)

    @property
    def points(self) -> list[EntryPoint]:
        found = distributions(path=[str(self.folder)])
        return [p for dist in found for p in dist.entry_points.select(group=ENTRY_POINT_GROUP)]

    def start(self) -> tuple[Keeper, Discovery]:
        """What an agent does that starts now."""
        self.forget()
        keeper = Keeper(self.state)
        return keeper, keeper.discover(self.points)

    def run(self) -> Discovery:
        """An agent that starts, and whose composition takes over."""
        keeper, found = self.start()
        keeper.took_over(found, {"gate"} & found.cubes.keys())
        return found

    def forget(self) -> None:
        """Forget what was imported, as another process has not imported it."""
        for name in [each for each in sys.modules if each.startswith("cubelet_gate")]:
            del sys.modules[name]
