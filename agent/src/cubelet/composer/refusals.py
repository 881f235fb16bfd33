"""Remembers which sources the kernel has refused: to compile them again would lead to the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cubelet.composer.compiler import Compile, Compiled, source_identity
from cubelet.composer.errors import CompileError
from cubelet.composer.source import Source

_KEPT: Final = 64
"""Refusals that are remembered: more than finding a cube at fault takes."""


class Refusals:
    """Compiles as ``compile`` does. ``known`` are earlier refusals, by the source's identity."""

    def __init__(self, compile: Compile, known: Mapping[str, str]) -> None:
        self._compile = compile
        self._known: dict[str, CompileError] = {}
        for identity, text in known.items():
            error = CompileError("", "", 0, text, "", refused=True)
            error.identity = identity
            self._known[identity] = error

    def __call__(self, source: Source, cache: Path) -> Compiled:
        """What ``compile`` returns or raises; what is known to be refused is not compiled."""
        known = self._known.get(source_identity(source))
        if known is not None:
            raise known.with_traceback(None)
        try:
            return self._compile(source, cache)
        except CompileError as error:
            if error.refused:
                self._known[error.identity] = error
                while len(self._known) > _KEPT:
                    del self._known[next(iter(self._known))]
            raise
