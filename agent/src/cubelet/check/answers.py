"""Checks that a cube's tables and metrics can be read after packets have filled its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from cubelet.check.findings import Finding
from cubelet.check.limits import asked, listed
from cubelet.check.places import at, raised
from cubelet.check.workbench import Workbench
from cubelet.datapath.records import Records
from cubelet.testkit.datapath import Datapath
from cubelet_hooks.cube import Cube, Row
from cubelet_hooks.view import View

_REMEDY = "it must answer whatever its maps hold"
Read = Callable[[str], Records]


def check(bench: Workbench) -> Iterator[Finding]:
    """Read them in every composition. Runs after the packet check, when maps have entries."""
    for _, datapath in bench.datapaths():
        cube = next(each for each in datapath.composition.cubes if each.kind == bench.cube.kind)
        read = _reader(cube, datapath)
        yield from _tables(cube, read, datapath)
        yield from _samples(cube, read, datapath)


def _reader(cube: Cube, datapath: Datapath) -> Read:
    maps = {each.name: each for each in cube.maps}

    def read(name: str) -> Records:
        return Records(maps[name], datapath.maps[f"{cube.instance}_{name}"], cube.family)

    return read


def _tables(cube: Cube, read: Read, datapath: Datapath) -> Iterator[Finding]:
    for noun in cube.shows:
        try:
            rows = asked("rows", partial(_listed_rows, cube, noun, read, datapath.state))
        except Exception as error:  # any exception of the cube is a finding
            yield raised(error, type(cube), "rows", _REMEDY)
            continue
        columns = {tuple(row) for row in rows if not isinstance(row, tuple)}
        if len(columns) > 1:
            message = f"rows of {noun} have different columns: {sorted(columns)[:2]}"
            remedy = "give all rows the same columns, in one order"
            yield at(type(cube), "rows", message, remedy)


def _listed_rows(cube: Cube, noun: str, read: Read, view: View) -> list[Row]:
    return listed(cube.rows(noun, read, view))


def _samples(cube: Cube, read: Read, datapath: Datapath) -> Iterator[Finding]:
    try:
        samples = asked("collect", lambda: listed(cube.collect(read, datapath.state)))
    except Exception as error:  # likewise
        yield raised(error, type(cube), "collect", _REMEDY)
        return
    labels = {metric.name: len(metric.labels) for metric in cube.metrics}
    for sample in samples:
        if labels.get(sample.metric) != len(sample.labels):
            message = f"{sample} is of no declared metric with as many labels"
            yield at(type(cube), "collect", message, "declare it in Cube.metrics as it is given")
            return
