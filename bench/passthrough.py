"""Cubes that do nothing, to measure the cost of a chain's length by itself."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from cubelet.composer.rename import rename
from cubelet_hooks.cube import PORT_CLASSES, Cube

_SOURCE = Path(__file__).parent / "passthrough.bpf.c"


class Passthrough(Cube):
    """Stands on any port class and lets everything pass."""

    inward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    outward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    file: ClassVar[Path] = _SOURCE

    @classmethod
    def source(cls) -> Path:
        """Its own copy of the source: kinds and file names are unique in a composition."""
        return cls.file


def passthroughs(count: int, folder: Path) -> list[type[Cube]]:
    """Kinds ``pass0``, ``pass1``, ..., their sources written to ``folder``."""
    return [_kind(f"pass{number}", folder) for number in range(count)]


def _kind(kind: str, folder: Path) -> type[Cube]:
    file = folder / f"{kind}.bpf.c"
    file.write_text(rename(_SOURCE.read_text(), "passthrough", kind))
    return type(kind.capitalize(), (Passthrough,), {"kind": kind, "file": file})
