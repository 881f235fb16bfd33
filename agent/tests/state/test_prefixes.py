"""Networks found by addresses in them, and addresses by networks around them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from cubelet.state.prefixes import Addresses, Networks
from cubelet_hooks.objects import Address, Network


@dataclass(frozen=True)
class Thing:
    key: str
    networks: tuple[Network, ...] = ()
    addresses: tuple[Address, ...] = ()


def network(number: int, length: int, version: int) -> Network:
    bits = 32 if version == 4 else 128
    return ip_network((number << bits - 8, min(length, 8)), strict=False)


def address(number: int, version: int) -> Address:
    return ip_address((number << (24 if version == 4 else 120)).to_bytes(4 if version == 4 else 16))


VERSIONS = st.sampled_from([4, 6])
NETWORKS = st.builds(network, st.integers(0, 255), st.integers(0, 8), VERSIONS)
ADDRESSES = st.builds(address, st.integers(0, 255), VERSIONS)
STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.lists(NETWORKS, max_size=3), st.lists(ADDRESSES, max_size=3)
    ),
    max_size=12,
)


@given(STEPS, ADDRESSES, NETWORKS)
def test_they_find_what_a_search_of_all_finds(steps, asked, wide):
    networks = Networks[Thing](lambda each: each.networks)
    addresses = Addresses[Thing](lambda each: each.addresses)
    known: dict[str, Thing] = {}
    for key, some, others in steps:
        old = known.pop(key, None)
        new = Thing(key, tuple(some), tuple(others)) if some or others else None
        if new is not None:
            known[key] = new
        networks.replace(old, new)
        addresses.replace(old, new)
    around = [
        (-found.prefixlen, each.key)
        for each in known.values()
        for found in set(each.networks)
        if asked in found
    ]
    assert [each.key for each in networks.around(asked)] == [key for _, key in sorted(around)]
    within = {each for each in known.values() if any(a in wide for a in each.addresses)}
    assert set(addresses.within(wide)) == within
    assert {each.key for each in addresses} == {k for k, each in known.items() if each.addresses}
