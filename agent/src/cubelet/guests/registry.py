"""The guests among the installed cubes: who they are, and their processes together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cubelet.composer.composition import default_chain
from cubelet.cubes.discovery import Discovery, Plugin
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


class Guests:
    """All guests of an agent, which plan from ``state``. Without any this does nothing."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._hosts: list[Host] = []
        self._observers: list[Observer] = []
        state.followers.append(self._changed)

    def stand_in(self, discovery: Discovery) -> Discovery:
        """The same cubes, with stand-ins for those of guests, and without guests' observers."""
        cubes = dict(discovery.cubes)
        for plugin in discovery.plugins:
            module = discovery.manager.get_plugin(plugin.name)
            if plugin.quarantined or module is None or not is_guest(plugin):
                continue
            host = Host(module.__name__, self._state)
            self._hosts.append(host)
            if hooks := frozenset(plugin.hooks) - {"cubelet_cubes"}:
                discovery.manager.unregister(module)
                self._observers.append(Observer(plugin.name, hooks, host))
            cubes |= {cube.kind: stand_in(cube, host) for cube in plugin.cubes}
        return replace(discovery, cubes=cubes)

    def _changed(self, change: Change) -> None:
        for host in self._hosts:
            host.changed(change)
        for observer in self._observers:
            observer.note("cubelet_changed", change=change)

    def composed(self, mode: str, instances: Sequence[str]) -> None:
        """Have guests observe that a composition has taken over."""
        for observer in self._observers:
            observer.note("cubelet_composed", mode=mode, instances=instances)

    @property
    def observing(self) -> bool:
        """Whether any guest observes anything."""
        return bool(self._observers)

    def observe(self) -> None:
        """Have guests observe what was noted since the last time."""
        for observer in self._observers:
            observer.observe()

    def retain(self, cubes: Iterable[Cube]) -> None:
        """Forget the instances of setups that are not in force any more, and idle processes."""
        kept = list(cubes)
        for host in self._hosts:
            host.retain(kept)

    def end(self) -> None:
        """Whoever waits for a guest waits no longer. May be called by any thread."""
        for host in self._hosts:
            host.end()

    def close(self) -> None:
        """End all processes, and wait for that."""
        for host in self._hosts:
            host.close()
