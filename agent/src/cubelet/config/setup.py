"""Makes a node's setup of the settings file, the cluster's configuration and installed cubes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

import msgspec

from cubelet.composer.composition import (
    Chain,
    Composition,
    CompositionError,
    compose,
    default_chain,
    kind_of,
)
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.placement import Insertion, insert
from cubelet.composer.slots import Slots
from cubelet.config.cluster import ClusterConfig, Insert
from cubelet.config.node import Settings, SettingsError
from cubelet.cubes.discovery import Discovery
from cubelet_hooks.cube import Placement

OPTIONAL = ("lbrp", "nat", "firewall")
"""Built-in kinds without which a node still forwards packets."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A configuration that has been checked as a whole. ``composition`` is not specialised yet.

    ``excluded`` are the kinds of installed cubes that the configuration leaves out, each with
    whether it is essential.
    """

    composition: Composition
    core: Core
    service_cidrs: tuple[IPv4Network, ...]
    excluded: Mapping[str, bool] = field(default_factory=dict)

    @property
    def left_out(self) -> list[str]:
        """The excluded kinds as people are told of them."""
        found = self.excluded.items()
        return [f"{kind} (essential)" if essential else kind for kind, essential in found]


def make_setup(
    settings: Settings,
    config: ClusterConfig,
    discovery: Discovery,
    reasons: Mapping[str, int] | None = None,
    lenient: bool = False,
    slots: Slots | None = None,
) -> Setup:
    """Check everything and make the setup of it, without side effects.

    ``reasons`` are the places that kinds' drop reasons have had so far, ``slots`` those of
    instances' flow fields. ``lenient`` leaves out
    inserted cubes that are missing or quarantined: a configuration that was in force earlier must
    still serve the node. Raises SettingsError for a wrong value, CompositionError for cubes that
    cannot be composed like this.
    """
    chain = settings.chain or default_chain()
    _check_lost(discovery, config)
    if lenient:
        config = _usable_part(config, discovery)
    wanted = {*chain.names(), *(each.cube for each in config.insert)} - set(config.exclude)
    broken = [p for p in discovery.plugins if p.quarantined and p.name in wanted]
    if broken:
        raise CompositionError(
            "; ".join(f"{p.name} is quarantined: {p.reason}" for p in broken)
            + "; remedy: repair or uninstall it; what runs on the node is left as it is"
        )
    composition = compose(
        _chain(chain, config, discovery, lenient),
        discovery.usable,
        _cube_settings(settings, config, discovery),
        config.composition or settings.composition,
        (*(() if settings.chain else OPTIONAL), *discovery.faults),
        reasons,
        slots,
    )
    cidrs = settings.service_cidrs if config.service_cidrs is None else config.service_cidrs
    left_out = _left_out(settings, config, discovery, composition)
    return Setup(composition, _core(settings, config, cidrs), cidrs, left_out)


def _check_lost(discovery: Discovery, config: ClusterConfig) -> None:
    """The node must not go on without an essential cube because nothing can be loaded of it."""
    lost = {kind: why for kind, why in discovery.lost.items() if kind not in config.exclude}
    if lost:
        raise CompositionError(
            "; ".join(
                f"{kind} was in force and cannot be loaded: {why}" for kind, why in lost.items()
            )
            + "; what runs on the node is left as it is"
        )


def _left_out(
    settings: Settings, config: ClusterConfig, discovery: Discovery, made: Composition
) -> Mapping[str, bool]:
    """The installed cubes that would be composed if the configuration did not leave them out."""
    named = set(config.exclude)
    if settings.chain is not None:
        named |= set(default_chain().names())
    named -= {cube.kind for cube in made.cubes}
    return {kind: cube.essential for kind, cube in sorted(discovery.cubes.items()) if kind in named}


def _core(settings: Settings, config: ClusterConfig, cidrs: tuple[IPv4Network, ...]) -> Core:
    values = {**settings.core, **config.core}
    try:
        core = msgspec.convert(values, CoreSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"core: {error}") from error
    _check_vxlan_port(settings.vxlan_port, core)
    return Core("cubelet", core, service_cidrs=cidrs)


def _check_vxlan_port(port: int, core: CoreSettings) -> None:
    """What tunnels bring may not be taken for somebody's NodePort, or for a translated reply."""
    for first, last in (
        (core.snat_first_port, core.snat_last_port),
        (core.node_port_first, core.node_port_last),
    ):
        if first <= port <= last:
            raise SettingsError(f"vxlan_port: {port} is among the core's ports {first} to {last}")


