"""Binary records: the keys and values of BPF maps, declared once, in Python.

A record's fields are declared with the types of this module; the composer emits the matching C
struct, so the layout that a cube's C sees and the one its plan packs cannot differ. Layout rules
are C's own: natural alignment, explicit padding (always zero, because hash keys compare bytes).

    class ServiceKey(Record):          # struct lbrp_service_key {
        address: Addr                  #     struct cubelet_addr address;
        port: Be16                     #     __be16 port;
        protocol: U8                   #     __u8 protocol;
                                       #     __u8 _pad7[1]; };

A field has one of these types; there are no others, so no arrays of numbers and no strings but
bytes:

    type            C                       bytes  aligned to  in Python
    U8              __u8                        1           1  int
    U16             __u16                       2           2  int
    U32             __u32                       4           4  int
    U64             __u64                       8           8  int
    Be16            __be16                      2           2  int, as people write it: 80
    Be32            __be32                      4           4  int, as people write it
    Mac             __u8[6]                     6           1  str, "02:00:00:00:01:00"
    Addr            struct cubelet_addr         4           4  IPv4Address
                    (of family 6)              16           4  IPv6Address
    Area            __u8[64]                   64           1  bytes of that length
    Frame           __u8[1920]              1,920           1  bytes of that length
    Length(5), n    __u8[5]                     5           1  bytes of that length
    Tuple, Hop ...  struct cubelet_tuple   theirs      theirs  that record

Numbers are in the CPU's byte order, ``Be16`` and ``Be32`` in the network's: Python has the number,
C compares with ``bpf_htons(80)``. ``Length(5)`` is written ``Annotated[bytes, Length(5)]``. In the
last line stand the records of ``cubelet_hooks.flows`` and ``cubelet_hooks.buckets``, which can be
fields of a cube's record; another record of the cube's own cannot. A number with names is
``Annotated[int, "u8", RouteKind]``, of an ``IntEnum``: it is laid out like ``U8``, and shown by
name. A field needs a value whenever a record is made, unless it has a default.

Fields stand in their order, each at the next multiple of what it is aligned to; the size is a
multiple of the largest of these. Put large fields first, and nothing is lost to padding, which is
written out in C as ``_padOFFSET[BYTES]`` and must be zero in keys: initialise them by ``= {}``.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import struct
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Family = Literal[4, 6]


@dataclasses.dataclass(frozen=True)
class Scalar:
    """How one field type is laid out: its C type, size and alignment in bytes, and its codec."""

    c_type: str
    size: int
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]
    align: int = 0
    array: bool = False

    @property
    def alignment(self) -> int:
        """Alignment in bytes; a scalar's own size unless said otherwise."""
        return self.align or self.size


def _integer(c_type: str, code: str) -> Scalar:
    codec = struct.Struct(code)
    return Scalar(c_type, codec.size, codec.pack, lambda raw: codec.unpack(raw)[0])


def _pack_mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


_SCALARS: dict[str, Scalar] = {
    "u8": _integer("__u8", "=B"),
    "u16": _integer("__u16", "=H"),
    "u32": _integer("__u32", "=I"),
    "u64": _integer("__u64", "=Q"),
    "be16": _integer("__be16", ">H"),
    "be32": _integer("__be32", ">I"),
    "mac": Scalar("__u8", 6, _pack_mac, lambda raw: raw.hex(":"), align=1, array=True),
    "area": Scalar("__u8", 64, bytes, bytes, align=1, array=True),
    "frame": Scalar("__u8", 1920, bytes, bytes, align=1, array=True),
}
_ADDRESSES: dict[Family, Scalar] = {
    4: Scalar("struct cubelet_addr", 4, lambda a: a.packed, ipaddress.IPv4Address),
    6: Scalar("struct cubelet_addr", 16, lambda a: a.packed, ipaddress.IPv6Address, align=4),
}


@dataclasses.dataclass(frozen=True)
class Length:
    """How many bytes a field of the type ``bytes`` has, always: 1 to 4,096.

    The value has exactly as many: fill up what is shorter, ``name.ljust(64, b"\\0")``. A key of
    a map may have 512 bytes in all, and what the C keeps on its stack should have far fewer.

        class Asked(Record):                       # struct guard_asked {
            length: U8                             #     __u8 length;
            name: Annotated[bytes, Length(63)]     #     __u8 name[63]; };
    """

    size: int

    def __post_init__(self) -> None:
        """Raise ValueError for a length that no field has."""
        if not 1 <= self.size <= _LONGEST:
            raise ValueError(f"Length({self.size}): a field has 1 to {_LONGEST} bytes")


_LONGEST = 4096


def _pack_bytes(value: Any) -> bytes:
    return bytes(memoryview(value))  # of a number bytes() would make so many zeros


