"""Counts the instructions that the verifier goes through, for the compositions that nodes run.

The kernel refuses a program beyond a million, and a composition then falls back to tail calls. A
small change of C can make the count jump, because each branch may double what follows it. So every
composition has a budget, the one place of which is ``BUDGETS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.cluster import default_datapath
from bench.passthrough import passthroughs
from bench.stats import Row, row
from bench.variants import compiled, default_source
from cubelet.composer.composition import Mode
from cubelet.composer.loader import load_programs
from cubelet.datapath.maps import close_maps, open_maps
from cubelet.testkit.network import TestNetwork, build_network, private_network
from cubelet_hooks.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Object,
    Service,
    ServicePort,
)

LIMIT = 1_000_000
"""The kernel's, for one program (``BPF_COMPLEXITY_LIMIT_INSNS``)."""
OTHERS = "others"
"""Stands in a budget for each program that it does not name."""


@dataclass(frozen=True)
class Wanted:
    """A composition of the default cubes and so many ``more`` that do nothing.

    The cluster has Services and, if ``policed``, policies for the node's pods. If ``exposed``, it
    has node ports, session affinity and clients that keep their addresses: all that brings code in.
    """

    mode: Mode
    policed: bool = True
    exposed: bool = True
    more: int = 0


COMPOSITIONS = {
    "fused, unpoliced": Wanted("fused", policed=False, exposed=False),
    "fused, inside": Wanted("fused", exposed=False),
    "fused": Wanted("fused"),
    "fused+10": Wanted("fused", more=10),
    "tailcall": Wanted("tailcall"),
}
_IN_ALL = {"cubelet_floods": 29_000, "cubelet_fragment": 52_000, OTHERS: 6_200}
BUDGETS: Mapping[str, Mapping[str, int]] = {
    "fused, unpoliced": {**_IN_ALL, "cubelet_slow": 245_000},
    "fused, inside": {**_IN_ALL, "cubelet_slow": 525_000},
    "fused": {**_IN_ALL, "cubelet_slow": 597_000},
    "fused+10": {**_IN_ALL, "cubelet_slow": 598_000},
    "tailcall": {**_IN_ALL, "cubelet_slow": 115_000, "cubelet_finished": 48_000},
}
"""Verified instructions by composition and program: what Linux 6.18 counts, and a tenth more,
"fused" alone a twentieth: the ceiling of all is six tenths of what the kernel takes.

Whoever goes beyond looks for a way without; if there is none, they raise the budget here and say in
the commit what it was and why.
"""


def run(_: int = 1) -> list[Row]:
    """The programs' rows, and the budgets; rounds make no difference."""
    with private_network():
        network = build_network()
        return [each for name in COMPOSITIONS for each in _rows(name, count(name, network))]


def count(name: str, network: TestNetwork) -> dict[str, int]:
    """The verified instructions of a composition's programs, by name. Needs Linux 5.16."""
    wanted = COMPOSITIONS[name]
    with closing(default_datapath(network)) as path, TemporaryDirectory() as folder:
        if not wanted.policed:
            path.delete(*path.state.policies.values())
        if wanted.exposed:
            path.apply(*_exposed())
        more = passthroughs(wanted.more, Path(folder))
        made = compiled(default_source(path, path.hz, wanted.mode, more))
    maps = open_maps(made.specs, None)
    programs = load_programs(made, maps)
    try:
        named = {f"cubelet_{name}": each for name, each in programs.entries.items()}
        return {n: each.info().verified_insns for n, each in {**named, **programs.others}.items()}
    finally:
        programs.close()
        close_maps({n: each for n, each in maps.items() if each is not programs.jumps})


def excesses(name: str, counts: Mapping[str, int]) -> list[str]:
    """What goes beyond the composition's budget, a text each."""
    return [
        f"{program} of the composition {name}: {found:,} verified instructions, of a budget of "
        f"{budget(name, program):,} (bench/verified.py)"
        for program, found in counts.items()
        if found > budget(name, program)
    ]


def budget(name: str, program: str) -> int:
    """How many instructions of a program may be verified."""
    return BUDGETS[name].get(program, BUDGETS[name][OTHERS])


def _rows(name: str, counts: Mapping[str, int]) -> Iterator[Row]:
    for program, found in counts.items():
        yield row(program, name, [found], "instructions")
    for program, most in BUDGETS[name].items():
        yield row(program, f"{name}, budget", [most], "instructions")


def _exposed() -> list[Object]:
    """A Service with node ports and affinity, whose backend is a process of this node."""
    return [
        Service(
            "default",
            "exposed",
            type="NodePort",
            cluster_ips=(ip_address("10.96.0.20"),),
            ports=(ServicePort("tcp", "TCP", 80, 8080, 30080),),
            session_affinity="ClientIP",
            external_traffic_policy="Local",
        ),
        EndpointSlice(
            "default",
            "exposed-1",
            service="exposed",
            endpoints=(Endpoint((ip_address("172.18.0.2"),), node_name="node1"),),
            ports=(EndpointPort("tcp", "TCP", 8080),),
        ),
    ]
