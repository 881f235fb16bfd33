"""Measures a composition's cost per established packet, without touching the one in force."""

from __future__ import annotations

import ipaddress
import statistics
from dataclasses import replace

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.layout import ARRAYS
from cubelet.composer.compiler import Compiled
from cubelet.composer.layout import MapSpec
from cubelet.composer.loader import load_programs
from cubelet.datapath.maps import close_maps, open_maps
from cubelet_hooks.flows import Flow, FlowState, Hop, PortClass, Tuple

_FLOOR_IFINDEX = 1  # the loopback device, by which packets of a trial run enter
_UDP = bytes.fromhex("0035c350 00080000")


def established_cost(
    compiled: Compiled, clock: Clock, runs: int = 15, repeat: int = 5_000
) -> float:
    """Median nanoseconds for an established packet from pod to pod, by trial runs.

    They use scratch maps that hold one flow, so nothing in force is touched or counted. About
    31 ns of the result are the time of a trial run of an empty program.
    """
    maps = open_maps([_small(spec) for spec in compiled.specs], None)
    programs = load_programs(compiled, maps)
    try:
        source, target = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
        key = Tuple(src=source, dst=target, sport=53, dport=50000, protocol=17)
        record = _flow(key)
        times = []
        for _ in range(runs):
            record = replace(record, last_seen=clock.now())
            maps["cubelet_flows"].update(key.pack(), record.pack())
            times.append(programs.entries["pod"].test_run(_packet(key), repeat).duration_ns)
        return statistics.median(times)
    finally:
        programs.close()
        close_maps({name: each for name, each in maps.items() if each is not programs.jumps})


def _small(spec: MapSpec) -> MapSpec:
    if spec.layout.type in ARRAYS or spec.per_composition:
        return spec
    entries = 4096  # the smallest size that every type accepts: a ring buffer needs a page
    return replace(spec, layout=replace(spec.layout, max_entries=entries))


def _flow(key: Tuple) -> Flow:
    hop = Hop(
        ifindex=_FLOOR_IFINDEX,
        remote=0,
        dst_mac="02:00:00:00:00:01",
        src_mac="02:00:00:00:00:02",
        mtu=1500,
        port_class=PortClass.POD,
    )
    return Flow(
        enters=hop,
        leaves=hop,
        to=key,
        last_seen=0,
        epoch_sum=0,
        l4_delta=0,
        port_delta=0,
        l3_delta=0,
        epoch_src=0,
        epoch_dst=0,
        epoch_backend=0,
        timeout=600,
        state=FlowState.ESTABLISHED,
        flags=0,
        ack=0,
        seq=0,
        seq_at=0,
        proof=0,
        packets=0,
        bytes=0,
        area=bytes(64),
    )


def _packet(key: Tuple) -> bytes:
    ethernet = bytes.fromhex("020000000001 020000000002 0800")
    ip = bytes.fromhex("4500001c 00004000 40110000") + key.src.packed + key.dst.packed
    return ethernet + ip + _UDP
