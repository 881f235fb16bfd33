"""The API server's address is nobody's to take, and an agent that lost it finds it again."""

from __future__ import annotations

import subprocess
from urllib.request import urlopen

import msgspec

from cubelet.lab import traffic
from cubelet.lab.layout import API_PORT, OUTSIDE_ADDRESS

from .manifests import service
from .test_api_outage import NODE, Site, is_ready, site
from .world import eventually

__all__ = ["site"]

_MISTAKE = ["via", "169.254.1.1", "dev", "cubelet0", "proto", "203", "onlink"]


def ip(site: Site, *words: str) -> str:
    command = ["ip", "netns", "exec", site.world.at_node(NODE), "ip", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def misled(site: Site) -> bool:
    return "cubelet0" in ip(site, "route", "get", OUTSIDE_ADDRESS)


def events(namespace: str) -> list[tuple[str, str, str]]:
    """Kind, name and reason of what Events are about; run where the server is."""
    url = f"http://{OUTSIDE_ADDRESS}:{API_PORT}/api/v1/namespaces/{namespace}/events"
    with urlopen(url, timeout=5) as answer:
        items = msgspec.json.decode(answer.read())["items"]
    return [(e["involvedObject"]["kind"], e["involvedObject"]["name"], e["reason"]) for e in items]


def test_a_service_that_names_it_does_not_get_it(site: Site) -> None:
    """Neither its routes nor its port; the agent follows the server on, and says so there."""
    world = site.world
    evil = service("evil", "server", ("TCP", API_PORT, 7), externalIPs=[OUTSIDE_ADDRESS])
    site.space.apply(evil)
    eventually(lambda: f"{OUTSIDE_ADDRESS} is the API server's" in site.problems(), 20)
    assert not misled(site)
    told = ("Service", "evil", "AddressRefused")
    eventually(lambda: told in world.run(world.outside, events, "shop"), 20)
    site.space.apply(service("later", "server", ("TCP", 80, 7)))
    client = site.space.at("client")
    eventually(lambda: site.space.who(client, site.space.vip("later"), 80) == "server", 10)
    request = (OUTSIDE_ADDRESS, API_PORT, "/api/v1/namespaces")
    assert world.run(client, traffic.http_get, *request).answered
    site.space.delete("Service", "evil")
    eventually(lambda: site.problems() == "", 20)
    assert world.run(world.outside, events, "shop").count(told) == 1


def test_an_agent_that_was_cut_off_finds_back_when_it_is_started_anew(site: Site) -> None:
    site.world.kill(NODE)
    ip(site, "route", "add", OUTSIDE_ADDRESS, *_MISTAKE)
    assert misled(site)
    site.start()
    eventually(lambda: is_ready(site) and site.problems() == "", 40)
    assert not misled(site)
    site.space.apply(service("later", "server", ("TCP", 80, 7)))
    client = site.space.at("client")
    eventually(lambda: site.space.who(client, site.space.vip("later"), 80) == "server", 10)


def test_it_does_so_though_it_remembers_nothing(site: Site) -> None:
    site.world.kill(NODE)
    (site.world.layout.node(NODE) / "state" / "memory.json").unlink()
    ip(site, "route", "add", OUTSIDE_ADDRESS, *_MISTAKE)
    site.start()
    eventually(lambda: is_ready(site) and site.problems() == "", 40)


def test_it_clears_the_way_while_the_server_is_away(site: Site) -> None:
    """Of a wider route too; what else is routed stays."""
    with site.away():
        site.world.kill(NODE)
        wider = "172.18.0.96/29"
        ip(site, "route", "add", OUTSIDE_ADDRESS, *_MISTAKE)
        ip(site, "route", "add", wider, *_MISTAKE)
        site.start()
        eventually(lambda: not misled(site), 40)
        assert "10.96.0.0/12" in ip(site, "route")
        assert "is away since" in site.problems()
    eventually(lambda: is_ready(site) and site.problems() == "", 60)
