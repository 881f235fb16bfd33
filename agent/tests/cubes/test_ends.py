"""Records of ended flows put together: plain Python."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from cubelet.composer.ends import Ended
from cubelet.composer.slots import Slots
from cubelet.cubes import ends
from cubelet.cubes.ends import Halves, ended_flow
from cubelet_hooks.cube import Cube, Settings
from cubelet_hooks.flows import Counter, Flow, FlowFlag, FlowState, Hop, Tuple

CLIENT, VIP, SERVER = map(ip_address, ("10.1.0.2", "10.96.0.9", "10.1.0.5"))
POD = Hop(7, 0, "02:00:00:00:00:01", "02:00:00:00:00:02", 1500, 0)
UPLINK = Hop(9, 0, "02:00:00:00:00:01", "02:00:00:00:00:02", 1500, 3)
SENT, BECAME = Tuple(CLIENT, VIP, 4000, 80, 6), Tuple(CLIENT, SERVER, 4000, 8080, 6)
BACK, TO = Tuple(SERVER, CLIENT, 8080, 4000, 6), Tuple(VIP, CLIENT, 80, 4000, 6)


class Plain(Cube):
    """Keeps nothing of flows."""

    kind = "plain"


CUBE = Plain("plain0", Settings())


def flow(to: Tuple, enters: Hop, leaves: Hop, **values: Any) -> Flow:
    names = (each for each in Flow.__dataclass_fields__)
    zeros: dict[str, Any] = dict.fromkeys(names, 0) | {"area": bytes(64)}
    return Flow(**zeros | {"to": to, "enters": enters, "leaves": leaves, "state": 1} | values)


def forward() -> Ended:
    return Ended(SENT, 0, flow(BECAME, POD, UPLINK, packets=4, bytes=400), 0, 0, bytes(64))


def reply() -> Ended:
    back = flow(TO, UPLINK, POD, packets=3, bytes=900, flags=FlowFlag.REPLY)
    return Ended(BACK, 0, back, 0, 0, bytes(64))


@pytest.mark.parametrize("halves", [(forward(), reply()), (reply(), forward())])
def test_two_halves_are_one_flow_whichever_comes_first(halves: tuple[Ended, Ended]) -> None:
    joining = Halves()
    assert list(joining.joined(halves[0])) == []
    ((one, other),) = joining.joined(halves[1])
    told = ended_flow(CUBE, Slots(), one, other)
    assert (told.sent, told.became) == (SENT, BECAME)
    assert (told.enters, told.leaves) == (POD, UPLINK)
    assert (told.forward, told.reply) == (Counter(4, 400), Counter(3, 900))
    assert told.state is FlowState.ESTABLISHED
    assert (told.fields, told.reply_fields) == (None, None)


def test_a_half_whose_other_never_comes_is_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    joining, clock = Halves(), [100.0]
    monkeypatch.setattr("cubelet.cubes.ends.time.monotonic", lambda: clock[0])
    assert list(joining.joined(reply())) == []
    clock[0] += 61
    other = Ended(BECAME, 0, flow(SENT, POD, UPLINK), 0, 0, bytes(64))
    ((one, partner),) = joining.joined(other)
    told = ended_flow(CUBE, Slots(), one, partner)
    assert (told.sent, told.forward, told.reply) == (SENT, Counter(0, 0), Counter(3, 900))


def test_a_second_flow_of_the_same_tuple_is_none_of_the_firsts_halves() -> None:
    joining = Halves()
    assert list(joining.joined(forward())) == []
    assert [partner for _, partner in joining.joined(forward())] == [None]
    assert len(list(joining.joined(reply()))) == 1


def test_no_more_than_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "_HALVES", 2)
    joining = Halves()
    told = 0
    for port in range(10):
        key = Tuple(CLIENT, VIP, port, 80, 6)
        told += len(list(joining.joined(Ended(key, 0, forward().flow, 0, 0, bytes(64)))))
    assert told == 8
