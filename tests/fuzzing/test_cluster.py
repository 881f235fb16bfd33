"""What the model holds of policies and Services, by examples of their documentation."""

from __future__ import annotations

from typing import Literal

import pytest

from fuzz import cluster
from fuzz.cluster import GATEWAY, LOCAL_PODS, NODE, OUTSIDE, REMOTE_PODS, WEB, martian, number
from fuzz.policies import POLICIES, allows
from fuzz.services import Cluster
from fuzz.wire import ICMP, TCP, UDP

A, B, C, D = (LOCAL_PODS[name] for name in "abcd")
R, S = REMOTE_PODS["r"], REMOTE_PODS["s"]
IN_BLOCK, EXCEPTED, FREE = OUTSIDE[0], OUTSIDE[1], OUTSIDE[2]
Direction = Literal["ingress", "egress"]

EXAMPLES: dict[str, tuple[int, Direction, int, int, bool, int, int, bool]] = {
    "no policy": (0, "ingress", B, FREE, False, TCP, 1, True),
    "a chosen peer, a chosen port": (1, "egress", A, B, True, TCP, 8080, True),
    "another port": (1, "egress", A, B, True, TCP, 80, False),
    "another protocol": (1, "egress", A, B, True, ICMP, 0, False),
    "another peer": (1, "egress", A, D, True, TCP, 8080, False),
    "all ports of a block": (1, "egress", A, FREE, True, ICMP, 0, True),
    "not selected": (1, "egress", B, D, True, TCP, 1, True),
    "a pod of the same labels in another namespace": (1, "ingress", B, S, True, TCP, 8080, False),
    "a client": (1, "ingress", B, A, True, UDP, 8080, True),
    "an address of a client's, from outside": (1, "ingress", B, A, False, UDP, 8080, False),
    "nothing": (2, "ingress", C, A, True, TCP, 8080, False),
    "the other direction": (2, "egress", C, A, True, TCP, 8080, True),
    "a block": (3, "ingress", D, IN_BLOCK, False, TCP, 8085, True),
    "but not its exception": (3, "ingress", D, EXCEPTED, False, TCP, 8085, False),
    "beyond a range of ports": (3, "ingress", D, IN_BLOCK, False, TCP, 8091, False),
    "pods of another namespace": (3, "ingress", D, S, True, ICMP, 0, True),
    "a port of all": (4, "egress", D, FREE, True, UDP, 53, True),
    "and no other": (4, "egress", D, FREE, True, UDP, 54, False),
    "a block that means pods": (5, "ingress", B, R, True, TCP, 1, True),
}


@pytest.mark.parametrize("case", EXAMPLES)
def test_policies(case: str) -> None:
    policy, direction, pod, peer, known, protocol, port, wanted = EXAMPLES[case]
    assert allows(POLICIES[policy], direction, pod, peer, known, protocol, port) == wanted


def test_services_by_who_asks() -> None:
    state = Cluster(endpoints=3)
    everyone = ((B, 8080), (R, 8080), (S, 8080))
    for entry in ("a", "host"):
        assert state.backends(entry, WEB, 80, TCP) == everyone
        assert state.backends(entry, WEB, 81, TCP) == ()
        assert state.backends(entry, NODE, 30_081, UDP) == ((C, 8080), (R, 8080))
    assert state.backends("uplink", WEB, 80, TCP) is None
    assert state.backends("uplink", NODE, 30_080, TCP) == everyone
    assert state.backends("uplink", NODE, 30_081, TCP) == ((C, 8080),)
    assert state.backends("overlay", WEB, 80, TCP) is None
    assert state.backends("a", cluster.EMPTY, 80, TCP) == ()
    assert state.backends("a", NODE, 22, TCP) is None
    state.choose(5)
    assert state.backends("uplink", cluster.EXTERNAL, 80, TCP) == ()


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.1.2.5", "10.96.0.10"]
)
def test_martians(text: str) -> None:
    assert martian(number(text))
    assert martian(NODE)
    assert martian(GATEWAY)
    assert not any(map(martian, OUTSIDE))
    assert not martian(number("172.18.0.3"))
