"""Names in DNS questions: plain Python."""

from __future__ import annotations

from random import Random

import pytest

from cubelet_flowlog.questions import name_of
from cubelet_flowlog.records import ASKED


@pytest.mark.parametrize(
    ("question", "name"),
    [
        (b"\3web\4shop\3svc\0\0\1\0\1", "web.shop.svc"),
        (b"\4_sip\4_tcp\7EXAMPLE\3com\0", "_sip._tcp.example.com"),
        (b"\0\0\1\0\1", ""),
        (b"", ""),
        (b"\3web\n" + b"b" * 10 + b"\x14cut off", f"web.{'b' * 10}...."),
        (b"\3web", "web...."),
        (b"\xc0\x0c", ""),
        (b"\3a b\0", ""),
        (b"\4a\x1b[m\0", ""),
        ("\3h\u00e9".encode() + b"\0", ""),
        (b"\2-a\0", ""),
    ],
)
def test_what_could_be_a_hosts_name_is_read(question: bytes, name: str) -> None:
    assert name_of(question.ljust(ASKED, b"\0") if question.endswith(b"\0") else question) == name


def test_whatever_is_sent_gives_plain_text() -> None:
    random = Random(7)
    for _ in range(2_000):
        name = name_of(random.randbytes(random.randrange(ASKED + 1)))
        assert name.isascii()
        assert name.isprintable()
