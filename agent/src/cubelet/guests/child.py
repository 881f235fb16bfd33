"""The process of a guest: ``python -m cubelet.guests.child DESCRIPTOR PARENT``.

It imports the guest's package, keeps a copy of the agent's state, and answers one question after
the other. What goes beyond a limit is killed from outside; this side sees to it that nothing of it
is left then, and that its memory is bounded.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pluggy

from cubelet.bpf.maps import BpfMap
from cubelet.cubes.context import CubeContext
from cubelet.cubes.outside import Ring, Tally, call_back
from cubelet.datapath.records import reader_of, shown_row
from cubelet.guests import answers
from cubelet.guests.answers import CALLED, MAPPED, OK, RAISED, SHORT, TOLD, encode
from cubelet.guests.wire import MOST, Channel
from cubelet.net.frames import Frames
from cubelet.state.cluster import State
from cubelet_hooks import hookspecs
from cubelet_hooks.command import AgentError
from cubelet_hooks.cube import Cube, Unit
from cubelet_hooks.objects import Change

MEMORY = 1 << 30
"""Bytes of address space, the copy of the state included."""
_PR_SET_PDEATHSIG = 1


class Host:
    """Answers questions about the cubes of one package."""

    def __init__(self) -> None:
        self._state = State()
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._kinds: dict[str, type[Cube]] = {}
        self._cubes: dict[int, Cube] = {}
        self._later: tuple[Unit, dict[str, Iterable[Any]]] = ((), {})
        self._contexts: dict[int, CubeContext] = {}
        self._frames = Frames()

    def answer(self, message: bytes, descriptors: list[int]) -> bytes:
        """The reply to a question; whatever the guest does there is one, or no process."""
        try:
            number, method, arguments = pickle.loads(message)
            reply = self._asked(number, method, arguments, descriptors)
            encoded = encode(OK, reply)
            if len(encoded) > MOST:
                return encode(RAISED, f"its answer has {len(encoded):,} bytes")
            return encoded
        except AgentError as error:
            return encode(TOLD, (error.code, error.message, error.details))
        except MemoryError as error:
            return encode(SHORT, answers.brief(error))
        except BaseException as error:
            return encode(RAISED, answers.brief(error))

    def _asked(self, number: int, method: str, given: Any, descriptors: list[int]) -> object:
        if number < 0:
            own: Mapping[str, Callable[..., object]] = {
                "begin": self._begin,
                "make": self._make,
                "forget": self._forget,
                "changes": self._take_in,
                "serve": partial(self._serve, descriptors),
                "observe": self._observe,
            }
            return own[method](*given)
        cube = self._cubes[number]
        if number in self._contexts and method in MAPPED:
            return self._of_maps(cube, self._contexts[number], method, given)
        return self._of_cube(cube, method, given)

    def _begin(self, path: list[str], module: str) -> None:
        sys.path[:] = path
        self._manager.register(importlib.import_module(module))
        offered = self._manager.hook.cubelet_cubes()
        self._kinds = {cube.kind: cube for cubes in offered for cube in cubes}

    def _make(self, number: int, kind: str, instance: str, settings: Any, family: Any) -> None:
        cube = self._kinds[kind]
        self._cubes[number] = cube(instance, msgspec.convert(settings, cube.settings_type), family)

    def _forget(self, number: int) -> None:
        del self._cubes[number]
        if number in self._contexts:
            self._contexts.pop(number).close()

    def _serve(self, descriptors: list[int], number: int, names: list[str]) -> None:
        pairs = zip(descriptors, names, strict=True)
        maps = {name: BpfMap(descriptor, name) for descriptor, name in pairs}
        try:
            made = CubeContext(self._cubes[number], self._state, maps, self._frames.send)
        finally:
            for each in maps.values():
                each.close()
        if number in self._contexts:
            self._contexts[number].close()
        self._contexts[number] = made

    def _observe(self, hook: str, calls: list[dict[str, Any]]) -> Tally:
        def call(arguments: dict[str, Any]) -> None:
            getattr(self._manager.hook, hook)(**arguments)

        return _tallied(call, calls)

    def _take_in(self, changes: list[Change]) -> None:
        for change in changes:
            self._state.apply(change)

    def _of_cube(self, cube: Any, method: str, given: Any) -> object:
        match method:
            case "ready":
                return None
            case "units":
                return list(cube.units(*given, self._state))
            case "units_of":
                return [self._units_or_none(cube, each) for each in given[0]]
            case "plan" | "refused":
                return answers.packed(cube, getattr(cube, method)(*given, self._state))
            case "parts":
                found, later = answers.pieces(cube, cube.parts(*given, self._state))
                self._later = (given[0], later)
                return found
            case "fixed":
                return answers.packed(cube, self._fixed(cube, *given))
            case "namespace_of" | "object_of":
                return getattr(cube, method)(*given, self._state)
            case "rejected":
                return answers.grumble(self._rejected(cube, *given))
            case "defines":
                return dict(cube.defines(self._state))
            case "needed_on":
                return sorted(cube.needed_on(self._state))
            case "concerns":
                return self._concerns(cube, *given)
        raise ValueError(f"no question is called {method}")

    def _units_or_none(self, cube: Cube, change: Change) -> list[Unit] | None:
        try:
            return list(cube.units(change, self._state))
        except Exception:  # it will be asked about this one alone
            return None

    def _of_maps(self, cube: Any, context: CubeContext, method: str, given: Any) -> object:
        read = reader_of(cube, lambda name: context.map(name.removeprefix(f"{cube.instance}_")))
        match method:
            case "rows":
                return [shown_row(cube, each) for each in cube.rows(*given, read, self._state)]
            case "collect":
                samples = cube.collect(read, self._state)
                return [(s.metric, tuple(map(str, s.labels)), float(s.value)) for s in samples]
            case "answer":
                return cube.answer(*given, context)
            case _ if method in CALLED:
                return getattr(cube, method)(*given, context)
            case _:
                return _deliver(cube, context, *given)

    def _fixed(self, cube: Cube, unit: Unit, name: str) -> Iterable[Any]:
        """The entries of a fixed part; those of the last unit that was asked for parts wait."""
        if self._later[0] != unit or name not in self._later[1]:
            self._later = (unit, answers.pieces(cube, cube.parts(unit, self._state))[1])
        return self._later[1].pop(name)

    def _rejected(self, cube: Cube, name: str, key: bytes, holder: Unit, other: Unit) -> Any:
        (declared,) = (each for each in cube.maps if each.name == name)
        return cube.rejected(declared.key.unpack(key, cube.family), holder, other)

    def _concerns(self, cube: Cube, name: str, key: bytes, value: bytes) -> object:
        (declared,) = (each for each in cube.maps if each.name == name)
        assert declared.concerns is not None
        records = declared.key.unpack(key, cube.family), declared.value.unpack(value, cube.family)
        return answers.concerned(declared.concerned(*records))


def _deliver(cube: Cube, context: CubeContext, ring: Ring, records: list[bytes]) -> Tally:
    return _tallied(lambda raw: call_back(ring, raw, cube, context), records)


def _tallied(call: Callable[[Any], None], each: Iterable[Any]) -> Tally:
    failures, first = 0, ""
    for argument in each:
        try:
            call(argument)
        except Exception as error:  # the next one comes all the same
            failures, first = failures + 1, first or answers.brief(error)
    return Tally(failures, first)


def bind(parent: int) -> None:
    """Have this process end with its parent, and hold it within its memory.

    What it forks ends at once: a plan has nothing to fork for, and would answer twice.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # rather this one than the agent
    os.register_at_fork(after_in_child=lambda: os._exit(1))


def main() -> None:
    """Answer until the agent closes its end."""
    descriptor, parent = map(int, sys.argv[1:])
    bind(parent)
    channel, host = Channel(socket.socket(fileno=descriptor)), Host()
    while True:
        try:
            question = channel.receive()
        except EOFError:
            return
        channel.send(host.answer(*question))


if __name__ == "__main__":
    main()
