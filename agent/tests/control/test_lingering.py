"""What is needed on and off stays composed in, for a while."""

from __future__ import annotations

import pytest

from cubelet.control.lingering import Lingering, Needed

NOWHERE: Needed = {"wall0": ()}
PODS: Needed = {"wall0": ("pod",)}


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def lingering(time: Time) -> Lingering:
    return Lingering(30, time)


def asked(lingering: Lingering, needed: Needed) -> tuple[Needed, float | None]:
    return lingering.joined(needed), lingering.left


def test_what_was_never_needed_does_not_linger(lingering: Lingering) -> None:
    assert lingering.joined(NOWHERE) == NOWHERE
    assert lingering.left is None


def test_it_stays_until_its_time_is_over(lingering: Lingering, time: Time) -> None:
    assert asked(lingering, PODS) == (PODS, None)
    assert asked(lingering, NOWHERE) == (PODS, 30)
    time.now += 20
    assert asked(lingering, NOWHERE) == (PODS, 10)
    time.now += 10
    assert lingering.left == 0
    assert asked(lingering, NOWHERE) == (NOWHERE, None)


def test_needed_again_it_lingers_anew_afterwards(lingering: Lingering, time: Time) -> None:
    lingering.joined(PODS)
    lingering.joined(NOWHERE)
    time.now += 20
    lingering.joined(PODS)
    time.now += 20
    assert lingering.joined(NOWHERE) == PODS
    assert lingering.left == 30


def test_each_class_has_its_own_time_and_keeps_its_order(lingering: Lingering, time: Time) -> None:
    lingering.joined({"wall0": ("pod", "host", "uplink")})
    lingering.joined({"wall0": ("host", "uplink")})
    time.now += 20
    assert lingering.joined({"wall0": ("host",)}) == {"wall0": ("pod", "host", "uplink")}
    time.now += 10
    assert lingering.joined({"wall0": ("host",)}) == {"wall0": ("host", "uplink")}


def test_an_instance_that_has_gone_leaves_nothing(lingering: Lingering) -> None:
    lingering.joined(PODS)
    assert lingering.joined({}) == {}
    assert lingering.joined(NOWHERE) == NOWHERE
    assert lingering.left is None


def test_without_a_time_nothing_lingers(time: Time) -> None:
    lingering = Lingering(0, time)
    lingering.joined(PODS)
    assert lingering.joined(NOWHERE) == NOWHERE
    assert lingering.left is None
