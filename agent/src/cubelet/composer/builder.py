"""The compiling process, the only one with BCC. Run as ``python -m cubelet.composer.builder``.

It reads one job as JSON from standard input and writes one result as JSON to standard output,
and ends, so that LLVM's memory and crashes stay here. Programs are verified and tried on packets
against scratch maps; the returned bytecode refers to maps by their number in the job. If the kernel
does not take a program, the status is REFUSED, the result a refusal (``composer/errors.py``), and
the verifier's log is on standard error.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.layout import ARRAYS, MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import LOG_STATS, BpfProgram, VerifierError, load, relocate
from cubelet.composer.errors import REFUSED, Refusal
from cubelet.composer.headers import ensure_tree
from cubelet.composer.loader import program_type

_SCRATCH_ENTRIES = 256
_TC_VERDICTS = frozenset({-1, 0, 2, 7})
"""Unspec, ok, shot, redirect: the verdicts that our tc programs may return."""
_XDP_VERDICTS = frozenset({1, 2})
"""Drop and pass."""


def main() -> None:
    """Compile the job on standard input."""
    job = json.load(sys.stdin)
    try:
        json.dump(build(job), sys.stdout)
    except _RefusedError as error:
        sys.stdout.buffer.write(msgspec.json.encode(error.refusal))
        sys.exit(REFUSED)


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.program)
        self.refusal = refusal


def build(job: Mapping[str, Any]) -> dict[str, Any]:
    """Compile, verify and try one job. Errors of BCC and the kernel are raised as they are."""
    maps = [_scratch_map(spec) for spec in job["maps"]]
    numbers = {scratch.fd: number for number, scratch in enumerate(maps)}
    programs = _compile(job, maps)
    code = {name: relocate(insns, numbers) for name, insns in programs.items()}
    _try(job, maps, code)
    return {name: base64.b64encode(insns).decode() for name, insns in code.items()}


def _scratch_map(spec: Mapping[str, Any]) -> BpfMap:
    kind = MapType(spec["type"])
    entries = spec["entries"]
    if kind not in ARRAYS and kind not in (MapType.PROG_ARRAY, MapType.RINGBUF):
        entries = min(entries, _SCRATCH_ENTRIES)
    if kind is MapType.RINGBUF:
        entries = 4096
    layout = MapLayout(kind, spec["key"], spec["value"], entries, MapFlags(spec["flags"]))
    return BpfMap.create(spec["name"][:15], layout)


def _compile(job: Mapping[str, Any], maps: Sequence[BpfMap]) -> dict[str, bytes]:
    os.environ["BCC_KERNEL_SOURCE"] = str(ensure_tree(Path(job["cache"])))
    from bcc import BPF

    with tempfile.TemporaryDirectory(prefix="cubelet-") as folder:
        for name, text in job["files"].items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        flags = [f"-DCUBELET_FAMILY={job['family']}", f"-DCUBELET_KERNEL={job['kernel']}"]
        flags.append(f"-I{folder}")
        flags.append("-Werror=implicit-function-declaration")
        flags += [f"-I{path}" for path in job["include"]]
        flags += [f"-DCUBELET_FD_{n}={scratch.fd}" for n, scratch in enumerate(maps)]
        module = BPF(text=job["text"], cflags=flags)
    types = dict.fromkeys(job["programs"], BPF.SCHED_CLS)
    types |= dict.fromkeys(job["xdp"], BPF.XDP)
    for name, kind in types.items():
        try:
            module.load_func(name, kind)  # with BTF, so that the log has lines of the source
        except Exception:  # all that BCC raises, and seldom with the reason
            _judge(name, module.dump_func(name))
    return {name: module.dump_func(name) for name in types}


def _judge(name: str, insns: bytes) -> None:
    """Raise _RefusedError with the verifier's last words, unless the kernel takes it after all."""
    try:
        load(insns, name[:15], program_type(name), log_level=LOG_STATS).close()
    except VerifierError as error:
        raise _RefusedError(Refusal(name, error.errno or 0, error.log)) from None


def _try(job: Mapping[str, Any], maps: Sequence[BpfMap], code: Mapping[str, bytes]) -> None:
    """Run every entry on packets; the maps are empty scratch maps, so nothing is sent or kept."""
    fds = {number: scratch.fd for number, scratch in enumerate(maps)}
    programs = {
        name: load(insns, name[:15], program_type(name), relocations=fds)
        for name, insns in code.items()
    }
    jumps = maps[job["jumps_map"]]
    for name, slot in job["jumps"].items():
        jumps.update(struct.pack("=I", slot), struct.pack("=I", programs[name].fd))
    for name, program in programs.items():
        if name not in job["jumps"]:
            _try_entry(name, program, _XDP_VERDICTS if name in job["xdp"] else _TC_VERDICTS)


def _try_entry(name: str, program: BpfProgram, verdicts: frozenset[int]) -> None:
    for packet in _trial_packets():
        verdict = struct.unpack("=i", struct.pack("=I", program.test_run(packet).retval))[0]
        if verdict not in verdicts:
            raise RuntimeError(f"{name} answered {verdict} to {len(packet)} bytes on trial")


def _trial_packets() -> list[bytes]:
    ethernet = bytes.fromhex("02 00 00 00 00 01 02 00 00 00 00 02")
    ip = bytes.fromhex("45000028 00004000 40060000 0a000001 0a000002")
    tcp = bytes.fromhex("1f90c35000000001000000005002ffff00000000")
    arp = bytes.fromhex("0001080006040001 020000000002 0a000001 000000000000 0a000002")
    return [
        ethernet + b"\x08\x00" + ip + tcp,
        ethernet + b"\x08\x06" + arp,
        ethernet + b"\x08\x00" + ip,
        ethernet + b"\x86\xdd" + bytes(40),
    ]


if __name__ == "__main__":
    main()
