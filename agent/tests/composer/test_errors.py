"""Whose a refusal is, from the logs of old kernels, which name no file, and of new ones."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cubelet.composer.compiler import compile_source
from cubelet.composer.composition import Chain, Mode, compose
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.errors import CompileError, Refusal, explain, explain_refusal
from cubelet.composer.source import Source, write_source
from cubelet.state.cluster import State
from cubelet.testkit import local_node
from cubelet.testkit.network import build_network, private_network
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import Cube

HEAD = """#include "cubelet.h"

static __always_inline int {kind}_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{{
"""
CULPRIT = HEAD.format(kind="culprit") + (
    "\tvoid *data = (void *)(long)skb->data;\n"
    "\n"
    "\tif (*((volatile __u8 *)data + 40) == 7)\n"
    "\t\treturn cubelet_drop(pkt, 0);\n"
    "\treturn cubelet_next(pkt);\n"
    "}\n"
)
OTHER = HEAD.format(kind="other") + "\treturn cubelet_next(pkt);\n}\n"

V5_10 = """; __u32 zero = 0;
14: (b7) r1 = 0
15: (63) *(u32 *)(r10 -4) = r1
last_idx 15 first_idx 0
regs=2 stack=0 before 14: (b7) r1 = 0
16: R0_w=inv(id=0) R1_w=invP0 R6=ctx(id=0,off=0,imm=0) R10=fp0 fp-8=0000????
; void *data = (void *)(long)skb->data;
92: (61) r1 = *(u32 *)(r6 +76)
; {line}
93: (71) r1 = *(u8 *)(r1 +40)
invalid access to packet, off=40 size=1, R1(id=0,off=40,r=0)
R1 offset is outside of the packet
processed 94 insns (limit 1000000) max_states_per_insn 0 total_states 4 peak_states 4 mark_read 2
"""
V6_1 = """; __u32 zero = 0;
14: (b7) r1 = 0                       ; R1_w=0
15: (63) *(u32 *)(r10 -4) = r1        ; R1_w=0 R10=fp0 fp-8=0000????
from 41 to 92: R6=ctx(off=0,imm=0) R7=map_value(off=0,ks=4,vs=2048,imm=0) R10=fp0
; void *data = (void *)(long)skb->data;
92: (61) r1 = *(u32 *)(r6 +76)        ; R1_w=pkt(off=0,r=0,imm=0) R6=ctx(off=0,imm=0)
; {line}
93: (71) r1 = *(u8 *)(r1 +40)
invalid access to packet, off=40 size=1, R1(id=0,off=40,r=0)
R1 offset is outside of the packet
processed 94 insns (limit 1000000) max_states_per_insn 0 total_states 4 peak_states 4 mark_read 2
"""
VERDICT = "R1 offset is outside of the packet"
FAULTY = "if (*((volatile __u8 *)data + 40) == 7)"
"""Line 7 of the culprit, as the compiler gives it to the kernel: without what it is indented by."""
TOO_LARGE = "BPF program is too large. Processed 1000001 insn"


def written(folder: Path, mode: Mode = "fused") -> Source:
    """Two cubes, one of which reads a packet without looking where it ends."""
    cubes: dict[str, type[Cube]] = {"outlet": Outlet}
    for name, text in (("culprit", CULPRIT), ("other", OTHER)):
        path = folder / f"{name}.bpf.c"
        path.write_text(text)

        class Made(Cube):
            kind = name
            inward = frozenset({"pod"})
            file = path

            @classmethod
            def source(cls) -> Path:
                return cls.file

        cubes[name] = Made
    composition = compose(Chain(("outlet",), {"pod": ("other", "culprit")}), cubes, mode=mode)
    composition = composition.specialised(composition.facts_of(State()))
    return write_source(composition, Core("cubelet", CoreSettings()), local_node(), 250)


def refusal(verdict: str = VERDICT, code: int = errno.EACCES, program: str = "slow") -> Refusal:
    said = f"{verdict}\nverification time 81 usec\nstack depth 120\nprocessed 94 insns (limit 1)"
    return Refusal(f"cubelet_{program}", code, said)


def place(error: CompileError) -> tuple[str, str, int]:
    return error.cube, error.file, error.line


@pytest.mark.parametrize("log", [V5_10, V6_1], ids=["5.10", "6.1"])
def test_a_line_that_one_cube_alone_has_leads_to_it(log: str, tmp_path: Path) -> None:
    error = explain_refusal(refusal(), log.format(line=FAULTY), written(tmp_path))
    assert place(error) == ("culprit", "culprit.bpf.c", 7)
    assert str(error) == f"cube culprit: culprit.bpf.c:7: refused by the verifier: {VERDICT}"
    assert (error.refused, error.final) == (True, True)


@pytest.mark.parametrize("log", [V5_10, V6_1], ids=["5.10", "6.1"])
@pytest.mark.parametrize(
    "line",
    [
        "return cubelet_next(pkt);",
        "return cubelet_lookup(cubelet_scratch_map, &zero);",
        "",
        "no such line;",
    ],
    ids=["of two cubes", "of a header", "without text", "of no file"],
)
def test_a_line_that_may_be_anothers_blames_nobody(log: str, line: str, tmp_path: Path) -> None:
    error = explain_refusal(refusal(), log.format(line=line), written(tmp_path))
    assert error.cube == ""
    assert VERDICT in str(error)
    assert (error.refused, error.final) == (True, True)


@pytest.mark.parametrize("line", ["return cubelet_next(pkt);", ""])
def test_a_program_that_is_one_cubes_alone_leads_to_it(line: str, tmp_path: Path) -> None:
    source = written(tmp_path, "tailcall")
    error = explain_refusal(refusal(program="pod_in_culprit0"), V5_10.format(line=line), source)
    assert place(error) == ("culprit", "", 0)
    assert "program cubelet_pod_in_culprit0 is refused by the verifier" in str(error)
    assert explain_refusal(refusal(), V5_10.format(line=line), source).cube == ""


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (TOO_LARGE, errno.E2BIG),
        ("The sequence of 8193 jumps is too complex.", errno.EFAULT),
        ("combined stack size of 2 calls is 544. Too large", errno.EACCES),
    ],
)
def test_what_is_too_much_as_a_whole_is_not_the_last_lines_fault(
    verdict: str, code: int, tmp_path: Path
) -> None:
    log = V6_1.format(line=FAULTY).replace(VERDICT, verdict)
    error = explain_refusal(refusal(verdict, code), log, written(tmp_path))
    assert place(error) == ("", "", 0)
    assert str(error) == f"program cubelet_slow is refused by the verifier: {verdict}"
    chained = written(tmp_path, "tailcall")
    found = explain_refusal(refusal(verdict, code, "pod_in_culprit0"), log, chained)
    assert place(found) == ("culprit", "", 0)


def test_a_log_that_ends_too_early_is_not_read(tmp_path: Path) -> None:
    log = V5_10.format(line=FAULTY).partition("invalid access")[0]
    error = explain_refusal(refusal(), log, written(tmp_path))
    assert place(error) == ("", "", 0)
    assert VERDICT in str(error)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (errno.EPERM, ""),
        (errno.ENOMEM, ""),
        (errno.EACCES, "R4 pointer arithmetic with it prohibited for !root"),
    ],
)
def test_without_privileges_or_memory_nobody_is_to_blame(
    code: int, verdict: str, tmp_path: Path
) -> None:
    log = V6_1.format(line=FAULTY).replace(VERDICT, verdict)
    error = explain_refusal(refusal(verdict, code), log, written(tmp_path))
    assert (error.cube, error.refused, error.final) == ("", False, False)
    assert errno.errorcode[code] in str(error) or verdict in str(error)


STACK = "Looks like the BPF stack limit of 512 bytes is exceeded. Please move large on stack"


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("error: fused.bpf.c:0:0: in function cubelet_slow i32 (%struct.__sk_buff*): ", "slow"),
        ("culprit.bpf.c:7:2: error: in function cubelet_pod_in_culprit0 i32 (ptr): ", "pod_in"),
        ("culprit.bpf.c:7:2: error: ", ""),
    ],
)
def test_too_deep_a_stack_is_its_programs_whichever_line_is_named(
    place: str, named: str, tmp_path: Path
) -> None:
    """By LLVM 14, as it was seen, and as others may word it."""
    error = explain(f"1 warning.\n{place}{STACK}\n", 1, written(tmp_path, "tailcall"))
    assert (error.refused, error.line) == (True, 0)
    assert f"program {f'cubelet_{named}' if named else 'needs more'}" in str(error)
    assert error.cube == ("culprit" if named == "pod_in" else "")


def test_a_crash_of_the_compiler_is_an_error(tmp_path: Path) -> None:
    assert str(explain("", -11, written(tmp_path))) == "the compiler ended by signal 11"


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_a_real_log_without_files_leads_to_the_same_cube(mode: Mode, tmp_path: Path) -> None:
    """As old kernels write it: only the text that the compiler knew, and for main text none."""
    with private_network():
        build_network(1)
        source = written(tmp_path, mode)
    with pytest.raises(CompileError) as caught:
        compile_source(source, tmp_path / "cache")
    error = caught.value
    assert place(error) == ("culprit", "culprit.bpf.c", 7)
    assert "@ culprit.bpf.c:7" in error.log, "this kernel is older than 6.9"
    bare = re.sub(r" @ \S+:\d+$", "", error.log, flags=re.MULTILINE)
    program = "slow" if mode == "fused" else "pod_in_culprit0"
    assert place(explain_refusal(refusal(program=program), bare, source)) == place(error)
    silent = re.sub(r"^;.*\n", "", bare, flags=re.MULTILINE)
    nameless = explain_refusal(refusal(program=program), silent, source)
    assert nameless.cube == ("" if mode == "fused" else "culprit")
    elsewhere = replace(source, kinds={}, owners={})
    assert explain_refusal(refusal(program=program), bare, elsewhere).cube == ""
