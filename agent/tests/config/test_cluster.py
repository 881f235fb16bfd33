"""The cluster-wide configuration: right as a whole, or refused with the key and the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cubelet.cli.commands import app
from cubelet.composer.composition import Chain, CompositionError
from cubelet.config.cluster import KEY, ClusterConfig, parse_config, read_config
from cubelet.config.live import Configuration, Reload
from cubelet.config.node import Settings, SettingsError, parse
from cubelet.config.setup import Setup, make_setup
from cubelet.cubes.discovery import Discovery, discover
from cubelet.cubes.plugins import Plugin
from cubelet.state.last_known import Memory
from cubelet_hooks.cube import PORT_CLASSES, Cube, Placement
from cubelet_hooks.cube import Settings as CubeSettings
from cubelet_hooks.objects import Change, ConfigMap


class Limits(CubeSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rate: int = 5


class Rate(Cube):
    kind = "rate"
    inward = frozenset(PORT_CLASSES)
    settings_type = Limits


class Early(Rate):
    kind = "early"
    placement = (Placement("uplink", "inward", before=("nat", "nobody")),)


class Wild(Rate):
    kind = "wild"

    def __init__(self, *_: object) -> None:
        raise KeyError("why")


@pytest.fixture(scope="module")
def found() -> Discovery:
    """The built-in cubes, and three that somebody has written."""
    built_in = discover()
    more = {cube.kind: cube for cube in (Rate, Early, Wild)}
    return replace(built_in, cubes={**built_in.cubes, **more})


def made(found: Discovery, text: str, **settings: object) -> Setup:
    return make_setup(parse(settings), parse_config(text), found)


def stack(setup: Setup, name: str) -> list[str]:
    return [cube.instance for cube in setup.composition.stacks[name]]


def test_without_a_configuration_the_default_chain_runs(found: Discovery) -> None:
    setup = make_setup(Settings(), read_config(None), found)
    assert stack(setup, "pod") == ["lbrp0", "nat0", "firewall0"]
    assert setup.composition.mode == "fused"
    assert setup.service_cidrs == Settings().service_cidrs


def test_an_installed_cube_stands_where_it_wants_to(found: Discovery) -> None:
    setup = made(found, "")
    assert stack(setup, "uplink") == ["early0", "nat0", "lbrp0"]
    assert setup.composition.directions == {"uplink": {"early0": "inward"}}
    assert stack(made(found, "exclude: [early]"), "uplink") == ["nat0", "lbrp0"]


def test_the_configuration_places_a_cube_elsewhere(found: Discovery) -> None:
    text = """
    insert:
    - {cube: early, ports: [host]}
    - {cube: rate, ports: [pod, uplink], after: nat, settings: {rate: 7}}
    - {cube: rate, name: rate1, ports: [pod], direction: outward}
    """
    setup = made(found, text)
    assert stack(setup, "uplink") == ["nat0", "rate0", "lbrp0"]
    assert stack(setup, "pod") == ["rate1", "lbrp0", "nat0", "rate0", "firewall0"]
    assert stack(setup, "host") == ["early0", "lbrp0", "nat0"]
    rates = {c.instance: c.settings for c in setup.composition.cubes if c.kind == "rate"}
    assert rates == {"rate0": Limits(rate=7), "rate1": Limits()}


def test_it_counts_before_the_nodes_own_settings(found: Discovery) -> None:
    text = """
    composition: tailcall
    core: {flows: 9}
    cubes: {rate: {rate: 1}}
    insert: [{cube: rate, ports: [pod]}]
    """
    setup = made(
        found,
        text,
        composition="fused",
        core={"flows": 8, "fragments": 7},
        cubes={"rate": {"rate": 2}, "nat": {"max_exempt": 5}},
    )
    assert setup.composition.mode == "tailcall"
    assert (setup.core.settings.flows, setup.core.settings.fragments) == (9, 7)
    settings: dict[str, Any] = {c.kind: c.settings for c in setup.composition.cubes}
    assert settings["rate"] == Limits(rate=1)
    assert settings["nat"].max_exempt == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow: 1", "unknown field `flow`"),
        ("composition: merged", "`$.composition`"),
        ("insert: [{ports: [pod]}]", "missing required field `cube`"),
        ("insert: [{cube: rate, ports: [door]}]", "ports: door is none of pod, host"),
        ("insert: [{cube: rate, before: nat}]", "ports: needed where rate is placed"),
        ("insert: [{cube: rate, name: other1}]", "name: other1 must be rate and a number"),
        ("insert: [{cube: rate, name: rate}]", "name: rate must be rate and a number"),
        ("insert: [{cube: rate}]", "insert[0] (rate0): rate has no place of its own"),
        ("insert: [{cube: nobody, ports: [pod]}]", "no installed cube is called nobody"),
        ("insert: [{cube: rate, ports: [pod], after: [nobody]}]", "nobody is not on the stack"),
        ("insert: [{cube: rate, ports: [pod], settings: {rate: x}}]", "settings of rate0: "),
        ("cubes: {nobody: {}}", "cubes: no installed cube is called nobody"),
        ("core: {flows: 0}", "core: Expected `int` >= 4"),
        ("service_cidrs: [10.0.0.1/8]", "`$.service_cidrs[0]`"),
        ("a: [", "while parsing"),
        ("service_cidrs: [2024-13-01]", "month must be in 1..12"),
        ("[" * 5000, "is nested too deeply"),
        ("insert: [{cube: wild, ports: [pod]}]", "cube wild cannot be made: KeyError('why')"),
        ("exclude: [router]", "exclude: router is part of the core"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(found: Discovery, text: str, message: str) -> None:
    with pytest.raises((SettingsError, CompositionError)) as caught:
        made(found, text)
    assert message in str(caught.value)


def test_a_broken_cube_that_is_asked_for_is_named_with_its_reason(found: Discovery) -> None:
    broken = Plugin("rate", "cubelet-rate", "1", reason="ImportError: no scapy")
    cubes = {kind: cube for kind, cube in found.cubes.items() if kind != "rate"}
    less = replace(found, plugins=(*found.plugins, broken), cubes=cubes)
    with pytest.raises(CompositionError, match="rate is quarantined: ImportError: no scapy"):
        made(less, "insert: [{cube: rate, ports: [pod]}]")


def test_a_config_map_has_one_key() -> None:
    assert read_config(config_map("composition: tailcall")).composition == "tailcall"
    for data in ({}, {"other": "x"}, {KEY: "", "other": "x"}):
        with pytest.raises(SettingsError, match=r"data must have config\.yaml alone"):
            read_config(ConfigMap("kube-system", "cubelet", data))


def config_map(text: str) -> ConfigMap:
    return ConfigMap("kube-system", "cubelet", {KEY: text})


CONFIG = "kube-system/cubelet"


class Followed:
    """A configuration and what it proposed; ``restart`` gives the one that follows it."""

    def __init__(self, folder: Path, found: Discovery) -> None:
        self.folder, self.found = folder, found
        self.proposed: list[Setup] = []
        memory = Memory(folder / "memory.json")
        self.configuration = Configuration(Settings(), found, memory, self.proposed.append)

    def restart(self) -> Followed:
        return Followed(self.folder, self.found)

    def put(self, text: str | None, refused: str | None = "") -> str:
        """The ConfigMap changes, and a pass ends; the problem after it."""
        new = None if text is None else config_map(text)
        change = Change(ConfigMap.kind, "kube-system/cubelet", None, new)
        self.configuration.follow([change])
        self.configuration.settle(refused, in_force=True)
        return self.configuration.problem

    @property
    def mode(self) -> str:
        return self.proposed[-1].composition.mode


def test_a_change_is_proposed_as_a_whole_or_not_at_all(tmp_path: Path, found: Discovery) -> None:
    one = Followed(tmp_path, found)
    one.configuration.follow([])
    assert len(one.proposed) == 1  # at the first pass also without a ConfigMap
    one.configuration.follow([Change(ConfigMap.kind, "default/other", None, config_map("a: b"))])
    assert len(one.proposed) == 1
    assert one.put("composition: tailcall") == ""
    assert one.mode == "tailcall"
    assert "unknown field" in one.put("{composition: fused, x: 1}")
    assert len(one.proposed) == 2
    assert one.put("composition: fused", refused="refused by the verifier") != ""
    assert one.put(None) == ""
    assert one.mode == "fused"


def test_after_a_restart_the_last_good_configuration_counts(
    tmp_path: Path, found: Discovery
) -> None:
    one = Followed(tmp_path, found)
    one.put("composition: tailcall")
    one.put("composition: fused", refused="refused by the verifier")
    again = one.restart()
    assert "unknown field" in again.put("x: 1")
    assert again.mode == "tailcall"
    one.put(None)
    again = one.restart()
    again.put("x: 1")
    assert again.mode == "fused"


def test_while_not_all_is_known_the_last_configuration_counts(
    tmp_path: Path, found: Discovery
) -> None:
    Followed(tmp_path, found).put("composition: tailcall")
    again = Followed(tmp_path, found)
    again.configuration.follow([], complete=False)
    again.configuration.settle("", in_force=True)
    assert (again.mode, again.configuration.problem) == ("tailcall", "")
    again.configuration.follow([], complete=False)
    assert len(again.proposed) == 1
    third = Followed(tmp_path, found)  # nothing was forgotten
    third.configuration.follow([], complete=False)
    assert third.mode == "tailcall"
    third.configuration.follow([], complete=True)  # there is none any more
    third.configuration.settle("", in_force=True)
    assert third.mode == "fused"
    assert Memory(tmp_path / "memory.json").known.config is None


def test_what_the_verifier_refuses_at_a_start_gives_way_to_the_last(
    tmp_path: Path, found: Discovery
) -> None:
    Followed(tmp_path, found).put("composition: tailcall")
    again = Followed(tmp_path, found)
    again.configuration.follow([Change(ConfigMap.kind, "kube-system/cubelet", None, fused())])
    assert again.configuration.settle("too large for the verifier", in_force=False)
    assert again.mode == "tailcall"
    assert not again.configuration.settle("", in_force=True)
    assert again.configuration.problem == "too large for the verifier"
    assert Memory(tmp_path / "memory.json").known.config == "composition: tailcall"


def test_a_new_node_goes_without_the_cube_at_fault_and_keeps_the_rest(
    tmp_path: Path, found: Discovery
) -> None:
    one = Followed(tmp_path, replace(found, faults={}))
    wanted = config_map("{composition: tailcall, insert: [{cube: rate, ports: [pod]}]}")
    one.configuration.follow([Change(ConfigMap.kind, CONFIG, None, wanted)])
    assert not one.configuration.settle("too large", in_force=False, at_fault={"rate"})
    one.configuration.go_on_without({"rate": "too large"})
    assert (one.mode, "rate0" in stack(one.proposed[-1], "pod")) == ("tailcall", False)
    assert not one.configuration.settle("", in_force=True)
    assert one.configuration.problem == ""


@pytest.mark.parametrize("essential", [True, False])
def test_a_new_node_does_not_begin_without_an_essential_cube(
    tmp_path: Path, found: Discovery, essential: bool
) -> None:
    class Gate(Rate):
        kind = "gate"

    Gate.essential = essential
    one = Followed(tmp_path, replace(found, cubes={**found.cubes, "gate": Gate}))
    wanted = config_map("insert: [{cube: gate, ports: [pod]}]")
    one.configuration.follow([Change(ConfigMap.kind, CONFIG, None, wanted)])
    assert one.configuration.settle("refused", in_force=False) is not essential
    assert ("gate0" in stack(one.proposed[-1], "pod")) is essential
    assert one.configuration.problem == "refused"


def test_where_there_is_no_other_one_it_is_tried_until_it_is_in_force(
    tmp_path: Path, found: Discovery
) -> None:
    one = Followed(tmp_path, found)
    one.configuration.follow([])
    assert not one.configuration.settle("no memory", in_force=False)
    assert one.configuration.problem == "no memory"
    assert not one.configuration.settle("", in_force=True)
    assert one.configuration.problem == ""


def test_a_quarantine_ends_with_another_configuration_that_is_good(
    tmp_path: Path, found: Discovery
) -> None:
    one = Followed(tmp_path, replace(found, faults={}))
    one.put("insert: [{cube: rate, ports: [pod]}]")
    one.configuration.go_on_without({"rate": "it fell over"})
    one.configuration.settle("", in_force=True)
    assert "rate0" not in stack(one.proposed[-1], "pod")
    assert one.put("x: 1") != ""
    assert dict(one.found.faults) == {"rate": "it fell over"}
    assert one.put("{insert: [{cube: rate, ports: [pod]}], exclude: [early]}") == ""
    assert "rate0" in stack(one.proposed[-1], "pod")


def fused() -> ConfigMap:
    return config_map("composition: fused")


def test_a_node_that_can_run_nothing_does_not_start(tmp_path: Path, found: Discovery) -> None:
    less = replace(found, cubes={k: c for k, c in found.cubes.items() if k != "router"})
    with pytest.raises(CompositionError, match="no working cube for router"):
        Followed(tmp_path, less)


def check(tmp_path: Path, text: str, *options: str) -> tuple[int, str, str]:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    done = CliRunner().invoke(app, ["config", "check", str(file), *options])
    return done.exit_code, done.stdout, done.stderr


def test_a_file_is_checked_offline(tmp_path: Path) -> None:
    status, out, _ = check(tmp_path, "composition: tailcall", "-o", "json")
    assert status == 0
    assert json.loads(out)["mode"] == "tailcall"
    assert json.loads(out)["stacks"]["overlay"] == ["nat0"]
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cubelet", "namespace": "kube-system"},
        "data": {KEY: "exclude: [firewall]"},
    }
    status, out, _ = check(tmp_path, json.dumps(manifest))
    assert status == 0
    assert "pod stack:       lbrp0, nat0" in out
    assert "excluded:        firewall (essential)" in out


def test_a_bad_file_fails_with_its_name(tmp_path: Path) -> None:
    status, _, error = check(tmp_path, "insert: [{cube: nobody}]")
    assert status == 1
    assert f"{tmp_path / 'file.yaml'}: insert[0] (nobody0): no installed cube" in error
    assert CliRunner().invoke(app, ["config", "check", str(tmp_path / "none")]).exit_code == 1


def test_an_essential_cube_that_is_lost_lets_no_composition_do_without_it(
    tmp_path: Path, found: Discovery
) -> None:
    lost = replace(found, lost={"firewall": "its copy is missing"})
    with pytest.raises(CompositionError, match="firewall was in force and cannot be loaded: its"):
        make_setup(Settings(), ClusterConfig(), lost)
    setup = make_setup(Settings(), parse_config("exclude: [firewall]"), lost)
    assert "firewall" not in {cube.kind for cube in setup.composition.cubes}
    one = Followed(tmp_path, lost)  # the agent starts, and leaves what is pinned as it is
    one.configuration.follow([])
    assert one.proposed == []
    assert "what runs on the node is left as it is" in one.configuration.problem
    assert one.put("exclude: [firewall]") == ""


@pytest.mark.parametrize("lost", [True, False])
def test_cubes_that_are_mended_join_where_nothing_is_in_force(
    tmp_path: Path, found: Discovery, lost: bool
) -> None:
    one = Followed(tmp_path, replace(found, lost={"firewall": "gone"} if lost else {}))
    one.configuration.follow([Change(ConfigMap.kind, CONFIG, None, config_map("exclude: [nat]"))])
    one.configuration.settle("firewall cannot be compiled", in_force=False)
    before = len(one.proposed)
    told: list[str] = []
    one.configuration.reload(Reload(replace(found), told.append, lambda: None))
    one.configuration.follow([])
    assert (len(one.proposed), told) == (before + 1, [""])
    kinds = {cube.kind for cube in one.proposed[-1].composition.cubes}
    assert "firewall" in kinds
    assert "nat" not in kinds


def test_what_the_configuration_leaves_out_is_said(found: Discovery) -> None:
    setup = make_setup(Settings(), parse_config("exclude: [early, firewall]"), found)
    assert setup.excluded == {"early": False, "firewall": True}
    rows = {row["kind"]: row for row in found.rows([], setup.excluded)}
    assert rows["firewall"]["state"] == "excluded"
    assert "though it is essential" in str(rows["firewall"]["reason"])
    chain = Chain(core=("bridge", "router"), stacks={"pod": ("lbrp", "nat")})
    assert make_setup(Settings(chain=chain), ClusterConfig(), found).left_out == [
        "firewall (essential)"
    ]


class Later(Rate):
    kind = "later"
    placement = (Placement("pod"),)


def test_other_cubes_take_over_as_a_whole_or_those_that_run_go_on(
    tmp_path: Path, found: Discovery
) -> None:
    one = Followed(tmp_path, replace(found))
    assert one.put("exclude: [early]") == ""
    told: list[str] = []
    more = replace(found, cubes={**found.cubes, "later": Later})
    for refused in ("refused by the verifier", ""):
        one.configuration.reload(
            Reload(replace(more), told.append, lambda: told.append("put back"))
        )
        one.configuration.follow([])
        assert "later0" in stack(one.proposed[-1], "pod")
        assert "early0" not in stack(one.proposed[-1], "uplink")
        one.configuration.settle(refused, in_force=True)
        assert ("later" in one.found.cubes) is not bool(refused)
        assert one.configuration.problem == ""
    assert told == ["put back", "refused by the verifier", ""]
    # Cubes of which no composition can be made are not even proposed.
    fewer = replace(found, cubes={k: v for k, v in found.cubes.items() if k != "router"})
    before = len(one.proposed)
    one.configuration.reload(Reload(fewer, told.append, lambda: None))
    one.configuration.follow([])
    assert len(one.proposed) == before
    assert "pip install cubelet-router" in told[-1]
    assert "router" in one.found.cubes


def test_the_default_is_the_default() -> None:
    assert parse_config("") == ClusterConfig()


@pytest.mark.parametrize("port", [12_000, 29_999, 30_000, 32_767])
def test_the_tunnels_port_is_nobody_elses(port):
    with pytest.raises(SettingsError, match=f"vxlan_port: {port} is among the core's ports"):
        make_setup(Settings(vxlan_port=port), ClusterConfig(), discover())