U8 = Annotated[int, "u8"]
U16 = Annotated[int, "u16"]
U32 = Annotated[int, "u32"]
U64 = Annotated[int, "u64"]
Be16 = Annotated[int, "be16"]
"""A 16-bit number in network byte order, such as a port."""
Be32 = Annotated[int, "be32"]
Mac = Annotated[str, "mac"]
"""A MAC address, written ``aa:bb:cc:dd:ee:ff``."""
Area = Annotated[bytes, "area"]
"""64 bytes, given out by the composer."""
Frame = Annotated[bytes, "frame"]
"""1,920 bytes, room for a frame of up to that many."""
Addr = Annotated[Address, "addr"]
"""An address of the instance's family: 4 or 16 bytes."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A field at its place: offset in bytes from the start of the record."""

    name: str
    offset: int
    scalar: Scalar


@dataclasses.dataclass(frozen=True)
class Layout:
    """A record's fields and its size in bytes, for one address family."""

    fields: tuple[Placed, ...]
    size: int

    def c_members(self) -> list[str]:
        """The members of the C struct, padding written out."""
        members, end = [], 0
        for field in self.fields:
            members += _padding(end, field.offset)
            array = f"[{field.scalar.size}]" if field.scalar.array else ""
            members.append(f"{field.scalar.c_type} {field.name}{array};")
            end = field.offset + field.scalar.size
        return members + _padding(end, self.size)


def _padding(start: int, end: int) -> list[str]:
    return [f"__u8 _pad{start}[{end - start}];"] if end > start else []


def _round_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


@typing.dataclass_transform(frozen_default=True)
class Record:
    """Base of all map keys and values. Subclasses are frozen dataclasses with packed bytes."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True)(cls)

    @classmethod
    def layout(cls, family: Family = 4) -> Layout:
        """The record's layout when addresses are of ``family``."""
        known = _LAYOUTS.get((cls, family))
        return known or _LAYOUTS.setdefault((cls, family), _lay_out(cls, family))

    @classmethod
    def c_name(cls) -> str:
        """The C struct's name without the cube's prefix: ``ServiceKey`` is ``service_key``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def pack(self, family: Family = 4) -> bytes:
        """The record's bytes. Raises ValueError naming the field that does not fit."""
        layout = self.layout(family)
        out = bytearray(layout.size)
        for field in layout.fields:
            try:
                raw = field.scalar.pack(getattr(self, field.name))
                if len(raw) != field.scalar.size:
                    raise ValueError(f"needs {field.scalar.size} bytes, has {len(raw)}")
            except (struct.error, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{type(self).__name__}.{field.name}: {error}") from error
            out[field.offset : field.offset + field.scalar.size] = raw
        return bytes(out)

    @classmethod
    def unpack(cls, raw: bytes, family: Family = 4) -> Self:
        """The record of these bytes; the inverse of :meth:`pack`."""
        layout = cls.layout(family)
        if len(raw) < layout.size:
            raise ValueError(f"{cls.__name__} has {layout.size} bytes, not {len(raw)}")
        values = {
            f.name: f.scalar.unpack(raw[f.offset : f.offset + f.scalar.size]) for f in layout.fields
        }
        return cls(**values)


_LAYOUTS: dict[tuple[type[Record], Family], Layout] = {}


def _lay_out(cls: type[Record], family: Family) -> Layout:
    hints = typing.get_type_hints(cls, include_extras=True)
    placed, offset, largest = [], 0, 1
    for field in dataclasses.fields(cls):
        scalar = _scalar(cls, field.name, hints[field.name], family)
        offset = _round_up(offset, scalar.alignment)
        placed.append(Placed(field.name, offset, scalar))
        offset += scalar.size
        largest = max(largest, scalar.alignment)
    return Layout(tuple(placed), _round_up(offset, largest))


def _scalar(cls: type[Record], name: str, hint: Any, family: Family) -> Scalar:
    if isinstance(hint, type) and issubclass(hint, Record):
        return _nested(hint, family)
    metadata = getattr(hint, "__metadata__", ("",))
    if isinstance(metadata[0], Length):
        return Scalar("__u8", metadata[0].size, _pack_bytes, bytes, align=1, array=True)
    if metadata[0] == "addr":
        return _ADDRESSES[family]
    if metadata[0] not in _SCALARS:
        raise TypeError(f"{cls.__name__}.{name}: {hint} is not a type of cubelet_hooks.records")
    return _SCALARS[metadata[0]]


def _nested(record: type[Record], family: Family) -> Scalar:
    layout = record.layout(family)
    largest = max(field.scalar.alignment for field in layout.fields)
    return Scalar(
        f"struct cubelet_{record.c_name()}",
        layout.size,
        lambda value: value.pack(family),
        lambda raw: record.unpack(raw, family),
        align=largest,
    )
