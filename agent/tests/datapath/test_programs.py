"""Programs put in force, found again, replaced in one step, and let go of: on real devices."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from cubelet.bpf import clsact
from cubelet.bpf.fs import BPFFS
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.tcx import Direction, LinkInfo, TcxLink
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.errors import CompileError
from cubelet.composer.source import EGRESS
from cubelet.datapath.programs import Datapath, Prepared
from cubelet.state.cluster import State
from cubelet.testkit.network import TestNetwork, build_network, private_network
from cubelet.testkit.samples import view
from cubelet_hooks.objects import Service

from ..helpers import tint

CORE = Core("cubelet", CoreSettings())


@pytest.fixture
def network() -> Iterator[TestNetwork]:
    """A node's devices, which the test may remove."""
    with private_network():
        yield build_network(2)


@pytest.fixture
def bpffs() -> Iterator[Path]:
    """A folder for pins."""
    path = BPFFS / f"cubelet-test-datapath-{os.getpid()}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What has been compiled, for all of these tests."""
    return tmp_path_factory.mktemp("cache")


Make = Callable[..., Datapath]


@pytest.fixture
def make(network: TestNetwork, bpffs: Path, cache: Path, tmp_path: Path) -> Iterator[Make]:
    """Starts an agent's datapath; the cube's body as given."""
    with ExitStack() as stack:

        def start() -> Datapath:
            tint.write(tmp_path / "tint.bpf.c", tint.FINE)
            made = Datapath(bpffs, cache, 250)
            stack.callback(made.close)
            return made

        yield start


def prepare(datapath: Datapath, network: TestNetwork) -> Prepared | None:
    return datapath.prepare(tint.composition(State()), CORE, network.local)


def put_in_force(datapath: Datapath, network: TestNetwork) -> None:
    prepared = prepare(datapath, network)
    assert prepared is not None
    assert datapath.switch(prepared) == {}
    datapath.attach_node(network.local)
    for port in network.ports.values():
        datapath.attach_pod(port)


def links(bpffs: Path) -> dict[str, LinkInfo]:
    found = {}
    for pin in sorted((bpffs / "links").iterdir()):
        with TcxLink.open(pin) as link:
            found[pin.name] = link.info()
    return found


def maps(bpffs: Path) -> dict[str, int]:
    found = {}
    for pin in (bpffs / "maps").iterdir():
        with BpfMap.open(pin) as table:
            found[pin.name] = table.info.id
    return found


def folders(bpffs: Path) -> list[str]:
    return sorted(each.name for each in (bpffs / "programs").iterdir())


def programs(datapath: Datapath) -> dict[str, int]:
    assert datapath.programs is not None
    return {name: program.id for name, program in datapath.programs.entries.items()}


