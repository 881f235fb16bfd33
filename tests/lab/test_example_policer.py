"""The example policer on a real node: it comes and goes with an annotation, and holds rates."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from cubelet.bpf.maps import BpfMap
from cubelet.lab.kinds import Manifest

from .foreign import NODE, command, example, start
from .load import connections, datagrams, loads, stream
from .manifests import pod
from .rates import Stream, measure
from .world import Space, World

ECHO = 7
ECHOES = (("TCP", ECHO), ("UDP", ECHO))
METRICS = "127.0.0.1:9882"
MEGA = 1e6
SLOW, FAST = 5 * MEGA, 50 * MEGA


@pytest.fixture(scope="module")
def node(small: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The small lab with the cube installed; without it again afterwards."""
    packages = tmp_path_factory.mktemp("packages")
    example(packages, "policer")
    small.stop(NODE)
    start(small, command(small, metrics=METRICS), packages)
    yield small
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def limited(name: str, **limits: str) -> Manifest:
    """A pod whose limits are ``ingress`` and ``egress``."""
    made = pod(name, *ECHOES)
    made["metadata"]["annotations"] = {
        f"kubernetes.io/{direction}-bandwidth": text for direction, text in limits.items()
    }
    return made


def composed(world: World) -> bool:
    return "policer" in world.call(NODE, "status")["composition"]["stacks"]["pod"]


def limits(world: World) -> dict[tuple[str, str], dict[str, Any]]:
    """What `cubelet get limits` shows, by pod's name and direction."""
    rows = world.call(NODE, "get", noun="limits")
    return {(row["pod"].partition("/")[2], row["direction"]): row for row in rows}


def drops(world: World) -> dict[str, int]:
    """The cube's drops by reason."""
    rows = world.call(NODE, "get", noun="drops")
    return {row["reason"]: row["packets"] for row in rows if row["cube"] == "policer"}


def buckets(world: World) -> int:
    """How many the datapath keeps."""
    (pin,) = (world.layout.bpffs_of(NODE) / "maps").glob("policer0_buckets-*")
    with BpfMap.open(pin) as table:
        return len(list(table.items()))


def scrape() -> str:
    """The agent's metrics."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=10) as found:
        return str(found.read().decode())


def test_it_comes_and_goes_with_an_annotation_and_others_lose_nothing(
    node: World, small_space: Space
) -> None:
    small_space.apply(pod("client"), pod("server", *ECHOES), pod("slow", *ECHOES))
    assert not composed(node)
    client, server = small_space.at("client"), small_space.ip("server")
    with loads() as running:
        running.add("UDP", client, datagrams, server, ECHO)
        running.add("TCP", client, stream, server, ECHO)
        running.add("new TCP", client, connections, server, ECHO)
        time.sleep(0.3)
        small_space.apply(limited("slow", ingress="1M", egress="fast"))
        assert composed(node)
        shown = limits(node)
        assert shown["slow", "ingress"]["bits_per_second"] == 1_000_000
        assert "'fast' is no quantity" in shown["slow", "egress"]["problem"]
        slow = Stream(client, small_space.at("slow"), small_space.ip("slow"), 9001, most=10 * MEGA)
        (rate,) = measure([slow], seconds=1, settle=0.3)
        assert rate == pytest.approx(1 * MEGA, rel=0.25)
        assert drops(node)["ingress_rate"] > 100
        assert "egress_rate" not in drops(node)
        # Live, and an established flow is not cut.
        small_space.apply(limited("slow", ingress="20M"))
        (rate,) = measure([slow], seconds=1, settle=0.3)
        assert rate == pytest.approx(10 * MEGA, rel=0.1), "all that is offered"

        # A pod that goes takes its bucket along.
        small_space.apply(limited("next", egress="1M"))
        small_space.delete("Pod", "slow")
        assert small_space.who(small_space.at("next"), server, ECHO) == "server"
        assert list(limits(node)) == [("next", "egress")]
        deadline = time.monotonic() + 5
        while buckets(node) != 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert buckets(node) == 1
        small_space.delete("Pod", "next")
        assert not composed(node)
        time.sleep(0.3)
    running.check(at_least=20)


def test_rates_are_held(node: World, small_space: Space) -> None:
    """UDP that offers twice the rate, and TCP, at 5 and at 50 Mbit/s, received and sent.

    What was found is printed: see it with ``pytest -rP``.
    """
    small_space.apply(
        pod("client", *ECHOES),
        limited("slow", ingress="5M", egress="5M"),
        limited("fast", ingress="50M", egress="50M"),
        pod("other", *ECHOES),
    )
    places = {
        name: (small_space.at(name), small_space.ip(name)) for name in ("client", "slow", "fast")
    }
    expected = {
        ("client", "slow"): SLOW,
        ("slow", "client"): SLOW,
        ("client", "fast"): FAST,
        ("fast", "client"): FAST,
    }
    with loads() as running:
        running.add("others", small_space.at("client"), datagrams, small_space.ip("other"), ECHO)
        # TCP uses what was saved up half a second late: that averages out over more of them.
        for protocol, seconds in (("UDP", 3), ("TCP", 5)):
            streams = [
                Stream(places[a][0], *places[b], 9001 + number, protocol, 2 * rate)
                for number, ((a, b), rate) in enumerate(expected.items())
            ]
            found = dict(zip(expected, measure(streams, seconds), strict=True))
            ratios = {pair: found[pair] / rate for pair, rate in expected.items()}
            for (source, target), ratio in ratios.items():
                print(f"{protocol} from {source} to {target}: {ratio:.3f} of the limit")
            assert ratios == pytest.approx(dict.fromkeys(expected, 1), rel=0.25), protocol
    running.check(at_least=1000)
    seen = node.run(node.at_node(NODE), scrape)
    labels = f'direction="egress",instance="policer0",pod="{small_space.name}/slow"'
    assert f"cubelet_policer_dropped_packets_total{{{labels}}}" in seen
    assert drops(node)["egress_rate"] > 1000
    assert drops(node)["ingress_rate"] > 1000
