"""Checks that the cube collects every declared metric and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from cubelet.check.findings import Finding
from cubelet.check.places import at, module_file
from cubelet.check.workbench import Workbench
from cubelet_hooks.cube import Cube


def check(bench: Workbench) -> Iterator[Finding]:
    """Compare ``Cube.metrics`` with the calls of ``Sample`` in the cube's package."""
    cube = bench.cube
    collects = cube.collect is not Cube.collect
    if cube.metrics and not collects:
        message = "metrics are declared, but nothing collects them"
        yield at(cube, "metrics", message, "override Cube.collect, or leave them out")
        return
    calls = [call for file in _files(cube) for call in _samples(file)]
    declared = {metric.name: metric for metric in cube.metrics}
    for name, labels, file, line in calls:
        if name is None:
            continue
        if name not in declared:
            message = f"a sample of the metric {name}, which is declared nowhere"
            yield Finding(message, f'add Metric("{name}", ...) to Cube.metrics', file, line)
        elif labels is not None and labels != len(declared[name].labels):
            wanted = len(declared[name].labels)
            message = f"a sample of {name} with {labels} labels, which has {wanted}"
            yield Finding(message, "give a value for each label", file, line)
    if collects and all(name is not None for name, *_ in calls):
        for name in declared.keys() - {each[0] for each in calls}:
            message = f"the metric {name} is declared, but no Sample is made of it"
            yield at(cube, "metrics", message, "collect it, or leave it out")


def _files(cube: type[Cube]) -> list[Path]:
    file = module_file(cube)
    return sorted(file.parent.rglob("*.py")) if file else []


def _samples(file: Path) -> Iterator[tuple[str | None, int | None, str, int]]:
    """Calls of Sample: the metric's name and its number of labels, None where not literal."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Sample")):
            continue
        given = dict(zip(("metric", "value", "labels"), node.args, strict=False))
        given |= {each.arg: each.value for each in node.keywords if each.arg}
        name, labels = given.get("metric"), given.get("labels")
        count = len(labels.elts) if isinstance(labels, ast.Tuple) else None
        yield (
            name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None,
            0 if labels is None else count,
            str(file),
            node.lineno,
        )
