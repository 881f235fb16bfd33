"""Bytes of a fixed length in records."""

from __future__ import annotations

from typing import Annotated

import pytest

from cubelet_hooks.records import U8, U32, Length, Record


class Asked(Record):
    """A name, behind its length."""

    length: U8
    name: Annotated[bytes, Length(5)]
    times: U32


def test_bytes_have_their_place_without_alignment():
    assert Asked.layout().c_members() == [
        "__u8 length;",
        "__u8 name[5];",
        "__u8 _pad6[2];",
        "__u32 times;",
    ]
    packed = Asked(3, b"abc\0\0", 7).pack()
    assert packed == b"\3abc\0\0\0\0\7\0\0\0"
    assert Asked.unpack(packed) == Asked(3, b"abc\0\0", 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"abc", "Asked.name: needs 5 bytes, has 3"),
        (b"abcdef", "Asked.name: needs 5 bytes, has 6"),
        ("abcde", "Asked.name: memoryview"),
        (5, "Asked.name: memoryview"),
    ],
)
def test_other_bytes_are_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message):
        Asked(3, name, 7).pack()


@pytest.mark.parametrize("size", [0, -1, 4097])
def test_a_length_that_no_field_has_is_refused(size):
    with pytest.raises(ValueError, match=f"Length.{size}.: a field has 1 to 4096 bytes"):
        Length(size)
