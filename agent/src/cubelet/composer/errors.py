"""Explains what the builder says: whose the error is, and where in whose source."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cubelet.composer.source import Source

REFUSED = 3
"""The builder's status when the kernel does not take a program: its result is a Refusal."""
_CLANG = re.compile(
    r"^(?P<file>[^\s:]+):(?P<line>\d+):\d+: (?:fatal )?error: (?P<text>.*)$", re.MULTILINE
)
_STACK = re.compile(
    r"^(?:.* in function (?P<program>\w+) )?.*Looks like the BPF stack limit", re.MULTILINE
)
"""LLVM's: of the functions that are inlined into one program, no single one is at fault."""
_PLACE = re.compile(r"^; .*@ (?P<file>[^\s:]+):(?P<line>\d+)$", re.MULTILINE)
_TEXT = re.compile(r"^;(?P<text>.*)$", re.MULTILINE)
"""The line of an instruction in the verifier's log: its text alone before Linux 6.9."""
_PROCESSED = re.compile(r"^processed \d+ insns", re.MULTILINE)
"""The last line of a verifier's log that is whole."""
_FIGURES = ("verification time ", "stack depth ", "processed ", "cur ", "old ")
"""How lines of a verifier's log begin that are no reason."""
_SIZES = ("program is too large", "is too complex", "combined stack size")
"""Words of refusals for the size of a whole program: the last line that was looked at is not at
fault."""
_PASSING = frozenset((errno.EPERM, errno.ENOMEM, errno.EAGAIN, errno.EINTR))
"""Errors that say nothing of the program: privileges, memory, signals."""
_UNPRIVILEGED = "prohibited for !root"
"""The verifier's words where CAP_PERFMON is missing."""


class CompileError(Exception):
    """A composition that could not be compiled, or that the kernel refused.

    ``cube`` is the kind at fault ('' when none is known to be), ``file`` and ``line`` the place in
    its source, ``log`` the whole output. If not ``final``, time or memory ran out and another
    attempt may succeed. ``refused`` says that the C is right but some program, as it is put
    together, is beyond what the kernel takes: joined in another way the same cubes may run.
    ``identity`` is that of the source that was refused.
    """

    def __init__(
        self,
        cube: str,
        file: str,
        line: int,
        message: str,
        log: str,
        final: bool = True,
        refused: bool = False,
    ) -> None:
        self.final, self.refused, self.identity = final, refused, ""
        self.cube, self.file, self.line, self.message, self.log = cube, file, line, message, log
        place = f"{file}:{line}: " if line else f"{file}: " if file else ""
        super().__init__(f"cube {cube}: {place}{message}" if cube else f"{place}{message}")


class Refusal(msgspec.Struct, frozen=True):
    """A program that the kernel did not load: ``errno``, and what the verifier ``said`` last.

    ``said`` is the verifier's log without its instructions, '' if it did not get that far.
    """

    program: str
    errno: int
    said: str = ""

    @property
    def final(self) -> bool:
        """Whether it is the program that the kernel does not take."""
        return self.errno not in _PASSING and _UNPRIVILEGED not in self.said

    @property
    def verdict(self) -> str:
        """The verifier's reason: its last line that is no figure."""
        lines = self.said.splitlines()
        found = [line for line in lines if line.strip() and not line.startswith(_FIGURES)]
        return found[-1] if found else errno.errorcode.get(self.errno, str(self.errno))

    @property
    def for_size(self) -> bool:
        """Whether the program as a whole is too much, and no line of it wrong."""
        return self.errno == errno.E2BIG or any(words in self.verdict for words in _SIZES)


def explain(log: str, status: int, source: Source) -> CompileError:
    """The error in the output of a builder that ended with ``status`` and refused no program."""
    stack = _STACK.search(log)
    if stack:
        which = f"program {stack['program']}" if stack["program"] else "a program"
        message = f"{which} needs more than the 512 bytes of the kernel's stack"
        owner = source.owners.get(stack["program"], "")
        return CompileError(owner, "", 0, message, log, refused=True)
    clang = _CLANG.search(log)
    if clang:
        name = Path(clang["file"]).name
        cube = source.kinds.get(name, "")
        return CompileError(cube, name, int(clang["line"]), clang["text"], log)
    last = log.strip().splitlines()[-1] if log.strip() else "no output"
    what = f"the compiler ended by signal {-status}" if status < 0 else last
    return CompileError("", "", 0, what, log, final=False)


def explain_refusal(refusal: Refusal, log: str, source: Source) -> CompileError:
    """The error of a program that was refused; ``log`` is the verifier's, with its instructions.

    The cube at fault is that of the last line looked at, or, where each cube has programs of its
    own, the program's.
    """
    owner = source.owners.get(refusal.program, "")
    said = f"refused by the verifier: {refusal.verdict}"
    unplaced = f"program {refusal.program} is {said}"
    if not refusal.final:
        return CompileError("", "", 0, unplaced, log, final=False)
    if refusal.for_size or not _PROCESSED.search(log):  # or the log ends before the reason
        return CompileError(owner, "", 0, unplaced, log, refused=True)
    name, line = _place(log, source)
    cube = source.kinds.get(name, "") or owner
    return CompileError(cube, name, line, said if name else unplaced, log, refused=True)


def _place(log: str, source: Source) -> tuple[str, int]:
    """File and line of the instruction that was refused; '' or 0 for what is not known."""
    named = list(_PLACE.finditer(log))
    if named:
        return Path(named[-1]["file"]).name, int(named[-1]["line"])
    texts = list(_TEXT.finditer(log))
    text = texts[-1]["text"].strip() if texts else ""
    found = list(_occurrences(text, source)) if text else []
    files = {name for name, _ in found}
    if len(files) != 1:
        return "", 0  # more than one file has such a line, or one that the compiler had no text of
    (name,) = files
    return name, found[0][1] if len({line for _, line in found}) == 1 else 0


def _occurrences(text: str, source: Source) -> Iterator[tuple[str, int]]:
    """Where a line with this text stands, in the cubes' files and in all that they include."""
    for name, content in _files(source).items():
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip() == text:
                yield Path(name).name, number


def _files(source: Source) -> Mapping[str, str]:
    headers = {
        str(header): header.read_text()
        for folder in source.include_folders
        for header in folder.rglob("*.h")
    }
    return {**source.files, **headers, "composition.c": source.text}
