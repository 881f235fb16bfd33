"""Errors of clang and of the verifier lead to the cube, its own file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cubelet.composer.compiler import compile_source
from cubelet.composer.composition import Chain, Mode, compose
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.errors import CompileError
from cubelet.composer.source import Source, write_source
from cubelet.state.cluster import State
from cubelet.testkit.network import build_network, private_network
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import Cube

GOOD = """#include "cubelet.h"

static __always_inline int culprit_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}
"""
MISSPELT = GOOD.replace("cubelet_next(pkt)", "cubelet_nextt(pkt)")
UNBOUNDED = GOOD.replace(
    "return cubelet_next(pkt)", "return *((volatile __u8 *)(long)skb->data + 40)"
)


def source_of(text: str, folder: Path, mode: Mode) -> Source:
    """The composition of one cube with this C, on a node of its own."""
    path = folder / "culprit.bpf.c"
    path.write_text(text)

    class Culprit(Cube):
        kind = "culprit"
        inward = frozenset({"pod"})

        @classmethod
        def source(cls) -> Path:
            return path

    chain = Chain(core=("outlet",), stacks={"pod": ("culprit",)})
    composition = compose(chain, {"culprit": Culprit, "outlet": Outlet}, mode=mode)
    with private_network():
        local = build_network(1).local
    composition = composition.specialised(composition.facts_of(State()))
    return write_source(composition, Core("cubelet", CoreSettings()), local, 250)


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
@pytest.mark.parametrize(
    ("text", "said"),
    [(MISSPELT, "cubelet_nextt"), (UNBOUNDED, "refused by the verifier: R")],
    ids=["clang", "verifier"],
)
def test_an_error_names_the_cube_its_file_and_line(text, said, mode, tmp_path):
    source = source_of(text, tmp_path, mode)
    with pytest.raises(CompileError) as caught:
        compile_source(source, tmp_path / "cache")
    error = caught.value
    assert (error.cube, error.file, error.line) == ("culprit", "culprit.bpf.c", 5)
    assert said in str(error)
    assert not list((tmp_path / "cache").glob("*.json"))


def test_bytecode_is_kept_and_used_again(tmp_path, monkeypatch):
    source = source_of(GOOD, tmp_path, "fused")
    compiled = compile_source(source, tmp_path / "cache")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("cubelet.composer.compiler.sys.executable", "/no/such/python")
    assert compile_source(source, tmp_path / "cache").code == compiled.code


CHANGE_TYPE = 32
"""The number of the helper bpf_skb_change_type."""
CALL = 0x85


def helpers(code: bytes) -> set[int]:
    """The numbers of the helpers that instructions call: those whose source register is 0."""
    insns = [code[at : at + 8] for at in range(0, len(code), 8)]
    return {int.from_bytes(i[4:], "little") for i in insns if i[0] == CALL and not i[1] >> 4}


@pytest.mark.parametrize(
    ("kernel", "changes"), [((5, 10), True), ((6, 14), True), ((6, 15), False), ((7, 0), False)]
)
def test_packets_for_pods_become_the_hosts_on_kernels_that_leave_their_type(
    kernel, changes, tmp_path, monkeypatch
):
    monkeypatch.setattr("cubelet.composer.compiler.release", lambda: kernel)
    compiled = compile_source(source_of(GOOD, tmp_path, "fused"), tmp_path / "cache")
    for name in ("cubelet_pod", "cubelet_overlay", "cubelet_slow"):
        assert (CHANGE_TYPE in helpers(compiled.code[name])) is changes, name


LARGE = (
    GOOD.replace("{", "{{")
    .replace("}", "}}")
    .replace(
        "return cubelet_next(pkt);",
        """__u32 i;

	for (i = 0; i < {rounds}; i++)
		asm volatile("" : "+r"(i));
	return cubelet_next(pkt);""",
    )
)
DEEP = GOOD.replace(
    "return cubelet_next(pkt);",
    """volatile char deep[480];
	int i;

	for (i = 0; i < 480; i++)
		deep[i] = i;
	return cubelet_next(pkt);""",
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LARGE.format(rounds=1_000_000), "BPF program is too large. Processed 1000001 insn"),
        (DEEP, "needs more than the 512 bytes of the kernel's stack"),
    ],
    ids=["instructions", "stack"],
)
def test_a_program_that_is_too_much_as_a_whole_says_so_and_blames_no_cube(text, said, tmp_path):
    with pytest.raises(CompileError, match=said) as caught:
        compile_source(source_of(text, tmp_path, "fused"), tmp_path / "cache")
    error = caught.value
    assert (error.cube, error.final, error.refused) == ("", True, True)
    assert "program cubelet_slow " in str(error)
    if text == DEEP:
        compile_source(source_of(text, tmp_path, "tailcall"), tmp_path / "cache")


def test_the_oldest_bytecode_makes_room(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    compiled = [compile_source(source_of(GOOD, tmp_path, "fused"), cache)]
    for age in range(1, 4):
        old = cache / f"{age}.json"
        old.write_bytes(bytes(1000))
        os.utime(old, (age, age))
    size = next(cache.glob(f"{compiled[0].identity}.json")).stat().st_size
    monkeypatch.setattr("cubelet.composer.compiler._ROOM", 2 * size + 1500)
    text = GOOD.replace("cubelet_next(pkt)", "cubelet_next(pkt) + 0")
    compiled.append(compile_source(source_of(text, tmp_path, "fused"), cache))
    kept = {path.stem for path in cache.glob("*.json")}
    assert kept == {"3", *(each.identity for each in compiled)}
