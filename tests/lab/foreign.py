"""Agents with other packages than those installed: some hidden, some of somebody else."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from cubelet.lab import agents, processes

from .world import World

NODE = "node1"
HIDING = """
import sys
from importlib import metadata
real = metadata.entry_points
def entry_points(**params):
    return [point for point in real(**params) if point.name not in {hidden!r}]
metadata.entry_points = entry_points
from cubelet.cli import main
main()
"""
"""The command `cubelet` as it is when packages are not installed."""

QUIET_CUBE = '''
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import hookimpl

class Quiet(Cube):
    """Lets everything through."""
    kind = "quiet"
    inward = frozenset({"pod"})

@hookimpl
def cubelet_cubes():
    return [Quiet]
'''
QUIET_C = """
#include "cubelet.h"

static __always_inline int quiet_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}
"""


def command(world: World, *hidden: str, **settings: Any) -> list[str]:
    """The agent's command line where the cubes of these kinds are not installed."""
    config = world.layout.node(NODE) / "agent.yaml"
    own = agents.settings(world.layout, world.spec, world.node(NODE))
    config.write_text(yaml.safe_dump({**own, **settings}))
    return [sys.executable, "-c", HIDING.format(hidden=hidden), "agent", "--config", str(config)]


def spawn(world: World, argv: list[str], path: Path | None = None) -> None:
    """Start an agent by hand, with packages from a further folder if given."""
    found = os.pathsep.join(filter(None, (str(path or ""), os.environ.get("PYTHONPATH"))))
    processes.spawn(
        world.layout,
        agents.process(world.node(NODE)),
        world.at_node(NODE),
        argv,
        environment={"PYTHONPATH": found} if found else None,
    )


def start(world: World, argv: list[str], path: Path | None = None) -> None:
    """The same, and wait until it is ready."""
    spawn(world, argv, path)
    agents.wait_ready(world.layout, world.spec, lambda _: None)


def install(folder: Path, name: str, code: str, source: str = "") -> Path:
    """What pip leaves of a package `cubelet-NAME` that offers cubes in `cubelet_NAME`.

    Returns the cube's C file, which is there if it has a source.
    """
    package = folder / f"cubelet_{name}"
    (package / "bpf").mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(code)
    file = package / "bpf" / f"{name}.bpf.c"
    if source:
        file.write_text(source)
    _describe(folder, name, f"cubelet_{name}")
    return file


def example(folder: Path, name: str) -> None:
    """What pip leaves of an editable install of the package in examples/NAME."""
    source = Path(__file__).parents[2] / "examples" / name / "src" / f"cubelet_{name}"
    (folder / source.name).symlink_to(source)
    _describe(folder, name, f"cubelet_{name}.cube")


def _describe(folder: Path, name: str, module: str) -> None:
    info = folder / f"cubelet_{name}-0.3.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cubelet-{name}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[cubelet.cubes]\n{name} = {module}\n")


def forget_copies(world: World) -> None:
    """Have the node's agent, which does not run, not know what was in force: as on a new node."""
    shutil.rmtree(world.layout.node(NODE) / "state/cubes", ignore_errors=True)


def plugins(world: World) -> dict[str, dict[str, object]]:
    return {row["kind"]: row for row in world.call(NODE, "plugins")}


def configuration(config: dict[str, Any] | str) -> dict[str, Any]:
    """The ConfigMap of the cluster-wide configuration."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cubelet", "namespace": "kube-system"},
        "data": {"config.yaml": config if isinstance(config, str) else yaml.safe_dump(config)},
    }


def configure(world: World, config: dict[str, Any] | str) -> list[str]:
    """Change the cluster-wide configuration; the problems that it leads to."""
    world.apply(configuration(config))
    return list(world.call(NODE, "status")["problems"])
