"""Names, paths and addresses of a lab."""

from __future__ import annotations

import pytest

from cubelet.lab.errors import LabError
from cubelet.lab.layout import Layout, plan_nodes


def test_nodes_get_a_share_of_the_default_range() -> None:
    nodes = plan_nodes(2, ())
    assert [(n.name, n.address, n.pod_cidr) for n in nodes] == [
        ("node1", "172.18.0.11", "10.244.1.0/24"),
        ("node2", "172.18.0.12", "10.244.2.0/24"),
    ]


def test_one_range_for_each_node_is_taken_as_given() -> None:
    ranges = ("10.1.0.0/16", "192.168.7.0/28")
    assert tuple(node.pod_cidr for node in plan_nodes(2, ranges)) == ranges


@pytest.mark.parametrize(
    ("base", "count", "expected"),
    [
        ("10.0.0.0/8", 2, ["10.0.1.0/24", "10.0.2.0/24"]),
        ("10.9.0.0/24", 3, ["10.9.0.64/26", "10.9.0.128/26", "10.9.0.192/26"]),
    ],
)
def test_one_range_is_split(base: str, count: int, expected: list[str]) -> None:
    assert [node.pod_cidr for node in plan_nodes(count, (base,))] == expected


@pytest.mark.parametrize(
    ("count", "ranges", "message"),
    [
        (0, (), "1 to 64"),
        (65, (), "1 to 64"),
        (3, ("10.1.0.0/24", "10.2.0.0/24"), "2 ranges for 3 nodes"),
        (2, ("10.1.0.0/24", "10.1.0.0/25"), "overlaps 10.1.0.0/24"),
        (1, ("172.18.0.0/16",), "overlaps 172.18.0.0/24"),
        (1, ("10.96.4.0/24",), "overlaps 10.96.0.0/16"),
        (1, ("10.1.0.0/30",), "no room"),
        (2, ("10.1.0.0/28",), "too small for 2 nodes"),
        (1, ("10.1.0.1/24",), "host bits set"),
    ],
)
def test_unusable_ranges_are_refused(count: int, ranges: tuple[str, ...], message: str) -> None:
    with pytest.raises(LabError, match=message):
        plan_nodes(count, ranges)


@pytest.mark.parametrize("name", ["", "a-b", "A", "1a", "a/b", "x" * 17])
def test_a_lab_name_is_letters_and_digits(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        Layout(name)


def test_pod_namespaces_differ_where_plain_names_would_not() -> None:
    layout = Layout("lab")
    assert layout.pod_netns("default", "web-1") == "cubelet-lab-default-web-1"
    assert layout.pod_netns("a-b", "c") != layout.pod_netns("a", "b-c")
    long = layout.pod_netns("default", "x" * 200)
    assert len(long) == 64
    assert long != layout.pod_netns("default", "x" * 201)


def test_a_lab_that_is_not_up_says_how_to_start_it() -> None:
    with pytest.raises(LabError, match="cubelet lab up"):
        Layout("nosuchlab").load()
