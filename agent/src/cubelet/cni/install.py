"""Installs the plugin `cubelet-cni` in the runtimes' folder, as a program without dependencies.

It is the first of these that is available:

1. the program beside this package, compiled when an image was built (`build_plugin`);
2. one compiled here, kept in the cache under a hash of its source, so that this happens once;
3. `plugin.py`, run by this agent's Python, which then has to stay on the host.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import structlog

from cubelet.cni import files

log = structlog.get_logger(__name__)

PLUGIN: Final = "cubelet-cni"

_HERE: Final = Path(__file__).parent
_PREBUILT: Final = _HERE / PLUGIN
_SOURCE: Final = _HERE / f"{PLUGIN}.c"
_SCRIPT: Final = _HERE / "plugin.py"
# musl makes a program of 40 kB, glibc one of 700 kB.
_COMPILERS: Final = ("musl-gcc", "cc", "gcc", "clang")
_FLAGS: Final = ("-std=gnu11", "-static", "-Os", "-s", "-Wall", "-Wextra")
_COMPILE_LIMIT: Final = 60.0  # seconds
_LONGEST_INTERPRETER: Final = 120  # bytes; older kernels cut the first line of a script at 127


class BuildError(Exception):
    """The program could not be compiled; the text says what each compiler said."""


def install_plugin(folder: Path, cache: Path = Path("/var/cache/cubelet")) -> Path:
    """Put the plugin into `folder` and return its path; only written if it differs.

    It is replaced atomically, also while a runtime runs it. A compiled program is kept in `cache`.
    Raises OSError.
    """
    path = folder / PLUGIN
    content = _content(cache)
    if not (os.access(path, os.X_OK) and path.is_file() and path.read_bytes() == content):
        files.write_atomic(path, content, mode=0o755)
    return path


def remove_plugin(folder: Path) -> bool:
    """Take the plugin out of `folder`; False if it was gone. Raises OSError."""
    return files.remove(folder / PLUGIN)


def build_plugin(target: Path) -> None:
    """Compile the plugin to `target`. Raises BuildError or OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    said = []
    with tempfile.TemporaryDirectory(prefix=f".{PLUGIN}", dir=target.parent) as folder:
        made = Path(folder, PLUGIN)
        for compiler in filter(shutil.which, _COMPILERS):
            problem = _compile(compiler, made)
            if not problem:
                os.replace(made, target)
                return
            said.append(f"{compiler}: {problem}")
    raise BuildError("; ".join(said) or f"there is none of {', '.join(_COMPILERS)}")


def script() -> bytes:
    """The plugin in Python, with the line by which the kernel finds its interpreter."""
    # The interpreter that a venv was made from: the plugin has to survive the venv.
    python = os.path.realpath(sys.executable)
    if len(python) > _LONGEST_INTERPRETER or " " in python:
        raise OSError(f"{python} cannot be named as a script's interpreter: install a C compiler")
    # Isolated and without site-packages: nothing of the host changes what it does.
    return f"#!{python} -IS\n".encode() + _SCRIPT.read_bytes()


def _content(cache: Path) -> bytes:
    if _PREBUILT.is_file():
        return _PREBUILT.read_bytes()
    cached = cache / f"{PLUGIN}-{_identity()}"
    try:
        if not cached.is_file():
            build_plugin(cached)
        return cached.read_bytes()
    except (BuildError, OSError) as error:
        log.info("the CNI plugin is a Python script", why=str(error))
        return script()


def _identity() -> str:
    """A hash of machine, compiler flags and source: 16 hexadecimal digits."""
    made_of = (platform.machine().encode(), " ".join(_FLAGS).encode(), _SOURCE.read_bytes())
    return hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]


def _compile(compiler: str, target: Path) -> str:
    """Compile the plugin to `target`; returns the error, '' for none."""
    command = [compiler, *_FLAGS, "-o", str(target), str(_SOURCE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_LIMIT)
    except subprocess.TimeoutExpired:
        return f"not done within {_COMPILE_LIMIT:g} s"
    if done.returncode:
        return (done.stderr.strip() or f"it ended with status {done.returncode}")[-500:]
    return ""
