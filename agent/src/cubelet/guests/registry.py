"""The guests among the installed cubes: who they are, and their processes together."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pluggy

from cubelet.composer.composition import default_chain
from cubelet.cubes.plugins import Plugin
from cubelet.guests.host import Host
from cubelet.guests.observers import Observer
from cubelet.guests.proxy import stand_in
from cubelet.state.cluster import State
from cubelet_hooks.cube import Cube
from cubelet_hooks.objects import Change


def is_guest(plugin: Plugin) -> bool:
    """Whether others wrote the package: it has other cubes than the one of ours by its name."""
    ours = {f"cubelet-{kind}": kind for kind in default_chain().names()}
    return {cube.kind for cube in plugin.cubes} != {ours.get(plugin.distribution)}


@dataclass(frozen=True)
class _Made:
    """What stands for the cubes of a package, as long as they are the same."""

    cubes: tuple[type[Cube], ...]
    stand_ins: tuple[type[Cube], ...]
    observer: Observer


class Guests:
    """All guests of an agent, which plan from ``state``. Without any this does nothing.

    What nobody refers to any more, as after a new version has taken over, is forgotten.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._made: dict[str, _Made] = {}
        self._hosts: tuple[weakref.ref[Host], ...] = ()
        state.followers.append(self._changed)

    def stand_in(self, plugin: Plugin, manager: pluggy.PluginManager) -> Plugin:
        """The plugin with stand-ins for its cubes and its observers, if it is a guest's."""
        module = manager.get_plugin(plugin.name)
        if module is None or not is_guest(plugin):
            return plugin
        made = self._made.get(plugin.name)
        if made is None or made.cubes != plugin.cubes:
            host = Host(module.__name__, self._state)
            self._hosts = (*(each for each in self._hosts if each()), weakref.ref(host))
            stand_ins = tuple(stand_in(cube, host) for cube in plugin.cubes)
            hooks = frozenset(plugin.hooks) - {"cubelet_cubes"}
            made = _Made(plugin.cubes, stand_ins, Observer(plugin.name, hooks, host))
            self._made[plugin.name] = made
        manager.unregister(module)
        manager.register(made.observer, name=plugin.name)
        return replace(plugin, cubes=made.stand_ins)

    def _changed(self, change: Change) -> None:
        for host in self._alive():
            host.changed(change)

    def _alive(self) -> Iterable[Host]:
        return [host for each in self._hosts if (host := each())]

    @property
    def observing(self) -> bool:
        """Whether there are any that could observe something."""
        return bool(self._made)

    def observe(self) -> None:
        """Have guests observe what was noted since the last time."""
        for made in tuple(self._made.values()):
            made.observer.observe()

    def retain(self, cubes: Iterable[Cube]) -> None:
        """Forget the instances of setups that are not in force any more, and idle processes."""
        kept = list(cubes)
        for host in self._alive():
            host.retain(kept)

    def end(self) -> None:
        """Whoever waits for a guest waits no longer. May be called by any thread."""
        for host in self._alive():
            host.end()

    def close(self) -> None:
        """End all processes, and wait for that."""
        for host in self._alive():
            host.close()
