"""Checks a cube's declared metrics, commands, maps, kinds of objects and annotations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import get_args

from cubelet_hooks.cube import Cube
from cubelet_hooks.maps import MapType
from cubelet_hooks.metrics import Metric, MetricKind
from cubelet_hooks.objects import BUILT_IN
from cubelet_hooks.resources import Resource

OWN_COMMANDS = frozenset(
    (
        *("agent", "config", "cube", "cubes", "doctor", "get", "lab", "monitor", "new", "plugins"),
        *("status", "uninstall", "version"),
    )
)
"""The agent's own commands: a cube whose kind is one of these words cannot have commands."""
OWN_METRICS = frozenset(
    (
        *("build", "cni", "composition", "cube", "dropped", "flow", "map", "pass", "plugin"),
        *("port", "ports", "problems", "recompositions", "source"),
    )
)
"""First words of the agent's own metrics: a cube of such a kind cannot have metrics."""
_ADDED_LABELS = frozenset(("instance", "le", "quantile"))

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_APPLICATION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_KIND = re.compile(r"[A-Z][A-Za-z0-9]*(?<!List)")
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PLURAL = re.compile(_LABEL)
_API_VERSION = re.compile(rf"{_LABEL}(\.{_LABEL})+/{_LABEL}")
_ANNOTATION = re.compile(rf"{_LABEL}(\.{_LABEL})*/([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?")


def exposed_name(kind: str, metric: Metric) -> str:
    """A cube's metric's name on the metrics page."""
    return f"cubelet_{kind}_{metric.name}{'_total' if metric.kind == 'counter' else ''}"


def problems_of(cube: type[Cube], others: Iterable[type[Cube]] = ()) -> Iterator[str]:
    """The errors in the cube's declarations; ``others`` are the cubes that were found before it."""
    checks = (_metrics(cube), _commands(cube), _watches(cube, others), _annotations(cube))
    return chain(chain.from_iterable(checks), _following(cube), _earlier(cube), _gone(cube))


def _metrics(cube: type[Cube]) -> Iterator[str]:
    if cube.metrics and cube.kind in OWN_METRICS:
        yield f"cubelet_{cube.kind}_... is the agent's own; remedy: give the cube another kind"
    seen = set()
    for metric in cube.metrics:
        for problem in _wrong_with(metric):
            yield f"metric {metric.name!r}: {problem}"
        if metric.name in seen:
            yield f"metric {metric.name!r} is declared twice"
        seen.add(metric.name)


def _wrong_with(metric: Metric) -> Iterator[str]:
    words = "lower-case words joined by '_'"
    if not _NAME.fullmatch(metric.name):
        yield f"its name must be {words}"
    if metric.name.endswith("_total"):
        yield "leave _total out: a counter gets it at the end, and a gauge is none"
    if metric.kind not in get_args(MetricKind):
        yield f"its kind is {metric.kind!r}, none of {', '.join(get_args(MetricKind))}"
    if not metric.help:
        yield "it has no help"
    for label in metric.labels:
        if not _NAME.fullmatch(label):
            yield f"its label {label!r} must be {words}"
        if label in _ADDED_LABELS:
            yield f"its label {label!r} is taken; remedy: call it otherwise"
    if len(set(metric.labels)) < len(metric.labels):
        yield "it has one label twice"


def _commands(cube: type[Cube]) -> Iterator[str]:
    if not cube.commands:
        return
    if cube.kind in OWN_COMMANDS:
        yield f"`cubelet {cube.kind}` is cubelet's own; remedy: give the cube another kind"
    if not _APPLICATION.fullmatch(cube.commands):
        yield f"commands {cube.commands!r}: 'package.module:app' is expected"


def _watches(cube: type[Cube], others: Iterable[type[Cube]]) -> Iterator[str]:
    taken: dict[str, tuple[Resource, str]] = {}
    for other in others:
        for each in other.watches:
            taken.setdefault(each.kind, (each, other.kind))
    names = {each.definition: (each, owner) for each, owner in taken.values()}
    for resource in cube.watches:
        for problem in _wrong_with_resource(resource):
            yield f"watches {resource.kind!r}: {problem}"
        for found, owner in (
            taken.get(resource.kind, (resource, "")),
            names.get(resource.definition, (resource, "")),
        ):
            if found != resource:
                place = f"{found.kind} ({found.definition}, {found.api_version})"
                whose = f"the cube {owner}'s" if owner != cube.kind else "its own"
                yield f"watches {resource.kind!r}: clashes with {whose} {place}"
        taken[resource.kind] = names[resource.definition] = (resource, cube.kind)


def _wrong_with_resource(resource: Resource) -> Iterator[str]:
    if resource.kind in BUILT_IN:
        yield "every cube sees objects of this kind already; remedy: do not watch it"
    if not _KIND.fullmatch(resource.kind):
        yield "the kind must be in CamelCase, and not end in List"
    if not _API_VERSION.fullmatch(resource.api_version):
        yield f"its api_version is {resource.api_version!r}, not such as 'example.com/v1'"
    if not _PLURAL.fullmatch(resource.plural):
        yield f"its plural is {resource.plural!r}, not such as 'widgets'"


def _annotations(cube: type[Cube]) -> Iterator[str]:
    for text in cube.annotations:
        if not _ANNOTATION.fullmatch(text):
            yield f"annotations {text!r}: 'example.com/key', or 'example.com/' for all of a domain"


def _following(cube: type[Cube]) -> Iterator[str]:
    maps = {each.name: each for each in cube.maps}
    for each in cube.maps:
        if each.follows is None:
            continue
        leader = maps.get(each.follows)
        if each.planned or each.type is MapType.RINGBUF:
            yield f"map {each.name!r}: what is planned, and a ring buffer, follows no other map"
        elif leader is None or not leader.planned:
            yield f"map {each.name!r} follows {each.follows!r}, which is no planned map"
        elif leader.key is not each.key:
            yield (
                f"map {each.name!r} has keys of {each.key.__name__}, and {leader.name!r}, which it "
                f"follows, has keys of {leader.key.__name__}"
            )


def _earlier(cube: type[Cube]) -> Iterator[str]:
    for each in cube.maps:
        if each.earlier and (each.planned or each.type is MapType.RINGBUF):
            yield f"map {each.name!r}: nothing is carried over into a planned map or a ring buffer"


def _gone(cube: type[Cube]) -> Iterator[str]:
    known = BUILT_IN | {each.kind for each in cube.watches}
    for kind in sorted(cube.gone - known):
        yield f"gone: {kind!r} is no kind of object that it sees; remedy: add it to Cube.watches"
