"""BPF programs: relocation of map references, loading, inspection, trial runs."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cubelet.bpf.assembly import Assembly
from cubelet.bpf.attrs import ProgInfoStruct, ProgLoad
from cubelet.bpf.btf import function_table, load_functions
from cubelet.bpf.constants import AttachType, Cmd, ProgType
from cubelet.bpf.objects import BpfObject, get_info, open_pin
from cubelet.bpf.syscalls import BpfError, address_of, bpf, kernel_name
from cubelet.bpf.testrun import TestRun, run

INSN_SIZE = 8
"""Bytes of one instruction; a 64-bit immediate load takes two."""

_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1
_PSEUDO_MAP_VALUE = 2
_LOG_BYTES = 16 << 20
_LOG_INSNS = 1
LOG_STATS = 4
"""Has the verifier log its reason and figures alone (``BPF_LOG_STATS``). A log with instructions
overflows before Linux 6.4 if it took many, and has no reason then."""
_MAX_MAPS = 64
"""The verifier's own limit of maps in one program."""


class VerifierError(BpfError):
    """A program that the kernel refused; `log` is the verifier's, its last line the reason."""

    def __init__(self, code: int, action: str, subject: str, remedy: str, log: str) -> None:
        super().__init__(code, action, subject, remedy)
        self.log = log

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.log}" if self.log else super().__str__()

    def __reduce__(self) -> tuple[type[BpfError], tuple[object, ...]]:
        kind, arguments = super().__reduce__()
        return kind, (*arguments, self.log)


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program: lengths in bytes, `tag` a hash of its instructions."""

    id: int
    name: str
    type: int
    tag: str
    xlated_length: int
    jited_length: int
    verified_insns: int
    map_ids: tuple[int, ...]


class BpfProgram(BpfObject):
    """An open, verified program."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, f"program {name}")
        self.name = name
        self.id = self.info().id

    @classmethod
    def open(cls, path: Path | str) -> BpfProgram:
        """The program pinned at `path`, named after its pin."""
        return cls(open_pin(path, "program"), Path(path).name)

    def info(self) -> ProgramInfo:
        """The kernel's account of the program, read now."""
        ids = (ctypes.c_uint32 * _MAX_MAPS)()
        asked = ProgInfoStruct(nr_map_ids=_MAX_MAPS, map_ids=ctypes.addressof(ids))
        info = get_info(self.fd, asked, self.label)
        return ProgramInfo(
            id=info.id,
            name=info.name.decode(),
            type=info.type,
            tag=bytes(info.tag).hex(),
            xlated_length=info.xlated_prog_len,
            jited_length=info.jited_prog_len,
            verified_insns=info.verified_insns,
            map_ids=tuple(ids[: info.nr_map_ids]),
        )

    def test_run(self, packet: bytes, repeat: int = 1, ctx_in: bytes | None = None) -> TestRun:
        """Run on `packet` without a device; see `testrun.run`."""
        return run(self.fd, self.label, packet, repeat, ctx_in)


def load(
    insns: bytes,
    name: str,
    prog_type: ProgType = ProgType.SCHED_CLS,
    license: str = "Dual BSD/GPL",
    attach_type: AttachType = AttachType.NONE,
    relocations: Mapping[int, int] | None = None,
    log_level: int = _LOG_INSNS,
) -> BpfProgram:
    """Load bytecode, after `relocations` has turned its map references into descriptors.

    Raises `VerifierError` with the verifier's log, made by `log_level`, where the kernel refuses
    the program.
    """
    code = insns if relocations is None else relocate(insns, relocations)
    declared = license.encode()
    attr = ProgLoad(
        prog_type=prog_type,
        insn_cnt=len(code) // INSN_SIZE,
        insns=address_of(code),
        license=address_of(declared),
        prog_name=kernel_name(name),
        expected_attach_type=attach_type,
    )
    label = f"program {name}"
    try:
        return BpfProgram(bpf(Cmd.PROG_LOAD, attr, "load", label), name)
    except BpfError:
        return BpfProgram(_load_with_log(attr, label, log_level), name)


def load_assembly(assembly: Assembly, name: str, functions: Sequence[str]) -> BpfProgram:
    """Load a tc program put together by hand, whose ``functions`` (labels) are callbacks.

    Needs Linux 5.13. Raises BpfError, or VerifierError with the verifier's log.
    """
    code, declared = assembly.assembled(), b"Dual BSD/GPL"
    types, numbers = load_functions([name, *functions])
    try:
        starts = (0, *(assembly.at(label) for label in functions))
        table = function_table(list(zip(starts, numbers, strict=True)))
        attr = ProgLoad(
            prog_type=ProgType.SCHED_CLS,
            insn_cnt=len(code) // INSN_SIZE,
            insns=address_of(code),
            license=address_of(declared),
            prog_name=kernel_name(name),
            prog_btf_fd=types,
            func_info_rec_size=8,
            func_info=ctypes.addressof(table),
            func_info_cnt=len(starts),
        )
        label = f"program {name}"
        try:
            return BpfProgram(bpf(Cmd.PROG_LOAD, attr, "load", label), name)
        except BpfError:
            return BpfProgram(_load_with_log(attr, label), name)
    finally:
        os.close(types)


def relocate(insns: bytes, descriptors: Mapping[int, int]) -> bytes:
    """`insns` with every map reference's placeholder replaced by `descriptors[placeholder]`.

    A reference is a 64-bit immediate load whose source register says BPF_PSEUDO_MAP_FD, or
    BPF_PSEUDO_MAP_VALUE for a pointer into an array's value. One without an entry in
    `descriptors` is a `ValueError`: it would name some unrelated descriptor.
    """
    if len(insns) % INSN_SIZE:
        raise ValueError(f"{len(insns)} bytes are not a whole number of instructions")
    code = bytearray(insns)
    at = 0
    while at < len(code):
        if code[at] != _LD_IMM64:
            at += INSN_SIZE
            continue
        if code[at + 1] >> 4 in (_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE):
            (placeholder,) = struct.unpack_from("=i", code, at + 4)
            if placeholder not in descriptors:
                raise ValueError(
                    f"instruction {at // INSN_SIZE} refers to map {placeholder}, which is unknown"
                )
            struct.pack_into("=i", code, at + 4, descriptors[placeholder])
        at += 2 * INSN_SIZE
    return bytes(code)


def _load_with_log(attr: ProgLoad, label: str, level: int = _LOG_INSNS) -> int:
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attr.log_level = level
    attr.log_size = _LOG_BYTES
    attr.log_buf = ctypes.addressof(log)
    try:
        return bpf(Cmd.PROG_LOAD, attr, "load", label)
    except BpfError as error:
        text = log.value.decode(errors="replace").rstrip()
        remedy = "" if text else error.remedy
        raise VerifierError(error.errno or errno.EINVAL, "load", label, remedy, text) from None
