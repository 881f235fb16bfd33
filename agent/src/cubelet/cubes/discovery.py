"""Finds cubes: installed packages with an entry point in the group ``cubelet.cubes``.

Each is loaded by itself, so that one broken package is quarantined with its reason and the rest
run. The built-in cubes are found in the same way as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, Literal

import pluggy
import structlog

from cubelet.cubes.declarations import exposed_name, problems_of
from cubelet_hooks import hookspecs
from cubelet_hooks.cube import ABI, PORT_CLASSES, Cube
from cubelet_hooks.reasons import REASONS_PER_CUBE
from cubelet_hooks.resources import Resource

log = structlog.get_logger()
CONTRACT = "cubelet-hooks"
"""The distribution whose version is that of the agent's contract."""
KIND = re.compile(r"[a-z][a-z0-9]*")
RESERVED = frozenset(
    ("bpf", "core", "cubelet", "data", "eth", "icmp", "ip", "pkt", "skb", "struct", "tcp", "udp")
)
"""Kinds whose identifiers would collide with the kernel's or the core's own."""

PluginState = Literal["active", "inactive", "quarantined"]


@dataclass(frozen=True)
class Plugin:
    """One installed plugin: its name and cubes, or the reason why it cannot be used."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    cubes: tuple[type[Cube], ...] = ()
    reason: str = ""

    @property
    def quarantined(self) -> bool:
        """Found, but unusable."""
        return bool(self.reason)


@dataclass(frozen=True)
class Discovery:
    """All plugins in the order of their names, and the manager that calls their hooks."""

    plugins: tuple[Plugin, ...]
    manager: pluggy.PluginManager
    cubes: Mapping[str, type[Cube]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Kinds that proved unusable after discovery, each with the reason: also quarantined."""

    @property
    def usable(self) -> Mapping[str, type[Cube]]:
        """The cubes by kind without those that are quarantined."""
        return {kind: cube for kind, cube in self.cubes.items() if kind not in self.faults}

    def quarantined(self) -> Mapping[str, str]:
        """The reasons of all quarantined plugins, by name, and cubes, by kind."""
        return {p.name: p.reason for p in self.plugins if p.quarantined} | self.faults

    def observe(self, hook: str, **arguments: Any) -> None:
        """Call an observing hook in each plugin separately: if one raises, the others still run."""
        for name, plugin in self.manager.list_name_plugin():
            others = [each for each in self.manager.get_plugins() if each is not plugin]
            try:
                self.manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:  # an observer's bug is not the agent's
                log.error("an observer failed", plugin=name, hook=hook, error=repr(error))

    def rows(self, active: Iterable[str] = ()) -> list[dict[str, object]]:
        """One row per cube, as `cubelet plugins` prints it; ``active`` kinds are composed."""
        running = set(active)
        return [
            _row(plugin, kind, "active" if kind in running else "inactive", self.faults.get(kind))
            | _offers(self.cubes.get(kind))
            for plugin in self.plugins
            for kind in ([cube.kind for cube in plugin.cubes] or [plugin.name])
        ]

    @property
    def watches(self) -> Mapping[str, Resource]:
        """The kinds of objects that cubes add, composed or not."""
        return {each.kind: each for cube in self.cubes.values() for each in cube.watches}

    @property
    def annotations(self) -> tuple[str, ...]:
        """The annotations that cubes read, by key or (ending in ``/``) by prefix."""
        return tuple(sorted({each for cube in self.cubes.values() for each in cube.annotations}))


def _row(plugin: Plugin, kind: str, state: PluginState, fault: str | None) -> dict[str, object]:
    reason = fault or plugin.reason
    return {
        "kind": kind,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "hooks": list(plugin.hooks),
        "state": "quarantined" if reason else state,
        "reason": reason,
    }


def _offers(cube: type[Cube] | None) -> dict[str, object]:
    """The metrics, commands and kinds of objects of a cube, for `cubelet plugins`."""
    names = [exposed_name(cube.kind, metric) for metric in cube.metrics] if cube else []
    return {
        "metrics": names,
        "commands": f"cubelet {cube.kind}" if cube and cube.commands else "",
        "watches": [resource.definition for resource in cube.watches] if cube else [],
    }


