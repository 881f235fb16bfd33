"""A containerd of one's own: its folders, its socket and its plugins are nobody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .cri import Runtime
from .image import NAME, write_image

_START_LIMIT: Final = 30.0
_END_LIMIT: Final = 30.0
# Without limits of its own: what is tried is pods' network, on machines with any sort of cgroups.
_CONFIG: Final = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/containerd.sock"
[ttrpc]
  address = "{folder}/containerd.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
"""


class Containerd:
    """Runs from entering to leaving the context. `runtime` is its CRI.

    `packages` stands for the `/` of the packages, `plugins` is the folder of the node's plugin. Its
    networks are those in `net.d` beside `folder`.
    """

    runtime: Runtime

    def __init__(self, packages: Path, folder: Path, plugins: Path) -> None:
        self._packages = packages
        self._folder = folder
        self._plugins = plugins
        self._process: subprocess.Popen[bytes] | None = None
        folders = [packages / "usr" / each for each in ("bin", "sbin")]
        path = ":".join(map(str, [*folders, os.environ["PATH"]]))
        self._environment = {**os.environ, "PATH": path}

    @property
    def log(self) -> Path:
        """What it says."""
        return self._folder / "log"

    def __enter__(self) -> Self:
        self._folder.mkdir()
        shutil.copy(self._packages / "usr/lib/cni/loopback", self._plugins)
        config = self._folder / "config.toml"
        config.write_text(
            _CONFIG.format(
                folder=self._folder,
                image=NAME,
                plugins=self._plugins,
                networks=self._folder.with_name("net.d"),
            )
        )
        with self.log.open("wb") as log:
            command = [self._program("containerd"), "--config", str(config)]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        try:
            self._import_image()
        except BaseException:
            self._end()
            raise
        self.runtime = Runtime(self._folder / "containerd.sock")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.runtime.close()
        finally:
            self._end()

    def namespace_of(self, sandbox: str) -> str:
        """The name of a sandbox's network namespace, as `ip netns` has it."""
        spec = json.loads((self._state_of(sandbox) / "config.json").read_text())
        namespaces = spec["linux"]["namespaces"]
        return next(Path(each["path"]).name for each in namespaces if each["type"] == "network")

    def _state_of(self, sandbox: str) -> Path:
        return self._folder / "state/io.containerd.runtime.v2.task/k8s.io" / sandbox

    def _import_image(self) -> None:
        image = self._folder / "pause.tar"
        write_image(image)
        socket = str(self._folder / "containerd.sock")
        importing = [self._program("ctr"), "--address", socket, "--namespace", "k8s.io"]
        importing += ["images", "import", str(image)]
        began = time.monotonic()
        while True:
            done = subprocess.run(importing, capture_output=True, text=True)
            if done.returncode == 0:
                return
            if time.monotonic() - began > _START_LIMIT:
                raise RuntimeError(f"containerd does not start: {done.stderr.strip()}; {self.log}")
            time.sleep(0.2)

    def _program(self, name: str) -> str:
        return str(self._packages / "usr/bin" / name)

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_END_LIMIT)
