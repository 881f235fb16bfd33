"""Address management: pure, but for one file that must survive a crash at any point."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cubelet.cni import errors
from cubelet.cni.errors import CniError
from cubelet.cni.ipam import Ipam, Lease

CIDR = ip_network("10.244.1.0/24")
TEN = ip_address("10.244.1.10")
TWICE = b"""{"pod_cidr": "10.244.1.0/24", "leases": [
    {"address": "10.244.1.2", "container_id": "c", "ifname": "eth0"},
    {"address": "10.244.1.2", "container_id": "d", "ifname": "eth0"}
]}"""
TINY = ip_network("10.244.1.0/29")  # .2 to .6 for pods


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ipam.json"


def take(ipam: Ipam, container: str, cidr: str = str(TINY)) -> str:
    return str(ipam.allocate(ip_network(cidr), (container, "eth0")))


def failure(code: int, call: Callable[[], object]) -> CniError:
    with pytest.raises(CniError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_network_gateway_and_broadcast_are_never_given_out(path: Path) -> None:
    ipam = Ipam(path)
    given = [take(ipam, f"c{number}") for number in range(5)]
    assert given == ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]


@pytest.mark.parametrize(("cidr", "count"), [("10.9.0.0/30", 1), ("10.9.0.0/31", 0)])
def test_exhaustion_names_the_pod_cidr_and_the_count(path: Path, cidr: str, count: int) -> None:
    ipam = Ipam(path)
    for number in range(count):
        take(ipam, f"c{number}", cidr)
    error = failure(errors.ADDRESSES_EXHAUSTED, lambda: take(ipam, "more", cidr))
    assert error.message == f"all {count} pod addresses of podCIDR {cidr} are in use"


def test_the_same_interface_keeps_its_address(path: Path) -> None:
    ipam = Ipam(path)
    first = ipam.allocate(CIDR, ("one", "eth0"))
    assert ipam.allocate(CIDR, ("one", "eth0")) == first
    assert ipam.allocate(CIDR, ("one", "net1")) != first
    assert len(ipam.leases) == 2


def test_a_new_process_knows_what_is_in_use(path: Path) -> None:
    before = Ipam(path).allocate(CIDR, ("one", "eth0"))
    ipam = Ipam(path)
    assert ipam.allocate(CIDR, ("one", "eth0")) == before
    assert ipam.allocate(CIDR, ("two", "eth0")) != before


def test_a_freed_address_is_reused_last(path: Path) -> None:
    ipam = Ipam(path)
    for container in ("a", "b", "c"):
        take(ipam, container)
    ipam.release(("b", "eth0"))  # .3
    ipam.release(("a", "eth0"))  # .2
    assert [take(ipam, c) for c in ("d", "e")] == ["10.244.1.5", "10.244.1.6"]
    assert [take(ipam, c) for c in ("f", "g")] == ["10.244.1.3", "10.244.1.2"]


def test_one_pod_after_another_goes_round_the_whole_range(path: Path) -> None:
    given = []
    for number in range(2 * 253):
        ipam = Ipam(path)
        given.append(ipam.allocate(CIDR, (f"c{number}", "eth0")))
        ipam.release((f"c{number}", "eth0"))
    assert len(set(given[:253])) == 253
    assert given[253:] == given[:253]


def test_release_is_repeatable_and_tells_what_it_freed(path: Path) -> None:
    ipam = Ipam(path)
    address = ipam.allocate(CIDR, ("one", "eth0"))
    assert ipam.release(("one", "eth0")) == address
    assert ipam.release(("one", "eth0")) is None
    assert ipam.leases == ()


def test_a_requested_address_is_given_even_if_lately_freed(path: Path) -> None:
    ipam = Ipam(path)
    wanted = ip_address("10.244.1.77")
    for container in ("one", "two"):
        assert ipam.allocate(CIDR, (container, "eth0"), wanted) == wanted
        ipam.release((container, "eth0"))


@pytest.mark.parametrize(
    "wanted", ["10.244.1.0", "10.244.1.1", "10.244.1.255", "10.244.2.5", "fd00::5"]
)
def test_a_requested_address_outside_the_pods_range_is_refused(path: Path, wanted: str) -> None:
    ipam = Ipam(path)
    error = failure(
        errors.ADDRESS_UNAVAILABLE,
        lambda: ipam.allocate(CIDR, ("one", "eth0"), ip_address(wanted)),
    )
    assert wanted in error.message
    assert "10.244.1.0/24" in error.message
    assert ipam.leases == ()


def test_a_requested_address_in_use_is_refused(path: Path) -> None:
    ipam = Ipam(path)
    taken = ipam.allocate(CIDR, ("one", "eth0"))
    error = failure(errors.ADDRESS_UNAVAILABLE, lambda: ipam.allocate(CIDR, ("two", "eth0"), taken))
    assert "container one" in error.details


def test_a_changed_pod_cidr_is_refused_until_its_addresses_are_free(path: Path) -> None:
    ipam = Ipam(path)
    ipam.allocate(CIDR, ("one", "eth0"))
    error = failure(errors.POD_CIDR_CHANGED, lambda: take(ipam, "two", "10.244.9.0/24"))
    assert "from 10.244.1.0/24 to 10.244.9.0/24" in error.message
    ipam.release(("one", "eth0"))
    assert take(ipam, "two", "10.244.9.0/24") == "10.244.9.2"


def test_what_is_restored_is_held_whatever_the_file_says(path: Path) -> None:
    ipam = Ipam(path)
    for container in ("one", "two", "three"):
        take(ipam, container, str(CIDR))
    ipam.restore({("two", "eth0"): ip_address("10.244.1.3"), ("new", "eth0"): TEN}, CIDR)
    held = {lease.container_id: lease.address for lease in Ipam(path).leases}
    assert held == {"two": "10.244.1.3", "new": "10.244.1.10"}
    assert take(Ipam(path), "four", str(CIDR)) == "10.244.1.5"
    before = path.stat().st_ino
    ipam.restore({lease.key: ip_address(lease.address) for lease in ipam.leases}, CIDR)
    assert path.stat().st_ino == before


def test_ipv6_ranges_are_not_enumerated(path: Path) -> None:
    ipam = Ipam(path)
    given = [take(ipam, container, "fd00:1::/64") for container in ("one", "two")]
    assert given == ["fd00:1::2", "fd00:1::3"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"leases": [',
        b"[]",
        b'{"mine": 1}',
        b'{"pod_cidr": "10.244.1.0/24", "last": "a"}',
        b'{"pod_cidr": "", "leases": [{"address": "x", "container_id": "c", "ifname": "e"}]}',
        TWICE,
        b"[" * 100_000,
    ],
)
def test_a_broken_file_is_put_aside(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    ipam = Ipam(path)
    assert ipam.leases == ()
    assert path.with_name("ipam.json.unreadable").read_bytes() == content
    ipam.restore({("two", "eth0"): TEN}, CIDR)
    assert take(ipam, "one", str(CIDR)) == "10.244.1.2"
    assert {lease.address for lease in Ipam(path).leases} == {"10.244.1.2", "10.244.1.10"}


# A call is allocate, release or restore; each writes once.
CALLS: dict[str, Callable[[Ipam], object]] = {
    "allocate": lambda ipam: take(ipam, "new"),
    "release": lambda ipam: ipam.release(("old", "eth0")),
    "restore": lambda ipam: ipam.restore({}, None),
}
STEPS = ("open", "write", "fsync", "close", "replace")


@pytest.mark.parametrize("name", CALLS)
def test_a_process_killed_at_any_step_leaves_the_call_undone_or_done(
    tmp_path: Path, name: str
) -> None:
    call = CALLS[name]
    undone = leases_after(tmp_path / "undone.json")
    done = leases_after(tmp_path / "done.json", call)
    seen = []
    for step in range(1, 100):
        path = tmp_path / str(step) / "ipam.json"
        take(Ipam(path), "old")
        survived = run_until_killed(partial(call, Ipam(path)), step)
        seen.append(Ipam(path).leases)
        call(Ipam(path))
        assert Ipam(path).leases == done, f"not repeatable after dying at step {step}"
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        if survived:
            break
    assert survived
    assert len(seen) > len(STEPS)
    assert seen == sorted(seen, key=[undone, done].index)
    assert {undone, done} == set(seen)


def leases_after(path: Path, *calls: Callable[[Ipam], object]) -> tuple[Lease, ...]:
    ipam = Ipam(path)
    take(ipam, "old")
    for call in calls:
        call(ipam)
    return ipam.leases


def run_until_killed(call: Callable[[], object], step: int) -> bool:
    """Run `call` in a child that dies before its `step`-th file operation; whether it survived.

    A write that is the last thing to happen is cut in half.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count_down(step)
            call()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 0


def count_down(step: int) -> None:
    left = step

    def dying(original: Callable[..., object]) -> Callable[..., object]:
        def operation(*args: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                if original.__name__ == "write":
                    descriptor, content = args
                    original(descriptor, content[: len(content) // 2])  # type: ignore[index, arg-type]
                os._exit(9)
            return original(*args)

        return operation

    for name in STEPS:
        setattr(os, name, dying(getattr(os, name)))
