"""Checks what the agent calls a running cube's Python for, with maps that packets have filled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from cubelet.check.findings import Finding
from cubelet.check.objects import history
from cubelet.check.places import at, raised
from cubelet.check.workbench import Workbench
from cubelet.composer.ends import Ended
from cubelet.cubes.ends import ended_flow
from cubelet.testkit.datapath import Datapath
from cubelet_hooks.cube import Cube

_LONGEST = 1.0
"""Seconds of a call with the few entries that a check's maps have: the agent does nothing else."""
_FLOWS = 64
"""Flows of whose end the cube is told."""
_REMEDY = "it must do with whatever its maps hold"


def check(bench: Workbench) -> Iterator[Finding]:
    """Call them in every composition. Runs after the packet check, when maps have entries."""
    for _, datapath in bench.datapaths():
        cube = next(each for each in datapath.composition.cubes if each.kind == bench.cube.kind)
        if cube.tick_seconds:
            yield from _called(cube, "on_tick", partial(datapath.tick, cube.instance))
        if cube.gone:
            yield from _called(cube, "on_gone", partial(_tell_gone, cube, datapath))
        if cube.number(cube.ended):
            yield from _called(cube, "on_ended", partial(_tell_ended, cube, datapath))


def _tell_gone(cube: Cube, datapath: Datapath) -> None:
    for change in history(cube.watches):
        if change.gone is not None and change.kind in cube.gone:
            cube.on_gone(change.gone, datapath.context(cube.instance))


def _tell_ended(cube: Cube, datapath: Datapath) -> None:
    for key, flow in islice(datapath.flows().items(), _FLOWS):
        ended = Ended(key, 0, flow, 0, 0, bytes(64))
        told = ended_flow(cube, datapath.composition.slots, ended, None)
        cube.on_ended(told, datapath.context(cube.instance))


def _called(cube: Cube, name: str, call: Callable[[], None]) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        call()
    except Exception as error:  # any exception of the cube is a finding
        yield raised(error, type(cube), name, _REMEDY)
        return
    took = time.monotonic() - began
    if took > _LONGEST:
        message = f"{name} took {took:.1f} s, in which the agent does nothing else"
        yield at(type(cube), name, message, "do a part each time; never wait")
