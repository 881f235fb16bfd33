"""Plans, what needs the cube, and what people see: plain Python, without privileges."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
import pytest

from cubelet.testkit import complaints, entries, local_node, view
from cubelet_hooks.cube import Complaint, Entry
from cubelet_hooks.flows import PortKey
from cubelet_hooks.objects import Change, Object, Pod, Port
from cubelet_mirror.cube import ANNOTATION, Collector, Mirror, Settings

WEB = Port(
    namespace="default",
    name="web",
    container_id="c1",
    ifname="eth0",
    netns="/run/netns/web",
    host_ifname="veth1",
    ifindex=7,
    mac="02:00:00:00:01:00",
    host_mac="02:00:00:00:02:00",
    addresses=(ip_address("10.1.0.2"),),
    mtu=1500,
)
SNIFFER = msgspec.structs.replace(WEB, name="sniffer", ifindex=9, host_ifname="veth2")
CUBE = Mirror("mirror0", Settings())
COPIED = Entry("collectors", PortKey(7), Collector(9, ip_address("10.1.0.2")))


def pod(name: str = "web", to: str | None = None, **fields: bool) -> Pod:
    annotations = {} if to is None else {ANNOTATION: to}
    made = Pod("default", name, annotations=annotations, node_name="node1")
    return msgspec.structs.replace(made, **fields)


def planned(*objects: Object) -> list[Entry | Complaint]:
    return list(CUBE.plan(("pod", "default/web"), view(*objects)))


def test_a_pod_is_copied_to_the_one_that_it_names() -> None:
    assert planned(pod(to="sniffer"), WEB, SNIFFER) == [COPIED]


@pytest.mark.parametrize(
    "objects",
    [(), (pod(), WEB, SNIFFER), (pod(to=""), WEB, SNIFFER), (pod(to="sniffer"), SNIFFER)],
)
def test_nothing_is_copied_that_nobody_asks_for_or_that_is_not_here(objects) -> None:
    assert planned(*objects) == []


@pytest.mark.parametrize(
    ("to", "others", "problem"),
    [
        ("kube-system/dns", (), "names another namespace"),
        ("default/sniffer", (SNIFFER,), "names another namespace"),
        ("web", (), "is the pod itself"),
        ("sniffer", (), "is no pod of default"),
        ("sniffer", (pod("sniffer", host_network=True),), "is on the host's network"),
        ("sniffer", (pod("sniffer"),), "is not attached to this node, node1"),
        ("x" * 10_000, (), "is no pod of default"),
    ],
)
def test_what_cannot_be_copied_to_is_told_on_the_pod(to, others, problem) -> None:
    plan = planned(pod(to=to), WEB, *others)
    assert entries(plan) == []
    (found,) = complaints(plan)
    assert (found.kind, found.key, found.reason) == ("Pod", "default/web", "NotMirrored")
    assert problem in found.message
    assert len(found.message) < 300


def test_a_pod_of_the_same_name_elsewhere_gets_nothing() -> None:
    elsewhere = msgspec.structs.replace(SNIFFER, namespace="other")
    assert entries(planned(pod(to="sniffer"), WEB, elsewhere)) == []


def test_who_names_a_pod_is_planned_when_that_comes_and_goes() -> None:
    state = view(pod(to="sniffer"), WEB)
    units = [("pod", "default/sniffer"), ("pod", "default/web")]
    assert CUBE.units(Change.between(None, SNIFFER), state) == units
    assert CUBE.units(Change.between(None, WEB), state) == [("pod", "default/web")]
    assert CUBE.units(Change.between(None, pod()), state) == [("pod", "default/web")]
    elsewhere = msgspec.structs.replace(SNIFFER, namespace="other")
    assert CUBE.units(Change.between(None, elsewhere), state) == [("pod", "other/sniffer")]


@pytest.mark.parametrize(
    ("found", "needed"),
    [
        ((), ()),
        ((pod(),), ()),
        ((pod(to="sniffer"),), ("pod",)),
        ((pod(to="sniffer", host_network=True),), ()),
    ],
)
def test_it_is_needed_while_a_pod_here_asks(found, needed) -> None:
    assert CUBE.needed_on(view(local_node(), *found)) == needed


def test_who_is_copied_to_whom_is_shown() -> None:
    state = view(pod(to="sniffer"), WEB, SNIFFER)
    held = {PortKey(7): COPIED.value}
    row = {"pod": "default/web", "to": "default/sniffer"}
    assert list(CUBE.rows("mirrors", lambda _: held, state)) == [{**row, "state": "copied"}]
    assert list(CUBE.rows("mirrors", lambda _: {}, state)) == [{**row, "state": "not copied"}]
