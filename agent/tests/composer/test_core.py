"""The core's own settings and plan."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import msgspec
import pytest

from cubelet.composer.core import Core, CoreSettings, Martian, MartianKey, OwnAddress
from cubelet.composer.exposed import ExposedAddress, ExposedKey, PortBits
from cubelet.control.planner import Planner
from cubelet.state.cluster import State
from cubelet.testkit import local_node
from cubelet_hooks.cube import Entry
from cubelet_hooks.flows import Index, NodeInfo, NodeKey, PortKey, Uplink
from cubelet_hooks.objects import Change, HostPort, Nic, Node, Port, Service, ServicePort


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


def planned(*objects, table=None, service_cidrs=()):
    """All entries that these objects make the core want, or those of one table."""
    core, state = Core("cubelet", CoreSettings(), service_cidrs=service_cidrs), State()
    changes = [c for o in objects if (c := state.apply(Change.between(None, o)))]
    units = {unit for change in changes for unit in core.units(change, state)}
    entries = {entry for unit in units for entry in core.plan(unit, state)}
    return {entry for entry in entries if table in (None, entry.map)}


def martians(*networks):
    """What says that these are not beyond the uplink."""
    return {
        Entry("martians", MartianKey(n.prefixlen, n.network_address), Martian(1))
        for n in map(ip_network, networks)
    }


def test_a_tunnel_carries_only_its_nodes_pods():
    node = Node(
        name="node2",
        addresses=(ip_address("172.18.0.3"), ip_address("fd00::3")),
        pod_cidrs=(ip_network("10.2.0.0/24"), ip_network("fd01::/64")),
    )
    key = NodeKey(address=int(ip_address("172.18.0.3")))
    info = NodeInfo(network=ip_address("10.2.0.0"), prefix=24)
    assert planned(node, table="nodes") == {Entry("nodes", key, info)}


def test_each_uplink_has_the_address_that_packets_leave_it_under():
    first, second = ip_address("172.18.0.2"), ip_address("198.51.100.2")
    nic = Nic(9, "02:00:00:00:00:09", second)
    local = local_node(addresses=(first, second), further_uplinks=(nic,), tunnel_source=first)
    assert planned(local, table="uplinks") == {
        Entry("uplinks", PortKey(local.uplink_ifindex), Uplink(first, local.uplink_mac)),
        Entry("uplinks", PortKey(9), Uplink(second, nic.mac)),
    }
    own = (first, local.gateway, first, second)
    assert planned(local, table="own") == {
        Entry("own", Index(number), OwnAddress(address)) for number, address in enumerate(own)
    }


def test_nobody_beyond_the_uplink_has_what_is_the_clusters():
    """Addresses in a Service network need no entry of their own."""
    cidr = ip_network("10.96.0.0/12")
    own = local_node(broadcasts=(ip_address("172.18.0.255"),))
    node = Node(name="node2", pod_cidrs=(ip_network("10.2.0.0/24"), ip_network("fd01::/64")))
    addresses = tuple(map(ip_address, ("10.96.0.1", "192.0.2.9", "fd00::9")))
    service = Service(namespace="default", name="web", cluster_ips=addresses)
    wanted = martians(
        *("172.18.0.2", "172.18.0.255", "10.1.0.0/24", "169.254.1.2", cidr),
        *("10.2.0.0/24", "192.0.2.9"),
    )
    found = planned(own, node, service, table="martians", service_cidrs=(cidr,))
    assert found == wanted
    # this node's own pods too, whether or not its devices are known
    assert planned(Node("node1", pod_cidrs=(ip_network("10.1.0.0/24"),))) == martians("10.1.0.0/24")


def test_outside_clients_may_address_what_services_expose():
    service = Service(
        namespace="default",
        name="web",
        external_ips=(ip_address("192.0.2.7"),),
        load_balancer_ips=(ip_address("192.0.2.8"), ip_address("2001:db8::8")),
    )
    assert planned(service) == {
        Entry("exposed", ExposedKey(address=address), ExposedAddress(own=0, every=1))
        for address in (ip_address("192.0.2.7"), ip_address("192.0.2.8"))
    }


LOCAL = local_node(
    held=(ip_address("172.18.0.2"), ip_address("172.18.0.200")),
    onlink=(ip_network("172.18.0.0/16"),),
)
NODES = (
    Node(name="node1", addresses=LOCAL.addresses, pod_cidrs=(LOCAL.pod_cidr,)),
    Node(name="node2", addresses=(ip_address("172.18.0.3"),)),
)


def exposing(*addresses, number=8080):
    return Service(
        namespace="default",
        name="web",
        ports=(ServicePort("http", "TCP", number, 80),),
        external_ips=tuple(map(ip_address, addresses)),
    )


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("192.0.2.7", ExposedAddress(own=0, every=1)),
        ("172.18.0.2", ExposedAddress(own=1, every=0)),
        ("172.18.0.200", ExposedAddress(own=1, every=0)),
        ("172.18.0.77", ExposedAddress(own=0, every=0)),
        ("172.18.0.3", None),
        ("10.1.0.9", None),
        ("127.0.0.1", None),
    ],
)
def test_of_others_addresses_the_services_ports_alone_are_ours(address, exposed):
    found = planned(LOCAL, *NODES, exposing(address))
    key = ExposedKey(address=ip_address(address))
    assert [each.value for each in found if each.key == key] == ([exposed] if exposed else [])
    bits = [each for each in found if each.map == "host_ports"]
    shared = exposed is not None and not exposed.every
    assert bits == (
        [Entry("host_ports", Index(8080 // 64), PortBits(1 << 8080 % 64))] if shared else []
    )


def test_a_services_ports_are_no_more_ours_once_it_is_gone_or_the_address_is_its_alone():
    planner, state = Planner([Core("cubelet", CoreSettings())]), State()

    def bits(old, new):
        change = state.apply(Change.between(old, new))
        assert change is not None
        planner.replan(planner.units([change], state), state)
        return len(planner.contents()["cubelet_host_ports"])

    first, second = exposing("172.18.0.77"), exposing("172.18.0.77", number=9999)
    bits(None, LOCAL)
    assert bits(None, first) == 1
    assert bits(first, second) == 1
    off_link = local_node()
    assert bits(LOCAL, off_link) == 0
    assert bits(off_link, LOCAL) == 1
    assert bits(second, None) == 0


def port(name, *host_ports):
    """A port without an address, so that nothing but its host ports is planned."""
    return Port(
        namespace="default",
        name=name,
        container_id=name,
        ifname="eth0",
        netns="",
        host_ifname=name,
        ifindex=7,
        mac="",
        host_mac="",
        addresses=(),
        mtu=1500,
        host_ports=host_ports,
    )


def test_host_ports_are_bits_of_their_protocols_words():
    first = port("a", HostPort(80, 1), HostPort(127, 2), HostPort(65_535, 3, "SCTP"))
    second = port("b", HostPort(64, 1), HostPort(80, 4, host_ip=ip_address("192.0.2.1")))
    third = port("c", HostPort(53, 1, "UDP"))
    assert planned(first, second, third, port("d")) == {
        Entry("host_ports", Index(1), PortBits(1 << 0 | 1 << 16 | 1 << 63)),
        Entry("host_ports", Index(1024), PortBits(1 << 53)),
        Entry("host_ports", Index(2 * 1024 + 1023), PortBits(1 << 63)),
    }


def test_only_ports_with_host_ports_make_the_words_be_planned_again():
    core, state = Core("cubelet", CoreSettings()), State()
    plain, asking = port("a"), port("a", HostPort(80, 1))
    for old, new, words in (
        (None, plain, False),
        (plain, asking, True),
        (asking, plain, True),
        (asking, None, True),
    ):
        units = core.units(Change.between(old, new), state)
        assert (("host_ports",) in units) is words