def test_without_tcx_the_loopback_device_keeps_nothing_of_an_earlier_run(
    make: Make, network: TestNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loopback() -> int:
        with IPRoute() as ip:
            return len(list(ip.get_filters(index=1, parent=0xFFFFFFF3)))

    earlier = make()
    put_in_force(earlier, network)
    assert earlier.programs is not None
    clsact.replace(1, earlier.programs.entries["host"], Direction.EGRESS)
    assert loopback() > 0
    monkeypatch.setattr("cubelet.datapath.programs.tcx_supported", lambda: False)
    put_in_force(make(), network)
    assert loopback() == 0


@pytest.fixture(params=["tcx", "clsact"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How programs hang on devices."""
    if request.param == "clsact":
        for module in ("datapath.programs", "bpf.links"):
            monkeypatch.setattr(f"cubelet.{module}.tcx_supported", lambda: False)
    return str(request.param)


def uplink_egress(network: TestNetwork, bpffs: Path, mode: str) -> int:
    """The id of the program on what the uplink sends; 0 if there is none."""
    if mode == "clsact":
        command = ["tc", "filter", "show", "dev", "uplink0", "egress"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(r"direct-action.* id (\d+)", shown)
        return int(found[1]) if found else 0
    pin = bpffs / "links" / "egress"
    if not pin.exists():
        return 0
    with TcxLink.open(pin) as link:
        info = link.info()
    assert (info.ifindex, info.direction) == (network.local.uplink_ifindex, Direction.EGRESS)
    return info.prog_id


def test_what_looks_answers_up_comes_and_goes(
    make: Make, network: TestNetwork, bpffs: Path, mode: str
) -> None:
    """With what asks for it, over restarts, and from an earlier run that had it."""

    def switch(datapath: Datapath, wanted: bool) -> None:
        asks = view(Service("default", "egress")) if wanted else State()
        prepared = datapath.prepare(tint.composition(asks), CORE, network.local)
        assert prepared is not None
        assert datapath.switch(prepared) == {}
        assert (EGRESS in prepared.programs.entries) == wanted
        if wanted:  # before the programs that make such flows are attached
            assert uplink_egress(network, bpffs, mode) == programs(datapath)[EGRESS]
        datapath.attach_node(network.local)
        datapath.forget_strangers(network.ports)
        datapath.retire()

    datapath = make()
    for wanted in (False, True, False, True):
        switch(datapath, wanted)
        assert bool(uplink_egress(network, bpffs, mode)) == wanted
    again = make()
    switch(again, wanted=True)
    assert uplink_egress(network, bpffs, mode) == programs(again)[EGRESS]
    switch(make(), wanted=False)
    assert not uplink_egress(network, bpffs, mode)


def test_each_device_runs_the_program_of_its_class(
    make: Make, network: TestNetwork, bpffs: Path
) -> None:
    datapath = make()
    assert datapath.identity == ""
    put_in_force(datapath, network)
    ids, local = programs(datapath), network.local
    assert {name: (info.ifindex, info.prog_id) for name, info in links(bpffs).items()} == {
        "host": (local.datapath_ifindex, ids["host"]),
        "overlay": (local.overlay_ifindex, ids["overlay"]),
        "uplink": (local.uplink_ifindex, ids["uplink"]),
        **{p.host_ifname: (p.ifindex, ids["pod"]) for p in network.ports.values()},
    }
    assert prepare(datapath, network) is None  # it is what runs


def test_nothing_is_attached_before_something_is_composed(make: Make, network: TestNetwork) -> None:
    with pytest.raises(RuntimeError, match="nothing is composed"):
        make().attach_node(network.local)


def test_a_restart_finds_maps_links_and_bytecode(
    make: Make, network: TestNetwork, bpffs: Path, cache: Path
) -> None:
    put_in_force(make(), network)
    before = (maps(bpffs), {name: info.id for name, info in links(bpffs).items()})
    compiled = {path: path.stat().st_mtime_ns for path in cache.glob("*.json")}
    again = make()
    put_in_force(again, network)
    assert (maps(bpffs), {name: info.id for name, info in links(bpffs).items()}) == before
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.json")} == compiled
    assert {info.prog_id for info in links(bpffs).values()} == set(programs(again).values())


def test_the_old_jumps_are_held_until_everything_is_attached_anew(
    make: Make, network: TestNetwork, bpffs: Path
) -> None:
    """The kernel empties a jump table that nobody holds, and programs that run still need it."""
    first = make()
    put_in_force(first, network)
    (old,) = folders(bpffs)
    with BpfMap.open(bpffs / "programs" / old / "jumps") as jumps:
        filled = dict(jumps.items())
        again = make()
        put_in_force(again, network)
        assert len(folders(bpffs)) == 2
        first.programs.close()  # type: ignore[union-attr]
        first.maps["cubelet_jumps"].close()
        assert dict(jumps.items()) == filled
    again.retire()
    (new,) = folders(bpffs)
    assert new != old
    with BpfMap.open(bpffs / "programs" / new / "jumps") as jumps:
        assert dict(jumps.items()) != {}


@pytest.mark.parametrize(
    ("body", "said"),
    [(tint.BROKEN, "no_such_function"), (tint.TOUCHY, "refused by the verifier")],
)
def test_a_composition_that_fails_names_the_cube_and_changes_nothing(
    make: Make, network: TestNetwork, bpffs: Path, tmp_path: Path, body: str, said: str
) -> None:
    datapath = make()
    put_in_force(datapath, network)
    before = (datapath.identity, links(bpffs), maps(bpffs), folders(bpffs))
    tint.write(tmp_path / "tint.bpf.c", body)
    with pytest.raises(CompileError) as raised:
        prepare(datapath, network)
    assert (raised.value.cube, raised.value.file, raised.value.line) == ("tint", "tint.bpf.c", 5)
    assert said in str(raised.value)
    assert (datapath.identity, links(bpffs), maps(bpffs), folders(bpffs)) == before


def test_switching_replaces_every_program_and_keeps_the_maps(
    make: Make, network: TestNetwork, bpffs: Path, tmp_path: Path
) -> None:
    datapath = make()
    put_in_force(datapath, network)
    before, kept = programs(datapath), maps(bpffs)
    attached = {name: info.id for name, info in links(bpffs).items()}
    tint.write(tmp_path / "tint.bpf.c", f"pkt->flags |= 0; {tint.FINE}")
    prepared = prepare(datapath, network)
    assert prepared is not None
    assert datapath.switch(prepared) == {}
    assert programs(datapath).keys() == before.keys()
    assert not set(programs(datapath).values()) & set(before.values())
    assert {name: info.id for name, info in links(bpffs).items()} == attached
    assert {info.prog_id for info in links(bpffs).values()} == set(programs(datapath).values())
    assert maps(bpffs) == kept
    datapath.retire()
    assert len(folders(bpffs)) == 1


def test_a_device_that_went_away_is_named_and_stops_no_other(
    make: Make, network: TestNetwork, bpffs: Path, tmp_path: Path
) -> None:
    datapath = make()
    put_in_force(datapath, network)
    with IPRoute() as ip:
        ip.link("del", index=network.ports["default/a"].ifindex)
    tint.write(tmp_path / "tint.bpf.c", f"pkt->flags |= 0; {tint.FINE}")
    prepared = prepare(datapath, network)
    assert prepared is not None
    assert set(datapath.switch(prepared)) == {"pod0"}
    assert links(bpffs)["pod1"].prog_id == programs(datapath)["pod"]
    datapath.detach("pod0")
    datapath.forget_strangers({"default/b": network.ports["default/b"]})
    assert set(links(bpffs)) == {"host", "overlay", "uplink", "pod1"}


def test_detaching_takes_the_program_off(make: Make, network: TestNetwork, bpffs: Path) -> None:
    datapath = make()
    put_in_force(datapath, network)
    for _ in range(2):
        datapath.detach("pod0")
        assert set(links(bpffs)) == {"host", "overlay", "uplink", "pod1"}
    datapath.attach_pod(network.ports["default/a"])
    assert links(bpffs)["pod0"].prog_id == programs(datapath)["pod"]


def test_pods_of_an_earlier_run_are_let_go(make: Make, network: TestNetwork, bpffs: Path) -> None:
    put_in_force(make(), network)
    again = make()
    put_in_force(again, network)
    again.forget_strangers({"default/b": network.ports["default/b"]})
    assert set(links(bpffs)) == {"host", "overlay", "uplink", "pod1"}
