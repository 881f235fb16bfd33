"""The CNI plugin as a container runtime calls it: a process, an environment, JSON both ways."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any

from cubelet.cni.install import PLUGIN
from cubelet.lab import netns

from .world import World


@dataclass(frozen=True)
class Answer:
    """A plugin's exit status and what it printed."""

    status: int
    document: dict[str, Any]

    @property
    def code(self) -> int:
        """The CNI error code; 0 for a success."""
        return int(self.document.get("code", 0)) if self.status else 0

    @property
    def address(self) -> str:
        """The address that an ADD gave, without its prefix length."""
        return str(self.document["ips"][0]["address"]).partition("/")[0]


class Runtime:
    """The calls for one container: `name` is its id and its network namespace."""

    def __init__(self, world: World, node: str, name: str) -> None:
        self._world = world
        self._node = node
        self.id = name
        self.netns = f"{world.layout.netns_prefix}cni-{name}"

    def make(self) -> None:
        """Make the container's namespace."""
        netns.create(self.netns)

    def __call__(
        self, command: str, args: str = "", valid: list[dict[str, str]] | None = None, **config: Any
    ) -> Answer:
        """Call the plugin; `config` goes into the network configuration, `valid` are GC's."""
        folder = self._world.layout.cni_bin(self._node)
        document = {
            "cniVersion": "1.1.0",
            "name": "cubelet",
            "type": PLUGIN,
            "socket": str(self._world.layout.socket(self._node)),
            **({} if valid is None else {"cni.dev/valid-attachments": valid}),
            **config,
        }
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.id,
            "CNI_NETNS": str(netns.path(self.netns)),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(folder),
            "CNI_ARGS": args,
        }
        done = subprocess.run(
            netns.command(self._world.at_node(self._node), [str(folder / PLUGIN)]),
            input=json.dumps(document),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        return Answer(done.returncode, json.loads(done.stdout or "{}"))
