"""Namespaces as a node has them before the agent's first start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cubelet.testkit.network import private_network

from .shown import UPLINK_ADDRESS, add_nic, ip, setting


@pytest.fixture
def netns() -> Iterator[None]:
    """This thread in an empty network namespace, which ends with the test."""
    with private_network():
        yield


@pytest.fixture
def bare_node(netns: None) -> None:
    """A node before the agent's first start: an uplink with the default route, strict rp_filter."""
    setting("conf/default/rp_filter", "1")
    add_nic("eth0", f"{UPLINK_ADDRESS}/24")
    ip("route", "add", "default", "via", "192.168.7.1")
