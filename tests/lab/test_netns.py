"""Running Python in network namespaces."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from cubelet.lab import netns
from cubelet.lab.errors import LabError
from cubelet.lab.layout import Layout
from cubelet.lab.netns import Call


@pytest.fixture
def place(layout: Layout) -> str:
    """A namespace, removed with the lab that it is named after."""
    name = f"{layout.netns_prefix}a"
    netns.create(name)
    return name


def devices() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def fail(text: str) -> None:
    raise ValueError(text)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_function_sees_the_namespace_and_the_caller_stays(place: str) -> None:
    netns.ip(["link", "add", "br7", "type", "bridge"], place)
    before = devices()
    assert sorted(netns.run(place, devices)) == ["br7", "lo"]
    assert devices() == before


def test_results_come_in_the_order_of_the_calls(place: str) -> None:
    calls = [Call(place, abs, (-n,)) for n in range(10)]
    assert netns.run_all(calls, timeout=10, limit=3) == list(range(10))


def test_errors_name_the_function_and_the_namespace(place: str) -> None:
    with pytest.raises(LabError, match=f"fail in {place}: ValueError: why"):
        netns.run(place, fail, "why")
    with pytest.raises(LabError, match="ended without a result"):
        netns.run(place, die)
    with pytest.raises(LabError, match="nosuch"):
        netns.run("cubelet-nosuch", devices)


def test_time_is_bounded_and_no_child_stays(place: str) -> None:
    began = time.monotonic()
    with pytest.raises(LabError, match=f"within 0.2 s from {place}"):
        netns.run(place, time.sleep, 60, timeout=0.2)
    assert time.monotonic() - began < 5
    assert netns.inhabitants([place]) == []


def test_deleting_is_idempotent_and_takes_half_made_ones(layout: Layout, place: str) -> None:
    half = f"{layout.netns_prefix}half"
    netns.path(half).touch()
    assert netns.matching(layout.netns_prefix) == [place, half]
    for name in (place, half, place):
        netns.delete(name)
    assert netns.matching(layout.netns_prefix) == []


def test_a_plain_file_is_no_namespace_whose_inhabitants_may_be_ended(layout: Layout) -> None:
    half = f"{layout.netns_prefix}half"
    netns.path(half).touch()
    assert netns.inhabitants([half]) == []
    assert netns.inhabitants(["cubelet-nosuch"]) == []


def test_a_failing_ip_command_says_what_it_said(place: str) -> None:
    with pytest.raises(LabError, match="Cannot find device"):
        netns.ip(["link", "set", "nosuch", "up"], place)
    with pytest.raises(LabError, match="exists"):
        netns.create(place)
