"""What plans give, on its way from a guest's process to the agent."""

from __future__ import annotations

import msgspec

from cubelet.guests.answers import Planned, packed, unpacked
from cubelet_hooks.cube import Complaint, Condition, Cube, Settings


class Quiet(Cube):
    """Wants nothing."""

    kind = "quiet"


def test_what_is_said_of_objects_arrives_as_it_was() -> None:
    complaint = Complaint("Fence", "x/f", "Wrong", "no network")
    condition = Condition("Fence", "x/f", "Closed", False, "Planned", "to 3 pods", 7)
    found = packed(Quiet("quiet0", Settings()), [condition, complaint])
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Planned)
    assert list(unpacked(sent)) == [complaint, condition]


def test_of_a_plan_without_end_a_hundred_are_told() -> None:
    condition = Condition("Fence", "x/f", "Closed", True, "Planned")
    found = packed(Quiet("quiet0", Settings()), [condition] * 10_000)
    assert len(found.conditions) == 100
