"""Loads compiled programs with their real maps and joins them by the jump table."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cubelet.bpf.constants import ProgType
from cubelet.bpf.fs import ensure_bpffs
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram, VerifierError, load
from cubelet.composer.compiler import Compiled
from cubelet.composer.core import JUMPS
from cubelet.composer.errors import Refusal, explain_refusal
from cubelet.composer.source import EARLY, EGRESS, LOCAL
from cubelet_hooks.cube import PORT_CLASSES


@dataclass(frozen=True)
class Programs:
    """A loaded composition: one entry program per port class, and all others by name.

    There are up to two more, for what devices send: ``local`` and ``egress``.
    """

    identity: str
    entries: Mapping[str, BpfProgram]
    others: Mapping[str, BpfProgram]
    jumps: BpfMap

    @property
    def early(self) -> BpfProgram | None:
        """The program for the uplink's driver, if there is one."""
        return self.others.get(EARLY)

    def close(self) -> None:
        """Close descriptors; what is attached or pinned stays."""
        for program in (*self.entries.values(), *self.others.values()):
            program.close()
        self.jumps.close()

    def pin(self, folder: Path) -> Path:
        """Pin the entries and the jump table, which the kernel empties when its last holder goes.

        Each load has a folder of its own: an earlier load of the same code may still be attached,
        and needs its own jump table.
        """
        place = ensure_bpffs(folder / f"{self.identity}-{self.jumps.info.id}")
        for name, program in self.entries.items():
            program.pin(place / name, replace=True)
        if self.early is not None:
            self.early.pin(place / EARLY, replace=True)
        self.jumps.pin(place / JUMPS, replace=True)
        return place


def program_type(name: str) -> ProgType:
    """The type of one of a composition's programs."""
    return ProgType.XDP if name == EARLY else ProgType.SCHED_CLS


def load_programs(compiled: Compiled, maps: Mapping[str, BpfMap]) -> Programs:
    """Load all programs, without attaching or pinning them.

    Raises BpfError, or CompileError for a program that this kernel does not take though it was
    verified when it was compiled.
    """
    fds = {number: maps[spec.c_name].fd for number, spec in enumerate(compiled.specs)}
    loaded: dict[str, BpfProgram] = {}
    try:
        for name, insns in compiled.code.items():
            loaded[name] = load(insns, name[:15], program_type(name), relocations=fds)
    except VerifierError as error:
        _close(loaded)
        refusal = Refusal(name, error.errno or 0, error.log)
        if not refusal.final:
            raise
        raise explain_refusal(refusal, error.log, compiled.source) from error
    except BaseException:
        _close(loaded)
        raise
    jumps = maps[f"cubelet_{JUMPS}"]
    for name, slot in compiled.source.jumps.items():
        jumps.update(struct.pack("=I", slot), struct.pack("=I", loaded[name].fd))
    entries = {name: loaded.pop(f"cubelet_{name}") for name in PORT_CLASSES}
    for name in (LOCAL, EGRESS):
        if f"cubelet_{name}" in loaded:
            entries[name] = loaded.pop(f"cubelet_{name}")
    return Programs(compiled.identity, entries, loaded, jumps)


def _close(programs: Mapping[str, BpfProgram]) -> None:
    for program in programs.values():
        program.close()
