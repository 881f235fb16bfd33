"""A virtual environment as the author of a cube has one: what is installed there stays there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

TOOLS = {"cubelet": "cubelet", "pip": "pip", "pytest": "pytest", "python": ""}


class Author:
    """Runs commands in ``folder``, in an environment that also has all that ours has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / ".author/bin"
        venv.create(self._bin.parent, system_site_packages=True, with_pip=False)
        packages = next(self._bin.parent.glob("lib/python*/site-packages"))
        ours = sysconfig.get_path("purelib")
        (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        self.python = self._bin / "python"
        for tool, module in TOOLS.items():
            if module:
                script = f'#!/bin/sh\nexec "{self.python}" -m {module} "$@"\n'
                (self._bin / tool).write_text(script)
                (self._bin / tool).chmod(0o755)

    def run(
        self, command: str, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A line of shell; what it wrote is in the result's stdout, errors too."""
        # Nothing is downloaded: what it needs is here, the build backend too.
        pip = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env={
                **os.environ,
                **pip,
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, command: str, timeout: float = 120, **environment: str) -> str:
        """The same of a command that must succeed: what it wrote."""
        done = self.run(command, timeout, **environment)
        assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout


OURS = Path(sys.executable).parent
"""Where our own tools are: ruff, clang-format."""
