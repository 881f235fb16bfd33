"""The agent's side of compiling: starts the builder, keeps its bytecode, explains its errors."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cubelet.bpf.folders import trusted_folder
from cubelet.bpf.kernel import release
from cubelet.composer.core import JUMPS
from cubelet.composer.layout import MapSpec
from cubelet.composer.source import Source

log = structlog.get_logger()
TIMEOUT = 120.0
_DAY = 86_400
_ROOM = 128 << 20
"""Bytes that the cache may take, some 600 compositions: each boot adds some, since ifindexes are
compiled in."""
_CLANG = re.compile(
    r"^(?P<file>[^\s:]+):(?P<line>\d+):\d+: (?:fatal )?error: (?P<text>.*)$", re.MULTILINE
)
_VERIFIER = re.compile(r"^; .*@ (?P<file>[^\s:]+):(?P<line>\d+)$", re.MULTILINE)
_PROCESSED = "processed "
"""First word of the verifier's last line, its statistics."""


class CompileError(Exception):
    """A composition that could not be compiled, or that the verifier refused.

    ``cube`` is the kind at fault ('' when it is the core's own code), ``file`` and ``line`` the
    place in its source, ``log`` the whole output. If not ``final``, time or memory ran out and
    another attempt may succeed.
    """

    def __init__(
        self, cube: str, file: str, line: int, message: str, log: str, final: bool = True
    ) -> None:
        self.final = final
        self.cube, self.file, self.line, self.message, self.log = cube, file, line, message, log
        place = f"{file}:{line}: " if file else ""
        super().__init__(f"cube {cube}: {place}{message}" if cube else f"{place}{message}")


@dataclass(frozen=True)
class Compiled:
    """Bytecode whose map references are positions in ``specs``; ``identity`` hashes its inputs."""

    identity: str
    code: Mapping[str, bytes]
    specs: tuple[MapSpec, ...]
    jumps: Mapping[str, int]


Compile = Callable[[Source, Path, Mapping[str, str]], Compiled]
"""Compiles as :func:`compile_source` does."""
Started = Callable[["subprocess.Popen[str]"], None]
"""Is given the compiling process."""


def compile_source(
    source: Source,
    cache: Path,
    kinds: Mapping[str, str],
    started: Started = lambda process: None,
) -> Compiled:
    """The source's bytecode, from the cache if it was compiled before.

    ``kinds`` maps a C file's name to the kind of cube it belongs to. Raises CompileError, and
    UnsafeFolderError if others could put bytecode into the cache.
    """
    identity = source_identity(source)
    found = find_compiled(source, cache, identity)
    if found is not None:
        return found
    text = _run_builder(source, cache, kinds, started)
    _store(cache / f"{identity}.json", text)
    return _compiled(source, identity, json.loads(text))


def find_compiled(source: Source, cache: Path, identity: str) -> Compiled | None:
    """The bytecode of a source with this identity if the cache has it. Raises UnsafeFolderError."""
    trusted_folder(cache)
    encoded = _load(cache / f"{identity}.json")
    return None if encoded is None else _compiled(source, identity, encoded)


def _compiled(source: Source, identity: str, encoded: Mapping[str, str]) -> Compiled:
    code = {name: base64.b64decode(text) for name, text in encoded.items()}
    return Compiled(identity, code, source.specs, source.jumps)


def source_identity(source: Source) -> str:
    """A hash of the bytecode's inputs: sources, headers, settings and kernel release."""
    digest = hashlib.sha256(platform.release().encode())  # also for what was mended in a patch
    for folder in source.include_folders:
        for header in sorted(folder.rglob("*.h")):
            digest.update(header.read_bytes())
    files = (part for item in sorted(source.files.items()) for part in item)
    for part in (source.text, *files, *source.programs, *source.xdp, str(source.family)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _load(path: Path) -> dict[str, str] | None:
    """The stored bytecode; None if there is none, or if a power cut truncated it."""
    try:
        found: dict[str, str] = json.loads(path.read_text())
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path)  # a recent use keeps it from being removed as one of the oldest
    except (OSError, ValueError):
        return None
    return found


def _store(path: Path, text: str) -> None:
    """Store bytecode and remove the oldest; if that fails, it is compiled again the next time."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        unfinished.write_text(text)
        unfinished.replace(path)
        _make_room(path.parent)
    except OSError as error:
        log.warning("cannot keep what was compiled", path=str(path), error=str(error))
        unfinished.unlink(missing_ok=True)


def _make_room(cache: Path) -> None:
    """Remove the oldest bytecode until the rest fits."""
    found = [(status.st_mtime, status.st_size, path) for path, status in _bytecode(cache)]
    size = 0
    for _, each, path in sorted(found, reverse=True):
        size += each
        if size > _ROOM:
            path.unlink(missing_ok=True)


def _bytecode(cache: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in cache.glob("*.json"):
        with suppress(FileNotFoundError):  # another agent, or test, removes some too
            yield path, path.stat()


def _job(source: Source, cache: Path) -> dict[str, Any]:
    specs = source.specs
    major, minor = release()
    return {
        "text": source.text,
        "files": dict(source.files),
        "include": [str(folder) for folder in source.include_folders],
        "programs": list(source.programs),
        "xdp": list(source.xdp),
        "jumps": dict(source.jumps),
        "jumps_map": next(n for n, spec in enumerate(specs) if spec.name == JUMPS),
        "family": source.family,
        "kernel": major << 8 | minor,
        "cache": str(cache),
        "maps": [
            {
                "name": spec.c_name,
                "type": int(spec.layout.type),
                "key": spec.layout.key_size,
                "value": spec.layout.value_size,
                "entries": spec.layout.max_entries,
                "flags": int(spec.layout.flags),
            }
            for spec in specs
        ],
    }


def _run_builder(source: Source, cache: Path, kinds: Mapping[str, str], started: Started) -> str:
    command = [sys.executable, "-m", "cubelet.composer.builder"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        started(process)
        try:
            said, log = process.communicate(json.dumps(_job(source, cache)), TIMEOUT)
        except subprocess.TimeoutExpired as error:
            process.kill()
            slow = f"the compiler took over {TIMEOUT:.0f} s"
            raise CompileError("", "", 0, slow, "", final=False) from error
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise explain(log, process.returncode, kinds)
    return said


def explain(log: str, status: int, kinds: Mapping[str, str]) -> CompileError:
    """The error in the builder's output, with the cube and source line at fault."""
    clang = _CLANG.search(log)
    if clang:
        return _at(clang, clang["text"], log, kinds)
    places = list(_VERIFIER.finditer(log))
    if places:
        return _at(places[-1], f"refused by the verifier: {_verdict(log)}", log, kinds)
    if _PROCESSED in log:
        return CompileError("", "", 0, f"refused by the verifier: {_verdict(log)}", log)
    last = log.strip().splitlines()[-1] if log.strip() else "no output"
    what = f"the compiler ended by signal {-status}" if status < 0 else last
    return CompileError("", "", 0, what, log, final=False)


def _at(match: re.Match[str], text: str, log: str, kinds: Mapping[str, str]) -> CompileError:
    name = Path(match["file"]).name
    return CompileError(kinds.get(name, ""), name, int(match["line"]), text, log)


def _verdict(log: str) -> str:
    """The verifier's reason for refusing: the line before its statistics."""
    before = log.partition(f"\n{_PROCESSED}")[0].splitlines()
    said = [line for line in before if line.strip() and not line.startswith(("cur ", "old "))]
    return said[-1] if said else ""
