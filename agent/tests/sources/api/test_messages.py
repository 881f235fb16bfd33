"""Lists, events, versions and statuses, apart from any connection."""

from __future__ import annotations

import pytest

from cubelet.sources.api.errors import Garbled, Refused, status_of
from cubelet.sources.api.messages import (
    Lines,
    event_of,
    page_of,
    precedes,
    version_of,
)
from cubelet.sources.api.reader import identify


@pytest.mark.parametrize("size", range(1, 12))
def test_lines_are_the_same_however_they_come(size: int) -> None:
    stream = b'{"a":1}\n\n{"b":2}\r\n{"c":3}\n{"half'
    cut, found = Lines(), []
    for start in range(0, len(stream), size):
        found += list(cut.feed(stream[start : start + size]))
    assert [line.strip() for line in found] == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


def test_a_page() -> None:
    page = page_of(b'{"metadata":{"resourceVersion":"7","continue":"x"},"items":[{"a":1},{}]}')
    assert (page.metadata.resource_version, page.metadata.more) == ("7", "x")
    assert [bytes(each) for each in page.items or ()] == [b'{"a":1}', b"{}"]
    assert page_of(b'{"metadata":{"resourceVersion":"7"},"items":null}').items is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"metadata":{"resourceVersion":"7"},"items":[{"a":',
        b'{"items":[]}',
        b'{"metadata":{},"items":[]}',
        b'{"metadata":{"resourceVersion":"7"},"items":[' + b"[" * 5000 + b"]" * 5000 + b"]}",
        b'{"metadata":{"resourceVersion":"7"},"items":{}}',
    ],
)
def test_a_page_that_is_none(body: bytes) -> None:
    with pytest.raises(Garbled, match="list"):
        page_of(body)


def test_an_error_within_a_watch() -> None:
    with pytest.raises(Refused, match="410: Expired: too old") as caught:
        event_of(
            b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired",'
            b'"message":"too old"}}'
        )
    assert caught.value.gone


@pytest.mark.parametrize(
    "line", [b"{", b'{"type":"ADDED"}', b'{"object":{}}', b"\xff", b"[]", b"[" * 5000]
)
def test_an_event_that_is_none(line: bytes) -> None:
    with pytest.raises(Garbled, match="event"):
        event_of(line)


@pytest.mark.parametrize(
    ("one", "other", "older"),
    [
        ("9", "10", True),
        ("10", "9", False),
        ("9", "9", False),
        ("", "9", False),
        ("9", "", False),
        ("a", "b", False),
        ("1" * 5000, "2" * 5000, False),
    ],
)
def test_versions_are_compared_as_numbers(one: str, other: str, older: bool) -> None:
    assert precedes(one, other) == older


def test_versions_and_identities() -> None:
    raw = b'{"metadata":{"name":"a","namespace":"b","resourceVersion":"7"},"spec":[]}'
    assert version_of(raw) == "7"
    about = identify(raw)
    assert about is not None
    assert about.key == "b/a"
    assert version_of(b"[]") == ""
    assert identify(b'{"metadata":{"namespace":"b"}}') is None
    assert identify(b'{"metadata":') is None


TOO_LARGE = (
    b'{"kind":"Status","code":504,"reason":"Timeout","message":"Too large resource version",'
    b'"details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}'
)


@pytest.mark.parametrize(
    ("code", "body", "away", "gone", "asked"),
    [
        (410, b'{"code":410}', False, True, 0),
        (504, TOO_LARGE, True, True, 1),
        (504, b"upstream timed out", True, False, 0),
        (429, b'{"details":{"retryAfterSeconds":5}}', True, False, 5),
        (500, b"", True, False, 0),
        (401, b"", True, False, 0),
        (403, b"", False, False, 0),
        (400, b"", False, False, 0),
    ],
)
def test_what_a_refusal_means(code: int, body: bytes, away: bool, gone: bool, asked: float) -> None:
    refusal = Refused(code, status_of(body))
    assert (refusal.away, refusal.gone, refusal.retry_after) == (away, gone, asked)


def test_a_refusal_by_something_else() -> None:
    """A proxy's page, say: its first words, on one line."""
    assert str(Refused(502, status_of(b"<h1>Bad\n gateway</h1>" + b"x" * 999))).startswith(
        "502: <h1>Bad gateway</h1>xxx"
    )
