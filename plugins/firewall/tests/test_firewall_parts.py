"""Port sets and CIDRs, against the plainest way to work them out."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from cubelet_firewall.blocks import blocks
from cubelet_firewall.matching import Selectors
from cubelet_firewall.portsets import (
    EVERYTHING,
    NOTHING,
    Ports,
    PortSet,
    prefixes,
    set_number,
    union,
)
from cubelet_firewall.rules import Rule
from cubelet_hooks.objects import LabelSelector, Network, PolicyPeer, Requirement
from cubelet_hooks.selectors import Operator

TCP, UDP = 6, 17


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [(80, 80, 1), (0, 65535, 1), (1, 65534, 30), (1, 65535, 16), (0, 32767, 1), (1000, 1999, 7)],
)
def test_prefixes_make_up_the_range(first: int, last: int, count: int) -> None:
    found = list(prefixes(first, last))
    covered = [port for start, length in found for port in range(start, start + (1 << 16 - length))]
    assert covered == list(range(first, last + 1))
    assert all(start % (1 << 16 - length) == 0 for start, length in found)
    assert len(found) == count


def test_sets_with_the_same_ports_are_equal() -> None:
    apart = ((Ports(TCP, 80, 80),), (Ports(TCP, 81, 90),), (Ports(UDP, 91, 91),))
    whole = ((Ports(UDP, 91, 91), Ports(TCP, 85, 90)), (Ports(TCP, 80, 86),))
    assert union(apart) == union(whole) == (Ports(TCP, 80, 90), Ports(UDP, 91, 91))
    assert union([*apart, EVERYTHING]) == EVERYTHING
    assert union([]) == NOTHING


def test_a_sets_number_is_its_contents() -> None:
    one, two = (Ports(TCP, 80, 80),), (Ports(UDP, 80, 80),)
    assert (set_number(NOTHING), set_number(EVERYTHING)) == (0, 1)
    assert set_number(one) == set_number((Ports(TCP, 80, 80),))
    assert len({set_number(one), set_number(two), 0, 1}) == 4
    assert all(1 << 63 <= set_number(each) < 1 << 64 for each in (one, two))


def _rules(chance: random.Random) -> tuple[Rule, ...]:
    """Few networks, deep in each other, so that they meet often."""

    def network(within: Network | None = None) -> IPv4Network:
        length = chance.randrange((within.prefixlen if within else -1) + 1, 5)
        base = int(within.network_address) if within else 0
        inner = chance.getrandbits(4) << 28
        mask = ((1 << within.prefixlen) - 1) << 32 - within.prefixlen if within else 0
        return IPv4Network((base | inner & ~mask, length), strict=False)

    def peer() -> PolicyPeer:
        cidr = network()
        inner = [network(cidr) for _ in range(chance.randrange(3)) if cidr.prefixlen < 4]
        return PolicyPeer(cidr=cidr, excepts=tuple(inner))

    return tuple(
        Rule("x", tuple(peer() for _ in range(chance.randrange(3))), (Ports(TCP, port, port),))
        for port in chance.sample(range(10, 20), chance.randrange(5))
    )


@pytest.mark.parametrize("seed", range(200))
def test_blocks_answer_for_every_address(seed: int) -> None:
    rules = _rules(random.Random(seed))
    found = dict(blocks(rules, 4))
    for top in range(16):
        address = IPv4Address(top << 28)
        around = [network for network in found if address in network]
        answer = found[max(around, key=lambda n: n.prefixlen)] if around else NOTHING
        assert answer == _plainly(rules, address)


def _plainly(rules: tuple[Rule, ...], address: IPv4Address) -> PortSet:
    return union(
        rule.ports
        for rule in rules
        if not rule.peers
        or any(
            peer.cidr is not None
            and address in peer.cidr
            and not any(address in network for network in peer.excepts)
            for peer in rule.peers
        )
    )


def test_blocks_of_the_other_family_are_left_out() -> None:
    peer = PolicyPeer(cidr=IPv6Network("fd00::/8"), excepts=(IPv6Network("fd01::/16"),))
    rules = (Rule("x", (peer,), EVERYTHING),)
    assert list(blocks(rules, 4)) == []
    assert list(blocks(rules, 6)) == [
        (IPv6Network("fd00::/8"), EVERYTHING),
        (IPv6Network("fd01::/16"), NOTHING),
    ]


_OPERATORS: list[tuple[Operator, int]] = [
    *(("In", 2), ("In", 1), ("NotIn", 2), ("Exists", 0), ("DoesNotExist", 0))
]
"""Each with as many values."""


def _selector(chance: random.Random) -> LabelSelector:
    def values(number: int) -> tuple[str, ...]:
        return tuple(chance.choice("xyz") for _ in range(number))

    labels = {key: chance.choice("xyz") for key in chance.sample("abc", chance.randrange(3))}
    return LabelSelector(
        labels,
        tuple(
            Requirement(chance.choice("abc"), operator, values(count))
            for operator, count in chance.sample(_OPERATORS, chance.choice((0, 0, 1, 2)))
        ),
    )


@pytest.mark.parametrize("seed", range(20))
def test_selectors_are_found_as_each_would_say_itself(seed: int) -> None:
    chance = random.Random(seed)
    given = [(_selector(chance), number) for number in range(60)]
    selectors = Selectors(given)
    for _ in range(60):
        labels = {key: chance.choice("wxyz") for key in chance.sample("abcd", chance.randrange(4))}
        found = sorted(selectors.matching(labels))
        assert found == [number for selector, number in given if selector.matches(labels)]


def test_a_selector_of_many_values_is_found_by_one() -> None:
    """Else each pod of the cluster would be compared with all of them."""
    many = tuple(f"v{n}" for n in range(60_000))
    requirements = (Requirement("a", "In", many), Requirement("b", "NotIn", many))
    selectors = Selectors([(LabelSelector({}, requirements), "found")])
    for n in range(60_000):
        assert list(selectors.matching({"a": f"v{n}"})) == ["found"]
