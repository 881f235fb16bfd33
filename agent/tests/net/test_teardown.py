"""The node as it was before: what an uninstall takes away and puts back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cubelet.net import former
from cubelet.net.node import ensure, teardown
from cubelet.net.routes import sync_routes

from .shown import (
    OWN_DEVICES,
    PODS,
    SERVICES,
    SETTINGS,
    everything,
    forwarding,
    ip,
    setting,
)

LOOPBACK = {f"sysctl net/{key} = 0" for key in former.LOOPBACK}
"""What is always put back: no other program turns these on."""


@pytest.mark.usefixtures("bare_node")
class TestTeardown:
    def test_leaves_nothing(self) -> None:
        before = everything()
        local = ensure(SETTINGS)
        sync_routes([PODS, SERVICES], local)
        ip("route", "add", "blackhole", "10.7.0.0/16", "proto", "203")
        teardown()
        assert everything() == before
        assert setting("conf/eth0/rp_filter") == "1"

    def test_twice_and_before_the_first_start(self) -> None:
        before = everything()
        teardown()
        ensure(SETTINGS)
        teardown()
        teardown()
        assert everything() == before

    def test_keeps_what_others_made(self) -> None:
        ip("link", "add", "cni0", "type", "bridge")
        ip("link", "set", "cni0", "alias", "somebody's cubelet gateway")
        ip("route", "add", "10.88.0.0/16", "via", "192.168.7.9")
        before = everything()
        ensure(SETTINGS)
        teardown()
        assert everything() == before

    @pytest.mark.parametrize("redirects", ["0", "1"])
    def test_forwarding_is_as_it_was(self, redirects: str) -> None:
        setting("ip_forward", "0")
        setting("conf/all/accept_redirects", redirects)
        before = forwarding()
        ensure(SETTINGS)
        ensure(replace(SETTINGS, gateway="gw"))  # a second run sees it on, under another name
        assert setting("ip_forward") == "1"
        assert "sysctl net/ipv4/ip_forward = 0" in teardown()
        assert forwarding() == before

    def test_forwarding_of_the_uplink_alone(self) -> None:
        setting("ip_forward", "1")
        setting("conf/eth0/forwarding", "0")
        before = forwarding()
        ensure(SETTINGS)
        assert "sysctl net/ipv4/conf/eth0/forwarding = 0" in teardown()
        assert forwarding() == before

    def test_forwarding_that_was_on_stays_on(self) -> None:
        setting("ip_forward", "1")
        ensure(SETTINGS)
        assert {done for done in teardown() if done.startswith("sysctl")} == LOOPBACK
        assert setting("ip_forward") == "1"

    def test_what_is_gone_is_not_put_back(self) -> None:
        setting("ip_forward", "1")
        setting("conf/eth0/forwarding", "0")
        ensure(SETTINGS)
        ip("link", "del", "eth0")
        assert {done for done in teardown() if done.startswith("sysctl")} == LOOPBACK

    def test_the_loopback_devices_settings_are_as_they_were(self) -> None:
        setting("conf/lo/accept_local", "1")
        ensure(SETTINGS)
        assert {setting(f"conf/lo/{name}") for name in ("accept_local", "route_localnet")} == {"1"}
        ensure(replace(SETTINGS, gateway="gw"))
        teardown()
        assert setting("conf/lo/accept_local") == "1"
        assert setting("conf/lo/route_localnet") == "0"

    def test_says_what_it_removed(self) -> None:
        setting("ip_forward", "1")
        sync_routes([PODS], ensure(SETTINGS))
        route, ports, *removed = teardown()
        assert (route, ports) == ("route 10.244.0.0/16", "reserved ports 20000-20999")
        assert set(removed) == LOOPBACK | {f"device {name}" for name in OWN_DEVICES}
        assert teardown() == ()
