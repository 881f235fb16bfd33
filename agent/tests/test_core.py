"""The core's own settings and plan."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import msgspec
import pytest

from cubelet.composer.core import Core, CoreSettings, ExposedAddress, ExposedKey
from cubelet.state import State
from cubelet_hooks.cube import Entry
from cubelet_hooks.flows import NodeInfo, NodeKey
from cubelet_hooks.objects import Change, Node, Service


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"snat_first_port": 80}, "snat_first_port to snat_last_port is no range of ports"),
        ({"snat_first_port": 30_000}, "snat_first_port to snat_last_port is no range of ports"),
        ({"node_port_last": 65_536}, "node_port_first to node_port_last is no range of ports"),
        ({"hairpin_address": "169.254.1"}, "'169.254.1' does not appear to be"),
        ({"flows": "many"}, "Expected `int`, got `str` - at `$.flows`"),
        ({"flow": 1}, "unknown field `flow`"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(wrong, CoreSettings)
    assert message in str(caught.value)


def planned(*objects):
    """All entries that these objects make the core want."""
    core, state = Core("cubelet", CoreSettings()), State()
    changes = [c for o in objects if (c := state.apply(Change.between(None, o)))]
    units = {unit for change in changes for unit in core.units(change, state)}
    return {entry for unit in units for entry in core.plan(unit, state)}


def test_a_tunnel_carries_only_its_nodes_pods():
    node = Node(
        name="node2",
        addresses=(ip_address("172.18.0.3"), ip_address("fd00::3")),
        pod_cidrs=(ip_network("10.2.0.0/24"), ip_network("fd01::/64")),
    )
    key = NodeKey(address=int(ip_address("172.18.0.3")))
    info = NodeInfo(network=ip_address("10.2.0.0"), prefix=24)
    assert planned(node) == {Entry("nodes", key, info)}


def test_outside_clients_may_address_what_services_expose():
    service = Service(
        namespace="default",
        name="web",
        external_ips=(ip_address("192.0.2.7"),),
        load_balancer_ips=(ip_address("192.0.2.8"), ip_address("2001:db8::8")),
    )
    assert planned(service) == {
        Entry("exposed", ExposedKey(address=address), ExposedAddress(own=0))
        for address in (ip_address("192.0.2.7"), ip_address("192.0.2.8"))
    }
