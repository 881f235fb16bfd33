"""Finds cubes: installed packages with an entry point in the group ``cubelet.cubes``.

Each is loaded by itself, so that one broken package is quarantined with its reason and the rest
run. The built-in cubes are found in the same way as any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, Self

import pluggy
import structlog

from cubelet.cubes.declarations import problems_of
from cubelet.cubes.plugins import LEFT_OUT, Plugin, PluginState, offers, row
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


Present = Callable[[Plugin, pluggy.PluginManager], Plugin]
"""Gives what stands for a plugin that was loaded: itself, or one whose Python runs elsewhere."""


def as_it_is(plugin: Plugin, _: pluggy.PluginManager) -> Plugin:
    """The plugin itself: its Python runs in this process."""
    return plugin


@dataclass
class Discovery:
    """All plugins in the order of their names, and the manager that calls their hooks."""

    plugins: tuple[Plugin, ...]
    manager: pluggy.PluginManager
    cubes: Mapping[str, type[Cube]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Kinds that proved unusable after discovery, each with the reason: also quarantined."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Kinds, essential and in force last, that nothing can be loaded of, each with the reason."""
    uncopied: Mapping[str, str] = field(default_factory=dict)
    """Plugins that run as they are installed since they cannot be copied, each with the reason."""
    revert: Callable[[Discovery, str, str], bool] = lambda *_: False
    """Puts what was in force last in the place of a kind that fails; see :meth:`fall_back`."""
    present: Present = as_it_is

    @classmethod
    def empty(cls, present: Present = as_it_is) -> Self:
        """Without any plugin; see :meth:`load`."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        return cls((), manager, present=present)

    def load(
        self, point: EntryPoint, load: Callable[[], object], digest: str = "", kept: str = ""
    ) -> Plugin:
        """Load the plugin of an entry point by ``load``, for :meth:`add`; never raises."""
        plugin = _load(point, load, self.manager, self.cubes)
        plugin = replace(plugin, digest=digest, kept=kept)
        return plugin if plugin.quarantined else self.present(plugin, self.manager)

    def add(self, plugin: Plugin) -> None:
        """Take in a plugin that was loaded."""
        if plugin.quarantined:
            log.error("plugin quarantined", plugin=plugin.name, reason=plugin.reason)
        elif plugin.kept:
            log.error("plugin kept as it was in force", plugin=plugin.name, reason=plugin.kept)
        self.cubes = {**self.cubes, **{cube.kind: cube for cube in plugin.cubes}}
        self.plugins = (*self.plugins, plugin)

    def drop(self, plugin: Plugin) -> None:
        """Let go of a plugin, whether it was added or only loaded."""
        self.plugins = tuple(each for each in self.plugins if each != plugin)
        gone = {cube.kind for cube in plugin.cubes}
        self.cubes = {kind: cube for kind, cube in self.cubes.items() if kind not in gone}
        if self.manager.has_plugin(plugin.name):
            self.manager.unregister(name=plugin.name)

    def fall_back(self, kind: str, reason: str) -> bool:
        """Have a kind that fails run as it was in force last; False if that is what it does."""
        return self.revert(self, kind, reason)

    def take_over(self, other: Discovery) -> None:
        """Become what another discovery is."""
        vars(self).update(vars(other))

    @property
    def usable(self) -> Mapping[str, type[Cube]]:
        """The cubes by kind without those that are quarantined."""
        return {kind: cube for kind, cube in self.cubes.items() if kind not in self.faults}

    def quarantined(self) -> Mapping[str, str]:
        """The reasons of all quarantined plugins, by name, and cubes, by kind."""
        return {p.name: p.reason for p in self.plugins if p.quarantined} | self.faults

    def kept(self, kinds: Collection[str]) -> Mapping[str, str]:
        """Why plugins with some of these kinds are kept as they were in force, by name."""
        return {
            plugin.name: f"{plugin.title} runs on: {plugin.kept}"
            for plugin in self.plugins
            if plugin.kept and any(cube.kind in kinds for cube in plugin.cubes)
        }

    def observe(self, hook: str, **arguments: Any) -> None:
        """Call an observing hook in each plugin separately: if one raises, the others still run."""
        for name, plugin in self.manager.list_name_plugin():
            others = [each for each in self.manager.get_plugins() if each is not plugin]
            try:
                self.manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:  # an observer's bug is not the agent's
                log.error("an observer failed", plugin=name, hook=hook, error=repr(error))

    def rows(
        self, active: Iterable[str] = (), excluded: Mapping[str, bool] | None = None
    ) -> list[dict[str, object]]:
        """One row per cube, as `cubelet plugins` prints it; ``active`` kinds are composed.

        ``excluded`` ones the configuration leaves out, though they may be essential.
        """
        running, left_out = set(active), excluded or {}
        return [
            row(plugin, kind, *self._state(plugin, kind, running, left_out))
            | offers(self.cubes.get(kind))
            for plugin in self.plugins
            for kind in ([cube.kind for cube in plugin.cubes] or [plugin.name])
        ]

    def _state(
        self, plugin: Plugin, kind: str, active: set[str], excluded: Mapping[str, bool]
    ) -> tuple[PluginState, str]:
        """The state of a kind, and why it is in it."""
        if reason := self.faults.get(kind) or plugin.reason:
            return "quarantined", reason
        if kind in excluded:
            return "excluded", LEFT_OUT if excluded[kind] else ""
        if plugin.kept:
            return "kept", plugin.kept
        return "active" if kind in active else "inactive", ""

    @property
    def watches(self) -> Mapping[str, Resource]:
        """The kinds of objects that cubes add, composed or not."""
        return {each.kind: each for cube in self.cubes.values() for each in cube.watches}

    @property
    def annotations(self) -> tuple[str, ...]:
        """The annotations that cubes read, by key or (ending in ``/``) by prefix."""
        return tuple(sorted({each for cube in self.cubes.values() for each in cube.annotations}))


def discover(found: Iterable[EntryPoint] | None = None, present: Present = as_it_is) -> Discovery:
    """Load every plugin of the group as it is installed; never raises for a broken one."""
    discovery = Discovery.empty(present)
    for point in installed(found):
        discovery.add(discovery.load(point, point.load))
    return discovery


def installed(found: Iterable[EntryPoint] | None = None) -> list[EntryPoint]:
    """The entry points of the group, or these, in the order in which they are loaded."""
    points = entry_points(group=hookspecs.ENTRY_POINT_GROUP) if found is None else found
    return sorted(points, key=lambda p: (p.name, p.value))


def _load(
    point: EntryPoint,
    load: Callable[[], object],
    manager: pluggy.PluginManager,
    known: Mapping[str, type[Cube]],
) -> Plugin:
    name, release = (point.dist.name, point.dist.version) if point.dist else (point.value, "")
    try:
        _check_requirements(point)
        module = load()
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
