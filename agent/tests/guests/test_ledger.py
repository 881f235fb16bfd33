"""Who is not asked for a while, and when it is the cube's own fault. Pure."""

from __future__ import annotations

import pytest

from cubelet.guests.ledger import BUDGET, Asked, Ledger


class Account:
    """A ledger, and the clock by which it goes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ledger = Ledger(lambda: self.now)

    def stop(self, what: str, namespace: str = "") -> str:
        return self.ledger.stop(Asked(what, namespace), "took over 2 s of CPU")

    def bar(self, what: str, namespace: str = "") -> str:
        return self.ledger.bar(Asked(what, namespace))


@pytest.fixture
def account() -> Account:
    return Account()


def test_what_was_stopped_is_not_asked_again_for_twice_as_long_each_time(account: Account) -> None:
    assert account.bar("plan of pod a/b", "a") == ""
    for pause in (60, 120, 240):
        told = account.stop("plan of pod a/b", "a")
        assert told == (
            "plan of pod a/b was stopped: it took over 2 s of CPU; "
            f"it is asked again after {pause} s"
        )
        assert account.bar("plan of pod a/b", "a") == told
        account.now += pause - 1
        assert account.bar("plan of pod a/b", "a") == told
        account.now += 1
        assert account.bar("plan of pod a/b", "a") == ""
    assert not account.ledger.fault


def test_a_namespace_that_goes_on_is_not_asked_about_and_nobody_else_notices(
    account: Account,
) -> None:
    for number in range(3):
        assert account.bar("plan of pod a/new", "a") == ""
        account.stop(f"plan of pod a/{number}", "a")
    assert account.bar("plan of pod a/new", "a").startswith("objects of namespace a have stopped")
    assert account.bar("plan of pod b/new", "b") == account.bar("plan of node n") == ""
    for number in range(50):
        account.stop(f"plan of pod a/x{number}", "a")
    assert account.ledger.fault == ""


def test_what_several_namespaces_stop_at_is_the_cubes_fault(account: Account) -> None:
    account.stop("plan of pod a/x", "a")
    account.stop("plan of pod b/x", "b")
    assert account.ledger.fault == ""
    account.stop("plan of pod c/x", "c")
    assert account.ledger.fault == (
        "plan of pod c/x was stopped: it took over 2 s of CPU; 3 such stops are too many"
    )
    account.ledger.forgive()
    assert account.ledger.fault == account.bar("plan of pod a/x", "a") == ""


def test_what_is_no_namespaces_counts_each_time_within_the_hour(account: Account) -> None:
    for _ in range(3):
        account.stop("collect")
        assert account.ledger.fault == ""
        account.now += 3000
    account.stop("needed_on")
    account.stop("collect")
    assert account.ledger.fault.startswith("collect was stopped")


def test_stops_of_long_ago_do_not_count(account: Account) -> None:
    for name in "abcdef":
        account.stop(f"plan of pod {name}/x", name)
        account.now += 2 * 3_700
    assert account.ledger.fault == ""
    assert account.stop("plan of pod a/x", "a").endswith("asked again after 60 s")


def idle(account: Account) -> bool:
    return account.ledger.resting


def test_who_is_slow_has_half_of_the_time(account: Account) -> None:
    account.ledger.spend(BUDGET)
    assert not idle(account)
    account.ledger.spend(2)
    assert account.ledger.resting
    account.now += 5
    assert not idle(account)


def test_accounts_are_few_whoever_makes_objects(account: Account) -> None:
    for number in range(5_000):
        account.stop(f"plan of pod a/{number}", "a")
    assert len(account.ledger._whats) <= 1_000
