"""Records of events, as they are written and as people read them: plain Python."""

from __future__ import annotations

import time

import pytest

from cubelet import testkit
from cubelet_flowlog import names
from cubelet_flowlog.commands import in_words
from cubelet_flowlog.lines import describe
from cubelet_flowlog.names import REMEMBERED, Names
from cubelet_flowlog.records import How, What
from cubelet_hooks.flows import Tuple

from .told import DB, LEFT, LOCAL, NODE, SENT, VIP, WEB, event, pod, view

OFFSET = 1_700_000_000 * 10**9
"""When the clock began, in ns since 1970."""


def test_an_opened_flow_has_both_ends_named_and_its_translation() -> None:
    line = describe(event(What.OPENED, SENT, LEFT), view(), OFFSET, Names())
    assert list(line.items()) == [
        ("time", "2023-11-14T22:13:21.250Z"),
        ("node", "node1"),
        ("event", "opened"),
        ("protocol", "TCP"),
        ("source", "10.1.0.2"),
        ("source_port", 4000),
        ("source_pod", "shop/web"),
        ("destination", "10.96.0.9"),
        ("destination_port", 80),
        ("destination_pod", "shop/db"),
        ("to_destination", "10.1.1.3"),
        ("to_destination_port", 8080),
        ("enters", "pod"),
        ("leaves", "overlay"),
    ]
    assert in_words(line) == (
        "22:13:21.250 opened  TCP 10.1.0.2:4000 (shop/web) -> 10.96.0.9:80 => 10.1.1.3:8080"
        " (shop/db), pod to overlay"
    )


def test_a_denied_one_left_by_nothing() -> None:
    line = describe(event(What.DENIED, SENT, SENT), view(), OFFSET, Names())
    assert "leaves" not in line
    assert not [name for name in line if name.startswith("to_")]
    assert in_words(line).endswith("(shop/web) -> 10.96.0.9:80, pod")


def test_a_source_port_that_nobody_knows_is_left_out() -> None:
    masked = Tuple(NODE, VIP, 4000, 80, 6)
    line = describe(event(What.OPENED, SENT, masked, How.PORT_UNKNOWN), view(), OFFSET, Names())
    assert line["to_source"] == "172.18.0.2"
    assert "to_source_port" not in line
    assert "as 172.18.0.2:? ->" in in_words(line)


def test_counts_of_replies_are_of_the_flow_as_it_was_opened() -> None:
    arrived, left = Tuple(DB, WEB, 8080, 4000, 6), Tuple(VIP, WEB, 80, 4000, 6)
    counted = event(What.COUNTED, arrived, left, How.REPLY, packets=3, size=180)
    line = describe(counted, view(), OFFSET, Names())
    opened = describe(event(What.OPENED, SENT, LEFT), view(), OFFSET, Names())
    assert {**line, "event": "opened"} == {
        **opened,
        "enters": "overlay",
        "leaves": "pod",
        "direction": "reply",
        "packets": 3,
        "bytes": 180,
    }
    assert in_words(line).endswith("overlay to pod, reply: 3 packets, 180 bytes")


def test_only_a_pod_that_has_the_address_for_itself_is_named() -> None:
    known = view(
        pod("agent", NODE, host_network=True),
        pod("aged", DB, phase="Succeeded"),
    )
    assert Names().pod_of(NODE, known) == ""
    assert Names().pod_of(DB, known) == "shop/db"
    assert Names().pod_of(VIP, known) == ""


def test_other_protocols_are_numbers() -> None:
    gre = Tuple(WEB, DB, 0, 0, 47)
    assert describe(event(What.OPENED, gre, gre), view(), OFFSET, Names())["protocol"] == "47"


def test_a_pod_that_has_gone_is_named_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, empty = Names(), testkit.view(LOCAL)
    kept.gone(pod("web", WEB))
    kept.gone(pod("agent", NODE, host_network=True))
    assert (kept.pod_of(WEB, empty), kept.pod_of(NODE, empty)) == ("shop/web", "")
    another = testkit.view(LOCAL, pod("next", WEB))
    assert kept.pod_of(WEB, another) == "shop/next"
    later = time.monotonic() + REMEMBERED
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert kept.pod_of(WEB, empty) == ""


def test_of_many_pods_that_have_gone_the_last_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MOST", 2)
    kept, empty = Names(), testkit.view(LOCAL)
    for name, address in (("web", WEB), ("db", DB), ("web", WEB), ("vip", VIP)):
        kept.gone(pod(name, address))
    assert [kept.pod_of(each, empty) for each in (WEB, DB, VIP)] == ["shop/web", "", "shop/vip"]
