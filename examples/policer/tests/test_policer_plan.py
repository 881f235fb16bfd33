"""Plans, what needs the cube, and what people see: plain Python, without privileges."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from cubelet.testkit import local_node, view
from cubelet_hooks.buckets import TokenBucket, TokenRate
from cubelet_hooks.cube import Entry
from cubelet_hooks.metrics import Sample
from cubelet_hooks.objects import Change, Pod, Port
from cubelet_policer.bandwidth import ANNOTATIONS
from cubelet_policer.cube import Policer
from cubelet_policer.records import Bucket, BucketBefore, Direction, LimitKey, Rate
from cubelet_policer.settings import Settings

INGRESS, EGRESS = ANNOTATIONS[Direction.INGRESS], ANNOTATIONS[Direction.EGRESS]
HALF = 500_000_000
"""The default depth, in ns."""
PORT = Port(
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
LOCAL = local_node()


def pod(**annotations: str) -> Pod:
    names = {"ingress": INGRESS, "egress": EGRESS}
    given = {names[each]: text for each, text in annotations.items()}
    return Pod("default", "web", annotations=given, node_name="node1")


def policer(**settings) -> Policer:
    return Policer("policer0", Settings(**settings))


@pytest.mark.parametrize(
    ("annotations", "rates"),
    [
        ({}, {}),
        ({"egress": "10M"}, {Direction.EGRESS: Rate(TokenRate(10_000_000, HALF))}),
        ({"ingress": "1G"}, {Direction.INGRESS: Rate(TokenRate(10**9, HALF))}),
        (
            {"ingress": "fast", "egress": "10M"},
            {Direction.EGRESS: Rate(TokenRate(10_000_000, HALF))},
        ),
        ({"ingress": "1", "egress": "2P"}, {}),
        # 128 KiB are more than a second of 1 Mbit/s.
        ({"egress": "1M"}, {Direction.EGRESS: Rate(TokenRate(1_000_000, 1_048_576_000))}),
        ({"egress": "1k"}, {Direction.EGRESS: Rate(TokenRate(1_000, 1_048_576_000_000))}),
        ({"egress": "1P"}, {Direction.EGRESS: Rate(TokenRate(10**15, HALF))}),
    ],
)
def test_rates_of_a_pod(annotations, rates) -> None:
    state = view(PORT, pod(**annotations))
    (unit,) = policer().units(Change.between(None, PORT), state)
    assert unit == ("pod", "default/web")
    assert list(policer().units(Change.between(None, pod()), state)) == [unit]
    planned = list(policer().plan(unit, state))
    assert planned == [
        Entry("rates", LimitKey(7, direction), rate) for direction, rate in rates.items()
    ]
    for each in planned:
        assert each.value.pack()
    assert list(policer().plan(unit, view(pod(**annotations)))) == [], "it is not attached"
    assert list(policer().plan(unit, view(PORT))) == [], "there is no such pod"


def test_the_depth_is_a_setting() -> None:
    chosen = policer(burst_seconds=0.05, min_burst_bytes=2000)
    assert chosen.rate(10_000_000) == Rate(TokenRate(10_000_000, 50_000_000))
    assert chosen.rate(100_000) == Rate(TokenRate(100_000, 160_000_000))


def test_other_objects_plan_nothing() -> None:
    assert list(policer().units(Change.between(None, LOCAL), view(LOCAL))) == []


@pytest.mark.parametrize(
    ("objects", "needed"),
    [
        ((), False),
        ((pod(egress="1M"),), False),  # which node is ours is not known yet
        ((LOCAL, pod()), False),
        ((LOCAL, pod(egress="1M")), True),
        ((LOCAL, PORT, pod(ingress="1M")), True),
        ((LOCAL, pod(ingress="fast")), True),  # else no table would tell of it
        ((LOCAL, msgspec.structs.replace(pod(egress="1M"), node_name="node2")), False),
        ((LOCAL, msgspec.structs.replace(pod(egress="1M"), host_network=True)), False),
        ((LOCAL, msgspec.structs.replace(pod(egress="1M"), phase="Succeeded")), False),
    ],
)
def test_needed_while_a_pod_of_the_node_is_limited(objects, needed: bool) -> None:
    assert tuple(policer().needed_on(view(*objects))) == (("pod",) if needed else ())


def test_what_people_and_monitoring_see() -> None:
    state = view(PORT, pod(ingress="fast", egress="10M"))
    maps: dict[str, dict[Any, Any]] = {
        "rates": {LimitKey(7, Direction.EGRESS): Rate(TokenRate(10_000_000, HALF))},
        "buckets": {
            LimitKey(7, Direction.EGRESS): Bucket(TokenBucket(1), 3, 4542),
            LimitKey(8, Direction.EGRESS): Bucket(TokenBucket(1), 9, 9999),  # of a pod that is gone
        },
    }
    bad, good = policer().rows("limits", maps.__getitem__, state)
    assert good == {
        "pod": "default/web",
        "direction": Direction.EGRESS,
        "limit": "10M",
        "bits_per_second": 10_000_000,
        "burst_bytes": 625_000,
        "dropped_packets": 3,
        "dropped_bytes": 4542,
        "problem": "",
    }
    assert list(bad) == list(good)
    assert bad["bits_per_second"] == 0
    assert bad["problem"] == "kubernetes.io/ingress-bandwidth: 'fast' is no quantity, such as 10M"
    assert list(policer().collect(maps.__getitem__, state)) == [
        Sample("dropped_packets", 3, ("default/web", "egress")),
        Sample("dropped_bytes", 4542, ("default/web", "egress")),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"burst_seconds": 0}, "burst_seconds must be over 0, to 60, not 0"),
        ({"burst_seconds": 61.5}, r"burst_seconds must be over 0, to 60, not 61\.5"),
        ({"min_burst_bytes": 1500}, "min_burst_bytes must be from 1514, .* not 1500"),
        ({"max_limits": 0}, "max_limits must be at least 1, not 0"),
        ({"burst": 1}, "unknown field `burst`"),
    ],
)
def test_a_wrong_setting_is_named(settings, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(settings, Settings)


def test_a_bucket_of_before_goes_on_as_full_as_it_was() -> None:
    key = LimitKey(7, Direction.EGRESS)
    (buckets,) = [each for each in Policer.maps if each.name == "buckets"]
    (before,) = buckets.earlier
    old = before.value.unpack(BucketBefore(5, 3, 4542).pack())
    assert before.migrate(key, old) == (key, Bucket(TokenBucket(5), 3, 4542))