def discover(found: Iterable[EntryPoint] | None = None) -> Discovery:
    """Load every plugin of the group; never raises for a broken one."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    points = entry_points(group=hookspecs.ENTRY_POINT_GROUP) if found is None else found
    cubes: dict[str, type[Cube]] = {}
    plugins = []
    for point in sorted(points, key=lambda p: (p.name, p.value)):
        plugin = _load(point, manager, cubes)
        if plugin.quarantined:
            log.error("plugin quarantined", plugin=plugin.name, reason=plugin.reason)
        cubes |= {cube.kind: cube for cube in plugin.cubes}
        plugins.append(plugin)
    return Discovery(tuple(plugins), manager, cubes)


def _load(
    point: EntryPoint, manager: pluggy.PluginManager, known: Mapping[str, type[Cube]]
) -> Plugin:
    name, release = (point.dist.name, point.dist.version) if point.dist else (point.value, "")
    try:
        _check_requirements(point)
        module = point.load()
        manager.register(module, name=point.name)
        manager.check_pending()
        callers = manager.get_hookcallers(module) or []
        hooks = tuple(sorted(caller.name for caller in callers))
        offered = _offered(manager, module)
        for number, cube in enumerate(offered):
            check_cube(cube, {**known, **{each.kind: each for each in offered[:number]}})
            _check_entry_point(cube, point)
    except (Exception, SystemExit) as error:  # quarantines this package alone
        if manager.has_plugin(point.name):
            manager.unregister(name=point.name)
        return Plugin(point.name, name, release, reason=f"{type(error).__name__}: {error}")
    return Plugin(point.name, name, release, hooks, offered)


def _check_requirements(point: EntryPoint) -> None:
    """Check before the package is imported, whose own error might not name the cause."""
    if point.dist is not None:
        problem = unmet_requirement(point.dist.name, point.dist.requires or ())
        if problem:
            raise BadCubeError(problem)


def unmet_requirement(package: str, requires: Iterable[str]) -> str:
    """Why a package does not fit the installed release of the contract; empty if it does.

    ``requires`` are its ``Requires-Dist``. Lines that cannot be parsed are passed over: pip would
    not have installed the package.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    installed = version(CONTRACT)
    for text in requires:
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue
        applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if not applies or canonicalize_name(needed.name) != CONTRACT:
            continue
        if not needed.specifier.contains(installed, prereleases=True):
            return (
                f"{package} is built for {CONTRACT} {needed.specifier}, installed is {installed}; "
                f"remedy: install a release of {package} that allows it"
            )
    return ""


def _offered(manager: pluggy.PluginManager, module: object) -> tuple[type[Cube], ...]:
    others = [plugin for plugin in manager.get_plugins() if plugin is not module]
    caller = manager.subset_hook_caller("cubelet_cubes", others)
    return tuple(cube for offered in caller() for cube in offered)


def _check_entry_point(cube: type[Cube], point: EntryPoint) -> None:
    """Commands need an entry point named like the kind: they are found without importing others."""
    if cube.commands and cube.kind != point.name:
        raise BadCubeError(
            f"{cube.kind} has commands, but its entry point is called {point.name}; "
            f"remedy: call it {cube.kind}, or leave the commands out"
        )


class BadCubeError(Exception):
    """A cube's class breaks the contract; the text says where and what to do."""


def check_cube(cube: type[Cube], known: Mapping[str, type[Cube]] | None = None) -> None:
    """Raise BadCubeError unless the class keeps to the contract."""
    if not (issubclass(cube, Cube)):
        raise BadCubeError(f"cubelet_cubes returned {cube!r}, which is no subclass of Cube")
    if cube.abi != ABI:
        raise BadCubeError(
            f"{cube.kind} is built for ABI {cube.abi}, this cubelet has {ABI}; "
            f"remedy: install a version of the cube for cubelet-hooks with ABI {ABI}"
        )
    if not KIND.fullmatch(cube.kind) or cube.kind in RESERVED:
        raise BadCubeError(
            f"the kind {cube.kind!r} is not usable: it must match {KIND.pattern} "
            f"and be none of {', '.join(sorted(RESERVED))}"
        )
    if cube.kind in (known or {}):
        raise BadCubeError(f"another package already offers the kind {cube.kind}")
    unknown = (cube.inward | cube.outward | cube.per_packet) - set(PORT_CLASSES)
    if unknown:
        raise BadCubeError(f"{cube.kind}: unknown port classes {', '.join(sorted(unknown))}")
    if len(cube.reasons) > REASONS_PER_CUBE:
        raise BadCubeError(f"{cube.kind}: more than {REASONS_PER_CUBE} drop reasons")
    records = {record.c_name() for m in cube.maps for record in (m.key, m.value)}
    clash = records & {declared.name for declared in cube.maps}
    if clash:
        raise BadCubeError(
            f"{cube.kind}: a map and a record are both called {', '.join(sorted(clash))} in C; "
            "remedy: rename one of them"
        )
    if not cube.source().is_file():
        raise BadCubeError(f"{cube.kind}: its C source {cube.source()} is missing")
    others = [other for kind, other in (known or {}).items() if kind != cube.kind]
    for problem in problems_of(cube, others):
        raise BadCubeError(f"{cube.kind}: {problem}")
