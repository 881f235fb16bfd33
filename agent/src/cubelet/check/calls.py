"""Checks that the compiled C calls no BPF helper but those of the contract.

An identifier can be avoided: a number that is cast to a function is a call as well. What the
programs call is compared with what they call without the cube, by the cube's functions as programs
of their own (``tailcall``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from cubelet.bpf.programs import INSN_SIZE
from cubelet.check.findings import Finding
from cubelet.check.helpers import named
from cubelet.check.workbench import Workbench
from cubelet.composer.ends import TELLING
from cubelet.composer.headers import UapiHeaders
from cubelet.composer.mirrors import COPYING, MIRRORS
from cubelet_hooks.cube import PORT_CLASSES
from cubelet_hooks.helpers import HELPERS, instead_of

_CALL = 0x85
"""BPF_JMP | BPF_CALL. The source register says whom: 0 a helper, 1 the program's own function."""
_KERNEL_FUNCTION = 2
"""BPF_PSEUDO_KFUNC_CALL."""
_HELPER = re.compile(r"^\s*FN\((\w+)", re.MULTILINE)
_LINK = "cubelet_core_"
"""Begins the names of core cubes' programs, which are there without the cube, too: what these call
beside helpers that cubes may call is what the composer puts around any cube's function."""

Calls = frozenset[str]


def check(bench: Workbench) -> Iterator[Finding]:
    """Each helper that a program calls because of the cube, and that a cube may not call."""
    programs, source = bench.only_it(), bench.subject.source
    helpers = helper_names((UapiHeaders.find().linux / "bpf.h").read_text())
    told = {each.text for each in named(source.read_text())}  # by the check of helpers, with lines
    without = {name: calls(code, helpers) for name, code in bench.without_cube().items()}
    around = _all(without, lambda name: name.startswith(_LINK))
    if bench.cube.mirrors:  # a program of the core's that is not there without it
        without[MIRRORS] = COPYING | _all(without, _is_core)
    found: dict[str, str] = {}
    for name, code in programs.items():
        known = without.get(name, around) | (_ends(name) if bench.cube.ended else frozenset())
        for helper in calls(code, helpers) - known - HELPERS.keys() - told:
            found.setdefault(helper, name)
    for helper, program in sorted(found.items()):
        message = f"the compiled program {program} calls {helper}, which a cube may not call"
        yield Finding(message, instead_of(helper), str(source))


def _all(known: Mapping[str, Calls], chosen: Callable[[str], bool]) -> Calls:
    return frozenset[str]().union(*(found for name, found in known.items() if chosen(name)))


def _is_core(program: str) -> bool:
    return program.startswith("cubelet_") and not program.startswith(_LINK)


def _ends(program: str) -> Calls:
    """What the core's slow programs tell of flows' ends by; no function of a cube is in them."""
    entries = {f"cubelet_{each}" for each in PORT_CLASSES}
    return TELLING if _is_core(program) and program not in entries else frozenset()


def calls(code: bytes, helpers: Mapping[int, str]) -> Calls:
    """The names of the helpers that a program calls."""
    found = set()
    for at in range(0, len(code), INSN_SIZE):
        opcode, kind = code[at], code[at + 1] >> 4
        number = int.from_bytes(code[at + 4 : at + 8], "little", signed=True)
        if opcode == _CALL and kind == 0:
            found.add(helpers.get(number, f"helper {number}"))
        elif opcode == _CALL and kind == _KERNEL_FUNCTION:
            found.add(f"kernel function {number}")
    return frozenset(found)


def helper_names(header: str) -> Mapping[int, str]:
    """Helpers by number, from the text of ``linux/bpf.h``: the list is in the numbers' order."""
    return {number: f"bpf_{name}" for number, name in enumerate(_HELPER.findall(header))}
