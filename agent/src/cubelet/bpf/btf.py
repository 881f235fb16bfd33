"""The type information that the kernel asks for of a program with callbacks (BTF).

Its form is that of the kernel's Documentation/bpf/btf.rst; all functions are ``int name(void)``,
because callbacks are checked by their use.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from cubelet.bpf.attrs import BtfLoad
from cubelet.bpf.constants import Cmd
from cubelet.bpf.syscalls import address_of, bpf

_MAGIC, _VERSION, _HEADER = 0xEB9F, 1, 24
_INT, _FUNC, _FUNC_PROTO = 1, 12, 13
_SIGNED_32_BITS = 1 << 24 | 32
_STATIC, _GLOBAL = 0, 1


def load_functions(names: Sequence[str]) -> tuple[int, Sequence[int]]:
    """A descriptor of the types, and the functions' type numbers in order.

    The first is the program itself, the others are static. Raises BpfError.
    """
    strings = b"\0int\0" + b"".join(name.encode() + b"\0" for name in names)
    types = struct.pack("<IIII", 1, _INT << 24, 4, _SIGNED_32_BITS)
    types += struct.pack("<III", 0, _FUNC_PROTO << 24, 1)
    for number, name in enumerate(names):
        place = strings.index(b"\0" + name.encode() + b"\0") + 1
        linkage = _STATIC if number else _GLOBAL
        types += struct.pack("<III", place, _FUNC << 24 | linkage, 2)
    sizes = (0, len(types), len(types), len(strings))
    blob = struct.pack("<HBBI4I", _MAGIC, _VERSION, 0, _HEADER, *sizes) + types + strings
    attr = BtfLoad(btf=address_of(blob), btf_size=len(blob))
    return bpf(Cmd.BTF_LOAD, attr, "load", "types of functions"), range(3, 3 + len(names))


def function_table(functions: Sequence[tuple[int, int]]) -> ctypes.Array[ctypes.c_uint32]:
    """``struct bpf_func_info`` of functions: the first instruction and the type of each."""
    flat = [number for function in functions for number in function]
    return (ctypes.c_uint32 * len(flat))(*flat)