def _usable_part(config: ClusterConfig, discovery: Discovery) -> ClusterConfig:
    found = discovery.usable
    inserted = tuple(each for each in config.insert if each.cube in found)
    cubes = {name: v for name, v in config.cubes.items() if kind_of(name, found) in found}
    return msgspec.structs.replace(config, insert=inserted, cubes=cubes)


def _chain(chain: Chain, config: ClusterConfig, discovery: Discovery, lenient: bool) -> Chain:
    """The chain without excluded kinds, with inserted cubes and those with a ``placement``."""
    chain = _without(chain, config.exclude, discovery)
    placed = [kind_of(name, discovery.cubes) for name in chain.names()]
    taken = {*placed, *config.exclude, *(each.cube for each in config.insert)}
    configured = _configured(config.insert, discovery)
    if lenient:
        configured = (replace(each, strict=False) for each in configured)
    insertions = [*configured, *_own_wishes(discovery, taken)]
    return insert(chain, insertions)


def _without(chain: Chain, excluded: Iterable[str], discovery: Discovery) -> Chain:
    gone = set(excluded)
    needed = sorted(gone & {kind_of(name, discovery.cubes) for name in chain.core})
    if needed:
        raise SettingsError(f"exclude: {', '.join(needed)} is part of the core")

    def left(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if kind_of(name, discovery.cubes) not in gone)

    stacks = {name: left(stack) for name, stack in chain.stacks.items()}
    return Chain(core=chain.core, stacks=stacks, directions=chain.directions)


def _configured(wanted: Iterable[Insert], discovery: Discovery) -> Iterator[Insertion]:
    for number, each in enumerate(wanted):
        origin = f"insert[{number}] ({each.instance})"
        cube = discovery.usable.get(each.cube)
        if cube is None:
            known = ", ".join(sorted(discovery.usable))
            raise CompositionError(
                f"{origin}: no installed cube is called {each.cube}; there are {known}; "
                f"remedy: pip install cubelet-{each.cube}"
            )
        places: Iterable[Placement] = cube.placement
        if each.ports:
            before, after = _names(each.before), _names(each.after)
            places = [Placement(name, each.direction, before, after) for name in each.ports]
        if not places:
            raise CompositionError(
                f"{origin}: {each.cube} has no place of its own; remedy: name the ports it is for"
            )
        for place in places:
            yield Insertion(each.instance, place, origin, strict=bool(each.ports))


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _own_wishes(discovery: Discovery, taken: set[str]) -> Iterator[Insertion]:
    """The places that installed cubes ask for themselves, in the order of their kinds."""
    for kind, cube in sorted(discovery.usable.items()):
        for place in cube.placement if kind not in taken else ():
            yield Insertion(f"{kind}0", place, f"the placement of {kind}", strict=False)


def _cube_settings(
    settings: Settings, config: ClusterConfig, discovery: Discovery
) -> Mapping[str, Mapping[str, Any]]:
    names = {*settings.cubes, *config.cubes}
    unknown = sorted(
        name for name in names if kind_of(name, discovery.cubes) not in discovery.cubes
    )
    if unknown:
        raise SettingsError(f"cubes: no installed cube is called {', '.join(unknown)}")
    found = {name: {**settings.cubes.get(name, {}), **config.cubes.get(name, {})} for name in names}
    for each in config.insert:
        if not each.settings:
            continue
        if each.instance in found:
            raise SettingsError(f"{each.instance} has settings under cubes and under insert")
        found[each.instance] = {**found.get(each.cube, {}), **each.settings}
    return found
