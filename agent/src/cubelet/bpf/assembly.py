"""Instructions put together by hand, for programs that BCC cannot make: those with callbacks.

The encoding is that of the kernel's Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct

_INSN = struct.Struct("<BBhi")
_LD_IMM64, _CALL, _EXIT, _JA = 0x18, 0x85, 0x95, 0x05
_JMP, _JMP32, _ALU, _ALU64 = 0x05, 0x06, 0x04, 0x07
_REGISTER = 0x08
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_LDX, _STX = 0x61, 0x63
_OPERATIONS = {"+": 0x00, "-": 0x10, "*": 0x20, "|": 0x40, "&": 0x50, "<<": 0x60, ">>": 0x70}
_OPERATIONS |= {"^": 0xA0, "=": 0xB0}
_CONDITIONS = {"==": 0x10, ">": 0x20, "!=": 0x50, "s<": 0xC0, "&": 0x40}
_MAP_FD, _MAP_VALUE, _FUNCTION = 1, 2, 4


class R(int):
    """A register, 0 to 10: as an operand it is told apart from a number."""


Operand = R | int


class Assembly:
    """Instructions in order. Labels are texts, jumped to from before or after."""

    def __init__(self) -> None:
        self._code: list[bytes] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}
        self._functions: dict[int, str] = {}

    def label(self, name: str) -> None:
        """The next instruction is called so."""
        self._labels[name] = len(self._code)

    def alu(self, register: R, operation: str, operand: Operand, bits: int = 64) -> None:
        """``register operation= operand``; with 32 bits the upper half becomes zero."""
        code = _OPERATIONS[operation] | (_ALU64 if bits == 64 else _ALU)
        if isinstance(operand, R):
            self._add(code | _REGISTER, register, operand)
        else:
            self._add(code, register, imm=_signed(operand))

    def set64(self, register: R, value: int) -> None:
        """A number of 64 bits."""
        self._add(_LD_IMM64, register, imm=_signed(value & 0xFFFFFFFF))
        self._add(0, R(0), imm=_signed(value >> 32))

    def load(self, register: R, base: R, offset: int, size: int) -> None:
        """``register = *(size *)(base + offset)``, ``size`` in bytes."""
        self._add(_LDX | _SIZES[size], register, base, offset)

    def store(self, base: R, offset: int, register: R, size: int) -> None:
        """``*(size *)(base + offset) = register``."""
        self._add(_STX | _SIZES[size], base, register, offset)

    def jump(self, label: str) -> None:
        """Go there."""
        self._jumps[len(self._code)] = label
        self._add(_JA, R(0))

    def jump_if(
        self, register: R, condition: str, operand: Operand, label: str, bits: int = 64
    ) -> None:
        """Go there if the condition holds: ``==``, ``!=``, ``>``, ``s<`` (signed) or ``&``."""
        self._jumps[len(self._code)] = label
        code = _CONDITIONS[condition] | (_JMP if bits == 64 else _JMP32)
        if isinstance(operand, R):
            self._add(code | _REGISTER, register, operand)
        else:
            self._add(code, register, imm=_signed(operand))

    def call(self, helper: int) -> None:
        """Call a helper of the kernel by its number."""
        self._add(_CALL, R(0), imm=helper)

    def exit(self) -> None:
        """Return r0."""
        self._add(_EXIT, R(0))

    def map(self, register: R, fd: int) -> None:
        """The map behind an open descriptor."""
        self._add(_LD_IMM64, register, _MAP_FD, imm=fd)
        self._add(0, R(0))

    def value(self, register: R, fd: int, offset: int = 0) -> None:
        """A pointer into the value of a map of one value."""
        self._add(_LD_IMM64, register, _MAP_VALUE, imm=fd)
        self._add(0, R(0), imm=offset)

    def function(self, register: R, label: str) -> None:
        """A function of the same program, as a callback."""
        self._functions[len(self._code)] = label
        self._add(_LD_IMM64, register, _FUNCTION)
        self._add(0, R(0))

    def at(self, label: str) -> int:
        """The number of a label's instruction."""
        return self._labels[label]

    def assembled(self) -> bytes:
        """The bytecode. Raises KeyError for a label that there is not."""
        code = list(self._code)
        for at, label in self._jumps.items():
            operation, registers, _, imm = _INSN.unpack(code[at])
            code[at] = _INSN.pack(operation, registers, self._labels[label] - at - 1, imm)
        for at, label in self._functions.items():
            operation, registers, offset, _ = _INSN.unpack(code[at])
            code[at] = _INSN.pack(operation, registers, offset, self._labels[label] - at - 1)
        return b"".join(code)

    def _add(self, code: int, dst: R, src: int = 0, offset: int = 0, imm: int = 0) -> None:
        self._code.append(_INSN.pack(code, src << 4 | dst, offset, imm))


def _signed(value: int) -> int:
    """As the 32 bits of an immediate."""
    return value - (1 << 32) if value >> 31 == 1 else value
