"""The agent's side of compiling: starts the builder, and keeps its bytecode."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from cubelet.bpf.folders import trusted_folder
from cubelet.bpf.kernel import release
from cubelet.composer.core import JUMPS
from cubelet.composer.errors import REFUSED, CompileError, Refusal, explain, explain_refusal
from cubelet.composer.layout import MapSpec
from cubelet.composer.source import Source

log = structlog.get_logger()
TIMEOUT = 120.0
_DAY = 86_400
_ROOM = 128 << 20
"""Bytes that the cache may take, some 600 compositions: each boot adds some, since ifindexes are
compiled in."""


@dataclass(frozen=True)
class Compiled:
    """A source's bytecode, whose map references are positions in ``specs``.

    ``identity`` hashes its inputs.
    """

    identity: str
    code: Mapping[str, bytes]
    source: Source

    @property
    def specs(self) -> tuple[MapSpec, ...]:
        """The maps."""
        return self.source.specs


Compile = Callable[[Source, Path], Compiled]
"""Compiles as :func:`compile_source` does."""
Started = Callable[["subprocess.Popen[str]"], None]
"""Is given the compiling process."""


def compile_source(
    source: Source, cache: Path, started: Started = lambda process: None
) -> Compiled:
    """The source's bytecode, from the cache if it was compiled before.

    Raises CompileError, and UnsafeFolderError if others could put bytecode into the cache.
    """
    identity = source_identity(source)
    found = find_compiled(source, cache, identity)
    if found is not None:
        return found
    try:
        text = _run_builder(source, cache, started)
    except CompileError as error:
        error.identity = identity
        raise
    _store(cache / f"{identity}.json", text)
    return _compiled(source, identity, json.loads(text))


def find_compiled(source: Source, cache: Path, identity: str) -> Compiled | None:
    """The bytecode of a source with this identity if the cache has it. Raises UnsafeFolderError."""
    trusted_folder(cache)
    encoded = _load(cache / f"{identity}.json")
    return None if encoded is None else _compiled(source, identity, encoded)


def _compiled(source: Source, identity: str, encoded: Mapping[str, str]) -> Compiled:
    code = {name: base64.b64decode(text) for name, text in encoded.items()}
    return Compiled(identity, code, source)


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


def _run_builder(source: Source, cache: Path, started: Started) -> str:
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
    if process.returncode == REFUSED:
        raise explain_refusal(msgspec.json.decode(said, type=Refusal), log, source)
    if process.returncode != 0:
        raise explain(log, process.returncode, source)
    return said
